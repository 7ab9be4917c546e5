//! Stage 6: What conversations share: their deadlines, and the table of those between endpoints.

pub mod expiry;
mod room;
mod seen;
pub mod switched;
#[cfg(all(test, shuttle, not(loom)))]
mod switched_models;
#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod switched_tests;
pub mod tuple;
