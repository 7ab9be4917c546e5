//! The server as a whole: what harms it, what it starts with, who may ask.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::BODY;
use super::*;

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
        first: Vec::new(),
        fresh: false,
        key: None,
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
        let service = hyper_util::service::TowerToHyperService::new(super::super::refusing());
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
