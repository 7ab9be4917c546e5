//! Builders of single frames, where a stack would not send what a test needs.

use core::net::{IpAddr, SocketAddr};

use crate::addr::Mac;
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Kind, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::vnet_hdr::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHdr};

/// An EtherType of nobody. Source: IEEE 802 section 9.2.3, for local experiments.
pub const EXPERIMENT: u16 = 0x88b5;

/// The two ends of a link.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// The sender.
    pub src: Mac,
    /// The receiver.
    pub dst: Mac,
}

impl Link {
    fn ip(self, src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> HeaderBuf {
        let mut head = HeaderBuf::new();
        let ethertype = if src.is_ipv4() { 0x0800 } else { 0x86dd };
        head.eth(self.dst, self.src, ethertype);
        head.ip(src, dst, proto, 64, 0, len);
        head
    }

    /// A frame of any other protocol.
    #[must_use]
    pub fn frame(self, ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut head = HeaderBuf::new();
        head.eth(self.dst, self.src, ethertype);
        [head.as_slice(), payload].concat()
    }

    /// An ARP request for `target`.
    #[must_use]
    pub fn arp(self, sender: core::net::Ipv4Addr, target: core::net::Ipv4Addr) -> Vec<u8> {
        let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
        body.extend_from_slice(&self.src.0);
        body.extend_from_slice(&sender.octets());
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&target.octets());
        self.frame(0x0806, &body)
    }

    /// A datagram, checksum complete.
    #[must_use]
    pub fn udp(self, src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let mut head = self.ip(src.ip(), dst.ip(), PROTO_UDP, 8 + payload.len());
        let l4 = head.as_slice().len();
        head.udp(src.port(), dst.port(), payload.len());
        head.set_full(l4, src.ip(), dst.ip(), PROTO_UDP, &[payload]);
        [head.as_slice(), payload].concat()
    }

    /// A super-frame of datagrams of `size` bytes.
    #[must_use]
    pub fn udp_run(
        self,
        src: SocketAddr,
        dst: SocketAddr,
        size: u16,
        payload: &[u8],
    ) -> (VnetHdr, Vec<u8>) {
        let len = 8 + payload.len();
        let mut head = self.ip(src.ip(), dst.ip(), PROTO_UDP, len);
        let l4 = head.as_slice().len();
        head.udp(src.port(), dst.port(), payload.len());
        let mut vnet = head.set_partial(l4, src.ip(), dst.ip(), PROTO_UDP, len);
        vnet.gso_type = GSO_UDP_L4;
        vnet.gso_size = size;
        (vnet, [head.as_slice(), payload].concat())
    }

    /// A segment, checksum complete.
    #[must_use]
    pub fn tcp(self, src: SocketAddr, dst: SocketAddr, segment: &Segment<'_>) -> Vec<u8> {
        let len = 20 + segment.options.len() + segment.payload.len();
        let mut head = self.ip(src.ip(), dst.ip(), PROTO_TCP, len);
        let l4 = head.as_slice().len();
        segment.write(&mut head, src, dst);
        head.set_full(l4, src.ip(), dst.ip(), PROTO_TCP, &[segment.payload]);
        [head.as_slice(), segment.payload].concat()
    }

    /// A super-frame of segments of `size` bytes.
    #[must_use]
    pub fn tcp_run(
        self,
        src: SocketAddr,
        dst: SocketAddr,
        size: u16,
        segment: &Segment<'_>,
    ) -> (VnetHdr, Vec<u8>) {
        let len = 20 + segment.options.len() + segment.payload.len();
        let mut head = self.ip(src.ip(), dst.ip(), PROTO_TCP, len);
        let l4 = head.as_slice().len();
        segment.write(&mut head, src, dst);
        let mut vnet = head.set_partial(l4, src.ip(), dst.ip(), PROTO_TCP, len);
        vnet.gso_type = if src.is_ipv4() { GSO_TCPV4 } else { GSO_TCPV6 };
        vnet.gso_size = size;
        (vnet, [head.as_slice(), segment.payload].concat())
    }

    /// An echo request, checksum complete.
    #[must_use]
    pub fn echo(self, src: IpAddr, dst: IpAddr, ident: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
        let kind = if src.is_ipv4() { 8 } else { 128 };
        let ([i0, i1], [s0, s1]) = (ident.to_be_bytes(), seq.to_be_bytes());
        self.icmp(
            src,
            dst,
            &[&[kind, 0, 0, 0, i0, i1, s0, s1], payload].concat(),
        )
    }

    /// An ICMP message, whose checksum is computed.
    #[must_use]
    pub fn icmp(self, src: IpAddr, dst: IpAddr, message: &[u8]) -> Vec<u8> {
        let proto = if src.is_ipv4() {
            PROTO_ICMP
        } else {
            PROTO_ICMPV6
        };
        let mut message = message.to_vec();
        message[2..4].fill(0);
        let mut total = crate::wire::checksum::sum(&message);
        if src.is_ipv6() {
            let len = message.len() as u32;
            total += u32::from(crate::wire::checksum::pseudo(src, dst, proto, len));
        }
        let csum = !crate::wire::checksum::fold(total);
        message[2..4].copy_from_slice(&csum.to_be_bytes());
        let head = self.ip(src, dst, proto, message.len());
        [head.as_slice(), &message].concat()
    }
}

/// What the receiver of a frame says if it has to go on over a link of this MTU and is too large; none if it is not,
/// or may be cut.
#[must_use]
pub fn too_big(frame: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let packet = Packet::parse(frame).ok()?;
    let Kind::Ip(ip) = packet.kind else {
        return None;
    };
    if ip.end - packet.l3 <= usize::from(mtu) || ip.src.is_ipv4() && !ip.dont_fragment {
        return None;
    }
    let [m0, m1] = mtu.to_be_bytes();
    let (kind, code) = if ip.src.is_ipv4() { (3, 4) } else { (2, 0) };
    let quote = &frame[packet.l3..ip.l4 + 8];
    let message = [&[kind, code, 0, 0, 0, 0, m0, m1], quote].concat();
    let back = Link {
        src: packet.dst,
        dst: packet.src,
    };
    Some(back.icmp(ip.dst, ip.src, &message))
}

/// What a TCP header says, and what follows it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Segment<'a> {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Options, filled up to a multiple of four bytes.
    pub options: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    fn write(&self, head: &mut HeaderBuf, src: SocketAddr, dst: SocketAddr) {
        head.tcp(
            src.port(),
            dst.port(),
            self.seq,
            self.ack,
            self.flags,
            self.window,
            self.options,
        );
    }
}
