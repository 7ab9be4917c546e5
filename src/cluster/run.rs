//! The thread: what waits is taken, the machines are asked what is to be done, and it rests until the next deadline.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use switch_core::addr::{PeerId, Vni};
use switch_core::time::Tick;
use switch_core::tunnel::announce::{Announcer, Limits};
use switch_core::tunnel::control::{Message, Ping, Probe};
use switch_core::tunnel::peers::Static;
use switch_core::tunnel::pmtu::{self, LOOK, MtuEvent};
use switch_core::tunnel::seal::{Event, HostSecret, Node, NodeConfig, Random, Suite};

use super::Start;
use super::command::{Asked, Command, News, Overlay};
use super::groups::Groups;
use super::install::{Change, Workers};
use super::member::{About, Member};
use super::sources::Sources;
use super::watch::Watch;
use crate::endpoint::udp::{UnderlaySocket, path_mtu};
use crate::worker::underlay::slow::{Slow, SlowMessage, What};

/// Messages that are taken before others have their turn.
const TURN: usize = 64;
/// It rests no longer than this, so that a clock that leaps does no harm.
const LONGEST: Duration = Duration::from_secs(60);

struct Kernel;

impl Random for Kernel {
    fn fill(&mut self, bytes: &mut [u8]) {
        if let Err(error) = getrandom::fill(bytes) {
            // Keys that others could guess are worse than none.
            tracing::error!(%error, "the kernel gives no random bytes");
            std::process::abort();
        }
    }
}

pub(super) struct Run {
    begun: Instant,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    pub(super) news: Sender<News>,
    pub(super) told: Arc<EventFd>,
    pub(super) slow: Slow,
    pub(super) node: Node,
    pub(super) announcer: Announcer,
    /// Who says which peers there are: the plane.
    pub(super) source: Static<Asked>,
    sockets: [Option<UnderlaySocket>; 2],
    pub(super) link_mtu: u16,
    pub(super) members: BTreeMap<PeerId, Member>,
    pub(super) overlays: BTreeMap<Vni, Overlay>,
    pub(super) workers: Workers,
    pub(super) changes: Vec<Change>,
    pub(super) groups: Groups,
    pub(super) watch: Watch,
    sources: Sources,
    /// When to look whether anything long is sent still.
    look: Tick,
    out: Vec<u8>,
}

impl Run {
    pub(super) fn new(
        start: Start,
        commands: Receiver<Command>,
        wake: Arc<EventFd>,
        (news, told): (Sender<News>, Arc<EventFd>),
    ) -> io::Result<Self> {
        let unusable = || io::Error::other("the host's key is of no use");
        let node = node(tick(start.begun), start.secret).ok_or_else(unusable)?;
        let mut run = [0; 8];
        Kernel.fill(&mut run);
        let run = u64::from_le_bytes(run);
        let plain = host_name(&start.host);
        let announcer = Announcer::new(&plain, run, Limits::default());
        Ok(Self {
            begun: start.begun,
            commands,
            wake,
            news,
            told,
            slow: start.slow,
            node,
            announcer: announcer.map_err(io::Error::other)?,
            source: Static::default(),
            sockets: [None, None],
            link_mtu: start.link_mtu,
            members: BTreeMap::new(),
            overlays: BTreeMap::new(),
            workers: Workers(start.workers),
            changes: Vec::new(),
            groups: Groups::default(),
            watch: Watch::default(),
            sources: Sources::default(),
            look: Tick::NEVER,
            out: Vec::new(),
        })
    }

    pub(super) fn run(mut self) {
        loop {
            self.slow.rest();
            let _ = self.wake.read();
            let now = tick(self.begun);
            if !self.obey(now) {
                return;
            }
            let mut more = false;
            for at in 0..TURN {
                let Some(message) = self.slow.pop() else {
                    break;
                };
                self.hear(now, &message);
                more = at + 1 == TURN;
            }
            self.act(now);
            let due = if more { now } else { self.due() };
            let rest = due.since(tick(self.begun)).min(LONGEST);
            // Rounded up, or it would turn round and round until the moment has come.
            let rest = u16::try_from(rest.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
            let mut fds = [
                PollFd::new(self.slow.fd(), PollFlags::POLLIN),
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            ];
            let _ = poll(&mut fds, PollTimeout::from(rest));
        }
    }

    /// Does what the plane wants. False at the end.
    fn obey(&mut self, now: Tick) -> bool {
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            match command {
                Command::Stop => return false,
                Command::Sockets(sockets) => self.sockets = sockets,
                Command::SetSecret(secret) => self.renew(now, secret),
                Command::SetNetwork(overlay) => {
                    if let Err(e) = self.announcer.set_network(&overlay.network) {
                        tracing::warn!("network '{}' is not announced: {e}", overlay.network.name);
                    }
                    self.overlays.insert(overlay.network.vni, overlay);
                    self.groups.hurry(now);
                }
                Command::RemoveNetwork(vni) => {
                    for member in self.members.values_mut() {
                        member.settle(
                            |about| matches!(about, About::Networks(_, ours) if ours == vni),
                        );
                    }
                    self.announcer.remove_network(now, vni);
                    self.overlays.remove(&vni);
                    self.watch.forget(vni);
                }
                Command::SetPeer(peer, asked) => {
                    self.source.set(peer, *asked);
                    self.ask_source(now);
                }
                Command::RemovePeer(peer) => {
                    self.source.remove(peer);
                    self.ask_source(now);
                }
                Command::HostChanged { link_mtu } => {
                    self.link_mtu = link_mtu;
                    for member in self.members.values_mut() {
                        member.stir(now, link_mtu);
                    }
                }
                Command::Join(endpoint) => {
                    if let Err(e) = self.announcer.join(now, &endpoint) {
                        tracing::warn!("endpoint {} is not announced: {e}", endpoint.mac);
                    }
                }
                Command::Leave(vni, mac) => self.announcer.leave(now, vni, mac),
                Command::Watch(vni, names) => self.watch.set(vni, names),
                Command::Views(answer) => {
                    // Whoever asked may have lost patience.
                    let _ = answer.try_send(self.views(now));
                }
                Command::Endpoints(answer) => {
                    let _ = answer.try_send(self.announced());
                }
                Command::Ping { peer, answer } => {
                    let member = self.members.get_mut(&peer);
                    if let Some(ping) = member.and_then(|m| m.ask(now, answer)) {
                        self.say_ping(now, peer, ping);
                    }
                }
            }
        }
    }

    fn hear(&mut self, now: Tick, message: &SlowMessage) {
        let from = message.from;
        match message.what {
            What::Handshake => {
                self.sources.note(from, message.to);
                self.node.handle_datagram(now, from, &message.bytes);
            }
            What::Moved(peer, index) => {
                let other = self.sources.note(from, message.to);
                self.node.heard(now, peer, index, from);
                let at = self.node.status(peer).and_then(|s| s.endpoint);
                if other && at == Some(from) {
                    self.workers.moved(peer, self.sources.name(from));
                }
            }
            What::TooBig(peer) => {
                let to = self.node.status(peer).and_then(|s| s.endpoint);
                let mtu = to.and_then(|to| path_mtu(to).ok());
                let mtu = mtu.and_then(|mtu| u16::try_from(mtu).ok());
                if let (Some(member), Some(mtu)) = (self.members.get_mut(&peer), mtu) {
                    member.mtu.too_big(now, mtu);
                }
            }
            What::Control(peer, index) => {
                // Who answers a handshake sends nothing with the new key before it has heard with it.
                let member = self.members.get_mut(&peer);
                if member.is_some_and(|m| m.heard.replace(index) != Some(index)) {
                    self.node.heard(now, peer, index, from);
                }
                self.hear_control(now, peer, &message.bytes);
            }
        }
    }

    fn hear_control(&mut self, now: Tick, peer: PeerId, bytes: &[u8]) {
        let Ok(message) = Message::parse(bytes) else {
            return;
        };
        if self.announcer.handle_message(now, peer, &message) {
            return;
        }
        match message {
            Message::Ping(ping) => {
                let mut out = core::mem::take(&mut self.out);
                out.clear();
                ping.write_pong(&mut out);
                self.say(now, peer, &out);
                self.out = out;
            }
            Message::Probe(probe) => {
                let mut out = core::mem::take(&mut self.out);
                out.clear();
                probe.write_ack(&mut out);
                self.say(now, peer, &out);
                self.out = out;
            }
            Message::Pong(pong) => {
                if let Some(member) = self.members.get_mut(&peer) {
                    member.pong(now, pong);
                }
            }
            Message::ProbeAck(probe) => {
                if let Some(member) = self.members.get_mut(&peer) {
                    member.mtu.handle_ack(now, probe);
                }
            }
            Message::Announce(_) | Message::Ack(_) | Message::KeepAlive => {}
        }
    }

    /// Has the machines do what is due, and does what they want.
    fn act(&mut self, now: Tick) {
        if self.node.poll_timeout().is_some_and(|due| due <= now) {
            self.node.handle_timeout(now);
        }
        if self.announcer.poll_timeout().is_some_and(|due| due <= now) {
            self.announcer.handle_timeout(now);
        }
        self.look_at_members(now);
        self.look_at_groups(now);
        let due: Vec<PeerId> = self
            .members
            .iter()
            .filter(|(_, m)| m.due() <= now)
            .map(|(&p, _)| p)
            .collect();
        for peer in due {
            self.ask_member(now, peer);
        }
        self.hear_node(now);
        self.hear_announcer(now);
        let mut out = core::mem::take(&mut self.out);
        while let Some(peer) = self.announcer.poll_transmit(now, &mut out) {
            self.say(now, peer, &out);
        }
        loop {
            // A key is there before the datagram leaves that has it used.
            self.hear_node(now);
            let Some(to) = self.node.poll_transmit(&mut out) else {
                break;
            };
            self.send(to, &out);
        }
        self.out = out;
        self.workers.change(core::mem::take(&mut self.changes));
        self.tell_watched(now);
    }

    /// Sees to whom anything long is sent: whether it arrives is worth knowing soon.
    fn look_at_members(&mut self, now: Tick) {
        let mut busy = false;
        for member in self.members.values_mut().filter(|m| m.up) {
            busy |= member.look(now);
        }
        if busy || (self.look == Tick::NEVER && self.slow.is_stirred()) {
            self.look = now + LOOK;
        } else if self.look <= now {
            self.look = Tick::NEVER;
            self.slow.calm();
        }
    }

    /// Questions and probes that are due.
    fn ask_member(&mut self, now: Tick, peer: PeerId) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        let ping = member.ping(now);
        let mut probes: Vec<Probe> = Vec::new();
        let mut events: Vec<MtuEvent> = Vec::new();
        if member.up {
            member.mtu.handle_timeout(now);
            probes.extend(std::iter::from_fn(|| member.mtu.poll_transmit()));
            events.extend(std::iter::from_fn(|| member.mtu.poll_event()));
        }
        let v6 = member.v6;
        self.note_place(now, peer);
        if let Some(ping) = ping {
            self.say_ping(now, peer, ping);
        }
        for probe in probes {
            let mut out = core::mem::take(&mut self.out);
            out.clear();
            probe.write(&mut out, pmtu::message_len(probe.size, v6));
            self.say(now, peer, &out);
            self.out = out;
        }
        for event in events {
            match event {
                MtuEvent::Changed(mtu) => {
                    tracing::debug!("peer {}: the way takes {mtu} bytes", peer.0);
                    self.spread_mtu(peer);
                }
                MtuEvent::BlackHole(mtu) => {
                    let problem =
                        format!("packets of {mtu} bytes are lost on the way there without a word");
                    self.complain(peer, About::Way, problem);
                }
                MtuEvent::TooSmall(mtu) => {
                    tracing::debug!(
                        "peer {}: {mtu} bytes are less than its announcements",
                        peer.0
                    );
                }
            }
        }
        self.judge_way(peer);
    }

    fn say_ping(&mut self, now: Tick, peer: PeerId, ping: Ping) {
        let mut out = core::mem::take(&mut self.out);
        out.clear();
        ping.write(&mut out);
        self.say(now, peer, &out);
        self.out = out;
    }

    fn say(&mut self, now: Tick, peer: PeerId, message: &[u8]) {
        if let Err(e) = self.node.send(now, peer, message) {
            tracing::trace!("peer {}: {e}", peer.0);
        }
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        let socket = self.sockets[usize::from(to.is_ipv6())].as_mut();
        let sent = socket.map(|s| s.send_one(&self.sources.name(to), bytes));
        if let Some(Err(e)) = sent {
            // What was lost is said again, as if the network had lost it.
            tracing::trace!("to {to}: {e}");
        }
    }

    pub(super) fn hear_node(&mut self, now: Tick) {
        while let Some(event) = self.node.poll_event() {
            match event {
                Event::Receive { peer, key } => {
                    let at = self.node.status(peer).and_then(|s| s.endpoint);
                    let at = at.unwrap_or_else(|| SocketAddr::from(([0; 4], 0)));
                    let ends = (at, self.sources.get(at));
                    self.workers.receive(peer, *key, ends);
                }
                Event::Send { peer, key, to } => {
                    if let Some(member) = self.members.get_mut(&peer) {
                        member.seal_with(&key);
                    }
                    let name = self.sources.name(to);
                    self.workers.send(peer, Some((key, name)));
                    self.rises(now, peer, to);
                }
                Event::Roamed { peer, to } => {
                    self.workers.moved(peer, self.sources.name(to));
                    if let Some(member) = self.members.get_mut(&peer) {
                        member.v6 = to.is_ipv6();
                        member.mtu.restart(now, self.link_mtu);
                    }
                }
                Event::Closed { index, .. } => self.workers.close(index),
                Event::Mute { peer } => {
                    self.workers.send(peer, None);
                    self.falls(now, peer);
                }
                Event::Introduced { invite, key, from } => {
                    self.introduced(now, PeerId(invite), key, from);
                }
                Event::Unreachable { peer } => {
                    self.falls(now, peer);
                    let problem = "it does not answer".to_owned();
                    self.complain(peer, About::Silence, problem);
                }
            }
        }
    }

    fn due(&self) -> Tick {
        let machines = [self.node.poll_timeout(), self.announcer.poll_timeout()];
        let machines = machines.into_iter().flatten();
        machines
            .chain(self.members.values().map(Member::due))
            .chain([self.groups.due(), self.look, self.watch.due()])
            .min()
            .unwrap_or(Tick::NEVER)
    }
}

/// The machine that keeps sessions of the host with this private key. `None` for one that is of no use.
pub(super) fn node(now: Tick, secret: [u8; 32]) -> Option<Node> {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let wall = u64::try_from(wall.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
    let config = NodeConfig {
        secret: HostSecret::new(secret),
        suite: Suite::fastest(),
        wall,
    };
    Node::new(now, &config, Box::new(Kernel))
}

fn tick(begun: Instant) -> Tick {
    Tick::from_nanos(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// A host's name as it can be announced.
fn host_name(name: &str) -> String {
    let plain = name.to_ascii_lowercase();
    if switch_core::tunnel::control::record::is_name(&plain) {
        plain
    } else {
        "host".to_owned()
    }
}
