//! Time: what a node does when nobody says anything.

use core::mem;
use core::net::SocketAddr;
use core::time::Duration;

use super::event::Event;
use super::keys::{MAC_LEN, MacKey};
use super::node::Node;
use super::peer::{Attempt, Peer, Pending};
use super::shared::Shared;
use super::times::{
    ATTEMPT, DEAD_AFTER, DEMAND, FIRST_WAIT, LONG_WAIT, LOOK_BUSY, LOOK_IDLE, RECENT, REKEY_AFTER,
    REKEY_LATE, SLOW_WAIT,
};
use super::wire::{self, INITIATION, INITIATION_LEN};
use crate::addr::PeerId;
use crate::time::Tick;

impl Node {
    /// Does what is due. Time may have leapt by any amount, as for a host that slept.
    pub fn handle_timeout(&mut self, now: Tick) {
        let now = self.tick(now);
        while let Some(&(due, id)) = self.timers.first() {
            if due > now {
                break;
            }
            self.drive(now, id);
        }
    }

    /// Does what is due with a peer, and sets its timer.
    pub(super) fn drive(&mut self, now: Tick, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.drive(now, &mut self.shared);
        self.timers.remove(&(peer.due, id));
        // Never at once again: a caller that loops until nothing is due comes to an end.
        peer.due = peer.next_due().max(now + Duration::from_millis(1));
        if peer.due < Tick::NEVER {
            self.timers.insert((peer.due, id));
        }
    }
}

impl Peer {
    fn drive(&mut self, now: Tick, shared: &mut Shared) {
        self.expire(now, shared);
        if self.look <= now {
            self.look(now, shared);
        }
        if self.attempt.is_none() && self.wants_handshake(now) {
            // What the peer has begun, and this side has just answered, will most likely do.
            let answered = self.next.as_ref().map(|session| session.made);
            let next = match answered.map(|at| at + FIRST_WAIT * 2) {
                Some(at) if now < at => at + shared.jitter(FIRST_WAIT),
                _ => now,
            };
            self.attempt = Some(Attempt {
                since: now,
                tries: 0,
                next,
            });
        }
        if self.attempt.is_some_and(|attempt| attempt.next <= now) {
            self.attempt(now, shared);
        }
        self.judge(now, shared);
    }

    fn next_due(&self) -> Tick {
        let attempt = self.attempt.map_or(Tick::NEVER, |attempt| attempt.next);
        attempt.min(self.look)
    }

    /// Ends sessions that are too old.
    fn expire(&mut self, now: Tick, shared: &mut Shared) {
        for slot in [&mut self.previous, &mut self.next] {
            if let Some(session) = slot.take_if(|session| session.is_over(now)) {
                shared.close(self.id, &session);
            }
        }
        if let Some(session) = self.current.take_if(|session| session.is_over(now)) {
            shared.close(self.id, &session);
            shared.events.push_back(Event::Mute { peer: self.id });
            self.unanswered = None;
        }
    }

    /// Looks at what the workers have sealed and opened since the last look, and says to the peer what that asks for.
    fn look(&mut self, now: Tick, shared: &mut Shared) {
        let (mut sent, mut heard, mut got) = (false, false, false);
        let sessions = [&mut self.current, &mut self.previous, &mut self.next];
        for session in sessions.into_iter().flatten() {
            let found = [
                session.send.sealed(),
                session.stats.opened(),
                session.stats.payloads(),
            ];
            let [sealed, opened, payloads] = mem::replace(&mut session.seen, found);
            let [sealed_now, opened_now, payloads_now] = found;
            sent |= sealed_now > sealed;
            heard |= opened_now > opened;
            got |= payloads_now > payloads;
            session.confirmed |= opened_now > 0;
        }
        if heard {
            self.alive(now, shared);
        } else if sent {
            self.unanswered.get_or_insert(now);
        }
        if sent {
            self.sent = now;
        }
        // The one who tells of the first datagram on a new key may have been lost on the way here.
        if self.next.as_ref().is_some_and(|next| next.confirmed) {
            self.confirm(now, shared);
        }
        let confirming = self
            .current
            .as_ref()
            .is_some_and(|session| session.initiator && !session.confirmed);
        let quiet = self
            .keepalive
            .is_some_and(|every| now.since(self.sent) + LOOK_BUSY >= every);
        if confirming || quiet || (self.owes && !sent) {
            self.keep_alive(now, shared);
        }
        self.owes = got && !sent;
        let busy = sent || heard || confirming;
        self.look = if self.current.is_none() && self.next.is_none() && self.previous.is_none() {
            Tick::NEVER
        } else {
            now + if busy { LOOK_BUSY } else { LOOK_IDLE }
        };
    }

    /// It was heard on a session. If it was lost only for a while, the keys that both have serve on.
    pub(super) fn alive(&mut self, now: Tick, shared: &mut Shared) {
        self.heard = Some(now);
        self.unanswered = None;
        if self.attempt.is_some() && !self.wants_handshake(now) {
            self.attempt = None;
            self.drop_pending(shared);
        }
        if mem::take(&mut self.unreachable) {
            self.tell_key(shared);
        }
    }

    /// Whether a new session should be made now.
    fn wants_handshake(&self, now: Tick) -> bool {
        if self.endpoint.or(self.configured).is_none() {
            return false;
        }
        let wanted = self.keepalive.is_some()
            || self.demanded.is_some_and(|at| now.since(at) < DEMAND)
            || (self.sent > Tick::ZERO && now.since(self.sent) < RECENT);
        let Some(current) = &self.current else {
            return wanted;
        };
        let rekey = if current.initiator {
            REKEY_AFTER
        } else {
            REKEY_LATE
        };
        let silent = self
            .keepalive
            .is_some_and(|every| !self.heard_within(now, every * 3 + LONG_WAIT));
        let dead = self
            .unanswered
            .is_some_and(|since| now.since(since) >= DEAD_AFTER);
        let unconfirmed = !current.confirmed && now.since(current.made) >= DEAD_AFTER;
        current.send.is_worn()
            || silent
            || dead
            || unconfirmed
            || (wanted && now.since(current.made) >= rekey)
    }

    /// Begins the next try of an attempt, or ends it.
    fn attempt(&mut self, now: Tick, shared: &mut Shared) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        let tried = now.since(attempt.since);
        let hopeless = tried >= ATTEMPT;
        if hopeless && self.keepalive.is_none() {
            self.attempt = None;
            self.demanded = None;
            self.sent = Tick::ZERO;
            self.unanswered = None;
            self.drop_pending(shared);
            return;
        }
        let wait = if hopeless {
            SLOW_WAIT
        } else {
            (FIRST_WAIT * (1 << attempt.tries.min(8))).min(LONG_WAIT)
        };
        attempt.next = now + wait + shared.jitter(wait);
        let tries = attempt.tries;
        attempt.tries = tries.saturating_add(1);
        // Where it was heard last; after some tries also where it was said to be.
        let to = if tries >= 3 && tries % 2 == 1 {
            self.configured.or(self.endpoint)
        } else {
            self.endpoint.or(self.configured)
        };
        if let Some(to) = to {
            self.initiate(now, to, tries, shared);
        }
    }

    /// Sends message 1. It replaces the one before it, to which no response is taken any more.
    pub(super) fn initiate(&mut self, now: Tick, to: SocketAddr, tries: u32, shared: &mut Shared) {
        self.drop_pending(shared);
        let count = u32::try_from(self.hints.len()).unwrap_or(1).max(1);
        let turn = usize::try_from(tries % count).unwrap_or(0);
        let Some(&hint) = self.hints.get(turn) else {
            return;
        };
        let Some(mac) = shared
            .secrets
            .get(&hint)
            .map(|known| known.secret.mac_key(&self.key))
        else {
            return;
        };
        let Some(index) = shared.new_index(self.id) else {
            return;
        };
        let suite = shared.suite;
        let head = wire::head(INITIATION, suite, index, hint);
        let stamp = shared.new_stamp(now);
        let made = shared
            .identity
            .initiate(suite, &head, &self.key, stamp, &mut *shared.random);
        let Some((state, noise)) = made else {
            shared.indices.remove(&index);
            return;
        };
        let mut datagram = Vec::with_capacity(INITIATION_LEN);
        datagram.extend(head);
        datagram.extend(noise);
        let mac1 = mac.sign(&[&datagram]);
        datagram.extend(mac1);
        let mac2 = match self.cookie {
            Some((cookie, until)) if now < until => MacKey::new(&cookie).sign(&[&datagram]),
            _ => [0; MAC_LEN],
        };
        datagram.extend(mac2);
        self.pending = Some(Pending {
            index,
            state: Box::new(state),
            suite,
            hint,
            mac1,
            sent: now,
        });
        shared.transmit(to, datagram);
    }
}
