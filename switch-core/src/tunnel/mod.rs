//! [7] Frames to and from other hosts: what stands on the wire between two switches. The sockets are the program's.

pub mod control;
pub mod seal;
pub mod vxlan;
