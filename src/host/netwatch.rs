//! Follows the host's addresses and its way to the IPv6 internet, so that new flows use what is there now.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;

use super::link;
use super::netlink::Netlink;

/// Source: linux/rtnetlink.h, RTMGRP_*.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// What is known of the host's network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostNet {
    /// Every address of the host, with its prefix length.
    pub addresses: BTreeSet<(IpAddr, u8)>,
    /// A packet to the IPv6 internet has a route.
    pub v6_default_route: bool,
}

/// A subscription to changes of the host's network. Acts on the namespace in which it was opened.
#[derive(Debug)]
pub struct NetWatch {
    events: Netlink,
    ask: Netlink,
    state: HostNet,
}

impl NetWatch {
    /// Subscribes, then reads the state. Errors: netlink's.
    pub fn open() -> io::Result<Self> {
        let events = Netlink::subscribe(GROUPS)?;
        let mut watch = Self {
            events,
            ask: Netlink::open()?,
            state: HostNet::default(),
        };
        watch.read_all()?;
        Ok(watch)
    }

    /// The descriptor to poll for reading.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.events.fd()
    }

    /// The state as last read.
    #[must_use]
    pub const fn state(&self) -> &HostNet {
        &self.state
    }

    /// Reads what the kernel has sent and tells whether [`Self::state`] differs from before. Never blocks for long.
    /// Errors: netlink's.
    pub fn update(&mut self) -> io::Result<bool> {
        let before = self.state.clone();
        let mut routes = false;
        let mut stale = false;
        let state = &mut self.state;
        loop {
            let result = self.events.receive(|_, payload| {
                let NetlinkPayload::InnerMessage(message) = payload else {
                    return;
                };
                if let RouteNetlinkMessage::NewAddress(m) = message {
                    state.addresses.extend(link::address_of(&m));
                } else if let RouteNetlinkMessage::DelAddress(_) = message {
                    // The same address may be on another link too: only a fresh reading tells.
                    stale = true;
                } else {
                    routes = true;
                }
            });
            match result {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // The kernel had to drop messages: only a fresh reading is true now.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => stale = true,
                Err(e) => return Err(e),
            }
        }
        if stale {
            self.read_all()?;
        } else if routes {
            self.read_route()?;
        }
        Ok(self.state != before)
    }

    fn read_all(&mut self) -> io::Result<()> {
        self.state.addresses = link::addresses(&mut self.ask)?.into_iter().collect();
        self.read_route()
    }

    fn read_route(&mut self) -> io::Result<()> {
        self.state.v6_default_route = link::reaches(&mut self.ask, link::SOMEWHERE_V6.into())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_loopback_address_and_is_quiet() {
        let mut watch = NetWatch::open().unwrap();
        assert!(
            watch
                .state()
                .addresses
                .contains(&(IpAddr::from([127, 0, 0, 1]), 8))
        );
        watch.update().unwrap();
    }
}
