//! Streams over good links and bad ones, and what the host refuses.

use core::time::Duration;

use switch_core::flow::host::HostError;
use switch_core::testing::host::TcpServer;
use switch_core::testing::link::Faults;
use switch_core::testing::net::Setup;
use switch_core::testing::script::{End, Script};

use super::plan::{LIMIT, Plan, SERVER};

#[test]
fn a_clean_wire_carries_both_ways() {
    Plan::new(1, 3_000_000, 3_000_000).check();
    let v6 = Plan {
        server: "[2001:db8::1]:80",
        ..Plan::new(2, 500_000, 500_000)
    };
    v6.check();
}

#[test]
fn super_frames_of_the_guest_arrive_whole() {
    let net = Plan::new(3, 2_000_000, 0).check();
    assert!(net.trace.runs > 20, "{:?}", net.trace);
    let net = Plan {
        offload: false,
        ..Plan::new(3, 0, 2_000_000)
    }
    .check();
    assert!(net.trace.runs > 20, "the switch's own: {:?}", net.trace);
}

#[test]
fn ends_that_take_little_at_a_time_fill_every_buffer_and_nothing_is_lost() {
    let plan = Plan::new(4, 1_000_000, 500_000);
    let choked_host = Plan {
        down: plan.down.choked(),
        ..plan
    };
    choked_host.check();
    let choked_guest = Plan {
        up: plan.up.choked(),
        ..plan
    };
    choked_guest.check();
}

#[test]
fn loss_reordering_doubling_and_corruption_change_no_byte() {
    for seed in 0..24 {
        let mut plan = Plan::new(seed, 300_000, 300_000);
        plan.faults = Faults::some();
        if seed % 3 == 0 {
            plan.down = plan.down.choked();
        }
        if seed % 5 == 0 {
            plan.server = "[2001:db8::1]:80";
        }
        plan.check();
    }
}

#[test]
fn heavy_loss_still_ends() {
    for seed in 100..104 {
        let mut plan = Plan::new(seed, 60_000, 60_000);
        plan.down = plan.down.choked();
        plan.faults = Faults {
            loss: 20,
            reorder: 10,
            double: 5,
            ..Faults::default()
        };
        plan.check();
    }
}

#[test]
fn nothing_to_say_is_an_orderly_close() {
    Plan::new(7, 0, 0).check();
}

#[test]
fn each_end_may_close_second() {
    for seed in 20..26 {
        let mut plan = Plan::new(seed, 50_000, 70_000);
        if seed % 2 == 0 {
            plan.up = plan.up.end(End::Second);
        } else {
            plan.down = plan.down.end(End::Second);
        }
        if seed > 22 {
            plan.faults = Faults::some();
        }
        plan.check();
    }
}

#[test]
fn a_reset_of_the_host_reaches_the_guest_and_one_of_the_guest_the_host() {
    let plan = Plan::new(30, 400_000, 200_000);
    let by_host = Plan {
        up: plan.up.end(End::Never),
        down: plan.down.end(End::Reset),
        ..plan
    };
    let (net, id) = by_host.run();
    let tcp = net.guests[0].tcp(id);
    assert!(tcp.is_broken(), "{tcp:?}");
    tcp.taken().check_prefix(&by_host.down);

    let by_guest = Plan {
        up: plan.up.end(End::Reset),
        down: plan.down.end(End::Never),
        ..plan
    };
    let (net, _) = by_guest.run();
    let peer = net.host.peers().next().unwrap();
    assert!(peer.closed.is_some_and(|closed| closed.reset));
    peer.taken().check_prefix(&by_guest.up);
}

#[test]
fn what_the_host_cannot_reach_is_refused_inside() {
    for error in [HostError::Refused, HostError::HostUnreachable] {
        for server in [TcpServer::Fails(error), TcpServer::FailsAtOnce(error)] {
            let mut net = Setup::default().build();
            let to = SERVER.parse().unwrap();
            net.host.tcp_servers.insert(to, server);
            let id = net.guests[0].connect(to, Script::new(1, 10));
            // An ICMP error does not end an attempt of this stack, a reset does.
            let refused = net.run(Duration::from_secs(5), |net| {
                net.guests[0].tcp(id).is_broken() && net.switch.flows().0 == 0
            });
            assert!(!net.guests[0].tcp(id).was_established());
            assert_eq!(refused, error == HostError::Refused, "{server:?}");
            assert_eq!(net.host.open(), 0, "{server:?}");
        }
    }
}

#[test]
fn a_client_of_a_published_port_is_served() {
    for seed in 40..44 {
        let setup = Setup {
            seed,
            faults: Faults::some(),
            ..Setup::default()
        };
        let mut net = setup.build();
        let (client, server) = (Script::new(1, 90_000), Script::new(2, 150_000));
        let id = net.guests[0].listen(80, server);
        let to = (net.guests[0].addresses.v4, 80).into();
        net.connect_in(0, "203.0.113.9:5555".parse().unwrap(), to, client);
        let done = net.run(LIMIT, |net| {
            net.guests[0].tcp(id).is_done() && net.host.peers().all(|p| p.closed.is_some())
        });
        assert!(done, "{:?}", net.guests[0].tcp(id));
        // What the host's socket still holds goes on to the client.
        net.run_for(Duration::from_secs(1));
        net.guests[0].tcp(id).taken().check(&client);
        net.host.peers().next().unwrap().taken().check(&server);
    }
}

#[test]
fn budget_table_and_sockets_are_empty_afterwards() {
    let mut plan = Plan::new(8, 200_000, 200_000);
    plan.down = plan.down.choked();
    plan.faults = Faults::some();
    let mut net = plan.check();
    net.run_for(Duration::from_secs(30));
    assert_eq!(net.switch.flows().0, 0, "flows");
    assert_eq!(net.switch.tcp_budget(), 0, "window budget");
    assert_eq!(net.host.open(), 0, "sockets");
}
