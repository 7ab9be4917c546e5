//! Rules, compiled and asked.

use core::time::Duration;

use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;
use crate::policy::compile::Rules;
use crate::policy::learned::MOST;

fn rule(action: Action, remote: Remote, transport: Transport, ports: Option<(u16, u16)>) -> Rule {
    Rule {
        direction: Direction::Egress,
        action,
        remote,
        transport,
        ports,
    }
}

fn prefixes(list: &[&str]) -> Remote {
    let one = |text: &&str| {
        let (addr, len) = text.split_once('/').unwrap();
        (addr.parse().unwrap(), len.parse().unwrap())
    };
    Remote::Prefixes(list.iter().map(one).collect())
}

fn flow(remote: &str, proto: u8, port: u16) -> Flow {
    Flow {
        remote: remote.parse().unwrap(),
        proto,
        port,
    }
}

#[test]
fn the_first_that_matches_decides() {
    let rules = Rules {
        rules: vec![
            rule(
                Action::Reject,
                prefixes(&["10.1.2.3/32"]),
                Transport::Any,
                None,
            ),
            rule(
                Action::Allow,
                prefixes(&["10.1.0.0/16", "fd00::/8"]),
                Transport::Tcp,
                Some((80, 90)),
            ),
            rule(
                Action::Allow,
                prefixes(&["10.2.0.0/16"]),
                Transport::Tcp,
                Some((80, 90)),
            ),
            rule(Action::Allow, Remote::Any, Transport::Icmp, None),
            Rule {
                direction: Direction::Ingress,
                ..rule(Action::Drop, Remote::Any, Transport::Udp, Some((53, 53)))
            },
        ],
        egress: Action::Drop,
        ingress: Action::Allow,
    };
    let policy = rules.compile().unwrap();
    assert_eq!(policy.egress.groups.len(), 3, "neighbours are one group");
    for (expected, flow) in [
        (Action::Reject, flow("10.1.2.3", PROTO_TCP, 80)),
        (Action::Allow, flow("10.1.2.4", PROTO_TCP, 80)),
        (Action::Allow, flow("10.2.255.255", PROTO_TCP, 90)),
        (Action::Allow, flow("fdff::1", PROTO_TCP, 85)),
        (Action::Drop, flow("10.3.0.0", PROTO_TCP, 85)),
        (Action::Drop, flow("10.1.2.4", PROTO_TCP, 91)),
        (Action::Drop, flow("10.1.2.4", PROTO_UDP, 80)),
        (Action::Allow, flow("8.8.8.8", PROTO_ICMP, 0)),
        (Action::Allow, flow("2001:db8::1", PROTO_ICMPV6, 0)),
        (Action::Drop, flow("8.8.8.8", 132, 0)),
    ] {
        assert_eq!(
            policy.decide(Direction::Egress, &flow, None),
            expected,
            "{flow:?}"
        );
    }
    let asks = |proto| policy.decide(Direction::Ingress, &flow("10.9.9.9", proto, 53), None);
    assert_eq!(
        (asks(PROTO_UDP), asks(PROTO_TCP)),
        (Action::Drop, Action::Allow)
    );
    assert!(Rules::default().compile().is_none(), "nothing to ask");
}

fn answer(name: &str, addr: [u8; 4], ttl: u32) -> Vec<u8> {
    let name = Name::from_ascii(name).unwrap();
    let mut message = Message::response(1, OpCode::Query);
    message.add_query(Query::query(name.clone(), RecordType::A));
    let data = RData::A(A(addr.into()));
    message.add_answer(Record::from_rdata(name, ttl, data));
    message.to_vec().unwrap()
}

#[test]
fn names_stand_for_what_they_were_answered_with() {
    let named = |name: &str| {
        rule(
            Action::Allow,
            Remote::Name(name.to_owned()),
            Transport::Any,
            None,
        )
    };
    let rules = Rules {
        rules: vec![named("db.example.org"), named("*.example.com")],
        egress: Action::Reject,
        ..Rules::default()
    };
    let policy = rules.compile().unwrap();
    let mut learned = Learned::default();
    let mut answered = |name: &str, last, ttl| {
        learned.answered(
            Tick::ZERO,
            policy.names(),
            &answer(name, [192, 0, 2, last], ttl),
        );
    };
    answered("DB.example.org.", 1, 10);
    answered("a.b.Example.com.", 2, 3_600);
    answered("example.com.", 3, 10);
    answered("badexample.com.", 4, 10);
    answered("www.example.org.", 5, 10);
    let allowed = |now: Tick| -> Vec<u8> {
        let ask = |last: &u8| {
            let flow = flow(&format!("192.0.2.{last}"), PROTO_TCP, 443);
            let known = Some((&learned, now));
            policy.decide(Direction::Egress, &flow, known) == Action::Allow
        };
        (0..10).filter(ask).collect()
    };
    assert_eq!(allowed(Tick::from_millis(1)), [1, 2]);
    assert_eq!(allowed(Tick::ZERO + Duration::from_secs(299)), [1, 2]);
    assert_eq!(allowed(Tick::ZERO + Duration::from_secs(301)), [2]);
    assert_eq!(allowed(Tick::ZERO + Duration::from_secs(3_601)), [0; 0]);
}

#[test]
fn what_names_lead_to_is_bounded() {
    let names = Names::new(&["*.example.com".to_owned()]);
    let mut learned = Learned::default();
    let addr = |n: usize| {
        let [.., a, b] = n.to_be_bytes();
        [10, 0, a, b]
    };
    for n in 0..MOST + 50 {
        let now = Tick::from_millis(n as u64);
        learned.answered(now, &names, &answer("x.example.com.", addr(n), 300));
    }
    let kept = (0..MOST + 50).filter(|&n| learned.has(Tick::from_millis(2_000), addr(n).into(), 0));
    assert_eq!(
        kept.collect::<Vec<_>>(),
        (50..MOST + 50).collect::<Vec<_>>()
    );
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let remote = prop_oneof![
        Just(Remote::Any),
        prop::collection::vec((0_u32..16, 28_u8..=32), 1..3).prop_map(|list| {
            let prefix = |(a, len): (u32, u8)| (IpAddr::V4(a.into()), len);
            Remote::Prefixes(list.into_iter().map(prefix).collect())
        }),
    ];
    let action = prop_oneof![
        Just(Action::Allow),
        Just(Action::Drop),
        Just(Action::Reject)
    ];
    let direction = prop_oneof![Just(Direction::Ingress), Just(Direction::Egress)];
    let transport = prop_oneof![
        Just((Transport::Any, None)),
        Just((Transport::Udp, None)),
        (0_u16..5, 0_u16..5).prop_map(|(a, n)| (Transport::Tcp, Some((a, a + n)))),
    ];
    let all = (direction, action, remote, transport);
    all.prop_map(|(direction, action, remote, (transport, ports))| Rule {
        direction,
        action,
        remote,
        transport,
        ports,
    })
}

/// The words of the rules, one after the other.
fn slow(rules: &Rules, way: Direction, flow: &Flow) -> Action {
    for r in rules.rules.iter().filter(|r| r.direction == way) {
        let remote = match &r.remote {
            Remote::Any => true,
            Remote::Prefixes(list) => list.iter().any(|&(a, len)| match (a, flow.remote) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    (a.to_bits() ^ b.to_bits()).leading_zeros() >= len.into()
                }
                _ => false,
            }),
            Remote::Name(_) => false,
        };
        let transport = match r.transport {
            Transport::Any => true,
            Transport::Tcp => flow.proto == PROTO_TCP,
            Transport::Udp => flow.proto == PROTO_UDP,
            Transport::Icmp => flow.proto == PROTO_ICMP,
        };
        let ports = r
            .ports
            .is_none_or(|(a, b)| a <= flow.port && flow.port <= b);
        if remote && transport && ports {
            return r.action;
        }
    }
    match way {
        Direction::Ingress => rules.ingress,
        Direction::Egress => rules.egress,
    }
}

proptest! {
    #[test]
    fn compiled_is_as_written(
        rules in prop::collection::vec(any_rule(), 0..12),
        flows in prop::collection::vec((0_u32..20, any::<bool>(), 0_u16..10, any::<bool>()), 1..20),
    ) {
        let rules = Rules { rules, ingress: Action::Drop, egress: Action::Allow };
        let policy = rules.compile().unwrap();
        for (remote, tcp, port, inward) in flows {
            let proto = if tcp { PROTO_TCP } else { PROTO_UDP };
            let flow = Flow { remote: IpAddr::V4(remote.into()), proto, port };
            let way = if inward { Direction::Ingress } else { Direction::Egress };
            prop_assert_eq!(policy.decide(way, &flow, None), slow(&rules, way, &flow));
        }
    }
}
