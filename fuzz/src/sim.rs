//! Whole conversations: guests with a real stack, links with faults, the switch and a simulated host, in virtual time.
//! Every connection must end as its ends want, and no byte be lost, doubled or moved.
//! Shape: a seed byte, then operations of a byte each and what they need, until the bytes end.

use core::time::Duration;

use switch_core::testing::host::Receive;
use switch_core::testing::link::Faults;
use switch_core::testing::ops::{Op, Run};
use switch_core::testing::script::{End, Pace, Script};

use super::bytes::Bytes;

/// Operations of one run at most: each connection costs milliseconds.
const MAX_OPERATIONS: usize = 24;

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut run = Run::new(bytes.u8().into());
    for _ in 0..MAX_OPERATIONS {
        if bytes.is_empty() {
            break;
        }
        run.apply(&operation(&mut bytes));
    }
    run.finish();
}

fn operation(bytes: &mut Bytes<'_>) -> Op {
    let (kind, guest) = (bytes.u8(), bytes.u8());
    // The upper bits of the kind are flags.
    let (v6, flag) = (kind & 0x80 != 0, kind & 0x40 != 0);
    match kind % 16 {
        0..=3 => Op::Connect {
            guest,
            v6,
            near: flag,
            scripts: (script(bytes), script(bytes)),
        },
        4 | 5 => Op::Accept {
            guest,
            v6,
            scripts: (script(bytes), script(bytes)),
        },
        6 => Op::Between {
            guest,
            scripts: (script(bytes), script(bytes)),
        },
        7 => Op::Refused {
            guest,
            at_once: flag,
        },
        8 => Op::KillNear(guest),
        9 => Op::KillFar(guest),
        10 => Op::Wait(u32::from(bytes.u16())),
        11 => Op::Wait(u32::from(bytes.u16()) << 6),
        12 => Op::Links(guest, faults(bytes)),
        13 => Op::Full(guest % 50),
        14 => Op::RoundTrip(Duration::from_millis(u64::from(guest) / 4)),
        _ if flag => Op::Offload(guest, v6),
        _ => Op::Receive(receive(bytes)),
    }
}

fn script(bytes: &mut Bytes<'_>) -> Script {
    let [how, size] = bytes.array();
    let most = [0, 2_000, 60_000, 200_000][usize::from(how & 3)];
    let send = most / 256 * usize::from(size) + most / 256;
    let end = match how >> 2 & 7 {
        0..=2 => End::Sent,
        3 | 4 => End::Second,
        5 => End::Reset,
        _ => End::Never,
    };
    let pace = match how >> 5 {
        0..=3 => Pace::Eager,
        4 | 5 => Pace::Choked,
        _ => Pace::Late(millis(bytes)),
    };
    let script = Script::new(0, send).end(end).pace(pace);
    if how >> 5 == 3 {
        script.rest(usize::from(bytes.u16()), millis(bytes))
    } else {
        script
    }
}

fn millis(bytes: &mut Bytes<'_>) -> Duration {
    Duration::from_millis(u64::from(bytes.u8()) * 8)
}

fn faults(bytes: &mut Bytes<'_>) -> Faults {
    let [loss, reorder, double, delay, rate] = bytes.array();
    // Nothing is spoiled: built for a fuzzer, smoltcp takes every checksum for right.
    Faults {
        loss: loss % 30,
        reorder: reorder % 30,
        double: double % 20,
        corrupt: 0,
        delay: Duration::from_micros(u64::from(delay) * 100),
        rate: u64::from(rate) * 4_000_000,
        ..Faults::default()
    }
}

/// From a few kilobytes, in which one segment has room, to as much as a kernel gives.
fn receive(bytes: &mut Bytes<'_>) -> Receive {
    let (limit, segment, overhead) = (bytes.u8(), bytes.u16(), bytes.u8());
    Receive {
        limit: 16 * 1024 + usize::from(limit) * 1024,
        segment: usize::from(segment).max(100),
        overhead: usize::from(overhead) * 48,
    }
}
