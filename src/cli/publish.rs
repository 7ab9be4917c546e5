//! Binding of published ports, all before the command starts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use socket2::Socket;
use switch_core::addr::PortId;

use super::exit;
use crate::config::{Proto, PublishRule, RunConfig};
use crate::host::broker::Broker;
use crate::host::sockets::Published;
use crate::host::start::has_v6;

/// Bound sockets and where they lead.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// Listening.
    pub tcp: Vec<(Socket, Published)>,
    /// Bound.
    pub udp: Vec<(Socket, Published)>,
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
    let mut host_port = rule.host.map_or(0, |r| r.first() + offset);
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let addresses = rule.bind.as_ref().map_or(&any[..], std::slice::from_ref);
    let mut opened = 0;
    for addr in addresses {
        // A client of one family reaches the server by the same family where the sandbox has it.
        let Some(inside) = inside(config, addr.is_ipv6()) else {
            continue;
        };
        let at = SocketAddr::new(*addr, host_port);
        let to = Published {
            port: PortId(0),
            to: SocketAddr::new(inside, guest_port),
        };
        let fd: Result<OwnedFd> = match rule.proto {
            Proto::Tcp => broker.bind_tcp(at),
            Proto::Udp => broker.bind_udp(at),
        };
        let fd = match fd {
            Ok(fd) => fd,
            // A host without IPv6 publishes by IPv4 alone, unless IPv6 was asked for.
            Err(_) if rule.bind.is_none() && addr.is_ipv6() && opened > 0 && !has_v6() => {
                continue;
            }
            Err(e) => return Err(e),
        };
        let socket = Socket::from(fd);
        let port = socket
            .local_addr()
            .ok()
            .and_then(|a| a.as_socket())
            .map_or(host_port, |a| a.port());
        if host_port == 0 {
            exit::complain(format_args!(
                "published port {port} for {guest_port}/{}",
                rule.proto
            ));
            host_port = port;
        }
        opened += 1;
        match rule.proto {
            Proto::Tcp => bound.tcp.push((socket, to)),
            Proto::Udp => bound.udp.push((socket, to)),
        }
    }
    if opened == 0 {
        bail!("port {guest_port} cannot be published: the sandbox has no address of that family");
    }
    bound
        .ranges
        .push((rule.proto.number(), host_port, host_port));
    Ok(())
}

fn inside(config: &RunConfig, v6: bool) -> Option<IpAddr> {
    if v6 {
        config.v6.map(|s| s.guest.into())
    } else {
        config.v4.map(|s| s.guest.into())
    }
}
