//! A helper: one small process per sandbox, which goes into its namespaces and stays there.
//!
//! It makes the interface, hands out sockets opened inside, starts PID 1, and ends when its channel does.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getppid, tcgetpgrp, tcsetpgrp};

use super::broker_proto::{
    Answer, Channel, Command, Event, Failure, FromHelper, FromInit, MAX_FDS, Names, Network,
    SandboxSpec, Target, ToHelper,
};
use super::end_watch::EndWatch;
use super::netns;
use super::{init, sandbox, sys};

/// What a helper is forked for.
#[derive(Debug)]
pub(super) enum Job {
    Create(SandboxSpec),
    Attach(Target, SandboxSpec),
}

/// PID 1 of the sandbox as its helper knows it.
#[derive(Debug)]
struct Init {
    pid: Pid,
    channel: Channel,
}

#[derive(Debug)]
struct Helper {
    broker: Channel,
    spec: SandboxSpec,
    /// The signal mask that the command is to start with.
    mask: SigSet,
    init: Option<Init>,
    joined: Option<EndWatch>,
    /// Taken away with the helper.
    pair: Option<sandbox::Pair>,
}

/// Forks a helper and gives its process and the channel to it.
/// Errors: those of fork(2) and socketpair(2).
pub(super) fn spawn(job: Job, mask: SigSet, foreign: &[BorrowedFd<'_>]) -> Result<(Pid, Channel)> {
    use std::os::fd::AsRawFd;
    let (ours, theirs) = Channel::pair()?;
    let parent = nix::unistd::getpid();
    let ours_raw = ours.fd().as_raw_fd();
    let pid = sys::fork_child(|| {
        // Copies of the broker's ends would keep the other side from seeing the broker's end.
        for fd in foreign {
            sys::close_inherited(fd.as_raw_fd());
        }
        sys::close_inherited(ours_raw);
        let guarded = prctl::set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == parent;
        if !guarded {
            return 1;
        }
        run(job, mask, theirs)
    })
    .context("cannot fork a helper for the sandbox")?;
    Ok((pid, ours))
}

fn run(job: Job, mask: SigSet, broker: Channel) -> i32 {
    let (target, spec) = match job {
        Job::Create(spec) => (None, spec),
        Job::Attach(target, spec) => (Some(target), spec),
    };
    let mut helper = Helper {
        broker,
        spec,
        mask,
        init: None,
        joined: None,
        pair: None,
    };
    let mut fds = Vec::new();
    let answer = match helper.enter(target.as_ref()) {
        Ok((made, warnings)) => {
            let how = made.as_ref().map(|made| made.opened.how);
            fds.extend(made.map(|made| {
                helper.pair = made.pair;
                made.opened.fd
            }));
            Answer::Created {
                pid: nix::unistd::getpid().as_raw(),
                how,
                warnings,
            }
        }
        Err(e) => Answer::Refused(Failure::new(&e)),
    };
    let usable = matches!(answer, Answer::Created { .. });
    let sent = helper.answer(answer, &fds);
    // A copy kept here would hold the interface after the switch has let go of it.
    drop(fds);
    if !usable || sent.is_err() {
        return i32::from(usable);
    }
    let status = match helper.serve() {
        Ok(()) => 0,
        Err(e) => {
            let _ = helper.tell(Event::Lost(format!("the sandbox's helper failed: {e:#}")));
            1
        }
    };
    helper.end_init();
    status
}

impl Helper {
    fn enter(
        &mut self,
        target: Option<&Target>,
    ) -> Result<(Option<sandbox::Interface>, Vec<String>)> {
        if let Some(target) = target {
            self.joined = Some(netns::join(target)?);
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if self.spec.network == Network::Joined {
                // Shared are the network and the rights over it: a host name is the command's own.
                self.make_host_name()?;
                return Ok((None, Vec::new()));
            }
            return sandbox::set_up(&self.spec, false);
        }
        let mut warnings = Vec::new();
        if netns::make_user()? {
            self.ask_for_maps()?;
        } else {
            warnings
                .push("user namespaces are refused here: root inside is root outside".to_owned());
        }
        // The kernel forgets this setting when credentials change.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        netns::make_inner(self.spec.network)?;
        self.set_host_name()?;
        if self.spec.network == Network::Joined {
            // The kernel closes /proc/PID/ns of a process whose credentials change to all but root: whoever is to make
            // the interfaces finds the namespace there.
            prctl::set_dumpable(true)?;
        }
        let (made, more) = sandbox::set_up(&self.spec, true)?;
        warnings.extend(more);
        Ok((made, warnings))
    }

    fn make_host_name(&self) -> Result<()> {
        if self.spec.hostname.is_empty() {
            return Ok(());
        }
        netns::make_inner(Network::Host)?;
        self.set_host_name()
    }

    fn set_host_name(&self) -> Result<()> {
        let name = &self.spec.hostname;
        if name.is_empty() {
            return Ok(());
        }
        nix::unistd::sethostname(name)
            .with_context(|| format!("the kernel refuses the host name {name:?}"))
    }

    fn ask_for_maps(&mut self) -> Result<()> {
        self.broker.send(&FromHelper::MapMe, &[])?;
        match self.broker.receive()? {
            Some((ToHelper::Mapped(None), _)) => Ok(()),
            Some((ToHelper::Mapped(Some(failure)), _)) => Err(failure.into()),
            _ => bail!("the broker has gone"),
        }
    }

    fn answer(&self, answer: Answer, fds: &[OwnedFd]) -> io::Result<()> {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.broker.send(&FromHelper::Answer(answer), &fds)
    }

    fn tell(&self, event: Event) -> io::Result<()> {
        self.broker.send(&FromHelper::Event(event), &[])
    }

    /// Serves until the broker's end of the channel closes.
    fn serve(&mut self) -> Result<()> {
        loop {
            let (from_broker, from_init, from_namespace) = self.wait()?;
            if from_init {
                self.hear_init()?;
            }
            if from_namespace && self.joined.as_ref().is_some_and(EndWatch::has_ended) {
                self.joined = None;
                self.tell(Event::Ended)?;
            }
            if from_broker {
                let Some((request, _)) = self.broker.receive::<ToHelper>()? else {
                    return Ok(());
                };
                self.handle(request)?;
            }
        }
    }

    fn wait(&self) -> Result<(bool, bool, bool)> {
        let mut fds = vec![PollFd::new(self.broker.fd(), PollFlags::POLLIN)];
        if let Some(init) = &self.init {
            fds.push(PollFd::new(init.channel.fd(), PollFlags::POLLIN));
        }
        fds.extend(self.joined.iter().flat_map(EndWatch::poll_fds));
        super::retry(|| poll(&mut fds, PollTimeout::NONE))?;
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let from_broker = ready.next().unwrap_or(false);
        let from_init = self.init.is_some() && ready.next().unwrap_or(false);
        let from_namespace = ready.any(|ready| ready);
        Ok((from_broker, from_init, from_namespace))
    }

    fn handle(&mut self, request: ToHelper) -> Result<()> {
        match request {
            ToHelper::Mapped(_) => {}
            ToHelper::Start(command, names) => {
                self.learn(names);
                let answer = match self.start(&command) {
                    Ok(answer) => answer,
                    Err(e) => Answer::Refused(Failure::new(&e)),
                };
                self.answer(answer, &[])?;
            }
            ToHelper::Signal(number) => {
                if let Some(init) = &self.init {
                    // One that has just ended needs no signal.
                    let _ = init.channel.send(&number, &[]);
                }
            }
            ToHelper::Sockets { v6, count } => match open_sockets(v6, count) {
                Ok(fds) => self.answer(Answer::Descriptors, &fds)?,
                Err(e) => self.answer(Answer::Refused(Failure::new(&e)), &[])?,
            },
        }
        Ok(())
    }

    fn learn(&mut self, names: Names) {
        self.spec.add_host.splice(0..0, names.hosts);
        self.spec.dns.extend(names.dns);
    }

    /// Starts PID 1 and waits until it has executed the command or knows why it cannot.
    fn start(&mut self, command: &Command) -> Result<Answer> {
        if self.init.is_some() {
            bail!("a command runs in this sandbox already");
        }
        for own_pids in [true, false] {
            let (ours, theirs) = Channel::pair()?;
            let pid = match self.fork_init(own_pids, command, &ours, theirs) {
                Ok(pid) => pid,
                Err(_) if own_pids => continue,
                Err(e) => {
                    return Err(anyhow!(
                        "cannot make the mount namespace of the sandbox: {e}"
                    ));
                }
            };
            if !own_pids {
                // PID 1 of nothing: it has to outlive this process to end what the command left behind.
                prctl::set_pdeathsig(None::<Signal>)?;
            }
            let mut init = Init { pid, channel: ours };
            match init.channel.receive()? {
                Some((FromInit::NoProc, _)) => {
                    waitpid(pid, None)?;
                }
                Some((FromInit::Started { warnings }, _)) => {
                    let pid = only_child_of(pid).unwrap_or(pid).as_raw();
                    self.init = Some(init);
                    return Ok(Answer::Started { pid, warnings });
                }
                Some((FromInit::Refused(failure), _)) => {
                    waitpid(pid, None)?;
                    return Ok(Answer::Refused(failure));
                }
                Some((FromInit::Exited(_), _)) | None => {
                    let how = waitpid(pid, None)?;
                    bail!("the sandbox's first process ended before the command began ({how:?})");
                }
            }
        }
        bail!("the sandbox's first process could not be started")
    }

    fn fork_init(
        &self,
        own_pids: bool,
        command: &Command,
        ours: &Channel,
        theirs: Channel,
    ) -> io::Result<Pid> {
        use std::os::fd::AsRawFd;
        let mut namespaces = CloneFlags::CLONE_NEWNS;
        if own_pids {
            namespaces |= CloneFlags::CLONE_NEWPID;
        }
        let (broker, ours) = (self.broker.fd().as_raw_fd(), ours.fd().as_raw_fd());
        sys::fork_child_in(namespaces, || {
            sys::close_inherited(broker);
            sys::close_inherited(ours);
            init::run(&self.spec, command, own_pids, self.mask, theirs)
        })
    }

    fn hear_init(&mut self) -> Result<()> {
        let Some(init) = &mut self.init else {
            return Ok(());
        };
        let said = init.channel.receive::<FromInit>()?;
        let how = waitpid(init.pid, None)?;
        self.init = None;
        take_back_terminal();
        let status = match (said, how) {
            (Some((FromInit::Exited(status), _)), _) => status,
            (_, WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
            _ => 125,
        };
        self.tell(Event::Exited(status))?;
        Ok(())
    }

    fn end_init(&mut self) {
        let Some(init) = self.init.take() else {
            return;
        };
        drop(init.channel);
        // Without a PID namespace PID 1 must do it itself, and does so when its channel closes.
        if prctl::get_pdeathsig().is_ok_and(|signal| signal.is_some()) {
            let _ = kill(init.pid, Signal::SIGKILL);
        }
        let _ = waitpid(init.pid, None);
        take_back_terminal();
    }
}

/// The command as seen from outside: PID 1's child. Needs CONFIG_PROC_CHILDREN.
fn only_child_of(init: Pid) -> Option<Pid> {
    let list = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
    let first = list.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Pid::from_raw(first))
}

/// An interactive shell takes the terminal for itself; whoever started weft must get it back.
fn take_back_terminal() {
    let terminal = io::stdin();
    // A group that still has a member keeps what it has: it is the shell outside.
    if let Ok(holder) = tcgetpgrp(&terminal) {
        let gone = nix::sys::signal::killpg(holder, None) == Err(nix::errno::Errno::ESRCH);
        if gone && holder != getpgrp() {
            let _ = tcsetpgrp(&terminal, getpgrp());
        }
    }
}

/// Opens TCP sockets in the namespace of the calling thread, at most as many as a message carries.
pub(super) fn open_sockets(v6: bool, count: usize) -> Result<Vec<OwnedFd>> {
    let family = if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    (0..count.min(MAX_FDS - 1))
        .map(|_| socket(family, SockType::Stream, flags, None))
        .collect::<Result<_, _>>()
        .context("cannot open a socket in the sandbox")
}
