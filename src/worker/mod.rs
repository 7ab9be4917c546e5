//! A worker: one thread that polls, receives, runs the switch to completion, and transmits.

pub mod board;
pub mod budget;
mod finish;
pub mod spin;
pub mod tunnels;
pub mod underlay;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use mio::{Events, Poll, Token, Waker};
use nix::sys::eventfd::{EfdFlags, EventFd};
use switch_core::addr::PortId;
use switch_core::pipeline::{Flap, Switch};
use switch_core::time::Tick;

use self::board::Board;
use self::finish::Finish;
use self::spin::Spin;
use crate::host::sockets::{FIRST_TOKEN, HostIo};

/// Token of the waker.
const WAKE: Token = Token(FIRST_TOKEN - 1);
/// Between unsolicited router advertisements. Source: RFC 4861 section 6.2.1, MaxRtrAdvInterval.
const ADVERTISE: Duration = Duration::from_secs(600);

/// Requests that wait for a worker at most.
const JOBS: usize = 1024;
/// Lost endpoints that wait to be told at most.
const LOST: usize = 1024;
/// The same of stations that flap.
const FLAPS: usize = 64;

/// Something to be done by a worker between two batches.
pub type Job = Box<dyn FnOnce(&mut Board) + Send>;

/// What the rest of the process says to a worker.
pub struct Signals {
    /// End.
    pub stop: AtomicBool,
    /// End when all that the sandboxes have sent has been passed on: nothing more will come of them.
    pub finish: AtomicBool,
    /// The view of the host has changed.
    pub changed: AtomicBool,
    /// Wakes the worker to look.
    pub waker: Waker,
    jobs: ArrayQueue<Job>,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals")
            .field("jobs", &self.jobs.len())
            .finish_non_exhaustive()
    }
}

impl Signals {
    /// Hands the worker something to do. Errors: gives it back when too much waits already.
    pub fn ask(&self, job: Job) -> Result<(), Job> {
        self.jobs.push(job)?;
        // A worker that is gone has nobody to wake.
        let _ = self.waker.wake();
        Ok(())
    }
}

/// Where workers tell of endpoints that are gone, and of stations that flap.
#[derive(Debug)]
pub struct Lost {
    queue: ArrayQueue<PortId>,
    flaps: ArrayQueue<Flap>,
    told: EventFd,
}

impl Lost {
    /// Nothing is lost yet.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            queue: ArrayQueue::new(LOST),
            flaps: ArrayQueue::new(FLAPS),
            told: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    fn tell(&self, port: PortId) {
        // When full, whoever reads it finds the others by their interfaces.
        let _ = self.queue.push(port);
        let _ = self.told.write(1);
    }

    fn tell_flap(&self, flap: Flap) {
        // Where there are so many, the drops tell of the others.
        let _ = self.flaps.push(flap);
        let _ = self.told.write(1);
    }

    /// The next station that flaps. To be asked when [`Self::next`] has said that there is no more: what comes
    /// after that is told anew.
    #[must_use]
    pub fn next_flap(&self) -> Option<Flap> {
        self.flaps.pop()
    }

    /// The next endpoint that is gone.
    #[must_use]
    pub fn next(&self) -> Option<PortId> {
        let next = self.queue.pop();
        if next.is_none() {
            let _ = self.told.read();
        }
        next.or_else(|| self.queue.pop())
    }

    /// Readable while there is one.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    poll: Poll,
    board: Board,
    signals: Arc<Signals>,
    start: Instant,
    spin: Spin,
    lost: Option<Arc<Lost>>,
}

impl Worker {
    /// Makes a worker. `build` gets the registry that sockets are polled through; `switch` is the network of the
    /// endpoints that it makes. With `lost`, the loss of an endpoint is told there; else it ends the worker.
    pub fn new(
        start: Instant,
        switch: Option<Switch>,
        lost: Option<Arc<Lost>>,
        build: impl FnOnce(mio::Registry) -> HostIo,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let signals = Arc::new(Signals {
            stop: AtomicBool::new(false),
            finish: AtomicBool::new(false),
            changed: AtomicBool::new(true),
            waker: Waker::new(poll.registry(), WAKE)?,
            jobs: ArrayQueue::new(JOBS),
        });
        let io = build(poll.registry().try_clone()?);
        Ok(Self {
            poll,
            board: Board::new(io, switch),
            signals,
            start,
            spin: Spin::new(std::thread::available_parallelism().map_or(1, usize::from)),
            lost,
        })
    }

    /// How to reach it.
    #[must_use]
    pub fn signals(&self) -> Arc<Signals> {
        Arc::clone(&self.signals)
    }

    /// What it works on, for setting up before it runs.
    pub fn board(&mut self) -> &mut Board {
        &mut self.board
    }

    fn now(&self) -> Tick {
        Tick::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Runs until told to end. Errors: the poll itself fails, or an endpoint is gone.
    pub fn run(mut self) -> io::Result<()> {
        self.board.begin()?;
        let mut events = Events::with_capacity(256);
        let (mut again, mut turns): (Vec<Token>, Vec<Token>) = (Vec::new(), Vec::new());
        let mut lost = Vec::new();
        let mut advertise = self.now();
        let mut finish: Option<Finish> = None;
        loop {
            if self.board.is_busy() || !again.is_empty() {
                Self::poll(&mut self.poll, &mut events, Duration::ZERO)?;
            } else {
                let until = finish.as_ref().map_or(advertise, Finish::until);
                self.rest(&mut events, until.min(advertise))?;
            }
            let now = self.now();
            let board = &mut self.board;
            // Two lists that change places: a fresh one each time would be an allocation for every event.
            std::mem::swap(&mut again, &mut turns);
            for token in turns.drain(..) {
                if board.again(now, token) {
                    again.push(token);
                }
            }
            for event in &events {
                match event.token() {
                    WAKE => {
                        if self.signals.stop.load(Ordering::Acquire) {
                            return Ok(());
                        }
                        if finish.is_none() && self.signals.finish.load(Ordering::Acquire) {
                            finish = Some(Finish::begin(now));
                            board.wake_all();
                        }
                        while let Some(job) = self.signals.jobs.pop() {
                            job(board);
                        }
                    }
                    Token(i) if i < WAKE.0 => {
                        board.wake(PortId(u32::try_from(i).unwrap_or(u32::MAX)));
                    }
                    token => {
                        if board.handle(now, event) {
                            again.push(token);
                        }
                    }
                }
            }
            // A socket that was given another turn may have had an event as well.
            again.sort_unstable();
            again.dedup();
            if self.signals.changed.swap(false, Ordering::AcqRel) {
                board.host_changed();
            }
            board.wake_held();
            board.wake_rested(now);
            // Frames before answers: a sandbox that has just reset a connection need not be sent its end.
            board.run_endpoints(now, &mut lost);
            for (port, error) in lost.drain(..) {
                let Some(lost) = &self.lost else {
                    return Err(error);
                };
                board.detach(port);
                lost.tell(port);
            }
            board.end_batch(now);
            for flap in board.flaps.drain(..) {
                if let Some(lost) = &self.lost {
                    lost.tell_flap(flap);
                }
            }
            if advertise <= now {
                advertise = now + ADVERTISE;
                board.each(|switch, io| switch.advertise(io));
            }
            if let Some(finish) = &mut finish {
                let idle = again.is_empty() && !board.is_busy() && board.is_passed_on();
                if finish.is_over(now, !events.is_empty()) || idle {
                    return Ok(());
                }
            }
        }
    }

    /// Waits for events or the next deadline.
    fn rest(&mut self, events: &mut Events, advertise: Tick) -> io::Result<()> {
        let begun = Instant::now();
        let due = self.board.deadline();
        let due = due.map_or(advertise, |at| at.min(advertise));
        let held = self.board.held_until();
        let held = held.map_or(Duration::MAX, |at| at.saturating_duration_since(begun));
        let wait = held.min(due.since(self.now()));
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
}
