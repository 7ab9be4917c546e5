//! `[7]` Who is on which network, under which name, and who hands out from where.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::event::Event;
use super::table::Holder;
use crate::addr::{PeerId, Vni};
use crate::l2::snoop::Wants;
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
    /// What of multicast is wanted, and the round in which it was told; where it is not all.
    wants: BTreeMap<(PeerId, Vni), (Arc<Wants>, u16)>,
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

    /// Sets what of a network's multicast a peer wants.
    pub(super) fn set_wants(
        &mut self,
        peer: PeerId,
        vni: Vni,
        wants: Wants,
        round: u16,
        events: &mut VecDeque<Event>,
    ) {
        if let Some((known, told)) = self.wants.get_mut(&(peer, vni))
            && **known == wants
        {
            *told = round;
            return;
        }
        let wants = Arc::new(wants);
        if *wants != Wants::default() {
            let told = (Arc::clone(&wants), round);
            self.wants.insert((peer, vni), told);
        } else if self.wants.remove(&(peer, vni)).is_none() {
            return;
        }
        events.push_back(Event::Wants { peer, vni, wants });
    }

    /// What of a network's multicast a peer wants.
    pub(super) fn wants(&self, peer: PeerId, vni: Vni) -> Arc<Wants> {
        let found = self.wants.get(&(peer, vni));
        found.map_or_else(Arc::default, |(wants, _)| Arc::clone(wants))
    }

    /// Takes a network of a peer back.
    pub(super) fn remove(&mut self, peer: PeerId, vni: Vni, events: &mut VecDeque<Event>) {
        self.keep(peer, events, |theirs, _| theirs != vni);
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
        keep: impl Fn(Vni, u16) -> bool,
    ) {
        self.theirs.retain(|&vni, peers| {
            let gone = peers.get(&peer).is_some_and(|t| !keep(vni, t.round));
            if gone {
                peers.remove(&peer);
                events.push_back(Event::NetworkDown { peer, vni });
            }
            !peers.is_empty()
        });
        let ends = [[0; 3], [u8::MAX; 3]].map(Vni::from_be_bytes);
        let [first, last] = ends.map(|vni| (peer, vni));
        let told = self.wants.range(first..=last);
        let gone = told.filter(|(key, (_, round))| !keep(key.1, *round));
        let gone: Vec<Vni> = gone.map(|(key, _)| key.1).collect();
        for vni in gone {
            self.set_wants(peer, vni, Wants::default(), 0, events);
        }
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
