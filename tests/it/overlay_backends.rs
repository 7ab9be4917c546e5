//! A service whose backends are on several hosts.

use std::net::SocketAddr;

use crate::daemon_service::{greet, serve};
use crate::overlay_names::{becomes, join};
use crate::support::daemon::Place;
use crate::support::hosts::{Pair, reach};
use crate::support::netns;
use crate::support::wait::{self, SOON};

const WEB: &str = "--network mesh --port 80:8080 --port 53:5353/udp --ip 10.9.0.200 --ip6 fd09::c8";

/// Who answers a client in 40 connections, each with as whom it sees the client.
#[track_caller]
fn answers(client: &Place, vip: &str) -> Vec<String> {
    let vip = SocketAddr::new(vip.parse().unwrap(), 80);
    let mut said: Vec<String> = Vec::new();
    for _ in 0..40 {
        match greet(&client.net, vip) {
            Ok(answer) => said.push(answer),
            // Who waits for one that is gone waits for long.
            Err(e) => return vec![e.to_string()],
        }
    }
    said.sort();
    said.dedup();
    said
}

/// Waits until these and no others answer.
#[track_caller]
fn settles(client: &Place, vip: &str, who: &[&str]) {
    wait::settled(
        vip,
        &who.iter().map(|w| (*w).to_owned()).collect(),
        3 * SOON,
        || answers(client, vip),
    );
}

#[test]
fn clients_of_both_hosts_are_spread_over_backends_of_both() {
    netns::inside(|world| {
        if !netns::have("dig") {
            return;
        }
        let mut pair = Pair::met(world, &[]);
        let (a, b) = (&pair.a, &pair.b);
        let [here, there, near, far] = [
            (a, "here", "10.9.0.2"),
            (b, "There", "10.9.1.2"),
            (a, "near", "10.9.0.9"),
            (b, "far", "10.9.1.9"),
        ]
        .map(|(daemon, name, ip)| {
            let place = daemon.sandbox();
            join(daemon, &place, "mesh", &format!("--name {name} --ip {ip}"));
            place
        });
        serve(&here.net, "here");
        serve(&there.net, "there");
        reach(&near, "10.9.1.2");
        // A name that no host has is waited for; one that could be none is refused.
        a.ok(&format!(
            "service create web {WEB} --backend here There late"
        ));
        a.weft(&format!("service create bad {WEB} --backend no/name"))
            .refused(&["no/name"]);
        becomes(&far, "@10.9.0.1 web", &["10.9.0.200"]);
        // A backend of the service's host sees its client, one of another host the service.
        settles(&near, "10.9.0.200", &["here 10.9.0.9", "there 10.9.0.200"]);
        settles(&near, "fd09::c8", &["here fd09::9", "there fd09::c8"]);
        settles(&far, "10.9.0.200", &["here 10.9.1.9", "there 10.9.0.200"]);
        settles(&far, "fd09::c8", &["here fd09::109", "there fd09::c8"]);
        // A backend that is a client is led to another.
        settles(&there, "10.9.0.200", &["here 10.9.1.2"]);
        settles(&here, "10.9.0.200", &["there 10.9.0.200"]);

        // They go, come back elsewhere, and new ones come.
        b.ok("endpoint disconnect mesh There");
        settles(&near, "10.9.0.200", &["here 10.9.0.9"]);
        join(b, &there, "mesh", "--name There --ip 10.9.1.3");
        settles(&near, "10.9.0.200", &["here 10.9.0.9", "there 10.9.0.200"]);
        a.ok("endpoint disconnect mesh here");
        settles(&far, "10.9.0.200", &["there 10.9.0.200"]);
        let late = b.sandbox();
        serve(&late.net, "late");
        join(b, &late, "mesh", "--name late");
        settles(&far, "10.9.0.200", &["late 10.9.0.200", "there 10.9.0.200"]);
        a.ok(&format!("service set web {WEB} --backend late"));
        settles(&near, "10.9.0.200", &["late 10.9.0.200"]);

        // It is all the same after a crash of either, and a peer that goes takes its backends along.
        pair.a.kill();
        pair.a.start(&[]);
        settles(&near, "10.9.0.200", &["late 10.9.0.200"]);
        pair.b.kill();
        pair.b.start(&[]);
        settles(&near, "10.9.0.200", &["late 10.9.0.200"]);
        join(&pair.a, &here, "mesh", "--name here --ip 10.9.0.2");
        pair.a
            .ok(&format!("service set web {WEB} --backend here late"));
        pair.a.ok("peer rm b");
        settles(&near, "10.9.0.200", &["here 10.9.0.9"]);
    });
}
