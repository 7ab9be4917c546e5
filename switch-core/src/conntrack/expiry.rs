//! Stage 6: A hierarchical timing wheel for one owner: arming and cancelling cost O(1), and nothing is
//! allocated once it has seen the highest id. Source: Varghese and Lauck, "Hashed and hierarchical
//! timing wheels", 1987.

use core::time::Duration;

use crate::time::Tick;

/// Nanoseconds of the finest slot: 2^20, about a millisecond.
const SHIFT: u32 = 20;
/// Slots a level, one bit each of a word.
const SLOTS: u64 = 64;
/// Levels: 64^4 slots of a millisecond are 4.9 hours; what is later waits in the last slot and is placed again.
const LEVELS: usize = 4;
/// No entry.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Node {
    at: u64,
    prev: u32,
    next: u32,
    /// Index into `heads`, or `NONE` while not armed.
    slot: u32,
}

/// Deadlines by id. Ids are dense: the places of flows in their slab.
#[derive(Debug)]
pub struct Wheel {
    nodes: Vec<Node>,
    heads: Box<[u32]>,
    occupied: [u64; LEVELS],
    /// The slot that time has reached, in units of the finest level.
    now: u64,
}

impl Wheel {
    /// An empty wheel.
    #[must_use]
    pub fn new(now: Tick) -> Self {
        Self {
            nodes: Vec::new(),
            heads: vec![NONE; LEVELS * 64].into_boxed_slice(),
            occupied: [0; LEVELS],
            now: now.as_nanos() >> SHIFT,
        }
    }

    /// Sets or moves the deadline of `id`. It fires at most one slot (a millisecond) late, never early.
    pub fn arm(&mut self, id: u32, at: Tick) {
        self.cancel(id);
        let index = id as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(
                index + 1,
                Node {
                    at: 0,
                    prev: NONE,
                    next: NONE,
                    slot: NONE,
                },
            );
        }
        // Rounded up, so that nothing fires early.
        let at = (at.as_nanos() >> SHIFT).saturating_add(1);
        self.place(id, at);
    }

    fn place(&mut self, id: u32, at: u64) {
        let due = at.max(self.now + 1);
        let distance = due - self.now;
        let mut level = 0;
        while level + 1 < LEVELS && distance >= SLOTS.pow(u32::try_from(level).unwrap_or(0) + 1) {
            level += 1;
        }
        let shift = 6 * level;
        let last = (self.now >> shift) + SLOTS - 1;
        let place = (due >> shift).min(last) % SLOTS;
        let slot = level * 64 + usize::try_from(place).unwrap_or(0);
        let Some(head) = self.heads.get_mut(slot) else {
            return;
        };
        let next = core::mem::replace(head, id);
        if let Some(node) = self.nodes.get_mut(id as usize) {
            *node = Node {
                at,
                prev: NONE,
                next,
                slot: u32::try_from(slot).unwrap_or(NONE),
            };
        }
        if let Some(node) = self.nodes.get_mut(next as usize) {
            node.prev = id;
        }
        if let Some(bits) = self.occupied.get_mut(level) {
            *bits |= 1 << place;
        }
    }

    /// Forgets the deadline of `id`.
    pub fn cancel(&mut self, id: u32) {
        let Some(node) = self.nodes.get_mut(id as usize) else {
            return;
        };
        if node.slot == NONE {
            return;
        }
        let Node {
            prev, next, slot, ..
        } = *node;
        node.slot = NONE;
        if let Some(n) = self.nodes.get_mut(next as usize) {
            n.prev = prev;
        }
        if let Some(p) = self.nodes.get_mut(prev as usize) {
            p.next = next;
        } else if let Some(head) = self.heads.get_mut(slot as usize) {
            *head = next;
            if next == NONE
                && let Some(bits) = self.occupied.get_mut(slot as usize / 64)
            {
                *bits &= !(1 << (slot % 64));
            }
        }
    }

    /// The next point at which `expire` has something to do: a deadline, or a step towards one.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        let mut best: Option<u64> = None;
        for (level, &bits) in self.occupied.iter().enumerate() {
            if bits == 0 {
                continue;
            }
            let here = self.now >> (6 * level);
            let turned = bits.rotate_right(u32::try_from((here + 1) % SLOTS).unwrap_or(0));
            let at = (here + 1 + u64::from(turned.trailing_zeros())) << (6 * level);
            best = Some(best.map_or(at, |b| b.min(at)));
        }
        best.map(|slot| Tick::from_nanos(slot << SHIFT))
    }

    /// Calls `fire` for every id whose deadline has come. It is not armed any more then.
    pub fn expire(&mut self, now: Tick, fire: &mut impl FnMut(u32)) {
        let target = now.as_nanos() >> SHIFT;
        while self.now < target {
            // Go straight to the next occupied slot.
            let next = self
                .poll_timeout()
                .map_or(target, |t| t.as_nanos() >> SHIFT)
                .min(target);
            self.now = next.max(self.now + 1);
            for level in (0..LEVELS).rev() {
                let shift = 6 * level;
                if self.now & ((1 << shift) - 1) != 0 {
                    continue;
                }
                let place = (self.now >> shift) % SLOTS;
                self.empty(level, place, fire);
            }
        }
    }

    fn empty(&mut self, level: usize, place: u64, fire: &mut impl FnMut(u32)) {
        let slot = level * 64 + usize::try_from(place).unwrap_or(0);
        let Some(head) = self.heads.get_mut(slot) else {
            return;
        };
        let mut id = core::mem::replace(head, NONE);
        if let Some(bits) = self.occupied.get_mut(level) {
            *bits &= !(1 << place);
        }
        while id != NONE {
            let Some(node) = self.nodes.get_mut(id as usize) else {
                return;
            };
            let (next, at) = (node.next, node.at);
            node.slot = NONE;
            if at <= self.now {
                fire(id);
            } else {
                self.place(id, at);
            }
            id = next;
        }
    }
}

/// How long until a deadline, for a poll that takes a duration.
#[must_use]
pub fn until(deadline: Option<Tick>, now: Tick) -> Option<Duration> {
    deadline.map(|at| at.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn agrees_with_a_map(ops in prop::collection::vec((0u32..20, 0u64..20_000_000, 0u64..3_000_000, 0u8..8), 1..200)) {
            let mut now = 5_000u64;
            let mut wheel = Wheel::new(Tick::from_millis(now));
            let mut map: BTreeMap<u32, u64> = BTreeMap::new();
            for (id, ahead, step, what) in ops {
                match what {
                    0 => { wheel.cancel(id); map.remove(&id); }
                    1..=3 => {
                        now += if what == 1 { step } else { step % 100 };
                        let mut fired = Vec::new();
                        wheel.expire(Tick::from_millis(now), &mut |i| fired.push(i));
                        for i in fired {
                            let at = map.remove(&i).expect("armed");
                            prop_assert!(at <= now, "never early");
                        }
                        for at in map.values() {
                            prop_assert!(*at + 3 > now, "at most a slot late: {} at {}", at, now);
                        }
                    }
                    _ => {
                        let at = now + if what < 6 { ahead } else { ahead % 3_000 };
                        wheel.arm(id, Tick::from_millis(at));
                        map.insert(id, at);
                    }
                }
                if let Some(next) = map.values().min() {
                    prop_assert!(wheel.poll_timeout().expect("something is armed") <= Tick::from_millis(next + 3));
                } else {
                    prop_assert_eq!(wheel.poll_timeout(), None);
                }
            }
        }
    }
}
