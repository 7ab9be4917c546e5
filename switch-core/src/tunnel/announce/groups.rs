//! `[7]` Which groups of multicast each host wants: told as a whole, for each network, whenever it changes.

use std::sync::Arc;

use super::Announcer;
use super::event::{Refusal, Subject};
use super::log::Key;
use crate::addr::{PeerId, Vni};
use crate::l2::snoop::Wants;
use crate::tunnel::control::groups::groups;

impl Announcer {
    /// Announces what of a network's multicast this host wants. It is all until then.
    pub fn set_wants(&mut self, vni: Vni, wants: &Wants) {
        if self.log.set(Key::Groups(vni), groups(vni, wants)) {
            self.wake(Some(vni));
        }
    }

    /// What of a network's multicast a peer wants.
    #[must_use]
    pub fn wants(&self, id: PeerId, vni: Vni) -> Arc<Wants> {
        self.networks.wants(id, vni)
    }

    pub(super) fn take_groups(&mut self, id: PeerId, vni: Vni, wants: Wants) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        if peer.rules.on(vni).is_none() {
            return self.refuse(id, Refusal::Network, Subject::Network(vni));
        }
        let round = peer.round;
        self.networks
            .set_wants(id, vni, wants, round, &mut self.events);
    }
}
