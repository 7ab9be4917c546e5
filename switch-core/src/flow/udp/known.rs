//! Stage 6: Who has spoken with whom: what is asked of the mappings before a datagram is let through.

use core::net::SocketAddr;

use super::UdpFlows;
use crate::addr::PortId;

impl UdpFlows {
    /// Finds the client of a published port that a sandbox answers, by the address it was shown as. The rule on
    /// the host's own addresses is not asked about it: it spoke first, and may well be the host itself.
    #[must_use]
    pub fn client(&self, guest: SocketAddr, shown: SocketAddr) -> Option<SocketAddr> {
        let id = *self.index.get(&guest)?;
        let mapping = self.mappings.get(id as usize)?;
        let mut remotes = mapping.remotes.iter();
        let known = remotes.find(|r| mapping.published && r.shown == shown)?;
        Some(known.real)
    }

    /// The endpoint and address that a remote sends to unasked; `None` if the sandbox has spoken to it before, or it
    /// has been let in.
    #[must_use]
    pub fn unasked(&self, mapping: u32, from: SocketAddr) -> Option<(PortId, SocketAddr)> {
        let mapping = self.mappings.get(mapping as usize)?;
        let known = mapping.remotes.iter().any(|r| r.real == from);
        (!known).then_some((mapping.port, mapping.guest))
    }

    /// True if a sandbox has spoken to a remote from this address and port before.
    #[must_use]
    pub fn knows(&self, guest: SocketAddr, shown: SocketAddr) -> bool {
        let id = self.index.get(&guest);
        let mapping = id.and_then(|&id| self.mappings.get(id as usize));
        mapping.is_some_and(|m| {
            let current = m.remotes.get(m.last);
            current.is_some_and(|r| r.shown == shown) || m.remotes.iter().any(|r| r.shown == shown)
        })
    }
}
