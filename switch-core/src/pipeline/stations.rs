//! Stage 3: Stations behind endpoints, as behind a bridge in a sandbox: noted where they are, so many for each
//! endpoint, and held where they are if they flap.

use arrayvec::ArrayVec;

use super::vlans::Source;
use super::{Switch, seconds};
use crate::addr::{Mac, NetworkId};
use crate::l2::learn::Learned;
use crate::l2::moves::HOLD;
use crate::time::Tick;
use crate::verdict::DropReason;

/// Stations that flap and were not told of yet, at most; of more, each is told of when it flaps again.
const UNTOLD: usize = 16;

/// A station that flaps, and the network or VLAN it does that on.
pub type Flap = (NetworkId, Mac);

/// Stations that flap, to be told of.
#[derive(Debug, Default)]
pub(super) struct Damped {
    untold: ArrayVec<Flap, UNTOLD>,
    /// No endpoint's own MAC is told of again before that. Units: seconds.
    quiet_until: u32,
}

impl Switch {
    /// Notes that a station that is no endpoint itself is behind one.
    /// Errors: `MacLimit`; `LoopGuard` for one that is held elsewhere, or that is an endpoint or the gateway: their
    /// frames have come back.
    pub(super) fn note_station(
        &mut self,
        from: Source,
        mac: Mac,
        now: Tick,
    ) -> Result<(), DropReason> {
        let segment = from.vlan.map_or(self.config.network, |v| v.segment);
        let now = seconds(now);
        let is_gateway = from.vlan.is_none() && mac == self.config.gateway.mac;
        if is_gateway || self.ports.by_mac_on(from.vlan, mac).is_some() {
            if self.damped.quiet_until <= now {
                self.damped.quiet_until = now.saturating_add(HOLD);
                self.damped.tell((segment, mac));
            }
            return Err(DropReason::LoopGuard);
        }
        match self.macs.learn(segment, mac, from.port, now) {
            Learned::Held { now, .. } => {
                if now {
                    self.damped.tell((segment, mac));
                }
                Err(DropReason::LoopGuard)
            }
            Learned::Limited => Err(DropReason::MacLimit),
            Learned::Same
            | Learned::New
            | Learned::Moved(_)
            | Learned::Full
            | Learned::Busy
            | Learned::Refused => Ok(()),
        }
    }

    /// A station that flaps, each once.
    pub fn take_flap(&mut self) -> Option<Flap> {
        self.damped.untold.pop()
    }
}

impl Damped {
    fn tell(&mut self, flap: Flap) {
        // Where there is no room the drops tell.
        let _full = self.untold.try_push(flap);
    }
}
