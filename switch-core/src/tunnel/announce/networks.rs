//! `[7]` Who is on which network, under which name, and who hands out from where.

use std::collections::{BTreeMap, VecDeque};

use super::event::Event;
use super::table::Holder;
use crate::addr::{PeerId, Vni};
use crate::tunnel::control::record::Network;

#[derive(Debug)]
struct Theirs {
    network: Network,
    round: u16,
}

/// The networks of every host.
#[derive(Debug, Default)]
pub(super) struct Networks {
    local: BTreeMap<Vni, Network>,
    theirs: BTreeMap<Vni, BTreeMap<PeerId, Theirs>>,
}

impl Networks {
    /// Sets a network of this host, and tells what does not go together with what peers have said.
    pub(super) fn set_local(&mut self, network: &Network, events: &mut VecDeque<Event>) {
        if self.local.get(&network.vni) == Some(network) {
            return;
        }
        self.local.insert(network.vni, network.clone());
        for (vni, peers) in &self.theirs {
            for (&peer, theirs) in peers {
                other_name(peer, &theirs.network, network, events);
                if *vni == network.vni {
                    overlap((peer, &theirs.network), (Holder::Local, network), events);
                }
            }
        }
    }

    /// Takes a network of this host back.
    pub(super) fn remove_local(&mut self, vni: Vni) {
        self.local.remove(&vni);
    }

    /// Sets a network of a peer, and tells what does not go together with it. Cost: as many steps as this host has
    /// networks and the network has peers.
    pub(super) fn set(
        &mut self,
        peer: PeerId,
        network: Network,
        round: u16,
        events: &mut VecDeque<Event>,
    ) {
        let peers = self.theirs.entry(network.vni).or_default();
        if let Some(theirs) = peers.get_mut(&peer) {
            theirs.round = round;
            if theirs.network == network {
                return;
            }
        }
        events.push_back(Event::NetworkUp {
            peer,
            network: network.clone(),
        });
        for ours in self.local.values() {
            other_name(peer, &network, ours, events);
        }
        if let Some(ours) = self.local.get(&network.vni) {
            overlap((peer, &network), (Holder::Local, ours), events);
        }
        for (&other, theirs) in peers.iter().filter(|&(&other, _)| other != peer) {
            overlap(
                (peer, &network),
                (Holder::Peer(other), &theirs.network),
                events,
            );
        }
        peers.insert(peer, Theirs { network, round });
    }

    /// Takes a network of a peer back.
    pub(super) fn remove(&mut self, peer: PeerId, vni: Vni, events: &mut VecDeque<Event>) {
        self.keep(peer, events, |theirs, _| theirs.vni != vni);
    }

    /// Takes networks of a peer back that were not told in this round.
    pub(super) fn end_round(&mut self, peer: PeerId, round: u16, events: &mut VecDeque<Event>) {
        self.keep(peer, events, |_, told| told == round);
    }

    /// Takes networks of a peer back that do not pass.
    pub(super) fn keep(
        &mut self,
        peer: PeerId,
        events: &mut VecDeque<Event>,
        keep: impl Fn(&Network, u16) -> bool,
    ) {
        self.theirs.retain(|&vni, peers| {
            let gone = peers.get(&peer).is_some_and(|t| !keep(&t.network, t.round));
            if gone {
                peers.remove(&peer);
                events.push_back(Event::NetworkDown { peer, vni });
            }
            !peers.is_empty()
        });
    }

    /// The peers on a network.
    pub(super) fn peers(&self, vni: Vni) -> impl Iterator<Item = (PeerId, &Network)> {
        let peers = self.theirs.get(&vni);
        peers
            .into_iter()
            .flatten()
            .map(|(&peer, theirs)| (peer, &theirs.network))
    }
}

fn other_name(peer: PeerId, theirs: &Network, ours: &Network, events: &mut VecDeque<Event>) {
    if (theirs.vni == ours.vni) != (theirs.name == ours.name) {
        events.push_back(Event::OtherNetwork {
            peer,
            theirs: theirs.clone(),
            ours: (ours.vni, ours.name.clone()),
        });
    }
}

fn overlap(
    (peer, theirs): (PeerId, &Network),
    (with, others): (Holder, &Network),
    events: &mut VecDeque<Event>,
) {
    let pairs = theirs
        .ranges
        .iter()
        .flat_map(|&a| others.ranges.iter().map(move |&b| (a, b)));
    if let Some((range, other)) = pairs.into_iter().find(|(a, b)| a.overlaps(*b)) {
        events.push_back(Event::Overlap {
            peer,
            vni: theirs.vni,
            range,
            with,
            other,
        });
    }
}
