//! ICMP echo of the host by ping sockets, where ping_group_range allows them: one for each session, and the kernel
//! keeps them apart.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};
use switch_core::flow::host::DatagramMeta;
use switch_core::wire::checksum::{finish, fold, sum};

use super::sys;

/// One socket for one session.
#[derive(Debug)]
pub struct PingSock {
    socket: Socket,
    v6: bool,
    /// Whether the kernel has been told not to fragment.
    dont_fragment: Option<bool>,
}

/// What came, as far as it is in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply<'a> {
    /// Who answered.
    pub(super) from: IpAddr,
    /// Identifier.
    pub(super) ident: u16,
    /// Sequence number.
    pub(super) seq: u16,
    /// Payload.
    pub(super) payload: &'a [u8],
}

impl PingSock {
    /// Opens a ping socket. Errors: those of socket(2); `EACCES` where they are not allowed.
    pub fn open(v6: bool) -> io::Result<Self> {
        let (domain, proto) = protocol(v6);
        let socket = Socket::new_raw(domain, Type::DGRAM.nonblocking().cloexec(), Some(proto))?;
        want_errors(&socket, v6);
        Ok(Self {
            socket,
            v6,
            dont_fragment: None,
        })
    }

    /// Sends an echo request.
    pub(super) fn send(
        &mut self,
        to: IpAddr,
        meta: &DatagramMeta,
        seq: u16,
        payload: &[u8],
    ) -> io::Result<()> {
        if self.dont_fragment != Some(meta.dont_fragment) {
            sys::forbid_fragments(self.socket.as_fd(), self.v6, meta.dont_fragment);
            self.dont_fragment = Some(meta.dont_fragment);
        }
        // The kernel has the identifier.
        send(&self.socket, to, meta, (0, seq), payload)
    }

    /// Receives one reply; none if what came is none. Errors: `WouldBlock`.
    pub(super) fn recv<'a>(&self, buf: &'a mut [u8]) -> io::Result<Option<Reply<'a>>> {
        recv(&self.socket, self.v6, false, buf)
    }

    /// The descriptor.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn protocol(v6: bool) -> (Domain, Protocol) {
    if v6 {
        (Domain::IPV6, Protocol::ICMPV6)
    } else {
        (Domain::IPV4, Protocol::ICMPV4)
    }
}

/// Has ICMP errors queued.
pub(super) fn want_errors(socket: &Socket, v6: bool) {
    let (level, errors) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    };
    // Best effort: without them an unreachable host is a silent one.
    let _ = sys::set_int(socket.as_fd(), level, errors, 1);
}

/// Sends an echo request with this identifier and sequence number.
pub(super) fn send(
    socket: &Socket,
    to: IpAddr,
    meta: &DatagramMeta,
    (ident, seq): (u16, u16),
    payload: &[u8],
) -> io::Result<()> {
    let v6 = to.is_ipv6();
    let mut message = vec![if v6 { 128 } else { 8 }, 0, 0, 0];
    message.extend_from_slice(&ident.to_be_bytes());
    message.extend_from_slice(&seq.to_be_bytes());
    message.extend_from_slice(payload);
    if !v6 {
        // The kernel computes it for ping sockets and ICMPv6; a raw ICMP socket sends what it gets.
        let csum = finish(fold(sum(&message)));
        message[2..4].copy_from_slice(&csum.to_be_bytes());
    }
    let pieces = [io::IoSlice::new(&message)];
    let to = SocketAddr::new(to, 0);
    // The error of an earlier request is told by the next one, which is then sent again.
    sys::send(socket.as_fd(), to, meta, &pieces, 0).or_else(|e| match e.raw_os_error() {
        Some(libc::EAGAIN | libc::EMSGSIZE) => Err(e),
        _ => sys::send(socket.as_fd(), to, meta, &pieces, 0),
    })
}

/// Receives one reply; none if what came is none. A raw IPv4 socket gives the IP header too.
pub(super) fn recv<'a>(
    socket: &Socket,
    v6: bool,
    raw: bool,
    buf: &'a mut [u8],
) -> io::Result<Option<Reply<'a>>> {
    use std::os::fd::AsRawFd as _;
    let (n, from) =
        nix::sys::socket::recvfrom::<nix::sys::socket::SockaddrStorage>(socket.as_raw_fd(), buf)?;
    let from = from.and_then(|a| match (a.as_sockaddr_in(), a.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
        _ => None,
    });
    let Some(from) = from else {
        return Ok(None);
    };
    Ok(parse(from, v6, raw, buf.get(..n).unwrap_or_default()))
}

/// Reads an echo reply.
fn parse(from: IpAddr, v6: bool, raw: bool, packet: &[u8]) -> Option<Reply<'_>> {
    let at = if raw && !v6 {
        usize::from(packet.first()? & 15) * 4
    } else {
        0
    };
    let (head, payload) = packet.get(at..)?.split_first_chunk::<8>()?;
    let &[kind, _, _, _, i0, i1, s0, s1] = head;
    (kind == if v6 { 129 } else { 0 }).then(|| Reply {
        from,
        ident: u16::from_be_bytes([i0, i1]),
        seq: u16::from_be_bytes([s0, s1]),
        payload,
    })
}
