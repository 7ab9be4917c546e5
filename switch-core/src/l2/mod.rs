//! Stage 3: Learning and look-up of stations, and of who wants which multicast.

pub mod flood;
pub mod learn;
pub mod moves;
pub mod snoop;
pub mod table;

#[cfg(test)]
mod tests;
