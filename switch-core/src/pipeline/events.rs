//! Stage 6: The other way through the switch: what the host's sockets report, and the passing of time.

use core::net::{IpAddr, SocketAddr};

use super::Switch;
use crate::addr::PortId;
use crate::flow::event::HostEvent;
use crate::flow::host::{Host, HostError};
use crate::flow::tcp::{Accepted, Cx};
use crate::flow::udp::{Datagrams, present};
use crate::policy::eval::Flow;
use crate::respond::Gateway;
use crate::respond::icmp::{self, IcmpError};
use crate::time::Tick;
use crate::verdict::{DropReason, Drops};
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{PROTO_TCP, PROTO_UDP};
use crate::wire::vnet_hdr::VnetHdr;

impl Switch {
    pub(super) fn cx(&self, now: Tick, port: Option<PortId>) -> Cx {
        let port = port.and_then(|id| self.ports.get(id));
        let port = port.or_else(|| self.ports.first());
        Cx {
            now,
            mac: self.config.gateway.mac,
            mtu: port.map_or(1500, |p| p.mtu),
            uso: port.is_some_and(|p| p.uso),
        }
    }

    /// Takes what a socket of the host reports.
    pub fn handle_event<H: Host>(&mut self, host: &mut H, now: Tick, event: HostEvent<'_>) {
        match event {
            HostEvent::TcpConnected { flow } => {
                let cx = self.cx(now, self.tcp.port_of(flow));
                self.tcp.connected(host, &cx, flow);
            }
            HostEvent::TcpFailed {
                flow,
                error,
                report,
            } => {
                let cx = self.cx(now, self.tcp.port_of(flow));
                let offender = report.and_then(|r| r.offender.map(|o| (o, r.kind, r.code)));
                if let Some((key, port, mac, seq)) = self.tcp.failed(host, &cx, flow, error) {
                    // The SYN is long gone: a copy of its headers is what the error is about.
                    let mut syn = HeaderBuf::new();
                    let v4 = key.guest.is_ipv4();
                    syn.eth(cx.mac, mac, if v4 { 0x0800 } else { 0x86dd });
                    syn.ip(key.guest, key.remote, PROTO_TCP, 1, 0, 20);
                    syn.tcp(
                        key.guest_port,
                        key.remote_port,
                        seq,
                        0,
                        crate::wire::tcp::SYN,
                        65_535,
                        &[],
                    );
                    syn.set_full(
                        if v4 { 34 } else { 54 },
                        key.guest,
                        key.remote,
                        PROTO_TCP,
                        &[],
                    );
                    let what = match (offender, error) {
                        (Some((_, kind, code)), _) => IcmpError::Raw {
                            kind,
                            code,
                            info: 0,
                        },
                        (None, HostError::NetUnreachable) => IcmpError::NetUnreachable,
                        (None, HostError::Forbidden) => IcmpError::Prohibited,
                        (None, _) => IcmpError::HostUnreachable,
                    };
                    let router = offender
                        .map(|o| o.0)
                        .or_else(|| gateway_of(&self.config.gateway, v4));
                    if let Some(router) = router
                        && icmp::error(
                            &self.config.gateway,
                            router,
                            syn.as_slice(),
                            what,
                            &mut self.out,
                        )
                    {
                        host.tx(
                            port,
                            &VnetHdr::default(),
                            &[std::io::IoSlice::new(&self.out)],
                        );
                    }
                }
            }
            HostEvent::TcpReadable { flow, ending } => self.tcp.readable(flow, ending),
            HostEvent::TcpWritable { flow } => {
                let cx = self.cx(now, None);
                self.tcp.writable(host, &cx, flow);
            }
            HostEvent::UdpReceived {
                mapping,
                from,
                local,
                tos,
                pieces,
            } => {
                let port = self.udp.port_of(mapping);
                if !self.lets_in_datagram(now, mapping, from) {
                    self.lose(host, port, DropReason::Denied, pieces.len());
                    return;
                }
                let cx = self.cx(now, port);
                let datagrams = Datagrams {
                    mapping,
                    from,
                    local,
                    tos,
                    pieces,
                };
                let gw = &self.config.gateway;
                match self.udp.from_host(host, &cx, gw, datagrams) {
                    Ok(0) => {}
                    Ok(lost) => self.lose(host, port, DropReason::RateLimited, lost),
                    Err(reason) => self.lose(host, port, reason, pieces.len()),
                }
            }
            HostEvent::UdpFailed { mapping, report } => {
                self.udp
                    .failed(host, &self.config.gateway, mapping, &report);
            }
            HostEvent::EchoReply {
                mapping,
                from,
                seq,
                payload,
            } => {
                let gw = &self.config.gateway;
                let reply = (from, seq, payload);
                if let Err(reason) = self.echo.from_host(host, now, gw, mapping, reply) {
                    self.lose(host, self.echo.port_of(mapping), reason, 1);
                }
            }
            HostEvent::EchoFailed { mapping, report } => {
                self.echo
                    .failed(host, &self.config.gateway, mapping, &report);
            }
            HostEvent::DnsAnswer { query, message } => {
                if let Some((client, answer)) = self.dns.handle_answer(now, query, message, host) {
                    self.name_answer(host, now, &client, &answer);
                }
            }
            HostEvent::DnsFailed { query } => {
                if let Some((client, answer)) = self.dns.handle_error(now, query, host) {
                    self.name_answer(host, now, &client, &answer);
                }
            }
        }
    }

    /// Counts what came from the world and was dropped, for the endpoint too that it was for.
    fn lose<H: Host>(
        &mut self,
        host: &mut H,
        port: Option<PortId>,
        reason: DropReason,
        count: usize,
    ) {
        self.drops.count_many(reason, count);
        if let Some(port) = port {
            host.dropped(port, reason, count);
        }
    }

    /// True if rules let a datagram in that answers none.
    fn lets_in_datagram(&self, now: Tick, mapping: u32, from: SocketAddr) -> bool {
        let Some((port, guest)) = self.udp.unasked(mapping, from) else {
            return true;
        };
        let flow = Flow {
            remote: from.ip(),
            proto: PROTO_UDP,
            port: guest.port(),
        };
        self.lets_in(now, port, &flow)
    }

    /// Brings an accepted connection to a sandbox. The server sees `from` where that means the same inside.
    pub fn accept<H: Host>(&mut self, host: &mut H, now: Tick, mut what: Accepted) {
        let flow = Flow {
            remote: what.from.ip(),
            proto: PROTO_TCP,
            port: what.to.port(),
        };
        if !self.lets_in(now, what.port, &flow) {
            self.lose(host, Some(what.port), DropReason::Denied, 1);
            host.tcp_close(what.sock, true);
            return;
        }
        let cx = self.cx(now, Some(what.port));
        what.from = SocketAddr::new(
            present(what.from.ip(), &self.config.gateway),
            what.from.port(),
        );
        if let Err(reason) = self.tcp.accept(host, &cx, &what) {
            self.lose(host, Some(what.port), reason, 1);
            host.tcp_close(what.sock, true);
        }
    }

    /// Makes an open UDP socket the published face of an inner port.
    pub fn publish_udp(
        &mut self,
        now: Tick,
        sock: crate::addr::SockId,
        port: PortId,
        to: SocketAddr,
    ) {
        let mac = self.mac_of(port);
        self.udp.publish(now, sock, (port, mac), to);
    }

    /// The MAC of an endpoint's sandbox.
    #[must_use]
    pub fn mac_of(&self, port: PortId) -> crate::addr::Mac {
        let found = self.ports.get(port);
        found.map_or(self.config.gateway.mac, |p| p.mac)
    }

    /// The id that the next UDP mapping will have.
    #[must_use]
    pub fn next_mapping(&self) -> u32 {
        self.udp.next_id()
    }

    /// Ends a batch of frames or events.
    pub fn flush<H: Host>(&mut self, host: &mut H, now: Tick) {
        let cx = self.cx(now, None);
        self.tcp.flush(host, &cx);
        self.flush_names(host, now);
        self.run_floods(host, now);
        if let Some((reason, count)) = self.udp.flush(host) {
            self.drops.count_many(reason, count);
        }
    }

    /// Gives flows whose turn was over their next one. True if some are left still.
    pub fn run_ready<H: Host>(&mut self, host: &mut H, now: Tick) -> bool {
        let cx = self.cx(now, None);
        let names = self.ready_names(host, now);
        let floods = self.run_floods(host, now);
        self.tcp.run_ready(host, &cx) || names || floods
    }

    /// True if a flow waits for its next turn.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.tcp.has_ready() || self.names.has_ready() || !self.floods.is_empty()
    }

    /// The next deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        [
            self.tcp.poll_timeout(),
            self.udp.poll_timeout(),
            self.echo.poll_timeout(),
            self.dns.poll_timeout(),
            self.names.poll_timeout(),
            self.frags.poll_timeout(),
            self.multicast_due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due.
    pub fn handle_timeout<H: Host>(&mut self, host: &mut H, now: Tick) {
        let cx = self.cx(now, None);
        self.tcp.handle_timeout(host, &cx);
        self.udp.handle_timeout(host, now);
        self.echo.handle_timeout(host, now);
        self.expire_fragments(host, now);
        let mut answers = Vec::new();
        self.dns.handle_timeout(now, host, &mut answers);
        for (client, answer) in answers {
            self.name_answer(host, now, &client, &answer);
        }
        self.names_timeout(host, now);
        self.multicast_timeout(host, now);
    }

    /// The host's addresses, and whether it has a way to the IPv6 world, have changed.
    pub fn host_changed(&mut self, own: Vec<IpAddr>, v6_default_route: bool) {
        self.own = own;
        self.config.gateway.v6_default_route = v6_default_route;
    }

    /// Writes an unsolicited router advertisement to every endpoint of this host that the gateway can reach. Those of
    /// other hosts have gateways of their own.
    pub fn advertise<H: Host>(&mut self, host: &mut H) {
        if self.config.gateway.v6.is_none() {
            return;
        }
        crate::respond::nd::advert(&self.config.gateway, &mut self.out);
        for port in self.ports.own().filter(|port| port.remote.is_none()) {
            host.tx(
                port.id,
                &VnetHdr::default(),
                &[std::io::IoSlice::new(&self.out)],
            );
        }
    }

    /// What was dropped, and why.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Counts a drop that happened outside of the stages.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.drops.count(reason);
    }

    /// Counts several of them.
    pub fn count_drops(&mut self, reason: DropReason, count: usize) {
        self.drops.count_many(reason, count);
    }

    /// True if nothing that the sandboxes have sent waits here, and none of their connections can bring more.
    #[must_use]
    pub fn is_passed_on(&self) -> bool {
        self.tcp.is_passed_on()
    }

    /// Bytes of the TCP window budget in use.
    #[must_use]
    pub fn tcp_budget(&self) -> usize {
        self.tcp.budget_used()
    }

    /// Open flows: TCP, UDP.
    #[must_use]
    pub fn flows(&self) -> (usize, usize) {
        (self.tcp.len(), self.udp.len())
    }
}

fn gateway_of(gw: &Gateway, v4: bool) -> Option<IpAddr> {
    if v4 {
        gw.v4.map(|v| v.0.into())
    } else {
        gw.v6.map(|v| v.0.into())
    }
}
