//! Stage 3: What the workers of a network agree on beside who is a member, for each VLAN and protocol: when the gateway
//! asks next, and whether somebody else does in its place.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};

use super::{Family, Scope};
use crate::sync::facade::{AtomicU64, Ordering};
use crate::time::Tick;

/// Numbers that a tag can have.
#[cfg(not(loom))]
const VLANS: usize = 4096;
/// None, so that a model has an end.
#[cfg(loom)]
const VLANS: usize = 0;

/// What workers agree on of one protocol on one VLAN. A cache line.
#[cfg_attr(not(any(loom, all(shuttle, test))), derive(zerocopy::FromZeros))]
#[repr(C, align(64))]
pub(super) struct Agreement {
    /// When the next general query is due.
    pub(super) next: AtomicU64,
    /// Until when another querier counts as there.
    pub(super) other: AtomicU64,
    /// How long reports hold with that one. Units: nanoseconds.
    pub(super) life: AtomicU64,
    /// Until when there may be ports with a router.
    pub(super) routers: AtomicU64,
    /// Until when there may be ports that were not asked.
    pub(super) unasked: AtomicU64,
    /// The other querier's address, an IPv4 one mapped to IPv6.
    address: [AtomicU64; 2],
    /// The port that it is behind, as the table has it.
    pub(super) behind: AtomicU64,
}

impl Agreement {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            next: zero(),
            other: zero(),
            life: zero(),
            routers: zero(),
            unasked: zero(),
            address: [zero(), zero()],
            behind: zero(),
        }
    }

    pub(super) fn set_address(&self, address: IpAddr) {
        let bits = match address {
            IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
            IpAddr::V6(a) => a.to_bits(),
        };
        let half = |shift: u32| u64::try_from(bits >> shift & u128::from(u64::MAX)).unwrap_or(0);
        for (place, half) in self.address.iter().zip([half(64), half(0)]) {
            place.store(half, Ordering::Relaxed);
        }
    }

    pub(super) fn address(&self) -> IpAddr {
        let halves = self.address.iter().map(|h| h.load(Ordering::Relaxed));
        let bits = halves.fold(0, |bits, half| bits << 64 | u128::from(half));
        Ipv6Addr::from_bits(bits).to_canonical()
    }
}

/// All agreements of a network. Cost: address space; memory is used as VLANs are.
pub(super) struct Agreed {
    /// Of the network's own segment.
    own: [Agreement; 2],
    /// Of its VLANs, by their numbers.
    vlans: [Box<[Agreement]>; 2],
}

impl Agreed {
    pub(super) fn new() -> Self {
        Self {
            own: [Agreement::new(), Agreement::new()],
            vlans: [zeroed(), zeroed()],
        }
    }

    #[inline]
    pub(super) fn of(&self, on: Scope) -> &Agreement {
        let ([own4, own6], [vlans4, vlans6]) = (&self.own, &self.vlans);
        let (own, vlans) = match on.family {
            Family::V4 => (own4, vlans4),
            Family::V6 => (own6, vlans6),
        };
        match on.vlan {
            0 => own,
            // One that there was no memory for asks with the own segment.
            id => vlans.get(usize::from(id)).unwrap_or(own),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Agreement> {
        self.own.iter().chain(self.vlans.iter().flatten())
    }
}

#[cfg(not(any(loom, all(shuttle, test))))]
fn zeroed() -> Box<[Agreement]> {
    <[Agreement] as zerocopy::FromZeros>::new_box_zeroed_with_elems(VLANS).unwrap_or_default()
}

#[cfg(any(loom, all(shuttle, test)))]
fn zeroed() -> Box<[Agreement]> {
    (0..VLANS).map(|_| Agreement::new()).collect()
}

pub(super) fn raise(time: &AtomicU64, until: Tick) {
    time.fetch_max(until.as_nanos(), Ordering::Relaxed);
}

pub(super) fn is_before(now: Tick, time: &AtomicU64) -> bool {
    now.as_nanos() < time.load(Ordering::Relaxed)
}

impl fmt::Debug for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreed").finish_non_exhaustive()
    }
}
