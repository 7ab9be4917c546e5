//! The network between the hosts, as far as this one knows it: which of its addresses others see, and how large packets may be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::facts;
use crate::control::spec::Underlay;
use crate::endpoint::udp::path_mtu;

/// The world: addresses of documentation, where mostly no route but the default one leads. Source: RFC 5737, RFC 3849.
const WORLD: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// The way to other hosts, as the kernel would choose it now: by the default route, or else to where `peers` are, or else by
/// the one interface that there is. The MTU is the smallest on the ways to `peers`, if there are any. Nothing is sent.
#[must_use]
pub fn underlay(peers: &[SocketAddr]) -> Underlay {
    let there: Vec<Underlay> = peers.iter().filter_map(|&to| way(to)).collect();
    let world = WORLD.into_iter().find_map(|to| way((to, 9).into()));
    let first = world.or_else(|| there.first().copied());
    let first = first.unwrap_or_else(link);
    let smallest = there.iter().map(|w| w.mtu).min();
    Underlay {
        mtu: smallest.unwrap_or(first.mtu),
        ..first
    }
}

/// What there is without a route to the world: neighbours. Of several interfaces the one that takes least fits all.
fn link() -> Underlay {
    let neighbours = facts::addresses().into_iter().filter_map(neighbour);
    let ways: Vec<Underlay> = neighbours.filter_map(|to| way((to, 9).into())).collect();
    let least = ways.iter().map(|w| w.mtu).min();
    Underlay {
        addr: match ways[..] {
            [only] => only.addr,
            _ => None,
        },
        mtu: least.unwrap_or_else(|| Underlay::default().mtu),
    }
}

/// Another address of the subnet that one of this host's is in; there are no neighbours without a subnet.
fn neighbour((addr, len): (IpAddr, u8)) -> Option<IpAddr> {
    let IpAddr::V4(addr) = addr else {
        return None;
    };
    let hosts = u32::MAX.checked_shr(len.into()).unwrap_or(0);
    let host = addr.to_bits() & hosts;
    let sound = |flip: &u32| {
        let other = host ^ flip;
        other <= hosts && (hosts < 3 || (other != 0 && other != hosts))
    };
    let flip = (1..4).find(sound)?;
    Some(Ipv4Addr::from_bits(addr.to_bits() ^ flip).into())
}

/// The way to an address. `None` without one, and for an address of this host: how much its loopback takes says nothing.
fn way(to: SocketAddr) -> Option<Underlay> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    let addr = socket.local_addr().ok()?.ip();
    if addr == to.ip() || addr.is_loopback() {
        return None;
    }
    let mtu = path_mtu(to).ok()?;
    Some(Underlay {
        addr: Some(addr),
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_others_of_the_subnet() {
        for (addr, len, other) in [
            ("10.0.0.1", 24, Some("10.0.0.3")),
            ("10.0.0.2", 24, Some("10.0.0.3")),
            ("10.0.0.254", 24, Some("10.0.0.252")),
            ("10.0.0.1", 30, Some("10.0.0.2")),
            ("10.0.0.0", 31, Some("10.0.0.1")),
            ("10.0.0.1", 31, Some("10.0.0.0")),
            ("10.0.0.1", 32, None),
            ("fe80::1", 64, None),
        ] {
            let found = neighbour((addr.parse().unwrap(), len));
            let other = other.map(|o| o.parse::<IpAddr>().unwrap());
            assert_eq!(found, other, "{addr}/{len}");
        }
    }

    #[test]
    fn loopback_is_no_way() {
        assert_eq!(way(([127, 0, 0, 1], 9).into()), None);
        assert!(underlay(&[([127, 0, 0, 1], 9).into()]).mtu < u16::MAX);
    }
}
