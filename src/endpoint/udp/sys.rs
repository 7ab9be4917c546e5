//! System calls of the underlay: runs of datagrams out by UDP_SEGMENT, batches of runs in by UDP_GRO.
#![allow(
    unsafe_code,
    reason = "sendmsg, sendmmsg and recvmmsg with control messages have no safe wrapper that does not allocate"
)]

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Messages that one call takes or gives.
pub(super) const BATCH: usize = 32;
/// Room of a slot: the largest datagram, or the largest run that UDP_GRO makes.
pub(super) const SLOT: usize = 65_536;
/// Words of control messages of a message that comes: segment size and type of service.
const CONTROL_IN: usize = 8;
/// Words of control messages of a message that goes: the same two.
const CONTROL_OUT: usize = 6;

/// An address in the form that the kernel takes.
#[derive(Clone, Copy)]
pub struct Name {
    /// For IPv4 its front is a `sockaddr_in`, which is smaller.
    raw: libc::sockaddr_in6,
    len: libc::socklen_t,
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
        Self { raw, len }
    }
}

impl Name {
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
        control
    }

    /// Adds a message: a word for its length, one for level and kind, one for the value. Two of them fit.
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
        self.words[at + 2] = word([value, &[]]);
        self.len += 24;
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

/// Buffers for a batch. Slots lie 64 KB apart in memory that costs nothing until it is written to.
pub(super) struct Slots {
    bytes: Vec<u8>,
    names: Box<[libc::sockaddr_storage; BATCH]>,
    controls: Box<[[u64; CONTROL_IN]; BATCH]>,
    /// Length of the message and of its control messages.
    filled: [(usize, usize); BATCH],
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}

impl Slots {
    pub(super) fn new() -> Self {
        // SAFETY: a sockaddr_storage of zeros is a valid value (family AF_UNSPEC).
        let name: libc::sockaddr_storage = unsafe { zeroed() };
        Self {
            bytes: vec![0; BATCH * SLOT],
            names: Box::new([name; BATCH]),
            controls: Box::new([[0; CONTROL_IN]; BATCH]),
            filled: [(0, 0); BATCH],
        }
    }

    /// Receives what waits, `most` messages at most. Errors: `WouldBlock`, or the socket's pending error.
    pub(super) fn recv(&mut self, fd: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        // SAFETY: iovec and mmsghdr are plain C structs for which zeros are valid.
        let mut iovs: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut msgs: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let most = most.min(BATCH);
        for (i, slot) in self.bytes.chunks_exact_mut(SLOT).take(most).enumerate() {
            iovs[i] = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: SLOT,
            };
            let h = &mut msgs[i].msg_hdr;
            h.msg_name = (&raw mut self.names[i]).cast();
            h.msg_namelen = socklen::<libc::sockaddr_storage>();
            h.msg_iov = &raw mut iovs[i];
            h.msg_iovlen = 1;
            h.msg_control = self.controls[i].as_mut_ptr().cast();
            h.msg_controllen = CONTROL_IN * 8;
        }
        // SAFETY: the first `most` headers point to slots, names and control words of their own, which outlive the call.
        let n = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                msgs.as_mut_ptr(),
                libc::c_uint::try_from(most).unwrap_or(0),
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        for (filled, m) in self.filled.iter_mut().zip(&msgs).take(n) {
            *filled = (m.msg_len as usize, m.msg_hdr.msg_controllen);
        }
        Ok(n)
    }

    /// What the last call put in a slot: who sent it, control messages, bytes.
    pub(super) fn get(&mut self, i: usize) -> Option<(SocketAddr, Controls<'_>, &mut [u8])> {
        let &(len, control) = self.filled.get(i)?;
        let from = address(self.names.get(i)?)?;
        let bytes = self.bytes.get_mut(i * SLOT..i * SLOT + len)?;
        Some((from, Controls::new(self.controls.get(i)?, control), bytes))
    }
}

fn family(number: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(number).unwrap_or(0)
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

/// Walks control messages as bytes: header of 16 bytes (length, level, type), data, padding to 8.
pub(super) struct Controls<'a>(&'a [u8]);

impl<'a> Controls<'a> {
    fn new(words: &'a [u64; CONTROL_IN], len: usize) -> Self {
        let len = len.min(CONTROL_IN * 8);
        // SAFETY: any u64 array may be read as bytes, and the length stays within it.
        let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), len) };
        Self(bytes)
    }
}

impl<'a> Iterator for Controls<'a> {
    type Item = (i32, i32, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from_ne_bytes(*self.0.first_chunk()?);
        let level = i32::from_ne_bytes(*self.0.get(8..)?.first_chunk()?);
        let kind = i32::from_ne_bytes(*self.0.get(12..)?.first_chunk()?);
        let data = self.0.get(16..len)?;
        self.0 = self.0.get(len.next_multiple_of(8)..).unwrap_or_default();
        Some((level, kind, data))
    }
}

fn address(s: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let at: *const libc::sockaddr_storage = s;
    match i32::from(s.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a sockaddr_in lies here, which is smaller than the storage.
            let a = unsafe { &*at.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr));
            Some((ip, u16::from_be(a.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that a sockaddr_in6 lies here, which is smaller than the storage.
            let a = unsafe { &*at.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from_octets(a.sin6_addr.s6_addr);
            Some((ip, u16::from_be(a.sin6_port)).into())
        }
        _ => None,
    }
}

/// Sets a socket option whose value is a number. Errors: those of setsockopt(2).
pub(super) fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value lives through the call and its length is told.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            socklen::<i32>(),
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Reads a socket option whose value is a number. Errors: those of getsockopt(2).
pub(super) fn get(fd: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<i32> {
    let (mut value, mut len) = (0_i32, socklen::<i32>());
    // SAFETY: value and length live through the call, and the length is that of the value.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
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
