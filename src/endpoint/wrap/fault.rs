//! An endpoint on a bad link: frames are lost, late, doubled, out of order or damaged, both ways.
//!
//! Damage is done to one segment, for no checksum covers more.

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::time::Instant;

use switch_core::gso::split;
use switch_core::wire::packet::{Kind, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Packet};
use switch_core::wire::vnet_hdr::VnetHdr;

use super::held::{Held, Line};
use super::impairment::{Chance, Impairment, Per};
use crate::endpoint::{Caps, Endpoint, Received};

/// A frame that is put out of order comes behind this many of its followers at most: fewer and more than the three
/// from which a TCP sender takes it for lost.
const MOST_BEHIND: u64 = 8;

/// A sequence of numbers that look random and depend on their seed alone. Source: splitmix64, by Steele et al.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is small.
    fn below(&mut self, n: u64) -> u64 {
        ((self.throw() >> 32) * n) >> 32
    }

    /// A place in a slice of this length, which is no more than a frame's bits.
    fn place(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    fn happens(&mut self, chance: Chance) -> bool {
        self.below(u64::from(Chance::ALWAYS)) < u64::from(chance.get())
    }
}

/// What became of the frames of one direction.
#[derive(Debug, Default)]
struct Tally {
    all: u64,
    lost: u64,
    late: u64,
    doubled: u64,
    damaged: u64,
}

/// One direction of the link.
#[derive(Debug)]
struct Way {
    plan: Impairment,
    dice: Dice,
    line: Line,
    tally: Tally,
    whole: Vec<u8>,
    cut: Vec<u8>,
}

impl Way {
    fn new(plan: Impairment, salt: u64) -> Self {
        Self {
            plan,
            dice: Dice(plan.seed ^ salt),
            line: Line::default(),
            tally: Tally::default(),
            whole: Vec::new(),
            cut: Vec::new(),
        }
    }

    /// Decides a frame's fate. True if it passes on at once; otherwise it is lost, or held in whole or in part.
    fn admit(&mut self, now: Instant, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        if self.plan.per == Per::Segment
            && vnet.is_gso()
            && let Some(segments) = self.segments(vnet, frame)
        {
            let vnet = VnetHdr::default();
            for segment in segments {
                if self.fate(now, &vnet, &[IoSlice::new(&segment)]) {
                    self.line.hold(Held::new(now, 0, vnet, segment));
                }
            }
            return false;
        }
        self.fate(now, vnet, frame)
    }

    /// The fate of what has only one. True if it passes on at once.
    fn fate(&mut self, now: Instant, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        self.tally.all += 1;
        if self.dice.happens(self.plan.loss) {
            self.tally.lost += 1;
            return false;
        }
        let due = now + self.plan.delay;
        let mut at_once = false;
        let doubled = self.dice.happens(self.plan.duplicate);
        self.tally.doubled += u64::from(doubled);
        for _ in 0..=u8::from(doubled) {
            let behind = if self.dice.happens(self.plan.reorder) {
                self.tally.late += 1;
                1 + u8::try_from(self.dice.below(MOST_BEHIND)).unwrap_or(0)
            } else {
                0
            };
            if self.dice.happens(self.plan.corrupt) && self.damage(due, behind, vnet, frame) {
                self.tally.damaged += 1;
                continue;
            }
            if behind == 0 && due <= now && !at_once {
                at_once = true;
            } else {
                let whole = frame.iter().flat_map(|p| p.iter().copied()).collect();
                self.line.hold(Held::new(due, behind, *vnet, whole));
            }
        }
        at_once
    }

    /// The frames that this one is on the wire, their checksums complete. `None` if it contradicts its header.
    fn segments(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> Option<Vec<Vec<u8>>> {
        self.whole.clear();
        for piece in frame {
            self.whole.extend_from_slice(piece);
        }
        let mut segments = Vec::new();
        let mut keep = |segment: &[u8]| segments.push(segment.to_vec());
        split::split(&self.whole, vnet, &mut self.cut, &mut keep).ok()?;
        Some(segments)
    }

    /// Holds a frame with one bit changed. False, and nothing is held, for a frame that no checksum protects.
    ///
    /// The damage must be found out where it arrives. A checksum that is still to be computed would be computed over
    /// the damage, so it is completed first, which takes cutting where the frame is a super-frame.
    fn damage(&mut self, due: Instant, behind: u8, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        let Some(mut segments) = self.segments(vnet, frame) else {
            return false;
        };
        let victim = self.dice.place(segments.len());
        let Some(segment) = segments.get_mut(victim) else {
            return false;
        };
        let Some(protected) = protected(segment) else {
            return false;
        };
        let bit = self.dice.place(protected.len() * 8);
        protected[bit / 8] ^= 1 << (bit % 8);
        for segment in segments {
            // Without flags the checksum is one to be verified.
            let held = Held::new(due, behind, VnetHdr::default(), segment);
            self.line.hold(held);
        }
        true
    }
}

/// The bytes of a frame that its L4 checksum covers, all of them: one changed bit always shows.
fn protected(frame: &mut [u8]) -> Option<&mut [u8]> {
    let packet = Packet::parse(frame).ok()?;
    let Kind::Ip(ip) = packet.kind else {
        return None;
    };
    let covered = match ip.proto {
        PROTO_TCP | PROTO_ICMP | PROTO_ICMPV6 => true,
        // All zeros say that there is none.
        PROTO_UDP => frame.get(ip.l4 + 6..ip.l4 + 8)? != [0, 0],
        _ => false,
    };
    // The checksum of a datagram in pieces is that of the whole.
    let covered = covered && ip.frag.is_none() && ip.l4 < ip.end;
    covered.then(|| frame.get_mut(ip.l4..ip.end)).flatten()
}

/// The wrapper.
pub struct Faulty {
    inner: Box<dyn Endpoint>,
    /// From the sandbox.
    up: Way,
    /// To the sandbox.
    down: Way,
}

impl Faulty {
    /// Puts a bad link before `inner`.
    #[must_use]
    pub fn new(inner: Box<dyn Endpoint>, plan: Impairment) -> Self {
        Self {
            inner,
            up: Way::new(plan, 0),
            down: Way::new(plan, 0x6a09_e667_f3bc_c908),
        }
    }

    /// Transmits what has been held long enough.
    fn release(&mut self, now: Instant) {
        while let Some(held) = self.down.line.pop(now) {
            // One that finds the queue full is lost like any other.
            let _lost = self.inner.tx(&held.vnet, &[IoSlice::new(&held.frame)]);
        }
    }
}

impl Drop for Faulty {
    /// Says what it has done.
    fn drop(&mut self) {
        for (name, way) in [("up", &self.up), ("down", &self.down)] {
            let Tally {
                all,
                lost,
                late,
                doubled,
                damaged,
            } = way.tally;
            let overflowed = way.line.overflowed();
            tracing::info!(
                "impaired {name}: {all} frames, {lost} lost, {late} late, {doubled} doubled, {damaged} damaged, {overflowed} too many to hold"
            );
        }
    }
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty")
            .field("plan", &self.up.plan)
            .finish_non_exhaustive()
    }
}

impl Endpoint for Faulty {
    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    fn fd(&self) -> Option<RawFd> {
        self.inner.fd()
    }

    fn lost(&mut self) -> u64 {
        self.inner.lost()
    }

    fn holds(&self) -> bool {
        true
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [&self.up.line, &self.down.line]
            .into_iter()
            .filter_map(Line::poll_timeout)
            .chain(self.inner.poll_timeout())
            .min()
    }

    /// Also transmits what is due. Errors: `Interrupted` after a frame that was lost or is held: more may wait.
    fn rx(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        let now = Instant::now();
        self.release(now);
        if let Some(held) = self.up.line.pop(now) {
            let room = buf
                .get_mut(..held.frame.len())
                .ok_or(io::ErrorKind::InvalidInput)?;
            room.copy_from_slice(&held.frame);
            return Ok(Received {
                vnet: held.vnet,
                start: 0,
                end: held.frame.len(),
            });
        }
        let got = self.inner.rx(buf)?;
        let frame = [IoSlice::new(&buf[got.start..got.end])];
        if !self.up.admit(now, &got.vnet, &frame) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.up.line.passed(now);
        Ok(got)
    }

    fn tx(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let now = Instant::now();
        self.release(now);
        let mut sent = Ok(());
        if self.down.admit(now, vnet, frame) {
            sent = self.inner.tx(vnet, frame);
            self.down.line.passed(now);
        }
        // What waited for this one to pass, and a second copy of it.
        self.release(now);
        sent
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
