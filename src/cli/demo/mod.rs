//! `weft demo`: a host and an outside world made of namespaces, two sandboxes between them, and what they do, measured.
//! `weft demo --hosts 2`: two hosts, a sandbox on each, an encrypted network between them, and what is seen of it outside.
//!
//! The demo runs inside `weft run --network none`: that is the host's namespace, and its end takes everything along. The
//! parts are this program again, told apart by a hidden option.

mod across;
mod director;
mod guest;
mod hosts;
mod net;
mod outside;
mod part;
mod veth;
mod wire;

use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

/// The host's addresses towards the outside.
const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The outside's addresses.
const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// Where the outside takes bytes, and where it gives them.
const SINK: u16 = 5001;
const SOURCE: u16 = 5002;
/// The published port, and its name outside.
const PUBLISHED: u16 = 8080;
/// The sandbox on the second host, and the port that it takes letters on.
const AWAY: &str = "db";
const POST: u16 = 5003;
/// What nobody between the hosts is to read.
const LETTER: &str = "a letter that nobody on the way can read";
/// A name that only the outside's resolver knows.
const NAME: &str = "www.demo.test";

/// Runs the demo, or one of its parts.
pub(super) fn demo(part: Option<&str>, hosts: u8) -> Result<ExitCode> {
    match part {
        None if hosts == 2 => start("hosts"),
        None => start("director"),
        Some("director") => director::run(),
        Some("hosts") => hosts::run(),
        Some("near") => across::near(),
        Some("fast") => across::fast(),
        Some("away") => across::away(),
        Some("outside") => outside::run(),
        Some("guest") => guest::run(),
        Some("server") => guest::serve(),
        Some(other) => bail!("the demo has no part '{other}'"),
    }
}

/// This program again.
fn myself() -> Result<Command> {
    Ok(Command::new(
        std::env::current_exe().context("finding this program's own file")?,
    ))
}

fn start(part: &str) -> Result<ExitCode> {
    let exe = std::env::current_exe().context("finding this program's own file")?;
    let status = myself()?
        .args(["run", "--network", "none", "--name", "host", "--"])
        .arg(exe)
        .args(["demo", "--part", part])
        .status()
        .context("starting the demo's host")?;
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|c| u8::try_from(c).ok())
            .unwrap_or(1),
    ))
}

/// Says one line on stdout at once.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    // A reader that went away is no reason to stop half-way.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A connection with a congestion control that does not pace: a bench of pacing says nothing about a switch.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    unpaced(&socket);
    socket.connect_timeout(&to.into(), std::time::Duration::from_secs(10))?;
    Ok(socket.into())
}

fn unpaced(socket: &Socket) {
    // Cubic may be reserved for the machine's owner; reno never is. Without either the default stays.
    let _ = socket
        .set_tcp_congestion(b"cubic")
        .or_else(|_| socket.set_tcp_congestion(b"reno"));
}
