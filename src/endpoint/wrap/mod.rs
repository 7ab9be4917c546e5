//! What wraps an endpoint: to look at its frames, or to make its link a bad one.

pub mod captured;
pub mod fault;
mod held;
pub mod impairment;
pub mod pcap;
