//! Stage 3: Which port is a member of which group, shared by all workers of a network without locks.
//!
//! An entry is a group, a port with its generation, and a time until which it holds; what was not told again by then is
//! a free slot. Only the worker that receives from a port enters its memberships, so none is there twice. Reading
//! never waits: a slot that is being written is a miss.
//!
//! Two entries stand for no group: a port with a router behind it, and a port that was not asked yet. Both get all.
//! Beside the entries are the times that the workers must agree on: when the next general query is due, whether
//! another querier is there. Where the table is full, everything is flooded for as long as the report would have held:
//! nobody goes without what it asked for.

use core::fmt;
use core::time::Duration;

use ahash::RandomState;
use crossbeam::utils::CachePadded;

use super::{Family, Group};
use crate::addr::PortId;
use crate::l2::table::Station;
use crate::sync::facade::{AtomicU64, Ordering};
use crate::sync::slots::{Slot, Slots};
use crate::time::Tick;

/// Memberships of a network, unless something else is asked.
pub const CAPACITY: usize = 16_384;
/// How often entering is tried where another worker writes in the same place: each writes but a few words.
#[cfg(not(loom))]
const TRIES: usize = 64;
/// Few, so that a model has an end.
#[cfg(loom)]
const TRIES: usize = 2;

/// Counters of changes; who joins and leaves all the time makes work for senders to a few groups only.
#[cfg(not(loom))]
const PLACES: usize = 64;
/// Few, for a model keeps them all in mind.
#[cfg(loom)]
const PLACES: usize = 1;

/// Words of an entry: the group's two, whose it is, until when.
const ENTRY: usize = 4;
const WHO: usize = 2;
const UNTIL: usize = 3;
/// Set in every entry's third word, so that none is taken for an empty slot.
const FILLED: u64 = 1 << 63;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A group.
    Group(Group),
    /// All that routers get.
    Router(Family),
    /// All, until the port had the time to say what.
    Unasked(Family),
}

impl Want {
    fn words(self) -> [u64; 2] {
        let number = |family: Family| 1 + u64::from(family == Family::V6);
        match self {
            Self::Group(group) => {
                let [a, b, c, d, e, f, g, h, low @ ..] = group.0.octets();
                let high = [a, b, c, d, e, f, g, h];
                [u64::from_be_bytes(high), u64::from_be_bytes(low)]
            }
            // No group has a first word that is neither zero nor begins with ff.
            Self::Router(family) => [1, number(family)],
            Self::Unasked(family) => [2, number(family)],
        }
    }

    /// The group of an entry; none for the others.
    fn group(words: [u64; 2]) -> Option<Group> {
        let [high, low] = words;
        let address = core::net::Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
        Group::of(address.to_canonical())
    }
}

/// What came of entering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It was not there.
    New,
    /// It was, and holds as long as said now.
    Known,
    /// There is no room.
    Full,
}

/// What workers agree on of one protocol.
#[derive(Debug)]
struct Agreed {
    /// When the next general query is due.
    next: AtomicU64,
    /// Until when another querier counts as there.
    other: AtomicU64,
    /// How long reports hold with that one. Units: nanoseconds.
    life: AtomicU64,
    /// Until when there may be ports with a router.
    routers: AtomicU64,
    /// Until when there may be ports that were not asked.
    unasked: AtomicU64,
}

/// Which state of the table a list of a group's members was made of: that of all groups, and of those that have their
/// place with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Version(u64, u64);

/// The table of one network.
pub struct Groups {
    slots: Slots<ENTRY>,
    /// Counts up with every member that comes or goes before its time; the first one is that of all groups.
    versions: [AtomicU64; 1 + PLACES],
    hash: RandomState,
    agreed: [CachePadded<Agreed>; 2],
    /// Until when everything is flooded, for somebody's report found no room.
    flooded: CachePadded<AtomicU64>,
}

fn who(station: Station) -> u64 {
    FILLED | u64::from(station.generation) << 32 | u64::from(station.port.0)
}

fn station(who: u64) -> Station {
    Station {
        port: PortId(u32::try_from(who & 0xffff_ffff).unwrap_or(u32::MAX)),
        generation: u16::try_from(who >> 32 & 0xffff).unwrap_or(0),
    }
}

fn raise(time: &AtomicU64, until: Tick) {
    time.fetch_max(until.as_nanos(), Ordering::Relaxed);
}

fn is_before(now: Tick, time: &AtomicU64) -> bool {
    now.as_nanos() < time.load(Ordering::Relaxed)
}

impl Groups {
    /// An empty table with room for `capacity` memberships, rounded up to a power of two.
    /// Cost: address space; memory is used as entries are.
    #[must_use]
    pub fn new(capacity: usize, [a, b, c, d]: [u64; 4]) -> Self {
        let agreed = || {
            CachePadded::new(Agreed {
                next: AtomicU64::new(0),
                other: AtomicU64::new(0),
                life: AtomicU64::new(0),
                routers: AtomicU64::new(0),
                unasked: AtomicU64::new(0),
            })
        };
        Self {
            slots: Slots::new(capacity),
            versions: core::array::from_fn(|_| AtomicU64::new(0)),
            hash: RandomState::with_seeds(a, b, c, d),
            agreed: [agreed(), agreed()],
            flooded: CachePadded::new(AtomicU64::new(0)),
        }
    }

    fn agreed(&self, family: Family) -> &Agreed {
        let [v4, v6] = &self.agreed;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    fn chain(&self, key: [u64; 3]) -> impl Iterator<Item = &Slot<ENTRY>> {
        self.slots.chain(self.hash.hash_one(key)).map(|(_, s)| s)
    }

    fn find(&self, key: [u64; 3], now: Tick) -> Option<(&Slot<ENTRY>, u64)> {
        for slot in self.chain(key) {
            match slot.peek(WHO) {
                // Whoever came behind would have taken this place, which is never given back.
                0 => return None,
                who if who != key[WHO] => continue,
                _ => {}
            }
            let until = slot.look(|words| {
                let same = key.iter().zip(0..).all(|(&k, at)| words.get(at) == k);
                same.then(|| words.get(UNTIL))
            });
            if let Some(Some(until)) = until {
                return (until > now.as_nanos()).then_some((slot, until));
            }
        }
        None
    }

    /// Until when an entry holds; none if there is none.
    #[must_use]
    pub fn until(&self, want: Want, of: Station, now: Tick) -> Option<Tick> {
        let [a, b] = want.words();
        self.find([a, b, who(of)], now)
            .map(|found| Tick::from_nanos(found.1))
    }

    /// Until when a port gets a group, as far as is known: it is a member, has a router behind it, or was not asked
    /// yet. Cost: a few loads, never a wait.
    #[must_use]
    pub fn wanted_until(&self, group: Group, of: Station, now: Tick) -> Option<Tick> {
        let family = group.family();
        let agreed = self.agreed(family);
        let router = || is_before(now, &agreed.routers).then_some(Want::Router(family));
        let unasked = || is_before(now, &agreed.unasked).then_some(Want::Unasked(family));
        self.until(Want::Group(group), of, now)
            .or_else(|| self.until(router()?, of, now))
            .or_else(|| self.until(unasked()?, of, now))
    }

    /// True if a port gets a group.
    #[must_use]
    pub fn wants(&self, group: Group, of: Station, now: Tick) -> bool {
        self.wanted_until(group, of, now).is_some()
    }

    /// A number that stays with a group, to find what is kept of it.
    #[must_use]
    #[inline]
    pub fn place(&self, group: Group) -> usize {
        let hash = self.hash.hash_one(group);
        usize::try_from(hash & 0xffff_ffff).unwrap_or(0)
    }

    fn counter(&self, want: Want) -> Option<&AtomicU64> {
        match want {
            Want::Group(group) => self.versions.get(1 + self.place(group) % PLACES),
            Want::Router(_) | Want::Unasked(_) => self.versions.first(),
        }
    }

    /// The version of a group's members: while it is the same nobody has come, and nobody has gone before its time.
    #[must_use]
    #[inline]
    pub fn version(&self, group: Group) -> Version {
        let load = |counter: Option<&AtomicU64>| counter.map_or(0, |c| c.load(Ordering::Acquire));
        Version(
            load(self.versions.first()),
            load(self.counter(Want::Group(group))),
        )
    }

    /// Counts a change that is in the table by now.
    fn changed(&self, want: Want) {
        if let Some(counter) = self.counter(want) {
            counter.fetch_add(1, Ordering::Release);
        }
    }

    /// True if there may be ports with a router of this protocol.
    #[must_use]
    pub fn has_routers(&self, family: Family, now: Tick) -> bool {
        is_before(now, &self.agreed(family).routers)
    }

    /// Notes that a port wants something until then, be that later or earlier than before. Only for the worker that
    /// receives from the port; for what is asked of a port, by each.
    pub fn enter(&self, want: Want, of: Station, now: Tick, until: Tick) -> Entered {
        let [a, b] = want.words();
        let key = [a, b, who(of)];
        match want {
            Want::Router(family) => raise(&self.agreed(family).routers, until),
            Want::Unasked(family) => raise(&self.agreed(family).unasked, until),
            Want::Group(_) => {}
        }
        for _ in 0..TRIES {
            if let Some((entered, is_news)) = self.try_enter(key, now, until) {
                if is_news {
                    self.changed(want);
                }
                return entered;
            }
            core::hint::spin_loop();
        }
        Entered::Full
    }

    /// Tells with what came of it whether somebody has come, or will go before it was to. None where another worker was
    /// in the way.
    fn try_enter(&self, key: [u64; 3], now: Tick, until: Tick) -> Option<(Entered, bool)> {
        let mut free = None;
        for slot in self.chain(key) {
            let found = slot.look(|words| words.all())?;
            let [a, b, who, held] = found;
            let live = who != 0 && held > now.as_nanos();
            if live && [a, b, who] == key {
                slot.exchange(UNTIL, held, until.as_nanos()).ok()?;
                return Some((Entered::Known, until.as_nanos() < held));
            }
            if !live && free.is_none() {
                free = Some(slot);
            }
            if who == 0 {
                break;
            }
        }
        let Some(slot) = free else {
            return Some((Entered::Full, false));
        };
        let claim = slot.claim()?;
        let [_, _, taken, held] = claim.get();
        if taken != 0 && held > now.as_nanos() {
            return None;
        }
        // A worker whose clock is behind may renew it at this moment: it is first, or finds that the entry has ended.
        slot.exchange(UNTIL, held, 0).ok()?;
        let [a, b, who] = key;
        claim.set([a, b, who, until.as_nanos()]);
        Some((Entered::New, true))
    }

    /// Shortens an entry of whatever port, as when a querier asks who is left.
    pub fn lower(&self, want: Want, of: Station, now: Tick, until: Tick) {
        let [a, b] = want.words();
        if let Some((slot, held)) = self.find([a, b, who(of)], now)
            && held > until.as_nanos()
        {
            // Where its owner was faster, there was a report.
            let _ = slot.exchange(UNTIL, held, until.as_nanos());
            self.changed(want);
        }
    }

    /// Somebody's report found no room: everything is flooded until it would have ended.
    pub fn overflow(&self, until: Tick) {
        raise(&self.flooded, until);
    }

    /// True while everything is flooded.
    #[must_use]
    #[inline]
    pub fn is_flooded(&self, now: Tick) -> bool {
        is_before(now, &self.flooded)
    }

    /// When the next general query of the gateway is due: not before another querier has gone.
    #[must_use]
    pub fn due(&self, family: Family) -> Tick {
        let agreed = self.agreed(family);
        let next = agreed.next.load(Ordering::Relaxed);
        Tick::from_nanos(next.max(agreed.other.load(Ordering::Relaxed)))
    }

    /// Makes the next general query of both protocols due, as when they are to come more often.
    pub fn ask_soon(&self) {
        for agreed in &self.agreed {
            agreed.next.store(0, Ordering::Relaxed);
        }
    }

    /// Takes the task of sending a general query; true for one worker each time. The second one follows soon, for the
    /// first may be lost. Source: RFC 3376 section 8.6, RFC 3810 section 9.6.
    pub fn take_query(&self, family: Family, now: Tick, interval: Duration) -> bool {
        let agreed = self.agreed(family);
        let next = agreed.next.load(Ordering::Relaxed);
        if now.as_nanos() < next || self.is_other_there(family, now) {
            return false;
        }
        let wait = if next == 0 { interval / 4 } else { interval };
        let after = (now + wait).as_nanos().max(1);
        let order = Ordering::Relaxed;
        let taken = agreed.next.compare_exchange(next, after, order, order);
        taken.is_ok()
    }

    /// Another querier was heard, which the gateway yields to until then; reports hold so long with it.
    pub fn yield_to(&self, family: Family, until: Tick, life: Duration) {
        let agreed = self.agreed(family);
        let life = u64::try_from(life.as_nanos()).unwrap_or(u64::MAX);
        agreed.life.store(life, Ordering::Relaxed);
        agreed.other.store(until.as_nanos(), Ordering::Relaxed);
    }

    /// True while another querier asks.
    #[must_use]
    pub fn is_other_there(&self, family: Family, now: Tick) -> bool {
        is_before(now, &self.agreed(family).other)
    }

    /// How long reports hold with the other querier.
    #[must_use]
    pub fn life(&self, family: Family) -> Duration {
        Duration::from_nanos(self.agreed(family).life.load(Ordering::Relaxed))
    }

    /// Memberships that hold now, and until when. Those of ports that have gone are among them: the station table
    /// knows which are current.
    pub fn iter(&self, now: Tick) -> impl Iterator<Item = (Group, Station, Tick)> + '_ {
        self.slots.iter().filter_map(move |slot| {
            if slot.peek(WHO) == 0 {
                return None;
            }
            let [a, b, who, until] = slot.look(|words| words.all())?;
            let live = until > now.as_nanos();
            let group = Want::group([a, b]).filter(|_| live)?;
            Some((group, station(who), Tick::from_nanos(until)))
        })
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups")
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}
