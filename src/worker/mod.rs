//! A worker: one thread that polls, receives, runs the switch to completion, and transmits.

pub mod budget;
pub mod spin;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use switch_core::addr::PortId;
use switch_core::pipeline::Switch;
use switch_core::time::Tick;

use self::budget::Turn;
use self::spin::Spin;
use crate::endpoint::RX_BUFFER;
use crate::host::sockets::{FIRST_TOKEN, HostIo};

/// Token of the waker.
const WAKE: Token = Token(FIRST_TOKEN - 1);
/// Between unsolicited router advertisements. Source: RFC 4861 section 6.2.1, MaxRtrAdvInterval.
const ADVERTISE: Duration = Duration::from_secs(600);

/// What the rest of the process says to a worker.
#[derive(Debug)]
pub struct Signals {
    /// End.
    pub stop: AtomicBool,
    /// The view of the host has changed.
    pub changed: AtomicBool,
    /// Wakes the worker to look.
    pub waker: Waker,
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    poll: Poll,
    switch: Switch,
    io: HostIo,
    signals: Arc<Signals>,
    start: Instant,
    buffer: Vec<u8>,
    spin: Spin,
}

impl Worker {
    /// Makes a worker. `build` gets the registry that sockets are polled through.
    pub fn new(
        start: Instant,
        switch: Switch,
        build: impl FnOnce(mio::Registry) -> HostIo,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let signals = Arc::new(Signals {
            stop: AtomicBool::new(false),
            changed: AtomicBool::new(true),
            waker: Waker::new(poll.registry(), WAKE)?,
        });
        let io = build(poll.registry().try_clone()?);
        Ok(Self {
            poll,
            switch,
            io,
            signals,
            start,
            buffer: vec![0; RX_BUFFER],
            spin: Spin::new(std::thread::available_parallelism().map_or(1, usize::from)),
        })
    }

    /// How to reach it.
    #[must_use]
    pub fn signals(&self) -> Arc<Signals> {
        Arc::clone(&self.signals)
    }

    /// The parts, for setting up before it runs.
    pub fn parts(&mut self) -> (&mut Switch, &mut HostIo) {
        (&mut self.switch, &mut self.io)
    }

    fn now(&self) -> Tick {
        Tick::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Runs until told to stop. Errors: the poll itself fails, or an endpoint is gone.
    pub fn run(mut self) -> io::Result<()> {
        let mut ready = vec![false; self.io.endpoints.len()];
        for (i, endpoint) in self.io.endpoints.iter().enumerate() {
            if let Some(fd) = endpoint.fd() {
                self.poll
                    .registry()
                    .register(&mut SourceFd(&fd), Token(i), Interest::READABLE)?;
                ready[i] = true;
            }
        }
        let mut events = Events::with_capacity(256);
        let (mut again, mut turns): (Vec<Token>, Vec<Token>) = (Vec::new(), Vec::new());
        let mut advertise = self.now();
        loop {
            let busy = ready.contains(&true) || self.switch.has_ready() || !again.is_empty();
            if busy {
                Self::poll(&mut self.poll, &mut events, Duration::ZERO)?;
            } else {
                self.rest(&mut events, advertise)?;
            }
            let now = self.now();
            // Two lists that change places: a fresh one each time would be an allocation for every event.
            std::mem::swap(&mut again, &mut turns);
            for token in turns.drain(..) {
                if self.io.again(&mut self.switch, now, token) {
                    again.push(token);
                }
            }
            for event in &events {
                match event.token() {
                    WAKE => {
                        if self.signals.stop.load(Ordering::Acquire) {
                            return Ok(());
                        }
                    }
                    Token(i) if i < ready.len() => ready[i] = true,
                    token => {
                        if self.io.handle(&mut self.switch, now, event) {
                            again.push(token);
                        }
                    }
                }
            }
            // A socket that was given another turn may have had an event as well.
            again.sort_unstable();
            again.dedup();
            if self.signals.changed.swap(false, Ordering::AcqRel) {
                let view = self.io.view.load_full();
                self.switch
                    .host_changed(view.addresses.clone(), view.v6_route);
                self.switch.advertise(&mut self.io);
            }
            self.wake_held(&mut ready);
            // Frames before answers: a sandbox that has just reset a connection need not be sent its end.
            for (i, flag) in ready.iter_mut().enumerate().filter(|(_, flag)| **flag) {
                *flag = Self::turn(&mut self.switch, &mut self.io, &mut self.buffer, now, i)?;
            }
            self.switch.flush(&mut self.io, now);
            self.io.settle(&mut self.switch, now);
            if self.switch.poll_timeout().is_some_and(|at| at <= now) {
                self.switch.handle_timeout(&mut self.io, now);
            }
            if advertise <= now {
                advertise = now + ADVERTISE;
                self.switch.advertise(&mut self.io);
            }
        }
    }

    /// Waits for events or the next deadline.
    fn rest(&mut self, events: &mut Events, advertise: Tick) -> io::Result<()> {
        let deadline = self
            .switch
            .poll_timeout()
            .map_or(advertise, |at| at.min(advertise));
        let begun = Instant::now();
        let held = self.io.endpoints.iter().filter_map(|e| e.poll_timeout());
        let wait = held
            .min()
            .map_or(Duration::MAX, |at| at.saturating_duration_since(begun));
        let wait = wait.min(deadline.since(self.now()));
        let window = self.spin.window().min(wait);
        while begun.elapsed() < window {
            Self::poll(&mut self.poll, events, Duration::ZERO)?;
            if !events.is_empty() {
                break;
            }
            std::thread::yield_now();
        }
        if events.is_empty() || window.is_zero() {
            Self::poll(&mut self.poll, events, wait)?;
        }
        self.spin.waited(begun.elapsed());
        Ok(())
    }

    /// Polls; a signal counts as nothing having happened.
    fn poll(poll: &mut Poll, events: &mut Events, wait: Duration) -> io::Result<()> {
        match poll.poll(events, Some(wait)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            other => other,
        }
    }

    /// Gives a turn to endpoints that hold frames back which are now due.
    fn wake_held(&self, ready: &mut [bool]) {
        for (flag, endpoint) in ready.iter_mut().zip(&self.io.endpoints) {
            *flag |= endpoint
                .poll_timeout()
                .is_some_and(|at| at <= Instant::now());
        }
    }

    /// One endpoint's turn: frames until it is empty or its budget is. True if it may have more.
    fn turn(
        switch: &mut Switch,
        io: &mut HostIo,
        buffer: &mut [u8],
        now: Tick,
        index: usize,
    ) -> io::Result<bool> {
        let port = PortId(u32::try_from(index).unwrap_or(u32::MAX));
        let mut turn = Turn::default();
        while !turn.over() {
            match io.endpoints[index].rx(buffer) {
                Ok(got) => {
                    turn.spend(got.end - got.start);
                    switch.handle_frame(io, now, port, &got.vnet, &buffer[got.start..got.end]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // Lost or held on a bad link, or shorter than its own header: it had its part of the turn.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    turn.spend(0);
                }
                // A link that is down comes up again; until then nothing arrives.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}
