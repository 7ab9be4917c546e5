//! The control plane of the daemon: what a user asks for, checked, kept and handed to the data plane.
//!
//! One thread. A request comes in by `server` as a message of `proto`; `plan` makes a changed model of it, whose difference
//! ([`diff`]) is written to the [`store`], carried out by [`plane::Plane`], and only then answered ([`engine`]).
//! Nothing here is in a packet's way.

mod answer;
pub mod client;
pub mod diff;
pub mod engine;
#[cfg(test)]
mod engine_peer_tests;
#[cfg(test)]
mod engine_tests;
pub mod identity;
pub mod ids;
pub mod key;
pub mod live;
pub mod model;
pub mod plan;
pub mod plane;
#[cfg(test)]
pub mod plane_fake;
pub mod policy;
pub mod proto;
mod request;
pub mod restore;
#[cfg(test)]
mod restore_tests;
pub mod serve;
pub mod server;
pub mod shelf;
pub mod show;
pub mod spec;
pub mod store;
mod sys;
#[cfg(test)]
pub(crate) mod testing;
pub mod text;
