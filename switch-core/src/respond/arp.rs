//! Stage 4: ARP: the gateway answers for itself and for every endpoint that it knows, so that no request of theirs
//! is flooded. Source: RFC 826, RFC 5227.

use core::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::Gateway;
use crate::addr::Mac;
use crate::verdict::DropReason;
use crate::wire::packet::Packet;

/// Bytes of an ARP packet for IPv4 over Ethernet.
const LEN: usize = 28;

/// Answers a request for the gateway's address or, where `peers`, for another endpoint's and those that are routed. True if `out` holds an answer.
/// Errors: `Malformed`; `Spoofed` where somebody claims the gateway's address.
pub fn respond(
    gw: &Gateway,
    peers: bool,
    frame: &[u8],
    packet: &Packet,
    out: &mut Vec<u8>,
) -> Result<bool, DropReason> {
    let Some((own, _)) = gw.v4 else {
        return Ok(false);
    };
    let arp = parse(frame, packet)?;
    let ours = |a: Ipv4Addr| a == own || gw.guests.is_virtual(a.into());
    if ours(arp.sender) || arp.mac != packet.src {
        return Err(DropReason::Spoofed);
    }
    if !arp.asks {
        return Ok(false);
    }
    let mac = if ours(arp.target) {
        gw.mac
    } else {
        // Not to whom has it already: a probe for one's own address has no answer.
        let peer = gw.guests.by_addr(arp.target.into());
        match peer.filter(|peer| peers && peer.mac != packet.src) {
            Some(peer) => peer.mac,
            None if peers && gw.guests.routes.find(arp.target.into()).is_some() => gw.mac,
            None => return Ok(false),
        }
    };
    arp.answer(mac, out);
    Ok(true)
}

/// Answers a request for an address of a station. True if `out` holds an answer.
/// Errors: `Malformed`; `Spoofed` for who asks in the name of a station, or with another's MAC.
pub fn respond_as(
    station: impl Fn(Ipv4Addr) -> Option<Mac>,
    frame: &[u8],
    packet: &Packet,
    out: &mut Vec<u8>,
) -> Result<bool, DropReason> {
    let arp = parse(frame, packet)?;
    let Some(mac) = station(arp.target).filter(|_| arp.asks) else {
        return Ok(false);
    };
    if station(arp.sender).is_some() || arp.mac != packet.src {
        return Err(DropReason::Spoofed);
    }
    arp.answer(mac, out);
    Ok(true)
}

/// What an ARP packet says.
struct Arp {
    asks: bool,
    mac: Mac,
    sender: Ipv4Addr,
    target: Ipv4Addr,
}

fn parse(frame: &[u8], packet: &Packet) -> Result<Arp, DropReason> {
    let bytes = frame.get(packet.l3..).unwrap_or_default();
    let arp = ArpPacket::new_checked(bytes).map_err(|_| DropReason::Truncated)?;
    match ArpRepr::parse(&arp).map_err(|_| DropReason::Malformed)? {
        ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } => Ok(Arp {
            asks: operation == ArpOperation::Request,
            mac: Mac(source_hardware_addr.0),
            sender: source_protocol_addr,
            target: target_protocol_addr,
        }),
        _ => Err(DropReason::Malformed),
    }
}

impl Arp {
    /// Writes that this is the station which was asked for.
    fn answer(&self, mac: Mac, out: &mut Vec<u8>) {
        let answer = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(mac.0),
            source_protocol_addr: self.target,
            target_hardware_addr: EthernetAddress(self.mac.0),
            target_protocol_addr: self.sender,
        };
        write((self.mac, mac), &answer, out);
    }
}

/// Writes an announcement: whoever knows another station at the address takes this one. Source: RFC 5227 section 3.
pub fn announcement(mac: Mac, addr: Ipv4Addr, out: &mut Vec<u8>) {
    let said = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: addr,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: addr,
    };
    write((Mac::BROADCAST, mac), &said, out);
}

fn write((to, from): (Mac, Mac), said: &ArpRepr, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&to.0);
    out.extend_from_slice(&from.0);
    out.extend_from_slice(&[8, 6]);
    let mut body = [0; LEN];
    said.emit(&mut ArpPacket::new_unchecked(&mut body[..]));
    out.extend_from_slice(&body);
}
