//! Stage 4: Neighbour discovery and router advertisements. Source: RFC 4861, RFC 4862, RFC 8106.

use core::net::{IpAddr, Ipv6Addr};

use super::Gateway;
use super::icmp::valid;
use crate::addr::Mac;
use crate::verdict::DropReason;
use crate::wire::checksum::{finish, fold, pseudo, sum};
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{Ip, Kind, PROTO_ICMPV6, Packet};
use crate::wire::put;

/// Router lifetime in seconds. Source: RFC 4861 section 6.2.1, AdvDefaultLifetime.
const ROUTER_LIFETIME: u16 = 1_800;
/// Valid and preferred lifetime of the prefix in seconds. Source: the same, one day and four hours.
const VALID: u32 = 86_400;
const PREFERRED: u32 = 14_400;
/// All nodes on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Answers neighbour and router solicitations, those for other endpoints too where `peers`. True if `out` holds an answer.
/// Errors: `Malformed` for what RFC 4861 section 7.1 says to discard, `BadChecksum`, `Spoofed` for a guest
/// that announces itself a router or claims the gateway's address.
pub fn respond(
    gw: &Gateway,
    peers: bool,
    frame: &[u8],
    packet: &Packet,
    out: &mut Vec<u8>,
) -> Result<bool, DropReason> {
    let Some((own, _)) = gw.v6 else {
        return Ok(false);
    };
    let Some((ip, icmp)) = message(frame, packet)? else {
        return Ok(false);
    };
    let kind = icmp.first().copied().unwrap_or(0);
    match kind {
        133 => {
            let to = if ip.src.is_unspecified() {
                (ALL_NODES, group_mac(ALL_NODES))
            } else {
                (v6(&ip), packet.src)
            };
            advertise(gw, to, out);
            Ok(true)
        }
        134 | 137 => Err(DropReason::Spoofed),
        _ => {
            let target = target(icmp)?;
            let ours = target == own || target == gw.link_local();
            match (kind, ours) {
                (135, true) => {
                    neighbour((gw.mac, gw.mac, 0xa0), &ip, packet.src, target, out);
                    Ok(true)
                }
                (135, false) if gw.guests.is_virtual(target.into()) => {
                    neighbour((gw.mac, gw.mac, 0x20), &ip, packet.src, target, out);
                    Ok(true)
                }
                (136, false) if gw.guests.is_virtual(target.into()) => Err(DropReason::Spoofed),
                (135, false) if peers => {
                    // Not to whom has it already: a probe for one's own address has no answer.
                    let peer = gw.guests.by_addr(target.into());
                    let peer = peer.filter(|peer| peer.mac != packet.src);
                    let routed = || gw.guests.routes.find(target.into()).map(|_| gw.mac);
                    let mac = peer.map(|peer| peer.mac).or_else(routed);
                    if let Some(mac) = mac {
                        neighbour((gw.mac, mac, 0x20), &ip, packet.src, target, out);
                    }
                    Ok(mac.is_some())
                }
                (136, true) => Err(DropReason::Spoofed),
                _ => Ok(false),
            }
        }
    }
}

/// Answers a solicitation for an address of a station. True if `out` holds an answer. Errors: as [`respond`].
pub fn respond_as(
    station: impl Fn(Ipv6Addr) -> Option<Mac>,
    frame: &[u8],
    packet: &Packet,
    out: &mut Vec<u8>,
) -> Result<bool, DropReason> {
    let Some((ip, icmp)) = message(frame, packet)?.filter(|(_, icmp)| icmp.first() == Some(&135))
    else {
        return Ok(false);
    };
    let target = target(icmp)?;
    let mac = station(target);
    if let Some(mac) = mac {
        neighbour((mac, mac, 0x20), &ip, packet.src, target, out);
    }
    Ok(mac.is_some())
}

/// A message of neighbour discovery. `None` for what is none. Errors: `Malformed`, `BadChecksum`.
fn message<'a>(frame: &'a [u8], packet: &Packet) -> Result<Option<(Ip, &'a [u8])>, DropReason> {
    let Kind::Ip(ip) = packet.kind else {
        return Ok(None);
    };
    if ip.proto != PROTO_ICMPV6 || ip.frag.is_some() {
        return Ok(None);
    }
    let icmp = frame.get(ip.l4..ip.end).unwrap_or_default();
    if !(133..=137).contains(&icmp.first().copied().unwrap_or(0)) {
        return Ok(None);
    }
    if ip.ttl != 255 || icmp.get(1) != Some(&0) || icmp.len() < 8 {
        return Err(DropReason::Malformed);
    }
    if !valid(&ip, icmp) {
        return Err(DropReason::BadChecksum);
    }
    Ok(Some((ip, icmp)))
}

/// Whom a message is about. Errors: `Truncated`.
fn target(icmp: &[u8]) -> Result<Ipv6Addr, DropReason> {
    let target = icmp.get(8..24).and_then(|b| b.first_chunk());
    let target = target.ok_or(DropReason::Truncated)?;
    Ok(Ipv6Addr::from_octets(*target))
}

fn v6(ip: &Ip) -> Ipv6Addr {
    match ip.src {
        IpAddr::V6(a) => a,
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
    }
}

fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// A neighbour advertisement for `own`: override, and solicited unless somebody probes for a duplicate.
fn neighbour(
    (from, own, flags): (Mac, Mac, u8),
    ip: &Ip,
    to: Mac,
    target: Ipv6Addr,
    out: &mut Vec<u8>,
) {
    let probing = ip.src.is_unspecified();
    let (dst, mac) = if probing {
        (ALL_NODES, group_mac(ALL_NODES))
    } else {
        (v6(ip), to)
    };
    const SOLICITED: u8 = 0x40;
    let flags = if probing { flags } else { flags | SOLICITED };
    let mut body = vec![136, 0, 0, 0, flags, 0, 0, 0];
    body.extend_from_slice(&target.octets());
    body.extend_from_slice(&[2, 1]);
    body.extend_from_slice(&own.0);
    frame(from, target, (dst, mac), &mut body, out);
}

/// Writes an advertisement that nobody has asked for: whoever knows another station at the address takes this one.
/// Source: RFC 4861 section 7.2.6.
pub fn announcement(mac: Mac, addr: Ipv6Addr, out: &mut Vec<u8>) {
    const OVERRIDE: u8 = 0x20;
    let mut body = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    body.extend_from_slice(&addr.octets());
    body.extend_from_slice(&[2, 1]);
    body.extend_from_slice(&mac.0);
    frame(mac, addr, (ALL_NODES, group_mac(ALL_NODES)), &mut body, out);
}

/// Writes a router advertisement to everybody, as sent unasked.
pub fn advert(gw: &Gateway, out: &mut Vec<u8>) {
    advertise(gw, (ALL_NODES, group_mac(ALL_NODES)), out);
}

fn advertise(gw: &Gateway, to: (Ipv6Addr, Mac), out: &mut Vec<u8>) {
    let Some((own, prefix)) = gw.v6 else { return };
    let lifetime = if gw.uplink && gw.v6_default_route {
        ROUTER_LIFETIME
    } else {
        0
    };
    // Flag O: there is more to know by DHCPv6.
    let mut body = vec![134, 0, 0, 0, 64, 0x40];
    body.extend_from_slice(&lifetime.to_be_bytes());
    body.extend_from_slice(&[0; 8]);
    body.extend_from_slice(&[1, 1]);
    body.extend_from_slice(&gw.mac.0);
    body.extend_from_slice(&[5, 1, 0, 0]);
    body.extend_from_slice(&u32::from(gw.mtu).to_be_bytes());
    // On-link; autonomous only where SLAAC can be: it needs 64 bits for the interface.
    body.extend_from_slice(&[3, 4, prefix, if prefix == 64 { 0xc0 } else { 0x80 }]);
    body.extend_from_slice(&VALID.to_be_bytes());
    body.extend_from_slice(&PREFERRED.to_be_bytes());
    body.extend_from_slice(&[0; 4]);
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    body.extend_from_slice(&Ipv6Addr::from_bits(own.to_bits() & mask).octets());
    body.extend_from_slice(&[25, 3, 0, 0]);
    body.extend_from_slice(&u32::from(ROUTER_LIFETIME).to_be_bytes());
    body.extend_from_slice(&own.octets());
    search_list(gw, &mut body);
    frame(gw.mac, gw.link_local(), to, &mut body, out);
}

/// The DNS search list option. Source: RFC 8106 section 5.2.
fn search_list(gw: &Gateway, body: &mut Vec<u8>) {
    let mut names = Vec::new();
    for domain in &gw.search {
        super::dns::encode_name(domain, &mut names);
    }
    if names.is_empty() {
        return;
    }
    names.resize(names.len().next_multiple_of(8), 0);
    let Ok(units) = u8::try_from(names.len() / 8 + 1) else {
        return;
    };
    body.extend_from_slice(&[31, units, 0, 0]);
    body.extend_from_slice(&u32::from(ROUTER_LIFETIME).to_be_bytes());
    body.extend_from_slice(&names);
}

fn frame(
    from: Mac,
    src: Ipv6Addr,
    (dst, mac): (Ipv6Addr, Mac),
    body: &mut [u8],
    out: &mut Vec<u8>,
) {
    let (s, d) = (IpAddr::V6(src), IpAddr::V6(dst));
    let total = u32::from(fold(sum(body)))
        + u32::from(pseudo(
            s,
            d,
            PROTO_ICMPV6,
            u32::try_from(body.len()).unwrap_or(0),
        ));
    put(body, 2, &finish(fold(total)).to_be_bytes());
    let mut head = HeaderBuf::new();
    head.eth(mac, from, 0x86dd);
    head.ip(s, d, PROTO_ICMPV6, 255, 0, body.len());
    out.clear();
    out.extend_from_slice(head.as_slice());
    out.extend_from_slice(body);
}
