//! What counts towards the limit on frames to everybody, and what does not.

use super::*;
use crate::policy::limit::{Limits, Rate, Rates};

/// Limits the first endpoint to ten frames to everybody.
fn limit(net: &mut Net) {
    let rates = Rates {
        broadcast: Some(Rate::new(1, 10)),
        ..Rates::default()
    };
    let limits = Some(Arc::new(Limits::new(rates)));
    let port = Port::new(PortId(0), mac(0), 1500, true);
    assert!(net.switch.change_port(Port { limits, ..port }));
}

/// How many of fifty datagrams of the first endpoint go on, and how many of its frames were a storm.
fn passed(net: &mut Net, group: &str) -> (usize, u64) {
    let before = net.switch.drops().get(DropReason::Storm);
    let frame = data(0, group);
    let flooded = (0..50).filter(|_| net.send(0, &frame) == Verdict::Flood);
    let flooded = flooded.count();
    net.world.frames.clear();
    (flooded, net.switch.drops().get(DropReason::Storm) - before)
}

#[test]
fn what_goes_to_members_alone_is_no_storm() {
    for group in [G4, G6] {
        let mut net = Net::settled();
        limit(&mut net);
        net.join(2, group);
        assert_eq!(passed(&mut net, group), (50, 0), "{group}");
        let nobodys = if group == G4 { "239.9.9.9" } else { "ff15::9" };
        assert_eq!(passed(&mut net, nobodys), (0, 0), "it costs nobody");
        // All that it had is left for what everybody gets.
        let link = if group == G4 {
            "224.0.0.251"
        } else {
            "ff02::fb"
        };
        assert_eq!(passed(&mut net, link), (10, 40), "{group}");
        assert_eq!(passed(&mut net, group), (50, 0), "{group}");
    }
}

#[test]
fn where_nobody_knows_the_members_it_counts() {
    for group in [G4, G6] {
        // Before everybody was asked, and where nobody asks.
        for querier in [Some(INTERVAL), None] {
            let mut net = Net::new(querier);
            limit(&mut net);
            assert_eq!(passed(&mut net, group), (10, 40), "{group} {querier:?}");
        }
        let mut net = Net::settled();
        net.switch.set_snooping(None);
        limit(&mut net);
        assert_eq!(passed(&mut net, group), (10, 40), "{group}");
    }
}

#[test]
fn reports_count() {
    let mut net = Net::settled();
    limit(&mut net);
    for _ in 0..10 {
        assert_eq!(net.join(0, G4), Verdict::Answer);
    }
    assert_eq!(net.join(0, G4), Verdict::Drop(DropReason::Storm));
}
