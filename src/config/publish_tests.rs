//! Published ports: texts, overlaps, descriptors.

use proptest::prelude::*;

use super::*;

fn rule(s: &str) -> PublishRule {
    s.parse().unwrap()
}

fn error(s: &str) -> String {
    format!("{:#}", s.parse::<PublishRule>().unwrap_err())
}

#[test]
fn forms() {
    for (text, same_as) in [
        ("8080", "8080:8080/tcp"),
        ("8080:80", "8080:80/tcp"),
        ("53/udp", "53:53/udp"),
        ("8000-8010:80-90/udp", "8000-8010:80-90/udp"),
        ("8000-8010", "8000-8010:8000-8010/tcp"),
        ("127.0.0.1:8080", "127.0.0.1:8080:8080/tcp"),
        ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
        ("0.0.0.0:1-65535", "0.0.0.0:1-65535:1-65535/tcp"),
        ("[::1]:8080:80", "[::1]:8080:80/tcp"),
        ("[::]:8080/tcp", "[::]:8080:8080/tcp"),
        ("[::ffff:192.0.2.1]:1:2", "192.0.2.1:1:2/tcp"),
    ] {
        assert_eq!(rule(text).to_string(), same_as, "{text}");
        assert_eq!(rule(same_as), rule(text), "{text}");
    }
}

#[test]
fn refusals_name_the_text() {
    insta::assert_snapshot!(
        [
            "", ":", "0", "0:80", "80:0", "http", "-80", "+80", "80-", "65536", "99999999999", "90-80", "80/sctp", "80/",
            "80/TCP", "8000-8001:80", "1:2:3", "1:2:3:4", "::1:80", "[::1]", "[::1]80", "[::1", "[::1%eth0]:80",
            "[127.0.0.1]:80", "300.1.1.1:80", "127.0.0.1", "127.0.0.1:", "224.0.0.1:80", "255.255.255.255:80", "80 ", "80:80:80/tcp",
        ]
        .map(error)
        .join("\n"),
        @r"
        publish '': '' is not a port: ports are 1 to 65535
        publish ':': '' is not a port: ports are 1 to 65535
        publish '0': port 0 cannot be published
        publish '0:80': port 0 cannot be published
        publish '80:0': port 0 cannot be published
        publish 'http': 'http' is not a port: ports are 1 to 65535
        publish '-80': '' is not a port: ports are 1 to 65535
        publish '+80': '+80' is not a port: ports are 1 to 65535
        publish '80-': '' is not a port: ports are 1 to 65535
        publish '65536': port 65536 is past 65535
        publish '99999999999': port 99999999999 is past 65535
        publish '90-80': the range 90-80 runs backwards
        publish '80/sctp': 'sctp' is not a protocol that can be published: use tcp or udp
        publish '80/': '' is not a protocol that can be published: use tcp or udp
        publish '80/TCP': 'TCP' is not a protocol that can be published: use tcp or udp
        publish '8000-8001:80': 2 ports of the host cannot lead to 1 ports of the sandbox: give ranges of one length
        publish '1:2:3': '1' is not an IPv4 address
        publish '1:2:3:4': too many colons; the form is [IP:]HOST[-HOST][:PORT[-PORT]][/tcp|/udp], with an IPv6 address in brackets
        publish '::1:80': too many colons; the form is [IP:]HOST[-HOST][:PORT[-PORT]][/tcp|/udp], with an IPv6 address in brackets
        publish '[::1]': a port must follow the address
        publish '[::1]80': a port must follow the address
        publish '[::1': '[' without ']'
        publish '[::1%eth0]:80': '::1%eth0' is not an IPv6 address
        publish '[127.0.0.1]:80': '127.0.0.1' is not an IPv6 address
        publish '300.1.1.1:80': '300.1.1.1' is not an IPv4 address
        publish '127.0.0.1': a port must follow the address
        publish '127.0.0.1:': '' is not a port: ports are 1 to 65535
        publish '224.0.0.1:80': 224.0.0.1 is no address of a host to listen on
        publish '255.255.255.255:80': 255.255.255.255 is no address of a host to listen on
        publish '80 ': '80 ' is not a port: ports are 1 to 65535
        publish '80:80:80/tcp': '80' is not an IPv4 address
        "
    );
}

#[test]
fn overlaps() {
    let limit = 1 << 20;
    for (a, b) in [
        ("80", "80"),
        ("80:1", "80:2"),
        ("80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("[::]:80", "[::1]:80"),
        ("70-90", "80"),
        ("70-90/udp", "90-91/udp"),
        ("80", "[::]:80"),
    ] {
        for pair in [[rule(a), rule(b)], [rule(b), rule(a)]] {
            assert!(check_together(&pair, limit).is_err(), "{a} {b}");
        }
    }
    for (a, b) in [
        ("80", "80/udp"),
        ("80", "81"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "[::]:80"),
        ("127.0.0.1:80", "[::1]:80"),
        ("8080:80", "8081:80"),
    ] {
        for pair in [[rule(a), rule(b)], [rule(b), rule(a)]] {
            assert!(check_together(&pair, limit).is_ok(), "{a} {b}");
        }
    }
    let e = check_together(&[rule("80:1"), rule("127.0.0.1:70-90:70-90")], limit).unwrap_err();
    insta::assert_snapshot!(e, @r"publish '127.0.0.1:70-90:70-90/tcp' overlaps '80:1/tcp': a port of the host can lead to one place only");
}

#[test]
fn free_ports_never_overlap() {
    let rules = [
        parse_expose("80").unwrap(),
        parse_expose("80").unwrap(),
        rule("80"),
    ];
    assert!(check_together(&rules, 1 << 20).is_ok());
    assert_eq!(
        parse_expose("80-81/udp").unwrap().to_string(),
        "*:80-81/udp"
    );
    insta::assert_snapshot!(format!("{:#}", parse_expose("8080:80").unwrap_err()), @r"expose '8080:80': '8080:80' is not a port: ports are 1 to 65535");
}

#[test]
fn descriptors_are_counted() {
    let rules = [rule("1-65535"), rule("0.0.0.0:1-65535/udp")];
    let need = 2 * 65_535 + DESCRIPTOR_RESERVE;
    assert!(check_together(&rules, need).is_ok());
    insta::assert_snapshot!(check_together(&rules, 65_536).unwrap_err(), @r"the published ports need 131326 descriptors and the hard limit is 65536: publish fewer ports or raise it (ulimit -Hn)");
    assert!(check_together(&[], 0).is_ok());
}

#[test]
fn ports_map_in_order() {
    let r = rule("8000-8010:65525-65535");
    assert_eq!(r.guest_port(8000), Some(65_525));
    assert_eq!(r.guest_port(8010), Some(65_535));
    assert_eq!(r.guest_port(8011), None);
    assert_eq!(parse_expose("80").unwrap().guest_port(80), None);
}

proptest! {
    #[test]
    fn any_text_is_a_rule_or_an_error(text in "[0-9a-f.:/\\-\\[\\]tcpud]{0,24}") {
        if let Ok(rule) = text.parse::<PublishRule>() {
            prop_assert_eq!(rule.to_string().parse::<PublishRule>().unwrap(), rule);
        }
    }
}

#[test]
fn rules_are_kept_as_text() {
    for text in [
        "80:80/tcp",
        "[::1]:1-3:5-7/udp",
        "*:80/tcp",
        "10.0.0.1:*:53/udp",
    ] {
        let json = format!("\"{text}\"");
        let rule: PublishRule = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&rule).unwrap(), json);
    }
    for text in ["*", "*:", "x*:80/tcp", "1*:80/tcp"] {
        assert!(
            serde_json::from_str::<PublishRule>(&format!("\"{text}\"")).is_err(),
            "{text}"
        );
    }
}
