//! The command line: arguments, and one file for each command.

pub mod args;
pub mod daemon;
mod demo;
pub mod doctor;
pub mod exit;
mod join;
mod publish;
pub mod run;
pub mod session;
mod shell;
pub mod sidecar;
mod sys;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

use crate::config::{HostFacts, NetOptions, RunConfig, Target, file, resolve};
use crate::observe::log;

use args::{Cli, Command};

/// Parses the command line and does what it says. Must be called while the process has one thread.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return exit::usage(&e),
    };
    dispatch(cli.command).unwrap_or_else(|e| exit::fail(&e))
}

fn dispatch(command: Command) -> Result<ExitCode> {
    log::init()?;
    let name = command.name();
    match command {
        Command::Run(args) => {
            let target = Target::Command(args.command);
            let config = checked(target, args.keep_id, args.options, args.config.as_deref())?;
            run::run(config)
        }
        Command::Attach(args) => {
            let target = resolve::attach_target(&args.target)?;
            let config = checked(target, false, args.options, args.config.as_deref())?;
            run::attach(config)
        }
        Command::Doctor(args) => doctor::run(&args),
        Command::Demo(args) => demo::demo(args.part.as_deref(), args.hosts),
        Command::Completions(args) => shell::completions(&args).map(|()| ExitCode::SUCCESS),
        Command::Man(args) => shell::man(&args).map(|()| ExitCode::SUCCESS),
        Command::Up(args) => daemon::up(&args),
        Command::Sidecar(args) => sidecar::sidecar(&args),
        Command::Daemon(command) => daemon::run(&command, &mut std::io::stdout().lock()),
        Command::Trace(_) | Command::Capture(_) | Command::Top(_) | Command::Replay(_) => {
            bail!("'weft {name}' comes with {}", resolve::NEXT_RELEASE)
        }
    }
}

/// From arguments, and the file they may name, to a checked configuration. Says its warnings.
fn checked(
    target: Target,
    keep_id: bool,
    options: NetOptions,
    file: Option<&std::path::Path>,
) -> Result<RunConfig> {
    let options = match file {
        Some(path) => options.over(file::load(path)?),
        None => options,
    };
    let config = RunConfig::resolve(target, keep_id, options, &HostFacts::gather()?)?;
    for warning in &config.warnings {
        exit::complain(format_args!("warning: {warning}"));
    }
    Ok(config)
}
