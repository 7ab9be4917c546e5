//! What the daemon refuses: by one clear line, with its state unchanged.

use std::fs;

use crate::support::daemon::{Daemon, Who};
use crate::support::netns;
use crate::support::wait::{self, SOON};

#[test]
fn commands_are_refused_by_one_line() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let _places = daemon.furnish();
        let c = daemon.sandbox();
        let pid = c.pid;
        let file = daemon.dir().join("no.such");
        let gone = file.display();
        let before = daemon.state();
        let of_host = daemon.json("show daemon")["pid"].clone();
        let mut wrong = Vec::new();
        for (line, words) in [
            ("network create more --subnet 10.7.0.128/25", "front"),
            ("network create more --subnet 10.0.0.0/8", "overlap"),
            ("network create front", "front"),
            ("network create more --subnet 10.9.0.0/33", "10.9.0.0/33"),
            ("network create more --subnet 10.9.0.1/24", "10.9.0.1/24"),
            (
                "network create more --subnet 10.9.0.0/24 --gateway 10.10.0.1",
                "10.10.0.1",
            ),
            ("network create no/slash", "no/slash"),
            ("network create more --mtu 67", "67"),
            ("network create more --opt colour=blue", "colour"),
            ("network create more --driver macvlan", "uplink"),
            ("network create more --driver overlay --vni 0", "16777215"),
            ("network rm front", "a"),
            ("network rm nowhere", "nowhere"),
            ("network inspect nowhere", "nowhere"),
            (&format!("endpoint connect nowhere {pid}"), "nowhere"),
            (&format!("endpoint connect tiny {pid}"), "no free address"),
            (&format!("endpoint connect front {pid} --name a"), "'a'"),
            (
                &format!("endpoint connect front {pid} --mac 02:00:00:00:00:09"),
                "02:00:00:00:00:09",
            ),
            (
                &format!("endpoint connect front {pid} --mac 01:00:5e:00:00:09"),
                "01:00:5e:00:00:09",
            ),
            (
                &format!("endpoint connect front {pid} --ip 10.7.0.9"),
                "'a'",
            ),
            (
                &format!("endpoint connect front {pid} --ip 10.7.0.1"),
                "gateway",
            ),
            (
                &format!("endpoint connect front {pid} --ip 10.7.1.9"),
                "10.7.1.9",
            ),
            (
                &format!("endpoint connect front {pid} --ip 10.7.0.255"),
                "10.7.0.255",
            ),
            (&format!("endpoint connect front {pid} --mtu 9000"), "9000"),
            (&format!("endpoint connect front {pid} --ifname lo"), "lo"),
            (
                &format!("endpoint connect front {pid} --kind tun"),
                "packet",
            ),
            (&format!("endpoint connect front {pid} --vlan 4095"), "4095"),
            (
                &format!("endpoint connect front {pid} --trunk 1-9"),
                "native",
            ),
            (
                &format!("endpoint connect front {pid} --trunk 10,9-7"),
                "10,9-7",
            ),
            (&format!("endpoint connect front {pid} --native 7"), "trunk"),
            ("endpoint connect front a", "already"),
            ("endpoint connect front 999999", "999999"),
            (&format!("endpoint connect front {of_host}"), "host"),
            (&format!("endpoint connect front netns:{gone}"), "no.such"),
            ("endpoint connect front netns:/etc/passwd", "/etc/passwd"),
            ("endpoint connect front unheard-of", "unheard-of"),
            ("endpoint disconnect front b", "'b'"),
            ("publish add nobody 8080:80", "nobody"),
            ("publish add a 0:80", "0"),
            ("publish add a 80-90:80-91", "80-90:80-91"),
            ("publish add a 70000:80", "70000"),
            ("publish rm 77", "77"),
            ("service rm front web", "web"),
        ] {
            let ended = daemon.weft(line);
            let text = ended.stderr.trim_end();
            let fine = ended.status == 125
                && text.starts_with("weft: ")
                && text.contains(words)
                && text.lines().count() == 1;
            if !fine || daemon.state() != before || !c.interfaces().is_empty() {
                wrong.push(format!("weft {line}: {ended:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn a_file_that_cannot_be_applied_changes_nothing() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let _places = daemon.furnish();
        let before = daemon.state();
        let file = daemon.dir().join("weft.toml");
        let name = file.display();
        for (text, place) in [
            ("[[network]]\nname = \"x\"\ncolour = 1\n", "weft.toml:3:1"),
            ("[[network]\n", "weft.toml:1"),
            (
                "[[network]]\nname = \"x\"\nsubnet = \"10.7.0.0/16\"\n",
                "weft.toml:3",
            ),
            (
                "[[network]]\nname = \"x\"\n[[endpoint]]\nnetwork = \"nowhere\"\nsandbox = \"a\"\n",
                "weft.toml:4",
            ),
            // The first half is fine, and is not done.
            (
                "[[network]]\nname = \"x\"\n[[publish]]\nsandbox = \"nobody\"\nports = [\"8080:80\"]\n",
                "weft.toml:4",
            ),
        ] {
            fs::write(&file, text).unwrap();
            daemon.weft(&format!("apply {name}")).refused(&[place]);
            assert_eq!(daemon.state(), before, "{text}");
        }
        fs::write(
            &file,
            "[[network]]\nname = \"x\"\nsubnet = \"10.9.0.0/24\"\n",
        )
        .unwrap();
        assert!(daemon.ok(&format!("apply --dry-run {name}")).contains('x'));
        assert_eq!(daemon.state(), before);
        daemon.ok(&format!("apply {name}"));
        assert!(
            daemon
                .ok(&format!("apply {name}"))
                .contains("nothing differs")
        );
        daemon.ok("network inspect x");
    });
}

#[test]
fn without_descriptors_nothing_is_joined_by_half() {
    netns::inside(|world| {
        let mut daemon = Daemon::new(world, Who::Root);
        daemon.start(&["--workers", "2"]);
        daemon.ok("network create front --subnet 10.7.0.0/24");
        let first = daemon.connected("first", &["front"]);
        let pid = daemon.json("show daemon")["pid"].clone();
        let limit = |n: usize| {
            let words = [format!("--pid={pid}"), format!("--nofile={n}:20000")];
            let set = std::process::Command::new("prlimit").args(words).status();
            assert!(set.unwrap().success(), "{n}");
        };
        let held = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let (before, open) = (daemon.state(), held());
        let place = daemon.sandbox();
        // From none that is free up to as many as it takes: each step fails at another place.
        let mut refused = 0;
        let free = (0..40).find(|free| {
            limit(open + free);
            let tried = daemon.weft(&format!("endpoint connect front {} --name x", place.pid));
            limit(20_000);
            if tried.status == 0 {
                return true;
            }
            refused += 1;
            assert_eq!(tried.status, 125, "{free}: {tried:?}");
            assert_eq!(daemon.state(), before, "{free}");
            assert!(place.interfaces().is_empty(), "{free}");
            false
        });
        assert!(free.is_some() && refused > 0, "{free:?}");
        assert!(place.pings("10.7.0.2") && first.pings("10.7.0.1"));
        daemon.ok("endpoint disconnect front x");
        assert_eq!(daemon.state(), before);
        wait::until("what was tried has left no descriptor", SOON, || {
            held() <= open + 1
        });
    });
}
