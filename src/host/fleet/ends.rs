//! The end of sandboxes that are named by a file: one inotify and one look at the mounts for all of them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::identify::inode;

/// Files that stand for namespaces.
#[derive(Debug)]
pub(super) struct FileEnds {
    /// Removals and renames in their directories. Each user may have few inotify instances, but many watches.
    directories: Inotify,
    watched: HashMap<WatchDescriptor, usize>,
    /// Has priority data when something was mounted or unmounted, once for each look. Source: proc_pid_mountinfo(5).
    mounts: File,
}

/// A file that is watched.
#[derive(Debug)]
pub(super) struct Watched {
    path: PathBuf,
    netns: (u64, u64),
    directory: WatchDescriptor,
}

impl Watched {
    /// Tells whether the file is gone or another. It is not opened: by now something may be there that blocks.
    pub(super) fn is_gone(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(now) => inode(&now) != self.netns,
            // What may not be looked at any more need not be gone.
            Err(e) => matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
        }
    }
}

impl FileEnds {
    /// Errors: those of inotify_init(2); /proc is not readable.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            directories: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            watched: HashMap::new(),
            mounts: File::open("/proc/self/mountinfo")?,
        })
    }

    /// What to poll for. Not for an epoll: that would look twice, and the mounts tell once.
    pub(super) fn poll_fds(&self) -> [PollFd<'_>; 2] {
        [
            PollFd::new(self.directories.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.mounts.as_fd(), PollFlags::POLLPRI),
        ]
    }

    /// Reads what has happened, so that the descriptors are quiet again.
    pub(super) fn drain(&self) {
        while self.directories.read_events().is_ok() {}
    }

    /// Watches the file at `path`, which stands for the namespace `netns`.
    /// Errors: the directory cannot be watched.
    pub(super) fn add(&mut self, path: &Path, netns: (u64, u64)) -> io::Result<Watched> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        // Below /proc nothing is ever reported; there the process is watched.
        let flags =
            AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_ONLYDIR;
        let directory = self
            .directories
            .add_watch(parent.unwrap_or_else(|| Path::new(".")), flags)?;
        *self.watched.entry(directory).or_default() += 1;
        Ok(Watched {
            path: path.to_owned(),
            netns,
            directory,
        })
    }

    /// Watches it no more.
    pub(super) fn remove(&mut self, file: &Watched) {
        let Some(count) = self.watched.get_mut(&file.directory) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.watched.remove(&file.directory);
            // It fails when the directory itself is gone, and the watch with it.
            let _ = self.directories.rm_watch(file.directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_of_a_directory_share_its_watch() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut ends = FileEnds::new().unwrap();
        let watched: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|name| {
                fs::write(path(name), "").unwrap();
                let netns = inode(&fs::metadata(path(name)).unwrap());
                ends.add(&path(name), netns).unwrap()
            })
            .collect();
        assert_eq!(ends.watched.len(), 1);
        fs::remove_file(path("a")).unwrap();
        assert!(watched[0].is_gone() && !watched[1].is_gone());
        ends.remove(&watched[0]);
        assert_eq!(ends.watched.len(), 1);
        fs::write(path("c"), "").unwrap();
        fs::rename(path("c"), path("b")).unwrap();
        assert!(watched[1].is_gone());
        ends.remove(&watched[1]);
        assert!(ends.watched.is_empty());
    }
}
