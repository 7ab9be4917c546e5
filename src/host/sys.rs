//! Calls that have no safe wrapper: fork in its forms, received descriptors, pidfd, and the owner of a namespace.
#![allow(
    unsafe_code,
    reason = "fork, clone, pidfd_open and namespace ioctls have no safe wrapper"
)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, Pid, fork};

/// Source: linux/nsfs.h.
mod ioctl {
    nix::ioctl_none!(ns_get_userns, 0xb7, 1);
    nix::ioctl_none!(ns_get_nstype, 0xb7, 3);
}

/// Runs `body` in a forked child, which ends with its result as exit status and runs no exit handler.
/// Errors: `InvalidInput` when the process has more than one thread; those of fork(2).
pub(super) fn fork_child(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        let why = "a process with threads cannot fork a broker: this is a bug in weft";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    // SAFETY: the process has one thread (checked above), so no lock of the C library or the allocator can be held by
    // another thread at this moment, and the child may run any code.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => run_and_exit(body),
    }
}

/// As [`fork_child`], with the child in new namespaces.
/// Errors: those of clone(2); `EPERM` when the namespaces are refused.
pub(super) fn fork_child_in(namespaces: CloneFlags, body: impl FnOnce() -> i32) -> io::Result<Pid> {
    let flags = libc::c_long::from(namespaces.bits()) | libc::c_long::from(libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with a null stack the call is fork(2): the child has its own copy of everything.
    // Callers are the helper, which is a forked child of one thread, so no lock is held by another thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    match pid {
        0 => run_and_exit(body),
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?)),
    }
}

/// A panic must not unwind into the parent's code, of which the child has a copy.
fn run_and_exit(body: impl FnOnce() -> i32) -> ! {
    let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(125);
    // SAFETY: _exit takes any status and does not return; exit handlers belong to the parent.
    unsafe { libc::_exit(status) }
}

/// Takes a descriptor number that the kernel has just handed to this process.
pub(super) fn received(raw: RawFd) -> OwnedFd {
    // SAFETY: called once for each number out of an SCM_RIGHTS message, which the kernel installed for us alone.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Closes a descriptor that the process inherited and that no Rust object owns, such as a number from the command line.
pub(super) fn close_inherited(raw: RawFd) {
    // SAFETY: close(2) on a wrong number only fails; the caller names numbers above 2 that no object here owns.
    unsafe { libc::close(raw) };
}

/// Opens a descriptor that becomes readable when the process ends.
/// Errors: `ESRCH` when there is none; `ENOSYS` before Linux 5.3.
pub(super) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let raw = Errno::result(raw)?;
    Ok(received(RawFd::try_from(raw).map_err(io::Error::other)?))
}

/// Copies the mounts at and below `path` to a tree that is mounted nowhere yet.
/// Errors: `EPERM` where mounting is refused. Source: open_tree(2), Linux 5.2.
pub(super) fn clone_mounts(path: &CStr) -> io::Result<OwnedFd> {
    let recursive = u32::try_from(libc::AT_RECURSIVE).map_err(io::Error::other)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | recursive;
    // SAFETY: the path is a string with its zero byte, which the kernel only reads.
    let raw = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let raw = Errno::result(raw)?;
    Ok(received(RawFd::try_from(raw).map_err(io::Error::other)?))
}

/// Mounts a tree of [`clone_mounts`] at `path`.
/// Errors: those of move_mount(2).
pub(super) fn place_mounts(tree: &OwnedFd, path: &CStr) -> io::Result<()> {
    let (from, empty) = (tree.as_raw_fd(), c"");
    // SAFETY: both paths are strings with their zero byte, which the kernel only reads; the descriptor is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from,
            empty.as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// Opens the user namespace that owns the namespace `ns`.
/// Errors: `EPERM` when it lies outside the caller's own. Source: linux/nsfs.h, ioctl_ns(2).
pub(super) fn owner_of(ns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor.
    let raw = unsafe { ioctl::ns_get_userns(ns.as_raw_fd()) }?;
    Ok(received(raw))
}

/// Tells whether `fd` is a network namespace.
pub(super) fn is_network_namespace(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: NS_GET_NSTYPE takes no argument and returns a CLONE_NEW* value; on other files it fails.
    let kind = unsafe { ioctl::ns_get_nstype(fd.as_raw_fd()) };
    kind == Ok(libc::CLONE_NEWNET)
}

/// Gives a signal its default action again.
pub(super) fn default_action(of: Signal) -> io::Result<()> {
    // SAFETY: the default action installs no handler, so nothing of ours can run in signal context.
    unsafe { signal(of, SigHandler::SigDfl) }?;
    Ok(())
}

/// Tells whether two descriptors are the same file, as namespaces are compared. Source: namespaces(7).
pub(super) fn same_file(a: &impl AsFd, b: &impl AsFd) -> io::Result<bool> {
    let (a, b) = (nix::sys::stat::fstat(a)?, nix::sys::stat::fstat(b)?);
    Ok(a.st_dev == b.st_dev && a.st_ino == b.st_ino)
}

/// Random numbers for hashes and initial sequence numbers.
#[must_use]
pub fn random_seeds() -> [u64; 4] {
    let mut bytes = [[0u8; 8]; 4];
    // SAFETY: the buffer is 32 bytes long and writable; up to 256 bytes come whole (getrandom(2)).
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), 32, 0) };
    assert_eq!(n, 32, "the kernel has no random numbers");
    bytes.map(u64::from_ne_bytes)
}
