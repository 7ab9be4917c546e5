//! The seam between control and the data plane with its broker.
//!
//! Control calls from its one thread and waits: each call returns when the thing is done, or has failed and left nothing
//! behind. Calls that change tables become visible to workers at the latest with [`Plane::settle`], so that a change of
//! many parts is one publication. Control has checked what it asks: names, ids and addresses are unique, and what a call
//! refers to has been added before.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tokio::sync::oneshot;

use super::ids::{EndpointId, NetworkId, PeerId, PublishId, ServiceId};
use super::key::{PublicKey, StaticKey};
use super::policy::{PolicyScope, PolicySpec};
use super::show::{DropRow, FlowRow, GroupRows, MacRow, PeerRow, StatRow, WorkerRow};
use super::spec::{
    EndpointSpec, Interface, NameOwner, NameRecord, NetworkSpec, PeerSpec, PublishSpec, Published,
    Sandbox, SandboxRef, ServiceSpec, Underlay,
};

/// Why the data plane cannot do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaneError {
    /// There is no such network.
    #[error("the switch has no network {0}")]
    NoNetwork(NetworkId),
    /// There is no such endpoint.
    #[error("the switch has no endpoint {0}")]
    NoEndpoint(EndpointId),
    /// There is no such publish rule.
    #[error("the switch has no publish rule {0}")]
    NoPublish(PublishId),
    /// There is no such service.
    #[error("the switch has no service {0}")]
    NoService(ServiceId),
    /// There is no such peer.
    #[error("the switch has no peer {0}")]
    NoPeer(PeerId),
    /// The namespace does not exist, or not any more: its process has ended, or its number belongs to another now.
    #[error("the sandbox is gone: {0}")]
    SandboxGone(String),
    /// The namespace may not be entered.
    #[error("{0}")]
    NotPermitted(String),
    /// The namespace has an interface of that name already.
    #[error("the sandbox has an interface {0} already")]
    InterfaceExists(String),
    /// The interface that was to be adopted is not there, or is none of ours.
    #[error("the sandbox has no interface {0} of weft's")]
    InterfaceMissing(String),
    /// A table is full.
    #[error("no room for more {what}: the limit is {limit}")]
    Full {
        /// What there can be no more of.
        what: &'static str,
        /// How many there can be.
        limit: u64,
    },
    /// This data plane cannot do that.
    #[error("{0} cannot be had with this switch")]
    Unsupported(&'static str),
    /// The kernel, or a helper, has refused.
    #[error("{message}")]
    Refused {
        /// What is wrong, where, and what to do, in one line.
        message: String,
        /// The kernel's error number, where it was one.
        errno: Option<i32>,
    },
    /// The broker or every worker is gone: nothing can be done any more.
    #[error("the switch has ended: {0}")]
    Ended(String),
}

/// What the data plane tells unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaneEvent {
    /// The endpoint's namespace has ended, and the endpoint with it; its id is free of use.
    SandboxGone(EndpointId),
    /// The endpoint's interface is gone while its namespace lives on: someone has removed it.
    LinkLost(EndpointId),
    /// A MAC flapped between endpoints of a network and is damped.
    LoopDamped {
        /// Where.
        network: NetworkId,
        /// Which station, as text.
        mac: String,
    },
    /// An invited peer has shown its invite's secret for the first time: from now on it is the one with this key, which the
    /// data plane has taken note of already, and no other can take the invite.
    PeerJoined {
        /// Which.
        peer: PeerId,
        /// Who it is.
        key: PublicKey,
    },
    /// A peer is heard from an address that was not told before. Told now and then, while sessions with it are up.
    PeerSeen {
        /// Which.
        peer: PeerId,
        /// Where.
        at: SocketAddr,
    },
    /// Something is wrong with a peer that its rows did not tell before: told once, until it is over and comes again.
    PeerProblem {
        /// Which.
        peer: PeerId,
        /// What, in one sentence.
        problem: String,
    },
    /// The data plane cannot go on.
    Ended(String),
}

/// The data plane and the broker, as control sees them.
pub trait Plane {
    /// Settles who a namespace is, so that it is known again later.
    /// Errors: `SandboxGone` when there is none, `NotPermitted` when it belongs to another user.
    fn identify(&mut self, at: &SandboxRef) -> Result<Sandbox, PlaneError>;

    /// Tells whether a sandbox that was settled before has surely ended, for its process id is another process's now.
    fn is_replaced(&self, known: &Sandbox) -> bool;

    /// The number of this boot of the machine; process ids and inodes of another boot mean nothing.
    fn boot_id(&self) -> String;

    /// Destinations that the host has routes or addresses in, for the choice of subnets.
    fn host_routes(&mut self) -> Vec<(IpAddr, u8)>;

    /// Adds a network.
    /// Errors: `Full`; `Unsupported` for a driver or an uplink that is not there; `Refused` when the uplink cannot be opened.
    fn add_network(&mut self, spec: &NetworkSpec) -> Result<(), PlaneError>;

    /// Changes a network in place: anything but its id. Endpoints and flows stay.
    /// Errors: `NoNetwork`; as [`Self::add_network`], and then it is as it was.
    fn change_network(&mut self, spec: &NetworkSpec) -> Result<(), PlaneError>;

    /// Removes a network, which has no endpoint any more, with its names and its policy.
    /// Errors: `NoNetwork`.
    fn remove_network(&mut self, id: NetworkId) -> Result<(), PlaneError>;

    /// Makes an interface in a sandbox, configures it, and joins it to its network.
    /// Errors: `NoNetwork`, `SandboxGone`, `NotPermitted`, `InterfaceExists`, `Full`, `Unsupported`, `Refused`.
    fn attach_endpoint(&mut self, spec: &EndpointSpec) -> Result<Interface, PlaneError>;

    /// Takes over a persistent interface that an earlier daemon has left in its sandbox. Its MAC, addresses and routes stay.
    /// Errors: as [`Self::attach_endpoint`]; `InterfaceMissing` when there is none, and then attaching may succeed.
    fn adopt_endpoint(&mut self, spec: &EndpointSpec) -> Result<Interface, PlaneError>;

    /// Takes an endpoint off its network, with its names, its policy and its publish rules, and closes its flows.
    /// `keep_interface` leaves a persistent interface in the sandbox; otherwise it is removed, unless the sandbox is gone.
    /// Errors: `NoEndpoint`.
    fn detach_endpoint(&mut self, id: EndpointId, keep_interface: bool) -> Result<(), PlaneError>;

    /// Takes endpoints off and removes their interfaces, as [`Self::detach_endpoint`] does with each; one that is gone
    /// already is no error, and one that cannot be taken off keeps no other.
    /// Errors: the first of those that there were.
    fn detach_endpoints(&mut self, ids: &[EndpointId]) -> Result<(), PlaneError> {
        let mut result = Ok(());
        for &id in ids {
            match self.detach_endpoint(id, false) {
                Ok(()) | Err(PlaneError::NoEndpoint(_)) => {}
                Err(e) => result = result.and(Err(e)),
            }
        }
        result
    }

    /// Makes the endpoint's gateways the sandbox's default routes, or takes those routes away; flows stay.
    /// Errors: `NoEndpoint`, `SandboxGone`, `Refused`; `Unsupported` where routes are set only when attaching.
    fn set_default_route(&mut self, id: EndpointId, on: bool) -> Result<(), PlaneError> {
        let _ = (id, on);
        Err(PlaneError::Unsupported("moving a default route"))
    }

    /// Publishes ports: every port that can be had is bound, the others are told.
    /// Errors: `NoEndpoint`, `Full`; nothing is bound then.
    fn publish_add(&mut self, spec: &PublishSpec) -> Result<Published, PlaneError>;

    /// Takes a publish rule away. Connections that it has let in go on.
    /// Errors: `NoPublish`.
    fn publish_remove(&mut self, id: PublishId) -> Result<(), PlaneError>;

    /// Makes names known on a network, in place of those that the same owner has there.
    /// Errors: `NoNetwork`, `Full`.
    fn set_names(&mut self, record: &NameRecord) -> Result<(), PlaneError>;

    /// Takes an owner's names off a network. An owner without any is no error.
    /// Errors: `NoNetwork`.
    fn remove_names(&mut self, network: NetworkId, owner: NameOwner) -> Result<(), PlaneError>;

    /// Adds a service, or replaces it: connections of backends that are not in it any more are drained.
    /// Errors: `NoNetwork`, `Full`.
    fn set_service(&mut self, spec: &ServiceSpec) -> Result<(), PlaneError>;

    /// Takes a service away; its connections are drained.
    /// Errors: `NoService`.
    fn remove_service(&mut self, id: ServiceId) -> Result<(), PlaneError>;

    /// Sets a policy in place of the one that the scope has; `None` leaves the default.
    /// Errors: `NoNetwork`, `NoEndpoint`, `Full` when the rules do not fit.
    fn set_policy(
        &mut self,
        scope: PolicyScope,
        policy: Option<&PolicySpec>,
    ) -> Result<(), PlaneError>;

    /// The time. Units: seconds since 1970.
    fn now(&mut self) -> u64;

    /// The way from this host to others, and to these first of all.
    fn underlay(&mut self, peers: &[SocketAddr]) -> Underlay;

    /// Makes the host's key known, before the first sealed network or peer. Another one later ends all sessions: peers that
    /// know it make new ones.
    /// Errors: `Unsupported`, `Ended`.
    fn set_key(&mut self, key: &StaticKey) -> Result<(), PlaneError>;

    /// Adds a peer, or changes it in place: what goes on with it goes on unless its key, carrier or secret differ.
    /// A peer without a key is an invite: the first who shows its secret takes it, which is told ([`PlaneEvent::PeerJoined`]).
    /// Errors: `NoNetwork`, `Full`, `Unsupported`, `Refused`; then it is as it was.
    fn set_peer(&mut self, spec: &PeerSpec) -> Result<(), PlaneError>;

    /// Takes a peer away, with its endpoints.
    /// Errors: `NoPeer`.
    fn remove_peer(&mut self, id: PeerId) -> Result<(), PlaneError>;

    /// Peers as they stand.
    /// Errors: `Ended`.
    fn peers(&mut self) -> Result<Vec<PeerRow>, PlaneError>;

    /// Sends a peer a probe. Gives where the round trip will be told; that is closed when there is none to tell any more.
    /// Errors: `NoPeer`; `Unsupported` for a carrier that has no probes.
    fn ping_peer(&mut self, id: PeerId) -> Result<oneshot::Receiver<Duration>, PlaneError>;

    /// Returns when everything that was changed before is seen by every worker.
    /// Errors: `Ended`.
    fn settle(&mut self) -> Result<(), PlaneError>;

    /// The MAC table, of one network or all.
    /// Errors: `NoNetwork`, `Ended`.
    fn macs(&mut self, of: Option<NetworkId>) -> Result<Vec<MacRow>, PlaneError>;

    /// Members of multicast groups, routers and who asks, of one network or all.
    /// Errors: `NoNetwork`.
    fn groups(&mut self, of: Option<NetworkId>) -> Result<GroupRows, PlaneError>;

    /// Flows, of one endpoint or all, at most `limit`.
    /// Errors: `NoEndpoint`, `Ended`.
    fn flows(&mut self, of: Option<EndpointId>, limit: usize) -> Result<Vec<FlowRow>, PlaneError>;

    /// Frames dropped by reason, of one endpoint or all; reasons that never occurred may be left out.
    /// Errors: `NoEndpoint`, `Ended`.
    fn drops(&mut self, of: Option<EndpointId>) -> Result<Vec<DropRow>, PlaneError>;

    /// Counters of every endpoint.
    /// Errors: `Ended`.
    fn stats(&mut self) -> Result<Vec<StatRow>, PlaneError>;

    /// The workers.
    /// Errors: `Ended`.
    fn workers(&mut self) -> Result<Vec<WorkerRow>, PlaneError>;

    /// Readable when an event waits; an epoll descriptor where there are several sources. The same for the plane's life.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// The next event, if one waits. Never blocks. Must be called until `None` before the descriptor is polled again.
    fn next_event(&mut self) -> Option<PlaneEvent>;

    /// Ends every worker and the broker. Endpoints that were not detached before keep their persistent interfaces.
    /// Errors: what a worker failed with.
    fn shut_down(&mut self) -> Result<(), PlaneError>;
}
