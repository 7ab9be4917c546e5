//! Stages 2-8: Ports that lead to other hosts: what comes from there, and what goes.
//!
//! A frame from another host reaches endpoints of this one alone, never a third host: no loop can form. The gateway
//! is each host's own, and answers nobody from elsewhere; services do, at MACs of their own. Source: RFC 7348 section 4.

#[cfg(test)]
mod tests;

use core::net::IpAddr;

use super::ports::Port;
use super::rules::Ends;
use super::vlans::{Exit, Source, Vlan};
use super::{Switch, egress, seconds};
use crate::addr::{Mac, PortId};
use crate::flow::host::Host;
use crate::flow::tcp::Cx;
use crate::policy::limit::Load;
use crate::respond::Guest;
use crate::respond::icmp::IcmpError;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::{check_offload, patch};
use crate::wire::packet::{Ip, Kind, PROTO_TCP, Packet};
use crate::wire::tcp::{SYN, TcpHeader};
use crate::wire::vnet_hdr::VnetHdr;
use crate::wire::{be16, put};

/// What is special of a port that leads to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// Only stations that were announced may send.
    Announced,
    /// Stations are learned from what comes, as from a node that does not announce them.
    Learned,
    /// There are no stations: packets are routed there and come from there, by [`Switch::set_routes`].
    Routed,
}

/// The headers of IP and TCP without options.
const fn headers(v4: bool) -> u16 {
    if v4 { 40 } else { 60 }
}

impl Switch {
    /// Makes an endpoint of another host known: where it is, and that the gateway answers for it as for one of its own.
    pub fn set_remote(&mut self, port: PortId, guest: Guest) {
        self.ports.lead(guest.mac, port);
        self.config.gateway.guests.insert(guest);
    }

    /// Takes an endpoint of another host back. False if it is not there, or somewhere else by now.
    pub fn remove_remote(&mut self, port: PortId, mac: Mac) -> bool {
        let was_there = self.ports.unlead(mac, port);
        if was_there {
            self.config.gateway.guests.remove(mac);
        }
        was_there
    }

    /// Adds a port to another host, in place of one with the same number.
    pub fn add_remote_port(&mut self, port: Port) {
        self.rules.adopt(self.ports.get(port.id), &port);
        self.ports.insert(port);
        self.change_groups();
    }

    /// Says how large packets to another host may be.
    pub fn set_remote_mtu(&mut self, id: PortId, mtu: u16) {
        if let Some(port) = self.ports.get(id).filter(|p| p.mtu != mtu) {
            let port = Port {
                mtu,
                ..port.clone()
            };
            self.ports.insert(port);
        }
    }

    /// Takes a port to another host out, with every endpoint that is behind it, and says which those are.
    pub fn remove_remote_port(&mut self, id: PortId) -> Vec<Mac> {
        self.set_routes(id, &[]);
        self.rules.forget(id);
        self.forget_groups(id);
        self.set_wants(id, None);
        let gone = self.ports.unlead_all(id);
        for &mac in &gone {
            self.config.gateway.guests.remove(mac);
        }
        self.ports.remove(id);
        gone
    }

    /// Takes a frame from another host.
    pub(super) fn arrived<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        from: PortId,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let Some(port) = self.ports.get(from) else {
            return Err(DropReason::NoFlow);
        };
        if packet.dst.is_bridge_reserved() {
            return Err(DropReason::Reserved);
        }
        if port.remote == Some(Remote::Routed) {
            return self.arrived_bare(host, cx, from, packet, vnet, frame);
        }
        let vlan = port.vlan_of(packet)?;
        check_offload(frame.len(), packet, vnet)?;
        if let Some(limits) = &port.limits {
            let to_all = packet.dst.is_group() && !self.may_have_members(packet, frame);
            limits.sent(cx.now, to_all, || Load::of(frame, packet, vnet))?;
        }
        self.vouched(Source { port: from, vlan }, packet, frame)?;
        self.note_sender(cx, Source { port: from, vlan }, packet.src)?;
        if packet.dst.is_group() {
            if vlan.is_none()
                && self.services.is_some()
                && self.tell_node(host, from, packet, frame)?
            {
                return Ok(Verdict::Answer);
            }
            // What it says of groups is noted; members here hear of it, and so do routers.
            let source = Source { port: from, vlan };
            if self.snoop(host, cx.now, source, packet, frame)? {
                return Ok(Verdict::Answer);
            }
            return self.spread(
                host,
                cx.now,
                Source { port: from, vlan },
                packet,
                vnet,
                frame,
            );
        }
        if vlan.is_none() {
            if packet.dst == self.config.gateway.mac {
                return Err(DropReason::NotRouted);
            }
            if self.services.is_some()
                && let Some(verdict) = self.serve_elsewhere(host, cx, from, packet, vnet, frame)?
            {
                return Ok(verdict);
            }
        }
        self.bring_home(host, cx, (from, vlan), packet, vnet, frame)
    }

    /// Checks that a frame speaks for no endpoint that is elsewhere, nor for the gateway, and that it does not make
    /// itself a router or a server. Errors: `SpoofedAddress`, `Spoofed`, those of the guard.
    fn vouched(&self, from: Source, packet: &Packet, frame: &[u8]) -> Result<(), DropReason> {
        let gw = &self.config.gateway;
        let is_others = |addr: IpAddr| {
            let holder = gw.guests.by_addr(addr);
            gw.owns(addr)
                || gw.guests.is_virtual(addr)
                || holder.is_some_and(|g| g.mac != packet.src)
        };
        let Some(port) = self.ports.get(from.port) else {
            return Err(DropReason::NoFlow);
        };
        if let Some(guard) = &port.guard {
            guard.check(packet, frame, &|a| is_others(a.into()))?;
        }
        if from.vlan.is_some() {
            return Ok(());
        }
        let learns = port.remote == Some(Remote::Learned);
        let strange = |addr: IpAddr| {
            let known = gw.guests.by_addr(addr).is_some();
            is_others(addr) || (!learns && !known && gw.covers(addr))
        };
        match packet.kind {
            Kind::Ip(ip) if strange(ip.src) => Err(DropReason::SpoofedAddress),
            Kind::Arp => match sender(packet, frame) {
                Some(addr) if strange(addr) => Err(DropReason::SpoofedArp),
                _ => Ok(()),
            },
            Kind::Ip(_) | Kind::Other(_) => Ok(()),
        }
    }

    /// Notes where the sender is. Errors: `Spoofed` for a station of this host, of a third one, or that nobody has
    /// announced; those of [`Self::note_station`].
    fn note_sender(&mut self, cx: &Cx, from: Source, mac: Mac) -> Result<(), DropReason> {
        if !mac.is_station() || mac == self.config.gateway.mac {
            return Err(DropReason::Spoofed);
        }
        let learns = |port: &Port| port.remote == Some(Remote::Learned);
        match self.ports.by_mac(mac) {
            Some(known) if known != from.port => return Err(DropReason::Spoofed),
            Some(_) if from.vlan.is_none() => return Ok(()),
            None if !self.ports.get(from.port).is_some_and(learns) => {
                return Err(DropReason::Spoofed);
            }
            Some(_) | None => {}
        }
        if self
            .ports
            .by_mac_on(from.vlan, mac)
            .is_some_and(|p| p != from.port)
        {
            return Err(DropReason::Spoofed);
        }
        self.note_station(from, mac, cx.now)
    }

    /// Sends a frame of another host to the endpoint that it is for, or to all while nobody knows where that is.
    fn bring_home<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        (from, vlan): (PortId, Option<Vlan>),
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let now = cx.now;
        let segment = vlan.map_or(self.config.network, |v| v.segment);
        let own = self.ports.by_mac_on(vlan, packet.dst);
        let learned = || self.macs.lookup(segment, packet.dst, seconds(now));
        let to = own.or_else(learned).and_then(|to| self.ports.get(to));
        let Some(to) = to else {
            return self.spread(host, now, Source { port: from, vlan }, packet, vnet, frame);
        };
        if to.remote.is_some() {
            return Err(DropReason::Hairpin);
        }
        if !self.config.icc {
            return Err(DropReason::Isolated);
        }
        if !egress::fits(frame, packet, vnet, to.mtu) {
            return Err(DropReason::TooBig);
        }
        let exit = Exit::new(to, vlan, packet);
        if to.policy.is_some() {
            self.admit(host, cx, ends(vlan, from, exit.port), packet, frame)?;
        }
        let room = |p: &Port| p.has_room(now, frame, packet, vnet);
        if !self.ports.get(exit.port).is_some_and(room) {
            return Err(DropReason::RateLimited);
        }
        let mtu = self.ports.get(from).map_or(u16::MAX, |p| p.mtu);
        self.send_clamped(host, exit, mtu, (packet, vnet), frame)
    }

    /// Sends a frame of an endpoint here to one of another host. A packet that is too big for the way there is
    /// answered as a router would.
    pub(super) fn depart<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        (from, to): (PortId, PortId),
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let (Some(port), Some(to)) = (self.ports.get(from), self.ports.get(to)) else {
            return Err(DropReason::NoFlow);
        };
        let (exit, mtu) = (Exit::own(to, packet), to.mtu);
        if !egress::fits(frame, packet, vnet, mtu) {
            return Err(self.say_too_big(host, from, mtu, packet, frame));
        }
        if port.policy.is_some() || to.policy.is_some() {
            self.admit(host, cx, Ends::own(from, exit.port), packet, frame)?;
        }
        self.send_clamped(host, exit, mtu, (packet, vnet), frame)
    }

    pub(super) fn say_too_big<H: Host>(
        &mut self,
        host: &mut H,
        from: PortId,
        mtu: u16,
        packet: &Packet,
        frame: &[u8],
    ) -> DropReason {
        let reason = DropReason::TooBig;
        if !matches!(packet.kind, Kind::Ip(ip) if ip.dont_fragment) {
            return reason;
        }
        let refused = self.refuse(host, from, frame, IcmpError::TooBig(mtu), reason);
        refused.err().unwrap_or(reason)
    }

    /// Sends a frame; one that opens a connection says no more than what fits the way.
    #[inline]
    pub(super) fn send_clamped<H: Host>(
        &mut self,
        host: &mut H,
        exit: Exit,
        mtu: u16,
        (packet, vnet): (&Packet, &VnetHdr),
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        if let Kind::Ip(ip) = &packet.kind
            && let Some(whole) = self.clamped(ip, vnet, frame, mtu)
        {
            let sent = self.hand_over(host, exit, packet, vnet, &whole);
            self.whole = whole;
            return sent;
        }
        self.hand_over(host, exit, packet, vnet, frame)
    }

    /// A frame that opens a connection with segments which fit an MTU, where it does not as it is. It is in the memory
    /// of `whole`, which is to be given back.
    #[inline]
    pub(super) fn clamped(
        &mut self,
        ip: &Ip,
        vnet: &VnetHdr,
        frame: &[u8],
        mtu: u16,
    ) -> Option<Vec<u8>> {
        let at = mss_above(ip, frame, mtu)?;
        let most = mtu.saturating_sub(headers(ip.src.is_ipv4()));
        let mut whole = core::mem::take(&mut self.whole);
        whole.clear();
        whole.extend_from_slice(frame);
        write_mss(&mut whole, ip, vnet, at, most);
        Some(whole)
    }
}

fn ends(vlan: Option<Vlan>, from: PortId, to: PortId) -> Ends {
    match vlan {
        None => Ends::own(from, to),
        Some(vlan) => Ends::on(vlan.segment, from, to),
    }
}

/// The sender's address in an ARP packet, unless it is a probe.
fn sender(packet: &Packet, frame: &[u8]) -> Option<IpAddr> {
    let addr: &[u8; 4] = frame.get(packet.l3 + 14..)?.first_chunk()?;
    Some(IpAddr::from(*addr)).filter(|a| !a.is_unspecified())
}

/// Where in a frame the greatest segment stands that a connection is opened with, if it is too great for the way.
/// Source: RFC 9293 section 3.7.1.
#[inline]
fn mss_above(ip: &Ip, frame: &[u8], mtu: u16) -> Option<usize> {
    if ip.proto != PROTO_TCP || ip.frag.is_some() || frame.get(ip.l4 + 13)? & SYN == 0 {
        return None;
    }
    let segment = frame.get(ip.l4..ip.end)?;
    let end = TcpHeader::parse(segment).ok()?.len;
    let most = mtu.saturating_sub(headers(ip.src.is_ipv4()));
    let mut at = 20;
    while at < end {
        match (segment.get(at)?, segment.get(at + 1)) {
            (0, _) => return None,
            (1, _) => at += 1,
            (2, Some(4)) if be16(segment, at + 2)? > most => return Some(ip.l4 + at + 2),
            (_, Some(&len)) if len >= 2 => at += usize::from(len),
            _ => return None,
        }
    }
    None
}

/// Writes a segment size, and has the checksum follow.
fn write_mss(frame: &mut [u8], ip: &Ip, vnet: &VnetHdr, at: usize, mss: u16) {
    let (old, new) = (be16(frame, at).unwrap_or(0), mss.to_be_bytes());
    let field = ip.l4 + 16;
    put(frame, at, &new);
    if vnet.needs_csum() {
        return;
    }
    let csum = be16(frame, field).unwrap_or(0);
    // Behind an odd byte the halves of a word stand the other way round.
    let swap = |v: [u8; 2]| {
        if (at - ip.l4) % 2 == 1 {
            [v[1], v[0]]
        } else {
            v
        }
    };
    let csum = patch(csum, &swap(old.to_be_bytes()), &swap(new));
    put(frame, field, &csum.to_be_bytes());
}
