//! System calls on datagram sockets that every kind of them needs.
#![allow(
    unsafe_code,
    reason = "recvmmsg with control messages has no safe wrapper that does not allocate"
)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Messages that one call takes or gives.
pub const BATCH: usize = 32;
/// Room of a slot: the largest datagram, or the largest run that UDP_GRO makes.
const SLOT: usize = 65_536;

/// Buffers for a batch, each with so many words for control messages. Slots lie 64 KB apart in memory that costs nothing
/// until it is written to.
pub struct Slots<const WORDS: usize> {
    bytes: Vec<u8>,
    names: Box<[libc::sockaddr_storage; BATCH]>,
    controls: Box<[[u64; WORDS]; BATCH]>,
    /// Length of the message and of its control messages.
    filled: [(usize, usize); BATCH],
}

impl<const WORDS: usize> std::fmt::Debug for Slots<WORDS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}

impl<const WORDS: usize> Default for Slots<WORDS> {
    fn default() -> Self {
        // SAFETY: a sockaddr_storage of zeros is a valid value (family AF_UNSPEC).
        let name: libc::sockaddr_storage = unsafe { zeroed() };
        Self {
            bytes: vec![0; BATCH * SLOT],
            names: Box::new([name; BATCH]),
            controls: Box::new([[0; WORDS]; BATCH]),
            filled: [(0, 0); BATCH],
        }
    }
}

impl<const WORDS: usize> Slots<WORDS> {
    /// Receives what waits, `most` messages at most. Errors: `WouldBlock`, or the socket's pending error.
    pub fn recv(&mut self, fd: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
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
            h.msg_controllen = WORDS * 8;
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
    #[must_use]
    pub fn get(&self, i: usize) -> Option<(SocketAddr, Controls<'_>, &[u8])> {
        let &(len, control) = self.filled.get(i)?;
        let from = address(self.names.get(i)?)?;
        let bytes = self.bytes.get(i * SLOT..i * SLOT + len)?;
        Some((from, Controls::new(self.controls.get(i)?, control), bytes))
    }

    /// The same, with the bytes to be changed.
    pub fn get_mut(&mut self, i: usize) -> Option<(SocketAddr, Controls<'_>, &mut [u8])> {
        let &(len, control) = self.filled.get(i)?;
        let from = address(self.names.get(i)?)?;
        let bytes = self.bytes.get_mut(i * SLOT..i * SLOT + len)?;
        Some((from, Controls::new(self.controls.get(i)?, control), bytes))
    }
}

/// The length of an address or a value.
#[must_use]
pub fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

/// Walks control messages as bytes: level, kind and data of each. Source: cmsg(3): a header of 16 bytes (length, level,
/// type), data, padding to 8.
#[derive(Debug)]
pub struct Controls<'a>(&'a [u8]);

impl<'a> Controls<'a> {
    /// Those in the first `len` bytes of what the kernel has written. Shape: a piece that is cut short ends the walk.
    #[must_use]
    pub fn new(words: &'a [u64], len: usize) -> Self {
        let len = len.min(size_of_val(words));
        // SAFETY: any words may be read as bytes, and the length stays within it.
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

/// The address that the kernel has written; none for another family.
#[must_use]
pub fn address(s: &libc::sockaddr_storage) -> Option<SocketAddr> {
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
pub fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
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
pub fn get(fd: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<i32> {
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
