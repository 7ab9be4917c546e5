//! Death and return: what stays, what goes on, what is reset.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::daemon::{Daemon, EVERYBODY, Who};
use crate::support::netns::{self, HOST, OUTSIDE};
use crate::support::wait::{self, SOON};
use crate::support::weft::Running;
use crate::support::{guest, servers};

const FRONT: &str = "network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64";
const BACK: &str = "network create back --subnet 10.8.0.0/24 --subnet6 fd08::/64";

/// The endpoints, as they were made.
fn leases(daemon: &Daemon<'_>) -> Value {
    daemon.json("endpoint ls")
}

#[test]
fn after_a_kill_everything_is_as_it_was() {
    netns::inside(|world| {
        for who in EVERYBODY {
            let mut daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            daemon.ok(BACK);
            let a = daemon.connected("a", &["front", "back"]);
            let b = daemon.connected("b", &["front"]);
            servers::http(&a.net, (IpAddr::from([10, 7, 0, 2]), 80));
            daemon.ok("publish add a 8080:80 8081:80");
            let echo = |stream: std::net::TcpStream| {
                let mut copy = stream.try_clone()?;
                std::io::copy(&mut &stream, &mut copy).map(|_| ())
            };
            let near = servers::tcp(&b.net, (IpAddr::from([10, 7, 0, 3]), 7), move |s, _| {
                echo(s)
            });
            let far = servers::tcp(&world.outside, (OUTSIDE, 0), move |s, _| echo(s));
            let mut local = guest::connect(&a.net, near).unwrap();
            let mut translated = guest::connect(&a.net, far).unwrap();
            for stream in [&mut local, &mut translated] {
                stream.write_all(b"before").unwrap();
                stream.read_exact(&mut [0; 6]).unwrap();
            }
            let (picture, state) = (a.picture(), leases(&daemon));

            daemon.kill();
            assert_eq!(a.interfaces(), ["eth0", "eth1"], "{who:?}");
            // Somebody takes a port meanwhile.
            let holder = world.host.enter(|| TcpListener::bind(("0.0.0.0", 8081)));
            let holder = holder.unwrap();
            local.write_all(b"while it is away").unwrap();
            daemon.start(&[]);

            wait::settled("links, addresses and routes", &picture, SOON, || {
                a.picture()
            });
            assert_eq!(leases(&daemon), state, "{who:?}");
            local.read_exact(&mut [0; 16]).unwrap();
            local.write_all(b"after").unwrap();
            local.read_exact(&mut [0; 5]).unwrap();
            translated.write_all(b"after").unwrap();
            let error = translated.read(&mut [0; 6]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{who:?}");
            guest::fetch(&world.outside, (IpAddr::from(HOST), 8080).into());
            let told = daemon.json("show daemon").to_string();
            assert!(told.contains("8081"), "{told}");
            let rules = daemon.json("publish ls");
            assert_eq!(rules.as_array().unwrap().len(), 2);
            assert!(rules[1]["failed"][0]["message"].is_string(), "{rules}");
            drop(holder);

            // No lease is given twice.
            let c = daemon.connected("c", &["front"]);
            assert!(c.pings("10.7.0.2") && c.pings("10.7.0.3"));
            assert_eq!(leases(&daemon)[3]["v4"], "10.7.0.4", "{}", leases(&daemon));
        }
    });
}

#[test]
fn a_namespace_that_has_a_file_is_kept_until_the_file_goes() {
    netns::inside(|world| {
        for who in EVERYBODY {
            let mut daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            let a = daemon.sandbox();
            let b = daemon.connected("b", &["front"]);
            let file = daemon.dir().join("a");
            a.pin(&file);
            let at = file.display();
            daemon.ok(&format!("endpoint connect front netns:{at} --ip 10.7.0.9"));
            daemon.kill();
            daemon.start(&[]);
            assert!(b.pings("10.7.0.9"), "{who:?}");
            // Nothing of weft's keeps it busy.
            let unpinned = Command::new("umount").arg("-n").arg(&file).status();
            assert!(unpinned.unwrap().success());
            fs::remove_file(&file).unwrap();
            wait::until("its endpoint is gone", SOON, || {
                leases(&daemon).as_array().unwrap().len() == 1
            });
            wait::until("its interface is gone", SOON, || a.interfaces().is_empty());
        }
    });
}

#[test]
fn a_clean_stop_leaves_nothing_inside_and_all_comes_back() {
    netns::inside(|world| {
        for who in EVERYBODY {
            let mut daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            let a = daemon.connected("a", &["front"]);
            let b = daemon.connected("b", &["front"]);
            let state = leases(&daemon);
            for signal in [None, Some(Signal::SIGTERM), Some(Signal::SIGINT)] {
                let mut process = daemon.process();
                match signal {
                    None => drop(daemon.ok("down")),
                    // The user's daemon stands behind nsenter, which has become it.
                    Some(signal) => process.signal(signal),
                }
                let ended = process.end(SOON);
                assert_eq!(ended.status, 0, "{who:?} {signal:?} {ended:?}");
                assert_eq!(a.interfaces(), Vec::<String>::new(), "{who:?} {signal:?}");
                assert!(!daemon.socket().exists());
                daemon.weft("network ls").refused(&["weft up"]);
                daemon.start(&[]);
                let ids = |v: &Value| v.to_string();
                assert_eq!(ids(&leases(&daemon)), ids(&state), "{who:?}");
                assert!(a.pings("10.7.0.3") && b.pings("fd07::2"), "{who:?}");
            }
        }
    });
}

#[test]
fn a_second_one_says_so() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        daemon.launch(&[]).end(SOON).refused(&["another weft"]);
        // The store has one master, whatever the socket.
        let store = daemon.store();
        let other = daemon.dir().join("other.sock");
        let words = [
            "up",
            "--store",
            store.to_str().unwrap(),
            "--socket",
            other.to_str().unwrap(),
        ];
        world.weft(&words).refused(&["weft.redb"]);
        daemon.ok("network inspect front");
    });
}

#[test]
fn a_store_that_is_torn_or_alien_is_refused_and_left() {
    netns::inside(|world| {
        let mut daemon = Daemon::root(world);
        daemon.ok(FRONT);
        daemon.ok("down");
        daemon.process().end(SOON).ok();
        let whole = fs::read(daemon.store()).unwrap();
        let torn = whole[..whole.len() / 2].to_vec();
        let mut bent = whole.clone();
        bent[..64].fill(0x55);
        let alien = b"SQLite format 3\0".repeat(1024);
        for bytes in [torn, bent, alien, b"x".to_vec()] {
            fs::write(daemon.store(), &bytes).unwrap();
            daemon.launch(&[]).end(SOON).refused(&["weft.redb"]);
            assert!(
                fs::read(daemon.store()).unwrap() == bytes,
                "it was overwritten"
            );
        }
        fs::write(daemon.store(), &whole).unwrap();
        daemon.start(&[]);
        daemon.ok("network inspect front");
    });
}

#[test]
fn another_process_with_the_same_id_is_not_taken_for_the_sandbox() {
    netns::inside(|world| {
        let mut daemon = Daemon::new(world, Who::Root);
        daemon.start(&[]);
        daemon.ok(FRONT);
        let a = daemon.connected("a", &["front"]);
        let b = daemon.connected("b", &["front"]);
        let pid = a.pid;
        daemon.kill();
        a.end();
        // The next process of the namespace gets the number that follows the last one.
        let script = "import os, sys, time
for _ in range(100):
    open('/proc/sys/kernel/ns_last_pid', 'w').write(str(int(sys.argv[1]) - 1))
    pid = os.fork()
    if pid == 0:
        time.sleep(120)
    if pid == int(sys.argv[1]):
        print('there', flush=True)
        os.wait()
    os.kill(pid, 9)
    os.wait()
";
        let stranger = {
            let mut command = Command::new("python3");
            Running::start(&world.host, command.args(["-c", script, &pid.to_string()]))
        };
        wait::until("another process has its id", SOON, || {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|c| c.contains("ns_last_pid"))
        });
        daemon.start(&[]);
        let rows = leases(&daemon);
        assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
        let told = daemon.json("show daemon").to_string();
        assert!(told.contains("'a' has ended"), "{told}");
        assert!(b.pings("10.7.0.1"));
        drop(stranger);
    });
}
