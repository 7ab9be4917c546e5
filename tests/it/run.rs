//! `weft run` as a command: exit status, signals, clear refusals, nothing left behind.

use std::fs;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::guest;
use crate::support::netns::{self, HOST, World};
use crate::support::servers;
use crate::support::wait::{self, SOON};
use crate::support::weft::{Running, find, json};

/// Fails if a process or an interface of weft is left.
#[track_caller]
fn nothing_left(world: &World) {
    wait::until("all processes of weft end", SOON, || {
        world.processes().is_empty()
    });
    let links = json(&world.host, &["link"]);
    assert_eq!(
        links.as_array().map(Vec::len),
        Some(2),
        "lo and eth0 only: {links}"
    );
}

#[test]
fn the_status_is_the_commands() {
    netns::inside(|world| {
        assert_eq!(world.run(&[], &["true"]).status, 0);
        assert_eq!(world.sh(&[], "exit 7").status, 7);
        // A command that dies by a signal is told as a shell does.
        assert_eq!(world.sh(&[], "sh -c 'kill -9 $$'; exit $?").status, 137);
        nothing_left(world);
    });
}

#[test]
fn a_command_that_cannot_run_has_the_shells_status() {
    netns::inside(|world| {
        let missing = world.run(&[], &["no-such-command-anywhere"]);
        assert_eq!(missing.status, 127, "{missing:?}");
        assert!(
            missing.stderr.contains("no-such-command-anywhere"),
            "{missing:?}"
        );
        let directory = world.run(&[], &["/etc"]);
        assert_eq!(directory.status, 126, "{directory:?}");
        let data = world.run(&[], &["/etc/resolv.conf"]);
        assert_eq!(data.status, 126, "{data:?}");
        for ended in [missing, directory, data] {
            assert_eq!(
                ended.stderr.trim_end().lines().count(),
                1,
                "one line: {ended:?}"
            );
        }
        nothing_left(world);
    });
}

#[test]
fn what_weft_refuses_is_one_line_and_125() {
    netns::inside(|world| {
        for (options, words) in [
            (&["--no-such-option"][..], "--no-such-option"),
            (&["-p", "a:b"], "a:b"),
            (&["-p", "70000:80"], "70000"),
            (&["-p", "8080:80/sctp"], "sctp"),
            (&["-p", "9000-8000:9000-8000"], "9000-8000"),
            (&["-p", "8000-8009:9000-9004"], "8000-8009"),
            (&["-p", "8080:80", "-p", "8080:81"], "8080"),
            (&["-p", "8000-8010:80-90", "-p", "8005:99"], "8005"),
            (&["--mac", "01:00:5e:00:00:01"], "01:00:5e:00:00:01"),
            (&["--mac", "nonsense"], "nonsense"),
            (&["--mtu", "20"], "20"),
            (&["--network", "blue"], "blue"),
            (&["--network", "container:blue"], "container:blue"),
            (&["--dns", "not-an-address"], "not-an-address"),
            (&["--subnet", "10.9.0.0/24", "--ip", "10.8.0.2"], "10.8.0.2"),
            (&["--udp-filter", "none"], "none"),
        ] {
            let ended = world.run(options, &["true"]);
            assert_eq!(ended.status, 125, "{options:?}: {ended:?}");
            assert!(ended.stderr.contains(words), "{options:?}: {ended:?}");
        }
        nothing_left(world);
    });
}

#[test]
fn without_the_tun_device_it_says_so() {
    netns::inside(|world| {
        let hidden = Command::new("mount")
            .args(["-n", "-t", "tmpfs", "none", "/dev/net"])
            .status();
        assert!(hidden.unwrap().success());
        let ended = world.run(&["--kind", "tap"], &["true"]);
        ended.refused(&["/dev/net/tun"]);
        nothing_left(world);
    });
}

#[test]
fn the_command_sees_a_terminal_less_world_of_its_own() {
    netns::inside(|world| {
        let said = world
            .sh(
                &["--hostname", "loom"],
                "id -u; uname -n; ls /proc/1/ns/net; echo $0 $#",
            )
            .ok();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.first(), Some(&"0"), "root inside");
        assert_eq!(lines.get(1), Some(&"loom"));
        let names = world
            .sh(&["--add-host", "printer:10.1.2.3"], "cat /etc/hosts")
            .ok();
        assert!(
            names.contains("10.1.2.3") && names.contains("printer"),
            "{names}"
        );
        assert!(names.contains("localhost"), "{names}");
        nothing_left(world);
    });
}

#[test]
fn none_has_loopback_only_and_host_has_the_hosts_network() {
    netns::inside(|world| {
        let none = world
            .run(&["--network", "none"], &["ip", "-o", "link"])
            .ok();
        assert_eq!(none.lines().count(), 1, "{none}");
        assert!(none.contains("lo:") && none.contains("UP"), "{none}");
        let host = world
            .run(&["--network", "host"], &["ip", "-o", "addr"])
            .ok();
        assert!(host.contains(&HOST.to_string()), "{host}");
        nothing_left(world);
    });
}

#[test]
fn what_the_command_wrote_last_arrives() {
    const BYTES: usize = 3_000_000;
    netns::inside(|world| {
        for ip in netns::BOTH {
            let (told, heard) = mpsc::channel();
            let to = servers::tcp(&world.outside, (ip, 0), move |mut stream, _| {
                // Slower than the sender, so that most of it waits in the sandbox when the command has ended.
                let (mut total, mut bytes) = (0, vec![0; 100_000]);
                loop {
                    let n = stream.read(&mut bytes).unwrap_or(0);
                    total += n;
                    if n == 0 {
                        told.send(total).unwrap();
                        return Ok(());
                    }
                    wait::holds("it reads slowly", Duration::from_millis(5), || true);
                }
            });
            let line = format!(
                "head -c {BYTES} /dev/zero > /dev/tcp/{}/{}",
                to.ip(),
                to.port()
            );
            let ended = world.run(&[], &["bash", "-c", &line]);
            assert_eq!(ended.status, 0, "{ended:?}");
            assert_eq!(heard.recv_timeout(SOON).unwrap(), BYTES, "to {ip}");
        }
        nothing_left(world);
    });
}

#[test]
fn a_server_that_ends_with_its_answer_is_heard() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let program = "import socket; s = socket.create_server(('', 80)); print('up', flush=True); \
                       s.accept()[0].sendall(b'x' * 1000)";
        // Through the switch, and past it.
        for (from, ip) in [(&world.outside, HOST), (&world.host, Ipv4Addr::LOCALHOST)] {
            for _ in 0..5 {
                let mut weft =
                    world.start(&["run", "-p", "8080:80", "--", "python3", "-c", program]);
                let to = (ip, 8080).into();
                let mut stream = wait::value("the port is open", SOON, || {
                    let mut stream = guest::connect(from, to).ok()?;
                    let mut first = [0];
                    stream.read_exact(&mut first).ok()?;
                    Some(stream)
                });
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest);
                assert_eq!(rest.len(), 999);
                weft.end(SOON);
            }
        }
    });
}

#[test]
fn what_the_command_leaves_behind_ends_with_it() {
    netns::inside(|world| {
        // The output is a pipe that the leftover would hold open, were it alive.
        let ended = world.sh(&[], "sleep 1000001 & (setsid sleep 1000002 &); exit 3");
        assert_eq!(ended.status, 3, "{ended:?}");
        nothing_left(world);
    });
}

#[test]
fn signals_end_it_all() {
    netns::inside(|world| {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let mut sandbox = world.sandbox(&[]);
            sandbox.weft.signal(signal);
            let ended = sandbox.weft.end(SOON);
            assert_ne!(ended.status, 0, "{signal}: {ended:?}");
            drop(sandbox);
            nothing_left(world);
        }
    });
}

#[test]
fn a_killed_weft_leaves_nothing() {
    netns::inside(|world| {
        let mut sandbox = world.sandbox(&[]);
        sandbox.weft.signal(Signal::SIGKILL);
        sandbox.weft.end(SOON);
        drop(sandbox);
        nothing_left(world);
    });
}

#[test]
fn a_killed_command_ends_weft() {
    netns::inside(|world| {
        let mut sandbox = world.sandbox(&[]);
        let pid = nix::unistd::Pid::from_raw(sandbox.pid.cast_signed());
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        assert_eq!(sandbox.weft.end(SOON).status, 137);
        drop(sandbox);
        nothing_left(world);
    });
}

#[test]
fn the_pid_file_names_weft() {
    netns::inside(|world| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let sandbox = world.sandbox(&["--pid-file", file.to_str().unwrap()]);
        // It comes when all is up, which is later than the command begins.
        let pid = wait::value("the file says it", SOON, || {
            let text = fs::read_to_string(&file).ok()?;
            text.trim().parse::<u32>().ok()
        });
        assert_eq!(pid, sandbox.weft.pid());
    });
}

#[test]
fn a_range_beyond_the_descriptors_is_refused_with_the_number() {
    netns::inside(|world| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command.args(["run", "-p", "20000-29999:20000-29999", "--", "true"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 256; exec \"$@\"", "sh"]);
        shell
            .arg(command.get_program())
            .args(command.get_args())
            .process_group(0);
        let ended = Running::start(&world.host, &mut shell).end(Duration::from_secs(60));
        ended.refused(&["256"]);
        nothing_left(world);
    });
}

#[test]
fn weft_runs_inside_weft() {
    netns::inside(|world| {
        let weft = env!("CARGO_BIN_EXE_weft");
        let inner = world.run(
            &[],
            &[
                weft, "run", "--", "ip", "-o", "-4", "addr", "show", "dev", "eth0",
            ],
        );
        assert!(
            inner.ok().contains("inet "),
            "an address in the inner sandbox"
        );
        nothing_left(world);
    });
}

#[test]
fn two_sandboxes_run_side_by_side() {
    netns::inside(|world| {
        let (one, two) = (world.sandbox(&[]), world.sandbox(&[]));
        assert_ne!(one.pid, two.pid);
        assert!(find("sleep\x001000001\0").is_some() && find("sleep\x001000002\0").is_some());
        one.weft.stop();
        assert!(find("sleep\x001000002\0").is_some(), "the other goes on");
        two.weft.stop();
        nothing_left(world);
    });
}

#[test]
fn losing_the_tap_ends_nothing_but_the_network() {
    netns::inside(|world| {
        let mut sandbox = world.sandbox(&[]);
        sandbox.net.ip("link del eth0");
        wait::holds(
            "weft and its command run on",
            Duration::from_millis(300),
            || !sandbox.weft.has_ended(),
        );
        sandbox.weft.stop();
        nothing_left(world);
    });
}
