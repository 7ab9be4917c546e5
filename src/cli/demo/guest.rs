//! What runs in the two sandboxes: one goes out, the other serves.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::{NAME, OUTSIDE_V4, OUTSIDE_V6, SINK, SOURCE, connect, say};

/// How long each direction is measured.
const MEASURED: Duration = Duration::from_secs(2);
/// Bytes moved by one call.
const CHUNK: usize = 128 * 1024;

/// A step: what it shows, and the figure or what went wrong.
pub(super) type Step = (&'static str, fn() -> Result<String>);

/// Goes through the steps of the sandbox that goes out.
pub(super) fn run() -> Result<ExitCode> {
    let steps: [Step; 7] = [
        ("fetch a page from outside, IPv4", || {
            page(OUTSIDE_V4.into())
        }),
        ("fetch a page from outside, IPv6", || {
            page(OUTSIDE_V6.into())
        }),
        ("resolve a name", resolve),
        ("ping the outside", ping),
        ("TCP to the outside at MTU 1500", || {
            up(SocketAddr::new(OUTSIDE_V4.into(), SINK))
        }),
        ("TCP from the outside at MTU 1500", down),
        ("the host's loopback is closed", closed),
    ];
    go(&steps)
}

/// Goes through steps; one line each: `ok` or `bad`, what, and the figure.
pub(super) fn go(steps: &[Step]) -> Result<ExitCode> {
    for (what, step) in steps {
        match step() {
            Ok(figure) => say(&format!("ok {what}: {figure}")),
            Err(e) => say(&format!("bad {what}: {e:#}")),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How long ago something was.
pub(super) fn ms(since: Instant) -> String {
    format!("{:.2} ms", since.elapsed().as_secs_f64() * 1e3)
}

fn page(addr: IpAddr) -> Result<String> {
    let start = Instant::now();
    let mut stream = connect(SocketAddr::new(addr, 80))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(
        text.starts_with("HTTP/1.0 200") && text.contains("hello from the outside"),
        "an unexpected answer"
    );
    Ok(format!("{} bytes in {}", text.len(), ms(start)))
}

fn resolve() -> Result<String> {
    let start = Instant::now();
    let found = (NAME, 80).to_socket_addrs()?.next().context("no address")?;
    ensure!(
        found.ip() == IpAddr::V4(OUTSIDE_V4),
        "{NAME} is {found}, which is wrong"
    );
    Ok(format!("{NAME} is {} in {}", found.ip(), ms(start)))
}

fn ping() -> Result<String> {
    ping_to(OUTSIDE_V4)
}

/// Sends one ping; gives what has come back, and when.
pub(super) fn ping_to(to: Ipv4Addr) -> Result<String> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let start = Instant::now();
    // Type 8, code 0; the kernel fills in checksum and identifier.
    socket.send_to(
        &[8, 0, 0, 0, 0, 0, 0, 1, 0x77, 0x65, 0x66, 0x74],
        &SocketAddr::new(to.into(), 0).into(),
    )?;
    let mut reply = [MaybeUninit::uninit(); 64];
    let n = socket.recv(&mut reply).context("no answer")?;
    Ok(format!("{n} bytes in {}", ms(start)))
}

fn rate(bytes: u64, time: Duration) -> String {
    #[allow(
        clippy::cast_precision_loss,
        reason = "a figure of three digits for the screen"
    )]
    let gbits = bytes as f64 * 8.0 / time.as_secs_f64() / 1e9;
    format!("{gbits:.1} Gbit/s")
}

/// Sends to a sink for a while; gives the rate.
pub(super) fn up(sink: SocketAddr) -> Result<String> {
    let mut stream = connect(sink)?;
    let buffer = vec![0xa5; CHUNK];
    let (start, mut sent) = (Instant::now(), 0u64);
    while start.elapsed() < MEASURED {
        sent += stream.write(&buffer)? as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    let time = start.elapsed();
    ensure!(
        u64::from_be_bytes(total) == sent,
        "{sent} bytes were sent and {} arrived",
        u64::from_be_bytes(total)
    );
    Ok(rate(sent, time))
}

fn down() -> Result<String> {
    let mut stream = connect(SocketAddr::new(OUTSIDE_V4.into(), SOURCE))?;
    let mut buffer = vec![0; CHUNK];
    let (start, mut got) = (Instant::now(), 0u64);
    while start.elapsed() < MEASURED {
        let n = stream.read(&mut buffer)?;
        ensure!(
            n > 0 && buffer[..n].iter().all(|&b| b == 0x5a),
            "the bytes are not those that were sent"
        );
        got += n as u64;
    }
    Ok(rate(got, start.elapsed()))
}

/// The gateway must not be a way to the host's own 127.0.0.1.
fn closed() -> Result<String> {
    let resolv = std::fs::read_to_string("/etc/resolv.conf")?;
    let gateway: Ipv4Addr = resolv
        .lines()
        .find_map(|l| l.strip_prefix("nameserver ")?.trim().parse().ok())
        .context("resolv.conf names no gateway")?;
    match connect(SocketAddr::new(gateway.into(), 80)) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            Ok("connection refused, as it must be".to_owned())
        }
        Err(e) => Err(e).context("not refused, but"),
        Ok(_) => anyhow::bail!("the gateway let a connection through"),
    }
}

/// Answers one client with the address that it has here.
pub(super) fn serve() -> Result<ExitCode> {
    let listener =
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).context("listening on port 80")?;
    say("listening");
    let (mut stream, from) = listener.accept()?;
    writeln!(stream, "{from}")?;
    Ok(ExitCode::SUCCESS)
}
