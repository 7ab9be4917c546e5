//! Which groups of multicast this host's endpoints have joined: looked up at the switches, and announced.

use std::collections::BTreeMap;
use std::time::Duration;

use switch_core::addr::Vni;
use switch_core::l2::snoop::Wants;
use switch_core::time::Tick;

use super::run::Run;

/// Between two looks at least: who joins and leaves all the time is no load.
const LEAST: Duration = Duration::from_millis(100);
/// Between two looks at most, for endpoints that are gone and settings that have changed.
const MOST: Duration = Duration::from_secs(10);

/// What was announced, and when that is to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Groups {
    told: BTreeMap<Vni, Wants>,
    last: Tick,
    due: Tick,
}

impl Groups {
    /// When to look next.
    pub(super) const fn due(&self) -> Tick {
        self.due
    }

    /// Has a look made soon.
    pub(super) fn hurry(&mut self, now: Tick) {
        self.due = self.due.min((self.last + LEAST).max(now));
    }
}

impl Run {
    /// Looks what of multicast is wanted here, if it is time to, and announces what has changed.
    pub(super) fn look_at_groups(&mut self, now: Tick) {
        if self.slow.take_groups() {
            self.groups.hurry(now);
        }
        if now < self.groups.due {
            return;
        }
        self.groups.last = now;
        // Nobody is to be told.
        if !self.members.values().any(|m| m.up) {
            self.groups.due = Tick::NEVER;
            return;
        }
        let mut due = now + MOST;
        let overlays = &self.overlays;
        self.groups.told.retain(|vni, _| overlays.contains_key(vni));
        for (&vni, overlay) in overlays {
            let before = self.groups.told.get(&vni).cloned().unwrap_or_default();
            let Some((wants, again)) = self.workers.wants(overlay.slot, now, before) else {
                continue;
            };
            due = due.min(again.max(now + LEAST));
            self.announcer.set_wants(vni, &wants);
            self.groups.told.insert(vni, wants);
        }
        self.groups.due = due;
    }
}
