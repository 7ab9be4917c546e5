//! Stages 7 and 8: A super-frame that is cut and leaves at once: in the clear by pieces, without a copy of payload; or
//! sealed, each segment copied once to where it is sealed in place.

use std::io::{self, IoSlice};

use arrayvec::ArrayVec;
use switch_core::addr::Vni;
use switch_core::tunnel::cut::{Cut, MAX_HEADERS, Walk};
use switch_core::tunnel::seal::{HEADER_LEN, PARTIAL, SealError, SendKey, TAG_LEN};
use switch_core::tunnel::{ecn, vxlan};
use switch_core::verdict::DropReason;
use switch_core::wire::checksum::complete_partial;
use switch_core::wire::vnet_hdr::VnetHdr;

use super::Way;
use crate::endpoint::udp::{MAX_SEGMENTS, MAX_SEND, Name, Outgoing, UnderlaySocket};

/// Headers of a segment, with what leads them.
pub(super) const HEAD: usize = (vxlan::HEADER + MAX_HEADERS).next_multiple_of(8);
/// What is left out of a frame that goes bare.
pub(super) const ETHERNET: usize = 14;
/// Pieces of a run: headers and payload of each segment; and each end of a piece of the frame may cut a payload in two.
const PIECES: usize = 2 * MAX_SEGMENTS + 66;

/// Room for the headers of a run.
pub(super) type Heads = Box<[[u8; HEAD]; MAX_SEGMENTS]>;

/// That room.
pub(super) fn heads() -> Heads {
    Box::new([[0; HEAD]; MAX_SEGMENTS])
}

/// A super-frame, and how it is cut.
#[derive(Debug)]
pub(super) struct Whole<'a> {
    pub(super) cut: Cut,
    /// Its first bytes: all headers, at least.
    pub(super) head: &'a [u8],
    pub(super) frame: &'a [IoSlice<'a>],
}

/// Below so many bytes of payload a copy costs less than a piece of its own.
const SMALL: usize = 512;

/// Sends a super-frame in the clear. Each segment is led by `lead`, and is without its first `skip` bytes.
pub(super) fn send_clear(
    socket: &mut UnderlaySocket,
    to: &Name,
    (lead, skip): (&[u8], usize),
    whole: &Whole<'_>,
    (heads, arena): (&mut Heads, &mut [u8]),
) -> Result<(), DropReason> {
    if whole.cut.size() >= SMALL {
        return send_pieces(socket, to, (lead, skip), whole, heads);
    }
    let cut = &whole.cut;
    let inner = lead.len();
    let headers = inner + cut.headers() - skip;
    let mut walk = Walk::new(whole.frame);
    walk.take(cut.headers(), |_| {});
    let mut head = [0; MAX_HEADERS];
    send_copied(socket, to, cut, (headers, 0), arena, |n, room| {
        let (front, mut rest) = room.split_at_mut(headers);
        let sum = walk.take_summed(cut.payload(n).len(), |part| {
            let (here, behind) = std::mem::take(&mut rest).split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = behind;
        });
        cut.write(
            whole.head,
            n,
            Some(sum.ok_or(DropReason::Truncated)?),
            &mut head,
        )?;
        front[..inner].copy_from_slice(lead);
        front[inner..].copy_from_slice(&head[skip..cut.headers()]);
        Ok(())
    })
}

fn send_pieces(
    socket: &mut UnderlaySocket,
    to: &Name,
    (lead, skip): (&[u8], usize),
    whole: &Whole<'_>,
    heads: &mut Heads,
) -> Result<(), DropReason> {
    let Whole { cut, head, frame } = whole;
    let headers = lead.len() + cut.headers();
    let each = headers + cut.size() - skip;
    let mut walk = Walk::new(frame);
    walk.take(cut.headers(), |_| {});
    let mut index = 0;
    while index < cut.count() {
        let most = if socket.segments() {
            (MAX_SEND / each).clamp(1, MAX_SEGMENTS)
        } else {
            1
        };
        let upto = cut.count().min(index + most);
        let before = walk.clone();
        let mut pieces: ArrayVec<IoSlice<'_>, PIECES> = ArrayVec::new();
        for (n, room) in (index..upto).zip(heads.iter_mut()) {
            let place = pieces.len();
            let mut full = pieces.try_push(IoSlice::new(&[])).is_err();
            let sum = walk.take_summed(cut.payload(n).len(), |part| {
                full |= pieces.try_push(IoSlice::new(part)).is_err();
            });
            if full {
                return Err(DropReason::BadOffload);
            }
            let sum = sum.ok_or(DropReason::Truncated)?;
            room[..lead.len()].copy_from_slice(lead);
            cut.write(head, n, Some(sum), &mut room[lead.len()..])?;
            pieces[place] = IoSlice::new(&room[skip..headers]);
        }
        let segment = if upto - index > 1 { each } else { 0 };
        let out = Outgoing {
            to,
            tos: ecn::outward(cut.tos()),
            segment: u16::try_from(segment).map_err(|_| DropReason::TooBig)?,
            pieces: &pieces,
        };
        match socket.send(&out) {
            Ok(()) => index = upto,
            // Once more, each for itself.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => walk = before,
            Err(e) => return Err(reason(&e)),
        }
    }
    Ok(())
}

/// Seals each segment of a super-frame and sends them. No checksum is computed: the seal says that it is partial.
pub(super) fn send_sealed(
    socket: &mut UnderlaySocket,
    to: &Name,
    key: &SendKey,
    vni: Vni,
    whole: &Whole<'_>,
    arena: &mut [u8],
) -> Result<(), DropReason> {
    let Whole { cut, head, frame } = whole;
    let lead = vxlan::header(vni);
    let (l4, field) = cut.checksum();
    let short = |n: usize| u8::try_from(n).map_err(|_| DropReason::BadOffload);
    let csum = (short(l4)?, short(l4 + field)?);
    let inner = HEADER_LEN + lead.len();
    let headers = inner + cut.headers();
    let longest = headers + cut.size() + TAG_LEN;
    let mut walk = Walk::new(frame);
    walk.take(cut.headers(), |_| {});
    let count = u16::try_from(cut.count()).map_err(|_| DropReason::BadOffload)?;
    let mut numbers = key.reserve(count, longest).map_err(unsealed)?;
    send_copied(socket, to, cut, (headers, TAG_LEN), arena, |n, room| {
        room[HEADER_LEN..inner].copy_from_slice(&lead);
        cut.write(head, n, None, &mut room[inner..])?;
        let mut at = headers;
        let all = walk.take(cut.payload(n).len(), |part| {
            room[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        });
        if !all {
            return Err(DropReason::Truncated);
        }
        numbers.seal(PARTIAL, csum, room).map_err(unsealed)
    })
}

/// Has each segment written to where it lies behind the one before, and sends them. A segment has so many bytes before
/// and after its payload.
fn send_copied(
    socket: &mut UnderlaySocket,
    to: &Name,
    cut: &Cut,
    (before, after): (usize, usize),
    arena: &mut [u8],
    mut write: impl FnMut(usize, &mut [u8]) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    let each = before + cut.size() + after;
    let most = (MAX_SEND / each).clamp(1, MAX_SEGMENTS);
    let mut index = 0;
    while index < cut.count() {
        let upto = cut.count().min(index + most);
        let mut end = 0;
        for n in index..upto {
            let len = before + cut.payload(n).len() + after;
            write(n, arena.get_mut(end..end + len).ok_or(DropReason::TooBig)?)?;
            end += len;
        }
        send_equal(socket, to, ecn::outward(cut.tos()), each, &arena[..end])?;
        index = upto;
    }
    Ok(())
}

/// Sends datagrams of one size that lie behind each other.
fn send_equal(
    socket: &mut UnderlaySocket,
    to: &Name,
    tos: u8,
    each: usize,
    bytes: &[u8],
) -> Result<(), DropReason> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let step = if socket.segments() {
            rest.len()
        } else {
            each.min(rest.len())
        };
        let segment = if step > each { each } else { 0 };
        let out = Outgoing {
            to,
            tos,
            segment: u16::try_from(segment).map_err(|_| DropReason::TooBig)?,
            pieces: &[IoSlice::new(&rest[..step])],
        };
        match socket.send(&out) {
            Ok(()) => rest = &rest[step..],
            // Once more, each for itself.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(e) => return Err(reason(&e)),
        }
    }
    Ok(())
}

fn unsealed(error: SealError) -> DropReason {
    match error {
        SealError::Exhausted => DropReason::NoKey,
        SealError::Length => DropReason::TooBig,
    }
}

/// Why the kernel did not send, in the words of the switch.
pub(super) fn reason(e: &io::Error) -> DropReason {
    match e.raw_os_error() {
        // EINVAL is a segment that is larger than the link's MTU, on older kernels.
        Some(libc::EMSGSIZE | libc::EINVAL) => DropReason::TooBig,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => DropReason::HostExhausted,
        _ => DropReason::HostError,
    }
}

/// Seals a datagram; where its checksum is only partial, the seal says so.
pub(super) fn seal_small(
    key: &SendKey,
    vnet: &VnetHdr,
    datagram: &mut [u8],
) -> Result<(), DropReason> {
    let field = vnet.csum_start.saturating_add(vnet.csum_offset);
    let places = (u8::try_from(vnet.csum_start), u8::try_from(field));
    let (flags, csum) = match places {
        (Ok(start), Ok(field)) if vnet.needs_csum() => (PARTIAL, (start, field)),
        _ => {
            let plain = HEADER_LEN + vxlan::HEADER..datagram.len() - TAG_LEN;
            complete_partial(&mut datagram[plain], vnet)?;
            (0, (0, 0))
        }
    };
    key.seal(flags, csum, datagram).map_err(unsealed)
}

/// The first bytes of a frame, with all headers that are looked at.
pub(super) fn front<'a>(frame: &'a [IoSlice<'_>], scratch: &'a mut [u8; MAX_HEADERS]) -> &'a [u8] {
    match frame {
        [] => &[],
        [whole] => whole,
        [first, ..] if first.len() >= MAX_HEADERS => first,
        _ => {
            let bytes = frame.iter().flat_map(|piece| piece.iter());
            let mut len = 0;
            for (to, from) in scratch.iter_mut().zip(bytes) {
                *to = *from;
                len += 1;
            }
            &scratch[..len]
        }
    }
}

/// True for a frame that is a packet of IP.
pub(super) fn is_ip(head: &[u8]) -> bool {
    matches!(head.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]))
}

/// What leads each frame, and how many bytes of the frame itself are left out.
pub(super) fn lead(way: Way) -> (ArrayVec<u8, { vxlan::HEADER }>, usize) {
    match way {
        Way::Vxlan { vni, .. } | Way::Sealed { vni, .. } => (vxlan::header(vni).into(), 0),
        Way::Bare { .. } => (ArrayVec::new(), ETHERNET),
    }
}
