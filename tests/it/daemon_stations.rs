//! The daemon: stations behind sandboxes, where they are, how many, how long, and when they flap.

use serde_json::Value;

use crate::support::daemon::{Daemon, Place};
use crate::support::netns;
use crate::support::wait::{self, SOON};
use crate::support::weft::Running;

/// Sends a frame to a MAC from another, `times` over.
#[track_caller]
fn send(place: &Place, to: &str, from: &str, times: u32) {
    let program = format!(
        r#"python3 -c '
import socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
head = bytes.fromhex("{to}{from}88b5".replace(":", ""))
for _ in range({times}):
    raw.send(head + bytes(46))
'"#
    );
    place.sh(&program).ok();
}

/// What the switch knows of a station.
#[track_caller]
fn station(daemon: &Daemon<'_>, mac: &str) -> Option<Value> {
    let rows = daemon.json("show macs");
    let mut rows = rows.as_array()?.iter();
    rows.find(|row| row["mac"] == mac).cloned()
}

const ALL: &str = "ff:ff:ff:ff:ff:ff";
const STATION: &str = "02:00:00:00:00:77";

/// A network, and sandboxes on it that may speak for stations.
fn bridges<'w, const N: usize>(
    world: &'w netns::World,
    options: &str,
    names: [&str; N],
) -> (Daemon<'w>, [Place; N]) {
    let daemon = Daemon::root(world);
    daemon.ok(&format!(
        "network create front --subnet 10.7.0.0/24 --ipv6=false {options}"
    ));
    daemon.ok("policy set front --no-spoof-guard");
    let places = names.map(|name| daemon.connected(name, &["front"]));
    (daemon, places)
}

#[test]
fn a_station_is_where_it_was_seen_last_until_it_has_aged() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let (daemon, [a, b]) = bridges(world, "--opt ageing=10", ["a", "b"]);
        let at = || station(&daemon, STATION).map(|row| row["sandbox_name"].clone());
        for (place, name) in [(&a, "a"), (&b, "b")] {
            send(place, ALL, STATION, 1);
            wait::settled("where it was seen", &Some(name.into()), SOON, at);
        }
        wait::until("it has aged", SOON, || at().is_none());
        // Of what is never to leave a link nothing arrives.
        send(&a, "01:80:c2:00:00:0e", STATION, 3);
        wait::settled("all are dropped", &3, SOON, || daemon.drops("reserved-mac"));
        assert_eq!(at(), None);
    });
}

#[test]
fn so_many_stations_for_each() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let (daemon, [a, b]) = bridges(world, "", ["a", "b"]);
        daemon.ok("policy set front --no-spoof-guard --limit macs=3");
        daemon.ok("policy set front --sandbox b --no-spoof-guard --limit macs=2");
        let mac = |n: u8| format!("02:00:00:00:01:{n:02x}");
        for n in 0..5 {
            send(&a, ALL, &mac(n), 1);
            send(&b, ALL, &mac(0x10 + n), 1);
        }
        wait::settled("the rest is refused", &5, SOON, || {
            daemon.drops("mac-limit")
        });
        let known = |n: u8| station(&daemon, &mac(n)).is_some();
        assert_eq!((0..5).filter(|&n| known(n)).count(), 3);
        assert_eq!((0x10..0x15).filter(|&n| known(n)).count(), 2);
    });
}

#[test]
fn a_station_that_flaps_is_held_and_told_of() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let (daemon, [a, b]) = bridges(world, "--opt loop-hold=3600", ["a", "b"]);
        send(&a, ALL, STATION, 1);
        // A turn may take long on a busy machine: more than enough for many.
        wait::until("it flaps", SOON, || {
            send(&b, ALL, STATION, 1);
            send(&a, ALL, STATION, 1);
            station(&daemon, STATION).is_some_and(|row| row["held"] == true)
        });
        a.flushed("10.7.0.1");
        b.flushed("10.7.0.1");
        let held = station(&daemon, STATION).unwrap()["sandbox_name"].clone();
        let dropped = daemon.drops("loop-guard");
        let other = if held == "a" { &b } else { &a };
        send(other, ALL, STATION, 5);
        wait::settled("all are dropped", &(dropped + 5), SOON, || {
            daemon.drops("loop-guard")
        });
        assert_eq!(station(&daemon, STATION).unwrap()["sandbox_name"], held);
        assert!(daemon.ok("show macs").contains(" held "));
        let told = || daemon.ok("show daemon --json").matches(STATION).count();
        wait::until("it is told", SOON, || told() == 1);
        let metrics = daemon.ok("show daemon --json");
        assert!(metrics.contains("damped"), "{metrics}");
    });
}

/// A sandbox's process that carries every frame of one sandbox to the other and back, as a cable would.
const CABLE: &str = r#"
import ctypes, os, select, socket, sys
ends = []
for pid in sys.argv[1:]:
    fd = os.open("/proc/%s/ns/net" % pid, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(fd, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.bind(("eth0", 3))
    ends.append(raw)
print("laid", flush=True)
while True:
    for end in select.select(ends, [], [])[0]:
        frame, at = end.recvfrom(70000)
        if at[2] != 4:
            try:
                ends[end is ends[0]].send(frame)
            except OSError:
                pass
"#;

#[test]
fn a_loop_is_no_harm_to_others() {
    netns::inside(|world| {
        if !netns::have("python3") {
            return;
        }
        let (daemon, [a, b, c, d]) = bridges(world, "", ["a", "b", "c", "d"]);
        daemon.ok("policy set front --sandbox c");
        daemon.ok("policy set front --sandbox d");
        let script = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(script.path(), CABLE).unwrap();
        let mut cable = std::process::Command::new("python3");
        cable.arg(script.path());
        cable.args([a.pid, b.pid].map(|pid| pid.to_string()));
        let mut cable = Running::start(&world.host, &mut cable);
        // Broadcasts of c come back from both ends, and go no further.
        wait::until("the cable is laid", SOON, || {
            assert!(!cable.has_ended(), "{:?}", cable.end(SOON));
            c.sh("ip neigh flush dev eth0; ping -n -c 1 -W 1 10.7.0.99");
            daemon.drops("loop-guard") > 0
        });
        assert!(c.pings("10.7.0.5") && d.pings("10.7.0.4") && d.pings("10.7.0.1"));
        // A station on the cable is seen at both ends in turn, and held at one.
        wait::until("it is held", SOON, || {
            send(&a, ALL, STATION, 1);
            send(&b, ALL, STATION, 1);
            station(&daemon, STATION).is_some_and(|row| row["held"] == true)
        });
        assert!(c.pings("10.7.0.5") && d.pings("10.7.0.4"));
    });
}
