//! Checks of single options, each with the one line that refuses it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use switch_core::addr::Mac;

use super::names::{self, HostTarget};
use super::raw::NetOptions;
use super::resolve::{HostEntry, User};
use super::subnet::{Subnet4, Subnet6};

/// Largest MTU of a TAP: 65535 less the Ethernet header. Source: drivers/net/tun.c.
const MTU_MAX: u16 = 65_521;

pub(super) fn mtu(raw: Option<u32>) -> Result<u16> {
    let mtu = raw.unwrap_or(1500);
    u16::try_from(mtu)
        .ok()
        .filter(|m| (68..=MTU_MAX).contains(m))
        .with_context(|| format!("--mtu {mtu}: must be 68 to {MTU_MAX}"))
}

/// An address of `--host-loopback`: one of its own, or the gateway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loopback {
    Addr(IpAddr),
    Gateway,
}

pub(super) fn host_loopback(raw: &[String]) -> Result<Vec<Loopback>> {
    ensure!(
        raw.len() <= 1 || !raw.iter().any(|s| s == "none"),
        "--host-loopback none cannot go with an address"
    );
    let parse = |s: &String| match s.as_str() {
        "gateway" => Ok(Loopback::Gateway),
        s => {
            let addr: IpAddr = s.parse().ok().with_context(|| {
                format!("--host-loopback '{s}': give an address, gateway or none")
            })?;
            let closed = match addr {
                IpAddr::V4(a) => a.is_broadcast() || a.octets()[0] == 0,
                IpAddr::V6(a) => a.to_ipv4().is_some(),
            };
            ensure!(
                !(closed || addr.is_loopback() || addr.is_multicast()),
                "--host-loopback '{addr}': the sandbox would never send to it; take an ordinary address"
            );
            Ok(Loopback::Addr(addr))
        }
    };
    let list: Vec<Loopback> = raw
        .iter()
        .filter(|s| *s != "none")
        .map(parse)
        .collect::<Result<_>>()?;
    for v4 in [true, false] {
        let of_family = |l: &&Loopback| match l {
            Loopback::Addr(a) => a.is_ipv4() == v4,
            Loopback::Gateway => true,
        };
        ensure!(
            list.iter().filter(of_family).count() <= 1,
            "--host-loopback: one address for each family at most"
        );
    }
    Ok(list)
}

/// Gives each family its address. Inside a subnet only the gateway's will do, since nobody would answer ARP or ND for another.
pub(super) fn place_loopback(
    list: &[Loopback],
    v4: Option<Subnet4>,
    v6: Option<Subnet6>,
) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>)> {
    let inside =
        "inside the sandbox's subnet only the gateway's address can stand for the host's loopback";
    let (mut four, mut six) = (None, None);
    for loopback in list {
        match *loopback {
            Loopback::Gateway => {
                four = v4.map(|s| s.gateway);
                six = v6.map(|s| s.gateway);
            }
            Loopback::Addr(IpAddr::V4(a)) => {
                ensure!(
                    v4.is_none_or(|s| !s.contains(a) || s.gateway == a),
                    "--host-loopback '{a}': {inside}"
                );
                four = Some(a);
            }
            Loopback::Addr(IpAddr::V6(a)) => {
                ensure!(
                    v6.is_none_or(|s| !s.contains(a) || s.gateway == a),
                    "--host-loopback '{a}': {inside}"
                );
                six = Some(a);
            }
        }
    }
    Ok((four, six))
}

pub(super) fn macs(raw: Option<&str>, random: [u8; 16]) -> Result<(Mac, Mac)> {
    let [.., a, b, c, d, e] = random;
    // Locally administered, not a group: 02. The gateway's differs in the first byte, so no two are ever equal by chance.
    let guest = match raw {
        None => Mac([0x02, a, b, c, d, e]),
        Some(text) => {
            let mac: Mac = text.parse().ok().with_context(|| {
                format!("--mac '{text}': six hexadecimal bytes with colons between them are needed")
            })?;
            ensure!(
                mac.is_station(),
                "--mac '{text}': a group's address or none cannot be an interface's"
            );
            mac
        }
    };
    let gateway = Mac([0x06, a, b, c, d, e]);
    let gateway = if gateway == guest {
        Mac([0x0a, a, b, c, d, e])
    } else {
        gateway
    };
    Ok((guest, gateway))
}

/// One sandbox of `run` has one interface, and an interface one owner: more threads would have nothing to do.
pub(super) fn threads(raw: &NetOptions) -> Result<()> {
    for (option, number) in [("--workers", raw.workers), ("--queues", raw.queues)] {
        match number {
            None | Some(1) => {}
            Some(0) => bail!("{option} 0: at least 1 is needed"),
            Some(n) => bail!(
                "{option} {n}: a private network has one worker and one queue; for more workers see 'weft up'"
            ),
        }
    }
    Ok(())
}

pub(super) fn default_name(random: [u8; 16]) -> String {
    let [a, b, c, ..] = random;
    format!("weft-{a:02x}{b:02x}{c:02x}")
}

pub(super) fn user(raw: Option<&str>, uid: u32) -> Result<Option<User>> {
    let Some(text) = raw else {
        return Ok(None);
    };
    ensure!(
        uid == 0,
        "--user '{text}': only root can become another user"
    );
    let number = |s: &str| s.parse::<u32>().ok();
    let user = match text.split_once(':') {
        Some((u, g)) => number(u).zip(number(g)).map(|(uid, gid)| User { uid, gid }),
        None => {
            let known = match number(text) {
                Some(id) => nix::unistd::User::from_uid(id.into()),
                None => nix::unistd::User::from_name(text),
            };
            let known = known.with_context(|| format!("--user '{text}'"))?;
            let known = known.map(|u| User {
                uid: u.uid.as_raw(),
                gid: u.gid.as_raw(),
            });
            // A number need not be in the user database.
            known.or_else(|| number(text).map(|id| User { uid: id, gid: id }))
        }
    };
    user.map(Some)
        .with_context(|| format!("--user '{text}': no such user; give NAME, UID or UID:GID"))
}

pub(super) fn resolver(text: &str) -> Result<SocketAddr> {
    let bare = text
        .parse::<IpAddr>()
        .ok()
        .map(|ip| SocketAddr::new(ip, 53));
    let addr = bare.or_else(|| text.parse().ok()).with_context(|| {
        format!("--dns '{text}': give an address, or ADDR:PORT with an IPv6 address in brackets")
    })?;
    ensure!(
        addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast(),
        "--dns '{text}': no resolver can be there"
    );
    Ok(addr)
}

pub(super) fn hosts(
    raw: &[String],
    v4: Option<Subnet4>,
    v6: Option<Subnet6>,
) -> Result<Vec<HostEntry>> {
    let mut hosts = Vec::new();
    for text in raw {
        let (name, target) = names::add_host(text)?;
        let addrs = match target {
            HostTarget::Addr(addr) => vec![addr],
            HostTarget::Gateway => {
                let four = v4.map(|s| IpAddr::V4(s.gateway));
                four.into_iter()
                    .chain(v6.map(|s| IpAddr::V6(s.gateway)))
                    .collect()
            }
        };
        ensure!(
            !addrs.is_empty(),
            "--add-host '{text}': there is no gateway without a network"
        );
        hosts.extend(addrs.into_iter().map(|addr| HostEntry {
            name: name.clone(),
            addr,
        }));
    }
    Ok(hosts)
}

pub(super) fn ready_fd(raw: Option<i32>) -> Result<Option<i32>> {
    if let Some(fd) = raw {
        ensure!(
            fd >= 1,
            "--ready-fd {fd}: give the number of a descriptor that can be written to"
        );
    }
    Ok(raw)
}
