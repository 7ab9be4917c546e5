//! Links, addresses and routes by netlink, and the sysctls of a sandbox. Acts on the namespace of the calling thread.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use switch_core::addr::Mac;

use super::netlink::Netlink;

/// Source: linux/if_link.h.
const IFLA_GSO_MAX_SIZE: u16 = 41;

/// Index of the interface `name`.
/// Errors: `ENODEV` when there is none.
pub fn index_of(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// What to set on a link at once; `None` leaves a property as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChange<'a> {
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Largest IP packet.
    pub mtu: Option<u16>,
    /// Largest super-frame that the stack may build, in bytes.
    pub gso_max_size: Option<u32>,
    /// A text that the kernel keeps for whoever recognises the link by it, at most 255 bytes.
    pub alias: Option<&'a str>,
    /// Bring it up.
    pub up: bool,
}

/// Changes the link of this index. Errors: the kernel's; `EBUSY` when a MAC is changed while the link is up.
pub fn set_link(netlink: &mut Netlink, index: u32, change: &LinkChange<'_>) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    if let Some(mac) = change.mac {
        message
            .attributes
            .push(LinkAttribute::Address(mac.0.to_vec()));
    }
    if let Some(mtu) = change.mtu {
        message.attributes.push(LinkAttribute::Mtu(mtu.into()));
    }
    if let Some(size) = change.gso_max_size {
        let nla = DefaultNla::new(IFLA_GSO_MAX_SIZE, size.to_ne_bytes().to_vec());
        message.attributes.push(LinkAttribute::Other(nla));
    }
    if let Some(alias) = change.alias {
        let alias = LinkAttribute::IfAlias(alias.to_owned());
        message.attributes.push(alias);
    }
    if change.up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    netlink.request(RouteNetlinkMessage::SetLink(message), 0)
}

/// Gives the link an address, without duplicate detection.
/// Errors: the kernel's; `EACCES` when the family is switched off.
pub fn add_address(netlink: &mut Netlink, index: u32, addr: IpAddr, prefix: u8) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = family(addr);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Address(addr));
    message.attributes.push(AddressAttribute::Local(addr));
    match addr {
        IpAddr::V4(v4) => {
            let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            if prefix < 31 {
                let last = Ipv4Addr::from_bits(v4.to_bits() | host_bits);
                message.attributes.push(AddressAttribute::Broadcast(last));
            }
        }
        IpAddr::V6(_) => {
            message.header.flags = AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    netlink.request(
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// Adds the default route of the gateway's family through the link.
/// Errors: the kernel's; `EEXIST` when there is one already, `ENETUNREACH` when the gateway is not on the link.
pub fn add_default_route(netlink: &mut Netlink, index: u32, gateway: IpAddr) -> io::Result<()> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(RouteAttribute::Gateway(match gateway {
            IpAddr::V4(v4) => RouteAddress::Inet(v4),
            IpAddr::V6(v6) => RouteAddress::Inet6(v6),
        }));
    message.attributes.push(RouteAttribute::Oif(index));
    netlink.request(
        RouteNetlinkMessage::NewRoute(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// An address or a destination with its prefix length.
pub type Prefix = (IpAddr, u8);

/// Lists the addresses of every link. Errors: the kernel's.
pub fn addresses(netlink: &mut Netlink) -> io::Result<Vec<Prefix>> {
    let mut list = Vec::new();
    let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    netlink.dump(ask, |answer| {
        if let RouteNetlinkMessage::NewAddress(message) = answer {
            list.extend(address_of(&message));
        }
    })?;
    Ok(list)
}

/// The address that an address message is about: the local end where it differs from the peer's.
pub(super) fn address_of(message: &AddressMessage) -> Option<Prefix> {
    let mut found = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(addr) = attribute {
            found = Some(*addr);
        } else if let AddressAttribute::Address(addr) = attribute {
            found = found.or(Some(*addr));
        }
    }
    found.map(|addr| (addr, message.header.prefix_len))
}

/// Lists the destinations of all unicast routes in every table, default routes left out. Errors: the kernel's.
pub fn route_destinations(netlink: &mut Netlink) -> io::Result<Vec<Prefix>> {
    let mut list = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        netlink.dump(RouteNetlinkMessage::GetRoute(message), |answer| {
            let RouteNetlinkMessage::NewRoute(route) = answer else {
                return;
            };
            for attribute in &route.attributes {
                let RouteAttribute::Destination(to) = attribute else {
                    continue;
                };
                let prefix = route.header.destination_prefix_length;
                if let (RouteAddress::Inet(v4), 1..) = (to, prefix) {
                    list.push(((*v4).into(), prefix));
                } else if let (RouteAddress::Inet6(v6), 1..) = (to, prefix) {
                    list.push(((*v6).into(), prefix));
                }
            }
        })?;
    }
    Ok(list)
}

/// Tells whether a packet to `to` would leave: a route lookup, policy rules included.
/// Errors: the kernel's, other than "no route".
pub fn reaches(netlink: &mut Netlink, to: IpAddr) -> io::Result<bool> {
    Ok(way(netlink, to)? == Some(RouteType::Unicast))
}

/// Waits until the kernel takes packets for a new address of its own, or for as long as `patience`. An IPv6 address is
/// there before that: its route and its group for neighbour discovery are made by a work queue, which may be late.
/// Errors: the kernel's.
pub fn wait_own(netlink: &mut Netlink, addr: IpAddr, patience: Duration) -> io::Result<()> {
    let begin = Instant::now();
    while way(netlink, addr)? != Some(RouteType::Local) && begin.elapsed() < patience {
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Waits until the kernel answers those who ask for the link of one of its IPv6 addresses, or for as long as `patience`: it does
/// once the link's own multicast route is there, and who asked in vain asks again only after a second.
/// Errors: the kernel's.
pub fn wait_found(netlink: &mut Netlink, addr: Ipv6Addr, patience: Duration) -> io::Result<()> {
    // The solicited-node group. Source: RFC 4291 section 2.7.1.
    let [.., a, b, c] = addr.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let begin = Instant::now();
    while way(netlink, group.into())? != Some(RouteType::Multicast) && begin.elapsed() < patience {
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The kind of route to an address, if there is one.
fn way(netlink: &mut Netlink, to: IpAddr) -> io::Result<Option<RouteType>> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    message
        .attributes
        .push(RouteAttribute::Destination(match to {
            IpAddr::V4(v4) => RouteAddress::Inet(v4),
            IpAddr::V6(v6) => RouteAddress::Inet6(v6),
        }));
    let mut kind = None;
    let result = netlink.query(RouteNetlinkMessage::GetRoute(message), |answer| {
        if let RouteNetlinkMessage::NewRoute(route) = answer {
            kind = Some(route.header.kind);
        }
    });
    match result {
        Ok(()) => Ok(kind),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => Ok(None),
            _ => Err(e),
        },
    }
}

/// The first /24 of RFC 1918 that overlaps nothing in `taken`: 10.87/16 first, then the upper ends of 172.16/12 and
/// 192.168/16, where few networks are numbered. Shape: the network address.
#[must_use]
pub fn free_subnet(taken: &[Prefix]) -> Option<Ipv4Addr> {
    let ten = (0..=255u8).map(|third| Ipv4Addr::new(10, 87, third, 0));
    let middle = (16..=31u8)
        .rev()
        .flat_map(|second| (0..=255u8).map(move |third| Ipv4Addr::new(172, second, third, 0)));
    let small = (0..=255u8)
        .rev()
        .map(|third| Ipv4Addr::new(192, 168, third, 0));
    ten.chain(middle).chain(small).find(|net| {
        !taken.iter().any(|(addr, prefix)| match addr {
            IpAddr::V4(v4) => overlap(*net, 24, *v4, *prefix),
            IpAddr::V6(_) => false,
        })
    })
}

fn overlap(a: Ipv4Addr, a_len: u8, b: Ipv4Addr, b_len: u8) -> bool {
    let shorter = u32::from(a_len.min(b_len));
    let mask = u32::MAX.checked_shl(32 - shorter.min(32)).unwrap_or(0);
    a.to_bits() & mask == b.to_bits() & mask
}

/// Finds a free /24 for a sandbox of this host. Errors: netlink's; `AddrNotAvailable` when all are taken.
pub fn pick_subnet() -> io::Result<Ipv4Addr> {
    let mut netlink = Netlink::open()?;
    let mut taken = addresses(&mut netlink)?;
    taken.extend(route_destinations(&mut netlink)?);
    free_subnet(&taken).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Writes one sysctl below /proc/sys. Errors: those of the file, often that /proc is read-only.
pub fn sysctl(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/{name}"), value)
}

/// Prepares the address families of a sandbox before its link comes up, best effort: pings and low ports for
/// everyone, no duplicate detection; and where weft sets the addresses itself, no router solicitations.
/// `shared`: the sandbox is others' as well, and only what is the link's own is set.
pub fn prepare_families(ifname: &str, v6: bool, configure: bool, shared: bool) {
    let v6_off = if v6 { "0" } else { "1" };
    let own = |key: &str| format!("conf/{ifname}/{key}");
    let groups = mapped_groups();
    let of_v4 = [
        ("ping_group_range".to_owned(), groups.as_str()),
        ("ip_unprivileged_port_start".to_owned(), "0"),
    ];
    let of_all = [
        ("conf/all/disable_ipv6".to_owned(), "0"),
        ("conf/lo/disable_ipv6".to_owned(), "0"),
    ];
    let mut of_v6 = if shared { Vec::new() } else { of_all.to_vec() };
    of_v6.extend([
        (own("disable_ipv6"), v6_off),
        (own("accept_dad"), "0"),
        (own("dad_transmits"), "0"),
    ]);
    if configure {
        of_v6.push((own("accept_ra"), "0"));
        of_v6.push((own("router_solicitations"), "0"));
    }
    if !shared {
        sysctls("net/ipv4", &of_v4);
    }
    sysctls("net/ipv6", &of_v6);
}

/// Writes sysctls below one directory of /proc/sys, as far as that can be done. The directory is looked up once: the kernel
/// keeps those of all namespaces under one name, and looks through them one by one.
fn sysctls(directory: &str, settings: &[(String, &str)]) {
    let path = format!("/proc/sys/{directory}");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = open(path.as_str(), flags, Mode::empty());
    let set = |name: &str, value: &str| -> io::Result<()> {
        let directory = opened.as_ref().map_err(|e| *e)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = openat(directory, name, flags, Mode::empty())?;
        File::from(file).write_all(value.as_bytes())
    };
    for (name, value) in settings {
        if let Err(error) = set(name, value) {
            tracing::debug!(directory, name, value, %error, "sysctl not set");
        }
    }
}

/// Every group that the user namespace has, as far as one range holds them: the kernel refuses one with gaps at its ends.
/// Source: ping_group_range in ip-sysctl.rst, user_namespaces(7).
fn mapped_groups() -> String {
    const LAST: u64 = 2_147_483_647;
    let map = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    let mut words = map
        .split_ascii_whitespace()
        .map(|word| word.parse::<u64>().unwrap_or(0));
    let first = words.next().unwrap_or(0);
    let count = words.nth(1).unwrap_or(LAST + 1);
    let last = first.saturating_add(count.saturating_sub(1));
    format!("{} {}", first.min(LAST), last.min(LAST))
}

fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// An address of the global IPv6 internet, to ask whether the host has a way there. Source: RFC 4291 section 2.5.4.
pub const SOMEWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_subnet_keeps_clear_of_routes() {
        assert_eq!(free_subnet(&[]), Some(Ipv4Addr::new(10, 87, 0, 0)));
        let inner = [(IpAddr::from([10, 87, 0, 17]), 32)];
        assert_eq!(free_subnet(&inner), Some(Ipv4Addr::new(10, 87, 1, 0)));
        let ten = [(IpAddr::from([10, 0, 0, 0]), 8)];
        assert_eq!(free_subnet(&ten), Some(Ipv4Addr::new(172, 31, 0, 0)));
        let most = [
            (IpAddr::from([10, 0, 0, 0]), 8),
            (IpAddr::from([172, 16, 0, 0]), 12),
            (IpAddr::from([192, 168, 255, 0]), 24),
        ];
        assert_eq!(free_subnet(&most), Some(Ipv4Addr::new(192, 168, 254, 0)));
        let all = [
            (IpAddr::from([10, 0, 0, 0]), 8),
            (IpAddr::from([172, 16, 0, 0]), 12),
            (IpAddr::from([192, 168, 0, 0]), 16),
        ];
        assert_eq!(free_subnet(&all), None);
    }

    #[test]
    fn loopback_is_listed_and_reached() {
        let mut netlink = Netlink::open().unwrap();
        let list = addresses(&mut netlink).unwrap();
        assert!(list.contains(&(IpAddr::from([127, 0, 0, 1]), 8)));
        assert!(!reaches(&mut netlink, IpAddr::from([127, 0, 0, 1])).unwrap());
        route_destinations(&mut netlink).unwrap();
    }
}
