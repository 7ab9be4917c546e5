//! `[7]` A super-frame to inner frames of the wire's size, without a copy of payload: the headers of each segment are
//! written anew, its payload stays where it is.
//!
//! What comes out is what `gso::split` makes, byte by byte; there the payload is copied as well. A checksum may be left
//! partial where the way itself says so: then nobody computes it.

use core::ops::Range;
use std::io::IoSlice;

use crate::verdict::DropReason;
use crate::wire::checksum::{consistent, finish, fold, pseudo, sum};
use crate::wire::packet::{Ip, PROTO_TCP, Packet};
use crate::wire::tcp::{CWR, FIN, PSH, TcpHeader};
use crate::wire::udp::UdpHeader;
use crate::wire::vnet_hdr::VnetHdr;
use crate::wire::{be16, put};

/// Headers of a frame that is cut, at most: Ethernet with a tag, IP and TCP with every option. Longer ones are refused.
pub const MAX_HEADERS: usize = 18 + 60 + 60;

/// Segments of a frame at most.
const MAX_SEGMENTS: usize = 1024;

/// Where a super-frame is cut, and what its segments have in common.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    l3: usize,
    ip: Ip,
    /// Where the payload starts.
    headers: usize,
    size: usize,
    count: usize,
    /// Identification of the first, for IPv4.
    id: u16,
    /// Sequence number of the first, flags of the whole, for TCP.
    tcp: Option<(u32, u8)>,
    /// What every segment adds to its checksum: the pseudo-header without its length.
    pseudo: u32,
}

impl Cut {
    /// Plans how to cut a frame of `len` bytes, of which `head` are the first: all headers, at least.
    /// Errors: `BadOffload` where the virtio header and the frame contradict each other, or where it is no super-frame;
    /// those of the parse.
    pub fn new(head: &[u8], len: usize, vnet: &VnetHdr) -> Result<Self, DropReason> {
        let packet = Packet::parse_head(head, len)?;
        let ip = consistent(&packet, vnet)?;
        if !vnet.is_gso() {
            return Err(DropReason::BadOffload);
        }
        let message = head.get(ip.l4..).ok_or(DropReason::Truncated)?;
        let (header, tcp) = if ip.proto == PROTO_TCP {
            let header = TcpHeader::parse(message)?;
            (header.len, Some((header.seq, header.flags)))
        } else {
            (UdpHeader::LEN, None)
        };
        let headers = ip.l4 + header;
        if headers > ip.end || headers > head.len() {
            return Err(DropReason::Truncated);
        }
        let (size, payload) = (usize::from(vnet.gso_size), ip.end - headers);
        let count = payload.div_ceil(size).max(1);
        if headers > MAX_HEADERS || count > MAX_SEGMENTS {
            return Err(DropReason::BadOffload);
        }
        Ok(Self {
            l3: packet.l3,
            ip,
            headers,
            size,
            count,
            id: be16(head, packet.l3 + 4).ok_or(DropReason::Truncated)?,
            tcp,
            pseudo: u32::from(pseudo(ip.src, ip.dst, ip.proto, 0)),
        })
    }

    /// How many segments there are; at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The length of the headers of every segment.
    #[must_use]
    pub fn headers(&self) -> usize {
        self.headers
    }

    /// The payload of every segment but the last, which may be shorter.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Where in a segment its checksum starts, and how far behind that its field is.
    #[must_use]
    pub fn checksum(&self) -> (usize, usize) {
        (self.ip.l4, self.field())
    }

    /// DSCP and ECN of the packet.
    #[must_use]
    pub fn tos(&self) -> u8 {
        self.ip.tos
    }

    /// Which bytes of the frame are the payload of segment number `index`.
    #[must_use]
    pub fn payload(&self, index: usize) -> Range<usize> {
        let at = |n: usize| self.headers.saturating_add(n.saturating_mul(self.size));
        at(index).min(self.ip.end)..at(index + 1).min(self.ip.end)
    }

    const fn field(&self) -> usize {
        if self.tcp.is_some() { 16 } else { 6 }
    }

    /// Writes the headers of segment number `index`. With the sum of its payload the checksum is completed, without it
    /// is left partial.
    /// Shape: `head` as for [`Self::new`]; `out` has [`Self::headers`] bytes or more.
    /// Errors: `BadOffload` where `out` is too short.
    pub fn write(
        &self,
        head: &[u8],
        index: usize,
        payload_sum: Option<u32>,
        out: &mut [u8],
    ) -> Result<(), DropReason> {
        let bad = DropReason::BadOffload;
        let out = out.get_mut(..self.headers).ok_or(bad)?;
        out.copy_from_slice(head.get(..self.headers).ok_or(bad)?);
        let (l3, l4) = (self.l3, self.ip.l4);
        let payload = self.payload(index);
        let end = self.headers + payload.len();
        let l4_len = short(end - l4)?;
        if self.ip.src.is_ipv4() {
            put(out, l3 + 2, &short(end - l3)?.to_be_bytes());
            let id = self.id.wrapping_add(short(index)?);
            put(out, l3 + 4, &id.to_be_bytes());
            put(out, l3 + 10, &[0, 0]);
            let csum = finish(fold(out.get(l3..l4).map_or(0, sum)));
            put(out, l3 + 10, &csum.to_be_bytes());
        } else {
            put(out, l3 + 4, &short(end - l3 - 40)?.to_be_bytes());
        }
        match self.tcp {
            Some((seq, flags)) => {
                let before = u32::try_from(payload.start - self.headers).map_err(|_| bad)?;
                let flags = if index == 0 { flags } else { flags & !CWR };
                let last = index + 1 == self.count;
                let flags = if last { flags } else { flags & !(FIN | PSH) };
                put(out, l4 + 4, &seq.wrapping_add(before).to_be_bytes());
                put(out, l4 + 13, &[flags]);
            }
            None => {
                put(out, l4 + 4, &l4_len.to_be_bytes());
            }
        }
        let field = l4 + self.field();
        let partial = self.pseudo + u32::from(l4_len);
        let csum = match payload_sum {
            None => fold(partial),
            Some(payload) => {
                put(out, field, &[0, 0]);
                // The headers of layer 4 have an even length: the payload starts at an even place.
                let whole = partial + out.get(l4..).map_or(0, sum) + payload;
                match finish(fold(whole)) {
                    // For UDP zero means none.
                    0 if self.tcp.is_none() => 0xffff,
                    csum => csum,
                }
            }
        };
        put(out, field, &csum.to_be_bytes());
        Ok(())
    }
}

fn short(len: usize) -> Result<u16, DropReason> {
    u16::try_from(len).map_err(|_| DropReason::BadOffload)
}

/// The bytes of a frame in pieces, from front to back.
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    here: &'a [u8],
    rest: &'a [IoSlice<'a>],
}

impl<'a> Walk<'a> {
    /// Starts at the frame's first byte.
    #[must_use]
    pub fn new(pieces: &'a [IoSlice<'a>]) -> Self {
        Self {
            here: &[],
            rest: pieces,
        }
    }

    /// Steps over the next bytes and gives them to `each`, in as many parts as pieces they lie in.
    /// Returns false if there were not as many.
    pub fn take(&mut self, mut len: usize, mut each: impl FnMut(&'a [u8])) -> bool {
        while len > 0 {
            if self.here.is_empty() {
                let Some((next, rest)) = self.rest.split_first() else {
                    return false;
                };
                (self.here, self.rest) = (next, rest);
                continue;
            }
            let (part, here) = self.here.split_at(len.min(self.here.len()));
            self.here = here;
            len -= part.len();
            each(part);
        }
        true
    }

    /// As [`Self::take`], and adds the bytes up as a checksum does. `None` if there were not as many.
    pub fn take_summed(&mut self, len: usize, mut each: impl FnMut(&'a [u8])) -> Option<u32> {
        let (mut total, mut odd) = (0, false);
        let whole = self.take(len, |part| {
            // Behind an odd byte the halves of a word stand the other way round.
            let part_sum = fold(sum(part));
            total += u32::from(if odd { part_sum.swap_bytes() } else { part_sum });
            odd ^= part.len() % 2 == 1;
            each(part);
        });
        whole.then_some(u32::from(fold(total)))
    }
}
