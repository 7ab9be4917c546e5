//! How the loss of an interface is noticed: a netlink socket opened inside, which the broker listens to from outside.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use socket2::{SockFilter, SockRef};

use super::super::netlink::{self, Netlink};

/// Source: linux/rtnetlink.h.
const RTMGRP_LINK: u32 = 1;
const RTM_DELLINK: u16 = 17;

/// Where a message's type is. Source: linux/netlink.h, struct nlmsghdr.
const TYPE_AT: u32 = 4;

/// Messages read at once: a sandbox that makes and removes interfaces without end must not keep the broker.
const BUDGET: usize = 32;

/// Opens a socket that hears of removed links in the namespace of the calling thread, and of nothing else: who is root
/// inside may change links a hundred thousand times a second.
/// Errors: those of socket(2) and setsockopt(2).
pub(super) fn open() -> io::Result<OwnedFd> {
    let fd = Netlink::subscribe(RTMGRP_LINK)?.into_fd();
    let (load_half, if_equal, done) = (0x28, 0x15, 0x06);
    // A filter reads numbers as a network has them, netlink writes them as this machine does.
    let wanted = u16::from_be_bytes(RTM_DELLINK.to_ne_bytes());
    let filter = [
        SockFilter::new(load_half, 0, 0, TYPE_AT),
        SockFilter::new(if_equal, 0, 1, wanted.into()),
        SockFilter::new(done, 0, 0, u32::MAX),
        SockFilter::new(done, 0, 0, 0),
    ];
    SockRef::from(&fd).attach_filter(&filter)?;
    Ok(fd)
}

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The links of these indices were removed.
    Removed(Vec<u32>),
    /// Some of it was lost: what is there must be looked up.
    Unknown,
}

/// Reads what waits, up to a budget. `buffer` is shared by all sockets. Never blocks.
pub(super) fn read(fd: &OwnedFd, buffer: &mut [u8]) -> Heard {
    let mut removed = Vec::new();
    for _ in 0..BUDGET {
        let result = netlink::receive_from(fd.as_fd(), buffer, |_, payload| {
            let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) = payload
            else {
                return;
            };
            // A link that only leaves a bridge is told with the bridge's family.
            if message.header.interface_family == AddressFamily::Unspec {
                removed.push(message.header.index);
            }
        });
        match result {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => {
                tracing::debug!(%error, fd = fd.as_raw_fd(), "links must be looked up again");
                return Heard::Unknown;
            }
        }
    }
    Heard::Removed(removed)
}
