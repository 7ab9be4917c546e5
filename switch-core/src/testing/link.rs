//! A link, one way, that loses, delays, reorders, doubles and spoils frames as its seed says.

use core::time::Duration;
use std::collections::BTreeMap;

use super::Random;
use crate::time::Tick;
use crate::wire::vnet_hdr::VnetHdr;

/// What a link does to frames. Chances are in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// It is lost.
    pub loss: u8,
    /// It arrives after some that were sent later.
    pub reorder: u8,
    /// It arrives twice.
    pub double: u8,
    /// A bit behind the Ethernet header arrives wrong.
    pub corrupt: u8,
    /// How long each takes.
    pub delay: Duration,
    /// Bits per second; zero for endless.
    pub rate: u64,
    /// Frames that would wait longer for their turn are lost.
    pub queue: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss: 0,
            reorder: 0,
            double: 0,
            corrupt: 0,
            delay: Duration::from_micros(50),
            rate: 0,
            queue: Duration::from_millis(50),
        }
    }
}

impl Faults {
    /// Something of everything.
    #[must_use]
    pub fn some() -> Self {
        Self {
            loss: 3,
            reorder: 5,
            double: 2,
            corrupt: 1,
            ..Self::default()
        }
    }
}

/// A frame with what its sender said about it.
pub type Offered = (VnetHdr, Vec<u8>);

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    random: Random,
    faults: Faults,
    free_at: Tick,
    sent: u64,
    under_way: BTreeMap<(Tick, u64), Offered>,
    /// Frames that faults took, and that they spoiled.
    pub lost: u64,
    /// Frames of which a bit was turned.
    pub spoiled: u64,
}

impl Link {
    /// A link with nothing under way.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            random: Random(seed),
            faults,
            free_at: Tick::ZERO,
            sent: 0,
            under_way: BTreeMap::new(),
            lost: 0,
            spoiled: 0,
        }
    }

    /// Changes what it does to frames from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Sends a frame.
    pub fn push(&mut self, now: Tick, vnet: VnetHdr, mut frame: Vec<u8>) {
        let f = self.faults;
        let start = self.free_at.max(now);
        if self.random.chance(f.loss) || start.since(now) > f.queue {
            self.lost += 1;
            return;
        }
        let bits = frame.len() as u64 * 8;
        let taken = bits.saturating_mul(1_000_000_000).checked_div(f.rate);
        self.free_at = start + Duration::from_nanos(taken.unwrap_or(0));
        if self.random.chance(f.corrupt) {
            self.spoil(&vnet, &mut frame);
        }
        let mut at = self.free_at + f.delay;
        if self.random.chance(f.double) {
            self.send(at + f.delay, (vnet, frame.clone()));
        }
        if self.random.chance(f.reorder) {
            at = at + Duration::from_micros(1 + self.random.below(2_000));
        }
        self.send(at, (vnet, frame));
    }

    fn send(&mut self, at: Tick, offered: Offered) {
        self.sent += 1;
        self.under_way.insert((at, self.sent), offered);
    }

    /// Turns one bit of an IP packet. ARP has no checksum, and what never was on a wire needs none.
    fn spoil(&mut self, vnet: &VnetHdr, frame: &mut [u8]) {
        let ip = matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        if ip && !vnet.csum_trusted() && !vnet.is_gso() {
            let place = 14 + self.random.below(frame.len() as u64 - 14) as usize;
            frame[place] ^= 1 << self.random.below(8);
            self.spoiled += 1;
        }
    }

    /// What has arrived by now, in order.
    pub fn arrived(&mut self, now: Tick) -> Vec<Offered> {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let later = self.under_way.split_off(&(now, u64::MAX));
        core::mem::replace(&mut self.under_way, later)
            .into_values()
            .collect()
    }

    /// When the next frame arrives.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.under_way.keys().next().map(|&(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(faults: Faults, count: u8) -> Vec<u8> {
        let mut link = Link::new(7, faults);
        for n in 0..count {
            let now = Tick::from_nanos(u64::from(n) * 10_000);
            link.push(now, VnetHdr::default(), vec![n; 60]);
        }
        let arrived = link.arrived(Tick::from_millis(1_000));
        arrived.iter().map(|(_, frame)| frame[0]).collect()
    }

    #[test]
    fn a_link_without_faults_keeps_all_in_order() {
        assert!(sent(Faults::default(), 200).into_iter().eq(0..200));
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let base = Faults::default();
        let lossy = sent(Faults { loss: 20, ..base }, 200);
        assert!((130..190).contains(&lossy.len()) && lossy.is_sorted());
        let double = sent(Faults { double: 20, ..base }, 200);
        assert!((220..270).contains(&double.len()));
        let mut moved = sent(
            Faults {
                reorder: 20,
                ..base
            },
            200,
        );
        assert!(!moved.is_sorted());
        moved.sort_unstable();
        assert!(moved.into_iter().eq(0..200));
    }

    #[test]
    fn a_rate_spaces_frames_and_a_full_queue_loses_them() {
        let rate = Faults {
            rate: 480_000,
            queue: Duration::from_millis(5),
            ..Faults::default()
        };
        let mut link = Link::new(1, rate);
        for n in 0..20 {
            link.push(Tick::ZERO, VnetHdr::default(), vec![n; 60]);
        }
        // A millisecond each: six find a place.
        assert_eq!(link.arrived(Tick::from_millis(2)).len(), 1);
        assert_eq!(link.arrived(Tick::from_millis(50)).len(), 5);
        assert_eq!(link.lost, 14);
    }
}
