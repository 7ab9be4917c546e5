//! The paths of the API, in one table: the router is made of it, and `openapi.json` is held against it.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use crate::config::{Code, Problem};
use crate::control::ids::PublishId;
use crate::control::proto::{Request, Scope, Show};

/// What a request came with.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// The names in the path.
    pub(super) path: BTreeMap<String, String>,
    /// What follows the question mark.
    pub(super) query: BTreeMap<String, String>,
    /// The body.
    pub(super) body: Vec<u8>,
}

/// One path with one method.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub(super) method: &'static str,
    /// The path, with names in braces.
    pub(super) path: &'static str,
    /// Keys that may follow the question mark.
    pub(super) query: &'static [&'static str],
    /// The status when all went well and there is something to tell.
    pub(super) status: u16,
    /// The message that it stands for.
    pub(super) make: fn(&Parts) -> Result<Request, Problem>,
}

/// Rows of `show flows` unless others are asked for.
const FLOWS: usize = 1000;

const fn get(path: &'static str, make: fn(&Parts) -> Result<Request, Problem>) -> Route {
    Route {
        method: "GET",
        path,
        query: &[],
        status: 200,
        make,
    }
}

const fn post(path: &'static str, make: fn(&Parts) -> Result<Request, Problem>) -> Route {
    Route {
        method: "POST",
        status: 201,
        ..get(path, make)
    }
}

const fn put(path: &'static str, make: fn(&Parts) -> Result<Request, Problem>) -> Route {
    Route {
        method: "PUT",
        ..get(path, make)
    }
}

const fn delete(path: &'static str, make: fn(&Parts) -> Result<Request, Problem>) -> Route {
    Route {
        method: "DELETE",
        status: 204,
        ..get(path, make)
    }
}

const fn asked(route: Route, query: &'static [&'static str], status: u16) -> Route {
    Route {
        query,
        status,
        ..route
    }
}

/// Every path.
pub(super) const ROUTES: &[Route] = &[
    get("/v1/info", |_| Ok(Request::Info)),
    asked(post("/v1/down", |_| Ok(Request::Down)), &[], 204),
    get("/v1/networks", |_| Ok(Request::Networks)),
    post("/v1/networks", |p| Ok(Request::CreateNetwork(body(p)?))),
    asked(post("/v1/networks/prune", |_| Ok(Request::Prune)), &[], 200),
    get("/v1/networks/{network}", |p| {
        Ok(Request::Network(name(p, "network")))
    }),
    delete("/v1/networks/{network}", |p| {
        Ok(Request::RemoveNetwork(name(p, "network")))
    }),
    get("/v1/networks/{network}/policy", |p| {
        Ok(Request::Policy(of_network(p)))
    }),
    put("/v1/networks/{network}/policy", |p| {
        Ok(Request::SetPolicy(of_network(p), Some(body(p)?)))
    }),
    delete("/v1/networks/{network}/policy", |p| {
        Ok(Request::SetPolicy(of_network(p), None))
    }),
    asked(
        get("/v1/endpoints", |p| {
            Ok(Request::Endpoints(query(p, "network")))
        }),
        &["network"],
        200,
    ),
    post("/v1/endpoints", |p| {
        Ok(Request::Connect(Box::new(body(p)?)))
    }),
    get("/v1/networks/{network}/endpoints/{sandbox}", |p| {
        Ok(Request::Endpoint(name(p, "network"), name(p, "sandbox")))
    }),
    delete("/v1/networks/{network}/endpoints/{sandbox}", |p| {
        Ok(Request::Disconnect(name(p, "network"), name(p, "sandbox")))
    }),
    get("/v1/networks/{network}/endpoints/{sandbox}/policy", |p| {
        Ok(Request::Policy(of_endpoint(p)))
    }),
    put("/v1/networks/{network}/endpoints/{sandbox}/policy", |p| {
        Ok(Request::SetPolicy(of_endpoint(p), Some(body(p)?)))
    }),
    delete("/v1/networks/{network}/endpoints/{sandbox}/policy", |p| {
        Ok(Request::SetPolicy(of_endpoint(p), None))
    }),
    get("/v1/publishes", |_| Ok(Request::Publishes)),
    post("/v1/publishes", |p| Ok(Request::Publish(body(p)?))),
    delete("/v1/publishes/{id}", |p| {
        let id = name(p, "id");
        let number = id.parse().map_err(|_| {
            Problem::new(
                Code::UnknownPublish,
                format!("there is no publish rule '{id}'"),
            )
        })?;
        Ok(Request::Unpublish(PublishId(number)))
    }),
    asked(
        get("/v1/services", |p| {
            Ok(Request::Services(query(p, "network")))
        }),
        &["network"],
        200,
    ),
    post("/v1/services", |p| {
        Ok(Request::CreateService(body(p)?, false))
    }),
    put("/v1/services", |p| {
        Ok(Request::CreateService(body(p)?, true))
    }),
    delete("/v1/networks/{network}/services/{service}", |p| {
        Ok(Request::RemoveService(
            name(p, "network"),
            name(p, "service"),
        ))
    }),
    get("/v1/key", |_| Ok(Request::Key)),
    asked(post("/v1/key", |_| Ok(Request::RenewKey)), &[], 200),
    get("/v1/peers", |_| Ok(Request::Peers)),
    post("/v1/peers", |p| Ok(Request::AddPeer(body(p)?))),
    get("/v1/peers/{peer}", |p| Ok(Request::Peer(name(p, "peer")))),
    delete("/v1/peers/{peer}", |p| {
        Ok(Request::RemovePeer(name(p, "peer")))
    }),
    asked(
        post("/v1/peers/{peer}/ping", |p| {
            Ok(Request::Ping(name(p, "peer")))
        }),
        &[],
        200,
    ),
    post("/v1/invites", |p| Ok(Request::Invite(body(p)?))),
    post("/v1/invites/accept", |p| Ok(Request::Accept(body(p)?))),
    asked(
        post("/v1/apply", |p| {
            let dry = match query(p, "dry-run").as_deref() {
                None | Some("false") => false,
                Some("true") => true,
                Some(other) => {
                    let message = format!("dry-run '{other}': neither true nor false");
                    return Err(Problem::new(Code::BadRequest, message));
                }
            };
            Ok(Request::Apply(Box::new(body(p)?), dry))
        }),
        &["dry-run"],
        200,
    ),
    asked(
        get("/v1/show/macs", |p| {
            Ok(Request::Show(Show::Macs(query(p, "network"))))
        }),
        &["network"],
        200,
    ),
    asked(
        get("/v1/show/groups", |p| {
            Ok(Request::Show(Show::Groups(query(p, "network"))))
        }),
        &["network"],
        200,
    ),
    asked(
        get("/v1/show/flows", |p| {
            let limit = query(p, "limit").map_or(Ok(FLOWS), |l| {
                let bad = |_| Problem::new(Code::BadRequest, format!("limit '{l}': not a number"));
                l.parse().map_err(bad)
            })?;
            Ok(Request::Show(Show::Flows(limit)))
        }),
        &["limit"],
        200,
    ),
    get("/v1/show/drops", |_| Ok(Request::Show(Show::Drops))),
    get("/v1/show/stats", |_| Ok(Request::Show(Show::Stats))),
    get("/v1/show/workers", |_| Ok(Request::Show(Show::Workers))),
    get("/v1/show/peers", |_| Ok(Request::Show(Show::Peers))),
    METRICS,
];

/// The metrics, which are served on a port of the host's loopback too where that is asked for.
pub(super) const METRICS: Route = get("/metrics", |_| Ok(Request::Metrics));

fn name(parts: &Parts, key: &str) -> String {
    parts.path.get(key).cloned().unwrap_or_default()
}

fn query(parts: &Parts, key: &str) -> Option<String> {
    parts.query.get(key).cloned()
}

fn of_network(parts: &Parts) -> Scope {
    Scope::Network(name(parts, "network"))
}

fn of_endpoint(parts: &Parts) -> Scope {
    Scope::Endpoint(name(parts, "network"), name(parts, "sandbox"))
}

/// Errors: `BadRequest`, with the key where one is unknown.
fn body<T: DeserializeOwned>(parts: &Parts) -> Result<T, Problem> {
    let bad = |why: String| Problem::new(Code::BadRequest, format!("the body: {why}"));
    // A list would be taken for the values of the keys in their order.
    if parts.body.trim_ascii_start().first() == Some(&b'[') {
        return Err(bad("an object is needed".to_owned()));
    }
    serde_json::from_slice(&parts.body).map_err(|e| bad(e.to_string()))
}
