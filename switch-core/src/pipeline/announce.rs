//! Stage 4: An endpoint's word that an address is its own now, said for it. Neighbours that remember another station
//! there would send to that for as long as they believe in it. Source: RFC 5227 section 3, RFC 4861 section 7.2.6.

#[cfg(test)]
mod tests;

use core::net::IpAddr;

use super::Switch;
use super::vlans::Source;
use crate::addr::PortId;
use crate::flow::host::Host;
use crate::respond::{arp, nd};
use crate::time::Tick;
use crate::wire::packet::Packet;
use crate::wire::vnet_hdr::VnetHdr;

impl Switch {
    /// Tells the neighbours of an endpoint that these addresses are its own, each once, as far as it may speak to them.
    /// Cost: a flood for each, in turns as any other.
    pub fn announce<H: Host>(&mut self, host: &mut H, now: Tick, id: PortId, addrs: &[IpAddr]) {
        let mut frame = core::mem::take(&mut self.out);
        for addr in addrs {
            let Some(port) = self.ports.get(id) else {
                break;
            };
            match *addr {
                IpAddr::V4(addr) => arp::announcement(port.mac, addr, &mut frame),
                IpAddr::V6(addr) => nd::announcement(port.mac, addr, &mut frame),
            }
            // One that sends nothing without a tag has told us nothing of its addresses.
            let Ok(packet) = Packet::parse(&frame) else {
                continue;
            };
            let Ok(vlan) = port.vlan_of(&packet) else {
                continue;
            };
            let from = Source { port: id, vlan };
            // Where it is not heard, neighbours find out by themselves.
            let _ = self.flood(host, now, from, &packet, &VnetHdr::default(), &frame);
        }
        self.out = frame;
    }
}
