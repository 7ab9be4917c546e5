//! Who a namespace is: its device and inode, and the start time of the process that it was named by.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::super::broker_proto::Target;
use super::super::end_watch::process_of;
use super::super::{OWN_NET, sys};
use super::{FleetError, Identity};

/// A namespace that is held open, and the process that stands for it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) identity: Identity,
    pub(super) net: File,
    /// Readable when the process has ended.
    pub(super) process: Option<OwnedFd>,
    /// It is the one that this process is in.
    pub(super) at_home: bool,
}

/// Opens what `target` names now. Everything is of one process: had it ended meanwhile, that would be seen at the end.
/// `at_home`: it may be the namespace that this process is in.
/// Errors: `SandboxGone`, `NotPermitted`; `Refused` for a path that is not absolute.
pub(super) fn open(target: &Target, at_home: bool) -> Result<Opened, FleetError> {
    if let Target::Path(path) = target
        && path.is_relative()
    {
        return Err(FleetError::Refused {
            message: format!("{} is no absolute path", path.display()),
            errno: Some(libc::EINVAL),
        });
    }
    let (path, pid, what) = match target {
        Target::Pid(pid) => (
            PathBuf::from(format!("/proc/{pid}/ns/net")),
            Some(Pid::from_raw(*pid)),
            format!("process {pid}"),
        ),
        Target::Path(path) => (
            path.clone(),
            process_of(path),
            format!("network namespace {}", path.display()),
        ),
    };
    let refused = |e: io::Error| explain(&e, &what);
    let process = pid.map(sys::pidfd_open).transpose().map_err(refused)?;
    let start_time = pid.map(start_time).transpose().map_err(refused)?;
    let net = open_namespace(&path, &what)?;
    let netns = inode(&net.metadata().map_err(refused)?);
    if process.as_ref().is_some_and(has_ended) {
        return Err(explain(&io::Error::from_raw_os_error(libc::ESRCH), &what));
    }
    let own = netns == own_namespace().map_err(refused)?;
    if own && !at_home {
        return Err(FleetError::NotPermitted(format!(
            "{what} is in the host's own network: only a network namespace of its own can be a sandbox"
        )));
    }
    let identity = Identity {
        target: target.clone(),
        start_time,
        netns,
    };
    Ok(Opened {
        identity,
        net,
        process,
        at_home: own,
    })
}

/// Tells whether a process id belongs to another process than the one that started then: it was given out again.
/// Units: `then` in clock ticks since boot.
pub fn is_another_process(pid: i32, then: u64) -> bool {
    start_time(Pid::from_raw(pid)).is_ok_and(|now| now != then)
}

/// Opens the namespace of an identity that was settled before.
/// Errors: `SandboxGone` when its process id or path leads to another one now; as [`open`].
pub(super) fn open_again(known: &Identity, at_home: bool) -> Result<Opened, FleetError> {
    // Before the namespace is looked at, which may be one that no sandbox can have.
    let opened = match (&known.target, known.start_time) {
        (Target::Pid(pid), Some(then)) if is_another_process(*pid, then) => None,
        _ => Some(open(&known.target, at_home)?),
    };
    if let Some(opened) = opened
        && opened.identity == *known
    {
        return Ok(opened);
    }
    let other = match &known.target {
        Target::Pid(pid) => format!("process {pid} is another one now, or has another network"),
        Target::Path(path) => format!("{} is another namespace now", path.display()),
    };
    Err(FleetError::SandboxGone(other))
}

fn open_namespace(path: &Path, what: &str) -> Result<File, FleetError> {
    // A pipe that someone has put there must not hold up the broker.
    let net = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|e| explain(&e, what))?;
    if sys::is_network_namespace(net.as_fd()) {
        return Ok(net);
    }
    Err(FleetError::SandboxGone(format!(
        "{} is not a network namespace: name a process or a file like those below /run/netns",
        path.display()
    )))
}

fn own_namespace() -> io::Result<(u64, u64)> {
    Ok(inode(&fs::metadata(OWN_NET)?))
}

/// Device and inode.
pub(super) fn inode(of: &fs::Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

/// Tells whether the process of a pidfd has ended.
pub(super) fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    super::super::retry(|| poll(&mut fds, PollTimeout::ZERO)).is_ok_and(|ready| ready > 0)
}

/// When a process started. Units: clock ticks since boot. Source: proc_pid_stat(5), field 22.
fn start_time(pid: Pid) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    field_22(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The name in field 2 may hold spaces and parentheses: fields are counted from its last one.
fn field_22(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn explain(error: &io::Error, what: &str) -> FleetError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => FleetError::NotPermitted(format!(
            "{what} belongs to another user; run weft as that user or as root"
        )),
        Some(libc::ESRCH | libc::ENOENT | libc::ENOTDIR | libc::EINVAL) => {
            FleetError::SandboxGone(format!("there is no {what}; see `lsns -t net`"))
        }
        _ => FleetError::refused(format!("cannot look at {what}"), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 99";
        assert_eq!(field_22(stat), Some(4242));
        assert_eq!(field_22("7 (x) S 1"), None);
        assert!(start_time(Pid::this()).unwrap() > 0);
    }

    #[test]
    fn an_id_that_was_given_out_again_is_another_process() {
        let me = Pid::this();
        let then = start_time(me).unwrap();
        assert!(!is_another_process(me.as_raw(), then));
        assert!(is_another_process(me.as_raw(), then - 1));
        assert!(!is_another_process(i32::MAX, then));
        // Whatever the other one is: this one could be no sandbox at all.
        let known = Identity {
            target: Target::Pid(me.as_raw()),
            start_time: Some(then - 1),
            netns: (4, 1),
        };
        let gone = open_again(&known, false).unwrap_err();
        assert!(matches!(gone, FleetError::SandboxGone(_)), "{gone:?}");
    }

    #[test]
    fn what_is_no_sandbox() {
        let of = |target: Target| open(&target, false).unwrap_err();
        let gone = of(Target::Pid(i32::MAX));
        assert!(matches!(gone, FleetError::SandboxGone(_)), "{gone:?}");
        let gone = of(Target::Path("/run/no/such".into()));
        assert!(matches!(gone, FleetError::SandboxGone(_)), "{gone:?}");
        let none = of(Target::Path("/etc/passwd".into()));
        assert!(
            none.to_string().contains("is not a network namespace"),
            "{none}"
        );
        let relative = of(Target::Path("net".into()));
        assert!(matches!(relative, FleetError::Refused { .. }), "{relative}");
        let host = of(Target::Pid(Pid::this().as_raw()));
        assert!(matches!(host, FleetError::NotPermitted(_)), "{host:?}");
        let home = open(&Target::Path(OWN_NET.into()), true).unwrap();
        assert!(home.at_home);
        assert!(open_again(&home.identity, true).unwrap().at_home);
        assert!(open_again(&home.identity, false).is_err());
    }
}
