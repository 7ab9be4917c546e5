//! Stage 5: Who may talk to whom.

pub mod guard;
pub mod host_rule;
pub mod limit;
