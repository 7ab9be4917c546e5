//! Other hosts: a thread that keeps the sessions with them, hears and tells who has which endpoints, and finds out how
//! large packets on the way may be. Frames are the workers' matter: they get keys and tables from here, and give what is
//! no frame to it.
//!
//! The machines are the core's (`tunnel::seal`, `tunnel::announce`, `tunnel::pmtu`); here is what they need of the
//! world: sockets, a clock, random bytes.
//!
//! Files: `command` is what the plane says and is told, `run` the thread, `install` what the workers get, `member` a peer, `peers` how they come and go,
//! `groups` what of multicast is wanted here, `sources` from which address a peer is answered, `watch` where those are whom somebody waits for.

mod command;
mod groups;
mod install;
mod member;
mod peers;
mod run;
mod sources;
mod tell;
mod watch;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use switch_core::addr::PeerId;
use tokio::sync::oneshot;

pub use self::command::{Asked, Command, Lane, News, Overlay, View};
use self::run::Run;
use crate::worker::Signals;
use crate::worker::underlay::slow::Slow;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the thread is made with.
#[derive(Debug)]
pub struct Start {
    /// The workers' clock.
    pub begun: Instant,
    /// How to reach the workers, in the order of their places.
    pub workers: Vec<Arc<Signals>>,
    /// What they hear that is no frame.
    pub slow: Slow,
    /// The host's private key. Shape: X25519, RFC 7748 section 5.
    pub secret: [u8; 32],
    /// The host's name.
    pub host: String,
    /// The MTU of the way to the world.
    pub link_mtu: u16,
}

/// The thread, and the way to it.
#[derive(Debug)]
pub struct Cluster {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    news: Receiver<News>,
    told: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    /// Starts the thread. Errors: there are no descriptors, or no thread.
    pub fn start(start: Start) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let (wake, told) = (
            Arc::new(EventFd::from_value_and_flags(0, flags)?),
            Arc::new(EventFd::from_value_and_flags(0, flags)?),
        );
        let (commands, taken) = channel();
        let (tell, news) = channel();
        let run = Run::new(start, taken, Arc::clone(&wake), (tell, Arc::clone(&told)))?;
        let thread = std::thread::Builder::new()
            .name("weft-cluster".to_owned())
            .spawn(move || run.run())?;
        Ok(Self {
            commands,
            wake,
            news,
            told,
            thread: Some(thread),
        })
    }

    /// Has the thread do something. False if it has ended, which is a bug.
    pub fn tell(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        // It fails only when it was not read for 2^64 commands.
        let _ = self.wake.write(1);
        sent
    }

    /// Has the thread do something and waits for its answer; `None` if it does not give one in time.
    pub fn ask<R>(&self, what: impl FnOnce(SyncSender<R>) -> Command) -> Option<R> {
        let (answer, answered) = sync_channel(1);
        self.tell(what(answer))
            .then(|| answered.recv_timeout(PATIENCE).ok())
            .flatten()
    }

    /// Sends a peer a question and gives where its answer comes.
    pub fn ping(&self, peer: PeerId) -> oneshot::Receiver<Duration> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Ping { peer, answer });
        answered
    }

    /// Readable when there is news.
    #[must_use]
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&*self.told)
    }

    /// The next thing that happened. To be asked until there is none.
    #[must_use]
    pub fn next(&self) -> Option<News> {
        // Before the queue is looked at: what comes after that is told anew.
        let next = self.news.try_recv().ok();
        if next.is_none() {
            let _ = self.told.read();
        }
        next.or_else(|| self.news.try_recv().ok())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::warn!("the thread for peers has panicked; this is a bug of weft");
        }
    }
}
