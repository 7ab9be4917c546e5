//! `[7]` Which packets belong together: those of one inner flow take one way through the underlay. Source: RFC 7348 section 5.

use crate::wire::be16;

/// A number that is the same for all packets of an inner flow. Pieces of a datagram have no ports: theirs is that of
/// their addresses.
/// Shape: `head` starts at the Ethernet header; of a packet it has the addresses and ports, at least. Cost: some
/// multiplications, no loop over the packet.
#[must_use]
#[inline]
pub fn of_flow(head: &[u8]) -> u32 {
    let (l3, ethertype) = match be16(head, 12) {
        Some(0x8100) => (18, be16(head, 16)),
        other => (14, other),
    };
    let of = |at: usize, len: usize| head.get(at..at + len).unwrap_or_default();
    let ports = |proto: u8, at: usize| {
        if matches!(proto, 6 | 17) {
            of(at, 4)
        } else {
            &[]
        }
    };
    let first = |at: usize| head.get(at).copied().unwrap_or(0);
    let parts = match ethertype {
        Some(0x0800) => {
            let whole = be16(head, l3 + 6).is_some_and(|field| field & 0x3fff == 0);
            let l4 = l3 + usize::from(first(l3) & 15) * 4;
            let proto = if whole { first(l3 + 9) } else { 0 };
            [of(l3 + 12, 8), ports(proto, l4)]
        }
        Some(0x86dd) => [of(l3 + 8, 32), ports(first(l3 + 6), l3 + 40)],
        _ => [of(0, 12), &[]],
    };
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    for part in parts {
        for word in part.as_chunks::<4>().0 {
            hash =
                (hash ^ u64::from(u32::from_ne_bytes(*word))).wrapping_mul(0xd6e8_feb8_6659_fd93);
            hash ^= hash >> 32;
        }
    }
    (hash >> 32) as u32
}
