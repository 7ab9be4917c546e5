//! Other hosts: on each network that one is on it is behind a port of that network's switch, and there is a way to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use switch_core::addr::{self, Mac, PortId, Vni};
use switch_core::pipeline::{Port, Remote, Untagged, Vlan as Segment, Vlans};
use switch_core::policy::guard::{Guard, Trust};
use switch_core::policy::limit::{Limits, Rates};

use super::LivePlane;
use crate::control::ids::{NetworkId, PeerId};
use crate::control::plane::PlaneError;
use crate::control::show::{DropRow, PeerRow, PeerState};
use crate::control::spec::{Carrier, Driver, NetworkSpec, OverlaySpec, PeerCarrier, PeerSpec};
use crate::worker::board::Board;
use crate::worker::underlay::rx::Target;
use crate::worker::underlay::{Origin, Way};

/// Ports to other hosts: one for each peer and network.
pub(super) const REMOTES: u32 = 1 << 14;

/// A peer, and the ports that lead to it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) spec: PeerSpec,
    /// Where it is, as far as that is known.
    pub(super) to: Option<SocketAddr>,
    lanes: BTreeMap<NetworkId, Lane>,
    /// What it may send, over all of its networks.
    limits: Arc<Limits>,
}

#[derive(Debug, Clone, Copy)]
struct Lane {
    port: PortId,
    vni: Vni,
    /// Whose frames are taken; none while nobody knows where it is.
    origin: Option<Origin>,
}

/// The overlay of a network, where it is one.
pub(super) fn overlay(spec: &NetworkSpec) -> Option<&OverlaySpec> {
    spec.overlay
        .as_ref()
        .filter(|_| spec.driver == Driver::Overlay)
}

impl LivePlane {
    pub(super) fn put_peer(&mut self, spec: &PeerSpec) -> Result<(), PlaneError> {
        for &network in &spec.networks {
            self.net(network)?;
        }
        if spec.carrier.kind() != Carrier::Vxlan {
            return Err(PlaneError::Unsupported("a peer of this carrier"));
        }
        let to = spec.carrier.endpoint().and_then(|at| at.addr());
        let mut peer = match self.peers.remove(&spec.id) {
            Some(known) => known,
            None => Peer {
                spec: spec.clone(),
                to: None,
                lanes: BTreeMap::new(),
                limits: Arc::new(Limits::new(Rates::DEFAULT)),
            },
        };
        peer.spec = spec.clone();
        peer.to = to;
        let gone: Vec<NetworkId> = peer.lanes.keys().copied().collect();
        let gone = gone.into_iter().filter(|n| !spec.networks.contains(n));
        let mut result = Ok(());
        for network in gone {
            if let Some(lane) = peer.lanes.remove(&network) {
                let closed = self.close_lane(network, lane);
                result = result.and(closed);
            }
        }
        for &network in &spec.networks {
            result = result.and_then(|()| self.open_lane(&mut peer, network));
        }
        self.peers.insert(spec.id, peer);
        result
    }

    pub(super) fn drop_peer(&mut self, id: PeerId) -> Result<(), PlaneError> {
        let peer = self.peers.remove(&id).ok_or(PlaneError::NoPeer(id))?;
        let mut result = Ok(());
        for (network, lane) in peer.lanes {
            let closed = self.close_lane(network, lane);
            result = result.and(closed);
        }
        result
    }

    /// Joins a peer to a network, or brings that up to date. Errors: `Full`, `NoNetwork`, `Ended`.
    fn open_lane(&mut self, peer: &mut Peer, network: NetworkId) -> Result<(), PlaneError> {
        let net = self.net(network)?;
        let no_overlay = PlaneError::Unsupported("a peer on a network that is no overlay");
        let Some(vni) = overlay(&net.spec).and_then(|o| Vni::new(o.vni)) else {
            return Err(no_overlay);
        };
        let (slot, mtu) = (net.slot, net.spec.mtu);
        let known = peer.lanes.get(&network).copied();
        let port = match known {
            Some(lane) => lane.port,
            None => PortId::remote(self.lanes.take("peers' networks")?),
        };
        let (way, origin) = match (&peer.spec.carrier, peer.to) {
            (PeerCarrier::Vxlan { .. }, Some(to)) => {
                (Some(Way::Vxlan { to, vni }), Some(Origin::Vxlan(to.ip())))
            }
            _ => (None, None),
        };
        peer.lanes.insert(network, Lane { port, vni, origin });
        let member = self.remote_port(network, port, &peer.spec, &peer.limits)?;
        let target = Target {
            port,
            net: slot,
            mtu,
        };
        let before = known
            .and_then(|lane| lane.origin)
            .filter(|o| Some(*o) != origin);
        self.on_all(move |board| {
            board.with(slot, |switch, _| switch.add_remote_port(member.clone()));
            if let Some(before) = before {
                board.tunnels().rx.refuse(vni, before);
            }
            if let Some(origin) = origin {
                board.tunnels().rx.accept(vni, origin, target);
            }
            match (way, &mut board.io.underlay) {
                (Some(way), Some(underlay)) => underlay.set_way(port, slot, way),
                (None, Some(underlay)) => underlay.remove_way(port),
                (_, None) => {}
            }
        })?;
        Ok(())
    }

    fn close_lane(&mut self, network: NetworkId, lane: Lane) -> Result<(), PlaneError> {
        let slot = self.net(network)?.slot;
        self.on_all(move |board| {
            board.with(slot, |switch, _| switch.remove_remote_port(lane.port));
            let tunnels = board.tunnels();
            if let Some(origin) = lane.origin {
                tunnels.rx.refuse(lane.vni, origin);
            }
            tunnels.forget(lane.port);
            if let Some(underlay) = &mut board.io.underlay {
                underlay.remove_way(lane.port);
            }
        })?;
        self.macs.forget(lane.port);
        if let Some(place) = lane.port.remote_index() {
            self.lanes.give_back(place);
        }
        Ok(())
    }

    /// The port of a peer as the switch of a network sees it. It is on every VLAN that anybody here is on.
    fn remote_port(
        &self,
        network: NetworkId,
        port: PortId,
        spec: &PeerSpec,
        limits: &Arc<Limits>,
    ) -> Result<Port, PlaneError> {
        let net = self.net(network)?;
        let trust = Trust {
            mac: true,
            address: true,
            ..Trust::default()
        };
        let guard = Guard::new(Mac::default(), [], None, trust);
        let vlans = net.vlans.iter().map(|(&id, &number)| Segment {
            id,
            segment: addr::NetworkId(number),
        });
        let vlans = Vlans::trunk(vlans, Untagged::Own, Some(guard.clone()));
        Ok(Port {
            guard: Some(guard),
            limits: Some(Arc::clone(limits)),
            vlans: (!net.vlans.is_empty()).then(|| Arc::new(vlans)),
            remote: Some(Remote {
                learns: spec.carrier.kind() == Carrier::Vxlan,
            }),
            ..Port::new(port, Mac::default(), net.spec.mtu, true)
        })
    }

    /// Has peers follow when VLANs of a network come and go.
    pub(super) fn peers_follow(&self, network: NetworkId) -> Result<(), PlaneError> {
        let slot = self.net(network)?.slot;
        for peer in self.peers.values() {
            let Some(lane) = peer.lanes.get(&network) else {
                continue;
            };
            let member = self.remote_port(network, lane.port, &peer.spec, &peer.limits)?;
            self.on_all(move |board| {
                board.with(slot, |switch, _| switch.add_remote_port(member.clone()));
            })?;
        }
        Ok(())
    }

    pub(super) fn peer_rows(&self) -> Result<Vec<PeerRow>, PlaneError> {
        let mut rows = Vec::new();
        for (&id, peer) in &self.peers {
            let lanes: Vec<Lane> = peer.lanes.values().copied().collect();
            let passed = self.on_all(move |board| {
                let each = lanes.iter().map(|lane| passed(board, *lane));
                each.reduce(Passed::and).unwrap_or_default()
            })?;
            let passed = passed.into_iter().reduce(Passed::and).unwrap_or_default();
            let row = PeerRow::new(id, PeerState::Open);
            rows.push(PeerRow {
                endpoint: peer.to,
                tx_frames: passed.tx.0,
                tx_bytes: passed.tx.1,
                rx_frames: passed.rx.0,
                rx_bytes: passed.rx.1,
                drops: drop_rows(&passed.drops),
                problems: problems(peer),
                ..row
            });
        }
        Ok(rows)
    }
}

fn problems(peer: &Peer) -> Vec<String> {
    let unknown = peer.spec.carrier.endpoint().filter(|_| peer.to.is_none());
    let said = unknown.map(|at| format!("nobody knows where {at} is"));
    said.into_iter().collect()
}

/// What passed between one worker and a peer: frames and bytes.
#[derive(Debug, Default)]
struct Passed {
    tx: (u64, u64),
    rx: (u64, u64),
    drops: BTreeMap<&'static str, u64>,
}

impl Passed {
    fn and(mut self, other: Self) -> Self {
        self.tx = (self.tx.0 + other.tx.0, self.tx.1 + other.tx.1);
        self.rx = (self.rx.0 + other.rx.0, self.rx.1 + other.rx.1);
        for (reason, count) in other.drops {
            *self.drops.entry(reason).or_default() += count;
        }
        self
    }
}

fn passed(board: &mut Board, lane: Lane) -> Passed {
    let mut drops = BTreeMap::new();
    let tx = board.io.underlay.as_ref().and_then(|u| u.stats(lane.port));
    let tx = tx.unwrap_or_default();
    let tunnels = board.tunnels();
    let rx = lane
        .origin
        .and_then(|origin| tunnels.rx.stats(lane.vni, origin));
    let rx = rx.unwrap_or_default();
    for (reason, count) in tunnels.dropped(lane.port).iter().flat_map(|d| d.iter()) {
        drops.insert(reason.name(), count);
    }
    if tx.failed > 0 {
        *drops.entry("tx-failed").or_default() += tx.failed;
    }
    Passed {
        tx: (tx.frames, tx.bytes),
        rx: (rx.frames, rx.bytes),
        drops,
    }
}

fn drop_rows(drops: &BTreeMap<&'static str, u64>) -> Vec<DropRow> {
    let rows = drops.iter().map(|(&reason, &frames)| DropRow {
        reason: reason.to_owned(),
        frames,
    });
    rows.collect()
}
