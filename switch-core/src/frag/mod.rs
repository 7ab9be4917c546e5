//! `[2, 7]` IP fragments: put together on the way in, cut on the way out. Source: RFC 791, RFC 8200 section 4.5.

mod cut;
mod reassemble;

pub use cut::fragment;
pub use reassemble::Reassembly;

#[cfg(test)]
mod tests;
