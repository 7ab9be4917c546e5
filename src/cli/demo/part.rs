//! Parts of the demo that run beside the director, and what has been shown.

use std::io::{BufRead, BufReader, IsTerminal, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::say;

/// The demo ends by then, whatever hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// What has been shown.
pub(super) struct Tally {
    begun: Instant,
    steps: u32,
    failed: u32,
}

impl Tally {
    /// Begins, and sees to it that there is an end.
    pub(super) fn begin() -> Self {
        thread::spawn(|| {
            thread::sleep(LIMIT);
            say("demo: not done after 60 s, giving up");
            std::process::exit(1);
        });
        Self {
            begun: Instant::now(),
            steps: 0,
            failed: 0,
        }
    }

    /// Says how it went; gives the exit code.
    pub(super) fn end(&self) -> ExitCode {
        let Self { steps, failed, .. } = self;
        if *failed > 0 {
            say(&format!("demo: {failed} of {steps} steps failed"));
            return ExitCode::FAILURE;
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        say(&format!("demo: all {steps} steps passed in {seconds:.1} s"));
        ExitCode::SUCCESS
    }

    /// Shows a step.
    pub(super) fn step(&mut self, good: bool, text: &str) {
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
pub(super) struct Part {
    pub(super) child: Child,
    pub(super) to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
}

impl Part {
    /// Starts it, by `spawn`.
    pub(super) fn start(
        spawn: impl FnOnce(&mut Command) -> std::io::Result<Child>,
        mut command: Command,
    ) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut command).context("starting a part")?;
        let to = child.stdin.take().context("no pipe to the part")?;
        let from = BufReader::new(child.stdout.take().context("no pipe from the part")?).lines();
        Ok(Self { child, to, from })
    }

    /// The next line that it says.
    pub(super) fn line(&mut self) -> Result<String> {
        self.from
            .next()
            .context("a part of the demo ended early")?
            .context("reading from a part")
    }

    /// Waits for this word.
    pub(super) fn expect(&mut self, word: &str) -> Result<()> {
        match self.line()? {
            line if line == word => Ok(()),
            line => bail!("expected '{word}', got '{line}'"),
        }
    }

    /// Tells it something.
    pub(super) fn tell(&mut self, word: &str) -> Result<()> {
        writeln!(self.to, "{word}").context("writing to a part")
    }

    /// Shows the steps that it reports until it has ended; gives how many.
    pub(super) fn report(&mut self, tally: &mut Tally) -> Result<u32> {
        let before = tally.steps;
        while let Some(line) = self.from.next().transpose()? {
            let (good, text) = match line.split_once(' ') {
                Some(("ok", text)) => (true, text),
                Some((_, text)) => (false, text),
                None => (false, line.as_str()),
            };
            tally.step(good, text);
        }
        Ok(tally.steps - before)
    }
}
