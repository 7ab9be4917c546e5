//! Stage 2-7: The way of a frame, in order: parse, guard, learn, answer, forward, translate.

mod announce;
mod egress;
mod events;
mod flood;
mod forward;
mod gateway;
#[cfg(test)]
mod gateway_tests;
#[cfg(test)]
mod limit_tests;
mod members;
mod multicast;
mod names;
mod pieces;
mod ports;
mod remote;
mod routed;
#[cfg(test)]
mod rule_tests;
mod rules;
#[cfg(test)]
mod service_tests;
mod services;
mod stations;
#[cfg(test)]
mod tests;
mod too_big;
mod vlans;

use core::net::IpAddr;
use std::io::IoSlice;
use std::sync::Arc;

use self::flood::Floods;
use self::forward::Pending;
use self::multicast::{Snooper, Wanted};
use self::names::Names;
use self::ports::Ports;
use self::rules::Rulebook;
use self::services::Arrived;
use self::stations::Damped;
use self::vlans::Source;
use crate::addr::{NetworkId, PortId};
use crate::flow::echo::EchoFlows;
use crate::flow::host::Host;
use crate::flow::tcp::{Cx, Limits, TcpFlows};
use crate::flow::udp::{Filter, UdpFlows};
use crate::frag::Reassembly;
use crate::l2::snoop::PROTO_IGMP;
use crate::l2::table::MacTable;
use crate::nat::service::Services;
use crate::policy::host_rule::HostRule;
use crate::policy::limit::Load;
use crate::respond::dns::Dns;
use crate::respond::{Gateway, arp, dhcp, dhcp6, icmp, nd};
use crate::time::Tick;
use crate::verdict::{DropReason, Drops, Verdict};
use crate::wire::checksum::{Partial, check_offload};
use crate::wire::packet::{Kind, PROTO_ICMP, PROTO_ICMPV6, PROTO_UDP, Packet};
use crate::wire::vnet_hdr::VnetHdr;

pub use self::members::Settings;
pub use self::multicast::Snooping;
pub use self::ports::Port;
pub use self::remote::Remote;
pub use self::stations::Flap;
pub use self::vlans::{Untagged, Vlan, Vlans};

/// What a switch is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// The network.
    pub network: NetworkId,
    /// Its gateway.
    pub gateway: Gateway,
    /// Its endpoints at the start.
    pub ports: Vec<Port>,
    /// Endpoints may speak to each other.
    pub icc: bool,
    /// What of the host it may reach.
    pub rule: HostRule,
    /// Which remotes may answer datagrams.
    pub filter: Filter,
    /// The host's range of outgoing ports.
    pub ephemeral: (u16, u16),
    /// Capacities for TCP.
    pub limits: Limits,
    /// Random numbers, for hashes and initial sequence numbers.
    pub seeds: [u64; 4],
}

/// One network's switch, with the flows of its owner.
#[derive(Debug)]
pub struct Switch {
    pub(crate) config: Config,
    ports: Ports,
    floods: Floods,
    rules: Rulebook,
    services: Option<Arc<Services>>,
    pending: Pending,
    snooper: Option<Snooper>,
    /// What of multicast other hosts want.
    wanted: Wanted,
    /// The host's own addresses of now.
    pub(crate) own: Vec<IpAddr>,
    pub(crate) macs: Arc<MacTable>,
    damped: Damped,
    pub(crate) tcp: TcpFlows,
    pub(crate) udp: UdpFlows,
    pub(crate) echo: EchoFlows,
    pub(crate) dns: Dns,
    names: Names,
    pub(crate) frags: Reassembly,
    pub(crate) drops: Drops,
    pub(crate) out: Vec<u8>,
    /// A frame of which a part had to be computed.
    pub(crate) whole: Vec<u8>,
}

impl Switch {
    /// A switch that has seen nothing yet.
    #[must_use]
    pub fn new(now: Tick, mut config: Config, macs: Arc<MacTable>) -> Self {
        let seeds = config.seeds;
        let begun = core::mem::take(&mut config.ports);
        let mut rules = Rulebook::new(config.network, seeds);
        begun.iter().for_each(|port| rules.adopt(None, port));
        let mut switch = Self {
            ports: Ports::new(seeds),
            floods: Floods::default(),
            rules,
            services: None,
            pending: Pending::default(),
            snooper: None,
            wanted: Wanted::default(),
            own: Vec::new(),
            macs,
            damped: Damped::default(),
            tcp: TcpFlows::new(now, config.limits, seeds),
            udp: UdpFlows::new(now, config.filter, config.ephemeral, seeds),
            echo: EchoFlows::default(),
            dns: Dns::new(seeds),
            names: Names::new(seeds),
            frags: Reassembly::default(),
            drops: Drops::default(),
            out: Vec::with_capacity(2048),
            whole: Vec::new(),
            config,
        };
        for port in begun {
            switch.set_limits(&port);
            switch.ports.insert(port);
        }
        switch
    }

    /// Takes one frame of an endpoint through all stages.
    /// Shape: `frame` starts at the Ethernet header, `vnet` is what the endpoint said about it.
    pub fn handle_frame<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        port: PortId,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Verdict {
        let verdict = self.handle_next(host, now, port, vnet, frame);
        self.end_run(host);
        verdict
    }

    /// As [`Self::handle_frame`], where another frame may follow at once: what is switched may be kept until then.
    /// [`Self::end_run`] ends it.
    #[inline]
    pub fn handle_next<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        port: PortId,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Verdict {
        let verdict = self
            .stages(host, now, port, vnet, frame)
            .unwrap_or_else(Verdict::Drop);
        if let Verdict::Drop(reason) = verdict {
            self.drops.count(reason);
        }
        verdict
    }

    fn stages<H: Host>(
        &mut self,
        host: &mut H,
        now: Tick,
        from: PortId,
        vnet: &VnetHdr,
        frame: &[u8],
    ) -> Result<Verdict, DropReason> {
        let packet = Packet::parse(frame)?;
        let Some(port) = self.ports.get(from) else {
            return Err(DropReason::NoFlow);
        };
        let cx = Cx {
            now,
            mac: self.config.gateway.mac,
            mtu: port.mtu,
            uso: port.uso,
        };
        if port.remote.is_some() {
            return self.arrived(host, &cx, from, &packet, vnet, frame);
        }
        let vlan = port.vlan_of(&packet)?;
        match port.guard_of(&packet) {
            Some(guard) => {
                let gw = &self.config.gateway;
                guard.check(&packet, frame, &|a| {
                    let holder = gw.guests.by_addr(a.into());
                    gw.owns(a.into())
                        || gw.guests.is_virtual(a.into())
                        || holder.is_some_and(|g| g.mac != packet.src)
                })?;
            }
            None if packet.src != port.mac => return Err(DropReason::Spoofed),
            None => {}
        }
        if packet.dst.is_bridge_reserved() {
            return Err(DropReason::Reserved);
        }
        let partial = check_offload(frame.len(), &packet, vnet)?;
        if let Some(limits) = &port.limits {
            let to_all = packet.dst.is_group() && !self.may_have_members(&packet, frame);
            limits.sent(now, to_all, || Load::of(frame, &packet, vnet))?;
        }
        if packet.src != port.mac {
            self.note_station(Source { port: from, vlan }, packet.src, now)?;
        }
        if let Some(vlan) = vlan {
            return self.switch_vlan(host, &cx, (from, vlan), &packet, vnet, frame);
        }
        if packet.dst == self.config.gateway.mac {
            return match partial {
                Partial::Own => self.gateway_frame(host, &cx, from, &packet, vnet, frame),
                Partial::Inner => self.inner_partial(host, &cx, from, &packet, vnet, frame),
            };
        }
        if packet.dst.is_group() {
            if self.answer(host, from, &packet, frame)?
                || self.snoop(host, now, Source::own(from), &packet, frame)?
                || for_routers(&packet, frame)
            {
                return Ok(Verdict::Answer);
            }
            return self.spread(host, now, Source::own(from), &packet, vnet, frame);
        }
        if self.services.is_some()
            && let Kind::Ip(ip) = &packet.kind
        {
            let arrived = Arrived {
                from,
                packet: &packet,
                ip,
                vnet,
                frame,
            };
            if let Some(verdict) = self.service(host, &cx, arrived)? {
                return Ok(verdict);
            }
        }
        if !self.config.icc {
            return Err(DropReason::Isolated);
        }
        self.unicast(host, &cx, from, &packet, vnet, frame)
    }

    /// Stage 4: The responders. True if one answered.
    pub(crate) fn answer<H: Host>(
        &mut self,
        host: &mut H,
        port: PortId,
        packet: &Packet,
        frame: &[u8],
    ) -> Result<bool, DropReason> {
        let gw = &self.config.gateway;
        let out = &mut self.out;
        let answered = match packet.kind {
            Kind::Arp => arp::respond(gw, self.config.icc, frame, packet, out)?,
            Kind::Ip(ip) => match ip.proto {
                PROTO_UDP => {
                    dhcp::respond(gw, frame, packet, out)?
                        || dhcp6::respond(gw, frame, packet, out)?
                }
                PROTO_ICMP => icmp::echo(gw, frame, packet, out)?,
                PROTO_ICMPV6 => {
                    nd::respond(gw, self.config.icc, frame, packet, out)?
                        || icmp::echo(gw, frame, packet, out)?
                }
                _ => false,
            },
            Kind::Other(_) => false,
        };
        if answered {
            host.tx(port, &VnetHdr::default(), &[IoSlice::new(&self.out)]);
        }
        Ok(answered)
    }
}

/// True for what only a router wants to hear, which is us: reports of group membership and router solicitations. And a
/// probe for the link-local address that is made of the sender's own MAC, which nobody else may have.
/// Source: RFC 4541 section 2.1.1, RFC 4861 section 6.1.1, RFC 4862 section 5.4.
fn for_routers(packet: &Packet, frame: &[u8]) -> bool {
    let Kind::Ip(ip) = packet.kind else {
        return false;
    };
    let message = frame.get(ip.l4..ip.end).unwrap_or_default();
    match (ip.proto, message.first()) {
        (PROTO_IGMP, Some(0x12 | 0x16 | 0x17 | 0x22)) => true,
        (PROTO_ICMPV6, Some(131 | 132 | 133 | 143)) => true,
        (PROTO_ICMPV6, Some(135)) if ip.src.is_unspecified() => {
            message.get(8..24) == Some(&packet.src.link_local().octets())
        }
        _ => false,
    }
}

/// Seconds for the station table.
#[must_use]
pub fn seconds(now: Tick) -> u32 {
    u32::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX)
}
