//! Stage 5: Who may talk to whom.

pub mod compile;
pub mod eval;
pub mod guard;
pub mod host_rule;
pub mod learned;
pub mod limit;
pub mod quota;
