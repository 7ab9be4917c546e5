//! System calls of the underlay: runs of datagrams out by UDP_SEGMENT, and which socket gets what comes.
#![allow(
    unsafe_code,
    reason = "sendmsg and sendmmsg with control messages have no safe wrapper that does not allocate"
)]

use std::io::{self, IoSlice};
use std::mem::zeroed;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::endpoint::datagrams::{BATCH, socklen};

/// Words of control messages of a message that goes: the same three.
const CONTROL_OUT: usize = 3 + 3 + 5;

/// Where to, in the form that the kernel takes, and from which of the host's addresses.
#[derive(Clone, Copy)]
pub struct Name {
    /// For IPv4 its front is a `sockaddr_in`, which is smaller.
    raw: libc::sockaddr_in6,
    len: libc::socklen_t,
    /// Of the same family; without it the kernel chooses.
    source: Option<IpAddr>,
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Name").finish_non_exhaustive()
    }
}

impl From<SocketAddr> for Name {
    fn from(to: SocketAddr) -> Self {
        // SAFETY: a sockaddr_in6 of zeros is a valid value.
        let mut raw: libc::sockaddr_in6 = unsafe { zeroed() };
        let len = match to {
            SocketAddr::V4(to) => {
                let v4 = libc::sockaddr_in {
                    sin_family: family(libc::AF_INET),
                    sin_port: to.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from(*to.ip()).to_be(),
                    },
                    sin_zero: [0; 8],
                };
                // SAFETY: a sockaddr_in is smaller than a sockaddr_in6, and needs no wider alignment.
                unsafe { (&raw mut raw).cast::<libc::sockaddr_in>().write(v4) };
                socklen::<libc::sockaddr_in>()
            }
            SocketAddr::V6(to) => {
                raw.sin6_family = family(libc::AF_INET6);
                raw.sin6_port = to.port().to_be();
                raw.sin6_addr.s6_addr = to.ip().octets();
                raw.sin6_scope_id = to.scope_id();
                socklen::<libc::sockaddr_in6>()
            }
        };
        Self {
            raw,
            len,
            source: None,
        }
    }
}

impl Name {
    /// The same, to be reached from this address of the host. Without it, and where the host has not that address any
    /// more, the kernel chooses one.
    #[must_use]
    pub fn leaving(self, source: Option<IpAddr>) -> Self {
        let source = source.filter(|source| source.is_ipv6() == self.is_v6());
        Self { source, ..self }
    }

    /// From which of the host's addresses.
    #[must_use]
    pub const fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// True for an address of IPv6.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.len == socklen::<libc::sockaddr_in6>()
    }
}

/// A datagram to be sent, or a run that the kernel cuts.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Where to.
    pub to: &'a Name,
    /// ECN of the outer packet.
    pub tos: u8,
    /// The size of each datagram but the last; zero for a single one.
    pub segment: u16,
    /// All of it, from front to back.
    pub pieces: &'a [IoSlice<'a>],
}

/// Control messages in the making: what `CMSG_DATA` and its kin do, on words.
struct Control {
    words: [u64; CONTROL_OUT],
    len: usize,
}

impl Control {
    fn of(out: &Outgoing<'_>) -> Self {
        let mut control = Self {
            words: [0; CONTROL_OUT],
            len: 0,
        };
        if out.segment != 0 {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &out.segment.to_ne_bytes());
        }
        if out.tos != 0 {
            let (level, kind) = if out.to.is_v6() {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            } else {
                (libc::IPPROTO_IP, libc::IP_TOS)
            };
            control.push(level, kind, &i32::from(out.tos).to_ne_bytes());
        }
        match out.to.source {
            Some(IpAddr::V4(a)) => {
                // struct in_pktinfo: interface, source, an address that is for who receives.
                let [a, b, c, d] = a.octets();
                let info = [0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0];
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(a)) => {
                // struct in6_pktinfo: source, interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&a.octets());
                info[16..].copy_from_slice(&out.to.raw.sin6_scope_id.to_ne_bytes());
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        control
    }

    /// Adds a message: a word for its length, one for level and kind, some for the value. One of each kind fits.
    fn push(&mut self, level: i32, kind: i32, value: &[u8]) {
        let word = |parts: [&[u8]; 2]| {
            let mut bytes = [0; 8];
            for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
                *to = *from;
            }
            u64::from_ne_bytes(bytes)
        };
        let at = self.len / 8;
        self.words[at] = (16 + value.len()) as u64;
        self.words[at + 1] = word([&level.to_ne_bytes(), &kind.to_ne_bytes()]);
        for (to, from) in self.words[at + 2..].iter_mut().zip(value.chunks(8)) {
            *to = word([from, &[]]);
        }
        self.len += 16 + value.len().next_multiple_of(8);
    }
}

/// A message header for `out`, that points into `out` and `control`.
fn header(out: &Outgoing<'_>, control: &mut Control) -> libc::msghdr {
    // SAFETY: msghdr is a plain C struct for which zeros are valid.
    let mut msg: libc::msghdr = unsafe { zeroed() };
    msg.msg_name = (&raw const out.to.raw).cast_mut().cast();
    msg.msg_namelen = out.to.len;
    // An IoSlice has the layout of an iovec, by the promise of the standard library; the kernel only reads it.
    msg.msg_iov = out.pieces.as_ptr().cast_mut().cast();
    msg.msg_iovlen = out.pieces.len();
    if control.len > 0 {
        msg.msg_control = control.words.as_mut_ptr().cast();
        msg.msg_controllen = control.len;
    }
    msg
}

/// Sends one message. Errors: those of sendmsg(2).
pub(super) fn send(fd: BorrowedFd<'_>, out: &Outgoing<'_>) -> io::Result<()> {
    let mut control = Control::of(out);
    let msg = header(out, &mut control);
    // SAFETY: the header points to the name, pieces and control words, which all outlive the call.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const msg, libc::MSG_DONTWAIT) };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sends messages, [`BATCH`] at most; returns how many went. Errors: that of the first, if none did.
pub(super) fn send_many(fd: BorrowedFd<'_>, out: &[Outgoing<'_>]) -> io::Result<usize> {
    // SAFETY: mmsghdr is a plain C struct for which zeros are valid.
    let mut msgs: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
    let mut controls = [const {
        Control {
            words: [0; CONTROL_OUT],
            len: 0,
        }
    }; BATCH];
    let mut count = 0;
    for ((msg, control), out) in msgs.iter_mut().zip(&mut controls).zip(out) {
        *control = Control::of(out);
        msg.msg_hdr = header(out, control);
        count += 1;
    }
    // SAFETY: the first `count` headers point to names, pieces and control words, which all outlive the call.
    let sent =
        unsafe { libc::sendmmsg(fd.as_raw_fd(), msgs.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn family(number: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(number).unwrap_or(0)
}

/// Has the kernel choose among the sockets of a port by the receiver's index of a sealed datagram, which is a number of
/// four bytes, little end first, from byte 4: its rest by `workers` is the place of the socket in the order of binding.
/// Errors: those of setsockopt(2). Source: linux/filter.h; Documentation/networking/filter.rst.
pub(super) fn steer(fd: BorrowedFd<'_>, workers: u32) -> io::Result<()> {
    let op = |code: u32, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt: 0,
        jf: 0,
        k,
    };
    let byte = |at: u32| op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at);
    let up = op(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, 8);
    let keep = op(libc::BPF_MISC | libc::BPF_TAX, 0);
    let join = op(libc::BPF_ALU | libc::BPF_OR | libc::BPF_X, 0);
    // What is too short for a byte ends the program with zero: the first socket takes it.
    let mut program = [
        byte(7),
        up,
        keep,
        byte(6),
        join,
        up,
        keep,
        byte(5),
        join,
        up,
        keep,
        byte(4),
        join,
        op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, workers.max(1)),
        op(libc::BPF_RET | libc::BPF_A, 0),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program and its instructions live through the call, in which the kernel copies them.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            socklen::<libc::sock_fprog>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
