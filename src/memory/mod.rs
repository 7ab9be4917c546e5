//! The program's memory: the system's, with tables that cost what is in them.

mod sys;

pub use sys::Lazy;
