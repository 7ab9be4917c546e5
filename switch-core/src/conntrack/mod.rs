//! Stage 6: What conversations share: their deadlines.

pub mod expiry;
