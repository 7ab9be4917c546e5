//! ICMP echo of the host: ping sockets where ping_group_range allows them, else a raw socket where there is one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};
use switch_core::flow::host::DatagramMeta;
use switch_core::wire::checksum::{finish, fold, sum};

use super::sys;

/// One socket for one session.
#[derive(Debug)]
pub struct PingSock {
    socket: Socket,
    v6: bool,
    /// The identifier where we have to write it ourselves; a ping socket has the kernel's.
    raw_ident: Option<u16>,
    /// Whether the kernel has been told not to fragment.
    dont_fragment: Option<bool>,
}

/// An echo reply.
#[derive(Debug)]
pub struct Reply {
    /// Who answered.
    pub from: IpAddr,
    /// Sequence number.
    pub seq: u16,
    /// Payload.
    pub payload: Vec<u8>,
}

impl PingSock {
    /// Opens a ping socket. `raw` is a raw ICMP socket to fall back on.
    pub fn open(v6: bool, raw: Option<&Socket>, ident: u16) -> io::Result<Self> {
        let (domain, proto) = if v6 {
            (Domain::IPV6, Protocol::ICMPV6)
        } else {
            (Domain::IPV4, Protocol::ICMPV4)
        };
        let (socket, raw_ident) = match (
            Socket::new_raw(domain, Type::DGRAM.nonblocking().cloexec(), Some(proto)),
            raw,
        ) {
            (Ok(socket), _) => (socket, None),
            (Err(_), Some(raw)) => (raw.try_clone()?, Some(ident)),
            (Err(e), None) => return Err(e),
        };
        let (level, errors) = if v6 {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        } else {
            (libc::IPPROTO_IP, libc::IP_RECVERR)
        };
        let _ = sys::set_int(socket.as_fd(), level, errors, 1);
        Ok(Self {
            socket,
            v6,
            raw_ident,
            dont_fragment: None,
        })
    }

    /// Sends an echo request.
    pub fn send(
        &mut self,
        to: IpAddr,
        meta: &DatagramMeta,
        seq: u16,
        payload: &[u8],
    ) -> io::Result<()> {
        // A raw socket is shared by sessions, of which each may want it otherwise.
        if self.raw_ident.is_some() || self.dont_fragment != Some(meta.dont_fragment) {
            sys::forbid_fragments(self.socket.as_fd(), self.v6, meta.dont_fragment);
            self.dont_fragment = Some(meta.dont_fragment);
        }
        let ident = self.raw_ident.unwrap_or(0);
        let mut message = vec![if self.v6 { 128 } else { 8 }, 0, 0, 0];
        message.extend_from_slice(&ident.to_be_bytes());
        message.extend_from_slice(&seq.to_be_bytes());
        message.extend_from_slice(payload);
        if !self.v6 {
            // The kernel computes it for ping sockets and ICMPv6; a raw ICMP socket sends what it gets.
            let csum = finish(fold(sum(&message)));
            message[2..4].copy_from_slice(&csum.to_be_bytes());
        }
        let pieces = [io::IoSlice::new(&message)];
        let to = SocketAddr::new(to, 0);
        sys::send(self.socket.as_fd(), to, meta, &pieces, 0).or_else(|e| match e.raw_os_error() {
            Some(libc::EAGAIN | libc::EMSGSIZE) => Err(e),
            _ => sys::send(self.socket.as_fd(), to, meta, &pieces, 0),
        })
    }

    /// Receives one reply; none if what came is somebody else's. Errors: `WouldBlock`.
    pub fn recv(&mut self) -> io::Result<Option<Reply>> {
        let mut buf = vec![0; 65_536];
        let (n, from) = nix::sys::socket::recvfrom::<nix::sys::socket::SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut buf,
        )?;
        let from = from.and_then(|a| match (a.as_sockaddr_in(), a.as_sockaddr_in6()) {
            (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
            (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
            _ => None,
        });
        buf.truncate(n);
        // A raw IPv4 socket gives the IP header too.
        let at = if self.raw_ident.is_some() && !self.v6 {
            usize::from(buf.first().copied().unwrap_or(0) & 15) * 4
        } else {
            0
        };
        let Some(message) = buf.get(at..).filter(|m| m.len() >= 8) else {
            return Ok(None);
        };
        let wanted = if self.v6 { 129 } else { 0 };
        let ident = u16::from_be_bytes([message[4], message[5]]);
        if message[0] != wanted || self.raw_ident.is_some_and(|own| own != ident) {
            return Ok(None);
        }
        let seq = u16::from_be_bytes([message[6], message[7]]);
        Ok(from.map(|from| Reply {
            from,
            seq,
            payload: message[8..].to_vec(),
        }))
    }

    /// The descriptor.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
