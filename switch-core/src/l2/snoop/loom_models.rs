//! The table under loom: all that workers can do to each other in it.

use core::time::Duration;

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

use super::Group;
use super::groups::{Entered, Groups, Want};
use super::tests::{OWN4, group, port};
use crate::time::Tick;

fn model(f: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

fn at(millis: u64) -> Tick {
    Tick::from_millis(millis)
}

fn want(last: u8) -> Want {
    Want::Group(group(last))
}

fn table() -> Arc<Groups> {
    Arc::new(Groups::new(2, [1, 2, 3, 4]))
}

/// One with a single free place, so that all who come want the same.
fn crowded() -> Arc<Groups> {
    let table = table();
    assert_eq!(table.enter(want(9), port(9), at(0), at(1000)), Entered::New);
    table
}

fn is_in(table: &Groups, group: Group, number: u32, now: u64) -> bool {
    table.wants(group, port(number), at(now))
}

/// Two workers enter members in one place: one of them is told that it is in, and is.
#[test]
fn two_want_the_last_place() {
    model(|| {
        let table = crowded();
        let other = Arc::clone(&table);
        let two = thread::spawn(move || other.enter(want(2), port(2), at(0), at(100)));
        let one = table.enter(want(1), port(1), at(0), at(100));
        let two = two.join().unwrap();
        assert_eq!(one == Entered::New, is_in(&table, group(1), 1, 0));
        assert_eq!(two == Entered::New, is_in(&table, group(2), 2, 0));
        assert!(is_in(&table, group(9), 9, 0));
    });
}

/// Two workers enter members while a third looks: nobody is a member of what it has not joined, and whoever was told
/// that it is in, is.
#[test]
fn two_join_and_one_looks() {
    model(|| {
        let table = table();
        let (other, reader) = (Arc::clone(&table), Arc::clone(&table));
        let two = thread::spawn(move || other.enter(want(2), port(2), at(0), at(100)));
        let reader = thread::spawn(move || {
            assert!(!is_in(&reader, group(1), 2, 0));
            assert!(!is_in(&reader, group(2), 1, 0));
        });
        let one = table.enter(want(1), port(1), at(0), at(100));
        let two = two.join().unwrap();
        reader.join().unwrap();
        assert_eq!(one == Entered::New, is_in(&table, group(1), 1, 0));
        assert_eq!(two == Entered::New, is_in(&table, group(2), 2, 0));
        assert!(one == Entered::New || two == Entered::New);
    });
}

/// A membership is renewed at the very time that it ends, while a worker whose clock is ahead takes its slot for
/// somebody else: whoever was told that it is in, is.
#[test]
fn a_slot_is_taken_over_under_its_owner() {
    model(|| {
        let table = crowded();
        table.enter(want(1), port(1), at(0), at(10));
        let other = Arc::clone(&table);
        let three = thread::spawn(move || other.enter(want(3), port(3), at(10), at(100)));
        let one = table.enter(want(1), port(1), at(9), at(100));
        let three = three.join().unwrap();
        assert!(one == Entered::Full || is_in(&table, group(1), 1, 20));
        assert!(three == Entered::Full || is_in(&table, group(3), 3, 20));
        assert!(!is_in(&table, group(1), 3, 20) && !is_in(&table, group(3), 1, 20));
    });
}

/// A querier asks who is left while the member reports: the report holds, or what was asked ends it, and nothing else
/// is changed.
#[test]
fn a_report_and_a_question_at_once() {
    model(|| {
        let table = table();
        table.enter(want(1), port(1), at(0), at(100));
        table.enter(want(2), port(2), at(0), at(100));
        let other = Arc::clone(&table);
        let asks = thread::spawn(move || other.lower(want(1), port(1), at(1), at(20)));
        let told = table.enter(want(1), port(1), at(1), at(200));
        asks.join().unwrap();
        assert_eq!(told, Entered::Known);
        let until = table.until(want(1), port(1), at(1));
        assert!(until == Some(at(200)) || until == Some(at(20)));
        assert_eq!(table.until(want(2), port(2), at(1)), Some(at(100)));
    });
}

/// A list of members is made while somebody joins and another is asked whether it remains: it has the one and knows
/// the other's end, or is seen to be an old one.
#[test]
fn a_list_that_lacks_somebody_is_an_old_one() {
    model(|| {
        let table = table();
        table.enter(want(1), port(1), at(0), at(100));
        let reader = Arc::clone(&table);
        let reader = thread::spawn(move || {
            let version = reader.version(group(1));
            let until = |n| reader.wanted_until(group(1), port(n), at(1));
            (version, [until(1), until(2)])
        });
        table.lower(want(1), port(1), at(1), at(20));
        let entered = table.enter(want(1), port(2), at(1), at(200));
        let (version, listed) = reader.join().unwrap();
        assert_eq!(entered, Entered::New);
        let whole = listed == [Some(at(20)), Some(at(200))];
        assert!(whole || version != table.version(group(1)), "{listed:?}");
    });
}

/// Several workers find the query due: one of them sends it.
#[test]
fn one_worker_asks() {
    model(|| {
        let table = table();
        let take = |table: &Groups| table.take_query(OWN4, at(1), Duration::from_secs(125));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let table = Arc::clone(&table);
                thread::spawn(move || take(&table))
            })
            .collect();
        let mut sent = usize::from(take(&table));
        for other in others {
            sent += usize::from(other.join().unwrap());
        }
        assert_eq!(sent, 1);
    });
}
