//! `[7]` Congestion marks of a tunnel's outer and inner packets. Source: RFC 6040 sections 4.1 (normal mode) and 4.2.

use crate::wire::checksum::patch;
use crate::wire::{be16, put};

/// The mark that says: congestion was met.
const CE: u8 = 3;

/// The outer mark for a packet: its own.
#[must_use]
pub const fn outward(tos: u8) -> u8 {
    tos & 3
}

/// The DSCP and ECN of a frame's packet; zero for what is none.
/// Shape: starts at the Ethernet header, at most one VLAN tag.
#[must_use]
#[inline]
pub fn tos_of(frame: &[u8]) -> u8 {
    place(frame).map_or(0, |at| at.tos)
}

/// Where a packet keeps its mark.
struct Place {
    l3: usize,
    v4: bool,
    tos: u8,
}

#[inline]
fn place(frame: &[u8]) -> Option<Place> {
    let (l3, ethertype) = match be16(frame, 12)? {
        0x8100 => (18, be16(frame, 16)?),
        other => (14, other),
    };
    match ethertype {
        0x0800 => Some(Place {
            l3,
            v4: true,
            tos: *frame.get(l3 + 1)?,
        }),
        0x86dd => {
            let first = be16(frame, l3)?;
            Some(Place {
                l3,
                v4: false,
                tos: (first >> 4).to_be_bytes()[1],
            })
        }
        _ => None,
    }
}

/// Combines the outer mark of a datagram with that of the packet inside. False if the packet is to be dropped: congestion
/// was met, and its sender would not understand the mark.
/// Shape: starts at the Ethernet header, at most one VLAN tag.
#[must_use]
#[inline]
pub fn inward(frame: &mut [u8], outer: u8) -> bool {
    if outer & 1 == 0 {
        return true;
    }
    mark(frame, outer & 3)
}

fn mark(frame: &mut [u8], outer: u8) -> bool {
    let Some(Place { l3, v4, tos }) = place(frame) else {
        return true;
    };
    let new = match (tos & 3, outer) {
        (0, CE) => return false,
        (1 | 2, CE) => tos | CE,
        (2, 1) => tos & !CE | 1,
        _ => return true,
    };
    let Some(old) = be16(frame, l3) else {
        return true;
    };
    if !v4 {
        let word = old & 0xf00f | u16::from(new) << 4;
        return put(frame, l3, &word.to_be_bytes());
    }
    let word = old & 0xff00 | u16::from(new);
    let Some(csum) = be16(frame, l3 + 10) else {
        return true;
    };
    let csum = patch(csum, &old.to_be_bytes(), &word.to_be_bytes());
    put(frame, l3, &word.to_be_bytes()) && put(frame, l3 + 10, &csum.to_be_bytes())
}
