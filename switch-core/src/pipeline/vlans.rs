//! Stages 2, 3 and 7: VLANs of a network: who is on which, where a frame belongs, and its way there. The gateway is
//! on the network's own segment alone, whose frames have no tag; a network without VLANs has nothing but that.
//!
//! Between VLANs nothing passes: stations, floods and conversations of each are told apart by a number of its own,
//! as those of networks are.

#[cfg(test)]
mod tests;

use std::io::IoSlice;

use super::ports::Port;
use super::rules::Ends;
use super::{Switch, egress, seconds};
use crate::addr::{NetworkId, PortId};
use crate::flow::host::Host;
use crate::flow::tcp::Cx;
use crate::policy::guard::Guard;
use crate::policy::limit::Load;
use crate::verdict::{DropReason, Verdict};
use crate::wire::packet::{Kind, Packet};
use crate::wire::vlan::{Retag, VID};
use crate::wire::vnet_hdr::VnetHdr;

/// The number of the network's own segment, for trunks that tag what they need not. Source: IEEE 802.1Q table 9-2.
const OWN: u16 = 1;

/// A VLAN of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan {
    /// Its number in tags.
    pub id: u16,
    /// Its number in the tables of stations and conversations, which is no other's, network or VLAN.
    pub segment: NetworkId,
}

/// Where untagged frames of an endpoint belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untagged {
    /// To the network's own segment.
    Own,
    /// To a VLAN.
    Vlan(Vlan),
    /// Nowhere: they are dropped.
    Nowhere,
}

/// The VLANs of an endpoint. Source: IEEE 802.1Q sections 6.9 and 8.6.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlans {
    untagged: Untagged,
    /// In order of their numbers.
    tagged: Box<[Vlan]>,
    /// What it may send with a tag.
    guard: Option<Guard>,
}

impl Vlans {
    /// An endpoint of one VLAN, which knows nothing of tags.
    #[must_use]
    pub fn access(vlan: Vlan) -> Self {
        Self {
            untagged: Untagged::Vlan(vlan),
            tagged: Box::default(),
            guard: None,
        }
    }

    /// An endpoint of several VLANs. `guard` is what it may send with a tag, beyond the check of its MAC; what it
    /// sends without one is its port's guard's matter.
    #[must_use]
    pub fn trunk(
        tagged: impl IntoIterator<Item = Vlan>,
        untagged: Untagged,
        guard: Option<Guard>,
    ) -> Self {
        let native = match untagged {
            Untagged::Vlan(vlan) => Some(vlan.id),
            Untagged::Own | Untagged::Nowhere => None,
        };
        let others = tagged.into_iter().filter(|vlan| Some(vlan.id) != native);
        let mut tagged: Vec<Vlan> = others.collect();
        tagged.sort_unstable_by_key(|vlan| vlan.id);
        tagged.dedup_by_key(|vlan| vlan.id);
        Self {
            untagged,
            tagged: tagged.into(),
            guard,
        }
    }

    /// True if untagged frames are ones of the network's own segment.
    pub(super) fn is_own(&self) -> bool {
        self.untagged == Untagged::Own
    }

    /// Every VLAN that it is on.
    pub(super) fn iter(&self) -> impl Iterator<Item = Vlan> + Clone {
        self.native().into_iter().chain(self.tagged.iter().copied())
    }

    /// True for one that it is on.
    pub(super) fn has(&self, id: u16) -> bool {
        self.native().is_some_and(|vlan| vlan.id == id) || self.tagged(id).is_some()
    }

    fn native(&self) -> Option<Vlan> {
        match self.untagged {
            Untagged::Vlan(vlan) => Some(vlan),
            Untagged::Own | Untagged::Nowhere => None,
        }
    }

    fn tagged(&self, id: u16) -> Option<Vlan> {
        let at = self.tagged.binary_search_by_key(&id, |vlan| vlan.id).ok()?;
        self.tagged.get(at).copied()
    }

    /// True for a number in a tag that means the same as no tag: none but a priority, or at a trunk the native VLAN's.
    fn is_native(&self, id: u16) -> bool {
        let native = match self.untagged {
            Untagged::Own => OWN,
            Untagged::Vlan(vlan) => vlan.id,
            Untagged::Nowhere => 0,
        };
        id == 0 || (id == native && !self.tagged.is_empty())
    }

    /// Where a frame with this number in its tag belongs, 0 being none: to the network's own segment, if to none of
    /// its VLANs. Errors: `Vlan`.
    fn classify(&self, id: u16) -> Result<Option<Vlan>, DropReason> {
        if !self.is_native(id) {
            return self.tagged(id).map(Some).ok_or(DropReason::Vlan);
        }
        match self.untagged {
            Untagged::Own => Ok(None),
            Untagged::Vlan(vlan) => Ok(Some(vlan)),
            Untagged::Nowhere => Err(DropReason::Vlan),
        }
    }
}

impl Port {
    /// Where a frame of this endpoint belongs: to the network's own segment, if to none of its VLANs. A tag of VLAN 0
    /// only gives a priority, and a tag within a tag is nobody's. Errors: `Vlan`.
    #[inline]
    pub(super) fn vlan_of(&self, packet: &Packet) -> Result<Option<Vlan>, DropReason> {
        if self.vlans.is_none() && packet.vlan.is_none() && !is_double(packet) {
            return Ok(None);
        }
        let id = packet.vlan.map_or(0, |tci| tci & VID);
        match &self.vlans {
            _ if is_double(packet) => Err(DropReason::Vlan),
            Some(vlans) => vlans.classify(id),
            None if id == 0 => Ok(None),
            None => Err(DropReason::Vlan),
        }
    }

    /// What says whether it may send a frame.
    #[inline]
    pub(super) fn guard_of(&self, packet: &Packet) -> Option<&Guard> {
        match &self.vlans {
            Some(vlans) if packet.vlan.is_some_and(|tci| !vlans.is_native(tci & VID)) => {
                vlans.guard.as_ref()
            }
            _ => self.guard.as_ref(),
        }
    }
}

/// True for a tag behind the one that is parsed, or one of another kind.
fn is_double(packet: &Packet) -> bool {
    matches!(packet.kind, Kind::Other(0x8100 | 0x88a8 | 0x9100))
}

/// Where a frame came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) port: PortId,
    /// None is the network's own segment.
    pub(super) vlan: Option<Vlan>,
}

impl Source {
    pub(super) const fn own(port: PortId) -> Self {
        Self { port, vlan: None }
    }
}

/// Where a frame leaves, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) port: PortId,
    /// Neighbours of one flow may leave as one.
    pub(super) merges: bool,
    retag: Retag,
}

impl Exit {
    /// For a frame of the network's own segment, which leaves without a tag: one that it has gave it a priority, or
    /// came from a trunk.
    #[inline]
    pub(super) fn own(port: &Port, packet: &Packet) -> Self {
        Self {
            port: port.id,
            merges: port.uso,
            retag: Retag::new(packet.vlan, None),
        }
    }

    /// For a frame of a VLAN that the endpoint is on, or of the own segment.
    #[inline]
    pub(super) fn new(port: &Port, vlan: Option<Vlan>, packet: &Packet) -> Self {
        let own = Self::own(port, packet);
        let Some(vlan) = vlan else {
            return own;
        };
        let tagged = |vlans: &std::sync::Arc<Vlans>| vlans.tagged(vlan.id).map(|v| v.id);
        Self {
            retag: Retag::new(packet.vlan, port.vlans.as_ref().and_then(tagged)),
            ..own
        }
    }

    /// Sends a frame that is in two parts, of which the first has its Ethernet header.
    #[inline]
    pub(super) fn send<H: Host>(
        self,
        host: &mut H,
        vnet: &VnetHdr,
        head: &[u8],
        rest: &[u8],
    ) -> bool {
        let rest = IoSlice::new(rest);
        if self.retag == Retag::Keep {
            let pieces = [IoSlice::new(head), rest];
            let pieces = if rest.is_empty() {
                pieces.get(..1).unwrap_or_default()
            } else {
                &pieces
            };
            return host.tx(self.port, vnet, pieces);
        }
        let tag = self.retag.tag();
        let [addresses, tag, head] = self.retag.pieces(head, &tag);
        let vnet = self.retag.vnet(vnet);
        host.tx(self.port, &vnet, &[addresses, tag, head, rest])
    }
}

impl Switch {
    /// Sends a frame of a VLAN to the one station that it is for, or to everybody there.
    pub(super) fn switch_vlan<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        (from, vlan): (PortId, Vlan),
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let source = Source {
            port: from,
            vlan: Some(vlan),
        };
        if packet.dst.is_group() {
            if self.snoop(host, cx.now, source, packet, frame)? {
                return Ok(Verdict::Answer);
            }
            return self.spread(host, cx.now, source, packet, vnet, frame);
        }
        let now = cx.now;
        let Some(port) = self.ports.get(from) else {
            return Err(DropReason::NoFlow);
        };
        let own = self.ports.by_mac_on(Some(vlan), packet.dst);
        let learned = || self.macs.lookup(vlan.segment, packet.dst, seconds(now));
        let to = own.or_else(learned).and_then(|to| self.ports.get(to));
        let Some(to) = to else {
            if let Some(limits) = &port.limits {
                limits.spread(now, || Load::of(frame, packet, vnet))?;
            }
            return self.spread(host, now, source, packet, vnet, frame);
        };
        let exit = Exit::new(to, Some(vlan), packet);
        if !self.config.icc || (to.isolated && port.isolated) {
            return Err(DropReason::Isolated);
        }
        if exit.port == from {
            return Err(DropReason::Hairpin);
        }
        if !egress::fits(frame, packet, vnet, to.mtu) {
            return Err(DropReason::TooBig);
        }
        if port.policy.is_some() || to.policy.is_some() {
            let ends = Ends::on(vlan.segment, from, exit.port);
            self.admit(host, cx, ends, packet, frame)?;
        }
        let to = self.ports.get(exit.port).ok_or(DropReason::NoFlow)?;
        if !to.has_room(now, frame, packet, vnet) {
            return Err(DropReason::RateLimited);
        }
        self.hand_over(host, exit, packet, vnet, frame)
    }
}
