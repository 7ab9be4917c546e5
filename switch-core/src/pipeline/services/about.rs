//! Stage 6: What is no conversation of a service, but may be about one: pings of its address, and errors. An error
//! about a packet of a conversation goes to who sent that, about the packet as it was sent.
//! Source: RFC 5508 sections 3.2 and 4.

#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::io::IoSlice;

use super::Arrived;
use crate::conntrack::switched::Target;
use crate::conntrack::tuple::{Role, Tuple};
use crate::flow::host::Host;
use crate::flow::tcp::Cx;
use crate::nat::quote::requote;
use crate::nat::service::Services;
use crate::pipeline::{Switch, seconds};
use crate::respond::icmp;
use crate::verdict::{DropReason, Verdict};
use crate::wire::packet::{PROTO_ICMP, PROTO_ICMPV6};
use crate::wire::vnet_hdr::VnetHdr;

impl Switch {
    /// Takes a frame that is neither TCP nor UDP. `None` if no service has to do with it.
    /// Errors: `Refused` for what is to a service's address and no ping, nor about one of its conversations.
    pub(super) fn about<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        services: &Services,
        arrived: Arrived<'_>,
    ) -> Result<Option<Verdict>, DropReason> {
        let Arrived { ip, frame, .. } = arrived;
        let message = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
        let (tuple, role) = Tuple::of(self.config.network, ip, frame)?;
        if role == Role::Serves {
            return Ok(None);
        }
        if role == Role::Reports
            && let Some(verdict) = self.error_about(host, cx, services, arrived, &tuple)?
        {
            return Ok(Some(verdict));
        }
        if services.owns(ip.dst) {
            return self.ping(host, arrived, message).map(Some);
        }
        Ok(None)
    }

    /// Brings an error of one side of a conversation to the other, and learns about the backend's health from it.
    fn error_about<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        services: &Services,
        arrived: Arrived<'_>,
        quoted: &Tuple,
    ) -> Result<Option<Verdict>, DropReason> {
        let Arrived {
            from,
            packet,
            ip,
            vnet,
            frame,
        } = arrived;
        let now = seconds(cx.now);
        // The packet came to who complains, and its answers would go where the error has to.
        let answer = quoted.reversed();
        let found = self.rules.table().peek(&answer, now);
        let Some((found, target)) = found.and_then(|f| Some((f, f.target?))) else {
            return Ok(None);
        };
        if ip.src != answer.src || ip.frag.is_some() {
            return Ok(None);
        }
        let message = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
        if !icmp::valid(ip, message) {
            return Err(DropReason::BadChecksum);
        }
        if !self.client_ok(from, ip, packet.src) {
            return Err(DropReason::Spoofed);
        }
        if found.reply && is_unreachable(ip.src, message) {
            services.fails(target.src.0, (from, packet.src), now);
        }
        let is_there = self.is_there(&target);
        let Target {
            src,
            dst,
            mac,
            port,
        } = target;
        let Some(to) = self.ports.get(port).filter(|_| is_there) else {
            return Err(DropReason::NoFlow);
        };
        if !to.has_room(cx.now, frame, packet, vnet) {
            return Err(DropReason::RateLimited);
        }
        // No error is longer than this. Source: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4.
        let mut told = [0; 1280];
        let told = told.get_mut(..message.len()).ok_or(DropReason::TooBig)?;
        told.copy_from_slice(message);
        if !requote(told, dst, src) {
            return Err(DropReason::Malformed);
        }
        let macs = (self.face(to, src.0), mac);
        icmp::relay(macs, (src.0, dst.0), told, &mut self.out);
        if host.tx(port, &VnetHdr::default(), &[IoSlice::new(&self.out)]) {
            Ok(Some(Verdict::Forward(port)))
        } else {
            Err(DropReason::TxFailed)
        }
    }

    /// Answers a ping of a service's address.
    fn ping<H: Host>(
        &mut self,
        host: &mut H,
        arrived: Arrived<'_>,
        message: &[u8],
    ) -> Result<Verdict, DropReason> {
        let Arrived {
            from, packet, ip, ..
        } = arrived;
        let echo = matches!(
            (ip.proto, message.first()),
            (PROTO_ICMP, Some(8)) | (PROTO_ICMPV6, Some(128))
        );
        let ids = message.get(4..8).and_then(|ids| ids.first_chunk::<4>());
        let (true, Some(ids), None) = (echo, ids, ip.frag) else {
            return Err(DropReason::Refused);
        };
        if !icmp::valid(ip, message) {
            return Err(DropReason::BadChecksum);
        }
        let Some(to) = self.ports.get(from) else {
            return Err(DropReason::NoFlow);
        };
        icmp::echo_reply(
            (self.face(to, ip.dst), packet.src),
            (ip.dst, ip.src),
            *ids,
            message.get(8..).unwrap_or_default(),
            &mut self.out,
        );
        host.tx(from, &VnetHdr::default(), &[IoSlice::new(&self.out)]);
        Ok(Verdict::Answer)
    }
}

/// True for an error that says that nobody is there, and not that a packet was too big.
fn is_unreachable(family: IpAddr, message: &[u8]) -> bool {
    matches!(
        (family, message),
        (IpAddr::V4(_), [3, 0..=3 | 5..=15, ..]) | (IpAddr::V6(_), [1, ..])
    )
}
