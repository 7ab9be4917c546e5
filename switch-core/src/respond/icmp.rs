//! Stage 4: ICMP: echo to the gateway itself, and errors about packets that go no further.
//! Source: RFC 792, RFC 4443, RFC 1812 section 4.3.

use core::net::IpAddr;

use super::Gateway;
use crate::addr::Mac;
use crate::verdict::DropReason;
use crate::wire::checksum::{finish, fold, pseudo, sum};
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Ip, Kind, PROTO_ICMP, PROTO_ICMPV6, Packet};
use crate::wire::put;

/// What an error says, in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// No route to the network.
    NetUnreachable,
    /// The host does not answer.
    HostUnreachable,
    /// Nobody listens at the port.
    PortUnreachable,
    /// The protocol is not carried.
    ProtocolUnreachable,
    /// Forbidden by policy.
    Prohibited,
    /// Larger than this MTU.
    TooBig(u16),
    /// The time to live ran out.
    TimeExceeded,
    /// The pieces of a datagram did not all arrive in time.
    ReassemblyTimeExceeded,
    /// As another router said it, in the family of the packet.
    Raw {
        /// ICMP type.
        kind: u8,
        /// ICMP code.
        code: u8,
        /// The second word of the message.
        info: u32,
    },
}

impl IcmpError {
    const fn encode(self, v4: bool) -> (u8, u8, u32) {
        match (self, v4) {
            (Self::NetUnreachable, true) => (3, 0, 0),
            (Self::NetUnreachable, false) => (1, 0, 0),
            (Self::HostUnreachable, true) => (3, 1, 0),
            (Self::HostUnreachable, false) => (1, 3, 0),
            (Self::ProtocolUnreachable, true) => (3, 2, 0),
            // Parameter problem, unrecognised next header.
            (Self::ProtocolUnreachable, false) => (4, 1, 40),
            (Self::PortUnreachable, true) => (3, 3, 0),
            (Self::PortUnreachable, false) => (1, 4, 0),
            (Self::Prohibited, true) => (3, 13, 0),
            (Self::Prohibited, false) => (1, 1, 0),
            (Self::TooBig(mtu), true) => (3, 4, mtu as u32),
            (Self::TooBig(mtu), false) => (2, 0, mtu as u32),
            (Self::TimeExceeded, true) => (11, 0, 0),
            (Self::TimeExceeded, false) => (3, 0, 0),
            (Self::ReassemblyTimeExceeded, true) => (11, 1, 0),
            (Self::ReassemblyTimeExceeded, false) => (3, 1, 0),
            (Self::Raw { kind, code, info }, _) => (kind, code, info),
        }
    }
}

/// Writes an ICMP message as a whole frame. Shape: `body` is what follows the checksum.
fn message(
    (from, to): (Mac, Mac),
    (src, dst): (IpAddr, IpAddr),
    (kind, code): (u8, u8),
    body: &[u8],
    out: &mut Vec<u8>,
) {
    let mut head = HeaderBuf::new();
    let v4 = src.is_ipv4();
    let proto = if v4 { PROTO_ICMP } else { PROTO_ICMPV6 };
    head.eth(to, from, if v4 { 0x0800 } else { 0x86dd });
    let len = 4 + body.len();
    head.ip(src, dst, proto, if v4 { 64 } else { 255 }, 0, len);
    out.clear();
    out.extend_from_slice(head.as_slice());
    let at = out.len();
    out.extend_from_slice(&[kind, code, 0, 0]);
    out.extend_from_slice(body);
    let mut total = out.get(at..).map_or(0, |m| u32::from(fold(sum(m))));
    if !v4 {
        total += u32::from(pseudo(src, dst, proto, u32::try_from(len).unwrap_or(0)));
    }
    put(out, at + 2, &finish(fold(total)).to_be_bytes());
}

/// Answers an echo request to one of the gateway's addresses. True if `out` holds an answer.
pub fn echo(
    gw: &Gateway,
    frame: &[u8],
    packet: &Packet,
    out: &mut Vec<u8>,
) -> Result<bool, DropReason> {
    let Kind::Ip(ip) = packet.kind else {
        return Ok(false);
    };
    if !gw.owns(ip.dst) || ip.frag.is_some() {
        return Ok(false);
    }
    let reply = match ip.proto {
        PROTO_ICMP if ip.dst.is_ipv4() => (8, 0),
        PROTO_ICMPV6 if ip.dst.is_ipv6() => (128, 129),
        _ => return Ok(false),
    };
    let icmp = frame.get(ip.l4..ip.end).ok_or(DropReason::Truncated)?;
    if icmp.len() < 8 {
        return Err(DropReason::Truncated);
    }
    if icmp.first() != Some(&reply.0) {
        return Ok(false);
    }
    if !valid(&ip, icmp) {
        return Err(DropReason::BadChecksum);
    }
    message(
        (gw.mac, packet.src),
        (ip.dst, ip.src),
        (reply.1, 0),
        icmp.get(4..).unwrap_or_default(),
        out,
    );
    Ok(true)
}

/// True if an ICMP message's checksum is right.
#[must_use]
pub fn valid(ip: &Ip, icmp: &[u8]) -> bool {
    let total = fold(sum(icmp));
    match ip.src {
        IpAddr::V4(_) => total == 0xffff,
        IpAddr::V6(_) => {
            let p = pseudo(
                ip.src,
                ip.dst,
                PROTO_ICMPV6,
                u32::try_from(icmp.len()).unwrap_or(0),
            );
            fold(u32::from(total) + u32::from(p)) == 0xffff
        }
    }
}

/// Writes an ICMP message with its checksum anew, as a whole frame. Shape: `from` starts at the ICMP header.
pub fn relay(macs: (Mac, Mac), ends: (IpAddr, IpAddr), from: &[u8], out: &mut Vec<u8>) {
    if let [kind, code, _, _, body @ ..] = from {
        message(macs, ends, (*kind, *code), body, out);
    }
}

/// Writes an echo reply from `src` to a guest. `id_seq` are identifier and sequence number.
pub fn echo_reply(
    macs: (Mac, Mac),
    (src, dst): (IpAddr, IpAddr),
    id_seq: [u8; 4],
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    let mut body = Vec::with_capacity(4 + payload.len());
    body.extend_from_slice(&id_seq);
    body.extend_from_slice(payload);
    message(
        macs,
        (src, dst),
        (if src.is_ipv4() { 0 } else { 129 }, 0),
        &body,
        out,
    );
}

/// Writes an error about `original`, a frame of a guest, as if sent by `router`. True if `out` holds one:
/// never about an ICMP error, a group address, or a piece that is not the first (RFC 1812 section 4.3.2.7).
pub fn error(
    gw: &Gateway,
    router: IpAddr,
    original: &[u8],
    what: IcmpError,
    out: &mut Vec<u8>,
) -> bool {
    let Ok(packet) = Packet::parse(original) else {
        return false;
    };
    let Kind::Ip(ip) = packet.kind else {
        return false;
    };
    let first = ip.frag.is_none_or(|f| f.offset == 0);
    let kind = original.get(ip.l4).copied().unwrap_or(0);
    let about_error = match ip.proto {
        PROTO_ICMP => !matches!(kind, 0 | 8 | 13 | 14),
        PROTO_ICMPV6 => kind < 128,
        _ => false,
    };
    // "Too big" is answered for group addresses too in IPv6, which no router of ours forwards.
    if !first
        || about_error
        || packet.dst.is_group()
        || ip.dst.is_multicast()
        || ip.src.is_unspecified()
    {
        return false;
    }
    let v4 = ip.src.is_ipv4();
    let router = match router {
        r if r.is_ipv4() == v4 => r,
        _ => return false,
    };
    // As much as fits the smallest MTU of the family. Source: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4.
    let room = if v4 { 576 - 28 } else { 1280 - 48 };
    let quote = original.get(packet.l3..ip.end).unwrap_or_default();
    let quote = quote.get(..room).unwrap_or(quote);
    let (kind, code, info) = what.encode(v4);
    let mut body = Vec::with_capacity(4 + quote.len());
    body.extend_from_slice(&info.to_be_bytes());
    body.extend_from_slice(quote);
    message(
        (gw.mac, packet.src),
        (router, ip.src),
        (kind, code),
        &body,
        out,
    );
    true
}
