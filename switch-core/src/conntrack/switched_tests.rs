//! The table of switched conversations, against what it promises.

use core::net::IpAddr;

use super::switched::{Found, Stage, Switched, Target};
use super::tuple::{Role, Tuple};
use crate::addr::{Mac, NetworkId, PortId};
use crate::wire::packet::{PROTO_TCP, PROTO_UDP};

const A: PortId = PortId(1);
const B: PortId = PortId(2);

fn tuple(proto: u8, [src, dst]: [&str; 2], ports: (u16, u16)) -> Tuple {
    Tuple {
        net: NetworkId(3),
        proto,
        piece: false,
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        ports,
    }
}

fn table() -> Switched {
    Switched::new(64, [1, 2, 3, 4])
}

#[test]
fn both_directions_are_known_and_nothing_else() {
    for ends in [["10.0.0.2", "10.0.0.3"], ["fd00::2", "fd00::3"]] {
        let table = table();
        let there = tuple(PROTO_UDP, ends, (4000, 53));
        assert_eq!(table.pass(&there, Role::Opens, 5), None);
        table.open(&there, (A, Stage::New), None, 5);
        let found = |reply, stage| {
            Some(Found {
                stage,
                reply,
                silent: 0,
                target: None,
            })
        };
        assert_eq!(table.pass(&there, Role::Opens, 5), found(false, Stage::New));
        let back = there.reversed();
        assert_eq!(table.pass(&back, Role::Opens, 5), found(true, Stage::New));
        assert_eq!(
            table.pass(&there, Role::Opens, 5),
            found(false, Stage::Open)
        );
        for other in [
            Tuple {
                net: NetworkId(4),
                ..there
            },
            Tuple {
                proto: PROTO_TCP,
                ..there
            },
            Tuple {
                piece: true,
                ..there
            },
            Tuple {
                ports: (4000, 54),
                ..there
            },
            Tuple {
                ports: (4001, 53),
                ..there
            },
            Tuple {
                src: there.dst,
                ..there
            },
        ] {
            assert_eq!(table.pass(&other, Role::Opens, 5), None, "{other:?}");
        }
    }
}

#[test]
fn silence_ends_it_and_either_side_keeps_it() {
    let table = table();
    let there = tuple(PROTO_UDP, ["10.0.0.2", "10.0.0.3"], (4000, 53));
    table.open(&there, (A, Stage::New), None, 5);
    assert!(table.pass(&there, Role::Opens, 64).is_some());
    assert!(table.peek(&there, 123).is_some());
    assert_eq!(table.peek(&there, 124), None);
    table.open(&there, (A, Stage::New), None, 200);
    for now in (200..3_000).step_by(290) {
        assert!(table.pass(&there.reversed(), Role::Opens, now).is_some());
    }
    assert!(table.pass(&there, Role::Opens, 3_000).is_some());
}

#[test]
fn connections_open_and_end() {
    let table = table();
    let there = tuple(PROTO_TCP, ["10.0.0.2", "10.0.0.3"], (4000, 80));
    let back = there.reversed();
    table.open(&there, (A, Stage::New), None, 5);
    assert!(table.pass(&back, Role::Continues, 5).is_some());
    assert_eq!(table.peek(&there, 7_000).unwrap().stage, Stage::Open);
    let _ = table.pass(&there, Role::Finishes, 7_000);
    assert_eq!(table.peek(&back, 7_000).unwrap().stage, Stage::Closing);
    assert_eq!(table.peek(&back, 7_240), None);
    let _ = table.pass(&there, Role::Opens, 7_001);
    assert_eq!(table.peek(&back, 7_001).unwrap().stage, Stage::New);
    let _ = table.pass(&back, Role::Resets, 7_001);
    assert_eq!(table.peek(&there, 7_011), None);
}

#[test]
fn where_packets_go_is_kept() {
    for [client, service, backend] in [
        ["10.0.0.2", "10.0.0.9", "10.0.0.3"],
        ["fd00::2", "fd00::9", "fd00::3"],
    ] {
        let table = table();
        let there = tuple(PROTO_TCP, [client, service], (4000, 80));
        let at = |a: &str, port| (a.parse::<IpAddr>().unwrap(), port);
        let to = Target {
            src: at(client, 4000),
            dst: at(backend, 8080),
            mac: Mac([2, 0, 0, 0, 0, 3]),
            port: B,
        };
        let from = Target {
            src: at(service, 80),
            dst: at(client, 4000),
            mac: Mac([2, 0, 0, 0, 0, 2]),
            port: A,
        };
        table.open(&there, (A, Stage::New), Some((to, from)), 5);
        let back = tuple(PROTO_TCP, [backend, client], (8080, 4000));
        assert_eq!(table.pass(&there, Role::Opens, 5).unwrap().target, Some(to));
        assert_eq!(
            table.pass(&back, Role::Continues, 5).unwrap().target,
            Some(from)
        );
        assert_eq!(table.peek(&there, 7_000).unwrap().stage, Stage::Open);
    }
}

/// Who opens without end takes no more than a share of others' neighbourhoods, and what was answered last stays.
#[test]
fn a_flood_hurts_itself() {
    let table = table();
    let victim = |n| tuple(PROTO_TCP, ["10.0.0.2", "10.0.0.3"], (n, 80));
    for n in 0..20 {
        table.open(&victim(n), (A, Stage::Open), None, 5);
    }
    for n in 0..20_000 {
        let flood = tuple(PROTO_UDP, ["10.0.0.8", "10.0.0.3"], (n, 7));
        table.open(&flood, (B, Stage::Open), None, 6);
    }
    let kept = (0..20).filter(|&n| table.peek(&victim(n), 7).is_some());
    assert!(kept.count() >= 18);
    table.open(&victim(99), (A, Stage::New), None, 7);
    assert!(table.peek(&victim(99), 7).is_some(), "room for others");
}

/// How many conversations A has in the table.
fn counted(table: &Switched) -> u64 {
    table.tallies().get(A.0 as usize)
}

#[test]
fn an_endpoint_has_what_it_began_until_that_ends() {
    let table = table();
    let at = |n| tuple(PROTO_TCP, ["10.0.0.2", "10.0.0.3"], (n, 80));
    for n in 0..5 {
        table.open(&at(n), (A, Stage::New), None, 5);
        // Entered again it is the same.
        table.open(&at(n), (A, Stage::Open), None, 5);
    }
    let piece = Tuple {
        piece: true,
        ..at(9)
    };
    table.open(&piece, (A, Stage::Open), None, 5);
    table.open(&at(9).reversed(), (B, Stage::New), None, 5);
    assert_eq!(counted(&table), 5);
    // Either side ends it, once, and a new one between the same ports counts again.
    let _ = table.pass(&at(0), Role::Finishes, 5);
    let _ = table.pass(&at(0).reversed(), Role::Finishes, 5);
    let _ = table.pass(&at(1).reversed(), Role::Resets, 5);
    assert_eq!(counted(&table), 3);
    let _ = table.pass(&at(0), Role::Opens, 6);
    assert_eq!(counted(&table), 4);
    // Another one between these counts to who began that.
    table.open(&at(4), (B, Stage::New), None, 6);
    assert_eq!(counted(&table), 3);
    table.forget(A);
    assert_eq!(counted(&table), 0);
    for n in 0..4 {
        assert_eq!(table.peek(&at(n), 6), None);
        assert_eq!(table.peek(&at(n).reversed(), 6), None);
    }
    assert!(table.peek(&at(4), 6).is_some() && table.peek(&at(9).reversed(), 6).is_some());
}

#[test]
fn what_is_silent_counts_until_its_place_is_wanted() {
    let table = table();
    let at = |proto, n| tuple(proto, ["10.0.0.2", "10.0.0.3"], (n, 80));
    table.open(&at(PROTO_TCP, 1), (A, Stage::Open), None, 5);
    table.open(&at(PROTO_UDP, 2), (A, Stage::Open), None, 5);
    table.open(&at(PROTO_UDP, 3), (A, Stage::New), None, 5);
    table.sweep(64);
    assert_eq!(counted(&table), 3);
    table.sweep(65);
    assert_eq!(counted(&table), 2);
    // It makes room for others of its own, and not for those of a neighbour.
    table.make_room(B, 125);
    assert_eq!(counted(&table), 2);
    table.make_room(A, 126);
    assert_eq!(counted(&table), 1);
    assert!(table.peek(&at(PROTO_TCP, 1), 126).is_some());
    table.sweep(5 + 7_440);
    assert_eq!(counted(&table), 0);
}

/// Whatever comes and goes, and in what order: what is counted is what is there.
#[test]
fn the_count_does_not_drift() {
    let table = table();
    for n in 0..5_000_u16 {
        let owner = if n % 3 == 0 { A } else { B };
        let proto = if n % 2 == 0 { PROTO_TCP } else { PROTO_UDP };
        let one = tuple(proto, ["10.0.0.2", "10.0.0.3"], (n % 512, 80));
        let now = 10 + u32::from(n / 50);
        match n % 7 {
            0 => drop(table.pass(&one, Role::Resets, now)),
            1 => drop(table.pass(&one, Role::Opens, now)),
            2 => drop(table.pass(&one.reversed(), Role::Finishes, now)),
            _ => table.open(&one, (owner, Stage::New), None, now),
        }
    }
    assert!(counted(&table) > 0);
    table.sweep(100_000);
    assert_eq!((counted(&table), table.tallies().get(B.0 as usize)), (0, 0));
}
