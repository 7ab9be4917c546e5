//! `[7]` Neighbours of one flow to one super-frame, without a copy of payload: the writer sends the run's
//! headers and a range of every frame in it. Only frames that are waiting already are offered.
//!
//! Merged is only what `split` undoes bit by bit (but for the identification of IPv4, which means nothing
//! where DF is set, RFC 6864), and only checksums that are partial or verified: else a bad one would
//! leave as a good one.

use core::ops::Range;

use arrayvec::ArrayVec;

use crate::wire::checksum::{MIN_TCP_GSO, finish, fold, pseudo, sum};
use crate::wire::packet::{Ip, Kind, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::tcp::{ACK, ECE, FIN, PSH, TcpHeader};
use crate::wire::udp::UdpHeader;
use crate::wire::vnet_hdr::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHdr};
use crate::wire::{be16, put};

/// Frames of a run at most. Source: UDP_MAX_SEGMENTS of linux/udp.h before 6.9; also keeps the list of pieces short.
pub const MAX_RUN: usize = 64;
/// Ethernet, IP and TCP headers of a frame that is merged, at most.
const MAX_HEADERS: usize = 128;
/// Bytes of an IP packet at most, by its length field.
const MAX_PACKET: usize = 65_535;

/// Frames of one flow that leave as one.
#[derive(Debug, Clone)]
pub struct Run {
    first: Frame,
    headers: ArrayVec<u8, MAX_HEADERS>,
    vnet: VnetHdr,
    frames: usize,
    bytes: usize,
    /// Flags of all segments, for TCP.
    flags: u8,
    /// Nothing may follow a segment that is short, pushed or the last.
    closed: bool,
}

impl Run {
    /// Starts a run with a frame; none if the frame has to stay alone.
    /// Shape: `packet` is the parse of `frame`.
    #[must_use]
    pub fn start(frame: &[u8], packet: &Packet, vnet: &VnetHdr) -> Option<Self> {
        let first = Frame::new(frame, packet, vnet)?;
        let bytes = first.payload.len();
        if first.tcp.is_some() && bytes < usize::from(MIN_TCP_GSO) {
            return None;
        }
        let headers = frame.get(..first.payload.start)?;
        Some(Self {
            headers: headers.try_into().ok()?,
            vnet: *vnet,
            frames: 1,
            bytes,
            flags: first.flags(),
            closed: first.ends(),
            first,
        })
    }

    /// Adds the next frame. Returns which bytes of it follow those of the run, or none if it does not
    /// belong, and the run is as it was.
    #[must_use]
    pub fn add(&mut self, frame: &[u8], packet: &Packet, vnet: &VnetHdr) -> Option<Range<usize>> {
        if self.closed || self.frames >= MAX_RUN {
            return None;
        }
        let next = Frame::new(frame, packet, vnet)?;
        let size = self.first.payload.len();
        let bytes = self.bytes + next.payload.len();
        let packet_len = self.headers.len() - self.first.l3 + bytes;
        if next.payload.len() > size || packet_len > MAX_PACKET {
            return None;
        }
        let same = next.l3 == self.first.l3
            && next.ip.l4 == self.first.ip.l4
            && next.payload.start == self.first.payload.start
            && self.same_headers(frame, &next);
        if !same || !self.first.followed_by(&next, self.bytes) {
            return None;
        }
        self.frames += 1;
        self.bytes = bytes;
        self.flags |= next.flags();
        self.closed = next.ends() || next.payload.len() < size;
        Some(next.payload)
    }

    /// Frames in the run.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Which bytes of the first frame are payload.
    #[must_use]
    pub fn first_payload(&self) -> Range<usize> {
        self.first.payload.clone()
    }

    /// Writes the headers of the whole. They are followed by the payload of the first frame and by what
    /// `add` returned. A run of one frame gets that frame's own headers back.
    pub fn finish(&mut self) -> (VnetHdr, &[u8]) {
        if self.frames == 1 {
            return (self.vnet, &self.headers);
        }
        let Frame { l3, ip, tcp, .. } = self.first;
        let end = self.headers.len() + self.bytes;
        // `add` keeps the packet within its length field.
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        let h = &mut self.headers;
        if ip.src.is_ipv4() {
            put(h, l3 + 2, &short(end - l3).to_be_bytes());
            put(h, l3 + 10, &[0, 0]);
            let csum = finish(fold(h.get(l3..ip.l4).map_or(0, sum)));
            put(h, l3 + 10, &csum.to_be_bytes());
        } else {
            put(h, l3 + 4, &short(end - l3 - 40).to_be_bytes());
        }
        if tcp.is_some() {
            put(h, ip.l4 + 13, &[self.flags]);
        } else {
            put(h, ip.l4 + 4, &short(end - ip.l4).to_be_bytes());
        }
        let len = u32::from(short(end - ip.l4));
        let partial = pseudo(ip.src, ip.dst, ip.proto, len);
        put(h, ip.l4 + field(ip.proto), &partial.to_be_bytes());
        let vnet = VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: match (tcp.is_some(), ip.src.is_ipv4()) {
                (false, _) => GSO_UDP_L4,
                (true, true) => GSO_TCPV4,
                (true, false) => GSO_TCPV6,
            },
            hdr_len: short(h.len()),
            gso_size: short(self.first.payload.len()),
            csum_start: short(ip.l4),
            csum_offset: short(field(ip.proto)),
        };
        (vnet, h)
    }

    /// Compares all that `split` would copy from the first frame's headers.
    fn same_headers(&self, frame: &[u8], next: &Frame) -> bool {
        let same = |from: usize, to: usize| {
            let ours = self.headers.get(from..to);
            ours.is_some() && ours == frame.get(from..to)
        };
        let (l3, l4) = (next.l3, next.ip.l4);
        let ip = if next.ip.src.is_ipv4() {
            // Not: total length, identification, checksum.
            same(l3, l3 + 2) && same(l3 + 6, l3 + 10) && same(l3 + 12, l4)
        } else {
            // Not: payload length.
            same(l3, l3 + 4) && same(l3 + 6, l4)
        };
        let message = match next.tcp {
            // Not: sequence number, flags, checksum.
            Some(_) => {
                same(l4, l4 + 4)
                    && same(l4 + 8, l4 + 13)
                    && same(l4 + 14, l4 + 16)
                    && same(l4 + 18, next.payload.start)
            }
            None => same(l4, l4 + 4),
        };
        same(0, l3) && ip && message
    }
}

/// A frame that may be part of a run.
#[derive(Debug, Clone)]
struct Frame {
    l3: usize,
    ip: Ip,
    /// Sequence number and flags, for TCP.
    tcp: Option<(u32, u8)>,
    payload: Range<usize>,
}

impl Frame {
    /// None for a frame that must stay alone.
    fn new(frame: &[u8], packet: &Packet, vnet: &VnetHdr) -> Option<Self> {
        let Kind::Ip(ip) = packet.kind else {
            return None;
        };
        if vnet.is_gso() || !vnet.csum_trusted() || ip.frag.is_some() || !ip.dont_fragment {
            return None;
        }
        // Extension headers may say things about a single packet: such packets stay alone.
        if ip.src.is_ipv6() && ip.l4 != packet.l3 + 40 {
            return None;
        }
        let message = frame.get(ip.l4..ip.end)?;
        let (header, tcp) = match ip.proto {
            PROTO_TCP => {
                let h = TcpHeader::parse(message).ok()?;
                if h.flags & !(PSH | FIN | ECE) != ACK {
                    return None;
                }
                (h.len, Some((h.seq, h.flags)))
            }
            PROTO_UDP => {
                let h = UdpHeader::parse(message).ok()?;
                if usize::from(h.len) != message.len() {
                    return None;
                }
                (UdpHeader::LEN, None)
            }
            _ => return None,
        };
        let payload = ip.l4 + header..ip.end;
        let good = !payload.is_empty() && checksum_stands(message, ip, vnet);
        good.then_some(Self {
            l3: packet.l3,
            ip,
            tcp,
            payload,
        })
    }

    fn flags(&self) -> u8 {
        self.tcp.map_or(0, |(_, flags)| flags)
    }

    /// True for a segment that nothing may follow in a super-frame.
    fn ends(&self) -> bool {
        self.flags() & (PSH | FIN) != 0
    }

    /// True if `next` continues a stream of `bytes` bytes that starts here, in the same state.
    fn followed_by(&self, next: &Self, bytes: usize) -> bool {
        match (self.tcp, next.tcp) {
            (Some((seq, flags)), Some((next_seq, next_flags))) => {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                next_seq == seq.wrapping_add(bytes) && (flags ^ next_flags) & ECE == 0
            }
            (None, None) => true,
            _ => false,
        }
    }
}

/// True if a super-frame's new checksum says no more than the frame's own did.
fn checksum_stands(message: &[u8], ip: Ip, vnet: &VnetHdr) -> bool {
    let at = field(ip.proto);
    let Some(value) = be16(message, at) else {
        return false;
    };
    if !vnet.needs_csum() {
        // Verified; but a datagram without a checksum must stay one without.
        return ip.proto == PROTO_TCP || value != 0;
    }
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    usize::from(vnet.csum_start) == ip.l4
        && usize::from(vnet.csum_offset) == at
        && value == pseudo(ip.src, ip.dst, ip.proto, len)
}

/// Where a protocol has its checksum.
const fn field(proto: u8) -> usize {
    if proto == PROTO_TCP { 16 } else { 6 }
}
