//! Two hosts with a daemon each, a router between them, and somebody who listens there and sends what he likes.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;

use etherparse::{IpNumber, Ipv4Header, UdpHeader};
use serde_json::Value;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::daemon::{Daemon, Place, Who};
use super::netns::{FAR, HOST, Namespace, World};
use super::wait::{self, SOON};
use super::{guest, servers};

/// The port of sealed datagrams.
pub(crate) const SEALED: u16 = 7348;

/// Frames that a listener keeps.
const KEPT: usize = 50_000;

/// A sealed network `mesh`, 10.9.0.0/21 and fd09::/64, of two hosts: `a`, which hands out 10.9.0.0/24, and `b`, which
/// hands out 10.9.1.0/24.
#[derive(Debug)]
pub(crate) struct Pair<'w> {
    /// The host that has invited the other.
    pub(crate) a: Daemon<'w>,
    /// The host that was invited.
    pub(crate) b: Daemon<'w>,
}

impl<'w> Pair<'w> {
    /// Two daemons, strangers to each other, with this as options of `weft up`.
    #[track_caller]
    pub(crate) fn strangers(world: &'w World, options: &[&str]) -> Self {
        let [a, b] = [&world.host, &world.far].map(|at| {
            let mut daemon = Daemon::on(at, Who::Root);
            daemon.start(options);
            daemon
        });
        Self { a, b }
    }

    /// Two that have met by an invite, and see each other.
    #[track_caller]
    pub(crate) fn met(world: &'w World, options: &[&str]) -> Self {
        let pair = Self::strangers(world, options);
        pair.a
            .ok("network create mesh --driver overlay --subnet 10.9.0.0/21 --subnet6 fd09::/64");
        pair.meet(HOST.into());
        pair
    }

    /// Has `a` invite `b` to come to this address.
    #[track_caller]
    pub(crate) fn meet(&self, to: IpAddr) {
        let line = self.a.ok(&format!("peer invite b --as a --endpoint {to}"));
        let line = line.trim().strip_prefix("weft ");
        self.b
            .ok(line.unwrap_or_else(|| panic!("a line to run: {line:?}")));
        self.settle();
    }

    /// Has both know each other by their keys, each with a network of its own making, and `more` said of a peer.
    #[track_caller]
    pub(crate) fn by_keys(&self, networks: [&str; 2], more: &str) {
        let [ours, theirs] = [self.a.key(), self.b.key()];
        for (daemon, network, key, at) in [
            (&self.a, networks[0], theirs, FAR),
            (&self.b, networks[1], ours, HOST),
        ] {
            daemon.ok(&format!("network create {network} --driver overlay"));
            daemon.ok(&format!(
                "peer add other --key {key} --endpoint {at} {more}"
            ));
        }
        self.settle();
    }

    /// Waits until both see each other.
    #[track_caller]
    pub(crate) fn settle(&self) {
        for daemon in [&self.a, &self.b] {
            wait::until("the peer is up", SOON, || peer(daemon)["state"] == "up");
        }
    }

    /// A sandbox `web` on `a` at 10.9.0.2, and a sandbox `db` on `b` at 10.9.1.2, each known on the other host.
    #[track_caller]
    pub(crate) fn furnish(&self) -> [Place; 2] {
        let [web, db] = [(&self.a, "web", "10.9.0.2"), (&self.b, "db", "10.9.1.2")].map(
            |(daemon, name, ip)| {
                let place = daemon.sandbox();
                let pid = place.pid;
                daemon.ok(&format!(
                    "endpoint connect mesh {pid} --name {name} --ip {ip}"
                ));
                place
            },
        );
        reach(&web, "10.9.1.2");
        reach(&db, "10.9.0.2");
        [web, db]
    }
}

/// Waits until a ping is answered.
#[track_caller]
pub(crate) fn reach(from: &Place, to: &str) {
    wait::until(&format!("{to} answers"), SOON, || from.pings_at_once(to));
}

/// Waits until a peer answers a probe, and its time is told.
#[track_caller]
pub(crate) fn answers(daemon: &Daemon<'_>, peer: &str) {
    wait::until(&format!("{peer} answers a probe"), SOON, || {
        let ended = daemon.weft(&format!("peer ping {peer}"));
        ended.status == 0 && ended.stdout.contains("ms")
    });
}

/// The IPv4 address of an endpoint.
#[track_caller]
pub(crate) fn address(daemon: &Daemon<'_>, network: &str, name: &str) -> String {
    let shown = daemon.json(&format!("endpoint inspect {network} {name}"));
    shown["v4"].as_str().unwrap().to_owned()
}

/// How the only peer of a daemon stands.
#[track_caller]
pub(crate) fn peer(daemon: &Daemon<'_>) -> Value {
    daemon.json("show peers")[0].take()
}

/// Waits until these words are in what is wrong with the only peer of a daemon, below its table, and in one line of its
/// log and no more.
#[track_caller]
pub(crate) fn told_once(daemon: &Daemon<'_>, words: &[&str]) {
    wait::settled(words[0], &Vec::<&str>::new(), SOON, || {
        let said = problems(daemon);
        let missing = words.iter().filter(|word| !said.contains(**word));
        missing.copied().collect()
    });
    let table = daemon.ok("show peers");
    assert!(words.iter().all(|word| table.contains(word)), "{table}");
    let log = daemon.log();
    let lines = log
        .lines()
        .filter(|line| words.iter().all(|w| line.contains(w)));
    assert_eq!(lines.count(), 1, "{words:?} in {log}");
}

/// What is wrong with the only peer of a daemon, in one text.
#[track_caller]
pub(crate) fn problems(daemon: &Daemon<'_>) -> String {
    peer(daemon)["problems"].to_string()
}

/// Frames and datagrams of the only peer of a daemon that were dropped for this reason.
#[track_caller]
pub(crate) fn peer_drops(daemon: &Daemon<'_>, reason: &str) -> u64 {
    let shown = peer(daemon);
    let mut rows = shown["drops"].as_array().unwrap().iter();
    let row = rows.find(|row| row["reason"] == reason);
    row.and_then(|row| row["frames"].as_u64()).unwrap_or(0)
}

/// Somebody who hears every frame that passes a host.
#[derive(Debug)]
pub(crate) struct Wire(Arc<Mutex<Vec<Vec<u8>>>>);

impl Wire {
    /// Begins to listen. It ends with the test.
    #[track_caller]
    pub(crate) fn tap(at: &Namespace) -> Self {
        let all = Protocol::from(i32::from(3_u16.to_be()));
        let socket = at.enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(all)));
        let mut socket = socket.unwrap();
        // A large frame is many small ones of a moment: they wait here.
        let _as_much_as_allowed = socket.set_recv_buffer_size(8 << 20);
        let kept = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&kept);
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 17];
            while let Ok(len) = socket.read(&mut buffer) {
                let mut heard = heard.lock().unwrap();
                if heard.len() < KEPT {
                    heard.push(buffer.get(..len).unwrap_or_default().to_vec());
                }
            }
        });
        Self(kept)
    }

    /// Whether these bytes stand in any frame.
    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        let frames = self.0.lock().unwrap();
        let mut frames = frames.iter();
        frames.any(|f| f.windows(bytes.len()).any(|w| w == bytes))
    }

    /// The payloads of datagrams over IPv4 from one host to the other's port, in their order.
    pub(crate) fn datagrams(&self, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<Vec<u8>> {
        let frames = self.0.lock().unwrap();
        let each = frames.iter().filter_map(|frame| {
            let headers = etherparse::PacketHeaders::from_ethernet_slice(frame).ok()?;
            let Some(etherparse::NetHeaders::Ipv4(ip, _)) = headers.net else {
                return None;
            };
            let Some(etherparse::TransportHeader::Udp(udp)) = headers.transport else {
                return None;
            };
            let ours = (ip.source, ip.destination, udp.destination_port)
                == (from.octets(), to.octets(), port);
            ours.then(|| headers.payload.slice().to_vec())
        });
        let mut all: Vec<_> = each.collect();
        // Each passes twice: in by one link, out by the other.
        all.dedup();
        all
    }
}

/// Sends a datagram in the name of another host.
#[track_caller]
pub(crate) fn send_as(at: &Namespace, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) {
    let raw = Some(Protocol::from(255));
    let socket = at.enter(|| Socket::new(Domain::IPV4, Type::RAW, raw));
    let len = u16::try_from(8 + payload.len()).unwrap();
    let ip = Ipv4Header::new(len, 64, IpNumber::UDP, from.0.octets(), to.0.octets());
    let udp = UdpHeader {
        source_port: from.1,
        destination_port: to.1,
        length: len,
        // None, which IPv4 allows.
        checksum: 0,
    };
    let mut packet = Vec::new();
    ip.unwrap().write(&mut packet).unwrap();
    udp.write(&mut packet).unwrap();
    packet.extend_from_slice(payload);
    let to = SockAddr::from(SocketAddr::from((to.0, 0)));
    socket.unwrap().send_to(&packet, &to).unwrap();
}

/// The hosts' addresses, of `a` and `b`.
pub(crate) const HOSTS: [Ipv4Addr; 2] = [HOST, FAR];

/// Sends so many bytes both ways over TCP, in both roles, and datagrams, that must arrive as they are.
#[track_caller]
pub(crate) fn transfer(
    bytes: usize,
    place: &Namespace,
    other: &Namespace,
    [here, there]: [IpAddr; 2],
) {
    for (client, server, to) in [(place, other, there), (other, place, here)] {
        let at = servers::tcp(server, (to, 0), move |mut stream, _| {
            guest::Pattern::new(1).expect(&mut stream, bytes)?;
            guest::Pattern::new(2).send(&mut stream, bytes)
        });
        let mut stream = guest::connect(client, at).unwrap();
        guest::Pattern::new(1).send(&mut stream, bytes).unwrap();
        guest::Pattern::new(2).expect(&mut stream, bytes).unwrap();
        let (at, _) = servers::udp_echo(server, (to, 0));
        let socket = guest::udp(client, to, SOON);
        // The second is larger than a packet of the network.
        for len in [1, 3000] {
            let data = vec![7; len];
            assert_eq!(guest::ask(&socket, at, &data), data);
        }
    }
}
