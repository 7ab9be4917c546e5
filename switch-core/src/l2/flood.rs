//! Stage 3: Broadcast and unknown destinations: to every other port of the network, so many in a turn.

use crate::addr::PortId;

/// Ports that one turn serves; the rest of a flood waits until others had theirs.
pub const TURN: usize = 64;
/// So many looks at ports that want nothing cost about what a copy does.
pub const LOOKS_PER_COPY: usize = 16;
/// Ports that one turn looks at.
const LOOKS: usize = LOOKS_PER_COPY * TURN;

/// The ports of one network, in order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortList(Vec<PortId>);

/// Where a flood goes on. It stays true when ports come and go between turns: none is served twice, and none
/// that was there from beginning to end is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    from: PortId,
    done: Option<PortId>,
}

impl Rest {
    /// A flood that has not begun.
    #[must_use]
    pub const fn all(from: PortId) -> Self {
        Self { from, done: None }
    }

    /// Who sent the frame.
    #[must_use]
    pub const fn from(self) -> PortId {
        self.from
    }
}

impl FromIterator<PortId> for PortList {
    fn from_iter<I: IntoIterator<Item = PortId>>(ports: I) -> Self {
        let mut list: Vec<PortId> = ports.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        Self(list)
    }
}

impl PortList {
    /// Adds a port. False if it was there.
    pub fn insert(&mut self, port: PortId) -> bool {
        match self.0.binary_search(&port) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, port);
                true
            }
        }
    }

    /// Takes a port out. False if it was not there.
    pub fn remove(&mut self, port: PortId) -> bool {
        self.0
            .binary_search(&port)
            .map(|at| self.0.remove(at))
            .is_ok()
    }

    /// Takes all ports out; the room for them stays.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The ports, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[PortId] {
        &self.0
    }

    /// Gives ports other than `from` to `each`, until `TURN` of them were served, which it tells. Returns what is left,
    /// if anything is.
    pub fn flood(&self, from: PortId, each: &mut impl FnMut(PortId) -> bool) -> Option<Rest> {
        Self::turn(&self.0, from, each)
    }

    /// Goes on with a flood, as `flood` begins one.
    pub fn go_on(&self, rest: Rest, each: &mut impl FnMut(PortId) -> bool) -> Option<Rest> {
        let done = |port: &PortId| rest.done.is_some_and(|done| *port <= done);
        let at = self.0.partition_point(done);
        Self::turn(self.0.get(at..).unwrap_or_default(), rest.from, each)
    }

    fn turn(ports: &[PortId], from: PortId, each: &mut impl FnMut(PortId) -> bool) -> Option<Rest> {
        let mut others = ports.iter().copied().filter(|&port| port != from);
        let (mut done, mut served) = (None, 0);
        for port in others.by_ref().take(LOOKS) {
            served += usize::from(each(port));
            done = Some(port);
            if served == TURN {
                break;
            }
        }
        others.next()?;
        Some(Rest { from, done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push<T>(seen: &mut Vec<T>, port: T) -> bool {
        seen.push(port);
        true
    }

    fn run(list: &PortList, from: u32) -> (Vec<u32>, usize) {
        let mut seen = Vec::new();
        let mut turns = 1;
        let mut rest = list.flood(PortId(from), &mut |p| push(&mut seen, p.0));
        while let Some(more) = rest {
            let before = seen.len();
            rest = list.go_on(more, &mut |p| push(&mut seen, p.0));
            assert!((1..=TURN).contains(&(seen.len() - before)));
            turns += 1;
        }
        (seen, turns)
    }

    #[test]
    fn everyone_but_the_sender_in_turns_of_64() {
        for n in [0u32, 1, 2, 63, 64, 65, 66, 128, 129, 200] {
            let list: PortList = (0..n).rev().map(PortId).collect();
            let (seen, turns) = run(&list, 5);
            let others: Vec<u32> = (0..n).filter(|&p| p != 5).collect();
            assert_eq!(seen, others);
            assert_eq!(turns, others.len().div_ceil(TURN).max(1), "{n} ports");
        }
    }

    #[test]
    fn who_wants_nothing_takes_nobodys_turn() {
        let list: PortList = (0..3000).map(PortId).collect();
        let mut seen = Vec::new();
        let mut each = |p: PortId| p.0.is_multiple_of(10) && push(&mut seen, p.0);
        let mut rest = list.flood(PortId(0), &mut each);
        let mut turns = 1;
        while let Some(more) = rest {
            rest = list.go_on(more, &mut each);
            turns += 1;
        }
        assert_eq!(seen, (1..300).map(|n| 10 * n).collect::<Vec<_>>());
        assert_eq!(turns, 5, "of 64 copies");
        let nobody = list.flood(PortId(0), &mut |_| false);
        assert!(nobody.is_some(), "looks have their limit too");
    }

    #[test]
    fn ports_come_and_go_between_turns() {
        let mut list: PortList = (0..200).map(|p| PortId(2 * p)).collect();
        let mut seen = Vec::new();
        let rest = list.flood(PortId(0), &mut |p| push(&mut seen, p)).unwrap();
        assert!(list.remove(PortId(10)) && list.remove(PortId(300)) && !list.remove(PortId(3)));
        assert!(list.insert(PortId(11)) && list.insert(PortId(301)) && !list.insert(PortId(2)));
        let mut rest = Some(rest);
        while let Some(more) = rest {
            rest = list.go_on(more, &mut |p| push(&mut seen, p));
        }
        assert!(seen.is_sorted_by(|a, b| a < b), "none twice");
        assert_eq!(seen.len(), 199, "one less, and one more");
        assert!(seen.contains(&PortId(301)) && !seen.contains(&PortId(11)));
    }
}
