//! Stage 6: Other addresses for conversations between endpoints: services, their backends, and what of a frame changes.

pub mod choice;
pub mod quote;
pub mod rewrite;
pub mod service;
