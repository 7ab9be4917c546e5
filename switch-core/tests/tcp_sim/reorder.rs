//! What comes out of order is not lost: a receiver that says so, as Linux does, in virtual time.

use core::net::SocketAddr;
use core::time::Duration;

use switch_core::addr::PortId;
use switch_core::testing::host::TcpServer;
use switch_core::testing::link::Faults;
use switch_core::testing::net::{GATEWAY, Setup, SimNet};
use switch_core::testing::script::Script;
use switch_core::time::Tick;
use switch_core::wire::emit::HeaderBuf;
use switch_core::wire::packet::PROTO_TCP;
use switch_core::wire::tcp::{ACK, SYN};
use switch_core::wire::vnet_hdr::VnetHdr;

const SERVER: &str = "192.0.2.9:80";
const PORT: u16 = 5_000;
/// Where its own numbers begin.
const ISS: u32 = 1_000;

/// A receiver with selective acknowledgements, also of what came twice. Source: RFC 2018, RFC 2883.
struct Receiver {
    /// The first byte's number, once the SYN-ACK is here.
    base: Option<u32>,
    /// What is here of the stream, in order.
    ranges: Vec<(u32, u32)>,
    /// Bytes that came twice.
    twice: u64,
    /// It has no word for that.
    plain: bool,
}

impl Receiver {
    fn frame(flags: u8, ack: u32, options: &[u8]) -> Vec<u8> {
        let own = Setup::addresses(1);
        let (from, to): (SocketAddr, SocketAddr) = ((own.v4, PORT).into(), SERVER.parse().unwrap());
        let mut head = HeaderBuf::new();
        head.eth(GATEWAY, own.mac, 0x0800);
        head.ip(from.ip(), to.ip(), PROTO_TCP, 64, 0, 20 + options.len());
        let seq = if flags & SYN != 0 { ISS } else { ISS + 1 };
        head.tcp(PORT, to.port(), seq, ack, flags, u16::MAX, options);
        head.set_full(34, from.ip(), to.ip(), PROTO_TCP, &[]);
        head.as_slice().to_vec()
    }

    /// Takes a frame, and gives the answer.
    fn take(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        if frame[23] != PROTO_TCP {
            return None;
        }
        let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        if frame[47] & SYN != 0 {
            self.base = Some(word(38).wrapping_add(1));
            return Some(Self::frame(ACK, word(38).wrapping_add(1), &[]));
        }
        let base = self.base?;
        let len = u32::try_from(frame.len() - 34).unwrap() - u32::from(frame[46] >> 4) * 4;
        let start = word(38).wrapping_sub(base);
        let end = start + len;
        if len == 0 {
            return None;
        }
        let known = self.ranges.iter().find(|r| r.0 <= start && end <= r.1);
        let twice = known.map(|_| (start, end)).filter(|_| !self.plain);
        self.twice += u64::from(known.map_or(0, |_| len));
        self.ranges.push((start, end));
        self.ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::new();
        for &(s, e) in &self.ranges {
            match joined.last_mut() {
                Some(last) if s <= last.1 => last.1 = last.1.max(e),
                _ => joined.push((s, e)),
            }
        }
        self.ranges = joined;
        let upto = self.received();
        let mut blocks: Vec<(u32, u32)> = twice.into_iter().collect();
        let newest = self.ranges.iter().filter(|r| r.0 <= start && start < r.1);
        let others = self.ranges.iter().rev();
        for &range in newest.chain(others) {
            if range.0 > upto && !blocks.contains(&range) && blocks.len() < 3 {
                blocks.push(range);
            }
        }
        let mut options = vec![];
        if !blocks.is_empty() {
            options = vec![1, 1, 5, 2 + 8 * u8::try_from(blocks.len()).unwrap()];
            for (s, e) in blocks {
                options.extend(base.wrapping_add(s).to_be_bytes());
                options.extend(base.wrapping_add(e).to_be_bytes());
            }
        }
        Some(Self::frame(ACK, base.wrapping_add(upto), &options))
    }

    /// Bytes received in order.
    fn received(&self) -> u32 {
        self.ranges.first().filter(|r| r.0 == 0).map_or(0, |r| r.1)
    }
}

/// How long a stream of `bytes` takes over such a link, and how much of it came twice.
fn time(seed: u64, faults: Faults, bytes: u32, plain: bool) -> (Duration, u64) {
    let setup = Setup {
        guests: 2,
        seed,
        faults,
        ..Setup::default()
    };
    let mut net: SimNet = setup.build();
    net.by_hand = Some(PortId(1));
    // Of the size of Linux's, so that it is the link that counts. Source: tcp_rmem.
    net.host.receive.limit = 4 << 20;
    net.up[1].set_faults(Faults {
        reorder: 0,
        ..faults
    });
    let down = Script::new(seed, bytes as usize);
    net.host
        .tcp_servers
        .insert(SERVER.parse().unwrap(), TcpServer::Near(down));
    let mut receiver = Receiver {
        base: None,
        ranges: Vec::new(),
        twice: 0,
        plain,
    };
    let options = [2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 7];
    let syn = Receiver::frame(SYN, 0, &options);
    net.up[1].push(Tick::ZERO, VnetHdr::default(), syn);
    let done = net.run(Duration::from_secs(100), |net| {
        let now = net.now();
        for (_, frame) in net.down[1].arrived(now) {
            if let Some(answer) = receiver.take(&frame) {
                net.up[1].push(now, VnetHdr::default(), answer);
            }
        }
        receiver.received() == bytes
    });
    assert!(done, "{} of {bytes}", receiver.received());
    (net.now().since(Tick::ZERO), receiver.twice)
}

const BYTES: u32 = 4_000_000;

/// Links by bits per second and microseconds one way: their queues are long and short.
const LINKS: [(u64, u64); 4] = [
    (100_000_000, 50),
    (100_000_000, 1_000),
    (1_000_000_000, 50),
    (1_000_000_000, 1_000),
];

fn link((rate, delay): (u64, u64), reorder: u8) -> Faults {
    Faults {
        reorder,
        rate,
        delay: Duration::from_micros(delay),
        ..Faults::default()
    }
}

/// One frame in a hundred is up to two milliseconds late.
#[test]
fn reordering_is_no_loss() {
    for way in LINKS {
        // A fifth of a second: the beginning, when nothing is known of the link, is to be a small part of it.
        let bytes = u32::try_from(way.0 / 40).unwrap();
        let (clean, _) = time(0, link(way, 0), bytes, false);
        let (mut sum, mut twice) = (Duration::ZERO, 0);
        for seed in 1..=2 {
            let (one, more) = time(seed, link(way, 1), bytes, false);
            sum += one;
            twice += more;
        }
        let share = clean.as_secs_f64() * 2.0 / sum.as_secs_f64();
        assert!(share >= 0.7, "{way:?}: {share:.2} of the clean link");
        let resent = twice as f64 / f64::from(bytes) / 2.0;
        assert!(resent < 0.05, "{way:?}: {resent:.3} sent in vain");
    }
}

/// A receiver that does not tell what came twice costs the window, and yet no more than a segment a round trip is
/// sent in vain.
#[test]
fn what_goes_on_arriving_is_not_sent_again_at_its_pace() {
    for way in LINKS {
        let (_, twice) = time(4, link(way, 1), BYTES, true);
        let resent = twice as f64 / f64::from(BYTES);
        assert!(resent < 0.06, "{way:?}: {resent:.3} sent in vain");
    }
}

/// Where nothing was ever late, a loss is repaired at once, and what is repaired was lost.
#[test]
fn a_loss_is_a_loss() {
    for way in LINKS {
        let lossy = Faults {
            loss: 1,
            ..link(way, 0)
        };
        let (_, twice) = time(5, lossy, BYTES, false);
        assert!(twice < 10_000, "{way:?}: {twice} bytes sent in vain");
    }
}
