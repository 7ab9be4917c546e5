//! Veth pairs whose far end is weft's: it has no address, and a packet socket. Everything here runs inside the sandbox.
//!
//! Both ends are in the sandbox, so its own stack must leave the far one alone: that answers no ARP and has no IPv6, and
//! frames to other MACs than its own, which nobody knows, are none of the stack's.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};

use super::super::link::{self, LinkChange};
use super::super::netlink::Netlink;
use super::{FleetError, LinkSpec, interface};
use crate::endpoint::packet;

/// The alias of the end that has no address.
pub(super) fn alias(endpoint: u32) -> String {
    format!("{}/far", super::alias(endpoint))
}

/// The name of the end that has no address. Shape: at most 15 bytes.
fn far_name(endpoint: u32) -> String {
    format!("weft-{endpoint}")
}

/// Makes the pair of an endpoint, with the near end as it was made and the far one up. Gives the far one's index.
/// Errors: `InterfaceExists` when the far one's name is taken by something that is not weft's; `Refused`. Then there is none.
pub(super) fn make(spec: &LinkSpec) -> Result<u32, FleetError> {
    let far = far_name(spec.endpoint);
    if let Ok(index) = link::index_of(&far) {
        let mut all = interface::list()?.into_iter();
        if !all.any(|found| found.index == index && found.is_far_end_of(spec.endpoint)) {
            return Err(FleetError::InterfaceExists(far));
        }
        // Someone has moved its near end away, and then the daemon died.
        delete(index).map_err(|e| FleetError::refused(format!("cannot remove {far}"), &e))?;
    }
    let mut netlink = interface::netlink()?;
    let refused = |e: io::Error| {
        let advice = match e.raw_os_error() {
            Some(libc::EOPNOTSUPP) => ": run `sudo modprobe veth`",
            _ => "",
        };
        FleetError::refused(
            format!("cannot make a veth pair in the sandbox{advice}"),
            &e,
        )
    };
    netlink
        .request(
            RouteNetlinkMessage::NewLink(pair(spec, &far)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .map_err(refused)?;
    let index = interface::index(&far)?;
    let prepared = packet::plain_offloads(&spec.ifname, packet::caps())
        .and_then(|()| raise(&mut netlink, index, &far, &alias(spec.endpoint)));
    if let Err(e) = prepared {
        let _ = delete(index);
        return Err(refused(e));
    }
    Ok(index)
}

/// Opens the packet socket on the far end. Errors: `Refused`.
pub(super) fn open(far: u32) -> Result<OwnedFd, FleetError> {
    packet::open(far)
        .map_err(|e| FleetError::refused("cannot open a packet socket in the sandbox", &e))
}

/// Deletes a link, and the other end with it. Errors: the kernel's.
pub(super) fn delete(index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Netlink::open()?.request(RouteNetlinkMessage::DelLink(message), 0)
}

fn pair(spec: &LinkSpec, far: &str) -> LinkMessage {
    let end = |name: &str| {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(spec.mtu.into()),
            // One queue each way: more would only cost memory, one for each processor.
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ];
        message
    };
    let mut message = end(&spec.ifname);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(far)))),
    ]));
    message
}

/// Brings the far end up, with nothing on it.
fn raise(netlink: &mut Netlink, index: u32, far: &str, alias: &str) -> io::Result<()> {
    // Best effort: /proc may be read-only, and a kernel without IPv6 has no such setting.
    for (key, value) in [
        (format!("net/ipv6/conf/{far}/disable_ipv6"), "1"),
        (format!("net/ipv4/conf/{far}/forwarding"), "0"),
    ] {
        if let Err(error) = link::sysctl(&key, value) {
            tracing::debug!(key, value, %error, "sysctl not set");
        }
    }
    let mut silent = LinkMessage::default();
    silent.header.index = index;
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let families = vec![AfSpecUnspec::Inet6(vec![none])];
    silent.attributes = vec![LinkAttribute::AfSpecUnspec(families)];
    if let Err(error) = netlink.request(RouteNetlinkMessage::SetLink(silent), 0) {
        tracing::debug!(%error, "no address generation to switch off");
    }
    let mut quiet = LinkMessage::default();
    quiet.header.index = index;
    quiet.header.flags = LinkFlags::Noarp;
    quiet.header.change_mask = LinkFlags::Noarp;
    netlink.request(RouteNetlinkMessage::SetLink(quiet), 0)?;
    let up = LinkChange {
        alias: Some(alias),
        up: true,
        ..LinkChange::default()
    };
    link::set_link(netlink, index, &up)
}
