//! Messages as Linux sends them (frames caught on a veth pair, the queries those of a bridge), and the table.

use core::net::IpAddr;
use core::time::Duration;

use super::groups::{Entered, Groups, Other, Seat, Want};
use super::message::{Message, Wish, parse};
use super::query::{Ask, write};
use super::{Family, Group, Scope, response};
use crate::addr::{Mac, PortId};
use crate::l2::table::Station;
use crate::time::Tick;
use crate::verdict::DropReason;
use crate::wire::checksum::{finish, fold, sum};
use crate::wire::packet::Packet;

const V3_JOIN: &str = "01005e00001602000000000a080046c00028000040000102f9ee0a090002e0000016940400002200e8f90000000104000000ef010203";
const V3_LEAVE: &str = "01005e00001602000000000a080046c00028000040000102f9ee0a090002e0000016940400002200e9f90000000103000000ef010203";
const V3_ALLOW: &str = "01005e00001602000000000a080046c0002c000040000102f9ea0a090002e0000016940400002200e4e80000000105000001e80102030a090007";
const V3_BLOCK: &str = "01005e00001602000000000a080046c0002c000040000102f9ea0a090002e0000016940400002200e3e80000000106000001e80102030a090007";
const V3_TWO: &str = "01005e00001602000000000a080046c00034000040000102f9e20a090002e0000016940400002200eee20000000206000001e80102030a09000704000000ef010203";
const V2_JOIN: &str =
    "01005e01020302000000000a080046c00020000040000102e9080a090002ef010203940400001600f8faef010203";
const V2_LEAVE: &str =
    "01005e00000202000000000a080046c00020000040000102fa0a0a090002e0000002940400001700f7faef010203";
const V1_JOIN: &str =
    "01005e01020302000000000a080046c00020000040000102e9080a090002ef010203940400001200fcfaef010203";
const MLD2_JOIN: &str = "33330000001602000000000a86dd6000000000240001fe80000000000000000000fffe00000aff0200000000000000000000000000163a000502000001008f005eba0000000104000000ff150000000000000000000000001234";
const MLD2_LEAVE: &str = "33330000001602000000000a86dd6000000000240001fe80000000000000000000fffe00000aff0200000000000000000000000000163a000502000001008f005fba0000000103000000ff150000000000000000000000001234";
const MLD2_NAMELESS: &str = "33330000001602000000000c86dd600000000038000100000000000000000000000000000000ff0200000000000000000000000000163a000502000001008f006bfc0000000204000000ff0200000000000000000001ff00000c04000000ff02000000000000000000000000006a";
const MLD1_JOIN: &str = "33330000123402000000000a86dd6000000000200001fe80000000000000000000fffe00000aff1500000000000000000000000012343a0005020000010083005c8e00000000ff150000000000000000000000001234";
const MLD1_DONE: &str = "33330000000202000000000a86dd6000000000200001fe80000000000000000000fffe00000aff0200000000000000000000000000023a0005020000010084006dd300000000ff150000000000000000000000001234";
const V3_GENERAL: &str = "01005e00000102000000000c080046c00024000040000102fa080a090001e0000001940400001164ec1e00000000027d0000";
const V3_SPECIFIC: &str = "01005e01020302000000000c080046c00024000040000102e9050a090001ef01020394040000110af373ef0102030a7d0000";
const MLD2_SPECIFIC: &str = "33330000000102000000000c86dd6000000000240001fe80000000000000000000fffe00000cff0200000000000000000000000000013a000502000000008200696903e80000ff150000000000000000000000001234027d0000";

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    let pairs = pairs.map(|pair| core::str::from_utf8(pair).unwrap());
    pairs.map(|p| u8::from_str_radix(p, 16).unwrap()).collect()
}

fn said(frame: &[u8]) -> Result<Option<Message<'_>>, DropReason> {
    parse(&Packet::parse(frame)?, frame)
}

fn wishes(frame: &[u8]) -> Vec<(IpAddr, Wish)> {
    match said(frame) {
        Ok(Some(Message::Report(report))) => report.collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reports_and_leaves_of_every_version() {
    const G4: &str = "239.1.2.3";
    const G6: &str = "ff15::1234";
    for (hex, group, wish) in [
        (V1_JOIN, G4, Wish::Join),
        (V2_JOIN, G4, Wish::Join),
        (V2_LEAVE, G4, Wish::Leave),
        (V3_JOIN, G4, Wish::Join),
        (V3_LEAVE, G4, Wish::Leave),
        (V3_ALLOW, "232.1.2.3", Wish::Join),
        (V3_BLOCK, "232.1.2.3", Wish::Leave),
        (MLD1_JOIN, G6, Wish::Join),
        (MLD1_DONE, G6, Wish::Leave),
        (MLD2_JOIN, G6, Wish::Join),
        (MLD2_LEAVE, G6, Wish::Leave),
    ] {
        assert_eq!(
            wishes(&bytes(hex)),
            [(group.parse().unwrap(), wish)],
            "{hex}"
        );
    }
    let two = [("232.1.2.3", Wish::Leave), (G4, Wish::Join)];
    let two = two.map(|(group, wish)| (group.parse::<IpAddr>().unwrap(), wish));
    assert_eq!(wishes(&bytes(V3_TWO)), two);
    assert_eq!(wishes(&bytes(MLD2_NAMELESS)).len(), 2, "without an address");
}

#[test]
fn queries_and_what_they_ask_for() {
    for (hex, group, response) in [
        (V3_GENERAL, "0.0.0.0", Duration::from_secs(10)),
        (V3_SPECIFIC, "239.1.2.3", Duration::from_secs(1)),
        (MLD2_SPECIFIC, "ff15::1234", Duration::from_secs(1)),
    ] {
        let frame = bytes(hex);
        let Ok(Some(Message::Query(query))) = said(&frame) else {
            panic!("{hex}");
        };
        assert_eq!(query.group, group.parse::<IpAddr>().unwrap());
        assert_eq!(query.response, response);
        assert_eq!(query.interval, Some(Duration::from_secs(125)));
        assert_eq!(query.robustness, 2);
    }
}

#[test]
fn our_queries_are_those_of_linux_to_the_byte() {
    let mac = Mac([2, 0, 0, 0, 0, 0x0c]);
    let mut out = Vec::new();
    let ask = Ask {
        group: None,
        response: Duration::from_secs(10),
        interval: Duration::from_secs(125),
    };
    write(mac, "10.9.0.1".parse().unwrap(), &ask, &mut out);
    assert_eq!(out, bytes(V3_GENERAL));
    let group = Group::of("ff15::1234".parse().unwrap());
    let ask = Ask {
        group,
        response: Duration::from_secs(1),
        ..ask
    };
    write(mac, mac.link_local().into(), &ask, &mut out);
    // A bridge asks all nodes; RFC 3810 section 5.1.15 wants the group itself asked.
    let theirs = bytes(MLD2_SPECIFIC);
    assert_eq!(out[..6], [0x33, 0x33, 0, 0, 0x12, 0x34]);
    assert_eq!(out[6..38], theirs[6..38]);
    assert_eq!(out[38..54], theirs[70..86], "to the group");
    assert_eq!(out[66..], theirs[66..], "but for the checksum");
}

/// What is written is read as it was meant, whatever it was.
#[test]
fn our_queries_are_read_back() {
    let mac = Mac([2, 0, 0, 0, 0, 0x0c]);
    let froms: [IpAddr; 2] = ["10.9.0.1".parse().unwrap(), mac.link_local().into()];
    let groups = ["239.9.9.9", "ff35::9"].map(|g| Group::of(g.parse().unwrap()));
    for (from, group) in froms.into_iter().zip(groups) {
        for (seconds, coded) in [(1, 1), (127, 127), (128, 128), (300, 288), (40_000, 31_744)] {
            for group in [None, group] {
                let interval = Duration::from_secs(seconds);
                let response = response(interval);
                let ask = Ask {
                    group,
                    response,
                    interval,
                };
                let mut out = Vec::new();
                write(mac, from, &ask, &mut out);
                let Ok(Some(Message::Query(query))) = said(&out) else {
                    panic!("{ask:?}");
                };
                assert_eq!(Group::of(query.group), group);
                assert_eq!(query.interval, Some(Duration::from_secs(coded)));
                assert_eq!(query.response, response);
            }
        }
    }
}

#[test]
fn what_is_torn_or_comes_from_afar_is_refused() {
    let igmp = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = bytes(V3_JOIN);
        change(&mut frame);
        // The header's checksum is right, that of the message only where nothing in it was changed.
        frame[24..26].fill(0);
        let csum = finish(fold(sum(&frame[14..38])));
        frame[24..26].copy_from_slice(&csum.to_be_bytes());
        said(&frame).err()
    };
    assert_eq!(igmp(&|_| {}), None);
    assert_eq!(igmp(&|f| f[22] = 2), Some(DropReason::Malformed));
    assert_eq!(igmp(&|f| f[20] = 0x20), Some(DropReason::Fragment));
    assert_eq!(igmp(&|f| f[50] = 9), Some(DropReason::BadChecksum));
    let mut short = bytes(V2_JOIN);
    short[17] -= 5;
    short.truncate(short.len() - 5);
    short[24..26].fill(0);
    let csum = finish(fold(sum(&short[14..38])));
    short[24..26].copy_from_slice(&csum.to_be_bytes());
    short[40..41].fill(0);
    let csum = !fold(sum(&[short[38], 0]));
    short[38..41].copy_from_slice(&[0x16, csum.to_be_bytes()[0], csum.to_be_bytes()[1]]);
    assert!(said(&short).is_err());
    let mut afar = bytes(MLD2_JOIN);
    afar[22] = 0x20;
    assert_eq!(said(&afar), Err(DropReason::Malformed), "not of the link");
    let mut hops = bytes(MLD1_JOIN);
    hops[21] = 64;
    assert_eq!(said(&hops), Err(DropReason::Malformed));
}

#[test]
fn records_end_where_the_message_does() {
    let report = |records: u16, body: &[u8]| {
        let mut frame = bytes(V3_JOIN);
        frame.truncate(38);
        frame.extend_from_slice(&[0x22, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(&records.to_be_bytes());
        frame.extend_from_slice(body);
        let total = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        for (from, to, at) in [(14, 38, 24), (38, frame.len(), 40)] {
            frame[at..at + 2].fill(0);
            let csum = finish(fold(sum(&frame[from..to])));
            frame[at..at + 2].copy_from_slice(&csum.to_be_bytes());
        }
        wishes(&frame).len()
    };
    let join = [4, 0, 0, 0, 239, 1, 2, 3];
    assert_eq!(report(0, &join), 0);
    assert_eq!(report(9, &join), 1, "fewer than it says");
    assert_eq!(report(9, &join.repeat(9)[..70]), 8, "the last one is torn");
    assert_eq!(
        report(1, &[4, 0, 0xff, 0xff, 239, 1, 2, 3]),
        0,
        "sources that are not there"
    );
    let with_aux = [
        &[2, 1, 0, 1, 239, 1, 2, 3, 10, 0, 0, 9, 7, 7, 7, 7][..],
        &join,
    ]
    .concat();
    assert_eq!(report(2, &with_aux), 2, "auxiliary data is passed over");
    assert_eq!(report(1, &[9, 0, 0, 0, 239, 1, 2, 3]), 0, "an unknown kind");
    assert_eq!(report(1000, &join.repeat(180)), 180);
}

#[test]
fn what_stays_on_the_link_is_no_group() {
    let kept = |a: &str| Group::of(a.parse().unwrap()).is_some();
    for all in [
        "224.0.0.1",
        "224.0.0.251",
        "ff02::1",
        "ff02::fb",
        "ff02::1:ff00:1",
        "ff01::1",
    ] {
        assert!(!kept(all), "{all}");
    }
    for kept_one in [
        "224.0.1.1",
        "239.255.255.250",
        "225.0.0.5",
        "ff05::2",
        "ff0e::1",
        "ff35::1",
    ] {
        assert!(kept(kept_one), "{kept_one}");
        let address = kept_one.parse().unwrap();
        assert_eq!(Group::of(address).unwrap().address(), address);
    }
    assert!(!kept("10.0.0.1") && !kept("fd00::1") && !kept("::ffff:239.1.1.1"));
}

pub(super) const fn port(number: u32) -> Seat {
    Seat::own(Station {
        port: PortId(number),
        generation: 0,
    })
}

/// One of the protocols on the network's own segment.
pub(super) const OWN4: Scope = Scope::new(0, Family::V4);
const OWN6: Scope = Scope::new(0, Family::V6);

pub(super) fn group(last: u8) -> Group {
    Group::of(IpAddr::from([239, 0, 0, last])).unwrap()
}

#[test]
fn memberships_hold_until_their_time() {
    let table = Groups::new(64, [1, 2, 3, 4]);
    let at = Tick::from_millis;
    let want = Want::Group(group(1));
    assert_eq!(table.enter(want, port(1), at(0), at(100)), Entered::New);
    assert!(table.wants(group(1), port(1), at(99)));
    assert!(!table.wants(group(1), port(1), at(100)));
    assert!(!table.wants(group(1), port(2), at(0)));
    assert!(!table.wants(group(2), port(1), at(0)));
    assert_eq!(table.enter(want, port(1), at(50), at(200)), Entered::Known);
    assert!(table.wants(group(1), port(1), at(150)));
    table.lower(want, port(1), at(150), at(160));
    assert_eq!(table.until(want, port(1), at(150)), Some(at(160)));
    table.lower(want, port(1), at(150), at(170));
    assert_eq!(
        table.until(want, port(1), at(150)),
        Some(at(160)),
        "only lowers"
    );
    let mut next_endpoint = port(1);
    next_endpoint.of.generation = 1;
    assert!(!table.wants(group(1), next_endpoint, at(150)));
    let all: Vec<_> = table.iter(at(150)).collect();
    assert_eq!(all, [(group(1), port(1), at(160))]);
    assert_eq!(table.iter(at(160)).count(), 0);
}

#[test]
fn routers_and_the_unasked_get_all_of_their_protocol() {
    let table = Groups::new(64, [1, 2, 3, 4]);
    let at = Tick::from_millis;
    let v6 = Group::of("ff0e::1".parse().unwrap()).unwrap();
    for (n, want) in [
        (1, Want::Router(Family::V4)),
        (2, Want::Unasked(Family::V4)),
    ] {
        table.enter(want, port(n), at(0), at(10));
        assert!(table.wants(group(1), port(n), at(9)));
        assert!(!table.wants(group(1), port(n), at(10)));
        assert!(!table.wants(v6, port(n), at(9)));
    }
    assert!(table.has_routers(OWN4, at(9)) && !table.has_routers(OWN6, at(9)));
    assert_eq!(table.iter(at(9)).count(), 0, "they are no groups");
}

#[test]
fn a_full_table_says_so_and_time_makes_room() {
    let table = Groups::new(16, [1, 2, 3, 4]);
    let at = Tick::from_millis;
    for n in 0..16 {
        let entered = table.enter(Want::Group(group(n)), port(1), at(0), at(100));
        assert_eq!(entered, Entered::New);
    }
    let more = Want::Group(group(99));
    assert_eq!(table.enter(more, port(1), at(99), at(200)), Entered::Full);
    assert_eq!(table.enter(more, port(1), at(100), at(200)), Entered::New);
    assert!(!table.is_flooded(at(0)));
    table.overflow(at(50));
    assert!(table.is_flooded(at(49)) && !table.is_flooded(at(50)));
}

#[test]
fn one_general_query_at_its_time() {
    let table = Groups::new(16, [1, 2, 3, 4]);
    let at = |seconds: u64| Tick::from_millis(1000 * seconds);
    let interval = Duration::from_secs(100);
    let mut sent = Vec::new();
    for second in 0..300 {
        for _worker in 0..2 {
            if table.take_query(OWN4, at(second), interval) {
                sent.push(second);
            }
        }
    }
    assert_eq!(sent, [0, 25, 125, 225]);
    let other = Other {
        address: "10.0.0.9".parse().unwrap(),
        behind: port(3).of,
        until: at(400),
    };
    table.yield_to(OWN4, other, Duration::from_secs(260));
    assert_eq!(table.other(OWN4, at(399)), Some(other));
    assert_eq!(table.other(OWN4, at(400)), None);
    assert!(table.is_other_there(OWN4, at(399)));
    assert_eq!(table.due(OWN4), at(400));
    assert!(!table.take_query(OWN4, at(399), interval));
    assert!(table.take_query(OWN4, at(400), interval), "it has gone");
    assert_eq!(table.due(OWN6), Tick::ZERO);
    table.ask_soon();
    assert!(table.take_query(OWN4, at(401), interval), "at once");
}

#[test]
fn vlans_are_links_of_their_own() {
    let table = Groups::new(64, [1, 2, 3, 4]);
    let at = Tick::from_millis;
    let on = |vlan: u16| Seat { vlan, ..port(7) };
    let want = Want::Group(group(1));
    for vlan in [10, 4094] {
        assert_eq!(table.enter(want, on(vlan), at(0), at(100)), Entered::New);
    }
    for (vlan, is_member) in [(0, false), (10, true), (11, false), (4094, true)] {
        assert_eq!(table.wants(group(1), on(vlan), at(1)), is_member, "{vlan}");
    }
    let mut all: Vec<_> = table.iter(at(1)).map(|(_, seat, _)| seat).collect();
    all.sort_by_key(|seat| seat.vlan);
    assert_eq!(all, [on(10), on(4094)]);

    let router = Want::Router(Family::V4);
    table.enter(router, on(20), at(0), at(50));
    assert!(table.has_routers(Scope::new(20, Family::V4), at(1)));
    assert!(!table.has_routers(OWN4, at(1)));
    assert!(table.wants(group(9), on(20), at(1)) && !table.wants(group(9), on(10), at(1)));
    let routers: Vec<_> = table.routers(at(1)).collect();
    assert_eq!(routers, [(Family::V4, on(20), at(50))]);
    assert_eq!(table.routers(at(50)).count(), 0);

    // A port is asked on all of its VLANs at once.
    table.enter(Want::Unasked(Family::V4), on(30), at(0), at(9));
    assert!(
        [0, 10, 30]
            .iter()
            .all(|&vlan| table.wants(group(8), on(vlan), at(8)))
    );

    let interval = Duration::from_secs(100);
    let (ten, eleven) = (Scope::new(10, Family::V6), Scope::new(11, Family::V6));
    assert!(table.take_query(ten, at(5), interval));
    assert!(!table.take_query(ten, at(5), interval));
    let other = Other {
        address: "fe80::1".parse().unwrap(),
        behind: port(4).of,
        until: at(90),
    };
    table.yield_to(eleven, other, interval);
    assert_eq!(table.other(eleven, at(1)), Some(other));
    assert!(!table.is_other_there(ten, at(1)) && !table.is_other_there(OWN6, at(1)));
    table.ask_soon();
    assert!(table.take_query(ten, at(6), interval));
}
