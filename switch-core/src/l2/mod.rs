//! Stage 3: Learning and look-up of stations.

pub mod table;
