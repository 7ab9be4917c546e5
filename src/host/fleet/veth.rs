//! Veth pairs whose far end is weft's: it has no address, and a packet socket. Everything here runs inside the sandbox.
//!
//! Both ends are in the sandbox, so its own stack must leave the far one alone: that answers no ARP and has no IPv6, and
//! frames to other MACs than its own, which nobody knows, are none of the stack's.

use std::io;
use std::thread;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use nix::unistd::{Pid, getpid};

use super::super::link::{self, LinkChange};
use super::super::netlink::Netlink;
use super::super::sys;
use super::{FleetError, identify, interface};
use crate::endpoint::{Opened, packet};

/// How long a process that was killed may take to let go of its interface.
const LEAVING: Duration = Duration::from_secs(3);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// Behind an alias: the end that has no address.
pub(super) const FAR: &str = "/far";

/// The alias of the end that has no address.
fn alias(endpoint: u32) -> String {
    format!("{}{FAR}", super::alias(endpoint))
}

/// Marks the number of a pair that is no daemon's endpoint, but of the process with the other bits as its id.
pub(super) const OF_PROCESS: u32 = 1 << 31;

/// The number for a pair of this very process, which no other has while it lives.
pub(in super::super) fn own_number() -> u32 {
    getpid().as_raw().cast_unsigned() | OF_PROCESS
}

/// Waits while `ifname` is taken by an interface that a process holds: one that was killed may still be ending.
/// Pairs of processes that have ended are removed. Gives up after three seconds, as with one that lives. Errors: `Refused`.
pub(in super::super) fn await_leavers(ifname: &str) -> Result<(), FleetError> {
    for _ in 0..LEAVING.as_millis() / LOOK.as_millis() {
        remove_orphans()?;
        if !interface::is_of_a_process(ifname)? {
            break;
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Removes the pairs of processes that were killed before they could. Errors: `Refused`.
fn remove_orphans() -> Result<(), FleetError> {
    for found in interface::list()? {
        // One that nobody has waited for has ended all the same.
        let ended = |pid| match sys::pidfd_open(Pid::from_raw(pid)) {
            Ok(process) => identify::has_ended(&process),
            Err(e) => e.raw_os_error() == Some(libc::ESRCH),
        };
        if found.process().is_some_and(ended) {
            // Another may be doing the same.
            let _ = delete(found.index);
        }
    }
    Ok(())
}

/// The name of the end that has no address. Shape: at most 15 bytes.
fn far_name(endpoint: u32) -> String {
    format!("weft-{endpoint}")
}

/// Makes the pair of an endpoint, with the near end as it was made and the far one up. Gives the far one's index.
/// Errors: `InterfaceExists` when the far one's name is taken by something that is not weft's; `Refused`. Then there is none.
pub(in super::super) fn make(endpoint: u32, ifname: &str, mtu: u16) -> Result<u32, FleetError> {
    let far = far_name(endpoint);
    if let Ok(index) = link::index_of(&far) {
        let mut all = interface::list()?.into_iter();
        if !all.any(|found| found.index == index && found.far_end() == Some(endpoint)) {
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
            RouteNetlinkMessage::NewLink(pair(ifname, &far, mtu)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .map_err(refused)?;
    let index = interface::index(&far)?;
    let prepared = packet::plain_offloads(ifname, packet::caps())
        .and_then(|()| raise(&mut netlink, index, &far, &alias(endpoint)));
    if let Err(e) = prepared {
        let _ = delete(index);
        return Err(refused(e));
    }
    Ok(index)
}

/// Opens the packet socket on the far end. Errors: `Refused`.
pub(in super::super) fn open(far: u32) -> Result<Opened, FleetError> {
    let how = packet::how();
    packet::open(far)
        .map(|fd| Opened { fd, how })
        .map_err(|e| FleetError::refused("cannot open a packet socket in the sandbox", &e))
}

/// Deletes a link, and the other end with it. Errors: the kernel's.
pub(in super::super) fn delete(index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Netlink::open()?.request(RouteNetlinkMessage::DelLink(message), 0)
}

fn pair(near: &str, far: &str, mtu: u16) -> LinkMessage {
    let end = |name: &str| {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu.into()),
            // One queue each way: more would only cost memory, one for each processor.
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ];
        message
    };
    let mut message = end(near);
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
