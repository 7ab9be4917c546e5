//! Who asks, when, and whom.

use super::*;
use crate::l2::snoop::{Group, query};
use crate::pipeline::tests::GATEWAY;
use crate::policy::guard::{Guard, Trust};

#[test]
fn everybody_is_asked_at_first_and_then_every_125_seconds() {
    let mut net = Net::new(Some(INTERVAL));
    assert_eq!(net.reached(G4), [1, 2, 3], "nobody was asked yet");
    net.pass(Duration::ZERO);
    let first = net.queries();
    for port in 0..PORTS {
        for all in ["0.0.0.0", "::"] {
            let times = first.iter().filter(|q| **q == (port, all.parse().unwrap()));
            assert_eq!(times.count(), 2, "{port} as a new one, and with all");
        }
    }
    net.pass(Duration::from_secs(30));
    assert_eq!(net.queries(), []);
    let mut times = Vec::new();
    for second in 31..300 {
        net.pass(Duration::from_secs(1));
        let queries = net.queries();
        if !queries.is_empty() {
            assert_eq!(queries.len(), 8, "both protocols, every endpoint");
            times.push(second);
        }
    }
    assert_eq!(times, [32, 157, 282]);
    assert_eq!(net.reached(G4), [0; 0]);
}

#[test]
fn one_that_comes_later_is_asked_alone_and_gets_all_meanwhile() {
    let mut net = Net::settled();
    let port = Port::new(PortId(4), mac(4), 1500, true);
    net.switch.add_port(port, guest(4));
    net.pass(Duration::from_millis(1));
    let asked: Vec<u32> = net.queries().into_iter().map(|q| q.0).collect();
    assert_eq!(asked, [4, 4]);
    assert_eq!(net.reached(G4), [4]);
    net.pass(Duration::from_secs(2));
    assert_eq!(net.reached(G4), [0; 0]);
}

/// A query of another querier, from behind a port.
pub(in crate::pipeline) fn foreign(port: u32, from: IpAddr, group: Option<&str>) -> Vec<u8> {
    let group = group.and_then(|g| Group::of(g.parse().unwrap()));
    let ask = query::Ask {
        group,
        response: Duration::from_secs(10),
        interval: INTERVAL,
    };
    let mut out = Vec::new();
    query::write(mac(port), from, &ask, &mut out);
    out
}

#[test]
fn the_lower_address_asks() {
    let mut net = Net::settled();
    net.send(3, &foreign(3, v4(3).into(), None));
    net.pass(Duration::from_secs(126));
    let v4_queries = |net: &mut Net| net.queries().iter().filter(|q| q.1.is_ipv4()).count();
    assert!(v4_queries(&mut net) > 0, "10.0.0.5 is higher than 10.0.0.1");
    net.send(3, &foreign(3, [10, 0, 0, 0].into(), None));
    assert_eq!(net.queries().len(), 3, "a query is for everybody");
    net.pass(Duration::from_secs(250));
    assert_eq!(v4_queries(&mut net), 0, "yields");
    assert_eq!(
        net.reached(G4),
        [3],
        "where the querier is, there is a router"
    );
    assert_eq!(net.reached(G6), [0; 0]);
    net.join(2, G4);
    assert_eq!(net.world.frames.len(), 1, "which hears the reports");
    net.leave(2, G4);
    assert_eq!(net.queries(), [], "and asks who is left");
    net.pass(Duration::from_secs(1));
    assert_eq!(net.reached(G4), [2, 3]);
    net.send(3, &foreign(3, [10, 0, 0, 0].into(), Some(G4)));
    net.pass(Duration::from_secs(20));
    assert_eq!(net.reached(G4), [3], "nobody has answered it");
    net.pass(Duration::from_secs(260));
    assert!(v4_queries(&mut net) > 0, "it has gone");
    assert_eq!(net.reached(G4), [0; 0]);
}

#[test]
fn a_guest_is_no_querier() {
    let mut net = Net::settled();
    let guarded = |trust| Port {
        guard: Some(Guard::new(mac(3), [v4(3).into()], None, trust)),
        ..Port::new(PortId(3), mac(3), 1500, true)
    };
    net.switch.change_port(guarded(Trust::default()));
    let query = foreign(3, v4(3).into(), None);
    let verdict = net.send(3, &query);
    assert_eq!(verdict, Verdict::Drop(DropReason::RogueRouter));
    assert_eq!(net.reached(G4), [0; 0], "and gets nothing for it");
    let router = Trust {
        router: true,
        ..Trust::default()
    };
    net.switch.change_port(guarded(router));
    assert_eq!(net.send(3, &query), Verdict::Flood);
    assert_eq!(net.reached(G4), [3]);
}

#[test]
fn where_nobody_asks_everybody_gets_it() {
    let mut net = Net::new(None);
    net.pass(Duration::from_secs(300));
    assert_eq!(net.queries(), []);
    net.join(2, G4);
    assert_eq!(net.reached(G4), [1, 2, 3]);
    net.send(3, &foreign(3, v4(3).into(), None));
    net.world.frames.clear();
    assert_eq!(net.reached(G4), [2, 3], "somebody asks now");
    assert_eq!(net.reached(G6), [1, 2, 3]);
    net.switch.set_snooping(None);
    assert_eq!(net.reached(G4), [1, 2, 3]);
}

#[test]
fn the_gateway_never_asks_where_endpoints_may_not_speak_to_each_other() {
    let mut net = Net::new(Some(INTERVAL));
    net.switch.config.icc = false;
    net.pass(Duration::from_secs(200));
    let general = |q: &(u32, IpAddr)| q.1.is_unspecified();
    assert_eq!(
        net.queries().iter().filter(|q| general(q)).count(),
        8,
        "the new ones"
    );
    assert_eq!(net.switch.config.gateway.mac, GATEWAY);
}
