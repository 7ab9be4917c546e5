//! What wraps an endpoint to look at its frames.

pub mod captured;
pub mod pcap;
