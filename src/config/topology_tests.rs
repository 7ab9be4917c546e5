use super::*;

const FILE: &str = "\
[daemon]
workers = 2

[[network]]
name = 'web'
subnet = '172.18.0.0/16'
[network.policy]
ingress = 'drop'
rules = ['ingress allow tcp 80', { direction = 'egress', action = 'drop', remote = '10.0.0.0/8' }]
limits = { egress = '10M', macs = 4 }

[[endpoint]]
network = 'web'
sandbox = '/run/netns/db'
name = 'db'
aliases = ['sql']

[[publish]]
sandbox = 'db'
ports = ['5432', '8000-8009:9000-9009/udp']

[[service]]
name = 'www'
network = 'web'
ports = ['80']
backends = ['db']
";

fn parse(text: &str) -> Result<TopologyFile, Problem> {
    TopologyFile::parse(text.to_owned(), "weft.toml".to_owned())
}

#[test]
fn everything_is_read() {
    let file = parse(FILE).unwrap().topology;
    assert_eq!(file.daemon.workers, Some(2));
    assert_eq!(file.endpoint[0].aliases, ["sql"]);
    let policy = file.network[0].policy.as_ref().unwrap();
    assert_eq!(policy.rules.len(), 2);
    assert_eq!(policy.limits[1], ("macs".to_owned(), "4".to_owned()));
    let json = serde_json::to_string(&file).unwrap();
    assert_eq!(serde_json::from_str::<Topology>(&json).unwrap(), file);
}

#[test]
fn mistakes_have_a_place() {
    let errors = [
        "[[network]]\nname = 'a'\nsubnett = 'x'",
        "[[endpoint]]\nnetwork = 'a'\n  sandbx = '1'",
        "[networks]",
        "[[network]]\nname = 'a'\nmtu = 'big'",
        "[[network]]\nname = 'a'\nname = 'b'",
        "[daemon]\nworker = 1",
        "[[network]\n",
        "[daemon]\nmetrics-port = 1\n  workers = 9",
        "[daemon]\nmetrics-port = 0",
    ]
    .map(|text| parse(text).unwrap_err().message);
    insta::assert_snapshot!(errors.join("\n"), @r#"
    config weft.toml:3:1: unknown field `subnett`, expected one of `name`, `subnet`, `subnet6`, `ip-range`, `gateway`, `gateway6`, `ipv6`, `internal`, `mtu`, `driver`, `uplink`, `no-icc`, `dns`, `dns-search`, `host-loopback`, `host-access`, `udp-filter`, `vni`, `opt`, `policy`
    config weft.toml:3:3: unknown field `sandbx`, expected one of `network`, `sandbox`, `name`, `hostname`, `aliases`, `ip`, `ip6`, `mac`, `ifname`, `mtu`, `kind`, `priority`, `no-configure`, `vlan`, `trunk`, `native`, `sysctls`, `policy`
    config weft.toml:1:2: unknown field `networks`, expected one of `daemon`, `network`, `peer`, `endpoint`, `publish`, `service`
    config weft.toml:3:7: invalid type: string "big", expected u32
    config weft.toml:3:1: duplicate key
    config weft.toml:2:1: unknown field `worker`, expected `workers` or `metrics-port`
    config weft.toml:1:11: unclosed array table, expected `]`
    config weft.toml:3:3: workers 9: give 1 to 8
    config weft.toml:2:1: metrics-port 0: nobody would know which; give 1 to 65535
    "#);
}

#[test]
fn a_refusal_is_pointed_at() {
    let file = parse(FILE).unwrap();
    let place = |field: &str| {
        let problem = Problem::new(Code::BadSubnet, "no").at(field);
        file.point(&problem).message
    };
    assert_eq!(place("network.0.subnet"), "config weft.toml:6:1: no");
    assert_eq!(place("network.0.mtu"), "config weft.toml:4:1: no");
    assert_eq!(
        place("network.0.policy.rules.1"),
        "config weft.toml:9:34: no"
    );
    assert_eq!(place("endpoint.0.ip"), "config weft.toml:12:1: no");
    assert_eq!(place("publish.0.ports.1"), "config weft.toml:20:18: no");
    assert_eq!(place("nothing"), "config weft.toml:1:1: no");
}
