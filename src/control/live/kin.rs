//! Sandboxes on several networks: the gateway of each answers them for the names of all.

use switch_core::addr::Mac;

use super::{End, LivePlane};
use crate::control::ids::EndpointId;
use crate::control::plane::PlaneError;

/// An endpoint, and the networks beside its own whose names it may ask for.
#[derive(Debug, Clone)]
struct Asker {
    slot: u32,
    mac: Mac,
    beside: Vec<u32>,
}

impl LivePlane {
    /// Enters an endpoint among those of its sandbox.
    pub(super) fn joins_kin(&mut self, id: EndpointId) -> Result<(), PlaneError> {
        let sandbox = self.end(id)?.spec.sandbox.netns;
        let kin = self.kin.entry(sandbox).or_default();
        kin.push(id);
        if kin.len() < 2 {
            return Ok(());
        }
        let all = kin.clone();
        self.tell_askers(self.askers(&all)?)
    }

    /// Takes an endpoint out from among those of its sandbox: the others may no longer ask for names of its network.
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
        let rest = kin.clone();
        let mut askers = self.askers(&rest)?;
        askers.push(Asker {
            slot: self.net(end.spec.network)?.slot,
            mac: end.spec.mac,
            beside: Vec::new(),
        });
        self.tell_askers(askers)
    }

    fn tell_askers(&self, askers: Vec<Asker>) -> Result<(), PlaneError> {
        self.on_all(move |board| {
            for asker in &askers {
                let names = &mut board.io.names;
                names.set_beside(asker.slot, asker.mac, &asker.beside);
            }
        })?;
        Ok(())
    }

    /// The endpoints of a sandbox as those who ask, each for the names of all its networks, in the order in which it came
    /// onto them. Where it is on a VLAN only it can reach none of those who have names.
    fn askers(&self, ids: &[EndpointId]) -> Result<Vec<Asker>, PlaneError> {
        let mut all: Vec<u32> = Vec::new();
        let mut askers = Vec::with_capacity(ids.len());
        for &id in ids {
            let spec = &self.end(id)?.spec;
            let slot = self.net(spec.network)?.slot;
            if spec.vlan.meets_gateway() && !all.contains(&slot) {
                all.push(slot);
            }
            askers.push((slot, spec.mac));
        }
        let asker = |(slot, mac): (u32, Mac)| Asker {
            slot,
            mac,
            beside: all.iter().copied().filter(|&s| s != slot).collect(),
        };
        Ok(askers.into_iter().map(asker).collect())
    }
}
