//! What peers have announced, for the workers, and what is wrong with it, for users.

use std::sync::Arc;

use switch_core::addr::{PeerId, Vni};
use switch_core::l2::snoop::Wants;
use switch_core::time::Tick;
use switch_core::tunnel::announce::{Event, Holder};

use super::command::Lane;
use super::install::Change;
use super::run::Run;

impl Run {
    /// Takes what the announcer tells.
    pub(super) fn hear_announcer(&mut self, _now: Tick) {
        while let Some(event) = self.announcer.poll_event() {
            match event {
                Event::Up { peer, endpoint } | Event::Changed { peer, endpoint } => {
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
                    let whose = self.whose(holder);
                    self.complain(
                        peer,
                        format!(
                            "its endpoint {mac} on network {vni} asks for {over}, which is {whose}"
                        ),
                    );
                }
                Event::Refused {
                    peer,
                    why,
                    endpoint,
                } => {
                    let what = endpoint.map_or_else(
                        || "a network".to_owned(),
                        |(vni, mac)| format!("endpoint {mac} on network {vni}"),
                    );
                    self.complain(
                        peer,
                        format!("it announces {what}, which is refused: {}", why.name()),
                    );
                }
                Event::Overlap {
                    peer,
                    vni,
                    range,
                    with,
                    other,
                } => {
                    let whose = self.whose(with);
                    self.complain(
                        peer,
                        format!("it hands out {range} on network {vni}, and {other} is {whose}"),
                    );
                }
                Event::OtherNetwork { peer, theirs, ours } => {
                    self.complain(
                        peer,
                        format!(
                            "its network '{}' has number {}, and '{}' has number {} here",
                            theirs.name, theirs.vni, ours.1, ours.0
                        ),
                    );
                }
                Event::SameName {
                    holder,
                    vni,
                    name,
                    other,
                    ..
                } => {
                    let whose = self.whose(other);
                    if let Holder::Peer(peer) = holder {
                        self.complain(
                            peer,
                            format!("its name '{name}' on network {vni} is also {whose}"),
                        );
                    }
                }
                Event::Wants { peer, vni, wants } => self.tell_wants(peer, vni, wants),
                Event::NetworkUp { .. }
                | Event::NetworkDown { .. }
                | Event::Host { .. }
                | Event::Complete { .. } => {}
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

    fn whose(&self, holder: Holder) -> String {
        match holder {
            Holder::Local => "this host's".to_owned(),
            Holder::Peer(PeerId(number)) => format!("that of peer {number}"),
        }
    }

    /// Tells the switches of all endpoints of a peer, on ways that may be new.
    pub(super) fn tell_all(&mut self, peer: PeerId) {
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
