//! What workers share: atomics that can be modelled, counters of their own, and the end of what they may still use.

pub mod counter;
pub mod facade;
pub mod retire;
pub mod slots;
pub mod tally;
