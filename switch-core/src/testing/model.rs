//! A reference switch: learning, ageing and flooding with a list and plain loops, to compare the real one with.

use crate::addr::{Mac, PortId};
use crate::verdict::DropReason;

/// Silence after which a station is forgotten. Units: seconds. Source: IEEE 802.1D table 7-5.
const AGEING: u32 = 300;
/// Moves within so many seconds that make a station flap, which is then held for so long. Units: seconds.
const FLAPPING: (u32, u32, u32) = (6, 10, 60);

/// What becomes of a frame that no responder knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is dropped, for this reason.
    Drop(DropReason),
    /// It reaches these ports, in order of their numbers.
    Reach(Vec<PortId>),
}

/// The reference.
#[derive(Debug, Clone)]
pub struct Model {
    gateway: Mac,
    ports: Vec<(PortId, Mac)>,
    bridges: Vec<PortId>,
    stations: Vec<(Mac, PortId, u32)>,
    /// When each station moved, since it is known; the first of those that count.
    moves: Vec<(Mac, Vec<u32>)>,
    held: Vec<(Mac, u32)>,
}

impl Model {
    /// A switch with these ports, each with its own MAC, and the gateway's MAC. Behind `bridges`, some of the
    /// ports, are stations with MACs of their own.
    #[must_use]
    pub fn new(gateway: Mac, ports: Vec<(PortId, Mac)>, bridges: Vec<PortId>) -> Self {
        Self {
            gateway,
            ports,
            bridges,
            stations: Vec::new(),
            moves: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Whether a station flaps, and stays where it was.
    fn is_held(&mut self, now: u32, at: PortId, mac: Mac) -> bool {
        let known = self.stations.iter().find(|s| s.0 == mac);
        let Some(&(_, was, seen)) = known.filter(|s| now - s.2 < AGEING) else {
            self.moves.retain(|m| m.0 != mac);
            self.held.retain(|h| h.0 != mac);
            return false;
        };
        debug_assert!(seen <= now, "time goes on");
        if was == at {
            return false;
        }
        if self.held.iter().any(|h| h.0 == mac && now < h.1) {
            return true;
        }
        let (most, window, hold) = FLAPPING;
        if !self.moves.iter().any(|m| m.0 == mac) {
            self.moves.push((mac, Vec::new()));
        }
        for (_, times) in self.moves.iter_mut().filter(|m| m.0 == mac) {
            if times.first().is_some_and(|&first| now - first >= window) {
                times.clear();
            }
            times.push(now);
            if times.len() as u32 == most {
                times.clear();
                self.held.retain(|h| h.0 != mac);
                self.held.push((mac, now + hold));
                return true;
            }
        }
        false
    }

    /// Takes a frame. Units: `now` in seconds.
    pub fn frame(&mut self, now: u32, from: PortId, dst: Mac, src: Mac) -> Fate {
        if !self.ports.contains(&(from, src)) {
            if !self.bridges.contains(&from) {
                return Fate::Drop(DropReason::Spoofed);
            }
            if !dst.is_bridge_reserved() {
                let own = self.ports.iter().any(|&(_, mac)| mac == src);
                if own || src == self.gateway || self.is_held(now, from, src) {
                    return Fate::Drop(DropReason::LoopGuard);
                }
                self.stations.retain(|&(mac, ..)| mac != src);
                self.stations.push((src, from, now));
            }
        }
        if dst.is_bridge_reserved() {
            return Fate::Drop(DropReason::Reserved);
        }
        if dst == self.gateway {
            return Fate::Drop(DropReason::UnknownProtocol);
        }
        let own = self.ports.iter().find(|&&(_, mac)| mac == dst);
        let mut learned = self.stations.iter();
        let learned = learned.find(|&&(mac, _, seen)| mac == dst && now - seen < AGEING);
        let own = own.map(|&(port, _)| port);
        let to = own.or_else(|| learned.map(|&(_, port, _)| port));
        match to {
            Some(to) if to == from => Fate::Drop(DropReason::Hairpin),
            Some(to) => Fate::Reach(vec![to]),
            None => {
                let mut others: Vec<PortId> = self.ports.iter().map(|&(port, _)| port).collect();
                others.retain(|&port| port != from);
                others.sort_unstable();
                Fate::Reach(others)
            }
        }
    }
}
