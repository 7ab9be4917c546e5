//! Stage 4: A DHCPv6 server: resolvers and search domains for who asks for no more, one address for each
//! endpoint for who does. Source: RFC 8415, RFC 3646.

use core::net::{IpAddr, Ipv6Addr};

use super::{Gateway, Guest, udp_frame};
use crate::verdict::DropReason;
use crate::wire::packet::{Kind, PROTO_UDP, Packet};
use crate::wire::udp::UdpHeader;
use crate::wire::{be16, be32};

const CLIENT: u16 = 546;
const SERVER: u16 = 547;

const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION: u8 = 11;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_ADDR: u16 = 5;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS_SERVERS: u16 = 23;
const DOMAIN_LIST: u16 = 24;
const IA_PD: u16 = 25;

/// Status codes. Source: RFC 8415 section 21.13.
const SUCCESS: u16 = 0;
const NO_ADDRS: u16 = 2;
const NO_BINDING: u16 = 3;
const NOT_ON_LINK: u16 = 4;
const USE_MULTICAST: u16 = 5;
const NO_PREFIXES: u16 = 6;

/// Preferred and valid lifetime in seconds; the address is the endpoint's as long as it lives.
const PREFERRED: u32 = 43_200;
const VALID: u32 = 86_400;
/// Identity associations answered in one message; a client has one an interface.
const MAX_IA: usize = 4;

/// Walks options. Shape: code, length, data; ends at the first that is cut short.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let (code, len) = (be16(self.0, 0)?, usize::from(be16(self.0, 2)?));
        let data = self.0.get(4..4 + len)?;
        self.0 = self.0.get(4 + len..).unwrap_or_default();
        Some((code, data))
    }
}

/// Answers a client. True if `out` holds an answer.
/// Errors: `Spoofed` for a guest that plays the server, `Truncated`.
pub fn respond(
    gw: &Gateway,
    frame: &[u8],
    packet: &Packet,
    out: &mut Vec<u8>,
) -> Result<bool, DropReason> {
    let Kind::Ip(ip) = packet.kind else {
        return Ok(false);
    };
    if ip.proto != PROTO_UDP || ip.frag.is_some() || !ip.src.is_ipv6() {
        return Ok(false);
    }
    let datagram = frame.get(ip.l4..ip.end).unwrap_or_default();
    let udp = UdpHeader::parse(datagram)?;
    match (udp.src_port, udp.dst_port) {
        (SERVER, CLIENT) => return Err(DropReason::Spoofed),
        (_, SERVER) => {}
        _ => return Ok(false),
    }
    let Some(guest) = gw.guest(packet.src) else {
        return Ok(false);
    };
    let message = datagram
        .get(UdpHeader::LEN..usize::from(udp.len))
        .unwrap_or_default();
    let (&[kind, x0, x1, x2], options) = message
        .split_first_chunk::<4>()
        .ok_or(DropReason::Truncated)?;
    let answer = if ip.dst.is_multicast() {
        answer(gw, guest, kind, options)
    } else {
        astray(gw, kind, options)
    };
    let Some((kind, body)) = answer else {
        return Ok(false);
    };
    let mut reply = vec![kind, x0, x1, x2];
    reply.extend_from_slice(&body);
    udp_frame(
        (gw.mac, packet.src),
        (IpAddr::V6(gw.link_local()), SERVER),
        (ip.src, udp.src_port),
        &reply,
        out,
    );
    Ok(true)
}

fn put(out: &mut Vec<u8>, code: u16, data: &[u8]) {
    if let Ok(len) = u16::try_from(data.len()) {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(data);
    }
}

/// Our DUID. Shape: DUID-LL, that is type 3, hardware type 1, our MAC. Source: RFC 8415 section 11.4.
fn own_id(gw: &Gateway) -> [u8; 10] {
    let [a, b, c, d, e, f] = gw.mac.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// Type and options of the answer to a message; none where RFC 8415 sections 16 and 18.3 say to be silent.
fn answer(gw: &Gateway, guest: &Guest, kind: u8, options: &[u8]) -> Option<(u8, Vec<u8>)> {
    let find = |code| Options(options).find(|o| o.0 == code).map(|o| o.1);
    let has_ia = Options(options).any(|o| matches!(o.0, IA_NA | IA_TA | IA_PD));
    let own = own_id(gw);
    let client = find(CLIENT_ID);
    let for_us = find(SERVER_ID).map(|id| id == own);
    let valid = match kind {
        SOLICIT | CONFIRM | REBIND => client.is_some() && for_us.is_none(),
        REQUEST | RENEW | RELEASE | DECLINE => client.is_some() && for_us == Some(true),
        INFORMATION => for_us != Some(false) && !has_ia,
        _ => false,
    };
    if !valid {
        return None;
    }
    let mut out = Vec::new();
    if let Some(id) = client {
        put(&mut out, CLIENT_ID, id);
    }
    put(&mut out, SERVER_ID, &own);
    let mut reply = REPLY;
    match kind {
        SOLICIT if find(RAPID_COMMIT).is_some() => put(&mut out, RAPID_COMMIT, &[]),
        SOLICIT => reply = ADVERTISE,
        CONFIRM => {
            // Without any address there is nothing to be said. Source: RFC 8415 section 18.3.3.
            associations(options).flat_map(addresses).next()?;
            put_status(&mut out, confirmed(gw, options));
            return Some((REPLY, out));
        }
        // The address stays the endpoint's own, whatever it says of it.
        RELEASE | DECLINE => {
            put_status(&mut out, SUCCESS);
            given_back(guest, options, &mut out);
            return Some((REPLY, out));
        }
        _ => {}
    }
    if has_ia {
        leases(gw, guest, kind, options, &mut out);
    }
    let (dns, _) = gw.v6?;
    put(&mut out, DNS_SERVERS, &dns.octets());
    let mut domains = Vec::new();
    for domain in &gw.search {
        super::dns::encode_name(domain, &mut domains);
    }
    if !domains.is_empty() {
        put(&mut out, DOMAIN_LIST, &domains);
    }
    Some((reply, out))
}

/// Type and options of the answer to a message that came by unicast, which nobody was told to use: where it needs one,
/// to use multicast. Source: RFC 8415 sections 16 and 18.3.2.
fn astray(gw: &Gateway, kind: u8, options: &[u8]) -> Option<(u8, Vec<u8>)> {
    let find = |code| Options(options).find(|o| o.0 == code).map(|o| o.1);
    let (client, own) = (find(CLIENT_ID)?, own_id(gw));
    if !matches!(kind, REQUEST | RENEW | RELEASE | DECLINE) || find(SERVER_ID) != Some(&own) {
        return None;
    }
    let mut out = Vec::new();
    put(&mut out, CLIENT_ID, client);
    put(&mut out, SERVER_ID, &own);
    put_status(&mut out, USE_MULTICAST);
    Some((REPLY, out))
}

fn put_status(out: &mut Vec<u8>, status: u16) {
    put(out, STATUS, &status.to_be_bytes());
}

/// Writes an identity association that holds nothing but a status. Shape: `ia` starts at its identifier.
fn put_refused(out: &mut Vec<u8>, code: u16, ia: &[u8], status: u16) {
    let mut data = be32(ia, 0).unwrap_or(0).to_be_bytes().to_vec();
    if code != IA_TA {
        // No time to come again: temporary addresses have none at all.
        data.extend_from_slice(&[0; 8]);
    }
    put_status(&mut data, status);
    put(out, code, &data);
}

/// Whether all addresses fit the link: what a client that has moved asks.
fn confirmed(gw: &Gateway, options: &[u8]) -> u16 {
    let mut all = associations(options).flat_map(addresses);
    if all.all(|a| on_link(gw, a)) {
        SUCCESS
    } else {
        NOT_ON_LINK
    }
}

/// Writes the associations of a message that gives addresses back and that are none of ours.
/// Source: RFC 8415 section 18.3.7.
fn given_back(guest: &Guest, options: &[u8], out: &mut Vec<u8>) {
    let all = Options(options).filter(|o| matches!(o.0, IA_NA | IA_TA | IA_PD));
    for (code, ia) in all.take(MAX_IA) {
        let ours = code == IA_NA && addresses(ia).any(|a| Some(a) == guest.v6);
        if !ours {
            put_refused(out, code, ia, NO_BINDING);
        }
    }
}

/// Writes the answer to each association of a message that asks for addresses.
/// Source: RFC 8415 sections 18.3.2, 18.3.4, 18.3.5 and 18.3.9.
fn leases(gw: &Gateway, guest: &Guest, kind: u8, options: &[u8], out: &mut Vec<u8>) {
    let known = matches!(kind, RENEW | REBIND);
    let none = |status| if known { NO_BINDING } else { status };
    let all = Options(options).filter(|o| matches!(o.0, IA_NA | IA_TA | IA_PD));
    for (code, ia) in all.take(MAX_IA) {
        match (code, guest.v6) {
            (IA_NA, _) if kind == REQUEST && addresses(ia).any(|a| !on_link(gw, a)) => {
                put_refused(out, code, ia, NOT_ON_LINK);
            }
            (IA_NA, Some(own)) => put(out, IA_NA, &lease(own, ia)),
            (IA_PD, _) => put_refused(out, code, ia, none(NO_PREFIXES)),
            _ => put_refused(out, code, ia, none(NO_ADDRS)),
        }
    }
}

fn associations(options: &[u8]) -> impl Iterator<Item = &[u8]> {
    Options(options)
        .filter(|o| o.0 == IA_NA && o.1.len() >= 12)
        .map(|o| o.1)
}

fn addresses(ia: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    Options(ia.get(12..).unwrap_or_default())
        .filter(|o| o.0 == IA_ADDR)
        .filter_map(|o| o.1.first_chunk().map(|b| Ipv6Addr::from_octets(*b)))
}

fn on_link(gw: &Gateway, a: Ipv6Addr) -> bool {
    gw.v6.is_some_and(|(own, prefix)| {
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        own.to_bits() & mask == a.to_bits() & mask
    })
}

/// The identity association as answered: the endpoint's address, and any other one with no life left.
fn lease(own: Ipv6Addr, ia: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&be32(ia, 0).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&(PREFERRED / 2).to_be_bytes());
    out.extend_from_slice(&(PREFERRED / 5 * 4).to_be_bytes());
    let mut address = |a: Ipv6Addr, preferred: u32, valid: u32| {
        let mut data = a.octets().to_vec();
        data.extend_from_slice(&preferred.to_be_bytes());
        data.extend_from_slice(&valid.to_be_bytes());
        put(&mut out, IA_ADDR, &data);
    };
    address(own, PREFERRED, VALID);
    let others = addresses(ia).filter(|&a| a != own);
    others.take(MAX_IA).for_each(|a| address(a, 0, 0));
    out
}

#[cfg(test)]
#[path = "dhcp6_tests.rs"]
mod tests;
