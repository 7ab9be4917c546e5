//! The world of a test: namespaces of its own, in which it is root, whoever runs it.
//!
//! A test re-executes itself in a child with fresh user, net, mount and PID namespaces, because a
//! user namespace can be joined only before there are threads. When the child ends, the kernel ends
//! all that it started. Inside stand three hosts:
//!
//! ```text
//!     host 192.0.2.2 ---- outside 192.0.2.1 = 198.51.100.1 ---- far 198.51.100.2
//!     2001:db8:1::2       2001:db8:1::1     = 2001:db8:2::1     2001:db8:2::2
//! ```
//!
//! `weft` runs in `host`, the test itself in `outside`, which routes between the two.

use std::any::type_name;
use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

use super::wait;

/// Set in the child, so that it knows.
const INSIDE: &str = "WEFT_TEST_INSIDE";

/// No test may take longer.
const LIMIT: Duration = Duration::from_secs(150);

/// The outside world's addresses on the host's link.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// As `OUTSIDE`.
pub(crate) const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// A second address of the outside world on that link.
pub(crate) const OUTSIDE_TWO: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// The host's own addresses.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// As `HOST`.
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
/// One more hop away.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// As `FAR`.
pub(crate) const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);

/// The outside world's address of each family.
pub(crate) const BOTH: [IpAddr; 2] = [IpAddr::V4(OUTSIDE), IpAddr::V6(OUTSIDE6)];

/// A network namespace, kept open.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes a new one, its loopback up.
    fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Self::current()
        });
        let made = made.join().unwrap();
        made.ip("link set lo up");
        made.steady();
        made
    }

    /// The one of the calling thread.
    pub(crate) fn current() -> Self {
        Self(File::open("/proc/thread-self/ns/net").unwrap())
    }

    /// The one of a process.
    pub(crate) fn of(pid: u32) -> Self {
        Self(File::open(format!("/proc/{pid}/ns/net")).unwrap())
    }

    /// The one that a file stands for.
    pub(crate) fn at(path: &Path) -> Self {
        Self(File::open(path).unwrap())
    }

    /// Does something inside, on a thread of its own. Sockets made there stay there, and processes
    /// started there begin there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = thread::scope(|scope| {
            let inner = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inner.join()
        });
        match done {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs lines of `ip` inside.
    #[track_caller]
    pub(crate) fn ip(&self, lines: &str) {
        let output = self.enter(|| {
            let mut child = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(lines.as_bytes()).unwrap();
            drop(stdin);
            child.wait_with_output().unwrap()
        });
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip: {lines}\n{errors}");
    }

    /// Sets a sysctl, named from below /proc/sys.
    #[track_caller]
    pub(crate) fn set(&self, key: &str, value: &str) {
        self.enter(|| fs::write(format!("/proc/sys/{key}"), value))
            .unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
    }

    /// Takes out what would make times vary. The congestion control is one that does not pace: cubic, or reno where only the machine's own
    /// root may choose cubic.
    pub(crate) fn steady(&self) {
        let choose = |name: &str| fs::write("/proc/sys/net/ipv4/tcp_congestion_control", name);
        self.enter(|| choose("cubic").or_else(|_| choose("reno")))
            .unwrap();
        // Link-local addresses of links to come are of use at once.
        self.set("net/ipv6/conf/default/accept_dad", "0");
    }

    /// A path by which `ip` of any process finds this namespace.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// The three hosts of a test.
#[derive(Debug)]
pub(crate) struct World {
    /// Where `weft` runs.
    pub(crate) host: Namespace,
    /// Where the test itself is, and its servers: the router between the others.
    pub(crate) outside: Namespace,
    /// Behind the router.
    pub(crate) far: Namespace,
}

/// Runs `test` in a world of its own, whose host lets everybody ping. The name of the test is that of
/// the function around the closure.
#[track_caller]
pub(crate) fn inside<F: FnOnce(&World)>(test: F) {
    reexecute(type_name::<F>(), |world| {
        // Only the group of the test exists in its user namespace.
        world.host.set("net/ipv4/ping_group_range", "0 0");
        test(world);
    });
}

/// As `inside`, but the host lets nobody ping, as the kernel has it by itself.
#[track_caller]
pub(crate) fn inside_without_ping<F: FnOnce(&World)>(test: F) {
    reexecute(type_name::<F>(), test);
}

#[track_caller]
fn reexecute(closure: &str, test: impl FnOnce(&World)) {
    if env::var_os(INSIDE).is_some() {
        test(&World::new());
        return;
    }
    let name = closure.trim_end_matches("::{{closure}}");
    let name = name.split_once("::").map_or(name, |(_, inner)| inner);

    let mut output = tempfile::tempfile().unwrap();
    let mut child = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--net",
            "--mount",
            "--pid",
            "--fork",
        ])
        .args(["--kill-child", "--mount-proc", "--"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output.try_clone().unwrap())
        .spawn()
        .unwrap();
    let mut status = None;
    let deadline = std::time::Instant::now() + LIMIT;
    wait::until("the test in its namespaces ends", LIMIT * 2, || {
        status = child.try_wait().unwrap();
        if status.is_none() && std::time::Instant::now() > deadline {
            // What it printed until now is the only trace of what it hangs in.
            child.kill().unwrap();
        }
        status.is_some()
    });
    let mut text = String::new();
    output.rewind().unwrap();
    output.read_to_string(&mut text).unwrap();
    let fine = status.is_some_and(|status| status.success()) && text.contains("1 passed");
    assert!(fine, "in its namespaces, {status:?}:\n{text}");
}

/// Whether a tool is there; says so if not, so that the test can do without.
pub(crate) fn have(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    if !found {
        without(tool);
    }
    found
}

/// Says what a test goes without, here and in the file that `tests/run` shows at its end.
pub(crate) fn without(what: &str) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    println!("without {what}: {test}");
    if let Some(path) = env::var_os("WEFT_TEST_WITHOUT") {
        let file = File::options().create(true).append(true).open(path);
        // It is but a note: a test does not fail for want of it.
        let _told = file.and_then(|mut file| writeln!(file, "without {what}: {test}"));
    }
}

impl World {
    fn new() -> Self {
        own_etc();
        let outside = Namespace::current();
        outside.ip("link set lo up");
        outside.steady();
        outside.set("net/ipv4/ip_forward", "1");
        outside.set("net/ipv6/conf/all/forwarding", "1");
        let (host, far) = (Namespace::new(), Namespace::new());
        outside.ip(&format!(
            "link add out0 type veth peer name eth0 netns {}\n\
             link add far0 type veth peer name eth0 netns {}\n\
             addr add {OUTSIDE}/24 dev out0\n\
             addr add {OUTSIDE_TWO}/24 dev out0\n\
             addr add {OUTSIDE6}/64 dev out0 nodad\n\
             addr add 198.51.100.1/24 dev far0\n\
             addr add 2001:db8:2::1/64 dev far0 nodad\n\
             link set out0 up\n\
             link set far0 up\n",
            host.path(),
            far.path(),
        ));
        host.ip(&format!(
            "addr add {HOST}/24 dev eth0\n\
             addr add {HOST6}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {OUTSIDE}\n\
             route add default via {OUTSIDE6}\n"
        ));
        far.ip(&format!(
            "addr add {FAR}/24 dev eth0\n\
             addr add {FAR6}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 198.51.100.1\n\
             route add default via 2001:db8:2::1\n"
        ));
        Self { host, outside, far }
    }

    /// Replaces /etc/resolv.conf by rename, as its managers do.
    pub(crate) fn resolvers(&self, servers: &[IpAddr]) {
        let lines: String = servers
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        fs::write("/etc/resolv.conf.new", lines).unwrap();
        fs::rename("/etc/resolv.conf.new", "/etc/resolv.conf").unwrap();
    }

    /// The processes that run, by their ids, but for the test itself.
    pub(crate) fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let entry = entry.unwrap();
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // The state is behind the name, which is in parentheses and may hold anything.
            let state = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            if pid != std::process::id() && !matches!(state, None | Some('Z' | 'X')) {
                found.push(stat);
            }
        }
        found
    }
}

/// Puts a copy of /etc in the place of the real one, so that the test may change its files.
fn own_etc() {
    let done = Command::new("sh")
        .arg("-ec")
        .arg(
            "mount -n -t tmpfs -o size=64m etc /mnt
             cp -dR --preserve=mode,links /etc/. /mnt 2>/dev/null || true
             rm -f /mnt/resolv.conf; echo 'nameserver 192.0.2.1' >/mnt/resolv.conf
             echo '127.0.0.1 localhost' >/mnt/hosts; echo '::1 localhost' >>/mnt/hosts
             mount -n --bind /mnt /etc; umount -n /mnt",
        )
        .status()
        .unwrap();
    assert!(done.success(), "an /etc of the test's own");
}
