//! `[7]` Frames to and from other hosts: what stands on the wire between two switches. The sockets are the program's.

pub mod announce;
pub mod control;
pub mod cut;
pub mod ecn;
pub mod entropy;
pub mod gather;
pub mod peers;
pub mod pmtu;
pub mod seal;
pub mod vxlan;

#[cfg(test)]
mod tests;
