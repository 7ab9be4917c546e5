//! What the command line needs of the kernel that has no safe wrapper.
#![allow(unsafe_code, reason = "a descriptor that was passed by number")]

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
