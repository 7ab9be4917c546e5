use std::path::Path;

use clap::Parser;

use super::args::DaemonCommand;
use crate::cli::exit::usage_line;
use crate::control::testing::with_daemon;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: DaemonCommand,
}

fn parse(line: &str) -> Result<Line, clap::Error> {
    let words = std::iter::once("weft").chain(line.split_whitespace());
    Line::try_parse_from(words)
}

/// Runs a line against a daemon: what it prints, or the one line that it fails with.
fn weft(socket: &Path, line: &str) -> String {
    let mut parsed = match parse(line) {
        Ok(parsed) => parsed,
        Err(e) => return usage_line(&e),
    };
    match &mut parsed.command {
        DaemonCommand::Network { output, .. }
        | DaemonCommand::Endpoint { output, .. }
        | DaemonCommand::Publish { output, .. }
        | DaemonCommand::Service { output, .. }
        | DaemonCommand::Policy { output, .. }
        | DaemonCommand::Peer { output, .. }
        | DaemonCommand::Apply { output, .. }
        | DaemonCommand::Show { output, .. }
        | DaemonCommand::Down { output } => output.socket = Some(socket.to_owned()),
        DaemonCommand::Check(_) | DaemonCommand::Key { .. } => {}
    }
    let mut out = Vec::new();
    match super::run(&parsed.command, &mut out) {
        Ok(_) => String::from_utf8(out).unwrap(),
        Err(e) => format!("{e:#}\n"),
    }
}

#[test]
fn the_tree_is_sound() {
    use clap::CommandFactory;
    Line::command().debug_assert();
}

#[test]
fn a_users_hour() {
    let (text, _) = with_daemon(None, |socket| {
        let lines = [
            "network create web --subnet 172.18.0.0/16 --ipv6=false",
            "network create back --subnet 10.7.0.0/24 --ipv6=false --internal --opt ageing=60",
            "network create back",
            "network ls",
            "endpoint connect web 1 --name db --ip 172.18.0.10 --mac 02:00:00:00:00:01 --alias sql",
            "endpoint connect web 2 --name app --mac 02:00:00:00:00:02",
            "endpoint connect back db --priority 5 --mac 02:00:00:00:00:03",
            "endpoint connect web 9",
            "endpoint ls",
            "endpoint ls --network back",
            "publish add db 5432 8000-8009:80-89/udp --network web",
            "publish add app 5432:80",
            "publish ls",
            "service create www --network web --port 80:8080 --backend db app",
            "service ls",
            "policy set web --sandbox app --rule=drop",
            "policy set web --ingress drop --limit egress=10M:1M --isolated",
            "show macs --network web",
            "show groups --network back",
            "show drops",
            "show workers",
            "network rm web",
            "service rm web www",
            "publish rm 1",
            "publish rm 1",
            "endpoint disconnect back db",
            "network prune",
            "network inspect gone/../x",
        ];
        let shown = lines.map(|line| format!("$ weft {line}\n{}", weft(socket, line)));
        shown.concat()
    });
    insta::assert_snapshot!(text, @r"
    $ weft network create web --subnet 172.18.0.0/16 --ipv6=false
    web
    $ weft network create back --subnet 10.7.0.0/24 --ipv6=false --internal --opt ageing=60
    back
    $ weft network create back
    there is a network 'back' already
    $ weft network ls
    NAME  DRIVER  IPV4           IPV6  UPLINK   ENDPOINTS  STATE
    web   bridge  172.18.0.0/16  -     sockets  0          up
    back  bridge  10.7.0.0/24    -     none     0          up
    $ weft endpoint connect web 1 --name db --ip 172.18.0.10 --mac 02:00:00:00:00:01 --alias sql
    db eth0 172.18.0.10
    $ weft endpoint connect web 2 --name app --mac 02:00:00:00:00:02
    app eth0 172.18.0.11
    $ weft endpoint connect back db --priority 5 --mac 02:00:00:00:00:03
    db eth1 10.7.0.2
    $ weft endpoint connect web 9
    the sandbox is gone: 9
    $ weft endpoint ls
    NETWORK  SANDBOX  INTERFACE  IPV4         IPV6  MAC                VLAN  STATE
    web      db       eth0       172.18.0.10  -     02:00:00:00:00:01  -     up
    web      app      eth0       172.18.0.11  -     02:00:00:00:00:02  -     up
    back     db       eth1       10.7.0.2     -     02:00:00:00:00:03  -     up
    $ weft endpoint ls --network back
    NETWORK  SANDBOX  INTERFACE  IPV4      IPV6  MAC                VLAN  STATE
    back     db       eth1       10.7.0.2  -     02:00:00:00:00:03  -     up
    $ weft publish add db 5432 8000-8009:80-89/udp --network web
    1 5432:5432/tcp
    2 8000-8009:80-89/udp
    $ weft publish add app 5432:80
    '5432:80/tcp' overlaps '5432:5432/tcp' of sandbox 'db': a port of the host can lead to one place only
    $ weft publish ls
    ID  RULE                 SANDBOX  NETWORK  STATE
    1   5432:5432/tcp        db       web      up
    2   8000-8009:80-89/udp  db       web      up
    $ weft service create www --network web --port 80:8080 --backend db app
    www 172.18.0.12
    $ weft service ls
    NETWORK  NAME  ADDRESSES    PORTS        BACKENDS  NOT HERE
    web      www   172.18.0.12  80:8080/tcp  db,app    -
    $ weft policy set web --sandbox app --rule=drop
    rule 'drop': the form is ingress|egress allow|drop|reject [tcp|udp|icmp] [REMOTE] [PORT[-PORT]]
    $ weft policy set web --ingress drop --limit egress=10M:1M --isolated
    0 rules
    $ weft show macs --network web
    NETWORK  VLAN  MAC                SANDBOX  PEER  KIND  AGE
    web      1     02:00:00:00:00:01  db       -     own   0s
    web      1     02:00:00:00:00:02  app      -     own   0s
    $ weft show groups --network back
    NETWORK  VLAN  KIND     PROTOCOL  ADDRESS    SANDBOX  PEER  EXPIRES  ASKS
    back     1     member   igmp      239.1.2.3  db       -     260s     -
    back     10    router   mld       -          db       -     255s     -
    back     1     querier  igmp      10.7.0.1   gateway  -     -        125s
    back     10    querier  igmp      10.7.0.1   db       -     255s     -
    back     20    querier  igmp      -          nobody   -     -        -
    $ weft show drops
    REASON   FRAMES
    spoofed  3
    $ weft show workers
    WORKER  ENDPOINTS  FLOWS  FRAMES  TURNS  CPU-MS
    0       3          0      0       0      0
    $ weft network rm web
    network 'web' is in use by db, app, service www; disconnect them first
    $ weft service rm web www
    $ weft publish rm 1
    $ weft publish rm 1
    there is no publish rule 1; 'weft publish ls' lists those there are
    $ weft endpoint disconnect back db
    $ weft network prune
    back
    $ weft network inspect gone/../x
    there is no network 'gone/../x'; 'weft network ls' lists those there are
    ");
}

#[test]
fn of_several_all_go_or_none() {
    with_daemon(None, |socket| {
        for line in [
            "network create a",
            "network create b",
            "network create used",
            "endpoint connect used 1 --name db",
            "publish add db 5432 5433",
        ] {
            weft(socket, line);
        }
        let lists = || ["network ls", "publish ls"].map(|line| weft(socket, line));
        let before = lists();
        for line in ["network rm a b none", "network rm a used", "publish rm 1 9"] {
            let said = weft(socket, line);
            let names = ["'none'", "'used'", "rule 9"];
            assert!(names.iter().any(|n| said.contains(n)), "{line}: {said}");
            assert_eq!(lists(), before, "{line}");
        }
        for line in ["network rm b a b", "publish rm 2 1 2"] {
            assert_eq!(weft(socket, line), "", "{line}");
        }
        let left = lists().join("");
        assert!(!left.contains("543") && left.lines().count() == 3, "{left}");
    });
}

#[test]
fn answers_in_json_are_whole() {
    with_daemon(None, |socket| {
        let made = weft(socket, "network create web --json");
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        let listed: serde_json::Value =
            serde_json::from_str(&weft(socket, "network ls --json")).unwrap();
        assert_eq!(listed[0], made);
        let shown = weft(socket, "network inspect web");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            made
        );
        for table in [
            "macs", "groups", "flows", "drops", "stats", "workers", "peers", "daemon",
        ] {
            let rows = weft(socket, &format!("show {table} --json"));
            assert!(
                serde_json::from_str::<serde_json::Value>(&rows).is_ok(),
                "{table}: {rows}"
            );
        }
    });
}

const FILE: &str = "\
[[network]]
name = 'web'
[[endpoint]]
network = 'web'
sandbox = '1'
name = 'db'
ip = '10.0.0.1'
";

#[test]
fn files_are_checked_and_applied() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.toml");
    let shown = path.display().to_string();
    std::fs::write(&path, FILE).unwrap();
    let refusal = format!("config {shown}:7:1: 10.0.0.1 lies outside");
    let nowhere = Path::new("nowhere");
    let checked = weft(nowhere, &format!("check {shown}"));
    assert!(checked.starts_with(&refusal), "{checked}");
    with_daemon(None, move |socket| {
        let applied = weft(socket, &format!("apply {shown}"));
        assert!(applied.starts_with(&refusal), "{applied}");
        assert_eq!(weft(socket, "network ls --json").trim(), "[]");
        let good = FILE.replace(
            "'web'\n[",
            "'web'\nsubnet = '10.0.0.0/24'\ngateway = '10.0.0.9'\n[",
        );
        std::fs::write(&path, good).unwrap();
        assert_eq!(weft(socket, &format!("check {shown}")), "");
        let difference = "+ network web\n+ endpoint db on web\n";
        assert_eq!(
            weft(socket, &format!("apply {shown} --dry-run")),
            difference
        );
        assert_eq!(weft(socket, &format!("apply {shown}")), difference);
        assert_eq!(weft(socket, &format!("apply {shown}")), "nothing differs\n");
    });
}

#[test]
fn a_switch_that_is_not_up() {
    let error = weft(Path::new("/nowhere/weft.sock"), "network ls");
    assert!(
        error.starts_with("the switch is not up, or not yours, at /nowhere/weft.sock"),
        "{error}"
    );
}

#[test]
fn two_hosts_become_peers() {
    let ((here, there), _) = with_daemon(None, |here| {
        let begin = [
            "network create web --driver overlay --vni 7 --subnet 10.1.0.0/16 --ipv6=false",
            "network create plain --driver overlay --vni 7",
            "network create plain --driver overlay --vni 16777216",
            "network create plain --driver overlay --opt carrier=vxlan --opt port=8472 --subnet 10.2.0.0/16 --ipv6=false",
            "peer invite b --network none",
            "peer add node --carrier vxlan --endpoint 192.0.2.9 --network plain",
            "peer add node2 --carrier vxlan --endpoint 192.0.2.9 --network plain",
            "peer add x --key abc",
        ];
        let begin = begin
            .map(|line| format!("$ weft {line}\n{}", weft(here, line)))
            .concat();
        let line = weft(here, "peer invite b --as a --endpoint 192.0.2.7");
        let line = line.trim().strip_prefix("weft ").unwrap().to_owned();
        let cut = line[..line.len() - 6].to_owned();
        let (there, _) = with_daemon(None, move |there| {
            let again = line.clone();
            let shown = [
                ("add the invite, cut short", weft(there, &cut)),
                (
                    "add the invite with more",
                    weft(there, &format!("{line} --endpoint x")),
                ),
                ("add the invite", weft(there, &line)),
                ("add the invite again", weft(there, &again)),
                ("network ls", weft(there, "network ls")),
                ("peer ls", weft(there, "peer ls")),
            ];
            let secret = line.rsplit('.').next().unwrap().to_owned();
            let told = weft(there, "peer inspect a") + &weft(there, "peer ls --json");
            assert!(
                !told.contains(&secret) && !told.contains("secret"),
                "{told}"
            );
            let known: serde_json::Value =
                serde_json::from_str(&weft(there, "peer inspect a")).unwrap();
            let key = known["key"].as_str().unwrap().to_owned();
            shown
                .map(|(what, text)| format!("$ {what}\n{}", text.replace(&key, "KEY")))
                .concat()
        });
        let end = [
            "peer ls",
            "show peers",
            "peer ping node",
            "peer ping b",
            "peer ping nobody",
            "network rm web",
            "peer rm b node",
            "peer rm b",
            "network rm web plain",
        ];
        let end = end
            .map(|line| format!("$ weft {line}\n{}", weft(here, line)))
            .concat();
        (begin + &end, there)
    });
    insta::assert_snapshot!(here, @r"
    $ weft network create web --driver overlay --vni 7 --subnet 10.1.0.0/16 --ipv6=false
    web
    $ weft network create plain --driver overlay --vni 7
    vni 7 is that of network 'web'; choose another with --vni
    $ weft network create plain --driver overlay --vni 16777216
    vni 16777216: must be 1 to 16777215
    $ weft network create plain --driver overlay --opt carrier=vxlan --opt port=8472 --subnet 10.2.0.0/16 --ipv6=false
    plain
    $ weft peer invite b --network none
    there is no network 'none'; 'weft network ls' lists those there are
    $ weft peer add node --carrier vxlan --endpoint 192.0.2.9 --network plain
    node
    $ weft peer add node2 --carrier vxlan --endpoint 192.0.2.9 --network plain
    192.0.2.9:8472 is peer 'node' already
    $ weft peer add x --key abc
    key 'abc': a key is 44 characters of base64, as 'weft key show' prints it
    $ weft peer ls
    NAME  CARRIER  ENDPOINT        NETWORKS  PREFIXES     STATE
    node  vxlan    192.0.2.9:8472  plain     -            known
    b     sealed   -               web       10.1.1.0/24  invited for 24h
    $ weft show peers
    NAME  STATE            ENDPOINT        KEY  RTT  MTU  LOSS  RX-BYTES  TX-BYTES  DROPPED  HANDSHAKE
    node  open             192.0.2.9:8472  -    -    -    -     0         500       7        -
    b     invited for 24h  -               -    -    -    -     0         500       7        -
    $ weft peer ping node
    node: 0.250 ms
    $ weft peer ping b
    b: no answer
    $ weft peer ping nobody
    there is no peer 'nobody'; 'weft peer ls' lists those there are
    $ weft network rm web
    network 'web' is in use by peer b; disconnect or remove them first
    $ weft peer rm b node
    $ weft peer rm b
    there is no peer 'b'; 'weft peer ls' lists those there are
    $ weft network rm web plain
    ");
    insta::assert_snapshot!(there, @r"
    $ add the invite, cut short
    the invite is cut short or was changed on its way; copy all of the line
    $ add the invite with more
    an invite says all that there is to say; only --name goes with it
    $ add the invite
    a
    made network web
    $ add the invite again
    key KEY is that of peer 'a' already
    $ network ls
    NAME  DRIVER   IPV4         IPV6  UPLINK   ENDPOINTS  STATE
    web   overlay  10.1.0.0/16  -     sockets  0          up
    $ peer ls
    NAME  CARRIER  ENDPOINT        NETWORKS  PREFIXES     STATE
    a     sealed   192.0.2.7:7348  web       10.1.0.0/24  known
    ");
}

#[test]
fn keys_are_made_at_first_need_and_only_their_public_half_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("weft.redb").display().to_string();
    let ask = |line: &str| weft(Path::new("nowhere"), &format!("key {line} --store {store}"));
    let first = ask("show");
    assert_eq!((first.len(), ask("show")), (45, first.clone()));
    let refused = ask("new");
    assert!(refused.starts_with("there is a key already"), "{refused}");
    let file = dir.path().join("weft.key");
    let private = std::fs::read_to_string(&file).unwrap();
    assert_ne!(private, first);
    let second = ask("new --replace");
    assert_eq!(second.len(), 45);
    assert_ne!(second, first);
    assert_eq!(ask("show"), second);
    std::fs::write(&file, "nonsense").unwrap();
    let broken = ask("show");
    assert!(
        broken.contains("holds no key") && broken.lines().count() == 1,
        "{broken}"
    );
}
