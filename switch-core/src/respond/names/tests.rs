use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ME: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn v4(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

#[test]
fn an_alias_of_two_gives_both_and_ends_with_each() {
    let mut names = Names::default();
    let (a, b) = (Owner(1), Owner(2));
    names.set(b, &["Two.", "ALL"], &[v4(2)]);
    names.set(a, &["one", "all"], &[v4(1)]);
    assert_eq!(names.lookup("all"), Some(vec![v4(1), v4(2)]));
    names.set(a, &["uno"], &[v4(1)]);
    assert_eq!(
        (names.lookup("all"), names.lookup("one")),
        (Some(vec![v4(2)]), None)
    );
    assert_eq!(names.name_of(v4(1)), Some("uno"));
    names.remove(b);
    names.remove(b);
    assert_eq!((names.lookup("all"), names.name_of(v4(2))), (None, None));
}

#[test]
fn what_nobody_can_ask_for_is_not_kept() {
    let mut names = Names::default();
    let long = "x".repeat(254);
    names.set(Owner(1), &["", ".", &long], &[v4(1)]);
    assert_eq!((names.name_of(v4(1)), names.lookup("")), (None, None));
    let both = ["db", "DB.", "db"];
    names.set(Owner(1), &both, &[v4(1), v4(1)]);
    assert_eq!(names.lookup("db"), Some(vec![v4(1)]));
    names.set(Owner(2), &["bare"], &[]);
    assert_eq!(names.lookup("bare"), Some(Vec::new()));
    names.remove(Owner(1));
    assert_eq!((names.lookup("db"), names.name_of(v4(1))), (None, None));
}

#[test]
fn a_name_that_many_share_gives_the_first_of_them_and_ends_with_the_last() {
    let mut names = Names::default();
    let all = 0..20_000_u32;
    let addr = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
    for n in all.clone() {
        names.set(Owner(n.into()), &["app"], &[addr(n)]);
    }
    let found = names.lookup("app").unwrap();
    assert_eq!(found.len(), MAX_ADDRESSES);
    assert!(found.iter().all(|&a| names.name_of(a) == Some("app")));
    for n in all.rev() {
        assert!(names.lookup("app").is_some());
        names.remove(Owner(n.into()));
    }
    assert_eq!(names.lookup("app"), None);
    assert!(names.shared.is_empty() && names.keys.is_empty() && names.owners.is_empty());
}

#[test]
fn names_of_other_networks_are_for_those_who_are_on_them() {
    let mut table = NameTable::default();
    let there = IpAddr::from([10, 9, 0, 1]);
    table.set(3, Owner(1), &["db"], &[v4(2)]);
    // The numbers of owners are each network's own.
    table.set(5, Owner(1), &["db", "far"], &[there]);
    assert_eq!(table.lookup(3, ME, "far"), None);
    table.set_beside(3, ME, &[5]);
    assert_eq!(table.lookup(3, ME, "far"), Some(vec![there]));
    assert_eq!(table.lookup(3, ME, "db"), Some(vec![v4(2)]), "its own");
    assert_eq!(table.name_of(3, ME, there), Some("db"));
    let other = Mac([2, 0, 0, 0, 0, 2]);
    assert_eq!(
        (
            table.lookup(3, other, "far"),
            table.name_of(3, other, there)
        ),
        (None, None)
    );
    assert_eq!(
        table.lookup(4, ME, "far"),
        None,
        "another endpoint of that MAC"
    );
    table.remove(5, Owner(1));
    assert_eq!(table.lookup(3, ME, "far"), None);
    table.set(5, Owner(2), &["far"], &[there]);
    assert_eq!(table.lookup(3, ME, "far"), Some(vec![there]));
    // A network that goes takes its names along, and what its endpoints could ask for.
    table.leave(5);
    assert_eq!(table.lookup(3, ME, "far"), None);
    table.set(5, Owner(2), &["far"], &[there]);
    table.leave(3);
    assert_eq!(table.lookup(3, ME, "far"), None);
}

/// What the table is to know: every owner's names and addresses.
type Model = BTreeMap<u64, (Vec<String>, Vec<IpAddr>)>;

fn expected(model: &Model, name: &str) -> Option<Vec<IpAddr>> {
    let has = |names: &[String]| names.iter().any(|n| n == name);
    let holders: Vec<_> = model.values().filter(|(names, _)| has(names)).collect();
    let mut found = Vec::new();
    for addr in holders.iter().flat_map(|(_, addrs)| addrs) {
        if !found.contains(addr) {
            found.push(*addr);
        }
    }
    (!holders.is_empty()).then_some(found)
}

proptest! {
    #[test]
    fn it_knows_what_a_plain_list_knows(
        steps in prop::collection::vec(
            (0..6_u64, prop::collection::vec(0..5_u8, 0..3), prop::collection::vec(0..4_u8, 0..3)),
            1..60,
        )
    ) {
        let mut names = Names::default();
        let mut model = Model::new();
        for (owner, of, at) in steps {
            let of: Vec<String> = of.iter().map(|n| format!("n{n}")).collect();
            let at: Vec<IpAddr> = at.into_iter().map(v4).collect();
            names.set(Owner(owner), &of, &at);
            model.remove(&owner);
            if !of.is_empty() {
                model.insert(owner, (of, at));
            }
            for n in 0..5 {
                let name = format!("n{n}");
                prop_assert_eq!(names.lookup(&name), expected(&model, &name));
            }
            for n in 0..4 {
                let mut holders = model.values().filter(|(_, addrs)| addrs.contains(&v4(n)));
                let want = holders.next().and_then(|(names, _)| names.first());
                prop_assert_eq!(names.name_of(v4(n)), want.map(String::as_str));
            }
        }
    }
}
