//! What workers share.

pub mod facade;
