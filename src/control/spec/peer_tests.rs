use super::*;

#[test]
fn overheads_are_those_of_the_formats() {
    let all = [Carrier::Sealed, Carrier::Vxlan, Carrier::FlannelUdp];
    assert_eq!(all.map(|c| c.overhead(false)), [82, 50, 28]);
    assert_eq!(all.map(|c| c.overhead(true)), [102, 70, 48]);
    assert_eq!(all.map(Carrier::port), [7348, 4789, 8285]);
}

#[test]
fn a_super_frame_has_the_segments_of_one_run() {
    for (carrier, mtu, datagram, segments) in [
        (Carrier::Vxlan, 1450, 1472, 44),
        (Carrier::Sealed, 1418, 1472, 44),
        (Carrier::FlannelUdp, 1472, 1472, 44),
        (Carrier::Sealed, 1198, 1252, 52),
        (Carrier::Vxlan, 8950, 8972, 7),
    ] {
        let size = carrier.gso_max_size(mtu).unwrap();
        assert!(datagram * segments <= 65_507 && datagram * (segments + 1) > 65_487);
        // Over IPv4, with what kernels keep free, and over IPv6 where segments are few enough.
        for (headers, spare) in [(52, 161), (52, 385), (72, 161), (72, 385)] {
            if headers == 72 && segments > 44 {
                continue;
            }
            let fit = (size - spare) / (u32::from(mtu) - headers);
            assert_eq!(fit, segments, "{carrier} {mtu} {headers} {spare}");
        }
    }
    assert_eq!(Carrier::Vxlan.gso_max_size(65_450), None);
    assert_eq!(Carrier::Sealed.gso_max_size(40_000), None);
}

#[test]
fn endpoints_read_back_or_are_refused() {
    for (text, shown) in [
        ("192.0.2.1", "192.0.2.1:7348"),
        ("192.0.2.1:9", "192.0.2.1:9"),
        ("2001:db8::1", "[2001:db8::1]:7348"),
        ("[2001:db8::1]:9", "[2001:db8::1]:9"),
        ("host.example", "host.example:7348"),
        ("host:9", "host:9"),
    ] {
        let read: HostPort = text.parse().unwrap();
        assert_eq!(read.to_string(), shown);
        assert_eq!(shown.parse(), Ok(read));
    }
    for text in [
        "",
        ":9",
        "host:",
        "host:0",
        "host:x",
        "host:70000",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.4:0",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255:9",
        "[::]:9",
        "[2001:db8::1]",
        "a b",
        "-a",
        "a:1:2",
    ] {
        assert!(text.parse::<HostPort>().is_err(), "{text}");
    }
}

#[test]
fn prefixes_read_back_or_are_refused() {
    for text in [
        "10.1.0.0/24",
        "0.0.0.0/0",
        "10.0.0.1/32",
        "fd00::/64",
        "::/0",
    ] {
        assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
    }
    for text in [
        "10.1.0.1/24",
        "10.0.0.0",
        "10.0.0.0/33",
        "fd00::1/64",
        "fd00::/129",
        "a/8",
    ] {
        assert!(text.parse::<Prefix>().is_err(), "{text}");
    }
}

#[test]
fn both_families_are_divided_alike() {
    let prefix = |t: &str| t.parse::<Prefix>().unwrap();
    let v4 = Subnet {
        network: "10.1.0.0".parse().unwrap(),
        prefix: 16,
        gateway: "10.1.0.1".parse().unwrap(),
    };
    let v6 = Subnet {
        network: "fd00:1::".parse().unwrap(),
        prefix: 64,
        gateway: "fd00:1::1".parse().unwrap(),
    };
    let twin = prefix("10.1.2.0/24").twin(&v4, &v6).unwrap();
    assert_eq!(twin, prefix("fd00:1::200/120"));
    assert_eq!(prefix("10.2.2.0/24").twin(&v4, &v6), None);
    assert_eq!(twin.twin(&v4, &v6), None);
    assert!(prefix("10.1.0.0/16").holds(&prefix("10.1.2.0/24")));
    assert!(!prefix("10.1.2.0/24").holds(&prefix("10.1.0.0/16")));
    assert!(prefix("10.1.2.0/24").overlaps(&prefix("10.1.0.0/16")));
    assert!(!prefix("10.1.2.0/24").overlaps(&twin));
    assert!(twin.contains("fd00:1::2ff".parse().unwrap()));
    assert!(!twin.contains("fd00:1::300".parse().unwrap()));
    let range = Range4 {
        first: "10.1.2.255".parse().unwrap(),
        last: "10.1.3.7".parse().unwrap(),
    };
    assert!(prefix("10.1.2.0/24").meets(&range) && prefix("10.1.3.0/30").meets(&range));
    assert!(!prefix("10.1.3.8/29").meets(&range) && !twin.meets(&range));
}
