//! Stage 6: Frames to host sockets and back. Neighbours: policy before, the host's sockets behind.

pub mod echo;
pub mod event;
pub mod host;
mod large;
pub mod row;
pub mod tcp;
pub mod udp;
