//! TCP out of the sandbox: not a byte lost, and errors that are those of the host.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;

use crate::support::guest::{self, Pattern};
use crate::support::netns::{self, BOTH, FAR, FAR6, HOST, Namespace, OUTSIDE};
use crate::support::servers;
use crate::support::weft::Sandbox;

/// A connection from `from` to a listener at `ip`: its two ends.
fn pair(from: &Namespace, at: &Namespace, ip: IpAddr) -> (TcpStream, TcpStream) {
    let listener = at.enter(|| TcpListener::bind((ip, 0))).unwrap();
    let client = guest::connect(from, listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(60)))
            .unwrap();
    }
    (client, server)
}

#[test]
fn a_page_is_fetched() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        for ip in BOTH {
            guest::fetch(&sandbox.net, servers::http(&world.outside, (ip, 0)));
        }
        for ip in [IpAddr::from(FAR), FAR6.into()] {
            guest::fetch(&sandbox.net, servers::http(&world.far, (ip, 0)));
        }
        // The outside sees the host.
        let page = guest::fetch(&sandbox.net, servers::http(&world.outside, (OUTSIDE, 0)));
        assert_eq!(page, format!("hello {HOST}"));
    });
}

#[test]
fn a_real_client_fetches_a_page() {
    netns::inside(|world| {
        if !netns::have("curl") {
            return;
        }
        for ip in BOTH {
            let url = format!("http://{}/", servers::http(&world.outside, (ip, 0)));
            let page = world
                .run(&[], &["curl", "-sS", "--max-time", "20", &url])
                .ok();
            assert!(page.starts_with("hello "), "{page}");
        }
    });
}

#[test]
fn a_refusal_is_a_refusal() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        for ip in BOTH {
            let begin = Instant::now();
            let error = guest::connect(&sandbox.net, (ip, 9).into()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{ip}");
            assert!(begin.elapsed() < Duration::from_secs(5), "at once");
        }
    });
}

#[test]
fn the_unreachable_is_unreachable() {
    netns::inside(|world| {
        world
            .outside
            .ip("route add unreachable 203.0.113.0/24\nroute add unreachable 2001:db8:9::/64\n");
        let sandbox = world.sandbox(&[]);
        for ip in [
            IpAddr::from([203, 0, 113, 1]),
            "2001:db8:9::1".parse().unwrap(),
        ] {
            let begin = Instant::now();
            let error = guest::connect(&sandbox.net, (ip, 80).into()).unwrap_err();
            let kinds = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
            assert!(kinds.contains(&error.kind()), "{ip}: {error}");
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "{ip}: before the time-out"
            );
        }
    });
}

#[test]
fn a_host_without_a_route_says_so_at_once() {
    netns::inside(|world| {
        world
            .host
            .ip("route del default via 192.0.2.1\nroute del default via 2001:db8:1::1\n");
        let sandbox = world.sandbox(&[]);
        for ip in [IpAddr::from(FAR), FAR6.into()] {
            let begin = Instant::now();
            let error = guest::connect(&sandbox.net, (ip, 80).into()).unwrap_err();
            let kinds = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
            assert!(kinds.contains(&error.kind()), "{ip}: {error}");
            assert!(begin.elapsed() < Duration::from_secs(5), "{ip}: at once");
        }
        // And follows the host when it has one again.
        world.host.ip(&format!("route add default via {OUTSIDE}"));
        guest::fetch(&sandbox.net, servers::http(&world.far, (FAR, 0)));
    });
}

#[test]
fn the_syn_is_answered_only_by_the_servers() {
    netns::inside(|world| {
        // A host that takes packets and says nothing.
        world.outside.ip("route add blackhole 203.0.113.0/24");
        let sandbox = world.sandbox(&[]);
        let to = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 1), 80));
        let result = sandbox
            .net
            .enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn each_side_may_end_first() {
    // What the buffers on the way hold, for nobody reads meanwhile.
    const LEN: usize = 64 * 1024;
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        for ip in BOTH {
            let (mut client, mut server) = pair(&sandbox.net, &world.outside, ip);
            client.write_all(b"last words").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut said = String::new();
            server.read_to_string(&mut said).unwrap();
            assert_eq!(said, "last words");
            // The other direction goes on, for as long as it likes.
            Pattern::new(1).send(&mut server, LEN).unwrap();
            drop(server);
            Pattern::new(1).expect(&mut client, LEN).unwrap();
            guest::expect_end(&mut client);

            let (mut client, mut server) = pair(&sandbox.net, &world.outside, ip);
            server.write_all(b"bye").unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            said.clear();
            client.read_to_string(&mut said).unwrap();
            assert_eq!(said, "bye");
            Pattern::new(2).send(&mut client, LEN).unwrap();
            drop(client);
            Pattern::new(2).expect(&mut server, LEN).unwrap();
            guest::expect_end(&mut server);
        }
    });
}

#[test]
fn a_reset_reaches_the_other_side() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        for ip in BOTH {
            let (client, mut server) = pair(&sandbox.net, &world.outside, ip);
            SockRef::from(&client)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(client);
            let error = server.read(&mut [0; 8]).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::ConnectionReset,
                "from the sandbox, {ip}"
            );

            let (mut client, server) = pair(&sandbox.net, &world.outside, ip);
            SockRef::from(&server)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(server);
            let error = client.read(&mut [0; 8]).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::ConnectionReset,
                "from outside, {ip}"
            );
        }
    });
}

/// Sends `len` bytes both ways at once and checks each.
fn exchange(client: &TcpStream, server: &TcpStream, len: usize) -> io::Result<()> {
    let send = |stream: &TcpStream, seed| -> io::Result<()> {
        Pattern::new(seed).send(&mut { stream }, len)?;
        stream.shutdown(Shutdown::Write)
    };
    let receive = |stream: &TcpStream, seed| -> io::Result<()> {
        Pattern::new(seed).expect(&mut { stream }, len)?;
        guest::expect_end(&mut { stream });
        Ok(())
    };
    thread::scope(|scope| {
        let threads = [
            scope.spawn(move || send(client, 11)),
            scope.spawn(move || send(server, 22)),
            scope.spawn(move || receive(server, 11)),
            scope.spawn(move || receive(client, 22)),
        ];
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap())
    })
}

#[test]
fn bulk_both_ways_is_exact() {
    netns::inside(|world| {
        for mtu in ["1500", "9000", "1280"] {
            let sandbox = world.sandbox(&["--mtu", mtu]);
            for ip in BOTH {
                let (client, server) = pair(&sandbox.net, &world.outside, ip);
                exchange(&client, &server, 64 << 20)
                    .unwrap_or_else(|error| panic!("{ip}, MTU {mtu}: {error}"));
            }
            sandbox.weft.stop();
        }
    });
}

/// Makes the sandbox's side of the link lose packets, both ways. False if the machine has no means.
fn lossy(sandbox: &Sandbox) -> bool {
    // Without offload each segment is lost alone.
    sandbox.exec(&[
        "ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off",
    ]);
    // netem reorders and doubles too, but not every kernel has it.
    let netem = "tc qdisc add dev eth0 root netem delay 2ms 1ms loss 1% duplicate 1% reorder 5%";
    let drops = "nft add table inet t && for hook in input output; do \
                 nft \"add chain inet t $hook { type filter hook $hook priority 0; }\" && \
                 nft add rule inet t $hook meta l4proto tcp numgen random mod 100 '<' 1 drop || exit 1; done";
    let netem = sandbox.exec(&["sh", "-c", netem]).status == 0;
    let drops = sandbox.exec(&["sh", "-c", drops]).status == 0;
    netem || drops
}

#[test]
fn bulk_survives_a_bad_link() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        if !lossy(&sandbox) {
            netns::without("tc netem or nft numgen");
            return;
        }
        for ip in BOTH {
            let (client, server) = pair(&sandbox.net, &world.outside, ip);
            exchange(&client, &server, 8 << 20).unwrap_or_else(|error| panic!("{ip}: {error}"));
        }
    });
}

#[test]
fn a_reader_that_sleeps_stops_the_writer_and_loses_nothing() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        for up in [true, false] {
            let (client, server) = pair(&sandbox.net, &world.outside, OUTSIDE.into());
            let (mut writer, mut reader) = if up {
                (client, server)
            } else {
                (server, client)
            };
            writer
                .set_write_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            // Until nothing moves any more: all windows are closed.
            let piece = vec![7_u8; 64 * 1024];
            let mut sent = 0_u64;
            loop {
                match writer.write(&piece) {
                    Ok(n) => sent += u64::try_from(n).unwrap(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => panic!("{error}"),
                }
                assert!(
                    sent < 256 << 20,
                    "weft holds without bound what nobody reads"
                );
            }
            drop(writer);
            let received = io::copy(&mut reader, &mut io::sink()).unwrap();
            assert_eq!(received, sent);
        }
    });
}

#[test]
fn a_thousand_connections_at_once() {
    netns::inside(|world| {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let (done, answered) = mpsc::channel();
        let to = servers::tcp(&world.outside, (OUTSIDE, 0), |mut stream, _| {
            let mut word = [0; 8];
            stream.read_exact(&mut word)?;
            stream.write_all(&word)
        });
        let sandbox = world.sandbox(&[]);
        let streams: Vec<_> = sandbox.net.enter(|| {
            (0..1000)
                .map(|_| TcpStream::connect_timeout(&to, Duration::from_secs(20)).unwrap())
                .collect()
        });
        // All are open before the first says a word.
        for (n, mut stream) in (0_u64..).zip(streams) {
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            stream.write_all(&n.to_be_bytes()).unwrap();
            let mut word = [0; 8];
            stream.read_exact(&mut word).unwrap();
            done.send(u64::from_be_bytes(word) == n).unwrap();
        }
        drop(done);
        assert_eq!(answered.iter().filter(|&same| same).count(), 1000);
    });
}

#[test]
fn an_idle_connection_stays() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&[]);
        let (mut client, mut server) = pair(&sandbox.net, &world.outside, OUTSIDE.into());
        // Others come and go meanwhile.
        let page = servers::http(&world.outside, (OUTSIDE, 0));
        for _ in 0..200 {
            guest::fetch(&sandbox.net, page);
        }
        client.write_all(b"still").unwrap();
        let mut word = [0; 5];
        server.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"still");
    });
}
