//! The outside world: a web server, a resolver, a sink and a source of bytes, and a client for the published port.

use std::io::{BufRead, Read, Write, stdin};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

use super::{HOST_V4, OUTSIDE_V4, OUTSIDE_V6, PUBLISHED, SINK, SOURCE, connect, say, veth};

/// Bytes moved by one call.
const CHUNK: usize = 128 * 1024;
/// The page.
const PAGE: &str = "hello from the outside\n";

/// Says `ready` in a namespace of its own, waits for the wire, serves, and fetches when told to.
pub(super) fn run() -> Result<ExitCode> {
    unshare(CloneFlags::CLONE_NEWNET).context("making the outside's network namespace")?;
    veth::prepare();
    say("ready");
    let mut lines = stdin().lock().lines();
    lines.next().context("the director has gone")??;
    let addresses = [(OUTSIDE_V4.into(), 24), (OUTSIDE_V6.into(), 64)];
    veth::up("out0", &addresses, &[])?;
    veth::wait(&addresses)?;
    listen(80, page)?;
    listen(SINK, sink)?;
    listen(SOURCE, source)?;
    let dns = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).context("serving names")?;
    thread::spawn(move || resolve(&dns));
    say("serving");
    for line in lines {
        line?;
        match fetch() {
            Ok(seen) => say(&seen),
            Err(e) => say(&format!("error {e}")),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves each connection to a port on a thread of its own.
pub(super) fn listen(port: u16, serve: fn(TcpStream) -> std::io::Result<()>) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .with_context(|| format!("listening on port {port}"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away mid-way is its own affair.
            thread::spawn(move || drop(serve(stream)));
        }
    });
    Ok(())
}

fn page(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{PAGE}",
        PAGE.len()
    )
}

/// Takes everything and answers with how much it was.
pub(super) fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => total += n as u64,
        }
    }
    stream.write_all(&total.to_be_bytes())
}

/// Gives until the client has enough.
fn source(mut stream: TcpStream) -> std::io::Result<()> {
    let buffer = vec![0x5a; CHUNK];
    loop {
        stream.write_all(&buffer)?;
    }
}

/// Answers every question for an A record with the outside's own address.
fn resolve(socket: &UdpSocket) {
    let mut query = [0; 512];
    while let Ok((n, from)) = socket.recv_from(&mut query) {
        if let Some(answer) = answer(&query[..n]) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn answer(query: &[u8]) -> Option<Vec<u8>> {
    use hickory_proto::op::Message;
    use hickory_proto::rr::{RData, Record, RecordType};
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?.clone();
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_available = true;
    if question.query_type == RecordType::A {
        answer.add_answer(Record::from_rdata(
            question.name.clone(),
            60,
            RData::A(OUTSIDE_V4.into()),
        ));
    }
    answer.add_query(question);
    answer.to_vec().ok()
}

/// Connects to the published port and compares the address that the server saw with our own.
fn fetch() -> std::io::Result<String> {
    let mut stream = connect(SocketAddr::new(IpAddr::V4(HOST_V4), PUBLISHED))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let own = stream.local_addr()?;
    let mut seen = String::new();
    stream.read_to_string(&mut seen)?;
    Ok(format!("{own} {}", seen.trim()))
}
