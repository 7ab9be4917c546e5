//! The worker with all that is around the switch: memory endpoints on one side, sockets of this machine's loopback on the
//! other. The sandboxes' side runs on the test's thread, whose allocations are not counted.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use switch_core::gso::split;
use switch_core::l2::table::MacTable;
use switch_core::pipeline::Switch;
use switch_core::policy::host_rule::HostRule;
use switch_core::testing::guest::Guest;
use switch_core::testing::quiet::switched;
use switch_core::testing::script::{End, Script};
use switch_core::testing::setup::Setup;
use switch_core::time::Tick;
use switch_core::wire::vnet_hdr::VnetHdr;
use weft::endpoint::memory::{self, MemoryEndpoint};
use weft::endpoint::{Caps, Endpoint, RX_BUFFER, Received};
use weft::host::sockets::HostIo;
use weft::worker::Worker;

use crate::sys::allocations;

/// Frames that a wire holds.
const WIRE: usize = 256;
/// Stands for the host's loopback in the sandbox.
const LOOPBACK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// The warm-up: longer than a connection's first deadlines.
const WARM: Duration = Duration::from_millis(1_500);
/// Frames from the sandbox that must cost nothing.
const FRAMES: u64 = 3_000;
const PATIENCE: Duration = Duration::from_secs(180);
/// What the counted side's numbers are while there are none.
const UNKNOWN: u64 = u64::MAX;

/// What the worker's thread had allocated when the warm-up was over, and so many frames later.
#[derive(Debug)]
struct Seen {
    /// Frames that have come from the sandboxes.
    frames: AtomicU64,
    /// Where to look first.
    from: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

/// Looks at the thread's allocations with every frame that the worker takes.
struct Watched(MemoryEndpoint, Arc<Seen>);

impl Endpoint for Watched {
    fn caps(&self) -> Caps {
        self.0.caps()
    }

    fn fd(&self) -> Option<RawFd> {
        self.0.fd()
    }

    fn rx(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        let got = self.0.rx(buf)?;
        let seen = &self.1;
        let frames = seen.frames.fetch_add(1, Ordering::AcqRel) + 1;
        let from = seen.from.load(Ordering::Acquire);
        if frames >= from && seen.first.load(Ordering::Relaxed) == UNKNOWN {
            seen.first.store(allocations(), Ordering::Relaxed);
        }
        if frames >= from.saturating_add(FRAMES) && seen.last.load(Ordering::Relaxed) == UNKNOWN {
            seen.last.store(allocations(), Ordering::Release);
        }
        Ok(got)
    }

    fn tx(&mut self, vnet: &VnetHdr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.0.tx(vnet, frame)
    }
}

/// Has every buffer that a wire may ever need made now.
fn fill(from: &mut MemoryEndpoint, to: &mut MemoryEndpoint) {
    while from.tx(&VnetHdr::default(), &[IoSlice::new(&[0])]).is_ok() {}
    while to.rx(&mut [0; 8]).is_ok() {}
}

/// Runs a worker with two sandboxes, and `traffic` at their ends of the wires until enough frames have passed.
/// Returns how much the worker allocated meanwhile.
fn spent(mut traffic: impl FnMut(Tick, &mut [MemoryEndpoint])) -> u64 {
    let setup = Setup {
        guests: 2,
        rule: HostRule {
            loopback_v4: Some(LOOPBACK),
            ..HostRule::default()
        },
        ..Setup::default()
    };
    let seen = Arc::new(Seen {
        frames: AtomicU64::new(0),
        from: AtomicU64::new(UNKNOWN),
        first: AtomicU64::new(UNKNOWN),
        last: AtomicU64::new(UNKNOWN),
    });
    let (mut near, mut far) = (Vec::<Box<dyn Endpoint>>::new(), Vec::new());
    for _ in 0..setup.guests {
        let (mut a, mut b) = memory::pair(WIRE).unwrap();
        fill(&mut a, &mut b);
        fill(&mut b, &mut a);
        near.push(Box::new(Watched(a, Arc::clone(&seen))));
        far.push(b);
    }
    let switch = Switch::new(Tick::ZERO, setup.config(), Arc::new(MacTable::new(256)));
    let start = Instant::now();
    let worker = Worker::new(start, Some(switch), None, |registry| {
        HostIo::new(registry, near, Arc::default(), [None, None])
    })
    .unwrap();
    let signals = worker.signals();
    let thread = thread::spawn(move || worker.run());
    while seen.last.load(Ordering::Acquire) == UNKNOWN {
        let passed = start.elapsed();
        assert!(passed < PATIENCE, "too slow: {seen:?}");
        assert!(!thread.is_finished(), "the worker has ended");
        let frames = seen.frames.load(Ordering::Acquire);
        if passed > WARM && frames > FRAMES {
            seen.from.fetch_min(frames, Ordering::AcqRel);
        }
        traffic(tick(passed), &mut far);
    }
    signals.stop.store(true, Ordering::Release);
    signals.waker.wake().unwrap();
    thread.join().unwrap().unwrap();
    // What the worker sent last still waits on the wires.
    traffic(tick(start.elapsed()), &mut far);
    seen.last.load(Ordering::Relaxed) - seen.first.load(Ordering::Relaxed)
}

fn tick(since: Duration) -> Tick {
    Tick::from_nanos(u64::try_from(since.as_nanos()).unwrap())
}

/// A stack at the end of a wire.
struct Sandbox {
    guest: Guest,
    frame: Vec<u8>,
    scratch: Vec<u8>,
}

impl Sandbox {
    fn new() -> Self {
        Self {
            guest: Guest::new(1, Setup::addresses(0), 1500),
            frame: vec![0; RX_BUFFER],
            scratch: Vec::new(),
        }
    }

    fn turn(&mut self, now: Tick, wire: &mut MemoryEndpoint) {
        while let Ok(got) = wire.rx(&mut self.frame) {
            let frame = &self.frame[got.start..got.end];
            split::split(frame, &got.vnet, &mut self.scratch, &mut |segment| {
                self.guest.deliver(segment.to_vec());
            })
            .unwrap();
        }
        for (vnet, frame) in self.guest.poll(now) {
            // What a full wire loses is sent again.
            let _ = wire.tx(&vnet, &[IoSlice::new(&frame)]);
        }
    }
}

/// One connection of a sandbox to a server of the loopback, which ends with it.
fn connection(up: usize, serve: impl FnOnce(std::net::TcpStream) + Send + 'static) -> u64 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = (LOOPBACK, listener.local_addr().unwrap().port()).into();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0));
    let mut sandbox = Sandbox::new();
    sandbox
        .guest
        .connect(to, Script::new(1, up).end(End::Never));
    let spent = spent(|now, wires| sandbox.turn(now, &mut wires[0]));
    server.join().unwrap();
    spent
}

#[test]
fn tcp_up() {
    let spent = connection(usize::MAX, |mut stream| {
        let mut bytes = vec![0; 64 * 1024];
        while stream.read(&mut bytes).is_ok_and(|n| n > 0) {}
    });
    assert_eq!(spent, 0);
}

#[test]
fn tcp_down() {
    let spent = connection(8, |mut stream| {
        // The stream begins with its key; then anything goes.
        while stream.write_all(&[0; 16 * 1024]).is_ok() {}
    });
    assert_eq!(spent, 0);
}

#[test]
fn udp_both_ways() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let to: SocketAddr = (LOOPBACK, server.local_addr().unwrap().port()).into();
    let echo = thread::spawn(move || {
        let (mut bytes, mut count) = ([0; 2048], 0_u64);
        while let Ok((n, from)) = server.recv_from(&mut bytes) {
            if n == 0 {
                break;
            }
            count += 1;
            let _ = server.send_to(&bytes[..n], from);
        }
        count
    });
    let mut sandbox = Sandbox::new();
    let socket = sandbox.guest.bind(5_000);
    let spent = spent(|now, wires| {
        for size in [64, 1_400] {
            sandbox.guest.send(socket, to, &[7; 1_400][..size]);
        }
        sandbox.turn(now, &mut wires[0]);
        thread::sleep(Duration::from_micros(100));
    });
    let end = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    end.send_to(&[], (Ipv4Addr::LOCALHOST, to.port())).unwrap();
    assert!(echo.join().unwrap() >= FRAMES);
    let back = sandbox.guest.received(socket).len() as u64;
    assert!(back >= FRAMES, "{back}");
    assert_eq!(spent, 0);
}

#[test]
fn switched_frames() {
    let (there, back) = (switched(0, 1, 64), switched(1, 0, 1_400));
    let mut arrived = 0_u64;
    let mut buffer = vec![0; RX_BUFFER];
    let spent = spent(|_, wires| {
        for (wire, frame) in wires.iter_mut().zip([&there, &back]) {
            while wire.rx(&mut buffer).is_ok() {
                arrived += 1;
            }
            let _ = wire.tx(&VnetHdr::default(), &[IoSlice::new(frame)]);
        }
        thread::sleep(Duration::from_micros(50));
    });
    assert!(arrived >= 2 * FRAMES, "{arrived}");
    assert_eq!(spent, 0);
}
