use core::net::IpAddr;

use arrayvec::ArrayVec;
use proptest::prelude::*;

use super::prefix::{Prefix, Range};
use super::record::{
    Announced, EndpointView, MAX_NAME_BYTES, MAX_NAMES, Network, Record, RecordError, gone, host,
    network_gone,
};
use super::*;
use crate::addr::{Mac, Vni};

fn vni(n: u32) -> Vni {
    Vni::new(n).unwrap()
}

fn addrs(texts: &[&str]) -> ArrayVec<IpAddr, 4> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn names(texts: &[&str]) -> Box<[Box<str>]> {
    texts.iter().map(|&t| t.into()).collect()
}

fn web() -> Announced {
    Announced {
        vni: vni(0x12_3456),
        mac: "02:00:00:00:00:07".parse().unwrap(),
        addrs: addrs(&["10.1.0.7", "fd00::7"]),
        names: names(&["web", "www.shop"]),
    }
}

const STREAM: Stream = Stream {
    start: 0x1122_3344_5566_7788,
    count: 2,
};

#[test]
fn an_announcement_byte_by_byte() {
    let mut out = Vec::new();
    let mut writer = AnnounceWriter::new(&mut out, STREAM, 5);
    assert!(writer.is_empty());
    assert!(writer.push(&web().record().unwrap()));
    assert!(writer.push(&gone(vni(9), web().mac)));
    writer.complete();
    #[rustfmt::skip]
    let expected: &[u8] = &[
        1, 1, 1, 0,
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 2, 0, 0, 0,
        5, 0, 0, 0,
        1, 45, 0,
        0x56, 0x34, 0x12, 0, 2, 0, 0, 0, 0, 7, 0x11, 2,
        10, 1, 0, 7,
        0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
        3, b'w', b'e', b'b', 8, b'w', b'w', b'w', b'.', b's', b'h', b'o', b'p',
        2, 10, 0,
        9, 0, 0, 0, 2, 0, 0, 0, 0, 7,
    ];
    assert_eq!(out, expected);
    let Ok(Message::Announce(read)) = Message::parse(&out) else {
        panic!("it is an announcement");
    };
    assert_eq!((read.stream, read.number, read.complete), (STREAM, 5, true));
    let mut records = read.records;
    let Some(Record::Endpoint(view)) = records.next() else {
        panic!("the endpoint comes first");
    };
    assert_eq!(view.to_owned(), web());
    assert_eq!(records.next(), Some(Record::Gone(vni(9), web().mac)));
    assert_eq!(records.next(), None);
}

#[test]
fn the_other_messages_byte_by_byte() {
    let mut out = Vec::new();
    let ack = Ack {
        stream: STREAM,
        next: 7,
        mask: 5,
        unknown: true,
        again: false,
    };
    ack.write(&mut out);
    #[rustfmt::skip]
    assert_eq!(out, [
        1, 2, 1, 0,
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 2, 0, 0, 0,
        7, 0, 0, 0, 5, 0, 0, 0,
    ]);
    assert_eq!(Message::parse(&out), Ok(Message::Ack(ack)));

    let probe = Probe { id: 3, size: 1500 };
    out.clear();
    probe.write(&mut out, 20);
    assert_eq!(
        out,
        [
            1, 3, 0, 0, 3, 0, 0, 0, 0xdc, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
        ]
    );
    assert_eq!(Message::parse(&out), Ok(Message::Probe(probe)));
    out.clear();
    probe.write_ack(&mut out);
    assert_eq!(out, [1, 4, 0, 0, 3, 0, 0, 0, 0xdc, 5, 0, 0]);
    assert_eq!(Message::parse(&out), Ok(Message::ProbeAck(probe)));

    let ping = Ping { id: 1, time: 2 };
    out.clear();
    ping.write(&mut out);
    assert_eq!(out, [1, 5, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Message::parse(&out), Ok(Message::Ping(ping)));
    out.clear();
    ping.write_pong(&mut out);
    assert_eq!(Message::parse(&out), Ok(Message::Pong(ping)));

    out.clear();
    write_keep_alive(&mut out);
    assert_eq!(out, [1, 7, 0, 0]);
    assert_eq!(Message::parse(&out), Ok(Message::KeepAlive));
}

#[test]
fn what_is_not_a_message() {
    for (bytes, error) in [
        (&[][..], ControlError::Length),
        (&[1, 7, 0], ControlError::Length),
        (&[2, 7, 0, 0], ControlError::Version(2)),
        (&[1, 0, 0, 0], ControlError::Kind(0)),
        (&[1, 8, 0, 0], ControlError::Kind(8)),
        (&[1, 7, 0, 0, 0], ControlError::Length),
        (&[1, 3, 0, 0, 1, 2, 3], ControlError::Length),
        (
            &[1, 4, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0],
            ControlError::Length,
        ),
    ] {
        assert_eq!(Message::parse(bytes), Err(error), "{bytes:?}");
    }
    // Every way to break an announcement off behind its head.
    let mut whole = Vec::new();
    AnnounceWriter::new(&mut whole, STREAM, 0).push(&web().record().unwrap());
    for len in 0..whole.len() {
        let error = if len < ANNOUNCE_HEADER {
            ControlError::Length
        } else if len == ANNOUNCE_HEADER {
            continue;
        } else {
            ControlError::Record
        };
        assert_eq!(Message::parse(&whole[..len]), Err(error), "{len}");
    }
}

#[test]
fn a_record_that_is_not_known_is_skipped() {
    let mut out = Vec::new();
    let mut writer = AnnounceWriter::new(&mut out, STREAM, 0);
    assert!(writer.push(&[77, 2, 0, 1, 2]));
    assert!(writer.push(&host("alpha").unwrap()));
    assert!(writer.push(&network_gone(vni(4))));
    let Ok(Message::Announce(read)) = Message::parse(&out) else {
        panic!("it is an announcement");
    };
    let records: Vec<_> = read.records.collect();
    assert_eq!(
        records,
        [Record::Host("alpha"), Record::NetworkGone(vni(4))]
    );
}

#[test]
fn what_no_endpoint_may_be() {
    let with = |change: fn(&mut Announced)| {
        let mut endpoint = web();
        change(&mut endpoint);
        endpoint.record().unwrap_err()
    };
    let group = Mac([1, 0, 0, 0, 0, 0]);
    assert_eq!(
        with(|e| e.mac = Mac([1, 0, 0, 0, 0, 0])),
        RecordError::Mac(group)
    );
    for bad in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "10.1.0.7",
    ] {
        let mut endpoint = web();
        endpoint.addrs.push(bad.parse().unwrap());
        assert_eq!(
            endpoint.record(),
            Err(RecordError::Addr(bad.parse().unwrap()))
        );
    }
    for bad in ["", "Web", "a b", "a.", ".a", "-a", "a-", "\u{1b}[2J", "ä"] {
        let mut endpoint = web();
        endpoint.names = names(&[bad]);
        assert_eq!(endpoint.record(), Err(RecordError::Name), "{bad}");
        // Nor is it taken from another.
        let mut body = web().record().unwrap()[3..15].to_vec();
        body[10] = 0;
        body[11] = 1;
        body.push(u8::try_from(bad.len()).unwrap());
        body.extend_from_slice(bad.as_bytes());
        assert_eq!(EndpointView::check(&body), None, "{bad}");
    }
    assert_eq!(
        with(|e| e.names = names(&["a"; MAX_NAMES + 1])),
        RecordError::Names
    );
    let long = "a".repeat(60);
    assert_eq!(
        {
            let mut endpoint = web();
            endpoint.names = vec![format!("{long}.{long}.{long}").into(); 3].into();
            endpoint.record().unwrap_err()
        },
        RecordError::Names
    );
}

#[test]
fn the_largest_record_fits_a_message() {
    let label = "a".repeat(63);
    let name: Box<str> = [label.as_str(); 3].join(".").into();
    let mut names = vec![name.clone(), name];
    let left = MAX_NAME_BYTES - names.iter().map(|n| n.len() + 1).sum::<usize>();
    let last: String = format!("{label}.{label}.{label}")
        .chars()
        .take(left - 1)
        .collect();
    names.push(last.into());
    let endpoint = Announced {
        names: names.into(),
        addrs: addrs(&["fd00::1", "fd00::2", "fd00::3", "fd00::4"]),
        ..web()
    };
    let record = endpoint.record().unwrap();
    assert!(ANNOUNCE_HEADER + record.len() <= MAX_ANNOUNCE);
    assert_eq!(
        EndpointView::check(&record[3..]).unwrap().to_owned(),
        endpoint
    );
}

#[test]
fn prefixes() {
    let prefix = |text: &str| {
        let (addr, bits) = text.split_once('/').unwrap();
        Prefix::new(addr.parse().unwrap(), bits.parse().unwrap())
    };
    for bad in ["10.0.0.1/24", "10.0.0.0/33", "fd00::1/64", "fd00::/129"] {
        assert_eq!(prefix(bad), None, "{bad}");
    }
    let net = prefix("10.1.0.0/16").unwrap();
    assert_eq!(net.to_string(), "10.1.0.0/16");
    assert!(net.contains("10.1.255.255".parse().unwrap()));
    assert!(!net.contains("10.2.0.0".parse().unwrap()));
    assert!(!net.contains("::ffff:10.1.0.1".parse().unwrap()));
    let range = |first: &str, last: &str| Range::new(first.parse().unwrap(), last.parse().unwrap());
    assert_eq!(range("10.0.0.2", "10.0.0.1"), None);
    assert_eq!(range("10.0.0.1", "fd00::1"), None);
    let some = range("10.1.0.1", "10.1.0.100").unwrap();
    assert_eq!(some.to_string(), "10.1.0.1-10.1.0.100");
    assert!(net.covers(some) && !net.covers(range("10.1.0.1", "10.2.0.0").unwrap()));
    assert!(some.contains("10.1.0.100".parse().unwrap()));
    assert!(!some.contains("10.1.0.101".parse().unwrap()));
    assert!(some.overlaps(range("10.1.0.100", "10.1.0.120").unwrap()));
    assert!(!some.overlaps(range("10.1.0.101", "10.1.0.120").unwrap()));
    assert!(!some.overlaps(range("fd00::1", "fd00::2").unwrap()));
    assert!(prefix("::/0").unwrap().contains("fd00::1".parse().unwrap()));
    assert_eq!(Prefix::around("10.1.2.3".parse().unwrap(), 16), Some(net));
}

fn any_name() -> impl Strategy<Value = Box<str>> {
    "[a-z0-9]([a-z0-9_-]{0,10}[a-z0-9])?(\\.[a-z]{1,5})?".prop_map(Into::into)
}

fn any_addr() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (1u32..0x7eff_ffff).prop_map(|a| IpAddr::V4(a.into())),
        (1u128..u128::MAX >> 9).prop_map(|a| IpAddr::V6((a | 0xfd << 120).into())),
    ]
}

prop_compose! {
    fn any_endpoint()(
        n in 0..=Vni::MAX,
        mac in any::<[u8; 6]>(),
        addrs in prop::collection::btree_set(any_addr(), 0..=4),
        names in prop::collection::vec(any_name(), 0..=MAX_NAMES),
    ) -> Announced {
        let mut mac = mac;
        mac[0] = mac[0] & 0xfe | 2;
        // IPv4 sorts first, as it does on the wire.
        let addrs = addrs.into_iter().collect();
        Announced { vni: vni(n), mac: Mac(mac), addrs, names: names.into() }
    }
}

prop_compose! {
    fn any_network()(
        n in 0..=Vni::MAX,
        name in any_name(),
        ranges in prop::collection::vec((any_addr(), any_addr()), 0..=4),
    ) -> Network {
        let range = |(a, b): (IpAddr, IpAddr)| Range::new(a.min(b), a.max(b));
        let mut ranges: ArrayVec<Range, 4> = ranges.into_iter().filter_map(range).collect();
        ranges.sort();
        Network { vni: vni(n), name, ranges }
    }
}

proptest! {
    #[test]
    fn records_survive_the_wire(
        endpoints in prop::collection::vec(any_endpoint(), 0..5),
        network in any_network(),
        number in any::<u32>(),
        complete in any::<bool>(),
    ) {
        let mut out = vec![0xaa; 3];
        let mut writer = AnnounceWriter::new(&mut out, STREAM, number);
        let mut told = 0;
        for endpoint in &endpoints {
            if !writer.push(&endpoint.record().unwrap()) {
                break;
            }
            told += 1;
        }
        let with_network = writer.push(&network.record().unwrap());
        if complete {
            writer.complete();
        }
        prop_assert!(out.len() - 3 <= MAX_ANNOUNCE);
        let Ok(Message::Announce(read)) = Message::parse(&out[3..]) else {
            return Err(TestCaseError::fail("it is an announcement"));
        };
        prop_assert_eq!((read.stream, read.number, read.complete), (STREAM, number, complete));
        let mut records = read.records;
        for endpoint in &endpoints[..told] {
            let Some(Record::Endpoint(view)) = records.next() else {
                return Err(TestCaseError::fail("it is an endpoint"));
            };
            prop_assert_eq!(&view.to_owned(), endpoint);
            prop_assert_eq!((view.vni(), view.mac()), (endpoint.vni, endpoint.mac));
        }
        if with_network {
            prop_assert_eq!(records.next(), Some(Record::Network(network)));
        }
        prop_assert_eq!(records.next(), None);
        // Written again it is the same.
        let mut again = Vec::new();
        read.write(&mut again);
        prop_assert_eq!(&again[..], &out[3..]);
    }

    #[test]
    fn small_messages_survive_the_wire(id in any::<u32>(), time in any::<u64>(), size in any::<u16>(), mask in any::<u32>(), unknown in any::<bool>()) {
        let mut out = Vec::new();
        let ack = Ack { stream: STREAM, next: id, mask, unknown, again: !unknown };
        ack.write(&mut out);
        prop_assert_eq!(Message::parse(&out), Ok(Message::Ack(ack)));
        out.clear();
        Probe { id, size }.write(&mut out, usize::from(size));
        prop_assert_eq!(out.len(), usize::from(size).max(PROBE_HEADER));
        prop_assert_eq!(Message::parse(&out), Ok(Message::Probe(Probe { id, size })));
        out.clear();
        Ping { id, time }.write(&mut out);
        prop_assert_eq!(Message::parse(&out), Ok(Message::Ping(Ping { id, time })));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 1u8..8, record in 1u8..7) {
        let mut shaped = vec![1, kind, 1, 0];
        shaped.extend_from_slice(&[0; 16]);
        shaped.push(record);
        let body = u16::try_from(bytes.len()).unwrap();
        shaped.extend_from_slice(&body.to_le_bytes());
        shaped.extend_from_slice(&bytes);
        for bytes in [&bytes[..], &shaped] {
            if let Ok(Message::Announce(read)) = Message::parse(bytes) {
                for record in read.records {
                    let mut out = Vec::new();
                    record.write(&mut out);
                    prop_assert!(out.len() <= bytes.len());
                }
            }
        }
    }
}
