//! The station table against a map, and its concurrent use under loom and shuttle.

#[cfg(not(shuttle))]
use super::learn::Learned;
use super::table::{AGEING, MacTable};
use crate::addr::{Mac, NetworkId, PortId};

const NET: NetworkId = NetworkId(1);

fn mac(n: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, n])
}

#[cfg(not(any(loom, shuttle)))]
mod alone {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::l2::table::{Keeping, Known, MAX_NETWORKS};

    #[derive(Debug, Clone)]
    enum Op {
        Learn(u8, u32, u32),
        Forget(u32),
        Sweep(usize),
        Wait(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0u8..24, 0u32..4, 0u32..3).prop_map(|(m, p, n)| Op::Learn(m, p, n)),
            1 => (0u32..4).prop_map(Op::Forget),
            1 => (0usize..2000).prop_map(Op::Sweep),
            2 => (0u32..200).prop_map(Op::Wait),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(ops in prop::collection::vec(op(), 1..200)) {
            let table = MacTable::new(1024);
            (0..4).for_each(|p| table.keep(PortId(p), Keeping { limit: 1024, ageing: AGEING, hold: 0 }));
            let mut model: HashMap<(u32, u8), (u32, u32)> = HashMap::new();
            let mut now = 7;
            for op in ops {
                model.retain(|_, v| now - v.1 < AGEING);
                match op {
                    Op::Learn(m, port, net) => {
                        let expected = match model.insert((net, m), (port, now)) {
                            None => Learned::New,
                            Some((was, _)) if was == port => Learned::Same,
                            Some((was, _)) => Learned::Moved(PortId(was)),
                        };
                        let found = table.learn(NetworkId(net), mac(m), PortId(port), now);
                        prop_assert_eq!(found, expected);
                    }
                    Op::Forget(port) => {
                        table.forget(PortId(port));
                        model.retain(|_, v| v.0 != port);
                    }
                    Op::Sweep(n) => { table.sweep(now, n); }
                    Op::Wait(seconds) => now += seconds,
                }
                for n in 0..3 {
                    for m in 0..24 {
                        let want = model.get(&(n, m)).filter(|v| now - v.1 < AGEING).map(|v| PortId(v.0));
                        prop_assert_eq!(table.lookup(NetworkId(n), mac(m), now), want);
                    }
                }
                let live = model.values().filter(|v| now - v.1 < AGEING).count();
                prop_assert_eq!(table.iter(now).count(), live);
                let held: u64 = (0..4).map(|p| table.held(PortId(p))).sum();
                prop_assert!(held >= live as u64, "dead entries are counted until swept");
            }
            table.sweep(now + AGEING, 1024);
            prop_assert!((0..4).all(|p| table.held(PortId(p)) == 0));
        }

        /// In a table too small for all, what is found is still the last port of the station.
        #[test]
        fn a_crowded_table_only_misses(ops in prop::collection::vec((any::<u8>(), 0u32..4, 0u32..30), 1..400)) {
            let table = MacTable::with_limit(32, 4, 12);
            let mut model: HashMap<u8, u32> = HashMap::new();
            let mut now = 0;
            for (m, port, step) in ops {
                match table.learn(NET, mac(m), PortId(port), now) {
                    Learned::Same | Learned::New | Learned::Moved(_) => { model.insert(m, port); }
                    Learned::Full | Learned::Limited => {}
                    Learned::Held { at, .. } => prop_assert_eq!(model.get(&m), Some(&at.0)),
                    other @ (Learned::Busy | Learned::Refused) => prop_assert!(false, "{other:?} with one worker"),
                }
                for (&m, &port) in &model {
                    let found = table.lookup(NET, mac(m), now);
                    prop_assert!(found.is_none_or(|p| p == PortId(port)), "{m} at {found:?}, not {port}");
                }
                prop_assert!((0..4).all(|p| table.held(PortId(p)) <= 12));
                now += step;
            }
        }
    }

    #[test]
    fn moves_are_told_and_a_full_neighbourhood_too() {
        let table = MacTable::new(16);
        assert_eq!(table.learn(NET, mac(1), PortId(1), 0), Learned::New);
        assert_eq!(
            table.learn(NET, mac(1), PortId(2), 1),
            Learned::Moved(PortId(1))
        );
        let full = (2..60)
            .filter(|&n| table.learn(NET, mac(n), PortId(1), 1) == Learned::Full)
            .count();
        assert_eq!(full, 58 - 15);
    }

    #[test]
    fn a_port_at_its_limit_learns_again_when_stations_have_aged() {
        let table = MacTable::with_limit(64, 2, 3);
        for n in 1..=3 {
            assert_eq!(table.learn(NET, mac(n), PortId(0), 0), Learned::New);
        }
        assert_eq!(table.learn(NET, mac(4), PortId(0), 1), Learned::Limited);
        assert_eq!(table.learn(NET, mac(4), PortId(1), 1), Learned::New);
        assert_eq!(
            table.learn(NET, mac(4), PortId(0), 2),
            Learned::Limited,
            "no move past the limit"
        );
        assert_eq!(table.lookup(NET, mac(4), 2), Some(PortId(1)));
        assert_eq!(table.learn(NET, mac(5), PortId(0), AGEING), Learned::New);
        assert_eq!(table.held(PortId(0)), 1);
        // However large the table: the first that comes is let in.
        let table = MacTable::with_limit(1 << 14, 2, 3);
        for n in 1..=4 {
            table.learn(NET, mac(n), PortId(0), 0);
        }
        assert_eq!(table.learn(NET, mac(5), PortId(0), AGEING), Learned::New);
        assert_eq!(table.held(PortId(0)), 1);
    }

    #[test]
    fn each_port_is_kept_as_was_said() {
        let table = MacTable::with_limit(64, 2, 3);
        let keeping = Keeping {
            limit: 1,
            ageing: 20,
            hold: 5,
        };
        table.learn(NET, mac(1), PortId(0), 0);
        table.learn(NET, mac(2), PortId(1), 0);
        table.keep(PortId(0), keeping);
        assert_eq!(table.learn(NET, mac(3), PortId(0), 1), Learned::Limited);
        assert_eq!(table.lookup(NET, mac(1), 19), Some(PortId(0)));
        assert_eq!(table.lookup(NET, mac(1), 20), None);
        assert_eq!(table.lookup(NET, mac(2), 20), Some(PortId(1)));
        table.keep(
            PortId(1),
            Keeping {
                ageing: 10,
                ..keeping
            },
        );
        assert_eq!(table.lookup(NET, mac(2), 20), None, "of those known, too");
        assert_eq!(table.learn(NET, mac(3), PortId(0), 20), Learned::New);
        let most = Keeping {
            limit: u32::MAX,
            ageing: u32::MAX,
            hold: u32::MAX,
        };
        table.keep(PortId(0), most);
        assert_eq!(table.lookup(NET, mac(3), 1_000_000), Some(PortId(0)));
    }

    #[test]
    fn a_station_that_flaps_is_held_where_it_is() {
        let table = MacTable::new(64);
        table.learn(NET, mac(1), PortId(0), 100);
        let mut at = 0;
        for _ in 0..5 {
            let was = at;
            at = 1 - was;
            let learned = table.learn(NET, mac(1), PortId(at), 101);
            assert_eq!(learned, Learned::Moved(PortId(was)));
        }
        let held = |now| Learned::Held { at: PortId(1), now };
        assert_eq!(table.learn(NET, mac(1), PortId(0), 102), held(true));
        assert_eq!(table.learn(NET, mac(1), PortId(0), 102), held(false));
        assert_eq!(table.learn(NET, mac(1), PortId(2), 103), held(false));
        assert_eq!(table.learn(NET, mac(1), PortId(1), 103), Learned::Same);
        assert!(table.iter(161).all(|known| known.held));
        assert_eq!(table.held(PortId(1)), 1);
        assert_eq!(table.held(PortId(0)), 0);
        let moved = Learned::Moved(PortId(1));
        assert_eq!(table.learn(NET, mac(1), PortId(0), 162), moved);
        assert!(table.iter(162).all(|known| !known.held));
        table.forget(PortId(0));
        assert_eq!(table.learn(NET, mac(1), PortId(1), 162), Learned::New);
        assert!(table.iter(162).all(|known| !known.held), "it begins anew");
    }

    #[test]
    fn a_removed_port_is_stale_at_once_and_its_number_can_be_used_again() {
        let table = MacTable::new(64);
        table.learn(NET, mac(1), PortId(3), 0);
        let old = table.find(NET, mac(1), 0).unwrap();
        assert!(table.is_current(old));
        table.forget(PortId(3));
        assert!(!table.is_current(old));
        assert_eq!(table.find(NET, mac(1), 0), None);
        assert_eq!(table.held(PortId(3)), 0);
        assert_eq!(table.learn(NET, mac(1), PortId(3), 0), Learned::New);
        assert_ne!(table.find(NET, mac(1), 0), Some(old));
    }

    #[test]
    fn what_is_no_station_of_a_known_network_and_port_is_refused() {
        let table = MacTable::new(16);
        let refused = [
            (NET, Mac::BROADCAST, PortId(0)),
            (NET, Mac([0; 6]), PortId(0)),
            (NetworkId(MAX_NETWORKS), mac(1), PortId(0)),
            (NET, mac(1), PortId(16)),
        ];
        for (net, mac, port) in refused {
            assert_eq!(table.learn(net, mac, port, 0), Learned::Refused);
            assert_eq!(table.lookup(net, mac, 0), None);
        }
        let last = NetworkId(MAX_NETWORKS - 1);
        table.learn(last, mac(255), PortId(15), 0);
        assert_eq!(
            table.iter(2).collect::<Vec<_>>(),
            [Known {
                net: last,
                mac: mac(255),
                port: PortId(15),
                age: 2,
                held: false,
            }]
        );
    }
}

#[cfg(all(loom, not(shuttle)))]
mod loom_models {
    use loom::model::Builder;
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    // Loom tries other orders where a thread finds the stores of another, so who only reads comes after who writes:
    // readers are spawned, and the first thread writes.
    fn model(f: impl Fn() + Send + Sync + 'static) {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(f);
    }

    fn filled(table: &MacTable, now: u32) -> u64 {
        let entries = table.iter(now).count() as u64;
        let held: u64 = (0..4).map(|p| table.held(PortId(p))).sum();
        assert_eq!(held, entries, "what is counted is there");
        entries
    }

    /// Two workers learn two stations of one neighbourhood while a third looks one up: it is found at its own
    /// port or not at all.
    #[test]
    fn learners_and_a_reader() {
        model(|| {
            let table = Arc::new(MacTable::with_limit(2, 4, 2));
            let (other, reader) = (Arc::clone(&table), Arc::clone(&table));
            let two = thread::spawn(move || other.learn(NET, mac(2), PortId(2), 1));
            let reader = thread::spawn(move || {
                let seen = reader.lookup(NET, mac(1), 1);
                assert!(matches!(seen, None | Some(PortId(1))));
            });
            let one = table.learn(NET, mac(1), PortId(1), 1);
            let learned = [one, two.join().unwrap()];
            reader.join().unwrap();
            for (n, learned) in (1u8..).zip(learned) {
                let found = table.lookup(NET, mac(n), 1);
                match learned {
                    Learned::New => assert_eq!(found, Some(PortId(u32::from(n)))),
                    Learned::Busy => assert_eq!(found, None),
                    other @ (Learned::Same
                    | Learned::Moved(_)
                    | Learned::Full
                    | Learned::Limited
                    | Learned::Held { .. }
                    | Learned::Refused) => panic!("{other:?}"),
                }
            }
            filled(&table, 1);
        });
    }

    /// A station has aged and others take its slots over while a reader asks for it and for them: nobody is seen
    /// at another's port.
    #[test]
    fn a_slot_is_taken_over_under_a_reader() {
        model(|| {
            let table = Arc::new(MacTable::with_limit(2, 4, 4));
            table.learn(NET, mac(1), PortId(1), 0);
            table.learn(NET, mac(2), PortId(2), 0);
            let reader = Arc::clone(&table);
            let reader = thread::spawn(move || {
                // A reader whose clock is behind still takes the old stations for live.
                for n in [3, 1, 2] {
                    let found = reader.lookup(NET, mac(n), AGEING - 1);
                    assert!(found.is_none_or(|p| p == PortId(u32::from(n))));
                }
            });
            assert_eq!(table.learn(NET, mac(3), PortId(3), AGEING), Learned::New);
            reader.join().unwrap();
            assert_eq!(table.lookup(NET, mac(3), AGEING), Some(PortId(3)));
        });
    }

    /// Two workers see one station, each at its own port: one entry comes of it.
    #[test]
    fn a_station_at_two_ports_is_one_entry() {
        model(|| {
            let table = Arc::new(MacTable::with_limit(2, 4, 4));
            let other = Arc::clone(&table);
            let other = thread::spawn(move || other.learn(NET, mac(1), PortId(1), 1));
            let mine = table.learn(NET, mac(1), PortId(2), 1);
            let theirs = other.join().unwrap();
            assert!(mine == Learned::New || theirs == Learned::New);
            assert_eq!(filled(&table, 1), 1);
        });
    }

    /// A port is removed while its owner still learns and a reader still looks: what was found before is told
    /// apart from what the number means afterwards.
    #[test]
    fn a_port_is_removed_under_its_learner() {
        model(|| {
            let table = Arc::new(MacTable::with_limit(2, 4, 4));
            table.learn(NET, mac(1), PortId(1), 0);
            let old = table.find(NET, mac(1), 0).unwrap();
            let learner = Arc::clone(&table);
            let learner = thread::spawn(move || learner.learn(NET, mac(1), PortId(1), 1));
            table.forget(PortId(1));
            assert!(!table.is_current(old));
            assert_ne!(table.find(NET, mac(1), 1), Some(old));
            learner.join().unwrap();
            table.sweep(1, 2);
            filled(&table, 1);
        });
    }
}

#[cfg(all(shuttle, not(loom)))]
mod shuttle_models {
    use std::sync::Arc;

    use shuttle::rand::{Rng, thread_rng};
    use shuttle::thread;

    use super::*;

    /// Stations of this model, and the ports that each may be seen at: its own two.
    const STATIONS: u8 = 6;
    const OPS: usize = 25;

    fn port(station: u8, which: u32) -> PortId {
        PortId(2 * u32::from(station) + which)
    }

    fn worker(table: &MacTable) {
        let mut rng = thread_rng();
        let mut now = 0;
        for _ in 0..OPS {
            let station = rng.gen_range(0..STATIONS);
            let which = rng.gen_range(0..2);
            match rng.gen_range(0..12) {
                0 => table.forget(port(station, which)),
                1 => drop(table.sweep(now, 8)),
                2 => now += AGEING / 2,
                3..=6 => {
                    table.learn(NET, mac(station), port(station, which), now);
                }
                _ => {
                    let found = table.lookup(NET, mac(station), now);
                    assert!(
                        found.is_none_or(|p| p.0 / 2 == u32::from(station)),
                        "{station} at {found:?}"
                    );
                }
            }
        }
    }

    /// Workers learn, look up, sweep and remove at random in a crowded table: no station is ever seen at another's
    /// port, and in the end every entry is there once and counted once.
    #[test]
    fn workers_at_random() {
        shuttle::check_random(
            || {
                let table = Arc::new(MacTable::with_limit(4, 12, 2));
                let workers: Vec<_> = (0..3)
                    .map(|_| {
                        let table = Arc::clone(&table);
                        thread::spawn(move || worker(&table))
                    })
                    .collect();
                workers.into_iter().for_each(|w| w.join().unwrap());
                // What is stale by its port's removal goes, however busy its slot was then.
                table.sweep(0, 16);
                let held: u64 = (0..12).map(|p| table.held(PortId(p))).sum();
                assert_eq!(held, table.iter(0).count() as u64);
            },
            2_000,
        );
    }
}
