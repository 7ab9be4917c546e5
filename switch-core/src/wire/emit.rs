//! Stage 7: Writing of headers into a small buffer on the stack; payload travels beside it.

use core::net::IpAddr;

use arrayvec::ArrayVec;

use super::checksum::{finish, fold, pseudo, sum};
use super::packet::{PROTO_TCP, PROTO_UDP};
use super::put;
use super::vnet_hdr::{NEEDS_CSUM, VnetHdr};
use crate::addr::Mac;

/// Room for Ethernet, IPv6 and TCP with all its options, and some.
const ROOM: usize = 128;

/// Headers in the making, from Ethernet on. What would not fit is left out; nothing here comes near.
#[derive(Debug, Clone, Default)]
pub struct HeaderBuf(ArrayVec<u8, ROOM>);

impl HeaderBuf {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    fn push(&mut self, bytes: &[u8]) {
        let _ = self.0.try_extend_from_slice(bytes);
    }

    /// The Ethernet header.
    pub fn eth(&mut self, dst: Mac, src: Mac, ethertype: u16) {
        self.push(&dst.0);
        self.push(&src.0);
        self.push(&ethertype.to_be_bytes());
    }

    /// An IP header of the addresses' family, not to be fragmented. Units: `l4_len` in bytes, header included.
    pub fn ip(&mut self, src: IpAddr, dst: IpAddr, proto: u8, ttl: u8, tos: u8, l4_len: usize) {
        match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                self.ipv4(
                    s.octets(),
                    d.octets(),
                    (proto, ttl, tos),
                    (0, 0x4000),
                    l4_len,
                );
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                self.ipv6(s.octets(), d.octets(), (proto, ttl, tos), l4_len);
            }
            // Two families in one packet cannot be written: callers pair them by construction.
            _ => {}
        }
    }

    /// An IPv4 header with this identification and flags/offset field, its checksum computed.
    pub fn ipv4(
        &mut self,
        src: [u8; 4],
        dst: [u8; 4],
        (proto, ttl, tos): (u8, u8, u8),
        (id, flags): (u16, u16),
        l4_len: usize,
    ) {
        let start = self.0.len();
        let total = u16::try_from(20 + l4_len).unwrap_or(u16::MAX).to_be_bytes();
        let (id, flags) = (id.to_be_bytes(), flags.to_be_bytes());
        self.push(&[
            0x45, tos, total[0], total[1], id[0], id[1], flags[0], flags[1], ttl, proto, 0, 0,
        ]);
        self.push(&src);
        self.push(&dst);
        let csum = finish(fold(self.0.get(start..).map_or(0, sum)));
        put(&mut self.0, start + 10, &csum.to_be_bytes());
    }

    /// An IPv6 header without extensions.
    pub fn ipv6(
        &mut self,
        src: [u8; 16],
        dst: [u8; 16],
        (proto, hop, tclass): (u8, u8, u8),
        l4_len: usize,
    ) {
        let len = u16::try_from(l4_len).unwrap_or(u16::MAX).to_be_bytes();
        self.push(&[
            0x60 | (tclass >> 4),
            tclass << 4,
            0,
            0,
            len[0],
            len[1],
            proto,
            hop,
        ]);
        self.push(&src);
        self.push(&dst);
    }

    /// An IPv6 fragment header. Units: `field` is the offset in bytes, its lowest bit set if more follow.
    pub fn fragment(&mut self, next: u8, field: u16, id: u32) {
        let field = field.to_be_bytes();
        self.push(&[next, 0, field[0], field[1]]);
        self.push(&id.to_be_bytes());
    }

    /// A TCP header; its checksum is set afterwards. Shape: `options` padded to four bytes.
    #[allow(
        clippy::too_many_arguments,
        reason = "one argument a field of the header, in its order"
    )]
    pub fn tcp(
        &mut self,
        src_port: u16,
        dst_port: u16,
        seq: u32,
        ack: u32,
        flags: u8,
        window: u16,
        options: &[u8],
    ) {
        self.push(&src_port.to_be_bytes());
        self.push(&dst_port.to_be_bytes());
        self.push(&seq.to_be_bytes());
        self.push(&ack.to_be_bytes());
        let words = u8::try_from((20 + options.len()) / 4).unwrap_or(15);
        let window = window.to_be_bytes();
        self.push(&[words << 4, flags, window[0], window[1], 0, 0, 0, 0]);
        self.push(options);
    }

    /// A UDP header; its checksum is set afterwards. Units: payload bytes.
    pub fn udp(&mut self, src_port: u16, dst_port: u16, payload_len: usize) {
        self.push(&src_port.to_be_bytes());
        self.push(&dst_port.to_be_bytes());
        self.push(
            &u16::try_from(8 + payload_len)
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        self.push(&[0, 0]);
    }

    /// Leaves the L4 checksum to whoever sends the frame: the field gets the pseudo-header's sum.
    pub fn set_partial(
        &mut self,
        l4: usize,
        src: IpAddr,
        dst: IpAddr,
        proto: u8,
        l4_len: usize,
    ) -> VnetHdr {
        let len = u32::try_from(l4_len).unwrap_or(u32::MAX);
        let Some(offset) = field(proto) else {
            return VnetHdr::default();
        };
        put(
            &mut self.0,
            l4 + offset,
            &pseudo(src, dst, proto, len).to_be_bytes(),
        );
        VnetHdr {
            flags: NEEDS_CSUM,
            hdr_len: u16::try_from(self.0.len()).unwrap_or(u16::MAX),
            csum_start: u16::try_from(l4).unwrap_or(u16::MAX),
            csum_offset: u16::try_from(offset).unwrap_or(0),
            ..VnetHdr::default()
        }
    }

    /// Computes the L4 checksum over headers and payload. Shape: every piece but the last has an even length.
    pub fn set_full(&mut self, l4: usize, src: IpAddr, dst: IpAddr, proto: u8, payload: &[&[u8]]) {
        let head = self.0.get(l4..).unwrap_or_default();
        let len = head.len() + payload.iter().map(|p| p.len()).sum::<usize>();
        let mut total = u32::from(pseudo(
            src,
            dst,
            proto,
            u32::try_from(len).unwrap_or(u32::MAX),
        ));
        total += u32::from(fold(sum(head)));
        for piece in payload {
            total += u32::from(fold(sum(piece)));
        }
        let csum = match finish(fold(total)) {
            0 if proto == PROTO_UDP => 0xffff,
            c => c,
        };
        if let Some(offset) = field(proto) {
            put(&mut self.0, l4 + offset, &csum.to_be_bytes());
        }
    }
}

/// Where a protocol has its checksum.
const fn field(proto: u8) -> Option<usize> {
    match proto {
        PROTO_TCP => Some(16),
        PROTO_UDP => Some(6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::{complete_partial, l4_valid};
    use crate::wire::packet::{Kind, Packet};

    fn check(src: &str, dst: &str) {
        let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        let payload = b"seventeen bytes!!";
        let mut h = HeaderBuf::new();
        let v4 = src.is_ipv4();
        h.eth(Mac([2; 6]), Mac([4; 6]), if v4 { 0x0800 } else { 0x86dd });
        h.ip(src, dst, PROTO_TCP, 64, 0x10, 32 + payload.len());
        h.tcp(80, 4000, 7, 9, 0x18, 100, &[1; 12]);
        let l4 = if v4 { 34 } else { 54 };
        let mut full = h.clone();
        full.set_full(l4, src, dst, PROTO_TCP, &[payload]);
        let full = [full.as_slice(), payload].concat();
        let vnet = h.set_partial(l4, src, dst, PROTO_TCP, 32 + payload.len());
        let mut partial = [h.as_slice(), payload].concat();
        complete_partial(&mut partial, &vnet).unwrap();
        assert_eq!(partial, full);
        let Kind::Ip(ip) = Packet::parse(&full).unwrap().kind else {
            panic!("not IP")
        };
        assert!(l4_valid(src, dst, PROTO_TCP, &full[ip.l4..ip.end]));
        let parsed = etherparse::PacketHeaders::from_ethernet_slice(&full).unwrap();
        assert_eq!(parsed.payload.slice(), payload);
    }

    #[test]
    fn both_families_parse_and_check() {
        check("10.0.0.1", "10.0.0.2");
        check("fd00::1", "fd00::2");
    }
}
