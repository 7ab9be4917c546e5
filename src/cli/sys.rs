//! What the command line needs of the kernel that has no safe wrapper.
#![allow(
    unsafe_code,
    reason = "a descriptor that was passed by number, and random bytes"
)]

use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Result, bail};

/// Takes over a descriptor that whoever started us passed by its number. Errors: it is not open.
pub(super) fn take_fd(fd: i32) -> Result<OwnedFd> {
    // SAFETY: F_GETFD only asks about the number and touches no memory.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        bail!("--ready-fd {fd}: no such descriptor is open");
    }
    // SAFETY: it is open, was passed to us for this use alone, and nothing else here knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Random numbers for hashes and initial sequence numbers.
pub(super) fn seeds() -> [u64; 4] {
    let mut bytes = [[0u8; 8]; 4];
    // SAFETY: the buffer is 32 bytes long and writable; up to 256 bytes come whole (getrandom(2)).
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), 32, 0) };
    assert_eq!(n, 32, "the kernel has no random numbers");
    bytes.map(u64::from_ne_bytes)
}
