//! The host's resolvers: resolv.conf parsed, and watched through renames and links.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};

/// Where the host says who resolves names.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// As many as the C library uses. Source: resolv.conf(5), MAXNS.
const MAX_SERVERS: usize = 3;

/// Longer files are cut here: no honest one comes near.
const MAX_BYTES: usize = 64 * 1024;

/// Links followed from resolv.conf before it is taken for a loop.
const MAX_HOPS: usize = 16;

const DNS_PORT: u16 = 53;

/// What resolv.conf says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resolvers {
    /// At most three servers, with port 53 and, for link-local ones, the scope.
    pub servers: Vec<SocketAddr>,
    /// Search domains.
    pub search: Vec<String>,
}

impl Resolvers {
    /// Reads the file of the host; an absent one names no server.
    #[must_use]
    pub fn of_host() -> Self {
        Self::of_file(Path::new(RESOLV_CONF))
    }

    /// Reads a file of that form; an absent one names no server.
    #[must_use]
    pub fn of_file(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_default();
        let bytes = bytes.get(..MAX_BYTES).unwrap_or(&bytes);
        Self::parse(&String::from_utf8_lossy(bytes))
    }

    /// Parses the text of a resolv.conf; what is malformed is skipped, as the C library does.
    /// Source: resolv.conf(5).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if found.servers.len() < MAX_SERVERS => {
                    found.servers.extend(words.next().and_then(server));
                }
                // The last of these lines wins.
                Some("search") => found.search = words.map(str::to_owned).collect(),
                Some("domain") => found.search = words.take(1).map(str::to_owned).collect(),
                _ => {}
            }
        }
        found.search.retain(|domain| domain != ".");
        found
    }
}

fn server(word: &str) -> Option<SocketAddr> {
    if let Some((addr, zone)) = word.split_once('%') {
        let addr: Ipv6Addr = addr.parse().ok()?;
        let scope = zone
            .parse()
            .ok()
            .or_else(|| super::link::index_of(zone).ok())?;
        return Some(SocketAddrV6::new(addr, DNS_PORT, 0, scope).into());
    }
    let addr: IpAddr = word.parse().ok()?;
    Some(SocketAddr::new(addr, DNS_PORT))
}

/// Watches resolv.conf: the directory that holds it, and those of every link on the way to the content.
#[derive(Debug)]
pub struct ResolverWatch {
    path: PathBuf,
    inotify: Inotify,
    names: BTreeSet<OsString>,
    last: Resolvers,
}

impl ResolverWatch {
    /// Watches `path`; `last` is what is known already. Errors: those of inotify.
    pub fn new(path: &Path, last: Resolvers) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut watch = Self {
            path: path.to_owned(),
            inotify,
            names: BTreeSet::new(),
            last,
        };
        watch.follow();
        Ok(watch)
    }

    /// The descriptor to poll for reading.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Takes what inotify has to say and gives the new content if it differs from the last.
    pub fn changed(&mut self) -> Option<Resolvers> {
        let mut touched = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    touched |= events
                        .iter()
                        .any(|e| e.name.as_ref().is_none_or(|name| self.names.contains(name)));
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        if touched { self.read_again() } else { None }
    }

    /// Reads the file and gives its content if it differs from the last and names a server.
    pub fn read_again(&mut self) -> Option<Resolvers> {
        // Watches first: a change between the two steps is then an event and not lost.
        self.follow();
        let now = Resolvers::of_file(&self.path);
        // While someone rewrites the file it names nobody: the old servers are better than none.
        (now != self.last && !now.servers.is_empty()).then(|| {
            self.last = now.clone();
            now
        })
    }

    /// Watches the directory of each hop. Watching a directory twice is one watch; one that has gone drops its own.
    fn follow(&mut self) {
        self.names.clear();
        let mut hop = self.path.clone();
        for _ in 0..MAX_HOPS {
            self.watch_hop(&hop);
            let Ok(target) = fs::read_link(&hop) else {
                break;
            };
            let base = hop.parent().unwrap_or_else(|| Path::new("/"));
            hop = tidy(&base.join(target));
        }
    }

    /// Watches the nearest directory on the way to `path` that exists, for the name that leads on.
    fn watch_hop(&mut self, path: &Path) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for step in path.ancestors() {
            let (Some(parent), Some(name)) = (step.parent(), step.file_name()) else {
                return;
            };
            self.names.insert(OsStr::to_owned(name));
            if self.inotify.add_watch(parent, flags).is_ok() {
                return;
            }
        }
    }
}

/// Takes `.` and `..` out of an absolute path by its text alone.
fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_as_the_c_library_does() {
        let text = "# comment\nnameserver 192.0.2.1\nnameserver bad\nnameserver\t2001:db8::1 \n\
                    domain old.example\nsearch a.example b.example .\noptions ndots:2\n\
                    nameserver fe80::1%7\nnameserver 192.0.2.9\n";
        let found = Resolvers::parse(text);
        let servers: Vec<String> = found.servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            servers,
            ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"]
        );
        assert_eq!(found.search, ["a.example", "b.example"]);
        assert_eq!(Resolvers::parse(""), Resolvers::default());
    }

    #[test]
    fn follows_renames_and_link_targets() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("resolv.conf");
        fs::write(&conf, "nameserver 192.0.2.1\n").unwrap();
        let mut watch = ResolverWatch::new(&conf, Resolvers::of_file(&conf)).unwrap();
        assert_eq!(watch.changed(), None);

        let fresh = dir.path().join("fresh");
        fs::write(&fresh, "nameserver 192.0.2.2\n").unwrap();
        fs::rename(&fresh, &conf).unwrap();
        assert_eq!(
            watch.changed(),
            Some(Resolvers::parse("nameserver 192.0.2.2"))
        );

        // A link to a file in a directory that comes later, as systemd-resolved's does.
        fs::remove_file(&conf).unwrap();
        std::os::unix::fs::symlink("run/resolve/stub.conf", &conf).unwrap();
        assert_eq!(watch.changed(), None);
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        assert_eq!(watch.changed(), None);
        fs::create_dir(run.join("resolve")).unwrap();
        assert_eq!(watch.changed(), None);
        fs::write(run.join("resolve/stub.conf"), "nameserver 192.0.2.3\n").unwrap();
        assert_eq!(
            watch.changed(),
            Some(Resolvers::parse("nameserver 192.0.2.3"))
        );
        fs::write(run.join("resolve/stub.conf"), "nameserver 192.0.2.4\n").unwrap();
        assert_eq!(
            watch.changed(),
            Some(Resolvers::parse("nameserver 192.0.2.4"))
        );
    }
}
