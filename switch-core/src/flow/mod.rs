//! `[6]` Frames to host sockets and back. Neighbours: policy before, the host's sockets behind.
pub mod host;
pub mod tcp;
