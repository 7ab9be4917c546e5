//! Answers about other hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::config::Problem;
use crate::control::engine::{Engine, Runtime, problem};
use crate::control::model::{Model, PeerRecord};
use crate::control::plane::Plane;
use crate::control::proto::{Peer, PeerStatus, Pinged, Reply};
use crate::control::show::{PeerRow, PeerState};
use crate::control::spec::PeerCarrier;

/// How long a probe's answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A peer as it was asked for.
pub(super) fn peer(model: &Model, runtime: &Runtime, now: u64, p: &PeerRecord) -> Peer {
    let keepalive = match p.carrier {
        PeerCarrier::Sealed { keepalive, .. } => keepalive,
        PeerCarrier::Vxlan { .. } | PeerCarrier::FlannelUdp { .. } => 0,
    };
    Peer {
        id: p.id,
        name: p.wish.name.clone(),
        carrier: p.carrier.kind(),
        key: p.carrier.key().copied(),
        endpoint: p.carrier.endpoint().cloned(),
        networks: networks(model, p),
        prefixes: p.prefixes.clone(),
        keepalive,
        expires: left(p, now),
        down: runtime.peers_down.get(&p.id).cloned(),
    }
}

/// For how long an invite can still be taken.
fn left(p: &PeerRecord, now: u64) -> Option<u64> {
    p.carrier.expires().map(|at| at.saturating_sub(now))
}

fn networks(model: &Model, p: &PeerRecord) -> Vec<String> {
    let on = model.networks_of(p);
    on.map(|n| n.spec.name.clone()).collect()
}

/// Peers as they stand: also those that the data plane would not have. Errors: the data plane's.
pub(super) fn statuses<P: Plane>(engine: &mut Engine<P>) -> Result<Vec<PeerStatus>, Problem> {
    let rows = engine.plane.peers().map_err(|e| problem(&e))?;
    let mut rows: BTreeMap<_, _> = rows.into_iter().map(|r| (r.peer, r)).collect();
    let (model, now) = (&engine.model, engine.facts.now);
    let status = |p: &PeerRecord| {
        let open = p.carrier.key().is_none() && matches!(p.carrier, PeerCarrier::Sealed { .. });
        let state = if open {
            PeerState::Invited
        } else {
            PeerState::Idle
        };
        let row = rows.remove(&p.id);
        let mut row = row.unwrap_or_else(|| PeerRow::new(p.id, state));
        row.problems
            .extend(engine.runtime.peers_down.get(&p.id).cloned());
        PeerStatus {
            name: p.wish.name.clone(),
            carrier: p.carrier.kind(),
            key: p.carrier.key().copied(),
            networks: networks(model, p),
            expires: left(p, now),
            row,
        }
    };
    let mut status = status;
    Ok(model.peers.values().map(|p| status(p)).collect())
}

/// Sends a probe, and gives where its answer will come. Errors: `UnknownPeer`, and the data plane's.
pub(in crate::control) fn ping<P: Plane>(
    engine: &mut Engine<P>,
    name: &str,
) -> Result<oneshot::Receiver<Duration>, Problem> {
    let id = engine.model.peer(name)?.id;
    engine.plane.ping_peer(id).map_err(|e| problem(&e))
}

/// Waits for the answer to a probe.
pub(in crate::control) async fn pong(told: oneshot::Receiver<Duration>) -> Reply {
    let rtt = tokio::time::timeout(PATIENCE, told).await;
    let rtt = rtt.ok().and_then(Result::ok);
    Reply::Pinged(Pinged {
        rtt: rtt.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
    })
}
