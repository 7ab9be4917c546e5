//! What can be seen of a running switch.

pub mod log;
