//! Published ports: the text `[IP:]HOST[-HOST][:PORT[-PORT]][/tcp|/udp]`, and what several of them mean together.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Descriptors that are left for everything beside listeners: workers, endpoints, resolvers, pipes, the first flows.
pub const DESCRIPTOR_RESERVE: u64 = 256;

/// The protocol of a published port.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Proto {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Proto {
    /// The number in an IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Ports from the first to the last, both included, none of them zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Checks a range. `None` when it is empty or holds port 0.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last {
            None
        } else {
            Some(Self { first, last })
        }
    }

    /// The first port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// How many ports it holds, at least one.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// True if `port` is one of them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Self> {
        let (first, last) = s.split_once('-').unwrap_or((s, s));
        let (first, last) = (parse_port(first)?, parse_port(last)?);
        Self::new(first, last).with_context(|| format!("the range {s} runs backwards"))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

fn parse_port(s: &str) -> Result<u16> {
    // `u16::from_str` would take a sign.
    ensure!(
        !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()),
        "'{s}' is not a port: ports are 1 to 65535"
    );
    match s.parse::<u16>() {
        Ok(0) => bail!("port 0 cannot be published"),
        Ok(port) => Ok(port),
        Err(_) => bail!("port {s} is past 65535"),
    }
}

/// One rule: ports of the host that lead to as many ports of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRule {
    /// The protocol.
    pub proto: Proto,
    /// The address of the host to bind; `None` is every address of both families, `0.0.0.0` and `::` every one of theirs.
    pub bind: Option<IpAddr>,
    /// The host's ports; `None` lets the host choose a free one for each when it is bound.
    pub host: Option<PortRange>,
    /// The sandbox's ports, as many as the host's.
    pub guest: PortRange,
}

impl PublishRule {
    /// The sandbox's port behind a port of the host. `None` when that is not of this rule, or was chosen by the host.
    #[must_use]
    pub fn guest_port(&self, host_port: u16) -> Option<u16> {
        let host = self.host.filter(|r| r.contains(host_port))?;
        self.guest.first().checked_add(host_port - host.first())
    }

    /// Sockets that the rule needs: one a port, for both families where it names no address.
    #[must_use]
    pub fn sockets(&self) -> u64 {
        u64::from(self.guest.count())
    }

    /// True if both rules would bind the same port of the same address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let ports = match (self.host, other.host) {
            (Some(a), Some(b)) => a.overlaps(b),
            _ => false,
        };
        ports && self.proto == other.proto && binds_overlap(self.bind, other.bind)
    }
}

fn binds_overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return true;
    };
    a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}

impl FromStr for PublishRule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).with_context(|| format!("publish '{text}'"))
    }
}

impl fmt::Display for PublishRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bind {
            Some(IpAddr::V6(a)) => write!(f, "[{a}]:")?,
            Some(IpAddr::V4(a)) => write!(f, "{a}:")?,
            None => {}
        }
        match self.host {
            Some(host) => write!(f, "{host}:{}/{}", self.guest, self.proto),
            None => write!(f, "*:{}/{}", self.guest, self.proto),
        }
    }
}

/// Written as text. A rule that leaves the port to the host has `*` in its place.
impl Serialize for PublishRule {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublishRule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let parsed = parse_chosen(&text).unwrap_or_else(|| text.parse());
        parsed.map_err(|e| de::Error::custom(format_args!("{e:#}")))
    }
}

/// Reads `[IP:]*:PORT[-PORT][/tcp|/udp]`: any free ports of the host. `None` for other texts.
fn parse_chosen(text: &str) -> Option<Result<PublishRule>> {
    let (bind, guest) = text.split_once("*:")?;
    let rule = || -> Result<PublishRule> {
        // A port stands in for the star, so that one parser reads addresses.
        let stand_in = format!("{bind}1");
        let (bind, rest) = split_bind(&stand_in)?;
        ensure!(
            rest == "1",
            "'{rest}' is no address and no port; the form is [IP:]*:PORT[-PORT][/tcp|/udp]"
        );
        Ok(PublishRule {
            bind,
            ..parse_expose(guest)?
        })
    };
    Some(rule().with_context(|| format!("publish '{text}'")))
}

fn parse(text: &str) -> Result<PublishRule> {
    let (rest, proto) = split_proto(text)?;
    let (bind, rest) = split_bind(rest)?;
    let (host, guest) = rest.split_once(':').unwrap_or((rest, rest));
    ensure!(
        !guest.contains(':'),
        "too many colons; the form is [IP:]HOST[-HOST][:PORT[-PORT]][/tcp|/udp], with an IPv6 address in brackets"
    );
    let (host, guest): (PortRange, PortRange) = (host.parse()?, guest.parse()?);
    ensure!(
        host.count() == guest.count(),
        "{} ports of the host cannot lead to {} ports of the sandbox: give ranges of one length",
        host.count(),
        guest.count()
    );
    Ok(PublishRule {
        proto,
        bind,
        host: Some(host),
        guest,
    })
}

fn split_proto(text: &str) -> Result<(&str, Proto)> {
    match text.split_once('/') {
        None => Ok((text, Proto::Tcp)),
        Some((rest, "tcp")) => Ok((rest, Proto::Tcp)),
        Some((rest, "udp")) => Ok((rest, Proto::Udp)),
        Some((_, other)) => {
            bail!("'{other}' is not a protocol that can be published: use tcp or udp")
        }
    }
}

/// Takes the address off the front, where there is one.
fn split_bind(text: &str) -> Result<(Option<IpAddr>, &str)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (addr, rest) = inner.split_once(']').context("'[' without ']'")?;
        let addr: Ipv6Addr = addr
            .parse()
            .ok()
            .with_context(|| format!("'{addr}' is not an IPv6 address"))?;
        let rest = rest
            .strip_prefix(':')
            .context("a port must follow the address")?;
        return Ok((Some(bindable(IpAddr::V6(addr).to_canonical())?), rest));
    }
    // Of `a:b` the first part is an address only if it has a dot; of `a:b:c` it must be one.
    let Some((head, rest)) = text.split_once(':') else {
        ensure!(
            text.parse::<IpAddr>().is_err(),
            "a port must follow the address"
        );
        return Ok((None, text));
    };
    if !head.contains('.') && rest.matches(':').count() != 1 {
        return Ok((None, text));
    }
    let addr: Ipv4Addr = head
        .parse()
        .ok()
        .with_context(|| format!("'{head}' is not an IPv4 address"))?;
    Ok((Some(bindable(IpAddr::V4(addr))?), rest))
}

fn bindable(addr: IpAddr) -> Result<IpAddr> {
    let broadcast = matches!(addr, IpAddr::V4(a) if a.is_broadcast());
    ensure!(
        !addr.is_multicast() && !broadcast,
        "{addr} is no address of a host to listen on"
    );
    Ok(addr)
}

/// Parses `PORT[-PORT][/tcp|/udp]` of `--expose` into a rule whose host ports are free ones, chosen at bind.
/// Errors: names the text.
pub fn parse_expose(text: &str) -> Result<PublishRule> {
    let parse = || -> Result<PublishRule> {
        let (rest, proto) = split_proto(text)?;
        Ok(PublishRule {
            proto,
            bind: None,
            host: None,
            guest: rest.parse()?,
        })
    };
    parse().with_context(|| format!("expose '{text}'"))
}

/// Checks rules against each other, and their sockets against the descriptors that the process may have.
/// Errors: names both rules that overlap, or both numbers.
pub fn check_together(rules: &[PublishRule], descriptor_limit: u64) -> Result<()> {
    for (i, rule) in rules.iter().enumerate() {
        if let Some(earlier) = rules.iter().take(i).find(|r| r.overlaps(rule)) {
            bail!(
                "publish '{rule}' overlaps '{earlier}': a port of the host can lead to one place only"
            );
        }
    }
    let sockets: u64 = rules.iter().map(PublishRule::sockets).sum();
    let need = sockets + DESCRIPTOR_RESERVE;
    ensure!(
        rules.is_empty() || need <= descriptor_limit,
        "the published ports need {need} descriptors and the hard limit is {descriptor_limit}: \
         publish fewer ports or raise it (ulimit -Hn)"
    );
    Ok(())
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
