//! `weft run` and `weft attach` on the networks of a running switch.

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::netns::{self, HOST, Namespace, OUTSIDE, World};
use crate::support::wait::{self, SOON};
use crate::support::weft::{Ended, Running, Sandbox, find, json};
use crate::support::{guest, servers};

/// A switch that runs, and where.
struct Switch<'a> {
    world: &'a World,
    running: Running,
    dir: tempfile::TempDir,
}

impl<'a> Switch<'a> {
    /// Starts one with a network `web`.
    #[track_caller]
    fn up(world: &'a World) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name).to_str().unwrap().to_owned();
        let (socket, store) = (path("weft.sock"), path("weft.redb"));
        let running = world.start(&[
            "up",
            "--socket",
            &socket,
            "--store",
            &store,
            "--workers",
            "1",
        ]);
        let switch = Self {
            world,
            running,
            dir,
        };
        wait::until("the switch is up", SOON, || {
            switch.ask(&["network", "ls"]).status == 0
        });
        switch
            .ask(&["network", "create", "web", "--subnet", "172.18.0.0/24"])
            .ok();
        switch
    }

    fn socket(&self) -> String {
        self.dir
            .path()
            .join("weft.sock")
            .to_str()
            .unwrap()
            .to_owned()
    }

    /// Runs a command that asks it.
    #[track_caller]
    fn ask(&self, args: &[&str]) -> Ended {
        self.world
            .weft(&[args, &["--socket", &self.socket()]].concat())
    }

    /// A command's options to have it on these networks.
    fn on<'b>(&self, socket: &'b str, networks: &[&'b str], more: &[&'b str]) -> Vec<&'b str> {
        let networks = networks.iter().flat_map(|n| ["--network", n]);
        ["--socket", socket]
            .into_iter()
            .chain(networks)
            .chain(more.iter().copied())
            .collect()
    }

    /// A sandbox on `web` that does nothing.
    #[track_caller]
    fn sandbox(&self, options: &[&str]) -> Sandbox {
        let socket = self.socket();
        self.world.sandbox(&self.on(&socket, &["web"], options))
    }

    /// As [`Self::sandbox`], of one that the gateway cannot reach: its `weft run`, and where its command is.
    #[track_caller]
    fn apart(&self, options: &[&str]) -> (Running, Namespace) {
        let socket = self.socket();
        let (weft, pid) = self.world.idle(&[], &self.on(&socket, &["web"], options));
        (weft, Namespace::of(pid))
    }

    /// Runs a line of shell in a sandbox on `network`.
    #[track_caller]
    fn sh(&self, network: &str, options: &[&str], line: &str) -> Ended {
        let socket = self.socket();
        self.world.sh(&self.on(&socket, &[network], options), line)
    }

    /// Who is on its networks.
    #[track_caller]
    fn endpoints(&self) -> Vec<Value> {
        let text = self.ask(&["endpoint", "ls", "--json"]).ok();
        serde_json::from_str(&text).unwrap()
    }

    #[track_caller]
    fn down(mut self) {
        self.ask(&["down"]).ok();
        assert_eq!(self.running.end(SOON).status, 0);
        assert_eq!(self.world.processes(), Vec::<String>::new());
    }
}

#[test]
fn sandboxes_of_a_network_find_each_other_by_name() {
    netns::inside(|world| {
        let switch = Switch::up(world);
        let db = switch.sandbox(&[
            "--name",
            "db",
            "--hostname",
            "store",
            "--alias",
            "sql",
            "--ip",
            "172.18.0.10",
            "--mac",
            "02:00:00:00:00:10",
            "--ifname",
            "lan0",
            "-p",
            "8080:80",
        ]);
        assert_eq!(db.v4.to_string(), "172.18.0.10");
        let link = json(&db.net, &["link", "show", "lan0"]);
        assert_eq!(link[0]["address"], "02:00:00:00:00:10");
        servers::http(&db.net, (db.v4, 80));

        let line = "for name in db store sql; do getent ahostsv4 $name | head -1; done; cat /etc/hosts /etc/resolv.conf";
        let said = switch.sh("web", &["--name", "app"], line).ok();
        assert_eq!(said.matches("172.18.0.10").count(), 3, "{said}");
        assert!(
            said.contains("\tapp\n") && said.contains("\tgateway\n"),
            "{said}"
        );
        assert!(said.contains("nameserver 172.18.0.1\n"), "{said}");

        let app = switch.sandbox(&["--name", "app"]);
        let seen = guest::fetch(&app.net, (db.v4, 80).into());
        assert_eq!(seen, format!("hello {}", app.v4));
        // From outside by the published port, and to the outside by the network's uplink.
        let seen = guest::fetch(&world.outside, (HOST, 8080).into());
        assert_eq!(seen, format!("hello {OUTSIDE}"));
        let page = servers::http(&world.outside, (OUTSIDE, 0));
        assert_eq!(guest::fetch(&app.net, page), format!("hello {HOST}"));

        assert_eq!(app.weft.stop().status, 143);
        assert_eq!(db.weft.stop().status, 143);
        assert_eq!(switch.endpoints(), Vec::<Value>::new());
        assert_eq!(switch.ask(&["publish", "ls", "--json"]).ok().trim(), "[]");
        switch.down();
    });
}

#[test]
fn a_name_is_free_as_soon_as_its_command_has_ended() {
    netns::inside(|world| {
        let switch = Switch::up(world);
        let named = ["--name", "one", "--ip", "172.18.0.7"];
        for _ in 0..5 {
            switch.sh("web", &named, "true").ok();
            assert_eq!(switch.sh("web", &named, "exit 3").status, 3);
            assert_eq!(switch.sh("web", &named, "no-such-command-here").status, 127);
        }
        assert_eq!(switch.endpoints(), Vec::<Value>::new());

        // One that cannot say goodbye is noticed.
        let lost = switch.sandbox(&named);
        lost.weft.signal(Signal::SIGKILL);
        wait::until("the switch notices", SOON, || switch.endpoints().is_empty());
        switch.sh("web", &named, "true").ok();
        switch.down();
    });
}

#[test]
fn what_was_written_last_arrives() {
    netns::inside(|world| {
        let switch = Switch::up(world);
        const LEN: usize = 4 << 20;
        let (done, result) = std::sync::mpsc::channel();
        let at = servers::tcp(&world.outside, (OUTSIDE, 0), move |mut stream, _| {
            // A reader that is late: all of it waits in the sandbox when its writer has ended.
            std::thread::sleep(Duration::from_millis(300));
            let got = std::io::copy(&mut stream, &mut std::io::sink());
            done.send(got).map_err(std::io::Error::other)
        });
        let line = format!(
            "exec 3<>/dev/tcp/{}/{}; head -c {LEN} /dev/zero >&3",
            at.ip(),
            at.port()
        );
        let socket = switch.socket();
        let options = switch.on(&socket, &["web"], &[]);
        world.run(&options, &["bash", "-c", &line]).ok();
        let got = result.recv_timeout(SOON).unwrap();
        assert_eq!(got.unwrap(), u64::try_from(LEN).unwrap());
        switch.down();
    });
}

#[test]
fn several_networks_at_once() {
    netns::inside(|world| {
        let switch = Switch::up(world);
        switch
            .ask(&["network", "create", "back", "--subnet", "172.19.0.0/24"])
            .ok();
        let socket = switch.socket();
        let both = world.sandbox(&switch.on(&socket, &["web", "back"], &["--name", "both"]));
        let at = |network: &str| {
            let all = switch.endpoints();
            let own = all.iter().find(|e| e["network"] == network).unwrap();
            own["v4"].as_str().unwrap().to_owned()
        };
        assert!(at("web").starts_with("172.18.0.") && at("back").starts_with("172.19.0."));
        assert_eq!(both.gateway.to_string(), "172.18.0.1");

        // What one network refuses keeps it from all of them.
        let taken = ["--network", "web", "--network", "none-such", "true"];
        let refused = world.weft(&[&["run", "--socket", &socket], &taken[..]].concat());
        refused.refused(&["none-such"]);
        both.weft.stop();
        assert_eq!(switch.endpoints(), Vec::<Value>::new());
        switch.down();
    });
}

#[test]
fn what_an_endpoint_of_the_switch_may_be_a_command_may_be() {
    netns::inside(|world| {
        let switch = Switch::up(world);
        let ten = ["--name", "ten", "--ip", "172.18.0.10", "--vlan", "10"];
        let (ten, net) =
            switch.apart(&[&ten[..], &["--sysctl", "net.ipv4.conf.IFNAME.arp_ignore=2"]].concat());
        let options = ["--vlan", "10", "--ip", "172.18.0.11"];
        let said = switch
            .sh("web", &options, "ping -c1 -W5 172.18.0.10; cat /etc/hosts")
            .ok();
        assert!(said.contains("1 received"), "{said}");
        // The gateway is not there, and nothing says that it is.
        assert!(!said.contains("gateway"), "{said}");
        assert_eq!(
            json(&net, &["-4", "route", "show", "default"])
                .as_array()
                .unwrap()
                .len(),
            0
        );
        let sysctl = || fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/arp_ignore");
        let said = net.enter(sysctl).unwrap();
        assert_eq!(said, "2\n");
        let own = switch.sh("web", &[], "ping -c1 -W1 172.18.0.10");
        assert_eq!(own.status, 1, "on another VLAN: {own:?}");
        let native = ["--trunk", "20", "--native", "10"];
        switch.sh("web", &native, "ping -c1 -W5 172.18.0.10").ok();
        let bare = switch.sh("web", &["--no-configure"], "ip -4 addr show eth0");
        assert!(!bare.ok().contains("inet"));
        switch
            .sh("web", &["--trunk", "1-5"], "true")
            .refused(&["VLAN 1", "native"]);
        switch
            .sh("web", &["--vlan", "4095"], "true")
            .refused(&["4095"]);

        // In a file, with what may pass there.
        let file = switch.dir.path().join("run.toml");
        let text =
            "vlan = 10\npriority = 3\n[policy]\nisolated = true\nrules = ['egress drop icmp']\n";
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let from_file = ["--config", file, "--name", "filed"];
        let (filed, _) = switch.apart(&from_file);
        let row = switch
            .endpoints()
            .into_iter()
            .find(|e| e["name"] == "filed")
            .unwrap();
        assert_eq!(
            (&row["vlan"]["access"], &row["priority"]),
            (&10.into(), &3.into())
        );
        let policy = switch
            .ask(&["policy", "show", "web", "--sandbox", "filed", "--json"])
            .ok();
        let policy: Value = serde_json::from_str(&policy).unwrap();
        assert_eq!(policy["policy"]["isolated"], true, "{policy}");
        let line = ["--vlan", "1", "--config", file];
        let own = switch.sh("web", &line, "cat /etc/hosts").ok();
        assert!(own.contains("gateway"), "the command line wins: {own}");
        filed.stop();
        ten.stop();
        switch.down();
    });
}

#[test]
fn the_network_of_a_sandbox_is_shared() {
    netns::inside(|world| {
        let switch = Switch::up(world);
        let db = switch.sandbox(&["--name", "db"]);
        servers::http(&db.net, ([127, 0, 0, 1], 80));
        let line = "exec 3<>/dev/tcp/localhost/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3; hostname; \
                    cat /etc/hosts; echo pid $$";
        let socket = switch.socket();
        let options = switch.on(&socket, &["container:db"], &[]);
        let said = world.run(&options, &["bash", "-c", line]).ok();
        assert!(said.contains("hello 127.0.0.1"), "{said}");
        assert!(
            said.contains("\ndb\n") && said.contains(&format!("{}\tdb\n", db.v4)),
            "{said}"
        );
        assert!(
            said.contains("\npid 2\n"),
            "a process table of its own: {said}"
        );

        switch
            .sh("container:nobody", &[], "true")
            .refused(&["container:nobody", "no sandbox of that name"]);
        switch
            .sh("container:db", &["-p", "80"], "true")
            .refused(&["--publish", "shared"]);

        // Whoever shares does not end with the sandbox.
        let sharer = world.sandbox(&options);
        db.weft.stop();
        wait::until("the endpoint goes", SOON, || switch.endpoints().is_empty());
        let ended = sharer.weft.stop();
        assert_eq!(ended.status, 143);
        assert!(
            ended.stderr.contains("the sandbox has ended that shared"),
            "{ended:?}"
        );
        switch.down();
    });
}

#[test]
fn a_namespace_that_exists_joins_and_leaves() {
    netns::inside(|world| {
        let switch = Switch::up(world);
        let db = switch.sandbox(&["--name", "db"]);
        servers::http(&db.net, (db.v4, 80));
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--net",
            "--",
            "sleep",
            "2000001",
        ]);
        let mut stranger = Running::start(&world.host, &mut command);
        let pid = wait::value("the stranger runs", SOON, || find("sleep\x002000001\0"));
        let net = Namespace::of(pid);
        let (socket, target) = (switch.socket(), pid.to_string());
        let attach = [
            "attach",
            "--socket",
            &socket,
            "--network",
            "web",
            "--name",
            "guest",
            "-p",
            "8080:80",
            "--priority",
            "5",
            &target,
        ];
        let links = || json(&net, &["link"]).as_array().map_or(0, Vec::len);

        let weft = world.start(&attach);
        wait::until("it is on the network", SOON, || {
            switch.endpoints().len() == 2
        });
        wait::until("an interface inside", SOON, || links() == 2);
        assert!(guest::fetch(&net, (db.v4, 80).into()).starts_with("hello 172.18.0."));
        let guest = switch
            .endpoints()
            .into_iter()
            .find(|e| e["name"] == "guest");
        assert_eq!(guest.unwrap()["priority"], 5);
        weft.stop();
        assert_eq!(switch.endpoints().len(), 1);
        wait::until("the interface is gone", SOON, || links() == 1);
        assert!(!stranger.has_ended());

        // It ends with the namespace.
        let mut weft = world.start(&attach);
        wait::until("it is on the network", SOON, || {
            switch.endpoints().len() == 2
        });
        drop(stranger);
        assert_eq!(weft.end(SOON).status, 0);
        wait::until("the switch notices", SOON, || switch.endpoints().len() == 1);
        db.weft.stop();
        switch.down();
    });
}

#[test]
fn refusals_are_one_line_and_leave_nothing() {
    netns::inside(|world| {
        let nowhere = ["--socket", "/no/such.sock", "--network", "web"];
        world
            .run(&nowhere, &["true"])
            .refused(&["the switch is not up", "/no/such.sock"]);

        let switch = Switch::up(world);
        let db = switch.sandbox(&["--name", "db", "--ip", "172.18.0.10", "-p", "8080:80"]);
        let refused = |network: &str, options: &[&str], words: &[&str]| {
            switch.sh(network, options, "true").refused(words);
            assert_eq!(switch.endpoints().len(), 1, "{network} {options:?}");
        };
        refused("blue", &[], &["no network 'blue'"]);
        refused("web", &["--name", "db"], &["'db'", "another sandbox"]);
        refused("web", &["--ip", "172.18.0.10"], &["172.18.0.10", "'db'"]);
        refused("web", &["--ip", "10.1.1.1"], &["10.1.1.1"]);
        refused("web", &["-p", "8080:81"], &["8080", "'db'"]);
        refused("web", &["--ifname", "a/b"], &["a/b"]);
        refused(
            "web",
            &["--pcap", "/tmp/x"],
            &["--pcap needs a private network"],
        );
        refused("web", &["--dns", "192.0.2.1"], &["--dns", "network create"]);
        let bound = TcpStream::connect((HOST, 8080));
        assert!(
            bound.is_ok(),
            "the sandbox that was there keeps its port: {bound:?}"
        );
        // A command that is not found leaves its networks, too.
        let missing = switch.sh("web", &[], "exec /no/such/command");
        assert_eq!(missing.status, 127);
        assert_eq!(switch.endpoints().len(), 1);
        db.weft.stop();
        switch.down();
    });
}

#[test]
fn without_any_right() {
    netns::inside(|world| {
        // Another user than root loses what it may by its user namespace when it starts a program.
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let text = r#"
            set -e
            weft() { "$WEFT" "$@" --socket "$DIR/s"; }
            grep -q 'CapEff:.0*$' /proc/self/status
            "$WEFT" up --socket "$DIR/s" --store "$DIR/redb" --workers 1 --detach
            weft network create web >/dev/null
            "$WEFT" run --socket "$DIR/s" --network web --name db -- sleep 3000001 & db=$!
            until weft endpoint ls | grep -q ' db '; do kill -0 $db; sleep 0.01; done
            "$WEFT" run --socket "$DIR/s" --network web -- ping -c1 -W5 db
            "$WEFT" run --socket "$DIR/s" --network container:db -- ip -br addr show eth0
            kill $db; wait $db || true
            weft endpoint ls | grep ' db ' && exit 1
            weft down
        "#;
        fs::write(&script, text).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-user=1000", "--map-group=1000", "--", "sh"])
            .arg(&script)
            .env("WEFT", env!("CARGO_BIN_EXE_weft"))
            .env("DIR", dir.path());
        let said = Running::start(&world.host, &mut command)
            .end(Duration::from_secs(60))
            .ok();
        assert!(
            said.contains("1 received") && said.contains("eth0 "),
            "{said}"
        );
        wait::until("nothing is left", SOON, || world.processes().is_empty());
    });
}
