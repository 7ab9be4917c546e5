//! Stages 7 and 8: Frames to other hosts. A super-frame is cut and leaves at once, by one call; small frames wait for the
//! end of the batch.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use switch_core::addr::{PeerId, PortId, Vni};
use switch_core::tunnel::cut::{Cut, MAX_HEADERS};
use switch_core::tunnel::seal::{HEADER_LEN, SendKey, TAG_LEN};
use switch_core::tunnel::{ecn, entropy, vxlan};
use switch_core::verdict::{DropReason, Drops};
use switch_core::wire::checksum::complete_partial;
use switch_core::wire::vnet_hdr::VnetHdr;

use super::Way;
use super::kept::{Kept, Open, To};
use super::run::{self, ETHERNET, HEAD, Heads, Whole, front, is_ip, lead, reason, seal_small};
use super::slow::Slow;
use crate::endpoint::udp::{MAX_SEND, Name, UnderlaySocket};

/// Source ports for entropy, of each family.
const SOURCES: usize = 4;
/// Ports that are remembered until somebody asks by which something was too large.
const REFUSED: usize = 16;

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

/// A way that does not take what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The place of the network.
    pub net: u32,
    /// The port that stands for the other host.
    pub port: PortId,
    /// The way there.
    pub way: Way,
}

/// One network of one other host.
#[derive(Debug)]
struct Lane {
    port: PortId,
    net: u32,
    way: Way,
    /// Where to; of a peer, what is known with its key.
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
    /// For sealed datagrams, of IPv4 and IPv6: those that peers send to, for a NAT on the way.
    pub sealed: [Option<UnderlaySocket>; 2],
}

/// A peer that frames can be sealed for.
#[derive(Debug)]
struct Peer {
    key: Arc<SendKey>,
    name: Name,
}

/// How a frame leaves.
#[derive(Debug, Clone, Copy)]
struct Route {
    name: Name,
    /// The place of the socket.
    socket: u8,
    /// Which of the lane's runs are sent by it.
    slot: usize,
}

/// The sending side of the underlay on one worker.
#[derive(Debug)]
pub struct UnderlayTx {
    sockets: Vec<Option<UnderlaySocket>>,
    /// Places in `sockets`: of VXLAN of IPv4 and IPv6 (first, count), of each network's bare packets.
    vxlan: [(u8, u8); 2],
    bare: Vec<(Vni, [Option<u8>; 2])>,
    sealed: [Option<u8>; 2],
    peers: Vec<Option<Peer>>,
    lanes: Vec<Option<Box<Lane>>>,
    heads: Heads,
    /// Where a run is put together that does not leave in pieces.
    arena: Vec<u8>,
    kept: Kept,
    drops: Drops,
    /// Who keeps the sessions with peers.
    slow: Option<Slow>,
    /// Ports by which something was too large for the path; not all, where they are many.
    refused: ArrayVec<PortId, REFUSED>,
}

impl UnderlayTx {
    /// A side that knows no way yet.
    #[must_use]
    pub fn new(sockets: Sockets) -> Self {
        let mut all = Vec::new();
        let place = |all: &Vec<Option<UnderlaySocket>>| u8::try_from(all.len()).unwrap_or(u8::MAX);
        let vxlan = sockets.vxlan.map(|mut some| {
            some.truncate(SOURCES);
            let range = (place(&all), u8::try_from(some.len()).unwrap_or(0));
            all.extend(some.into_iter().map(Some));
            range
        });
        let mut one = |socket: Option<UnderlaySocket>| {
            let at = place(&all);
            socket.map(|socket| {
                all.push(Some(socket));
                at
            })
        };
        let sealed = sockets.sealed.map(&mut one);
        Self {
            sockets: all,
            vxlan,
            bare: Vec::new(),
            sealed,
            peers: Vec::new(),
            lanes: Vec::new(),
            heads: run::heads(),
            arena: vec![0; MAX_SEND],
            kept: Kept::new(),
            drops: Drops::default(),
            slow: None,
            refused: ArrayVec::new(),
        }
    }

    /// Has who keeps the sessions with peers told what happens here.
    #[must_use]
    pub fn telling(mut self, slow: Slow) -> Self {
        self.slow = Some(slow);
        self
    }

    /// Tells that somebody here has joined a group of multicast, or has left one.
    pub fn groups_changed(&self) {
        if let Some(slow) = &self.slow {
            slow.groups_changed();
        }
    }

    /// Sets where frames for a port go; `net` is the place of its network.
    pub fn set_way(&mut self, port: PortId, net: u32, way: Way) {
        let Some(at) = port.remote_index().map(|n| n as usize) else {
            return;
        };
        let name = match way {
            Way::Vxlan { to, .. } | Way::Bare { to, .. } => Name::from(to),
            // Where a peer is, is known with its key.
            Way::Sealed { .. } => Name::from(SocketAddr::from(([0; 4], 0))),
        };
        if self.lanes.len() <= at {
            self.lanes.resize_with(at + 1, || None);
        }
        let stats = self.lanes[at].take().map(|lane| lane.stats);
        self.lanes[at] = Some(Box::new(Lane {
            port,
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

    /// Sets the key that frames for a peer are sealed with and where it is; or that there is none now.
    pub fn set_key(&mut self, peer: PeerId, key: Option<(Arc<SendKey>, Name)>) {
        let at = peer.0 as usize;
        if self.peers.len() <= at {
            self.peers.resize_with(at + 1, || None);
        }
        self.peers[at] = key.map(|(key, name)| Peer { key, name });
    }

    /// A peer is somewhere else from now on.
    pub fn move_peer(&mut self, peer: PeerId, to: Name) {
        if let Some(Some(peer)) = self.peers.get_mut(peer.0 as usize) {
            peer.name = to;
        }
    }

    /// Sends sealed datagrams by these sockets from now on, of IPv4 and IPv6: those that peers send to.
    pub fn set_sealed(&mut self, sockets: [Option<UnderlaySocket>; 2]) {
        for (family, socket) in sockets.into_iter().enumerate() {
            if let Some(socket) = socket {
                self.sealed[family] = self.seat(self.sealed[family], socket);
            }
        }
    }

    /// Sends bare packets of a network by these sockets from now on, of IPv4 and IPv6: those that peers send to. Without
    /// any, none of it are sent any more.
    pub fn set_bare(&mut self, vni: Vni, sockets: [Option<UnderlaySocket>; 2]) {
        self.flush();
        let before = self.bare.iter().position(|(of, _)| *of == vni);
        let before = before.map(|at| self.bare.swap_remove(at).1);
        for at in before.into_iter().flatten().flatten() {
            if let Some(place) = self.sockets.get_mut(usize::from(at)) {
                *place = None;
            }
        }
        if sockets.iter().any(Option::is_some) {
            let places = sockets.map(|socket| self.seat(None, socket?));
            self.bare.push((vni, places));
        }
    }

    /// Gives a socket a place: this one, or one that is free.
    fn seat(&mut self, place: Option<u8>, socket: UnderlaySocket) -> Option<u8> {
        let known = place.map(usize::from);
        let at = known.or_else(|| self.sockets.iter().position(Option::is_none));
        match at.and_then(|at| self.sockets.get_mut(at)) {
            Some(place) => *place = Some(socket),
            None => self.sockets.push(Some(socket)),
        }
        u8::try_from(at.unwrap_or(self.sockets.len() - 1)).ok()
    }

    /// What went by a port.
    #[must_use]
    pub fn stats(&self, port: PortId) -> Option<LaneStats> {
        let lane = self.lanes.get(lane_of(port)?)?.as_ref()?;
        Some(lane.stats)
    }

    /// A way on which something was too large for the path since it was asked last.
    #[inline]
    pub fn take_refused(&mut self) -> Option<Refused> {
        let port = self.refused.pop()?;
        let lane = lane_of(port).and_then(|at| self.lanes.get(at)?.as_ref())?;
        Some(Refused {
            net: lane.net,
            port,
            way: lane.way,
        })
    }

    /// Tells that something for a peer was too large for the path.
    pub fn too_big(&self, peer: PeerId) {
        if let Some(slow) = &self.slow {
            slow.push_too_big(peer);
        }
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
                    if reason == DropReason::TooBig {
                        note(&mut self.refused, port);
                    }
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
            return self.send_run(at, &Whole { cut, head, frame });
        }
        if self.kept.is_full(HEAD + len) {
            self.flush();
        }
        self.keep(at, vnet, head, len, frame)
    }

    fn route(&self, lane: &Lane, head: &[u8]) -> Result<Route, DropReason> {
        let lost = DropReason::HostError;
        let route = |name: Name, socket, slot| Route { name, socket, slot };
        let family = usize::from(lane.name.is_v6());
        match lane.way {
            Way::Vxlan { .. } => {
                let (first, count) = self.vxlan[family];
                let hash = entropy::of_flow(head);
                // The upper bits of the product: evenly spread over the sockets.
                let chosen = (u64::from(hash) * u64::from(count)) >> 32;
                let chosen = u8::try_from(chosen).unwrap_or(0);
                if chosen >= count {
                    return Err(lost);
                }
                Ok(route(lane.name, first + chosen, chosen.into()))
            }
            Way::Bare { vni, .. } => {
                let own = self.bare.iter().find(|(of, _)| *of == vni).ok_or(lost)?;
                Ok(route(lane.name, own.1[family].ok_or(lost)?, 0))
            }
            Way::Sealed { peer, .. } => {
                let peer = self.peer(peer)?;
                let family = usize::from(peer.name.is_v6());
                Ok(route(peer.name, self.sealed[family].ok_or(lost)?, 0))
            }
        }
    }

    fn peer(&self, peer: PeerId) -> Result<&Peer, DropReason> {
        let found = self.peers.get(peer.0 as usize).and_then(Option::as_ref);
        found.ok_or(DropReason::NoKey)
    }

    /// Cuts a super-frame and sends it.
    fn send_run(&mut self, at: usize, whole: &Whole<'_>) -> Result<(), DropReason> {
        let lane = self.lanes.get(at).and_then(Option::as_ref);
        let lane = lane.ok_or(DropReason::NoFlow)?;
        let route = self.route(lane, whole.head)?;
        let socket = self.sockets.get_mut(usize::from(route.socket));
        let socket = socket.and_then(Option::as_mut);
        let socket = socket.ok_or(DropReason::HostError)?;
        match lane.way {
            Way::Sealed { peer, vni } => {
                let peer = self.peers.get(peer.0 as usize).and_then(Option::as_ref);
                let key = &peer.ok_or(DropReason::NoKey)?.key;
                let sent = run::send_sealed(socket, &route.name, key, vni, whole, &mut self.arena);
                self.slow.iter().for_each(|slow| slow.stir(key));
                sent
            }
            Way::Vxlan { vni, .. } => {
                let lead = vxlan::header(vni);
                let room = (&mut self.heads, &mut self.arena[..]);
                run::send_clear(socket, &route.name, (&lead, 0), whole, room)
            }
            Way::Bare { .. } => {
                let room = (&mut self.heads, &mut self.arena[..]);
                run::send_clear(socket, &route.name, (&[], ETHERNET), whole, room)
            }
        }
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
        let lane = self.lanes.get(at).and_then(Option::as_ref);
        let lane = lane.ok_or(DropReason::NoFlow)?;
        let route = self.route(lane, head)?;
        let sealed = match lane.way {
            Way::Sealed { peer, .. } => {
                let peer = self.peers.get(peer.0 as usize).and_then(Option::as_ref);
                Some(&*peer.ok_or(DropReason::NoKey)?.key)
            }
            Way::Vxlan { .. } | Way::Bare { .. } => None,
        };
        let (lead, skip) = lead(lane.way);
        if len + HEAD + TAG_LEN > MAX_SEND {
            return Err(DropReason::TooBig);
        }
        let start = self.kept.len();
        let room = self.kept.room();
        if sealed.is_some() {
            room.extend_from_slice(&[0; HEADER_LEN]);
        }
        room.extend_from_slice(&lead);
        let inner = room.len();
        let mut left = skip;
        for piece in frame {
            let skipped = left.min(piece.len());
            left -= skipped;
            room.extend_from_slice(&piece[skipped..]);
        }
        let finished = match sealed {
            Some(key) => {
                room.extend_from_slice(&[0; TAG_LEN]);
                let done = seal_small(key, vnet, &mut room[start..]);
                self.slow.iter().for_each(|slow| slow.stir(key));
                done
            }
            None => {
                let skip = u16::try_from(skip).unwrap_or(0);
                let csum_start = vnet.csum_start.saturating_sub(skip);
                complete_partial(
                    &mut room[inner..],
                    &VnetHdr {
                        csum_start,
                        ..*vnet
                    },
                )
            }
        };
        if let Err(reason) = finished {
            room.truncate(start);
            return Err(reason);
        }
        let socket = self.sockets.get(usize::from(route.socket));
        let socket = socket.and_then(Option::as_ref);
        let to = To {
            port: lane.port,
            name: route.name,
            socket: route.socket,
            tos: ecn::outward(ecn::tos_of(head)),
            segments: socket.is_some_and(UnderlaySocket::segments),
        };
        if let Some(lane) = self.lanes.get_mut(at).and_then(Option::as_mut) {
            self.kept.add(start, &to, &mut lane.open[route.slot]);
        }
        Ok(())
    }

    /// Sends what waits. To be called at the end of a batch.
    pub fn flush(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        let (drops, refused) = (&mut self.drops, &mut self.refused);
        self.kept.flush(&mut self.sockets, |port, count, e| {
            let reason = reason(e);
            drops.count_many(reason, count);
            if reason == DropReason::TooBig {
                note(refused, port);
            }
        });
    }
}

fn note(refused: &mut ArrayVec<PortId, REFUSED>, port: PortId) {
    if !refused.contains(&port) {
        // What finds no room is refused again.
        let _known_later = refused.try_push(port);
    }
}

fn lane_of(port: PortId) -> Option<usize> {
    port.remote_index().map(|n| n as usize)
}
