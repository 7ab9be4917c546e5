//! `[7]` Super-frames: `split` cuts one to the size of the wire.

pub mod split;

#[cfg(test)]
mod tests;
