//! The broker's own side: one thread, a closed set of requests, one helper for its sandbox. Ends when its channel does.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

use super::broker_proto::{
    Answer, Channel, Event, Failure, FromBroker, FromHelper, Request, SandboxSpec, ToHelper,
};
use super::fleet::server::Fleet;
use super::fleet::{FleetError, Port, PortAt};
use super::helper::{self, Job};
use super::resolver::{RESOLV_CONF, ResolverWatch, Resolvers};
use super::{netns, sys};

/// Connections that wait for us in the kernel, per published port.
const BACKLOG: i32 = 4096;

/// Milliseconds that a helper may take to end its sandbox before it is killed.
const PATIENCE: u16 = 4_000;

/// How long a sandbox lives before the resolver files are watched: the kernel takes 10 to 20 ms to end a watch, and a
/// command that is over sooner should not wait for that.
const WATCH_AFTER: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Helper {
    pid: Pid,
    channel: Channel,
    keep_id: bool,
}

#[derive(Debug)]
struct Server {
    main: Channel,
    mask: SigSet,
    watch: Resolv,
    helper: Option<Helper>,
    /// The namespace that the broker is in may be a sandbox.
    at_home: bool,
    /// None until the first request that is about one of many sandboxes.
    fleet: Option<Fleet>,
}

/// Which descriptors have something to say.
#[derive(Debug, Default)]
struct Ready {
    main: bool,
    watch: bool,
    helper: bool,
    fleet: bool,
    /// The fleet's files, told by the kernel once for each poll.
    files: bool,
}

/// The resolver files: what was known at the start, until they are watched.
#[derive(Debug)]
enum Resolv {
    Later(Instant, Resolvers),
    Now(ResolverWatch),
    /// The kernel refuses a watch.
    Never,
}

impl Resolv {
    const fn watch(&self) -> Option<&ResolverWatch> {
        match self {
            Self::Now(watch) => Some(watch),
            Self::Later(..) | Self::Never => None,
        }
    }
}

/// Serves until the main process closes its end; the result is the broker's exit status.
pub(super) fn run(main: Channel, mask: SigSet, known: Resolvers, at_home: bool) -> i32 {
    let watch = Resolv::Later(Instant::now() + WATCH_AFTER, known);
    let mut server = Server {
        main,
        mask,
        watch,
        helper: None,
        at_home,
        fleet: None,
    };
    let result = server.serve();
    server.end_helper();
    i32::from(result.is_err())
}

impl Server {
    fn serve(&mut self) -> Result<()> {
        loop {
            let ready = self.wait()?;
            self.look_at_resolvers(ready.watch)?;
            if ready.helper {
                self.hear_helper()?;
            }
            let due = self.fleet.as_ref().and_then(Fleet::due);
            if ready.fleet || ready.files || due.is_some_and(|at| at <= Instant::now()) {
                let told = self.fleet.as_mut().map(|fleet| fleet.hear(ready.files));
                for event in told.unwrap_or_default() {
                    self.tell(event)?;
                }
            }
            if ready.main {
                let Some((request, _)) = self.main.receive::<Request>()? else {
                    return Ok(());
                };
                let (answer, fds) = match self.handle(request) {
                    Ok(done) => done,
                    Err(e) => (Answer::Refused(Failure::new(&e)), Vec::new()),
                };
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                self.main.send(&FromBroker::Answer(answer), &fds)?;
            }
        }
    }

    fn wait(&self) -> Result<Ready> {
        let mut fds = vec![PollFd::new(self.main.fd(), PollFlags::POLLIN)];
        if let Some(watch) = self.watch.watch() {
            fds.push(PollFd::new(watch.fd(), PollFlags::POLLIN));
        }
        if let Some(helper) = &self.helper {
            fds.push(PollFd::new(helper.channel.fd(), PollFlags::POLLIN));
        }
        if let Some(fleet) = &self.fleet {
            fds.extend(fleet.poll_fds());
        }
        let watch_at = match &self.watch {
            Resolv::Later(at, _) => Some(*at),
            Resolv::Now(_) | Resolv::Never => None,
        };
        let look_at = self.fleet.as_ref().and_then(Fleet::due);
        let timeout = match watch_at.into_iter().chain(look_at).min() {
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                // Rounded up: a wait of nothing would spin.
                PollTimeout::try_from(left + Duration::from_millis(1))?
            }
            None => PollTimeout::NONE,
        };
        super::retry(|| poll(&mut fds, timeout))?;
        let mut flags = fds.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = |there: bool| there && flags.next().unwrap_or(false);
        Ok(Ready {
            main: next(true),
            watch: next(self.watch.watch().is_some()),
            helper: next(self.helper.is_some()),
            fleet: next(self.fleet.is_some()),
            files: flags.any(|ready| ready),
        })
    }

    fn look_at_resolvers(&mut self, readable: bool) -> Result<()> {
        let news = match &mut self.watch {
            Resolv::Later(at, known) if *at <= Instant::now() => {
                let made = ResolverWatch::new(RESOLV_CONF.as_ref(), std::mem::take(known));
                self.watch = made.map_or(Resolv::Never, Resolv::Now);
                // What has changed before there was a watch.
                match &mut self.watch {
                    Resolv::Now(watch) => watch.read_again(),
                    Resolv::Later(..) | Resolv::Never => None,
                }
            }
            Resolv::Now(watch) if readable => watch.changed(),
            Resolv::Later(..) | Resolv::Now(_) | Resolv::Never => None,
        };
        news.map_or(Ok(()), |now| self.tell(Event::Resolvers(now)))
    }

    fn tell(&self, event: Event) -> Result<()> {
        Ok(self.main.send(&FromBroker::Event(event), &[])?)
    }

    fn hear_helper(&mut self) -> Result<()> {
        let Some(helper) = &mut self.helper else {
            return Ok(());
        };
        match helper.channel.receive::<FromHelper>()? {
            Some((FromHelper::Event(event), _)) => self.tell(event),
            Some((FromHelper::MapMe | FromHelper::Answer(_), _)) => Ok(()),
            None => {
                let how = waitpid(helper.pid, None)?;
                self.helper = None;
                self.tell(Event::Lost(format!(
                    "the sandbox's helper has died ({how:?})"
                )))
            }
        }
    }

    fn handle(&mut self, request: Request) -> Result<(Answer, Vec<OwnedFd>)> {
        match request {
            Request::Create(spec) => self.make(Job::Create(*spec.clone()), &spec),
            Request::Attach(target, spec) => self.make(Job::Attach(target, *spec.clone()), &spec),
            Request::Start(command, names) => self.ask_helper(&ToHelper::Start(command, names)),
            Request::Sockets { v6, count } => self.ask_helper(&ToHelper::Sockets { v6, count }),
            Request::Signal(number) => {
                Signal::try_from(number).with_context(|| format!("{number} is no signal"))?;
                if let Some(helper) = &self.helper {
                    helper.channel.send(&ToHelper::Signal(number), &[])?;
                }
                Ok((Answer::Done, Vec::new()))
            }
            Request::Bind(port) => Ok((Answer::Descriptors, vec![bind(port)?])),
            Request::RawIcmp { v6 } => Ok((Answer::Descriptors, vec![raw_icmp(v6)?])),
            Request::Fleet(request) => Ok(match self.fleet().and_then(|f| f.handle(request)) {
                Ok((answer, fds)) => (Answer::Fleet(Ok(answer)), fds),
                Err(e) => (Answer::Fleet(Err(e)), Vec::new()),
            }),
        }
    }

    fn fleet(&mut self) -> Result<&mut Fleet, FleetError> {
        let fleet = match self.fleet.take() {
            Some(fleet) => fleet,
            None => Fleet::new(self.at_home)?,
        };
        Ok(self.fleet.insert(fleet))
    }

    fn make(&mut self, job: Job, spec: &SandboxSpec) -> Result<(Answer, Vec<OwnedFd>)> {
        if self.helper.is_some() {
            bail!("this broker has a sandbox already");
        }
        let mut foreign = vec![self.main.fd()];
        foreign.extend(self.watch.watch().map(ResolverWatch::fd));
        let (pid, channel) = helper::spawn(job, self.mask, &foreign)?;
        self.helper = Some(Helper {
            pid,
            channel,
            keep_id: spec.keep_id,
        });
        let result = self.await_answer();
        if !matches!(result, Ok((Answer::Created { .. }, _))) {
            self.end_helper();
        }
        result
    }

    fn ask_helper(&mut self, message: &ToHelper) -> Result<(Answer, Vec<OwnedFd>)> {
        let helper = self.helper.as_ref().context("there is no sandbox")?;
        helper
            .channel
            .send(message, &[])
            .context("the sandbox's helper has died")?;
        self.await_answer()
    }

    /// Waits for the helper's answer and serves it meanwhile.
    fn await_answer(&mut self) -> Result<(Answer, Vec<OwnedFd>)> {
        loop {
            let helper = self.helper.as_mut().context("there is no sandbox")?;
            match helper
                .channel
                .receive()?
                .context("the sandbox's helper has died")?
            {
                (FromHelper::Answer(answer), fds) => return Ok((answer, fds)),
                (FromHelper::Event(event), _) => self.tell(event)?,
                (FromHelper::MapMe, _) => {
                    let result = netns::write_maps(helper.pid, helper.keep_id);
                    let failure = result.err().map(|e| Failure::new(&e));
                    helper.channel.send(&ToHelper::Mapped(failure), &[])?;
                }
            }
        }
    }

    fn end_helper(&mut self) {
        let Some(helper) = self.helper.take() else {
            return;
        };
        drop(helper.channel);
        if let Ok(ended) = sys::pidfd_open(helper.pid) {
            let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
            if super::retry(|| poll(&mut fds, PollTimeout::from(PATIENCE))) == Ok(0) {
                let _ = kill(helper.pid, Signal::SIGKILL);
            }
        }
        let _ = super::retry(|| waitpid(helper.pid, None));
    }
}

/// Binds a port of the host. Errors: one line with the advice for it.
pub(super) fn bind(port: Port) -> Result<OwnedFd> {
    let (at, kind, what) = match port {
        Port::Tcp(at) => (at, Type::STREAM, "tcp"),
        Port::Udp(at) => (at, Type::DGRAM, "udp"),
    };
    let addr = at.addr();
    let bound = (|| {
        let socket = Socket::new(Domain::for_address(addr), kind.nonblocking(), None)?;
        if addr.is_ipv6() {
            socket.set_only_v6(matches!(at, PortAt::One(_)))?;
        }
        if kind == Type::STREAM {
            // A port whose last connections are in TIME_WAIT is free.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&addr.into())?;
        if kind == Type::STREAM {
            socket.listen(BACKLOG)?;
        }
        Ok(socket)
    })();
    bound.map(Into::into).map_err(|e: std::io::Error| {
        let advice = match e.raw_os_error() {
            Some(libc::EADDRINUSE) => format!(
                "another program has it; see `ss -lnp sport = :{}`",
                addr.port()
            ),
            Some(libc::EACCES) => format!(
                "ports this low are privileged; take one from 1024 on, run as root, or \
                 `sudo sysctl -w net.ipv4.ip_unprivileged_port_start={}`",
                addr.port()
            ),
            Some(libc::EADDRNOTAVAIL) => {
                "the host has no such address; see `ip address`".to_owned()
            }
            Some(libc::EMFILE) => "raise the limit of open files (ulimit -n)".to_owned(),
            _ => "see `weft doctor`".to_owned(),
        };
        anyhow!(e).context(format!("cannot publish on {at}/{what} ({advice})"))
    })
}

fn raw_icmp(v6: bool) -> Result<OwnedFd> {
    let (domain, protocol) = if v6 {
        (Domain::IPV6, Protocol::ICMPV6)
    } else {
        (Domain::IPV4, Protocol::ICMPV4)
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))
        .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
        .context(
            "a raw ICMP socket is refused: run weft as root, or open net.ipv4.ping_group_range",
        )?;
    Ok(socket.into())
}
