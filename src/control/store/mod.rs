//! What survives a restart: one record for each thing that a user made, in an embedded database.
//!
//! The store writes on a thread of its own. What has gathered while it wrote becomes one transaction, and everyone whose
//! records are in it is told after that has reached the disk. A file that is torn, or not ours, is refused and left as it is:
//! it is first opened as a copy in memory and walked through.

mod open;
mod records;
mod writer;

pub use open::{OpenError, open, open_backend, reopen};
pub use records::{Key, Write, read};
pub use writer::{Store, StoreError};

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
mod tests;
