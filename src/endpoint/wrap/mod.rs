//! What wraps an endpoint to look at its frames.

pub mod pcap;
