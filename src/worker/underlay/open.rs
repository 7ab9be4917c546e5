//! Stage 1: One message of the underlay to frames: in the clear, sealed, bare.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use switch_core::addr::{PeerId, PortId, Vni};
use switch_core::tunnel::gather::Said;
use switch_core::tunnel::seal::{
    CONTROL, HEADER_LEN, OpenError, Opened, PARTIAL, TAG_LEN, receiver,
};
use switch_core::tunnel::{ecn, vxlan};
use switch_core::verdict::DropReason;
use switch_core::wire::vnet_hdr::VnetHdr;

use super::Origin;
use super::rx::{Session, SourceStats, Tables, Target};
use super::slow::What;
use crate::endpoint::udp::Incoming;

/// Bytes of a MAC, and of an Ethernet header.
const MAC: usize = 6;
const ETHERNET: usize = 2 * MAC + 2;

/// Where a message came from, and to which address of the host.
pub(super) type Ends = (SocketAddr, Option<IpAddr>);

/// The network and sender of the frames that are being gathered.
#[derive(Default)]
struct Here {
    found: Option<((Vni, Origin), Target)>,
    took: SourceStats,
}

impl Tables {
    /// Frames of VXLAN in the clear.
    pub(super) fn open_clear(
        &mut self,
        message: Incoming<'_>,
        each: &mut impl FnMut(u32, PortId, &VnetHdr, &[u8]),
    ) {
        let (bytes, segment) = (message.bytes, message.segment);
        let origin = Origin::Vxlan(message.from.ip());
        let mut here = Here::default();
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(at + segment);
            match vxlan::parse(&bytes[at..end]) {
                Some((vni, frame)) => {
                    let frame = end - frame.len()..end;
                    if self.is_at(bytes, &mut here, (vni, origin), each) {
                        self.take(bytes, &mut here, frame, (Said::Nothing, message.tos), each);
                    }
                }
                None => self.drops.count(DropReason::Malformed),
            }
            at = end;
        }
        self.leave(bytes, &mut here, each);
    }

    /// Frames of sealed datagrams. A datagram is opened to where its payload follows that of the one before.
    pub(super) fn open_sealed(
        &mut self,
        message: Incoming<'_>,
        each: &mut impl FnMut(u32, PortId, &VnetHdr, &[u8]),
    ) {
        let ends = (message.from, message.to);
        let (bytes, segment) = (message.bytes, message.segment);
        let mut here = Here::default();
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(at + segment);
            let Some(index) = receiver(&bytes[at..end]) else {
                self.hand_on(ends, What::Handshake, &bytes[at..end]);
                at = end;
                continue;
            };
            let Some(session) = self.sessions.get_mut(&index) else {
                self.drops.count(DropReason::NoKey);
                self.hand_stray(ends, &bytes[at..end]);
                at = end;
                continue;
            };
            let start = self.gather.cover(bytes, at);
            let opened = session.key.open(&mut bytes[start..end], at - start);
            let peer = session.peer;
            let moved = match opened {
                Ok(opened) => session.is_news(ends, opened),
                Err(_) => false,
            };
            at = end;
            if moved {
                self.tell_move(ends, peer, index);
            }
            let inner = opened.map_err(reason).and_then(|opened| {
                let plain = &bytes[start..start + opened.len];
                if opened.flags & CONTROL != 0 {
                    return Ok(None);
                }
                let (vni, _) = vxlan::parse(plain).ok_or(DropReason::Malformed)?;
                Ok(Some((vni, said(opened)?)))
            });
            match (inner, opened) {
                (Ok(Some((vni, said))), Ok(opened)) => {
                    let frame = start + vxlan::HEADER..start + opened.len;
                    if self.is_at(bytes, &mut here, (vni, Origin::Sealed(peer)), each) {
                        self.take(bytes, &mut here, frame, (said, message.tos), each);
                        continue;
                    }
                }
                (Ok(_), Ok(opened)) => {
                    let plain = start..start + opened.len;
                    self.hand_on(ends, What::Control(peer, index), &bytes[plain]);
                }
                (Err(reason), _) => {
                    self.drops.count(reason);
                    self.refused.entry(peer).or_default().count(reason);
                }
                (Ok(_), Err(_)) => {}
            }
            self.gather.uncover(bytes);
        }
        self.leave(bytes, &mut here, each);
    }

    /// Packets without a header: each gets one of nobody's MACs, for a switch that routes.
    pub(super) fn open_bare(
        &mut self,
        vni: Vni,
        message: &Incoming<'_>,
        each: &mut impl FnMut(u32, PortId, &VnetHdr, &[u8]),
    ) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let packets = || message.bytes.chunks(message.segment.max(1));
        for (packet, ethertype) in packets().filter_map(|p| Some((p, ethertype(p)?))) {
            scratch.extend_from_slice(&[0; 2 * MAC]);
            scratch.extend_from_slice(&ethertype);
            scratch.extend_from_slice(packet);
        }
        let mut here = Here::default();
        let key = (vni, Origin::Bare(message.from.ip()));
        let mut at = 0;
        for packet in packets() {
            if ethertype(packet).is_none() {
                self.drops.count(DropReason::Malformed);
                continue;
            }
            let frame = at..at + ETHERNET + packet.len();
            at = frame.end;
            if self.is_at(&mut scratch, &mut here, key, each) {
                let said = (Said::Nothing, message.tos);
                self.take(&mut scratch, &mut here, frame, said, each);
            }
        }
        self.leave(&mut scratch, &mut here, each);
        self.scratch = scratch;
    }

    /// Goes over to a network and sender, when it is not there already. False if the sender is no part of it.
    fn is_at(
        &mut self,
        bytes: &mut [u8],
        here: &mut Here,
        key: (Vni, Origin),
        each: &mut impl FnMut(u32, PortId, &VnetHdr, &[u8]),
    ) -> bool {
        if here.found.is_some_and(|(known, _)| known == key) {
            return true;
        }
        self.leave(bytes, here, each);
        here.found = self.sources.get(&key).map(|source| (key, source.target));
        if here.found.is_none() {
            self.drops.count(DropReason::UnknownVni);
        }
        here.found.is_some()
    }

    /// Takes a frame of the network that it is at.
    fn take(
        &mut self,
        bytes: &mut [u8],
        here: &mut Here,
        frame: Range<usize>,
        (said, tos): (Said, u8),
        each: &mut impl FnMut(u32, PortId, &VnetHdr, &[u8]),
    ) {
        let Some((_, target)) = here.found else {
            return;
        };
        if !ecn::inward(&mut bytes[frame.clone()], tos) {
            self.drops.count(DropReason::Congestion);
            self.gather.uncover(bytes);
            return;
        }
        here.took.frames += 1;
        here.took.bytes += frame.len() as u64;
        let mut each = |vnet: &VnetHdr, frame: &[u8]| each(target.net, target.port, vnet, frame);
        self.gather.push(bytes, frame, said, target.mtu, &mut each);
    }

    /// Gives what is left of the frames of one network.
    fn leave(
        &mut self,
        bytes: &mut [u8],
        here: &mut Here,
        each: &mut impl FnMut(u32, PortId, &VnetHdr, &[u8]),
    ) {
        let Some((key, target)) = here.found.take() else {
            return;
        };
        self.gather.end(bytes, &mut |vnet, frame| {
            each(target.net, target.port, vnet, frame);
        });
        let took = std::mem::take(&mut here.took);
        if let Some(source) = self.sources.get_mut(&key) {
            source.stats.frames += took.frames;
            source.stats.bytes += took.bytes;
        }
    }

    /// Tells of a datagram of a session that is not: its sender may not know yet that it is over.
    fn hand_stray(&self, ends: Ends, bytes: &[u8]) {
        if let (Some(slow), Some(head)) = (&self.slow, bytes.get(..HEADER_LEN + TAG_LEN)) {
            slow.push_stray(ends, head);
        }
    }

    /// Tells by which way a peer's newest datagram came. Where there is no room for that, the next one tells.
    fn tell_move(&mut self, ends: Ends, peer: PeerId, index: u32) {
        if self.hand_on(ends, What::Moved(peer, index), &[])
            && let Some(session) = self.sessions.get_mut(&index)
        {
            session.ends = ends;
        }
    }

    /// False where there is no room, which is counted.
    fn hand_on(&mut self, ends: Ends, what: What, bytes: &[u8]) -> bool {
        let slow = self.slow.as_ref();
        let told = slow.is_some_and(|slow| slow.push(ends, what, bytes));
        if !told {
            self.drops.count(DropReason::TableFull);
        }
        told
    }
}

impl Session {
    /// True if the peer's newest datagram came by another way than the one before, or none came before.
    fn is_news(&self, ends: Ends, opened: Opened) -> bool {
        opened.newest && (self.ends != ends || opened.first)
    }
}

/// What a peer says about a frame's checksum. Errors: it makes no sense.
fn said(opened: Opened) -> Result<Said, DropReason> {
    if opened.flags & PARTIAL == 0 {
        return Ok(Said::Nothing);
    }
    let (start, field) = opened.csum;
    let offset = field.checked_sub(start).ok_or(DropReason::Malformed)?;
    Ok(Said::Partial(start.into(), offset.into()))
}

/// Why a datagram was not opened, in the words of the switch.
fn reason(error: OpenError) -> DropReason {
    match error {
        OpenError::Short | OpenError::Header => DropReason::Malformed,
        OpenError::Index | OpenError::Exhausted => DropReason::NoKey,
        OpenError::Replayed | OpenError::Old => DropReason::Replayed,
        OpenError::Forged => DropReason::Forged,
    }
}

/// The EtherType for a packet of IP.
fn ethertype(packet: &[u8]) -> Option<[u8; 2]> {
    match packet.first()? >> 4 {
        4 => Some([0x08, 0x00]),
        6 => Some([0x86, 0xdd]),
        _ => None,
    }
}
