//! What an endpoint may and may not say.

use proptest::prelude::*;

use super::*;
use crate::wire::emit::HeaderBuf;

const OWN: Mac = Mac([2, 0, 0, 0, 0, 5]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 6]);

fn guard(trust: Trust) -> Guard {
    let addresses = ["10.0.0.5", "fd00::5"].map(|a| a.parse().unwrap());
    let prefix = "fd00::1".parse().unwrap();
    Guard::new(OWN, addresses, Some((prefix, 64)), trust)
}

fn others(a: Ipv6Addr) -> bool {
    ["fd00::1", "fd00::6", "fe80::6"].contains(&a.to_string().as_str())
}

fn judge(trust: Trust, frame: &[u8]) -> Result<(), DropReason> {
    guard(trust).check(&Packet::parse(frame)?, frame, &others)
}

fn ip(mac: Mac, src: &str, dst: &str, proto: u8, message: &[u8]) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let mut h = HeaderBuf::new();
    h.eth(OTHER, mac, if src.is_ipv4() { 0x0800 } else { 0x86dd });
    h.ip(src, dst, proto, 255, 0, message.len());
    [h.as_slice(), message].concat()
}

fn udp(src: u16, dst: u16) -> [u8; 8] {
    let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
    [a, b, c, d, 0, 8, 0, 0]
}

fn arp(operation: u8, sha: Mac, spa: [u8; 4], tpa: [u8; 4]) -> Vec<u8> {
    [
        &[0xff; 6][..],
        &OWN.0,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation],
        &sha.0,
        &spa,
        &[0; 6],
        &tpa,
    ]
    .concat()
}

/// A message with target and one option.
fn nd(kind: u8, target: &str, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut m = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    match kind {
        133 => {}
        134 => m.extend([0; 8]),
        _ => m.extend(target.parse::<Ipv6Addr>().unwrap().octets()),
    }
    if let Some((kind, mac)) = option {
        m.extend([kind, 1]);
        m.extend(mac.0);
    }
    m
}

const SPOOFED: Result<(), DropReason> = Err(DropReason::SpoofedAddress);

#[test]
fn sources() {
    let all = Trust {
        mac: true,
        address: true,
        ..Trust::default()
    };
    for (mac, src, want, trusted) in [
        (OWN, "10.0.0.5", Ok(()), Ok(())),
        (OTHER, "10.0.0.5", Err(DropReason::Spoofed), Ok(())),
        (
            Mac::BROADCAST,
            "10.0.0.5",
            Err(DropReason::Spoofed),
            Err(DropReason::Spoofed),
        ),
        (OWN, "10.0.0.6", SPOOFED, Ok(())),
        (OWN, "0.0.0.0", SPOOFED, SPOOFED),
        (OWN, "224.0.0.1", SPOOFED, SPOOFED),
        (OWN, "255.255.255.255", SPOOFED, SPOOFED),
        (OWN, "fd00::5", Ok(()), Ok(())),
        (OWN, "fe80::ff:fe00:5", Ok(()), Ok(())),
        // Another station's, formed from its MAC, or known as somebody's.
        (OWN, "fe80::ff:fe00:6", SPOOFED, Ok(())),
        (OWN, "fe80::6", SPOOFED, Ok(())),
        // Chosen by itself.
        (OWN, "fe80::1234:5678:9abc:def0", Ok(()), Ok(())),
        (OWN, "fd00::1234:5678:9abc:def0", Ok(()), Ok(())),
        (OWN, "fd00::6", SPOOFED, Ok(())),
        (OWN, "fd00::1", SPOOFED, Ok(())),
        (OWN, "fd00:0:0:1::5", SPOOFED, Ok(())),
        (OWN, "::", SPOOFED, SPOOFED),
        (OWN, "ff02::1", SPOOFED, SPOOFED),
    ] {
        let dst = if src.contains(':') {
            "fd00::6"
        } else {
            "10.0.0.6"
        };
        let frame = ip(mac, src, dst, 6, &[0; 20]);
        assert_eq!(judge(Trust::default(), &frame), want, "{mac} {src}");
        assert_eq!(judge(all, &frame), trusted, "{mac} {src}, trusted");
    }
}

#[test]
fn those_without_an_address_may_ask_for_one() {
    let none = Trust::default();
    let everybody = "255.255.255.255";
    let ask = |m: &[u8]| judge(none, &ip(OWN, "0.0.0.0", everybody, 17, m));
    assert_eq!(ask(&udp(68, 67)), Ok(()));
    assert_eq!(ask(&udp(68, 53)), SPOOFED);
    assert_eq!(
        judge(none, &ip(OWN, "0.0.0.0", "224.0.0.22", 2, &[0x22])),
        Ok(())
    );
    for (kind, want) in [(131, Ok(())), (143, Ok(())), (133, Ok(())), (128, SPOOFED)] {
        let frame = ip(OWN, "::", "ff02::16", 58, &nd(kind, "fd00::5", None));
        assert_eq!(judge(none, &frame), want, "{kind}");
    }
}

#[test]
fn servers_and_routers_are_those_that_are_trusted() {
    let trusted = Trust {
        dhcp: true,
        router: true,
        ..Trust::default()
    };
    let dhcp = Err(DropReason::RogueDhcp);
    let router = Err(DropReason::RogueRouter);
    let ll = "fe80::ff:fe00:5";
    for (src, proto, message, want) in [
        ("10.0.0.5", 17, udp(67, 68).to_vec(), dhcp),
        ("10.0.0.5", 17, udp(67, 9).to_vec(), dhcp),
        ("10.0.0.5", 17, udp(4000, 68).to_vec(), dhcp),
        ("10.0.0.5", 17, udp(68, 67).to_vec(), Ok(())),
        (ll, 17, udp(547, 546).to_vec(), dhcp),
        (ll, 17, udp(546, 547).to_vec(), Ok(())),
        // The ports of the other family mean nothing.
        (ll, 17, udp(67, 68).to_vec(), Ok(())),
        ("10.0.0.5", 1, vec![5; 8], router),
        ("10.0.0.5", 1, vec![8; 8], Ok(())),
        ("10.0.0.5", 2, vec![0x11; 8], router),
        ("10.0.0.5", 2, vec![0x16; 8], Ok(())),
        (ll, 58, vec![130; 24], router),
        (ll, 58, nd(134, "", None), router),
        (ll, 58, nd(137, "fd00::5", None), router),
    ] {
        let dst = if src.contains(':') {
            "ff02::1"
        } else {
            "10.0.0.6"
        };
        let frame = ip(OWN, src, dst, proto, &message);
        assert_eq!(
            judge(Trust::default(), &frame),
            want,
            "{src} {proto} {message:?}"
        );
        assert_eq!(
            judge(trusted, &frame),
            Ok(()),
            "{src} {proto} {message:?}, trusted"
        );
    }
}

#[test]
fn arp_speaks_for_the_endpoint() {
    let (own, other) = ([10, 0, 0, 5], [10, 0, 0, 6]);
    let bad = Err(DropReason::SpoofedArp);
    for (operation, sha, spa, tpa, want) in [
        (1, OWN, own, other, Ok(())),
        (2, OWN, own, other, Ok(())),
        (1, OTHER, own, other, bad),
        (1, OWN, other, own, bad),
        (1, OWN, [0; 4], own, Ok(())),
        (1, OWN, [0; 4], other, bad),
        (2, OWN, [0; 4], own, bad),
        (3, OWN, own, other, Err(DropReason::Malformed)),
    ] {
        let frame = arp(operation, sha, spa, tpa);
        assert_eq!(
            judge(Trust::default(), &frame),
            want,
            "{operation} {sha} {spa:?} {tpa:?}"
        );
    }
    let frame = arp(1, OWN, own, other);
    assert_eq!(
        judge(Trust::default(), &frame[..41]),
        Err(DropReason::Truncated)
    );
}

#[test]
fn neighbour_discovery_speaks_for_the_endpoint() {
    let bad = Err(DropReason::SpoofedNd);
    for (src, kind, target, option, want) in [
        ("fd00::5", 135, "fd00::6", Some((1, OWN)), Ok(())),
        ("fd00::5", 135, "fd00::6", None, Ok(())),
        ("fd00::5", 135, "fd00::6", Some((1, OTHER)), bad),
        ("fd00::5", 136, "fd00::5", Some((2, OWN)), Ok(())),
        ("fd00::5", 136, "fd00::6", Some((2, OWN)), bad),
        ("fd00::5", 136, "fd00::1", Some((2, OWN)), bad),
        ("fd00::5", 136, "fd00::5", Some((2, OTHER)), bad),
        ("fd00::5", 136, "ff02::1", Some((2, OWN)), bad),
        ("fd00::5", 133, "", Some((1, OTHER)), bad),
        ("::", 135, "fd00::5", None, Ok(())),
        ("::", 135, "fd00::6", None, bad),
        ("::", 135, "fd00::5", Some((1, OWN)), bad),
    ] {
        let frame = ip(OWN, src, "ff02::1", 58, &nd(kind, target, option));
        assert_eq!(
            judge(Trust::default(), &frame),
            want,
            "{src} {kind} {target} {option:?}"
        );
    }
    let mut far = ip(OWN, "fd00::5", "fd00::6", 58, &nd(136, "fd00::5", None));
    far[21] = 64;
    assert_eq!(judge(Trust::default(), &far), Err(DropReason::Malformed));
    for options in [&[2, 0][..], &[2], &[2, 2, 0, 0, 0, 0, 0, 0]] {
        let message = [&nd(136, "fd00::5", None)[..], options].concat();
        let frame = ip(OWN, "fd00::5", "fd00::6", 58, &message);
        assert_eq!(judge(Trust::default(), &frame), Err(DropReason::Malformed));
    }
}

#[test]
fn nothing_hides_in_pieces_or_behind_headers() {
    let ra = nd(134, "", None);
    let hide =
        |first: u8, headers: &[u8]| ip(OWN, "fd00::5", "ff02::1", first, &[headers, &ra].concat());
    let none = Trust::default();
    let options = [58, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        judge(none, &hide(60, &options)),
        Err(DropReason::RogueRouter)
    );
    let first = |next| [next, 0, 0, 1, 0, 0, 0, 7];
    assert_eq!(
        judge(none, &hide(44, &first(58))),
        Err(DropReason::RogueRouter)
    );
    let chain = [first(60), options].concat();
    assert_eq!(judge(none, &hide(44, &chain)), Err(DropReason::Fragment));
    let chain = [&[60, 0, 0, 0, 0, 0, 0, 0].repeat(8)[..], &options].concat();
    assert_eq!(judge(none, &hide(60, &chain)), Err(DropReason::Fragment));
    // A piece of an advertisement that shows no type.
    let short = ip(OWN, "fd00::5", "ff02::1", 44, &first(58));
    assert_eq!(judge(none, &short), Err(DropReason::Truncated));
    // Solicitations come whole.
    let piece = [&first(58)[..], &nd(135, "fd00::6", None)].concat();
    let piece = ip(OWN, "fd00::5", "ff02::1", 44, &piece);
    assert_eq!(judge(none, &piece), Err(DropReason::Fragment));
    let later = ip(
        OWN,
        "fd00::5",
        "ff02::1",
        44,
        &[58, 0, 0, 8, 0, 0, 0, 7, 134],
    );
    assert_eq!(judge(none, &later), Ok(()));
    // Ports that a first piece does not show.
    let tiny = ip(OWN, "10.0.0.5", "10.0.0.6", 17, &[0, 67]);
    assert_eq!(judge(none, &tiny), Err(DropReason::Truncated));
}

#[test]
fn a_tag_hides_nothing() {
    let mut frame = arp(2, OWN, [10, 0, 0, 6], [10, 0, 0, 1]);
    frame.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(judge(Trust::default(), &frame), Err(DropReason::SpoofedArp));
}

proptest! {
    /// Whatever else a frame is, what passes comes from the endpoint's MAC and one of its addresses.
    #[test]
    fn what_passes_is_its_own(mut bytes in prop::collection::vec(any::<u8>(), 14..150), v6: bool, proto in prop::sample::select(vec![1u8, 2, 17, 58, 44, 60]), own in 0u8..4) {
        bytes[6..12].copy_from_slice(&OWN.0);
        if bytes.len() >= 60 {
            let len = u16::try_from(bytes.len() - 54).unwrap().to_be_bytes();
            if v6 {
                bytes[12..22].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], proto, 255]);
                if own > 0 {
                    bytes[22..38].copy_from_slice(&"fd00::5".parse::<Ipv6Addr>().unwrap().octets());
                }
            } else {
                bytes[12..42].copy_from_slice(&arp(own, OWN, [10, 0, 0, own + 3], [0; 4])[12..]);
            }
        }
        let Ok(packet) = Packet::parse(&bytes) else { return Ok(()) };
        if guard(Trust::default()).check(&packet, &bytes, &others) == Ok(()) {
            match packet.kind {
                Kind::Arp => prop_assert_eq!(&bytes[28..32], &[10, 0, 0, 5]),
                Kind::Ip(ip) if ip.proto == 58 && ip.frag.is_none() => prop_assert!(!matches!(bytes[ip.l4], 130 | 134 | 137)),
                Kind::Ip(_) | Kind::Other(_) => {}
            }
        }
    }
}
