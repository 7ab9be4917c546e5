//! Configuration in two types: raw, as written by a person, and checked, as a worker may trust it.

pub mod facts;
pub mod file;
mod impair;
pub mod invite;
pub mod ipam;
pub mod join;
pub mod life;
pub mod names;
mod options;
pub mod problem;
pub mod publish;
pub mod raw;
pub mod resolve;
pub mod subnet;
pub mod topology;
pub mod way;
pub mod wish;

pub use facts::HostFacts;
pub use join::{Join, Share};
pub use problem::{Code, Problem};
pub use publish::{PortRange, Proto, PublishRule};
pub use raw::{NetOptions, UdpFilter};
pub use resolve::{HostEntry, NetworkMode, RunConfig, Target, User};
pub use subnet::{Subnet4, Subnet6};
