//! Other hosts: on each network that one is on it is behind a port of that network's switch, and there is a way to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use switch_core::addr::{self, Mac, PeerId as Number, PortId, Vni};
use switch_core::pipeline::{Port, Remote, Untagged, Vlan as Segment, Vlans};
use switch_core::policy::guard::{Guard, Trust};
use switch_core::policy::limit::{Limits, Rates};
use switch_core::respond::names::Owner;
use switch_core::tunnel::announce::Rules;
use switch_core::tunnel::seal::State;
use tokio::sync::oneshot;

use super::LivePlane;
use super::announce::allowed;
use super::find::Wanted;
use super::passed::{Passed, drop_rows, passed, refused};
use crate::cluster::{self, Asked, Command, View};
use crate::control::ids::{NetworkId, PeerId};
use crate::control::plane::PlaneError;
use crate::control::show::{PeerRow, PeerState};
use crate::control::spec::{
    Carrier, Driver, NetworkSpec, OverlaySpec, PeerCarrier, PeerSpec, Prefix,
};
use crate::worker::underlay::rx::Target;
use crate::worker::underlay::{Origin, Way};

/// Ports to other hosts: one for each peer and network.
pub(super) const REMOTES: u32 = 1 << 14;
/// Peers at most.
pub(super) const PEERS: u32 = 1 << 13;
/// Endpoints that one peer may announce.
const ENDPOINTS: usize = 100_000;

/// A peer, and the ports that lead to it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) spec: PeerSpec,
    /// Its number in the workers' tables.
    pub(super) number: Number,
    /// Where it is, as far as that is known.
    pub(super) to: Option<SocketAddr>,
    /// Its name is looked up.
    wanted: Option<Wanted>,
    pub(super) lanes: BTreeMap<NetworkId, Lane>,
    /// What it may send, over all of its networks.
    limits: Arc<Limits>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    pub(super) port: PortId,
    pub(super) vni: Vni,
    /// Whose frames are taken; none while nobody knows where it is.
    pub(super) origin: Option<Origin>,
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
        let mut peer = match self.peers.remove(&spec.id) {
            Some(known) => known,
            None => Peer {
                spec: spec.clone(),
                number: Number(self.peer_numbers.take("peers")?),
                to: None,
                wanted: None,
                lanes: BTreeMap::new(),
                limits: Arc::new(Limits::new(Rates::DEFAULT)),
            },
        };
        if peer.spec.carrier.endpoint() != spec.carrier.endpoint() {
            (peer.to, peer.wanted) = (None, None);
        }
        peer.spec = spec.clone();
        self.locate(&mut peer)?;
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
        let asked = self.asked(&peer);
        let number = peer.number;
        self.peers.insert(spec.id, peer);
        result?;
        if let Some(asked) = asked {
            let asked = Box::new(asked);
            self.cluster()?.tell(Command::SetPeer(number, asked));
        }
        Ok(())
    }

    /// Finds out where a peer is, if it is to be known: at once, or by and by.
    /// Errors: `Refused` where there is no thread to look a name up.
    fn locate(&self, peer: &mut Peer) -> Result<(), PlaneError> {
        let Some(at) = peer.spec.carrier.endpoint() else {
            return Ok(());
        };
        match at.addr() {
            Some(addr) => peer.to = Some(addr),
            None if peer.wanted.as_ref().is_some_and(|w| w.is(at)) => {}
            None => {
                let wanted = self.finder.want(peer.spec.id, at);
                let wanted = wanted.map_err(|e| super::endpoint::refused("a thread", &e));
                peer.wanted = Some(wanted?);
            }
        }
        Ok(())
    }

    /// Takes note of where peers were found.
    pub(super) fn take_found(&mut self) {
        while let Some((id, name, at)) = self.finder.next() {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            if peer.spec.carrier.endpoint() != Some(&name) {
                continue;
            }
            peer.to = Some(at);
            let spec = peer.spec.clone();
            if let Err(e) = self.put_peer(&spec) {
                tracing::warn!("peer '{}' at {at}: {e}", spec.name);
            }
        }
    }

    /// What the thread that keeps sessions is to know of a peer; none for one that there are no sessions with.
    fn asked(&self, peer: &Peer) -> Option<Asked> {
        let PeerCarrier::Sealed {
            key,
            secret,
            keepalive,
            ..
        } = &peer.spec.carrier
        else {
            return None;
        };
        let mut lanes = Vec::new();
        let mut networks = Vec::new();
        for (network, lane) in &peer.lanes {
            let Some(net) = self.nets.get(network) else {
                continue;
            };
            lanes.push((
                lane.vni,
                cluster::Lane {
                    port: lane.port,
                    slot: net.slot,
                    mtu: net.spec.mtu,
                },
            ));
            networks.push(allowed(&net.spec, lane.vni, &peer.spec.prefixes));
        }
        Some(Asked {
            name: peer.spec.name.clone(),
            key: key.as_ref().map(|k| *k.bytes()),
            secret: *secret.bytes(),
            endpoint: peer.to,
            seen: peer.spec.seen,
            keepalive: (*keepalive > 0).then(|| Duration::from_secs(u64::from(*keepalive))),
            rules: Rules {
                networks,
                endpoints: ENDPOINTS,
            },
            lanes,
        })
    }

    pub(super) fn drop_peer(&mut self, id: PeerId) -> Result<(), PlaneError> {
        let peer = self.peers.remove(&id).ok_or(PlaneError::NoPeer(id))?;
        if let Some(cluster) = self.cluster.as_ref().filter(|_| peer.is_sealed()) {
            cluster.tell(Command::RemovePeer(peer.number));
        }
        let mut result = Ok(());
        for (network, lane) in peer.lanes {
            let closed = self.close_lane(network, lane);
            result = result.and(closed);
        }
        let number = peer.number;
        let forgotten = self.on_all(move |board| board.tunnels().rx.forget(number));
        self.peer_numbers.give_back(number.0);
        result.and_then(|()| forgotten.map(drop))
    }

    /// Sends a peer a question. Errors: `NoPeer`; `Unsupported` for one that answers none.
    pub(super) fn ask_peer(
        &mut self,
        id: PeerId,
    ) -> Result<oneshot::Receiver<Duration>, PlaneError> {
        let peer = self.peers.get(&id).ok_or(PlaneError::NoPeer(id))?;
        if !peer.is_sealed() {
            return Err(PlaneError::Unsupported(
                "a question to a peer of this carrier",
            ));
        }
        let number = peer.number;
        Ok(self.cluster()?.ping(number))
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
            (PeerCarrier::FlannelUdp { .. }, Some(to)) => {
                (Some(Way::Bare { to, vni }), Some(Origin::Bare(to.ip())))
            }
            (PeerCarrier::Sealed { .. }, _) => {
                let peer = peer.number;
                (Some(Way::Sealed { peer, vni }), Some(Origin::Sealed(peer)))
            }
            (PeerCarrier::Vxlan { .. } | PeerCarrier::FlannelUdp { .. }, _) => (None, None),
        };
        peer.lanes.insert(network, Lane { port, vni, origin });
        let member = self.remote_port(network, port, &peer.spec, &peer.limits)?;
        let routes = routes(&self.net(network)?.spec, &peer.spec);
        let target = Target {
            port,
            net: slot,
            mtu,
        };
        let before = known
            .and_then(|lane| lane.origin)
            .filter(|o| Some(*o) != origin);
        self.on_all(move |board| {
            board.with(slot, |switch, _| {
                switch.add_remote_port(member.clone());
                switch.set_routes(port, &routes);
            });
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
            board.with(slot, |switch, io| {
                for mac in switch.remove_remote_port(lane.port) {
                    io.names.remove(slot, Owner::of_mac(mac));
                }
            });
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
        let remote = match spec.carrier.kind() {
            Carrier::Sealed => Remote::Announced,
            Carrier::Vxlan => Remote::Learned,
            Carrier::FlannelUdp => Remote::Routed,
        };
        let tagged = remote != Remote::Routed && !net.vlans.is_empty();
        Ok(Port {
            guard: Some(guard),
            limits: Some(Arc::clone(limits)),
            vlans: tagged.then(|| Arc::new(vlans)),
            remote: Some(remote),
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
        let views = self.cluster.as_ref().and_then(|c| c.ask(Command::Views));
        let mut views: BTreeMap<Number, View> = views
            .into_iter()
            .flatten()
            .map(|view| (view.peer, view))
            .collect();
        let mut rows = Vec::new();
        for (&id, peer) in &self.peers {
            let lanes: Vec<Lane> = peer.lanes.values().copied().collect();
            let number = peer.number;
            let passed = self.on_all(move |board| {
                let each = lanes.iter().map(|lane| passed(board, *lane));
                let all = each.reduce(Passed::and).unwrap_or_default();
                all.and(refused(board, number))
            })?;
            let passed = passed.into_iter().reduce(Passed::and).unwrap_or_default();
            let view = views.remove(&peer.number);
            let mut drops = passed.drops;
            for (reason, count) in view.iter().flat_map(|v| &v.refused) {
                *drops.entry(reason).or_default() += count;
            }
            let row = view.map_or_else(
                || PeerRow {
                    endpoint: peer.to,
                    problems: problems(peer),
                    ..PeerRow::new(id, PeerState::Open)
                },
                |view| seen(id, peer, view),
            );
            rows.push(PeerRow {
                tx_frames: passed.tx.0,
                tx_bytes: passed.tx.1,
                rx_frames: passed.rx.0,
                rx_bytes: passed.rx.1,
                drops: drop_rows(&drops),
                ..row
            });
        }
        Ok(rows)
    }
}

impl Peer {
    fn is_sealed(&self) -> bool {
        self.spec.carrier.kind() == Carrier::Sealed
    }
}

/// A peer with sessions, as the thread that keeps them sees it.
fn seen(id: PeerId, peer: &Peer, view: View) -> PeerRow {
    let state = match view.status.map(|s| s.state) {
        _ if view.invited => PeerState::Invited,
        None | Some(State::Idle) => PeerState::Idle,
        Some(State::Connecting) => PeerState::Connecting,
        Some(State::Up) => PeerState::Up,
        Some(State::Unreachable) => PeerState::Unreachable,
    };
    let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let endpoint = view.status.and_then(|s| s.endpoint).or(peer.to);
    let overhead = Carrier::Sealed.overhead(endpoint.is_some_and(|at| at.is_ipv6()));
    let mut problems = problems(peer);
    problems.extend(view.problems);
    PeerRow {
        endpoint,
        rtt: view.rtt.map(micros),
        mtu: (state == PeerState::Up).then(|| view.mtu.saturating_sub(overhead)),
        loss: view.loss,
        handshake: view.handshake.map(|ago| ago.as_secs()),
        problems,
        ..PeerRow::new(id, state)
    }
}

/// What of a network is routed to a peer: its prefixes there, where it takes packets and no frames.
fn routes(network: &NetworkSpec, peer: &PeerSpec) -> Vec<(IpAddr, u8)> {
    let whole = |addr: IpAddr, len| Prefix { addr, len };
    let v4 = network.v4.map(|s| whole(s.network.into(), s.prefix));
    let v6 = network.v6.map(|s| whole(s.network.into(), s.prefix));
    let inside = |p: &&Prefix| v4.iter().chain(&v6).any(|subnet| subnet.holds(p));
    let bare = peer.carrier.kind() == Carrier::FlannelUdp;
    let all = peer.prefixes.iter().filter(|_| bare).filter(inside);
    all.map(|p| (p.addr, p.len)).collect()
}

fn problems(peer: &Peer) -> Vec<String> {
    let unknown = peer.spec.carrier.endpoint().filter(|_| peer.to.is_none());
    let said = unknown.map(|at| format!("nobody knows where {at} is"));
    said.into_iter().collect()
}
