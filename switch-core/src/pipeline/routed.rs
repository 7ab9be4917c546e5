//! Stages 2-8: Ports to hosts that take packets and know no stations: the gateway is a router to their prefixes.
//! Source: RFC 1812 section 5; flannel's udp backend, where each host has a part of one address space.

#[cfg(test)]
mod tests;

use core::net::IpAddr;

use super::rules::Ends;
use super::services::Arrived;
use super::vlans::Exit;
use super::{Switch, egress};
use crate::addr::PortId;
use crate::flow::host::Host;
use crate::flow::tcp::Cx;
use crate::policy::limit::Load;
use crate::respond::icmp::IcmpError;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::{check_offload, patch};
use crate::wire::packet::{Ip, Kind, Packet};
use crate::wire::vnet_hdr::VnetHdr;
use crate::wire::{be16, put};

/// A frame up to this size is copied to be changed, and neighbours are merged. Of a larger one the headers are.
const SMALL: usize = 2_048;

impl Switch {
    /// Sets which prefixes are behind a port to another host, in place of those that were.
    pub fn set_routes(&mut self, port: PortId, prefixes: &[(IpAddr, u8)]) {
        self.config.gateway.guests.routes.set(port, prefixes);
    }

    /// Sends a packet for the gateway on to the host whose prefix it is for. `None` where no route has to do with it.
    /// Errors: `NotRouted` for an address of the network that is nobody's; `Spoofed`, `Isolated`, `TtlExpired`, `TooBig`,
    /// those of the rules.
    pub(super) fn route<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        arrived: &Arrived<'_>,
    ) -> Result<Option<Verdict>, DropReason> {
        let Arrived {
            from,
            packet,
            ip,
            vnet,
            frame,
        } = *arrived;
        let gw = &self.config.gateway;
        let Some(to) = gw.guests.routes.find(ip.dst) else {
            if gw.has(ip.dst) || !gw.covers(ip.dst) {
                return Ok(None);
            }
            let (what, reason) = (IcmpError::NetUnreachable, DropReason::NotRouted);
            return self.refuse(host, from, frame, what, reason).map(Some);
        };
        if !self.source_ok(ip, packet.src) {
            return Err(DropReason::Spoofed);
        }
        let (Some(port), Some(to)) = (self.ports.get(from), self.ports.get(to)) else {
            return Err(DropReason::NoFlow);
        };
        if !self.config.icc || (port.isolated && to.isolated) {
            return Err(DropReason::Isolated);
        }
        if ip.ttl <= 1 {
            let (what, reason) = (IcmpError::TimeExceeded, DropReason::TtlExpired);
            return self.refuse(host, from, frame, what, reason).map(Some);
        }
        let (exit, mtu) = (Exit::own(to, packet), to.mtu);
        if !egress::fits(frame, packet, vnet, mtu) {
            return Err(self.say_too_big(host, from, mtu, packet, frame));
        }
        if port.policy.is_some() || to.policy.is_some() {
            self.admit(host, cx, Ends::own(from, exit.port), packet, frame)?;
        }
        let (l3, v4) = (packet.l3, ip.src.is_ipv4());
        let older = |head: &mut [u8]| lower_ttl(head, l3, v4);
        self.relay(host, (exit, mtu), (packet, ip, vnet), frame, older)
            .map(Some)
    }

    /// Takes a packet from another host, for an endpoint of this one: the last router on its way has counted it.
    /// Shape: the MACs of the frame are nobody's.
    pub(super) fn arrived_bare<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        from: PortId,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let Kind::Ip(ip) = &packet.kind else {
            return Err(DropReason::UnknownProtocol);
        };
        let Some(port) = self.ports.get(from) else {
            return Err(DropReason::NoFlow);
        };
        check_offload(frame.len(), packet, vnet)?;
        if let Some(limits) = &port.limits {
            limits.sent(cx.now, false, || Load::of(frame, packet, vnet))?;
        }
        let gw = &self.config.gateway;
        if gw.guests.routes.find(ip.src) != Some(from) || gw.has(ip.src) {
            return Err(DropReason::SpoofedAddress);
        }
        if let Some(guard) = &port.guard {
            guard.check(packet, frame, &|addr| gw.has(addr.into()))?;
        }
        let guest = gw.guests.by_addr(ip.dst).map(|guest| guest.mac);
        let to = guest.and_then(|mac| self.ports.by_mac(mac));
        let Some((mac, to)) = guest.zip(to.and_then(|to| self.ports.get(to))) else {
            return Err(DropReason::NotRouted);
        };
        if to.remote.is_some() {
            return Err(DropReason::NotRouted);
        }
        if !self.config.icc || (port.isolated && to.isolated) {
            return Err(DropReason::Isolated);
        }
        if !egress::fits(frame, packet, vnet, to.mtu) {
            return Err(DropReason::TooBig);
        }
        let (exit, mtu) = (Exit::own(to, packet), port.mtu);
        if to.policy.is_some() || port.policy.is_some() {
            self.admit(host, cx, Ends::own(from, exit.port), packet, frame)?;
        }
        let room = |to: &super::Port| to.has_room(cx.now, frame, packet, vnet);
        if !self.ports.get(exit.port).is_some_and(room) {
            return Err(DropReason::RateLimited);
        }
        let gateway = self.config.gateway.mac;
        let addressed = |head: &mut [u8]| {
            put(head, 0, &mac.0);
            put(head, 6, &gateway.0);
        };
        self.relay(host, (exit, mtu), (packet, ip, vnet), frame, addressed)
    }

    /// Sends a frame on with its headers changed.
    fn relay<H: Host>(
        &mut self,
        host: &mut H,
        (exit, mtu): (Exit, u16),
        (packet, ip, vnet): (&Packet, &Ip, &VnetHdr),
        frame: &[u8],
        change: impl FnOnce(&mut [u8]),
    ) -> Result<Verdict, DropReason> {
        let at = if frame.len() > SMALL {
            ip.l4
        } else {
            frame.len()
        };
        let (head, rest) = frame.split_at_checked(at).ok_or(DropReason::Truncated)?;
        let mut copy = core::mem::take(&mut self.out);
        copy.clear();
        copy.extend_from_slice(head);
        change(&mut copy);
        let sent = if rest.is_empty() {
            self.send_clamped(host, exit, mtu, (packet, vnet), &copy)
        } else {
            self.end_run(host);
            if exit.send(host, vnet, &copy, rest) {
                Ok(Verdict::Forward(exit.port))
            } else {
                Err(DropReason::TxFailed)
            }
        };
        self.out = copy;
        sent
    }
}

/// Takes one from a packet's time to live. Source: RFC 1812 section 5.3.1, RFC 8200 section 3.
fn lower_ttl(frame: &mut [u8], l3: usize, v4: bool) {
    if !v4 {
        if let Some(limit) = frame.get_mut(l3 + 7) {
            *limit = limit.saturating_sub(1);
        }
        return;
    }
    let field = |at: usize| be16(frame, at).unwrap_or(0);
    let (before, csum) = (field(l3 + 8), field(l3 + 10));
    // The upper byte of the word that it shares with the protocol.
    let after = before.saturating_sub(1 << 8).to_be_bytes();
    let csum = patch(csum, &before.to_be_bytes(), &after);
    put(frame, l3 + 8, &after);
    put(frame, l3 + 10, &csum.to_be_bytes());
}
