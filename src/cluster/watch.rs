//! Endpoints of other hosts that somebody here waits for by their names: where they are, whenever that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use switch_core::addr::{Mac, PortId, Vni};
use switch_core::time::Tick;
use switch_core::tunnel::announce::Holder;
use switch_core::tunnel::control::record::Announced;

use super::command::News;
use super::run::Run;

/// What is watched on a network.
#[derive(Debug, Default)]
struct Watched {
    names: BTreeSet<Box<str>>,
    /// What was told last.
    told: Vec<(PortId, Announced)>,
    /// Something has changed since.
    stale: bool,
}

/// Endpoints of a network that are told of at most.
const MOST: usize = 1024;
/// Between two times that it is told where they are: what peers change all the time is not followed all the time.
const PAUSE: Duration = Duration::from_millis(100);

/// What is watched. Costs nothing where nothing is.
#[derive(Debug, Default)]
pub(super) struct Watch {
    of: BTreeMap<Vni, Watched>,
    /// Not before this is told again.
    next: Tick,
}

impl Watch {
    /// Names that are watched from now on.
    pub(super) fn set(&mut self, vni: Vni, names: BTreeSet<Box<str>>) {
        let of = self.of.entry(vni).or_default();
        of.stale |= of.names != names;
        of.names = names;
    }

    /// There is no such network any more.
    pub(super) fn forget(&mut self, vni: Vni) {
        self.of.remove(&vni);
    }

    /// An endpoint is there, or has changed.
    pub(super) fn seen(&mut self, endpoint: &Announced) {
        if let Some(of) = self.of.get_mut(&endpoint.vni) {
            of.stale |= is_one(&of.names, endpoint) || of.has(endpoint.mac);
        }
    }

    /// An endpoint is gone.
    pub(super) fn lost(&mut self, vni: Vni, mac: Mac) {
        if let Some(of) = self.of.get_mut(&vni) {
            of.stale |= of.has(mac);
        }
    }

    /// When something is to be told.
    pub(super) fn due(&self) -> Tick {
        if self.of.values().any(|of| of.stale) {
            self.next
        } else {
            Tick::NEVER
        }
    }

    /// The ways to a peer may be others.
    pub(super) fn all(&mut self) {
        self.of.values_mut().for_each(|of| of.stale = true);
    }
}

impl Watched {
    fn has(&self, mac: Mac) -> bool {
        self.told.iter().any(|(_, endpoint)| endpoint.mac == mac)
    }
}

/// True for an endpoint whose own name is among these.
fn is_one(names: &BTreeSet<Box<str>>, endpoint: &Announced) -> bool {
    endpoint
        .names
        .first()
        .is_some_and(|name| names.contains(name))
}

impl Run {
    /// Tells where those are that are watched, where that has changed. The workers know them by then.
    pub(super) fn tell_watched(&mut self, now: Tick) {
        if self.watch.due() > now {
            return;
        }
        let mut watch = core::mem::take(&mut self.watch);
        watch.next = now + PAUSE;
        for (&vni, of) in watch.of.iter_mut().filter(|(_, of)| of.stale) {
            of.stale = false;
            let found = self.found(vni, &of.names);
            if found != of.told {
                of.told.clone_from(&found);
                self.tell(News::Found(vni, found));
            }
        }
        watch.of.retain(|_, of| !of.names.is_empty());
        self.watch = watch;
    }

    /// Cost: a look at every endpoint of every peer.
    fn found(&self, vni: Vni, names: &BTreeSet<Box<str>>) -> Vec<(PortId, Announced)> {
        if names.is_empty() {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (&peer, member) in &self.members {
            let Some(lane) = member.lanes.get(&vni) else {
                continue;
            };
            let of = Holder::Peer(peer);
            let named = self
                .announcer
                .endpoints_named(of, vni, |n| names.contains(n));
            let room = MOST - found.len();
            found.extend(named.take(room).map(|endpoint| (lane.port, endpoint)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(vni: u32, mac: u8, names: &[&str]) -> Announced {
        Announced {
            vni: Vni::new(vni).unwrap(),
            mac: Mac([2, 0, 0, 0, 0, mac]),
            addrs: core::iter::empty().collect(),
            names: names.iter().map(|n| (*n).into()).collect(),
        }
    }

    #[test]
    fn what_nobody_waits_for_is_not_looked_at() {
        let mut watch = Watch::default();
        let [one, two] = [1, 2].map(|vni| Vni::new(vni).unwrap());
        let names = |of: &[&str]| of.iter().map(|n| (*n).into()).collect();
        let looks = |watch: &mut Watch| {
            let mut of = watch.of.values_mut();
            of.any(|of| core::mem::take(&mut of.stale))
        };
        watch.seen(&endpoint(1, 1, &["db"]));
        watch.set(one, names(&["db"]));
        assert!(looks(&mut watch));
        watch.set(one, names(&["db"]));
        watch.seen(&endpoint(1, 2, &["web", "db"]));
        watch.seen(&endpoint(2, 3, &["db"]));
        watch.lost(one, Mac([2, 0, 0, 0, 0, 1]));
        assert!(!looks(&mut watch), "another, an alias, another network");
        watch.seen(&endpoint(1, 1, &["db"]));
        assert!(looks(&mut watch));
        let told = (PortId::remote(0), endpoint(1, 1, &["db"]));
        watch.of.get_mut(&one).unwrap().told.push(told);
        watch.seen(&endpoint(1, 1, &["other"]));
        assert!(looks(&mut watch), "it has another name");
        watch.lost(two, Mac([2, 0, 0, 0, 0, 1]));
        assert!(!looks(&mut watch));
        watch.lost(one, Mac([2, 0, 0, 0, 0, 1]));
        assert!(looks(&mut watch));
        assert_eq!(watch.due(), Tick::NEVER);
        watch.next = Tick::from_millis(7);
        watch.all();
        assert_eq!(watch.due(), Tick::from_millis(7));
        watch.forget(one);
        watch.all();
        assert!(!looks(&mut watch));
    }
}
