//! Many guests with several connections each: all get on, and shares are fair.

use core::net::SocketAddr;
use core::time::Duration;

use switch_core::flow::tcp::Limits;
use switch_core::testing::guest::{Tcp, TcpId};
use switch_core::testing::host::TcpServer;
use switch_core::testing::link::Faults;
use switch_core::testing::net::{Setup, SimNet};
use switch_core::testing::script::{End, Pace, Script};
use switch_core::time::Tick;

const GUESTS: u8 = 50;
const FLOWS: u8 = 4;
/// More than any of them gets through in the time of a test.
const ENDLESS: usize = 1 << 30;

/// The server of one connection.
fn server(guest: u8, flow: u8) -> SocketAddr {
    ([192, 0, 2, guest], 80 + u16::from(flow)).into()
}

/// Each guest with its connections, which send so much each way. Guests begin one after the other.
fn crowd(setup: &Setup, up: usize, down: Script) -> SimNet {
    let mut net = setup.build();
    for n in 0..setup.guests {
        net.guests[usize::from(n)].offload = n % 2 == 0;
        for flow in 0..FLOWS {
            let key = u64::from(n) * 100 + u64::from(flow);
            let to = server(n, flow);
            let down = Script {
                key: key + 10_000,
                ..down
            };
            net.host.tcp_servers.insert(to, TcpServer::Serve(down));
            let up = Script::new(key, up).end(End::Second);
            assert_eq!(
                net.guests[usize::from(n)].connect(to, up),
                TcpId(usize::from(flow))
            );
        }
        net.run_for(Duration::from_micros(300));
    }
    net
}

/// What each connection of each guest has received so far.
fn received(net: &SimNet) -> Vec<Vec<usize>> {
    let of = |tcps: &[Tcp]| tcps.iter().map(|tcp| tcp.taken().len()).collect();
    net.guests.iter().map(|g| of(g.connections())).collect()
}

/// What each received within this time.
fn rates(net: &mut SimNet, time: Duration) -> Vec<Vec<usize>> {
    let before = received(net);
    net.run_for(time);
    let mut after = received(net);
    for (after, before) in after.iter_mut().zip(&before) {
        for (after, before) in after.iter_mut().zip(before) {
            *after -= before;
        }
    }
    after
}

/// Jain's index: 1 if all have the same, 1/n if one has all. Source: RFC 5166 section 2.3.
fn jain(shares: &[usize]) -> f64 {
    let sum: f64 = shares.iter().map(|&x| x as f64).sum();
    let squares: f64 = shares.iter().map(|&x| (x as f64).powi(2)).sum();
    sum * sum / (squares * shares.len() as f64)
}

/// The link of a guest is its bottleneck: it is used, and its connections share it. How well follows from the
/// congestion control towards sandboxes, which is that of RFC 5681.
#[test]
fn connections_share_a_link_and_guests_do_not_slow_each_other() {
    // Bytes that a link of 2 Mbit/s carries in the time.
    let link = 1_000_000;
    let setup = Setup {
        guests: GUESTS,
        faults: Faults {
            rate: 2_000_000,
            queue: Duration::from_millis(200),
            delay: Duration::from_millis(1),
            ..Faults::default()
        },
        ..Setup::default()
    };
    let mut net = crowd(&setup, 0, Script::new(0, ENDLESS).end(End::Never));
    net.run_for(Duration::from_secs(1));
    let got = rates(&mut net, Duration::from_secs(4));
    let totals: Vec<usize> = got.iter().map(|flows| flows.iter().sum()).collect();
    for (n, (flows, &total)) in got.iter().zip(&totals).enumerate() {
        assert!(
            total * 10 >= link * 7,
            "guest {n}: {total} bytes of {link} that its link carries"
        );
        let (least, most) = (flows.iter().min().unwrap(), flows.iter().max().unwrap());
        let fair = total / flows.len();
        assert!(
            least * 4 >= fair && *most <= fair * 5 / 2,
            "guest {n}: {flows:?} where {fair} is fair"
        );
    }
    assert!(jain(&totals) > 0.98, "{totals:?}");
    let all: Vec<usize> = got.concat();
    assert!(jain(&all) > 0.8, "{}: {all:?}", jain(&all));
}

/// Bad links of some do not slow the others, and all end.
#[test]
fn a_guest_with_a_bad_link_is_alone_with_it() {
    let setup = Setup {
        guests: GUESTS,
        ..Setup::default()
    };
    let mut net = crowd(&setup, 30_000, Script::new(0, 60_000));
    for n in (0..usize::from(GUESTS)).step_by(5) {
        let bad = Faults {
            loss: 15,
            ..Faults::some()
        };
        net.up[n].set_faults(bad);
        net.down[n].set_faults(bad);
    }
    let is_done = |net: &SimNet, n: usize| net.guests[n].connections().iter().all(Tcp::is_done);
    let mut over = [Tick::NEVER; GUESTS as usize];
    let done = net.run(Duration::from_secs(300), |net| {
        for (n, over) in over.iter_mut().enumerate() {
            if *over == Tick::NEVER && is_done(net, n) {
                *over = net.now();
            }
        }
        over.iter().all(|&over| over != Tick::NEVER)
    });
    assert!(done, "{over:?}");
    // What the host's sockets still hold goes on to the servers.
    net.run_for(Duration::from_secs(1));
    for (n, over) in over.iter().enumerate() {
        let good = n % 5 != 0;
        assert!(
            !good || *over < Tick::from_millis(100),
            "guest {n}: {over:?}"
        );
        for tcp in net.guests[n].connections() {
            let up = tcp.script();
            let down = Script {
                key: up.key + 10_000,
                ..Script::new(0, 60_000)
            };
            tcp.taken().check(&down);
            let peer = net.host.peers().find(|peer| peer.script().key == down.key);
            peer.unwrap().taken().check(up);
        }
    }
}

/// Receivers that take little at a time, and a budget of which each connection has a small part.
#[test]
fn a_small_budget_of_windows_is_shared() {
    let setup = Setup {
        guests: GUESTS,
        limits: Limits {
            window_budget: 8 << 20,
            ..Limits::default()
        },
        ..Setup::default()
    };
    let down = Script::new(0, 1_000).choked().end(End::Second);
    let mut net = crowd(&setup, 400_000, down);
    let got = |net: &SimNet| -> Vec<usize> {
        let peers = net.host.peers();
        peers.map(|peer| peer.taken().len()).collect()
    };
    net.run_for(Duration::from_millis(15));
    let shares = got(&net);
    assert!(jain(&shares) > 0.9, "{}: {shares:?}", jain(&shares));
    // Nothing was dropped for want of memory: a sender would wait a second before it sends it again.
    net.run_for(Duration::from_millis(100));
    assert!(got(&net).iter().all(|&n| n == 400_000), "{:?}", got(&net));
}

/// What waits for one server, which takes nothing for an hour, fills the memory for all. Others whose servers take
/// everything get on, loss and all.
#[test]
fn a_connection_that_fills_the_memory_does_not_stop_the_others() {
    for seed in 0..10 {
        let setup = Setup {
            seed,
            guests: 2,
            limits: Limits {
                window_budget: 96 << 10,
                ..Limits::default()
            },
            ..Setup::default()
        };
        let mut net = setup.build();
        let late = Script::new(1, 0).pace(Pace::Late(Duration::from_secs(3_600)));
        let bad = Faults {
            loss: 5,
            reorder: 10,
            ..Faults::default()
        };
        net.up[1].set_faults(bad);
        for (n, down) in [(0, late), (0, late), (0, late), (1, Script::new(2, 0))] {
            let to = ([192, 0, 2, 1 + n], 80).into();
            net.host.tcp_servers.insert(to, TcpServer::Serve(down));
            net.guests[usize::from(n)].connect(to, Script::new(n.into(), 600_000));
            net.run_for(Duration::from_millis(3 * u64::from(n)));
        }
        let done = net.run(Duration::from_secs(120), |net| {
            net.guests[1].tcp(TcpId(0)).is_done()
        });
        let got = net.host.peers().last().unwrap().taken().len();
        assert!(done, "seed {seed}: {got} bytes after {:?}", net.now());
    }
}
