//! How the end of a namespace that was joined is noticed. Whoever is inside keeps it alive, the switch's own
//! descriptors too, so a namespace never tells itself: what is watched is the process, or the file, that it was named by.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd::Pid;

use super::sys;

/// Symbolic links that are followed at most. Source: path_resolution(7).
const LINKS_MAX: usize = 40;

/// What the end of a namespace is told by.
#[derive(Debug)]
pub(super) struct EndWatch {
    /// Readable when the process has ended. A number that is used again is never taken for it.
    process: Option<OwnedFd>,
    file: Option<FileWatch>,
}

/// A file that stands for a namespace: a bind mount such as `ip netns` makes, or a link to one of /proc.
#[derive(Debug)]
struct FileWatch {
    path: PathBuf,
    /// Device and inode of the namespace, which is held open and so keeps its number.
    identity: (u64, u64),
    /// Removals and renames in its directory.
    directory: Inotify,
    /// Has priority data when something was mounted or unmounted. Source: proc_pid_mountinfo(5).
    mounts: File,
}

impl EndWatch {
    /// Watches a process. Errors: `ESRCH` when there is none.
    pub(super) fn process(pid: Pid) -> io::Result<Self> {
        Ok(Self {
            process: Some(sys::pidfd_open(pid)?),
            file: None,
        })
    }

    /// Watches what stands for the namespace `net` at `path`, and the process that it belongs to if it lies below /proc.
    /// Errors: no such process; the directory cannot be watched.
    pub(super) fn path(path: &Path, net: &File) -> Result<Self> {
        let process = process_of(path).map(sys::pidfd_open).transpose()?;
        let file = FileWatch::new(path, net)?;
        Ok(Self {
            process,
            file: Some(file),
        })
    }

    /// What to poll for.
    pub(super) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let process = self
            .process
            .as_ref()
            .map(|fd| (fd.as_fd(), PollFlags::POLLIN));
        let directory = self
            .file
            .as_ref()
            .map(|f| (f.directory.as_fd(), PollFlags::POLLIN));
        let mounts = self
            .file
            .as_ref()
            .map(|f| (f.mounts.as_fd(), PollFlags::POLLPRI));
        [process, directory, mounts]
            .into_iter()
            .flatten()
            .map(|(fd, flags)| PollFd::new(fd, flags))
    }

    /// Tells, when one of the descriptors is ready, whether the namespace's end has come.
    pub(super) fn has_ended(&self) -> bool {
        self.process_has_ended() || self.file.as_ref().is_some_and(FileWatch::is_gone)
    }

    fn process_has_ended(&self) -> bool {
        self.process.as_ref().is_some_and(|fd| {
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            super::retry(|| poll(&mut fds, PollTimeout::ZERO)).is_ok_and(|ready| ready > 0)
        })
    }
}

impl FileWatch {
    fn new(path: &Path, net: &File) -> Result<Self> {
        let directory = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        // Below /proc nothing is ever reported; there the watch is merely silent.
        let flags =
            AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_ONLYDIR;
        directory
            .add_watch(parent.unwrap_or_else(|| Path::new(".")), flags)
            .with_context(|| format!("cannot watch the directory of {}", path.display()))?;
        let mounts = File::open("/proc/self/mountinfo").context("cannot watch the mounts")?;
        Ok(Self {
            path: path.to_owned(),
            identity: identity(&net.metadata()?),
            directory,
            mounts,
        })
    }

    fn is_gone(&self) -> bool {
        while self.directory.read_events().is_ok() {}
        // Not opened: by now something may be there that blocks.
        match fs::metadata(&self.path) {
            Ok(now) => identity(&now) != self.identity,
            // What may not be looked at any more need not be gone.
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        }
    }
}

fn identity(of: &fs::Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

/// The process below whose directory in /proc a path lies or leads to, as `/run/netns/NAME` may link to /proc/PID/ns/net.
pub(super) fn process_of(path: &Path) -> Option<Pid> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        if let Some(pid) = below_proc(&path) {
            return Some(pid);
        }
        // Link by link: at the end stands one of /proc, whose text is no path.
        let folder = path.parent()?.canonicalize().ok()?;
        path = folder.join(path.file_name()?);
        if let Some(pid) = below_proc(&path) {
            return Some(pid);
        }
        path = folder.join(fs::read_link(&path).ok()?);
    }
    None
}

fn below_proc(path: &Path) -> Option<Pid> {
    let mut parts = path.strip_prefix("/proc").ok()?.components();
    let number = parts.next()?.as_os_str().to_str()?.parse().ok()?;
    parts.next().map(|_| Pid::from_raw(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_proc_name_their_process() {
        let own = Pid::this();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink(format!("/proc/{own}/ns/net"), at("direct")).unwrap();
        std::os::unix::fs::symlink("direct", at("twice")).unwrap();
        std::os::unix::fs::symlink("round", at("round")).unwrap();
        fs::write(at("plain"), "").unwrap();
        for (path, expected) in [
            (PathBuf::from(format!("/proc/{own}/ns/net")), Some(own)),
            ("/proc/self/ns/net".into(), Some(own)),
            ("/proc/77/root/run/netns/x".into(), Some(Pid::from_raw(77))),
            (at("direct"), Some(own)),
            (at("twice"), Some(own)),
            (at("round"), None),
            (at("plain"), None),
            (at("missing"), None),
            ("/proc/uptime".into(), None),
        ] {
            assert_eq!(process_of(&path), expected, "{}", path.display());
        }
    }

    #[test]
    fn a_file_that_is_replaced_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net");
        fs::write(&path, "").unwrap();
        // Held, as a namespace is: else its number might be given to the next file.
        let held = File::open(&path).unwrap();
        let watch = EndWatch::path(&path, &held).unwrap();
        assert_eq!(watch.poll_fds().count(), 2);
        assert!(!watch.has_ended());
        fs::write(folder.path().join("other"), "").unwrap();
        fs::rename(folder.path().join("other"), &path).unwrap();
        assert!(watch.has_ended());
        fs::remove_file(&path).unwrap();
        assert!(watch.has_ended());
    }

    #[test]
    fn a_process_that_ends_is_noticed() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let watch = EndWatch::process(Pid::from_raw(child.id().cast_signed())).unwrap();
        assert!(!watch.has_ended());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(watch.has_ended());
    }
}
