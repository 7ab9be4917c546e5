//! From options to a checked configuration: what is chosen, what is refused and in which words.

use super::*;

fn facts() -> HostFacts {
    HostFacts {
        routes: vec![
            ("0.0.0.0".parse().unwrap(), 0),
            ("192.168.1.0".parse().unwrap(), 24),
        ],
        descriptors: 4096,
        uid: 1000,
        random: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    }
}

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    options: NetOptions,
}

fn options(line: &str) -> NetOptions {
    <Line as clap::Parser>::parse_from(std::iter::once("weft").chain(line.split_whitespace()))
        .options
}

fn command() -> Target {
    Target::Command(vec!["true".into()])
}

fn resolve(line: &str) -> Result<RunConfig> {
    RunConfig::resolve(command(), false, options(line), &facts())
}

#[test]
fn defaults() {
    insta::assert_debug_snapshot!(resolve("").unwrap(), @r#"
    RunConfig {
        target: Command(
            [
                "true",
            ],
        ),
        network: Private,
        keep_id: false,
        user: None,
        name: "weft-010203",
        hostname: "weft-010203",
        kind: None,
        ifname: "eth0",
        mac: 02:0c:0d:0e:0f:10,
        gateway_mac: 06:0c:0d:0e:0f:10,
        mtu: 1500,
        v4: Some(
            Subnet4 {
                guest: 10.91.0.2,
                gateway: 10.91.0.1,
                prefix: 24,
            },
        ),
        v6: Some(
            Subnet6 {
                guest: fd01:203:405:607::2,
                gateway: fd01:203:405:607::1,
                prefix: 64,
            },
        ),
        publish: [],
        dns: [],
        dns_search: [],
        hosts: [],
        loopback_v4: None,
        loopback_v6: None,
        host_access: false,
        pcap: None,
        impair: None,
        ready_fd: None,
        pid_file: None,
        udp_filter: AddressDependent,
        warnings: [],
    }
    "#);
}

#[test]
fn refusals() {
    let lines = [
        "--network container:",
        "--network netns:",
        "--network blue --network none",
        "--network blue --network blue",
        "--network blue --subnet 10.0.0.0/24",
        "--network blue --pcap x",
        "--network blue --network green --ip 10.0.0.2",
        "--network blue --network green --vlan 10",
        "--vlan 10",
        "--priority 1",
        "--network none --trunk 10",
        "--network container:db --no-configure",
        "--network container:db --name x",
        "--alias x",
        "--network none --socket x",
        "--network bridge:blue",
        "--network none -p 80",
        "--network host --ip 10.0.0.2",
        "--mtu 67",
        "--mtu 65522",
        "--mtu 1000 --ip6 fd00::2",
        "--mac 01:00:5e:00:00:01",
        "--mac 02:00",
        "--ifname lo",
        "--hostname a_very_bad!name",
        "--name -",
        "--ip 10.0.0.256",
        "--subnet 10.0.0.0/24 --ip 10.0.1.2",
        "-p 80 -p 127.0.0.1:80",
        "-p 1-65535",
        "-P",
        "--expose 0 -P",
        "--dns resolver.example",
        "--dns 0.0.0.0",
        "--dns-search a..b",
        "--add-host db",
        "--network none --add-host db:gateway",
        "--host-loopback 127.0.0.1",
        "--host-loopback none --host-loopback 10.0.0.1",
        "--host-loopback 10.0.0.1 --host-loopback gateway",
        "--ip 10.0.0.2 --host-loopback 10.0.0.9",
        "--workers 0",
        "--workers 2",
        "--workers 1 --queues 65",
        "--user root",
        "--ready-fd=-1",
    ];
    let errors = lines.map(|l| format!("{l}\n    {:#}", resolve(l).unwrap_err()));
    insta::assert_snapshot!(errors.join("\n"), @r"
    --network container:
        --network 'container:': give none, host, netns:PATH, container:NAME, or the name of a network of 'weft up'
    --network netns:
        --network 'netns:': give none, host, netns:PATH, container:NAME, or the name of a network of 'weft up'
    --network blue --network none
        --network 'none' cannot go with another network
    --network blue --network blue
        --network 'blue' is given twice
    --network blue --subnet 10.0.0.0/24
        --subnet is a matter of the whole network: leave it out here, and give it to 'weft network create'
    --network blue --pcap x
        --pcap needs a private network: leave it out, or leave out --network blue
    --network blue --network green --ip 10.0.0.2
        --ip is of one network, and several are given: connect the others by 'weft endpoint connect'
    --network blue --network green --vlan 10
        --vlan is of one network, and several are given: connect the others by 'weft endpoint connect'
    --vlan 10
        --vlan needs a network of 'weft up': name it by --network
    --priority 1
        --priority needs a network of 'weft up': name it by --network
    --network none --trunk 10
        --trunk needs a network of weft's own: leave it out, or leave out --network none
    --network container:db --no-configure
        --no-configure cannot be another one in a network that is shared: leave it out with --network container:db
    --network container:db --name x
        --name cannot be another one in a network that is shared: leave it out with --network container:db
    --alias x
        --alias needs a network of 'weft up': name it by --network
    --network none --socket x
        --socket needs a network of weft's own: leave it out, or leave out --network none
    --network bridge:blue
        --network 'bridge:blue': 'bridge:' is no kind of network; give none, host, netns:PATH, container:NAME, or the name of a network of 'weft up'
    --network none -p 80
        --publish needs a network of weft's own: leave it out, or leave out --network none
    --network host --ip 10.0.0.2
        --ip needs a network of weft's own: leave it out, or leave out --network host
    --mtu 67
        --mtu 67: must be 68 to 65521
    --mtu 65522
        --mtu 65522: must be 68 to 65521
    --mtu 1000 --ip6 fd00::2
        --mtu 1000: IPv6 needs 1280; raise it or leave out --ip6 and --subnet6
    --mac 01:00:5e:00:00:01
        --mac '01:00:5e:00:00:01': a group's address or none cannot be an interface's
    --mac 02:00
        --mac '02:00': six hexadecimal bytes with colons between them are needed
    --ifname lo
        --ifname 'lo': that is the loopback's name
    --hostname a_very_bad!name
        --hostname 'a_very_bad!name': a name has letters, digits and hyphens, at most 63 between two dots
    --name -
        --name '-': a name has letters, digits and hyphens, at most 63 between two dots
    --ip 10.0.0.256
        --ip '10.0.0.256': not an IPv4 address
    --subnet 10.0.0.0/24 --ip 10.0.1.2
        --ip '10.0.1.2': outside the subnet 10.0.0.0/24
    -p 80 -p 127.0.0.1:80
        publish '127.0.0.1:80:80/tcp' overlaps '80:80/tcp': a port of the host can lead to one place only
    -p 1-65535
        the published ports need 65791 descriptors and the hard limit is 4096: publish fewer ports or raise it (ulimit -Hn)
    -P
        --publish-all publishes what --expose names, and it names nothing
    --expose 0 -P
        expose '0': port 0 cannot be published
    --dns resolver.example
        --dns 'resolver.example': give an address, or ADDR:PORT with an IPv6 address in brackets
    --dns 0.0.0.0
        --dns '0.0.0.0': no resolver can be there
    --dns-search a..b
        --dns-search 'a..b': a name has letters, digits and hyphens, at most 63 between two dots
    --add-host db
        --add-host 'db': the form is NAME:ADDR
    --network none --add-host db:gateway
        --add-host 'db:gateway': there is no gateway without a network
    --host-loopback 127.0.0.1
        --host-loopback '127.0.0.1': the sandbox would never send to it; take an ordinary address
    --host-loopback none --host-loopback 10.0.0.1
        --host-loopback none cannot go with an address
    --host-loopback 10.0.0.1 --host-loopback gateway
        --host-loopback: one address for each family at most
    --ip 10.0.0.2 --host-loopback 10.0.0.9
        --host-loopback '10.0.0.9': inside the sandbox's subnet only the gateway's address can stand for the host's loopback
    --workers 0
        --workers 0: at least 1 is needed
    --workers 2
        --workers 2: a private network has one worker and one queue; for more workers see 'weft up'
    --workers 1 --queues 65
        --queues 65: a private network has one worker and one queue; for more workers see 'weft up'
    --user root
        --user 'root': only root can become another user
    --ready-fd=-1
        --ready-fd -1: give the number of a descriptor that can be written to
    ");
}

#[test]
fn host_loopback_has_an_address_for_each_family() {
    let c = resolve("--host-loopback gateway").unwrap();
    assert_eq!(
        (c.loopback_v4, c.loopback_v6),
        (c.v4.map(|s| s.gateway), c.v6.map(|s| s.gateway))
    );
    let c = resolve("--host-loopback 10.91.0.1 --host-loopback fd00::1").unwrap();
    // The address was asked to mean the host, so the subnet of our choice goes elsewhere.
    assert_eq!(c.v4.unwrap().network(), Ipv4Addr::new(10, 91, 1, 0));
    assert_eq!(c.loopback_v6, Some("fd00::1".parse().unwrap()));
    assert_eq!(resolve("--host-loopback none").unwrap().loopback_v4, None);
}

#[test]
fn a_small_mtu_turns_ipv6_off_and_says_so() {
    let c = resolve("--mtu 1279").unwrap();
    assert_eq!((c.v6, c.warnings.len()), (None, 1));
    assert!(resolve("--mtu 1280").unwrap().v6.is_some());
}

#[test]
fn exposed_ports_are_published_on_request() {
    assert!(resolve("--expose 80").unwrap().publish.is_empty());
    let c = resolve("--expose 80 --expose 53/udp -P -p 8080:80").unwrap();
    assert_eq!(
        c.publish
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["8080:80/tcp", "*:80/tcp", "*:53/udp"]
    );
}

#[test]
fn users() {
    let root = HostFacts { uid: 0, ..facts() };
    let user =
        |line: &str| RunConfig::resolve(command(), false, options(line), &root).map(|c| c.user);
    assert_eq!(
        user("--user 1000:100").unwrap(),
        Some(User {
            uid: 1000,
            gid: 100
        })
    );
    assert_eq!(
        user("--user 4000000007").unwrap(),
        Some(User {
            uid: 4_000_000_007,
            gid: 4_000_000_007
        })
    );
    assert_eq!(user("--user root").unwrap(), Some(User { uid: 0, gid: 0 }));
    assert!(user("--user no-such-user-here").is_err());
}

#[test]
fn networks_and_targets() {
    assert_eq!(resolve("--network none").unwrap().v4, None);
    assert_eq!(
        resolve("--network netns:/run/x").unwrap().network,
        NetworkMode::Netns("/run/x".into())
    );
    assert_eq!(attach_target("42").unwrap(), Target::Pid(42));
    assert_eq!(
        attach_target("blue").unwrap(),
        Target::Netns("/run/netns/blue".into())
    );
    assert_eq!(
        attach_target("/proc/1/ns/net").unwrap(),
        Target::Netns("/proc/1/ns/net".into())
    );
    for bad in ["", "0", "99999999999", ".", ".."] {
        assert!(attach_target(bad).is_err(), "{bad}");
    }
    let attach = RunConfig::resolve(Target::Pid(42), false, options("--network none"), &facts());
    insta::assert_snapshot!(attach.unwrap_err(), @r"--network 'none': attach gives a namespace that exists a private network, or those of 'weft up' by name");
}

#[test]
fn networks_of_a_switch() {
    let c = resolve("--network blue --network green --name db --hostname h --alias a -p 8080:80");
    let NetworkMode::Joined(join) = c.unwrap().network else {
        panic!("not joined")
    };
    let on: Vec<_> = join.endpoints.iter().map(|e| e.network.as_str()).collect();
    assert_eq!(on, ["blue", "green"]);
    assert!(
        join.endpoints
            .iter()
            .all(|e| e.name.as_deref() == Some("db")
                && e.hostname.as_deref() == Some("h")
                && e.aliases == ["a"])
    );
    assert_eq!(join.publish.len(), 1);

    let c = resolve(
        "--network blue --trunk 10,20 --native 30 --priority -7 --no-configure --sysctl net.a=1",
    );
    let NetworkMode::Joined(join) = c.unwrap().network else {
        panic!("not joined")
    };
    let wish = &join.endpoints[0];
    assert_eq!(
        (wish.trunk.as_deref(), wish.native),
        (Some("10,20"), Some(30))
    );
    assert_eq!((wish.priority, wish.no_configure), (Some(-7), true));
    assert_eq!(wish.sysctls, ["net.a=1"]);

    let c = resolve("--network blue").unwrap();
    assert_eq!((c.v4, c.v6, c.publish.len()), (None, None, 0));
    let NetworkMode::Joined(join) = c.network else {
        panic!("not joined")
    };
    // A command's sandbox has no other name; one that exists keeps what it is called.
    assert_eq!(join.endpoints[0].name.as_deref(), Some("weft-010203"));
    let attach = RunConfig::resolve(Target::Pid(42), false, options("--network blue"), &facts());
    let NetworkMode::Joined(join) = attach.unwrap().network else {
        panic!("not joined")
    };
    assert_eq!(join.endpoints[0].name, None);

    let c = resolve("--network container:db").unwrap();
    assert_eq!(c.hostname, "db");
    assert!(matches!(c.network, NetworkMode::Shared(share) if share.name == "db"));
}

#[test]
fn a_chosen_mac_never_equals_the_gateways() {
    let c = resolve("--mac 06:0c:0d:0e:0f:10").unwrap();
    assert_ne!(c.mac, c.gateway_mac);
}
