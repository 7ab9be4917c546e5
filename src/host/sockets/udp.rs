//! UDP sockets of the host, one a mapping.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};
use switch_core::flow::host::DatagramMeta;

use super::sys;

/// One socket.
#[derive(Debug)]
pub struct UdpSock {
    socket: Socket,
    v6: bool,
    /// Whether the kernel has been told not to fragment.
    dont_fragment: Option<bool>,
}

impl UdpSock {
    /// Opens and binds. Returns the port that it has.
    pub fn open(local: SocketAddr) -> io::Result<(Self, u16)> {
        let v6 = local.is_ipv6();
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new_raw(
            domain,
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        if v6 {
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())?;
        let port = socket.local_addr()?.as_socket().map_or(0, |a| a.port());
        Ok((Self::from_bound(socket, v6), port))
    }

    /// Takes a bound socket over, as from the broker.
    #[must_use]
    pub fn from_bound(socket: Socket, v6: bool) -> Self {
        // All three are there since before Linux 5.15; without one, less is known or more calls are made.
        let _ = sys::set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
        let (level, errors) = if v6 {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        } else {
            (libc::IPPROTO_IP, libc::IP_RECVERR)
        };
        let _ = sys::set_int(socket.as_fd(), level, errors, 1);
        Self {
            socket,
            v6,
            dont_fragment: None,
        }
    }

    /// Asks for the local address of what comes in, for published ports.
    pub fn want_local_address(&self) {
        let (level, name) = if self.v6 {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
        } else {
            (libc::IPPROTO_IP, libc::IP_PKTINFO)
        };
        let _ = sys::set_int(self.socket.as_fd(), level, name, 1);
    }

    /// Sends. An error of an earlier datagram, which the kernel reports on the next one, is put aside for the
    /// error queue's reader, and the send is tried once more.
    pub fn send(
        &mut self,
        to: SocketAddr,
        meta: &DatagramMeta,
        payload: &[IoSlice<'_>],
        segment: u16,
    ) -> io::Result<()> {
        if !self.v6 && self.dont_fragment != Some(meta.dont_fragment) {
            let mode = if meta.dont_fragment {
                libc::IP_PMTUDISC_DO
            } else {
                libc::IP_PMTUDISC_DONT
            };
            let _ = sys::set_int(
                self.socket.as_fd(),
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                mode,
            );
            self.dont_fragment = Some(meta.dont_fragment);
        }
        match sys::send(self.socket.as_fd(), to, meta, payload, segment) {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EMSGSIZE)) => {
                sys::send(self.socket.as_fd(), to, meta, payload, segment)
            }
            result => result,
        }
    }

    /// The descriptor.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
