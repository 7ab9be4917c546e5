//! Stage 5: Token buckets: bytes, frames and new flows of one endpoint.
//!
//! A bucket is one word: the point in time at which it would be full again. Whoever charges it moves that point on,
//! and may as long as it is less than a burst ahead, so a super-frame longer than the burst passes, and is paid for
//! by those behind it. Every worker may charge: what reaches an endpoint comes from all of them.
//! Source: ITU-T I.371 annex A (the generic cell rate algorithm).

use std::sync::Arc;

use super::quota::{Held, Quota};
use crate::addr::PortId;
use crate::sync::facade::{AtomicU64, Ordering};
use crate::sync::tally::Tallies;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::packet::{Kind, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::vnet_hdr::VnetHdr;

/// Parts of a nanosecond in which a bucket counts, so that 64 bytes at 10 GB/s are still told from 63.
const FINE: u64 = 16;
/// Parts of a second.
const SECOND: u64 = FINE * 1_000_000_000;
/// Copies of a frame for everybody that count as one: what a network has on which the limit is never felt.
const COPIES: usize = 100;
/// A charge at most; a second of parts times this fits a word.
const MOST: u64 = 1 << 29;

/// What flows in, and what is held. Units: bytes, frames or flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// A second's worth.
    pub per_second: u64,
    /// What may pass at once.
    pub burst: u64,
}

impl Rate {
    /// A rate and its burst.
    #[must_use]
    pub const fn new(per_second: u64, burst: u64) -> Self {
        Self { per_second, burst }
    }
}

/// A token bucket, full at first.
#[derive(Debug)]
pub struct Bucket {
    rate: u64,
    /// How far ahead `full_at` may be. Units: parts.
    ahead: u64,
    full_at: AtomicU64,
}

impl Bucket {
    /// A full bucket. A rate of zero lets nothing pass.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let ahead = u128::from(rate.burst.max(1)) * u128::from(SECOND);
        let ahead = ahead.checked_div(u128::from(rate.per_second));
        let ahead = ahead.map_or(0, |a| u64::try_from(a).unwrap_or(u64::MAX));
        Self {
            rate: rate.per_second,
            // No longer than a year, which leaves the sums room.
            ahead: ahead.min(365 * 86_400 * SECOND),
            full_at: AtomicU64::new(0),
        }
    }

    /// When something is left: not later than `now` if there is already.
    #[must_use]
    pub fn ready_at(&self, now: Tick) -> Tick {
        if self.rate == 0 {
            return Tick::NEVER;
        }
        let full_at = self.full_at.load(Ordering::Relaxed);
        match full_at.checked_sub(self.ahead) {
            // The first nanosecond after that part.
            Some(parts) => Tick::from_nanos(parts / FINE + 1),
            None => now,
        }
    }

    /// Takes `units` out, if anything is left. Cost: a division and an exchange; no allocation.
    #[inline]
    pub fn take(&self, now: Tick, units: u64) -> bool {
        let Some(cost) = (units.min(MOST) * SECOND).checked_div(self.rate) else {
            return false;
        };
        let now = now.as_nanos().saturating_mul(FINE);
        let end = now.saturating_add(self.ahead);
        let mut seen = self.full_at.load(Ordering::Relaxed);
        while seen < end {
            let next = seen.max(now).saturating_add(cost);
            let swap =
                self.full_at
                    .compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
            match swap {
                Ok(_) => return true,
                // Another worker was faster.
                Err(other) => seen = other,
            }
        }
        false
    }
}

/// What an endpoint may send and receive. `None` is without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// From the endpoint. Units: bytes.
    pub egress: Option<Rate>,
    /// To the endpoint. Units: bytes.
    pub ingress: Option<Rate>,
    /// Broadcasts, multicasts that do not go to members alone, and frames to unknown stations from the endpoint.
    /// Units: frames.
    pub broadcast: Option<Rate>,
    /// New flows from the endpoint. Units: flows.
    pub new_flows: Option<Rate>,
    /// Flows at once: with the world, whoever opened them, and those with neighbours that the endpoint opened.
    pub flows: Option<u32>,
}

impl Rates {
    /// What an endpoint has unless something else was asked for: more than an honest one needs.
    pub const DEFAULT: Self = Self {
        egress: None,
        ingress: None,
        broadcast: Some(Rate::new(1_000, 2_000)),
        new_flows: Some(Rate::new(10_000, 20_000)),
        flows: Some(16_384),
    };
}

/// The buckets of one endpoint, shared by all workers.
#[derive(Debug)]
pub struct Limits {
    rates: Rates,
    egress: Option<Bucket>,
    ingress: Option<Bucket>,
    broadcast: Option<Bucket>,
    new_flows: Option<Bucket>,
    flows: Arc<Quota>,
}

impl Limits {
    /// Full buckets for these rates.
    #[must_use]
    pub fn new(rates: Rates) -> Self {
        Self::with(rates, Arc::new(Quota::new(0)))
    }

    /// The same for an endpoint whose flows are counted among those of others, in its own place.
    #[must_use]
    pub fn counted(rates: Rates, tallies: &Arc<Tallies>, port: PortId) -> Self {
        let flows = Quota::of(0, Arc::clone(tallies), port.0 as usize);
        Self::with(rates, Arc::new(flows))
    }

    /// The same for an endpoint that had others: the flows that it has count on.
    #[must_use]
    pub fn changed(&self, rates: Rates) -> Self {
        Self::with(rates, Arc::clone(&self.flows))
    }

    fn with(rates: Rates, flows: Arc<Quota>) -> Self {
        flows.set_most(rates.flows.map_or(u64::MAX, u64::from));
        Self {
            rates,
            egress: rates.egress.map(Bucket::new),
            ingress: rates.ingress.map(Bucket::new),
            broadcast: rates.broadcast.map(Bucket::new),
            new_flows: rates.new_flows.map(Bucket::new),
            flows,
        }
    }

    /// What they were made for.
    #[must_use]
    pub const fn rates(&self) -> Rates {
        self.rates
    }

    /// Charges a frame that the endpoint has sent, to everybody or not. Shape: as [`Load::of`].
    /// Errors: `RateLimited`; `Storm` for one to everybody.
    #[inline]
    pub fn sent(&self, now: Tick, to_all: bool, load: impl Fn() -> Load) -> Result<(), DropReason> {
        if let Some(bucket) = &self.egress
            && !bucket.take(now, load().bytes)
        {
            return Err(DropReason::RateLimited);
        }
        if to_all {
            self.spread(now, load)?;
        }
        Ok(())
    }

    /// Charges a frame for everybody. Errors: `Storm`.
    #[inline]
    pub fn spread(&self, now: Tick, load: impl Fn() -> Load) -> Result<(), DropReason> {
        match &self.broadcast {
            Some(bucket) if !bucket.take(now, load().frames) => Err(DropReason::Storm),
            _ => Ok(()),
        }
    }

    /// Charges a frame for everybody for the copies that it takes: each hundred of them count as a frame, of which one
    /// is charged already. Errors: `Storm`.
    #[inline]
    pub fn copies(
        &self,
        now: Tick,
        copies: usize,
        load: impl Fn() -> Load,
    ) -> Result<(), DropReason> {
        let more = (copies / COPIES).saturating_sub(1) as u64;
        if more == 0 {
            return Ok(());
        }
        self.spread(now, || {
            let load = load();
            Load {
                frames: load.frames.saturating_mul(more),
                ..load
            }
        })
    }

    /// Charges a frame to the endpoint. False if it may have no more.
    #[inline]
    pub fn receives(&self, now: Tick, load: impl Fn() -> Load) -> bool {
        self.ingress
            .as_ref()
            .is_none_or(|b| b.take(now, load().bytes))
    }

    /// When the endpoint may have more: not later than `now` if it may already.
    #[must_use]
    pub fn receives_at(&self, now: Tick) -> Tick {
        self.ingress.as_ref().map_or(now, |b| b.ready_at(now))
    }

    /// Takes the place of a flow, whoever opens it. Errors: `FlowLimit`.
    pub fn holds(&self) -> Result<Held, DropReason> {
        self.flows.take().ok_or(DropReason::FlowLimit)
    }

    /// True if the endpoint has all the flows that it may have.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.flows.held() >= self.flows.most()
    }

    /// How many flows the endpoint has.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.flows.held()
    }

    /// Charges a flow that the endpoint opens. Errors: `NewFlowLimit`.
    #[inline]
    pub fn opens(&self, now: Tick) -> Result<(), DropReason> {
        match &self.new_flows {
            Some(bucket) if !bucket.take(now, 1) => Err(DropReason::NewFlowLimit),
            _ => Ok(()),
        }
    }
}

/// What a frame weighs, cut as its virtio header asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Frames on a wire.
    pub frames: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
}

impl Load {
    /// Weighs a frame. Shape: `packet` is the parse of `frame`.
    #[must_use]
    pub fn of(frame: &[u8], packet: &Packet, vnet: &VnetHdr) -> Self {
        let len = frame.len();
        let headers = headers(frame, packet).filter(|_| vnet.is_gso() && vnet.gso_size > 0);
        let (frames, more) = headers.map_or((1, 0), |headers| {
            let payload = len.saturating_sub(headers);
            let frames = payload.div_ceil(usize::from(vnet.gso_size)).max(1);
            (frames, (frames - 1) * headers)
        });
        Self {
            frames: frames as u64,
            bytes: (len + more) as u64,
        }
    }
}

/// Bytes of a TCP or UDP frame in front of its payload.
pub(crate) fn headers(frame: &[u8], packet: &Packet) -> Option<usize> {
    let Kind::Ip(ip) = packet.kind else {
        return None;
    };
    let l4 = match ip.proto {
        // The high half of the byte is the length in words.
        PROTO_TCP => usize::from(frame.get(ip.l4 + 12)? >> 4) * 4,
        PROTO_UDP => crate::wire::udp::UdpHeader::LEN,
        _ => return None,
    };
    Some(ip.l4 + l4)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use core::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let bucket = Bucket::new(Rate::new(1_000, 20));
        let now = Tick::from_millis(5_000);
        assert_eq!((0..100).filter(|_| bucket.take(now, 1)).count(), 20);
        let later = now + Duration::from_millis(10);
        assert_eq!((0..100).filter(|_| bucket.take(later, 1)).count(), 10);
        let rested = later + Duration::from_secs(3_600);
        assert_eq!((0..100).filter(|_| bucket.take(rested, 1)).count(), 20);
    }

    #[test]
    fn it_is_known_when_something_is_left() {
        let bucket = Bucket::new(Rate::new(1_000, 20));
        let now = Tick::from_millis(5_000);
        assert!(bucket.ready_at(now) <= now);
        while bucket.take(now, 7) {}
        let at = bucket.ready_at(now);
        assert!(at > now && at < now + Duration::from_millis(8), "{at:?}");
        let before = Tick::from_nanos(at.as_nanos() - 1);
        assert!(!bucket.take(before, 1) && bucket.take(at, 1));
        assert_eq!(Bucket::new(Rate::new(0, 1)).ready_at(now), Tick::NEVER);
    }

    #[test]
    fn flows_are_counted_through_a_change() {
        let of = |flows| Rates {
            flows,
            ..Rates::default()
        };
        let limits = Limits::new(of(Some(2)));
        let held = [limits.holds().unwrap(), limits.holds().unwrap()];
        assert_eq!(limits.holds().unwrap_err(), DropReason::FlowLimit);
        let wider = limits.changed(of(Some(3)));
        assert_eq!(wider.flows(), 2);
        let third = wider.holds().unwrap();
        assert!(wider.holds().is_err());
        drop((held, third));
        assert_eq!(limits.changed(of(None)).flows(), 0);
    }

    #[test]
    fn what_is_longer_than_the_burst_passes_and_is_paid_for() {
        let bucket = Bucket::new(Rate::new(1_000_000, 1_500));
        assert!(bucket.take(Tick::ZERO, 65_000));
        assert!(!bucket.take(Tick::from_millis(63), 1));
        assert!(bucket.take(Tick::from_millis(65), 1));
    }

    #[test]
    fn absurd_rates_are_kept() {
        let none = Bucket::new(Rate::new(0, 10));
        assert!(!none.take(Tick::from_millis(1), 1));
        let all = Bucket::new(Rate::new(u64::MAX, u64::MAX));
        assert!((0..1_000).all(|_| all.take(Tick::ZERO, u64::MAX)));
        let slow = Bucket::new(Rate::new(1, u64::MAX));
        assert!((0..1_000).all(|_| slow.take(Tick::ZERO, 1)));
    }

    proptest! {
        /// Over any time, no more passes than the rate, the burst, and the one that overshot it.
        #[test]
        fn keeps_the_rate(
            per_second in 1_u64..10_000_000,
            burst in 1_u64..100_000,
            steps in prop::collection::vec((0_u64..50_000_000, 1_u64..70_000), 1..200),
        ) {
            let bucket = Bucket::new(Rate::new(per_second, burst));
            let (mut now, mut passed, mut largest) = (0, 0, 0);
            for (step, units) in steps {
                now += step;
                if bucket.take(Tick::from_nanos(now), units) {
                    passed += units;
                    largest = largest.max(units);
                }
                let allowed = u128::from(now) * u128::from(per_second) / 1_000_000_000;
                // A charge is rounded down by less than a part of a nanosecond.
                let slack = 1 + u128::from(per_second) * 200 / u128::from(SECOND);
                prop_assert!(u128::from(passed) <= allowed + u128::from(burst + largest) + slack);
            }
        }
    }
}
