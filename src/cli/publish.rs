//! Binding of published ports, all before the command starts.

use anyhow::{Context, Result, bail};
use socket2::Socket;
use switch_core::addr::PortId;

use super::exit;
use crate::config::{Proto, PublishRule, RunConfig};
use crate::host::broker::Broker;
use crate::host::sockets::{Leads, door};
use crate::host::start::has_v6;

/// Bound sockets and where they lead.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// Listening.
    pub tcp: Vec<(Socket, Leads)>,
    /// Bound.
    pub udp: Vec<(Socket, Leads)>,
    /// Protocol number and range of what is published, for the rule on the host's own addresses.
    pub ranges: Vec<(u8, u16, u16)>,
}

/// Binds everything that `config` publishes.
/// Errors: one line that names the first port that cannot be had; what was bound is closed again.
pub(super) fn bind(broker: &mut Broker, config: &RunConfig) -> Result<Bound> {
    let mut bound = Bound::default();
    for rule in &config.publish {
        for offset in 0..rule.guest.count() {
            let offset = u16::try_from(offset).context("a range of ports is too long")?;
            bind_port(broker, config, rule, offset, &mut bound)?;
        }
    }
    Ok(bound)
}

fn bind_port(
    broker: &mut Broker,
    config: &RunConfig,
    rule: &PublishRule,
    offset: u16,
    bound: &mut Bound,
) -> Result<()> {
    let guest_port = rule.guest.first() + offset;
    let host_port = rule.host.map_or(0, |r| r.first() + offset);
    let (v4, v6) = (config.v4.map(|s| s.guest), config.v6.map(|s| s.guest));
    let inside = (v4, v6, guest_port);
    let Some((port, leads)) = door(
        (rule.proto, rule.bind),
        host_port,
        PortId(0),
        inside,
        has_v6(),
    ) else {
        bail!("port {guest_port} cannot be published: the sandbox has no address of that family");
    };
    let socket = Socket::from(broker.bind_port(port)?);
    let local = socket.local_addr().ok().and_then(|a| a.as_socket());
    let bound_to = local.map_or(host_port, |a| a.port());
    if host_port == 0 {
        exit::complain(format_args!(
            "published port {bound_to} for {guest_port}/{}",
            rule.proto
        ));
    }
    match rule.proto {
        Proto::Tcp => bound.tcp.push((socket, leads)),
        Proto::Udp => bound.udp.push((socket, leads)),
    }
    bound.ranges.push((rule.proto.number(), bound_to, bound_to));
    Ok(())
}
