//! Stage 4: What is behind other hosts that take packets: prefixes, and the ports that lead there. The gateway is the
//! router to them, and answers for their addresses.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::HashMap;

use crate::addr::PortId;

/// A table of routes. Cost: a lookup is one step for each length of prefix that is in use.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// By the first address of a prefix and its length.
    ports: HashMap<(IpAddr, u8), PortId>,
    /// The lengths in use, of IPv4 and IPv6: the longest first.
    lengths: [Vec<u8>; 2],
}

impl Routes {
    /// Sets which prefixes are behind a port, in place of those that were.
    /// Shape: a prefix is an address, of which the bits behind the length do not matter, and the length.
    pub fn set(&mut self, port: PortId, prefixes: &[(IpAddr, u8)]) {
        self.ports.retain(|_, to| *to != port);
        for &(addr, len) in prefixes {
            let len = len.min(if addr.is_ipv4() { 32 } else { 128 });
            self.ports.insert((masked(addr, len), len), port);
        }
        self.lengths = Default::default();
        for (addr, len) in self.ports.keys() {
            let [v4, v6] = &mut self.lengths;
            let lengths = if addr.is_ipv4() { v4 } else { v6 };
            if !lengths.contains(len) {
                lengths.push(*len);
            }
        }
        for lengths in &mut self.lengths {
            lengths.sort_unstable_by_key(|&len| core::cmp::Reverse(len));
        }
    }

    /// Which port leads to an address: that of the longest prefix that it is in.
    #[must_use]
    pub fn find(&self, addr: IpAddr) -> Option<PortId> {
        let [v4, v6] = &self.lengths;
        let lengths = if addr.is_ipv4() { v4 } else { v6 };
        let of = |&len: &u8| self.ports.get(&(masked(addr, len), len)).copied();
        lengths.iter().find_map(of)
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}

/// The first address of the prefix that an address is in.
fn masked(addr: IpAddr, len: u8) -> IpAddr {
    let len = u32::from(len);
    match addr {
        IpAddr::V4(a) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(len))
                .unwrap_or(0);
            Ipv4Addr::from_bits(a.to_bits() & mask).into()
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX
                .checked_shl(128_u32.saturating_sub(len))
                .unwrap_or(0);
            Ipv6Addr::from_bits(a.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_leads_the_way_until_it_is_taken_back() {
        let (one, two) = (PortId::remote(1), PortId::remote(2));
        let mut routes = Routes::default();
        assert!(routes.is_empty() && routes.find(at("10.1.2.3")).is_none());
        routes.set(one, &[(at("10.1.0.0"), 16), (at("fd00::"), 64)]);
        routes.set(two, &[(at("10.1.2.0"), 24), (at("fd00::7"), 128)]);
        for (addr, port) in [
            ("10.1.2.3", Some(two)),
            ("10.1.3.3", Some(one)),
            ("10.2.0.1", None),
            ("fd00::7", Some(two)),
            ("fd00::8", Some(one)),
            ("fd01::7", None),
        ] {
            assert_eq!(routes.find(at(addr)), port, "{addr}");
        }
        routes.set(two, &[(at("0.0.0.0"), 0)]);
        assert_eq!(routes.find(at("10.1.2.3")), Some(one));
        assert_eq!(routes.find(at("10.2.0.1")), Some(two));
        routes.set(one, &[]);
        routes.set(two, &[]);
        assert!(routes.is_empty() && routes.find(at("fd00::7")).is_none());
    }
}
