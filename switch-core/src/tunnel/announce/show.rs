//! `[7]` What there is to show of announcements.

use core::net::IpAddr;

use super::Announcer;
use super::peer::PeerStats;
use super::table::Holder;
use crate::addr::{Mac, PeerId, Vni};
use crate::tunnel::control::record::{Announced, Network};

impl Announcer {
    /// Who has a MAC on a network, and what is known of it.
    #[must_use]
    pub fn by_mac(&self, vni: Vni, mac: Mac) -> Option<(Holder, Announced)> {
        let (holder, view) = self.table.by_mac(vni, mac)?;
        Some((holder, view.to_owned()))
    }

    /// Who has an address on a network, and what is known of it.
    #[must_use]
    pub fn by_addr(&self, vni: Vni, addr: IpAddr) -> Option<(Holder, Announced)> {
        let (holder, view) = self.table.by_addr(vni, addr)?;
        Some((holder, view.to_owned()))
    }

    /// The endpoints of a host that are there, in no order.
    pub fn endpoints(&self, of: Holder) -> impl Iterator<Item = Announced> {
        let there = self.table.of(of).filter(|&(_, up)| up);
        there.map(|(view, _)| view.to_owned())
    }

    /// Those of a network that have one of some names as their own. Cost: a look at every endpoint of the holder.
    pub fn endpoints_named(
        &self,
        of: Holder,
        vni: Vni,
        is_one: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = Announced> {
        let there = self.table.of(of).filter(|&(_, up)| up);
        let named = there
            .filter(move |(view, _)| view.vni() == vni && view.names().next().is_some_and(&is_one));
        named.map(|(view, _)| view.to_owned())
    }

    /// The peers that are on a network, as they have it.
    pub fn peers_on(&self, vni: Vni) -> impl Iterator<Item = (PeerId, &Network)> {
        self.networks.peers(vni)
    }

    /// Endpoints that are known, and those among them that wait for what others have.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        (self.table.len(), self.table.waiting())
    }

    /// What there is to show of a peer.
    #[must_use]
    pub fn stats(&self, id: PeerId) -> Option<PeerStats> {
        let peer = self.peers.get(&id)?;
        Some(peer.stats(self.table.count(Holder::Peer(id)), &self.log))
    }
}
