//! Packet endpoints of the daemon: the same as a TAP, for those who may not have one.

use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::daemon::{Daemon, EVERYBODY, Place};
use crate::support::guest::Pattern;
use crate::support::netns::{self, OUTSIDE, OUTSIDE6};
use crate::support::wait::{self, SOON};
use crate::support::weft::Running;
use crate::support::{guest, servers};

const FRONT: &str = "network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64";
/// Their addresses, in the order in which they come.
const A: [&str; 2] = ["10.7.0.2", "fd07::2"];
const B: [&str; 2] = ["10.7.0.3", "fd07::3"];

/// A sandbox on `front` with a packet endpoint.
#[track_caller]
fn packet(daemon: &Daemon<'_>, name: &str) -> Place {
    let place = daemon.sandbox();
    let pid = place.pid;
    daemon.ok(&format!(
        "endpoint connect front {pid} --name {name} --kind packet"
    ));
    place
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Frames that were dropped for any reason.
fn drops(daemon: &Daemon<'_>) -> Value {
    daemon.json("show drops")
}

#[test]
fn a_packet_endpoint_meets_a_tap_and_the_outside() {
    netns::inside(|world| {
        let outside = [OUTSIDE.into(), OUTSIDE6.into()]
            .map(|ip: IpAddr| servers::http(&world.outside, (ip, 0)));
        for who in EVERYBODY {
            let daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            let a = packet(&daemon, "a");
            let b = daemon.connected("b", &["front"]);
            let c = packet(&daemon, "c");
            let rows = daemon.json("endpoint ls");
            assert_eq!(rows[0]["kind"], "packet", "{rows}");
            assert_eq!(rows[1]["kind"], "tap", "{rows}");
            for (from, to) in [(&a, B), (&b, A), (&a, ["10.7.0.4", "fd07::4"]), (&c, A)] {
                for to in to {
                    assert!(from.pings(to), "{who:?} {to}");
                    // Datagrams of more than a frame.
                    let long = from.sh(&format!("ping -n -c 1 -W 15 -s 20000 {to}"));
                    assert_eq!(long.status, 0, "{who:?} {to} {long:?}");
                }
            }
            for (near, far, to) in [(&a, &b, B), (&b, &a, A)] {
                for to in to.map(ip) {
                    let (echo, _) = servers::udp_echo(&far.net, (to, 0));
                    let socket = guest::udp(&near.net, to, Duration::from_secs(5));
                    for len in [1, 1400, 9000] {
                        let data = vec![7; len];
                        assert!(
                            guest::ask(&socket, echo, &data) == data,
                            "{who:?} {to} {len}"
                        );
                    }
                }
            }
            for page in outside {
                guest::fetch(&a.net, page);
            }
        }
    });
}

#[test]
fn bytes_between_a_packet_endpoint_and_a_tap_are_exact() {
    netns::inside(|world| {
        const LEN: usize = 64 << 20;
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let a = packet(&daemon, "a");
        let b = daemon.connected("b", &["front"]);
        let c = packet(&daemon, "c");
        let ways = [(&a, &b, B[0]), (&b, &a, A[1]), (&a, &c, "fd07::4")];
        for (near, far, to) in ways {
            let to = servers::tcp(&far.net, (ip(to), 0), |mut stream, _| {
                Pattern::new(3).expect(&mut stream, LEN)?;
                Pattern::new(4).send(&mut stream, LEN)
            });
            let mut stream = guest::connect(&near.net, to).unwrap();
            Pattern::new(3).send(&mut stream, LEN).unwrap();
            Pattern::new(4).expect(&mut stream, LEN).unwrap();
            guest::expect_end(&mut stream);
        }
        let shown = drops(&daemon);
        let failed = shown.as_array().unwrap().iter();
        let failed: Vec<_> = failed.filter(|r| r["reason"] == "bad-offload").collect();
        assert_eq!(failed, Vec::<&Value>::new());
    });
}

#[test]
fn a_pair_stays_over_a_kill_and_a_clean_stop_takes_it_away() {
    netns::inside(|world| {
        for who in EVERYBODY {
            let mut daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            let a = packet(&daemon, "a");
            let b = daemon.connected("b", &["front"]);
            let to = servers::tcp(&b.net, (ip(B[0]), 0), |mut stream, _| {
                Pattern::new(1).expect(&mut stream, 8000)?;
                Pattern::new(2).send(&mut stream, 8000)
            });
            let mut stream = guest::connect(&a.net, to).unwrap();
            let mut pattern = Pattern::new(1);
            pattern.send(&mut stream, 4000).unwrap();
            let (picture, state) = (a.picture(), daemon.json("endpoint ls"));
            daemon.kill();
            assert_eq!(a.interfaces().len(), 2, "{who:?}");
            daemon.start(&[]);
            wait::settled("links, addresses and routes", &picture, SOON, || {
                a.picture()
            });
            assert_eq!(daemon.json("endpoint ls"), state, "{who:?}");
            pattern.send(&mut stream, 4000).unwrap();
            Pattern::new(2).expect(&mut stream, 8000).unwrap();

            daemon.ok("down");
            daemon.process().end(SOON).ok();
            assert_eq!(a.interfaces(), Vec::<String>::new(), "{who:?}");
            daemon.start(&[]);
            assert!(a.pings(B[0]) && b.pings(A[1]), "{who:?}");
            daemon.ok("endpoint disconnect front a");
            assert_eq!(a.interfaces(), Vec::<String>::new(), "{who:?}");
        }
    });
}

#[test]
fn a_pair_that_is_down_comes_back_and_one_that_is_removed_is_told() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let a = daemon.sandbox();
        let connect = format!(
            "endpoint connect front {} --name a --ip 10.7.0.2 --mac 02:00:00:00:00:0a --kind packet",
            a.pid
        );
        daemon.ok(&connect);
        let b = daemon.connected("b", &["front"]);
        let far = a.interfaces().into_iter().find(|n| n != "eth0").unwrap();
        a.net.ip(&format!("link set {far} down"));
        assert!(!b.pings_at_once(A[0]));
        let told = daemon.json("show daemon").to_string();
        assert!(!told.contains("removed"), "{told}");
        a.net.ip(&format!("link set {far} up"));
        wait::until("it answers again", SOON, || b.pings_at_once(A[0]));
        a.net.ip("link del eth0");
        wait::until("it is told", SOON, || {
            let told = daemon.json("show daemon").to_string();
            told.contains("'a': its interface eth0 was removed")
        });
        daemon.ok("endpoint disconnect front a");
        daemon.ok(&connect);
        assert!(b.pings(A[0]));
    });
}

/// What no worker reads in time is dropped, and told by everything that tells of drops.
#[test]
fn what_a_sandbox_sends_to_nobody_is_counted() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let a = packet(&daemon, "a");
        let b = daemon.connected("b", &["front"]);
        assert!(a.pings(B[0]) && b.pings(A[0]));
        assert_eq!(daemon.drops("rx-overrun"), 0);
        let pid = daemon.json("show daemon")["pid"].as_i64().unwrap();
        let still = Still::make(i32::try_from(pid).unwrap());
        let sent = flood(&a, 1000);
        drop(still);
        wait::until("they are counted", SOON, || daemon.drops("rx-overrun") > 0);
        a.flushed(B[0]);
        let lost = daemon.drops("rx-overrun");
        assert!(lost < sent, "some were kept: {lost} of {sent}");
        let stats = daemon.json("show stats");
        let dropped = |n: usize| stats[n]["dropped"].as_u64().unwrap();
        assert!(dropped(0) >= lost && dropped(1) < lost, "{stats}");
        let mut curl = daemon.shell("curl");
        curl.arg("-s").arg("--unix-socket").arg(daemon.socket());
        let metrics = Running::start(&world.host, curl.arg("http://weft/metrics")).end(SOON);
        let line = format!("weft_dropped_frames_total{{reason=\"rx-overrun\"}} {lost}\n");
        assert!(metrics.stdout.contains(&line), "{metrics:?}");
        // What the network has counted stays when the endpoint goes.
        daemon.ok("endpoint disconnect front a");
        assert_eq!(daemon.drops("rx-overrun"), lost);
    });
}

/// A process that stands still, until the value goes.
struct Still(Pid);

impl Still {
    /// Stops every thread of it, which they do not do at once.
    #[track_caller]
    fn make(pid: i32) -> Self {
        let still = Self(Pid::from_raw(pid));
        kill(still.0, Signal::SIGSTOP).unwrap();
        wait::until("it stands still", SOON, || {
            let mut tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            tasks.all(|task| {
                let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
                stat.rsplit_once(") ").unwrap().1.starts_with('T')
            })
        });
        still
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        // It may have been killed.
        let _gone = kill(self.0, Signal::SIGCONT);
    }
}

/// Sends to `b` from a packet endpoint until this many datagrams have come to weft's end of the pair: a busy kernel passes
/// them on later than they were sent. Gives how many were sent.
#[track_caller]
fn flood(from: &Place, wanted: u64) -> u64 {
    let far = from.interfaces().into_iter().find(|n| n != "eth0").unwrap();
    let (witness, far) = from.net.enter(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let every = SockProtocol::EthAll;
        let witness = socket(AddressFamily::Packet, SockType::Raw, flags, every).unwrap();
        let patience = TimeVal::milliseconds(100);
        setsockopt(&witness, sockopt::ReceiveTimeout, &patience).unwrap();
        (witness, if_nametoindex(far.as_str()).unwrap() as usize)
    });
    let hears = || match recvfrom::<LinkAddr>(witness.as_raw_fd(), &mut [0; 2048]) {
        Ok((_, from)) => Some(from.unwrap().ifindex() == far),
        Err(error) => {
            assert_eq!(error, Errno::EAGAIN);
            None
        }
    };
    let socket = guest::udp(&from.net, ip(B[0]), SOON);
    let (mut sent, mut came) = (0, 0);
    wait::until("they have come", SOON, || {
        for _ in 0..100 {
            socket.send_to(&[0; 64], (B[0], 99)).unwrap();
        }
        sent += 100;
        while came < sent
            && let Some(there) = hears()
        {
            came += u64::from(there);
        }
        came >= wanted
    });
    sent
}

#[test]
fn a_pair_goes_with_the_file_of_its_namespace() {
    netns::inside(|world| {
        for who in EVERYBODY {
            let daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            let a = daemon.sandbox();
            let file = daemon.dir().join("a");
            a.pin(&file);
            let at = file.display();
            daemon.ok(&format!("endpoint connect front netns:{at} --kind packet"));
            assert_eq!(a.interfaces().len(), 2);
            let unpinned = Command::new("umount").arg("-nl").arg(&file).status();
            assert!(unpinned.unwrap().success());
            std::fs::remove_file(&file).unwrap();
            wait::until("its interfaces are gone", SOON, || {
                a.interfaces().is_empty()
            });
            assert_eq!(daemon.json("endpoint ls"), Value::Array(Vec::new()));
        }
    });
}

#[test]
fn a_file_declares_the_kind() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let a = daemon.sandbox();
        let pinned = daemon.dir().join("a");
        a.pin(&pinned);
        let file = daemon.dir().join("weft.toml");
        let network = "[[network]]\nname = \"front\"\nsubnet = \"10.7.0.0/24\"\n";
        let endpoint = format!(
            "[[endpoint]]\nnetwork = \"front\"\nsandbox = \"netns:{}\"\nkind = \"packet\"\n",
            pinned.display()
        );
        std::fs::write(&file, format!("{network}\n{endpoint}")).unwrap();
        daemon.ok(&format!("apply {}", file.display()));
        assert_eq!(daemon.json("endpoint ls")[0]["kind"], "packet");
        assert_eq!(a.interfaces().len(), 2);
        assert!(a.pings("10.7.0.1"));
    });
}

#[test]
fn two_workers_share_packet_endpoints_and_taps() {
    const LEN: usize = 4 << 20;
    netns::inside(|world| {
        for who in EVERYBODY {
            let mut daemon = Daemon::new(world, who);
            daemon.start(&["--workers", "2"]);
            daemon.ok(FRONT);
            // They belong to the workers in turn.
            let (a, b) = (packet(&daemon, "a"), packet(&daemon, "b"));
            let (c, d) = (daemon.connected("c", &["front"]), packet(&daemon, "d"));
            let all = [
                (&a, "10.7.0.2"),
                (&b, "10.7.0.3"),
                (&c, "10.7.0.4"),
                (&d, "10.7.0.5"),
            ];
            for (near, _) in all {
                for (_, to) in all {
                    assert!(near.pings(to), "{who:?} {to}");
                }
            }
            let ways = [(&a, &b, all[1].1), (&b, &c, all[2].1), (&d, &a, all[0].1)];
            std::thread::scope(|threads| {
                for (near, far, to) in ways {
                    threads.spawn(move || {
                        let to = servers::tcp(&far.net, (ip(to), 0), |mut stream, _| {
                            Pattern::new(5).expect(&mut stream, LEN)?;
                            Pattern::new(6).send(&mut stream, LEN)
                        });
                        let mut stream = guest::connect(&near.net, to).unwrap();
                        Pattern::new(5).send(&mut stream, LEN).unwrap();
                        Pattern::new(6).expect(&mut stream, LEN).unwrap();
                        guest::expect_end(&mut stream);
                    });
                }
            });
        }
    });
}

/// What a sandbox does to its pair is its own loss.
#[test]
fn other_mtus_inside_harm_nobody_else() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let a = packet(&daemon, "a");
        let b = packet(&daemon, "b");
        let c = daemon.connected("c", &["front"]);
        let far = a.interfaces().into_iter().find(|n| n != "eth0").unwrap();
        let ping = |wait: u32, from: &Place, len: u32, to: &str| {
            let line = format!("ping -n -c 1 -W {wait} -M do -s {len} {to}");
            from.sh(&line).status == 0
        };
        let long = |from: &Place, len, to: &str| ping(15, from, len, to);
        let lost = |from: &Place, len, to: &str| !ping(1, from, len, to);
        assert!(long(&a, 1472, B[0]) && long(&b, 1472, A[0]));
        // Frames longer than the network's are taken from the pair, and dropped.
        a.net.ip(&format!("link set {far} mtu 9000"));
        a.net.ip("link set eth0 mtu 9000");
        let before = daemon.drops("too-big");
        assert!(lost(&a, 8000, B[0]));
        wait::until("it is counted", SOON, || daemon.drops("too-big") > before);
        assert!(long(&a, 1472, B[0]) && long(&b, 1472, A[0]));
        // Frames that the other end refuses are dropped and counted.
        a.net.ip(&format!("link set {far} mtu 100"));
        let before = daemon.json("show stats")[0]["dropped"].as_u64().unwrap();
        assert!(lost(&b, 1472, A[0]));
        wait::until("they are counted", SOON, || {
            daemon.json("show stats")[0]["dropped"].as_u64() > Some(before)
        });
        assert!(a.pings(B[0]));
        a.net.ip(&format!("link set {far} mtu 1500"));
        a.net.ip("link set eth0 mtu 1000");
        assert!(lost(&b, 1472, A[0]) && long(&b, 900, A[0]) && a.pings(B[0]));
        a.net.ip("link set eth0 mtu 1500");
        assert!(long(&a, 1472, B[0]) && long(&b, 1472, A[0]));
        assert!(long(&b, 1472, "10.7.0.4") && c.pings(B[0]));
    });
}

/// The end that weft has may be taken away by who is root inside.
#[test]
fn an_end_that_is_moved_elsewhere_is_told() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let (a, b) = (packet(&daemon, "a"), packet(&daemon, "b"));
        let elsewhere = daemon.sandbox();
        assert!(a.pings(B[0]));
        let far = a.interfaces().into_iter().find(|n| n != "eth0").unwrap();
        a.net.ip(&format!("link set {far} netns {}", elsewhere.pid));
        wait::until("it is told", SOON, || {
            let told = daemon.json("show daemon").to_string();
            told.contains("'a': its interface eth0 was removed")
        });
        assert!(b.pings("10.7.0.1"));
        daemon.ok("endpoint disconnect front a");
        assert!(a.interfaces().is_empty() && elsewhere.interfaces().is_empty());
        daemon.ok(&format!(
            "endpoint connect front {} --name a --kind packet",
            a.pid
        ));
        assert!(a.pings(B[0]));
    });
}
