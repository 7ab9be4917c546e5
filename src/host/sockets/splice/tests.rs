use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mio::{Events, Poll, Token};
use socket2::{Domain, Type};
use switch_core::addr::PortId;

use super::*;
use crate::host::sockets::{HostIo, HostView, Published};

/// A table of sockets on a thread of its own, which splices everything that it is given, and a server behind it.
struct World {
    server: TcpListener,
    gate: TcpListener,
    stop: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

fn io_with_stock(poll: &Poll, pool: Pool) -> HostIo {
    let view = Arc::new(ArcSwap::from_pointee(HostView::default()));
    let registry = poll.registry().try_clone().unwrap();
    let mut io = HostIo::new(registry, Vec::new(), view, [None, None]);
    let stock = Arc::new(Stock::new(true, true).unwrap());
    for (v6, count) in stock.missing() {
        stock.put(v6, opened(v6, count).unwrap());
    }
    io.splice_to(PortId(0), stock);
    io.splices.use_pool(pool);
    io
}

fn opened(v6: bool, count: usize) -> io::Result<Vec<Socket>> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    (0..count)
        .map(|_| Socket::new_raw(domain, Type::STREAM.nonblocking().cloexec(), None))
        .collect()
}

impl World {
    fn new(pool: Pool) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = TcpListener::bind(any).unwrap();
        let gate = TcpListener::bind(any).unwrap();
        let to = server.local_addr().unwrap();
        let (stop, open) = (Arc::default(), Arc::default());
        let (halt, count, accept) = (
            Arc::clone(&stop),
            Arc::clone(&open),
            gate.try_clone().unwrap(),
        );
        let thread = spawn(move || turn_forever(&accept, to, pool, &halt, &count));
        Self {
            server,
            gate,
            stop,
            open,
            thread: Some(thread),
        }
    }

    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.gate.local_addr().unwrap()).unwrap();
        (client, self.server.accept().unwrap().0)
    }

    fn wait_until_empty(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.open.load(Ordering::Acquire) > 0 {
            assert!(Instant::now() < until, "sockets are left");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let result = self.thread.take().unwrap().join();
        assert!(result.is_ok() || std::thread::panicking());
    }
}

fn turn_forever(
    gate: &TcpListener,
    to: SocketAddr,
    pool: Pool,
    stop: &AtomicBool,
    open: &AtomicUsize,
) {
    let mut poll = Poll::new().unwrap();
    let mut io = io_with_stock(&poll, pool);
    let mut events = Events::with_capacity(64);
    let mut again: Vec<Token> = Vec::new();
    gate.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Acquire) {
        while let Ok((client, from)) = gate.accept() {
            client.set_nonblocking(true).unwrap();
            let port = PortId(0);
            let left = io.try_splice(client.into(), from, Published { port, to });
            assert!(left.is_none());
        }
        let wait = if again.is_empty() { 2 } else { 0 };
        poll.poll(&mut events, Some(Duration::from_millis(wait)))
            .unwrap();
        for token in std::mem::take(&mut again) {
            if io.find(token).is_some_and(|i| io.splice_event(i, None)) {
                again.push(token);
            }
        }
        for event in &events {
            let token = event.token();
            if io
                .find(token)
                .is_some_and(|i| io.splice_event(i, Some(event)))
                && !again.contains(&token)
            {
                again.push(token);
            }
        }
        open.store(io.len(), Ordering::Release);
    }
}

/// Sends `len` bytes that are not alike anywhere near each other, ends the direction, and gives their hash.
fn send(mut to: TcpStream, seed: u32, len: usize) -> JoinHandle<u64> {
    spawn(move || {
        let mut hash = DefaultHasher::new();
        let mut state = seed;
        let block: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(999_983)
        .collect();
        let mut left = len;
        while left > 0 {
            // Pieces of many sizes, from single bytes on.
            let piece = &block[..(1 + left % block.len()).min(left)];
            to.write_all(piece).unwrap();
            hash.write(piece);
            left -= piece.len();
        }
        to.shutdown(Shutdown::Write).unwrap();
        hash.finish()
    })
}

/// Reads to the end and gives the number of bytes and a hash that does not depend on how they were cut.
fn receive(mut from: TcpStream) -> JoinHandle<(usize, u64)> {
    spawn(move || {
        let (mut hash, mut len) = (DefaultHasher::new(), 0);
        let mut buffer = vec![0; 300_000];
        loop {
            match from.read(&mut buffer).unwrap() {
                0 => return (len, hash.finish()),
                n => {
                    hash.write(&buffer[..n]);
                    len += n;
                }
            }
        }
    })
}

fn both_ways(pool: Pool, len: usize) {
    let world = World::new(pool);
    let (client, server) = world.connect();
    let up = receive(server.try_clone().unwrap());
    let down = receive(client.try_clone().unwrap());
    let sent_up = send(client, 1, len);
    let sent_down = send(server, 2, len + 77);
    assert_eq!(up.join().unwrap(), (len, sent_up.join().unwrap()));
    assert_eq!(down.join().unwrap(), (len + 77, sent_down.join().unwrap()));
    world.wait_until_empty();
}

#[test]
fn everything_arrives_through_pipes() {
    both_ways(Pool::default(), 200_000_000);
}

#[test]
fn everything_arrives_through_buffers() {
    both_ways(Pool::exhausted(), 100_000_000);
}

#[test]
fn each_direction_ends_by_itself() {
    let world = World::new(Pool::default());
    let (mut client, mut server) = world.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"question");
    server.write_all(b"answer").unwrap();
    drop(server);
    got.clear();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"answer");
    world.wait_until_empty();
}

#[test]
fn a_client_that_ends_without_a_word_ends_the_server_too() {
    let world = World::new(Pool::default());
    let (client, mut server) = world.connect();
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    drop(server);
    world.wait_until_empty();
}

fn reset(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_reset_reaches_the_other_end() {
    let world = World::new(Pool::default());
    for resetting in [End::Client, End::Inner] {
        for idle_half in [false, true] {
            let (client, server) = world.connect();
            let (mut one, mut other) = match resetting {
                End::Client => (client, server),
                End::Inner => (server, client),
            };
            one.write_all(b"said before").unwrap();
            if idle_half {
                one.shutdown(Shutdown::Write).unwrap();
            }
            let mut got = [0; 11];
            other.read_exact(&mut got).unwrap();
            if idle_half {
                assert_eq!(other.read(&mut [0; 8]).unwrap(), 0);
            }
            reset(one);
            let until = Instant::now() + Duration::from_secs(10);
            let error = loop {
                if let Err(e) = other.write(b"x") {
                    break e;
                }
                assert!(Instant::now() < until, "{resetting:?} {idle_half}");
                std::thread::sleep(Duration::from_millis(2));
            };
            assert!(
                matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                ),
                "{error}"
            );
            world.wait_until_empty();
        }
    }
}

#[test]
fn what_a_server_said_before_it_closed_on_unread_bytes_arrives() {
    let world = World::new(Pool::default());
    let (mut client, mut server) = world.connect();
    client.write_all(&vec![1; 256 << 10]).unwrap_or_default();
    server.write_all(b"413 too much").unwrap();
    // Unread bytes make this a reset.
    drop(server);
    let mut got = Vec::new();
    let end = client.read_to_end(&mut got);
    assert_eq!(got, b"413 too much");
    assert!(end.is_err(), "the reset comes after it");
    world.wait_until_empty();
}

#[test]
fn a_server_that_refuses_resets_the_client() {
    let mut world = World::new(Pool::default());
    let spare = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // The address stays as it was given to the table; only nobody listens there any more.
    drop(std::mem::replace(&mut world.server, spare));
    let mut client = TcpStream::connect(world.gate.local_addr().unwrap()).unwrap();
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    world.wait_until_empty();
}

#[test]
fn who_does_not_read_holds_the_sender_back() {
    let world = World::new(Pool::default());
    let (mut client, server) = world.connect();
    client
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let block = vec![7; 1 << 20];
    let mut sent = 0;
    loop {
        match client.write(&block) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
        assert!(sent < 256 << 20, "nothing holds it back");
    }
    let all = receive(server);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(all.join().unwrap().0, sent);
}

#[test]
fn only_clients_of_the_host_itself_and_only_from_stock() {
    let poll = Poll::new().unwrap();
    let mut io = io_with_stock(&poll, Pool::default());
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = server.local_addr().unwrap();
    let mut spliced = |from: SocketAddr, port: u32| {
        let client = opened(false, 1).unwrap().remove(0);
        let port = PortId(port);
        io.try_splice(client, from, Published { port, to })
            .is_none()
    };
    let local = SocketAddr::from((Ipv4Addr::new(127, 3, 2, 1), 9));
    assert!(spliced(local, 0));
    assert!(spliced((Ipv6Addr::LOCALHOST, 9).into(), 0));
    assert!(!spliced(([192, 0, 2, 1], 9).into(), 0));
    assert!(!spliced(local, 1), "an endpoint without a stock");
    let taken = (0..100).filter(|_| spliced(local, 0)).count();
    assert_eq!(taken, 30, "what is left of the stock");
    let expected = SpliceStats {
        joined: 32,
        no_socket: 70,
        ..SpliceStats::default()
    };
    assert_eq!(io.splice_stats(), expected);
}
