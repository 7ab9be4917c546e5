//! What runs in the sandboxes of two hosts: one serves, the other calls it by its name.

use std::io::{BufRead, Read, Write, stdin};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::{AWAY, LETTER, POST, SINK, connect, guest, outside, say};

/// Answers whoever calls, until the director has gone.
pub(super) fn away() -> Result<ExitCode> {
    outside::listen(POST, post)?;
    outside::listen(SINK, outside::sink)?;
    say("serving");
    for line in stdin().lock().lines() {
        line?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends a letter back.
fn post(mut stream: TcpStream) -> std::io::Result<()> {
    let mut letter = vec![0; LETTER.len()];
    stream.read_exact(&mut letter)?;
    stream.write_all(&letter)
}

/// Finds the other host's sandbox, pings it and writes to it.
pub(super) fn near() -> Result<ExitCode> {
    let steps: [guest::Step; 3] = [
        ("its name resolves on the other host", || {
            Ok(format!("{AWAY} is {}", find()?))
        }),
        ("ping it by its name", || guest::ping_to(find()?)),
        ("a letter over TCP and back", write),
    ];
    guest::go(&steps)
}

/// Measures what the encrypted network carries.
pub(super) fn fast() -> Result<ExitCode> {
    let steps: [guest::Step; 1] = [("TCP over the encrypted network", || {
        guest::up(SocketAddr::new(find()?.into(), SINK))
    })];
    guest::go(&steps)
}

fn find() -> Result<Ipv4Addr> {
    let mut found = (AWAY, POST).to_socket_addrs()?.map(|at| at.ip());
    let v4 = found.find_map(|ip| match ip {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    v4.with_context(|| format!("{AWAY} has no address"))
}

fn write() -> Result<String> {
    let start = Instant::now();
    let mut stream = connect(SocketAddr::new(find()?.into(), POST))?;
    stream.write_all(LETTER.as_bytes())?;
    let mut back = vec![0; LETTER.len()];
    stream.read_exact(&mut back)?;
    ensure!(back == LETTER.as_bytes(), "the answer is another one");
    let Ok(text) = std::str::from_utf8(&back) else {
        bail!("the answer is no text");
    };
    Ok(format!("'{text}' in {}", guest::ms(start)))
}
