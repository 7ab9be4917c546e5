use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::routes::ROUTES;
use super::{BODY, OPENAPI};
use crate::config::Code;
use crate::config::invite::{Invite, InvitedNetwork};
use crate::config::topology::{DaemonWish, Topology, TopologyFile};
use crate::config::wish::{
    AcceptWish, EndpointWish, InviteWish, NetworkWish, PeerWish, PolicyWish, PublishWish,
    RuleTable, ServiceWish,
};
use crate::control::key::{Secret, StaticKey};
use crate::control::plane_fake::{FakePlane, World};
use crate::control::serve::{Options, serve};
use crate::control::testing::{call, raw, with_daemon, with_daemon_of};

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[test]
fn the_description_has_the_servers_routes_and_no_others() {
    let document = document();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    assert!(described.remove(&("GET".to_owned(), "/v1/openapi.json".to_owned())));
    let served: BTreeSet<_> = ROUTES
        .iter()
        .map(|r| (r.method.to_owned(), r.path.to_owned()))
        .collect();
    assert_eq!(described, served);
    for route in ROUTES {
        let operation = &document["paths"][route.path][route.method.to_lowercase()];
        assert!(
            operation["responses"][route.status.to_string()].is_object(),
            "{route:?}"
        );
        let none = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&none);
        let queries: Vec<_> = parameters
            .iter()
            .filter(|p| p["in"] == "query")
            .map(|p| p["name"].as_str().unwrap())
            .collect();
        assert_eq!(queries, route.query, "{}", route.path);
    }
}

/// The keys that a message may have, as serde tells them.
fn keys<T: DeserializeOwned>() -> BTreeSet<String> {
    let error = serde_json::from_str::<T>("{\"?\":1}")
        .err()
        .unwrap()
        .to_string();
    let list = error.split_once("expected ").unwrap().1;
    list.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_description_has_the_keys_of_every_message() {
    let document = document();
    let described = |name: &str| -> BTreeSet<String> {
        let properties = &document["components"]["schemas"][name]["properties"];
        properties.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(described("NetworkWish"), keys::<NetworkWish>());
    assert_eq!(described("EndpointWish"), keys::<EndpointWish>());
    assert_eq!(described("PublishWish"), keys::<PublishWish>());
    assert_eq!(described("PeerWish"), keys::<PeerWish>());
    assert_eq!(described("InviteWish"), keys::<InviteWish>());
    assert_eq!(described("AcceptWish"), keys::<AcceptWish>());
    assert_eq!(described("ServiceWish"), keys::<ServiceWish>());
    assert_eq!(described("PolicyWish"), keys::<PolicyWish>());
    assert_eq!(described("RuleTable"), keys::<RuleTable>());
    assert_eq!(described("DaemonWish"), keys::<DaemonWish>());
    assert_eq!(described("Topology"), keys::<Topology>());
    let codes = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
    let all: Vec<Value> = Code::ALL.iter().map(|c| c.text().into()).collect();
    assert_eq!(codes.as_array().unwrap(), &all);
}

/// Holds a value against a schema: types, keys, enums, items.
fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        let named = &document["components"]["schemas"][name];
        assert!(named.is_object(), "{name} is not described");
        return fits(document, named, value).map_err(|e| format!("{name}: {e}"));
    }
    if let Some(all) = schema["oneOf"].as_array() {
        let any = all.iter().any(|s| fits(document, s, value).is_ok());
        return if any {
            Ok(())
        } else {
            Err(format!("{value} fits none"))
        };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types = &schema["type"];
    if types != kind && !types.as_array().is_some_and(|t| t.contains(&kind.into())) {
        return Err(format!("{value} is no {types}"));
    }
    if let (Some(list), Value::String(_)) = (schema["enum"].as_array(), value)
        && !list.contains(value)
    {
        return Err(format!("{value} is none of {list:?}"));
    }
    if let (Value::Array(items), true) = (value, schema["items"].is_object()) {
        for item in items {
            fits(document, &schema["items"], item)?;
        }
    }
    let Value::Object(map) = value else {
        return Ok(());
    };
    for key in schema["required"].as_array().unwrap_or(&Vec::new()) {
        if !map.contains_key(key.as_str().unwrap()) {
            return Err(format!("{key} is missing in {value}"));
        }
    }
    for (key, inner) in map {
        let described = &schema["properties"][key];
        if described.is_object() {
            fits(document, described, inner).map_err(|e| format!("{key}: {e}"))?;
        } else if schema["additionalProperties"] == false {
            return Err(format!("{key} is not described"));
        }
    }
    Ok(())
}

/// Another host's invite to a network that is not there yet.
fn accepted() -> &'static str {
    let invite = Invite {
        name: "a".to_owned(),
        key: *StaticKey::generate().unwrap().public(),
        endpoint: "192.0.2.9".parse().unwrap(),
        secret: Secret::generate().unwrap(),
        networks: vec![InvitedNetwork {
            name: "far".to_owned(),
            vni: 9,
            subnet: "10.2.0.0/16".parse().unwrap(),
            gateway: "10.2.0.1".parse().unwrap(),
            subnet6: Some("fd00:2::/64".parse().unwrap()),
            gateway6: Some("fd00:2::1".parse().unwrap()),
            mtu: 1418,
            internal: false,
            taken: "10.2.0.0/24".parse().unwrap(),
            given: "10.2.1.0/24".parse().unwrap(),
        }],
    };
    format!(r#"{{"invite":"{}"}}"#, invite.reveal()).leak()
}

/// Asks everything there is, in an order that makes sense, and holds every answer against the description.
#[test]
fn answers_are_as_described() {
    let accepted = accepted();
    let asked = [
        ("GET", "/v1/info", "", 200),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"web","subnet":"172.18.0.0/16","policy":{"limits":{"macs":4}}}"#,
            201,
        ),
        ("POST", "/v1/networks", r#"{"name":"idle"}"#, 201),
        ("POST", "/v1/networks", r#"{"name":"web"}"#, 409),
        ("POST", "/v1/networks", r#"{"name":"x","subnett":"y"}"#, 400),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"x","subnet":"172.18.9.0/24"}"#,
            409,
        ),
        ("POST", "/v1/networks", "{", 400),
        ("GET", "/v1/networks", "", 200),
        ("GET", "/v1/networks/web", "", 200),
        ("GET", "/v1/networks/none", "", 404),
        (
            "POST",
            "/v1/endpoints",
            r#"{"network":"web","sandbox":"1","name":"db","ip":"172.18.0.10"}"#,
            201,
        ),
        (
            "POST",
            "/v1/endpoints",
            r#"{"network":"web","sandbox":"2","name":"db"}"#,
            409,
        ),
        (
            "POST",
            "/v1/endpoints",
            r#"{"network":"web","sandbox":"99"}"#,
            410,
        ),
        ("GET", "/v1/endpoints?network=web", "", 200),
        ("GET", "/v1/endpoints?colour=blue", "", 400),
        ("GET", "/v1/networks/web/endpoints/db", "", 200),
        ("DELETE", "/v1/networks/web", "", 409),
        ("POST", "/v1/networks/prune", "", 200),
        (
            "PUT",
            "/v1/networks/web/policy",
            r#"{"rules":["ingress allow tcp any 80"],"ingress":"drop"}"#,
            200,
        ),
        ("GET", "/v1/networks/web/policy", "", 200),
        ("DELETE", "/v1/networks/web/policy", "", 204),
        (
            "PUT",
            "/v1/networks/web/endpoints/db/policy",
            r#"{"isolated":true}"#,
            200,
        ),
        (
            "PUT",
            "/v1/networks/web/endpoints/db/policy",
            r#"{"rules":["inward"]}"#,
            400,
        ),
        ("GET", "/v1/networks/web/endpoints/db/policy", "", 200),
        ("DELETE", "/v1/networks/web/endpoints/db/policy", "", 204),
        (
            "POST",
            "/v1/publishes",
            r#"{"sandbox":"db","ports":["8080:80"]}"#,
            201,
        ),
        ("GET", "/v1/publishes", "", 200),
        ("DELETE", "/v1/publishes/1", "", 204),
        ("DELETE", "/v1/publishes/x", "", 404),
        (
            "POST",
            "/v1/services",
            r#"{"name":"www","network":"web","ports":["80"],"backends":["db"]}"#,
            201,
        ),
        (
            "PUT",
            "/v1/services",
            r#"{"name":"www","network":"web","ports":["81"],"backends":["db"]}"#,
            200,
        ),
        ("GET", "/v1/services", "", 200),
        ("DELETE", "/v1/networks/web/services/www", "", 204),
        ("GET", "/v1/key", "", 200),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"over","driver":"overlay","vni":7,"subnet":"10.1.0.0/16"}"#,
            201,
        ),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"over2","driver":"overlay","vni":7}"#,
            409,
        ),
        ("GET", "/v1/networks/over", "", 200),
        (
            "POST",
            "/v1/invites",
            r#"{"name":"b","networks":["over"]}"#,
            201,
        ),
        ("POST", "/v1/invites", r#"{"networks":["web"]}"#, 400),
        (
            "POST",
            "/v1/invites/accept",
            r#"{"invite":"weft1.AAAA"}"#,
            400,
        ),
        ("POST", "/v1/invites/accept", accepted, 201),
        ("POST", "/v1/invites/accept", accepted, 409),
        (
            "POST",
            "/v1/peers",
            r#"{"name":"c","carrier":"vxlan","endpoint":"192.0.2.3"}"#,
            201,
        ),
        ("POST", "/v1/peers", r#"{"name":"d"}"#, 400),
        ("GET", "/v1/peers", "", 200),
        ("GET", "/v1/peers/b", "", 200),
        ("GET", "/v1/peers/none", "", 404),
        ("GET", "/v1/show/peers", "", 200),
        ("POST", "/v1/peers/b/ping", "", 200),
        ("POST", "/v1/peers/c/ping", "", 200),
        ("GET", "/metrics", "", 200),
        ("DELETE", "/v1/networks/over", "", 409),
        ("DELETE", "/v1/peers/b", "", 204),
        ("DELETE", "/v1/networks/over", "", 204),
        (
            "POST",
            "/v1/apply?dry-run=true",
            r#"{"network":[{"name":"more"}]}"#,
            200,
        ),
        (
            "POST",
            "/v1/apply",
            r#"{"network":[{"name":"more","mtu":1}]}"#,
            400,
        ),
        ("GET", "/v1/show/macs", "", 200),
        ("GET", "/v1/show/groups?network=web", "", 200),
        ("GET", "/v1/show/flows?limit=5", "", 200),
        ("GET", "/v1/show/flows?limit=many", "", 400),
        ("GET", "/v1/show/drops", "", 200),
        ("GET", "/v1/show/stats", "", 200),
        ("GET", "/v1/show/workers", "", 200),
        ("GET", "/metrics", "", 200),
        ("DELETE", "/v1/networks/web/endpoints/db", "", 204),
        ("DELETE", "/v1/networks/web", "", 204),
        ("GET", "/v2", "", 404),
        ("PATCH", "/v1/networks", "", 405),
    ];
    let (answers, world) = with_daemon(None, move |socket| {
        let mode = std::fs::metadata(socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(call(socket, "GET", "/v1/openapi.json", "").1, document());
        asked.map(|(method, path, body, status)| {
            (method, path, status, call(socket, method, path, body))
        })
    });
    assert!(world.borrow().interfaces.is_empty());
    let document = document();
    let mut covered: BTreeMap<(&str, &str), bool> =
        ROUTES.iter().map(|r| ((r.method, r.path), false)).collect();
    let mut measured = false;
    for (method, path, wanted, (status, body)) in answers {
        assert_eq!(status, wanted, "{method} {path}: {body}");
        let bare = path.split('?').next().unwrap();
        let route = ROUTES.iter().find(|r| {
            let steps: Vec<_> = r.path.split('/').collect();
            let given: Vec<_> = bare.split('/').collect();
            let same = |(a, b): (&&str, &&str)| a == b || a.starts_with('{');
            r.method == method
                && steps.len() == given.len()
                && steps.iter().zip(&given).all(same)
                && !(r.path.ends_with('}') && bare.ends_with("prune"))
        });
        let failure = &document["components"]["schemas"]["Failure"];
        let schema = match route {
            Some(r) if status < 400 => {
                covered.insert((r.method, r.path), true);
                let operation = &document["paths"][r.path][method.to_lowercase()];
                &operation["responses"][status.to_string()]["content"]["application/json"]["schema"]
            }
            _ => failure,
        };
        if schema.is_object() {
            fits(&document, schema, &body)
                .unwrap_or_else(|e| panic!("{method} {path}: {e}\n{body}"));
        }
        if path == "/metrics" {
            let text = body.as_str().unwrap();
            let peer = "weft_peer_dropped_frames_total{peer=\"c\",reason=\"replayed\"} 7";
            measured |= text.contains(peer) && text.contains("weft_peer_up{peer=\"b\"} 0");
            for line in [
                "weft_things{kind=\"endpoint\"} 1",
                "weft_dropped_frames_total{reason=\"spoofed\"} 3",
                "weft_group_members{network=\"web\"} 1",
                "weft_things{kind=\"peer\"}",
                "# EOF",
            ] {
                assert!(text.contains(line), "{line} is not in\n{text}");
            }
        }
    }
    assert!(measured, "no peer was measured");
    covered.remove(&("POST", "/v1/down"));
    let missed: Vec<_> = covered.iter().filter(|(_, seen)| !**seen).collect();
    assert!(missed.is_empty(), "never asked: {missed:?}");
}

#[test]
fn large_and_odd_requests_harm_nobody() {
    with_daemon(None, |socket| {
        let announced = raw(
            socket,
            b"POST /v1/networks HTTP/1.1\r\nHost: w\r\nContent-Length: 100000000\r\n\r\n{",
        );
        assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
        assert!(announced.contains("too-large"));
        let mut chunked =
            b"POST /v1/networks HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        while chunked.len() < BODY + (1 << 20) {
            chunked.extend_from_slice(b"10000\r\n");
            chunked.extend_from_slice(&[b' '; 0x10000]);
            chunked.extend_from_slice(b"\r\n");
        }
        let answer = raw(socket, &chunked);
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(raw(socket, b"\x16\x03\x01 nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
        // One that stops midway, one that never reads: others are answered at once.
        let mut slow = UnixStream::connect(socket).unwrap();
        slow.write_all(b"POST /v1/networks HTTP/1.1\r\nContent-Le")
            .unwrap();
        let mut deaf = UnixStream::connect(socket).unwrap();
        deaf.set_nonblocking(true).unwrap();
        let ask = b"GET /v1/openapi.json HTTP/1.1\r\nHost: w\r\n\r\n";
        while deaf.write(ask).is_ok() {}
        let begin = Instant::now();
        assert_eq!(call(socket, "GET", "/v1/info", "").0, 200);
        assert!(begin.elapsed() < Duration::from_secs(2));
        // In time both are put out.
        slow.set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest);
        deaf.set_nonblocking(false).unwrap();
        deaf.set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let _ = deaf.read_to_end(&mut rest);
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "nobody was put out"
        );
    });
}

#[test]
fn a_file_is_applied_at_the_start() {
    let text =
        "[[network]]\nname = 'web'\n[[endpoint]]\nnetwork = 'web'\nsandbox = '1'\nname = 'db'\n";
    let file = TopologyFile::parse(text.to_owned(), "weft.toml".to_owned()).unwrap();
    let ((status, body), _) =
        with_daemon(Some(file), |socket| call(socket, "GET", "/v1/networks", ""));
    assert_eq!(
        (status, &body[0]["endpoints"][0]),
        (200, &Value::from("db"))
    );
}

#[test]
fn a_second_daemon_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let options = |socket: &str| Options {
        socket: dir.path().join(socket),
        store: dir.path().join("weft.redb"),
        metrics_port: None,
        config: None,
        descriptors: 1024,
    };
    let _held = crate::control::store::open(&dir.path().join("weft.redb")).unwrap();
    let world = World::new();
    let error = serve(FakePlane::new(&world), options("a")).unwrap_err();
    assert!(format!("{error:#}").contains("another weft"), "{error:#}");
    let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("b")).unwrap();
    let error = serve(FakePlane::new(&world), options("b")).unwrap_err();
    assert!(
        format!("{error:#}").contains("another weft listens"),
        "{error:#}"
    );
    std::fs::write(dir.path().join("c"), "text").unwrap();
    let error = serve(FakePlane::new(&world), options("c")).unwrap_err();
    assert!(format!("{error:#}").contains("no socket"), "{error:#}");
    assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), b"text");
}

#[test]
fn another_user_is_told() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let client = std::thread::spawn(move || {
        let ask = b"GET /v1/networks HTTP/1.1\r\nHost: w\r\n\r\n";
        theirs.write_all(ask).unwrap();
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).unwrap();
        answer
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::UnixStream::from_std(ours).unwrap();
        let service = hyper_util::service::TowerToHyperService::new(super::refusing());
        let io = hyper_util::rt::TokioIo::new(stream);
        let http = hyper::server::conn::http1::Builder::new();
        http.serve_connection(io, service).await.unwrap();
    });
    let answer = client.join().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("other-user"),
        "{answer}"
    );
}

#[test]
fn metrics_have_a_port_and_nothing_else_has() {
    use std::net::{TcpListener, TcpStream};
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let ask = move |path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let text = format!("GET {path} HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let change = move |options: &mut Options| options.metrics_port = Some(port);
    let (answers, _) = with_daemon_of(change, move |socket| {
        // Answered, and so served everywhere.
        assert_eq!(call(socket, "GET", "/v1/info", "").0, 200);
        [ask("/metrics"), ask("/v1/networks")]
    });
    assert!(answers[0].starts_with("HTTP/1.1 200") && answers[0].ends_with("# EOF\n"));
    assert!(answers[1].starts_with("HTTP/1.1 404"), "{}", answers[1]);
}

/// Attaching stays quick with many, the disk's share included; the bound has room for a busy machine and no optimization.
#[test]
fn the_three_hundredth_sandbox_is_connected_as_quickly_as_the_first() {
    let (times, _) = with_daemon(None, |socket| {
        let made = call(
            socket,
            "POST",
            "/v1/networks",
            r#"{"name":"web","subnet":"10.0.0.0/16"}"#,
        );
        assert_eq!(made.0, 201);
        let connect = |n: u32| {
            let begin = Instant::now();
            let body = format!(r#"{{"network":"web","sandbox":"{n}","name":"s{n}"}}"#);
            assert_eq!(call(socket, "POST", "/v1/endpoints", &body).0, 201);
            begin.elapsed()
        };
        (1000..1300).map(connect).collect::<Vec<_>>()
    });
    let sum = |part: &[Duration]| part.iter().sum::<Duration>() / 50;
    let (first, last) = (sum(&times[..50]), sum(&times[250..]));
    assert!(
        last < first * 4 + Duration::from_millis(20),
        "{first:?} at first, {last:?} at last"
    );
}
