//! What tokio can only take on trust.
#![allow(
    unsafe_code,
    reason = "tokio cannot see that a descriptor stays the same while it is watched"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor for being readable. Errors: those of epoll_ctl(2).
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: `as_raw_fd` of an `OwnedFd` gives the same number on every call, and the descriptor is closed only when the
    // `OwnedFd` is dropped, which `AsyncFd` does after taking it off the poller; nobody else has this `OwnedFd`.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}
