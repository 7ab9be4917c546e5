//! The start, in the order of design: the broker before any thread, everything opened, what is not needed dropped,
//! then the workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::Socket;
use switch_core::addr::PortId;
use switch_core::conntrack::switched::{CAPACITY, Switched};
use switch_core::flow::udp::half;
use switch_core::l2::table::{MAX_NETWORKS, MacTable};
use switch_core::policy::quota::Quota;
use switch_core::time::Tick;

use super::find::Finder;
use super::numbers::Numbers;
use super::splice::Stocks;
use super::underlay::Underlays;
use super::{Hand, LivePlane, peer, vlan};
use crate::config::topology::WORKERS;
use crate::control::policy::STATIONS_OF_ONE;
use crate::host::broker::Broker;
use crate::host::netwatch::NetWatch;
use crate::host::sockets::{HostIo, HostView};
use crate::host::{privileges, start};
use crate::worker::underlay::slow::Slow;
use crate::worker::{Lost, Worker, tunnels};

/// Stations behind endpoints that the table has room for.
const STATIONS: usize = 1 << 16;

/// How the plane is to be.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Threads that carry packets; half the cores, at least one, where it is not said.
    pub workers: Option<usize>,
    /// Become this user, as root.
    pub user: Option<String>,
    /// The namespace that the process is in is the one sandbox, and others' as well.
    pub at_home: bool,
}

impl LivePlane {
    /// Starts broker and workers. Must be called while the process has one thread; afterwards it has no capability.
    /// Errors: one line.
    pub fn start(options: &Options) -> Result<Self> {
        let mut broker = if options.at_home {
            Broker::spawn_at_home()?
        } else {
            Broker::spawn()?
        };
        let limit = privileges::raise_descriptor_limit()?;
        tracing::debug!(limit, "descriptors");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let most = usize::from(WORKERS);
        let count = options.workers.unwrap_or(cores / 2).clamp(1, most);
        let raw: Vec<[Option<Socket>; 2]> = (0..count)
            .map(|_| {
                [
                    start::raw_icmp(&mut broker, false),
                    start::raw_icmp(&mut broker, true),
                ]
            })
            .collect();
        let watch = NetWatch::open().ok();
        privileges::lock_down(options.user.as_deref())?;
        let view = HostView {
            // At home these may name our own gateway, and a query would go round.
            resolvers: if options.at_home {
                Vec::new()
            } else {
                broker.resolvers().servers.clone()
            },
            ..HostView::default()
        };
        let ports = tunnels::FIRST;
        let places = PortId::remote(peer::REMOTES).0 as usize;
        let macs = MacTable::with_limit(STATIONS, places, STATIONS_OF_ONE as usize);
        let mut plane = Self {
            broker,
            at_home: options.at_home,
            start: Instant::now(),
            hands: Vec::new(),
            lost: Arc::new(Lost::new().context("an event descriptor")?),
            view: Arc::new(ArcSwap::from_pointee(view)),
            watch,
            macs: Arc::new(macs),
            switched: Arc::new(Switched::new(CAPACITY, start::random_seeds())),
            udp_ports: Arc::new(Quota::new(half(start::local_port_range()))),
            nets: BTreeMap::new(),
            ends: BTreeMap::new(),
            rules: BTreeMap::new(),
            services: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            names: BTreeMap::new(),
            kin: BTreeMap::new(),
            stocks: Stocks::new().context("an epoll descriptor")?,
            peers: BTreeMap::new(),
            peer_numbers: Numbers::new(peer::PEERS),
            finder: Finder::new().context("an event descriptor")?,
            secret: None,
            slow: Slow::new().context("an event descriptor")?,
            cluster: None,
            underlays: Underlays::default(),
            slots: Numbers::new(vlan::FIRST),
            segments: Numbers::new(MAX_NETWORKS - vlan::FIRST),
            ports: Numbers::new(u32::try_from(ports).unwrap_or(u32::MAX)),
            lanes: Numbers::new(peer::REMOTES),
            sources: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            told: std::collections::VecDeque::new(),
        };
        plane.look_at_host();
        plane.listen().context("watching for events")?;
        for (index, raw) in raw.into_iter().enumerate() {
            plane.hire(index, raw).context("starting a worker")?;
        }
        Ok(plane)
    }

    /// Has one descriptor stand for all that tell of something.
    fn listen(&self) -> nix::Result<()> {
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        self.sources.add(self.lost.fd(), readable())?;
        self.sources.add(self.stocks.fd(), readable())?;
        self.sources.add(self.finder.fd(), readable())?;
        if let Some(fd) = self.broker.fd() {
            self.sources.add(fd, readable())?;
        }
        if let Some(watch) = &self.watch {
            self.sources.add(watch.fd(), readable())?;
        }
        Ok(())
    }

    fn hire(&mut self, index: usize, raw: [Option<Socket>; 2]) -> Result<()> {
        let view = Arc::clone(&self.view);
        let lost = Some(Arc::clone(&self.lost));
        let worker = Worker::new(self.start, None, lost, |registry| {
            HostIo::new(registry, Vec::new(), view, raw)
        })?;
        let signals = worker.signals();
        let thread = std::thread::Builder::new()
            .name(format!("weft-worker-{index}"))
            .spawn(move || worker.run())?;
        self.hands.push(Hand {
            signals,
            thread: Some(thread),
        });
        Ok(())
    }
}

/// The time on the workers' clock.
pub(super) fn now(start: Instant) -> Tick {
    Tick::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}
