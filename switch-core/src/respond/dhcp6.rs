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
const IA_ADDR: u16 = 5;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS_SERVERS: u16 = 23;
const DOMAIN_LIST: u16 = 24;

/// Status codes. Source: RFC 8415 section 21.13.
const NO_ADDRS: u16 = 2;
const NOT_ON_LINK: u16 = 4;

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
    let Some(answer) = answer(gw, guest, kind, options) else {
        return Ok(false);
    };
    let (kind, body) = answer;
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

/// Type and options of the answer to a message; none where RFC 8415 section 16 says to be silent.
fn answer(gw: &Gateway, guest: &Guest, kind: u8, options: &[u8]) -> Option<(u8, Vec<u8>)> {
    let find = |code| Options(options).find(|o| o.0 == code).map(|o| o.1);
    // DUID-LL: type 3, hardware type 1, our MAC.
    let mut own = vec![0, 3, 0, 1];
    own.extend_from_slice(&gw.mac.0);
    let client = find(CLIENT_ID);
    let server = find(SERVER_ID);
    let with_server = matches!(kind, REQUEST | RENEW | RELEASE | DECLINE);
    if (with_server && server != Some(&own))
        || (!with_server && kind != INFORMATION && server.is_some())
    {
        return None;
    }
    if kind != INFORMATION && client.is_none() {
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
        INFORMATION | REQUEST | RENEW | REBIND => {}
        CONFIRM => {
            let good = associations(options).all(|ia| addresses(ia).all(|a| on_link(gw, a)));
            let status = if good { 0 } else { NOT_ON_LINK };
            put(&mut out, STATUS, &status.to_be_bytes());
            return Some((REPLY, out));
        }
        // The address stays the endpoint's own, whatever it says of it.
        RELEASE | DECLINE => {
            put(&mut out, STATUS, &[0, 0]);
            return Some((REPLY, out));
        }
        _ => return None,
    }
    if kind != INFORMATION {
        for ia in associations(options).take(MAX_IA) {
            put(&mut out, IA_NA, &lease(guest, ia));
        }
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
fn lease(guest: &Guest, ia: &[u8]) -> Vec<u8> {
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
    match guest.v6 {
        Some(own) => {
            address(own, PREFERRED, VALID);
            addresses(ia)
                .filter(|&a| a != own)
                .take(MAX_IA)
                .for_each(|a| address(a, 0, 0));
        }
        None => put(&mut out, STATUS, &NO_ADDRS.to_be_bytes()),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Mac;
    use proptest::prelude::*;

    fn gateway() -> Gateway {
        Gateway {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            v4: None,
            v6: Some(("fd00::1".parse().unwrap(), 64)),
            mtu: 1500,
            v6_default_route: true,
            search: vec!["example.org".into()],
            guests: vec![Guest {
                mac: Mac([2; 6]),
                name: "a".into(),
                v4: None,
                v6: Some("fd00::2".parse().unwrap()),
            }],
        }
    }

    fn ask(kind: u8, options: &[u8]) -> Option<(u8, Vec<u8>)> {
        let gw = gateway();
        answer(&gw, &gw.guests[0], kind, options)
    }

    fn client() -> Vec<u8> {
        let mut o = Vec::new();
        put(&mut o, CLIENT_ID, &[0, 3, 0, 1, 2, 2, 2, 2, 2, 2]);
        o
    }

    #[test]
    fn information_gets_the_resolver_and_no_address() {
        let (kind, body) = ask(INFORMATION, &[]).unwrap();
        assert_eq!(kind, REPLY);
        let dns = Options(&body).find(|o| o.0 == DNS_SERVERS).unwrap().1;
        assert_eq!(dns, "fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        assert!(Options(&body).all(|o| o.0 != IA_NA));
        let domains = Options(&body).find(|o| o.0 == DOMAIN_LIST).unwrap().1;
        assert_eq!(domains, b"\x07example\x03org\x00");
    }

    #[test]
    fn solicit_then_request_gives_the_endpoints_address() {
        let mut options = client();
        put(&mut options, IA_NA, &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
        let (kind, body) = ask(SOLICIT, &options).unwrap();
        assert_eq!(kind, ADVERTISE);
        let server = Options(&body)
            .find(|o| o.0 == SERVER_ID)
            .unwrap()
            .1
            .to_vec();
        assert_eq!(
            ask(REQUEST, &options),
            None,
            "without our id it is not for us"
        );
        put(&mut options, SERVER_ID, &server);
        let (kind, body) = ask(REQUEST, &options).unwrap();
        assert_eq!(kind, REPLY);
        let ia = associations(&body).next().unwrap();
        assert_eq!(ia[..4], [0, 0, 0, 9]);
        assert_eq!(
            addresses(ia).collect::<Vec<_>>(),
            ["fd00::2".parse::<Ipv6Addr>().unwrap()]
        );
    }

    #[test]
    fn rapid_commit_and_a_foreign_address() {
        let mut options = client();
        put(&mut options, RAPID_COMMIT, &[]);
        assert_eq!(ask(SOLICIT, &options).unwrap().0, REPLY);
        let mut ia = vec![0; 12];
        let mut foreign = "2001:db8::5".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        foreign.extend_from_slice(&[0; 8]);
        put(&mut ia, IA_ADDR, &foreign);
        let mut options = client();
        put(&mut options, IA_NA, &ia);
        let (_, body) = ask(CONFIRM, &options).unwrap();
        let status = Options(&body).find(|o| o.0 == STATUS).unwrap().1;
        assert_eq!(status, NOT_ON_LINK.to_be_bytes());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in 0u8..14, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ask(kind, &bytes);
        }
    }
}
