//! `weft sidecar`: an overlay in the namespace of an application, with the least rights that suffice.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::daemon::{Daemon, Place};
use crate::support::guest::fetch;
use crate::support::netns::{self, HOST, Namespace, World};
use crate::support::servers;
use crate::support::wait::{self, SOON};
use crate::support::weft::{Ended, Running, json};

/// The pod's address on its own interface, and the world's there.
const POD: &str = "203.0.113.2";
const WORLD: &str = "203.0.113.1";

/// No root, and of all capabilities this one, in every set: none is left to be had by a file's.
const LEAST: &str = "setpriv --bounding-set=-all,+net_admin --inh-caps=-all,+net_admin \
                     --ambient-caps=-all,+net_admin --no-new-privs --";

/// Runs what files tell it to, one after the other.
const SHELL: &str = "n=0; while :; do \
    while [ ! -e go$n ]; do sleep 0.02; done; \
    sh ./go$n >out$n 2>err$n; echo $? >end; mv end end$n; n=$((n+1)); done";

/// A network namespace of an ordinary user, with an interface and a default route of its own.
struct Pod {
    net: Namespace,
    dir: tempfile::TempDir,
    /// What is in it all the time, with no more rights than a sidecar needs.
    _shell: Running,
    /// How many sidecars there were.
    lives: usize,
}

impl Pod {
    fn new(world: &World) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-user=65532", "--map-group=65532"]);
        command.args(["--net", "--keep-caps", "--"]);
        command.args(LEAST.split_whitespace());
        command.args(["sh", "-c", SHELL]).current_dir(dir.path());
        let shell = Running::start(&world.outside, &mut command);
        let pid = shell.pid();
        wait::until("the pod's shell runs", SOON, || {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "sh\n")
        });
        let net = Namespace::of(pid);
        net.steady();
        world.outside.ip(&format!(
            "link add pod0 type veth peer name eth0 netns /proc/{pid}/ns/net\n\
             addr add {WORLD}/24 dev pod0\n\
             link set pod0 up\n"
        ));
        net.ip(&format!(
            "link set lo up\n\
             addr add {POD}/24 dev eth0\n\
             link set eth0 up\n\
             route add default via {WORLD}\n"
        ));
        Self {
            net,
            dir,
            _shell: shell,
            lives: 0,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.file("state")
    }

    /// Starts `weft sidecar` with these options, by a command that takes more rights away.
    fn sidecar(&mut self, less: &str, options: &str) {
        let weft = env!("CARGO_BIN_EXE_weft");
        let state = self.state();
        let state = state.display();
        let line = format!("echo $$ >pid\nexec {less} {weft} sidecar --state {state} {options}\n");
        fs::write(self.file("new"), line).unwrap();
        fs::rename(self.file("new"), self.file(&format!("go{}", self.lives))).unwrap();
        self.lives += 1;
    }

    fn pid(&self) -> i32 {
        let pid = fs::read_to_string(self.file("pid")).unwrap();
        pid.trim().parse().unwrap()
    }

    /// How the last sidecar has ended, if it has.
    fn ended(&self) -> Option<Ended> {
        let read =
            |name: &str| fs::read_to_string(self.file(&format!("{name}{}", self.lives - 1))).ok();
        Some(Ended {
            status: read("end")?.trim().parse().unwrap(),
            stdout: read("out")?,
            stderr: read("err")?,
        })
    }

    #[track_caller]
    fn end(&self) -> Ended {
        wait::value("the sidecar ends", SOON, || self.ended())
    }

    #[track_caller]
    fn signal(&self, signal: Signal) -> Ended {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
        self.end()
    }

    /// Waits until it serves.
    #[track_caller]
    fn serves(&self) {
        wait::until("the sidecar serves", SOON, || {
            assert!(self.ended().is_none(), "{:?}", self.ended());
            self.interfaces().contains(&"weft0".to_owned()) && self.weft("show daemon").status == 0
        });
    }

    fn weft(&self, line: &str) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(line.split_whitespace()).arg("--socket");
        command.arg(self.state().join("weft.sock"));
        Running::start(&self.net, &mut command).end(Duration::from_secs(60))
    }

    /// Runs a line of shell as the application would.
    fn sh(&self, line: &str) -> Ended {
        let mut command = Command::new("sh");
        Running::start(&self.net, command.args(["-c", line])).end(Duration::from_secs(60))
    }

    fn pings(&self, to: &str) -> bool {
        self.sh(&format!("ping -n -c 1 -W 1 {to}")).status == 0
    }

    fn interfaces(&self) -> Vec<String> {
        let links = json(&self.net, &["link"]);
        let links = links.as_array().into_iter().flatten();
        links
            .map(|l| l["ifname"].as_str().unwrap().to_owned())
            .collect()
    }

    /// What the pod has of its own, and the sidecar is to leave alone.
    fn picture(&self) -> Value {
        // An address that is still looked for is none of the sidecar's doing.
        wait::until("its own addresses are there", SOON, || {
            let own = json(&self.net, &["addr", "show", "dev", "eth0"]);
            let own = own.to_string();
            own.contains("fe80:") && !own.contains("tentative")
        });
        let shown = [
            json(&self.net, &["-4", "route", "show", "default"]),
            json(&self.net, &["addr", "show", "dev", "eth0"]),
            json(&self.net, &["addr", "show", "dev", "lo"]),
        ];
        let sysctls = ["ip_unprivileged_port_start", "ping_group_range"];
        let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        let settings = self.net.enter(|| sysctls.map(read));
        serde_json::json!([shown, settings])
    }
}

/// A host with an overlay network, and a sandbox `db` on it.
fn other_host(world: &World) -> (Daemon<'_>, Place) {
    let daemon = Daemon::root(world);
    daemon.ok("network create web --driver overlay --subnet 10.7.0.0/16 --ip-range 10.7.0.0/24 --subnet6 fd07::/64");
    let db = daemon.connected("db", &["web"]);
    (daemon, db)
}

/// An invite in a file of the pod's.
fn invite(daemon: &Daemon<'_>, dir: &Path) -> String {
    let line = daemon.ok(&format!("peer invite pod --endpoint {HOST}"));
    let path = dir.join("invite");
    fs::write(&path, line).unwrap();
    path.display().to_string()
}

/// The capabilities in this set of a process, and its user.
fn rights(pid: &str, set: &str) -> (u64, String) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    let caps = u64::from_str_radix(&field(&format!("{set}:")), 16).unwrap();
    (caps, field("NoNewPrivs:"))
}

fn address(place: &Namespace, ifname: &str) -> Ipv4Addr {
    let shown = json(place, &["-4", "addr", "show", "dev", ifname]);
    let text = shown[0]["addr_info"][0]["local"].as_str().unwrap();
    text.parse().unwrap()
}

#[test]
fn an_application_reaches_another_host_by_the_sidecar_in_its_namespace() {
    netns::inside(|world| {
        let (daemon, db) = other_host(world);
        let mut pod = Pod::new(world);
        let before = pod.picture();
        let invite = invite(&daemon, pod.dir.path());
        pod.sidecar("", &format!("--peer {invite} --name app"));
        pod.serves();
        assert_eq!(pod.picture(), before, "the pod's own things");
        let mut names = pod.interfaces();
        names.sort();
        assert_eq!(names, ["eth0", "lo", "weft0"]);

        let there = address(&db.net, "eth0");
        wait::until("the sandbox on the other host answers", SOON, || {
            pod.pings(&there.to_string())
        });
        let here = address(&pod.net, "weft0");
        assert_eq!(here.octets()[..3], [10, 7, 1], "of the part that was given");
        let at = servers::http(&db.net, (IpAddr::V4(there), 80));
        assert_eq!(fetch(&pod.net, at), format!("hello {here}"));
        let at = servers::http(&pod.net, (IpAddr::V4(here), 80));
        assert_eq!(fetch(&db.net, at), format!("hello {there}"));

        // By name, both ways; the world's names are another resolver's.
        world.resolvers(&[IpAddr::from([10, 7, 0, 1])]);
        wait::until("names of the other host", SOON, || {
            pod.pings("db") && db.pings("app")
        });

        // What leads elsewhere goes out by the pod's own interface.
        wait::until("the world answers", SOON, || {
            pod.pings(&netns::OUTSIDE.to_string())
        });
        let route = json(&pod.net, &["-4", "route", "get", "198.51.100.2"]);
        assert_eq!(route[0]["dev"], "eth0");

        let peers = pod.weft("show peers --json").ok();
        let peers: Value = serde_json::from_str(&peers).unwrap();
        assert_eq!(peers.as_array().map(Vec::len), Some(1), "{peers}");
        assert_eq!(peers[0]["networks"], serde_json::json!(["web"]));

        // The one that serves has nothing; its broker has the one capability, and nobody can get more.
        let pid = pod.pid().to_string();
        assert_eq!(rights(&pid, "CapEff"), (0, "1".to_owned()));
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let broker = children.split_whitespace().next().unwrap();
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(rights(broker, set).0, 1 << 12, "{set}");
        }

        assert_eq!(pod.signal(Signal::SIGTERM).status, 0);
        assert!(!pod.interfaces().contains(&"weft0".to_owned()));
        assert_eq!(pod.picture(), before);
    });
}

#[test]
fn what_is_missing_or_wrong_is_one_line() {
    netns::inside(|world| {
        let (daemon, _db) = other_host(world);
        let mut pod = Pod::new(world);
        let before = pod.picture();
        let invite = invite(&daemon, pod.dir.path());
        let fine = format!("--peer {invite} --name app");
        for (less, options, words) in [
            ("", "", &["--peer"][..]),
            ("", "--peer web", &["not an invite"]),
            ("", "--peer /no/such", &["/no/such"]),
            ("", &format!("{fine} --network mail"), &["'mail'", "web"]),
            ("", &format!("{fine} --ip 10.9.0.1"), &["10.9.0.1"]),
            ("", &format!("{fine} --ifname eth0"), &["eth0", "already"]),
            ("", &format!("{fine} --mtu 9000"), &["mtu 9000"]),
            ("", &format!("{fine} --workers 0"), &["workers"]),
            (
                "setpriv --ambient-caps=-all --inh-caps=-all --",
                &fine,
                &["NET_ADMIN"],
            ),
        ] {
            pod.sidecar(less, options);
            pod.end().refused(words);
            assert_eq!(
                pod.interfaces().len(),
                2,
                "{options}: {:?}",
                pod.interfaces()
            );
        }
        assert_eq!(pod.picture(), before);
        // An ordinary daemon has no sandbox at home, whoever asks.
        let home = daemon.weft("endpoint connect web /proc/self/ns/net --name me");
        home.refused(&["host's own network"]);
    });
}
