//! The demo's host: makes the wire to the outside, starts both sandboxes, and shows what they report.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use super::part::{Part, Tally};
use super::veth::There;
use super::{HOST_V4, HOST_V6, OUTSIDE_V4, OUTSIDE_V6, PUBLISHED, myself, say, veth};
use crate::host::link;

/// Runs in the host's namespaces, as their first command.
pub(super) fn run() -> Result<ExitCode> {
    let mut tally = Tally::begin();
    veth::prepare();
    let mut outside = outside()?;
    say(&format!(
        "a host {HOST_V4} and {HOST_V6}, an outside world {OUTSIDE_V4} and {OUTSIDE_V6}"
    ));
    let exe = std::env::current_exe().context("finding this program's own file")?;
    let sandbox = |options: &[&str], part: &str| -> Result<Part> {
        let mut command = myself()?;
        command
            .arg("run")
            .args(options)
            .arg("--")
            .arg(&exe)
            .args(["demo", "--part", part]);
        Part::start(Command::spawn, command)
    };
    let dns = OUTSIDE_V4.to_string();
    let mut guest = sandbox(&["--name", "one", "--dns", &dns], "guest")?;
    say("sandbox one:");
    let steps = guest.report(&mut tally)?;
    tally.step(
        guest.child.wait()?.success() && steps == 7,
        "sandbox one ended well",
    );
    say(&format!(
        "sandbox two, port 80 published as {HOST_V4}:{PUBLISHED}:"
    ));
    let mut server = sandbox(
        &["--name", "two", "-p", &format!("{PUBLISHED}:80")],
        "server",
    )?;
    server.expect("listening")?;
    let asked = Instant::now();
    outside.tell("fetch")?;
    let answer = outside.line()?;
    let same = answer
        .split_once(' ')
        .is_some_and(|(own, seen)| own == seen);
    let time = asked.elapsed().as_secs_f64() * 1e3;
    let seen = answer
        .split_once(' ')
        .map_or(answer.as_str(), |(_, seen)| seen);
    let text = format!("reached from outside in {time:.2} ms; the server saw {seen}");
    tally.step(
        same,
        &if same {
            format!("{text}, the client's true address")
        } else {
            format!("{text}: {answer}")
        },
    );
    tally.step(server.child.wait()?.success(), "sandbox two ended well");
    drop(outside.to);
    outside.child.wait()?;
    Ok(tally.end())
}

/// Starts the outside and lays the wire to it.
fn outside() -> Result<Part> {
    let mut command = myself()?;
    command.args(["demo", "--part", "outside"]);
    let mut outside = Part::start(Command::spawn, command)?;
    outside.expect("ready")?;
    veth::make("up0", "out0", &There::Process(outside.child.id()))
        .context("making the wire between host and outside")?;
    let addresses = [(HOST_V4.into(), 24), (HOST_V6.into(), 64)];
    veth::up("up0", &addresses, &[OUTSIDE_V4.into(), OUTSIDE_V6.into()])
        .context("setting up the host's end of the wire")?;
    // The switch asks the outside through ping sockets, which the host must open to its group. Best effort: the
    // step that needs it says what is wrong.
    let _ = link::sysctl("net/ipv4/ping_group_range", "0 0");
    outside.tell("go")?;
    outside.expect("serving")?;
    veth::wait(&addresses).context("waiting for the host's end of the wire")?;
    Ok(outside)
}
