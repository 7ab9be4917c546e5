//! What the data plane tells of itself.

use std::collections::BTreeMap;

use nix::time::{ClockId, clock_gettime};
use switch_core::addr::PortId;
use switch_core::flow::row::FlowRow;
use switch_core::time::Tick;

use super::{LivePlane, start};
use crate::control::ids::{EndpointId, NetworkId};
use crate::control::plane::PlaneError;
use crate::control::show::{DropRow, FlowRow as Row, MacRow, StatRow, WorkerRow};
use crate::host::sockets::links::LinkStats;
use crate::worker::board::Board;

impl LivePlane {
    pub(super) fn mac_rows(&self, of: Option<NetworkId>) -> Result<Vec<MacRow>, PlaneError> {
        if let Some(id) = of {
            self.net(id)?;
        }
        let wanted = |network: NetworkId| of.is_none_or(|of| of == network);
        let own = self.ends.iter().map(|(&endpoint, end)| MacRow {
            network: end.spec.network,
            vlan: end.spec.vlan.native(),
            mac: end.spec.mac,
            endpoint: Some(endpoint),
            peer: None,
            announced: None,
            fixed: true,
            age: 0,
            held: false,
        });
        let now = switch_core::pipeline::seconds(start::now(self.start));
        let (segments, places, ways) = (self.segments(), self.places(), self.ways());
        let learned = self.macs.iter(now).filter_map(|known| {
            let &(network, vlan) = segments.get(&known.net.0)?;
            let endpoint = places.get(&known.port).copied();
            let peer = ways.get(&known.port).copied();
            (endpoint.is_some() || peer.is_some()).then_some(MacRow {
                network,
                vlan: Some(vlan),
                mac: known.mac,
                endpoint,
                peer,
                announced: None,
                fixed: false,
                age: known.age.into(),
                held: known.held,
            })
        });
        Ok(own
            .chain(self.announced_rows())
            .chain(learned)
            .filter(|row| wanted(row.network))
            .collect())
    }

    /// Which endpoint is where.
    pub(super) fn places(&self) -> BTreeMap<PortId, EndpointId> {
        self.ends.iter().map(|(&id, e)| (e.port, id)).collect()
    }

    pub(super) fn flow_rows(
        &self,
        of: Option<EndpointId>,
        limit: usize,
    ) -> Result<Vec<Row>, PlaneError> {
        let port = of.map(|id| self.end(id)).transpose()?.map(|e| e.port);
        let places = self.places();
        let mut rows = Vec::new();
        let begun = self.start;
        let seen = self.on_all(move |board| flows(board, port, limit, start::now(begun)))?;
        for seen in seen.into_iter().flatten() {
            if rows.len() < limit
                && let Some(&endpoint) = places.get(&seen.port)
                && let Some(end) = self.ends.get(&endpoint)
            {
                let network = end.spec.network;
                rows.push(Row {
                    network,
                    endpoint,
                    protocol: seen.protocol.to_owned(),
                    inside: (seen.key.guest, seen.key.guest_port).into(),
                    outside: (seen.key.remote, seen.key.remote_port).into(),
                    state: seen.state.to_owned(),
                    bytes_out: seen.bytes.0,
                    bytes_in: seen.bytes.1,
                    idle: seen.idle.as_secs(),
                });
            }
        }
        Ok(rows)
    }

    pub(super) fn drop_rows(&self, of: Option<EndpointId>) -> Result<Vec<DropRow>, PlaneError> {
        let port = of.map(|id| self.end(id)).transpose()?.map(|e| e.port);
        let seen = self.on_all(move |board| -> Vec<(&'static str, u64)> {
            board.count_losses();
            let drops: Vec<_> = match port {
                Some(port) => {
                    let link = board.io.links.get(port);
                    link.map(|l| l.stats.drops.iter().collect())
                        .unwrap_or_default()
                }
                None => {
                    let nets = board.nets().flat_map(|(_, s)| s.drops().iter());
                    nets.chain(board.underlay_drops()).collect()
                }
            };
            drops
                .into_iter()
                .map(|(reason, n)| (reason.name(), n))
                .collect()
        })?;
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (reason, frames) in seen.into_iter().flatten() {
            *sums.entry(reason).or_default() += frames;
        }
        let rows = sums.into_iter().map(|(reason, frames)| DropRow {
            reason: reason.to_owned(),
            frames,
        });
        Ok(rows.collect())
    }

    pub(super) fn stat_rows(&self) -> Result<Vec<StatRow>, PlaneError> {
        let seen = self.on_all(|board| -> Vec<(PortId, LinkStats)> {
            board.count_losses();
            let links = board.io.links.iter();
            links
                .map(|(port, link)| (port, link.stats.clone()))
                .collect()
        })?;
        let mut sums: BTreeMap<PortId, LinkStats> = BTreeMap::new();
        let mut dropped: BTreeMap<PortId, u64> = BTreeMap::new();
        for (port, stats) in seen.into_iter().flatten() {
            let sum = sums.entry(port).or_default();
            sum.rx_frames += stats.rx_frames;
            sum.rx_bytes += stats.rx_bytes;
            sum.tx_frames += stats.tx_frames;
            sum.tx_bytes += stats.tx_bytes;
            let frames: u64 = stats.drops.iter().map(|(_, n)| n).sum();
            *dropped.entry(port).or_default() += frames + stats.tx_failed;
        }
        // What is over counts until somebody needs its place.
        self.switched
            .sweep(switch_core::pipeline::seconds(start::now(self.start)));
        let rows = self.ends.iter().filter_map(|(&endpoint, end)| {
            let sum = sums.get(&end.port)?;
            Some(StatRow {
                endpoint,
                rx_frames: sum.rx_frames,
                rx_bytes: sum.rx_bytes,
                tx_frames: sum.tx_frames,
                tx_bytes: sum.tx_bytes,
                dropped: dropped.get(&end.port).copied().unwrap_or(0),
                flows: end.limits.flows(),
            })
        });
        Ok(rows.collect())
    }

    pub(super) fn worker_rows(&self) -> Result<Vec<WorkerRow>, PlaneError> {
        let mut rows = Vec::new();
        for worker in 0..self.hands.len() {
            let (endpoints, flows, (frames, turns), cpu_ms) = self.on(worker, |board| {
                let endpoints = board.io.links.iter().filter(|(_, l)| l.owned).count();
                let flows: usize = board.nets().map(|(_, s)| s.flows().0 + s.flows().1).sum();
                (endpoints, flows, board.counts(), cpu_ms())
            })?;
            rows.push(WorkerRow {
                worker: u32::try_from(worker).unwrap_or(u32::MAX),
                endpoints: u32::try_from(endpoints).unwrap_or(u32::MAX),
                flows: flows as u64,
                frames,
                turns,
                cpu_ms,
            });
        }
        Ok(rows)
    }
}

fn flows(board: &Board, of: Option<PortId>, limit: usize, now: Tick) -> Vec<FlowRow> {
    let all = board.nets().flat_map(|(_, switch)| switch.flow_rows(now));
    let wanted = all.filter(|row| of.is_none_or(|of| of == row.port));
    wanted.take(limit).collect()
}

/// Processor time of the calling thread.
fn cpu_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |t| {
        let seconds = u64::try_from(t.tv_sec()).unwrap_or(0);
        seconds * 1000 + u64::try_from(t.tv_nsec()).unwrap_or(0) / 1_000_000
    })
}
