//! Stage 1, 8: The endpoints of one network, by number and by MAC.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use crate::addr::{Mac, PortId};
use crate::l2::flood::PortList;
use crate::policy::eval::Policy;
use crate::policy::guard::Guard;
use crate::policy::limit::{Limits, Load};
use crate::time::Tick;
use crate::wire::packet::Packet;
use crate::wire::vnet_hdr::VnetHdr;

/// An endpoint, as the switch sees it.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its place.
    pub id: PortId,
    /// The MAC that frames from it must have.
    pub mac: Mac,
    /// MTU.
    pub mtu: u16,
    /// It takes UDP super-frames.
    pub uso: bool,
    /// It speaks to the gateway, and to endpoints that are not isolated.
    pub isolated: bool,
    /// What it may send, beyond the check of its MAC.
    pub guard: Option<Guard>,
    /// Whom it may talk to. `None` is everybody.
    pub policy: Option<Arc<Policy>>,
    /// How much it may send and receive. One for all workers.
    pub limits: Option<Arc<Limits>>,
}

impl Port {
    /// An endpoint without any rule but that on its MAC.
    #[must_use]
    pub const fn new(id: PortId, mac: Mac, mtu: u16, uso: bool) -> Self {
        Self {
            id,
            mac,
            mtu,
            uso,
            isolated: false,
            guard: None,
            policy: None,
            limits: None,
        }
    }

    /// Charges a frame to the endpoint. False if it may have no more now.
    #[inline]
    pub(super) fn has_room(
        &self,
        now: Tick,
        frame: &[u8],
        packet: &Packet,
        vnet: &VnetHdr,
    ) -> bool {
        let load = || Load::of(frame, packet, vnet);
        self.limits.as_ref().is_none_or(|l| l.receives(now, load))
    }
}

/// The table. Cost: every lookup is one step.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    slots: Vec<Option<Port>>,
    by_mac: HashMap<Mac, PortId, RandomState>,
    list: PortList,
}

impl Ports {
    pub(super) fn new([a, b, c, d]: [u64; 4]) -> Self {
        Self {
            slots: Vec::new(),
            by_mac: HashMap::with_hasher(RandomState::with_seeds(a, b, c, d)),
            list: PortList::default(),
        }
    }

    #[inline]
    pub(super) fn get(&self, id: PortId) -> Option<&Port> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    #[inline]
    pub(super) fn by_mac(&self, mac: Mac) -> Option<PortId> {
        self.by_mac.get(&mac).copied()
    }

    pub(super) fn first(&self) -> Option<&Port> {
        self.get(*self.list.as_slice().first()?)
    }

    pub(super) fn list(&self) -> &PortList {
        &self.list
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Port> {
        self.list.as_slice().iter().filter_map(|&id| self.get(id))
    }

    /// Adds an endpoint, in place of one with the same number.
    pub(super) fn insert(&mut self, port: Port) {
        self.remove(port.id);
        let at = port.id.0 as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        self.by_mac.insert(port.mac, port.id);
        self.list.insert(port.id);
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(port);
        }
    }

    pub(super) fn remove(&mut self, id: PortId) -> Option<Port> {
        let port = self.slots.get_mut(id.0 as usize)?.take()?;
        if self.by_mac.get(&port.mac) == Some(&id) {
            self.by_mac.remove(&port.mac);
        }
        self.list.remove(id);
        Some(port)
    }
}
