//! Stage 4-6: What is addressed to the gateway's MAC: services of its own, and everything that is to be routed.

use core::net::{IpAddr, SocketAddr};
use std::io::IoSlice;

use super::Switch;
use super::services::Arrived;
use crate::addr::{Mac, PortId};
use crate::flow::host::{Host, HostError};
use crate::flow::tcp::{Cx, Key, OpenError, TcpFlows};
use crate::respond::dns::Client;
use crate::respond::icmp::IcmpError;
use crate::respond::{icmp, udp_frame};
use crate::time::Tick;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::l4_valid;
use crate::wire::packet::{Ip, Kind, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::put;
use crate::wire::tcp::{ACK, RST, SYN, TcpHeader, TcpOptions};
use crate::wire::too_big::TooBig;
use crate::wire::udp::UdpHeader;
use crate::wire::vnet_hdr::{GSO_UDP_L4, VnetHdr};

/// The port of name service.
const DNS: u16 = 53;

impl Switch {
    pub(crate) fn gateway_frame<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        port: PortId,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let Kind::Ip(ip) = packet.kind else {
            return if self.answer(host, port, packet, frame)? {
                Ok(Verdict::Answer)
            } else {
                Err(DropReason::UnknownProtocol)
            };
        };
        let arrived = Arrived {
            from: port,
            packet,
            ip: &ip,
            vnet,
            frame,
        };
        if let Some(verdict) = self.service(host, cx, arrived)? {
            return Ok(verdict);
        }
        if !self.config.gateway.guests.routes.is_empty()
            && let Some(verdict) = self.route(host, cx, &arrived)?
        {
            return Ok(verdict);
        }
        if ip.proto == PROTO_TCP && ip.frag.is_none() {
            return self.tcp(host, cx, port, (packet, &ip), vnet, frame);
        }
        if ip.frag.is_some() {
            return self.piece(host, cx, port, packet, frame);
        }
        self.translate(host, cx, port, (packet, &ip), vnet, frame)
    }

    pub(super) fn translate<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        port: PortId,
        (packet, ip): (&Packet, &Ip),
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        match ip.proto {
            PROTO_TCP => self.tcp(host, cx, port, (packet, ip), vnet, frame),
            PROTO_UDP => self.datagram(host, cx, port, (packet, ip), vnet, frame),
            PROTO_ICMP | PROTO_ICMPV6 => {
                if self.answer(host, port, packet, frame)? {
                    return Ok(Verdict::Answer);
                }
                self.icmp(host, cx, port, (packet, ip), frame)
            }
            _ => self.refuse(
                host,
                port,
                frame,
                IcmpError::ProtocolUnreachable,
                DropReason::UnknownProtocol,
            ),
        }
    }

    /// Sends an ICMP error about a frame, and names the reason it is dropped for.
    pub(super) fn refuse<H: Host>(
        &mut self,
        host: &mut H,
        port: PortId,
        frame: &[u8],
        what: IcmpError,
        reason: DropReason,
    ) -> Result<Verdict, DropReason> {
        let Ok(Packet {
            kind: Kind::Ip(ip), ..
        }) = Packet::parse(frame)
        else {
            return Err(reason);
        };
        let gw = &self.config.gateway;
        let station = self.service_towards(port, ip.dst);
        let router = match (station, ip.src) {
            (Some(_), _) => Some(ip.dst),
            (None, IpAddr::V4(_)) => gw.v4.map(|v| IpAddr::V4(v.0)),
            (None, IpAddr::V6(_)) => gw.v6.map(|v| IpAddr::V6(v.0)),
        };
        if let Some(router) = router
            && icmp::error(gw, router, frame, what, &mut self.out)
        {
            if let Some(station) = station {
                put(&mut self.out, 6, &station.0);
            }
            host.tx(port, &VnetHdr::default(), &[IoSlice::new(&self.out)]);
        }
        Err(reason)
    }

    /// The guard on sources: a packet comes from an address of the endpoint, and not from the gateway's.
    pub(super) fn source_ok(&self, ip: &Ip, mac: Mac) -> bool {
        let Some(guest) = self.config.gateway.guest(mac) else {
            return false;
        };
        match ip.src {
            IpAddr::V4(a) => guest.v4 == Some(a),
            // SLAAC and privacy addresses are the guest's choice within the prefix.
            IpAddr::V6(a) => {
                guest.v6 == Some(a)
                    || self.config.gateway.v6.is_some_and(|(own, prefix)| {
                        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                        own != a && own.to_bits() & mask == a.to_bits() & mask
                    })
            }
        }
    }

    fn tcp<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        port: PortId,
        (packet, ip): (&Packet, &Ip),
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let segment = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
        let hdr = TcpHeader::parse(segment)?;
        if !vnet.csum_trusted() && !l4_valid(ip.src, ip.dst, PROTO_TCP, segment) {
            return Err(DropReason::BadChecksum);
        }
        let key = Key {
            guest: ip.src,
            guest_port: hdr.src_port,
            remote: ip.dst,
            remote_port: hdr.dst_port,
        };
        let opening = hdr.flags & (SYN | ACK | RST) == SYN;
        if let Some(id) = self.tcp.find(&key)
            && !(opening && self.tcp.is_over(id))
        {
            self.tcp.segment(host, cx, id, &hdr, segment)?;
            return Ok(Verdict::Translate);
        }
        // Behind the flows: a client of the host may be shown to a sandbox with this very address and port.
        if hdr.dst_port == DNS && self.config.gateway.owns(ip.dst) {
            return self.names_segment(host, cx, port, (packet, ip), (&hdr, segment), &key);
        }
        if !self.source_ok(ip, packet.src) {
            return Err(DropReason::Spoofed);
        }
        if !opening {
            TcpFlows::refuse(host, cx, port, packet.src, ip, &hdr, segment.len());
            return Err(DropReason::NoFlow);
        }
        if ip.ttl <= 1 {
            return self.refuse(
                host,
                port,
                frame,
                IcmpError::TimeExceeded,
                DropReason::TtlExpired,
            );
        }
        let to = match self.destination(PROTO_TCP, SocketAddr::new(ip.dst, hdr.dst_port)) {
            Ok(to) => to,
            Err(reason) => {
                TcpFlows::refuse(host, cx, port, packet.src, ip, &hdr, segment.len());
                return Err(reason);
            }
        };
        self.opens(host, cx, port, (packet, ip), frame)?;
        let options = segment
            .get(20..hdr.len)
            .map(TcpOptions::parse)
            .unwrap_or_default();
        match self
            .tcp
            .open(host, cx, (port, packet.src), (ip, &hdr, &options), to)
        {
            Ok(()) => Ok(Verdict::Translate),
            Err(OpenError::Drop(reason)) => Err(reason),
            Err(OpenError::Host(error)) => {
                let what = match error {
                    HostError::NetUnreachable => IcmpError::NetUnreachable,
                    HostError::HostUnreachable => IcmpError::HostUnreachable,
                    HostError::Forbidden => IcmpError::Prohibited,
                    HostError::Exhausted => return Err(DropReason::HostExhausted),
                    HostError::Refused
                    | HostError::Reset
                    | HostError::TimedOut
                    | HostError::TooBig
                    | HostError::WouldBlock
                    | HostError::Other => {
                        TcpFlows::refuse(host, cx, port, packet.src, ip, &hdr, segment.len());
                        return Err(DropReason::HostError);
                    }
                };
                self.refuse(host, port, frame, what, DropReason::HostError)
            }
        }
    }

    /// Where a conversation with `to` really goes. At the gateway's own address there is name service only, which
    /// does not come here.
    fn destination(&self, proto: u8, to: SocketAddr) -> Result<SocketAddr, DropReason> {
        if !self.config.gateway.uplink {
            return Err(DropReason::Refused);
        }
        let gw = &self.config.gateway;
        let alias = match to.ip() {
            IpAddr::V4(a) => self.config.rule.loopback_v4 == Some(a),
            IpAddr::V6(a) => self.config.rule.loopback_v6 == Some(a),
        };
        if gw.owns(to.ip()) && (!alias || to.port() == DNS) {
            return Err(DropReason::Refused);
        }
        self.config.rule.check(proto, to, &self.own)
    }

    fn datagram<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        port: PortId,
        (packet, ip): (&Packet, &Ip),
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let datagram = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
        let udp = if vnet.gso_kind() == GSO_UDP_L4 {
            // The length field of a super-frame is the kernel's to fill in.
            UdpHeader {
                len: u16::MAX,
                ..UdpHeader::parse(datagram)?
            }
        } else {
            UdpHeader::parse(datagram)?
        };
        if !vnet.csum_trusted() {
            let whole = datagram.get(..usize::from(udp.len)).unwrap_or(datagram);
            if (udp.checksum == 0 && ip.src.is_ipv6())
                || !l4_valid(ip.src, ip.dst, PROTO_UDP, whole)
            {
                return Err(DropReason::BadChecksum);
            }
        }
        if self.answer(host, port, packet, frame)? {
            return Ok(Verdict::Answer);
        }
        if !self.source_ok(ip, packet.src) {
            return Err(DropReason::Spoofed);
        }
        let payload = datagram
            .get(UdpHeader::LEN..usize::from(udp.len).min(datagram.len()))
            .unwrap_or_default();
        let guest = SocketAddr::new(ip.src, udp.src_port);
        let shown = SocketAddr::new(ip.dst, udp.dst_port);
        if udp.dst_port == DNS && self.config.gateway.owns(ip.dst) {
            let client = Client {
                port,
                mac: packet.src,
                addr: guest,
                server: shown,
                stream: None,
            };
            if let Some(answer) =
                self.dns
                    .handle_query(cx.now, client, &self.config.gateway, payload, host)
            {
                self.name_answer(host, cx.now, &client, &answer);
            }
            return Ok(Verdict::Answer);
        }
        if ip.ttl <= 1 {
            return self.refuse(
                host,
                port,
                frame,
                IcmpError::TimeExceeded,
                DropReason::TtlExpired,
            );
        }
        let client = self.udp.client(guest, shown);
        let real = match client.map_or_else(|| self.destination(PROTO_UDP, shown), Ok) {
            Ok(real) => real,
            Err(DropReason::Refused) => {
                return self.refuse(
                    host,
                    port,
                    frame,
                    IcmpError::PortUnreachable,
                    DropReason::Refused,
                );
            }
            Err(reason) => return Err(reason),
        };
        if client.is_none() && !self.udp.knows(guest, shown) {
            self.opens(host, cx, port, (packet, ip), frame)?;
        }
        self.udp.from_guest(
            host,
            cx,
            (port, packet.src, guest),
            (shown, real),
            (ip, vnet),
            payload,
        )?;
        Ok(Verdict::Translate)
    }

    /// Brings an answer to who asked, the way that it asked.
    pub(crate) fn name_answer<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        client: &Client,
        answer: &[u8],
    ) {
        self.note_answer(now, client.port, answer);
        if let Some(stream) = client.stream {
            self.names.answer(now, stream, answer);
            return;
        }
        let gw = self.config.gateway.mac;
        let (from, to) = (client.server, client.addr);
        udp_frame(
            (gw, client.mac),
            (from.ip(), from.port()),
            (to.ip(), to.port()),
            answer,
            &mut self.out,
        );
        host.tx(client.port, &VnetHdr::default(), &[IoSlice::new(&self.out)]);
    }

    fn icmp<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        port: PortId,
        (packet, ip): (&Packet, &Ip),
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let message = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
        if let Some(said) = TooBig::parse(ip.src.is_ipv4(), message) {
            return self.too_big(cx, (packet, ip), message, &said);
        }
        let wanted = if ip.src.is_ipv4() { 8 } else { 128 };
        if message.first() != Some(&wanted) {
            return Err(DropReason::UnknownProtocol);
        }
        if !icmp::valid(ip, message) {
            return Err(DropReason::BadChecksum);
        }
        if !self.source_ok(ip, packet.src) {
            return Err(DropReason::Spoofed);
        }
        if ip.ttl <= 1 {
            return self.refuse(
                host,
                port,
                frame,
                IcmpError::TimeExceeded,
                DropReason::TtlExpired,
            );
        }
        let real = match self.destination(ip.proto, SocketAddr::new(ip.dst, 0)) {
            Ok(real) => real.ip(),
            Err(DropReason::Refused) => {
                return self.refuse(
                    host,
                    port,
                    frame,
                    IcmpError::Prohibited,
                    DropReason::Refused,
                );
            }
            Err(reason) => return Err(reason),
        };
        if !self.echo.knows(ip, message) {
            self.opens(host, cx, port, (packet, ip), frame)?;
        }
        match self
            .echo
            .from_guest(host, cx.now, (port, packet.src), (ip, real), message)
        {
            Ok(()) => Ok(Verdict::Translate),
            Err(DropReason::Refused) => self.refuse(
                host,
                port,
                frame,
                IcmpError::Prohibited,
                DropReason::Refused,
            ),
            Err(DropReason::HostError) => self.refuse(
                host,
                port,
                frame,
                IcmpError::HostUnreachable,
                DropReason::HostError,
            ),
            Err(reason) => Err(reason),
        }
    }
}
