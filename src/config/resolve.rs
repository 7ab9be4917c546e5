//! From options as written to a configuration that may be acted upon.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use switch_core::addr::Mac;

use super::facts::HostFacts;
use super::impair;
use super::join::{self, Join, Share};
use super::names;
use super::options::{self, Loopback};
use super::publish::{self, PublishRule};
use super::raw::{NetOptions, UdpFilter};
use super::subnet::{self, Subnet4, Subnet6, Wishes};
use crate::control::spec::EndpointKind;
use crate::endpoint::wrap::impairment::Impairment;

/// The release that brings the commands that are known by name alone.
pub const NEXT_RELEASE: &str = "weft 0.2";
/// Smallest MTU that IPv6 works on. Source: RFC 8200 section 5.
const MTU_V6: u16 = 1280;

/// What gets the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A command and its arguments, at least one word.
    Command(Vec<OsString>),
    /// The namespaces of a process.
    Pid(i32),
    /// A network namespace by its file.
    Netns(PathBuf),
}

/// Which network it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// One of its own, with an uplink of sockets.
    Private,
    /// Its own loopback only.
    None,
    /// The host's.
    Host,
    /// One of its own, inside a namespace that exists.
    Netns(PathBuf),
    /// Those of a daemon.
    Joined(Join),
    /// That of a daemon's sandbox.
    Shared(Share),
}

/// A user that weft's processes become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A name with an address, for /etc/hosts and for DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    /// The name, without a final dot.
    pub name: String,
    /// The address.
    pub addr: IpAddr,
}

/// The checked configuration of `run` and `attach`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunConfig {
    /// What gets the network.
    pub target: Target,
    /// Which network it gets.
    pub network: NetworkMode,
    /// The caller stays itself inside, and is not mapped to root.
    pub keep_id: bool,
    /// Whom weft's own processes become; only ever set for root.
    pub user: Option<User>,
    /// The sandbox's name.
    pub name: String,
    /// The host name inside.
    pub hostname: String,
    /// What is behind the interface; what can be had where absent.
    pub kind: Option<EndpointKind>,
    /// The interface's name inside.
    pub ifname: String,
    /// The interface's MAC.
    pub mac: Mac,
    /// The gateway's MAC, another one.
    pub gateway_mac: Mac,
    /// The interface's MTU.
    pub mtu: u16,
    /// The IPv4 subnet; `None` without a network of our own.
    pub v4: Option<Subnet4>,
    /// The IPv6 subnet; `None` without a network of our own, and where the MTU is too small.
    pub v6: Option<Subnet6>,
    /// Published ports, exposed ones included; none overlap.
    pub publish: Vec<PublishRule>,
    /// Resolvers to ask in place of the host's; the host's when empty.
    pub dns: Vec<SocketAddr>,
    /// Search domains; the host's when empty.
    pub dns_search: Vec<String>,
    /// Names with addresses.
    pub hosts: Vec<HostEntry>,
    /// This address reaches the host's 127.0.0.1.
    pub loopback_v4: Option<Ipv4Addr>,
    /// This address reaches the host's ::1.
    pub loopback_v6: Option<Ipv6Addr>,
    /// Every service on the host's other addresses is open.
    pub host_access: bool,
    /// Where frames are captured to.
    pub pcap: Option<PathBuf>,
    /// What the sandbox's link does to frames.
    pub impair: Option<Impairment>,
    /// Told when the network is up.
    pub ready_fd: Option<i32>,
    /// Given our process id when the network is up.
    pub pid_file: Option<PathBuf>,
    /// Who may answer to datagrams.
    pub udp_filter: UdpFilter,
    /// What the user should know of, one sentence each.
    pub warnings: Vec<String>,
}

impl RunConfig {
    /// Checks options. `keep_id` is an option of `run` alone.
    /// Errors: one line: what is wrong, in which option, what to do.
    pub fn resolve(
        target: Target,
        keep_id: bool,
        raw: NetOptions,
        facts: &HostFacts,
    ) -> Result<Self> {
        let mut network = join::mode(&target, &raw)?;
        join::refuse_options(&network, keep_id, &raw)?;
        let own = matches!(network, NetworkMode::Private | NetworkMode::Netns(_));
        let mut warnings = Vec::new();
        let loopback = options::host_loopback(&raw.host_loopback)?;
        let mtu = options::mtu(raw.mtu)?;
        let (v4, v6) = if own {
            subnets(&raw, mtu, &loopback, facts, &mut warnings)?
        } else {
            (None, None)
        };
        let (loopback_v4, loopback_v6) = options::place_loopback(&loopback, v4, v6)?;
        let (mac, gateway_mac) = options::macs(raw.mac.as_deref(), facts.random)?;
        options::threads(&raw)?;
        let name = match &raw.name {
            Some(name) => names::host("--name", name)?,
            None => options::default_name(facts.random),
        };
        let hostname = match (&raw.hostname, &network) {
            (Some(hostname), _) => names::host("--hostname", hostname)?,
            (None, NetworkMode::Shared(share)) => share.name.clone(),
            (None, _) => name.clone(),
        };
        let mut publish = published(&raw, facts.descriptors)?;
        if let NetworkMode::Joined(join) = &mut network {
            join.publish = std::mem::take(&mut publish);
            if matches!(target, Target::Command(_)) {
                // A namespace that exists may have a name already; that of a command's is ours to give.
                for wish in &mut join.endpoints {
                    wish.name = Some(name.clone());
                }
            }
        }
        Ok(Self {
            target,
            network,
            keep_id,
            user: options::user(raw.user.as_deref(), facts.uid)?,
            name,
            hostname,
            kind: raw.kind,
            ifname: names::interface(raw.ifname.as_deref().unwrap_or("eth0"))?,
            mac,
            gateway_mac,
            mtu,
            v4,
            v6,
            publish,
            dns: raw
                .dns
                .iter()
                .map(|s| options::resolver(s))
                .collect::<Result<_>>()?,
            dns_search: raw
                .dns_search
                .iter()
                .map(|s| names::domain("--dns-search", s))
                .collect::<Result<_>>()?,
            hosts: options::hosts(&raw.add_host, v4, v6)?,
            loopback_v4,
            loopback_v6,
            host_access: raw.host_access,
            pcap: raw.pcap,
            impair: raw.impair.as_deref().map(impair::parse).transpose()?,
            ready_fd: options::ready_fd(raw.ready_fd)?,
            pid_file: raw.pid_file,
            udp_filter: raw.udp_filter.unwrap_or_default(),
            warnings,
        })
    }
}

/// Reads `PID|NETNS` of `attach`: a number, a path, or a name under /run/netns.
/// Errors: neither.
pub fn attach_target(text: &str) -> Result<Target> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let pid = text.parse().ok().filter(|&p: &i32| p > 0);
        return Ok(Target::Pid(
            pid.with_context(|| format!("attach '{text}': not a process id"))?,
        ));
    }
    ensure!(
        !text.is_empty() && !text.starts_with('.'),
        "attach '{text}': give a process id, a path, or a name under /run/netns"
    );
    if text.contains('/') {
        Ok(Target::Netns(text.into()))
    } else {
        Ok(Target::Netns(PathBuf::from("/run/netns").join(text)))
    }
}

type Subnets = (Option<Subnet4>, Option<Subnet6>);

fn subnets(
    raw: &NetOptions,
    mtu: u16,
    loopback: &[Loopback],
    facts: &HostFacts,
    warnings: &mut Vec<String>,
) -> Result<Subnets> {
    let avoid: Vec<IpAddr> = loopback
        .iter()
        .filter_map(|l| match l {
            Loopback::Addr(a) => Some(*a),
            Loopback::Gateway => None,
        })
        .collect();
    let four = Wishes {
        subnet: raw.subnet.as_deref(),
        addr: raw.ip.as_deref(),
        routes: &facts.routes,
        avoid: &avoid,
    };
    let v4 = subnet::v4(&four, warnings)?;
    if mtu < MTU_V6 {
        ensure!(
            raw.ip6.is_none() && raw.subnet6.is_none(),
            "--mtu {mtu}: IPv6 needs {MTU_V6}; raise it or leave out --ip6 and --subnet6"
        );
        warnings.push(format!(
            "the sandbox has no IPv6: it needs an MTU of {MTU_V6}, and --mtu is {mtu}"
        ));
        return Ok((Some(v4), None));
    }
    let six = Wishes {
        subnet: raw.subnet6.as_deref(),
        addr: raw.ip6.as_deref(),
        ..four
    };
    let [a, b, c, d, e, f, g, ..] = facts.random;
    let v6 = subnet::v6(&six, [a, b, c, d, e, f, g], warnings)?;
    Ok((Some(v4), Some(v6)))
}

fn published(raw: &NetOptions, descriptors: u64) -> Result<Vec<PublishRule>> {
    let mut rules: Vec<PublishRule> = raw
        .publish
        .iter()
        .map(|s| s.parse())
        .collect::<Result<_>>()?;
    let exposed: Vec<PublishRule> = raw
        .expose
        .iter()
        .map(|s| publish::parse_expose(s))
        .collect::<Result<_>>()?;
    if raw.publish_all {
        ensure!(
            !exposed.is_empty(),
            "--publish-all publishes what --expose names, and it names nothing"
        );
        rules.extend(exposed);
    }
    publish::check_together(&rules, descriptors)?;
    Ok(rules)
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
