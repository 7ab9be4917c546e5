//! The sealed protocol among two to ten hosts, in virtual time, over links that lose, reorder, double and delay
//! datagrams, through NATs, and against whoever sends what was never asked for.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test's support: what fails here fails the test"
)]

mod connect;
mod hostile;
mod life;
mod roam;
mod world;
