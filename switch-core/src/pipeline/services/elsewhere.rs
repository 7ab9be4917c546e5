//! Stage 4-6: Services and other hosts: an endpoint there reaches a service of this host at a MAC that is the service's
//! own, for the gateway is each host's own. What it gets comes from there, as from any endpoint that was announced.

#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::io::IoSlice;
use std::sync::Arc;

use super::Arrived;
use crate::addr::{Mac, PortId};
use crate::flow::host::Host;
use crate::flow::tcp::Cx;
use crate::nat::service::Services;
use crate::pipeline::{Port, Remote, Switch};
use crate::respond::{arp, nd};
use crate::verdict::{DropReason, Verdict};
use crate::wire::packet::{Ip, Kind, Packet};
use crate::wire::vnet_hdr::VnetHdr;

impl Switch {
    /// The MAC by which a virtual address speaks to who is behind a port.
    pub(super) fn face(&self, to: &Port, addr: IpAddr) -> Mac {
        let station = self.service_towards(to.id, addr);
        station.unwrap_or(self.config.gateway.mac)
    }

    /// The MAC at which who is behind a port to another host reaches a virtual address. `None` for others.
    pub(in crate::pipeline) fn service_towards(&self, port: PortId, addr: IpAddr) -> Option<Mac> {
        let port = self.ports.get(port)?;
        let of = self.services.as_ref().filter(|_| port.remote.is_some())?;
        of.station(addr)
    }

    /// True if a station is behind a port to another host.
    pub(super) fn is_behind(&self, port: &Port, mac: Mac) -> bool {
        match self.ports.by_mac(mac) {
            Some(known) => known == port.id,
            None => port.remote == Some(Remote::Learned),
        }
    }

    /// The guard on clients of services. Where stations are learned it is known of their addresses only that they are
    /// nobody's else; that was seen to before.
    pub(super) fn client_ok(&self, from: PortId, ip: &Ip, mac: Mac) -> bool {
        let port = self.ports.get(from);
        if port.is_some_and(|port| port.remote == Some(Remote::Learned)) {
            self.config.gateway.covers(ip.src)
        } else {
            self.source_ok(ip, mac)
        }
    }

    /// Takes a frame of another host to the MAC of a service. `None` if it is to none.
    /// Errors: `NotRouted` for what is not to the service's address; those of services.
    pub(in crate::pipeline) fn serve_elsewhere<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        from: PortId,
        packet: &Packet,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Option<Verdict>, DropReason> {
        let of = self.services.as_ref().map(Arc::clone);
        let Some(services) = of.filter(|s| s.is_station(packet.dst)) else {
            return Ok(None);
        };
        let station = |addr| services.station(addr).filter(|mac| *mac == packet.dst);
        if let Kind::Ip(ip) = &packet.kind
            && station(ip.dst).is_some()
        {
            let arrived = Arrived {
                from,
                packet,
                ip,
                vnet,
                frame,
            };
            let cx = Cx {
                mac: packet.dst,
                ..*cx
            };
            if let Some(verdict) = self.service(host, &cx, arrived)? {
                return Ok(Some(verdict));
            }
        }
        if self.tell_station(host, from, station, packet, frame)? {
            Ok(Some(Verdict::Answer))
        } else {
            Err(DropReason::NotRouted)
        }
    }

    /// Answers a node that is told nothing of services, when it asks everybody for the address of one. True if it did.
    pub(in crate::pipeline) fn tell_node<H: Host>(
        &mut self,
        host: &mut H,
        from: PortId,
        packet: &Packet,
        frame: &[u8],
    ) -> Result<bool, DropReason> {
        let learns = |port: &Port| port.remote == Some(Remote::Learned);
        let services = self.services.as_ref().map(Arc::clone);
        match services.filter(|_| self.ports.get(from).is_some_and(learns)) {
            Some(services) => {
                let station = |addr| Services::station(&services, addr);
                self.tell_station(host, from, station, packet, frame)
            }
            None => Ok(false),
        }
    }

    /// Tells who asks for it the MAC of an address. True if it did.
    fn tell_station<H: Host>(
        &mut self,
        host: &mut H,
        from: PortId,
        station: impl Fn(IpAddr) -> Option<Mac>,
        packet: &Packet,
        frame: &[u8],
    ) -> Result<bool, DropReason> {
        let out = &mut self.out;
        let told = match packet.kind {
            Kind::Arp => arp::respond_as(|a| station(a.into()), frame, packet, out)?,
            Kind::Ip(_) => nd::respond_as(|a| station(a.into()), frame, packet, out)?,
            Kind::Other(_) => false,
        };
        if told {
            host.tx(from, &VnetHdr::default(), &[IoSlice::new(&self.out)]);
        }
        Ok(told)
    }
}
