//! Buffers: the bounded pool that rings of TCP flows are made of.

mod pool;

pub use pool::Pool;
