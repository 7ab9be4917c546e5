//! What is fuzzed, and what must hold whatever the bytes. Each module is one target: `run` takes the
//! fuzzer's bytes. The test `regress` runs the same over the committed corpus and over past crashes.

pub mod announce;
mod bytes;
pub mod dhcp;
pub mod dns;
pub mod frame;
mod host;
pub mod multicast;
pub mod pipeline;
pub mod rewrite;
pub mod seal;
pub mod sim;
pub mod underlay;
