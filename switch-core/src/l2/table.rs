//! Stage 3: MAC to port, shared by all workers without locks: open addressing over atomics.
//!
//! A slot is two words, key and value, read one after the other. A reader may therefore see the value of a
//! station that has just taken the slot over: the table is a hint, and transmission checks the network again,
//! so a torn read can lose a frame but never leak one. Slots are claimed by compare-and-swap and freed only by
//! ageing; a freed slot becomes a tombstone that the next insertion may claim, so probe chains stay whole.

use crate::addr::{Mac, NetworkId, PortId};
use crate::sync::facade::{AtomicU64, Ordering};

/// Slots looked at before giving up.
const PROBES: usize = 16;
/// Never used.
const EMPTY: u64 = 0;
/// Used once; the chain goes on behind it. Not a key: its MAC part is a group address.
const TOMBSTONE: u64 = u64::MAX;
/// Ageing of a station that stays silent, in seconds. Source: IEEE 802.1D table 7-5.
pub const AGEING: u32 = 300;

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
}

/// The table. Networks are numbered below 2^16.
#[derive(Debug)]
pub struct MacTable {
    slots: Box<[(AtomicU64, AtomicU64)]>,
}

fn key(net: NetworkId, mac: Mac) -> u64 {
    // The lowest bit of the network's part keeps every key apart from EMPTY.
    (u64::from(net.0 & 0x7fff) << 49) | (1 << 48) | mac.to_u64()
}

fn value(port: PortId, now: u32) -> u64 {
    (u64::from(port.0) << 32) | u64::from(now)
}

fn unpack(value: u64) -> (PortId, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (
        PortId(u32::from_be_bytes([a, b, c, d])),
        u32::from_be_bytes([e, f, g, h]),
    )
}

impl MacTable {
    /// A table with room for `capacity` stations, rounded up to a power of two.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let n = capacity.next_power_of_two().max(PROBES);
        Self {
            slots: (0..n)
                .map(|_| (AtomicU64::new(EMPTY), AtomicU64::new(0)))
                .collect(),
        }
    }

    fn chain(&self, key: u64) -> impl Iterator<Item = &(AtomicU64, AtomicU64)> {
        // Fibonacci hashing spreads MACs that count up.
        let hash = usize::try_from(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or(0);
        let mask = self.slots.len() - 1;
        (0..PROBES).filter_map(move |i| self.slots.get((hash + i) & mask))
    }

    /// Where a station was seen last, if that was not too long ago. Units: `now` in seconds.
    #[must_use]
    #[inline]
    pub fn lookup(&self, net: NetworkId, mac: Mac, now: u32) -> Option<PortId> {
        let wanted = key(net, mac);
        for (k, v) in self.chain(wanted) {
            match k.load(Ordering::Acquire) {
                EMPTY => return None,
                found if found == wanted => {
                    let (port, seen) = unpack(v.load(Ordering::Acquire));
                    return (now.saturating_sub(seen) < AGEING).then_some(port);
                }
                _ => {}
            }
        }
        None
    }

    /// Notes that a station was seen at a port. Shape: `mac` is a station's. Units: `now` in seconds.
    pub fn learn(&self, net: NetworkId, mac: Mac, port: PortId, now: u32) -> Learned {
        let wanted = key(net, mac);
        let fresh = value(port, now);
        for (k, v) in self.chain(wanted) {
            let found = k.load(Ordering::Acquire);
            if found == wanted {
                let old = v.load(Ordering::Acquire);
                if old == fresh {
                    return Learned::Same;
                }
                v.store(fresh, Ordering::Release);
                let (was, _) = unpack(old);
                return if was == port {
                    Learned::Same
                } else {
                    Learned::Moved(was)
                };
            }
            if found == EMPTY {
                break;
            }
        }
        self.insert(wanted, fresh, now)
    }

    fn insert(&self, wanted: u64, fresh: u64, now: u32) -> Learned {
        for (k, v) in self.chain(wanted) {
            let found = k.load(Ordering::Acquire);
            let (_, seen) = unpack(v.load(Ordering::Acquire));
            let free = found == EMPTY || found == TOMBSTONE || now.saturating_sub(seen) >= AGEING;
            if found == wanted {
                v.store(fresh, Ordering::Release);
                return Learned::Same;
            }
            if free
                && k.compare_exchange(found, wanted, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
            {
                v.store(fresh, Ordering::Release);
                return Learned::New;
            }
        }
        Learned::Full
    }

    /// Forgets every station of a port, as when its endpoint goes.
    pub fn forget(&self, port: PortId) {
        for (k, v) in &self.slots {
            let found = k.load(Ordering::Acquire);
            if found != EMPTY && found != TOMBSTONE && unpack(v.load(Ordering::Acquire)).0 == port {
                let _ = k.compare_exchange(found, TOMBSTONE, Ordering::AcqRel, Ordering::Acquire);
            }
        }
    }

    /// Stations known now.
    pub fn iter(&self, now: u32) -> impl Iterator<Item = (NetworkId, Mac, PortId, u32)> + '_ {
        self.slots.iter().filter_map(move |(k, v)| {
            let found = k.load(Ordering::Acquire);
            let (port, seen) = unpack(v.load(Ordering::Acquire));
            let age = now.saturating_sub(seen);
            if found == EMPTY || found == TOMBSTONE || age >= AGEING {
                return None;
            }
            let [_, _, a, b, c, d, e, f] = found.to_be_bytes();
            let net = NetworkId(u32::try_from(found >> 49).unwrap_or(0));
            Some((net, Mac([a, b, c, d, e, f]), port, age))
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(ops in prop::collection::vec((0u8..24, 0u32..4, 0u32..3, 0u32..200), 1..200)) {
            let table = MacTable::new(1024);
            let mut model: HashMap<(u32, u8), (u32, u32)> = HashMap::new();
            let mut now = 0;
            for (m, port, net, step) in ops {
                if port == 3 {
                    table.forget(PortId(0));
                    model.retain(|_, v| v.0 != 0);
                } else {
                    table.learn(NetworkId(net), mac(m), PortId(port), now);
                    model.insert((net, m), (port, now));
                }
                now += step;
                for n in 0..3 {
                    for m in 0..24 {
                        let want = model.get(&(n, m)).filter(|v| now - v.1 < AGEING).map(|v| PortId(v.0));
                        prop_assert_eq!(table.lookup(NetworkId(n), mac(m), now), want);
                    }
                }
            }
        }
    }

    #[test]
    fn moves_are_told_and_a_full_neighbourhood_too() {
        let table = MacTable::new(16);
        assert_eq!(
            table.learn(NetworkId(0), mac(1), PortId(1), 0),
            Learned::New
        );
        assert_eq!(
            table.learn(NetworkId(0), mac(1), PortId(2), 1),
            Learned::Moved(PortId(1))
        );
        let full = (2..60)
            .filter(|&n| table.learn(NetworkId(0), mac(n), PortId(1), 1) == Learned::Full)
            .count();
        assert!(full >= 58 - 16);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Two workers learn two stations of one neighbourhood while a third looks one up: it is found at its own
    /// port or not at all, and afterwards both are there.
    #[test]
    fn learners_and_a_reader() {
        loom::model(|| {
            let table = Arc::new(MacTable::new(16));
            let (a, b) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
            let net = NetworkId(1);
            let (t1, t2) = (Arc::clone(&table), Arc::clone(&table));
            let one = thread::spawn(move || t1.learn(net, a, PortId(7), 1));
            let two = thread::spawn(move || t2.learn(net, b, PortId(9), 1));
            let seen = table.lookup(net, a, 1);
            // Between the claim of a slot and its value a reader may see port 0, which transmission refuses.
            assert!(matches!(seen, None | Some(PortId(0 | 7))));
            one.join().unwrap();
            two.join().unwrap();
            assert_eq!(table.lookup(net, a, 1), Some(PortId(7)));
            assert_eq!(table.lookup(net, b, 1), Some(PortId(9)));
        });
    }
}
