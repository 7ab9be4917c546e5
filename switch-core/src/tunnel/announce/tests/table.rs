//! The table beside a slow, obvious one, and what it takes.

use core::net::IpAddr;

use proptest::prelude::*;

use super::super::table::Change;
use super::super::*;
use super::world::{endpoint, id, mac, vni};

fn put(table: &mut Table, owner: PeerId, endpoint: &Announced, out: &mut Vec<Change>) {
    let record = endpoint.record().unwrap();
    let view = EndpointView::check(&record[RECORD_HEAD..]).unwrap();
    table.put(Holder::Peer(owner), view, out);
}

#[test]
fn a_remote_endpoint_takes_less_than_300_bytes() {
    // Just after the indexes have doubled, and as many as there may be.
    for count in [29_000, 100_000_u32] {
        let mut table = Table::new();
        let mut out = Vec::new();
        for n in 0..count {
            let mut one = endpoint(1 + n % 16, n);
            one.addrs[0] = IpAddr::V4((0x0a00_0000 + n).into());
            one.addrs
                .push(IpAddr::V6((0xfd << 120 | u128::from(n)).into()));
            one.names = [
                format!("container-{n}").into(),
                format!("alias{n}.net").into(),
            ]
            .into();
            put(&mut table, PeerId(n % 1000), &one, &mut out);
            out.clear();
        }
        assert_eq!((table.len(), table.waiting()), (count as usize, 0));
        let each = table.bytes() / count as usize;
        assert!(each <= 300, "{each} bytes each of {count}");
    }
}

/// The obvious table: who asked when, and who has what.
#[derive(Default)]
struct Model {
    /// What everybody asks for.
    asked: BTreeMap<(Holder, Vni, Mac), Announced>,
    /// Those that are there, as the changes say.
    up: BTreeMap<(Vni, Mac), (PeerId, Announced)>,
}

impl Model {
    fn apply(&mut self, table: &Table, out: &mut Vec<Change>) {
        for change in out.drain(..) {
            match change {
                Change::Up(peer, at) => {
                    let one = table.view(at).unwrap().to_owned();
                    let old = self.up.insert((one.vni, one.mac), (peer, one));
                    assert!(old.is_none(), "it was there");
                }
                Change::Changed(peer, at) => {
                    let one = table.view(at).unwrap().to_owned();
                    let old = self.up.insert((one.vni, one.mac), (peer, one));
                    assert_eq!(old.map(|o| o.0), Some(peer));
                }
                Change::Down(peer, vni, mac) => {
                    assert_eq!(self.up.remove(&(vni, mac)).map(|o| o.0), Some(peer));
                }
                Change::Waits(..) | Change::SameName(..) => {}
                Change::Crowded(_) => panic!("so many do not ask"),
            }
        }
    }

    /// Everybody is there or is kept from it by one who is; nobody shares; all is found.
    fn check(&self, table: &Table) {
        let of = |owner: Holder| {
            table
                .of(owner)
                .map(move |(view, up)| (owner, view.to_owned(), up))
        };
        let owners = [Holder::Local]
            .into_iter()
            .chain((0..4).map(|p| Holder::Peer(id(p))));
        let rows: Vec<_> = owners.flat_map(of).collect();
        let asked = rows.iter().map(|(o, e, _)| ((*o, e.vni, e.mac), e.clone()));
        assert_eq!(asked.collect::<BTreeMap<_, _>>(), self.asked);
        assert_eq!(rows.len(), table.len());
        let mut addrs = BTreeMap::new();
        let mut macs = BTreeMap::new();
        for (owner, one, _) in rows.iter().filter(|r| r.2) {
            assert!(macs.insert((one.vni, one.mac), *owner).is_none());
            for &addr in &one.addrs {
                assert!(addrs.insert((one.vni, addr), *owner).is_none());
                assert_eq!(table.by_addr(one.vni, addr).unwrap().0, *owner);
            }
            let (holder, view) = table.by_mac(one.vni, one.mac).unwrap();
            assert_eq!((holder, &view.to_owned()), (*owner, one));
            if let Holder::Peer(peer) = *owner {
                assert_eq!(self.up.get(&(one.vni, one.mac)), Some(&(peer, one.clone())));
            }
        }
        let theirs = macs.values().filter(|&&o| o != Holder::Local).count();
        assert_eq!(self.up.len(), theirs);
        let waiting = rows.iter().filter(|r| !r.2);
        assert_eq!(waiting.clone().count(), table.waiting());
        for (owner, one, _) in waiting {
            assert_ne!(*owner, Holder::Local);
            let taken = macs.contains_key(&(one.vni, one.mac))
                || one.addrs.iter().any(|&a| addrs.contains_key(&(one.vni, a)));
            assert!(taken, "nothing keeps {one:?} of {owner:?}");
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Put(usize, Announced),
    Remove(usize, u32, u32),
    Local(Announced),
    LocalGone(u32, u32),
    Round(usize, Vec<Announced>),
    All(usize),
}

/// Few of everything, so that they meet.
fn any_endpoint() -> impl Strategy<Value = Announced> {
    let addrs = prop::collection::btree_set(0u8..6, 0..3);
    (1u32..3, 0u32..6, addrs, 0u8..3).prop_map(|(net, n, addrs, name)| Announced {
        addrs: addrs
            .into_iter()
            .map(|a| IpAddr::from([10, 1, 0, a + 1]))
            .collect(),
        names: (0..name.min(1))
            .map(|_| format!("n{name}").into())
            .collect(),
        ..endpoint(net, n)
    })
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0usize..4, any_endpoint()).prop_map(|(p, e)| Op::Put(p, e)),
        4 => (0usize..4, 1u32..3, 0u32..6).prop_map(|(p, v, n)| Op::Remove(p, v, n)),
        3 => any_endpoint().prop_map(Op::Local),
        3 => (1u32..3, 0u32..6).prop_map(|(v, n)| Op::LocalGone(v, n)),
        1 => (0usize..4, prop::collection::vec(any_endpoint(), 0..4)).prop_map(|(p, e)| Op::Round(p, e)),
        1 => (0usize..4).prop_map(Op::All),
    ]
}

proptest! {
    #[test]
    fn the_table_is_as_the_obvious_one(ops in prop::collection::vec(any_op(), 1..60)) {
        let mut table = Table::new();
        let mut model = Model::default();
        let mut out = Vec::new();
        for op in ops {
            match op {
                Op::Put(p, one) => {
                    put(&mut table, id(p), &one, &mut out);
                    model.asked.insert((Holder::Peer(id(p)), one.vni, one.mac), one);
                }
                Op::Remove(p, v, n) => {
                    let key = (Holder::Peer(id(p)), vni(v), mac(n));
                    let was = table.remove(key.0, key.1, key.2, &mut out);
                    prop_assert_eq!(model.asked.remove(&key).is_some(), was);
                }
                Op::Local(one) => {
                    let record = one.record().unwrap();
                    let view = EndpointView::check(&record[RECORD_HEAD..]).unwrap();
                    let done = table.put_local(view, &mut out).is_ok();
                    let shared = model.asked.iter().any(|((o, v, m), e)| {
                        *o == Holder::Local && *v == one.vni && *m != one.mac
                            && e.addrs.iter().any(|a| one.addrs.contains(a))
                    });
                    prop_assert_eq!(done, !shared);
                    if done {
                        model.asked.insert((Holder::Local, one.vni, one.mac), one);
                    }
                }
                Op::LocalGone(v, n) => {
                    table.remove(Holder::Local, vni(v), mac(n), &mut out);
                    model.asked.remove(&(Holder::Local, vni(v), mac(n)));
                }
                Op::Round(p, told) => {
                    let owner = Holder::Peer(id(p));
                    table.begin_round(owner);
                    model.asked.retain(|key, _| key.0 != owner);
                    for one in told {
                        put(&mut table, id(p), &one, &mut out);
                        model.apply(&table, &mut out);
                        model.asked.insert((owner, one.vni, one.mac), one);
                    }
                    table.end_round(owner, &mut out);
                }
                Op::All(p) => {
                    table.remove_all(Holder::Peer(id(p)), &mut out);
                    model.asked.retain(|key, _| key.0 != Holder::Peer(id(p)));
                }
            }
            model.apply(&table, &mut out);
            model.check(&table);
        }
    }
}
