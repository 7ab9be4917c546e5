//! What the main process and the broker say to each other about sandboxes.

use serde::{Deserialize, Serialize};
use switch_core::addr::Mac;

use super::super::broker_proto::{Failure, Target, mac_bytes};
use super::{DefaultRoute, FleetError, Identity, LinkSpec, OldLink, Port, SandboxId};
use crate::endpoint::How;

/// The closed set of what may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub(in super::super) enum Request {
    Identify(Target),
    Join(Identity),
    Leave(SandboxId),
    AddLink(SandboxId, Box<LinkSpec>),
    AdoptLink(SandboxId, Box<LinkSpec>),
    RemoveLinks(Vec<OldLink>),
    SetDefaultRoute {
        id: SandboxId,
        ifname: String,
        route: DefaultRoute,
        on: bool,
    },
    Sockets {
        id: SandboxId,
        v6: bool,
        count: usize,
    },
    Bind(Vec<Port>),
}

/// What is answered, with descriptors beside it where it says so.
#[derive(Debug, Serialize, Deserialize)]
pub(in super::super) enum Answer {
    Done,
    Identity(Identity),
    Joined(SandboxId),
    /// With its descriptor.
    Link(Made),
    /// What kept each interface from being removed.
    Removed(Vec<Option<FleetError>>),
    /// With the sockets.
    Sockets,
    /// What kept each port from being bound; with the sockets of the others, in order.
    Bound(Vec<Option<Failure>>),
}

/// A [`super::Link`] but for its descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub(in super::super) struct Made {
    pub(super) how: How,
    pub(super) ifindex: u32,
    #[serde(with = "mac_bytes")]
    pub(super) mac: Mac,
    pub(super) warnings: Vec<String>,
}
