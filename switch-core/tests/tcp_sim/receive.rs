//! Small receive buffers at the host, of which segments take many times their bytes: what is acknowledged must be
//! taken off soon, or nothing more arrives.

use core::time::Duration;

use switch_core::testing::host::Receive;
use switch_core::testing::link::Faults;

use super::plan::Plan;

/// Both ways at once. Each buffer full takes a round trip of the host, an acknowledgement that this guest may
/// delay by ten milliseconds, and what the switch may wait before it takes the bytes off: little of a second in
/// all. Only a stream that waits for nothing longer is done in time.
#[track_caller]
fn flows_on(limit: usize, segment: usize, faults: Faults) {
    let receive = Receive {
        limit,
        segment,
        overhead: 12 * 1024,
    };
    let held = limit / (segment + receive.overhead) * segment;
    let rounds = u32::try_from(100_000 / held + 1).unwrap();
    let mut plan = Plan::new(200, 1_000_000, 100_000);
    plan.receive = receive;
    plan.faults = faults;
    let (mut net, id) = plan.start();
    let limit = Duration::from_millis(40) * rounds + Duration::from_millis(200);
    net.run(limit, |net| net.guests[0].tcp(id).peer_has_ended());
    let tcp = net.guests[0].tcp(id);
    let got = tcp.taken().len();
    assert!(
        tcp.peer_has_ended(),
        "{got} bytes of {} after {limit:?} with {receive:?}",
        plan.down.send
    );
    Plan::end(&mut net, id, Duration::from_secs(60));
    plan.orderly(&net, id);
}

/// From 32 KB, which hold two segments, to 256 KB; once where the guest sends nothing for most of the time, and
/// once where it sends all along.
#[test]
fn a_buffer_of_few_segments_is_kept_open() {
    for rate in [0, 20_000_000] {
        let faults = Faults {
            rate,
            queue: Duration::from_secs(1),
            ..Faults::default()
        };
        for limit in [32, 64, 128, 256] {
            flows_on(limit * 1024, 1024, faults);
        }
        for segment in [100, 536, 1448] {
            flows_on(128 * 1024, segment, faults);
        }
    }
}
