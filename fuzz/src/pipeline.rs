//! A whole switch under a sequence of operations: frames of a sandbox, events of the host, time.
//! Shape: operations of a byte each and what they need, until the bytes end.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::sync::Arc;

use switch_core::addr::{NetworkId, PortId};
use switch_core::flow::event::{HostEvent, IcmpReport};
use switch_core::flow::host::HostError;
use switch_core::flow::tcp::Limits;
use switch_core::flow::udp::Filter;
use switch_core::l2::table::MacTable;
use switch_core::pipeline::{Config, Port, Switch};
use switch_core::policy::host_rule::HostRule;
use switch_core::time::Tick;
use switch_core::wire::emit::HeaderBuf;
use switch_core::wire::packet::{PROTO_TCP, PROTO_UDP};
use switch_core::wire::vnet_hdr::VnetHdr;

use super::bytes::Bytes;
use super::host::{GATEWAY, GUEST, World, gateway};

/// Operations of one run at most: a longer one finds nothing that two short ones do not.
const MAX_OPERATIONS: usize = 256;
const PORT: PortId = PortId(0);

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut now = Tick::from_millis(1);
    let config = Config {
        network: NetworkId(1),
        gateway: gateway(),
        ports: vec![Port::new(PORT, GUEST, 1500, true)],
        icc: true,
        rule: HostRule::default(),
        filter: Filter::default(),
        ephemeral: (32_768, 60_999),
        limits: Limits {
            flows: 64,
            window_budget: 4 << 20,
        },
        seeds: [1, 2, 3, 4],
    };
    let mut world = World::default();
    let mut switch = Switch::new(now, config, Arc::new(MacTable::new(64)));
    for _ in 0..MAX_OPERATIONS {
        if bytes.is_empty() {
            break;
        }
        (world.sent, world.bytes) = (0, 0);
        operation(&mut switch, &mut world, &mut now, &mut bytes);
        switch.flush(&mut world, now);
        // A budget: what is left after it waits for its next turn.
        for _ in 0..16 {
            if !switch.run_ready(&mut world, now) {
                break;
            }
        }
        let (tcp, udp) = switch.flows();
        assert!(tcp <= 64 && udp <= 4096, "tables keep to their capacity");
    }
}

fn operation(switch: &mut Switch, world: &mut World, now: &mut Tick, bytes: &mut Bytes<'_>) {
    match bytes.u8() % 12 {
        0 => {
            let vnet = VnetHdr::parse(&bytes.array());
            let frame = bytes.piece();
            switch.handle_frame(world, *now, PORT, &vnet, frame);
        }
        // The same behind headers that are right, so that it gets far.
        1..=3 => {
            let (vnet, frame) = segment(bytes);
            switch.handle_frame(world, *now, PORT, &vnet, &frame);
        }
        4 => {
            let (vnet, frame) = datagram(bytes);
            switch.handle_frame(world, *now, PORT, &vnet, &frame);
        }
        5 => {
            *now = *now + Duration::from_millis(u64::from(bytes.u16()));
            switch.handle_timeout(world, *now);
        }
        6 => world.says = bytes.piece().to_vec(),
        7 => {
            let flow = u32::from(bytes.u8());
            switch.handle_event(world, *now, HostEvent::TcpConnected { flow });
        }
        8 => {
            let (flow, flags) = (u32::from(bytes.u8()), bytes.u8());
            let ending = flags & 2 != 0;
            let event = if flags & 1 == 0 {
                HostEvent::TcpReadable { flow, ending }
            } else {
                HostEvent::TcpWritable { flow }
            };
            switch.handle_event(world, *now, event);
        }
        9 => {
            let flow = u32::from(bytes.u8());
            let report = report(bytes);
            let event = HostEvent::TcpFailed {
                flow,
                error: HostError::Refused,
                report: Some(report),
            };
            switch.handle_event(world, *now, event);
        }
        10 => {
            let (mapping, from) = (u32::from(bytes.u8()), remote(bytes));
            let (tos, piece) = (bytes.u8(), bytes.piece());
            let pieces = [piece, piece];
            let event = HostEvent::UdpReceived {
                mapping,
                from,
                local: None,
                tos,
                pieces: &pieces,
            };
            switch.handle_event(world, *now, event);
        }
        _ => {
            let mapping = u32::from(bytes.u8());
            let kind = bytes.u8();
            let report = report(bytes);
            let event = match kind % 4 {
                0 => HostEvent::UdpFailed { mapping, report },
                1 => HostEvent::EchoFailed { mapping, report },
                2 => HostEvent::DnsAnswer {
                    query: mapping,
                    message: report.payload,
                },
                _ => HostEvent::DnsFailed { query: mapping },
            };
            switch.handle_event(world, *now, event);
        }
    }
}

/// One of a few remotes, of either family, so that conversations meet again.
fn remote(bytes: &mut Bytes<'_>) -> SocketAddr {
    let (choice, port) = (bytes.u8(), u16::from(bytes.u8()));
    let last = choice >> 1 & 3;
    let ip: IpAddr = if choice & 1 == 0 {
        Ipv4Addr::new(192, 0, 2, last).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)).into()
    };
    (ip, port).into()
}

fn report<'a>(bytes: &mut Bytes<'a>) -> IcmpReport<'a> {
    let to = remote(bytes);
    IcmpReport {
        offender: Some(remote(bytes).ip()),
        kind: bytes.u8(),
        code: bytes.u8(),
        info: bytes.u32(),
        to,
        payload: bytes.piece(),
    }
}

/// Headers from the sandbox to a remote, up to the transport's.
fn headers(to: SocketAddr, proto: u8, len: usize) -> (HeaderBuf, IpAddr) {
    let mut head = HeaderBuf::new();
    let v4 = to.is_ipv4();
    let from: IpAddr = if v4 {
        Ipv4Addr::new(10, 0, 0, 2).into()
    } else {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into()
    };
    head.eth(GATEWAY, GUEST, if v4 { 0x0800 } else { 0x86dd });
    head.ip(from, to.ip(), proto, 64, 0, len);
    (head, from)
}

fn segment(bytes: &mut Bytes<'_>) -> (VnetHdr, Vec<u8>) {
    let to = remote(bytes);
    let (port, flags, window) = (u16::from(bytes.u8()) + 1000, bytes.u8(), bytes.u16());
    let (seq, ack) = (bytes.u32(), bytes.u32());
    let payload = bytes.piece();
    let (mut head, from) = headers(to, PROTO_TCP, 20 + payload.len());
    let l4 = head.as_slice().len();
    head.tcp(port, to.port(), seq, ack, flags, window, &[]);
    let vnet = head.set_partial(l4, from, to.ip(), PROTO_TCP, 20 + payload.len());
    (vnet, [head.as_slice(), payload].concat())
}

fn datagram(bytes: &mut Bytes<'_>) -> (VnetHdr, Vec<u8>) {
    let to = remote(bytes);
    let port = u16::from(bytes.u8()) + 1000;
    let payload = bytes.piece();
    let (mut head, from) = headers(to, PROTO_UDP, 8 + payload.len());
    let l4 = head.as_slice().len();
    head.udp(port, to.port(), payload.len());
    let vnet = head.set_partial(l4, from, to.ip(), PROTO_UDP, 8 + payload.len());
    (vnet, [head.as_slice(), payload].concat())
}
