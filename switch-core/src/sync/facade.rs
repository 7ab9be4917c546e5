//! Atomics, real or modelled: everything concurrent takes them from here, so that loom and shuttle can replace them.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
#[cfg(all(shuttle, test, not(loom)))]
pub use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
#[cfg(not(any(loom, all(shuttle, test))))]
pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
