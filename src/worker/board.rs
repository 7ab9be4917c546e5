//! What a worker works on: the switches of the networks, and the endpoints and sockets that are its own. Only those
//! that something happened to cost anything in a turn.

mod rest;
mod underlay;

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use mio::Token;
use mio::event::Event;
use switch_core::addr::PortId;
use switch_core::pipeline::{Flap, Switch};
use switch_core::time::Tick;
use switch_core::verdict::{DropReason, Verdict};

use self::rest::Resting;
use super::budget::{Company, Turn};
use super::tunnels::Tunnels;
use super::underlay::narrow::Narrows;
use crate::endpoint::RX_BUFFER;
use crate::host::sockets::links::Link;
use crate::host::sockets::{HostIo, SHARED};

/// A network on this worker.
#[derive(Debug)]
struct Net {
    switch: Switch,
    /// It stands in the list of those that have a batch to end.
    active: bool,
    deadline: Option<Tick>,
}

/// The whole of it.
#[derive(Debug)]
pub struct Board {
    /// Endpoints and sockets.
    pub io: HostIo,
    nets: Vec<Option<Net>>,
    active: Vec<u32>,
    /// Endpoints that may have a frame, in the order of their turns.
    ready: VecDeque<PortId>,
    /// Endpoints that hold frames back.
    held: Vec<PortId>,
    /// Endpoints that are not read for a while.
    resting: Resting,
    company: Company,
    buffer: Vec<u8>,
    /// What comes from other hosts, once there is a way to them.
    tunnels: Option<Box<Tunnels>>,
    /// Ways to them that take less than their networks.
    narrows: Narrows,
    /// Stations that have begun to flap.
    pub(super) flaps: Vec<Flap>,
    /// Frames received, and turns taken.
    counts: (u64, u64),
}

impl Board {
    /// A board with the endpoints that `io` was made with, and `switch` as their network.
    #[must_use]
    pub fn new(io: HostIo, switch: Option<Switch>) -> Self {
        let mut board = Self {
            io,
            nets: Vec::new(),
            active: Vec::new(),
            ready: VecDeque::new(),
            held: Vec::new(),
            resting: Resting::default(),
            company: Company::default(),
            buffer: vec![0; RX_BUFFER],
            tunnels: None,
            narrows: Narrows::default(),
            flaps: Vec::new(),
            counts: (0, 0),
        };
        if let Some(switch) = switch {
            board.add_net(0, switch);
        }
        board
    }

    /// Puts a network in its place.
    pub fn add_net(&mut self, net: u32, switch: Switch) {
        let at = net as usize;
        if self.nets.len() <= at {
            self.nets.resize_with(at + 1, || None);
        }
        self.nets[at] = Some(Net {
            switch,
            active: false,
            deadline: None,
        });
        self.touch(net);
    }

    /// Ends a network, which has no endpoint any more.
    pub fn remove_net(&mut self, net: u32) {
        self.with(net, Switch::close);
        self.io.leave(net);
        if let Some(place) = self.nets.get_mut(net as usize) {
            *place = None;
        }
    }

    /// The switch of a network.
    #[must_use]
    pub fn net(&self, net: u32) -> Option<&Switch> {
        let net = self.nets.get(net as usize)?.as_ref()?;
        Some(&net.switch)
    }

    /// Every network.
    pub fn nets(&self) -> impl Iterator<Item = (u32, &Switch)> {
        let nets = (0..).zip(&self.nets);
        nets.filter_map(|(at, net)| Some((at, &net.as_ref()?.switch)))
    }

    /// Does something with a network, as the one that acts. `None` if there is none in that place.
    pub fn with<R>(
        &mut self,
        net: u32,
        what: impl FnOnce(&mut Switch, &mut HostIo) -> R,
    ) -> Option<R> {
        let found = self.nets.get_mut(net as usize)?.as_mut()?;
        self.io.net = net;
        let result = what(&mut found.switch, &mut self.io);
        self.touch(net);
        Some(result)
    }

    /// Takes an endpoint in; it may have frames at once.
    /// Errors: it cannot be polled.
    pub fn attach(&mut self, port: PortId, link: Link) -> io::Result<()> {
        let owned = link.owned;
        let holds = owned && link.endpoint.holds();
        self.io.attach(port, link)?;
        if holds {
            self.held.push(port);
        }
        if owned {
            self.wake(port);
        }
        Ok(())
    }

    /// Takes an endpoint off its network and gives it back.
    pub fn detach(&mut self, port: PortId) -> Option<Link> {
        let link = self.io.links.get_mut(port)?;
        count_losses(&mut self.nets, link);
        let net = link.net;
        self.with(net, |switch, io| switch.remove_port(io, port));
        self.held.retain(|&held| held != port);
        self.resting.forget(port);
        self.io.detach(port)
    }

    /// Counts what the endpoints that it owns have lost on the way in, for whoever looks at their drops next.
    pub fn count_losses(&mut self) {
        for (_, link) in self.io.links.iter_mut() {
            count_losses(&mut self.nets, link);
        }
    }

    /// Polls the endpoints that it was made with. Errors: one cannot be polled.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let ports: Vec<PortId> = self.io.links.iter().map(|(port, _)| port).collect();
        for port in ports {
            if let Some(link) = self.io.links.remove(port) {
                self.attach(port, link)?;
            }
        }
        Ok(())
    }

    fn touch(&mut self, net: u32) {
        if let Some(Some(found)) = self.nets.get_mut(net as usize)
            && !core::mem::replace(&mut found.active, true)
        {
            self.active.push(net);
        }
    }

    /// An endpoint, or a socket of the underlay, may have frames.
    pub(super) fn wake(&mut self, port: PortId) {
        let fresh = match self.io.links.get_mut(port) {
            Some(link) => !core::mem::replace(&mut link.ready, true),
            None => self.tunnels.as_mut().is_some_and(|t| t.wake(port)),
        };
        if fresh {
            self.ready.push_back(port);
        }
    }

    /// True if there is something to do without any event.
    pub(super) fn is_busy(&self) -> bool {
        !self.ready.is_empty() || !self.active.is_empty()
    }

    /// All endpoints may have a frame.
    pub(super) fn wake_all(&mut self) {
        let owned = self.io.links.iter().filter(|(_, link)| link.owned);
        let ports: Vec<PortId> = owned.map(|(port, _)| port).collect();
        ports.into_iter().for_each(|port| self.wake(port));
    }

    /// True if all that the sandboxes have sent is with the host, and none of their connections can bring more.
    pub(super) fn is_passed_on(&self) -> bool {
        self.resting.is_empty()
            && self.io.is_passed_on()
            && self.nets().all(|(_, switch)| switch.is_passed_on())
    }

    /// The next deadline of any network, or the end of an endpoint's rest.
    pub(super) fn deadline(&self) -> Option<Tick> {
        let nets = self.nets.iter().flatten();
        let due = nets.filter_map(|net| net.deadline);
        due.chain(self.resting.until()).min()
    }

    /// When an endpoint that holds frames back has one to give.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let held = self.held.iter().filter_map(|&p| self.io.links.get(p));
        held.filter_map(|link| link.endpoint.poll_timeout()).min()
    }

    /// Gives a turn to endpoints whose held frames are due.
    pub(super) fn wake_held(&mut self) {
        let mut at = 0;
        while let Some(&port) = self.held.get(at) {
            let link = self.io.links.get(port);
            if link.is_none_or(|link| !link.endpoint.holds()) {
                self.held.swap_remove(at);
                continue;
            }
            let due = link.and_then(|link| link.endpoint.poll_timeout());
            if due.is_some_and(|at| at <= Instant::now()) {
                self.wake(port);
            }
            at += 1;
        }
    }

    /// Takes an event of a socket. True if the socket may have more for its next turn.
    pub(super) fn handle(&mut self, now: Tick, event: &Event) -> bool {
        let token = event.token();
        match self.io.net_of(token) {
            Some(SHARED) => self.handle_shared(token),
            Some(net) => self
                .with(net, |switch, io| io.handle(switch, now, event))
                .unwrap_or(false),
            None => false,
        }
    }

    /// Gives a socket whose turn was over its next one.
    pub(super) fn again(&mut self, now: Tick, token: Token) -> bool {
        match self.io.net_of(token) {
            Some(SHARED) => self.handle_shared(token),
            Some(net) => self
                .with(net, |switch, io| io.again(switch, now, token))
                .unwrap_or(false),
            None => false,
        }
    }

    /// What a socket of all networks has waits for the end of the batch, where each gets its own.
    fn handle_shared(&mut self, token: Token) -> bool {
        let more = self.io.handle_shared(token);
        for net in self.io.awaited() {
            self.touch(net);
        }
        more
    }

    /// The view of the host has changed: every network takes it over.
    pub(super) fn host_changed(&mut self) {
        let view = self.io.view.load_full();
        self.each(|switch, io| {
            let own: Vec<IpAddr> = view.addresses.clone();
            switch.host_changed(own, view.v6_route);
            switch.advertise(io);
        });
    }

    /// Frames received, and turns taken.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        self.counts
    }

    /// Does something with every network.
    pub(super) fn each(&mut self, mut what: impl FnMut(&mut Switch, &mut HostIo)) {
        for net in 0..u32::try_from(self.nets.len()).unwrap_or(u32::MAX) {
            self.with(net, &mut what);
        }
    }

    /// Gives every endpoint that may have frames its turn. Errors: the endpoint is gone, and why.
    pub(super) fn run_endpoints(&mut self, now: Tick, lost: &mut Vec<(PortId, io::Error)>) {
        for _ in 0..self.ready.len() {
            let Some(port) = self.ready.pop_front() else {
                return;
            };
            match self.turn(now, port) {
                Ok(true) => self.ready.push_back(port),
                Ok(false) => {}
                Err(error) => lost.push((port, error)),
            }
        }
    }

    /// One endpoint's turn: frames until it is empty or its budget is. True if it may have more.
    fn turn(&mut self, now: Tick, port: PortId) -> io::Result<bool> {
        let Some(link) = self.io.links.get_mut(port) else {
            return self.underlay_turn(now, port);
        };
        let net = link.net;
        let Some(Some(found)) = self.nets.get_mut(net as usize) else {
            return Ok(false);
        };
        self.io.net = net;
        let mut turn = Turn::new(self.company.meets(port, now));
        let mut refused = 0;
        let mut more = true;
        while !turn.over() {
            let Some(link) = self.io.links.get_mut(port) else {
                more = false;
                break;
            };
            match link.endpoint.rx(&mut self.buffer) {
                Ok(got) => {
                    let len = got.end - got.start;
                    turn.spend(len);
                    self.counts.0 += 1;
                    link.stats.rx_frames += 1;
                    link.stats.rx_bytes += len as u64;
                    let frame = &self.buffer[got.start..got.end];
                    let switch = &mut found.switch;
                    let verdict = switch.handle_next(&mut self.io, now, port, &got.vnet, frame);
                    if let Verdict::Drop(reason) = verdict
                        && let Some(link) = self.io.links.get_mut(port)
                    {
                        link.stats.drops.count(reason);
                        refused += 1;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                // A link that is down comes up again; until then nothing arrives. One that cannot tell its end then
                // wants to be asked again.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => {
                    if link.endpoint.holds() && !self.held.contains(&port) {
                        self.held.push(port);
                    }
                    more = false;
                    break;
                }
                // Lost or held on a bad link, or shorter than its own header: it had its part of the turn.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    turn.spend(0);
                }
                Err(e) => return Err(e),
            }
        }
        found.switch.end_run(&mut self.io);
        self.touch(net);
        if let Some(link) = self.io.links.get_mut(port) {
            link.ready = more;
            if link.waste.is_all(turn.taken(), refused) && self.rest(now, port) {
                return Ok(false);
            }
        }
        Ok(more)
    }

    /// Ends the batch of every network that something happened to, and does what is due.
    pub(super) fn end_batch(&mut self, now: Tick) {
        for at in 0..self.nets.len() {
            let due = self.nets[at].as_ref().and_then(|net| net.deadline);
            if due.is_some_and(|due| due <= now) {
                self.touch(u32::try_from(at).unwrap_or(u32::MAX));
            }
        }
        let mut still = 0;
        for at in 0..self.active.len() {
            let net = self.active[at];
            let Some(Some(found)) = self.nets.get_mut(net as usize) else {
                continue;
            };
            let (switch, io) = (&mut found.switch, &mut self.io);
            io.net = net;
            switch.flush(io, now);
            io.settle(switch, now);
            self.flaps.extend(std::iter::from_fn(|| switch.take_flap()));
            if switch.poll_timeout().is_some_and(|due| due <= now) {
                switch.handle_timeout(io, now);
            }
            let deadlines = [switch.poll_timeout(), io.poll_timeout(net)];
            found.deadline = deadlines.into_iter().flatten().min();
            found.active = switch.has_ready();
            if found.active {
                self.active[still] = net;
                still += 1;
            }
        }
        self.active.truncate(still);
        self.io.flush_underlay();
        self.follow_ways(now);
        self.counts.1 += 1;
    }
}

/// Adds what an endpoint has lost to its drops and to those of its network.
fn count_losses(nets: &mut [Option<Net>], link: &mut Link) {
    let lost = usize::try_from(link.endpoint.lost()).unwrap_or(usize::MAX);
    if lost == 0 {
        return;
    }
    link.stats.drops.count_many(DropReason::RxOverrun, lost);
    if let Some(Some(net)) = nets.get_mut(link.net as usize) {
        net.switch.count_drops(DropReason::RxOverrun, lost);
    }
}
