//! The switch: no I/O, no clock, no threads, no files. Frames and time go in, verdicts come out.
//!
//! The modules stand in the order of a packet's way:
//! `[1] endpoint rx -> [2] parse -> [3] learn, look up -> [4] answer -> [5] policy -> [6] translate
//! -> [7] tunnel, segment -> [8] endpoint tx`, of which 1 and 8 belong to the program.
#![deny(clippy::indexing_slicing)]

pub mod addr;
pub mod time;
pub mod verdict;

pub mod frame;
pub mod sync;
pub mod wire;

pub mod conntrack;
pub mod flow;
pub mod frag;
pub mod gso;
pub mod l2;
pub mod nat;
pub mod policy;
pub mod respond;
pub mod tunnel;

pub mod pipeline;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
