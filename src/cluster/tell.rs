//! What peers have announced, for the workers, and what is wrong with it, for users.

use std::collections::BTreeMap;
use std::sync::Arc;

use switch_core::addr::{Mac, PeerId, Vni};
use switch_core::l2::snoop::Wants;
use switch_core::time::Tick;
use switch_core::tunnel::announce::{Allowed, Event, Holder, Refusal, Subject};
use switch_core::tunnel::control::prefix::{Prefix, Range};

use super::command::{Lane, Overlay};
use super::install::Change;
use super::member::About;
use super::run::Run;

impl Run {
    /// Takes what the announcer tells.
    pub(super) fn hear_announcer(&mut self, _now: Tick) {
        while let Some(event) = self.announcer.poll_event() {
            match event {
                Event::Up { peer, endpoint } | Event::Changed { peer, endpoint } => {
                    self.endpoint_changed(peer, endpoint.vni, endpoint.mac);
                    self.watch.seen(&endpoint);
                    let lane = self
                        .members
                        .get(&peer)
                        .and_then(|m| m.lanes.get(&endpoint.vni));
                    if let Some(lane) = lane {
                        self.changes.push(Change::Up {
                            slot: lane.slot,
                            port: lane.port,
                            endpoint,
                        });
                    }
                }
                Event::Down { peer, vni, mac } => {
                    self.endpoint_changed(peer, vni, mac);
                    self.watch.lost(vni, mac);
                    let lane = self.members.get(&peer).and_then(|m| m.lanes.get(&vni));
                    if let Some(lane) = lane {
                        let (slot, port) = (lane.slot, lane.port);
                        self.changes.push(Change::Down { slot, port, mac });
                    }
                }
                Event::Conflict {
                    peer,
                    vni,
                    mac,
                    over,
                    holder,
                } => {
                    let (on, whose) = (self.network(vni), self.whose(holder));
                    let problem =
                        format!("its endpoint {mac} on {on} asks for {over}, which is {whose}");
                    self.complain(peer, About::Endpoint(vni, mac), problem);
                }
                Event::Refused {
                    peer,
                    why,
                    what,
                    allowed,
                } => {
                    let problem = self.refused(why, what, allowed.as_ref());
                    self.complain(peer, About::Rules, problem);
                }
                Event::Overlap {
                    peer,
                    vni,
                    range,
                    with,
                    other,
                } => {
                    let (on, whose) = (self.network(vni), self.whose(with));
                    let problem = format!("it hands out {range} on {on}, and {other} is {whose}");
                    self.complain(peer, About::Networks(vni, vni), problem);
                }
                Event::OtherNetwork { peer, theirs, ours } => {
                    let problem = format!(
                        "its network '{}' has number {}, and '{}' has number {} here",
                        theirs.name, theirs.vni, ours.1, ours.0
                    );
                    self.complain(peer, About::Networks(theirs.vni, ours.0), problem);
                }
                Event::SameName {
                    holder: Holder::Peer(peer),
                    vni,
                    mac,
                    name,
                    other,
                } => {
                    let (on, whose) = (self.network(vni), self.whose(other));
                    let problem = format!("its name '{name}' on {on} is also {whose}");
                    self.complain(peer, About::Endpoint(vni, mac), problem);
                }
                Event::Wants { peer, vni, wants } => self.tell_wants(peer, vni, wants),
                Event::NetworkUp { peer, network } => self.network_changed(peer, network.vni),
                Event::NetworkDown { peer, vni } => self.network_changed(peer, vni),
                Event::SameName { .. } | Event::Host { .. } | Event::Complete { .. } => {}
            }
        }
    }

    /// Tells the switch of a network what a peer wants of multicast.
    fn tell_wants(&mut self, peer: PeerId, vni: Vni, wants: Arc<Wants>) {
        let lane = self.members.get(&peer).and_then(|m| m.lanes.get(&vni));
        let Some(&Lane { slot, port, .. }) = lane else {
            return;
        };
        // Of what it wants only the last counts.
        self.changes
            .retain(|c| !matches!(c, Change::Wants { port: of, .. } if *of == port));
        self.changes.push(Change::Wants { slot, port, wants });
    }

    /// What was wrong with a network of a peer may be over: if not it is told behind this.
    fn network_changed(&mut self, peer: PeerId, vni: Vni) {
        if let Some(member) = self.members.get_mut(&peer) {
            member.settle(|about| matches!(about, About::Networks(theirs, _) if theirs == vni));
        }
    }

    /// What was wrong with an endpoint of a peer is over.
    fn endpoint_changed(&mut self, peer: PeerId, vni: Vni, mac: Mac) {
        if let Some(member) = self.members.get_mut(&peer) {
            member.settle(|about| about == About::Endpoint(vni, mac));
        }
    }

    fn refused(&self, why: Refusal, what: Subject, allowed: Option<&Allowed>) -> String {
        let on = what.vni().map(|vni| self.network(vni)).unwrap_or_default();
        let may = allowed.map(in_words).unwrap_or_default();
        let why = why.name();
        match what {
            Subject::Message => format!("something that it announces is refused: {why}"),
            Subject::Network(_) => format!("it announces {on}, which is refused: {why}"),
            Subject::Range(_, range) => {
                format!("it hands out {range} on {on}, which is refused: {why}, it may have {may}")
            }
            Subject::Endpoint(_, mac) => {
                format!("it announces endpoint {mac} on {on}, which is refused: {why}")
            }
            Subject::Address(_, mac, addr) => format!(
                "its endpoint {mac} on {on} asks for {addr}, which is refused: {why}, it may have {may}"
            ),
        }
    }

    fn network(&self, vni: Vni) -> String {
        named(&self.overlays, vni)
    }

    fn whose(&self, holder: Holder) -> String {
        match holder {
            Holder::Local => "this host's".to_owned(),
            Holder::Peer(peer) => match self.members.get(&peer) {
                Some(member) => format!("that of peer '{}'", member.asked.name),
                None => "another peer's".to_owned(),
            },
        }
    }

    /// Tells the switches of all endpoints of a peer, on ways that may be new.
    pub(super) fn tell_all(&mut self, peer: PeerId) {
        self.watch.all();
        let Some(member) = self.members.get(&peer) else {
            return;
        };
        for (&vni, lane) in &member.lanes {
            self.changes.push(Change::Wants {
                slot: lane.slot,
                port: lane.port,
                wants: self.announcer.wants(peer, vni),
            });
        }
        let endpoints = self.announcer.endpoints(Holder::Peer(peer));
        for endpoint in endpoints {
            if let Some(lane) = member.lanes.get(&endpoint.vni) {
                self.changes.push(Change::Up {
                    slot: lane.slot,
                    port: lane.port,
                    endpoint,
                });
            }
        }
    }
}

/// A network, as users know it.
pub(super) fn named(overlays: &BTreeMap<Vni, Overlay>, vni: Vni) -> String {
    match overlays.get(&vni) {
        Some(overlay) => format!("network '{}'", overlay.network.name),
        None => format!("network {vni}"),
    }
}

/// What a peer may have on a network.
fn in_words(allowed: &Allowed) -> String {
    let may: Vec<String> = allowed.prefixes.iter().map(Prefix::to_string).collect();
    let not: Vec<String> = allowed.except.iter().map(Range::to_string).collect();
    match (may.is_empty(), not.is_empty()) {
        (true, _) => "no address".to_owned(),
        (false, true) => may.join(", "),
        (false, false) => format!("{} without {}", may.join(", "), not.join(", ")),
    }
}
