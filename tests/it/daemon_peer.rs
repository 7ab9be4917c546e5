//! Overlays and peers as control keeps them: refused by one clear line, applied from a file, there again after a kill.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::netns;

/// Two overlays that VXLAN carries, and a node on one of them.
const PLACE: [&str; 3] = [
    "network create over --driver overlay --vni 7 --subnet 10.9.0.0/16 --opt carrier=vxlan",
    "network create more --driver overlay --vni 8 --subnet 10.5.0.0/16 --opt carrier=vxlan",
    "peer add b --carrier vxlan --endpoint 198.51.100.2 --network over --prefix 10.9.1.0/24",
];

/// Everything that could have changed.
fn everything(daemon: &Daemon<'_>) -> Value {
    Value::Array(vec![daemon.state(), daemon.json("peer ls")])
}

#[test]
fn wrong_peers_and_overlays_are_refused_by_one_line() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let [a, _] = daemon.furnish();
        for line in PLACE {
            daemon.ok(line);
        }
        let before = everything(&daemon);
        let inside = format!("endpoint connect over {} --ip 10.9.1.9", a.pid);
        let overlay = "network create x --driver overlay";
        let node = "peer add x --carrier vxlan";
        let mut wrong = Vec::new();
        for (line, part) in [
            (format!("{overlay} --vni 0"), "1 to 16777215"),
            (format!("{overlay} --vni 16777216"), "1 to 16777215"),
            (format!("{overlay} --vni many"), "many"),
            (format!("{overlay} --vni 7 --opt carrier=vxlan"), "'over'"),
            (format!("{overlay} --opt carrier=pigeon"), "pigeon"),
            (format!("{overlay} --opt carrier=vxlan --opt port=0"), "'0'"),
            (
                format!("{overlay} --opt carrier=flannel-udp --opt port=4789"),
                "4789 is",
            ),
            (
                format!("{overlay} --opt carrier=vxlan --subnet 10.9.9.0/24"),
                "'over'",
            ),
            (
                format!("{overlay} --opt carrier=vxlan --mtu 1000 --ipv6"),
                "1280",
            ),
            ("network create x --vni 9".to_owned(), "driver overlay"),
            (format!("{node} --endpoint 198.51.100.2"), "'b'"),
            (format!("{node} --endpoint 198.51.100.3:x"), "HOST:PORT"),
            (
                format!("{node} --endpoint 198.51.100.3 --network front"),
                "no overlay",
            ),
            (
                format!("{node} --endpoint 198.51.100.3 --network nowhere"),
                "nowhere",
            ),
            (
                format!("{node} --endpoint 198.51.100.3 --prefix 10.9.1.128/25"),
                "'b'",
            ),
            (
                format!("{node} --endpoint 198.51.100.3 --prefix 10.9.0.0/30"),
                "hands out",
            ),
            (
                format!("{node} --endpoint 198.51.100.3 --key {}", "A".repeat(44)),
                "sealed",
            ),
            (
                "peer add b --carrier vxlan --endpoint 198.51.100.3".to_owned(),
                "'b'",
            ),
            ("peer add weft1.AAAA".to_owned(), "cut short"),
            ("peer invite".to_owned(), ""),
            ("peer rm nobody".to_owned(), "'nobody'"),
            ("peer ping nobody".to_owned(), "'nobody'"),
            ("network rm over".to_owned(), "peer b"),
            ("publish add a 4789/udp".to_owned(), "tunnels"),
            (inside, "'b'"),
        ] {
            let ended = daemon.weft(&line);
            let text = &ended.stderr;
            let fine = ended.status == 125 && text.contains(part) && text.lines().count() == 1;
            if !fine || everything(&daemon) != before {
                wrong.push(format!("weft {line}: {ended:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn peers_are_there_again_after_a_kill() {
    netns::inside(|world| {
        let mut daemon = Daemon::root(world);
        daemon.furnish();
        for line in PLACE {
            daemon.ok(line);
        }
        let (before, rows) = (everything(&daemon), names(&daemon));
        assert_eq!(rows, ["b"]);
        daemon.kill();
        daemon.start(&[]);
        assert_eq!(everything(&daemon), before);
        assert_eq!(names(&daemon), rows);
        let over = daemon.json("network inspect over");
        assert_eq!(
            (&over["mtu"], &over["overlay"]["port"]),
            (&1450.into(), &4789.into())
        );
        daemon.ok("peer rm b");
        daemon.ok("network rm over more");
        daemon.kill();
        daemon.start(&[]);
        assert_eq!(names(&daemon), Vec::<String>::new());
    });
}

/// Peers as the data plane has them.
fn names(daemon: &Daemon<'_>) -> Vec<String> {
    let rows = daemon.json("show peers");
    let rows = rows.as_array().unwrap().iter();
    rows.map(|r| r["name"].as_str().unwrap().to_owned())
        .collect()
}

const FILE: &str = "
[[network]]
name = 'over'
driver = 'overlay'
vni = 7
opt = ['carrier=vxlan']

[[peer]]
name = 'b'
carrier = 'vxlan'
endpoint = '198.51.100.2'
";

#[test]
fn a_file_says_who_the_peers_are() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let path = daemon.dir().join("weft.toml");
        let put = |text: &str| fs::write(&path, text).unwrap();
        let apply = format!("apply {}", path.display());
        put(FILE);
        assert_eq!(daemon.ok(&apply), "+ network over\n+ peer b\n");
        assert_eq!(daemon.ok(&apply), "nothing differs\n");
        put(&FILE.replace("198.51.100.2", "198.51.100.3"));
        assert_eq!(daemon.ok(&apply), "~ peer b\n");
        assert_eq!(
            daemon.json("show peers")[0]["endpoint"],
            "198.51.100.3:4789"
        );
        let before = everything(&daemon);
        put(&FILE.replace("'198.51.100.2'", "'nowhere:0'"));
        daemon.weft(&apply).refused(&["weft.toml:11:1", "port 0"]);
        assert_eq!(everything(&daemon), before);
        put("");
        assert_eq!(daemon.ok(&apply), "- network over\n- peer b\n");
    });
}

#[test]
fn the_key_is_beside_the_store_and_for_its_owner_only() {
    netns::inside(|world| {
        let daemon = Daemon::new(world, crate::support::daemon::Who::Root);
        let store = daemon.store();
        let key = |words: &[&str]| {
            let mut command = daemon.shell(env!("CARGO_BIN_EXE_weft"));
            command.arg("key").args(words).arg("--store").arg(&store);
            let output = command.output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8(text).unwrap())
        };
        let (fine, shown) = key(&["show"]);
        assert!(fine && shown.len() == 45, "{shown}");
        let file = store.with_extension("key");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!fs::read_to_string(&file).unwrap().contains(shown.trim()));
        assert_eq!(key(&["show"]), (true, shown.clone()));
        assert!(!key(&["new"]).0);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let (fine, told) = key(&["show"]);
        assert!(
            !fine && told.contains("open to others") && told.lines().count() == 1,
            "{told}"
        );
        let (fine, other) = key(&["new", "--replace"]);
        assert!(fine && other != shown, "{other}");
    });
}
