//! The wire between guest and switch, with faults both ways.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use switch_core::gso::split;
use switch_core::wire::checksum::complete_partial;
use switch_core::wire::vnet_hdr::VnetHdr;

/// What may happen to a frame, in percent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// It is lost.
    pub(crate) loss: u64,
    /// It arrives after some that were sent later.
    pub(crate) reorder: u64,
    /// It arrives twice.
    pub(crate) double: u64,
}

/// Small deterministic random numbers. Source: Vigna, splitmix64.
#[derive(Debug)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// Frames under way.
#[derive(Debug)]
pub(crate) struct Wire {
    random: Random,
    faults: Faults,
    in_guest: VecDeque<Vec<u8>>,
    out_guest: VecDeque<Vec<u8>>,
    /// Held back by reordering: to the guest, from the guest.
    held: [Vec<Vec<u8>>; 2],
}

impl Wire {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            random: Random(seed ^ 0xabcdef),
            faults,
            in_guest: VecDeque::new(),
            out_guest: VecDeque::new(),
            held: [Vec::new(), Vec::new()],
        }
    }

    fn spoil(&mut self, way: usize, frame: Vec<u8>, out: &mut Vec<Vec<u8>>) {
        if self.random.chance(self.faults.loss) {
            return;
        }
        if self.random.chance(self.faults.double) {
            out.push(frame.clone());
        }
        if self.random.chance(self.faults.reorder) {
            self.held[way].push(frame);
        } else {
            out.push(frame);
        }
        if self.random.chance(30) {
            out.append(&mut self.held[way]);
        }
    }

    /// What the guest has sent, as it arrives.
    pub(crate) fn from_guest(&mut self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while let Some(frame) = self.out_guest.pop_front() {
            self.spoil(1, frame, &mut out);
        }
        if self.random.chance(30) {
            out.append(&mut self.held[1]);
        }
        out
    }

    /// Brings the switch's frames to the guest, cut and with whole checksums, as its kernel would have them.
    pub(crate) fn to_guest(&mut self, frames: &mut Vec<(VnetHdr, Vec<u8>)>) {
        let mut out = Vec::new();
        let mut scratch = Vec::new();
        for (vnet, mut frame) in frames.drain(..) {
            if vnet.is_gso() {
                let mut segments = Vec::new();
                split::split(&frame, &vnet, &mut scratch, &mut |s: &[u8]| {
                    segments.push(s.to_vec());
                })
                .unwrap();
                segments
                    .into_iter()
                    .for_each(|s| self.spoil(0, s, &mut out));
            } else {
                complete_partial(&mut frame, &vnet).unwrap();
                self.spoil(0, frame, &mut out);
            }
        }
        if self.random.chance(30) {
            out.append(&mut self.held[0]);
        }
        self.in_guest.extend(out);
    }
}

pub(crate) struct Rx(Vec<u8>);
pub(crate) struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let r = f(&mut frame);
        self.0.push_back(frame);
        r
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.in_guest.pop_front()?;
        Some((Rx(frame), Tx(&mut self.out_guest)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.out_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = 1514;
        caps
    }
}
