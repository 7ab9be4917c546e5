//! A client and what it is told, by RFC 8415.

use super::*;
use crate::addr::Mac;
use proptest::prelude::*;

fn gateway() -> Gateway {
    Gateway {
        mac: Mac([2, 0, 0, 0, 0, 1]),
        v4: None,
        v6: Some(("fd00::1".parse().unwrap(), 64)),
        mtu: 1500,
        uplink: true,
        v6_default_route: true,
        search: vec!["example.org".into()],
        guests: vec![Guest {
            mac: Mac([2; 6]),
            name: "a".into(),
            v4: None,
            v6: Some("fd00::2".parse().unwrap()),
        }]
        .into(),
        hosts: Vec::new(),
    }
}

fn ask(kind: u8, options: &[u8]) -> Option<(u8, Vec<u8>)> {
    let gw = gateway();
    answer(&gw, gw.guests.iter().next()?, kind, options)
}

fn client() -> Vec<u8> {
    let mut o = Vec::new();
    put(&mut o, CLIENT_ID, &[0, 3, 0, 1, 2, 2, 2, 2, 2, 2]);
    o
}

#[test]
fn information_gets_the_resolver_and_no_address() {
    let (kind, body) = ask(INFORMATION, &[]).unwrap();
    assert_eq!(kind, REPLY);
    let dns = Options(&body).find(|o| o.0 == DNS_SERVERS).unwrap().1;
    assert_eq!(dns, "fd00::1".parse::<Ipv6Addr>().unwrap().octets());
    assert!(Options(&body).all(|o| o.0 != IA_NA));
    let domains = Options(&body).find(|o| o.0 == DOMAIN_LIST).unwrap().1;
    assert_eq!(domains, b"\x07example\x03org\x00");
}

#[test]
fn solicit_then_request_gives_the_endpoints_address() {
    let mut options = client();
    put(&mut options, IA_NA, &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
    let (kind, body) = ask(SOLICIT, &options).unwrap();
    assert_eq!(kind, ADVERTISE);
    let server = Options(&body)
        .find(|o| o.0 == SERVER_ID)
        .unwrap()
        .1
        .to_vec();
    assert_eq!(
        ask(REQUEST, &options),
        None,
        "without our id it is not for us"
    );
    put(&mut options, SERVER_ID, &server);
    let (kind, body) = ask(REQUEST, &options).unwrap();
    assert_eq!(kind, REPLY);
    let ia = associations(&body).next().unwrap();
    assert_eq!(ia[..4], [0, 0, 0, 9]);
    assert_eq!(
        addresses(ia).collect::<Vec<_>>(),
        ["fd00::2".parse::<Ipv6Addr>().unwrap()]
    );
}

#[test]
fn rapid_commit_and_a_foreign_address() {
    let mut options = client();
    put(&mut options, RAPID_COMMIT, &[]);
    assert_eq!(ask(SOLICIT, &options).unwrap().0, REPLY);
    let mut ia = vec![0; 12];
    let mut foreign = "2001:db8::5".parse::<Ipv6Addr>().unwrap().octets().to_vec();
    foreign.extend_from_slice(&[0; 8]);
    put(&mut ia, IA_ADDR, &foreign);
    let mut options = client();
    put(&mut options, IA_NA, &ia);
    let (_, body) = ask(CONFIRM, &options).unwrap();
    let status = Options(&body).find(|o| o.0 == STATUS).unwrap().1;
    assert_eq!(status, NOT_ON_LINK.to_be_bytes());
}

#[test]
fn what_is_for_another_server_or_has_no_meaning_gets_no_answer() {
    let with = |extra: &[(u16, &[u8])]| {
        let mut options = client();
        extra.iter().for_each(|o| put(&mut options, o.0, o.1));
        options
    };
    let foreign = [0, 3, 0, 1, 9, 9, 9, 9, 9, 9];
    let own = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
    let ia: &[u8] = &[0; 12];
    assert_eq!(ask(INFORMATION, &with(&[(SERVER_ID, &foreign)])), None);
    assert_eq!(ask(INFORMATION, &with(&[(IA_NA, ia)])), None);
    assert!(ask(INFORMATION, &with(&[(SERVER_ID, &own)])).is_some());
    for kind in [REQUEST, RENEW, RELEASE, DECLINE] {
        assert_eq!(ask(kind, &with(&[(SERVER_ID, &foreign)])), None);
        let (reply, _) = ask(kind, &with(&[(SERVER_ID, &own)])).unwrap();
        assert_eq!(reply, REPLY);
    }
    for kind in [SOLICIT, CONFIRM, REBIND] {
        assert_eq!(ask(kind, &with(&[(SERVER_ID, &own), (IA_NA, ia)])), None);
        assert_eq!(ask(kind, &[]), None, "nobody in particular");
    }
    assert_eq!(ask(CONFIRM, &with(&[(IA_NA, ia)])), None, "no address");
    for kind in [ADVERTISE, REPLY, 10, 12, 13] {
        assert_eq!(ask(kind, &client()), None);
    }
}

/// An association of `code` with these addresses in it.
fn association(code: u16, addresses: &[&str]) -> Vec<u8> {
    let mut ia = vec![0; if code == IA_TA { 4 } else { 12 }];
    for a in addresses {
        let mut data = a.parse::<Ipv6Addr>().unwrap().octets().to_vec();
        data.extend_from_slice(&[0; 8]);
        put(&mut ia, IA_ADDR, &data);
    }
    let mut out = Vec::new();
    put(&mut out, code, &ia);
    out
}

/// Asks with our identifier where the kind of message wants one.
fn ask_for(kind: u8, associations: &[Vec<u8>]) -> Vec<u8> {
    let mut options = client();
    if matches!(kind, REQUEST | RENEW | RELEASE | DECLINE) {
        put(&mut options, SERVER_ID, &own_id(&gateway()));
    }
    options.extend(associations.concat());
    ask(kind, &options).unwrap().1
}

/// The status in the first association of this code.
fn status(body: &[u8], code: u16) -> Option<u16> {
    let ia = Options(body).find(|o| o.0 == code)?.1;
    let inner = Options(ia.get(if code == IA_TA { 4 } else { 12 }..)?);
    let found = inner.filter(|o| o.0 == STATUS).map(|o| be16(o.1, 0));
    found.last().flatten()
}

#[test]
fn an_address_of_another_link_is_refused_on_request_and_ends_on_renewal() {
    let foreign = [association(IA_NA, &["2001:db8::5"])];
    let body = ask_for(REQUEST, &foreign);
    assert_eq!(status(&body, IA_NA), Some(NOT_ON_LINK));
    let ia = associations(&body).next().unwrap();
    assert_eq!(addresses(ia).count(), 0);
    for kind in [RENEW, REBIND, SOLICIT] {
        let body = ask_for(kind, &foreign);
        assert_eq!(status(&body, IA_NA), None);
        let ia = associations(&body).next().unwrap();
        let lives: Vec<u32> = Options(&ia[12..]).filter_map(|o| be32(o.1, 20)).collect();
        assert_eq!(lives, [VALID, 0], "ours lives, the other ends");
    }
}

#[test]
fn prefixes_and_temporary_addresses_are_refused_by_their_own_status() {
    let wanted = [association(IA_TA, &[]), association(IA_PD, &[])];
    for (kind, want) in [
        (SOLICIT, [NO_ADDRS, NO_PREFIXES]),
        (REQUEST, [NO_ADDRS, NO_PREFIXES]),
        (RENEW, [NO_BINDING; 2]),
        (REBIND, [NO_BINDING; 2]),
    ] {
        let body = ask_for(kind, &wanted);
        let got = [IA_TA, IA_PD].map(|code| status(&body, code));
        assert_eq!(got, want.map(Some), "{kind}");
    }
}

#[test]
fn only_what_is_not_bound_is_named_when_it_is_given_back() {
    for kind in [RELEASE, DECLINE] {
        let body = ask_for(kind, &[association(IA_NA, &["fd00::2"])]);
        assert_eq!(status(&body, IA_NA), None);
        assert!(associations(&body).next().is_none());
        let body = ask_for(kind, &[association(IA_NA, &["fd00::7"])]);
        assert_eq!(status(&body, IA_NA), Some(NO_BINDING));
    }
}

#[test]
fn unicast_is_sent_back_to_multicast_or_passed_over() {
    let gw = gateway();
    let mut options = client();
    assert_eq!(astray(&gw, REQUEST, &options), None, "not for us");
    put(&mut options, SERVER_ID, &own_id(&gw));
    for kind in [REQUEST, RENEW, RELEASE, DECLINE] {
        let (reply, body) = astray(&gw, kind, &options).unwrap();
        let status = Options(&body).find(|o| o.0 == STATUS).unwrap().1;
        assert_eq!((reply, status), (REPLY, &USE_MULTICAST.to_be_bytes()[..]));
    }
    for kind in [SOLICIT, CONFIRM, REBIND, INFORMATION] {
        assert_eq!(astray(&gw, kind, &options), None);
    }
}

#[test]
fn the_way_a_message_came_decides() {
    let gw = gateway();
    let from = "fe80::2".parse::<IpAddr>().unwrap();
    let mut message = vec![REQUEST, 7, 8, 9];
    message.extend(client());
    put(&mut message, SERVER_ID, &own_id(&gw));
    message.extend(association(IA_NA, &[]));
    for (to, want) in [("ff02::1:2", None), ("fd00::1", Some(USE_MULTICAST))] {
        let (mut frame, mut out) = (Vec::new(), Vec::new());
        let to = (to.parse().unwrap(), SERVER);
        udp_frame(
            (gw.guests.iter().next().unwrap().mac, gw.mac),
            (from, CLIENT),
            to,
            &message,
            &mut frame,
        );
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!(respond(&gw, &frame, &packet, &mut out), Ok(true));
        let Kind::Ip(ip) = Packet::parse(&out).unwrap().kind else {
            panic!("no IP");
        };
        assert_eq!(ip.dst, from);
        let answer = &out[ip.l4 + UdpHeader::LEN..ip.end];
        assert_eq!(answer[..4], [REPLY, 7, 8, 9]);
        let status = Options(&answer[4..]).find(|o| o.0 == STATUS);
        assert_eq!(status.and_then(|o| be16(o.1, 0)), want);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(kind in 0u8..14, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ask(kind, &bytes);
    }
}
