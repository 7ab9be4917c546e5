//! What one connection gets through a link of 100 Mbit/s, in virtual time: a change of it shows as a difference.

use core::fmt::Write;
use core::time::Duration;

use switch_core::testing::link::Faults;
use switch_core::time::Tick;

use super::plan::{LIMIT, Plan};

/// Bytes of each case.
const BYTES: usize = 1_000_000;

/// Mbit/s with two digits that count, of one direction, the mean of a few seeds. Units: `delay` one way.
fn rate(up: bool, delay: Duration, loss: u8) -> String {
    let mut seconds = 0.0;
    let seeds: u32 = if loss == 0 { 1 } else { 4 };
    for seed in 0..seeds.into() {
        let (sent, received) = if up { (BYTES, 0) } else { (0, BYTES) };
        let mut plan = Plan::new(seed, sent, received);
        plan.faults = Faults {
            loss,
            delay,
            rate: 100_000_000,
            ..Faults::default()
        };
        let (mut net, id) = plan.start();
        let done = net.run(LIMIT, |net| {
            let up = net
                .host
                .peers()
                .map(|peer| peer.taken().len())
                .sum::<usize>();
            up == sent && net.guests[0].tcp(id).taken().len() == received
        });
        assert!(done);
        seconds += net.now().since(Tick::ZERO).as_secs_f64();
    }
    let rate = (BYTES * 8) as f64 * f64::from(seeds) / seconds / 1e6;
    let digits = if rate < 1.0 {
        2
    } else {
        usize::from(rate < 10.0)
    };
    format!("{rate:.digits$}")
}

#[test]
fn throughput_by_delay_and_loss() {
    let mut table = String::from("one way   loss   up  down  Mbit/s\n");
    for millis in [0, 1, 5, 20] {
        for loss in [0, 1, 5] {
            let delay = Duration::from_millis(millis) + Duration::from_micros(50);
            let (up, down) = (rate(true, delay, loss), rate(false, delay, loss));
            let delay = format!("{delay:?}");
            writeln!(table, "{delay:>8} {loss:>3} % {up:>5} {down:>5}").unwrap();
        }
    }
    // Down, a lossy link carries about what a Reno sender gets; up, the guest's stack knows no selective
    // acknowledgements, and waits a second for most of what is lost twice. Source: Mathis, Semke, Mahdavi and Ott,
    // The macroscopic behavior of the TCP congestion avoidance algorithm, CCR 27(3), 1997.
    insta::assert_snapshot!(table, @r"
    one way   loss   up  down  Mbit/s
        50µs   0 %    95    95
        50µs   1 %    24    43
        50µs   5 %  0.22    12
      1.05ms   0 %    86    89
      1.05ms   1 %    23    41
      1.05ms   5 %  0.22    12
      5.05ms   0 %    57    60
      5.05ms   1 %    18    14
      5.05ms   5 %  0.22   5.3
     20.05ms   0 %    15    16
     20.05ms   1 %   8.9   3.8
     20.05ms   5 %  0.22   1.6
    ");
}
