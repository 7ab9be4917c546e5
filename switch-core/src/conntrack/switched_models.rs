//! The table of switched conversations used by several workers at once, in an order that shuttle chooses, against an
//! oracle: what each conversation's entry can only ever say.

use core::net::Ipv4Addr;
use std::sync::Arc;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use super::switched::{Stage, Switched, Target};
use super::tuple::{Role, Tuple};
use crate::addr::{Mac, NetworkId, PortId};
use crate::wire::packet::{PROTO_TCP, PROTO_UDP};

const OPS: usize = 20;
const NOW: u32 = 100;

/// Conversation number `n`. Odd ones are those of a service.
fn tuple(n: u8) -> Tuple {
    Tuple {
        net: NetworkId(3),
        proto: if n % 3 == 0 { PROTO_TCP } else { PROTO_UDP },
        piece: false,
        src: Ipv4Addr::new(10, 0, 0, n).into(),
        dst: Ipv4Addr::new(10, 0, 1, n).into(),
        ports: (1_000 + u16::from(n), 80),
    }
}

/// Where the oracle says that its packets go, there and back.
fn targets(n: u8) -> Option<(Target, Target)> {
    let tuple = tuple(n);
    let to = |src, dst| Target {
        src,
        dst,
        mac: Mac([2, 0, 0, 0, 0, n]),
        port: PortId(n.into()),
    };
    let backend = (Ipv4Addr::new(10, 0, 2, n).into(), 8_000 + u16::from(n));
    let (client, service) = ((tuple.src, tuple.ports.0), (tuple.dst, tuple.ports.1));
    (n % 2 == 1).then(|| (to(client, backend), to(service, client)))
}

/// The tuple of what comes back.
fn back(n: u8) -> Tuple {
    let tuple = tuple(n);
    match targets(n) {
        Some((there, _)) => Tuple {
            src: there.dst.0,
            dst: there.src.0,
            ports: (there.dst.1, there.src.1),
            ..tuple
        },
        None => tuple.reversed(),
    }
}

/// Whatever is found of a conversation is its own: its direction and its targets, never half of another's.
fn check(table: &Switched, n: u8, role: Role) -> (bool, bool) {
    let targets = targets(n);
    let there = table.pass(&tuple(n), role, NOW);
    if let Some(found) = there {
        assert_eq!(
            (found.reply, found.target),
            (false, targets.map(|t| t.0)),
            "there {n}"
        );
    }
    let answer = table.pass(&back(n), Role::Continues, NOW);
    if let Some(found) = answer {
        assert_eq!(
            (found.reply, found.target),
            (true, targets.map(|t| t.1)),
            "back {n}"
        );
    }
    (there.is_some(), answer.is_some())
}

fn worker(table: &Switched, conversations: u8) {
    let mut rng = thread_rng();
    for _ in 0..OPS {
        let n = rng.gen_range(0..conversations);
        match rng.gen_range(0..4) {
            0 | 1 => table.open(&tuple(n), (PortId(n.into()), Stage::New), targets(n), NOW),
            2 => drop(check(table, n, Role::Continues)),
            _ => drop(check(table, n, Role::Resets)),
        }
    }
}

fn run(capacity: usize, conversations: u8, each: impl Fn(&Switched) + Send + Sync + 'static) {
    shuttle::check_random(
        move || {
            let table = Arc::new(Switched::new(capacity, [1, 2, 3, 4]));
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    let table = Arc::clone(&table);
                    thread::spawn(move || worker(&table, conversations))
                })
                .collect();
            workers.into_iter().for_each(|w| w.join().unwrap());
            each(&table);
            // What is counted is what is there: nothing of it is left when all has gone.
            table.sweep(NOW + 100_000);
            let held = |n: u8| table.tallies().get(n.into());
            assert!((0..conversations).all(|n| held(n) == 0));
        },
        500,
    );
}

/// Conversations crowd each other out, and no packet ever goes where another's does.
#[test]
fn crowded_out_at_random() {
    run(8, 40, |table| {
        for n in 0..40 {
            check(table, n, Role::Continues);
        }
    });
}

/// With room for all, what is entered when nobody else writes is there, both ways.
#[test]
fn entered_at_random() {
    run(64, 6, |table| {
        for n in 0..6 {
            table.open(&tuple(n), (PortId(n.into()), Stage::New), targets(n), NOW);
        }
        for n in 0..6 {
            assert_eq!(check(table, n, Role::Continues), (true, true), "{n}");
        }
    });
}
