//! The switch alone: frames handed in, a host that takes everything.

use std::sync::Arc;
use std::time::Duration;

use switch_core::addr::{Mac, NetworkId, PortId};
use switch_core::flow::event::HostEvent;
use switch_core::l2::snoop::INTERVAL;
use switch_core::l2::snoop::groups::Groups;
use switch_core::l2::table::MacTable;
use switch_core::pipeline::{Port, Snooping, Switch, Untagged, Vlan, Vlans};
use switch_core::testing::packets::Link;
use switch_core::testing::quiet::{QuietHost, Talker, datagrams, switched};
use switch_core::testing::setup::Setup;
use switch_core::time::Tick;
use switch_core::verdict::Verdict;
use switch_core::wire::emit::HeaderBuf;
use switch_core::wire::vnet_hdr::VnetHdr;

use crate::sys::allocations;

/// Frames of the warm-up, and as many again that must cost nothing.
const FRAMES: u64 = 20_000;

/// Time between two frames: every timer of a connection in use comes due while they pass, the first ones in the warm-up.
const STEP: Duration = Duration::from_millis(1);

struct Bench {
    switch: Switch,
    host: QuietHost,
    now: Tick,
}

impl Bench {
    fn new() -> Self {
        let setup = Setup {
            guests: 2,
            ..Setup::default()
        };
        let now = Tick::ZERO;
        Self {
            switch: Switch::new(now, setup.config(), Arc::new(MacTable::new(256))),
            host: QuietHost::default(),
            now,
        }
    }

    /// Warms up, then returns how much `one` allocated in as many turns again.
    fn measure(&mut self, mut one: impl FnMut(&mut Self)) -> u64 {
        let mut before = 0;
        for turn in 0..2 * FRAMES {
            if turn == FRAMES {
                before = allocations();
            }
            one(self);
            self.now = self.now + STEP;
            self.switch.flush(&mut self.host, self.now);
            self.switch.run_ready(&mut self.host, self.now);
            if self.switch.poll_timeout().is_some_and(|at| at <= self.now) {
                self.switch.handle_timeout(&mut self.host, self.now);
            }
        }
        let spent = allocations() - before;
        let drops: Vec<_> = self.switch.drops().iter().filter(|(_, n)| *n > 0).collect();
        assert!(drops.is_empty(), "{drops:?}");
        spent
    }
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    let mut bytes = Vec::<u8>::with_capacity(16);
    assert_eq!(allocations() - before, 1);
    bytes.reserve_exact(64);
    assert_eq!(allocations() - before, 2);
}

#[test]
fn tcp_up() {
    for payload in [100, 1_448, 14_480] {
        let mut bench = Bench::new();
        let mut talker = Talker::open(&mut bench.switch, &mut bench.host, bench.now, payload);
        let spent = bench.measure(|b| talker.send(&mut b.switch, &mut b.host, b.now));
        assert_eq!(bench.host.taken, 2 * FRAMES * payload as u64);
        assert_eq!(spent, 0, "{payload} bytes a frame");
    }
}

#[test]
fn tcp_up_to_a_host_that_takes_half_of_it() {
    let mut bench = Bench::new();
    let mut talker = Talker::open(&mut bench.switch, &mut bench.host, bench.now, 14_480);
    let spent = bench.measure(|b| {
        b.host.most = 8_000;
        talker.send(&mut b.switch, &mut b.host, b.now);
        b.host.most = usize::MAX;
        let event = HostEvent::TcpWritable {
            flow: talker.flow(),
        };
        b.switch.handle_event(&mut b.host, b.now, event);
    });
    assert_eq!(bench.host.taken, 2 * FRAMES * 14_480);
    assert_eq!(spent, 0);
}

#[test]
fn tcp_down() {
    for bytes in [100, 1_448, 60_000] {
        let mut bench = Bench::new();
        let mut talker = Talker::open(&mut bench.switch, &mut bench.host, bench.now, 100);
        let spent = bench.measure(|b| talker.receive(&mut b.switch, &mut b.host, b.now, bytes));
        assert_eq!(spent, 0, "{bytes} bytes at a time");
    }
}

#[test]
fn udp_up() {
    for (payload, count) in [(64, 1), (1_400, 1), (64, 20), (1_400, 20)] {
        let mut bench = Bench::new();
        let (vnet, frame) = datagrams(payload, count);
        let spent = bench.measure(|b| {
            b.switch
                .handle_frame(&mut b.host, b.now, PortId(0), &vnet, &frame);
        });
        assert_eq!(bench.host.datagrams, 2 * FRAMES * count as u64);
        assert_eq!(spent, 0, "{count} of {payload} bytes");
    }
}

#[test]
fn udp_down() {
    for (payload, count) in [(64, 1), (1_400, 1), (64, 20), (1_400, 20)] {
        let mut bench = Bench::new();
        let (vnet, frame) = datagrams(payload, 1);
        bench
            .switch
            .handle_frame(&mut bench.host, bench.now, PortId(0), &vnet, &frame);
        let (from, bytes) = (([192, 0, 2, 1], 53_000).into(), vec![3; payload]);
        let pieces = vec![&bytes[..]; count];
        let spent = bench.measure(|b| {
            let event = HostEvent::UdpReceived {
                mapping: 0,
                from,
                local: None,
                tos: 0,
                pieces: &pieces,
            };
            b.switch.handle_event(&mut b.host, b.now, event);
        });
        assert!(bench.host.frames >= 2 * FRAMES, "{}", bench.host.frames);
        assert_eq!(spent, 0, "{count} of {payload} bytes");
    }
}

#[test]
fn switched_frames() {
    let mut bench = Bench::new();
    let (there, back) = (switched(0, 1, 64), switched(1, 0, 1_400));
    let spent = bench.measure(|b| {
        for (from, frame) in [(0, &there), (1, &back)] {
            let verdict =
                b.switch
                    .handle_frame(&mut b.host, b.now, PortId(from), &VnetHdr::default(), frame);
            assert!(matches!(verdict, Verdict::Forward(_) | Verdict::Flood));
        }
    });
    assert_eq!(spent, 0);
}

#[test]
fn multicast_and_the_report_that_keeps_it_coming() {
    const GROUP: [u8; 4] = [239, 1, 2, 3];
    let mut bench = Bench::new();
    bench.switch.set_snooping(Some(Snooping {
        groups: Arc::new(Groups::new(1024, [1, 2, 3, 4])),
        querier: Some(INTERVAL),
    }));
    let [sender, member] = [0, 1].map(Setup::addresses);
    let to = Mac([1, 0, 0x5e, 1, 2, 3]);
    let link = Link {
        src: sender.mac,
        dst: to,
    };
    let data = link.udp((sender.v4, 5000).into(), (GROUP, 5000).into(), b"data");
    let mut head = HeaderBuf::new();
    head.eth(to, member.mac, 0x0800);
    head.ip(member.v4.into(), GROUP.into(), 2, 1, 0, 8);
    let report = [head.as_slice(), &[0x16, 0, 0xf8, 0xfa], &GROUP].concat();
    let spent = bench.measure(|b| {
        for (from, frame) in [(1, &report), (0, &data)] {
            b.switch
                .handle_frame(&mut b.host, b.now, PortId(from), &VnetHdr::default(), frame);
        }
    });
    assert!(bench.host.frames >= 2 * FRAMES, "{}", bench.host.frames);
    assert_eq!(spent, 0);
}

#[test]
fn frames_that_get_and_lose_a_tag() {
    let mut bench = Bench::new();
    let ten = Vlan {
        id: 10,
        segment: NetworkId(10),
    };
    let trunk = Vlans::trunk([ten], Untagged::Nowhere, None);
    for (n, vlans) in [(0, Vlans::access(ten)), (1, trunk)] {
        let port = bench.switch.port(PortId(n)).unwrap().clone();
        let vlans = Some(Arc::new(vlans));
        bench.switch.change_port(Port { vlans, ..port });
    }
    let (there, mut back) = (switched(0, 1, 64), switched(1, 0, 1_400));
    back.splice(12..12, [0x81, 0, 0, 10]);
    let spent = bench.measure(|b| {
        for (from, frame) in [(0, &there), (1, &back)] {
            let verdict =
                b.switch
                    .handle_frame(&mut b.host, b.now, PortId(from), &VnetHdr::default(), frame);
            assert_eq!(verdict, Verdict::Forward(PortId(1 - from)));
        }
    });
    assert_eq!(spent, 0);
}
