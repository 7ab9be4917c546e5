//! A reference switch: learning, ageing and flooding with a list and plain loops, to compare the real one with.

use crate::addr::{Mac, PortId};
use crate::verdict::DropReason;

/// Silence after which a station is forgotten. Units: seconds. Source: IEEE 802.1D table 7-5.
const AGEING: u32 = 300;

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
        }
    }

    /// Takes a frame. Units: `now` in seconds.
    pub fn frame(&mut self, now: u32, from: PortId, dst: Mac, src: Mac) -> Fate {
        if !self.ports.contains(&(from, src)) {
            if !self.bridges.contains(&from) {
                return Fate::Drop(DropReason::Spoofed);
            }
            if !dst.is_bridge_reserved() {
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
