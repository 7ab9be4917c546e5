//! The options, the address and the shared memory of a packet socket. Source: packet(7), linux/if_packet.h.
#![allow(
    unsafe_code,
    reason = "packet sockets and their rings have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

/// Commands about features. Source: linux/ethtool.h.
pub(super) const GET_STRINGS: u32 = 0x1b;
/// How many names there are.
pub(super) const GET_SET_INFO: u32 = 0x37;
/// Sets those that are marked.
pub(super) const SET_FEATURES: u32 = 0x3b;

/// Length of an address, as the kernel's calls take it.
const ADDRESS_LEN: libc::socklen_t = size_of_u32::<libc::sockaddr_ll>();

/// `AF_PACKET` as an address has it, and `ETH_P_ALL`.
const FAMILY: libc::sa_family_t = 17;
const EVERY_PROTOCOL: u16 = 3;

const fn size_of_u32<T>() -> u32 {
    assert!(size_of::<T>() < 1 << 16);
    #[allow(clippy::cast_possible_truncation, reason = "asserted above")]
    let size = size_of::<T>() as u32;
    size
}

/// Sets an option of the packet level that is a number.
pub(super) fn set_option(fd: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set(fd, option, &value)
}

/// Makes the receive ring: `blocks` pieces of memory of `block` bytes, with slots of `slot` bytes in them.
pub(super) fn set_ring(fd: &OwnedFd, block: u32, blocks: u32, slot: u32) -> io::Result<()> {
    let request = libc::tpacket_req {
        tp_block_size: block,
        tp_block_nr: blocks,
        tp_frame_size: slot,
        tp_frame_nr: block / slot * blocks,
    };
    set(fd, libc::PACKET_RX_RING, &request)
}

/// Frames that found the ring full since this was last asked. Source: packet(7), `PACKET_STATISTICS`.
pub(super) fn take_drops(fd: &OwnedFd) -> io::Result<u32> {
    let mut counts = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut len = size_of_u32::<libc::tpacket_stats>();
    let pointer = (&raw mut counts).cast();
    // SAFETY: the kernel writes at most `len` bytes, the size of `counts`, and the length; both live until it returns.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            pointer,
            &raw mut len,
        )
    };
    Errno::result(result)?;
    Ok(counts.tp_drops)
}

fn set<T: Copy>(fd: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let pointer = std::ptr::from_ref(value).cast();
    // SAFETY: the kernel reads the size of a `T` from the pointer, which is to one and lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            pointer,
            size_of_u32::<T>(),
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// Begins to receive every protocol on the interface of this index.
pub(super) fn bind(fd: &OwnedFd, ifindex: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: FAMILY,
        sll_protocol: EVERY_PROTOCOL.to_be(),
        sll_ifindex: i32::try_from(ifindex).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let pointer = (&raw const address).cast();
    // SAFETY: bind reads `ADDRESS_LEN` bytes, the size of `address`, which lives until the call returns.
    let result = unsafe { libc::bind(fd.as_raw_fd(), pointer, ADDRESS_LEN) };
    Errno::result(result)?;
    Ok(())
}

/// Tells whether the interface that the socket was bound to is still there. The kernel sets the index to -1 when it goes.
pub(super) fn is_bound(fd: &OwnedFd) -> io::Result<bool> {
    let mut address = libc::sockaddr_ll {
        sll_family: 0,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut len = ADDRESS_LEN;
    let pointer = (&raw mut address).cast();
    // SAFETY: the kernel writes at most `len` bytes, the size of `address`, and the length; both live until it returns.
    let result = unsafe { libc::getsockname(fd.as_raw_fd(), pointer, &raw mut len) };
    Errno::result(result)?;
    Ok(address.sll_ifindex > 0)
}

/// The part of `struct ifreq` that SIOCETHTOOL reads, padded to its full size. Source: linux/if.h.
#[repr(C)]
struct IfReq {
    name: [u8; 16],
    data: *mut u32,
    rest: [usize; 2],
}

const _: () = assert!(size_of::<IfReq>() >= size_of::<libc::ifreq>());

/// Words of a request to a driver: room for the names of 1,024 features, of which kernels have some 60.
pub(super) const ROOM: usize = 3 + 1024 * 8;

/// Asks or tells the driver of an interface about its features: no other command. Errors: the kernel's; `InvalidInput`.
pub(super) fn ethtool(fd: &OwnedFd, name: &str, request: &mut [u32; ROOM]) -> io::Result<()> {
    if !matches!(request[0], GET_STRINGS | GET_SET_INFO | SET_FEATURES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut wanted = IfReq {
        name: [0; 16],
        data: request.as_mut_ptr(),
        rest: [0; 2],
    };
    for (to, from) in wanted.name.iter_mut().zip(name.as_bytes().iter().take(15)) {
        *to = *from;
    }
    let pointer = &raw mut wanted;
    // SAFETY: the kernel reads one ifreq, which has at least its size (asserted above), and then at `data` a command with
    // an answer of at most one name of 32 bytes, or one pair of words, for each of its features, which `ROOM` is enough for.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCETHTOOL, pointer) };
    Errno::result(result)?;
    Ok(())
}

/// Memory that the kernel and this process share. It is unmapped with the value.
#[derive(Debug)]
pub(super) struct Shared {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to no thread, and nothing but this value points into it.
unsafe impl Send for Shared {}

impl Shared {
    /// Maps the rings of a socket. Errors: those of mmap(2).
    pub(super) fn map(fd: &OwnedFd, len: usize) -> io::Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the place, so no memory of ours is replaced.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, len })
    }

    /// The word at `at` that says whose the bytes behind it are; `None` if it is not inside, or not aligned.
    fn word(&self, at: usize) -> Option<&AtomicU32> {
        if !at.is_multiple_of(align_of::<AtomicU32>()) || at.checked_add(4)? > self.len {
            return None;
        }
        // SAFETY: `at` is inside the mapping (checked above).
        let word = unsafe { self.start.add(at) };
        // SAFETY: the word is inside the mapping and aligned (both checked above, the mapping is aligned to a page), and
        // the kernel and this process access it only atomically.
        Some(unsafe { AtomicU32::from_ptr(word.cast().as_ptr()) })
    }

    /// Reads a word; what the kernel wrote before it is seen after this. Zero for a place outside.
    pub(super) fn load(&self, at: usize) -> u32 {
        self.word(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes a word; what was read before this is read before the kernel writes there again.
    pub(super) fn store(&self, at: usize, value: u32) {
        if let Some(word) = self.word(at) {
            word.store(value, Ordering::Release);
        }
    }

    /// Copies bytes out. False, and nothing copied, if they are not all inside.
    pub(super) fn copy(&self, at: usize, to: &mut [u8]) -> bool {
        if at.checked_add(to.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: `at` is inside the mapping (checked above).
        let from = unsafe { self.start.add(at) };
        // SAFETY: the source is inside the mapping (checked above), `to` is memory of its own, and bytes have no
        // alignment and no invalid values.
        unsafe { from.copy_to_nonoverlapping(NonNull::from(&mut *to).cast(), to.len()) };
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, whole, and nothing points into it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
impl Shared {
    /// Memory that is shared with nobody.
    pub(super) fn anonymous(len: usize) -> Self {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the kernel chooses the place, so no memory of ours is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let start = NonNull::new(start.cast()).unwrap();
        Self { start, len }
    }

    /// Copies bytes in, as the kernel does.
    pub(super) fn put(&mut self, at: usize, from: &[u8]) {
        assert!(at + from.len() <= self.len);
        // SAFETY: `at` is inside the mapping (asserted above).
        let to = unsafe { self.start.add(at) };
        // SAFETY: the destination is inside the mapping (asserted above) and memory of its own.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(from).cast(), from.len()) };
    }
}
