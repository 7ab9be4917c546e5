//! Stage 3: Learning and look-up of stations.

pub mod flood;
pub mod learn;
pub mod table;

#[cfg(test)]
mod tests;
