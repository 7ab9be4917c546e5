//! Stages 2 and 6: Frames for the gateway that are not whole yet: pieces of a datagram, and packets in whose payload a
//! checksum is still to be computed.

use super::Switch;
use crate::addr::PortId;
use crate::flow::host::Host;
use crate::flow::tcp::Cx;
use crate::respond::icmp::{self, IcmpError};
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::complete_partial;
use crate::wire::packet::{Kind, Packet};
use crate::wire::vnet_hdr::VnetHdr;

use core::net::IpAddr;
use std::io::IoSlice;

impl Switch {
    /// Takes a piece, and the whole datagram with the last of them.
    pub(super) fn piece<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        port: PortId,
        packet: &Packet,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        self.expire_fragments(host, cx.now);
        let Some(whole) = self.frags.push(cx.now, frame, packet)? else {
            return Ok(Verdict::Translate);
        };
        let packet = Packet::parse(&whole)?;
        let Kind::Ip(mut ip) = packet.kind else {
            return Err(DropReason::Malformed);
        };
        if ip.frag.is_some() {
            return Err(DropReason::Fragment);
        }
        // What its sender has cut may be cut again, in IPv6 too.
        ip.dont_fragment = false;
        self.translate(host, cx, port, (&packet, &ip), &VnetHdr::default(), &whole)
    }

    /// Gives up datagrams that took too long, and tells their senders.
    pub(super) fn expire_fragments<H: Host>(&mut self, host: &mut H, now: Tick) {
        let Self {
            frags,
            config,
            ports,
            out,
            drops,
            ..
        } = self;
        let gw = &config.gateway;
        let lost = frags.handle_timeout(now, &mut |first| {
            let Ok(packet) = Packet::parse(first) else {
                return;
            };
            let router = match packet.kind {
                Kind::Ip(ip) if ip.src.is_ipv4() => gw.v4.map(|v| IpAddr::V4(v.0)),
                Kind::Ip(_) => gw.v6.map(|v| IpAddr::V6(v.0)),
                Kind::Arp | Kind::Other(_) => None,
            };
            let port = ports.by_mac(packet.src);
            if let (Some(router), Some(port)) = (router, port)
                && icmp::error(gw, router, first, IcmpError::ReassemblyTimeExceeded, out)
            {
                host.tx(port, &VnetHdr::default(), &[IoSlice::new(out)]);
            }
        });
        for _ in 0..lost {
            drops.count(DropReason::Fragment);
        }
    }

    /// Takes a packet in whose payload a checksum is only partial, as that of a packet in a tunnel. It is computed
    /// first: the host's sockets do not, and the packet's own checksum, which covers it, is verified afterwards.
    pub(super) fn inner_partial<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        port: PortId,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let mut whole = core::mem::take(&mut self.whole);
        whole.clear();
        whole.extend_from_slice(frame);
        let verdict = complete_partial(&mut whole, vnet)
            .and_then(|()| self.gateway_frame(host, cx, port, packet, &VnetHdr::default(), &whole));
        self.whole = whole;
        verdict
    }
}
