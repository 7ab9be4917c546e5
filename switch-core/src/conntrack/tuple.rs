//! Stage 6: What tells one conversation from another: who speaks with whom, over what, between which ports.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addr::NetworkId;
use crate::verdict::DropReason;
use crate::wire::packet::{Ip, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};
use crate::wire::tcp::{ACK, FIN, RST, SYN};
use crate::wire::{be16, be32};

/// Words of a tuple as a key.
pub const WORDS: usize = 6;

/// Marks of the second word.
const USED: u64 = 1 << 63;
const V6: u64 = 1 << 62;
const PIECE: u64 = 1 << 61;

/// One direction of a conversation on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// The network.
    pub net: NetworkId,
    /// The protocol.
    pub proto: u8,
    /// These are the pieces of one datagram, behind the first; for the ports they have its number.
    pub piece: bool,
    /// From.
    pub src: IpAddr,
    /// To.
    pub dst: IpAddr,
    /// From and to; of an echo, its identifier twice; zero where there are none.
    pub ports: (u16, u16),
}

/// What a packet is to a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It may begin one.
    Opens,
    /// It goes on with one.
    Continues,
    /// It ends its sender's side.
    Finishes,
    /// It ends both sides.
    Resets,
    /// It reports an error about a packet of one, which is what the tuple says.
    Reports,
    /// It is no conversation's: neighbours find each other, groups are joined.
    Serves,
}

impl Tuple {
    /// Reads a packet. Shape: `ip` is of the parse of `frame`.
    /// Errors: `Truncated`.
    pub fn of(net: NetworkId, ip: &Ip, frame: &[u8]) -> Result<(Self, Role), DropReason> {
        let message = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
        let mut tuple = Self {
            net,
            proto: ip.proto,
            piece: false,
            src: ip.src,
            dst: ip.dst,
            ports: (0, 0),
        };
        if let Some(piece) = ip.frag.filter(|f| f.offset != 0) {
            return Ok((tuple.pieces(piece.id), Role::Continues));
        }
        let role = match (ip.proto, ip.src.is_ipv4()) {
            (PROTO_TCP | PROTO_UDP, _) => {
                tuple.ports = ports(message)?;
                tuple.transport(message)?
            }
            (PROTO_ICMP, true) | (PROTO_ICMPV6, false) => {
                let kind = *message.first().ok_or(DropReason::Truncated)?;
                match (ip.proto, kind) {
                    (PROTO_ICMP, 0 | 8) | (PROTO_ICMPV6, 128 | 129) => {
                        let ident = be16(message, 4).ok_or(DropReason::Truncated)?;
                        tuple.ports = (ident, ident);
                        if matches!(kind, 8 | 128) {
                            Role::Opens
                        } else {
                            Role::Continues
                        }
                    }
                    (PROTO_ICMP, 3 | 4 | 11 | 12) | (PROTO_ICMPV6, 1..=4) => {
                        let quoted = message.get(8..).and_then(|q| tuple.quoted(q));
                        return Ok(quoted.map_or((tuple, Role::Opens), |t| (t, Role::Reports)));
                    }
                    // Listeners and neighbours. Source: RFC 3810, RFC 4861.
                    (PROTO_ICMPV6, 130..=137 | 143) => Role::Serves,
                    _ => Role::Opens,
                }
            }
            _ => Role::Opens,
        };
        Ok((tuple, role))
    }

    /// The other pieces of a datagram with this number.
    #[must_use]
    pub const fn pieces(self, id: u32) -> Self {
        let [a, b, c, d] = id.to_be_bytes();
        Self {
            piece: true,
            ports: (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            ..self
        }
    }

    /// The way back.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ports: (self.ports.1, self.ports.0),
            ..self
        }
    }

    fn transport(&self, message: &[u8]) -> Result<Role, DropReason> {
        if self.proto != PROTO_TCP {
            return Ok(Role::Opens);
        }
        let flags = *message.get(13).ok_or(DropReason::Truncated)?;
        Ok(match flags {
            f if f & RST != 0 => Role::Resets,
            f if f & (SYN | ACK) == SYN => Role::Opens,
            f if f & FIN != 0 => Role::Finishes,
            _ => Role::Continues,
        })
    }

    /// The conversation of a packet that an error of this one's family quotes, as its sender had it.
    fn quoted(&self, quote: &[u8]) -> Option<Self> {
        let (src, dst, proto, l4) = if self.src.is_ipv4() {
            let head = quote.first_chunk::<20>()?;
            let [
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                proto,
                _,
                _,
                a,
                b,
                c,
                d,
                w,
                x,
                y,
                z,
            ] = *head;
            let l4 = usize::from(head.first()? & 15) * 4;
            let (src, dst) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(w, x, y, z));
            (IpAddr::V4(src), IpAddr::V4(dst), proto, l4)
        } else {
            let address = |at: usize| {
                let octets = quote.get(at..)?.first_chunk::<16>()?;
                Some(IpAddr::V6(Ipv6Addr::from_octets(*octets)))
            };
            (address(8)?, address(24)?, *quote.get(6)?, 40)
        };
        let message = quote.get(l4..)?;
        let ports = match proto {
            PROTO_TCP | PROTO_UDP => ports(message).ok()?,
            PROTO_ICMP | PROTO_ICMPV6 => {
                let ident = be16(message, 4)?;
                (ident, ident)
            }
            _ => (0, 0),
        };
        Some(Self {
            net: self.net,
            proto,
            piece: false,
            src,
            dst,
            ports,
        })
    }

    /// As words that are equal only if the tuples are; never all zero.
    #[must_use]
    pub fn words(&self) -> [u64; WORDS] {
        let (from, to) = self.ports;
        let marks =
            USED | if self.src.is_ipv6() { V6 } else { 0 } | if self.piece { PIECE } else { 0 };
        let [s, t] = address(self.src);
        let [d, e] = address(self.dst);
        [
            u64::from(self.net.0) << 32 | u64::from(from) << 16 | u64::from(to),
            marks | u64::from(self.proto),
            s,
            t,
            d,
            e,
        ]
    }
}

/// An address as two words.
#[must_use]
pub fn address(a: IpAddr) -> [u64; 2] {
    match a {
        IpAddr::V4(a) => [0, u64::from(a.to_bits())],
        IpAddr::V6(a) => {
            let [a, b, c, d, e, f, g, h, rest @ ..] = a.octets();
            [
                u64::from_be_bytes([a, b, c, d, e, f, g, h]),
                u64::from_be_bytes(rest),
            ]
        }
    }
}

fn ports(message: &[u8]) -> Result<(u16, u16), DropReason> {
    let both = be32(message, 0).ok_or(DropReason::Truncated)?;
    let [a, b, c, d] = both.to_be_bytes();
    Ok((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}
