//! Stage 1: Frames from other hosts. Datagrams that came together are taken apart, and neighbours of one flow made one
//! super-frame, in the buffer that they came in.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::io;

use ahash::RandomState;
use switch_core::addr::{PortId, Vni};
use switch_core::tunnel::gather::{Gather, Said};
use switch_core::tunnel::{ecn, vxlan};
use switch_core::verdict::{DropReason, Drops};
use switch_core::wire::vnet_hdr::VnetHdr;

use super::Origin;
use crate::endpoint::udp::{BATCH, Inbox, Incoming, UnderlaySocket};
use crate::worker::budget::Turn;

/// Above so many bytes a message, few are taken at once: they are to be still in the cache when they are sent on.
const LARGE: usize = 8 * 1024;

/// Where frames go, and as whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The port that stands for the other host.
    pub port: PortId,
    /// The place of the network.
    pub net: u32,
    /// The network's MTU.
    pub mtu: u16,
}

/// What came for one network from one other host, by this worker.
#[derive(Debug, Clone, Copy, Default)]
pub struct SourceStats {
    /// Frames, as datagrams brought them.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    target: Target,
    stats: SourceStats,
}

/// The receiving side of the underlay on one worker.
#[derive(Debug)]
pub struct UnderlayRx {
    inbox: Inbox,
    /// What the last batch was like: how many messages the next one takes.
    most: usize,
    sources: HashMap<(Vni, Origin), Source, RandomState>,
    gather: Gather,
    drops: Drops,
}

impl Default for UnderlayRx {
    fn default() -> Self {
        Self {
            inbox: Inbox::default(),
            most: BATCH,
            sources: HashMap::with_hasher(random()),
            gather: Gather::default(),
            drops: Drops::default(),
        }
    }
}

/// A hash that no sender can guess.
fn random() -> RandomState {
    let seed = || std::hash::RandomState::new().hash_one(0);
    RandomState::with_seeds(seed(), seed(), seed(), seed())
}

impl UnderlayRx {
    /// Takes frames of `vni` from another host from now on.
    pub fn accept(&mut self, vni: Vni, from: Origin, target: Target) {
        let stats = self.stats(vni, from).unwrap_or_default();
        self.sources.insert((vni, from), Source { target, stats });
    }

    /// Takes no more of them.
    pub fn refuse(&mut self, vni: Vni, from: Origin) {
        self.sources.remove(&(vni, from));
    }

    /// What came for a network from another host.
    #[must_use]
    pub fn stats(&self, vni: Vni, from: Origin) -> Option<SourceStats> {
        self.sources.get(&(vni, from)).map(|source| source.stats)
    }

    /// Datagrams that were not taken, by reason.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Receives what waits at a socket for VXLAN in the clear, as much as a turn allows, and gives each frame to `each`:
    /// with the place of its network and the port that it came by. True if there may be more.
    /// Errors: those of recvmmsg(2).
    pub fn turn(
        &mut self,
        socket: &UnderlaySocket,
        each: &mut impl FnMut(u32, PortId, &VnetHdr, &[u8]),
    ) -> io::Result<bool> {
        let mut turn = Turn::default();
        while !turn.over() {
            let count = match self.inbox.recv(socket, self.most) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
                Err(e) => return Err(e),
            };
            let mut bytes = 0;
            for i in 0..count {
                let Some(message) = self.inbox.get(i) else {
                    continue;
                };
                bytes += message.bytes.len();
                turn.spend(message.bytes.len());
                let mut clear = Clear {
                    sources: &mut self.sources,
                    gather: &mut self.gather,
                    drops: &mut self.drops,
                };
                clear.open(message, each);
            }
            let asked = self.most;
            self.most = if bytes / count.max(1) > LARGE {
                2
            } else {
                BATCH
            };
            if count < asked {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What a message in the clear is opened with.
struct Clear<'a> {
    sources: &'a mut HashMap<(Vni, Origin), Source, RandomState>,
    gather: &'a mut Gather,
    drops: &'a mut Drops,
}

impl Clear<'_> {
    fn open(&mut self, message: Incoming<'_>, each: &mut impl FnMut(u32, PortId, &VnetHdr, &[u8])) {
        let Incoming {
            from,
            tos,
            segment,
            bytes,
        } = message;
        let origin = Origin::Vxlan(from.ip());
        let mut at = 0;
        let mut here: Option<(Vni, Target)> = None;
        let mut took = SourceStats::default();
        while at < bytes.len() {
            let end = bytes.len().min(at + segment);
            let Some((vni, frame)) = vxlan::parse(&bytes[at..end]) else {
                self.drops.count(DropReason::Malformed);
                at = end;
                continue;
            };
            let frame = end - frame.len()..end;
            at = end;
            if here.is_none_or(|(known, _)| known != vni) {
                self.end(bytes, (origin, here.take()), &mut took, each);
                let Some(source) = self.sources.get(&(vni, origin)) else {
                    self.drops.count(DropReason::UnknownVni);
                    continue;
                };
                here = Some((vni, source.target));
            }
            let Some((_, target)) = here else { continue };
            if !ecn::inward(&mut bytes[frame.clone()], tos) {
                self.drops.count(DropReason::Congestion);
                continue;
            }
            took.frames += 1;
            took.bytes += frame.len() as u64;
            self.gather.push(
                bytes,
                frame,
                Said::Nothing,
                target.mtu,
                &mut |vnet, frame| {
                    each(target.net, target.port, vnet, frame);
                },
            );
        }
        self.end(bytes, (origin, here), &mut took, each);
    }

    /// Gives what is left of the frames of one network.
    fn end(
        &mut self,
        bytes: &mut [u8],
        (origin, here): (Origin, Option<(Vni, Target)>),
        took: &mut SourceStats,
        each: &mut impl FnMut(u32, PortId, &VnetHdr, &[u8]),
    ) {
        let Some((vni, target)) = here else { return };
        self.gather.end(bytes, &mut |vnet, frame| {
            each(target.net, target.port, vnet, frame);
        });
        let took = std::mem::take(took);
        if let Some(source) = self.sources.get_mut(&(vni, origin)) {
            source.stats.frames += took.frames;
            source.stats.bytes += took.bytes;
        }
    }
}
