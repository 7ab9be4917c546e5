//! The broker against the kernel, as root and as an ordinary user.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{self, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag};
use nix::unistd::geteuid;

use super::super::fleet::PortAt;
use super::super::testing::{again, alone, event, run, sh, spec, wait_until};
use super::*;

#[test]
fn a_command_finds_its_network_ready() {
    alone(|| {
        let script = "set -ex
            test $(id -u) = 0
            test $(hostname) = box; test $(cat /etc/hostname) = box
            grep -q 'nameserver 10.87.9.1' /etc/resolv.conf
            grep -q 'search weft.example' /etc/resolv.conf
            grep -q '10.87.9.2.*box' /etc/hosts
            test -e /etc/passwd
            echo x > /etc/weft-test-file && test ! -e /etc/upper
            test $$ -lt 10 && test -d /proc/$$ && test -e /proc/self/exe
            test $(cat /sys/class/net/eth0/mtu) = 1400
            test $(cat /sys/class/net/eth0/address) = 02:00:00:00:00:07
            ip -4 addr show eth0 | grep 10.87.9.2/24
            ip -6 addr show eth0 | grep fd87::2/64 && ! ip -6 addr show eth0 | grep tentative
            ip route | grep 'default via 10.87.9.1'
            ip -6 route | grep 'default via fd87::1'
            ip addr show lo | grep 127.0.0.1
            grep '^0\t' /proc/sys/net/ipv4/ping_group_range
            exit 7";
        let mac = switch_core::addr::Mac([2, 0, 0, 0, 0, 7]);
        assert_eq!(
            run(
                &SandboxSpec {
                    mtu: 1400,
                    mac,
                    ..spec()
                },
                script
            ),
            7
        );
        assert!(!std::path::Path::new("/etc/weft-test-file").exists());
    });
}

#[test]
fn the_tap_comes_with_its_offloads_and_is_quiet() {
    alone(|| {
        let mut broker = Broker::spawn().unwrap();
        let tap = broker.create(&spec()).unwrap().opened.unwrap();
        assert!(
            tap.how.vnet && tap.how.caps.csum && tap.how.caps.tso,
            "{:?}",
            tap.how
        );
        std::thread::sleep(Duration::from_millis(300));
        let mut file = fs::File::from(tap.fd);
        let mut frame = vec![0; 70_000];
        while let Ok(len) = file.read(&mut frame) {
            // Behind the 12-byte header: IPv6, ICMPv6 (or hop-by-hop and MLD), type 133 is a router solicitation.
            let frame = &frame[12..len];
            assert!(!(frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 133));
        }
        assert_eq!(broker.sandbox_sockets(false, 5).unwrap().len(), 5);
        assert_eq!(broker.sandbox_sockets(true, 1).unwrap().len(), 1);
        // Asked for without waiting, they come between other answers and events, in order.
        broker.want_sockets(true, 3).unwrap();
        broker.want_sockets(true, 9).unwrap();
        broker.want_sockets(false, 2).unwrap();
        assert!(broker.next_sockets().is_none());
        assert_eq!(broker.sandbox_sockets(false, 4).unwrap().len(), 4);
        for expected in [(true, 3), (false, 2)] {
            let (v6, sockets) = broker.next_sockets().unwrap();
            assert_eq!((v6, sockets.unwrap().len()), expected);
        }
        broker.want_sockets(true, 6).unwrap();
        wait_until("the sockets come", || {
            assert_eq!(broker.next_event(), None);
            let came = broker.next_sockets();
            came.is_some_and(|(v6, sockets)| v6 && sockets.unwrap().len() == 6)
        });
        let plain = SandboxSpec {
            vnet: false,
            ..spec()
        };
        drop(broker);
        let mut broker = Broker::spawn().unwrap();
        let tap = broker.create(&plain).unwrap().opened.unwrap();
        assert!(!tap.how.vnet && tap.how.caps == crate::endpoint::Caps::default());
    });
}

#[test]
fn commands_that_cannot_run_have_their_status() {
    alone(|| {
        let mut broker = Broker::spawn().unwrap();
        broker.create(&spec()).unwrap();
        for (program, status) in [
            ("no-such-command-here", 127),
            ("/no/such/file", 127),
            ("/etc/passwd", 126),
            ("/", 126),
        ] {
            let command = Command {
                argv: vec![program.into()],
            };
            let error = broker.start(&command).unwrap_err();
            let failure = error.downcast_ref::<Failure>().unwrap();
            assert_eq!(failure.status, status, "{failure}");
            assert!(failure.message.starts_with(program), "{failure}");
        }
        broker.start(&sh("exit 3")).unwrap();
        assert_eq!(event(&mut broker), Event::Exited(3));
    });
}

#[test]
fn signals_reach_the_command_and_end_it() {
    alone(|| {
        let mut broker = Broker::spawn().unwrap();
        broker.create(&spec()).unwrap();
        let started = broker
            .start(&sh("trap 'exit 9' USR1; while :; do sleep 0.05; done"))
            .unwrap();
        wait_until("its trap is set", || {
            let status = fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
            let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
            let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
            caught & 1 << (libc::SIGUSR1 - 1) != 0
        });
        broker.signal(libc::SIGUSR1).unwrap();
        assert_eq!(event(&mut broker), Event::Exited(9));
        let started = broker
            .start(&Command {
                argv: vec!["sleep".into(), "60".into()],
            })
            .unwrap();
        let name = fs::read_to_string(format!("/proc/{}/comm", started.pid)).unwrap();
        assert_eq!(name, "sleep\n");
        broker.signal(libc::SIGTERM).unwrap();
        assert_eq!(event(&mut broker), Event::Exited(128 + 15));
        assert!(broker.signal(4000).is_err());
    });
}

/// Processes whose command line ends in `sleep MARK`.
fn sleepers(mark: &str) -> usize {
    let wanted = format!("sleep\0{mark}\0");
    let tasks = fs::read_dir("/proc").unwrap().flatten();
    tasks
        .filter(|task| {
            fs::read(task.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes())
        })
        .count()
}

#[test]
fn what_the_command_leaves_behind_ends_with_it() {
    alone(|| {
        let mark = format!("{}.7", 40_000 + process::id());
        let script = format!("setsid sleep {mark} & sleep {mark} & sleep 0.2; exit 4");
        assert_eq!(run(&spec(), &script), 4);
        assert_eq!(sleepers(&mark), 0);
    });
}

#[test]
fn nothing_outlives_a_killed_weft() {
    const CHILD: &str = "WEFT_TEST_KILLED";
    alone(|| {
        if let Ok(mark) = std::env::var(CHILD) {
            let mut broker = Broker::spawn().unwrap();
            broker.create(&spec()).unwrap();
            broker
                .start(&sh(&format!("setsid sleep {mark} & sleep {mark}")))
                .unwrap();
            io::Write::write_all(
                &mut io::stdout(),
                format!("\nup {} {}\n", process::id(), broker.pid).as_bytes(),
            )
            .unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
        let mark = format!("{}.8", 40_000 + process::id());
        let mut weft = again(None)
            .env(CHILD, &mark)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(weft.stdout.take().unwrap()).lines();
        let line = lines
            .map(Result::unwrap)
            .find(|line| line.starts_with("up "))
            .unwrap();
        let pids: Vec<i32> = line
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        wait_until("the sleepers start", || sleepers(&mark) == 2);
        kill(Pid::from_raw(pids[0]), Signal::SIGKILL).unwrap();
        weft.wait().unwrap();
        wait_until("the sleepers end", || sleepers(&mark) == 0);
        wait_until("the broker ends", || {
            fs::read_to_string(format!("/proc/{}/stat", pids[1]))
                .map_or(true, |s| s.contains(") Z "))
        });
    });
}

#[test]
fn a_namespace_that_exists_is_joined_and_its_end_told() {
    alone(|| {
        let mut other = process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sleep", "50"])
            .spawn()
            .unwrap();
        let pid = i32::try_from(other.id()).unwrap();
        wait_until("unshare is through", || {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
        });
        let mut broker = Broker::spawn().unwrap();
        let tap = broker
            .attach(&Target::Pid(pid), &spec())
            .unwrap()
            .opened
            .unwrap();
        assert!(tap.how.caps.tso);
        let links = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
        assert!(links.contains("eth0:"), "{links}");

        let mut second = Broker::spawn().unwrap();
        let error = second
            .attach(&Target::Pid(pid), &spec())
            .unwrap_err()
            .to_string();
        assert!(error.contains("exists already"), "{error}");
        let path = Target::Path(format!("/proc/{pid}/ns/net").into());
        let other_name = SandboxSpec {
            ifname: "eth1".to_owned(),
            v4: None,
            v6: None,
            ..spec()
        };
        second.attach(&path, &other_name).unwrap();

        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(event(&mut broker), Event::Ended);
    });
}

#[test]
fn another_users_namespace_is_refused_in_one_line() {
    alone(|| {
        if geteuid().is_root() {
            return;
        }
        let mut broker = Broker::spawn().unwrap();
        let error = broker
            .attach(&Target::Pid(1), &spec())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("another user") && !error.contains('\n'),
            "{error}"
        );
    });
}

#[test]
fn ports_are_bound_and_conflicts_named() {
    alone(|| {
        let mut broker = Broker::spawn().unwrap();
        let tcp = |addr| Port::Tcp(PortAt::One(addr));
        let fd = broker
            .bind_port(tcp("127.0.0.1:0".parse().unwrap()))
            .unwrap();
        let listener = std::net::TcpListener::from(fd);
        let taken = listener.local_addr().unwrap();
        let error = broker.bind_port(tcp(taken)).unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.errno, Some(libc::EADDRINUSE), "{failure}");
        assert_eq!(failure.status, 125);
        drop(listener);
        let udp = Port::Udp(PortAt::One("[::1]:0".parse().unwrap()));
        broker.bind_port(udp).unwrap();
        let raw = broker.raw_icmp(false);
        assert_eq!(raw.is_ok(), geteuid().is_root());
    });
}

#[test]
fn the_other_kinds_of_network() {
    alone(|| {
        let none = SandboxSpec {
            network: Network::None,
            dns: vec![],
            ..spec()
        };
        let alone = "test $(ls /sys/class/net | wc -l) = 1 && ip addr show lo | grep -q 127.0.0.1";
        assert_eq!(run(&none, alone), 0);
        let host = SandboxSpec {
            network: Network::Host,
            ..spec()
        };
        let links = fs::read_dir("/sys/class/net").unwrap().count();
        assert_eq!(
            run(
                &host,
                &format!("test $(ls /sys/class/net | wc -l) = {links}")
            ),
            0
        );
        let own = geteuid();
        let kept = SandboxSpec {
            keep_id: true,
            ..spec()
        };
        assert_eq!(run(&kept, &format!("test $(id -u) = {own}")), 0);
    });
}

#[test]
fn an_interactive_shell_has_job_control() {
    const CHILD: &str = "WEFT_TEST_SHELL";
    alone(|| {
        if std::env::var_os(CHILD).is_some() {
            let mut broker = Broker::spawn().unwrap();
            let _sandbox = broker.create(&spec()).unwrap();
            let argv = ["bash", "--norc", "--noprofile", "-i"]
                .map(Into::into)
                .to_vec();
            broker.start(&Command { argv }).unwrap();
            assert_eq!(event(&mut broker), Event::Exited(5));
            let holder = nix::unistd::tcgetpgrp(io::stdin()).unwrap();
            assert_eq!(holder, nix::unistd::getpgrp());
            return;
        }
        let test = std::env::current_exe().unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        let line = format!(
            "{} {name} --exact --nocapture --test-threads=1",
            test.display()
        );
        let mut script = process::Command::new("script")
            .args(["-qefc", &line, "/dev/null"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keys = script.stdin.take().unwrap();
        let mut types = |text: &str| io::Write::write_all(&mut keys, text.as_bytes()).unwrap();
        let mut screen = script.stdout.take().unwrap();
        nix::fcntl::fcntl(&screen, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut text = String::new();
        let mut shows = |what: &str| {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut piece) {
                text.push_str(&String::from_utf8_lossy(&piece[..n]));
            }
            text.contains(what)
        };
        let mark = |n: u32| format!("{}.{n}", 40_000 + process::id());
        // What is typed is shown as well, but not so.
        types("echo it is re''ady\n");
        wait_until("the shell reads", || shows("it is ready"));
        // Control-Z stops the job and not the shell; control-C ends the next one and not the shell.
        types(&format!("sleep {}\n", mark(1)));
        wait_until("a job runs", || sleepers(&mark(1)) == 1);
        types("\u{1a}");
        wait_until("it is stopped", || shows("Stopped"));
        types("jobs; kill %1\n");
        wait_until("it is ended", || sleepers(&mark(1)) == 0);
        types(&format!("sleep {}\n", mark(2)));
        wait_until("the next one runs", || sleepers(&mark(2)) == 1);
        types("\u{3}");
        wait_until("it is interrupted", || sleepers(&mark(2)) == 0);
        types("exit 5\n");
        let mut status = None;
        wait_until("the shell ends", || {
            shows("");
            status = script.try_wait().unwrap();
            status.is_some()
        });
        shows("");
        assert!(status.unwrap().success(), "{text}");
        assert!(text.contains("Stopped"), "{text}");
        assert!(!text.contains("no job control"), "{text}");
    });
}
