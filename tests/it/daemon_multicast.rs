//! The daemon: multicast goes to the sandboxes that have joined, as their kernels report it.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::net::if_::if_nametoindex;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::daemon::{Daemon, Place, Who};
use crate::support::netns;
use crate::support::wait::{self, SOON};

const FRONT: &str = "network create front --subnet 10.7.0.0/24 --subnet6 fd07::/64";
const PORT: u16 = 5000;
const GROUPS: [&str; 2] = ["239.1.2.3", "ff15::1234"];

/// A sandbox that may send, join, and see every frame that reaches it.
struct Station {
    place: Place,
    v4: Ipv4Addr,
    index: u32,
    frames: Socket,
}

impl Station {
    fn new(place: Place, v4: [u8; 4]) -> Self {
        let (index, frames) = place.net.enter(|| {
            let all = Protocol::from(i32::from(u16::to_be(0x0003)));
            let frames = Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap();
            frames.set_read_timeout(Some(SOON)).unwrap();
            (if_nametoindex("eth0").unwrap(), frames)
        });
        Self {
            place,
            v4: v4.into(),
            index,
            frames,
        }
    }

    fn sends(&self, like: IpAddr) -> UdpSocket {
        let any: SocketAddr = if like.is_ipv4() {
            (self.v4, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = self.place.net.enter(|| UdpSocket::bind(any).unwrap());
        let option = socket2::SockRef::from(&socket);
        if like.is_ipv4() {
            option.set_multicast_if_v4(&self.v4).unwrap();
        } else {
            option.set_multicast_if_v6(self.index).unwrap();
        }
        socket
    }

    /// Joins a group; leaves with the socket.
    fn joins(&self, group: IpAddr) -> UdpSocket {
        self.place.net.enter(|| match group {
            IpAddr::V4(group) => {
                let socket = UdpSocket::bind((group, PORT)).unwrap();
                socket.join_multicast_v4(&group, &self.v4).unwrap();
                socket
            }
            IpAddr::V6(group) => {
                let socket = UdpSocket::bind((group, PORT)).unwrap();
                socket.join_multicast_v6(&group, self.index).unwrap();
                socket
            }
        })
    }

    /// Asks who wants which group, as a router does.
    fn asks(&self) {
        let igmp = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).unwrap();
        let socket = self.place.net.enter(igmp);
        socket.set_multicast_if_v4(&self.v4).unwrap();
        let query = [0x11, 100, 0xee, 0x9b, 0, 0, 0, 0];
        let all: SocketAddr = ([224, 0, 0, 1], 0).into();
        socket.send_to(&query, &all.into()).unwrap();
    }

    /// Drops the frames that wait, for they leave no room for others.
    fn forgets(&self) {
        self.frames.set_nonblocking(true).unwrap();
        while (&self.frames).read(&mut [0; 2048]).is_ok() {}
        self.frames.set_nonblocking(false).unwrap();
    }

    /// Reads frames until one ends with `last`. True if one before it ended with `wanted`.
    #[track_caller]
    fn sees(&self, wanted: &[u8], last: &[u8]) -> bool {
        let mut seen = false;
        let mut buffer = [0; 2048];
        loop {
            let length = (&self.frames).read(&mut buffer).unwrap();
            let frame = &buffer[..length];
            if frame.ends_with(last) {
                return seen;
            }
            seen |= frame.ends_with(wanted);
        }
    }
}

/// A network of three stations on two workers, and what one of them sends.
struct Field {
    stations: [Station; 3],
    sent: std::cell::Cell<u32>,
}

impl Field {
    fn new(daemon: &Daemon<'_>) -> Self {
        Self::on(daemon, ["a", "b", "c"], 2, "")
    }

    /// One whose stations have these names, addresses from here on, and these options.
    fn on(daemon: &Daemon<'_>, names: [&str; 3], first: u8, options: &str) -> Self {
        let mut last = first;
        let stations = names.map(|name| {
            let place = daemon.sandbox();
            let (pid, ip) = (place.pid, Ipv4Addr::new(10, 7, 0, last));
            daemon.ok(&format!(
                "endpoint connect front {pid} --name {name} --ip {ip} {options}"
            ));
            last += 1;
            Station::new(place, ip.octets())
        });
        Self {
            stations,
            sent: 0.into(),
        }
    }

    /// Whether the second and the third station get what the first one sends to a group. Behind it goes what
    /// everybody gets, so that nobody has to wait for what does not come.
    fn reached(&self, group: IpAddr) -> [bool; 2] {
        let number = self.sent.replace(self.sent.get() + 1);
        let (data, fence) = (format!("data {number}."), format!("fence {number}."));
        let [a, rest @ ..] = &self.stations;
        let all: IpAddr = match group {
            IpAddr::V4(_) => [224, 0, 0, 250].into(),
            IpAddr::V6(_) => "ff02::fa".parse().unwrap(),
        };
        let socket = a.sends(group);
        socket.send_to(data.as_bytes(), (group, PORT)).unwrap();
        socket.send_to(fence.as_bytes(), (all, PORT)).unwrap();
        rest.each_ref()
            .map(|station| station.sees(data.as_bytes(), fence.as_bytes()))
    }

    #[track_caller]
    fn settles(&self, what: &str, group: IpAddr, wanted: [bool; 2]) {
        wait::settled(&format!("{group}: {what}"), &wanted, SOON, || {
            self.reached(group)
        });
    }
}

fn groups() -> [IpAddr; 2] {
    GROUPS.map(|g| g.parse().unwrap())
}

/// The members that the daemon shows.
fn members(daemon: &Daemon<'_>) -> Vec<(String, String)> {
    let shown = daemon.json("show groups --network front")["members"].take();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows = shown.as_array().unwrap().iter();
    rows.map(|row| (text(row, "group"), text(row, "sandbox_name")))
        .collect()
}

#[test]
fn who_joins_gets_it_and_nobody_else() {
    netns::inside(|world| {
        let mut daemon = Daemon::new(world, Who::Root);
        daemon.start(&["--workers", "2"]);
        daemon.ok(FRONT);
        let field = Field::new(&daemon);
        let [_, b, c] = &field.stations;
        for group in groups() {
            field.settles(
                "everybody was asked, and nobody wants it",
                group,
                [false; 2],
            );
            let member = b.joins(group);
            field.settles("one has joined", group, [true, false]);
            member.set_read_timeout(Some(SOON)).unwrap();
            let got = member.recv(&mut [0; 64]).unwrap();
            assert!(got > 0, "its program has it");
            let row = (group.to_string(), "b".to_owned());
            assert_eq!(members(&daemon), [row]);
            let second = c.joins(group);
            field.settles("two have", group, [true, true]);
            assert_eq!(members(&daemon).len(), 2);
            drop(second);
            field.settles("one of them has left", group, [true, false]);
            drop(member);
            field.settles("the other one too", group, [false, false]);
            assert_eq!(members(&daemon), []);
        }
        assert!(daemon.drops("no-member") > 0);
    });
}

/// The gateway asks on VLANs, too, though it is not there, and what was joined on one is not sent on another.
#[test]
fn each_vlan_has_its_members() {
    netns::inside(|world| {
        let mut daemon = Daemon::new(world, Who::Root);
        daemon.start(&["--workers", "2"]);
        daemon.ok(FRONT);
        let own = Field::new(&daemon);
        let ten = Field::on(&daemon, ["d", "e", "f"], 10, "--vlan 10");
        // What has no tag is the VLAN's own at a trunk.
        let twenty = Field::on(&daemon, ["g", "h", "i"], 20, "--trunk 10 --native 20");
        let fields = [&own, &ten, &twenty];
        for group in groups() {
            for field in fields {
                field.settles("they were asked, and nobody wants it", group, [false; 2]);
            }
            let _member = ten.stations[1].joins(group);
            ten.settles("one has joined", group, [true, false]);
            assert_eq!(own.reached(group), [false; 2]);
            assert_eq!(twenty.reached(group), [false; 2]);
            let _second = twenty.stations[2].joins(group);
            twenty.settles("one has joined there", group, [false, true]);
            assert_eq!(ten.reached(group), [true, false]);
            let shown = daemon.json("show groups --network front")["members"].take();
            let address = group.to_string();
            let rows = shown.as_array().unwrap().iter();
            let rows = rows.filter(|row| row["group"] == *address);
            let rows = rows.map(|row| {
                (
                    row["vlan"].as_u64().unwrap(),
                    row["sandbox_name"].as_str().unwrap(),
                )
            });
            assert_eq!(rows.collect::<Vec<_>>(), [(10, "e"), (20, "i")]);
        }
        // The gateway has no address there: a router asks in its place, and gets all of its VLAN.
        let queriers = || {
            let mut shown = daemon.json("show groups --network front")["queriers"].take();
            let rows = shown.as_array_mut().unwrap().iter_mut();
            let igmp = rows.filter(|row| row["protocol"] == "igmp");
            let each = igmp.map(|row| {
                ["vlan", "address", "sandbox_name"].map(|key| row[key].take().to_string())
            });
            each.map(|row| row.join(" ")).collect::<Vec<_>>()
        };
        let before = [
            r#"1 "10.7.0.1" """#,
            r#"10 "0.0.0.0" """#,
            r#"20 "0.0.0.0" """#,
        ];
        assert_eq!(queriers(), before);
        daemon.ok("policy set front --sandbox f --no-spoof-guard");
        ten.stations[2].asks();
        let [group, _] = groups();
        ten.settles("who asks gets all", group, [false, true]);
        assert_eq!(queriers(), [before[0], r#"10 "10.7.0.12" "f""#, before[2]]);
        assert_eq!(twenty.reached(group), [false; 2]);
        assert_eq!(own.reached(group), [false; 2]);
    });
}

#[test]
fn what_goes_to_members_alone_does_not_count_as_broadcast() {
    const COUNT: usize = 200;
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let field = Field::new(&daemon);
        let [a, b, _] = &field.stations;
        let [group, _] = groups();
        let member = b.joins(group);
        field.settles("one has joined", group, [true, false]);
        member.set_nonblocking(true).unwrap();
        while member.recv(&mut [0; 64]).is_ok() {}
        member.set_nonblocking(false).unwrap();
        member.set_read_timeout(Some(SOON)).unwrap();
        daemon.ok("policy set front --sandbox a --limit broadcast=1:5");
        let socket = a.sends(group);
        for _ in 0..COUNT {
            socket.send_to(b"to members", (group, PORT)).unwrap();
            let got = member.recv(&mut [0; 64]);
            assert_eq!(got.unwrap(), 10, "{}", daemon.ok("show drops"));
        }
        // What everybody gets is a storm soon.
        let link = (Ipv4Addr::new(224, 0, 0, 250), PORT);
        for _ in 0..COUNT {
            socket.send_to(b"to all", link).unwrap();
        }
        wait::until("it is a storm", SOON, || daemon.drops("storm") > 0);
    });
}

#[test]
fn the_earlier_versions_of_the_protocols_are_heard() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let field = Field::new(&daemon);
        let [_, b, _] = &field.stations;
        for (key, version) in [("igmp", 2), ("igmp", 1), ("mld", 1)] {
            let (v4, group) = (key == "igmp", groups()[usize::from(key == "mld")]);
            let family = if v4 { "ipv4" } else { "ipv6" };
            let key = format!("net/{family}/conf/eth0/force_{key}_version");
            b.place.net.set(&key, &version.to_string());
            field.settles("nobody wants it", group, [false; 2]);
            let member = b.joins(group);
            field.settles(&format!("{key} {version}"), group, [true, false]);
            drop(member);
            // The first version of IGMP has no word for leaving.
            if version != 1 || !v4 {
                field.settles("it has left", group, [false; 2]);
            }
        }
    });
}

#[test]
fn members_are_known_again_after_a_death() {
    netns::inside(|world| {
        let mut daemon = Daemon::new(world, Who::Root);
        daemon.start(&["--workers", "2"]);
        daemon.ok(FRONT);
        let field = Field::new(&daemon);
        let _members = groups().map(|group| field.stations[1].joins(group));
        daemon.kill();
        daemon.start(&["--workers", "2"]);
        for group in groups() {
            field.settles("who was asked has answered", group, [true, false]);
        }
        assert_eq!(members(&daemon).len(), 2);
    });
}

#[test]
fn a_sandbox_cannot_ask_in_the_gateways_place() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let field = Field::new(&daemon);
        let [group, _] = groups();
        field.settles("nobody wants it", group, [false; 2]);
        let c = &field.stations[2];
        c.asks();
        wait::until("it is dropped", SOON, || daemon.drops("rogue-router") > 0);
        assert_eq!(field.reached(group), [false; 2], "it is no router");
        daemon.ok("policy set front --sandbox c --no-spoof-guard");
        c.asks();
        field.settles("one that may be a router gets all", group, [false, true]);
        let shown = daemon.json("show groups --network front");
        let router = &shown["routers"][0];
        assert_eq!(
            (&router["sandbox_name"], &router["vlan"]),
            (&"c".into(), &1.into())
        );
        assert!(
            (1..=255).contains(&router["expires"].as_u64().unwrap()),
            "{shown}"
        );
        let queriers = shown["queriers"].as_array().unwrap();
        let [igmp, mld] = &queriers[..] else {
            panic!("{shown}")
        };
        // The higher address is a router's, but asks in nobody's place.
        assert_eq!(
            (&igmp["address"], &igmp["own"]),
            (&"10.7.0.1".into(), &true.into())
        );
        assert!(igmp["asks"].as_u64().unwrap() <= 125 && igmp["expires"].is_null());
        assert_eq!(mld["protocol"], "mld");
        let text = daemon.ok("show groups");
        assert!(text.contains("router   igmp"), "{text}");
    });
}

#[test]
fn a_network_may_do_without() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        for (option, asked) in [("snooping=false", false), ("querier=false", true)] {
            daemon.ok(&format!("{FRONT} --opt {option}"));
            let network = daemon.json("network inspect front");
            assert_eq!(network["snooping"], asked);
            let field = Field::new(&daemon);
            for group in groups() {
                assert_eq!(field.reached(group), [true; 2], "{option}");
                let _member = field.stations[1].joins(group);
                assert_eq!(field.reached(group), [true; 2], "{option}");
            }
            for name in ["a", "b", "c"] {
                daemon.ok(&format!("endpoint disconnect front {name}"));
            }
            daemon.ok("network rm front");
        }
        let refused = daemon.weft("network create front --opt query-interval=0");
        assert!(refused.stderr.contains("query-interval"), "{refused:?}");
    });
}

#[test]
fn what_a_network_does_may_change_while_it_is_in_use() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let path = daemon.dir().join("weft.toml");
        let apply = |options: &str| {
            let subnets = "subnet = '10.7.0.0/24'\nsubnet6 = 'fd07::/64'";
            let text = format!("[[network]]\nname = 'front'\n{subnets}\nopt = [{options}]\n");
            std::fs::write(&path, text).unwrap();
            daemon.ok(&format!("apply {}", path.display()));
        };
        apply("'snooping=false'");
        let field = Field::new(&daemon);
        let _members = groups().map(|group| field.stations[1].joins(group));
        assert_eq!(field.reached(groups()[0]), [true; 2]);
        apply("'query-interval=3600'");
        for group in groups() {
            field.settles("members are asked", group, [true, false]);
        }
        apply("'querier=false'");
        for group in groups() {
            field.settles("nobody asks", group, [true; 2]);
        }
    });
}

#[test]
fn a_flood_of_joins_takes_nobody_elses_room() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        daemon.ok(FRONT);
        let field = Field::new(&daemon);
        let [group, _] = groups();
        let [_, b, c] = &field.stations;
        let socket = c
            .place
            .net
            .enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))).unwrap());
        socket.set_multicast_if_v4(&c.v4).unwrap();
        for number in 0..3000_u16 {
            let [x, y] = number.to_be_bytes();
            let rest = u32::from(u16::from_be_bytes([x, y])) + 0x1600 + 0xef07;
            let [high, low] = (!u16::try_from(rest % 0xffff).unwrap()).to_be_bytes();
            let report = [0x16, 0, high, low, 239, 7, x, y];
            let to: SocketAddr = ([239, 7, x, y], 0).into();
            socket.send_to(&report, &to.into()).unwrap();
        }
        wait::until("it has all that it may", SOON, || {
            daemon.drops("group-limit") > 0
        });
        assert_eq!(members(&daemon).len(), 64);
        c.forgets();
        let _member = b.joins(group);
        field.settles("the neighbour joins all the same", group, [true, false]);
        assert_eq!(members(&daemon).len(), 65);
        assert!(b.place.pings("10.7.0.4"), "both are well");
    });
}
