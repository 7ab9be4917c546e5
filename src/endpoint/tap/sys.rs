//! The ioctls of the TUN driver. Source: linux/if_tun.h, linux/if.h.
#![allow(unsafe_code, reason = "ioctls on the TUN device have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

nix::ioctl_write_int!(tun_set_iff, b'T', 202);
nix::ioctl_write_int!(tun_set_persist, b'T', 203);
nix::ioctl_write_int!(tun_set_offload, b'T', 208);
nix::ioctl_write_ptr!(tun_set_vnet_hdr_sz, b'T', 216, libc::c_int);

const IFF_VNET_HDR: u16 = 0x4000;
const IFF_NO_PI: u16 = 0x1000;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_TAP: u16 = 0x0002;

/// The part of `struct ifreq` that TUNSETIFF reads, padded to its full 40 bytes.
#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

/// Ties the descriptor to a TAP of this name, with virtio headers. `name` has been checked to be at most 15 bytes.
pub(super) fn set_interface(fd: &OwnedFd, name: &str, multi_queue: bool) -> io::Result<()> {
    let mut request = IfReq {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        rest: [0; 22],
    };
    for (to, from) in request.name.iter_mut().zip(name.as_bytes().iter().take(15)) {
        *to = *from;
    }
    if multi_queue {
        request.flags |= IFF_MULTI_QUEUE;
    }
    let pointer = &raw mut request;
    // SAFETY: TUNSETIFF reads and writes one ifreq; `request` has its size (asserted above) and outlives the call.
    unsafe { tun_set_iff(fd.as_raw_fd(), pointer as libc::c_ulong) }?;
    Ok(())
}

/// Chooses the length of the virtio header.
pub(super) fn set_vnet_header_len(fd: &OwnedFd, len: usize) -> io::Result<()> {
    let len = libc::c_int::try_from(len).map_err(io::Error::other)?;
    // SAFETY: TUNSETVNETHDRSZ reads one int through the pointer, which lives until the call returns.
    unsafe { tun_set_vnet_hdr_sz(fd.as_raw_fd(), &raw const len) }?;
    Ok(())
}

/// Says which offloads we take. The argument is a value, not a pointer.
pub(super) fn set_offload(fd: &OwnedFd, bits: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    unsafe { tun_set_offload(fd.as_raw_fd(), libc::c_ulong::from(bits)) }?;
    Ok(())
}

/// Keeps the interface when its last descriptor closes, or no more. The argument is a value, not a pointer.
pub(super) fn set_persist(fd: &OwnedFd, on: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument by value and touches no memory of ours.
    unsafe { tun_set_persist(fd.as_raw_fd(), libc::c_ulong::from(on)) }?;
    Ok(())
}

/// Takes the descriptor out of a tun-tap interface.
pub(super) fn into_fd(iface: tun_tap::Iface) -> OwnedFd {
    let raw = iface.into_raw_fd();
    // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, and nothing else holds it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Makes reads and writes return at once.
pub(super) fn set_nonblocking(fd: &BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
