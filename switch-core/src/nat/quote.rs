//! Stage 6: Other addresses and ports in what an ICMP error quotes, so that it is about the packet which the one it
//! goes to has sent. Source: RFC 5508 section 4, RFC 7915 section 4.3 for what there is of the quote.

use core::net::IpAddr;

use crate::wire::checksum::patch;
use crate::wire::packet::{PROTO_TCP, PROTO_UDP};
use crate::wire::{be16, put};

/// Where the quote starts.
const QUOTE: usize = 8;

/// Writes other ends into the packet that an ICMP error quotes, and brings its checksums up to date as far as they are
/// quoted. That of the error itself is left to who sends it. False for another family, or too little of a quote.
/// Shape: `message` starts at the ICMP header; the quote is TCP or UDP, no piece behind the first.
#[must_use]
pub fn requote(message: &mut [u8], src: (IpAddr, u16), dst: (IpAddr, u16)) -> bool {
    let Some(quote) = message.get_mut(QUOTE..) else {
        return false;
    };
    let done = match (src.0, dst.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut new = [0; 8];
            put(&mut new, 0, &from.octets());
            put(&mut new, 4, &to.octets());
            requote_v4(quote, &new, (src.1, dst.1))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut new = [0; 32];
            put(&mut new, 0, &from.octets());
            put(&mut new, 16, &to.octets());
            requote_v6(quote, &new, (src.1, dst.1))
        }
        _ => None,
    };
    done.is_some()
}

fn requote_v4(quote: &mut [u8], new: &[u8; 8], ports: (u16, u16)) -> Option<()> {
    let head: &[u8; 20] = quote.first_chunk()?;
    let old: [u8; 8] = *head.get(12..)?.first_chunk()?;
    let (l4, proto, csum) = (usize::from(head[0] & 15) * 4, head[9], be16(head, 10)?);
    rewrite(quote, l4, proto, (&old, new), ports)?;
    put(quote, 12, new);
    put(quote, 10, &patch(csum, &old, new).to_be_bytes());
    Some(())
}

fn requote_v6(quote: &mut [u8], new: &[u8; 32], ports: (u16, u16)) -> Option<()> {
    let head: &[u8; 40] = quote.first_chunk()?;
    let old: [u8; 32] = *head.get(8..)?.first_chunk()?;
    let proto = head[6];
    rewrite(quote, 40, proto, (&old, new), ports)?;
    put(quote, 8, new);
    Some(())
}

/// Writes the ports, and patches the checksum where the quote goes as far as that.
fn rewrite(
    quote: &mut [u8],
    l4: usize,
    proto: u8,
    (old, new): (&[u8], &[u8]),
    ports: (u16, u16),
) -> Option<()> {
    let ([a, b], [c, d]) = (ports.0.to_be_bytes(), ports.1.to_be_bytes());
    let new_ports = [a, b, c, d];
    let old_ports: [u8; 4] = *quote.get(l4..)?.first_chunk()?;
    let at = l4
        + match proto {
            PROTO_TCP => 16,
            PROTO_UDP => 6,
            _ => return None,
        };
    put(quote, l4, &new_ports);
    // A datagram without a checksum stays one.
    if let Some(csum) = be16(quote, at).filter(|&csum| csum != 0 || proto == PROTO_TCP) {
        let csum = patch(patch(csum, old, new), &old_ports, &new_ports);
        let zero = csum == 0 && proto == PROTO_UDP;
        let csum = if zero { 0xffff } else { csum };
        put(quote, at, &csum.to_be_bytes());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::{fold, l4_valid, sum};
    use crate::wire::emit::HeaderBuf;

    /// What an error quotes of a packet, whole.
    fn quoted(proto: u8, [src, dst]: [&str; 2], ports: (u16, u16)) -> Vec<u8> {
        let [src, dst] = [src, dst].map(|a| a.parse::<IpAddr>().unwrap());
        let (v4, len) = (src.is_ipv4(), if proto == PROTO_TCP { 20 } else { 8 });
        let mut h = HeaderBuf::new();
        h.ip(src, dst, proto, 64, 0, len + 4);
        if proto == PROTO_TCP {
            h.tcp(ports.0, ports.1, 1, 1, 0x10, 100, &[]);
        } else {
            h.udp(ports.0, ports.1, 4);
        }
        h.set_full(if v4 { 20 } else { 40 }, src, dst, proto, &[b"data"]);
        [&[3, 3, 0, 0, 0, 0, 0, 0], h.as_slice(), b"data"].concat()
    }

    #[test]
    fn what_is_quoted_becomes_what_was_sent() {
        for (was, is) in [
            (["10.0.0.2", "10.0.0.3"], ["10.0.0.2", "10.0.0.200"]),
            (["fd00::2", "fd00::3"], ["fd00::9", "fd00::200"]),
        ] {
            let v4 = was[0].contains('.');
            let l4 = QUOTE + if v4 { 20 } else { 40 };
            for proto in [PROTO_TCP, PROTO_UDP] {
                let mut message = quoted(proto, was, (4000, 8080));
                let [src, dst] = is.map(|a| a.parse::<IpAddr>().unwrap());
                assert!(requote(&mut message, (src, 4001), (dst, 80)));
                let wanted = quoted(proto, is, (4001, 80));
                assert_eq!(message, wanted);
                assert!(l4_valid(src, dst, proto, &message[l4..]));
                assert!(!v4 || fold(sum(&message[8..28])) == 0xffff);
                // Eight bytes of it are what RFC 792 wants at least.
                let mut short = quoted(proto, was, (4000, 8080));
                short.truncate(l4 + 8);
                assert!(requote(&mut short, (src, 4001), (dst, 80)));
                assert_eq!(short, wanted[..l4 + 8]);
                short.truncate(l4 + 3);
                assert!(!requote(&mut short, (src, 4001), (dst, 80)));
                let other = if v4 { "fd00::1" } else { "10.0.0.1" };
                assert!(!requote(
                    &mut message,
                    (other.parse().unwrap(), 1),
                    (dst, 80)
                ));
            }
        }
    }
}
