//! Stage 4: What the gateway answers on the spot. Each responder reads a parsed frame and writes one whole frame,
//! checksums complete; formats of slow paths come from `smoltcp::wire` and `hickory-proto`.

pub mod arp;
pub mod dhcp;
pub mod dhcp6;
pub mod directory;
pub mod dns;
pub mod icmp;
pub mod names;
pub mod nd;
pub mod routes;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use self::directory::Directory;
use crate::addr::Mac;
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::PROTO_UDP;

/// An endpoint's addresses and name, as the gateway gives them out.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its MAC.
    pub mac: Mac,
    /// Its host name; empty where it has none.
    pub name: String,
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

/// The switch's own station on a network.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Its MAC.
    pub mac: Mac,
    /// Its IPv4 address and prefix length.
    pub v4: Option<(Ipv4Addr, u8)>,
    /// Its IPv6 address and prefix length.
    pub v6: Option<(Ipv6Addr, u8)>,
    /// The network's MTU.
    pub mtu: u16,
    /// The world outside can be reached: where not, the gateway is nobody's router.
    pub uplink: bool,
    /// The host has a way to the IPv6 world, so routers are announced as default.
    pub v6_default_route: bool,
    /// Search domains.
    pub search: Vec<String>,
    /// Who is on the network.
    pub guests: Directory,
    /// Names that the user gave to addresses, as a hosts file has them.
    pub hosts: Vec<(String, IpAddr)>,
}

impl Gateway {
    /// The link-local address.
    #[must_use]
    pub fn link_local(&self) -> Ipv6Addr {
        self.mac.link_local()
    }

    /// True for an address of the gateway.
    #[must_use]
    pub fn owns(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(a) => self.v4.is_some_and(|(own, _)| own == a),
            IpAddr::V6(a) => {
                self.v6.is_some_and(|(own, _)| own == a)
                    || (self.v6.is_some() && a == self.link_local())
            }
        }
    }

    /// True for an address that somebody has: the gateway, a service or an endpoint.
    #[must_use]
    pub fn has(&self, addr: IpAddr) -> bool {
        self.owns(addr) || self.guests.is_virtual(addr) || self.guests.by_addr(addr).is_some()
    }

    /// True for an address of the network's subnets.
    #[must_use]
    pub fn covers(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(a) => self.v4.is_some_and(|(own, len)| {
                let differ = a.to_bits() ^ own.to_bits();
                differ.leading_zeros() >= u32::from(len)
            }),
            IpAddr::V6(a) => self.v6.is_some_and(|(own, len)| {
                let differ = a.to_bits() ^ own.to_bits();
                differ.leading_zeros() >= u32::from(len)
            }),
        }
    }

    /// Finds a guest by MAC.
    #[must_use]
    pub fn guest(&self, mac: Mac) -> Option<&Guest> {
        self.guests.by_mac(mac)
    }
}

/// Writes a UDP datagram as a whole frame to `out`.
pub fn udp_frame(
    (src_mac, dst_mac): (Mac, Mac),
    (src, src_port): (IpAddr, u16),
    (dst, dst_port): (IpAddr, u16),
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    let mut head = HeaderBuf::new();
    let v4 = src.is_ipv4();
    head.eth(dst_mac, src_mac, if v4 { 0x0800 } else { 0x86dd });
    // Hop limit 255 is what link-scope protocols want, and none minds it.
    head.ip(src, dst, PROTO_UDP, 255, 0, 8 + payload.len());
    head.udp(src_port, dst_port, payload.len());
    head.set_full(if v4 { 34 } else { 54 }, src, dst, PROTO_UDP, &[payload]);
    out.clear();
    out.extend_from_slice(head.as_slice());
    out.extend_from_slice(payload);
}
