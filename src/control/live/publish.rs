//! Published ports: bound by the broker, heard by the owner of the endpoint.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::Socket;
use switch_core::addr::SockId;
use switch_core::time::Tick;

use super::{LivePlane, Rule};
use crate::config::Proto;
use crate::control::ids::PublishId;
use crate::control::plane::PlaneError;
use crate::control::spec::{PortFailure, PublishSpec, Published};
use crate::host::fleet::Port;
use crate::host::sockets;
use crate::host::sockets::udp::UdpSock;
use crate::host::start::has_v6;
use crate::worker::board::Board;

/// A port to bind, and where it leads.
struct Wanted {
    at: SocketAddr,
    inside: SocketAddr,
    /// Another family's port of the same rule may do without it.
    optional: bool,
}

impl LivePlane {
    pub(super) fn publish(&mut self, spec: &PublishSpec) -> Result<Published, PlaneError> {
        let end = self.end(spec.endpoint)?;
        let (v4, v6) = (end.spec.v4, end.spec.v6);
        let (port, owner) = (end.port, end.owner);
        let slot = self.net(end.spec.network)?.slot;
        let mut published = Published::default();
        let mut ranges = Vec::new();
        let mut socks = Vec::new();
        match spec.rule.host {
            Some(range) => {
                let wanted = wanted(spec, v4, v6, |offset| range.first() + offset);
                self.bind(spec.rule.proto, &wanted, &mut socks, &mut published)?;
                ranges.push((spec.rule.proto.number(), range.first(), range.last()));
            }
            // Each port is chosen by the first family that is bound, and the other follows it.
            None => self.bind_chosen(spec, (v4, v6), &mut socks, (&mut published, &mut ranges))?,
        }
        let proto = spec.rule.proto;
        let opened = self.on(owner, move |board| open(board, slot, port, proto, socks))?;
        let opened = opened.map_err(|e| super::endpoint::refused("a published port", &e))?;
        let (mut listeners, mut datagrams) = (Vec::new(), Vec::new());
        match proto {
            Proto::Tcp => listeners = opened,
            Proto::Udp => datagrams = opened,
        }
        self.rules.insert(
            spec.id,
            Rule {
                spec: spec.clone(),
                ranges,
                listeners,
                datagrams,
            },
        );
        self.configure_all()?;
        self.settle_splicing(spec.endpoint)?;
        Ok(published)
    }

    fn bind(
        &mut self,
        proto: Proto,
        wanted: &[Wanted],
        socks: &mut Vec<(Socket, SocketAddr)>,
        published: &mut Published,
    ) -> Result<(), PlaneError> {
        let ports: Vec<Port> = wanted.iter().map(|w| as_port(proto, w.at)).collect();
        for (bound, wanted) in self.broker.bind(&ports)?.into_iter().zip(wanted) {
            match bound {
                Ok(fd) => socks.push((Socket::from(fd), wanted.inside)),
                // A host booted without IPv6 publishes by IPv4 alone.
                Err(_) if wanted.optional && !has_v6() => {}
                Err(failure) => published.failed.push(PortFailure {
                    at: wanted.at,
                    errno: failure.errno.unwrap_or(0),
                    message: failure.message.clone(),
                }),
            }
        }
        Ok(())
    }

    fn bind_chosen(
        &mut self,
        spec: &PublishSpec,
        (v4, v6): (Option<Ipv4Addr>, Option<Ipv6Addr>),
        socks: &mut Vec<(Socket, SocketAddr)>,
        (published, ranges): (&mut Published, &mut Vec<(u8, u16, u16)>),
    ) -> Result<(), PlaneError> {
        let proto = spec.rule.proto;
        let first = wanted(spec, v4, None, |_| 0);
        let first = if first.is_empty() {
            wanted(spec, None, v6, |_| 0)
        } else {
            first
        };
        let from = socks.len();
        self.bind(proto, &first, socks, published)?;
        let mut second = Vec::new();
        for (socket, inside) in &socks[from..] {
            let local = socket.local_addr().ok().and_then(|a| a.as_socket());
            let Some(local) = local else { continue };
            published.chosen.push((inside.port(), local.port()));
            ranges.push((proto.number(), local.port(), local.port()));
            if let Some(v6) = v6.filter(|_| local.is_ipv4() && spec.rule.bind.is_none()) {
                second.push(Wanted {
                    at: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), local.port()),
                    inside: SocketAddr::new(v6.into(), inside.port()),
                    optional: true,
                });
            }
        }
        self.bind(proto, &second, socks, published)
    }

    pub(super) fn unpublish(&mut self, id: PublishId) -> Result<(), PlaneError> {
        let rule = self.rules.remove(&id).ok_or(PlaneError::NoPublish(id))?;
        let end = self.end(rule.spec.endpoint)?;
        let (owner, slot) = (end.owner, self.net(end.spec.network)?.slot);
        let (listeners, datagrams) = (rule.listeners, rule.datagrams);
        self.on(owner, move |board| {
            board.with(slot, |switch, io| {
                for sock in listeners {
                    io.close(sock);
                }
                for sock in datagrams {
                    switch.unpublish_udp(io, sock);
                }
            });
        })?;
        self.settle_splicing(rule.spec.endpoint)?;
        self.configure_all()
    }
}

/// Puts bound sockets to work. Errors: one cannot be polled, and then none is left.
fn open(
    board: &mut Board,
    slot: u32,
    port: switch_core::addr::PortId,
    proto: Proto,
    socks: Vec<(Socket, SocketAddr)>,
) -> std::io::Result<Vec<SockId>> {
    let mut opened = Vec::with_capacity(socks.len());
    let result = board.with(slot, |switch, io| -> std::io::Result<()> {
        for (socket, to) in socks {
            opened.push(match proto {
                Proto::Tcp => io.listen(socket, sockets::Published { port, to })?,
                Proto::Udp => {
                    let v6 = socket.local_addr().is_ok_and(|a| a.is_ipv6());
                    let mapping = switch.next_mapping();
                    let sock = io.publish_udp(UdpSock::from_bound(socket, v6), mapping)?;
                    switch.publish_udp(Tick::ZERO, sock, port, to);
                    sock
                }
            });
        }
        Ok(())
    });
    match result {
        Some(Err(e)) => {
            board.with(slot, |switch, io| {
                for sock in opened {
                    switch.unpublish_udp(io, sock);
                    io.close(sock);
                }
            });
            Err(e)
        }
        Some(Ok(())) | None => Ok(opened),
    }
}

/// Every port of a rule with each family that both sides have.
fn wanted(
    spec: &PublishSpec,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    host_port: impl Fn(u16) -> u16,
) -> Vec<Wanted> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let addrs = spec
        .rule
        .bind
        .as_ref()
        .map_or(&any[..], std::slice::from_ref);
    let guest = spec.rule.guest;
    let mut all = Vec::new();
    for port in guest.first()..=guest.last() {
        let offset = port - guest.first();
        for &addr in addrs {
            // A client of one family reaches the server by the same family, where the sandbox has it.
            let inside = match addr {
                IpAddr::V4(_) => v4.map(IpAddr::V4),
                IpAddr::V6(_) => v6.map(IpAddr::V6),
            };
            all.extend(inside.map(|inside| Wanted {
                at: SocketAddr::new(addr, host_port(offset)),
                inside: SocketAddr::new(inside, port),
                optional: spec.rule.bind.is_none() && addr.is_ipv6() && v4.is_some(),
            }));
        }
    }
    all
}

fn as_port(proto: Proto, at: SocketAddr) -> Port {
    match proto {
        Proto::Tcp => Port::Tcp(at),
        Proto::Udp => Port::Udp(at),
    }
}
