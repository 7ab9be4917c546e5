//! Stage 7: Ways that take less than their networks, as the kernel knows: a link's MTU, or what a router has said. They
//! are looked at again for as long as something is sent.

use std::collections::VecDeque;
use std::time::Duration;

use switch_core::time::Tick;

use super::Way;
use super::tx::Refused;
use crate::endpoint::udp::path_mtu;

/// Between two looks at a way.
const AGAIN: Duration = Duration::from_secs(10);
/// Looks of a turn, which cost some system calls each.
const TURN: usize = 16;

/// A way, and the MTU of its port when nothing was in the way.
#[derive(Debug, Clone, Copy)]
struct Narrow {
    due: Tick,
    what: Refused,
    full: u16,
}

/// All of them, the next to be looked at first.
#[derive(Debug, Default)]
pub struct Narrows(VecDeque<Narrow>);

impl Narrows {
    /// Takes a way that has refused something, whose port has this MTU. Returns what it is to have; none where the
    /// kernel knows of nothing in the way.
    pub fn take(&mut self, now: Tick, what: Refused, mtu: u16) -> Option<u16> {
        let known = self.0.iter().position(|n| n.what.port == what.port);
        let known = known.and_then(|at| self.0.remove(at));
        let full = known.map_or(mtu, |known| known.full.max(mtu));
        self.look(now, what, full).filter(|&found| found < mtu)
    }

    /// The next way that is to be looked at again, with what its port is to have.
    pub fn next(&mut self, now: Tick) -> Option<(Refused, u16)> {
        let due = |n: &Narrow| n.due <= now;
        self.0.front().filter(|n| due(n))?;
        let Narrow { what, full, .. } = self.0.pop_front()?;
        let found = self.look(now, what, full);
        Some((what, found.unwrap_or(full)))
    }

    /// How many are looked at in a turn.
    pub fn turn(&self) -> usize {
        self.0.len().min(TURN)
    }

    fn look(&mut self, now: Tick, what: Refused, full: u16) -> Option<u16> {
        let (Way::Vxlan { to, .. } | Way::Bare { to, .. }) = what.way else {
            return None;
        };
        let found = what.way.inner(path_mtu(to).ok()?);
        if found >= full {
            return None;
        }
        let due = now + AGAIN;
        self.0.push_back(Narrow { due, what, full });
        Some(found)
    }
}
