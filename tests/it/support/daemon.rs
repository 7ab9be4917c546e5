//! A daemon of the test's own, and sandboxes to connect to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::netns::{Namespace, World};
use super::wait::{self, SOON};
use super::weft::{Ended, Running, find, json};

/// Who runs the daemon and the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The world's root.
    Root,
    /// A user without any capability on the host.
    User,
}

/// Both, for tests that hold for either.
pub(crate) const EVERYBODY: [Who; 2] = [Who::Root, Who::User];

/// Marks sleepers, so that each is found by its command line.
static NEXT: AtomicU32 = AtomicU32::new(4_000_001);

/// A daemon. It is killed with the value, and leaves its directory behind only while the value lives.
#[derive(Debug)]
pub(crate) struct Daemon<'w> {
    /// The host it runs on.
    at: &'w Namespace,
    dir: tempfile::TempDir,
    /// A process in the user namespace of the one who runs it all.
    user: Option<(Running, u32)>,
    running: Option<Running>,
}

impl<'w> Daemon<'w> {
    /// A daemon that serves.
    #[track_caller]
    pub(crate) fn up(world: &'w World, who: Who) -> Self {
        let daemon = Self::new(world, who);
        daemon.begin(&[])
    }

    /// A daemon that serves, of root.
    #[track_caller]
    pub(crate) fn root(world: &'w World) -> Self {
        Self::up(world, Who::Root)
    }

    /// A place for a daemon, which is not started.
    #[track_caller]
    pub(crate) fn new(world: &'w World, who: Who) -> Self {
        Self::on(&world.host, who)
    }

    /// As `new`, on any host.
    #[track_caller]
    pub(crate) fn on(at: &'w Namespace, who: Who) -> Self {
        let user = (who == Who::User).then(|| {
            let mark = mark();
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-user=1000", "--map-group=1000"]);
            command.args(["--", "sleep", &mark]);
            let running = Running::start(at, &mut command);
            (running, sleeper(&mark))
        });
        Self {
            at,
            dir: tempfile::tempdir().unwrap(),
            user,
            running: None,
        }
    }

    fn begin(mut self, options: &[&str]) -> Self {
        self.start(options);
        self
    }

    /// Starts the daemon, and waits until it serves.
    #[track_caller]
    pub(crate) fn start(&mut self, options: &[&str]) {
        let mut running = self.launch(options);
        wait::until("the daemon serves", SOON, || {
            assert!(!running.has_ended(), "{:?}", running.end(SOON));
            self.weft("show daemon").status == 0
        });
        self.running = Some(running);
    }

    /// Starts `weft up` and waits for nothing.
    #[track_caller]
    pub(crate) fn launch(&self, options: &[&str]) -> Running {
        let store = self.store();
        let store = ["--store", store.to_str().unwrap()];
        let words = [&["up"], &store[..], options].concat();
        Running::start(self.at, &mut self.command(&words))
    }

    /// The store's file.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("weft.redb")
    }

    /// The API's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("weft.sock")
    }

    /// Where the test may put files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A command of the one who runs it all, with the socket's name at its end.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.shell(env!("CARGO_BIN_EXE_weft"));
        command.args(words).arg("--socket").arg(self.socket());
        command
    }

    /// Any program, run by the one who runs it all.
    pub(crate) fn shell(&self, program: &str) -> Command {
        let Some((_, pid)) = &self.user else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command.arg(format!("--user=/proc/{pid}/ns/user"));
        command.args(["--preserve-credentials", "--", program]);
        command
    }

    /// Runs `weft LINE` against the daemon; words are parted by spaces.
    #[track_caller]
    pub(crate) fn weft(&self, line: &str) -> Ended {
        let words: Vec<_> = line.split_whitespace().collect();
        self.words(&words)
    }

    /// Runs `weft` with these words against the daemon.
    #[track_caller]
    pub(crate) fn words(&self, words: &[&str]) -> Ended {
        let mut command = self.command(words);
        Running::start(self.at, &mut command).end(Duration::from_secs(60))
    }

    /// As `weft`, which must end well.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        let ended = self.weft(line);
        assert_eq!(ended.status, 0, "weft {line}: {ended:?}");
        ended.stdout
    }

    /// As `ok`, with JSON.
    #[track_caller]
    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} --json"))).unwrap()
    }

    /// The key that others know this host by.
    #[track_caller]
    pub(crate) fn key(&self) -> String {
        let mut command = self.shell(env!("CARGO_BIN_EXE_weft"));
        let said = command.args(["key", "show", "--store"]).arg(self.store());
        let said = String::from_utf8(said.output().unwrap().stdout).unwrap();
        said.trim().to_owned()
    }

    /// Everything that a user has made, as the daemon tells it.
    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        let what = ["network ls", "endpoint ls", "publish ls", "service ls"];
        Value::Array(what.iter().map(|w| self.json(w)).collect())
    }

    /// Frames dropped for this reason.
    #[track_caller]
    pub(crate) fn drops(&self, reason: &str) -> u64 {
        let rows = self.json("show drops");
        let mut rows = rows.as_array().unwrap().iter();
        let row = rows.find(|row| row["reason"] == reason);
        row.and_then(|row| row["frames"].as_u64()).unwrap_or(0)
    }

    /// How many descriptors the daemon has.
    pub(crate) fn descriptors(&self) -> usize {
        let pid = self.json("show daemon")["pid"].as_u64().unwrap();
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    /// Kills the daemon as nothing can be caught.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let mut running = self.running.take().unwrap();
        running.signal(Signal::SIGKILL);
        running.end(SOON);
    }

    /// What it has written to its log since it was started.
    #[track_caller]
    pub(crate) fn log(&self) -> String {
        self.running.as_ref().unwrap().said()
    }

    /// Takes the process, to wait for its end.
    pub(crate) fn process(&mut self) -> Running {
        self.running.take().unwrap()
    }

    /// A sandbox that does nothing, not connected to anything.
    #[track_caller]
    pub(crate) fn sandbox(&self) -> Place {
        let mark = mark();
        let mut command = self.shell("unshare");
        if self.user.is_some() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--net", "--", "sleep", &mark]);
        let running = Running::start(self.at, &mut command);
        let pid = sleeper(&mark);
        let net = Namespace::of(pid);
        net.ip("link set lo up");
        net.steady();
        Place { running, pid, net }
    }

    /// A sandbox on these networks in turn, called `name`.
    #[track_caller]
    pub(crate) fn connected(&self, name: &str, networks: &[&str]) -> Place {
        let place = self.sandbox();
        for network in networks {
            let pid = place.pid;
            self.ok(&format!("endpoint connect {network} {pid} --name {name}"));
        }
        place
    }

    /// Two networks with a sandbox on each: `a` at 10.7.0.9 on `front`, and `b`, which fills `tiny`.
    #[track_caller]
    pub(crate) fn furnish(&self) -> [Place; 2] {
        self.ok("network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64");
        self.ok("network create tiny --subnet 10.8.0.0/30 --ipv6=false");
        let a = self.sandbox();
        let pid = a.pid;
        self.ok(&format!(
            "endpoint connect front {pid} --name a --ip 10.7.0.9 --mac 02:00:00:00:00:09"
        ));
        [a, self.connected("b", &["tiny"])]
    }
}

fn mark() -> String {
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

fn sleeper(mark: &str) -> u32 {
    let cmdline = format!("sleep\0{mark}\0");
    wait::value("the sleeper runs", SOON, || find(&cmdline))
}

/// A namespace with a process that does nothing.
#[derive(Debug)]
pub(crate) struct Place {
    running: Running,
    /// The process.
    pub(crate) pid: u32,
    /// Its network.
    pub(crate) net: Namespace,
}

impl Place {
    /// Ends its process, and so the sandbox.
    pub(crate) fn end(mut self) {
        self.running.signal(Signal::SIGKILL);
        self.running.end(SOON);
    }

    /// Runs a line of shell inside, to its end.
    #[track_caller]
    pub(crate) fn sh(&self, line: &str) -> Ended {
        let mut command = Command::new("sh");
        Running::start(&self.net, command.args(["-c", line])).end(Duration::from_secs(60))
    }

    /// Whether one ping is answered, however busy the machine is.
    #[track_caller]
    pub(crate) fn pings(&self, to: &str) -> bool {
        self.sh(&format!("ping -n -c 1 -W 15 {to}")).status == 0
    }

    /// Whether one ping is answered within a second: of what is not to be answered, or is asked again.
    #[track_caller]
    pub(crate) fn pings_at_once(&self, to: &str) -> bool {
        self.sh(&format!("ping -n -c 1 -W 1 {to}")).status == 0
    }

    /// Waits until what it has sent has come, for what is sent behind it has. Where a queue is full that may be lost, too.
    #[track_caller]
    pub(crate) fn flushed(&self, to: &str) {
        wait::until("what was sent has come", SOON, || self.pings_at_once(to));
    }

    /// The names of its interfaces beside the loopback.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let links = json(&self.net, &["link"]);
        let names = links.as_array().unwrap().iter();
        let names = names.map(|l| l["ifname"].as_str().unwrap().to_owned());
        names.filter(|n| n != "lo").collect()
    }

    /// Links, addresses and routes, without the state that a link is in as long as nobody has touched its carrier.
    pub(crate) fn picture(&self) -> Value {
        let what: [&[&str]; 4] = [
            &["link"],
            &["addr"],
            &["-4", "route", "show", "table", "all"],
            &["-6", "route", "show", "table", "main"],
        ];
        let mut shown: Vec<Value> = what.iter().map(|args| json(&self.net, args)).collect();
        for link in shown.iter_mut().filter_map(Value::as_array_mut).flatten() {
            link.as_object_mut().unwrap().remove("operstate");
        }
        Value::Array(shown)
    }

    /// Makes a file stand for its network.
    #[track_caller]
    pub(crate) fn pin(&self, path: &Path) {
        fs::write(path, "").unwrap();
        let done = Command::new("mount")
            .args(["-n", "--bind", &format!("/proc/{}/ns/net", self.pid)])
            .arg(path)
            .status();
        assert!(done.unwrap().success(), "a mount for {}", path.display());
    }
}
