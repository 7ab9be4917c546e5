//! The sealed protocol: two hosts, and one between them who drops, keeps, changes, repeats, moves and invents
//! datagrams. Nothing opens that was not sealed, no answer is longer than its question, no table grows; and when the
//! one between them lets go, the two join.
//! Shape: operations of a byte each and what they need, until the bytes end.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use switch_core::addr::PeerId;
use switch_core::testing::Random;
use switch_core::time::Tick;
use switch_core::tunnel::seal::{
    self, CONTROL, DATA, Event, HEADER_LEN, HostSecret, NetworkSecret, Node, NodeConfig, OpenKey,
    PeerConfig, SendKey, Suite, TAG_LEN,
};

use super::bytes::Bytes;

/// Operations of one run at most: each handshake costs a part of a millisecond.
const MAX_OPERATIONS: usize = 64;
/// Datagrams that the one between them keeps.
const MAX_KEPT: usize = 64;
const PEER: PeerId = PeerId(1);
const WALL: u64 = 1_700_000_000_000_000_000;

struct Repeatable(Random);

impl seal::Random for Repeatable {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            [*byte, ..] = self.0.draw().to_le_bytes();
        }
    }
}

struct Side {
    node: Node,
    secret: HostSecret,
    addr: SocketAddr,
    open: BTreeMap<u32, Box<OpenKey>>,
    send: Option<(Arc<SendKey>, SocketAddr)>,
    /// What it has sealed.
    sealed: BTreeSet<Vec<u8>>,
}

struct Run {
    now: Tick,
    near: Side,
    far: Side,
    /// Datagrams on the way: whether of the near side, from where, what.
    kept: Vec<(bool, SocketAddr, Vec<u8>)>,
}

fn home(near: bool) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::from(near) + 1], 7348))
}

fn boot(now: Tick, near: bool, wall: u64) -> Side {
    let secret = HostSecret::new([u8::from(near) + 1; 32]);
    let config = NodeConfig {
        secret: secret.clone(),
        suite: if near {
            Suite::Aes256Gcm
        } else {
            Suite::ChaCha20Poly1305
        },
        wall,
    };
    let random = Repeatable(Random(now.as_nanos() ^ u64::from(near)));
    Side {
        node: Node::new(now, &config, Box::new(random)).expect("X25519 is there"),
        secret,
        addr: home(near),
        open: BTreeMap::new(),
        send: None,
        sealed: BTreeSet::new(),
    }
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let now = Tick::from_millis(1_000);
    let mut run = Run {
        now,
        near: boot(now, true, WALL),
        far: boot(now, false, WALL),
        kept: Vec::new(),
    };
    run.meet(true);
    run.meet(false);
    for _ in 0..MAX_OPERATIONS {
        if bytes.is_empty() {
            break;
        }
        run.step(&mut bytes);
    }
    run.finish();
}

impl Run {
    fn side(&mut self, near: bool) -> &mut Side {
        if near { &mut self.near } else { &mut self.far }
    }

    /// Tells a side of the other.
    fn meet(&mut self, near: bool) {
        let Some(key) = self.side(!near).secret.public() else {
            return;
        };
        let config = PeerConfig {
            key,
            secrets: vec![NetworkSecret::new([7; 32])],
            endpoint: Some(home(!near)),
            keepalive: Some(Duration::from_secs(25)),
        };
        let now = self.now;
        assert_eq!(self.side(near).node.add_peer(now, PEER, &config), Ok(()));
        self.settle(near);
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        let kind = bytes.u8();
        let near = kind & 0x80 != 0;
        match kind % 12 {
            0 | 1 => {
                if let Some(at) = self.pick(bytes) {
                    let (of_near, from, datagram) = self.kept.remove(at);
                    self.deliver(!of_near, from, datagram);
                }
            }
            2 => self.again(bytes, |datagram, bytes| {
                let at = usize::from(bytes.u8());
                let flip = bytes.u8();
                if let Some(byte) = datagram.get_mut(at) {
                    *byte ^= flip;
                }
            }),
            3 => self.again(bytes, |datagram, bytes| {
                datagram.resize(usize::from(bytes.u8()), 0);
            }),
            4 => {
                if let Some(at) = self.pick(bytes) {
                    let (of_near, _, datagram) = self.kept[at].clone();
                    self.deliver(!of_near, elsewhere(bytes.u8()), datagram);
                }
            }
            5 => {
                let len = usize::from(bytes.u8());
                let datagram = bytes.take(len).to_vec();
                let from = elsewhere(bytes.u8());
                self.deliver(near, from, datagram);
            }
            6 => self.wait(Duration::from_millis(bytes.u16().into())),
            7 => self.wait(Duration::from_secs(bytes.u16().into())),
            8 => {
                let len = usize::from(bytes.u8());
                let payload = bytes.take(len).to_vec();
                self.data(near, payload);
            }
            9 => self.side(near).addr = elsewhere(bytes.u8()),
            10 => {
                let wall = WALL + u64::from(bytes.u16()) * 1_000_000_000;
                let now = self.now;
                let side = self.side(near);
                // What its last life has sealed may still arrive.
                let sealed = core::mem::take(&mut side.sealed);
                *side = boot(now, near, wall);
                side.sealed = sealed;
                self.meet(near);
            }
            _ => {
                let at = usize::from(bytes.u8());
                let mut datagram = bytes.take(200).to_vec();
                if let Some(key) = self.side(near).open.values_mut().next() {
                    assert!(key.open(&mut datagram, at).is_err(), "noise was opened");
                }
            }
        }
    }

    fn pick(&self, bytes: &mut Bytes<'_>) -> Option<usize> {
        let at = usize::from(bytes.u8());
        at.checked_rem(self.kept.len())
    }

    /// Delivers a copy of a kept datagram, changed.
    fn again(&mut self, bytes: &mut Bytes<'_>, change: fn(&mut Vec<u8>, &mut Bytes<'_>)) {
        if let Some(at) = self.pick(bytes) {
            let (of_near, from, mut datagram) = self.kept[at].clone();
            change(&mut datagram, bytes);
            self.deliver(!of_near, from, datagram);
        }
    }

    /// Takes all that a side has to say; gives the bytes that it sends.
    fn settle(&mut self, near: bool) -> usize {
        let side = self.side(near);
        while let Some(event) = side.node.poll_event() {
            match event {
                Event::Receive { key, .. } => {
                    assert!(side.open.insert(key.index(), key).is_none());
                }
                Event::Send { key, to, .. } => side.send = Some((key, to)),
                Event::Roamed { to, .. } => {
                    let send = side.send.as_mut();
                    send.expect("who roams has a session").1 = to;
                }
                Event::Closed { index, .. } => assert!(side.open.remove(&index).is_some()),
                Event::Mute { .. } => assert!(side.send.take().is_some()),
                Event::Introduced { .. } => panic!("nobody was invited"),
                Event::Unreachable { .. } => {}
            }
        }
        assert!(side.open.len() <= 3, "more sessions than there may be");
        let (mut out, mut total) = (Vec::new(), 0);
        while self.side(near).node.poll_transmit(&mut out).is_some() {
            total += out.len();
            self.keep(near, out.clone());
        }
        total
    }

    fn keep(&mut self, near: bool, datagram: Vec<u8>) {
        let from = self.side(near).addr;
        if self.kept.len() >= MAX_KEPT {
            self.kept.remove(0);
        }
        self.kept.push((near, from, datagram));
    }

    fn deliver(&mut self, near: bool, from: SocketAddr, mut datagram: Vec<u8>) {
        // Whatever is due is done before, so that what leaves now is an answer.
        self.wait(Duration::ZERO);
        let now = self.now;
        let (len, kind) = (datagram.len(), datagram.first().copied());
        let other = self.side(!near).sealed.clone();
        let side = self.side(near);
        let key = seal::receiver(&datagram).and_then(|index| side.open.get_mut(&index));
        if let Some(key) = key {
            if let Ok(opened) = key.open(&mut datagram, 0) {
                let payload = datagram.get(..opened.len).expect("a length inside");
                let control = opened.flags & CONTROL != 0;
                assert!(control || other.contains(payload), "what was not sealed");
                let index = key.index();
                let known = side.send.as_ref().map(|&(_, at)| at);
                if opened.first || (opened.newest && known != Some(from)) {
                    side.node.heard(now, PEER, index, from);
                }
            }
        } else {
            side.node.handle_datagram(now, from, &datagram);
        }
        let sent = self.settle(near);
        // A cookie makes its receiver try again, and data under a forgotten key too: both to the peer, not to who asks.
        if matches!(kind, Some(1 | 2)) {
            assert!(sent <= len, "{sent} bytes for {len}");
        } else if !matches!(kind, Some(3 | DATA)) {
            assert_eq!(sent, 0, "an answer to what is none of the protocol's");
        }
    }

    fn data(&mut self, near: bool, payload: Vec<u8>) {
        let side = self.side(near);
        let Some((key, _)) = side.send.clone() else {
            return;
        };
        let mut datagram = vec![0; HEADER_LEN];
        datagram.extend(&payload);
        datagram.extend([0; TAG_LEN]);
        if key.seal(0, (0, 0), &mut datagram).is_ok() {
            side.sealed.insert(payload);
            self.keep(near, datagram);
        }
    }

    fn wait(&mut self, time: Duration) {
        let now = self.now + time;
        self.now = now;
        for near in [true, false] {
            self.side(near).node.handle_timeout(now);
            self.settle(near);
            let due = self.side(near).node.poll_timeout();
            assert!(due.is_some_and(|due| due > now), "a timer that never ends");
        }
    }

    /// The one between them lets go.
    fn finish(&mut self) {
        self.kept.clear();
        for near in [true, false] {
            self.side(near).addr = home(near);
        }
        for _ in 0..400 {
            self.wait(Duration::from_millis(100));
            while !self.kept.is_empty() {
                let (of_near, from, datagram) = self.kept.remove(0);
                self.deliver(!of_near, from, datagram);
            }
            for near in [true, false] {
                self.data(near, b"hello".to_vec());
            }
        }
        for near in [true, false] {
            let index = self.side(near).send.as_ref().map(|(key, _)| key.receiver());
            let other = self.side(!near);
            let heard = index.and_then(|index| other.open.get(&index));
            assert!(
                heard.is_some_and(|key| key.stats().opened() > 0),
                "they do not join"
            );
        }
    }
}

fn elsewhere(n: u8) -> SocketAddr {
    if n < 2 {
        return home(n == 0);
    }
    SocketAddr::from(([203, 0, 113, n], 1))
}
