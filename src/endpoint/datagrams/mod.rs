//! Stages 1 and 8: Batches of datagrams with their control messages, for sockets of the host and of the underlay alike.

mod sys;

pub use sys::{BATCH, Controls, Slots, address, get, set, socklen};
