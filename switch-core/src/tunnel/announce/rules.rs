//! `[7]` What a peer may announce.

use core::net::IpAddr;

use super::RECORD_HEAD;
use crate::addr::Vni;
use crate::tunnel::control::prefix::{Prefix, Range};
use crate::tunnel::control::record::{Announced, EndpointView};

/// What a peer may announce.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The networks that it may be on. It is told of no others.
    pub networks: Vec<Allowed>,
    /// How many endpoints it may have.
    pub endpoints: usize,
}

/// A network that a peer may be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// The network.
    pub vni: Vni,
    /// Where its endpoints' addresses may be from. Without any it may announce only endpoints that have none.
    pub prefixes: Vec<Prefix>,
    /// What they may not be, of that: what this host hands out.
    pub except: Vec<Range>,
}

impl Rules {
    /// What holds on a network that the peer may be on.
    pub(super) fn on(&self, vni: Vni) -> Option<&Allowed> {
        let at = self.networks.binary_search_by_key(&vni, |a| a.vni).ok()?;
        self.networks.get(at)
    }

    /// True for an endpoint that may be all that it says.
    pub(super) fn allow_whole(&self, view: EndpointView<'_>) -> bool {
        let on = self.on(view.vni());
        on.is_some_and(|on| on.strange(view).is_none())
    }
}

impl Allowed {
    fn has(&self, addr: IpAddr) -> bool {
        let inside = self.prefixes.iter().any(|p| p.contains(addr));
        inside && !self.except.iter().any(|r| r.contains(addr))
    }

    /// True for a range that the peer may hand out. That it is this host's too is told apart.
    pub(super) fn covers(&self, range: Range) -> bool {
        self.prefixes.iter().any(|p| p.covers(range))
    }

    /// An address of an endpoint that it may not have.
    pub(super) fn strange(&self, view: EndpointView<'_>) -> Option<IpAddr> {
        view.addrs().find(|&addr| !self.has(addr))
    }

    /// The body of an endpoint's record with the addresses alone that it may have; none where none is left.
    pub(super) fn rest(&self, view: EndpointView<'_>) -> Option<Box<[u8]>> {
        let mut endpoint: Announced = view.to_owned();
        endpoint.addrs.retain(|addr| self.has(*addr));
        if endpoint.addrs.is_empty() {
            return None;
        }
        let record = endpoint.record().ok()?;
        record.get(RECORD_HEAD..).map(Into::into)
    }
}
