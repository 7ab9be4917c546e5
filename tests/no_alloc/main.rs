//! Once warm, a packet costs no allocation: not in the switch, nor in the worker around it. And what tables take.
#![allow(
    clippy::unwrap_used,
    reason = "a test's support: what fails here fails the test"
)]

mod core;
mod remote;
mod sys;
mod underlay;
mod worker;
