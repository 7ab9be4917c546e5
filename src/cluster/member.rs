//! A peer, beside what the machines know of it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use switch_core::addr::{Mac, Vni};
use switch_core::time::Tick;
use switch_core::tunnel::control::Ping;
use switch_core::tunnel::pmtu::PathMtu;
use switch_core::tunnel::seal::SendKey;
use tokio::sync::oneshot;

use super::command::{Asked, Lane};

/// Bytes of a sealed datagram that are none of the inner IP packet, less IP and UDP: seal, VXLAN, Ethernet.
const AROUND: u16 = 16 + 16 + 8 + 14;
/// Between questions about the round trip.
const EVERY: Duration = Duration::from_secs(10);
/// A question that was not answered by then is lost.
const LOST: Duration = Duration::from_secs(5);
/// Questions that the loss is taken from.
const LATELY: usize = 100;
/// Questions of users that wait for their answers.
const ASKED: usize = 64;
/// Between places where a peer is heard that are told: each is written to the disk.
const PLACE_EVERY: Duration = Duration::from_secs(10);
/// Problems that are kept of one peer.
const PROBLEMS: usize = 16;
/// Between two looks at what is sent, at least.
const WINDOW: Duration = Duration::from_millis(200);
/// Questions that are sent soon after each other when the host's network has changed, and the time between.
const HASTY: u8 = 4;
const HASTE: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(super) struct Member {
    pub(super) asked: Asked,
    pub(super) lanes: BTreeMap<Vni, Lane>,
    pub(super) mtu: PathMtu,
    /// There is a key to send with.
    pub(super) up: bool,
    /// The underlay of the session is IPv6.
    pub(super) v6: bool,
    pub(super) rtt: Option<Duration>,
    /// The session that it was heard on last.
    pub(super) heard: Option<u32>,
    /// What is sent to it is sealed with this.
    key: Option<Arc<SendKey>>,
    looked: Tick,
    next_ping: Tick,
    hasty: u8,
    pings: u32,
    /// The question that is under way, and since when.
    pending: Option<(u32, Tick)>,
    /// Whether each of the last questions was answered.
    answered: VecDeque<bool>,
    waiting: Vec<(u32, oneshot::Sender<Duration>)>,
    problems: VecDeque<(About, String)>,
    /// Where it was said to be last, and until when no other place is told.
    place: (Option<SocketAddr>, Tick),
}

/// What a problem is about: it is over when that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// The peer itself.
    Peer,
    /// That it does not answer.
    Silence,
    /// What the way there carries.
    Way,
    /// What it may announce.
    Rules,
    /// A network of the peer's and one of this host's, or of another peer's.
    Networks(Vni, Vni),
    /// An endpoint of the peer's.
    Endpoint(Vni, Mac),
}

impl Member {
    pub(super) fn new(now: Tick, asked: Asked, link_mtu: u16) -> Self {
        Self {
            lanes: asked.lanes.iter().copied().collect(),
            place: (asked.seen, now),
            asked,
            mtu: PathMtu::new(now, link_mtu),
            up: false,
            v6: false,
            rtt: None,
            heard: None,
            key: None,
            looked: now,
            next_ping: Tick::NEVER,
            hasty: 0,
            pings: 0,
            pending: None,
            answered: VecDeque::new(),
            waiting: Vec::new(),
            problems: VecDeque::new(),
        }
    }

    /// It can be reached, from now on or again.
    pub(super) fn rises(&mut self, now: Tick) {
        self.up = true;
        self.next_ping = now;
    }

    /// It cannot be reached any more.
    pub(super) fn falls(&mut self) {
        self.up = false;
        self.next_ping = Tick::NEVER;
        if self.pending.take().is_some() {
            self.note(false);
        }
    }

    /// It is sent to with this key from now on.
    pub(super) fn seal_with(&mut self, key: &Arc<SendKey>) {
        self.key = Some(Arc::clone(key));
    }

    /// Sees whether anything is sent to it that the way there may not carry. True if so.
    pub(super) fn look(&mut self, now: Tick) -> bool {
        let Some(key) = &self.key else {
            return false;
        };
        if now < self.looked + WINDOW {
            return false;
        }
        self.looked = now;
        let long = key.take_long();
        if long {
            self.mtu.sent_large(now);
        }
        long
    }

    /// The host's network has changed: it is to see where this host is now.
    pub(super) fn stir(&mut self, now: Tick, link_mtu: u16) {
        self.mtu.set_max(now, link_mtu);
        if self.up {
            self.hasty = HASTY;
            self.next_ping = now;
        }
    }

    /// When there is something to ask, or a question is lost.
    pub(super) fn due(&self) -> Tick {
        let lost = self.pending.map_or(Tick::NEVER, |(_, at)| at + LOST);
        let probe = if self.up {
            self.mtu.poll_timeout()
        } else {
            Tick::NEVER
        };
        self.next_ping.min(lost).min(probe)
    }

    /// The question to send now, if it is time for one.
    pub(super) fn ping(&mut self, now: Tick) -> Option<Ping> {
        if self.pending.is_some_and(|(_, at)| at + LOST <= now) {
            self.pending = None;
            self.note(false);
        }
        if now < self.next_ping || (self.pending.is_some() && self.hasty == 0) {
            return None;
        }
        self.next_ping = now + if self.hasty > 0 { HASTE } else { EVERY };
        self.hasty = self.hasty.saturating_sub(1);
        let ping = self.question(now);
        self.pending = Some((ping.id, now));
        Some(ping)
    }

    fn question(&mut self, now: Tick) -> Ping {
        self.pings = self.pings.wrapping_add(1);
        Ping {
            id: self.pings,
            time: now.as_nanos(),
        }
    }

    /// A question that a user wants answered. `None` if too many wait.
    pub(super) fn ask(&mut self, now: Tick, answer: oneshot::Sender<Duration>) -> Option<Ping> {
        self.waiting.retain(|(_, answer)| !answer.is_closed());
        if self.waiting.len() >= ASKED {
            self.waiting.remove(0);
        }
        let ping = self.question(now);
        self.waiting.push((ping.id, answer));
        Some(ping)
    }

    /// An answer has come.
    pub(super) fn pong(&mut self, now: Tick, pong: Ping) {
        let took = now.since(Tick::from_nanos(pong.time));
        if let Some(at) = self.waiting.iter().position(|(id, _)| *id == pong.id) {
            let (_, answer) = self.waiting.swap_remove(at);
            self.rtt = Some(took);
            // Whoever asked may have lost patience.
            let _ = answer.send(took);
        }
        if self.pending.is_some_and(|(id, _)| id == pong.id) {
            self.pending = None;
            if core::mem::take(&mut self.hasty) > 0 {
                self.next_ping = now + EVERY;
            }
            self.rtt = Some(took);
            self.note(true);
        }
    }

    fn note(&mut self, answered: bool) {
        if self.answered.len() >= LATELY {
            self.answered.pop_front();
        }
        self.answered.push_back(answered);
    }

    /// Of a thousand questions those without an answer; none before the first one is settled.
    pub(super) fn loss(&self) -> Option<u16> {
        let lost = self.answered.iter().filter(|a| !**a).count();
        let permille = (lost * 1000).checked_div(self.answered.len())?;
        u16::try_from(permille).ok()
    }

    /// Whether a place where it is heard is to be told: one that moves all the time is not followed at once.
    pub(super) fn is_new_place(&mut self, now: Tick, at: SocketAddr) -> bool {
        let (told, until) = self.place;
        let new = self.up && told != Some(at) && until <= now;
        if new {
            self.place = (Some(at), now + PLACE_EVERY);
        }
        new
    }

    /// The largest inner packet that gets there.
    pub(super) fn inner_mtu(&self) -> u16 {
        let ip = if self.v6 { 48 } else { 28 };
        self.mtu.mtu().saturating_sub(ip + AROUND)
    }

    pub(super) fn knows(&self, problem: &str) -> bool {
        self.problems.iter().any(|(_, p)| p == problem)
    }

    /// Takes note of something that is wrong. True if it was not known.
    pub(super) fn complain(&mut self, about: About, problem: &str) -> bool {
        if self.knows(problem) {
            return false;
        }
        if self.problems.len() >= PROBLEMS {
            self.problems.pop_front();
        }
        self.problems.push_back((about, problem.to_owned()));
        true
    }

    /// Something is over.
    pub(super) fn settle(&mut self, is_over: impl Fn(About) -> bool) {
        self.problems.retain(|(about, _)| !is_over(*about));
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.iter().map(|(_, p)| p.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use switch_core::tunnel::announce::Rules;
    use switch_core::tunnel::seal::{KEY_LEN, LONG, Suite};

    use super::*;

    fn member() -> Member {
        let asked = Asked {
            name: "b".to_owned(),
            seen: None,
            key: None,
            secret: [0; 32],
            endpoint: None,
            keepalive: None,
            rules: Rules::default(),
            lanes: Vec::new(),
        };
        Member::new(Tick::ZERO, asked, 1500)
    }

    #[test]
    fn who_moves_says_so_at_once_until_it_is_heard() {
        let mut member = member();
        let mut now = Tick::from_millis(10);
        member.rises(now);
        let first = member.ping(now).unwrap();
        member.pong(now, first);
        now = now + Duration::from_secs(1);
        assert_eq!(member.ping(now), None, "every ten seconds");
        member.stir(now, 1500);
        for _ in 0..HASTY {
            assert!(member.ping(now).is_some());
            assert_eq!(member.ping(now), None);
            now = now + HASTE;
        }
        assert_eq!(member.ping(now), None, "nobody is there");
        member.stir(now, 1500);
        let answered = member.ping(now).unwrap();
        member.pong(now, answered);
        now = now + HASTE;
        assert_eq!(member.ping(now), None, "it has been heard");
        assert_eq!(member.loss(), Some(0));
    }

    #[test]
    fn one_long_datagram_has_the_way_looked_at() {
        let mut member = member();
        let key = SendKey::new(Suite::fastest(), &[7; KEY_LEN], 1).map(Arc::new);
        let key = key.unwrap();
        member.seal_with(&key);
        let mut now = Tick::from_millis(1);
        member.mtu.handle_timeout(now);
        let probe = member.mtu.poll_transmit().unwrap();
        member.mtu.handle_ack(now, probe);
        member.mtu.handle_timeout(now);
        for (len, looked_at) in [(LONG, false), (LONG + 1, true)] {
            now = now + Duration::from_secs(1);
            let _numbers = key.reserve(9, len).unwrap();
            assert_eq!(member.look(now), looked_at);
            assert_eq!(member.mtu.poll_timeout() <= now, looked_at);
            assert!(!member.look(now + WINDOW), "nothing new");
        }
    }
}
