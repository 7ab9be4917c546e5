//! The TCP engine against a real stack: smoltcp guests talk through the switch to a simulated host, in virtual
//! time, over links that lose, reorder, double and spoil frames. No byte may be lost, doubled or out of order.

#![allow(
    clippy::unwrap_used,
    reason = "a test's support: what fails here fails the test"
)]

mod ends;
mod held_back;
mod many;
mod narrow;
mod open;
mod operations;
mod plan;
mod raw;
mod receive;
mod reorder;
mod throughput;
mod transfer;
