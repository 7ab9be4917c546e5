//! Stage 3: MAC to port, shared by all workers without locks: open addressing over atomics. Here is its form and
//! its reading; `learn` writes.
//!
//! A slot is a sequence number, a key, a value and a note of moves. Its number is odd while somebody writes it, so a reader sees
//! key and value of one moment, or takes the slot for a miss; nobody ever waits for a writer. A value carries the
//! generation of its port: removing a port makes all its stations stale at once. The table is a hint all the same:
//! transmission checks network and generation again.

use core::fmt;

use crossbeam::utils::CachePadded;

use super::moves::{HOLD, Moves};
use crate::addr::{Mac, NetworkId, PortId};
use crate::sync::facade::{AtomicU64, Ordering};

/// Slots looked at before giving up.
#[cfg(not(loom))]
const PROBES: usize = 16;
/// Few, so that a model has collisions and an end.
#[cfg(loom)]
const PROBES: usize = 2;
/// Ageing of a station that stays silent, in seconds. Source: IEEE 802.1D table 7-5.
pub const AGEING: u32 = 300;
/// Networks are numbered below this; stations of others are not kept, and frames to them flooded.
pub const MAX_NETWORKS: u32 = 1 << 15;
/// Ports are numbered below this.
const MAX_PORTS: usize = 1 << 20;
/// Generations come round after so many removals of one port.
const GENERATIONS: u64 = 1 << 12;

/// A key never used: the chain ends here.
pub(super) const EMPTY: u64 = 0;
/// A key used once; the chain goes on behind it. Not a station's: its MAC part is a group address.
pub(super) const TOMBSTONE: u64 = u64::MAX;

/// Where a station is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station {
    /// Its port.
    pub port: PortId,
    /// The port's generation when the station was learned: another endpoint may have the number by now.
    pub generation: u16,
}

/// The second word of a slot, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) station: Station,
    /// In seconds.
    pub(super) seen: u32,
}

impl Value {
    pub(super) fn pack(self) -> u64 {
        (u64::from(self.station.generation) << 52)
            | (u64::from(self.station.port.0) << 32)
            | u64::from(self.seen)
    }

    pub(super) fn unpack(word: u64) -> Self {
        let low = |word: u64| u32::try_from(word & 0xffff_ffff).unwrap_or(0);
        Self {
            station: Station {
                port: PortId(low(word >> 32) & 0xf_ffff),
                generation: u16::try_from(word >> 52).unwrap_or(0),
            },
            seen: low(word),
        }
    }
}

/// The first word of a slot; none for what the table does not keep.
pub(super) fn key(net: NetworkId, mac: Mac) -> Option<u64> {
    // The bit between network and MAC keeps every key apart from EMPTY.
    (net.0 < MAX_NETWORKS && mac.is_station())
        .then(|| (u64::from(net.0) << 49) | (1 << 48) | mac.to_u64())
}

fn unkey(key: u64) -> (NetworkId, Mac) {
    let [_, _, a, b, c, d, e, f] = key.to_be_bytes();
    let net = NetworkId(u32::try_from(key >> 49).unwrap_or(0));
    (net, Mac([a, b, c, d, e, f]))
}

pub(super) struct Slot {
    seq: AtomicU64,
    pub(super) key: AtomicU64,
    value: AtomicU64,
    /// Of interest to writers only.
    moves: AtomicU64,
}

impl Slot {
    fn new() -> Self {
        Self {
            seq: AtomicU64::new(0),
            key: AtomicU64::new(EMPTY),
            value: AtomicU64::new(0),
            moves: AtomicU64::new(0),
        }
    }

    /// What was written last of the station's moves.
    pub(super) fn moves(&self) -> Moves {
        Moves::unpack(self.moves.load(Ordering::Relaxed))
    }

    /// Key and value of one moment; none while somebody writes.
    ///
    /// Whoever sees a word of a writer sees by its release that the number was odd before, so the second look at
    /// the number tells.
    pub(super) fn read(&self) -> Option<(u64, Value)> {
        let before = self.seq.load(Ordering::Acquire);
        let key = self.key.load(Ordering::Acquire);
        let value = self.value.load(Ordering::Acquire);
        let after = self.seq.load(Ordering::Relaxed);
        (before & 1 == 0 && before == after).then(|| (key, Value::unpack(value)))
    }

    /// Makes the caller the slot's one writer, unless there is one already.
    pub(super) fn claim(&self) -> Option<Claim<'_>> {
        let seq = self.seq.load(Ordering::Relaxed);
        if seq & 1 != 0 {
            return None;
        }
        self.seq
            .compare_exchange(seq, seq + 1, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        Some(Claim { slot: self, seq })
    }
}

/// The right to write a slot, given back when dropped.
pub(super) struct Claim<'a> {
    slot: &'a Slot,
    seq: u64,
}

impl Claim<'_> {
    pub(super) fn get(&self) -> (u64, Value) {
        // Nobody else writes now, and claiming has acquired what the last writer wrote.
        let key = self.slot.key.load(Ordering::Relaxed);
        (key, Value::unpack(self.slot.value.load(Ordering::Relaxed)))
    }

    pub(super) fn set(&self, key: u64, value: Value) {
        self.slot.key.store(key, Ordering::Release);
        self.slot.value.store(value.pack(), Ordering::Release);
    }

    pub(super) fn moves(&self) -> Moves {
        self.slot.moves()
    }

    /// Notes what the station has moved of late.
    pub(super) fn note(&self, moves: Moves) {
        self.slot.moves.store(moves.pack(), Ordering::Relaxed);
    }

    pub(super) fn bury(&self) {
        self.slot.key.store(TOMBSTONE, Ordering::Release);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.slot
            .seq
            .store(self.seq.wrapping_add(2), Ordering::Release);
    }
}

/// What the table knows of a port.
pub(super) struct PortState {
    pub(super) generation: AtomicU64,
    /// Slots that are filled with its stations, live or not.
    pub(super) held: AtomicU64,
    keeping: AtomicU64,
}

/// How the stations behind a port are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// How many there may be; below 2^24.
    pub limit: u32,
    /// After how long a silent one is forgotten. Units: seconds, below 2^20.
    pub ageing: u32,
    /// How long one that flaps is held; 0 for never. Units: seconds, below 2^20.
    pub hold: u32,
}

impl Keeping {
    const LIMIT: u32 = (1 << 24) - 1;
    const SECONDS: u32 = (1 << 20) - 1;

    fn pack(self) -> u64 {
        let (ageing, hold) = (self.ageing.min(Self::SECONDS), self.hold.min(Self::SECONDS));
        u64::from(self.limit.min(Self::LIMIT)) << 40 | u64::from(ageing) << 20 | u64::from(hold)
    }

    fn unpack(word: u64) -> Self {
        let part = |shift: u32, mask: u32| {
            u32::try_from((word >> shift) & u64::from(mask)).unwrap_or(mask)
        };
        Self {
            limit: part(40, Self::LIMIT),
            ageing: part(20, Self::SECONDS),
            hold: part(0, Self::SECONDS),
        }
    }
}

impl PortState {
    pub(super) fn keeping(&self) -> Keeping {
        Keeping::unpack(self.keeping.load(Ordering::Relaxed))
    }
}

/// A station as it is known now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its network.
    pub net: NetworkId,
    /// Its address.
    pub mac: Mac,
    /// Where it is.
    pub port: PortId,
    /// How long ago it was seen. Units: seconds.
    pub age: u32,
    /// It flaps, and is held where it is.
    pub held: bool,
}

/// The table. Networks are numbered below `MAX_NETWORKS`, ports below the number it was made for.
pub struct MacTable {
    pub(super) slots: Box<[Slot]>,
    pub(super) ports: Box<[PortState]>,
    /// Where the sweep for dead entries goes on.
    pub(super) hand: CachePadded<AtomicU64>,
    /// When all of it was swept for a port at its limit. Units: seconds, plus one.
    pub(super) swept: AtomicU64,
}

impl fmt::Debug for MacTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MacTable")
            .field("capacity", &self.slots.len())
            .finish_non_exhaustive()
    }
}

impl MacTable {
    /// A table with room for `capacity` stations, rounded up to a power of two, and as many ports; one port may
    /// fill it.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::with_limit(capacity, capacity, usize::MAX)
    }

    /// A table with room for `capacity` stations, rounded up to a power of two, of which `limit` for each of the
    /// ports below number `ports`, until [`Self::keep`] says otherwise.
    #[must_use]
    pub fn with_limit(capacity: usize, ports: usize, limit: usize) -> Self {
        let n = capacity.next_power_of_two().max(PROBES);
        let keeping = Keeping {
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            ageing: AGEING,
            hold: HOLD,
        };
        let state = |_| PortState {
            generation: AtomicU64::new(0),
            held: AtomicU64::new(0),
            keeping: AtomicU64::new(keeping.pack()),
        };
        Self {
            slots: (0..n).map(|_| Slot::new()).collect(),
            ports: (0..ports.clamp(1, MAX_PORTS)).map(state).collect(),
            hand: CachePadded::new(AtomicU64::new(0)),
            swept: AtomicU64::new(0),
        }
    }

    pub(super) fn chain(&self, key: u64) -> impl Iterator<Item = &Slot> {
        // Fibonacci hashing spreads MACs that count up.
        let hash = usize::try_from(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or(0);
        let mask = self.slots.len() - 1;
        (0..PROBES).filter_map(move |i| self.slots.get((hash + i) & mask))
    }

    pub(super) fn port(&self, port: PortId) -> Option<&PortState> {
        self.ports.get(port.0 as usize)
    }

    pub(super) fn generation(&self, port: PortId) -> Option<u16> {
        let now = self.port(port)?.generation.load(Ordering::Acquire);
        u16::try_from(now % GENERATIONS).ok()
    }

    /// A port with its generation of now; none for one that the table does not keep.
    #[must_use]
    #[inline]
    pub fn station(&self, port: PortId) -> Option<Station> {
        let generation = self.generation(port)?;
        Some(Station { port, generation })
    }

    /// Says how the stations behind a port are kept from now on, those that are known included.
    pub fn keep(&self, port: PortId, how: Keeping) {
        if let Some(state) = self.port(port) {
            state.keeping.store(how.pack(), Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn live(&self, value: Value, now: u32) -> bool {
        let ageing = self.port(value.station.port).map(PortState::keeping);
        ageing.is_some_and(|k| now.saturating_sub(value.seen) < k.ageing)
            && self.is_current(value.station)
    }

    /// Whether the port is still the endpoint that it was when the station was learned.
    #[must_use]
    #[inline]
    pub fn is_current(&self, station: Station) -> bool {
        self.generation(station.port) == Some(station.generation)
    }

    /// Where a station was seen last, if that was not too long ago. Units: `now` in seconds.
    /// Cost: a few loads, never a wait. While another worker writes the station's slot it is not found.
    #[must_use]
    #[inline]
    pub fn find(&self, net: NetworkId, mac: Mac, now: u32) -> Option<Station> {
        let wanted = key(net, mac)?;
        for slot in self.chain(wanted) {
            match slot.key.load(Ordering::Relaxed) {
                EMPTY => return None,
                found if found == wanted => {
                    let (found, value) = slot.read()?;
                    return (found == wanted && self.live(value, now)).then_some(value.station);
                }
                _ => {}
            }
        }
        None
    }

    /// The port of a station, as `find` does.
    #[must_use]
    #[inline]
    pub fn lookup(&self, net: NetworkId, mac: Mac, now: u32) -> Option<PortId> {
        self.find(net, mac, now).map(|station| station.port)
    }

    /// Stations known now.
    pub fn iter(&self, now: u32) -> impl Iterator<Item = Known> + '_ {
        self.slots.iter().filter_map(move |slot| {
            let (found, value) = slot.read()?;
            if found == EMPTY || found == TOMBSTONE || !self.live(value, now) {
                return None;
            }
            let (net, mac) = unkey(found);
            Some(Known {
                net,
                mac,
                port: value.station.port,
                age: now.saturating_sub(value.seen),
                held: slot.moves().is_held(now),
            })
        })
    }
}
