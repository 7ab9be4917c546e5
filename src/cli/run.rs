//! `weft run` and `weft attach`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::exit;
use super::join::Shared;
use super::session::{Outcome, Session};
use crate::config::{NetworkMode, RunConfig, Target};
use crate::host::broker::Broker;
use crate::host::broker_proto::{self, Command, Failure, SandboxSpec};

/// Runs a command in a network of its own. The exit code is the command's.
pub fn run(config: RunConfig) -> Result<ExitCode> {
    let Target::Command(argv) = config.target.clone() else {
        return attach(config);
    };
    let (netns, shared) = match &config.network {
        NetworkMode::Netns(path) => (Some(broker_proto::Target::Path(path.clone())), None),
        NetworkMode::Shared(share) => {
            let shared = Shared::find(share, &config.hostname)?;
            (Some(shared.target), Some(shared.names))
        }
        NetworkMode::Private | NetworkMode::None | NetworkMode::Host | NetworkMode::Joined(_) => {
            (None, None)
        }
    };
    let is_shared = shared.is_some();
    let session = Session::start(
        config,
        |broker: &mut Broker, spec: &SandboxSpec| match netns {
            Some(target) => broker.attach(&target, spec),
            None => broker.create(spec),
        },
    );
    let mut session = match session {
        Ok(session) => session,
        Err(e) => return Ok(failed(&e)),
    };
    let names = match shared {
        Some(names) => Ok(names),
        None => session.join(),
    };
    let command = Command { argv };
    let started = names.and_then(|names| session.broker.start_with(&command, &names));
    let started = match started {
        Ok(started) => started,
        Err(e) => {
            let code = failed(&e);
            session.stop()?;
            return Ok(code);
        }
    };
    for warning in &started.warnings {
        exit::complain(format_args!("warning: {warning}"));
    }
    session.announce()?;
    loop {
        match session.wait()? {
            Outcome::Exited(status) => {
                session.finish()?;
                return Ok(ExitCode::from(
                    u8::try_from(status & 0xff).unwrap_or(exit::FAILED),
                ));
            }
            Outcome::Signal(signal) => session.broker.signal(signal as i32)?,
            Outcome::Ended if is_shared => {
                let lost = "the sandbox has ended that shared its network";
                exit::complain(format_args!("{lost}; the command goes on without one"));
            }
            // The name of a namespace is gone; the command is still in it.
            Outcome::Ended => {}
            // Ending the command would lose more than its network.
            Outcome::NetworkLost(why) => {
                exit::complain(format_args!("{why}; the command goes on without a network"));
            }
            Outcome::Failed(why) => {
                exit::complain(format_args!("{why}"));
                return Ok(ExitCode::from(exit::FAILED));
            }
        }
    }
}

/// Gives a namespace that exists a network, until it ends or we are told to.
pub fn attach(config: RunConfig) -> Result<ExitCode> {
    let target = match &config.target {
        Target::Pid(pid) => broker_proto::Target::Pid(*pid),
        Target::Netns(path) => broker_proto::Target::Path(path.clone()),
        Target::Command(_) => anyhow::bail!("attach needs a process or a namespace"),
    };
    let session = Session::start(config, |broker: &mut Broker, spec: &SandboxSpec| {
        broker.attach(&target, spec)
    });
    let mut session = match session {
        Ok(session) => session,
        Err(e) => return Ok(failed(&e)),
    };
    if let Err(e) = session.join() {
        return Ok(failed(&e));
    }
    session.announce()?;
    loop {
        match session.wait()? {
            Outcome::Exited(_) | Outcome::Ended => break,
            Outcome::Signal(
                Signal::SIGWINCH | Signal::SIGCONT | Signal::SIGUSR1 | Signal::SIGUSR2,
            ) => {}
            Outcome::Signal(_) => break,
            Outcome::NetworkLost(why) | Outcome::Failed(why) => {
                exit::complain(format_args!("{why}"));
                return Ok(ExitCode::from(exit::FAILED));
            }
        }
    }
    session.stop().context("ending")?;
    Ok(ExitCode::SUCCESS)
}

/// A failure with the exit code that it carries: 126 and 127 are the command's, 125 is ours.
fn failed(error: &anyhow::Error) -> ExitCode {
    let code = exit::fail(error);
    match error.downcast_ref::<Failure>().map(|f| f.status) {
        Some(status @ (126 | 127)) => ExitCode::from(u8::try_from(status).unwrap_or(exit::FAILED)),
        _ => code,
    }
}
