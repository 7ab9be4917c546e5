//! Names of the network itself, and those that the user gave.

use super::*;
use crate::respond::dns::answer_local;

const ASKER: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn own(gw: &Gateway, query: &[u8]) -> Option<Vec<u8>> {
    answer_local(gw, ASKER, query, &Resolvers::default())
}

#[test]
fn own_names_are_answered_on_the_spot() {
    let mut w = World::new(1);
    let cases = [
        ("gateway.", RecordType::A, vec!["10.0.0.1"]),
        ("GateWay.", RecordType::AAAA, vec!["fd00::1"]),
        ("gateway.corp.test.", RecordType::A, vec!["10.0.0.1"]),
        ("box.", RecordType::A, vec!["10.0.0.2"]),
        ("BOX.CORP.TEST.", RecordType::A, vec!["10.0.0.2"]),
        ("box.", RecordType::AAAA, vec![]),
        ("box.", RecordType::MX, vec![]),
        ("1.0.0.10.in-addr.arpa.", RecordType::PTR, vec!["gateway."]),
        ("2.0.0.10.in-addr.arpa.", RecordType::PTR, vec!["box."]),
    ];
    for (name, kind, want) in cases {
        let q = query(name, kind);
        assert_eq!(texts(&w.ask(&q).unwrap()), want, "{name} {kind}");
        assert_eq!(
            texts(&answer_local(&w.gw, ASKER, &q, &w.host).unwrap()),
            want
        );
    }
    assert!(w.host.sent.is_empty());
    assert!(w.dns.poll_timeout().is_none());
}

#[test]
fn who_speaks_edns_is_answered_in_edns() {
    let mut m = message("box.", RecordType::A);
    m.set_edns(Edns::new());
    let answer = own(&gateway(), &m.to_vec().unwrap()).unwrap();
    assert!(Message::from_vec(&answer).unwrap().edns.is_some());
    let answer = own(&gateway(), &query("box.", RecordType::A)).unwrap();
    assert!(Message::from_vec(&answer).unwrap().edns.is_none());
}

#[test]
fn other_names_other_classes_and_parts_of_reverse_zones_are_not_ours() {
    let gw = gateway();
    for (name, kind) in [
        ("example.org.", RecordType::A),
        ("gateway.example.org.", RecordType::A),
        ("box.box.", RecordType::A),
        ("3.1.0.10.in-addr.arpa.", RecordType::PTR),
        ("0.10.in-addr.arpa.", RecordType::PTR),
    ] {
        assert_eq!(own(&gw, &query(name, kind)), None, "{name}");
    }
    let mut chaos = message("gateway.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(own(&gw, &chaos.to_vec().unwrap()), None);
}

#[test]
fn who_has_an_address_inside_is_asked_of_nobody_outside() {
    let mut w = World::new(1);
    let v6 = format!("9.{}d.f.ip6.arpa.", "0.".repeat(29));
    for (name, nobody) in [
        ("3.0.0.10.in-addr.arpa.", true),
        (&v6, true),
        ("2.0.0.10.in-addr.arpa.", false),
    ] {
        let answer = w.ask(&query(name, RecordType::PTR)).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert!(answer.metadata.authoritative);
        let code = answer.metadata.response_code;
        assert_eq!(code == ResponseCode::NXDomain, nobody, "{name} {code}");
        assert_eq!(answer.answers.is_empty(), nobody);
    }
    assert!(w.host.sent.is_empty());
}

#[test]
fn names_that_the_user_gave_are_answered_both_ways() {
    let mut gw = gateway();
    let host = |name: &str, addr: &str| (name.to_owned(), addr.parse().unwrap());
    gw.hosts = vec![
        host("Printer", "192.0.2.9"),
        host("printer", "2001:db8::9"),
        host("printer", "192.0.2.10"),
        host("db.corp.test", "192.0.2.11"),
        host("box", "192.0.2.12"),
        host("scanner.example.org.", "192.0.2.13"),
    ];
    let reverse = "9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
    for (name, kind, want) in [
        ("printer.", RecordType::A, vec!["192.0.2.9", "192.0.2.10"]),
        ("PRINTER.", RecordType::AAAA, vec!["2001:db8::9"]),
        (
            "printer.corp.test.",
            RecordType::A,
            vec!["192.0.2.9", "192.0.2.10"],
        ),
        ("printer.", RecordType::MX, vec![]),
        ("db.corp.test.", RecordType::A, vec!["192.0.2.11"]),
        ("db.corp.test.", RecordType::AAAA, vec![]),
        ("scanner.example.org.", RecordType::A, vec!["192.0.2.13"]),
        // A sandbox's own name stands before, as in its hosts file.
        ("box.", RecordType::A, vec!["10.0.0.2"]),
        ("9.2.0.192.in-addr.arpa.", RecordType::PTR, vec!["Printer."]),
        (reverse, RecordType::PTR, vec!["printer."]),
    ] {
        let answer = own(&gw, &query(name, kind)).unwrap();
        assert_eq!(texts(&answer), want, "{name} {kind}");
    }
    for (name, kind) in [
        ("db.", RecordType::A),
        ("printer.example.org.", RecordType::A),
        ("14.2.0.192.in-addr.arpa.", RecordType::PTR),
    ] {
        assert_eq!(own(&gw, &query(name, kind)), None, "{name}");
    }
}

#[test]
fn many_addresses_of_a_name_fit_the_smallest_datagram() {
    let mut gw = gateway();
    let name = format!("{0}.{0}.{0}.test", "x".repeat(60));
    gw.hosts = (0..40)
        .map(|n| (name.clone(), format!("2001:db8::{n:x}").parse().unwrap()))
        .collect();
    let answer = own(&gw, &query(&format!("{name}."), RecordType::AAAA)).unwrap();
    assert_eq!(texts(&answer).len(), 8);
    assert!(answer.len() <= 512, "{}", answer.len());
}

#[test]
fn who_is_on_several_networks_is_told_the_names_of_all() {
    let mut w = World::new(1);
    let there = [IpAddr::from([10, 9, 1, 2]), "fd09::102".parse().unwrap()];
    w.host
        .names
        .set(1, Owner::of_mac(Mac([2; 6])), &["db", "sql"], &there);
    let cases = [
        ("db.", RecordType::A, vec!["10.9.1.2"]),
        ("SQL.CORP.TEST.", RecordType::AAAA, vec!["fd09::102"]),
        ("2.1.9.10.in-addr.arpa.", RecordType::PTR, vec!["db."]),
    ];
    // The asker is on the first network alone: its questions go to the resolver.
    for (name, kind, _) in &cases {
        assert_eq!(w.ask(&query(name, *kind)), None, "{name}");
    }
    assert_eq!(w.host.sent.len(), cases.len());
    w.host.names.set_beside(0, client().mac, &[1]);
    for (name, kind, want) in &cases {
        let told = w.ask(&query(name, *kind)).unwrap();
        assert_eq!(texts(&told), *want, "{name} {kind}");
        let streamed = w.ask_streamed(&query(name, *kind)).unwrap();
        assert_eq!(texts(&streamed), *want, "{name} {kind} over TCP");
        let other = answer_local(&w.gw, ASKER, &query(name, *kind), &w.host);
        assert_eq!(other, None, "{name} is for nobody else");
    }
    // The network's own guests come first.
    w.host
        .names
        .set(1, Owner::of_mac(Mac([2; 6])), &["box"], &there);
    let told = w.ask(&query("box.", RecordType::A)).unwrap();
    assert_eq!(texts(&told), ["10.0.0.2"]);
    w.host.names.set_beside(0, client().mac, &[]);
    assert_eq!(w.ask(&query("db.", RecordType::A)), None);
}
