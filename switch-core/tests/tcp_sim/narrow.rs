//! A router in the sandbox whose link is narrower than the endpoint's MTU, and says so.

use core::net::SocketAddr;
use core::time::Duration;

use switch_core::addr::PortId;
use switch_core::flow::tcp::Limits;
use switch_core::testing::host::{TcpServer, UdpServer};
use switch_core::testing::link::Faults;
use switch_core::testing::net::{GATEWAY, Setup};
use switch_core::testing::packets::{self, Link, Segment};
use switch_core::testing::script::Script;
use switch_core::time::Tick;
use switch_core::verdict::{DropReason, Verdict};
use switch_core::wire::tcp::{ACK, SYN};
use switch_core::wire::vnet_hdr::VnetHdr;

use super::plan::Plan;
use super::raw::{Client, SERVER};

#[test]
fn a_stream_gets_through_a_narrow_link() {
    for (seed, server, mtu) in [
        (130, "192.0.2.1:80", 1_000),
        (131, "192.0.2.1:80", 1_499),
        (132, "[2001:db8::1]:80", 1_280),
    ] {
        for faults in [Faults::default(), Faults::some()] {
            let mut plan = Plan::new(seed, 60_000, 400_000);
            plan.server = server;
            plan.faults = faults;
            let (mut net, id) = plan.start();
            net.narrow = Some(mtu);
            Plan::end(&mut net, id, Duration::from_secs(100));
            plan.orderly(&net, id);
        }
    }
}

/// Nothing is waited for: what did not get through comes at once in smaller segments.
#[test]
fn a_narrow_link_costs_no_time_out() {
    let plan = Plan::new(133, 0, 400_000);
    let (mut net, id) = plan.start();
    net.narrow = Some(700);
    let done = net.run(Duration::from_millis(100), |net| {
        net.guests[0].tcp(id).taken().len() == 400_000
    });
    assert!(done, "{:?}", net.guests[0].tcp(id));
}

/// A guest of which we see every frame and that says what we like; one segment of 536 bytes is under way.
fn under_way() -> (Client, Vec<u8>) {
    let mut client = Client::new(Limits::default(), TcpServer::Near(Script::new(2, 1 << 20)));
    client.segment(SYN, u32::MAX, &[]);
    client.ack = client.got()[0].seq.wrapping_add(1);
    client.segment(ACK, 0, &[]);
    client.net.run_for(Duration::from_millis(10));
    let frames = client.net.down[1].arrived(Tick::NEVER);
    let first = frames.into_iter().find(|(_, frame)| frame.len() > 500);
    (client, first.unwrap().1)
}

fn says(client: &mut Client, frame: &[u8], mtu: u16) -> Verdict {
    let said = packets::too_big(frame, mtu).unwrap();
    client.net.hand_in(PortId(1), &(VnetHdr::default(), said))
}

#[test]
fn segments_become_as_small_as_was_said() {
    let (mut client, frame) = under_way();
    assert_eq!(frame.len(), 14 + 40 + 536);
    assert_eq!(says(&mut client, &frame, 560), Verdict::Translate);
    let got = client.got();
    let lens: Vec<u32> = got
        .iter()
        .map(|got| got.len)
        .filter(|&len| len > 0)
        .collect();
    assert!(
        lens.len() > 10 && lens.iter().all(|&len| len <= 520),
        "{lens:?}"
    );
    assert_eq!(got[0].seq, client.ack, "from where the guest stands");
    // No smaller than any link that is still about.
    assert_eq!(says(&mut client, &frame, 68), Verdict::Translate);
    let largest = client.got().iter().map(|got| got.len).max();
    assert_eq!(largest, Some(512));
}

/// Source: RFC 5927 section 7.
#[test]
fn who_does_not_quote_what_is_under_way_is_not_believed() {
    let (mut client, frame) = under_way();
    let seq = u32::from_be_bytes(frame[38..42].try_into().unwrap());
    let forged = |seq: u32, to: u16| {
        let mut forged = frame.clone();
        forged[36..38].copy_from_slice(&to.to_be_bytes());
        forged[38..42].copy_from_slice(&seq.to_be_bytes());
        forged
    };
    for (seq, to, why) in [
        (seq.wrapping_sub(1), 5_000, DropReason::OutOfWindow),
        (seq.wrapping_add(1 << 20), 5_000, DropReason::OutOfWindow),
        (seq, 5_001, DropReason::NoFlow),
    ] {
        let forged = forged(seq, to);
        assert_eq!(says(&mut client, &forged, 560), Verdict::Drop(why));
    }
    let other = Link {
        src: Setup::addresses(0).mac,
        dst: GATEWAY,
    };
    let said = packets::too_big(&frame, 560).unwrap();
    let said = other.icmp(
        Setup::addresses(0).v4.into(),
        SERVER.parse::<SocketAddr>().unwrap().ip(),
        &said[34..],
    );
    let verdict = client.net.hand_in(PortId(0), &(VnetHdr::default(), said));
    assert_eq!(
        verdict,
        Verdict::Drop(DropReason::NoFlow),
        "of another guest"
    );
    let place = client.seq(0);
    client.segment(ACK, 0, &[]);
    assert!(
        client
            .got()
            .iter()
            .all(|got| got.ack == place && got.len <= 536)
    );
}

/// The next datagrams come in pieces, and whole ones are tried again later.
#[test]
fn datagrams_come_in_pieces() {
    for server in ["192.0.2.1:7", "[2001:db8::1]:7"] {
        let server: SocketAddr = server.parse().unwrap();
        let setup = Setup {
            uso: true,
            ..Setup::default()
        };
        let mut net = setup.build();
        net.host.udp_servers.insert(server, UdpServer::Echo(2));
        let own = Setup::addresses(0);
        let from = match server {
            SocketAddr::V4(_) => SocketAddr::new(own.v4.into(), 4_000),
            SocketAddr::V6(_) => SocketAddr::new(own.v6.into(), 4_000),
        };
        let link = Link {
            src: own.mac,
            dst: GATEWAY,
        };
        let mut answers = |seconds: u64| {
            net.run_for(Duration::from_secs(seconds));
            let faults = Faults {
                delay: Duration::from_secs(1 << 20),
                ..Faults::default()
            };
            net.down[0].set_faults(faults);
            let asks = link.udp(from, server, &[7; 1_400]);
            net.hand_in(PortId(0), &(VnetHdr::default(), asks));
            net.run_for(Duration::from_millis(30));
            let frames = net.down[0].arrived(Tick::NEVER).into_iter();
            let frames: Vec<Vec<u8>> = frames
                .map(|(_, frame)| frame)
                .filter(|f| f.len() > 100)
                .collect();
            if let Some(said) = frames.first().and_then(|f| packets::too_big(f, 1_300)) {
                net.hand_in(PortId(0), &(VnetHdr::default(), said));
            }
            frames.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(answers(1).len(), 2, "whole");
        for _ in 0..3 {
            let pieces = answers(100);
            assert_eq!(pieces.len(), 4, "{pieces:?}");
            assert!(pieces.iter().all(|&len| len <= 14 + 1_300));
        }
        assert_eq!(answers(650).len(), 2, "whole again");
    }
}

#[test]
fn what_fits_is_not_reported() {
    let link = Link {
        src: GATEWAY,
        dst: Setup::addresses(0).mac,
    };
    let (from, to) = (SERVER.parse().unwrap(), (Setup::addresses(0).v4, 1).into());
    let frame = link.tcp(from, to, &Segment::default());
    assert_eq!(packets::too_big(&frame, 40), None);
    assert!(packets::too_big(&frame, 39).is_some());
}
