//! What the workers get: keys, addresses, endpoints of other hosts. They take it between two batches.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use switch_core::addr::{Mac, PeerId, PortId};
use switch_core::l2::snoop::Wants;
use switch_core::respond::Guest;
use switch_core::respond::names::Owner;
use switch_core::time::Tick;
use switch_core::tunnel::control::record::Announced;
use switch_core::tunnel::seal::{OpenKey, SendKey};

use crate::endpoint::udp::Name;
use crate::worker::board::Board;
use crate::worker::{Job, Signals};

/// How long a worker may take: it looks between two batches.
const PATIENCE: Duration = Duration::from_secs(10);

/// An endpoint of another host, for one network's switch.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// It is there.
    Up {
        slot: u32,
        port: PortId,
        endpoint: Announced,
    },
    /// It is gone.
    Down { slot: u32, port: PortId, mac: Mac },
    /// Its host wants this of multicast.
    Wants {
        slot: u32,
        port: PortId,
        wants: Arc<Wants>,
    },
    /// The way to its host takes packets of this size.
    Mtu { slot: u32, port: PortId, mtu: u16 },
}

/// The workers.
#[derive(Debug)]
pub(super) struct Workers(pub(super) Vec<Arc<Signals>>);

impl Workers {
    /// Has one worker do something and waits until it has. `None` if it has ended, or takes too long.
    fn on<R: Send + 'static>(
        &self,
        worker: usize,
        what: impl FnOnce(&mut Board) -> R + Send + 'static,
    ) -> Option<R> {
        let signals = self.0.get(worker)?;
        let (done, waits) = sync_channel(1);
        let mut job: Job = Box::new(move |board| {
            // Nobody waits any more where it took too long.
            let _ = done.send(what(board));
        });
        let since = Instant::now();
        while let Err(back) = signals.ask(job) {
            if since.elapsed() > PATIENCE {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
            job = back;
        }
        // A worker that has ended drops the job, and that is told elsewhere.
        waits.recv_timeout(PATIENCE).ok()
    }

    fn on_all(&self, what: impl Fn(&mut Board) + Send + Clone + 'static) {
        for worker in 0..self.0.len() {
            self.on(worker, what.clone());
        }
    }

    /// The worker that datagrams with this index come to.
    fn owner(&self, index: u32) -> usize {
        index as usize % self.0.len().max(1)
    }

    pub(super) fn receive(&self, peer: PeerId, key: OpenKey, ends: (SocketAddr, Option<IpAddr>)) {
        let owner = self.owner(key.index());
        self.on(owner, move |board| {
            board.tunnels().rx.add_key(key, peer, ends);
        });
    }

    pub(super) fn close(&self, index: u32) {
        self.on(self.owner(index), move |board| {
            board.tunnels().rx.remove_key(index);
        });
    }

    /// Has frames for a peer sealed with this key and sent there; or dropped.
    pub(super) fn send(&self, peer: PeerId, key: Option<(Arc<SendKey>, Name)>) {
        self.on_all(move |board| {
            if let Some(underlay) = &mut board.io.underlay {
                underlay.set_key(peer, key.clone());
            }
        });
    }

    /// Has frames for a peer sent to another place, with the key that there is.
    pub(super) fn moved(&self, peer: PeerId, to: Name) {
        self.on_all(move |board| {
            if let Some(underlay) = &mut board.io.underlay {
                underlay.move_peer(peer, to);
            }
        });
    }

    /// What of a network's multicast is wanted here, and when that is to be looked at again. `None` if there is no such
    /// network.
    pub(super) fn wants(&self, slot: u32, now: Tick, before: Wants) -> Option<(Wants, Tick)> {
        let wants = move |board: &mut Board| Some(board.net(slot)?.wants(now, &before));
        self.on(0, wants)?
    }

    pub(super) fn change(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let changes = Arc::new(changes);
        self.on_all(move |board| changes.iter().for_each(|change| apply(board, change)));
    }
}

fn apply(board: &mut Board, change: &Change) {
    match change {
        Change::Up {
            slot,
            port,
            endpoint,
        } => {
            board.with(*slot, |switch, io| {
                switch.set_remote(*port, guest(endpoint));
                let owner = Owner::of_mac(endpoint.mac);
                io.names.set(*slot, owner, &endpoint.names, &endpoint.addrs);
            });
        }
        Change::Down { slot, port, mac } => {
            board.with(*slot, |switch, io| {
                // Of one that is behind another host by now the names are new ones.
                if switch.remove_remote(*port, *mac) {
                    io.names.remove(*slot, Owner::of_mac(*mac));
                }
            });
        }
        Change::Wants { slot, port, wants } => {
            let wants = Some(Arc::clone(wants));
            board.with(*slot, |switch, _| switch.set_wants(*port, wants));
        }
        Change::Mtu { slot, port, mtu } => {
            board.with(*slot, |switch, _| switch.set_remote_mtu(*port, *mtu));
        }
    }
}

fn guest(endpoint: &Announced) -> Guest {
    let v4 = endpoint.addrs.iter().find_map(|a| match a {
        IpAddr::V4(a) => Some(*a),
        IpAddr::V6(_) => None,
    });
    let v6 = endpoint.addrs.iter().find_map(|a| match a {
        IpAddr::V6(a) => Some(*a),
        IpAddr::V4(_) => None,
    });
    Guest {
        mac: endpoint.mac,
        // Names come beside, with aliases.
        name: String::new(),
        v4,
        v6,
    }
}
