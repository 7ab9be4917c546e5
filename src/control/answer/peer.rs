//! Answers about other hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Problem;
use crate::control::engine::{Engine, Runtime, problem};
use crate::control::model::{Model, PeerRecord};
use crate::control::plane::Plane;
use crate::control::proto::{Peer, PeerStatus, Pinged};
use crate::control::show::{PeerRow, PeerState};
use crate::control::spec::PeerCarrier;

/// How long a probe's answer is waited for: nothing else is answered meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// A peer as it was asked for.
pub(super) fn peer(model: &Model, runtime: &Runtime, p: &PeerRecord) -> Peer {
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
        down: runtime.peers_down.get(&p.id).cloned(),
    }
}

fn networks(model: &Model, p: &PeerRecord) -> Vec<String> {
    let on = model.networks_of(p);
    on.map(|n| n.spec.name.clone()).collect()
}

/// Peers as they stand: also those that the data plane would not have. Errors: the data plane's.
pub(super) fn statuses<P: Plane>(engine: &mut Engine<P>) -> Result<Vec<PeerStatus>, Problem> {
    let rows = engine.plane.peers().map_err(|e| problem(&e))?;
    let mut rows: BTreeMap<_, _> = rows.into_iter().map(|r| (r.peer, r)).collect();
    let model = &engine.model;
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
            row,
        }
    };
    let mut status = status;
    Ok(model.peers.values().map(|p| status(p)).collect())
}

/// Sends a probe. Errors: `UnknownPeer`, and the data plane's.
pub(super) fn ping<P: Plane>(engine: &mut Engine<P>, name: &str) -> Result<Pinged, Problem> {
    let id = engine.model.peer(name)?.id;
    let rtt = engine
        .plane
        .ping_peer(id, PATIENCE)
        .map_err(|e| problem(&e))?;
    Ok(Pinged {
        rtt: rtt.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
    })
}
