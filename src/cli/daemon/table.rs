//! Rows of tables.

use comfy_table::{ContentArrangement, Table, TableStyle};

use crate::config::life;
use crate::control::plan::Change;
use crate::control::proto::{
    Endpoint, GroupTable, Named, Network, Peer, PeerGroup, PeerStatus, Publish, Service, Station,
};
use crate::control::show::{
    DropRow, FlowRow, GroupProtocol, GroupRow, PeerState, QuerierRow, RouterRow, StatRow, WorkerRow,
};
use crate::control::spec::{Carrier, Driver, Uplink};

/// A table without lines, so that other programs can cut it.
pub(super) fn render(heads: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heads.to_vec())
        .add_rows(rows);
    let text = table.to_string();
    // The style pads every cell on both sides.
    let bare = |line: &'_ str| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned();
    let lines: Vec<String> = text.lines().map(bare).collect();
    lines.join("\n")
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// A name, or that there is none.
fn name(name: &str) -> String {
    text(Some(name).filter(|name| !name.is_empty()))
}

fn list(values: &[String]) -> String {
    if values.is_empty() {
        "-".to_owned()
    } else {
        values.join(",")
    }
}

pub(super) const NETWORK: &[&str] = &[
    "NAME",
    "DRIVER",
    "IPV4",
    "IPV6",
    "UPLINK",
    "ENDPOINTS",
    "STATE",
];

pub(super) fn network(n: &Network) -> Vec<String> {
    let driver = match n.driver {
        Driver::Bridge => "bridge",
        Driver::Overlay => "overlay",
        Driver::Macvlan => "macvlan",
        Driver::Ipvlan => "ipvlan",
    };
    let uplink = match &n.uplink {
        Uplink::Sockets => "sockets".to_owned(),
        Uplink::Packet(interface) => format!("packet:{interface}"),
        Uplink::None => "none".to_owned(),
    };
    vec![
        n.name.clone(),
        driver.to_owned(),
        text(n.v4.map(|s| format!("{}/{}", s.network, s.prefix))),
        text(n.v6.map(|s| format!("{}/{}", s.network, s.prefix))),
        uplink,
        n.endpoints.len().to_string(),
        state(n.down.as_ref()),
    ]
}

fn state(down: Option<&String>) -> String {
    down.map_or_else(|| "up".to_owned(), |why| format!("down: {why}"))
}

pub(super) const ENDPOINT: &[&str] = &[
    "NETWORK",
    "SANDBOX",
    "INTERFACE",
    "IPV4",
    "IPV6",
    "MAC",
    "VLAN",
    "STATE",
];

pub(super) fn endpoint(e: &Endpoint) -> Vec<String> {
    vec![
        e.network.clone(),
        e.name.clone(),
        e.ifname.clone(),
        text(e.v4),
        text(e.v6),
        e.mac.clone(),
        e.vlan.to_string(),
        state(e.down.as_ref()),
    ]
}

/// What a user wants to know of a sandbox that was just connected.
pub(super) fn connected(e: &Endpoint) -> String {
    let addresses = e.v4.map(|a| a.to_string()).into_iter();
    let addresses = addresses.chain(e.v6.map(|a| a.to_string()));
    let words = [e.name.clone(), e.ifname.clone()].into_iter();
    words.chain(addresses).collect::<Vec<_>>().join(" ")
}

pub(super) const PUBLISH: &[&str] = &["ID", "RULE", "SANDBOX", "NETWORK", "STATE"];

pub(super) fn publish(p: &Publish) -> Vec<String> {
    let down = p.failed.first().map(|f| f.message.clone());
    vec![
        p.id.to_string(),
        p.rule.clone(),
        p.sandbox.clone(),
        p.network.clone(),
        state(down.as_ref()),
    ]
}

pub(super) const SERVICE: &[&str] = &[
    "NETWORK",
    "NAME",
    "ADDRESSES",
    "PORTS",
    "BACKENDS",
    "NOT HERE",
];

pub(super) fn service(s: &Service) -> Vec<String> {
    let addresses: Vec<_> = s.addresses.iter().map(ToString::to_string).collect();
    let port =
        |p: &crate::control::spec::ServicePort| format!("{}:{}/{}", p.port, p.target, p.proto);
    let ports: Vec<_> = s.ports.iter().map(port).collect();
    vec![
        s.network.clone(),
        s.name.clone(),
        list(&addresses),
        list(&ports),
        list(&s.backends),
        list(&s.absent),
    ]
}

/// A line of a difference, marked as in a patch.
pub(super) fn change(c: &Change) -> String {
    let mark = match c.action.as_str() {
        "add" => '+',
        "remove" => '-',
        _ => '~',
    };
    format!("{mark} {} {}", c.kind, c.name)
}

pub(super) const MAC: &[&str] = &["NETWORK", "VLAN", "MAC", "SANDBOX", "PEER", "KIND", "AGE"];

pub(super) fn mac(m: &Named<Station>) -> Vec<String> {
    let row = &m.row.row;
    let kind = match (row.fixed, row.held) {
        (true, _) if row.peer.is_some() => "announced",
        (true, _) => "own",
        (false, false) => "learned",
        (false, true) => "held",
    };
    vec![
        m.network_name.clone(),
        text(row.vlan),
        row.mac.to_string(),
        name(&m.sandbox_name),
        name(&m.row.peer_name),
        kind.to_owned(),
        format!("{}s", row.age),
    ]
}

pub(super) const GROUP: &[&str] = &[
    "NETWORK", "VLAN", "KIND", "PROTOCOL", "ADDRESS", "SANDBOX", "PEER", "EXPIRES", "ASKS",
];

/// Members, routers, who asks, and what other hosts want, in one table.
pub(super) fn groups(table: &GroupTable) -> Vec<Vec<String>> {
    let members = table.members.iter().map(member);
    let routers = table.routers.iter().map(router);
    let queriers = table.queriers.iter().map(querier);
    let peers = table.peers.iter().map(wanted);
    members
        .chain(routers)
        .chain(queriers)
        .chain(peers)
        .collect()
}

fn wanted(p: &PeerGroup) -> Vec<String> {
    let group = p.row.group.map(|group| group.to_string());
    vec![
        p.network_name.clone(),
        text(p.row.vlan),
        "peer".to_owned(),
        protocol(p.row.protocol).to_owned(),
        group.unwrap_or_else(|| "all".to_owned()),
        text(None::<u16>),
        p.peer_name.clone(),
        seconds(None),
        seconds(None),
    ]
}

const fn protocol(of: GroupProtocol) -> &'static str {
    match of {
        GroupProtocol::Igmp => "igmp",
        GroupProtocol::Mld => "mld",
    }
}

fn seconds(time: Option<u64>) -> String {
    text(time.map(|t| format!("{t}s")))
}

fn router(r: &Named<RouterRow>) -> Vec<String> {
    vec![
        r.network_name.clone(),
        r.row.vlan.to_string(),
        "router".to_owned(),
        protocol(r.row.protocol).to_owned(),
        text(None::<u16>),
        r.sandbox_name.clone(),
        text(None::<u16>),
        seconds(Some(r.row.expires)),
        seconds(None),
    ]
}

fn querier(q: &Named<QuerierRow>) -> Vec<String> {
    let who = match (q.row.own, q.row.address) {
        (true, _) => "gateway",
        (false, Some(_)) => &q.sandbox_name,
        (false, None) => "nobody",
    };
    vec![
        q.network_name.clone(),
        q.row.vlan.to_string(),
        "querier".to_owned(),
        protocol(q.row.protocol).to_owned(),
        text(q.row.address),
        who.to_owned(),
        text(None::<u16>),
        seconds(q.row.expires),
        seconds(q.row.asks),
    ]
}

fn member(g: &Named<GroupRow>) -> Vec<String> {
    let of = if g.row.group.is_ipv4() {
        GroupProtocol::Igmp
    } else {
        GroupProtocol::Mld
    };
    vec![
        g.network_name.clone(),
        g.row.vlan.to_string(),
        "member".to_owned(),
        protocol(of).to_owned(),
        g.row.group.to_string(),
        g.sandbox_name.clone(),
        text(None::<u16>),
        seconds(Some(g.row.expires)),
        seconds(None),
    ]
}

pub(super) const FLOW: &[&str] = &[
    "NETWORK", "SANDBOX", "PROTOCOL", "INSIDE", "OUTSIDE", "STATE", "OUT", "IN", "IDLE",
];

pub(super) fn flow(f: &Named<FlowRow>) -> Vec<String> {
    let r = &f.row;
    vec![
        f.network_name.clone(),
        f.sandbox_name.clone(),
        r.protocol.clone(),
        r.inside.to_string(),
        r.outside.to_string(),
        r.state.clone(),
        r.bytes_out.to_string(),
        r.bytes_in.to_string(),
        format!("{}s", r.idle),
    ]
}

pub(super) const DROP: &[&str] = &["REASON", "FRAMES"];

pub(super) fn drops(d: &DropRow) -> Vec<String> {
    vec![d.reason.clone(), d.frames.to_string()]
}

pub(super) const STAT: &[&str] = &[
    "NETWORK",
    "SANDBOX",
    "RX-FRAMES",
    "RX-BYTES",
    "TX-FRAMES",
    "TX-BYTES",
    "DROPPED",
    "FLOWS",
];

pub(super) fn stat(s: &Named<StatRow>) -> Vec<String> {
    let r = &s.row;
    vec![
        s.network_name.clone(),
        s.sandbox_name.clone(),
        r.rx_frames.to_string(),
        r.rx_bytes.to_string(),
        r.tx_frames.to_string(),
        r.tx_bytes.to_string(),
        r.dropped.to_string(),
        r.flows.to_string(),
    ]
}

pub(super) const WORKER: &[&str] = &["WORKER", "ENDPOINTS", "FLOWS", "FRAMES", "TURNS", "CPU-MS"];

pub(super) fn worker(w: &WorkerRow) -> Vec<String> {
    vec![
        w.worker.to_string(),
        w.endpoints.to_string(),
        w.flows.to_string(),
        w.frames.to_string(),
        w.turns.to_string(),
        w.cpu_ms.to_string(),
    ]
}

pub(super) const PEER: &[&str] = &[
    "NAME", "CARRIER", "ENDPOINT", "NETWORKS", "PREFIXES", "STATE",
];

pub(super) fn peer(p: &Peer) -> Vec<String> {
    let prefixes: Vec<_> = p.prefixes.iter().map(ToString::to_string).collect();
    let state = match (&p.down, p.key, p.carrier) {
        (Some(why), ..) => format!("down: {why}"),
        (None, None, Carrier::Sealed) => invited(p.expires),
        (None, ..) => "known".to_owned(),
    };
    vec![
        p.name.clone(),
        p.carrier.to_string(),
        text(p.endpoint.as_ref()),
        list(&p.networks),
        list(&prefixes),
        state,
    ]
}

fn invited(expires: Option<u64>) -> String {
    expires.map_or_else(
        || "invited".to_owned(),
        |left| format!("invited for {}", life::show(left)),
    )
}

pub(super) const PEER_STATUS: &[&str] = &[
    "NAME",
    "STATE",
    "ENDPOINT",
    "KEY",
    "RTT",
    "MTU",
    "LOSS",
    "RX-BYTES",
    "TX-BYTES",
    "DROPPED",
    "HANDSHAKE",
];

pub(super) fn peer_status(p: &PeerStatus) -> Vec<String> {
    let r = &p.row;
    let dropped: u64 = r.drops.iter().map(|d| d.frames).sum();
    vec![
        p.name.clone(),
        if r.state == PeerState::Invited {
            invited(p.expires)
        } else {
            r.state.word().to_owned()
        },
        text(r.endpoint),
        text(p.key),
        text(r.rtt.map(millis)),
        text(r.mtu),
        text(r.loss.map(|l| format!("{}.{}%", l / 10, l % 10))),
        r.rx_bytes.to_string(),
        r.tx_bytes.to_string(),
        dropped.to_string(),
        text(r.handshake.map(|s| format!("{s}s"))),
    ]
}

/// A time of so many microseconds.
pub(super) fn millis(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}
