//! Datagram system calls with control messages: what a batch says of its datagrams, runs out, and the error queue.
#![allow(
    unsafe_code,
    reason = "sendmsg with control messages and the error queue have no safe wrapper that does not allocate"
)]

use std::io::{self, IoSlice};
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use switch_core::flow::host::DatagramMeta;

pub(super) use crate::endpoint::datagrams::{BATCH, set as set_int};
use crate::endpoint::datagrams::{Controls, Slots, address, socklen};

/// Room for control messages of a datagram.
const CONTROL: usize = 256;

/// Buffers for a batch.
#[derive(Debug, Default)]
pub(super) struct Batch(Slots<{ CONTROL / 8 }>);

/// One received datagram, or a run of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) from: SocketAddr,
    pub(super) local: Option<IpAddr>,
    pub(super) tos: u8,
    /// Size of a datagram in a run; 0 for a single one.
    pub(super) segment: u16,
    pub(super) payload: &'a [u8],
}

impl Batch {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Receives what waits, up to a batch. Errors: `WouldBlock`, or the socket's pending error.
    pub(super) fn recv(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.0.recv(fd, BATCH)
    }

    /// The datagram in a slot that the last call filled.
    pub(super) fn get(&self, i: usize) -> Option<Incoming<'_>> {
        let (from, controls, payload) = self.0.get(i)?;
        let mut out = Incoming {
            from,
            local: None,
            tos: 0,
            segment: 0,
            payload,
        };
        for (level, kind, data) in controls {
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    out.segment = first4(data).map_or(0, |v| u16::try_from(v).unwrap_or(0));
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => out.tos = data.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    out.tos = first4(data).map_or(0, |v| v.to_le_bytes()[0]);
                }
                // in_pktinfo: ifindex, the address of the interface, the destination of the packet.
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    out.local = data
                        .get(8..12)
                        .and_then(|b| b.first_chunk())
                        .map(|b: &[u8; 4]| Ipv4Addr::from_octets(*b).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    out.local = data
                        .first_chunk()
                        .map(|b: &[u8; 16]| IpAddr::from(*b).to_canonical());
                }
                _ => {}
            }
        }
        Some(out)
    }
}

fn first4(data: &[u8]) -> Option<i32> {
    data.first_chunk().map(|b| i32::from_ne_bytes(*b))
}

/// Control messages in the making.
struct ControlOut {
    words: [u64; CONTROL / 8],
    len: usize,
}

impl ControlOut {
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let len = 16 + data.len();
        let at = self.len;
        let mut head = [0u8; 16];
        head[..8].copy_from_slice(&len.to_ne_bytes());
        head[8..12].copy_from_slice(&level.to_ne_bytes());
        head[12..].copy_from_slice(&kind.to_ne_bytes());
        for (i, byte) in head.iter().chain(data).enumerate() {
            let (word, shift) = ((at + i) / 8, (at + i) % 8);
            let mut bytes = self.words[word].to_ne_bytes();
            bytes[shift] = *byte;
            self.words[word] = u64::from_ne_bytes(bytes);
        }
        self.len = at + len.next_multiple_of(8);
    }
}

/// Sends one datagram, or a run that the kernel cuts at `segment`.
pub(super) fn send(
    fd: BorrowedFd<'_>,
    to: SocketAddr,
    meta: &DatagramMeta,
    payload: &[IoSlice<'_>],
    segment: u16,
) -> io::Result<()> {
    let name = socket2::SockAddr::from(to);
    let mut control = ControlOut {
        words: [0; CONTROL / 8],
        len: 0,
    };
    // To a mapped address the kernel sends by IPv4, and wants to be told as for that.
    let v6 = !to.ip().to_canonical().is_ipv4();
    let (level, ttl, tos) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, libc::IPV6_TCLASS)
    } else {
        (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_TOS)
    };
    if segment != 0 {
        control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    if let Some(value) = meta.ttl {
        control.push(level, ttl, &i32::from(value).to_ne_bytes());
    }
    if meta.tos != 0 {
        control.push(level, tos, &i32::from(meta.tos).to_ne_bytes());
    }
    match meta.source {
        Some(IpAddr::V4(a)) if !v6 && !a.is_unspecified() => {
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&a.octets());
            control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        Some(IpAddr::V6(a)) if v6 && !a.is_unspecified() => {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&a.octets());
            control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
        _ => {}
    }
    // SAFETY: msghdr is a plain C struct for which zeros are valid.
    let mut msg: libc::msghdr = unsafe { zeroed() };
    msg.msg_name = name.as_ptr().cast_mut().cast();
    msg.msg_namelen = name.len();
    msg.msg_iov = payload.as_ptr().cast_mut().cast();
    msg.msg_iovlen = payload.len();
    if control.len > 0 {
        msg.msg_control = control.words.as_mut_ptr().cast();
        msg.msg_controllen = control.len;
    }
    // SAFETY: IoSlice has the layout of iovec; name, payload and control outlive the call, which only reads them.
    let n = unsafe {
        libc::sendmsg(
            fd.as_raw_fd(),
            &raw const msg,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    if n < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// One entry of a socket's error queue.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) errno: i32,
    pub(super) offender: Option<IpAddr>,
    /// The host itself found it, as when a datagram is larger than the MTU.
    pub(super) is_local: bool,
    pub(super) kind: u8,
    pub(super) code: u8,
    pub(super) info: u32,
    pub(super) to: Option<SocketAddr>,
    pub(super) payload: Vec<u8>,
}

/// Takes the next error off the queue. Errors: `WouldBlock` when there is none.
pub(super) fn recv_error(fd: BorrowedFd<'_>) -> io::Result<Report> {
    // On the stack: a look at the queue may find nothing.
    let mut payload = [0; 576];
    // SAFETY: a sockaddr_storage of zeros is a valid value.
    let mut name: libc::sockaddr_storage = unsafe { zeroed() };
    let mut control = [0u64; CONTROL / 8];
    let mut iov = libc::iovec {
        iov_base: payload.as_mut_ptr().cast(),
        iov_len: payload.len(),
    };
    // SAFETY: msghdr is a plain C struct for which zeros are valid.
    let mut msg: libc::msghdr = unsafe { zeroed() };
    msg.msg_name = (&raw mut name).cast();
    msg.msg_namelen = socklen::<libc::sockaddr_storage>();
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = CONTROL;
    // SAFETY: name, payload and control are writable, of the lengths given, and outlive the call.
    let n = unsafe {
        libc::recvmsg(
            fd.as_raw_fd(),
            &raw mut msg,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    let payload = payload.get(..n).unwrap_or(&payload).to_vec();
    let mut report = Report {
        errno: 0,
        offender: None,
        is_local: false,
        kind: 0,
        code: 0,
        info: 0,
        to: address(&name),
        payload,
    };
    for (level, kind, data) in Controls::new(&control, msg.msg_controllen) {
        let ours = matches!(
            (level, kind),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        // sock_extended_err: errno u32, origin, type, code, pad, info u32, data u32; then the offender's address.
        let Some((head, offender)) = data.split_first_chunk::<16>().filter(|_| ours) else {
            continue;
        };
        report.errno = i32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
        report.is_local = head[4] == 1;
        (report.kind, report.code) = (head[5], head[6]);
        report.info = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
        let family = offender
            .first_chunk()
            .map(|b| i32::from(u16::from_ne_bytes(*b)));
        report.offender = match family {
            Some(libc::AF_INET) => offender
                .get(4..8)
                .and_then(|b| b.first_chunk())
                .map(|b: &[u8; 4]| Ipv4Addr::from_octets(*b).into()),
            Some(libc::AF_INET6) => offender
                .get(8..24)
                .and_then(|b| b.first_chunk())
                .map(|b: &[u8; 16]| Ipv6Addr::from_octets(*b).into()),
            _ => None,
        };
    }
    Ok(report)
}

/// Tells the kernel whether it may cut what is sent. Where it may not, more than the path's MTU is refused, and the
/// error queue tells how much that is.
pub(super) fn forbid_fragments(fd: BorrowedFd<'_>, v6: bool, forbid: bool) {
    let (level, name, mode) = match (v6, forbid) {
        (false, true) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        (false, false) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DONT,
        ),
        (true, true) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
        // No router cuts IPv6: the host must know the path's MTU to do it.
        (true, false) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_WANT,
        ),
    };
    // As old as IPv6 itself; without it the kernel does as its defaults say.
    let _ = set_int(fd, level, name, mode);
}

/// Sets a socket option that is an array of words.
pub(super) fn set_words(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    words: &[u32],
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(words)).unwrap_or(0);
    // SAFETY: the option's value is the slice, which outlives the call, and its length in bytes is given.
    let r = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, words.as_ptr().cast(), len) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests;
