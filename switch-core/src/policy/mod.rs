//! Stage 5: Who may talk to whom.

pub mod host_rule;
