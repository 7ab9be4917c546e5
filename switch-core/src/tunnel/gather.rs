//! `[7]` Neighbours of one flow, as datagrams brought them, to one super-frame, in place: payload moves to the front of the
//! buffer, over the headers that are not needed any more.
//!
//! A checksum is verified before its frame is merged, or is partial by what the sender says of it. A frame whose checksum
//! is wrong stays alone, and leaves with the wrong checksum.

use core::ops::Range;

use arrayvec::ArrayVec;

use super::cut::MAX_HEADERS;
use super::vxlan::HEADER;
use crate::gso::merge::Run;
use crate::wire::be16;
use crate::wire::checksum::{l4_valid, pseudo};
use crate::wire::packet::{Ip, Kind, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::tcp::TcpHeader;
use crate::wire::vnet_hdr::{DATA_VALID, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, VnetHdr};

/// What a frame's sender said about its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Nothing: it is looked at.
    Nothing,
    /// It is partial: where it starts, from the frame's start, and how far behind that its field is.
    Partial(u16, u16),
}

/// Bytes that an opened datagram has before the payload that is merged: at most.
const MAX_LEAD: usize = HEADER + MAX_HEADERS;

/// Frames in one buffer that are made one.
#[derive(Debug, Default)]
pub struct Gather {
    run: Option<Run>,
    /// Where the run lies.
    whole: Range<usize>,
    /// What stood where a datagram was opened to, up to the end of the run.
    covered: ArrayVec<u8, MAX_LEAD>,
}

impl Gather {
    /// Where the plain text of a datagram at `at` should start, so that its payload need not be moved afterwards: not
    /// behind `at`. What stands there is kept until the frame is pushed, or [`Self::uncover`] says that there is none.
    /// Shape: the plain text is a VXLAN header and a frame.
    pub fn cover(&mut self, buf: &[u8], at: usize) -> usize {
        self.covered.clear();
        let Some(run) = &self.run else { return at };
        let lead = HEADER + run.first_payload().start;
        let Some(start) = self
            .whole
            .end
            .checked_sub(lead)
            .filter(|&start| start >= self.whole.start)
        else {
            return at;
        };
        match buf.get(start..self.whole.end) {
            Some(under) if start <= at && self.covered.try_extend_from_slice(under).is_ok() => {
                start
            }
            _ => at,
        }
    }

    /// Brings back what a datagram was opened over, when it turned out to be none.
    pub fn uncover(&mut self, buf: &mut [u8]) {
        self.swap_covered(buf);
        self.covered.clear();
    }

    fn swap_covered(&mut self, buf: &mut [u8]) {
        let start = self.whole.end.saturating_sub(self.covered.len());
        if let Some(under) = buf.get_mut(start..self.whole.end) {
            under.swap_with_slice(&mut self.covered);
        }
    }

    /// Takes the frame at `frame` in the buffer. It joins the one before it, or that is given to `each` and this one is
    /// the next to be joined; what has to stay alone is given at once.
    /// Shape: frames are pushed from the front of the buffer to its end. Units: `mtu` is that of the network, by which an
    /// uncut segment of TCP is to be cut.
    pub fn push(
        &mut self,
        buf: &mut [u8],
        frame: Range<usize>,
        said: Said,
        mtu: u16,
        each: &mut impl FnMut(&VnetHdr, &[u8]),
    ) {
        let bytes = buf.get(frame.clone()).unwrap_or_default();
        let parsed = Packet::parse(bytes).ok();
        let vnet = parsed
            .as_ref()
            .map_or_else(VnetHdr::default, |p| vouch(bytes, p, said, mtu));
        if let (Some(run), Some(packet)) = (&mut self.run, &parsed)
            && let Some(payload) = run.add(bytes, packet, &vnet)
        {
            let payload = frame.start + payload.start..frame.start + payload.end;
            let len = payload.len();
            if payload.start == self.whole.end {
                // What it covered comes back: headers of this frame are not needed any more.
                self.uncover(buf);
            } else {
                buf.copy_within(payload, self.whole.end);
            }
            self.whole.end += len;
            return;
        }
        self.end(buf, each);
        let bytes = buf.get(frame.clone()).unwrap_or_default();
        let run = parsed.as_ref().and_then(|p| Run::start(bytes, p, &vnet));
        match run {
            Some(run) => {
                self.whole = frame.start..frame.start + run.first_payload().end;
                self.run = Some(run);
            }
            None => each(&vnet, bytes),
        }
    }

    /// Gives what is left to `each`. To be called before the buffer has other content, and before a frame of another
    /// network or sender is pushed.
    pub fn end(&mut self, buf: &mut [u8], each: &mut impl FnMut(&VnetHdr, &[u8])) {
        let Some(mut run) = self.run.take() else {
            return;
        };
        self.swap_covered(buf);
        if let Some(bytes) = buf.get_mut(self.whole.clone()) {
            let joined = run.frames() > 1;
            let (vnet, headers) = run.finish();
            if joined && let Some(place) = bytes.get_mut(..headers.len()) {
                place.copy_from_slice(headers);
            }
            each(&vnet, bytes);
        }
        self.uncover(buf);
    }
}

/// What the virtio header of a frame that came alone may say.
fn vouch(frame: &[u8], packet: &Packet, said: Said, mtu: u16) -> VnetHdr {
    let plain = VnetHdr::default();
    if let Said::Partial(csum_start, csum_offset) = said {
        return VnetHdr {
            flags: NEEDS_CSUM,
            csum_start,
            csum_offset,
            ..plain
        };
    }
    let Kind::Ip(ip) = packet.kind else {
        return plain;
    };
    let message = frame.get(ip.l4..ip.end).unwrap_or_default();
    let field = match ip.proto {
        PROTO_TCP => 16_u16,
        PROTO_UDP => 6,
        _ => return plain,
    };
    let (Some(csum), None) = (be16(message, usize::from(field)), ip.frag) else {
        return plain;
    };
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let is_partial = csum == pseudo(ip.src, ip.dst, ip.proto, len);
    // An uncut segment is none that came over a wire: its sender is a device of this machine.
    let uncut = is_partial && ip.end - packet.l3 > usize::from(mtu);
    if !uncut && l4_valid(ip.src, ip.dst, ip.proto, message) {
        return VnetHdr {
            flags: DATA_VALID,
            ..plain
        };
    }
    if !is_partial {
        return plain;
    }
    let partial = VnetHdr {
        flags: NEEDS_CSUM,
        csum_start: u16::try_from(ip.l4).unwrap_or(u16::MAX),
        csum_offset: field,
        ..plain
    };
    if uncut {
        segmented(partial, message, packet.l3, &ip, mtu)
    } else {
        partial
    }
}

/// Says how an uncut segment of TCP is to be cut for the network.
fn segmented(partial: VnetHdr, message: &[u8], l3: usize, ip: &Ip, mtu: u16) -> VnetHdr {
    let header = TcpHeader::parse(message).map_or(0, |h| h.len);
    let headers = u16::try_from(ip.l4 - l3 + header).unwrap_or(u16::MAX);
    match mtu.checked_sub(headers) {
        Some(gso_size) if ip.proto == PROTO_TCP && header > 0 && gso_size > 0 => VnetHdr {
            gso_type: if ip.src.is_ipv4() {
                GSO_TCPV4
            } else {
                GSO_TCPV6
            },
            hdr_len: headers + 14,
            gso_size,
            ..partial
        },
        _ => partial,
    }
}
