//! The API as a client sees it that is not weft's own: refusals by status and code, greedy clients, other users.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::netns;
use crate::support::wait::{self, SOON};
use crate::support::weft::Running;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long the daemon itself waits for a client that stands still.
const STALLED: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Answer {
    status: u16,
    body: Value,
}

/// Speaks HTTP to the daemon, byte by byte as given.
fn raw(daemon: &Daemon<'_>, request: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // A body that is refused need not be taken to its end.
    let _cut = stream.write_all(request);
    let mut text = Vec::new();
    let _cut = stream.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Answer {
        status: status.unwrap_or_else(|| panic!("a status: {text:?}")),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    }
}

fn http(daemon: &Daemon<'_>, method: &str, path: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    raw(daemon, (head + body).as_bytes())
}

#[test]
fn requests_are_refused_by_status_and_code() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let _places = daemon.furnish();
        let place = daemon.sandbox();
        let c = place.pid;
        let before = daemon.state();
        let endpoint = |rest: &str| format!(r#"{{"network":"front","sandbox":"{c}"{rest}}}"#);
        let endless = format!(r#"{{"name":"{}"}}"#, "x".repeat(1 << 20));
        let mut wrong = Vec::new();
        for (method, path, body, status, code) in [
            ("GET", "/v2/info", "", 404, "no-route"),
            ("PATCH", "/v1/networks", "", 405, "no-method"),
            ("POST", "/v1/networks", "", 400, "bad-request"),
            ("POST", "/v1/networks", "{", 400, "bad-request"),
            (
                "POST",
                "/v1/networks",
                r#"{"name":"x","colour":"blue"}"#,
                400,
                "bad-request",
            ),
            ("POST", "/v1/networks", r#"{"name":7}"#, 400, "bad-request"),
            ("POST", "/v1/networks", r#"["x"]"#, 400, "bad-request"),
            ("POST", "/v1/networks", &endless, 400, "bad-name"),
            ("GET", "/v1/networks/%ff", "", 400, "bad-request"),
            (
                "POST",
                "/v1/endpoints",
                r#"{"network":"front","sandbox":"netns:a/b"}"#,
                400,
                "bad-sandbox",
            ),
            (
                "POST",
                "/v1/endpoints",
                r#"{"network":"front","sandbox":"netns:a\u0000"}"#,
                400,
                "bad-sandbox",
            ),
            ("POST", "/v1/networks", r#"{"name":""}"#, 400, "bad-name"),
            (
                "POST",
                "/v1/networks",
                r#"{"name":"front"}"#,
                409,
                "name-taken",
            ),
            (
                "POST",
                "/v1/networks",
                r#"{"name":"x","subnet":"10.7.0.0/16"}"#,
                409,
                "subnet-overlap",
            ),
            (
                "POST",
                "/v1/networks",
                r#"{"name":"x","subnet":"ten"}"#,
                400,
                "bad-subnet",
            ),
            (
                "POST",
                "/v1/networks",
                r#"{"name":"x","uplink":"packet:eth7"}"#,
                501,
                "unsupported",
            ),
            ("DELETE", "/v1/networks/front", "", 409, "network-in-use"),
            ("DELETE", "/v1/networks/nowhere", "", 404, "unknown-network"),
            (
                "POST",
                "/v1/endpoints",
                &endpoint(r#","ip":"10.7.0.9""#),
                409,
                "address-taken",
            ),
            (
                "POST",
                "/v1/endpoints",
                &endpoint(r#","ip":"10.9.0.9""#),
                400,
                "address-outside",
            ),
            (
                "POST",
                "/v1/endpoints",
                &endpoint(r#","mac":"02:00:00:00:00:09""#),
                409,
                "mac-taken",
            ),
            (
                "POST",
                "/v1/endpoints",
                &endpoint(r#","name":"b""#),
                409,
                "name-taken",
            ),
            (
                "POST",
                "/v1/endpoints",
                &format!(r#"{{"network":"tiny","sandbox":"{c}"}}"#),
                409,
                "pool-full",
            ),
            (
                "POST",
                "/v1/endpoints",
                r#"{"network":"front","sandbox":"999999"}"#,
                410,
                "sandbox-gone",
            ),
            (
                "POST",
                "/v1/endpoints",
                r#"{"network":"front","sandbox":"a"}"#,
                409,
                "connected",
            ),
            (
                "POST",
                "/v1/publishes",
                r#"{"sandbox":"a","ports":["x"]}"#,
                400,
                "bad-ports",
            ),
            ("DELETE", "/v1/publishes/77", "", 404, "unknown-publish"),
            ("DELETE", "/v1/publishes/-1", "", 404, "unknown-publish"),
            ("GET", "/v1/show/flows?limit=many", "", 400, "bad-request"),
            (
                "POST",
                "/v1/apply",
                r#"{"network":[{"name":"x","subnet":"10.9.0.0/24"},{"name":"y","subnet":"10.9.0.0/25"}]}"#,
                409,
                "subnet-overlap",
            ),
        ] {
            let answer = http(&daemon, method, path, body);
            let error = &answer.body["error"];
            let message = error["message"].as_str().unwrap_or_default();
            let fine = answer.status == status
                && error["code"] == code
                && !message.is_empty()
                && message.len() < 4096
                && !message.contains('\n');
            if !fine || daemon.state() != before {
                wrong.push(format!("{method} {path} {body}: {answer:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn nobody_holds_the_daemon_up() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let _places = daemon.furnish();
        let before = daemon.state();
        let pid = daemon.json("show daemon")["pid"].clone();
        let resident = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let memory = resident();
        // A body of 100 MB, announced and then sent without an end.
        let size = 100 << 20;
        for head in [
            format!("Content-Length: {size}\r\n"),
            "Transfer-Encoding: chunked\r\n".to_owned(),
        ] {
            let mut request = format!(
                "POST /v1/networks HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n{head}\r\n"
            )
            .into_bytes();
            if head.starts_with('T') {
                request.extend(format!("{size:x}\r\n").bytes());
            }
            request.resize(request.len() + size, b' ');
            let answer = raw(&daemon, &request);
            assert_eq!(answer.status, 413, "{answer:?}");
        }
        // Some who never send, some who never read.
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut mute = UnixStream::connect(daemon.socket()).unwrap();
            mute.write_all(b"GET /v1/networks HTTP/1.1\r\n").unwrap();
            let mut deaf = UnixStream::connect(daemon.socket()).unwrap();
            deaf.set_nonblocking(true).unwrap();
            for _ in 0..500 {
                let _full = deaf.write(b"GET /v1/openapi.json HTTP/1.1\r\nHost: weft\r\n\r\n");
            }
            held.extend([mute, deaf]);
        }
        // And a thousand who say nothing at all.
        for _ in 0..1000 {
            held.push(UnixStream::connect(daemon.socket()).unwrap());
        }
        let begun = Instant::now();
        assert_eq!(daemon.state(), before);
        assert!(begun.elapsed() < STALLED, "{:?}", begun.elapsed());
        let descriptors = daemon.descriptors();
        assert!(descriptors < 400, "{descriptors} descriptors");
        let grown = resident().saturating_sub(memory);
        assert!(grown < 64 << 10, "{grown} KiB more than before");
        drop(held);
    });
}

#[test]
fn who_stops_within_a_request_makes_room() {
    netns::inside(|world| {
        let daemon = Daemon::root(world);
        let before = daemon.state();
        for (what, part) in [
            ("heads", "POST /v1/networks HTTP/1.1\r\nHost: weft\r\n"),
            (
                "lengths",
                "POST /v1/networks HTTP/1.1\r\nHost: weft\r\nContent-Length: 9\r\n\r\n{",
            ),
            (
                "chunks",
                "POST /v1/apply HTTP/1.1\r\nHost: weft\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
            ),
        ] {
            let held: Vec<_> = (0..300)
                .map(|_| {
                    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
                    stream.write_all(part.as_bytes()).unwrap();
                    stream
                })
                .collect();
            assert_eq!(daemon.state(), before, "{what}");
            // The oldest went without a word, for the sake of others; had they been waited for, it would have been told why.
            let mut rest = Vec::new();
            let _cut = (&held[0]).read_to_end(&mut rest);
            assert_eq!(String::from_utf8_lossy(&rest), "", "{what}");
        }
    });
}

#[test]
fn another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        return netns::without("root, who alone can be two users");
    }
    let dir = tempfile::tempdir().unwrap();
    let (socket, store) = (dir.path().join("s"), dir.path().join("weft.redb"));
    // In a network of its own, and no user namespace, in which there is only one user.
    let weft = env!("CARGO_BIN_EXE_weft");
    let at = netns::Namespace::current();
    let mut command = Command::new("unshare");
    command.args(["--net", "--", weft, "up", "--socket"]);
    command.arg(&socket).arg("--store").arg(&store);
    let running = Running::start(&at, &mut command);
    wait::until("the daemon serves", SOON, || {
        store.exists() && UnixStream::connect(&socket).is_ok()
    });
    let mode = |path: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode(&socket), mode(&store)), (0o600, 0o600));
    let ask = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command.args(["curl", "-s", "-i", "--unix-socket"]);
        command.arg(&socket).arg("http://weft/v1/networks");
        Running::start(&at, &mut command).end(SOON)
    };
    assert_ne!(ask().status, 0, "the mode keeps others out");
    // Also where the mode does not.
    for path in [dir.path(), &socket] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let said = ask().ok();
    assert!(
        said.contains(" 403 ") && said.contains("other-user"),
        "{said}"
    );
    running.stop().ok();
}

#[test]
fn root_may_have_another_user_run_it() {
    if !nix::unistd::geteuid().is_root() {
        return netns::without("root, who alone can become another user");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let (socket, store) = (dir.path().join("run/s"), dir.path().join("state/store"));
    let at = netns::Namespace::current();
    let weft = env!("CARGO_BIN_EXE_weft");
    let mut command = Command::new("unshare");
    command.args(["--net", "--", weft, "up", "--user", "65534", "--socket"]);
    command.arg(&socket).arg("--store").arg(&store);
    let mut running = Running::start(&at, &mut command);
    let ask = |words: &[&str]| {
        let mut command = Command::new(weft);
        command.args(words).arg("--socket").arg(&socket);
        Running::start(&at, &mut command).end(SOON)
    };
    wait::until("the daemon serves", SOON, || {
        socket.exists() && ask(&["show", "daemon"]).status == 0
    });
    // What is his is his alone, and he needs nothing of root's.
    for path in [
        &socket,
        &store,
        &dir.path().join("run"),
        &dir.path().join("state"),
    ] {
        use std::os::unix::fs::MetadataExt as _;
        let meta = fs::metadata(path).unwrap();
        assert_eq!(
            (meta.uid(), meta.mode() & 0o077),
            (65534, 0),
            "{}",
            path.display()
        );
    }
    ask(&["network", "create", "front"]).ok();
    ask(&["down"]).ok();
    assert_eq!(running.end(SOON).status, 0);
}
