//! `weft run` and `weft attach` without a TAP: by a packet socket, asked for or because there is no /dev/net/tun.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::guest::Pattern;
use crate::support::netns::{self, HOST, Namespace, OUTSIDE, OUTSIDE6, World};
use crate::support::wait::{self, SOON};
use crate::support::weft::{Ended, Running, Sandbox, find, json};
use crate::support::{guest, servers};

/// Runs `weft OPTIONS` where /dev/net/tun is not there.
#[track_caller]
fn without_device(world: &World, options: &[&str]) -> Ended {
    let script = "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_weft")]);
    Running::start(&world.host, command.args(options)).end(Duration::from_secs(60))
}

#[test]
fn a_sandbox_of_a_packet_socket_reaches_out_and_is_reached() {
    netns::inside(|world| {
        const LEN: usize = 32 << 20;
        let sandbox = world.sandbox(&["--kind", "packet", "-p", "8080:80"]);
        for ip in [IpAddr::from(OUTSIDE), OUTSIDE6.into()] {
            guest::fetch(&sandbox.net, servers::http(&world.outside, (ip, 0)));
            let ping = sandbox.exec(&["ping", "-n", "-c", "1", "-W", "5", &ip.to_string()]);
            ping.ok();
            let to = servers::tcp(&world.outside, (ip, 0), |mut stream, _| {
                Pattern::new(3).expect(&mut stream, LEN)?;
                Pattern::new(4).send(&mut stream, LEN)
            });
            let mut stream = guest::connect(&sandbox.net, to).unwrap();
            Pattern::new(3).send(&mut stream, LEN).unwrap();
            Pattern::new(4).expect(&mut stream, LEN).unwrap();
            guest::expect_end(&mut stream);
            let echo = servers::udp_echo(&world.outside, (ip, 0)).0;
            let socket = guest::udp(&sandbox.net, ip, Duration::from_secs(5));
            let data = vec![7; 5000];
            assert!(guest::ask(&socket, echo, &data) == data, "{ip}");
        }
        servers::http(&sandbox.net, (sandbox.v4, 80));
        guest::fetch(&world.outside, (IpAddr::from(HOST), 8080).into());
    });
}

#[test]
fn without_the_device_a_packet_socket_takes_its_place() {
    netns::inside(|world| {
        let look = [
            "--",
            "sh",
            "-c",
            "ping -n -c 1 -W 5 $(ip route | awk '/default/ {print $3}')",
        ];
        let ended = without_device(world, &[&["run"], &look[..]].concat());
        assert_eq!(ended.status, 0, "{ended:?}");
        let told: Vec<_> = ended.stderr.lines().collect();
        assert!(
            told.len() == 1 && told[0].contains("/dev/net/tun") && told[0].contains("packet"),
            "{ended:?}"
        );
        let asked = without_device(world, &[&["run", "--kind", "packet"], &look[..]].concat());
        assert_eq!((asked.status, asked.stderr.as_str()), (0, ""), "{asked:?}");
        let refused = without_device(world, &[&["run", "--kind", "tap"], &look[..]].concat());
        refused.refused(&["/dev/net/tun is missing", "--kind packet"]);
    });
}

#[test]
fn attaching_by_a_packet_socket_leaves_nothing_behind() {
    netns::inside(|world| {
        let mut command = Command::new("unshare");
        let words = [
            "--user",
            "--map-root-user",
            "--net",
            "--",
            "sleep",
            "2000077",
        ];
        let _stranger = Running::start(&world.host, command.args(words));
        let pid = wait::value("the stranger runs", SOON, || find("sleep\x002000077\0"));
        let net = || Namespace::of(pid);
        let links = || json(&net(), &["link"]).as_array().unwrap().len();
        let page = servers::http(&world.outside, (OUTSIDE, 0));
        let attach = || {
            let weft = world.start(&["attach", "--kind", "packet", &pid.to_string()]);
            wait::until("an address inside", SOON, || {
                let info = json(&net(), &["-4", "route", "show", "default"]);
                info.as_array().is_some_and(|routes| !routes.is_empty())
            });
            weft
        };
        let sandbox = Sandbox::at(attach(), net(), pid);
        guest::fetch(&sandbox.net, page);
        sandbox.weft.stop();
        wait::until("the interfaces are gone", SOON, || links() == 1);
        // Who is killed may not come to it, and then the next one does it.
        let mut killed = attach();
        killed.signal(Signal::SIGKILL);
        killed.end(SOON);
        let again = attach();
        wait::until("it is back", SOON, || guest::connect(&net(), page).is_ok());
        assert_eq!(links(), 3);
        again.stop();
        wait::until("the interfaces are gone", SOON, || links() == 1);
    });
}
