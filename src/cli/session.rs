//! A sandbox on a switch of its own: what `run` and `attach` have in common, in the order of design:
//! fork the broker, open everything, drop what is not needed any more, then start threads.

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use socket2::Socket;
use switch_core::addr::{NetworkId, PortId};
use switch_core::flow::tcp::Limits;
use switch_core::l2::table::MacTable;
use switch_core::pipeline::{Config, Port, Switch};
use switch_core::policy::host_rule::HostRule;
use switch_core::respond::{Gateway, Guest};
use switch_core::time::Tick;

use super::join::{self, Joined};
use super::publish::{self, Bound};
use super::{exit, sys};
use crate::config::{NetworkMode, RunConfig, Target};
use crate::endpoint::wrap::captured::Captured;
use crate::endpoint::wrap::fault::Faulty;
use crate::endpoint::wrap::pcap::PcapWriter;
use crate::endpoint::{Caps, Opened};
use crate::host::broker::{Arrived, Broker, Created};
use crate::host::broker_proto::{Address, Event, Names, Network, SandboxSpec};
use crate::host::netwatch::NetWatch;
use crate::host::privileges;
use crate::host::sockets::splice::Stock;
use crate::host::sockets::{HostIo, HostView};
use crate::host::start;
use crate::worker::{Signals, Worker};

/// Stations that the table has room for: one sandbox, and what it may bridge.
const STATIONS: usize = 256;
/// Signals that are passed on to the command.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// A running switch and what feeds it.
pub struct Session {
    /// Goes first: its networks are left while the sandbox is still there.
    joined: Option<Joined>,
    /// The broker.
    pub broker: Broker,
    /// A process in the sandbox's namespaces.
    inside: i32,
    config: RunConfig,
    worker: Option<(JoinHandle<std::io::Result<()>>, Arc<Signals>)>,
    view: Arc<ArcSwap<HostView>>,
    signals: SignalFd,
    watch: Option<NetWatch>,
    stock: Option<Arc<Stock>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What ended a session, or interrupted it.
#[derive(Debug)]
pub enum Outcome {
    /// The command ended with this status.
    Exited(i32),
    /// The namespace that was attached to is gone.
    Ended,
    /// A signal asked for the end.
    Signal(Signal),
    /// The sandbox's interface is gone, and the switch with it; the command may go on.
    NetworkLost(String),
    /// The sandbox's processes are lost.
    Failed(String),
}

/// The sandbox that a configuration asks for.
#[must_use]
pub fn spec(config: &RunConfig) -> SandboxSpec {
    let mut dns: Vec<IpAddr> = Vec::new();
    dns.extend(config.v4.map(|s| IpAddr::V4(s.gateway)));
    dns.extend(config.v6.map(|s| IpAddr::V6(s.gateway)));
    SandboxSpec {
        network: match config.network {
            NetworkMode::Private | NetworkMode::Netns(_) => Network::Private,
            NetworkMode::None => Network::None,
            NetworkMode::Host => Network::Host,
            NetworkMode::Joined(_) | NetworkMode::Shared(_) => Network::Joined,
        },
        kind: config.kind.map(Into::into),
        ifname: config.ifname.clone(),
        mac: config.mac,
        mtu: config.mtu,
        gso_max_size: None,
        vnet: true,
        v4: config.v4.map(|s| Address {
            addr: s.guest,
            prefix: s.prefix,
            gateway: s.gateway,
        }),
        v6: config.v6.map(|s| Address {
            addr: s.guest,
            prefix: s.prefix,
            gateway: s.gateway,
        }),
        // A namespace that exists has its own.
        hostname: match config.target {
            Target::Command(_) => config.hostname.clone(),
            Target::Pid(_) | Target::Netns(_) => String::new(),
        },
        dns,
        search: config.dns_search.clone(),
        add_host: config
            .hosts
            .iter()
            .map(|h| (h.name.clone(), h.addr))
            .collect(),
        keep_id: config.keep_id,
        configure: true,
    }
}

impl Session {
    /// Starts the switch of a sandbox. Must be called while the process has one thread.
    /// Errors: one line; nothing is left behind.
    pub fn start(
        config: RunConfig,
        make: impl FnOnce(&mut Broker, &SandboxSpec) -> Result<Created>,
    ) -> Result<Self> {
        // Whoever waits at the other end of --ready-fd must see it close when we are done with it.
        let mut broker = Broker::spawn_without(config.ready_fd.as_slice())?;
        let spec = SandboxSpec {
            search: if config.dns_search.is_empty() {
                broker.resolvers().search.clone()
            } else {
                config.dns_search.clone()
            },
            ..spec(&config)
        };
        let created = make(&mut broker, &spec)?;
        for warning in &created.warnings {
            exit::complain(format_args!("warning: {warning}"));
        }
        let limit = privileges::raise_descriptor_limit()?;
        tracing::debug!(limit, "descriptors");
        let bound = publish::bind(&mut broker, &config)?;
        let capture = config.pcap.as_deref().map(|path| {
            let file = File::create(path)
                .with_context(|| format!("--pcap: cannot create {}", path.display()))?;
            PcapWriter::new(file, &config.ifname)
                .with_context(|| format!("--pcap: cannot write {}", path.display()))
        });
        let capture = capture.transpose()?;
        let raw_icmp = [
            start::raw_icmp(&mut broker, false),
            start::raw_icmp(&mut broker, true),
        ];
        let watch = NetWatch::open().ok();
        let mask: SigSet = PASSED_ON.into_iter().collect();
        mask.thread_block().context("blocking signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("opening a signal descriptor")?;
        let user = config.user.map(|u| u.uid.to_string());
        privileges::lock_down(user.as_deref())?;
        let view = Arc::new(ArcSwap::from_pointee(HostView {
            resolvers: if config.dns.is_empty() {
                broker.resolvers().servers.clone()
            } else {
                config.dns.clone()
            },
            ..HostView::default()
        }));
        let mut session = Self {
            joined: None,
            broker,
            inside: created.pid,
            config,
            worker: None,
            view,
            signals,
            watch,
            stock: None,
        };
        session.look_at_host();
        if let Some(opened) = created.opened {
            session.spawn(opened, bound, capture, raw_icmp)?;
        }
        Ok(session)
    }

    /// Joins the networks of a switch where those are asked for, and gives what the command is to know of them.
    /// Errors: no switch listens, or what it refuses; no network is joined then.
    pub fn join(&mut self) -> Result<Names> {
        let NetworkMode::Joined(networks) = &self.config.network else {
            return Ok(Names::default());
        };
        let joined = Joined::connect(networks, &self.config.target, self.inside)?;
        let names = joined.names(&self.config.hostname)?;
        self.joined = Some(joined);
        Ok(names)
    }

    fn spawn(
        &mut self,
        opened: Opened,
        bound: Bound,
        capture: Option<PcapWriter>,
        raw_icmp: [Option<Socket>; 2],
    ) -> Result<()> {
        let start = Instant::now();
        let caps = opened.how.caps;
        // Spliced bytes never pass the endpoint: a capture would not show them, and no bad link meet them.
        if capture.is_none() && self.config.impair.is_none() {
            self.stock = self.open_stock(&bound);
        }
        let mut endpoint = opened.endpoint(true).context("the sandbox's interface")?;
        if let Some(writer) = capture {
            endpoint = Box::new(Captured::new(endpoint, writer));
        }
        // The capture is on the sandbox's side of a bad link: it shows what the sandbox sends and gets.
        if let Some(plan) = self.config.impair {
            endpoint = Box::new(Faulty::new(endpoint, plan));
        }
        let switch = Switch::new(
            Tick::ZERO,
            self.switch_config(caps, bound.ranges.clone()),
            Arc::new(MacTable::new(STATIONS)),
        );
        let view = Arc::clone(&self.view);
        let mut worker = Worker::new(start, Some(switch), None, |registry| {
            HostIo::new(registry, vec![endpoint], view, raw_icmp)
        })
        .context("starting a worker")?;
        if let Some(stock) = &self.stock {
            let io = &mut worker.board().io;
            io.splice_to(PortId(0), Arc::clone(stock));
        }
        let published = worker.board().with(0, |switch, io| open(switch, io, bound));
        published.unwrap_or(Ok(()))?;
        let signals = worker.signals();
        let thread = std::thread::Builder::new()
            .name("weft-worker-0".to_owned())
            .spawn(move || worker.run())
            .context("starting a worker")?;
        self.worker = Some((thread, signals));
        Ok(())
    }

    /// Opens sockets inside for clients on the host's loopback. Without them the way through the switch is taken.
    fn open_stock(&mut self, bound: &Bound) -> Option<Arc<Stock>> {
        let v4 = bound.tcp.iter().any(|(_, leads)| leads.v4.is_some());
        let v6 = bound.tcp.iter().any(|(_, leads)| leads.v6.is_some());
        let stock = Stock::new(v4, v6).ok().filter(|_| v4 || v6)?;
        for (v6, count) in stock.missing() {
            let opened = self.broker.sandbox_sockets(v6, count);
            restock(&stock, (v6, opened));
        }
        Some(Arc::new(stock))
    }

    fn switch_config(&self, caps: Caps, published: Vec<(u8, u16, u16)>) -> Config {
        let c = &self.config;
        let guest = Guest {
            mac: c.mac,
            name: c.name.clone(),
            v4: c.v4.map(|s| s.guest),
            v6: c.v6.map(|s| s.guest),
        };
        Config {
            network: NetworkId(0),
            gateway: Gateway {
                mac: c.gateway_mac,
                v4: c.v4.map(|s| (s.gateway, s.prefix)),
                v6: c.v6.map(|s| (s.gateway, s.prefix)),
                mtu: c.mtu,
                uplink: true,
                v6_default_route: self.view.load().v6_route,
                search: c.dns_search.clone(),
                guests: vec![guest].into(),
                hosts: c.hosts.iter().map(|h| (h.name.clone(), h.addr)).collect(),
            },
            ports: vec![Port::new(PortId(0), c.mac, c.mtu, caps.uso)],
            icc: true,
            rule: HostRule {
                loopback_v4: c.loopback_v4,
                loopback_v6: c.loopback_v6,
                host_access: c.host_access,
                published: published.into(),
            },
            filter: c.udp_filter.into(),
            ephemeral: start::local_port_range(),
            limits: Limits::default(),
            seeds: start::random_seeds(),
        }
    }

    /// Says that the network is up, where that was asked for.
    pub fn announce(&self) -> Result<()> {
        if let Some(path) = &self.config.pid_file {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .with_context(|| format!("--pid-file: cannot write {}", path.display()))?;
        }
        if let Some(fd) = self.config.ready_fd {
            let mut file = File::from(sys::take_fd(fd)?);
            file.write_all(b"1").context("--ready-fd")?;
        }
        Ok(())
    }

    /// Waits for something that ends the session. Signals that a terminal sent have reached the command already.
    pub fn wait(&mut self) -> Result<Outcome> {
        loop {
            let watch = self.watch.as_ref().map(NetWatch::fd);
            let mut fds: Vec<PollFd<'_>> =
                vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(
                self.broker
                    .fd()
                    .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
            );
            fds.extend(watch.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            let stock = self.stock.as_deref();
            fds.extend(stock.map(|s| PollFd::new(s.wanted(), PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::from(1000u16)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e).context("waiting for events"),
            }
            let is_low = stock.is_some() && fds.last().is_some_and(|fd| fd.any() == Some(true));
            if let Some(stock) = self.stock.as_deref().filter(|_| is_low) {
                for (v6, count) in stock.missing() {
                    // A broker that has died is told as an event.
                    let _ = self.broker.want_sockets(v6, count);
                }
            }
            if let Ok(Some(info)) = self.signals.read_signal()
                && let Ok(signal) = Signal::try_from(info.ssi_signo.cast_signed())
                && info.ssi_code <= 0
            {
                return Ok(Outcome::Signal(signal));
            }
            while let Some(event) = self.broker.next_event() {
                match event {
                    Event::Exited(status) => return Ok(Outcome::Exited(status)),
                    Event::Ended => return Ok(Outcome::Ended),
                    Event::Lost(why) => return Ok(Outcome::Failed(why)),
                    Event::Resolvers(found) if self.config.dns.is_empty() => {
                        self.view.rcu(|old| HostView {
                            resolvers: found.servers.clone(),
                            ..HostView::clone(old)
                        });
                    }
                    // Of sandboxes that only a daemon has.
                    Event::SandboxEnded(_) => {}
                    Event::Resolvers(_) => {}
                }
            }
            while let Some(arrived) = self.broker.next_sockets() {
                if let Some(stock) = self.stock.as_deref() {
                    restock(stock, arrived);
                }
            }
            if self
                .watch
                .as_mut()
                .is_some_and(|w| w.update().unwrap_or(false))
            {
                self.look_at_host();
            }
            if self
                .worker
                .as_ref()
                .is_some_and(|(thread, _)| thread.is_finished())
            {
                let why = self
                    .stop()
                    .err()
                    .map_or_else(|| "the worker ended".to_owned(), |e| format!("{e:#}"));
                return Ok(Outcome::NetworkLost(why));
            }
        }
    }

    /// Takes over what the kernel says of the host's addresses and routes.
    fn look_at_host(&mut self) {
        let Some(watch) = &self.watch else { return };
        self.view.rcu(|old| old.following(watch.state()));
        if let Some((_, signals)) = &self.worker {
            signals.changed.store(true, Ordering::Release);
            let _ = signals.waker.wake();
        }
    }

    /// Ends the worker. Errors: what it failed with.
    pub fn stop(&mut self) -> Result<()> {
        self.end(|signals| &signals.stop)
    }

    /// Ends the worker when all that the sandbox has sent is on its way: its processes are gone, and what they wrote last may
    /// still wait in its network. Errors: what it failed with.
    pub fn finish(&mut self) -> Result<()> {
        if self.joined.is_some() {
            join::settle(self.inside);
        }
        self.end(|signals| &signals.finish)
    }

    fn end(&mut self, how: impl FnOnce(&Signals) -> &AtomicBool) -> Result<()> {
        self.joined = None;
        self.stock = None;
        let Some((thread, signals)) = self.worker.take() else {
            return Ok(());
        };
        how(&signals).store(true, Ordering::Release);
        let _ = signals.waker.wake();
        match thread.join() {
            Ok(result) => result.context("the sandbox's interface is gone"),
            Err(_) => anyhow::bail!("the worker panicked; this is a bug of weft"),
        }
    }
}

/// Puts published sockets to work.
fn open(switch: &mut Switch, io: &mut HostIo, bound: Bound) -> Result<()> {
    for (socket, leads) in bound.tcp {
        io.listen(socket, leads)
            .context("listening on a published port")?;
    }
    for (socket, leads) in bound.udp {
        io.publish_udp(switch, socket, leads)
            .context("opening a published port")?;
    }
    Ok(())
}

/// Puts sockets that have come into the stock. Without them the way through the switch is taken.
fn restock(stock: &Stock, (v6, opened): Arrived) {
    match opened {
        Ok(sockets) => stock.put(v6, sockets),
        Err(e) => tracing::debug!("sockets inside: {e:#}"),
    }
}
