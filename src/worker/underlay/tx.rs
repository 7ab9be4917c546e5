//! Stages 7 and 8: Frames to other hosts. A super-frame is cut and leaves at once, by one call; small frames wait for the
//! end of the batch.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use arrayvec::ArrayVec;
use switch_core::addr::PortId;
use switch_core::tunnel::cut::{Cut, MAX_HEADERS, Walk};
use switch_core::tunnel::{ecn, entropy, vxlan};
use switch_core::verdict::{DropReason, Drops};
use switch_core::wire::checksum::complete_partial;
use switch_core::wire::vnet_hdr::VnetHdr;

use super::Way;
use super::kept::{Kept, Open, To};
use crate::endpoint::udp::{MAX_SEGMENTS, MAX_SEND, Name, Outgoing, UnderlaySocket};

/// Source ports for entropy, of each family.
const SOURCES: usize = 4;
/// Headers of a segment, with what leads them.
const HEAD: usize = (vxlan::HEADER + MAX_HEADERS).next_multiple_of(8);
/// Pieces of a run: headers and payload of each segment; and each end of a piece of the frame may cut a payload in two.
const PIECES: usize = 2 * MAX_SEGMENTS + 66;

/// What went to one network of one other host, by this worker.
#[derive(Debug, Clone, Copy, Default)]
pub struct LaneStats {
    /// Frames; a super-frame counts as one.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Frames that did not go.
    pub failed: u64,
}

/// One network of one other host.
#[derive(Debug)]
struct Lane {
    net: u32,
    way: Way,
    name: Name,
    open: [Open; SOURCES],
    stats: LaneStats,
}

/// The sockets that one worker sends from.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For VXLAN in the clear, of IPv4 and IPv6: some with ports of their own for entropy, or the service's one. At most
    /// four of each are used.
    pub vxlan: [Vec<UnderlaySocket>; 2],
    /// For bare packets, of IPv4 and IPv6.
    pub bare: [Option<UnderlaySocket>; 2],
}

/// The sending side of the underlay on one worker.
#[derive(Debug)]
pub struct UnderlayTx {
    sockets: Vec<UnderlaySocket>,
    /// Places in `sockets`: of VXLAN of IPv4 and IPv6 (first, count), of bare packets.
    vxlan: [(u8, u8); 2],
    bare: [Option<u8>; 2],
    lanes: Vec<Option<Box<Lane>>>,
    heads: Box<[[u8; HEAD]; MAX_SEGMENTS]>,
    kept: Kept,
    drops: Drops,
}

impl UnderlayTx {
    /// A side that knows no way yet.
    #[must_use]
    pub fn new(sockets: Sockets) -> Self {
        let mut all = Vec::new();
        let place = |all: &Vec<UnderlaySocket>| u8::try_from(all.len()).unwrap_or(u8::MAX);
        let vxlan = sockets.vxlan.map(|mut some| {
            some.truncate(SOURCES);
            let range = (place(&all), u8::try_from(some.len()).unwrap_or(0));
            all.extend(some);
            range
        });
        let bare = sockets.bare.map(|one| {
            let at = place(&all);
            one.map(|socket| {
                all.push(socket);
                at
            })
        });
        Self {
            sockets: all,
            vxlan,
            bare,
            lanes: Vec::new(),
            heads: Box::new([[0; HEAD]; MAX_SEGMENTS]),
            kept: Kept::new(),
            drops: Drops::default(),
        }
    }

    /// Sets where frames for a port go; `net` is the place of its network.
    pub fn set_way(&mut self, port: PortId, net: u32, way: Way) {
        let Some(at) = port.remote_index().map(|n| n as usize) else {
            return;
        };
        let name = match way {
            Way::Vxlan { to, .. } | Way::Bare { to } => Name::from(to),
            // Where a peer is, is known with its key.
            Way::Sealed { .. } => Name::from(SocketAddr::from(([0; 4], 0))),
        };
        if self.lanes.len() <= at {
            self.lanes.resize_with(at + 1, || None);
        }
        let stats = self.lanes[at].take().map(|lane| lane.stats);
        self.lanes[at] = Some(Box::new(Lane {
            net,
            way,
            name,
            open: Default::default(),
            stats: stats.unwrap_or_default(),
        }));
    }

    /// Forgets the way of a port.
    pub fn remove_way(&mut self, port: PortId) {
        if let Some(lane) = lane_of(port).and_then(|at| self.lanes.get_mut(at)) {
            *lane = None;
        }
    }

    /// What went by a port.
    #[must_use]
    pub fn stats(&self, port: PortId) -> Option<LaneStats> {
        let lane = self.lanes.get(lane_of(port)?)?.as_ref()?;
        Some(lane.stats)
    }

    /// Frames that did not go, by reason.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Sends a frame of a network to the other host behind a port. False if it did not go; one that waits for
    /// [`Self::flush`] may still not.
    /// Shape: `frame` starts at the Ethernet header; at most 66 pieces.
    pub fn send(&mut self, net: u32, port: PortId, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> bool {
        let lane = lane_of(port).and_then(|at| self.lanes.get(at)?.as_ref());
        if lane.is_none_or(|lane| lane.net != net) {
            self.drops.count(DropReason::NoFlow);
            return false;
        }
        let len = frame.iter().map(|piece| piece.len()).sum();
        let mut scratch = [0; MAX_HEADERS];
        let head = front(frame, &mut scratch);
        let sent = self.dispatch(port, vnet, head, len, frame);
        if let Some(lane) = lane_of(port).and_then(|at| self.lanes.get_mut(at)?.as_mut()) {
            match sent {
                Ok(()) => {
                    lane.stats.frames += 1;
                    lane.stats.bytes += len as u64;
                }
                Err(reason) => {
                    lane.stats.failed += 1;
                    self.drops.count(reason);
                }
            }
        }
        sent.is_ok()
    }

    fn dispatch(
        &mut self,
        port: PortId,
        vnet: &VnetHdr,
        head: &[u8],
        len: usize,
        frame: &[IoSlice<'_>],
    ) -> Result<(), DropReason> {
        let lost = DropReason::NoFlow;
        let at = lane_of(port).ok_or(lost)?;
        let lane = self.lanes.get(at).and_then(Option::as_ref).ok_or(lost)?;
        if matches!(lane.way, Way::Bare { .. }) && !is_ip(head) {
            return Err(DropReason::UnknownProtocol);
        }
        if vnet.is_gso() {
            let cut = Cut::new(head, len, vnet)?;
            // In the order in which they came: what waits goes first.
            if lane.open.iter().any(|&open| self.kept.holds(open)) {
                self.flush();
            }
            return self.send_run(at, &cut, head, frame);
        }
        if self.kept.is_full(HEAD + len) {
            self.flush();
        }
        self.keep(at, vnet, head, len, frame)
    }

    /// The socket for a lane, and which of the lane's runs are sent by it.
    fn socket(&self, lane: &Lane, head: &[u8]) -> Result<(u8, usize), DropReason> {
        let family = usize::from(lane.name.is_v6());
        let chosen = match lane.way {
            Way::Vxlan { .. } => {
                let (first, count) = self.vxlan[family];
                let hash = entropy::of_flow(head);
                // The upper bits of the product: evenly spread over the sockets.
                let chosen = (u64::from(hash) * u64::from(count)) >> 32;
                let chosen = u8::try_from(chosen).unwrap_or(0);
                (count > 0).then_some((first + chosen, usize::from(chosen)))
            }
            Way::Bare { .. } => self.bare[family].map(|at| (at, 0)),
            Way::Sealed { .. } => return Err(DropReason::NoKey),
        };
        chosen.ok_or(DropReason::HostError)
    }

    /// Cuts a super-frame and sends it.
    fn send_run(
        &mut self,
        at: usize,
        cut: &Cut,
        head: &[u8],
        frame: &[IoSlice<'_>],
    ) -> Result<(), DropReason> {
        let lane = self
            .lanes
            .get(at)
            .and_then(Option::as_ref)
            .ok_or(DropReason::NoFlow)?;
        let (place, _) = self.socket(lane, head)?;
        let (lead, skip) = lead(lane.way);
        let lead = lead.as_slice();
        let socket = self
            .sockets
            .get_mut(usize::from(place))
            .ok_or(DropReason::HostError)?;
        let each = lead.len() + cut.headers() + cut.size() - skip;
        let mut walk = Walk::new(frame);
        walk.take(cut.headers(), |_| {});
        let mut index = 0;
        while index < cut.count() {
            let most = if socket.segments() {
                (MAX_SEND / each).clamp(1, MAX_SEGMENTS)
            } else {
                1
            };
            let upto = cut.count().min(index + most);
            let before = walk.clone();
            let mut pieces: ArrayVec<IoSlice<'_>, PIECES> = ArrayVec::new();
            for (n, room) in (index..upto).zip(self.heads.iter_mut()) {
                let place = pieces.len();
                let mut full = pieces.try_push(IoSlice::new(&[])).is_err();
                let payload = cut.payload(n).len();
                let sum = walk.take_summed(payload, |part| {
                    full |= pieces.try_push(IoSlice::new(part)).is_err();
                });
                if full {
                    return Err(DropReason::BadOffload);
                }
                room[..lead.len()].copy_from_slice(lead);
                cut.write(
                    head,
                    n,
                    Some(sum.ok_or(DropReason::Truncated)?),
                    &mut room[lead.len()..],
                )?;
                pieces[place] = IoSlice::new(&room[skip..lead.len() + cut.headers()]);
            }
            let segment = if upto - index > 1 { each } else { 0 };
            let out = Outgoing {
                to: &lane.name,
                tos: ecn::outward(cut.tos()),
                segment: u16::try_from(segment).map_err(|_| DropReason::TooBig)?,
                pieces: &pieces,
            };
            match socket.send(&out) {
                Ok(()) => index = upto,
                // Once more, each for itself.
                Err(e) if e.kind() == io::ErrorKind::Unsupported => walk = before,
                Err(e) => return Err(reason(&e)),
            }
        }
        Ok(())
    }

    /// Puts a frame with those that wait.
    fn keep(
        &mut self,
        at: usize,
        vnet: &VnetHdr,
        head: &[u8],
        len: usize,
        frame: &[IoSlice<'_>],
    ) -> Result<(), DropReason> {
        let lane = self
            .lanes
            .get(at)
            .and_then(Option::as_ref)
            .ok_or(DropReason::NoFlow)?;
        let (place, slot) = self.socket(lane, head)?;
        let (lead, skip) = lead(lane.way);
        if lead.len() + len > MAX_SEND {
            return Err(DropReason::TooBig);
        }
        let room = self.kept.room();
        let start = room.len();
        room.extend_from_slice(&lead);
        let mut left = skip;
        for piece in frame {
            let skipped = left.min(piece.len());
            left -= skipped;
            room.extend_from_slice(&piece[skipped..]);
        }
        if vnet.needs_csum() {
            let moved = VnetHdr {
                csum_start: vnet
                    .csum_start
                    .saturating_sub(u16::try_from(skip).unwrap_or(0)),
                ..*vnet
            };
            if let Err(reason) = complete_partial(&mut room[start + lead.len()..], &moved) {
                room.truncate(start);
                return Err(reason);
            }
        }
        let segments = self
            .sockets
            .get(usize::from(place))
            .is_some_and(UnderlaySocket::segments);
        let to = To {
            name: lane.name,
            socket: place,
            tos: ecn::outward(ecn::tos_of(head)),
            segments,
        };
        if let Some(lane) = self.lanes.get_mut(at).and_then(Option::as_mut) {
            self.kept.add(start, &to, &mut lane.open[slot]);
        }
        Ok(())
    }

    /// Sends what waits. To be called at the end of a batch.
    pub fn flush(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        let drops = &mut self.drops;
        self.kept.flush(&mut self.sockets, |count, e| {
            drops.count_many(reason(e), count);
        });
    }
}

fn lane_of(port: PortId) -> Option<usize> {
    port.remote_index().map(|n| n as usize)
}

/// What leads each frame, and how many bytes of the frame itself are left out.
fn lead(way: Way) -> (ArrayVec<u8, { vxlan::HEADER }>, usize) {
    match way {
        Way::Vxlan { vni, .. } | Way::Sealed { vni, .. } => (vxlan::header(vni).into(), 0),
        Way::Bare { .. } => (ArrayVec::new(), 14),
    }
}

fn is_ip(head: &[u8]) -> bool {
    matches!(head.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]))
}

/// The first bytes of a frame, with all headers that are looked at.
fn front<'a>(frame: &'a [IoSlice<'_>], scratch: &'a mut [u8; MAX_HEADERS]) -> &'a [u8] {
    match frame {
        [] => &[],
        [whole] => whole,
        [first, ..] if first.len() >= MAX_HEADERS => first,
        _ => {
            let bytes = frame.iter().flat_map(|piece| piece.iter());
            let mut len = 0;
            for (to, from) in scratch.iter_mut().zip(bytes) {
                *to = *from;
                len += 1;
            }
            &scratch[..len]
        }
    }
}

/// Why the kernel did not send, in the words of the switch.
fn reason(e: &io::Error) -> DropReason {
    match e.raw_os_error() {
        // EINVAL is a segment that is larger than the link's MTU, on older kernels.
        Some(libc::EMSGSIZE | libc::EINVAL) => DropReason::TooBig,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => DropReason::HostExhausted,
        _ => DropReason::HostError,
    }
}
