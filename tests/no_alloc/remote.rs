//! Other hosts: what their endpoints take in the tables of a worker, their names and addresses of both families included;
//! and what their frames to a service cost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use switch_core::addr::{Mac, PortId};
use switch_core::l2::table::MacTable;
use switch_core::nat::service::{Face, Server, ServiceConfig, Services, station};
use switch_core::pipeline::{Port, Remote, Switch};
use switch_core::respond::Guest;
use switch_core::respond::names::{NameTable, Owner};
use switch_core::testing::packets::Link;
use switch_core::testing::quiet::QuietHost;
use switch_core::testing::setup::Setup;
use switch_core::time::Tick;
use switch_core::verdict::Verdict;
use switch_core::wire::packet::PROTO_UDP;
use switch_core::wire::vnet_hdr::VnetHdr;

use crate::sys::{allocations, held};

/// Frames each way, of the warm-up, and as many again that must cost nothing.
const FRAMES: u64 = 5_000;
const PEERS: u32 = 1_000;
const ENDPOINTS: u32 = 100_000;
/// Sandboxes that are on this network beside their own.
const ASKERS: u32 = 1_000;

fn mac(n: u32) -> Mac {
    let [_, a, b, c] = n.to_be_bytes();
    Mac([2, 0xff, 0, a, b, c])
}

#[test]
fn a_hundred_thousand_endpoints_elsewhere_take_few_bytes_each() {
    let config = Setup::default().config();
    let mut switch = Switch::new(Tick::ZERO, config, Arc::new(MacTable::new(4_096)));
    let mut names = NameTable::default();
    let before = held();
    for n in 0..PEERS {
        switch.add_remote_port(Port {
            remote: Some(Remote::Announced),
            ..Port::new(PortId::remote(n), Mac::default(), 1450, true)
        });
    }
    for n in 0..ENDPOINTS {
        let (v4, v6) = (
            Ipv4Addr::from_bits(0x0a64_0000 + n),
            Ipv6Addr::from_bits((0xfd09 << 112) + u128::from(n)),
        );
        let guest = Guest {
            mac: mac(n),
            name: String::new(),
            v4: Some(v4),
            v6: Some(v6),
        };
        switch.set_remote(PortId::remote(n % PEERS), guest);
        let addrs = [IpAddr::V4(v4), IpAddr::V6(v6)];
        names.set(1, Owner::of_mac(mac(n)), &[format!("app-{n}")], &addrs);
    }
    let each = (held() - before) / ENDPOINTS as usize;
    assert!(each <= 300, "{each} bytes each");
    // However many may ask for them.
    let before = held();
    for n in 0..ASKERS {
        names.set_beside(0, mac(n), &[1]);
    }
    let each = (held() - before) / ASKERS as usize;
    assert!(each <= 100, "{each} bytes for each who asks");
    let last = format!("app-{}", ENDPOINTS - 1);
    for n in 0..ASKERS {
        assert_eq!(names.lookup(0, mac(n), &last).map(|a| a.len()), Some(2));
    }
}

#[test]
fn a_frame_to_a_service_of_this_host_and_its_answer() {
    let way = PortId::remote(0);
    let backend = Setup::addresses(0);
    let (client, v4) = (mac(1), Ipv4Addr::new(10, 0, 0, 100));
    let vip = IpAddr::from([10, 0, 0, 200]);
    let config = Setup::default().config();
    let mut switch = Switch::new(Tick::ZERO, config, Arc::new(MacTable::new(64)));
    switch.add_remote_port(Port {
        remote: Some(Remote::Announced),
        ..Port::new(way, Mac::default(), 1450, true)
    });
    let guest = Guest {
        mac: client,
        name: String::new(),
        v4: Some(v4),
        v6: None,
    };
    switch.set_remote(way, guest);
    let service = ServiceConfig {
        addrs: vec![vip],
        faces: vec![Face {
            proto: PROTO_UDP,
            port: 80,
            target: 8080,
        }],
        servers: vec![Server {
            port: PortId(0),
            mac: backend.mac,
            addrs: vec![backend.v4.into()],
        }],
    };
    switch.set_services(Arc::new(Services::new(&[service], None)));
    let link = |src, dst| Link { src, dst };
    let own = (v4, 4000).into();
    let there = link(client, station(&[vip]).unwrap()).udp(own, (vip, 80).into(), &[1; 64]);
    let back = link(backend.mac, client).udp((backend.v4, 8080).into(), own, &[1; 1400]);
    let (mut host, mut before) = (QuietHost::default(), 0);
    for turn in 0..2 * FRAMES {
        if turn == FRAMES {
            before = allocations();
        }
        let now = Tick::from_millis(turn);
        for (from, to, frame) in [(way, PortId(0), &there), (PortId(0), way, &back)] {
            let verdict = switch.handle_frame(&mut host, now, from, &VnetHdr::default(), frame);
            assert_eq!(verdict, Verdict::Forward(to));
        }
        switch.flush(&mut host, now);
    }
    assert_eq!(allocations() - before, 0);
}
