//! `weft doctor`: what this machine allows, what it costs where it does not, and the command that mends it.

mod host;
mod namespace;
mod sockets;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

use super::args::DoctorArgs;

/// How a probe came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// As wished.
    Ok,
    /// Good to know, nothing to mend.
    Note,
    /// Weft runs, and something is lost.
    Warn,
    /// Weft cannot run.
    Fail,
}

impl Status {
    const fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    /// What is lost by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<String>,
    /// The command, or else the step, that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            cost: None,
            mend: None,
        }
    }

    fn note(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            status: Status::Note,
            ..Self::ok(name, found)
        }
    }

    fn warn(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            ..Self::ok(name, found)
        }
    }

    fn fail(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            ..Self::ok(name, found)
        }
    }

    fn cost(self, cost: impl Into<String>) -> Self {
        Self {
            cost: Some(cost.into()),
            ..self
        }
    }

    fn mend(self, mend: impl Into<String>) -> Self {
        Self {
            mend: Some(mend.into()),
            ..self
        }
    }
}

/// The whole report, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    can_run: bool,
    checks: Vec<Check>,
}

/// Probes and reports. Exit code: 0 if weft can run here, 1 if not. Errors: the report cannot be printed.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    if args.probe_namespace {
        let found = serde_json::to_string(&namespace::probe())?;
        return print(&found).map(|()| ExitCode::SUCCESS);
    }
    let report = report();
    let text = if args.json {
        serde_json::to_string_pretty(&report)?
    } else {
        render(&report)
    };
    print(text.trim_end())?;
    Ok(if report.can_run {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn report() -> Report {
    let found = namespace::probe_in_child();
    let mut checks = vec![host::kernel(), host::tun_device()];
    checks.extend(namespace::checks(&found));
    checks.extend([
        sockets::ping(),
        host::low_ports(),
        sockets::peek_offset(),
        sockets::udp_batches(),
        sockets::udp_buffers(),
        host::congestion_control(),
        host::descriptors(),
        host::ipv6(),
        host::io_uring(),
    ]);
    let can_run = checks.iter().all(|c| c.status != Status::Fail);
    Report {
        version: env!("CARGO_PKG_VERSION"),
        can_run,
        checks,
    }
}

fn render(report: &Report) -> String {
    let width = report
        .checks
        .iter()
        .map(|c| c.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for check in &report.checks {
        text.push_str(&format!(
            "{:<4}  {:<width$}  {}\n",
            check.status.text(),
            check.name,
            check.found
        ));
        for (word, what) in [("costs: ", &check.cost), ("mend:  ", &check.mend)] {
            if let Some(what) = what {
                text.push_str(&format!("{:6}{:<width$}  {word}{what}\n", "", ""));
            }
        }
    }
    text.push_str(if report.can_run {
        "\nweft can run here\n"
    } else {
        "\nweft cannot run here: mend what says FAIL\n"
    });
    text
}

/// Prints text and a line break. A reader that went away is no failure.
fn print(text: &str) -> Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("printing the report"),
    }
}

/// A kernel setting, by its name with dots.
fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The command that changes a kernel setting.
fn set_sysctl(name: &str, value: &str) -> String {
    format!("sudo sysctl -w {name}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_well() {
        let checks = vec![
            Check::ok("kernel", "Linux 6.18"),
            Check::warn("low ports", "from 1024")
                .cost("a port")
                .mend(set_sysctl("a.b", "0")),
            Check::fail("tap", "missing"),
        ];
        let report = Report {
            version: "1",
            can_run: false,
            checks,
        };
        insta::assert_snapshot!(render(&report), @r#"
        ok    kernel     Linux 6.18
        warn  low ports  from 1024
                         costs: a port
                         mend:  sudo sysctl -w a.b="0"
        FAIL  tap        missing

        weft cannot run here: mend what says FAIL
        "#);
        insta::assert_snapshot!(serde_json::to_string(&report).unwrap(), @r#"{"version":"1","can_run":false,"checks":[{"name":"kernel","status":"ok","found":"Linux 6.18"},{"name":"low ports","status":"warn","found":"from 1024","cost":"a port","mend":"sudo sysctl -w a.b=\"0\""},{"name":"tap","status":"fail","found":"missing"}]}"#);
    }
}
