//! Ping, traceroute and path MTU, as the real tools see them from inside.

use crate::support::netns::{self, BOTH, FAR, FAR6, OUTSIDE, have};
use crate::support::weft::Sandbox;

#[test]
fn ping_is_answered() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        for ip in [BOTH[0], BOTH[1], FAR.into(), FAR6.into()] {
            let said = sandbox
                .exec(&["ping", "-n", "-c3", "-i0.2", "-W5", &ip.to_string()])
                .ok();
            assert!(said.contains(" 0% packet loss"), "{said}");
        }
        // More than a link takes at once.
        let said = sandbox
            .exec(&["ping", "-n", "-c1", "-W5", "-s4000", &OUTSIDE.to_string()])
            .ok();
        assert!(said.contains("4008 bytes from"), "{said}");
    });
}

#[test]
fn an_unreachable_host_is_reported() {
    netns::inside(|world| {
        world
            .outside
            .ip("route add unreachable 203.0.113.0/24\nroute add unreachable 2001:db8:9::/64\n");
        let sandbox = world.sandbox(&[]);
        for ip in ["203.0.113.1", "2001:db8:9::1"] {
            let said = sandbox.exec(&["ping", "-n", "-c2", "-W3", ip]);
            assert_eq!(said.status, 1, "{said:?}");
            let text = said.stdout.to_lowercase();
            assert!(
                text.contains("unreachable") || text.contains("no route"),
                "{said:?}"
            );
        }
    });
}

/// The hops that traceroute shows.
#[track_caller]
fn trace(sandbox: &Sandbox, how: &[&str], to: &str) -> Vec<String> {
    // Each hop is waited for by itself, not as long only as another took to answer.
    let fixed = ["traceroute", "-n", "-q1", "-w", "15,0,0", "-m6"];
    let said = sandbox.exec(&[&fixed[..], how, &[to]].concat()).ok();
    let hops = said
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1));
    hops.map(str::to_owned).collect()
}

#[test]
fn traceroute_shows_the_way() {
    netns::inside(|world| {
        if !have("traceroute") {
            return;
        }
        let page = crate::support::servers::http(&world.far, (FAR, 80));
        crate::support::servers::http(&world.far, (FAR6, 80));
        let sandbox = world.sandbox(&[]);
        let gateways = [sandbox.gateway.to_string(), sandbox.gateway6.to_string()];
        for how in [&["-U"][..], &["-I"], &["-T", "-p", "80"]] {
            let hops = trace(&sandbox, how, &page.ip().to_string());
            assert_eq!(
                hops,
                [&*gateways[0], "192.0.2.1", "198.51.100.2"],
                "{how:?}"
            );
            let hops = trace(&sandbox, how, &FAR6.to_string());
            assert_eq!(
                hops,
                [&*gateways[1], "2001:db8:1::1", "2001:db8:2::2"],
                "{how:?}"
            );
        }
    });
}

#[test]
fn a_narrow_path_is_discovered() {
    netns::inside(|world| {
        world.outside.ip("link set far0 mtu 1400");
        world.far.ip("link set eth0 mtu 1400");
        let sandbox = world.sandbox(&[]);
        for (ip, size) in [(FAR.to_string(), "1420"), (FAR6.to_string(), "1400")] {
            // The first is lost on the way, and the report about it stops the next at the source.
            let said =
                sandbox.exec(&["ping", "-n", "-c3", "-i0.3", "-W2", "-Mdo", "-s", size, &ip]);
            let text = format!("{}{}", said.stdout, said.stderr).replace("mtu = ", "mtu=");
            assert!(text.contains("mtu=1400"), "{said:?}");
        }
        // And a stream over the same path arrives whole.
        for ip in [std::net::IpAddr::from(FAR), FAR6.into()] {
            let address = crate::support::servers::http(&world.far, (ip, 0));
            crate::support::guest::fetch(&sandbox.net, address);
        }
    });
}

#[test]
fn traceroute_finds_the_mtu() {
    netns::inside(|world| {
        if !have("traceroute") {
            return;
        }
        world.outside.ip("link set far0 mtu 1400");
        world.far.ip("link set eth0 mtu 1400");
        for ip in [FAR.to_string(), FAR6.to_string()] {
            // From the router that drops; then from the host, which has learnt it.
            for _ in 0..2 {
                let sandbox = world.sandbox(&[]);
                let said = sandbox
                    .exec(&["traceroute", "-n", "--mtu", "-w", "10,0,0", "-m6", &ip])
                    .ok();
                assert!(said.contains("F=1500") && said.contains("F=1400"), "{said}");
                sandbox.weft.stop();
            }
        }
    });
}

/// Without ping sockets all share one raw socket, which gets what is anybody's.
#[test]
fn pings_that_share_a_raw_socket_are_kept_apart() {
    netns::inside_without_ping(|world| {
        let sandboxes = [world.sandbox(&[]), world.sandbox(&[])];
        let first = sandboxes[0].exec(&["ping", "-n", "-c1", "-W3", &OUTSIDE.to_string()]);
        if first.status != 0 {
            // No right to raw sockets here.
            return;
        }
        let pings = |sandbox: &Sandbox| {
            let script = [FAR.to_string(), FAR6.to_string(), OUTSIDE.to_string()]
                .iter()
                .cycle()
                .take(9)
                .enumerate()
                .map(|(n, to)| format!("ping -n -c25 -i0.01 -W5 -s{} {to} & ", 50 + n))
                .collect::<String>();
            sandbox.exec(&["sh", "-c", &(script + "wait")]).ok()
        };
        let said = std::thread::scope(|scope| {
            let both = sandboxes.each_ref().map(|s| scope.spawn(|| pings(s)));
            both.map(|one| one.join().unwrap())
        });
        for said in said {
            assert_eq!(said.matches(" 0% packet loss").count(), 9, "{said}");
            assert!(!said.contains("DUP"), "{said}");
        }
        // And errors find the one that asked, too.
        world
            .outside
            .ip("route add unreachable 203.0.113.0/24\nroute add unreachable 2001:db8:9::/64\n");
        for ip in ["203.0.113.1", "2001:db8:9::1"] {
            let said = sandboxes[0].exec(&["ping", "-n", "-c2", "-W3", ip]);
            let text = said.stdout.to_lowercase();
            assert!(
                text.contains("unreachable") || text.contains("no route"),
                "{said:?}"
            );
        }
    });
}

#[test]
fn a_host_that_forbids_ping_sockets_is_honest_about_it() {
    netns::inside_without_ping(|world| {
        // Weft may still be privileged enough for raw sockets.
        let sandbox = world.sandbox(&[]);
        let said = sandbox.exec(&["ping", "-n", "-c1", "-W3", &OUTSIDE.to_string()]);
        let text = said.stdout.to_lowercase();
        let honest = text.contains("unreachable")
            || text.contains("prohibited")
            || text.contains("filtered");
        assert!(
            said.status == 0 || honest,
            "an answer or an error, no silence: {said:?}"
        );
    });
}
