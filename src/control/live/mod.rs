//! The data plane itself, behind [`Plane`]: workers that own the endpoints, and a broker that makes them.
//!
//! Control asks a worker by a [`Job`], which runs between two batches, and waits for its answer: so a change is seen
//! by every worker when the call returns, no table is shared but those that packets fill (stations, conversations, members
//! of groups), and no lock is in a packet's way.
//! A descriptor is closed by whoever took it back from the last worker, never by a worker.
//!
//! Files: `start` makes the plane, `network`, `endpoint`, `publish`, `splice`, `service`, `vlan`, `policy`,
//! `peer` and `underlay` change it, `show` reads it, `events`
//! tells what happened.
//!
//! [`Job`]: crate::worker::Job

mod announce;
mod endpoint;
mod events;
mod find;
mod groups;
mod kin;
mod left;
mod network;
mod numbers;
mod passed;
mod peer;
mod policy;
mod publish;
mod service;
mod show;
mod splice;
mod start;
mod stations;
mod underlay;
mod vlan;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nix::sys::epoll::Epoll;
use switch_core::addr::{PortId, SockId};
use switch_core::conntrack::switched::Switched;
use switch_core::l2::snoop::groups::Groups;
use switch_core::l2::table::MacTable;
use switch_core::nat::service::Services;
use switch_core::policy::eval::Policy;
use switch_core::policy::limit::Limits;
use switch_core::policy::quota::Quota;
use switch_core::tunnel::control::record::Announced;
use tokio::sync::oneshot;

use self::find::Finder;
use self::left::Left;
use self::numbers::Numbers;
use self::peer::Peer;
use self::splice::Stocks;
pub use self::start::Options;
use self::underlay::Underlays;
use super::ids::{EndpointId, NetworkId, PeerId, PublishId, ServiceId};
use super::key::StaticKey;
use super::plane::{Plane, PlaneError, PlaneEvent};
use super::policy::{PolicyScope, PolicySpec};
use super::show::{DropRow, FlowRow, GroupRows, MacRow, PeerRow, StatRow, WorkerRow};
use super::spec::{
    EndpointSpec, Interface, NameOwner, NameRecord, NetworkSpec, PeerSpec, PublishSpec, Published,
    Sandbox, SandboxRef, ServiceSpec, Underlay,
};
use crate::cluster::{Cluster, Command};
use crate::host::broker::Broker;
use crate::host::fleet::{FleetError, SandboxId, is_another_process};
use crate::host::netwatch::NetWatch;
use crate::host::sockets::HostView;
use crate::worker::board::Board;
use crate::worker::underlay::slow::Slow;
use crate::worker::{Lost, Signals};

/// How long a worker may take to answer: it does so between two batches.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running worker.
#[derive(Debug)]
struct Hand {
    signals: Arc<Signals>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

/// A network and its place on the workers' boards.
#[derive(Debug)]
struct Net {
    spec: NetworkSpec,
    slot: u32,
    policy: Option<PolicySpec>,
    services: Option<Arc<Services>>,
    /// Numbers of its VLANs in the workers' tables.
    vlans: BTreeMap<u16, u32>,
    /// Who wants which multicast.
    groups: Arc<Groups>,
    /// Who had which address before.
    left: Left,
}

/// An endpoint and where it is.
#[derive(Debug)]
struct End {
    spec: EndpointSpec,
    port: PortId,
    /// The worker that receives from it.
    owner: usize,
    sandbox: SandboxId,
    /// The sandbox has ended, so that nobody can go there any more to remove the interface.
    gone: bool,
    /// It takes UDP super-frames.
    uso: bool,
    policy: Option<PolicySpec>,
    limits: Arc<Limits>,
    /// The rules of its policy and its network's, compiled.
    rules: Option<Arc<Policy>>,
}

/// A publish rule and its sockets, all on the owner of its endpoint.
#[derive(Debug)]
struct Rule {
    spec: PublishSpec,
    /// Host's ports that were chosen in place of a range.
    ranges: Vec<(u8, u16, u16)>,
    listeners: Vec<SockId>,
    datagrams: Vec<SockId>,
}

/// The data plane.
#[derive(Debug)]
pub struct LivePlane {
    broker: Broker,
    /// The namespace that the process is in is the one sandbox.
    at_home: bool,
    start: Instant,
    hands: Vec<Hand>,
    lost: Arc<Lost>,
    view: Arc<ArcSwap<HostView>>,
    watch: Option<NetWatch>,
    macs: Arc<MacTable>,
    /// Conversations that rules or services have let through.
    switched: Arc<Switched>,
    /// The host's ports for datagrams of sandboxes, of which all networks together take half.
    udp_ports: Arc<Quota>,
    nets: BTreeMap<NetworkId, Net>,
    ends: BTreeMap<EndpointId, End>,
    rules: BTreeMap<PublishId, Rule>,
    services: BTreeMap<ServiceId, ServiceSpec>,
    /// Endpoints of other hosts that serve, with the ports that lead there.
    elsewhere: BTreeMap<NetworkId, Vec<(PortId, Announced)>>,
    /// The names of each network.
    names: BTreeMap<NetworkId, BTreeMap<NameOwner, NameRecord>>,
    /// The endpoints of each sandbox, by its namespace.
    kin: BTreeMap<(u64, u64), Vec<EndpointId>>,
    stocks: Stocks,
    peers: BTreeMap<PeerId, Peer>,
    /// Numbers of peers in the workers' tables.
    peer_numbers: Numbers,
    finder: Finder,
    /// The host's private key.
    secret: Option<[u8; 32]>,
    /// What the workers hear of other hosts that is no frame.
    slow: Slow,
    /// The thread that keeps sessions, once there are any to keep.
    cluster: Option<Cluster>,
    underlays: Underlays,
    slots: Numbers,
    /// Numbers of VLANs, from [`vlan::FIRST`] on.
    segments: Numbers,
    ports: Numbers,
    /// Places of ports to other hosts.
    lanes: Numbers,
    sources: Epoll,
    told: VecDeque<PlaneEvent>,
}

impl LivePlane {
    /// Has one worker do something, and waits for what comes of it.
    /// Errors: `Ended` when the worker is gone.
    fn on<R: Send + 'static>(
        &self,
        worker: usize,
        what: impl FnOnce(&mut Board) -> R + Send + 'static,
    ) -> Result<R, PlaneError> {
        let ended = || PlaneError::Ended(format!("worker {worker} does not answer"));
        let hand = self.hands.get(worker).ok_or_else(ended)?;
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let mut job: crate::worker::Job = Box::new(move |board| {
            // Whoever asked may have lost patience.
            let _ = answer.send(what(board));
        });
        let since = Instant::now();
        while let Err(back) = hand.signals.ask(job) {
            if since.elapsed() > PATIENCE {
                return Err(ended());
            }
            std::thread::sleep(Duration::from_millis(1));
            job = back;
        }
        answered.recv_timeout(PATIENCE).map_err(|_| ended())
    }

    /// Has every worker do the same, one after the other.
    fn on_all<R: Send + 'static>(
        &self,
        what: impl Fn(&mut Board) -> R + Send + Clone + 'static,
    ) -> Result<Vec<R>, PlaneError> {
        (0..self.hands.len())
            .map(|worker| self.on(worker, what.clone()))
            .collect()
    }

    fn net(&self, id: NetworkId) -> Result<&Net, PlaneError> {
        self.nets.get(&id).ok_or(PlaneError::NoNetwork(id))
    }

    fn end(&self, id: EndpointId) -> Result<&End, PlaneError> {
        self.ends.get(&id).ok_or(PlaneError::NoEndpoint(id))
    }
}

impl From<FleetError> for PlaneError {
    fn from(e: FleetError) -> Self {
        match e {
            FleetError::SandboxGone(why) => Self::SandboxGone(why),
            FleetError::NotPermitted(why) => Self::NotPermitted(why),
            FleetError::InterfaceExists(name) => Self::InterfaceExists(name),
            FleetError::InterfaceMissing(name) => Self::InterfaceMissing(name),
            FleetError::Refused { message, errno } => Self::Refused { message, errno },
            FleetError::Ended(why) => Self::Ended(why),
        }
    }
}

impl Plane for LivePlane {
    fn identify(&mut self, at: &SandboxRef) -> Result<Sandbox, PlaneError> {
        self.who(at)
    }

    fn is_replaced(&self, known: &Sandbox) -> bool {
        match (&known.at, known.start_time) {
            (SandboxRef::Pid(pid), Some(then)) => is_another_process(*pid, then),
            _ => false,
        }
    }

    fn boot_id(&self) -> String {
        crate::host::start::boot_id()
    }

    fn host_routes(&mut self) -> Vec<(IpAddr, u8)> {
        crate::config::facts::routes()
    }

    fn add_network(&mut self, spec: &NetworkSpec) -> Result<(), PlaneError> {
        self.make_network(spec)
    }

    fn change_network(&mut self, spec: &NetworkSpec) -> Result<(), PlaneError> {
        self.alter_network(spec)
    }

    fn remove_network(&mut self, id: NetworkId) -> Result<(), PlaneError> {
        self.drop_network(id)
    }

    fn attach_endpoint(&mut self, spec: &EndpointSpec) -> Result<Interface, PlaneError> {
        self.make_endpoint(spec, false)
    }

    fn adopt_endpoint(&mut self, spec: &EndpointSpec) -> Result<Interface, PlaneError> {
        self.make_endpoint(spec, true)
    }

    fn detach_endpoint(&mut self, id: EndpointId, keep_interface: bool) -> Result<(), PlaneError> {
        self.drop_endpoint(id, keep_interface)
    }

    fn detach_endpoints(&mut self, ids: &[EndpointId]) -> Result<(), PlaneError> {
        self.drop_endpoints(ids)
    }

    fn set_default_route(&mut self, id: EndpointId, on: bool) -> Result<(), PlaneError> {
        self.move_default_route(id, on)
    }

    fn publish_add(&mut self, spec: &PublishSpec) -> Result<Published, PlaneError> {
        self.publish(spec)
    }

    fn publish_remove(&mut self, id: PublishId) -> Result<(), PlaneError> {
        self.unpublish(id)
    }

    fn set_names(&mut self, record: &NameRecord) -> Result<(), PlaneError> {
        self.give_names(record)
    }

    fn remove_names(&mut self, network: NetworkId, owner: NameOwner) -> Result<(), PlaneError> {
        self.take_names(network, owner)
    }

    fn set_service(&mut self, spec: &ServiceSpec) -> Result<(), PlaneError> {
        self.put_service(spec)
    }

    fn remove_service(&mut self, id: ServiceId) -> Result<(), PlaneError> {
        self.drop_service(id)
    }

    fn set_policy(
        &mut self,
        scope: PolicyScope,
        policy: Option<&PolicySpec>,
    ) -> Result<(), PlaneError> {
        self.put_policy(scope, policy)
    }

    fn now(&mut self) -> u64 {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
        since.map_or(0, |since| since.as_secs())
    }

    fn underlay(&mut self, peers: &[SocketAddr]) -> Underlay {
        crate::config::way::underlay(peers)
    }

    fn set_key(&mut self, key: &StaticKey) -> Result<(), PlaneError> {
        let secret = *key.private();
        self.secret = Some(secret);
        if let Some(cluster) = &self.cluster {
            cluster.tell(Command::SetSecret(secret));
        }
        Ok(())
    }

    fn set_peer(&mut self, spec: &PeerSpec) -> Result<(), PlaneError> {
        self.put_peer(spec)
    }

    fn remove_peer(&mut self, id: PeerId) -> Result<(), PlaneError> {
        self.drop_peer(id)
    }

    fn peers(&mut self) -> Result<Vec<PeerRow>, PlaneError> {
        self.peer_rows()
    }

    fn ping_peer(&mut self, id: PeerId) -> Result<oneshot::Receiver<Duration>, PlaneError> {
        self.ask_peer(id)
    }

    fn settle(&mut self) -> Result<(), PlaneError> {
        // Each change was waited for where it was made.
        Ok(())
    }

    fn macs(&mut self, of: Option<NetworkId>) -> Result<Vec<MacRow>, PlaneError> {
        self.mac_rows(of)
    }

    fn groups(&mut self, of: Option<NetworkId>) -> Result<GroupRows, PlaneError> {
        self.group_rows(of)
    }

    fn flows(&mut self, of: Option<EndpointId>, limit: usize) -> Result<Vec<FlowRow>, PlaneError> {
        self.flow_rows(of, limit)
    }

    fn drops(&mut self, of: Option<EndpointId>) -> Result<Vec<DropRow>, PlaneError> {
        self.drop_rows(of)
    }

    fn stats(&mut self) -> Result<Vec<StatRow>, PlaneError> {
        self.stat_rows()
    }

    fn workers(&mut self) -> Result<Vec<WorkerRow>, PlaneError> {
        self.worker_rows()
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.sources.0)
    }

    fn next_event(&mut self) -> Option<PlaneEvent> {
        self.look()
    }

    fn shut_down(&mut self) -> Result<(), PlaneError> {
        self.stop()
    }
}
