//! A daemon on a data plane in memory, for tests of both sides of its socket.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::plane_fake::{FakePlane, World};
use super::serve::{Options, serve};
use crate::config::topology::TopologyFile;

/// Serves a data plane in memory from here, and asks it from a thread beside.
pub(crate) fn with_daemon<T: Send + 'static>(
    config: Option<TopologyFile>,
    ask: impl FnOnce(&Path) -> T + Send + 'static,
) -> (T, Rc<RefCell<World>>) {
    with_daemon_of(|options| options.config = config, ask)
}

/// As [`with_daemon`], with options changed.
pub(crate) fn with_daemon_of<T: Send + 'static>(
    change: impl FnOnce(&mut Options),
    ask: impl FnOnce(&Path) -> T + Send + 'static,
) -> (T, Rc<RefCell<World>>) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options {
        socket: dir.path().join("s/weft.sock"),
        store: dir.path().join("d/weft.redb"),
        metrics_port: None,
        config: None,
        first: Vec::new(),
        fresh: false,
        key: None,
        descriptors: 20_000,
    };
    change(&mut options);
    let world = World::new();
    for pid in (1..=4).chain(1000..1300) {
        world
            .borrow_mut()
            .start(pid, 1, u64::try_from(pid).unwrap());
    }
    let socket = options.socket.clone();
    let client = std::thread::spawn(move || {
        let patience = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < patience, "the socket never came");
            std::thread::sleep(Duration::from_millis(5));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ask(&socket)));
        let down = call(&socket, "POST", "/v1/down", "");
        assert_eq!(down.0, 204);
        result
    });
    serve(FakePlane::new(&world), options).unwrap();
    let result = client.join().unwrap();
    (
        result.unwrap_or_else(|e| std::panic::resume_unwind(e)),
        world,
    )
}

/// Sends bytes and gives all that comes back.
pub(crate) fn raw(socket: &Path, text: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    // A server that has refused may have closed already.
    let _ = stream.write_all(text);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Asks, and gives the status and the body.
pub(crate) fn call(socket: &Path, method: &str, path: &str, body: &str) -> (u16, Value) {
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(socket, text.as_bytes());
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, b)| b);
    let status = status.unwrap_or_else(|| panic!("no answer to {method} {path}: {answer:?}"));
    (
        status,
        serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())),
    )
}
