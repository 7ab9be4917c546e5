//! Stage 4: A DHCPv4 server with one address for each endpoint. Source: RFC 2131, RFC 2132, RFC 3442, RFC 4039.

use core::net::{IpAddr, Ipv4Addr};

use super::{Gateway, Guest, udp_frame};
use crate::addr::Mac;
use crate::verdict::DropReason;
use crate::wire::packet::{Kind, PROTO_UDP, Packet};
use crate::wire::udp::UdpHeader;

const SERVER: u16 = 67;
const CLIENT: u16 = 68;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// Fixed fields before the options.
const FIXED: usize = 236;
/// Smallest message that every client takes. Source: RFC 1542 section 2.1.
const MIN_LEN: usize = 300;
/// Lease in seconds: an endpoint keeps its address as long as it lives, renewing is free.
const LEASE: u32 = 86_400;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

struct Query<'a> {
    xid: [u8; 4],
    flags: [u8; 2],
    ciaddr: Ipv4Addr,
    mac: Mac,
    options: &'a [u8],
}

impl<'a> Query<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        if message.get(..3)? != [1, 1, 6] || message.get(FIXED..FIXED + 4)? != COOKIE {
            return None;
        }
        let [a, b, c, d] = *message.get(12..)?.first_chunk()?;
        Some(Self {
            xid: *message.get(4..)?.first_chunk()?,
            flags: *message.get(10..)?.first_chunk()?,
            ciaddr: Ipv4Addr::new(a, b, c, d),
            mac: Mac(*message.get(28..)?.first_chunk()?),
            options: message.get(FIXED + 4..)?,
        })
    }

    fn option(&self, code: u8) -> Option<&'a [u8]> {
        let mut rest = self.options;
        loop {
            match rest.split_first()? {
                (0, after) => rest = after,
                (255, _) => return None,
                (&found, after) => {
                    let (&len, after) = after.split_first()?;
                    let (value, after) = after.split_at_checked(usize::from(len))?;
                    if found == code {
                        return Some(value);
                    }
                    rest = after;
                }
            }
        }
    }

    fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.option(code)?
            .first_chunk::<4>()
            .map(|b| Ipv4Addr::from_octets(*b))
    }
}

/// Answers a client. True if `out` holds an answer.
/// Errors: `Spoofed` for a guest that plays the server, `Malformed`.
pub fn respond(
    gw: &Gateway,
    frame: &[u8],
    packet: &Packet,
    out: &mut Vec<u8>,
) -> Result<bool, DropReason> {
    let Kind::Ip(ip) = packet.kind else {
        return Ok(false);
    };
    if ip.proto != PROTO_UDP || ip.frag.is_some() || !ip.src.is_ipv4() {
        return Ok(false);
    }
    let datagram = frame.get(ip.l4..ip.end).unwrap_or_default();
    let udp = UdpHeader::parse(datagram)?;
    match (udp.src_port, udp.dst_port) {
        (SERVER, CLIENT) => return Err(DropReason::Spoofed),
        (_, SERVER) => {}
        _ => return Ok(false),
    }
    let Some((own, prefix)) = gw.v4 else {
        return Ok(false);
    };
    let query = Query::parse(datagram.get(UdpHeader::LEN..).unwrap_or_default())
        .ok_or(DropReason::Malformed)?;
    let Some(guest) = gw.guest(query.mac) else {
        return Ok(false);
    };
    let Some(address) = guest.v4 else {
        return Ok(false);
    };
    if query.address(54).is_some_and(|server| server != own) {
        // The client took another server's offer.
        return Ok(false);
    }
    let wanted = query.address(50).unwrap_or(query.ciaddr);
    let kind = match query.option(53).and_then(|o| o.first()) {
        // Rapid commit: the lease at once.
        Some(&DISCOVER) if query.option(80).is_some() => ACK,
        Some(&DISCOVER) => OFFER,
        Some(&REQUEST) if wanted == address => ACK,
        Some(&REQUEST) => NAK,
        Some(&INFORM) => ACK,
        // Decline and release: the address stays the endpoint's own.
        _ => return Ok(false),
    };
    let message = write(gw, &query, guest, kind, (own, prefix), address);
    // RFC 2131 section 4.1: to the client's address where it has one; else to everybody, which each client takes.
    let unicast = kind != NAK && !query.ciaddr.is_unspecified();
    let (to, mac) = if unicast {
        (query.ciaddr, packet.src)
    } else {
        (Ipv4Addr::BROADCAST, Mac::BROADCAST)
    };
    udp_frame(
        (gw.mac, mac),
        (IpAddr::V4(own), SERVER),
        (IpAddr::V4(to), CLIENT),
        &message,
        out,
    );
    Ok(true)
}

fn write(
    gw: &Gateway,
    query: &Query<'_>,
    guest: &Guest,
    kind: u8,
    (own, prefix): (Ipv4Addr, u8),
    address: Ipv4Addr,
) -> Vec<u8> {
    let inform = query.option(53) == Some(&[INFORM]);
    let mut m = vec![2, 1, 6, 0];
    m.extend_from_slice(&query.xid);
    m.extend_from_slice(&[0, 0]);
    m.extend_from_slice(&query.flags);
    m.extend_from_slice(&query.ciaddr.octets());
    m.extend_from_slice(&if kind == NAK || inform {
        [0; 4]
    } else {
        address.octets()
    });
    m.extend_from_slice(&[0; 8]);
    m.extend_from_slice(&query.mac.0);
    m.resize(FIXED, 0);
    m.extend_from_slice(&COOKIE);
    let mut put = |code: u8, value: &[u8]| {
        if let Ok(len) = u8::try_from(value.len()) {
            m.extend_from_slice(&[code, len]);
            m.extend_from_slice(value);
        }
    };
    put(53, &[kind]);
    put(54, &own.octets());
    if let Some(id) = query.option(61) {
        put(61, id);
    }
    if kind != NAK {
        if !inform {
            put(51, &LEASE.to_be_bytes());
            put(58, &(LEASE / 2).to_be_bytes());
            put(59, &(LEASE / 8 * 7).to_be_bytes());
        }
        if query.option(80).is_some() {
            put(80, &[]);
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        put(1, &mask.to_be_bytes());
        if gw.uplink {
            // A client that takes 121 ignores 3, so the default route stands in both.
            let mut routes = vec![0];
            routes.extend_from_slice(&own.octets());
            put(121, &routes);
            put(3, &own.octets());
        }
        put(6, &own.octets());
        if !guest.name.is_empty() {
            put(12, guest.name.as_bytes());
        }
        if let Some(domain) = gw.search.first() {
            put(15, domain.as_bytes());
        }
        let mut search = Vec::new();
        for domain in &gw.search {
            super::dns::encode_name(domain, &mut search);
        }
        if !search.is_empty() {
            put(119, &search);
        }
        put(26, &gw.mtu.to_be_bytes());
    }
    m.push(255);
    if m.len() < MIN_LEN {
        m.resize(MIN_LEN, 0);
    }
    m
}
