//! `[7]` What a peer announces: put in order, checked against its rules, entered, and told.

use super::Announcer;
use super::event::{Event, Refusal, Subject};
use super::inbound::Arrival;
use super::table::{Change, Holder};
use crate::addr::{Mac, PeerId, Vni};
use crate::time::Tick;
use crate::tunnel::control::Announce;
use crate::tunnel::control::record::{EndpointView, Network, Record, Records};

/// Records that a network costs, which is compared with those of every peer.
const NETWORK_COST: u32 = 64;
/// Records that a list of groups costs, which every worker gets.
const GROUPS_COST: u32 = 64;
/// Records that a peer's new start costs, for which everything is told again.
const START_COST: u32 = 64;
/// Of a table that was full, so many hundredths are in use when those are asked who had to be left out.
const ROOM_AGAIN: usize = 90;

impl Announcer {
    /// Takes an announcement. One beyond the peer's rate is as if it were lost.
    pub(super) fn hear(&mut self, now: Tick, id: PeerId, message: &Announce<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let arrival = peer.inb.classify(message);
        if arrival == Arrival::Over {
            return self.refuse(id, Refusal::Over, Subject::Message);
        }
        // Every message costs, so that those which say nothing new are no way around.
        let restarted = arrival == Arrival::Begins && peer.inb.is_other_start(message.stream);
        let cost = match arrival {
            Arrival::Known | Arrival::Over => 1,
            Arrival::Begins | Arrival::Next | Arrival::Early => cost(message.records),
        };
        let cost = if restarted { cost + START_COST } else { cost };
        if !peer.records.take(now, cost) {
            return self.refuse(id, Refusal::Flood, Subject::Message);
        }
        match arrival {
            Arrival::Begins => {
                self.early -= peer.inb.begin(message.stream);
                peer.round = peer.round.wrapping_add(1);
                self.table.begin_round(Holder::Peer(id));
                self.take_in_order(now, id, message.records, message.complete);
            }
            Arrival::Next => self.take_in_order(now, id, message.records, message.complete),
            Arrival::Early if self.early < self.limits.early => {
                peer.inb.keep(message);
                self.early += 1;
            }
            Arrival::Early | Arrival::Known | Arrival::Over => {}
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.inb.answer(message.stream);
            // It knows nothing any more, and is not asked for it while there is no news.
            if restarted && peer.out.is_open() {
                self.begin(now, id);
            }
        }
        self.touch(id);
    }

    /// Takes the next message of a stream, and those behind it that came early.
    fn take_in_order(&mut self, now: Tick, id: PeerId, records: Records<'_>, complete: bool) {
        self.take(now, id, records, complete);
        loop {
            let kept = self.peers.get_mut(&id).and_then(|peer| {
                peer.inb.advance();
                peer.inb.take_kept()
            });
            let Some(kept) = kept else { return };
            self.early -= 1;
            if let Some(records) = Records::check(&kept.records) {
                self.take(now, id, records, kept.complete);
            }
        }
    }

    fn take(&mut self, now: Tick, id: PeerId, records: Records<'_>, complete: bool) {
        let mut changes = Vec::new();
        for record in records {
            match record {
                Record::Endpoint(view) => {
                    // Counted and told there.
                    let _ = self.take_endpoint(id, view, &mut changes);
                }
                Record::Gone(vni, mac) => {
                    self.table.remove(Holder::Peer(id), vni, mac, &mut changes);
                }
                Record::Network(network) => self.take_network(id, network),
                Record::NetworkGone(vni) => self.networks.remove(id, vni, &mut self.events),
                Record::Host(name) => self.take_host(id, name),
                Record::Groups(vni, wants) => self.take_groups(id, vni, wants),
            }
            // At once: a later record may take the row out again.
            self.tell(now, core::mem::take(&mut changes));
        }
        if complete {
            self.table.end_round(Holder::Peer(id), &mut changes);
            self.tell(now, changes);
            let round = self.peers.get(&id).map_or(0, |p| p.round);
            self.networks.end_round(id, round, &mut self.events);
            self.events.push_back(Event::Complete { peer: id });
        }
    }

    /// Errors: why it is refused, which is counted and told.
    pub(super) fn take_endpoint(
        &mut self,
        id: PeerId,
        view: EndpointView<'_>,
        changes: &mut Vec<Change>,
    ) -> Result<(), Refusal> {
        let (vni, mac) = (view.vni(), view.mac());
        let holder = Holder::Peer(id);
        let taken = self.may_have(id, view).and_then(|rest| {
            // Its other addresses are there without the one that may not be.
            let rest = rest.as_deref().map(EndpointView::checked);
            self.has_room(id, vni, mac)?;
            self.table.put(holder, rest.unwrap_or(view), changes);
            Ok(())
        });
        if let Err(why) = taken {
            // It may have been another before, and that it is no longer.
            self.table.remove(holder, vni, mac, changes);
            if why != Refusal::Address {
                self.refuse(id, why, Subject::Endpoint(vni, mac));
            }
        }
        taken
    }

    /// What is left of an endpoint's record without the addresses that it may not have; none where it may have all.
    /// Errors: `Network`; `Address` where none is left. An address that is refused is counted and told.
    fn may_have(
        &mut self,
        id: PeerId,
        view: EndpointView<'_>,
    ) -> Result<Option<Box<[u8]>>, Refusal> {
        let (vni, mac) = (view.vni(), view.mac());
        let on = self.peers.get(&id).and_then(|peer| peer.rules.on(vni));
        let on = on.ok_or(Refusal::Network)?;
        let Some(addr) = on.strange(view) else {
            return Ok(None);
        };
        let rest = on.rest(view);
        self.refuse(id, Refusal::Address, Subject::Address(vni, mac, addr));
        rest.ok_or(Refusal::Address).map(Some)
    }

    /// Errors: `TooMany`, `Full`.
    fn has_room(&mut self, id: PeerId, vni: Vni, mac: Mac) -> Result<(), Refusal> {
        let holder = Holder::Peer(id);
        let peer = self.peers.get_mut(&id).ok_or(Refusal::Network)?;
        let full = if self.table.count(holder) >= peer.rules.endpoints {
            Refusal::TooMany
        } else if self.table.len() >= self.limits.endpoints {
            Refusal::Full
        } else {
            return Ok(());
        };
        if self.table.has(holder, vni, mac) {
            return Ok(());
        }
        peer.missed = true;
        Err(full)
    }

    fn take_network(&mut self, id: PeerId, network: Network) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let vni = network.vni;
        let Some(allowed) = peer.rules.on(vni) else {
            return self.refuse(id, Refusal::Network, Subject::Network(vni));
        };
        if let Some(&range) = network.ranges.iter().find(|r| !allowed.covers(**r)) {
            return self.refuse(id, Refusal::Range, Subject::Range(vni, range));
        }
        self.networks.set(id, network, peer.round, &mut self.events);
    }

    fn take_host(&mut self, id: PeerId, name: &str) {
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.host.as_deref() != Some(name)
        {
            let name: Box<str> = name.into();
            peer.host = Some(name.clone());
            self.events.push_back(Event::Host { peer: id, name });
        }
    }

    /// Counts a refusal, and tells it the first time.
    pub(super) fn refuse(&mut self, id: PeerId, why: Refusal, what: Subject) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.refuse(why) {
            let allowed = what.vni().and_then(|vni| peer.rules.on(vni)).cloned();
            self.events.push_back(Event::Refused {
                peer: id,
                why,
                what,
                allowed,
            });
        }
    }

    /// Tells what became of endpoints.
    pub(super) fn tell(&mut self, now: Tick, changes: Vec<Change>) {
        let mut room = false;
        for change in changes {
            let owned = |at| self.table.view(at).map(EndpointView::to_owned);
            let event = match change {
                Change::Up(peer, at) => owned(at).map(|endpoint| Event::Up { peer, endpoint }),
                Change::Changed(peer, at) => {
                    owned(at).map(|endpoint| Event::Changed { peer, endpoint })
                }
                Change::Down(peer, vni, mac) => {
                    room = true;
                    Some(Event::Down { peer, vni, mac })
                }
                Change::Waits(peer, at, over, holder) => {
                    let view = self.table.view(at).map(|v| (v.vni(), v.mac()));
                    view.filter(|_| self.names(now, peer))
                        .map(|(vni, mac)| Event::Conflict {
                            peer,
                            vni,
                            mac,
                            over,
                            holder,
                        })
                }
                Change::Crowded(peer) => {
                    self.refuse(peer, Refusal::Crowded, Subject::Message);
                    None
                }
                Change::SameName(holder, at, other) => self.same_name(now, holder, at, other),
            };
            self.events.extend(event);
        }
        if room {
            self.ask_again(now);
        }
    }

    /// Counts a conflict of a peer. True if it is to be told.
    fn names(&mut self, now: Tick, id: PeerId) -> bool {
        self.peers.get_mut(&id).is_some_and(|peer| {
            peer.conflicts += 1;
            peer.named.take(now, 1)
        })
    }

    fn same_name(&mut self, now: Tick, holder: Holder, at: u32, other: Holder) -> Option<Event> {
        // A peer that has one name over and over is told of as often as others are.
        let ((Holder::Peer(peer), _) | (Holder::Local, Holder::Peer(peer))) = (holder, other)
        else {
            return None;
        };
        if !self.peers.get_mut(&peer)?.named.take(now, 1) {
            return None;
        }
        let view = self.table.view(at)?;
        Some(Event::SameName {
            holder,
            vni: view.vni(),
            mac: view.mac(),
            name: view.names().next()?.into(),
            other,
        })
    }

    /// Forgets what a peer has announced.
    pub(super) fn forget(&mut self, now: Tick, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            self.early -= peer.inb.reset();
            peer.missed = false;
        }
        let mut changes = Vec::new();
        self.table.remove_all(Holder::Peer(id), &mut changes);
        self.tell(now, changes);
        self.networks.keep(id, &mut self.events, |_, _| false);
    }

    /// There is room again: asks those who had to be left out.
    fn ask_again(&mut self, now: Tick) {
        let room =
            |used: usize, of: usize| used.saturating_mul(100) <= of.saturating_mul(ROOM_AGAIN);
        if !room(self.table.len(), self.limits.endpoints) {
            return;
        }
        let mut asked = Vec::new();
        for (&id, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.missed) {
            if room(self.table.count(Holder::Peer(id)), peer.rules.endpoints) {
                peer.missed = false;
                peer.inb.ask(now);
                asked.push(id);
            }
        }
        for id in asked {
            self.touch(id);
        }
    }
}

fn cost(records: Records<'_>) -> u32 {
    let each = |record| match record {
        Record::Network(_) => NETWORK_COST,
        Record::Groups(..) => GROUPS_COST,
        Record::Endpoint(_) | Record::Gone(..) | Record::NetworkGone(_) | Record::Host(_) => 1,
    };
    records.map(each).sum::<u32>().max(1)
}
