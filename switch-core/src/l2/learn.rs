//! Stage 3: Learning of stations: writing to the table, moves, limits, forgetting.
//!
//! A writer claims one slot at a time and never waits: where another worker is writing, it leaves the station for
//! the next frame to tell. Slots are filled again when their station has aged or its port has gone; an emptied
//! slot becomes a tombstone, so that probe chains stay whole.

use super::moves::{Judgement, Moves};
use super::table::{Claim, EMPTY, MacTable, Slot, Station, TOMBSTONE, Value, key};
use crate::addr::{Mac, NetworkId, PortId};
use crate::sync::facade::Ordering;

/// Slots that one frame looks through for dead entries when its port has reached its limit.
const SWEEP: usize = 64;

/// What learning found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// Known here already.
    Same,
    /// New.
    New,
    /// Known on another port until now.
    Moved(PortId),
    /// No room in its neighbourhood: frames to it are flooded.
    Full,
    /// The port has as many stations as it may have.
    Limited,
    /// Known on this port, where it is held, for it flaps. `now` is true when that begins.
    Held {
        /// Where it stays.
        at: PortId,
        /// It was not held before.
        now: bool,
    },
    /// Another worker is writing there: the station's next frame will tell.
    Busy,
    /// Not a station's address, or a network or port that the table does not keep.
    Refused,
}

impl MacTable {
    /// Notes that a station was seen at a port. Units: `now` in seconds.
    /// Cost: nothing is written while the station stays where it is and the second lasts.
    pub fn learn(&self, net: NetworkId, mac: Mac, port: PortId, now: u32) -> Learned {
        let (Some(wanted), Some(generation)) = (key(net, mac), self.generation(port)) else {
            return Learned::Refused;
        };
        let fresh = Value {
            station: Station { port, generation },
            seen: now,
        };
        for slot in self.chain(wanted) {
            match slot.key.load(Ordering::Relaxed) {
                EMPTY => break,
                found if found == wanted => return self.refresh(slot, wanted, fresh),
                _ => {}
            }
        }
        self.insert(wanted, fresh)
    }

    fn refresh(&self, slot: &Slot, wanted: u64, fresh: Value) -> Learned {
        match slot.read() {
            Some((found, old)) if found == wanted => {
                if old.station == fresh.station && old.seen >= fresh.seen {
                    return Learned::Same;
                }
            }
            _ => return Learned::Busy,
        }
        let Some(claim) = slot.claim() else {
            return Learned::Busy;
        };
        let (found, old) = claim.get();
        if found != wanted {
            return Learned::Busy;
        }
        let live = self.live(old, fresh.seen);
        let (was, is) = (old.station.port, fresh.station.port);
        if was != is {
            if live && let Some(held) = self.hold_back(&claim, was, fresh.seen) {
                return held;
            }
            if !self.take(is) {
                return Learned::Limited;
            }
            self.give_back(was);
        }
        claim.set(wanted, fresh);
        match live {
            true if was != is => Learned::Moved(was),
            true => Learned::Same,
            false => Learned::New,
        }
    }

    /// Whether a station that was seen elsewhere stays at its port.
    fn hold_back(&self, claim: &Claim<'_>, at: PortId, now: u32) -> Option<Learned> {
        let hold = self.port(at).map_or(0, |state| state.keeping().hold);
        let mut moves = claim.moves();
        let judgement = moves.judge(now, hold);
        claim.note(moves);
        let now = match judgement {
            Judgement::Moves => return None,
            Judgement::IsHeld => true,
            Judgement::Stays => false,
        };
        Some(Learned::Held { at, now })
    }

    fn insert(&self, wanted: u64, fresh: Value) -> Learned {
        let port = fresh.station.port;
        if !self.take(port) {
            // Its dead stations may be what fills it. All of the table is looked through once a second at most, so
            // that one who sends from ever more stations costs others next to nothing.
            let now = u64::from(fresh.seen) + 1;
            let all = self.swept.swap(now, Ordering::Relaxed) != now;
            let slots = if all { self.slots.len() } else { SWEEP };
            self.sweep(fresh.seen, slots);
            if !self.take(port) {
                return Learned::Limited;
            }
        }
        let learned = self.fill(wanted, fresh);
        if learned != Learned::New {
            self.give_back(port);
        }
        learned
    }

    fn fill(&self, wanted: u64, fresh: Value) -> Learned {
        let free = |key: u64, old| key == EMPTY || key == TOMBSTONE || !self.live(old, fresh.seen);
        for slot in self.chain(wanted) {
            let Some((found, old)) = slot.read() else {
                // It may be this very station that is being written: going on could make a second entry of it.
                return Learned::Busy;
            };
            if !free(found, old) {
                continue;
            }
            let Some(claim) = slot.claim() else {
                return Learned::Busy;
            };
            let (found, old) = claim.get();
            if !free(found, old) {
                return Learned::Busy;
            }
            if found != EMPTY && found != TOMBSTONE {
                self.give_back(old.station.port);
            }
            claim.set(wanted, fresh);
            claim.note(Moves::unpack(0));
            drop(claim);
            self.bury_copies(wanted, slot);
            return Learned::New;
        }
        Learned::Full
    }

    /// Two workers that learn one station at once, while a slot before it becomes free, may have made two entries.
    fn bury_copies(&self, wanted: u64, kept: &Slot) {
        for slot in self.chain(wanted) {
            if !core::ptr::eq(slot, kept) && slot.key.load(Ordering::Relaxed) == wanted {
                self.bury_if(slot, |found, _| found == wanted);
            }
        }
    }

    fn bury_if(&self, slot: &Slot, dead: impl FnOnce(u64, Value) -> bool) -> bool {
        let Some(claim) = slot.claim() else {
            return false;
        };
        let (found, value) = claim.get();
        if found == EMPTY || found == TOMBSTONE || !dead(found, value) {
            return false;
        }
        self.give_back(value.station.port);
        claim.bury();
        true
    }

    /// Counts a station for a port, unless it has reached its limit.
    fn take(&self, port: PortId) -> bool {
        let Some(state) = self.port(port) else {
            return false;
        };
        if state.held.fetch_add(1, Ordering::Relaxed) < state.keeping().limit.into() {
            return true;
        }
        state.held.fetch_sub(1, Ordering::Relaxed);
        false
    }

    fn give_back(&self, port: PortId) {
        if let Some(state) = self.port(port) {
            state.held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Empties slots of stations that have aged or whose port has gone, going on where the last call ended.
    /// Cost: O(`slots`). Returns how many were emptied.
    pub fn sweep(&self, now: u32, slots: usize) -> usize {
        let step = u64::try_from(slots).unwrap_or(u64::MAX);
        let from = self.hand.fetch_add(step, Ordering::Relaxed);
        let from = usize::try_from(from).unwrap_or(0) & (self.slots.len() - 1);
        let dead = |slot: &&Slot| {
            slot.read()
                .is_some_and(|(found, value)| self.is_dead(found, value, now))
        };
        let round = self.slots.iter().cycle().skip(from);
        round
            .take(slots.min(self.slots.len()))
            .filter(dead)
            .filter(|slot| self.bury_if(slot, |found, value| self.is_dead(found, value, now)))
            .count()
    }

    fn is_dead(&self, found: u64, value: Value, now: u32) -> bool {
        found != EMPTY && found != TOMBSTONE && !self.live(value, now)
    }

    /// Forgets every station of a port, as when its endpoint goes: at once for readers, then slot by slot.
    /// Cost: O(capacity); for the one who changes the configuration, not for workers.
    pub fn forget(&self, port: PortId) {
        let Some(state) = self.port(port) else {
            return;
        };
        state.generation.fetch_add(1, Ordering::AcqRel);
        for slot in &self.slots {
            let its = |value: Value| value.station.port == port && !self.is_current(value.station);
            if slot.read().is_some_and(|(_, value)| its(value)) {
                self.bury_if(slot, |_, value| its(value));
            }
        }
    }

    /// How many slots the stations of a port fill.
    #[must_use]
    pub fn held(&self, port: PortId) -> u64 {
        self.port(port)
            .map_or(0, |state| state.held.load(Ordering::Relaxed))
    }
}
