//! Once warm, a packet costs no allocation: not in the switch, nor in the worker around it.
#![allow(
    clippy::unwrap_used,
    reason = "a test's support: what fails here fails the test"
)]

mod core;
mod sys;
mod underlay;
mod worker;
