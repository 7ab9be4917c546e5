//! Stage 5: The one rule on the host's own addresses: its loopback, its link and the cloud's metadata are closed,
//! whatever their spelling; its other addresses reach published ports, and more only where that was asked for.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::verdict::DropReason;

/// What of the host a network may reach.
#[derive(Debug, Clone, Default)]
pub struct HostRule {
    /// This IPv4 address stands for the host's 127.0.0.1.
    pub loopback_v4: Option<Ipv4Addr>,
    /// This IPv6 address stands for the host's ::1.
    pub loopback_v6: Option<Ipv6Addr>,
    /// The host's other addresses are open, not only for published ports.
    pub host_access: bool,
    /// Published ports: protocol, first, last.
    pub published: Arc<[(u8, u16, u16)]>,
}

impl HostRule {
    /// Decides where a conversation of a sandbox goes. `own` are the host's addresses of now.
    /// Errors: `Refused` for what is closed, `NotRouted` for what no router forwards.
    pub fn check(
        &self,
        proto: u8,
        to: SocketAddr,
        own: &[IpAddr],
    ) -> Result<SocketAddr, DropReason> {
        match to.ip() {
            IpAddr::V4(a) if self.loopback_v4 == Some(a) => {
                return Ok(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), to.port()));
            }
            IpAddr::V6(a) if self.loopback_v6 == Some(a) => {
                return Ok(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), to.port()));
            }
            IpAddr::V4(a) => check_v4(a)?,
            IpAddr::V6(a) => check_v6(a)?,
        }
        let port = to.port();
        let published = || {
            self.published
                .iter()
                .any(|&(p, first, last)| p == proto && (first..=last).contains(&port))
        };
        if !self.host_access && own.contains(&to.ip()) && !published() {
            return Err(DropReason::Refused);
        }
        Ok(to)
    }
}

fn check_v4(a: Ipv4Addr) -> Result<(), DropReason> {
    if a.is_loopback() || a.octets()[0] == 0 || a.is_link_local() {
        return Err(DropReason::Refused);
    }
    if a.is_multicast() || a.octets()[0] >= 240 {
        return Err(DropReason::NotRouted);
    }
    Ok(())
}

fn check_v6(a: Ipv6Addr) -> Result<(), DropReason> {
    if a.is_loopback() || a.is_unspecified() || a.is_unicast_link_local() {
        return Err(DropReason::Refused);
    }
    if a.is_multicast() {
        return Err(DropReason::NotRouted);
    }
    let o = a.octets();
    // Forms that carry an IPv4 address which the host's kernel, or a translator next to it, would take out:
    // mapped ::ffff:0:0/96 and compatible ::/96 (RFC 4291 section 2.5.5), translated ::ffff:0:0:0/96 (RFC 2765),
    // NAT64 64:ff9b::/96 (RFC 6052). No packet on a wire may carry the first three.
    match o {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, ..] => {
            Err(DropReason::Refused)
        }
        [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => {
            check_v4(Ipv4Addr::new(a, b, c, d))
        }
        // The metadata service of a cloud: fd00:ec2::254.
        [
            0xfd,
            0x00,
            0x0e,
            0xc2,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0x02,
            0x54,
        ] => Err(DropReason::Refused),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::{PROTO_TCP, PROTO_UDP};

    fn to(s: &str) -> SocketAddr {
        SocketAddr::new(s.parse().unwrap(), 80)
    }

    #[test]
    fn every_spelling_of_loopback_is_closed() {
        let rule = HostRule {
            host_access: true,
            ..HostRule::default()
        };
        for a in [
            "127.0.0.1",
            "127.8.9.10",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "fd00:ec2::254",
        ] {
            assert_eq!(
                rule.check(PROTO_TCP, to(a), &[]),
                Err(DropReason::Refused),
                "{a}"
            );
        }
        for a in ["224.0.0.1", "255.255.255.255", "ff02::1"] {
            assert_eq!(
                rule.check(PROTO_TCP, to(a), &[]),
                Err(DropReason::NotRouted),
                "{a}"
            );
        }
        for a in ["192.0.2.1", "2001:db8::1", "64:ff9b::c000:201"] {
            assert_eq!(rule.check(PROTO_TCP, to(a), &[]), Ok(to(a)), "{a}");
        }
    }

    #[test]
    fn own_addresses_reach_published_ports_only() {
        let own = ["192.0.2.1".parse().unwrap()];
        let mut rule = HostRule {
            published: [(PROTO_TCP, 80, 81)].into(),
            ..HostRule::default()
        };
        assert!(rule.check(PROTO_TCP, to("192.0.2.1"), &own).is_ok());
        assert_eq!(
            rule.check(PROTO_UDP, to("192.0.2.1"), &own),
            Err(DropReason::Refused)
        );
        rule.host_access = true;
        assert!(rule.check(PROTO_UDP, to("192.0.2.1"), &own).is_ok());
    }

    #[test]
    fn a_chosen_address_stands_for_the_loopback() {
        let rule = HostRule {
            loopback_v4: Some(Ipv4Addr::new(10, 0, 0, 1)),
            ..HostRule::default()
        };
        assert_eq!(
            rule.check(PROTO_TCP, to("10.0.0.1"), &[]),
            Ok(to("127.0.0.1"))
        );
    }
}
