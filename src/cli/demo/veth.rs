//! The wire between the demo's host and its outside: a veth pair with one end in another process's namespace.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};

use crate::host::link::{self, LinkChange};
use crate::host::netlink::Netlink;

/// How long the kernel may take until it takes packets for a new address.
const READY: Duration = Duration::from_secs(20);

/// Where the other end is.
pub(super) enum There<'a> {
    /// In the network namespace of a process.
    Process(u32),
    /// In one that is open.
    Open(BorrowedFd<'a>),
}

/// Makes a pair: `name` here, `peer` there.
pub(super) fn make(name: &str, peer: &str, there: &There<'_>) -> io::Result<()> {
    let mut other = LinkMessage::default();
    other
        .attributes
        .push(LinkAttribute::IfName(peer.to_owned()));
    other.attributes.push(match there {
        There::Process(pid) => LinkAttribute::NetNsPid(*pid),
        There::Open(fd) => LinkAttribute::NetNsFd(fd.as_raw_fd()),
    });
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
    ]));
    Netlink::open()?.request(
        RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Brings an interface up with its addresses, and `lo` beside it.
pub(super) fn up(name: &str, addresses: &[(IpAddr, u8)], routes: &[IpAddr]) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    for (name, addresses) in [("lo", &[][..]), (name, addresses)] {
        let index = link::index_of(name)?;
        for &(addr, prefix) in addresses {
            link::add_address(&mut netlink, index, addr, prefix)?;
        }
        link::set_link(
            &mut netlink,
            index,
            &LinkChange {
                up: true,
                ..LinkChange::default()
            },
        )?;
    }
    let index = link::index_of(name)?;
    for &gateway in routes {
        link::add_default_route(&mut netlink, index, gateway)?;
    }
    Ok(())
}

/// Waits until both ends of a wire that is up find each other. The link's end of it is made by work queues of the kernel.
pub(super) fn wait(addresses: &[(IpAddr, u8)]) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    for &(addr, _) in addresses {
        link::wait_own(&mut netlink, addr, READY)?;
        if let IpAddr::V6(v6) = addr {
            link::wait_found(&mut netlink, v6, READY)?;
        }
    }
    Ok(())
}

/// No pacing, and no waiting for duplicate addresses, in this namespace. Best effort: both only cost time.
pub(super) fn prepare() {
    let _ = link::sysctl("net/ipv6/conf/default/accept_dad", "0");
    let _ = link::sysctl("net/ipv4/tcp_congestion_control", "cubic")
        .or_else(|_| link::sysctl("net/ipv4/tcp_congestion_control", "reno"));
}
