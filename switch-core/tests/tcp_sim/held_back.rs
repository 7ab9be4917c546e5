//! What an endpoint may receive and how many connections it may have: bytes that are too many stay with the host.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use switch_core::pipeline::Port;
use switch_core::policy::limit::{Limits, Rate, Rates};
use switch_core::testing::guest::TcpId;
use switch_core::testing::host::TcpServer;
use switch_core::testing::net::{Setup, SimNet};
use switch_core::testing::script::{End, Script};
use switch_core::verdict::DropReason;

const FLOWS: u16 = 4;
const RATE: u64 = 1_000_000;

/// Gives a guest limits, in place of those that it has.
fn limit(net: &mut SimNet, n: usize, rates: Rates) {
    let port = net.switch.port(net.ports[n]).unwrap();
    let limits = match &port.limits {
        Some(before) => before.changed(rates),
        None => Limits::new(rates),
    };
    let limits = Some(Arc::new(limits));
    let port = Port {
        limits,
        ..port.clone()
    };
    assert!(net.switch.change_port(port));
}

fn ingress(per_second: u64, burst: u64) -> Rates {
    Rates {
        ingress: Some(Rate::new(per_second, burst)),
        ..Rates::default()
    }
}

/// A guest fetches so much from a server of its own.
fn fetch(net: &mut SimNet, n: usize, server: u16, len: usize, end: End) -> TcpId {
    let to: SocketAddr = ([192, 0, 2, 9], server).into();
    let down = Script::new(u64::from(server), len).end(end);
    net.host.tcp_servers.insert(to, TcpServer::Serve(down));
    net.guests[n].connect(to, Script::new(0, 0))
}

fn taken(net: &SimNet, n: usize) -> Vec<usize> {
    let all = net.guests[n].connections();
    all.iter().map(|tcp| tcp.taken().len()).collect()
}

#[test]
fn connections_get_the_rate_together_and_share_it() {
    for burst in [1, 20_000, 200_000] {
        let setup = Setup {
            guests: 2,
            ..Setup::default()
        };
        let mut net = setup.build();
        limit(&mut net, 0, ingress(RATE, burst));
        for n in 0..FLOWS {
            fetch(&mut net, 0, 80 + n, 1 << 30, End::Never);
        }
        net.run_for(Duration::from_secs(1));
        let before = taken(&net, 0);
        // Another's gets all at once.
        let other = fetch(&mut net, 1, 99, 3_000_000, End::Second);
        net.run_for(Duration::from_millis(100));
        assert_eq!(net.guests[1].tcp(other).taken().len(), 3_000_000);
        net.run_for(Duration::from_millis(3_900));
        let got: Vec<usize> = taken(&net, 0)
            .iter()
            .zip(before)
            .map(|(a, b)| a - b)
            .collect();
        // Headers are a part of it.
        let total: usize = got.iter().sum();
        assert!(
            (3_500_000..4_100_000).contains(&total),
            "burst {burst}: {got:?}"
        );
        let fair = total / got.len();
        assert!(
            got.iter().all(|g| (fair * 3 / 4..fair * 5 / 4).contains(g)),
            "burst {burst}: {got:?}"
        );
        let drops: Vec<_> = net.switch.drops().iter().collect();
        assert_eq!(drops, [], "held back, not dropped");
    }
}

#[test]
fn all_arrives_and_the_rest_at_once_when_the_limit_goes() {
    let mut net = Setup::default().build();
    limit(&mut net, 0, ingress(RATE, 10_000));
    let small = fetch(&mut net, 0, 80, 300_000, End::Second);
    let large = fetch(&mut net, 0, 81, 20_000_000, End::Second);
    net.run_for(Duration::from_secs(1));
    assert!(net.guests[0].tcp(small).is_done());
    assert!(!net.guests[0].tcp(large).is_done());
    limit(&mut net, 0, Rates::default());
    net.run_for(Duration::from_millis(500));
    let tcp = net.guests[0].tcp(large);
    assert!(tcp.is_done(), "{} bytes", tcp.taken().len());
    tcp.taken().check(&Script::new(81, 20_000_000));
}

#[test]
fn connections_that_end_while_they_wait_leave_no_gap() {
    let mut net = Setup::default().build();
    limit(&mut net, 0, ingress(100_000, 1_500));
    // A rate of which none gets much: most wait when they are reset.
    for n in 0..200 {
        fetch(&mut net, 0, 1_000 + n, 1 << 20, End::Never);
    }
    net.run_for(Duration::from_secs(2));
    for n in 0..199 {
        net.guests[0].abort(TcpId(n));
    }
    let before = net.guests[0].tcp(TcpId(199)).taken().len();
    net.run_for(Duration::from_secs(2));
    let got = net.guests[0].tcp(TcpId(199)).taken().len() - before;
    assert!(got > 150_000, "{got} bytes for the one that is left");
}

#[test]
fn no_more_connections_than_the_endpoint_may_have() {
    let mut net = Setup {
        guests: 2,
        ..Setup::default()
    }
    .build();
    let few = Rates {
        flows: Some(10),
        ..Rates::default()
    };
    limit(&mut net, 0, few);
    for n in 0..30 {
        fetch(&mut net, 0, 80 + n, 1_000, End::Never);
        fetch(&mut net, 1, 80 + n, 1_000, End::Never);
    }
    net.run_for(Duration::from_millis(500));
    let served = |net: &SimNet, n| taken(net, n).iter().filter(|&&len| len == 1_000).count();
    assert_eq!((served(&net, 0), served(&net, 1)), (10, 30));
    assert_eq!(net.switch.drops().get(DropReason::FlowLimit), 20);
    // Who ends one may have another, and who is let have more gets them.
    net.guests[0].abort(TcpId(0));
    net.run_for(Duration::from_secs(10));
    assert_eq!(served(&net, 0), 11);
    limit(&mut net, 0, Rates::default());
    net.run_for(Duration::from_secs(60));
    assert_eq!(served(&net, 0), 30);
}
