//! Stage 6: Services: what is for a virtual address goes to one of its backends, and what comes back seems to come
//! from the service. The first packet chooses; all that follow find its choice in the table of conversations.
//!
//! A backend sees its clients' own addresses. Only where it could not answer them, because it is the client itself,
//! endpoints may not speak to each other, or it is on another host, does the service's address stand for the client's.

mod about;
mod elsewhere;

use core::net::IpAddr;
use std::io::IoSlice;
use std::sync::Arc;

use super::{Switch, egress, seconds};
use crate::addr::PortId;
use crate::conntrack::switched::{Found, Stage, Switched, Target};
use crate::conntrack::tuple::{Role, Tuple};
use crate::flow::host::Host;
use crate::flow::tcp::{Cx, TcpFlows};
use crate::nat::choice::mix;
use crate::nat::rewrite::{Ends, rewrite};
use crate::nat::service::{Seat, Services};
use crate::respond::icmp::IcmpError;
use crate::verdict::{DropReason, Verdict};
use crate::wire::packet::{Ip, PROTO_TCP, PROTO_UDP, Packet};
use crate::wire::tcp::TcpHeader;
use crate::wire::vnet_hdr::VnetHdr;

/// Ports tried for a client that cannot keep its own.
const TRIES: u64 = 16;

/// A frame on its way to or from a service.
#[derive(Clone, Copy)]
pub(super) struct Arrived<'a> {
    pub(super) from: PortId,
    pub(super) packet: &'a Packet,
    pub(super) ip: &'a Ip,
    pub(super) vnet: &'a VnetHdr,
    pub(super) frame: &'a [u8],
}

impl Switch {
    /// Sets the services of the network, in place of those before. Conversations stay with their backends.
    pub fn set_services(&mut self, services: Arc<Services>) {
        let gw = &mut self.config.gateway;
        gw.guests.set_virtual(services.addrs());
        self.rules.table();
        self.services = Some(services);
    }

    /// Takes a frame that belongs to a service: to its address, or from one of its backends. `None` if it does not.
    /// Errors: `NoBackend`, `Refused` for a port that it has not; those of rules and limits.
    pub(super) fn service<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        arrived: Arrived<'_>,
    ) -> Result<Option<Verdict>, DropReason> {
        let Arrived {
            from,
            packet,
            ip,
            frame,
            ..
        } = arrived;
        let Some(services) = self.services.as_ref().map(Arc::clone) else {
            return Ok(None);
        };
        let to_service = services.owns(ip.dst);
        if !matches!(ip.proto, PROTO_TCP | PROTO_UDP) {
            return self.about(host, cx, &services, arrived);
        }
        if ip.frag.is_some() {
            // Only the first piece says where the others go.
            return if to_service {
                Err(DropReason::Fragment)
            } else {
                Ok(None)
            };
        }
        let (tuple, role) = Tuple::of(self.config.network, ip, frame)?;
        let table = Arc::clone(self.rules.table());
        let now = seconds(cx.now);
        let found = table.pass(&tuple, role, now);
        if let Some((found, target)) = found.and_then(|f| Some((f, f.target?))) {
            judge(&services, &tuple, role, &found, (from, packet.src), now);
            let there = self.is_there(&target);
            // An opening that was not answered is led elsewhere when it comes again.
            let again = role == Role::Opens && found.stage == Stage::New && !found.reply;
            let unheard = again && ip.proto == PROTO_TCP && found.silent > 0;
            if there && !unheard {
                return self.readdress(host, cx, arrived, &target).map(Some);
            }
            if unheard && let Some(vip) = Some(tuple.dst).filter(|d| services.owns(*d)) {
                services.misses(vip, (target.port, target.mac), now);
            }
        }
        if !to_service {
            return Ok(None);
        }
        let target = self.lead(host, cx, arrived, (&tuple, role), (&services, &table))?;
        self.readdress(host, cx, arrived, &target).map(Some)
    }

    /// Chooses a backend for a conversation, and enters it.
    fn lead<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        arrived: Arrived<'_>,
        (tuple, role): (&Tuple, Role),
        (services, table): (&Services, &Switched),
    ) -> Result<Target, DropReason> {
        let Arrived {
            from,
            packet,
            ip,
            frame,
            ..
        } = arrived;
        let now = seconds(cx.now);
        if !self.client_ok(from, ip, packet.src) {
            return Err(DropReason::Spoofed);
        }
        if role == Role::Resets {
            return Err(DropReason::NoFlow);
        }
        if services
            .target(tuple.dst, tuple.proto, tuple.ports.1)
            .is_none()
        {
            return Err(self.shut(host, cx, arrived, DropReason::Refused));
        }
        self.opens(host, cx, from, (packet, ip), frame)?;
        let Some(chosen) = services.choose(tuple, Some((from, packet.src)), now) else {
            return Err(self.shut(host, cx, arrived, DropReason::NoBackend));
        };
        let (Some(client), Some(backend)) = (self.ports.get(from), self.ports.get(chosen.port))
        else {
            return Err(self.shut(host, cx, arrived, DropReason::NoBackend));
        };
        self.rules.room(client, cx.now)?;
        if client.isolated && backend.isolated && from != chosen.port {
            return Err(DropReason::Isolated);
        }
        let mut source = (tuple.src, tuple.ports.0);
        let there = |source: (IpAddr, u16)| Tuple {
            src: source.0,
            dst: chosen.addr,
            ports: (source.1, chosen.target),
            ..*tuple
        };
        if !self.rules.takes(backend, &there(source), cx.now) {
            return Err(DropReason::Denied);
        }
        // It answers the service alone: who is elsewhere is not for this host to speak for.
        if from == chosen.port || !self.config.icc || backend.remote.is_some() {
            let free = |n: u64| {
                let [.., a, b] = mix(u64::from(tuple.ports.0) << 8 | n).to_be_bytes();
                let other = u16::from_be_bytes([a, b]) | 0x8000;
                let port = if n == 0 { tuple.ports.0 } else { other };
                let back = there((tuple.dst, port)).reversed();
                table.peek(&back, now).is_none().then_some(port)
            };
            let port = (0..TRIES).find_map(free).ok_or(DropReason::TableFull)?;
            source = (tuple.dst, port);
        }
        let to = Target {
            src: source,
            dst: (chosen.addr, chosen.target),
            mac: chosen.mac,
            port: chosen.port,
        };
        let back = Target {
            src: (tuple.dst, tuple.ports.1),
            dst: (tuple.src, tuple.ports.0),
            mac: packet.src,
            port: from,
        };
        let stage = if role == Role::Opens {
            Stage::New
        } else {
            Stage::Open
        };
        table.open(tuple, (from, stage), Some((to, back)), now);
        Ok(to)
    }

    /// True if who a conversation leads to is where it was.
    fn is_there(&self, target: &Target) -> bool {
        self.ports
            .get(target.port)
            .is_some_and(|port| match port.remote {
                None => port.mac == target.mac,
                Some(_) => self.is_behind(port, target.mac),
            })
    }

    /// Sends a frame on with the addresses that its conversation has on the other side. One that opens a connection
    /// with another host says no more than what fits the way.
    fn readdress<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        arrived: Arrived<'_>,
        target: &Target,
    ) -> Result<Verdict, DropReason> {
        let ways = [arrived.from, target.port].map(|id| self.ports.get(id));
        let ways = ways.into_iter().flatten().filter(|p| p.remote.is_some());
        let Some(mtu) = ways.map(|port| port.mtu).min() else {
            return self.pass_on(host, cx, arrived, target);
        };
        let Arrived {
            ip, vnet, frame, ..
        } = arrived;
        let Some(whole) = self.clamped(ip, vnet, frame, mtu) else {
            return self.pass_on(host, cx, arrived, target);
        };
        let arrived = Arrived {
            frame: &whole,
            ..arrived
        };
        let sent = self.pass_on(host, cx, arrived, target);
        self.whole = whole;
        sent
    }

    fn pass_on<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        arrived: Arrived<'_>,
        target: &Target,
    ) -> Result<Verdict, DropReason> {
        let Arrived {
            from,
            packet,
            ip,
            vnet,
            frame,
        } = arrived;
        let Some(to) = self.ports.get(target.port) else {
            return Err(DropReason::NoBackend);
        };
        if !egress::fits(frame, packet, vnet, to.mtu) {
            // Between a client and a service the gateway is a router, which says so.
            let what = IcmpError::TooBig(to.mtu);
            return self.refuse(host, from, frame, what, DropReason::TooBig);
        }
        if !to.has_room(cx.now, frame, packet, vnet) {
            return Err(DropReason::RateLimited);
        }
        let ends = Ends {
            macs: (self.face(to, target.src.0), target.mac),
            src: target.src,
            dst: target.dst,
        };
        let own = vnet.needs_csum() && usize::from(vnet.csum_start) == ip.l4;
        let head = rewrite(frame, ip, own, &ends)?;
        let rest = frame.get(head.len()..).unwrap_or_default();
        // What waits is of another conversation, but was first.
        self.end_run(host);
        if host.tx(
            target.port,
            vnet,
            &[IoSlice::new(&head), IoSlice::new(rest)],
        ) {
            Ok(Verdict::Forward(target.port))
        } else {
            Err(DropReason::TxFailed)
        }
    }

    /// Tells a client that nobody serves it.
    fn shut<H: Host>(
        &mut self,
        host: &mut H,
        cx: &Cx,
        arrived: Arrived<'_>,
        reason: DropReason,
    ) -> DropReason {
        let Arrived {
            from,
            packet,
            ip,
            frame,
            ..
        } = arrived;
        if ip.proto == PROTO_TCP {
            let segment = frame.get(ip.l4..ip.end).unwrap_or_default();
            if let Ok(hdr) = TcpHeader::parse(segment) {
                TcpFlows::refuse(host, cx, from, packet.src, ip, &hdr, segment.len());
            }
            return reason;
        }
        let told = self.refuse(host, from, frame, IcmpError::PortUnreachable, reason);
        told.err().unwrap_or(reason)
    }
}

/// Learns about a backend's health from what it answers.
fn judge(services: &Services, tuple: &Tuple, role: Role, found: &Found, from: Seat, now: u32) {
    let Some(target) = found
        .target
        .filter(|_| found.reply && found.stage == Stage::New)
    else {
        return;
    };
    if role == Role::Resets && tuple.proto == PROTO_TCP {
        services.fails(target.src.0, from, now);
    } else {
        services.answers(target.src.0, from);
    }
}
