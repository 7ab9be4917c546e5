//! The metrics, in Prometheus' text form.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::control::proto::Numbers;
use crate::control::show::PeerState;

/// What the text is. Source: the OpenMetrics specification, "Overall structure".
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter<u64, AtomicU64>>;

/// Writes everything out. A registry lives for one answer: the counters belong to the data plane.
pub(super) fn encode(numbers: &Numbers) -> String {
    let mut registry = Registry::with_prefix("weft");
    let things = Family::<Labels, Gauge>::default();
    for (kind, count) in ["network", "endpoint", "publish", "service"]
        .into_iter()
        .zip(numbers.counts)
    {
        set(&things, &vec![("kind", kind.to_owned())], count);
    }
    set(
        &things,
        &vec![("kind", "peer".to_owned())],
        numbers.peers.len(),
    );
    registry.register("things", "What users have made", things);
    let down = Gauge::<i64>::default();
    down.set(i64::try_from(numbers.down).unwrap_or(i64::MAX));
    registry.register("endpoints_down", "Endpoints that are not up", down);
    let macs = Family::<Labels, Gauge>::default();
    set(&macs, &vec![("state", "known".to_owned())], numbers.macs.0);
    set(&macs, &vec![("state", "held".to_owned())], numbers.macs.1);
    registry.register(
        "macs",
        "MACs known, and those of them that flap and are held",
        macs,
    );
    let drops = Counters::default();
    for row in &numbers.drops {
        add(&drops, &vec![("reason", row.reason.clone())], row.frames);
    }
    registry.register("dropped_frames", "Frames dropped, by reason", drops);
    let groups = Family::<Labels, Gauge>::default();
    for (network, members) in &numbers.groups {
        set(&groups, &vec![("network", network.clone())], *members);
    }
    registry.register(
        "group_members",
        "Members of multicast groups: an endpoint counts once for each group and VLAN",
        groups,
    );
    endpoints(&mut registry, numbers);
    peers(&mut registry, numbers);
    workers(&mut registry, numbers);
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode_text(&mut text, &registry);
    text
}

fn set(family: &Family<Labels, Gauge>, labels: &Labels, value: usize) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    family.get_or_create(labels).set(value);
}

fn add(family: &Counters, labels: &Labels, value: u64) {
    family.get_or_create(labels).inc_by(value);
}

fn endpoints(registry: &mut Registry, numbers: &Numbers) {
    let (frames, bytes, drops) = (
        Counters::default(),
        Counters::default(),
        Counters::default(),
    );
    let open = Family::<Labels, Gauge>::default();
    for named in &numbers.stats {
        let labels = |direction: &str| {
            vec![
                ("network", named.network_name.clone()),
                ("sandbox", named.sandbox_name.clone()),
                ("direction", direction.to_owned()),
            ]
        };
        let row = &named.row;
        add(&frames, &labels("rx"), row.rx_frames);
        add(&frames, &labels("tx"), row.tx_frames);
        add(&bytes, &labels("rx"), row.rx_bytes);
        add(&bytes, &labels("tx"), row.tx_bytes);
        add(&drops, &labels("any"), row.dropped);
        let place = vec![
            ("network", named.network_name.clone()),
            ("sandbox", named.sandbox_name.clone()),
        ];
        let flows = usize::try_from(row.flows).unwrap_or(usize::MAX);
        set(&open, &place, flows);
    }
    registry.register(
        "endpoint_frames",
        "Frames from (rx) and to (tx) a sandbox",
        frames,
    );
    registry.register_with_unit(
        "endpoint",
        "Bytes from (rx) and to (tx) a sandbox",
        Unit::Bytes,
        bytes,
    );
    registry.register(
        "endpoint_dropped_frames",
        "Frames of a sandbox that were dropped",
        drops,
    );
    registry.register("endpoint_flows", "Flows of a sandbox with the world", open);
}

fn peers(registry: &mut Registry, numbers: &Numbers) {
    let (frames, bytes, drops) = (
        Counters::default(),
        Counters::default(),
        Counters::default(),
    );
    let gauge = Family::<Labels, Gauge>::default;
    let (up, rtt, loss, mtu, handshake) = (gauge(), gauge(), gauge(), gauge(), gauge());
    for status in &numbers.peers {
        let (peer, row) = (|| ("peer", status.name.clone()), &status.row);
        let way = |direction: &str| vec![peer(), ("direction", direction.to_owned())];
        add(&frames, &way("rx"), row.rx_frames);
        add(&frames, &way("tx"), row.tx_frames);
        add(&bytes, &way("rx"), row.rx_bytes);
        add(&bytes, &way("tx"), row.tx_bytes);
        for drop in &row.drops {
            let labels = vec![peer(), ("reason", drop.reason.clone())];
            add(&drops, &labels, drop.frames);
        }
        set(&up, &vec![peer()], usize::from(row.state == PeerState::Up));
        if let Some(us) = row.rtt {
            set(
                &rtt,
                &vec![peer()],
                usize::try_from(us).unwrap_or(usize::MAX),
            );
        }
        if let Some(probes) = row.loss {
            set(&loss, &vec![peer()], usize::from(probes));
        }
        if let Some(bytes) = row.mtu {
            set(&mtu, &vec![peer()], usize::from(bytes));
        }
        if let Some(ago) = row.handshake {
            let ago = usize::try_from(ago).unwrap_or(usize::MAX);
            set(&handshake, &vec![peer()], ago);
        }
    }
    registry.register("peer_up", "Whether a peer is heard", up);
    registry.register("peer_frames", "Frames from (rx) and to (tx) a peer", frames);
    registry.register_with_unit(
        "peer",
        "Bytes of frames from (rx) and to (tx) a peer",
        Unit::Bytes,
        bytes,
    );
    registry.register(
        "peer_dropped_frames",
        "Frames and datagrams from and to a peer that were dropped, by reason",
        drops,
    );
    registry.register(
        "peer_rtt_microseconds",
        "The last round trip to a peer",
        rtt,
    );
    registry.register(
        "peer_loss_permille",
        "Of a thousand probes to a peer those without an answer",
        loss,
    );
    registry.register(
        "peer_mtu",
        "The largest inner packet that the way to a peer carries",
        mtu,
    );
    registry.register_with_unit(
        "peer_handshake_age",
        "How long ago the last handshake with a peer was finished",
        Unit::Seconds,
        handshake,
    );
}

fn workers(registry: &mut Registry, numbers: &Numbers) {
    let (endpoints, flows) = (
        Family::<Labels, Gauge>::default(),
        Family::<Labels, Gauge>::default(),
    );
    let (frames, turns, cpu) = (
        Counters::default(),
        Counters::default(),
        Counters::default(),
    );
    for row in &numbers.workers {
        let labels = || vec![("worker", row.worker.to_string())];
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        set(&endpoints, &labels(), count(u64::from(row.endpoints)));
        set(&flows, &labels(), count(row.flows));
        add(&frames, &labels(), row.frames);
        add(&turns, &labels(), row.turns);
        add(&cpu, &labels(), row.cpu_ms);
    }
    registry.register(
        "worker_endpoints",
        "Endpoints that a worker owns",
        endpoints,
    );
    registry.register("worker_flows", "Flows that live on a worker", flows);
    registry.register("worker_frames", "Frames that a worker has read", frames);
    registry.register("worker_turns", "Turns of a worker's loop", turns);
    registry.register("worker_cpu_milliseconds", "Processor time of a worker", cpu);
}
