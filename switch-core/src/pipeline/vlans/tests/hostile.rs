//! What an endpoint may try with tags, and with the MACs and addresses of other VLANs.

use core::net::Ipv6Addr;

use super::*;

#[test]
fn a_tag_within_a_tag_is_nobodys() {
    let mut net = network(true);
    let link = Link {
        src: mac(4),
        dst: Mac::BROADCAST,
    };
    let inner = tagged(&link.frame(EXPERIMENT, &[0; 50]), Some(20));
    let mut send = |frame: Vec<u8>| net.hand_in(PortId(4), &(VnetHdr::default(), frame));
    let dropped = Verdict::Drop(DropReason::Vlan);
    assert_eq!(send(tagged(&inner, Some(10))), dropped);
    let mut service = tagged(&inner, Some(10));
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    assert_eq!(send(service), dropped);
    let own = Link {
        src: mac(0),
        dst: Mac::BROADCAST,
    };
    let own = tagged(&own.frame(EXPERIMENT, &[0; 50]), Some(10));
    assert_eq!(net.hand_in(PortId(0), &(VnetHdr::default(), own)), dropped);
}

#[test]
fn a_tagged_frame_is_guarded_but_for_its_addresses() {
    let mut net = network(false);
    let stranger: core::net::SocketAddr = "192.168.7.9:5".parse().unwrap();
    let to = (Setup::addresses(1).v4, 7).into();
    let mut send = |src: Mac, tci: Option<u16>, port: u8| {
        let link = Link { src, dst: mac(1) };
        let frame = tagged(&link.udp(stranger, to, b"x"), tci);
        net.hand_in(PortId(port.into()), &(VnetHdr::default(), frame))
    };
    let dropped = Verdict::Drop;
    assert_eq!(send(mac(4), Some(10), 4), Verdict::Forward(PortId(1)));
    assert_eq!(send(mac(9), Some(10), 4), dropped(DropReason::Spoofed));
    assert_eq!(send(mac(2), None, 2), dropped(DropReason::SpoofedAddress));
    assert_eq!(send(mac(6), None, 6), dropped(DropReason::SpoofedAddress));
}

/// Asks who has an address, as RFC 4861 section 4.3 has it; of everybody.
fn solicit(link: Link, me: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let option = [&[1, 1][..], &link.src.0].concat();
    let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &option].concat();
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut frame = link.icmp(me.into(), all.into(), &message);
    frame[21] = 255;
    frame
}

/// Nobody answers ARP or ND for a station of another VLAN, neither the gateway nor whoever has it.
#[test]
fn neighbours_are_found_on_their_vlan_alone() {
    let mut net = network(false);
    for (asker, target) in (0..PORTS).flat_map(|a| (0..PORTS).map(move |t| (a, t))) {
        let (me, it) = (Setup::addresses(asker), Setup::addresses(target));
        let Some(segment) = segment(asker, None).filter(|_| asker != target) else {
            continue;
        };
        let link = Link {
            src: me.mac,
            dst: Mac::BROADCAST,
        };
        for (frame, is_v4) in [
            (link.arp(me.v4, it.v4), true),
            (solicit(link, me.v6, it.v6), false),
        ] {
            net.host.frames.clear();
            net.hand_in(PortId(asker.into()), &(VnetHdr::default(), frame));
            let meets = leaves(target, segment).is_some();
            let is_near = leaves(target, segment) == Some(false) && segment == OWN;
            for (to, _, sent) in net.host.frames.drain(..) {
                let to = u8::try_from(to.0).unwrap();
                let packet = Packet::parse(&sent).unwrap();
                assert!(
                    leaves(to, segment).is_some(),
                    "{asker} {target} {to} {is_v4}"
                );
                assert!(
                    packet.src == me.mac || is_near,
                    "{asker} {target}: an answer"
                );
                assert!(to != target || meets);
            }
        }
    }
}

/// One MAC may be behind different endpoints on different VLANs: neither moves it, and no loop is seen in it.
#[test]
fn a_mac_on_two_vlans_is_two_stations() {
    let mut net = network(true);
    let twin = Mac([2, 1, 1, 1, 1, 9]);
    let from = |net: &mut SimNet, port: u8, dst: Mac| {
        let frame = Link { src: twin, dst }.frame(EXPERIMENT, &[7; 60]);
        net.hand_in(PortId(port.into()), &(VnetHdr::default(), frame))
    };
    for _ in 0..20 {
        assert_eq!(from(&mut net, 1, mac(2)), Verdict::Forward(PortId(2)));
        assert_eq!(from(&mut net, 3, mac(4)), Verdict::Forward(PortId(4)));
    }
    let mut to = |tci: u16| {
        let frame = Link {
            src: mac(4),
            dst: twin,
        }
        .frame(EXPERIMENT, &[7; 60]);
        net.hand_in(PortId(4), &(VnetHdr::default(), tagged(&frame, Some(tci))))
    };
    assert_eq!(to(10), Verdict::Forward(PortId(1)));
    assert_eq!(to(20), Verdict::Forward(PortId(3)));
    assert_eq!(net.switch.take_flap(), None);
}

/// A tag that says what none would say lifts no guard; and none of a number that nobody can have leads anywhere.
#[test]
fn a_tag_is_no_way_round_the_guard() {
    let mut net = network(false);
    let stranger: core::net::SocketAddr = "192.168.7.9:5".parse().unwrap();
    let mut send = |port: u8, to: u8, tci: u16| {
        let link = Link {
            src: mac(port),
            dst: mac(to),
        };
        let to = (Setup::addresses(to).v4, 7).into();
        let frame = tagged(&link.udp(stranger, to, b"x"), Some(tci));
        net.hand_in(PortId(port.into()), &(VnetHdr::default(), frame))
    };
    let spoofed = Verdict::Drop(DropReason::SpoofedAddress);
    for (port, to, tci) in [
        (0, 5, 0x0000),
        (0, 5, 0xe000),
        (1, 2, 0xe000),
        (5, 0, OWN),
        (6, 1, 10),
        (6, 1, 0xa00a),
    ] {
        assert_eq!(send(port, to, tci), spoofed, "{port} {tci:x}");
    }
    let nowhere = Verdict::Drop(DropReason::Vlan);
    for (port, tci) in [
        (0, OWN),
        (1, 10),
        (0, 4095),
        (1, 4095),
        (4, 4095),
        (5, 0xffff),
        (4, OWN),
    ] {
        assert_eq!(send(port, 2, tci), nowhere, "{port} {tci:x}");
    }
    assert_eq!(
        send(5, 4, 10),
        Verdict::Forward(PortId(4)),
        "its own affair"
    );
}
