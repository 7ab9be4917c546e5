//! How connections end, rest and break: each end first, both at once, one side only, by a reset, or by silence.

use core::time::Duration;

use switch_core::testing::guest::TcpId;
use switch_core::testing::host::Peer;
use switch_core::testing::link::Faults;
use switch_core::testing::net::{GATEWAY_V4, SimNet};
use switch_core::testing::script::{End, Pace};
use switch_core::time::Tick;

use super::plan::{LIMIT, Plan, SERVER};

const HOUR: Duration = Duration::from_secs(3_600);

fn peer(net: &SimNet) -> &Peer {
    net.host.peers().next().unwrap()
}

/// The guest's cable is cut, or whole again.
fn cut(net: &mut SimNet, loss: u8) {
    let faults = Faults {
        loss,
        ..Faults::default()
    };
    net.up[0].set_faults(faults);
    net.down[0].set_faults(faults);
}

fn empty(net: &SimNet) {
    assert_eq!(net.switch.flows().0, 0, "flows");
    assert_eq!(net.switch.tcp_budget(), 0, "window budget");
    assert_eq!(net.host.open(), 0, "sockets");
}

#[test]
fn ends_that_close_at_once_both_end_in_order() {
    let mut crossed = 0;
    for seed in 0..40 {
        let mut plan = Plan::new(seed, 5_000, 5_000);
        // Both close about ten milliseconds after they began, on a link of two.
        plan.faults.delay = Duration::from_millis(2);
        let by = Duration::from_micros(200 * (seed / 2));
        plan.up = plan.up.rest(4_000, Duration::from_millis(10));
        plan.down = plan.down.rest(4_000, Duration::from_millis(10) + by);
        let (mut net, id) = plan.run();
        plan.orderly(&net, id);
        crossed += u8::from(net.guests[0].tcp(id).closes_crossed());
        net.run_for(Duration::from_secs(10));
        empty(&net);
    }
    assert!(crossed >= 5, "closes crossed {crossed} times");
}

#[test]
fn a_direction_that_has_ended_leaves_the_other_open() {
    let rest = Duration::from_secs(10);
    for faults in [Faults::default(), Faults::some()] {
        let plan = Plan {
            faults,
            ..Plan::new(50, 1_000, 400_000)
        };
        let host_goes_on = Plan {
            down: plan.down.rest(1_000, rest),
            ..plan
        };
        let (mut net, id) = host_goes_on.start();
        net.run_for(Duration::from_secs(8));
        assert!(peer(&net).was_shut() && peer(&net).closed.is_none());
        assert_eq!(net.guests[0].tcp(id).taken().len(), 1_000);
        Plan::end(&mut net, id, LIMIT);
        host_goes_on.orderly(&net, id);

        let plan = Plan {
            faults,
            ..Plan::new(51, 400_000, 1_000)
        };
        let guest_goes_on = Plan {
            up: plan.up.rest(1_000, rest),
            ..plan
        };
        let (mut net, id) = guest_goes_on.start();
        net.run_for(Duration::from_secs(8));
        assert!(net.guests[0].tcp(id).peer_has_ended() && !peer(&net).was_shut());
        assert_eq!(peer(&net).taken().len(), 1_000);
        Plan::end(&mut net, id, LIMIT);
        guest_goes_on.orderly(&net, id);
    }
}

#[test]
fn a_window_that_is_shut_for_long_opens_again() {
    let late = Pace::Late(Duration::from_secs(1_200));
    for faults in [Faults::default(), Faults::some()] {
        for (up, down) in [(late, Pace::Eager), (Pace::Eager, late), (late, late)] {
            let mut plan = Plan::new(60, 700_000, 600_000);
            plan.faults = faults;
            plan.up = plan.up.pace(up);
            plan.down = plan.down.pace(down);
            let (mut net, id) = plan.start();
            net.run_for(Duration::from_secs(600));
            let before = net.trace.frames;
            net.run_for(Duration::from_secs(500));
            // Each end probes once a minute or two, and gets an answer.
            let probes = net.trace.frames - before;
            assert!((4..200).contains(&probes), "{probes} frames of probes");
            if up == late {
                assert!(net.guests[0].tcp(id).taken().is_empty());
            }
            if down == late {
                assert!(peer(&net).taken().is_empty());
            }
            Plan::end(&mut net, id, LIMIT);
            plan.orderly(&net, id);
        }
    }
}

#[test]
fn a_connection_may_be_idle_for_hours() {
    for (seed, faults) in [(70, Faults::default()), (71, Faults::some())] {
        let mut plan = Plan::new(seed, 50_000, 50_000);
        plan.faults = faults;
        plan.up = plan.up.rest(20_000, HOUR * 7);
        plan.down = plan.down.rest(30_000, HOUR * 13);
        let (mut net, id) = plan.start();
        while net.now() < Tick::ZERO + HOUR * 14 {
            // This stack forgets the gateway's MAC after a minute, and drops the answer for which it has to ask
            // again. A ping keeps it in mind.
            net.guests[0].ping(GATEWAY_V4.into(), 1, b"");
            net.run_for(Duration::from_secs(25));
        }
        plan.orderly(&net, id);
    }
}

/// A probe that was answered is followed by another two hours of peace.
#[test]
fn an_idle_connection_is_asked_every_two_hours() {
    let mut plan = Plan::new(72, 0, 0);
    plan.up = plan.up.end(End::Never);
    plan.down = plan.down.end(End::Never);
    let (mut net, id) = plan.start();
    let mut asked = 0;
    // Away from the pings.
    net.run_for(Duration::from_secs(10));
    while net.now() < Tick::ZERO + HOUR * 9 {
        net.guests[0].ping(GATEWAY_V4.into(), 1, b"");
        net.run_for(Duration::from_secs(1));
        let before = net.trace.frames;
        net.run_for(Duration::from_secs(24));
        asked += (net.trace.frames - before) / 2;
    }
    assert_eq!(asked, 4);
    assert!(!net.guests[0].tcp(id).is_broken() && peer(&net).closed.is_none());
}

#[test]
fn a_guest_that_has_gone_silent_is_found_out() {
    for (down, limit) in [
        // With nothing to send: keep-alive, two hours and nine probes.
        (50_000, HOUR * 5 / 2),
        // With data under way: retransmissions.
        (2_000_000, HOUR / 2),
    ] {
        let mut plan = Plan::new(80, 50_000, down);
        plan.up = plan.up.rest(20_000, HOUR * 20);
        plan.down = plan.down.end(End::Never);
        let (mut net, _) = plan.start();
        net.run_for(Duration::from_millis(10));
        if down == 50_000 {
            net.run_for(Duration::from_secs(1));
        }
        assert!(peer(&net).closed.is_none());
        cut(&mut net, 100);
        let found = net.run(limit, |net| peer(net).closed.is_some());
        assert!(found, "{down}");
        empty(&net);
    }
}

#[test]
fn a_reset_in_the_middle_reaches_the_other_end() {
    for seed in 90..94 {
        let plan = Plan::new(seed, 1_000_000, 1_000_000);
        let (mut net, id) = plan.start();
        net.run_for(Duration::from_millis(3));
        net.guests[0].abort(id);
        net.run_for(Duration::from_millis(5));
        assert!(peer(&net).closed.is_some_and(|closed| closed.reset));
        peer(&net).taken().check_prefix(&plan.up);
        empty(&net);

        let (mut net, id) = plan.start();
        net.run_for(Duration::from_millis(3));
        net.host.break_off(SERVER.parse().unwrap());
        net.run_for(Duration::from_millis(5));
        let tcp = net.guests[0].tcp(id);
        assert!(tcp.is_broken(), "{tcp:?}");
        tcp.taken().check_prefix(&plan.down);
        empty(&net);
    }
}

/// A direction of the host has ended in order, and the guest has nothing to say: nothing but the event tells.
#[test]
fn a_reset_after_an_end_reaches_the_guest() {
    let mut plan = Plan::new(101, 1_000, 1_000);
    plan.up = plan.up.end(End::Never);
    let (mut net, id) = plan.start();
    net.run_for(Duration::from_secs(1));
    assert!(net.guests[0].tcp(id).peer_has_ended() && peer(&net).closed.is_none());
    net.host.break_off(SERVER.parse().unwrap());
    net.run_for(Duration::from_secs(1));
    assert!(peer(&net).closed.is_some());
    empty(&net);
}

/// Who has lost a reset learns of it when it next says something, or is next asked.
#[test]
fn a_reset_that_is_lost_is_made_up_for() {
    let by_guest = |net: &mut SimNet, id: TcpId| net.guests[0].abort(id);
    let by_host = |net: &mut SimNet, _: TcpId| {
        net.host.break_off(SERVER.parse().unwrap());
    };
    let both: [fn(&mut SimNet, TcpId); 2] = [by_guest, by_host];
    for reset in both {
        let mut plan = Plan::new(110, 50_000, 50_000);
        plan.up = plan.up.rest(20_000, HOUR * 3);
        plan.down = plan.down.rest(20_000, HOUR * 4);
        let (mut net, id) = plan.start();
        net.run_for(Duration::from_secs(1));
        cut(&mut net, 100);
        reset(&mut net, id);
        net.run_for(Duration::from_secs(1));
        cut(&mut net, 0);
        Plan::end(&mut net, id, HOUR * 4);
        assert!(net.guests[0].tcp(id).is_broken());
        assert!(peer(&net).closed.is_some());
        empty(&net);
    }
}
