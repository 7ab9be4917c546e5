//! `[7]` Announcements: which endpoints and networks each host has, told to every peer that may know of them, and what
//! peers tell, checked. Neighbours: `control`, which writes and reads the messages; the seal, which carries them.
//!
//! A peer is told the log of this host (`log`) in a stream of numbered messages: from its beginning when the peer
//! is there anew, and what changes from then on. Acks are cumulative and name what came early; what is lost is written
//! again (`outbound`). A stream that is complete replaces all that an earlier one has told, so nothing that was
//! missed stays wrong (`inbound`). A peer may announce what its rules allow. Who asks for a MAC or an address that
//! another endpoint has waits for it (`table`); of hosts that are connected all come to the same once what they
//! announce does not contradict itself.
//!
//! What a peer can cost: endpoints as many as its rules say; a window of messages that came early; a number of records
//! per second, beyond which its messages count as lost; events of conflicts, of which so many are told a minute.
//! A peer that never answers costs a window of stretches of the log, and one message every ten seconds.

mod bucket;
mod event;
mod groups;
mod hear;
mod inbound;
mod log;
mod networks;
mod outbound;
mod peer;
mod rules;
mod show;
mod table;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::log::{Key, Log};
use self::networks::Networks;
use self::peer::Peer;
use self::table::Table;
use crate::addr::{Mac, PeerId, Vni};
use crate::time::Tick;
use crate::tunnel::control::record::{
    Announced, EndpointView, Network, RecordError, host as host_record,
};
use crate::tunnel::control::{Message, Stream};

pub use self::event::{Event, Refusal, Subject};
pub use self::peer::PeerStats;
pub use self::rules::{Allowed, Rules};
pub use self::table::{Contested, Holder};

/// Bytes of a record before its body.
const RECORD_HEAD: usize = 3;

/// What peers may cost in all.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Endpoints of all hosts, this one's among them.
    pub endpoints: usize,
    /// Records that one peer may send in a second, and twice as many at once.
    pub records_per_second: u32,
    /// Messages that came early and are kept, of all peers. Units: messages of at most 1,200 bytes.
    pub early: usize,
    /// How long the endpoints of a peer that is gone stay.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            endpoints: 100_000,
            records_per_second: 20_000,
            early: 4_096,
            grace: Duration::from_secs(15),
        }
    }
}

/// Why an endpoint or a network of this host is not announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It says what cannot be announced.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another endpoint of this host has it.
    #[error("{0} is another endpoint's on this host")]
    Taken(Contested),
    /// There are as many endpoints as there may be.
    #[error("there are as many endpoints as there may be")]
    Full,
}

/// Why an endpoint of a peer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It says what no endpoint may say.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It is refused, or the peer is not known.
    #[error("{}", .0.name())]
    Refused(Refusal),
}

/// Announcements to and from every peer.
#[derive(Debug)]
pub struct Announcer {
    /// The start of this host, as the peer that was added last is told.
    start: u64,
    /// Streams so far.
    streams: u32,
    limits: Limits,
    log: Log,
    table: Table,
    networks: Networks,
    peers: BTreeMap<PeerId, Peer>,
    /// Peers that something may be sent to.
    ready: VecDeque<PeerId>,
    deadlines: BTreeSet<(Tick, PeerId)>,
    events: VecDeque<Event>,
    /// Messages that came early and are kept.
    early: usize,
}

impl Announcer {
    /// Makes one that knows nothing yet. `start` is drawn at random at each start of the host. Errors: `Name` for a
    /// name of the host that cannot be announced.
    pub fn new(host: &str, start: u64, limits: Limits) -> Result<Self, RecordError> {
        let mut log = Log::default();
        log.set(Key::Host, host_record(host)?);
        Ok(Self {
            start,
            streams: 0,
            limits,
            log,
            table: Table::new(),
            networks: Networks::default(),
            peers: BTreeMap::new(),
            ready: VecDeque::new(),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
            early: 0,
        })
    }

    /// Announces an endpoint of this host, in place of the one with its network and MAC. Endpoints of peers that have
    /// what it asks for are down from now on. Errors: see [`JoinError`]; then nothing has changed.
    pub fn join(&mut self, now: Tick, endpoint: &Announced) -> Result<(), JoinError> {
        let record = endpoint.record()?;
        let view = record.get(RECORD_HEAD..).and_then(EndpointView::check);
        let view = view.ok_or(RecordError::Names)?;
        let known = self.table.by_mac(view.vni(), view.mac());
        if self.table.len() >= self.limits.endpoints
            && known.is_none_or(|(holder, _)| holder != Holder::Local)
        {
            return Err(JoinError::Full);
        }
        let mut changes = Vec::new();
        let put = self.table.put_local(view, &mut changes);
        put.map_err(JoinError::Taken)?;
        self.tell(now, changes);
        if self
            .log
            .set(Key::Endpoint(endpoint.vni, endpoint.mac), record)
        {
            self.wake(Some(endpoint.vni));
        }
        Ok(())
    }

    /// Takes an endpoint of this host back. One that is not announced is no error.
    pub fn leave(&mut self, now: Tick, vni: Vni, mac: Mac) {
        let mut changes = Vec::new();
        self.table.remove(Holder::Local, vni, mac, &mut changes);
        self.tell(now, changes);
        self.clear(now, Key::Endpoint(vni, mac));
    }

    /// Announces that this host is on a network. Errors: `Name`.
    pub fn set_network(&mut self, network: &Network) -> Result<(), RecordError> {
        let record = network.record()?;
        self.networks.set_local(network, &mut self.events);
        if self.log.set(Key::Network(network.vni), record) {
            self.wake(Some(network.vni));
        }
        Ok(())
    }

    /// Takes a network of this host back; its endpoints are taken back apart.
    pub fn remove_network(&mut self, now: Tick, vni: Vni) {
        self.networks.remove_local(vni);
        self.clear(now, Key::Network(vni));
        self.clear(now, Key::Groups(vni));
    }

    /// Adds a peer, or sets other rules for one. What it may no longer have goes at once; what it may have now it is
    /// asked for.
    pub fn set_peer(&mut self, now: Tick, id: PeerId, mut rules: Rules) {
        rules.networks.sort_by_key(|a| a.vni);
        let Some(peer) = self.peers.get_mut(&id) else {
            // To a peer that was here before this host has started anew: it knows nothing of what that one has told.
            self.start = self.start.wrapping_add(1);
            let peer = Peer::new(now, self.start, rules, self.limits.records_per_second);
            self.peers.insert(id, peer);
            return;
        };
        if peer.rules == rules {
            return;
        }
        peer.set_rules(now, rules);
        let mut changes = Vec::new();
        let rules = &peer.rules;
        self.table.keep(Holder::Peer(id), &mut changes, |view| {
            rules.allow_whole(view)
        });
        self.networks
            .keep(id, &mut self.events, |vni, _| rules.on(vni).is_some());
        let open = peer.out.is_open();
        self.tell(now, changes);
        if open {
            self.begin(now, id);
        }
        self.touch(id);
    }

    /// Takes a peer out, with all that it has announced.
    pub fn remove_peer(&mut self, now: Tick, id: PeerId) {
        self.forget(now, id);
        if let Some(peer) = self.peers.remove(&id) {
            self.deadlines.remove(&(peer.deadline, id));
        }
    }

    /// A peer can be reached, for the first time or again: it is told everything.
    pub fn connected(&mut self, now: Tick, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.grace = Tick::NEVER;
            self.begin(now, id);
        }
    }

    /// A peer cannot be reached any more. What it has announced stays for the time of grace.
    pub fn lost(&mut self, now: Tick, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.out.stop();
            if peer.grace == Tick::NEVER {
                peer.grace = now + self.limits.grace;
            }
            self.touch(id);
        }
    }

    /// Gives a peer an endpoint that it has not announced itself, as another source says; checked as if it had. What the
    /// peer then announces as all that it has replaces it. Errors: why it is refused, or what it says wrongly.
    pub fn place(&mut self, now: Tick, id: PeerId, endpoint: &Announced) -> Result<(), PlaceError> {
        let record = endpoint.record()?;
        let view = record.get(RECORD_HEAD..).and_then(EndpointView::check);
        let view = view.ok_or(RecordError::Names)?;
        let mut changes = Vec::new();
        let taken = self.take_endpoint(id, view, &mut changes);
        self.tell(now, changes);
        taken.map_err(PlaceError::Refused)
    }

    /// Takes an endpoint from a peer that it has not taken back itself. One that it does not have is no error.
    pub fn take_back(&mut self, now: Tick, id: PeerId, vni: Vni, mac: Mac) {
        let mut changes = Vec::new();
        self.table.remove(Holder::Peer(id), vni, mac, &mut changes);
        self.tell(now, changes);
    }

    /// Takes a message that the seal has proven to be the peer's. False if it is none of announcements.
    pub fn handle_message(&mut self, now: Tick, id: PeerId, message: &Message<'_>) -> bool {
        match message {
            Message::Announce(announce) => self.hear(now, id, announce),
            Message::Ack(ack) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    if peer.out.acked(now, ack) {
                        self.begin(now, id);
                    }
                    self.touch(id);
                    self.shed(now);
                }
            }
            Message::Probe(_)
            | Message::ProbeAck(_)
            | Message::Ping(_)
            | Message::Pong(_)
            | Message::KeepAlive => return false,
        }
        true
    }

    /// Writes the next message and says whom it is for. Shape: `out` is cleared first; a message is at most
    /// [`super::control::MAX_ANNOUNCE`] bytes.
    pub fn poll_transmit(&mut self, now: Tick, out: &mut Vec<u8>) -> Option<PeerId> {
        out.clear();
        while let Some(&id) = self.ready.front() {
            if let Some(peer) = self.peers.get_mut(&id) {
                if let Some(ack) = peer.inb.poll() {
                    ack.write(out);
                    return Some(id);
                }
                let rules = &peer.rules;
                let tells = |vni| rules.on(vni).is_some();
                if peer.out.poll(now, &self.log, tells, out) {
                    self.rearm(id);
                    return Some(id);
                }
                peer.ready = false;
            }
            self.ready.pop_front();
            self.rearm(id);
        }
        None
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Takes notice of the time.
    pub fn handle_timeout(&mut self, now: Tick) {
        while let Some(&(at, id)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            peer.deadline = Tick::NEVER;
            peer.out.handle_timeout(now);
            peer.inb.handle_timeout(now);
            if peer.grace <= now {
                peer.grace = Tick::NEVER;
                self.forget(now, id);
            }
            self.touch(id);
        }
    }

    fn clear(&mut self, now: Tick, key: Key) {
        if self.log.clear(key) {
            self.wake(key.vni());
            self.shed(now);
        }
    }

    /// Begins a stream to a peer.
    fn begin(&mut self, now: Tick, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            self.streams = self.streams.wrapping_add(1);
            let stream = Stream {
                start: peer.start,
                count: self.streams,
            };
            peer.out.begin(now, stream, &self.log);
            self.touch(id);
        }
    }

    /// Something has changed that the peers on a network are to hear.
    fn wake(&mut self, vni: Option<Vni>) {
        for (&id, peer) in &mut self.peers {
            let concerns = vni.is_none_or(|vni| peer.rules.on(vni).is_some());
            if concerns && peer.out.is_open() && !core::mem::replace(&mut peer.ready, true) {
                self.ready.push_back(id);
            }
        }
    }

    /// There may be something to send to a peer.
    fn touch(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            if !core::mem::replace(&mut peer.ready, true) {
                self.ready.push_back(id);
            }
            self.rearm(id);
        }
    }

    fn rearm(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let next = peer.out.deadline().min(peer.inb.deadline()).min(peer.grace);
            if next != peer.deadline {
                self.deadlines.remove(&(peer.deadline, id));
                if next != Tick::NEVER {
                    self.deadlines.insert((next, id));
                }
                peer.deadline = next;
            }
        }
    }

    /// Forgets what everybody has heard, and begins anew with those who are too far behind to wait for.
    fn shed(&mut self, now: Tick) {
        if !self.log.is_heavy() {
            return;
        }
        for peer in self.peers.values_mut() {
            let rules = &peer.rules;
            peer.out.skip(&self.log, |vni| rules.on(vni).is_some());
        }
        let open = self.peers.values().filter(|p| p.out.is_open());
        let heard = open.map(|p| p.out.heard()).min();
        self.log.forget(heard.unwrap_or_else(|| self.log.head()));
        if self.log.is_heavy() {
            let behind = |p: &Peer| p.out.is_open() && p.out.heard() < self.log.head();
            let late: Vec<PeerId> = self
                .peers
                .iter()
                .filter(|(_, p)| behind(p))
                .map(|(&id, _)| id)
                .collect();
            self.log.forget(self.log.head());
            for id in late {
                self.begin(now, id);
            }
        }
    }
}
