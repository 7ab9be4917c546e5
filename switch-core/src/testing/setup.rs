//! What a simulated network is made of, and its putting together.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::guest::Addresses;
use super::link::Faults;
use super::net::SimNet;
use crate::addr::{Mac, NetworkId, PortId};
use crate::flow::tcp::Limits;
use crate::flow::udp::Filter;
use crate::pipeline::{Config, Port};
use crate::policy::guard::{Guard, Trust};
use crate::policy::host_rule::HostRule;
use crate::respond::{Gateway, Guest as Known};

/// The gateway's MAC.
pub const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// The gateway's IPv4 address, in a /24.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The gateway's IPv6 address, in a /64.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 1);
/// What a simulated network is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Whatever is random follows from it.
    pub seed: u64,
    /// How many guests there are.
    pub guests: u8,
    /// How many more ports there are, with a bridge behind each: stations of any MAC send from it.
    pub bridges: u8,
    /// What their links do, both ways.
    pub faults: Faults,
    /// MTU of all of it.
    pub mtu: u16,
    /// Guests take UDP super-frames.
    pub uso: bool,
    /// What of the host may be reached.
    pub rule: HostRule,
    /// Who may answer datagrams.
    pub filter: Filter,
    /// Capacities for TCP.
    pub limits: Limits,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            seed: 1,
            guests: 1,
            bridges: 0,
            faults: Faults::default(),
            mtu: 1500,
            uso: true,
            rule: HostRule::default(),
            filter: Filter::default(),
            limits: Limits::default(),
        }
    }
}

impl Setup {
    /// The addresses of guest number `n`, from 0.
    #[must_use]
    pub fn addresses(n: u8) -> Addresses {
        Addresses {
            mac: Mac([2, 0, 0, 0, 0, n + 2]),
            v4: Ipv4Addr::new(10, 0, 0, n + 2),
            v6: Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, u16::from(n) + 2),
            gateway: (GATEWAY, GATEWAY_V4, GATEWAY_V6),
        }
    }

    /// The switch's part of it.
    #[must_use]
    pub fn config(&self) -> Config {
        let all = || (0..self.guests).map(|n| (n, Self::addresses(n)));
        let known = all().map(|(n, addresses)| Known {
            mac: addresses.mac,
            name: format!("guest{n}"),
            v4: Some(addresses.v4),
            v6: Some(addresses.v6),
        });
        let port = |n: u8| {
            let mac = Self::addresses(n).mac;
            let mut port = Port::new(PortId(n.into()), mac, self.mtu, self.uso);
            let trust = Trust {
                mac: true,
                ..Trust::default()
            };
            port.guard = (n >= self.guests).then(|| Guard::new(mac, [], None, trust));
            port
        };
        Config {
            network: NetworkId(0),
            gateway: Gateway {
                mac: GATEWAY,
                v4: Some((GATEWAY_V4, 24)),
                v6: Some((GATEWAY_V6, 64)),
                mtu: self.mtu,
                uplink: true,
                v6_default_route: true,
                search: Vec::new(),
                guests: known.collect(),
                hosts: Vec::new(),
            },
            ports: (0..self.guests + self.bridges).map(port).collect(),
            icc: true,
            rule: self.rule.clone(),
            filter: self.filter,
            ephemeral: (32_768, 60_999),
            limits: self.limits,
            seeds: [self.seed, 2, 3, 4],
        }
    }

    /// Puts it together.
    #[must_use]
    pub fn build(&self) -> SimNet {
        SimNet::new(self)
    }
}
