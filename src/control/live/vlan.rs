//! VLANs of networks: each has a number of its own in the tables that all networks share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use switch_core::addr;
use switch_core::l2::table::MAX_NETWORKS;
use switch_core::pipeline::{Untagged, Vlan as Segment, Vlans};
use switch_core::policy::guard::{Guard, Trust};

use super::LivePlane;
use crate::control::ids::NetworkId;
use crate::control::plane::PlaneError;
use crate::control::spec::{EndpointSpec, OWN_VLAN, Vlan};

/// Numbers from here on are VLANs', those before it networks'.
pub(super) const FIRST: u32 = MAX_NETWORKS / 2;

impl LivePlane {
    /// Gives every VLAN that an endpoint is to be on a number. Errors: `Full`; then [`Self::give_vlans_back`] takes
    /// back those that were given.
    pub(super) fn take_vlans(&mut self, spec: &EndpointSpec) -> Result<(), PlaneError> {
        let mut fresh = false;
        for id in ids(&spec.vlan) {
            let no = PlaneError::NoNetwork(spec.network);
            let net = self.nets.get_mut(&spec.network).ok_or(no)?;
            if let std::collections::btree_map::Entry::Vacant(place) = net.vlans.entry(id) {
                place.insert(FIRST + self.segments.take("VLANs")?);
                fresh = true;
            }
        }
        if fresh {
            self.peers_follow(spec.network)?;
        }
        Ok(())
    }

    /// Takes back the numbers of VLANs that nobody is on any more.
    pub(super) fn give_vlans_back(&mut self, network: NetworkId) {
        let Some(net) = self.nets.get_mut(&network).filter(|n| !n.vlans.is_empty()) else {
            return;
        };
        let ends = self.ends.values().filter(|e| e.spec.network == network);
        let used: BTreeSet<u16> = ends.flat_map(|e| ids(&e.spec.vlan)).collect();
        let (segments, before) = (&mut self.segments, net.vlans.len());
        net.vlans.retain(|id, number| {
            let kept = used.contains(id);
            if !kept {
                segments.give_back(*number - FIRST);
            }
            kept
        });
        let changed = net.vlans.len() != before;
        if changed && let Err(e) = self.peers_follow(network) {
            tracing::debug!("ports to peers: {e}");
        }
    }

    /// The network and VLAN of every number in the workers' tables.
    pub(super) fn segments(&self) -> BTreeMap<u32, (NetworkId, u16)> {
        let each = self.nets.iter().flat_map(|(&id, net)| {
            let vlans = net.vlans.iter().map(|(&vlan, &number)| (number, vlan));
            let all = vlans.chain([(net.slot, OWN_VLAN)]);
            all.map(move |(number, vlan)| (number, (id, vlan)))
        });
        each.collect()
    }

    /// The VLANs of an endpoint as the switch of its network sees them. `trust` is what it may do without tags; the
    /// addresses of tagged frames are its own affair. Errors: `NoNetwork`.
    pub(super) fn vlans_of(
        &self,
        spec: &EndpointSpec,
        trust: Trust,
    ) -> Result<Option<Arc<Vlans>>, PlaneError> {
        let net = self.net(spec.network)?;
        let segment = |id: u16| {
            let segment = addr::NetworkId(*net.vlans.get(&id)?);
            Some(Segment { id, segment })
        };
        let vlans = match &spec.vlan {
            Vlan::None => None,
            Vlan::Access(id) => segment(*id).map(Vlans::access),
            Vlan::Trunk { tagged, native } => {
                let untagged = match *native {
                    Some(OWN_VLAN) => Untagged::Own,
                    native => native
                        .and_then(segment)
                        .map_or(Untagged::Nowhere, Untagged::Vlan),
                };
                let trust = Trust {
                    address: true,
                    ..trust
                };
                let guard = Guard::new(spec.mac, [], None, trust);
                let tagged = tagged.iter().filter_map(|&id| segment(id));
                Some(Vlans::trunk(tagged, untagged, Some(guard)))
            }
        };
        Ok(vlans.map(Arc::new))
    }
}

/// Every VLAN but the network's own.
fn ids(vlan: &Vlan) -> impl Iterator<Item = u16> {
    let tagged: &[u16] = match vlan {
        Vlan::None | Vlan::Access(_) => &[],
        Vlan::Trunk { tagged, .. } => tagged,
    };
    let untagged = vlan.native().filter(|&id| id != OWN_VLAN);
    untagged.into_iter().chain(tagged.iter().copied())
}
