//! Peers: added, removed, and those who have taken an invite.

use std::sync::Arc;

use crate::control::ids::PeerId;
use crate::control::key::PublicKey;
use crate::control::model::Model;
use crate::control::spec::PeerCarrier;

/// Notes who has taken an invite, and gives the peer's name. `None` where there is no such open invite.
pub fn joined(model: &mut Model, id: PeerId, by: PublicKey) -> Option<String> {
    let record = model.peers.get_mut(&id)?;
    let name = record.wish.name.clone();
    match &mut Arc::make_mut(record).carrier {
        PeerCarrier::Sealed { key, .. } if key.is_none() => {
            *key = Some(by);
            Some(name)
        }
        PeerCarrier::Sealed { .. } | PeerCarrier::Vxlan { .. } | PeerCarrier::FlannelUdp { .. } => {
            None
        }
    }
}
