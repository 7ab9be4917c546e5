//! Sandboxes on several networks: the gateway of each answers them for the names of all.

use switch_core::addr::Mac;

use super::{End, LivePlane};
use crate::control::ids::{EndpointId, NetworkId};
use crate::control::live::network::owner;
use crate::control::plane::PlaneError;
use crate::control::spec::{NameOwner, NameRecord};

/// An endpoint that asks the gateway of one network for names of another.
#[derive(Debug, Clone, Copy)]
struct Asker {
    network: NetworkId,
    slot: u32,
    mac: Mac,
}

impl LivePlane {
    /// Enters an endpoint among those of its sandbox, and shares names both ways.
    pub(super) fn joins_kin(&mut self, id: EndpointId) -> Result<(), PlaneError> {
        let end = self.end(id)?;
        let (sandbox, new) = (end.spec.sandbox.netns, self.asker(end)?);
        let before = self.kin.get(&sandbox).map_or(&[][..], Vec::as_slice);
        for old in self.askers(before)? {
            self.shares(new, old.network)?;
            self.shares(old, new.network)?;
        }
        self.kin.entry(sandbox).or_default().push(id);
        Ok(())
    }

    /// Takes an endpoint out from among those of its sandbox: the others no longer know names of its network.
    pub(super) fn leaves_kin(&mut self, id: EndpointId, end: &End) -> Result<(), PlaneError> {
        let sandbox = end.spec.sandbox.netns;
        let Some(kin) = self.kin.get_mut(&sandbox) else {
            return Ok(());
        };
        kin.retain(|k| *k != id);
        if kin.is_empty() {
            self.kin.remove(&sandbox);
            return Ok(());
        }
        let kin = kin.clone();
        let rest = self.askers(&kin)?;
        let network = end.spec.network;
        if rest.iter().any(|a| a.network == network) {
            return Ok(());
        }
        let owners: Vec<_> = self.names_of(network).map(|r| owner(r.owner)).collect();
        self.on_all(move |board| {
            for asker in &rest {
                board.with(asker.slot, |switch, _| {
                    for &owner in &owners {
                        switch.remove_names_beside(asker.mac, owner);
                    }
                });
            }
        })?;
        Ok(())
    }

    /// Who else is to know the names of a network: other endpoints of the sandboxes that are on it.
    fn askers_for(&self, network: NetworkId) -> Result<Vec<Asker>, PlaneError> {
        let mut found = Vec::new();
        for kin in self.kin.values().filter(|k| k.len() > 1) {
            let all = self.askers(kin)?;
            if all.iter().any(|a| a.network == network) {
                found.extend(all.into_iter().filter(|a| a.network != network));
            }
        }
        Ok(found)
    }

    /// Tells those of other networks of a record.
    pub(super) fn tell_kin(&self, record: &NameRecord) -> Result<(), PlaneError> {
        let askers = self.askers_for(record.network)?;
        if askers.is_empty() {
            return Ok(());
        }
        let (owner, record) = (owner(record.owner), record.clone());
        self.on_all(move |board| {
            for a in &askers {
                board.with(a.slot, |switch, _| {
                    switch.set_names_beside(a.mac, owner, &record.names, &record.addrs);
                });
            }
        })?;
        Ok(())
    }

    /// Takes a record back from those of other networks.
    pub(super) fn untell_kin(&self, network: NetworkId, of: NameOwner) -> Result<(), PlaneError> {
        let askers = self.askers_for(network)?;
        if askers.is_empty() {
            return Ok(());
        }
        let owner = owner(of);
        self.on_all(move |board| {
            for a in &askers {
                board.with(a.slot, |switch, _| switch.remove_names_beside(a.mac, owner));
            }
        })?;
        Ok(())
    }

    /// Gives an endpoint all names of another network.
    fn shares(&self, asker: Asker, network: NetworkId) -> Result<(), PlaneError> {
        if asker.network == network {
            return Ok(());
        }
        let records: Vec<NameRecord> = self.names_of(network).cloned().collect();
        self.on_all(move |board| {
            board.with(asker.slot, |switch, _| {
                for r in &records {
                    switch.set_names_beside(asker.mac, owner(r.owner), &r.names, &r.addrs);
                }
            });
        })?;
        Ok(())
    }

    fn askers(&self, ids: &[EndpointId]) -> Result<Vec<Asker>, PlaneError> {
        ids.iter().map(|&id| self.asker(self.end(id)?)).collect()
    }

    fn asker(&self, end: &End) -> Result<Asker, PlaneError> {
        let network = end.spec.network;
        Ok(Asker {
            network,
            slot: self.net(network)?.slot,
            mac: end.spec.mac,
        })
    }

    fn names_of(&self, network: NetworkId) -> impl Iterator<Item = &NameRecord> {
        let names = self.names.get(&network).into_iter();
        names.flat_map(|n| n.values())
    }
}
