//! A network in virtual time, for tests: guests with a real stack (smoltcp), links with faults, one switch and a
//! simulated host. Nothing here reads a clock or waits; whatever is random follows from a seed, so that a run
//! repeats exactly. `model` is a slow, obvious switch to compare the real one with; `packets` writes single frames;
//! `quiet` is a host that costs nothing, to measure the switch alone.
//! `ops` runs any sequence of operations, and `oracle` says what must have become of each connection.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "support for tests: what fails here fails the test"
)]

pub mod guest;
pub mod host;
pub mod link;
pub mod model;
pub mod net;
pub mod ops;
pub mod oracle;
pub mod packets;
pub mod quiet;
pub mod script;
pub mod setup;

/// Small deterministic random numbers. Source: Vigna, splitmix64.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u8) -> bool {
        self.below(100) < u64::from(percent)
    }
}
