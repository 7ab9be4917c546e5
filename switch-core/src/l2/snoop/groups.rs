//! Stage 3: Which port is a member of which group, shared by all workers of a network without locks.
//!
//! An entry is a group, a port with its generation, and a time until which it holds; what was not told again by then is
//! a free slot. Only the worker that receives from a port enters its memberships, so none is there twice. Reading
//! never waits: a slot that is being written is a miss.
//!
//! Two entries stand for no group: a port with a router behind it, and a port that was not asked yet. Both get all.
//! A port on several VLANs has entries for each, in the one table: a network has no more of them for having VLANs.
//! Beside the entries are the times that the workers must agree on (`agreed`): when the next general query is due,
//! whether another querier is there. Where the table is full, everything is flooded for as long as the report would
//! have held: nobody goes without what it asked for.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use ahash::RandomState;
use crossbeam::utils::CachePadded;

use super::agreed::{Agreed, is_before, raise};
use super::{Family, Group, Scope};
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

/// A port on one VLAN of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The port.
    pub of: Station,
    /// The VLAN; 0 is the network's own segment.
    pub vlan: u16,
}

impl Seat {
    /// On the network's own segment.
    #[must_use]
    pub const fn own(of: Station) -> Self {
        Self { of, vlan: 0 }
    }
}

/// Another querier than the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// Its address.
    pub address: IpAddr,
    /// The port that it is behind.
    pub behind: Station,
    /// Until when it counts as there.
    pub until: Tick,
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
    agreed: Agreed,
    /// Until when everything is flooded, for somebody's report found no room.
    flooded: CachePadded<AtomicU64>,
}

/// Of a number in a tag; none has more bits.
const VID: u16 = 0x0fff;

fn who(Seat { of, vlan }: Seat) -> u64 {
    let vlan = u64::from(vlan & VID);
    FILLED | vlan << 48 | u64::from(of.generation) << 32 | u64::from(of.port.0)
}

fn seat(who: u64) -> Seat {
    let half = |at: u32| u16::try_from(who >> at & 0xffff).unwrap_or(0);
    let of = Station {
        port: PortId(u32::try_from(who & 0xffff_ffff).unwrap_or(u32::MAX)),
        generation: half(32),
    };
    Seat {
        of,
        vlan: half(48) & VID,
    }
}

impl Groups {
    /// An empty table with room for `capacity` memberships, rounded up to a power of two.
    /// Cost: address space; memory is used as entries are.
    #[must_use]
    pub fn new(capacity: usize, [a, b, c, d]: [u64; 4]) -> Self {
        Self {
            slots: Slots::new(capacity),
            versions: core::array::from_fn(|_| AtomicU64::new(0)),
            hash: RandomState::with_seeds(a, b, c, d),
            agreed: Agreed::new(),
            flooded: CachePadded::new(AtomicU64::new(0)),
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
    pub fn until(&self, want: Want, of: Seat, now: Tick) -> Option<Tick> {
        let [a, b] = want.words();
        self.find([a, b, who(of)], now)
            .map(|found| Tick::from_nanos(found.1))
    }

    /// Until when a port gets a group, as far as is known: it is a member, has a router behind it, or was not asked
    /// yet. Cost: a few loads, never a wait.
    #[must_use]
    pub fn wanted_until(&self, group: Group, of: Seat, now: Tick) -> Option<Tick> {
        let family = group.family();
        let routers = || self.has_routers(Scope::new(of.vlan, family), now);
        let router = || routers().then_some(Want::Router(family));
        let unasked = || is_before(now, self.unasked(family)).then_some(Want::Unasked(family));
        // A port is asked on all of its VLANs at once.
        let port = Seat::own(of.of);
        self.until(Want::Group(group), of, now)
            .or_else(|| self.until(router()?, of, now))
            .or_else(|| self.until(unasked()?, port, now))
    }

    /// True if a port gets a group.
    #[must_use]
    pub fn wants(&self, group: Group, of: Seat, now: Tick) -> bool {
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

    /// Something has changed about who gets a group, which is not in this table.
    pub fn touch(&self, group: Group) {
        self.changed(Want::Group(group));
    }

    /// Until when there may be ports that were not asked yet, and get all.
    #[must_use]
    pub fn unasked_until(&self, family: Family) -> Tick {
        Tick::from_nanos(self.unasked(family).load(Ordering::Relaxed))
    }

    fn unasked(&self, family: Family) -> &AtomicU64 {
        &self.agreed.of(Scope::new(0, family)).unasked
    }

    /// True if there may be ports with a router.
    #[must_use]
    pub fn has_routers(&self, on: Scope, now: Tick) -> bool {
        is_before(now, &self.agreed.of(on).routers)
    }

    /// Notes that a port wants something until then, be that later or earlier than before. Only for the worker that
    /// receives from the port; for what is asked of a port, by each, and whatever the VLAN.
    pub fn enter(&self, want: Want, of: Seat, now: Tick, until: Tick) -> Entered {
        let [a, b] = want.words();
        let mut of = of;
        match want {
            Want::Router(family) => {
                let on = Scope::new(of.vlan, family);
                raise(&self.agreed.of(on).routers, until);
            }
            Want::Unasked(family) => {
                of = Seat::own(of.of);
                raise(self.unasked(family), until);
            }
            Want::Group(_) => {}
        }
        let key = [a, b, who(of)];
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
    pub fn lower(&self, want: Want, of: Seat, now: Tick, until: Tick) {
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
    pub fn due(&self, on: Scope) -> Tick {
        let agreed = self.agreed.of(on);
        let next = agreed.next.load(Ordering::Relaxed);
        Tick::from_nanos(next.max(agreed.other.load(Ordering::Relaxed)))
    }

    /// Makes the next general query of both protocols due everywhere, as when they are to come more often.
    pub fn ask_soon(&self) {
        for agreed in self.agreed.iter() {
            // Where nothing was ever written no memory is to be taken.
            if agreed.next.load(Ordering::Relaxed) != 0 {
                agreed.next.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Takes the task of sending a general query; true for one worker each time. The second one follows soon, for the
    /// first may be lost. Source: RFC 3376 section 8.6, RFC 3810 section 9.6.
    pub fn take_query(&self, on: Scope, now: Tick, interval: Duration) -> bool {
        let agreed = self.agreed.of(on);
        let next = agreed.next.load(Ordering::Relaxed);
        if now.as_nanos() < next || self.is_other_there(on, now) {
            return false;
        }
        let wait = if next == 0 { interval / 4 } else { interval };
        let after = (now + wait).as_nanos().max(1);
        let order = Ordering::Relaxed;
        let taken = agreed.next.compare_exchange(next, after, order, order);
        taken.is_ok()
    }

    /// Another querier was heard, which the gateway yields to; reports hold so long with it.
    pub fn yield_to(&self, on: Scope, other: Other, life: Duration) {
        let agreed = self.agreed.of(on);
        let life = u64::try_from(life.as_nanos()).unwrap_or(u64::MAX);
        agreed.life.store(life, Ordering::Relaxed);
        agreed.set_address(other.address);
        let behind = who(Seat::own(other.behind));
        agreed.behind.store(behind, Ordering::Relaxed);
        agreed
            .other
            .store(other.until.as_nanos(), Ordering::Relaxed);
    }

    /// True while another querier asks.
    #[must_use]
    pub fn is_other_there(&self, on: Scope, now: Tick) -> bool {
        is_before(now, &self.agreed.of(on).other)
    }

    /// The other querier, while there is one. Where another takes its place at this moment parts of this may be the
    /// one's and parts the other's: it is for people to read.
    #[must_use]
    pub fn other(&self, on: Scope, now: Tick) -> Option<Other> {
        let agreed = self.agreed.of(on);
        let until = Tick::from_nanos(agreed.other.load(Ordering::Relaxed));
        (now < until).then(|| Other {
            address: agreed.address(),
            behind: seat(agreed.behind.load(Ordering::Relaxed)).of,
            until,
        })
    }

    /// How long reports hold with the other querier.
    #[must_use]
    pub fn life(&self, on: Scope) -> Duration {
        Duration::from_nanos(self.agreed.of(on).life.load(Ordering::Relaxed))
    }

    /// What holds now, as three words, and until when.
    fn live(&self, now: Tick) -> impl Iterator<Item = ([u64; 2], Seat, Tick)> + '_ {
        self.slots.iter().filter_map(move |slot| {
            if slot.peek(WHO) == 0 {
                return None;
            }
            let [a, b, who, until] = slot.look(|words| words.all())?;
            (until > now.as_nanos()).then(|| ([a, b], seat(who), Tick::from_nanos(until)))
        })
    }

    /// Memberships that hold now, and until when. Those of ports that have gone are among them: the station table
    /// knows which are current.
    pub fn iter(&self, now: Tick) -> impl Iterator<Item = (Group, Seat, Tick)> + '_ {
        let live = self.live(now);
        live.filter_map(|(words, seat, until)| Some((Want::group(words)?, seat, until)))
    }

    /// Ports that have a router behind them now, as [`Self::iter`].
    pub fn routers(&self, now: Tick) -> impl Iterator<Item = (Family, Seat, Tick)> + '_ {
        self.live(now).filter_map(|(words, seat, until)| {
            let is_router = |family: &Family| Want::Router(*family).words() == words;
            let family = Family::ALL.into_iter().find(is_router)?;
            Some((family, seat, until))
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
