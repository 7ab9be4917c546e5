//! From a wish to a changed model: every check that needs no more than the model and some facts of the host.
//!
//! Each function takes a copy of the model, changes it, and gives what the answer will tell; on error the copy is thrown away.

mod endpoint;
mod file;
#[cfg(test)]
mod file_tests;
mod invite;
mod network;
mod overlay;
mod peer;
#[cfg(test)]
mod peer_tests;
mod policy;
mod publish;
mod service;
#[cfg(test)]
mod tests;
mod vlan;

use std::net::IpAddr;

use crate::config::{Code, Problem, names};
use crate::control::key::PublicKey;
use crate::control::spec::Underlay;

pub use endpoint::{connect, disconnect, forget, parse_sandbox, route, sandbox_name};
pub use file::{Change, Identify, apply};
pub use invite::{accept, expire, invite, void_all};
pub use network::{create, prune, remove};
pub use peer::{add as add_peer, joined, remove as remove_peer, seen};
pub use policy::{parse as parse_policy, set as set_policy};
pub use publish::{add as publish, remove as unpublish};
pub use service::{create as create_service, remove as remove_service};

/// Facts of the host that plans depend on.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Destinations that the host has routes to.
    pub routes: Vec<(IpAddr, u8)>,
    /// Descriptors that the process may have, for published ports.
    pub descriptors: u64,
    /// The way to other hosts.
    pub underlay: Underlay,
    /// The host's own key, once it has one.
    pub key: Option<PublicKey>,
    /// The time. Units: seconds since 1970.
    pub now: u64,
    /// What the host calls itself, as far as that can be a name here.
    pub host: String,
}

/// A name of something of ours: one label of a host name. Errors: `BadName`.
fn name(text: &str, field: &str) -> Result<(), Problem> {
    let bad = |why: String| Err(Problem::new(Code::BadName, why).at(field));
    if text.is_empty() {
        return bad("a name is missing".to_owned());
    }
    match names::domain("name", text) {
        Err(e) => bad(format!("{e:#}")),
        Ok(_) if text.contains('.') || text.len() > 63 => bad(format!(
            "name '{text}': one word of at most 63 letters, digits, hyphens and underscores is needed"
        )),
        // A number in a name's place is a process id to some commands.
        Ok(_) if text.bytes().all(|b| b.is_ascii_digit()) => {
            bad(format!("name '{text}': a name is no number"))
        }
        Ok(_) => Ok(()),
    }
}

/// Refuses the names whose meaning is settled, so that nobody else could be found by them. Errors: `BadName`.
fn not_reserved(name: &str, field: &str) -> Result<(), Problem> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let whose = if name.eq_ignore_ascii_case("gateway") {
        "the gateway"
    } else if last.eq_ignore_ascii_case("localhost") {
        "the sandbox itself"
    } else {
        return Ok(());
    };
    let message = format!("name '{name}': that is {whose}; choose another");
    Err(Problem::new(Code::BadName, message).at(field))
}

/// A MAC address, locally administered, from random bytes.
fn random_mac() -> switch_core::addr::Mac {
    let [a, b, c, d, e, ..] = crate::config::facts::random();
    switch_core::addr::Mac([0x02, a, b, c, d, e])
}
