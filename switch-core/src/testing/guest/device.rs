//! The guest's network card: queues both ways, and the merging of what leaves, as a kernel with TSO hands it over.

use std::collections::VecDeque;

use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use super::probe::Fins;
use crate::gso::merge::Run;
use crate::testing::link::Offered;
use crate::wire::packet::Packet;
use crate::wire::vnet_hdr::{DATA_VALID, VnetHdr};

#[derive(Debug)]
pub(super) struct Card {
    pub(super) mtu: u16,
    pub(super) arrived: VecDeque<Vec<u8>>,
    pub(super) leaving: VecDeque<Vec<u8>>,
    fins: Fins,
}

impl Card {
    pub(super) fn new(mtu: u16) -> Self {
        Self {
            mtu,
            arrived: VecDeque::new(),
            leaving: VecDeque::new(),
            fins: Fins::default(),
        }
    }

    /// Takes what leaves, each frame as it is.
    pub(super) fn plain(&mut self) -> Vec<Offered> {
        self.correct();
        let frames = self.leaving.drain(..);
        frames.map(|f| (VnetHdr::default(), f)).collect()
    }

    /// Takes what leaves, neighbours of one flow as super-frames.
    pub(super) fn merged(&mut self) -> Vec<Offered> {
        self.correct();
        let vnet = VnetHdr {
            flags: DATA_VALID,
            ..VnetHdr::default()
        };
        let mut out = Vec::new();
        let mut run: Option<(Run, Vec<u8>, Vec<u8>)> = None;
        for frame in self.leaving.drain(..) {
            let Ok(packet) = Packet::parse(&frame) else {
                finish(run.take(), &mut out);
                out.push((VnetHdr::default(), frame));
                continue;
            };
            if let Some((run, payload, _)) = &mut run
                && let Some(more) = run.add(&frame, &packet, &vnet)
            {
                payload.extend_from_slice(&frame[more]);
                continue;
            }
            finish(run.take(), &mut out);
            match Run::start(&frame, &packet, &vnet) {
                Some(first) => {
                    let payload = frame[first.first_payload()].to_vec();
                    run = Some((first, payload, frame));
                }
                None => out.push((VnetHdr::default(), frame)),
            }
        }
        finish(run.take(), &mut out);
        out
    }

    fn correct(&mut self) {
        for frame in &mut self.leaving {
            self.fins.correct(frame);
        }
    }
}

fn finish(run: Option<(Run, Vec<u8>, Vec<u8>)>, out: &mut Vec<Offered>) {
    let Some((mut run, payload, first)) = run else {
        return;
    };
    if run.frames() == 1 {
        out.push((VnetHdr::default(), first));
    } else {
        let (vnet, headers) = run.finish();
        out.push((vnet, [headers, &payload].concat()));
    }
}

pub(super) struct Rx(Vec<u8>);
pub(super) struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl phy::Device for Card {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.arrived.pop_front()?;
        Some((Rx(frame), Tx(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = usize::from(self.mtu) + 14;
        caps
    }
}
