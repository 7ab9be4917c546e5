//! The TCP engine against a real stack: a smoltcp guest talks through the switch to a simulated host, in virtual
//! time, over a wire that loses, reorders and doubles frames. No byte may be lost, doubled or out of order.

#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::cast_possible_truncation,
    clippy::wrong_self_convention,
    reason = "a test's support: what fails here fails the test"
)]

mod sim;

use core::time::Duration;

use sim::{Faults, Plan, World};

/// Guest to host and host to guest at once, then both ends close in turn.
fn transfer(seed: u64, faults: Faults, up: usize, down: usize, fallback_blocks: bool) -> World {
    let mut world = World::new(
        seed,
        faults,
        Plan {
            down,
            choke: fallback_blocks,
        },
    );
    world.run(up, Duration::from_secs(600));
    world
}

fn check(world: &World, up: usize, down: usize) {
    assert!(
        world.guest_done(),
        "the guest's connection has not ended: {world:?}"
    );
    assert_eq!(world.host.taken.len(), up, "bytes at the host");
    assert!(
        world
            .host
            .taken
            .iter()
            .enumerate()
            .all(|(i, &b)| b == sim::pattern(i)),
        "bytes at the host differ"
    );
    assert_eq!(world.received.len(), down, "bytes at the guest");
    assert!(
        world
            .received
            .iter()
            .enumerate()
            .all(|(i, &b)| b == sim::pattern(i)),
        "bytes at the guest differ"
    );
    assert!(world.host.shut, "the guest's end did not reach the host");
    assert!(world.host.closed, "the host's socket was not closed");
}

#[test]
fn a_clean_wire_carries_both_ways() {
    let world = transfer(1, Faults::default(), 3_000_000, 3_000_000, false);
    check(&world, 3_000_000, 3_000_000);
}

#[test]
fn a_host_that_takes_little_at_a_time_fills_the_ring_and_nothing_is_lost() {
    let world = transfer(2, Faults::default(), 2_000_000, 500_000, true);
    check(&world, 2_000_000, 500_000);
}

#[test]
fn loss_reordering_and_doubling_change_no_byte() {
    for seed in 0..24 {
        let faults = Faults {
            loss: 3,
            reorder: 5,
            double: 2,
        };
        let world = transfer(seed, faults, 300_000, 300_000, seed % 2 == 0);
        check(&world, 300_000, 300_000);
    }
}

#[test]
fn heavy_loss_still_ends() {
    for seed in 100..104 {
        let faults = Faults {
            loss: 20,
            reorder: 10,
            double: 5,
        };
        let world = transfer(seed, faults, 60_000, 60_000, true);
        check(&world, 60_000, 60_000);
    }
}

#[test]
fn nothing_to_say_is_an_orderly_close() {
    let world = transfer(7, Faults::default(), 0, 0, false);
    check(&world, 0, 0);
}

#[test]
fn budget_and_table_are_empty_afterwards() {
    let mut world = transfer(
        8,
        Faults {
            loss: 5,
            reorder: 5,
            double: 5,
        },
        200_000,
        200_000,
        true,
    );
    check(&world, 200_000, 200_000);
    world.idle(Duration::from_secs(30));
    assert_eq!(world.switch.flows().0, 0, "flows");
    assert_eq!(world.switch.tcp_budget(), 0, "window budget");
}
