//! Stage 6: Conversations between endpoints that a rule or a service has let through, shared by all workers without
//! locks: whoever sees the first packet enters both directions, each packet costs one lookup.
//!
//! An entry is complete in itself: what was decided or chosen once stays so, whatever the configuration becomes.
//! The table has a fixed size. Where a neighbourhood is full, what is over makes room, then what belongs to the
//! endpoint that wants more than its share, then what was never answered, then what was silent longest (`room`).
//! How many an endpoint has begun is counted where they begin and end, which costs those under way nothing.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ahash::RandomState;

use super::seen::Seen;
pub use super::seen::Stage;
use super::tuple::{Role, Tuple, WORDS, address};
use crate::addr::{Mac, PortId};
use crate::sync::facade::AtomicU64;
use crate::sync::slots::{Slot, Slots};
use crate::sync::tally::{PORTS, Tallies};

/// Words of an entry: its tuple, when and how it was seen last, and where its packets go.
pub(super) const ENTRY: usize = WORDS + 1 + TARGET;
/// Words of a target.
const TARGET: usize = 7;
/// The word that says when an entry was seen.
pub(super) const SEEN: usize = WORDS;
/// Conversations that a table is made for, unless something else is asked: two entries each.
pub const CAPACITY: usize = 32_768;

/// Where packets of one direction go, if not where they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// From, afterwards.
    pub src: (IpAddr, u16),
    /// To, afterwards.
    pub dst: (IpAddr, u16),
    /// The station.
    pub mac: Mac,
    /// Where it is.
    pub port: PortId,
}

/// What is known of a packet's conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// How far it was before this packet.
    pub stage: Stage,
    /// The packet comes from who answered.
    pub reply: bool,
    /// Seconds since the packet before.
    pub silent: u32,
    /// Where it goes, unless where it says.
    pub target: Option<Target>,
}

/// The table.
pub struct Switched {
    pub(super) slots: Slots<ENTRY>,
    hash: RandomState,
    /// What each endpoint has begun that goes on.
    pub(super) tallies: Arc<Tallies>,
    /// Where the search for what makes room goes on.
    pub(super) hand: AtomicU64,
    /// When all of it was searched. Units: seconds, plus one.
    pub(super) swept: AtomicU64,
}

impl Switched {
    /// A table for so many conversations. Cost: address space; memory is used as entries are.
    #[must_use]
    pub fn new(capacity: usize, [a, b, c, d]: [u64; 4]) -> Self {
        Self {
            slots: Slots::new(capacity.saturating_mul(2)),
            hash: RandomState::with_seeds(a, b, c, d),
            tallies: Arc::new(Tallies::new(PORTS)),
            hand: AtomicU64::new(0),
            swept: AtomicU64::new(0),
        }
    }

    /// How many conversations each endpoint has begun that go on, known ones that have been silent for long included.
    #[must_use]
    pub fn tallies(&self) -> &Arc<Tallies> {
        &self.tallies
    }

    /// Finds the conversation of a packet and notes that it was seen. Units: `now` in seconds.
    /// Cost: one neighbourhood of slots; nothing is written while the second lasts. No allocation.
    #[must_use]
    pub fn pass(&self, tuple: &Tuple, role: Role, now: u32) -> Option<Found> {
        let (slot, word, target) = self.find(tuple, now)?;
        let seen = Seen::unpack(word);
        let stage = match role {
            Role::Resets => Stage::Over,
            Role::Finishes => seen.stage.max(Stage::Closing),
            // A new connection between the same ports.
            Role::Opens if !seen.reply && seen.stage > Stage::Open => Stage::New,
            Role::Opens | Role::Continues if seen.reply => seen.stage.max(Stage::Open),
            Role::Opens | Role::Continues | Role::Reports | Role::Serves => seen.stage,
        };
        let noted = role != Role::Reports && (seen.at < now || stage != seen.stage);
        if noted {
            let next = Seen {
                at: now,
                stage,
                ..seen
            };
            // Where another worker was faster, it has noted the same second.
            self.note(slot, word, next);
            self.note_partner(tuple, target.as_ref(), stage, now);
        }
        Some(Found {
            stage: seen.stage,
            reply: seen.reply,
            silent: now.saturating_sub(seen.at),
            target,
        })
    }

    /// Finds a conversation without noting anything.
    #[must_use]
    pub fn peek(&self, tuple: &Tuple, now: u32) -> Option<Found> {
        let (_, word, target) = self.find(tuple, now)?;
        let seen = Seen::unpack(word);
        Some(Found {
            stage: seen.stage,
            reply: seen.reply,
            silent: now.saturating_sub(seen.at),
            target,
        })
    }

    /// Enters a conversation, in place of what was known of it. `there` and `back` say where its packets go, unless
    /// where they say. Units: `now` in seconds.
    pub fn open(
        &self,
        tuple: &Tuple,
        (owner, stage): (PortId, Stage),
        targets: Option<(Target, Target)>,
        now: u32,
    ) {
        let seen = |reply| Seen {
            at: now,
            stage,
            reply,
            rewritten: targets.is_some(),
            piece: tuple.piece,
            owner: owner.0,
        };
        let there = targets.map(|t| t.0);
        self.insert(tuple, seen(false), there.as_ref());
        if !tuple.piece {
            let back = partner(tuple, there.as_ref());
            self.insert(&back, seen(true), targets.map(|t| t.1).as_ref());
        }
    }

    pub(super) fn hash(&self, words: &[u64; WORDS]) -> u64 {
        self.hash.hash_one(words)
    }

    fn find(&self, tuple: &Tuple, now: u32) -> Option<(&Slot<ENTRY>, u64, Option<Target>)> {
        let key = tuple.words();
        for (_, slot) in self.slots.chain(self.hash(&key)) {
            if slot.peek(0) != key[0] {
                // Whoever came behind would have taken this place, which is never given back.
                if slot.peek(1) == 0 {
                    return None;
                }
                continue;
            }
            let seen = slot.look(|words| {
                let same = key.iter().zip(0..).all(|(&k, at)| words.get(at) == k);
                let seen = words.get(SEEN);
                let target = || core::array::from_fn(|at| words.get(SEEN + 1 + at));
                same.then(|| (seen, Seen::unpack(seen).rewritten.then(target)))
            });
            if let Some(Some((word, target))) = seen {
                let at = Seen::unpack(word);
                let target = target.map(|words| unpack(tuple.src.is_ipv6(), words));
                let live = at.is_live(tuple.proto, now);
                return live.then_some((slot, word, target));
            }
        }
        None
    }

    /// Notes at the other direction's entry what was seen of this one: it lives as long, and is as far.
    fn note_partner(&self, tuple: &Tuple, target: Option<&Target>, stage: Stage, now: u32) {
        if tuple.piece {
            return;
        }
        let other = partner(tuple, target);
        if let Some((slot, word, _)) = self.find(&other, now) {
            let seen = Seen::unpack(word);
            let next = Seen {
                at: now,
                stage,
                ..seen
            };
            self.note(slot, word, next);
        }
    }

    /// Changes what was seen of an entry, if it is still what it was.
    fn note(&self, slot: &Slot<ENTRY>, was: u64, next: Seen) {
        if slot.exchange(SEEN, was, next.pack()).is_ok() {
            self.recount(Seen::unpack(was), next);
        }
    }

    fn insert(&self, tuple: &Tuple, seen: Seen, target: Option<&Target>) {
        let key = tuple.words();
        // Where another worker is writing, the conversation's next packet enters it.
        let Some(claim) = self.place(&key, seen.owner, seen.at) else {
            return;
        };
        let mut words = [0; ENTRY];
        let all = key
            .into_iter()
            .chain([seen.pack()])
            .chain(target.map_or([0; TARGET], pack));
        for (word, value) in words.iter_mut().zip(all) {
            *word = value;
        }
        let [_, marks, ..] = claim.get();
        // What was there before counts until this very moment.
        let was = claim.swap(SEEN, seen.pack());
        claim.set(words);
        let was = if marks == 0 {
            Seen::GIVEN_UP
        } else {
            Seen::unpack(was)
        };
        self.recount(was, seen);
    }
}

/// The tuple of the packets that come back.
fn partner(tuple: &Tuple, target: Option<&Target>) -> Tuple {
    let there = target.map_or(*tuple, |t| Tuple {
        src: t.src.0,
        dst: t.dst.0,
        ports: (t.src.1, t.dst.1),
        ..*tuple
    });
    there.reversed()
}

fn pack(target: &Target) -> [u64; TARGET] {
    let [s, t] = address(target.src.0);
    let [d, e] = address(target.dst.0);
    let ports = u64::from(target.src.1) << 16 | u64::from(target.dst.1);
    [
        s,
        t,
        d,
        e,
        ports,
        target.mac.to_u64(),
        u64::from(target.port.0),
    ]
}

fn unpack(v6: bool, words: [u64; TARGET]) -> Target {
    let [s, t, d, e, ports, mac, port] = words;
    let address = |high: u64, low: u64| {
        if v6 {
            IpAddr::V6(Ipv6Addr::from_bits(
                u128::from(high) << 64 | u128::from(low),
            ))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(low).unwrap_or(0)))
        }
    };
    let number = |word: u64| u16::try_from(word & 0xffff).unwrap_or(0);
    let [_, _, a, b, c, x, y, z] = mac.to_be_bytes();
    Target {
        src: (address(s, t), number(ports >> 16)),
        dst: (address(d, e), number(ports)),
        mac: Mac([a, b, c, x, y, z]),
        port: PortId(u32::try_from(port).unwrap_or(u32::MAX)),
    }
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switched")
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}
