//! `[7]` One super-frame to frames of the wire's size, for endpoints without segmentation offload.
//! Source: RFC 9293 section 3.8.4, RFC 6864, and what linux/net/ipv4/{tcp,udp}_offload.c puts on the wire.

use crate::verdict::DropReason;
use crate::wire::checksum::{complete_partial, consistent, finish, fold, pseudo, sum};
use crate::wire::packet::{Ip, PROTO_TCP, Packet};
use crate::wire::tcp::{CWR, FIN, PSH, TcpHeader};
use crate::wire::udp::UdpHeader;
use crate::wire::vnet_hdr::VnetHdr;
use crate::wire::{be16, put};

/// Segments of a frame at most: 64 KB at the smallest MSS that our own TCP uses. What sandboxes may ask
/// for is stricter, and checked where their frames come in.
const MAX_SEGMENTS: usize = 1024;

/// Cuts a frame into what its virtio header asks for and gives each frame, with full checksums, to `each`.
/// A frame that is no super-frame is given once, its checksum completed.
/// Shape: `frame` starts at the Ethernet header; bytes behind the IP packet are left out of segments.
/// Cost: one copy into `scratch`, which is reused between calls. Returns how many were given.
/// Errors: `BadOffload` where virtio header and frame contradict each other; then nothing was given.
pub fn split(
    frame: &[u8],
    vnet: &VnetHdr,
    scratch: &mut Vec<u8>,
    each: &mut impl FnMut(&[u8]),
) -> Result<usize, DropReason> {
    scratch.clear();
    if !vnet.is_gso() {
        scratch.extend_from_slice(frame);
        complete_partial(scratch, vnet)?;
        each(scratch);
        return Ok(1);
    }
    let packet = Packet::parse(frame)?;
    let cut = Cut::new(frame, packet.l3, consistent(&packet, vnet)?)?;
    let size = usize::from(vnet.gso_size);
    if cut.payload.len() > size * MAX_SEGMENTS {
        return Err(DropReason::BadOffload);
    }
    let mut count = 0;
    let mut at = 0;
    loop {
        cut.write(scratch, count, at, at + size)?;
        each(scratch);
        count += 1;
        at += size;
        if at >= cut.payload.len() {
            return Ok(count);
        }
    }
}

/// What is the same for every segment.
struct Cut<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    l3: usize,
    ip: Ip,
    /// Identification of the first, for IPv4.
    id: u16,
    /// Sequence number of the first, flags of the whole, for TCP.
    tcp: Option<(u32, u8)>,
}

impl<'a> Cut<'a> {
    fn new(frame: &'a [u8], l3: usize, ip: Ip) -> Result<Self, DropReason> {
        let message = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
        let (len, tcp) = if ip.proto == PROTO_TCP {
            let header = TcpHeader::parse(message)?;
            (header.len, Some((header.seq, header.flags)))
        } else {
            (UdpHeader::LEN, None)
        };
        let (headers, payload) = frame
            .get(..ip.end)
            .and_then(|f| f.split_at_checked(ip.l4 + len))
            .ok_or(DropReason::Truncated)?;
        let id = be16(frame, l3 + 4).ok_or(DropReason::Truncated)?;
        Ok(Self {
            headers,
            payload,
            l3,
            ip,
            id,
            tcp,
        })
    }

    /// Puts segment number `index`, payload bytes from `at` to `to` or the end, into `out`.
    fn write(
        &self,
        out: &mut Vec<u8>,
        index: usize,
        at: usize,
        to: usize,
    ) -> Result<(), DropReason> {
        let last = to >= self.payload.len();
        let piece = self.payload.get(at..to.min(self.payload.len()));
        out.clear();
        out.extend_from_slice(self.headers);
        out.extend_from_slice(piece.unwrap_or_default());
        let (l3, l4) = (self.l3, self.ip.l4);
        let len = out.len();
        let l4_len = len.saturating_sub(l4);
        if self.ip.src.is_ipv4() {
            put(out, l3 + 2, &short(len.saturating_sub(l3))?);
            let id = u16::try_from(index).map_err(|_| DropReason::BadOffload)?;
            put(out, l3 + 4, &self.id.wrapping_add(id).to_be_bytes());
            put(out, l3 + 10, &[0, 0]);
            let csum = finish(fold(out.get(l3..l4).map_or(0, sum)));
            put(out, l3 + 10, &csum.to_be_bytes());
        } else {
            put(out, l3 + 4, &short(len.saturating_sub(l3 + 40))?);
        }
        let field = match self.tcp {
            Some((seq, flags)) => {
                let before = u32::try_from(at).map_err(|_| DropReason::BadOffload)?;
                let flags = if index == 0 { flags } else { flags & !CWR };
                let flags = if last { flags } else { flags & !(FIN | PSH) };
                put(out, l4 + 4, &seq.wrapping_add(before).to_be_bytes());
                put(out, l4 + 13, &[flags]);
                l4 + 16
            }
            None => {
                put(out, l4 + 4, &short(l4_len)?);
                l4 + 6
            }
        };
        put(out, field, &[0, 0]);
        let l4_len = u32::try_from(l4_len).map_err(|_| DropReason::BadOffload)?;
        let whole = u32::from(pseudo(self.ip.src, self.ip.dst, self.ip.proto, l4_len))
            + out.get(l4..).map_or(0, sum);
        let csum = match finish(fold(whole)) {
            // For UDP zero means none.
            0 if self.tcp.is_none() => 0xffff,
            c => c,
        };
        put(out, field, &csum.to_be_bytes());
        Ok(())
    }
}

/// A length field.
fn short(len: usize) -> Result<[u8; 2], DropReason> {
    u16::try_from(len)
        .map(u16::to_be_bytes)
        .map_err(|_| DropReason::BadOffload)
}
