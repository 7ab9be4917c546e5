//! Random sequences of operations: whatever happens, every connection ends as its ends wanted, and no byte is
//! lost, doubled or moved.

use core::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use switch_core::testing::host::Receive;
use switch_core::testing::link::Faults;
use switch_core::testing::ops::{Op, Run};
use switch_core::testing::script::{End, Pace, Script};

fn millis() -> impl Strategy<Value = Duration> {
    prop_oneof![0..20u64, 0..3_000u64].prop_map(Duration::from_millis)
}

fn script() -> impl Strategy<Value = Script> {
    let send = prop_oneof![Just(0), 1..2_000usize, 0..200_000usize];
    let pace = prop_oneof![
        4 => Just(Pace::Eager),
        2 => Just(Pace::Choked),
        1 => millis().prop_map(Pace::Late),
    ];
    let end = prop_oneof![
        4 => Just(End::Sent),
        3 => Just(End::Second),
        1 => Just(End::Reset),
        1 => Just(End::Never),
    ];
    let rest = prop::option::of((0..100_000usize, millis()));
    (send, pace, end, rest).prop_map(|(send, pace, end, rest)| Script {
        rest,
        ..Script::new(0, send).pace(pace).end(end)
    })
}

fn faults() -> impl Strategy<Value = Faults> {
    let rate = prop_oneof![Just(0), 1_000_000..1_000_000_000u64];
    (0..30u8, 0..20u8, 0..10u8, 0..5u8, 0..20_000u64, rate).prop_map(
        |(loss, reorder, double, corrupt, micros, rate)| Faults {
            loss,
            reorder,
            double,
            corrupt,
            delay: Duration::from_micros(micros),
            rate,
            ..Faults::default()
        },
    )
}

fn receive() -> impl Strategy<Value = Receive> {
    (16..300usize, 100..65_536usize, 0..12_000usize).prop_map(|(kilobytes, segment, overhead)| {
        Receive {
            limit: kilobytes * 1024,
            segment,
            overhead,
        }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let guest = || any::<u8>();
    let flag = || any::<bool>();
    let scripts = || (script(), script());
    prop_oneof![
        6 => (guest(), flag(), flag(), scripts()).prop_map(
            |(guest, v6, near, scripts)| Op::Connect { guest, v6, near, scripts }
        ),
        3 => (guest(), flag(), scripts())
            .prop_map(|(guest, v6, scripts)| Op::Accept { guest, v6, scripts }),
        2 => (guest(), scripts()).prop_map(|(guest, scripts)| Op::Between { guest, scripts }),
        1 => (guest(), flag()).prop_map(|(guest, at_once)| Op::Refused { guest, at_once }),
        1 => guest().prop_map(Op::KillNear),
        1 => guest().prop_map(Op::KillFar),
        6 => prop_oneof![0..2_000u32, 0..500_000u32].prop_map(Op::Wait),
        3 => (guest(), faults()).prop_map(|(guest, faults)| Op::Links(guest, faults)),
        1 => (0..50u8).prop_map(Op::Full),
        1 => (0..50u64).prop_map(|ms| Op::RoundTrip(Duration::from_millis(ms))),
        1 => receive().prop_map(Op::Receive),
        1 => (guest(), flag()).prop_map(|(guest, on)| Op::Offload(guest, on)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn any_operations_end_as_they_must(seed in 0..1_000u64, ops in vec(op(), 1..24)) {
        let mut run = Run::new(seed);
        ops.iter().for_each(|op| run.apply(op));
        run.finish();
    }
}
