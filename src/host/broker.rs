//! The broker as the main process sees it: a child in the start context that keeps the rights which weft gives up.
//!
//! Order: [`Broker::spawn`] before any thread exists; then [`Broker::create`] or [`Broker::attach`]; ports and sockets;
//! when the worker is ready [`Broker::start`]; then poll [`Broker::fd`] and take [`Broker::next_event`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid, getppid};

pub use super::broker_proto::{
    Address, Command, Event, Failure, MAX_FDS, Names, Network, SandboxSpec, Target,
};
use super::broker_proto::{Answer, Channel, FromBroker, Request};
use super::fleet::{self, Port, SandboxId};
use super::resolver::Resolvers;
use super::{serve, sys};
use crate::endpoint::Opened;

/// Milliseconds that the broker may take to end its sandbox before it is killed.
const PATIENCE: u16 = 5_000;

/// A sandbox that exists and waits for its command.
#[derive(Debug)]
pub struct Created {
    /// A process that is in the sandbox's namespaces as long as the broker lives; it can be named to others.
    pub pid: i32,
    /// The interface inside, where the spec asked for a private network.
    pub opened: Option<Opened>,
    /// What could not be had; each is one line for the log.
    pub warnings: Vec<String>,
}

/// A command that runs.
#[derive(Debug)]
pub struct Started {
    /// The command's process, as seen from outside.
    pub pid: i32,
    /// What could not be had; each is one line for the log.
    pub warnings: Vec<String>,
}

/// Sockets that were asked for and not waited for: for IPv6 or not, of the one sandbox or of one of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Own(bool),
    In(SandboxId, bool),
}

/// The broker process and the channel to it. Dropping it ends the sandbox and waits for every process of it.
#[derive(Debug)]
pub struct Broker {
    pid: Pid,
    channel: Option<Channel>,
    events: VecDeque<Event>,
    /// Families of sockets that are asked for and have not come.
    wishes: VecDeque<Wish>,
    arrived: VecDeque<Arrived>,
    arrived_in: VecDeque<fleet::Arrived>,
    resolvers: Resolvers,
}

/// Sockets of a family (IPv6 or not) that were asked for by [`Broker::want_sockets`].
pub type Arrived = (bool, Result<Vec<OwnedFd>>);

impl Broker {
    /// Forks the broker. Signals blocked or not at this moment are so for the command as well.
    /// Errors: the process has threads already; those of fork(2).
    pub fn spawn() -> Result<Self> {
        Self::spawn_without(&[])
    }

    /// As [`Self::spawn`]; the descriptors in `private` stay with the calling process alone, so that whoever reads
    /// the other end of such a pipe sees it close.
    /// Errors: as [`Self::spawn`].
    pub fn spawn_without(private: &[RawFd]) -> Result<Self> {
        Self::fork(private, false)
    }

    /// As [`Self::spawn`]; the network namespace that it runs in itself may be a sandbox, the only one that needs no right to
    /// go into any: `CAP_NET_ADMIN` in it is enough.
    /// Errors: as [`Self::spawn`].
    pub fn spawn_at_home() -> Result<Self> {
        Self::fork(&[], true)
    }

    fn fork(private: &[RawFd], at_home: bool) -> Result<Self> {
        let (ours, theirs) = Channel::pair().context("cannot make the broker's channel")?;
        let resolvers = Resolvers::of_host();
        let known = resolvers.clone();
        let parent = getpid();
        let ours_raw = ours.fd().as_raw_fd();
        let mask = SigSet::thread_get_mask()?;
        let pid = sys::fork_child(|| {
            sys::close_inherited(ours_raw);
            for fd in private.iter().filter(|fd| **fd > 2) {
                sys::close_inherited(*fd);
            }
            // A terminal's signals go to the whole group; what ends this process is the end of its channel.
            let blocked = block_terminal_signals().is_ok();
            let guarded = prctl::set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == parent;
            if !blocked || !guarded {
                return 1;
            }
            serve::run(theirs, mask, known, at_home)
        })
        .context("cannot fork the broker")?;
        Ok(Self {
            pid,
            channel: Some(ours),
            events: VecDeque::new(),
            wishes: VecDeque::new(),
            arrived: VecDeque::new(),
            arrived_in: VecDeque::new(),
            resolvers,
        })
    }

    /// The broker's process.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// The host's resolvers as last heard of.
    #[must_use]
    pub const fn resolvers(&self) -> &Resolvers {
        &self.resolvers
    }

    /// Makes a sandbox: namespaces, the TAP, addresses and routes. Nothing runs in it yet.
    /// Errors: [`Failure`], one line: what this machine refuses and how to mend it.
    pub fn create(&mut self, spec: &SandboxSpec) -> Result<Created> {
        self.made(&Request::Create(Box::new(spec.clone())))
    }

    /// Joins a network namespace that exists and makes the TAP there.
    /// Errors: [`Failure`], one line: no such namespace, another user's, or the interface's name is taken.
    pub fn attach(&mut self, target: &Target, spec: &SandboxSpec) -> Result<Created> {
        self.made(&Request::Attach(target.clone(), Box::new(spec.clone())))
    }

    fn made(&mut self, request: &Request) -> Result<Created> {
        let (answer, mut fds) = self.ask(request)?;
        let Answer::Created { pid, how, warnings } = answer else {
            bail!("the broker answered out of turn: {answer:?}");
        };
        let opened = how.zip(fds.pop()).map(|(how, fd)| Opened { fd, how });
        Ok(Created {
            pid,
            opened,
            warnings,
        })
    }

    /// Starts the command in the sandbox.
    /// Errors: [`Failure`] with status 126 or 127 when it cannot be executed or found.
    pub fn start(&mut self, command: &Command) -> Result<Started> {
        self.start_with(command, &Names::default())
    }

    /// As [`Self::start`], with names that have become known since the sandbox was made.
    /// Errors: as there.
    pub fn start_with(&mut self, command: &Command, names: &Names) -> Result<Started> {
        let request = Request::Start(command.clone(), names.clone());
        let answer = self.ask(&request)?.0;
        let Answer::Started { pid, warnings } = answer else {
            bail!("the broker answered out of turn: {answer:?}");
        };
        Ok(Started { pid, warnings })
    }

    /// Sends a signal to the command. Errors: the number is no signal; the broker has gone.
    pub fn signal(&mut self, number: i32) -> Result<()> {
        self.ask(&Request::Signal(number)).map(|_| ())
    }

    /// Binds a port of the host, privileged ones too where weft was started with the right to. The socket does not
    /// block; one of TCP listens.
    /// Errors: [`Failure`] with the error number: the port is in use, or privileged.
    pub fn bind_port(&mut self, port: Port) -> Result<OwnedFd> {
        self.one(&Request::Bind(port))
    }

    /// Opens a raw ICMP or ICMPv6 socket, which does not block.
    /// Errors: [`Failure`] with `EPERM` where weft was started without the right to.
    pub fn raw_icmp(&mut self, v6: bool) -> Result<OwnedFd> {
        self.one(&Request::RawIcmp { v6 })
    }

    /// Opens unconnected TCP sockets inside the sandbox, at most [`MAX_FDS`] less one; they do not block.
    /// Errors: [`Failure`]: there is no sandbox, or it is out of descriptors.
    pub fn sandbox_sockets(&mut self, v6: bool, count: usize) -> Result<Vec<OwnedFd>> {
        Ok(self.ask(&Request::Sockets { v6, count })?.1)
    }

    /// Asks for sockets as [`Self::sandbox_sockets`] does, and waits for none: they come by [`Self::next_sockets`],
    /// after [`Self::fd`] was readable and [`Self::next_event`] was taken. One wish a family is heard at a time.
    /// Errors: the broker has died.
    pub fn want_sockets(&mut self, v6: bool, count: usize) -> Result<()> {
        self.wish(Wish::Own(v6), &Request::Sockets { v6, count })
    }

    pub(super) fn wish(&mut self, wish: Wish, request: &Request) -> Result<()> {
        if self.wishes.contains(&wish) {
            return Ok(());
        }
        let channel = self.channel.as_ref().context("the broker has died")?;
        channel.send(request, &[]).context("the broker has died")?;
        self.wishes.push_back(wish);
        Ok(())
    }

    /// Sockets that have come, or why they have not. Never blocks.
    pub fn next_sockets(&mut self) -> Option<Arrived> {
        self.arrived.pop_front()
    }

    /// As [`Self::next_sockets`], of one of many sandboxes.
    pub fn next_sockets_in(&mut self) -> Option<fleet::Arrived> {
        self.arrived_in.pop_front()
    }

    /// Keeps an answer that belongs to a wish, and gives any other back: answers come in the order of the requests.
    fn keep_for_wish(
        &mut self,
        answer: Answer,
        fds: Vec<OwnedFd>,
    ) -> Option<(Answer, Vec<OwnedFd>)> {
        match self.wishes.pop_front() {
            None => return Some((answer, fds)),
            Some(Wish::Own(v6)) => {
                let result = match answer {
                    Answer::Refused(failure) => Err(failure.into()),
                    Answer::Descriptors
                    | Answer::Done
                    | Answer::Created { .. }
                    | Answer::Started { .. }
                    | Answer::Fleet(_) => Ok(fds),
                };
                self.arrived.push_back((v6, result));
            }
            Some(Wish::In(id, v6)) => {
                let result = match answer {
                    Answer::Fleet(result) => result.map(|_| fds),
                    Answer::Refused(_)
                    | Answer::Descriptors
                    | Answer::Done
                    | Answer::Created { .. }
                    | Answer::Started { .. } => Ok(fds),
                };
                self.arrived_in.push_back((id, v6, result));
            }
        }
        None
    }

    /// The descriptor to poll for reading; readable when an event waits in the kernel.
    /// Events heard while an answer was awaited are not there: take [`Self::next_event`] until `None` before polling.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(Channel::fd)
    }

    /// The next event, if one waits. Never blocks.
    pub fn next_event(&mut self) -> Option<Event> {
        let event = loop {
            if let Some(event) = self.events.pop_front() {
                break event;
            }
            match self.channel.as_mut()?.try_receive() {
                Ok(Some((FromBroker::Event(event), _))) => break event,
                Ok(Some((FromBroker::Answer(answer), fds))) => {
                    // One that nobody waits for any more goes.
                    let _ = self.keep_for_wish(answer, fds);
                }
                Ok(None) => break self.lost("the broker has died"),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(e) => break self.lost(&format!("the broker cannot be understood: {e}")),
            }
        };
        if let Event::Resolvers(now) = &event {
            self.resolvers = now.clone();
        }
        Some(event)
    }

    fn lost(&mut self, why: &str) -> Event {
        self.channel = None;
        Event::Lost(why.to_owned())
    }

    fn one(&mut self, request: &Request) -> Result<OwnedFd> {
        self.ask(request)?
            .1
            .pop()
            .context("the broker sent no descriptor")
    }

    pub(super) fn ask(&mut self, request: &Request) -> Result<(Answer, Vec<OwnedFd>)> {
        let channel = self.channel.as_mut().context("the broker has died")?;
        channel.send(request, &[]).context("the broker has died")?;
        loop {
            let channel = self.channel.as_mut().context("the broker has died")?;
            match channel.receive()?.context("the broker has died")? {
                (FromBroker::Answer(answer), fds) => match self.keep_for_wish(answer, fds) {
                    Some((Answer::Refused(failure), _)) => return Err(failure.into()),
                    Some(mine) => return Ok(mine),
                    None => {}
                },
                (FromBroker::Event(event), _) => self.events.push_back(event),
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.channel = None;
        if let Ok(ended) = sys::pidfd_open(self.pid) {
            let mut fds = [PollFd::new(
                std::os::fd::AsFd::as_fd(&ended),
                PollFlags::POLLIN,
            )];
            let patience = PollTimeout::from(PATIENCE);
            if super::retry(|| poll(&mut fds, patience)) == Ok(0) {
                let _ = kill(self.pid, Signal::SIGKILL);
            }
        }
        let _ = super::retry(|| waitpid(self.pid, None));
    }
}

fn block_terminal_signals() -> nix::Result<()> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTTOU,
        Signal::SIGTTIN,
    ] {
        set.add(signal);
    }
    set.thread_block()
}

#[cfg(test)]
#[path = "broker_tests.rs"]
mod tests;
