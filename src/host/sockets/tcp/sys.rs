//! System calls on TCP sockets that no safe wrapper offers.
#![allow(
    unsafe_code,
    reason = "recv without a buffer and two socket options have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Peek offset. Source: include/uapi/asm-generic/socket.h; for TCP since Linux 6.9.
const SO_PEEK_OFF: libc::c_int = 42;

/// Takes `len` received bytes off a socket without copying them.
pub(super) fn discard(fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    // SAFETY: with MSG_TRUNC on a TCP socket the kernel writes nothing to the buffer, so null is
    // allowed (tcp(7)); the descriptor is borrowed and therefore open.
    let n = unsafe {
        libc::recv(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            len,
            libc::MSG_TRUNC | libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Copies what waits at the socket's peek offset. Moves the offset on where one is set.
pub(super) fn peek(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for writes of its whole length for the duration of the call.
    let n = unsafe {
        libc::recv(
            fd.as_raw_fd(),
            buf.as_mut_ptr().cast(),
            buf.len(),
            libc::MSG_PEEK | libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Bytes that wait on a socket, from the first that is not discarded. Source: tcp(7), SIOCINQ.
pub(super) fn waiting(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, to a local that outlives the call; the descriptor is borrowed and open.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut n) };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(n).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn set_int(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>())
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the option's value is an int, which lives on this stack frame, and its length is given.
    let r =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the offset at which the next peek starts.
pub(super) fn set_peek_offset(fd: BorrowedFd<'_>, offset: usize) -> io::Result<()> {
    let offset = libc::c_int::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_int(fd, libc::SOL_SOCKET, SO_PEEK_OFF, offset)
}

/// Asks for ICMP errors in the error queue, so that a connection that fails tells who refused it.
pub(super) fn want_errors(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    if v6 {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
    } else {
        set_int(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    }
}

/// Sets the time to live of what leaves.
pub(super) fn set_ttl(fd: BorrowedFd<'_>, v6: bool, ttl: u8) -> io::Result<()> {
    if v6 {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ttl.into())
    } else {
        set_int(fd, libc::IPPROTO_IP, libc::IP_TTL, ttl.into())
    }
}

/// Sets the DSCP byte of what leaves.
pub(super) fn set_tos(fd: BorrowedFd<'_>, v6: bool, tos: u8) -> io::Result<()> {
    if v6 {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, tos.into())
    } else {
        set_int(fd, libc::IPPROTO_IP, libc::IP_TOS, tos.into())
    }
}
