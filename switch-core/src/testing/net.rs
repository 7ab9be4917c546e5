//! Guests, their links, a switch and a host, driven together in virtual time.

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use super::guest::Guest;
use super::host::SimHost;
use super::link::{Link, Offered};
use super::packets;
use super::script::Script;
pub use super::setup::{GATEWAY, GATEWAY_V4, GATEWAY_V6, Setup};
use crate::addr::PortId;
use crate::flow::tcp::Accepted;
use crate::gso::split;
use crate::l2::table::MacTable;
use crate::pipeline::Switch;
use crate::time::Tick;
use crate::verdict::Verdict;
use crate::wire::vnet_hdr::{GSO_UDP_L4, VnetHdr};

/// Time goes on by so much at least.
const STEP: Duration = Duration::from_micros(20);

/// All of it.
#[derive(Debug)]
pub struct SimNet {
    /// The switch.
    pub switch: Switch,
    /// The host.
    pub host: SimHost,
    /// The guests.
    pub guests: Vec<Guest>,
    /// The port of each guest; its own number, until it moves.
    pub ports: Vec<PortId>,
    /// The link of each port towards the switch.
    pub up: Vec<Link>,
    /// The link of each port towards its guest.
    pub down: Vec<Link>,
    /// A port whose frames are taken off its link by the test itself.
    pub by_hand: Option<PortId>,
    /// What a router in each guest lets through to it, IP header included: it says so of what is larger.
    pub narrow: Option<u16>,
    /// What has happened.
    pub trace: Trace,
    now: Tick,
    uso: bool,
    mtu: u16,
    scratch: Vec<u8>,
}

/// What has happened, short enough to compare two runs: the frames that reached the switch and that left it, their
/// times and verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// Frames both ways.
    pub frames: u64,
    /// Super-frames among them.
    pub runs: u64,
    /// A sum over all of them. Source: FNV-1a, eight bytes at a time.
    pub sum: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            frames: 0,
            runs: 0,
            sum: 0xcbf2_9ce4_8422_2325,
        }
    }
}

impl Trace {
    fn note(&mut self, now: Tick, port: PortId, what: u8, (vnet, frame): (&VnetHdr, &[u8])) {
        self.frames += 1;
        self.runs += u64::from(vnet.is_gso());
        let head = [
            now.as_nanos().to_le_bytes(),
            u64::from(port.0).to_le_bytes(),
        ];
        let parts = [head.as_flattened(), &vnet.encode(), &[what], frame];
        for word in parts.iter().flat_map(|part| part.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            self.sum = (self.sum ^ u64::from_le_bytes(bytes)).wrapping_mul(0x100_0000_01b3);
            self.sum ^= self.sum >> 29;
        }
    }
}

impl SimNet {
    /// A network that is about to begin.
    #[must_use]
    pub fn new(setup: &Setup) -> Self {
        let config = setup.config();
        let guest = |n: u8| Guest::new(setup.seed + u64::from(n), Setup::addresses(n), setup.mtu);
        let link = |n: u64| Link::new(setup.seed.wrapping_mul(1_000) + n, setup.faults);
        let links = config.ports.len() as u64;
        Self {
            switch: Switch::new(Tick::ZERO, config, Arc::new(MacTable::new(256))),
            host: SimHost::new(setup.seed),
            guests: (0..setup.guests).map(guest).collect(),
            ports: (0..setup.guests).map(|n| PortId(n.into())).collect(),
            up: (0..links).map(link).collect(),
            down: (0..links).map(|n| link(n + 500)).collect(),
            by_hand: None,
            narrow: None,
            trace: Trace::default(),
            now: Tick::ZERO,
            uso: setup.uso,
            mtu: setup.mtu,
            scratch: Vec::new(),
        }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.now
    }

    /// Runs until `done`, or until `limit` has passed. Returns whether it is done.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            match self.poll_timeout() {
                Some(next) if next <= end => self.now = next.max(self.now + STEP),
                _ => {
                    self.now = end;
                    self.settle();
                    return done(self);
                }
            }
        }
    }

    /// Runs for so long.
    pub fn run_for(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    fn poll_timeout(&self) -> Option<Tick> {
        let now = self.now;
        let links = self.up.iter().chain(&self.down);
        let links = links.filter_map(Link::poll_timeout).min();
        let guests = self.guests.iter();
        let guests = guests.filter_map(|guest| guest.poll_timeout(now)).min();
        let ready = self.switch.has_ready().then_some(now);
        [
            links,
            guests,
            ready,
            self.host.poll_timeout(),
            self.switch.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does everything that is due now.
    fn settle(&mut self) {
        let now = self.now;
        self.host.set_now(now);
        for (n, link) in self.down.iter_mut().enumerate() {
            if self.by_hand.is_some_and(|port| port.0 as usize == n) {
                continue;
            }
            let arrived = link.arrived(now);
            if arrived.is_empty() {
                continue;
            }
            // What arrives where nobody is any more is lost.
            let guest = self.ports.iter().position(|port| port.0 as usize == n);
            let Some(guest) = guest else { continue };
            for (_, frame) in arrived {
                match self.narrow.and_then(|mtu| packets::too_big(&frame, mtu)) {
                    Some(said) => self.up[n].push(now, VnetHdr::default(), said),
                    None => self.guests[guest].deliver(frame),
                }
            }
        }
        for (port, guest) in self.ports.iter().zip(&mut self.guests) {
            let link = &mut self.up[port.0 as usize];
            let sent = guest.poll(now).into_iter();
            sent.for_each(|(vnet, frame)| link.push(now, vnet, frame));
        }
        for n in 0..self.up.len() {
            for offered in self.up[n].arrived(now) {
                self.hand_in(PortId(n as u32), &offered);
            }
        }
        for event in self.host.drive() {
            event.give(|event| self.switch.handle_event(&mut self.host, now, event));
        }
        self.switch.flush(&mut self.host, now);
        self.switch.run_ready(&mut self.host, now);
        if self.switch.poll_timeout().is_some_and(|at| at <= now) {
            self.switch.handle_timeout(&mut self.host, now);
        }
        self.send_down();
    }

    /// Hands a frame to the switch as if it had come from this port. What the switch sends leaves with the next step.
    pub fn hand_in(&mut self, port: PortId, (vnet, frame): &Offered) -> Verdict {
        self.host.set_now(self.now);
        let verdict = self
            .switch
            .handle_frame(&mut self.host, self.now, port, vnet, frame);
        // Each is a batch of its own: what all may flood in one is bounded.
        self.switch.flush(&mut self.host, self.now);
        let what = match verdict {
            Verdict::Forward(_) => 1,
            Verdict::Flood => 2,
            Verdict::Answer => 3,
            Verdict::Translate => 4,
            Verdict::Drop(reason) => 5 + reason as u8,
        };
        self.trace.note(self.now, port, what, (vnet, frame));
        verdict
    }

    /// Brings the switch's frames onto the links, cut and with whole checksums, as a guest's kernel has them.
    fn send_down(&mut self) {
        let now = self.now;
        for (port, vnet, frame) in core::mem::take(&mut self.host.frames) {
            self.trace.note(now, port, 0, (&vnet, &frame));
            assert!(
                self.uso || vnet.gso_kind() != GSO_UDP_L4,
                "a super-frame of datagrams to an endpoint that takes none"
            );
            let link = &mut self.down[port.0 as usize];
            let most = usize::from(self.mtu) + 14;
            let cut = split::split(&frame, &vnet, &mut self.scratch, &mut |segment| {
                assert!(segment.len() <= most, "{} bytes on the link", segment.len());
                link.push(now, VnetHdr::default(), segment.to_vec());
            });
            assert!(cut.is_ok(), "the switch's own frame: {cut:?}, {vnet:?}");
        }
    }

    /// A client at `from` connects to a port of the host that is published for `to` of guest `n`.
    pub fn connect_in(&mut self, n: u8, from: SocketAddr, to: SocketAddr, script: Script) {
        let sock = self.host.accepted(from, script);
        self.host.set_now(self.now);
        let port = PortId(n.into());
        let accepted = Accepted {
            sock,
            port,
            mac: self.switch.mac_of(port),
            to,
            from,
        };
        self.switch.accept(&mut self.host, self.now, accepted);
    }
}
