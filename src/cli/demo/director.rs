//! The demo's host: makes the wire to the outside, starts both sandboxes, and shows what they report.

use std::io::{BufRead, BufReader, IsTerminal, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{HOST_V4, HOST_V6, OUTSIDE_V4, OUTSIDE_V6, PUBLISHED, myself, say, veth};
use crate::host::link;

/// The demo ends by then, whatever hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// What has been shown.
#[derive(Default)]
struct Tally {
    steps: u32,
    failed: u32,
}

impl Tally {
    fn step(&mut self, good: bool, text: &str) {
        self.steps += 1;
        self.failed += u32::from(!good);
        let (mark, colour) = if good { ("✓", 32) } else { ("✗", 31) };
        if std::io::stdout().is_terminal() {
            say(&format!("\x1b[{colour}m{mark}\x1b[0m {text}"));
        } else {
            say(&format!("{mark} {text}"));
        }
    }
}

/// A part with its ends of the pipes.
struct Part {
    child: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Part {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a part")?;
        let to = child.stdin.take().context("no pipe to the part")?;
        let from = BufReader::new(child.stdout.take().context("no pipe from the part")?).lines();
        Ok(Self { child, to, from })
    }

    fn line(&mut self) -> Result<String> {
        self.from
            .next()
            .context("a part of the demo ended early")?
            .context("reading from a part")
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        match self.line()? {
            line if line == word => Ok(()),
            line => bail!("expected '{word}', got '{line}'"),
        }
    }

    fn tell(&mut self, word: &str) -> Result<()> {
        writeln!(self.to, "{word}").context("writing to a part")
    }
}

/// Runs in the host's namespaces, as their first command.
pub(super) fn run() -> Result<ExitCode> {
    let start = Instant::now();
    thread::spawn(|| {
        thread::sleep(LIMIT);
        say("demo: not done after 60 s, giving up");
        std::process::exit(1);
    });
    let mut tally = Tally::default();
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
        Part::start(command)
    };
    let dns = OUTSIDE_V4.to_string();
    let mut guest = sandbox(&["--name", "one", "--dns", &dns], "guest")?;
    say("sandbox one:");
    while let Some(line) = guest.from.next().transpose()? {
        let (good, text) = match line.split_once(' ') {
            Some(("ok", text)) => (true, text),
            Some((_, text)) => (false, text),
            None => (false, line.as_str()),
        };
        tally.step(good, text);
    }
    tally.step(
        guest.child.wait()?.success() && tally.steps == 7,
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
    let seconds = start.elapsed().as_secs_f64();
    if tally.failed == 0 {
        say(&format!(
            "demo: all {} steps passed in {seconds:.1} s",
            tally.steps
        ));
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!(
        "demo: {} of {} steps failed",
        tally.failed, tally.steps
    ));
    Ok(ExitCode::FAILURE)
}

/// Starts the outside and lays the wire to it.
fn outside() -> Result<Part> {
    let mut command = myself()?;
    command.args(["demo", "--part", "outside"]);
    let mut outside = Part::start(command)?;
    outside.expect("ready")?;
    veth::make("up0", "out0", outside.child.id())
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
