//! Datagrams that are no data: checked in the order of what that costs.

use core::net::SocketAddr;

use super::cookie;
use super::data;
use super::event::Event;
use super::load::{Admit, COOKIE_AGE};
use super::node::Node;
use super::noise::{self, Hello, HelloError};
use super::peer::{Attempt, Peer, Session};
use super::refuse::Refusal;
use super::shared::Shared;
use super::times::{ANSWER_GAP, FIRST_WAIT, LONG_WAIT, LOOK_BUSY, QUIET, STRAY_GAP};
use super::wire::{self, Message, RESPONSE, RESPONSE_LEN};
use crate::addr::PeerId;
use crate::time::Tick;

impl Node {
    /// Takes a datagram that no worker could open: a message of a handshake, or data under a key that is not.
    pub fn handle_datagram(&mut self, now: Tick, from: SocketAddr, bytes: &[u8]) {
        let now = self.tick(now);
        let result = match bytes {
            [wire::INITIATION, ..] => self.initiation(now, from, bytes),
            [RESPONSE, ..] => self.response(now, from, bytes),
            [wire::COOKIE, ..] => self.cookie_reply(now, bytes),
            [data::DATA, ..] => self.stray(now, from, bytes),
            _ => Err(Refusal::Malformed),
        };
        if let Err(reason) = result {
            self.shared.refusals.count(reason);
        }
    }

    /// Takes notice that a worker opened a datagram of `peer` under its key `index`, which came `from` there. To be
    /// called for the first datagram of a key, and for each newest one that comes from another address than the last.
    pub fn heard(&mut self, now: Tick, peer: PeerId, index: u32, from: SocketAddr) {
        let now = self.tick(now);
        let Some(found) = self.peers.get_mut(&peer) else {
            return;
        };
        found.heard_from(now, index, from, &mut self.shared);
        self.drive(now, peer);
    }

    fn initiation(&mut self, now: Tick, from: SocketAddr, bytes: &[u8]) -> Result<(), Refusal> {
        let (message, proof) = wire::initiation(bytes).ok_or(Refusal::Malformed)?;
        let shared = &mut self.shared;
        let known = shared
            .secrets
            .get(&message.second)
            .ok_or(Refusal::UnknownNetwork)?;
        if !known.mac.verify(&[message.before_mac1], message.mac1) {
            return Err(Refusal::BadMac);
        }
        let invite = known.invite;
        match shared.load.admit(now, from, proof, &mut *shared.random) {
            Admit::Yes => {}
            Admit::No => return Err(Refusal::Busy),
            Admit::Prove => {
                shared.ask_for_cookie(now, from, &message);
                return Err(Refusal::CookieAsked);
            }
        }
        let hello = shared
            .identity
            .hear(
                message.suite,
                message.head,
                message.noise,
                invite.is_some(),
                &mut *shared.random,
            )
            .map_err(|error| match error {
                HelloError::Stranger => Refusal::Stranger,
                HelloError::Forged => Refusal::Forged,
            })?;
        let Some(&id) = self.by_key.get(&hello.key) else {
            let invite = invite.ok_or(Refusal::Stranger)?;
            shared.events.push_back(Event::Introduced {
                invite,
                key: hello.key,
                from,
            });
            return Ok(());
        };
        let peer = self.peers.get_mut(&id).ok_or(Refusal::Stranger)?;
        let result = peer.answer(now, from, &message, hello, shared);
        self.drive(now, id);
        result
    }

    fn response(&mut self, now: Tick, from: SocketAddr, bytes: &[u8]) -> Result<(), Refusal> {
        let message = wire::response(bytes).ok_or(Refusal::Malformed)?;
        let shared = &mut self.shared;
        let id = *shared
            .indices
            .get(&message.second)
            .ok_or(Refusal::UnknownIndex)?;
        let peer = self.peers.get_mut(&id).ok_or(Refusal::UnknownIndex)?;
        let result = peer.complete(now, from, &message, shared);
        self.drive(now, id);
        result
    }

    fn cookie_reply(&mut self, now: Tick, bytes: &[u8]) -> Result<(), Refusal> {
        let reply = wire::cookie_reply(bytes).ok_or(Refusal::Malformed)?;
        let id = *self
            .shared
            .indices
            .get(&reply.receiver)
            .ok_or(Refusal::UnknownIndex)?;
        let peer = self.peers.get_mut(&id).ok_or(Refusal::UnknownIndex)?;
        peer.take_cookie(now, &reply, &self.shared)?;
        self.drive(now, id);
        Ok(())
    }

    /// Data under a key that is not. If it comes from where a peer is, that peer holds a session that this host has
    /// forgotten, as after a restart or a long sleep, and a handshake tells it so at once. Anyone can forge this, so
    /// nothing but one initiation to the peer's own address follows, and not often.
    fn stray(&mut self, now: Tick, from: SocketAddr, bytes: &[u8]) -> Result<(), Refusal> {
        let index = data::receiver(bytes).ok_or(Refusal::Malformed)?;
        if self.shared.indices.contains_key(&index) {
            // Its key is on its way to the worker.
            return Ok(());
        }
        if now >= self.strays {
            self.strays = now + STRAY_GAP;
            let there = |peer: &&Peer| peer.endpoint == Some(from);
            let found = self.peers.values().find(there).map(|peer| peer.id);
            if let Some(peer) = found.and_then(|id| self.peers.get_mut(&id)) {
                let id = peer.id;
                peer.hurry(now);
                self.drive(now, id);
            }
        }
        Err(Refusal::UnknownIndex)
    }
}

impl Shared {
    fn ask_for_cookie(&mut self, now: Tick, from: SocketAddr, message: &Message<'_>) {
        let cookie = self.load.cookie(now, from, &mut *self.random);
        let Some(known) = self.secrets.get(&message.second) else {
            return;
        };
        let public = self.identity.public();
        let asked = (message.sender, message.mac1);
        let reply = cookie::write(&known.secret, &public, asked, cookie, &mut *self.random);
        if let Some(reply) = reply {
            self.transmit(from, reply);
        }
    }
}

impl Peer {
    /// Answers message 1, which authenticated as this peer's.
    fn answer(
        &mut self,
        now: Tick,
        from: SocketAddr,
        message: &Message<'_>,
        hello: Hello,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        if !self.hints.contains(&message.second) {
            return Err(Refusal::WrongNetwork);
        }
        let (last, at) = self.answered.unwrap_or((0, Tick::ZERO));
        let since = now.since(at);
        // One that nobody has confirmed may be an old one that somebody kept. It must not be undone by an older one
        // while its confirmation is on the way; but if it outlived that, a host whose clock went back would be locked out.
        let unconfirmed = if since < LONG_WAIT { last } else { 0 };
        if hello.stamp <= self.stamp.max(unconfirmed) {
            self.heal(now, from, shared);
            return Err(Refusal::StaleStamp);
        }
        if self.answered.is_some() && since < ANSWER_GAP {
            return Err(Refusal::TooOften);
        }
        self.answered = Some((hello.stamp, now));
        let index = shared.new_index(self.id).ok_or(Refusal::TableFull)?;
        let made = hello.respond().and_then(|(noise, split)| {
            let indices = (index, message.sender);
            let (session, key) = Session::new(now, message.suite, &split, indices, false)?;
            Some((noise, session, key))
        });
        let secret = shared.secrets.get(&message.second);
        let (Some((noise, session, key)), Some(known)) = (made, secret) else {
            shared.indices.remove(&index);
            return Err(Refusal::Forged);
        };
        let mut datagram = Vec::with_capacity(RESPONSE_LEN);
        datagram.extend(wire::head(RESPONSE, message.suite, index, message.sender));
        datagram.extend(noise);
        let mac1 = known.secret.mac_key(&self.key).sign(&[&datagram]);
        datagram.extend(mac1);
        if let Some(unused) = self.next.replace(session) {
            shared.close(self.id, &unused);
        }
        shared.events.push_back(Event::Receive {
            peer: self.id,
            key: Box::new(key),
        });
        shared.transmit(from, datagram);
        if self.look == Tick::NEVER {
            self.look = now + LOOK_BUSY;
        }
        // Both have begun: the one with the lower key gives way, and tries again only if nothing comes of it. The
        // other answers too, because it cannot know whether its own message arrived.
        if self.pending.is_some() && shared.identity.public() < self.key {
            self.drop_pending(shared);
            if let Some(attempt) = &mut self.attempt {
                let wait = FIRST_WAIT * 2;
                attempt.next = attempt.next.max(now + wait + shared.jitter(wait));
            }
        }
        Ok(())
    }

    /// A peer showed a stamp that does not grow: its clock went back while it was down, or this is a replay. If it was
    /// not heard just now, a handshake the other way round settles it. A replay gains one initiation from it, to the
    /// peer's own address where that is known.
    fn heal(&mut self, now: Tick, from: SocketAddr, shared: &mut Shared) {
        let asked = self
            .pending
            .as_ref()
            .map(|pending| pending.sent)
            .max(self.healed);
        if !self.heard_within(now, QUIET) && asked.is_none_or(|at| now.since(at) >= LONG_WAIT) {
            self.healed = Some(now);
            self.initiate(now, self.endpoint.unwrap_or(from), 0, shared);
        }
    }

    /// Takes message 2: the session is there, and this side may send on it.
    fn complete(
        &mut self,
        now: Tick,
        from: SocketAddr,
        message: &Message<'_>,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let pending = self.pending.as_mut().ok_or(Refusal::UnknownIndex)?;
        if pending.index != message.second {
            return Err(Refusal::UnknownIndex);
        }
        if pending.suite != message.suite {
            return Err(Refusal::Malformed);
        }
        let known = shared
            .secrets
            .get(&pending.hint)
            .ok_or(Refusal::UnknownNetwork)?;
        if !known.mac.verify(&[message.before_mac1], message.mac1) {
            return Err(Refusal::BadMac);
        }
        if !shared.load.admit_response(now) {
            return Err(Refusal::Busy);
        }
        let split = noise::complete(&mut pending.state, message.noise).ok_or(Refusal::Forged)?;
        let indices = (pending.index, message.sender);
        let (session, key) =
            Session::new(now, message.suite, &split, indices, true).ok_or(Refusal::Forged)?;
        self.rtt = Some(now.since(pending.sent));
        // Its index lives on in the session.
        self.pending = None;
        self.endpoint = Some(from);
        shared.events.push_back(Event::Receive {
            peer: self.id,
            key: Box::new(key),
        });
        self.promote(now, session, shared);
        self.keep_alive(now, shared);
        Ok(())
    }

    fn take_cookie(
        &mut self,
        now: Tick,
        reply: &wire::CookieReply<'_>,
        shared: &Shared,
    ) -> Result<(), Refusal> {
        let pending = self.pending.as_ref().ok_or(Refusal::UnknownIndex)?;
        let known = shared.secrets.get(&pending.hint);
        let cookie = (pending.index == reply.receiver)
            .then_some(known)
            .flatten()
            .and_then(|known| cookie::read(&known.secret, &self.key, &pending.mac1, reply))
            .ok_or(Refusal::BadCookie)?;
        let before = self.cookie.replace((cookie, now + COOKIE_AGE));
        // At once with the first one; a host that goes on asking is met with patience.
        let fresh = before.is_none_or(|(_, until)| now >= until);
        if let Some(attempt) = self.attempt.as_mut().filter(|_| fresh) {
            attempt.next = now;
        }
        Ok(())
    }

    /// Tries a handshake now, where nothing was heard for a while and none was tried just now.
    fn hurry(&mut self, now: Tick) {
        let tried = self.pending.as_ref().map(|pending| pending.sent);
        if self.heard_within(now, QUIET) || tried.is_some_and(|at| now.since(at) < QUIET) {
            return;
        }
        let attempt = self.attempt.get_or_insert(Attempt {
            since: now,
            tries: 0,
            next: now,
        });
        attempt.next = now;
    }

    /// An authenticated datagram came on the session `index`, from there.
    fn heard_from(&mut self, now: Tick, index: u32, from: SocketAddr, shared: &mut Shared) {
        let is = |session: &Option<Session>| session.as_ref().is_some_and(|s| s.index == index);
        if is(&self.next) {
            self.endpoint = Some(from);
            self.confirm(now, shared);
        } else if is(&self.current) || is(&self.previous) {
            if let Some(current) = self.current.as_mut().filter(|s| s.index == index) {
                current.confirmed = true;
            }
            self.alive(now, shared);
            if self.endpoint != Some(from) {
                self.endpoint = Some(from);
                if self.current.is_some() {
                    shared.events.push_back(Event::Roamed {
                        peer: self.id,
                        to: from,
                    });
                }
            }
        }
    }

    /// The session that was answered is heard on: from now on it is the one.
    pub(super) fn confirm(&mut self, now: Tick, shared: &mut Shared) {
        if let Some(mut session) = self.next.take() {
            session.confirmed = true;
            let (stamp, _) = self.answered.unwrap_or_default();
            self.stamp = self.stamp.max(stamp);
            self.promote(now, session, shared);
            // Tells the initiator that it need not repeat its confirmation.
            self.keep_alive(now, shared);
        }
    }
}
