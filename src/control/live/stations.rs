//! Stations on other hosts, as `show macs` tells them.

use std::collections::BTreeMap;

use switch_core::addr::{PeerId as Number, PortId, Vni};

use super::LivePlane;
use crate::cluster::Command;
use crate::control::ids::{NetworkId, PeerId};
use crate::control::show::MacRow;
use crate::control::spec::OWN_VLAN;

impl LivePlane {
    /// Which peer is behind which port.
    pub(super) fn ways(&self) -> BTreeMap<PortId, PeerId> {
        let each = self.peers.iter().flat_map(|(&id, peer)| {
            let lanes = peer.lanes.values();
            lanes.map(move |lane| (lane.port, id))
        });
        each.collect()
    }

    /// Endpoints that peers have announced; none where the thread that knows them does not say.
    pub(super) fn announced_rows(&self) -> impl Iterator<Item = MacRow> + use<> {
        let known: BTreeMap<(Number, Vni), (PeerId, NetworkId)> = self
            .peers
            .iter()
            .flat_map(|(&id, peer)| {
                let lanes = peer.lanes.iter();
                lanes.map(move |(&network, lane)| ((peer.number, lane.vni), (id, network)))
            })
            .collect();
        let told = self
            .cluster
            .as_ref()
            .and_then(|c| c.ask(Command::Endpoints));
        let each = told.into_iter().flatten();
        each.filter_map(move |(number, endpoint)| {
            let &(peer, network) = known.get(&(number, endpoint.vni))?;
            Some(MacRow {
                network,
                vlan: Some(OWN_VLAN),
                mac: endpoint.mac,
                endpoint: None,
                peer: Some(peer),
                announced: endpoint.names.first().map(ToString::to_string),
                fixed: true,
                age: 0,
                held: false,
            })
        })
    }
}
