//! Exit codes, and the one place where errors are printed.

use std::fmt;
use std::process::ExitCode;

use clap::error::ErrorKind;

/// Weft itself failed.
pub const FAILED: u8 = 125;
/// The command was found and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;
/// Added to a signal's number when it ended the command, as shells do.
pub const SIGNALLED: u8 = 128;

/// Prints an error as one line, with its causes, and gives the exit code of weft's own failure.
#[must_use]
pub fn fail(error: &anyhow::Error) -> ExitCode {
    complain(format_args!("{}", one_line(&format!("{error:#}"))));
    ExitCode::from(FAILED)
}

/// Prints one line about something that goes wrong.
#[allow(
    clippy::print_stderr,
    reason = "the command line's own errors go to stderr, not to the log"
)]
pub fn complain(message: fmt::Arguments<'_>) {
    eprintln!("weft: {message}");
}

/// Ends a command line that clap did not accept: help and version succeed, all else is one line and a failure.
#[must_use]
#[allow(
    clippy::print_stdout,
    reason = "help and version are what was asked for"
)]
pub fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // A reader that went away (`weft --help | head -1`) is no failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    complain(format_args!("{}", usage_line(error)));
    ExitCode::from(FAILED)
}

/// Folds clap's report into one line: the error, its tips, and where the help is.
#[must_use]
pub fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let command = text
        .lines()
        .find_map(|l| l.strip_prefix("Usage: "))
        .and_then(|usage| usage.split_whitespace().nth(1))
        .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase()))
        .map_or_else(
            || "weft --help".to_owned(),
            |word| format!("weft {word} --help"),
        );
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("no command given; see '{command}'");
    }
    let body = text
        .lines()
        .map(str::trim)
        .take_while(|l| !l.starts_with("Usage:"));
    // That a mistyped option could be meant as a value is true and no help.
    let noise = |l: &str| {
        l.is_empty() || l.starts_with("For more information") || l.starts_with("tip: to pass")
    };
    let parts: Vec<&str> = body.filter(|l| !noise(l)).collect();
    let joined = parts.join("; ").replace(":; ", ": ");
    let message = joined.strip_prefix("error: ").unwrap_or(&joined);
    format!("{message}; see '{command}'")
}

/// Line breaks of an operating system's or a library's message would break the rule of one line.
fn one_line(text: &str) -> String {
    text.split('\n')
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_are_folded() {
        assert_eq!(one_line("a\n  b\n\nc"), "a; b; c");
    }
}
