//! `[7]` Super-frames: `split` cuts one to the size of the wire, `merge` makes one of neighbours.

pub mod merge;
pub mod split;

#[cfg(test)]
mod tests;
