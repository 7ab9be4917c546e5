//! A sealed overlay when things go wrong: hosts that move, ways that shrink, and those who forge, replay and lie.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::daemon::Place;
use crate::support::hosts::{HOSTS, Pair, SEALED, Wire, peer, peer_drops, reach, send_as};
use crate::support::netns::{self, FAR, HOST, OUTSIDE, World};
use crate::support::wait::{self, SOON};
use crate::support::{guest, servers};

/// Another address of the second host.
const MOVED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);

/// A connection that says a word and hears it back.
struct Talk(std::net::TcpStream);

impl Talk {
    #[track_caller]
    fn begin(web: &Place, db: &Place) -> Self {
        let at = servers::tcp(&db.net, ([10, 9, 1, 2], 0), |mut stream, _| {
            let mut word = [0; 4];
            while stream.read_exact(&mut word).is_ok() {
                stream.write_all(&word)?;
            }
            Ok(())
        });
        Self(guest::connect(&web.net, at).unwrap())
    }

    #[track_caller]
    fn says(&mut self, word: &[u8; 4]) {
        self.0.write_all(word).unwrap();
        let mut back = [0; 4];
        self.0.read_exact(&mut back).unwrap();
        assert_eq!(&back, word);
    }
}

#[test]
fn a_host_whose_address_changes_is_followed() {
    netns::inside(|world| {
        let pair = Pair::met(world, &[]);
        let [web, db] = pair.furnish();
        let mut talk = Talk::begin(&web, &db);
        talk.says(b"one.");
        let endpoint = || peer(&pair.a)["endpoint"].clone();
        assert_eq!(endpoint(), format!("{FAR}:{SEALED}"));
        world.far.set("net/ipv4/conf/all/promote_secondaries", "1");
        world.far.ip(&format!(
            "addr add {MOVED}/24 dev eth0\naddr del {FAR}/24 dev eth0\nroute replace default via 198.51.100.1"
        ));
        // The one that is asked first here does not know where the other is.
        talk.says(b"two.");
        wait::until("it is followed", SOON, || {
            endpoint() == format!("{MOVED}:{SEALED}")
        });
        talk.says(b"thr.");
        assert_eq!(peer(&pair.a)["state"], "up");
    });
}

/// Halves of a transfer with a change of the way between them.
#[track_caller]
fn shrinks(world: &World, shrink: &str, at: &netns::Namespace) {
    const BYTES: usize = 24 << 20;
    let pair = Pair::met(world, &[]);
    let [web, db] = pair.furnish();
    wait::until("the way is known", SOON, || {
        [&pair.a, &pair.b].iter().all(|d| peer(d)["mtu"] == 1418)
    });
    let to = servers::tcp(&db.net, ([10, 9, 1, 2], 0), |mut stream, _| {
        let (mut up, mut down) = (guest::Pattern::new(1), guest::Pattern::new(2));
        for _ in 0..2 {
            up.expect(&mut stream, BYTES)?;
            down.send(&mut stream, BYTES)?;
        }
        Ok(())
    });
    let mut stream = guest::connect(&web.net, to).unwrap();
    let (mut up, mut down) = (guest::Pattern::new(1), guest::Pattern::new(2));
    up.send(&mut stream, BYTES).unwrap();
    down.expect(&mut stream, BYTES).unwrap();
    at.ip(shrink);
    up.send(&mut stream, BYTES).unwrap();
    down.expect(&mut stream, BYTES).unwrap();
    for daemon in [&pair.a, &pair.b] {
        wait::until("the smaller MTU is told", SOON, || {
            peer(daemon)["mtu"]
                .as_u64()
                .is_some_and(|mtu| mtu < 1300 - 70)
        });
    }
    // A packet that is too big is answered with what fits.
    let said = web.sh("ping -n -c 2 -W 2 -M do -s 1372 10.9.1.2");
    let text = said.stdout + &said.stderr;
    assert!(
        text.contains("mtu") || text.contains("Frag needed"),
        "{text}"
    );
    assert!(web.sh("ping -n -c 3 -W 2 -M do -s 1100 10.9.1.2").status == 0);
}

#[test]
fn a_way_that_shrinks_stops_no_transfer() {
    netns::inside(|world| {
        // A router says so on one way, the host's own link on the other.
        let path = "link set far0 mtu 1300";
        world.far.ip("link set eth0 mtu 1500");
        shrinks(world, path, &world.outside);
    });
}

/// Has a router tell nobody what is too big for it. False where that cannot be.
fn falls_silent(router: &netns::Namespace) -> bool {
    let rules = "nft add table inet t && \
                 nft 'add chain inet t o { type filter hook output priority 0; }' && \
                 nft add rule inet t o icmp type destination-unreachable drop";
    let done = router.enter(|| Command::new("sh").args(["-c", rules]).status());
    let silent = done.is_ok_and(|status| status.success());
    if !silent {
        netns::without("nft in a namespace");
    }
    silent
}

#[test]
fn a_slow_flow_outlives_a_way_that_shrinks_without_a_word() {
    netns::inside(|world| {
        if !falls_silent(&world.outside) {
            return;
        }
        let pair = Pair::met(world, &[]);
        let places = pair.furnish();
        let daemons = [&pair.a, &pair.b];
        wait::until("the way is known", SOON, || {
            daemons.iter().all(|d| peer(d)["mtu"] == 1418)
        });
        let [web, db] = &places;
        // One each way: who only answers would have to wait for the other.
        let flows = [(web, db, [10, 9, 1, 2]), (db, web, [10, 9, 0, 2])];
        let mut flows = flows.map(|(from, to, ip)| {
            let (at, _) = servers::udp_echo(&to.net, (ip, 0));
            let socket = guest::udp(&from.net, at.ip(), Duration::from_millis(100));
            socket.connect(at).unwrap();
            (socket, 0_u64)
        });
        let mut each_answered = || {
            let answered = flows.each_mut().map(|(socket, number)| {
                *number += 1;
                let mut data = [7; 1380];
                data[..8].copy_from_slice(&number.to_le_bytes());
                let mut back = [0; 1400];
                // A sandbox's own kernel may say that it is too large, and then cuts it.
                let sent = socket.send(&data).is_ok();
                // Answers that were not waited for any more come first.
                let mut comes = std::iter::from_fn(|| {
                    let len = socket.recv(&mut back).ok()?;
                    Some(back[..len] == data)
                });
                sent && comes.any(|same| same)
            });
            answered == [true; 2]
        };
        for _ in 0..10 {
            wait::until("it is answered", SOON, &mut each_answered);
        }
        world
            .outside
            .ip("link set out0 mtu 1300\nlink set far0 mtu 1300");
        assert!(!each_answered(), "it is too narrow");
        wait::until("it is answered again", SOON, &mut each_answered);
        for daemon in daemons {
            let mtu = || peer(daemon)["mtu"].as_u64();
            wait::until("the smaller MTU is known", SOON, || {
                mtu().is_some_and(|mtu| (1300 - 85..=1300 - 82).contains(&mtu))
            });
            assert!(daemon.log().contains("are lost on the way there without"));
        }
    });
}

/// A datagram from the sandbox on `b` to a counter on `a`, as it passed between the hosts.
fn caught(wire: &Wire) -> Vec<Vec<u8>> {
    let [a, b] = HOSTS;
    wire.datagrams(b, a, SEALED)
}

#[test]
fn what_is_replayed_or_forged_enters_nothing() {
    netns::inside(|world| {
        let wire = Wire::tap(&world.outside);
        let pair = Pair::met(world, &["--workers", "2"]);
        let [web, db] = pair.furnish();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        let (at, _) = servers::udp(&web.net, ([10, 9, 0, 2], 0), move |data, _| {
            hears.lock().unwrap().push(data.to_vec());
            data.to_vec()
        });
        // No two say the same: what comes twice was said again by another.
        let mut said = 0_u32;
        let mut says = || {
            let answered = wait::value("an answer", SOON, || {
                said += 1;
                let socket = guest::udp(&db.net, at.ip(), SOON);
                let answer = guest::try_ask(&socket, at, &said.to_be_bytes(), 1);
                answer.ok()
            });
            assert_eq!(answered, said.to_be_bytes());
        };
        says();
        let all = caught(&wire);
        let of = |kind: u8| all.iter().filter(move |d| d.first() == Some(&kind));
        let data: Vec<_> = of(4).cloned().collect();
        assert!(
            data.len() > 2 && of(1).count() > 0,
            "{} datagrams",
            all.len()
        );
        let sum = |reason: &str| pair.a.drops(reason);
        let send = |from: Ipv4Addr, bytes: &[u8]| {
            send_as(&world.outside, (from, SEALED), (HOST, SEALED), bytes);
        };
        // Each of them again, in its own name and from elsewhere.
        for bytes in &data {
            send(FAR, bytes);
            send(OUTSIDE, bytes);
        }
        let twice = 2 * data.len() as u64;
        wait::until("what was there is known", SOON, || {
            sum("replayed") + sum("no-key") >= twice
        });
        assert!(sum("replayed") > 0);
        // With a bit turned: in the counter, so that it is new; in the payload; in the tag; and cut short.
        let last = data.last().unwrap();
        for place in [9, 12, 17, last.len() - 1] {
            let mut bytes = last.clone();
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 0x40;
            }
            send(FAR, &bytes);
            bytes.truncate(place);
            send(FAR, &bytes);
        }
        wait::until("it is seen that they are forged", SOON, || {
            sum("forged") >= 2
        });
        // A session that nobody has; handshakes from before; noise.
        let mut strange = last.clone();
        if let Some(byte) = strange.get_mut(5) {
            *byte ^= 0x55;
        }
        let before = sum("no-key");
        send(FAR, &strange);
        wait::until("nobody has its key", SOON, || sum("no-key") > before);
        for bytes in all.iter().filter(|d| d.first() != Some(&4)) {
            send(FAR, bytes);
            send(OUTSIDE, bytes);
        }
        for len in 0..200 {
            send(OUTSIDE, &vec![u8::try_from(len % 7).unwrap(); len]);
        }
        says();
        let all = heard.lock().unwrap().clone();
        let each: BTreeSet<_> = all.iter().collect();
        assert_eq!(each.len(), all.len(), "what was replayed came through");
        let row = peer(&pair.a);
        assert_eq!(row["endpoint"], format!("{FAR}:{SEALED}"), "{row}");
        assert_eq!(row["state"], "up");
        reach(&web, "10.9.1.2");
    });
}

#[test]
fn an_endpoint_of_another_host_speaks_for_itself_alone() {
    netns::inside(|world| {
        let pair = Pair::met(world, &[]);
        let [web, db] = pair.furnish();
        let other = pair.a.connected("other", &["mesh"]);
        // Its own host does not stop it.
        pair.b.ok("policy set mesh --no-spoof-guard");
        let before = |reason: &str| peer_drops(&pair.a, reason);
        // A station that nobody has announced.
        db.net.ip("link set eth0 address 02:00:00:00:00:66");
        db.sh("arping -c 1 -I eth0 10.9.0.2; ip neigh flush dev eth0; ping -n -c 2 -W 1 10.9.0.2");
        wait::until("an unknown MAC is refused", SOON, || {
            let reasons = ["spoofed", "spoofed-arp", "spoofed-address"];
            reasons.iter().any(|reason| before(reason) > 0)
        });
        let shown = pair.b.json("endpoint inspect mesh db");
        let mac = shown["mac"].as_str().unwrap().to_owned();
        db.net.ip(&format!("link set eth0 address {mac}"));
        // The address of a sandbox of the other host, and one that nobody has.
        for address in ["10.9.0.3", "10.9.7.7"] {
            let (arp, ip) = (before("spoofed-arp"), before("spoofed-address"));
            db.net.ip(&format!("addr add {address}/21 dev eth0"));
            db.sh(&format!("ping -n -c 2 -W 1 -I {address} 10.9.0.2"));
            wait::until("a borrowed address is refused", SOON, || {
                before("spoofed-arp") + before("spoofed-address") > arp + ip
            });
            db.net.ip(&format!("addr del {address}/21 dev eth0"));
        }
        reach(&db, "10.9.0.2");
        assert!(web.pings("10.9.0.3") && other.pings("10.9.0.2"));
    });
}
