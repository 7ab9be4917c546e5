//! What passed between the workers and a peer.

use std::collections::BTreeMap;

use switch_core::addr::PeerId as Number;

use super::peer::Lane;
use crate::control::show::DropRow;
use crate::worker::board::Board;

/// What passed between one worker and a peer: frames and bytes.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) tx: (u64, u64),
    pub(super) rx: (u64, u64),
    pub(super) drops: BTreeMap<&'static str, u64>,
}

impl Passed {
    pub(super) fn and(mut self, other: Self) -> Self {
        self.tx = (self.tx.0 + other.tx.0, self.tx.1 + other.tx.1);
        self.rx = (self.rx.0 + other.rx.0, self.rx.1 + other.rx.1);
        for (reason, count) in other.drops {
            *self.drops.entry(reason).or_default() += count;
        }
        self
    }
}

pub(super) fn passed(board: &mut Board, lane: Lane) -> Passed {
    let mut drops = BTreeMap::new();
    let tx = board.io.underlay.as_ref().and_then(|u| u.stats(lane.port));
    let tx = tx.unwrap_or_default();
    let tunnels = board.tunnels();
    let rx = lane
        .origin
        .and_then(|origin| tunnels.rx.stats(lane.vni, origin));
    let rx = rx.unwrap_or_default();
    for (reason, count) in tunnels.dropped(lane.port).iter().flat_map(|d| d.iter()) {
        drops.insert(reason.name(), count);
    }
    if tx.failed > 0 {
        *drops.entry("tx-failed").or_default() += tx.failed;
    }
    Passed {
        tx: (tx.frames, tx.bytes),
        rx: (rx.frames, rx.bytes),
        drops,
    }
}

pub(super) fn drop_rows(drops: &BTreeMap<&'static str, u64>) -> Vec<DropRow> {
    let rows = drops.iter().map(|(&reason, &frames)| DropRow {
        reason: reason.to_owned(),
        frames,
    });
    rows.collect()
}

/// What of the datagrams of a peer's sessions one worker has not taken.
pub(super) fn refused(board: &mut Board, peer: Number) -> Passed {
    let refused = board.tunnels().rx.refused(peer);
    let reasons = refused.into_iter().flat_map(|d| d.iter());
    Passed {
        drops: reasons.map(|(reason, n)| (reason.name(), n)).collect(),
        ..Passed::default()
    }
}
