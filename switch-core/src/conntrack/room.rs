//! Stage 6: Room in the table of switched conversations: who makes room for whom, and how many each endpoint has.
//!
//! An entry counts to who began its conversation from when it is entered until one side ends it, or somebody takes its
//! place. The word that says so is only ever exchanged for another, so that each change is counted once.

use super::seen::{Seen, Stage};
use super::switched::{ENTRY, SEEN, Switched};
use super::tuple::WORDS;
use crate::addr::PortId;
use crate::sync::facade::Ordering;
use crate::sync::slots::{Claim, PROBES, Slot};

/// Entries of a neighbourhood that one endpoint has for sure.
const SHARE: usize = PROBES / 4;
/// Entries that one packet looks through for what makes room, when all have been looked through in this second.
const SWEEP: usize = 64;

impl Switched {
    /// Makes room for an entry.
    pub(super) fn place(
        &self,
        key: &[u64; WORDS],
        owner: u32,
        now: u32,
    ) -> Option<Claim<'_, ENTRY>> {
        let mut own = 0;
        let mut worst: Option<(Rank, &Slot<ENTRY>)> = None;
        let mut worst_own: Option<(Rank, &Slot<ENTRY>)> = None;
        for (_, slot) in self.slots.chain(self.hash(key)) {
            let Some(all) = slot.look(|words| words.all()) else {
                continue;
            };
            let (found, rest) = all.split_at_checked(WORDS)?;
            if found == key {
                return slot.claim();
            }
            let seen = Seen::unpack(*rest.first()?);
            let rank = rank(found, seen, now);
            if rank > Rank::Dead && seen.owner == owner {
                own += 1;
                keep(&mut worst_own, rank, slot);
            }
            keep(&mut worst, rank, slot);
        }
        let free = worst.filter(|w| w.0 <= Rank::Dead);
        let chosen = free
            .or_else(|| worst_own.filter(|_| own >= SHARE))
            .or(worst);
        chosen.and_then(|(_, slot)| slot.claim())
    }

    /// Counts an entry that has become another.
    pub(super) fn recount(&self, was: Seen, is: Seen) {
        let (was, is) = (was.counts_to(), is.counts_to());
        if was != is {
            was.into_iter().for_each(|at| self.tallies.sub(at));
            is.into_iter().for_each(|at| self.tallies.add(at));
        }
    }

    /// Makes room for an endpoint that has as many conversations as it may: gives up what is over, and of its own
    /// what was silent for long. Units: `now` in seconds. Cost: all entries once a second, whoever asks, else some.
    pub fn make_room(&self, owner: PortId, now: u32) {
        let this = u64::from(now) + 1;
        let all = self.swept.swap(this, Ordering::Relaxed) != this;
        let slots = if all { self.slots.len() } else { SWEEP };
        for slot in self.slots.round(&self.hand, slots) {
            self.give_up(slot, |seen, proto| {
                !seen.is_live(proto, now) || seen.yields(proto, owner.0, now)
            });
        }
    }

    /// Gives up what is over, so that it counts no more. Units: `now` in seconds.
    /// Cost: O(capacity); for the one who shows, not for workers.
    pub fn sweep(&self, now: u32) {
        for slot in self.slots.iter() {
            self.give_up(slot, |seen, proto| !seen.is_live(proto, now));
        }
    }

    /// Forgets what an endpoint has begun, as when it goes. Cost: O(capacity); for the one who changes the
    /// configuration, not for workers.
    pub fn forget(&self, owner: PortId) {
        for slot in self.slots.iter() {
            self.give_up(slot, |seen, _| seen.owner == owner.0);
        }
    }

    /// Gives an entry up, if there is reason to: it is found no more, and its place is free for others.
    fn give_up(&self, slot: &Slot<ENTRY>, reason: impl Fn(Seen, u8) -> bool) {
        let found = |words: [u64; ENTRY]| {
            let marks = words.get(1).copied().filter(|marks| *marks != 0)?;
            let seen = Seen::unpack(*words.get(SEEN)?);
            let given_up = seen == Seen::GIVEN_UP;
            (!given_up && reason(seen, proto(marks))).then_some(())
        };
        if slot.peek(1) == 0 || slot.look(|w| w.all()).and_then(found).is_none() {
            return;
        }
        // Where another worker is writing, it is not silent.
        if let Some(claim) = slot.claim()
            && found(claim.get()).is_some()
        {
            let was = claim.swap(SEEN, Seen::GIVEN_UP.pack());
            self.recount(Seen::unpack(was), Seen::GIVEN_UP);
        }
    }
}

/// The protocol of an entry by its marks.
fn proto(marks: u64) -> u8 {
    u8::try_from(marks & 0xff).unwrap_or(0)
}

fn keep<'a>(best: &mut Option<(Rank, &'a Slot<ENTRY>)>, rank: Rank, slot: &'a Slot<ENTRY>) {
    if best.is_none_or(|(least, _)| rank < least) {
        *best = Some((rank, slot));
    }
}

/// Who makes room first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Empty,
    Dead,
    /// Seen then.
    New(u32),
    Answered(u32),
}

fn rank(key: &[u64], seen: Seen, now: u32) -> Rank {
    let Some(&marks) = key.get(1).filter(|m| **m != 0) else {
        return Rank::Empty;
    };
    match (seen.is_live(proto(marks), now), seen.stage) {
        (false, _) => Rank::Dead,
        (true, Stage::New) => Rank::New(seen.at),
        (true, _) => Rank::Answered(seen.at),
    }
}
