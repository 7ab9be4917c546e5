//! Atomics, real or modelled: everything concurrent takes them from here, so that loom can replace them.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering};
