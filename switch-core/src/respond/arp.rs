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
    let bytes = frame.get(packet.l3..).unwrap_or_default();
    let arp = ArpPacket::new_checked(bytes).map_err(|_| DropReason::Truncated)?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&arp).map_err(|_| DropReason::Malformed)?
    else {
        return Err(DropReason::Malformed);
    };
    let ours = |a: Ipv4Addr| a == own || gw.guests.is_virtual(a.into());
    if ours(source_protocol_addr) || Mac(source_hardware_addr.0) != packet.src {
        return Err(DropReason::Spoofed);
    }
    if operation != ArpOperation::Request {
        return Ok(false);
    }
    let mac = if ours(target_protocol_addr) {
        gw.mac
    } else {
        // Not to whom has it already: a probe for one's own address has no answer.
        let peer = gw.guests.by_addr(target_protocol_addr.into());
        match peer.filter(|peer| peers && peer.mac != packet.src) {
            Some(peer) => peer.mac,
            None if peers && gw.guests.routes.find(target_protocol_addr.into()).is_some() => gw.mac,
            None => return Ok(false),
        }
    };
    let answer = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    write((packet.src, mac), &answer, out);
    Ok(true)
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
