//! The gateway through a whole switch: whom it names as router, and the published face of an inner port.

use core::net::IpAddr;

use super::Switch;
use super::members::Settings;
use super::tests::{A, GATEWAY, World, switch};
use crate::addr::{Mac, PortId, SockId};
use crate::policy::host_rule::HostRule;
use crate::time::Tick;
use crate::wire::checksum::complete_partial;
use crate::wire::emit::HeaderBuf;
use crate::wire::packet::{PROTO_UDP, Packet};
use crate::wire::vnet_hdr::VnetHdr;

/// Gives a network a way out, or takes it.
fn lead_out(s: &mut Switch, uplink: bool) {
    s.configure(Settings {
        icc: true,
        uplink,
        search: Vec::new(),
        rule: HostRule::default(),
    });
}

/// What the DHCP server tells a client that asks for everything, without its header. Source: RFC 2131 figure 1.
fn lease(s: &mut Switch) -> Vec<u8> {
    let mut message = vec![1, 1, 6, 0, 9, 9, 9, 9];
    message.resize(28, 0);
    message.extend_from_slice(&A.0);
    message.resize(236, 0);
    message.extend_from_slice(&[0x63, 0x82, 0x53, 0x63, 53, 1, 1, 55, 3, 1, 3, 121, 255]);
    let (src, dst) = ([0, 0, 0, 0].into(), [255, 255, 255, 255].into());
    let mut h = HeaderBuf::new();
    h.eth(Mac::BROADCAST, A, 0x0800);
    h.ip(src, dst, PROTO_UDP, 64, 0, 8 + message.len());
    h.udp(68, 67, message.len());
    let vnet = h.set_partial(34, src, dst, PROTO_UDP, 8 + message.len());
    let mut frame = [h.as_slice(), &message].concat();
    complete_partial(&mut frame, &vnet).unwrap();
    let mut world = World::default();
    let plain = VnetHdr::default();
    s.handle_frame(&mut world, Tick::ZERO, PortId(0), &plain, &frame);
    s.flush(&mut world, Tick::ZERO);
    let (_, _, answer) = world.frames.first().expect("an offer");
    answer[14 + 20 + 8 + 240..].to_vec()
}

/// The value of a DHCP option.
fn option(mut options: &[u8], code: u8) -> Option<&[u8]> {
    loop {
        match options {
            [255, ..] | [] => return None,
            [0, rest @ ..] => options = rest,
            [found, len, rest @ ..] => {
                let (value, rest) = rest.split_at(usize::from(*len));
                if *found == code {
                    return Some(value);
                }
                options = rest;
            }
            [_] => return None,
        }
    }
}

#[test]
fn a_network_without_a_way_out_has_no_router() {
    let mut s = switch(1500);
    for uplink in [true, false, true] {
        lead_out(&mut s, uplink);
        let options = lease(&mut s);
        assert_eq!(option(&options, 1), Some(&[255, 255, 255, 0][..]));
        assert_eq!(option(&options, 6), Some(&[10, 0, 0, 1][..]));
        let router = uplink.then_some(&[10, 0, 0, 1][..]);
        assert_eq!(option(&options, 3), router);
        let route = uplink.then_some(&[0, 10, 0, 0, 1][..]);
        assert_eq!(option(&options, 121), route);
        let mut world = World::default();
        s.advertise(&mut world);
        let (_, _, advert) = world.frames.first().expect("an advertisement");
        assert_eq!(Packet::parse(advert).unwrap().src, GATEWAY);
        // Its router lifetime, in seconds. Source: RFC 4861 section 4.2.
        assert_eq!(advert[14 + 40 + 6..14 + 40 + 8] != [0, 0], uplink);
    }
}

#[test]
fn a_published_socket_of_both_families_goes_whole() {
    let mut s = switch(1500);
    let mut world = World::default();
    for (sock, port) in [(SockId(7), 57), (SockId(8), 58)] {
        for inside in ["10.0.0.2", "fd00::2"] {
            let inside = inside.parse::<IpAddr>().unwrap();
            s.publish_udp(Tick::ZERO, sock, PortId(0), (inside, port).into());
        }
    }
    assert_eq!(s.flow_rows(Tick::ZERO).count(), 4);
    s.unpublish_udp(&mut world, SockId(7));
    assert_eq!(s.flow_rows(Tick::ZERO).count(), 2);
    s.unpublish_udp(&mut world, SockId(8));
    assert_eq!(s.flow_rows(Tick::ZERO).count(), 0);
}
