//! The API: HTTP and JSON on a Unix socket that only its owner may use, and metrics on a loopback port where asked for.
//!
//! Nobody can hold the daemon up: bodies are bounded, a request must arrive within ten seconds, an answer must be taken
//! within as many, and connections are counted: with too many the oldest goes that no answer is being made for.

mod listen;
mod metrics;
mod routes;
#[cfg(test)]
mod tests;
mod timed;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{Query, RawPathParams, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use axum::{Router, http};
use tokio::sync::{mpsc, oneshot};

use super::engine::Job;
use super::proto::{Failure, Reply, Request};
use crate::config::{Code, Problem};
use listen::Busy;
use routes::{METRICS, Parts, ROUTES, Route};

pub use listen::{Listener, bind, bind_metrics};

/// Bytes of a body at most: a file with ten thousand endpoints.
const BODY: usize = 4 << 20;
/// How long a request may take to arrive, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Characters of a refusal's message at most.
const MESSAGE: usize = 1000;
/// Requests that wait for control; past them the senders wait.
const WAITING: usize = 1024;

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::Sender<Job>);

impl Handle {
    /// A handle, and where control takes what comes in by it.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Job>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Asks control. Errors: those of the request; `Ending` when control is gone.
    pub async fn ask(&self, request: Request) -> Result<Reply, Problem> {
        let ended = || Problem::new(Code::Ending, "the switch is ending");
        let (answer, wait) = oneshot::channel();
        let job = Job { request, answer };
        self.0.send(job).await.map_err(|_| ended())?;
        wait.await.map_err(|_| ended())?
    }
}

/// The whole API.
pub fn router(handle: Handle) -> Router {
    let all = ROUTES.iter().fold(Router::new(), add);
    let all = all.route("/v1/openapi.json", on(MethodFilter::GET, openapi));
    finish(all).with_state(handle)
}

/// The description of the API.
const OPENAPI: &str = include_str!("openapi.json");

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// The metrics alone.
pub fn metrics_router(handle: Handle) -> Router {
    finish(add(Router::new(), &METRICS)).with_state(handle)
}

/// What another user gets.
fn refusing() -> Router {
    Router::new().fallback(|| async {
        let message = "the switch belongs to another user";
        failure(&Problem::new(Code::OtherUser, message))
    })
}

fn finish(router: Router<Handle>) -> Router<Handle> {
    router
        .fallback(|uri: Uri| async move {
            let message = format!("there is no {} in this API", uri.path());
            failure(&Problem::new(Code::NoRoute, message))
        })
        .method_not_allowed_fallback(|uri: Uri| async move {
            let message = format!("{} does not know that method", uri.path());
            failure(&Problem::new(Code::NoMethod, message))
        })
}

fn add(router: Router<Handle>, route: &Route) -> Router<Handle> {
    let route = *route;
    let filter = match route.method {
        "POST" => MethodFilter::POST,
        "PUT" => MethodFilter::PUT,
        "DELETE" => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    };
    let handler = move |State(handle): State<Handle>,
                        path: Result<RawPathParams, RawPathParamsRejection>,
                        request: http::Request<Body>| async move {
        let answered = match path {
            Ok(path) => {
                let names = path.iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
                answer(&route, &handle, names.collect(), request).await
            }
            Err(_) => {
                let message = "the path: a name in it is no UTF-8";
                Err(Problem::new(Code::BadRequest, message))
            }
        };
        answered.unwrap_or_else(|problem| failure(&problem))
    };
    router.route(route.path, on(filter, handler))
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "every other reply is written as JSON, those to come too"
)]
async fn answer(
    route: &Route,
    handle: &Handle,
    path: BTreeMap<String, String>,
    request: http::Request<Body>,
) -> Result<Response, Problem> {
    let query = queries(route, request.uri())?;
    let busy = request.extensions().get::<Busy>().cloned();
    let body = read(request).await?;
    if let Some(busy) = busy {
        busy.set(true);
    }
    let parts = Parts { path, query, body };
    let reply = handle.ask((route.make)(&parts)?).await?;
    Ok(match reply {
        Reply::Done => StatusCode::NO_CONTENT.into_response(),
        Reply::Metrics(numbers) => {
            let kind = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
            (kind, metrics::encode(&numbers)).into_response()
        }
        reply => {
            let status = StatusCode::from_u16(route.status).unwrap_or(StatusCode::OK);
            (status, axum::Json(reply)).into_response()
        }
    })
}

fn queries(route: &Route, uri: &Uri) -> Result<BTreeMap<String, String>, Problem> {
    let bad = |message: String| Problem::new(Code::BadRequest, message);
    let Query(all) = Query::<BTreeMap<String, String>>::try_from_uri(uri)
        .map_err(|e| bad(format!("the query: {e}")))?;
    match all.keys().find(|key| !route.query.contains(&key.as_str())) {
        None => Ok(all),
        Some(key) => Err(bad(format!("the query: unknown key '{key}'"))),
    }
}

/// Takes a body in. Errors: `TooLarge`, `TimeOut`, `BadRequest` when the client stops midway.
async fn read(request: http::Request<Body>) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        let message = format!("a body has at most {BODY} bytes");
        Problem::new(Code::TooLarge, message)
    };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|len| len > BODY as u64) {
        return Err(too_large());
    }
    let reading = to_bytes(request.into_body(), BODY);
    match tokio::time::timeout(PATIENCE, reading).await {
        Err(_) => {
            let message = format!("the body has not come within {} s", PATIENCE.as_secs());
            Err(Problem::new(Code::TimeOut, message))
        }
        Ok(Ok(bytes)) => Ok(bytes.to_vec()),
        Ok(Err(e)) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&e);
            while let Some(error) = cause {
                if error.is::<http_body_util::LengthLimitError>() {
                    return Err(too_large());
                }
                cause = error.source();
            }
            Err(Problem::new(Code::BadRequest, format!("the body: {e}")))
        }
    }
}

fn failure(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.code.status());
    let mut error = problem.clone();
    // What a client sent is quoted, however long it is.
    if let Some((cut, _)) = error.message.char_indices().nth(MESSAGE) {
        error.message.truncate(cut);
        error.message.push_str(" ...");
    }
    let body = Failure { error };
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, axum::Json(body)).into_response();
    // What is left of such a request is not worth reading.
    if matches!(
        problem.code,
        Code::TooLarge | Code::TimeOut | Code::OtherUser
    ) {
        let close = http::HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}
