//! `--impair`: a bad link, and TCP over it: not a byte lost, doubled or moved.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::guest::{self, Pattern};
use crate::support::netns::{self, BOTH, OUTSIDE};
use crate::support::servers;
use crate::support::wait::SOON;
use crate::support::weft::{Running, Sandbox};

/// A stream that stands still for so long has stalled: the longest pause of a sender is shorter.
const STALL: Duration = Duration::from_secs(20);

/// How many bytes, and their SHA-256.
#[derive(Debug, PartialEq, Eq)]
struct Digest {
    bytes: u64,
    sha256: String,
}

/// Hashes what `work` writes. The program is not ours: what it says is evidence.
fn hashed(work: impl FnOnce(&mut dyn Write) -> io::Result<u64>) -> io::Result<Digest> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let bytes = work(&mut child.stdin.take().unwrap());
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let sha256 = said.split_whitespace().next().unwrap_or_default();
    Ok(Digest {
        bytes: bytes?,
        sha256: sha256.to_owned(),
    })
}

/// Writes to both.
struct Tee<'a>(&'a TcpStream, &'a mut dyn Write);

impl Write for Tee<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.0.write(data)?;
        self.1.write_all(data.get(..n).unwrap_or_default())?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn send(stream: &TcpStream, seed: u64, len: usize) -> io::Result<Digest> {
    let digest = hashed(|hash| {
        Pattern::new(seed).send(&mut Tee(stream, hash), len)?;
        Ok(len as u64)
    })?;
    stream.shutdown(Shutdown::Write)?;
    Ok(digest)
}

fn receive(mut stream: &TcpStream) -> io::Result<Digest> {
    hashed(|mut hash| io::copy(&mut stream, &mut hash))
}

/// Sends `len` bytes each way at once over one connection; each way's digests have to be equal.
#[track_caller]
fn bulk(world: &netns::World, sandbox: &Sandbox, ip: IpAddr, len: usize) {
    let listener = world.outside.enter(|| TcpListener::bind((ip, 0))).unwrap();
    let client = guest::connect(&sandbox.net, listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(STALL)).unwrap();
        stream.set_write_timeout(Some(STALL)).unwrap();
    }
    let begin = Instant::now();
    let (client, server) = (&client, &server);
    let ways = thread::scope(|scope| {
        let up = [
            scope.spawn(move || send(client, 1, len)),
            scope.spawn(move || receive(server)),
        ];
        let down = [
            scope.spawn(move || send(server, 2, len)),
            scope.spawn(move || receive(client)),
        ];
        [up, down].map(|ends| ends.map(|end| end.join().unwrap()))
    });
    for (way, [sent, received]) in ["up", "down"].iter().zip(&ways) {
        let (Ok(sent), Ok(received)) = (sent, received) else {
            panic!("{way}, {ip}: {ways:?}");
        };
        assert_eq!(received, sent, "{way}, {ip}");
        assert_eq!(sent.bytes, len as u64, "{way}, {ip}");
    }
    println!("{ip}: 2 x {len} bytes in {:?}", begin.elapsed());
}

/// A counter of the sandbox's kernel, as `nstat` names it.
#[track_caller]
fn counter(sandbox: &Sandbox, name: &str) -> u64 {
    let text = sandbox.exec(&["nstat", "-asz", name]).ok();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Bulk over a link that is bad in this way, and proof that it was.
#[track_caller]
fn bulk_on(world: &netns::World, impair: &str, mtu: &str, len: usize) {
    let sandbox = world.sandbox(&["--impair", impair, "--mtu", mtu]);
    for ip in BOTH {
        bulk(world, &sandbox, ip, len);
    }
    for name in [
        "TcpRetransSegs",
        "TcpExtTCPOFOQueue",
        "TcpExtTCPDSACKOldSent",
    ] {
        assert!(counter(&sandbox, name) > 0, "{impair}: no {name}");
    }
    sandbox.weft.stop();
}

#[test]
fn bulk_is_whole_when_super_frames_fare_badly() {
    netns::inside(|world| {
        bulk_on(
            world,
            "loss=0.5%,reorder=3%,duplicate=1%,seed=1",
            "1500",
            32 << 20,
        );
    });
}

#[test]
fn bulk_is_whole_when_segments_fare_badly() {
    netns::inside(|world| {
        let impair = "loss=0.2%,reorder=2%,duplicate=1%,per=segment,seed=2";
        bulk_on(world, impair, "1500", 32 << 20);
    });
}

#[test]
fn bulk_is_whole_on_a_slow_link_that_damages() {
    netns::inside(|world| {
        let impair = "loss=0.2%,reorder=1%,duplicate=1%,corrupt=0.5%,delay=2ms,per=segment,seed=3";
        bulk_on(world, impair, "9000", 16 << 20);
    });
}

#[test]
fn bulk_is_whole_where_most_goes_wrong() {
    netns::inside(|world| {
        let impair = "loss=5%,reorder=10%,duplicate=5%,per=segment,seed=4";
        bulk_on(world, impair, "1280", 2 << 20);
    });
}

#[test]
fn bulk_is_whole_where_the_kernel_has_no_peek_offset() {
    netns::inside(|world| {
        let old = [("WEFT_NO_PEEK_OFFSET", "1")];
        for impair in [
            "loss=0.5%,reorder=3%,duplicate=1%,seed=6",
            "loss=1%,reorder=2%,delay=2ms,per=segment,seed=7",
        ] {
            let sandbox = world.sandbox_with(&old, &["--impair", impair]);
            for ip in BOTH {
                bulk(world, &sandbox, ip, 8 << 20);
            }
            assert!(counter(&sandbox, "TcpExtTCPOFOQueue") > 0, "{impair}");
            sandbox.weft.stop();
        }
    });
}

/// A plain TAP: every super-frame is cut and every checksum computed by weft.
#[test]
fn bulk_is_whole_where_the_kernel_has_no_offload_header() {
    netns::inside(|world| {
        let old = [("WEFT_NO_VNET_HEADER", "1")];
        for how in [
            &[][..],
            &["--impair", "loss=0.5%,reorder=3%,duplicate=1%,seed=8"],
        ] {
            let sandbox = world.sandbox_with(&old, how);
            let link = sandbox.exec(&["ip", "-d", "link", "show", "eth0"]).ok();
            assert!(link.contains("vnet_hdr off"), "{link}");
            for ip in BOTH {
                bulk(world, &sandbox, ip, 8 << 20);
            }
            sandbox.weft.stop();
        }
        let sandbox = world.sandbox_with(&old, &[]);
        for ip in BOTH {
            let echo = servers::udp_echo(&world.outside, (ip, 0)).0;
            let socket = guest::udp(&sandbox.net, ip, Duration::from_secs(5));
            for len in [0, 1, 1_400, 5_000, 40_000] {
                let data = vec![7; len];
                assert_eq!(
                    guest::ask(&socket, echo, &data),
                    data,
                    "{len} bytes to {ip}"
                );
            }
            let ping = [
                "ping",
                "-n",
                "-c3",
                "-i0.2",
                "-W5",
                "-s3000",
                &ip.to_string(),
            ];
            let said = sandbox.exec(&ping).ok();
            assert!(said.contains(" 0% packet loss"), "{said}");
        }
    });
}

#[test]
fn connections_begin_and_end_on_a_bad_link() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["--impair", "loss=1%,reorder=5%,duplicate=5%,seed=5"]);
        for ip in BOTH {
            let page = servers::http(&world.outside, (ip, 0));
            let fetch = || {
                for _ in 0..20 {
                    assert!(guest::fetch(&sandbox.net, page).starts_with("hello "));
                }
            };
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(fetch);
                }
            });
        }
    });
}

#[test]
fn every_frame_is_delayed_and_doubled_each_way() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["--impair", "delay=50ms,duplicate=100%"]);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let (to, _) = servers::udp(&world.outside, (OUTSIDE, 0), move |data, _| {
            count.fetch_add(usize::from(data == b"second"), Ordering::Relaxed);
            data.to_vec()
        });
        let socket = guest::udp(&sandbox.net, to.ip(), SOON);
        // The neighbour is asked for first, which takes its own time.
        guest::ask(&socket, to, b"first");
        let begin = Instant::now();
        socket.send_to(b"second", to).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let mut buf = [0; 64];
        let mut answers = 0;
        while answers < 4 {
            let n = socket.recv(&mut buf).unwrap();
            if buf[..n] == *b"second" {
                answers += 1;
                assert!(
                    begin.elapsed() >= Duration::from_millis(100),
                    "there and back"
                );
            }
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_link_that_loses_all_connects_nothing() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["--impair", "loss=100%"]);
        let to = servers::http(&world.outside, (OUTSIDE, 0));
        let outcome = sandbox
            .net
            .enter(|| TcpStream::connect_timeout(&to, Duration::from_millis(1500)));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
    });
}

#[test]
fn clients_of_the_hosts_own_loopback_take_the_bad_link_too() {
    netns::inside(|world| {
        let sandbox = world.sandbox(&["-p", "8080:80", "--impair", "duplicate=50%"]);
        servers::http(&sandbox.net, ([0, 0, 0, 0], 80));
        servers::http(&sandbox.net, (IpAddr::from(sandbox.v6), 80));
        for ip in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
            let page = guest::fetch(&world.host, (ip, 8080).into());
            // Spliced, it would be the sandbox's own.
            assert_eq!(page, format!("hello {}", sandbox.gateway_like(ip)));
        }
    });
}

#[test]
fn what_was_done_is_told_on_request() {
    netns::inside(|world| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command
            .args([
                "run",
                "--impair",
                "loss=100%",
                "--",
                "ping",
                "-c2",
                "-i0.2",
                "-W1",
                "192.0.2.1",
            ])
            .env("WEFT_LOG", "info");
        let ended = Running::start(&world.host, &mut command).end(SOON);
        let told = ended
            .stderr
            .lines()
            .find(|line| line.contains("impaired up"));
        let told = told.unwrap_or_else(|| panic!("{ended:?}"));
        assert!(!told.contains(": 0 frames"), "{told}");
        assert!(told.contains(" 0 late, 0 doubled"), "{told}");
    });
}
