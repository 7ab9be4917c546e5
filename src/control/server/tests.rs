mod life;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::OPENAPI;
use super::routes::ROUTES;
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
        expires: None,
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
        ("POST", "/v1/key", "", 200),
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
