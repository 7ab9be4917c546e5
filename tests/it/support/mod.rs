//! What the tests in real namespaces stand on: the namespaces, the servers outside, `weft` itself.

pub(crate) mod daemon;
pub(crate) mod dns;
pub(crate) mod guest;
pub(crate) mod hosts;
pub(crate) mod lease;
pub(crate) mod netns;
pub(crate) mod servers;
pub(crate) mod wait;
pub(crate) mod weft;
