//! A data plane in memory, with a world of sandboxes that outlives it as a kernel outlives a daemon.

mod groups;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use super::ids::{EndpointId, NetworkId, PeerId, PublishId, ServiceId};
use super::key::{PublicKey, StaticKey};
use super::plane::{Plane, PlaneError, PlaneEvent};
use super::policy::{PolicyScope, PolicySpec};
use super::show::{DropRow, FlowRow, GroupRows, MacRow, PeerRow, PeerState, StatRow, WorkerRow};
use super::spec::{
    Carrier, EndpointSpec, HostPort, Interface, NameOwner, NameRecord, NetworkSpec, PeerSpec,
    PortFailure, PublishSpec, Published, Sandbox, SandboxRef, ServiceSpec, Underlay,
};

mod world;

pub(crate) use world::World;
use world::key;

/// The data plane of one daemon.
#[derive(Debug)]
pub(crate) struct FakePlane {
    world: Rc<RefCell<World>>,
    signal: EventFd,
    events: VecDeque<PlaneEvent>,
    /// Networks.
    pub(crate) networks: BTreeMap<NetworkId, NetworkSpec>,
    /// Endpoints.
    pub(crate) endpoints: BTreeMap<EndpointId, EndpointSpec>,
    /// Publish rules.
    pub(crate) publishes: BTreeMap<PublishId, PublishSpec>,
    /// Names.
    pub(crate) names: BTreeMap<(NetworkId, NameOwner), NameRecord>,
    /// Services.
    pub(crate) services: BTreeMap<ServiceId, ServiceSpec>,
    /// Policies.
    pub(crate) policies: BTreeMap<PolicyScope, PolicySpec>,
    /// The host's key.
    pub(crate) key: Option<PublicKey>,
    /// Peers.
    pub(crate) peers: BTreeMap<PeerId, PeerSpec>,
    /// Probes of peers with a key, which the test answers.
    pub(crate) pings: Vec<oneshot::Sender<Duration>>,
    /// What was asked, in order, one word and a number each.
    pub(crate) log: Vec<String>,
    /// Calls whose log line starts so are refused.
    pub(crate) refuse: Option<String>,
}

impl FakePlane {
    /// An empty data plane in a world.
    pub(crate) fn new(world: &Rc<RefCell<World>>) -> Self {
        Self {
            world: Rc::clone(world),
            signal: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap(),
            events: VecDeque::new(),
            networks: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            publishes: BTreeMap::new(),
            names: BTreeMap::new(),
            services: BTreeMap::new(),
            policies: BTreeMap::new(),
            key: None,
            peers: BTreeMap::new(),
            pings: Vec::new(),
            log: Vec::new(),
            refuse: None,
        }
    }

    /// Tells an event.
    pub(crate) fn tell(&mut self, event: PlaneEvent) {
        self.events.push_back(event);
        self.signal.write(1).unwrap();
    }

    fn asked(&mut self, what: String) -> Result<(), PlaneError> {
        let refused = self.refuse.as_ref().is_some_and(|r| what.starts_with(r));
        self.log.push(what);
        if refused {
            return Err(PlaneError::Refused {
                message: "refused by the test".to_owned(),
                errno: None,
            });
        }
        Ok(())
    }

    fn network(&self, id: NetworkId) -> Result<(), PlaneError> {
        self.networks
            .get(&id)
            .map(|_| ())
            .ok_or(PlaneError::NoNetwork(id))
    }

    fn endpoint(&self, id: EndpointId) -> Result<(), PlaneError> {
        self.endpoints
            .get(&id)
            .map(|_| ())
            .ok_or(PlaneError::NoEndpoint(id))
    }

    fn alive(&self, sandbox: &Sandbox) -> Result<(), PlaneError> {
        let now = self
            .world
            .borrow()
            .sandboxes
            .get(&key(&sandbox.at))
            .cloned();
        if now.as_ref() == Some(sandbox) {
            return Ok(());
        }
        Err(PlaneError::SandboxGone(key(&sandbox.at)))
    }

    fn join(&mut self, spec: &EndpointSpec) -> Interface {
        let at = (spec.sandbox.netns.1, spec.ifname.clone());
        self.world.borrow_mut().interfaces.insert(at, spec.id);
        self.endpoints.insert(spec.id, spec.clone());
        Interface {
            ifname: spec.ifname.clone(),
            ifindex: 2,
            warnings: Vec::new(),
        }
    }
}

impl Plane for FakePlane {
    fn identify(&mut self, at: &SandboxRef) -> Result<Sandbox, PlaneError> {
        let found = self.world.borrow().sandboxes.get(&key(at)).cloned();
        found.ok_or_else(|| PlaneError::SandboxGone(key(at)))
    }

    fn is_replaced(&self, known: &Sandbox) -> bool {
        let world = self.world.borrow();
        let found = world.sandboxes.get(&key(&known.at));
        found.is_some_and(|found| found.start_time != known.start_time)
    }

    fn boot_id(&self) -> String {
        self.world.borrow().boot.clone()
    }

    fn host_routes(&mut self) -> Vec<(IpAddr, u8)> {
        self.world.borrow().routes.clone()
    }

    fn add_network(&mut self, spec: &NetworkSpec) -> Result<(), PlaneError> {
        self.asked(format!("add-network {}", spec.id))?;
        assert!(self.networks.insert(spec.id, spec.clone()).is_none());
        Ok(())
    }

    fn change_network(&mut self, spec: &NetworkSpec) -> Result<(), PlaneError> {
        self.asked(format!("change-network {}", spec.id))?;
        self.network(spec.id)?;
        self.networks.insert(spec.id, spec.clone());
        Ok(())
    }

    fn remove_network(&mut self, id: NetworkId) -> Result<(), PlaneError> {
        self.asked(format!("remove-network {id}"))?;
        self.network(id)?;
        assert!(self.endpoints.values().all(|e| e.network != id));
        assert!(self.peers.values().all(|p| !p.networks.contains(&id)));
        self.networks.remove(&id);
        self.names.retain(|(network, _), _| *network != id);
        self.policies.remove(&PolicyScope::Network(id));
        Ok(())
    }

    fn attach_endpoint(&mut self, spec: &EndpointSpec) -> Result<Interface, PlaneError> {
        self.asked(format!("attach {}", spec.id))?;
        self.network(spec.network)?;
        self.alive(&spec.sandbox)?;
        let at = (spec.sandbox.netns.1, spec.ifname.clone());
        if self.world.borrow().interfaces.contains_key(&at) {
            return Err(PlaneError::InterfaceExists(at.1));
        }
        Ok(self.join(spec))
    }

    fn adopt_endpoint(&mut self, spec: &EndpointSpec) -> Result<Interface, PlaneError> {
        self.asked(format!("adopt {}", spec.id))?;
        self.network(spec.network)?;
        self.alive(&spec.sandbox)?;
        let at = (spec.sandbox.netns.1, spec.ifname.clone());
        if self.world.borrow().interfaces.get(&at) != Some(&spec.id) {
            return Err(PlaneError::InterfaceMissing(at.1));
        }
        Ok(self.join(spec))
    }

    fn detach_endpoint(&mut self, id: EndpointId, keep_interface: bool) -> Result<(), PlaneError> {
        self.asked(format!("detach {id}"))?;
        let spec = self
            .endpoints
            .remove(&id)
            .ok_or(PlaneError::NoEndpoint(id))?;
        if !keep_interface {
            let at = (spec.sandbox.netns.1, spec.ifname);
            self.world.borrow_mut().interfaces.remove(&at);
        }
        self.names.remove(&(spec.network, NameOwner::Endpoint(id)));
        self.policies.remove(&PolicyScope::Endpoint(id));
        self.publishes.retain(|_, p| p.endpoint != id);
        Ok(())
    }

    fn set_default_route(&mut self, id: EndpointId, on: bool) -> Result<(), PlaneError> {
        self.asked(format!("route {id} {on}"))?;
        let endpoint = self.endpoints.get_mut(&id);
        endpoint.ok_or(PlaneError::NoEndpoint(id))?.default_route = on;
        Ok(())
    }

    fn publish_add(&mut self, spec: &PublishSpec) -> Result<Published, PlaneError> {
        self.asked(format!("publish {}", spec.id))?;
        self.endpoint(spec.endpoint)?;
        let mut outcome = Published::default();
        for guest in spec.rule.guest.first()..=spec.rule.guest.last() {
            let offset = guest - spec.rule.guest.first();
            let Some(host) = spec.rule.host else {
                outcome.chosen.push((guest, 40_000 + offset));
                continue;
            };
            let port = host.first() + offset;
            if self.world.borrow().taken.contains(&port) {
                outcome.failed.push(PortFailure {
                    at: SocketAddr::new([0, 0, 0, 0].into(), port),
                    errno: libc::EADDRINUSE,
                    message: format!("cannot publish on 0.0.0.0:{port}"),
                });
            }
        }
        self.publishes.insert(spec.id, spec.clone());
        Ok(outcome)
    }

    fn publish_remove(&mut self, id: PublishId) -> Result<(), PlaneError> {
        self.asked(format!("unpublish {id}"))?;
        self.publishes
            .remove(&id)
            .map(|_| ())
            .ok_or(PlaneError::NoPublish(id))
    }

    fn set_names(&mut self, record: &NameRecord) -> Result<(), PlaneError> {
        self.asked(format!("names {:?}", record.owner))?;
        self.network(record.network)?;
        self.names
            .insert((record.network, record.owner), record.clone());
        Ok(())
    }

    fn remove_names(&mut self, network: NetworkId, owner: NameOwner) -> Result<(), PlaneError> {
        self.asked(format!("unname {owner:?}"))?;
        self.network(network)?;
        self.names.remove(&(network, owner));
        Ok(())
    }

    fn set_service(&mut self, spec: &ServiceSpec) -> Result<(), PlaneError> {
        self.asked(format!("service {}", spec.id))?;
        self.network(spec.network)?;
        for backend in &spec.backends {
            self.endpoint(backend.endpoint)?;
        }
        self.services.insert(spec.id, spec.clone());
        Ok(())
    }

    fn remove_service(&mut self, id: ServiceId) -> Result<(), PlaneError> {
        self.asked(format!("unservice {id}"))?;
        self.services
            .remove(&id)
            .map(|_| ())
            .ok_or(PlaneError::NoService(id))
    }

    fn set_policy(
        &mut self,
        scope: PolicyScope,
        policy: Option<&PolicySpec>,
    ) -> Result<(), PlaneError> {
        self.asked(format!("policy {scope:?}"))?;
        match scope {
            PolicyScope::Network(id) => self.network(id)?,
            PolicyScope::Endpoint(id) => self.endpoint(id)?,
        }
        match policy {
            Some(policy) => self.policies.insert(scope, policy.clone()),
            None => self.policies.remove(&scope),
        };
        Ok(())
    }

    fn now(&mut self) -> u64 {
        self.world.borrow().now
    }

    fn underlay(&mut self, _peers: &[SocketAddr]) -> Underlay {
        self.world.borrow().underlay
    }

    fn set_key(&mut self, key: &StaticKey) -> Result<(), PlaneError> {
        self.asked("key".to_owned())?;
        assert!(self.key.replace(*key.public()) != Some(*key.public()));
        Ok(())
    }

    fn set_peer(&mut self, spec: &PeerSpec) -> Result<(), PlaneError> {
        self.asked(format!("peer {}", spec.id))?;
        for &id in &spec.networks {
            self.network(id)?;
        }
        self.peers.insert(spec.id, spec.clone());
        Ok(())
    }

    fn remove_peer(&mut self, id: PeerId) -> Result<(), PlaneError> {
        self.asked(format!("remove-peer {id}"))?;
        let gone = self.peers.remove(&id);
        gone.map(|_| ()).ok_or(PlaneError::NoPeer(id))
    }

    fn peers(&mut self) -> Result<Vec<PeerRow>, PlaneError> {
        let state = |p: &PeerSpec| match (p.carrier.kind(), p.carrier.key()) {
            (Carrier::Sealed, None) => PeerState::Invited,
            (Carrier::Sealed, Some(_)) => PeerState::Connecting,
            (Carrier::Vxlan | Carrier::FlannelUdp, _) => PeerState::Open,
        };
        let rows = self.peers.values().map(|p| PeerRow {
            endpoint: p.carrier.endpoint().and_then(HostPort::addr),
            tx_frames: 5,
            tx_bytes: 500,
            drops: vec![DropRow {
                reason: "replayed".to_owned(),
                frames: 7,
            }],
            ..PeerRow::new(p.id, state(p))
        });
        Ok(rows.collect())
    }

    fn ping_peer(&mut self, id: PeerId) -> Result<oneshot::Receiver<Duration>, PlaneError> {
        let peer = self.peers.get(&id).ok_or(PlaneError::NoPeer(id))?;
        let (answer, told) = oneshot::channel();
        if peer.carrier.key().is_some() {
            self.pings.push(answer);
        } else if peer.carrier.endpoint().is_some() {
            let _ = answer.send(Duration::from_micros(250));
        }
        Ok(told)
    }

    fn settle(&mut self) -> Result<(), PlaneError> {
        self.asked("settle".to_owned())
    }

    fn macs(&mut self, of: Option<NetworkId>) -> Result<Vec<MacRow>, PlaneError> {
        let of = |e: &&EndpointSpec| of.is_none_or(|n| n == e.network);
        let rows = self.endpoints.values().filter(of).map(|e| MacRow {
            network: e.network,
            vlan: e.vlan.native(),
            mac: e.mac,
            endpoint: Some(e.id),
            peer: None,
            announced: None,
            fixed: true,
            age: 0,
            held: false,
        });
        Ok(rows.collect())
    }

    fn groups(&mut self, of: Option<NetworkId>) -> Result<GroupRows, PlaneError> {
        let of = |e: &&EndpointSpec| of.is_none_or(|n| n == e.network);
        Ok(groups::of(self.endpoints.values().filter(of)))
    }

    fn flows(&mut self, _: Option<EndpointId>, _: usize) -> Result<Vec<FlowRow>, PlaneError> {
        Ok(Vec::new())
    }

    fn drops(&mut self, _: Option<EndpointId>) -> Result<Vec<DropRow>, PlaneError> {
        Ok(vec![DropRow {
            reason: "spoofed".to_owned(),
            frames: 3,
        }])
    }

    fn stats(&mut self) -> Result<Vec<StatRow>, PlaneError> {
        let rows = self.endpoints.keys().map(|&endpoint| StatRow {
            endpoint,
            rx_frames: 1,
            rx_bytes: 60,
            tx_frames: 2,
            tx_bytes: 120,
            dropped: 0,
            flows: 0,
        });
        Ok(rows.collect())
    }

    fn workers(&mut self) -> Result<Vec<WorkerRow>, PlaneError> {
        Ok(vec![WorkerRow {
            worker: 0,
            endpoints: u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX),
            flows: 0,
            frames: 0,
            turns: 0,
            cpu_ms: 0,
        }])
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }

    fn next_event(&mut self) -> Option<PlaneEvent> {
        let event = self.events.pop_front();
        if event.is_none() {
            let _ = self.signal.read();
        }
        event
    }

    fn shut_down(&mut self) -> Result<(), PlaneError> {
        self.asked("shut-down".to_owned())
    }
}

#[test]
fn a_world_outlives_its_planes() {
    let world = World::new();
    world.borrow_mut().start(7, 1, 77);
    let mut plane = FakePlane::new(&world);
    let sandbox = plane.identify(&SandboxRef::Pid(7)).unwrap();
    world.borrow_mut().end(7);
    world.borrow_mut().start(7, 2, 78);
    assert_ne!(plane.identify(&SandboxRef::Pid(7)).unwrap(), sandbox);
    assert!(plane.alive(&sandbox).is_err());
    plane.tell(PlaneEvent::Ended("so".to_owned()));
    assert!(plane.next_event().is_some() && plane.next_event().is_none());
}
