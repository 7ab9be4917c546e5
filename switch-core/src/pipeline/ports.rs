//! Stage 1, 8: The endpoints of one network, by number and by MAC: those on its own segment, and those of its VLANs.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use super::remote::Remote;
use super::vlans::{Vlan, Vlans};
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
    /// Its VLANs. `None` is the network's own segment, and no tags.
    pub vlans: Option<Arc<Vlans>>,
    /// Set for one that leads to another host.
    pub remote: Option<Remote>,
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
            vlans: None,
            remote: None,
        }
    }

    /// True if its untagged frames are ones of the network's own segment, where the gateway is.
    #[must_use]
    pub fn is_own(&self) -> bool {
        let has_stations = self.remote != Some(Remote::Routed);
        has_stations && self.vlans.as_ref().is_none_or(|vlans| vlans.is_own())
    }

    /// Everything that it is on: the network's own segment, and VLANs.
    pub(super) fn segments(&self) -> impl Iterator<Item = Option<Vlan>> + Clone {
        let own = self.is_own().then_some(None);
        let vlans = self.vlans.iter().flat_map(|vlans| vlans.iter());
        own.into_iter().chain(vlans.map(Some))
    }

    /// True if it is on a VLAN, or on the own segment.
    pub(super) fn is_on(&self, vlan: Option<Vlan>) -> bool {
        match vlan {
            None => self.is_own(),
            Some(vlan) => self.vlans.as_ref().is_some_and(|v| v.has(vlan.id)),
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
    /// Those that lead to other hosts, by their place among them.
    remotes: Vec<Option<Port>>,
    /// Of the network's own segment.
    own: Segment,
    /// Of its VLANs; who is on several is in each.
    vlans: HashMap<u16, Segment, RandomState>,
    state: RandomState,
}

/// The endpoints that hear each other.
#[derive(Debug, Clone)]
struct Segment {
    vlan: Option<Vlan>,
    by_mac: HashMap<Mac, PortId, RandomState>,
    list: PortList,
}

impl Segment {
    fn new(vlan: Option<Vlan>, state: &RandomState) -> Self {
        Self {
            vlan,
            by_mac: HashMap::with_hasher(state.clone()),
            list: PortList::default(),
        }
    }

    fn insert(&mut self, port: &Port) {
        if port.remote.is_none() {
            self.by_mac.insert(port.mac, port.id);
        }
        self.list.insert(port.id);
    }

    /// True if nobody is left.
    fn remove(&mut self, port: &Port) -> bool {
        if self.by_mac.get(&port.mac) == Some(&port.id) {
            self.by_mac.remove(&port.mac);
        }
        self.list.remove(port.id);
        self.list.as_slice().is_empty()
    }
}

impl Ports {
    pub(super) fn new([a, b, c, d]: [u64; 4]) -> Self {
        let state = RandomState::with_seeds(a, b, c, d);
        Self {
            slots: Vec::new(),
            remotes: Vec::new(),
            own: Segment::new(None, &state),
            vlans: HashMap::with_hasher(state.clone()),
            state,
        }
    }

    #[inline]
    pub(super) fn get(&self, id: PortId) -> Option<&Port> {
        match id.remote_index() {
            None => self.slots.get(id.0 as usize)?.as_ref(),
            Some(at) => self.remotes.get(at as usize)?.as_ref(),
        }
    }

    /// The place of a port, made where there was none.
    fn place(&mut self, id: PortId) -> Option<&mut Option<Port>> {
        let (places, at) = match id.remote_index() {
            None => (&mut self.slots, id.0 as usize),
            Some(at) => (&mut self.remotes, at as usize),
        };
        if places.len() <= at {
            places.resize_with(at + 1, || None);
        }
        places.get_mut(at)
    }

    /// Notes that a station is behind a port to another host.
    pub(super) fn lead(&mut self, mac: Mac, port: PortId) {
        self.own.by_mac.insert(mac, port);
    }

    /// Takes that back. False if the station is elsewhere.
    pub(super) fn unlead(&mut self, mac: Mac, port: PortId) -> bool {
        let is_there = self.own.by_mac.get(&mac) == Some(&port);
        if is_there {
            self.own.by_mac.remove(&mac);
        }
        is_there
    }

    /// Takes back every station behind a port to another host, and returns them. Cost: a look at all stations.
    pub(super) fn unlead_all(&mut self, port: PortId) -> Vec<Mac> {
        let of = self.own.by_mac.extract_if(|_, at| *at == port);
        of.map(|(mac, _)| mac).collect()
    }

    /// The endpoint of a MAC on the network's own segment.
    #[inline]
    pub(super) fn by_mac(&self, mac: Mac) -> Option<PortId> {
        self.own.by_mac.get(&mac).copied()
    }

    /// The endpoint of a MAC on a VLAN, or on the own segment.
    pub(super) fn by_mac_on(&self, vlan: Option<Vlan>, mac: Mac) -> Option<PortId> {
        self.segment(vlan)?.by_mac.get(&mac).copied()
    }

    fn segment(&self, vlan: Option<Vlan>) -> Option<&Segment> {
        match vlan {
            None => Some(&self.own),
            Some(vlan) => self.vlans.get(&vlan.id),
        }
    }

    /// The first endpoint of the own segment.
    pub(super) fn first(&self) -> Option<&Port> {
        self.own().next()
    }

    /// Who hears what is sent to everybody on a VLAN, or on the own segment.
    pub(super) fn list(&self, vlan: Option<Vlan>) -> Option<&PortList> {
        self.segment(vlan).map(|segment| &segment.list)
    }

    /// The own segment and the VLANs, of those that somebody is on.
    pub(super) fn segments(&self) -> impl Iterator<Item = Option<Vlan>> {
        let all = core::iter::once(&self.own).chain(self.vlans.values());
        let used = all.filter(|segment| !segment.list.as_slice().is_empty());
        used.map(|segment| segment.vlan)
    }

    /// Every endpoint of a VLAN, or of the own segment.
    pub(super) fn on(&self, vlan: Option<Vlan>) -> impl Iterator<Item = &Port> {
        let list = self.list(vlan).map_or(&[][..], PortList::as_slice);
        list.iter().filter_map(|&id| self.get(id))
    }

    /// Every endpoint of the own segment.
    pub(super) fn own(&self) -> impl Iterator<Item = &Port> {
        self.on(None)
    }

    /// Every endpoint.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Port> {
        self.slots.iter().chain(&self.remotes).flatten()
    }

    /// Adds an endpoint, in place of one with the same number.
    pub(super) fn insert(&mut self, port: Port) {
        self.remove(port.id);
        if port.is_own() {
            self.own.insert(&port);
        }
        for vlan in port.vlans.iter().flat_map(|vlans| vlans.iter()) {
            let state = &self.state;
            let segment = self.vlans.entry(vlan.id);
            let segment = segment.or_insert_with(|| Segment::new(Some(vlan), state));
            segment.insert(&port);
        }
        if let Some(place) = self.place(port.id) {
            *place = Some(port);
        }
    }

    pub(super) fn remove(&mut self, id: PortId) -> Option<Port> {
        let port = match id.remote_index() {
            None => self.slots.get_mut(id.0 as usize)?.take()?,
            Some(at) => self.remotes.get_mut(at as usize)?.take()?,
        };
        if port.is_own() {
            self.own.remove(&port);
        }
        for vlan in port.vlans.iter().flat_map(|vlans| vlans.iter()) {
            let segment = self.vlans.get_mut(&vlan.id);
            if segment.is_some_and(|segment| segment.remove(&port)) {
                self.vlans.remove(&vlan.id);
            }
        }
        Some(port)
    }
}
