//! From which of the host's addresses a peer is answered: from the one that it sends to, or a NAT or a firewall on its
//! side would not let the answer in.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::endpoint::udp::{Name, source_to};

/// Those that are kept: anybody can send, and be answered.
const MOST: usize = 4096;

/// Whom the kernel would answer from another address.
#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<SocketAddr, IpAddr>);

impl Sources {
    /// Notes which address a datagram came to. True if it is another than was known.
    pub(super) fn note(&mut self, from: SocketAddr, to: Option<IpAddr>) -> bool {
        let Some(to) = to else {
            return false;
        };
        // Whoever is reached from there anyway is so when the host's addresses change, too.
        if source_to(from).is_ok_and(|source| source == to) {
            return self.0.remove(&from).is_some();
        }
        if self.0.len() >= MOST && !self.0.contains_key(&from) {
            self.0.pop_first();
        }
        self.0.insert(from, to) != Some(to)
    }

    /// The address that who is there is answered from; none where the kernel chooses.
    pub(super) fn get(&self, to: SocketAddr) -> Option<IpAddr> {
        self.0.get(&to).copied()
    }

    /// The same, for a socket.
    pub(super) fn name(&self, to: SocketAddr) -> Name {
        Name::from(to).leaving(self.get(to))
    }
}
