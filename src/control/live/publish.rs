//! Published ports: bound by the broker, heard by the owner of the endpoint.

use socket2::Socket;
use switch_core::addr::SockId;

use super::{LivePlane, Rule};
use crate::config::Proto;
use crate::control::ids::PublishId;
use crate::control::plane::PlaneError;
use crate::control::spec::{PortFailure, PublishSpec, Published};
use crate::host::fleet::Port;
use crate::host::sockets::{Leads, door};
use crate::host::start::has_v6;
use crate::worker::board::Board;

impl LivePlane {
    pub(super) fn publish(&mut self, spec: &PublishSpec) -> Result<Published, PlaneError> {
        let end = self.end(spec.endpoint)?;
        let (v4, v6) = (end.spec.v4, end.spec.v6);
        let (port, owner) = (end.port, end.owner);
        let slot = self.net(end.spec.network)?.slot;
        let mut published = Published::default();
        let (rule, proto) = (&spec.rule, spec.rule.proto);
        let with_v6 = has_v6();
        let ports = (rule.guest.first()..=rule.guest.last()).zip(0..);
        let doors: Vec<(Port, Leads)> = ports
            .filter_map(|(guest, offset)| {
                let host = rule.host.map_or(0, |range| range.first() + offset);
                door((proto, rule.bind), host, port, (v4, v6, guest), with_v6)
            })
            .collect();
        let socks = self.bind(&doors, &mut published)?;
        let mut ranges = Vec::new();
        match rule.host {
            Some(range) => ranges.push((proto.number(), range.first(), range.last())),
            None => {
                for (socket, leads) in &socks {
                    let local = socket.local_addr().ok().and_then(|a| a.as_socket());
                    let inside = leads.v4.or(leads.v6);
                    let Some((local, inside)) = local.zip(inside) else {
                        continue;
                    };
                    published.chosen.push((inside.port(), local.port()));
                    ranges.push((proto.number(), local.port(), local.port()));
                }
            }
        }
        let opened = self.on(owner, move |board| open(board, slot, proto, socks))?;
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

    /// Binds ports; what is wrong with one is noted in `published`. Errors: `Ended`.
    fn bind(
        &mut self,
        doors: &[(Port, Leads)],
        published: &mut Published,
    ) -> Result<Vec<(Socket, Leads)>, PlaneError> {
        let ports: Vec<Port> = doors.iter().map(|(port, _)| *port).collect();
        let mut socks = Vec::with_capacity(ports.len());
        for (bound, (port, leads)) in self.broker.bind(&ports)?.into_iter().zip(doors) {
            match bound {
                Ok(fd) => socks.push((Socket::from(fd), *leads)),
                Err(failure) => published.failed.push(PortFailure {
                    at: port.at().addr(),
                    errno: failure.errno.unwrap_or(0),
                    message: failure.message.clone(),
                }),
            }
        }
        Ok(socks)
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
    proto: Proto,
    socks: Vec<(Socket, Leads)>,
) -> std::io::Result<Vec<SockId>> {
    let mut opened = Vec::with_capacity(socks.len());
    let result = board.with(slot, |switch, io| -> std::io::Result<()> {
        for (socket, leads) in socks {
            opened.push(match proto {
                Proto::Tcp => io.listen(socket, leads)?,
                Proto::Udp => io.publish_udp(switch, socket, leads)?,
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
