//! The control plane of the daemon: what a user asks for, checked, kept and handed to the data plane.
//!
//! One thread. A request comes in by `server` as a message of `proto`, becomes a change of the model, is written to the
//! `store`, carried out by [`plane::Plane`], and only then answered. Nothing here is in a packet's way.

pub mod ids;
pub mod plane;
#[cfg(test)]
pub mod plane_fake;
pub mod policy;
pub mod show;
pub mod spec;
pub mod text;
