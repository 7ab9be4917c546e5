//! The daemon: networks apart from each other, endpoints that come and go.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::support::daemon::{Daemon, EVERYBODY, Place};
use crate::support::netns::{self, OUTSIDE, OUTSIDE6};
use crate::support::wait::{self, SOON};
use crate::support::weft::json;
use crate::support::{guest, servers};

const FRONT: &str = "network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64";
const BACK: &str = "network create back --subnet 10.8.0.0/24 --subnet6 fd08::/64";

fn pages(world: &netns::World) -> [SocketAddr; 2] {
    [IpAddr::from(OUTSIDE), IpAddr::from(OUTSIDE6)].map(|ip| servers::http(&world.outside, (ip, 0)))
}

/// Frames that came to a sandbox's interface so far.
fn heard(place: &Place) -> u64 {
    let shown = json(&place.net, &["-s", "link", "show", "eth0"]);
    shown[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

/// The gateway of the default route and its interface, of a family.
fn way_out(place: &Place, family: &str) -> Vec<(String, String)> {
    let routes = json(&place.net, &[family, "route", "show", "default"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let routes = routes.as_array().unwrap().iter();
    routes
        .map(|r| (text(&r["gateway"]), text(&r["dev"])))
        .collect()
}

#[test]
fn endpoints_of_one_network_meet_and_reach_the_outside() {
    netns::inside(|world| {
        let outside = pages(world);
        for who in EVERYBODY {
            let daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            let a = daemon.connected("a", &["front"]);
            // One by its process, one by a file that stands for it.
            let b = daemon.sandbox();
            let file = daemon.dir().join("b");
            b.pin(&file);
            daemon.ok(&format!("endpoint connect front netns:{}", file.display()));
            for (ip, from) in [("10.7.0.3", "10.7.0.2"), ("fd07::3", "fd07::2")] {
                assert!(a.pings(ip), "{who:?} {ip}");
                let to: IpAddr = ip.parse().unwrap();
                let seen = guest::fetch(&a.net, servers::http(&b.net, (to, 80)));
                assert_eq!(seen, format!("hello {from}"), "{who:?}");
            }
            for page in outside {
                guest::fetch(&b.net, page);
            }
            let rows = daemon.json("endpoint ls");
            assert_eq!(rows[1]["name"], "b");

            daemon.ok("endpoint disconnect front a");
            assert_eq!(a.interfaces(), Vec::<String>::new(), "{who:?}");
            let pid = a.pid;
            daemon.ok(&format!("endpoint connect front {pid} --name a --ip 10.7.0.77 --mac 02:00:00:00:00:77 --ifname net9"));
            assert_eq!(a.interfaces(), ["net9"]);
            assert!(b.pings("10.7.0.77"), "{who:?}");
            let seen = b.sh("ip neigh show 10.7.0.77").ok();
            assert!(seen.contains("02:00:00:00:00:77"), "{seen}");
        }
    });
}

#[test]
fn nothing_passes_between_networks() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        daemon.ok(BACK);
        let a = daemon.connected("a", &["front"]);
        let b = daemon.connected("b", &["front"]);
        let c = daemon.connected("c", &["back"]);
        let (host4, host6) = (IpAddr::from([10, 8, 0, 2]), "fd08::2".parse().unwrap());
        for ip in [host4, host6] {
            servers::http(&c.net, (ip, 80));
            assert!(!a.pings_at_once(&ip.to_string()), "{ip}");
            let to = SocketAddr::from((ip, 80));
            let met = a.net.enter(|| {
                std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_secs(1))
            });
            assert!(met.is_err(), "{ip}");
        }
        // What goes to everybody reaches those of its own network alone. `a` claims an address of the other, too, so that it asks for
        // neighbours there.
        a.net
            .ip("addr add 10.8.0.99/24 dev eth0\naddr add fd08::99/64 dev eth0 nodad");
        let before = (heard(&b), heard(&c));
        for _ in 0..3 {
            a.sh("ping -n -b -c 5 -i 0.01 -W 1 10.7.0.255; ping -n -c 5 -i 0.01 -W 1 ff02::1%eth0; ping -n -c 1 -W 1 10.8.0.2; ping -n -c 1 -W 1 fd08::2");
        }
        wait::until("those of its own hear it", SOON, || {
            heard(&b) >= before.0 + 20
        });
        // Its own gateway may announce itself and ask for members meanwhile.
        assert!(heard(&c) <= before.1 + 6, "{} {}", before.1, heard(&c));
        let seen = c.sh("ip neigh show").ok();
        assert!(
            !seen.contains("10.8.0.99") && !seen.contains("fd08::99"),
            "{seen}"
        );
        let macs = daemon.json("show macs --network back");
        let mac = json(&a.net, &["link", "show", "eth0"])[0]["address"].clone();
        assert!(!macs.to_string().contains(mac.as_str().unwrap()), "{macs}");
    });
}

#[test]
fn an_internal_network_has_no_way_out() {
    netns::inside(|world| {
        let outside = pages(world);
        let daemon = Daemon::root(world);
        daemon.ok("network create quiet --internal --subnet 10.9.0.0/24 --subnet6 fd09::/64");
        let a = daemon.connected("a", &["quiet"]);
        let b = daemon.connected("b", &["quiet"]);
        assert!(a.pings("10.9.0.3") && a.pings("fd09::3"));
        for page in outside {
            let met = a.net.enter(|| {
                std::net::TcpStream::connect_timeout(&page, std::time::Duration::from_secs(1))
            });
            assert!(met.is_err(), "{page}");
            assert!(!a.pings_at_once(&page.ip().to_string()), "{page}");
        }
        assert_eq!(way_out(&b, "-4"), [], "a route that leads nowhere");
        assert_eq!(way_out(&b, "-6"), [], "a route that leads nowhere");
    });
}

#[test]
fn without_icc_everybody_has_the_gateway_alone() {
    netns::inside(|world| {
        let outside = pages(world);
        let daemon = Daemon::root(world);
        daemon.ok(&format!("{FRONT} --no-icc"));
        let a = daemon.connected("a", &["front"]);
        let b = daemon.connected("b", &["front"]);
        assert!(!a.pings_at_once("10.7.0.3") && !a.pings_at_once("fd07::3"));
        assert!(b.pings("10.7.0.1") && b.pings("fd07::1"));
        for page in outside {
            guest::fetch(&a.net, page);
        }
        assert!(daemon.drops("isolated") > 0, "{}", daemon.ok("show drops"));
    });
}

#[test]
fn a_sandbox_of_several_networks_has_one_way_out() {
    netns::inside(|world| {
        let outside = pages(world);
        for who in EVERYBODY {
            let daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            daemon.ok(BACK);
            let a = daemon.connected("a", &["front"]);
            let b = daemon.connected("b", &["front"]);
            let c = daemon.connected("c", &["back"]);
            daemon.ok("endpoint connect back a --priority 5");
            assert_eq!(a.interfaces(), ["eth0", "eth1"]);
            assert_eq!(way_out(&a, "-4"), [("10.8.0.1".into(), "eth1".into())]);
            assert_eq!(way_out(&a, "-6"), [("fd08::1".into(), "eth1".into())]);
            assert!(a.pings("10.7.0.3") && a.pings("10.8.0.2") && a.pings("fd08::2"));
            assert!(
                !b.pings_at_once("10.8.0.2") && !c.pings_at_once("10.7.0.3"),
                "a sandbox is no router"
            );
            for page in outside {
                guest::fetch(&a.net, page);
            }
            daemon.ok("endpoint disconnect back a");
            assert_eq!(way_out(&a, "-4"), [("10.7.0.1".into(), "eth0".into())]);
            assert_eq!(way_out(&a, "-6"), [("fd07::1".into(), "eth0".into())]);
            for page in outside {
                guest::fetch(&a.net, page);
            }
        }
    });
}

#[test]
fn a_sandbox_that_ends_is_noticed() {
    netns::inside(|world| {
        for who in EVERYBODY {
            let daemon = Daemon::up(world, who);
            daemon.ok(FRONT);
            let a = daemon.connected("a", &["front"]);
            let b = daemon.connected("b", &["front"]);
            daemon.ok("publish add a 8081:80");
            a.end();
            wait::until("its endpoint is gone", SOON, || {
                daemon.json("endpoint ls").as_array().unwrap().len() == 1
            });
            assert_eq!(daemon.json("publish ls"), Value::Array(Vec::new()));
            // Its name and its address are free.
            let again = daemon.sandbox();
            let pid = again.pid;
            daemon.ok(&format!(
                "endpoint connect front {pid} --name a --ip 10.7.0.2"
            ));
            assert!(b.pings("10.7.0.2"), "{who:?}");
        }
    });
}

#[test]
fn an_address_that_another_sandbox_has_now_is_found_at_once() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let a = daemon.connected("a", &["front"]);
        let connect = |place: &Place, name: &str, mac: &str| {
            let (pid, at) = (place.pid, "--ip 10.7.0.9 --ip6 fd07::9");
            daemon.ok(&format!(
                "endpoint connect front {pid} --name {name} {at} --mac {mac}"
            ));
        };
        let known = |addr: &str| {
            let rows = json(&a.net, &["neigh"]);
            let mut rows = rows.as_array().unwrap().iter();
            let row = rows.find(|r| r["dst"] == addr);
            row.map(|r| r["lladdr"].as_str().unwrap_or_default().to_owned())
        };
        let places = ["first", "second", "third"].map(|name| (name, daemon.sandbox()));
        for (n, (name, place)) in (1..).zip(&places) {
            let mac = format!("02:00:00:00:09:0{n}");
            connect(place, name, &mac);
            for addr in ["10.7.0.9", "fd07::9"] {
                // Not asked for: the one before it is what it would still believe in.
                if n > 1 {
                    wait::until("it was told", SOON, || known(addr) == Some(mac.clone()));
                }
                assert!(a.pings(addr), "{name} {addr}");
                assert_eq!(known(addr), Some(mac.clone()));
            }
            daemon.ok(&format!("endpoint disconnect front {name}"));
        }
    });
}
