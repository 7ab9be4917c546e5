//! PID 1 of a sandbox: starts the command, reaps, hands signals on, and ends everything when the command ends.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, execvp};
use std::os::fd::AsFd;

use super::broker_proto::{Channel, Command, Failure, FromInit, SandboxSpec};
use super::{etc, sys};

/// Source: the shell's convention, sh(1).
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Runs as the first process of the sandbox; the result is its exit status.
pub(super) fn run(
    spec: &SandboxSpec,
    command: &Command,
    own_pids: bool,
    mask: SigSet,
    mut helper: Channel,
) -> i32 {
    match start(spec, command, own_pids, mask) {
        Ok(Some((child, warnings, deaths))) => {
            let told = helper.send(&FromInit::Started { warnings }, &[]);
            let status = told
                .map_err(Into::into)
                .and_then(|()| look_after(child, &deaths, &mut helper));
            if !own_pids {
                end_descendants();
            }
            if let Ok(status) = status {
                let _ = helper.send(&FromInit::Exited(status), &[]);
            }
            0
        }
        Ok(None) => {
            let _ = helper.send(&FromInit::NoProc, &[]);
            0
        }
        Err(e) => {
            let _ = helper.send(&FromInit::Refused(Failure::new(&e)), &[]);
            0
        }
    }
}

type Running = (Pid, Vec<String>, SignalFd);

/// Makes the files and starts the command. `None` when /proc of the new PID namespace cannot be mounted.
fn start(
    spec: &SandboxSpec,
    command: &Command,
    own_pids: bool,
    mask: SigSet,
) -> Result<Option<Running>> {
    if own_pids {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
    } else {
        // What the command leaves behind comes to this process, which ends it.
        prctl::set_child_subreaper(true)?;
    }
    let directory = std::env::current_dir();
    let mut warnings = Vec::new();
    if let Err(e) = etc::make_private() {
        if own_pids {
            return Ok(None);
        }
        warnings.push(format!(
            "no mount is allowed here ({e}): /etc inside is the host's"
        ));
    } else {
        if own_pids && etc::mount_proc().is_err() {
            return Ok(None);
        }
        warnings.extend(etc::prepare(spec));
    }
    let mut watched = SigSet::all();
    watched.thread_block()?;
    watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    let deaths = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let child = execute(command, own_pids, mask, directory.ok().as_deref())?;
    Ok(Some((child, warnings, deaths)))
}

/// Forks and executes; a pipe that closes by itself on success brings back the error number otherwise.
fn execute(
    command: &Command,
    own_pids: bool,
    mask: SigSet,
    directory: Option<&Path>,
) -> Result<Pid> {
    let argv: Vec<CString> = command
        .argv
        .iter()
        .map(|word| CString::new(word.as_bytes()))
        .collect::<Result<_, _>>()
        .context("an argument of the command has a zero byte in it")?;
    let Some(program) = argv.first() else {
        bail!("no command is given: name one after the options, such as `weft run -- sh`");
    };
    let (mut reader, mut writer) = io::pipe()?;
    let child = sys::fork_child_in(nix::sched::CloneFlags::empty(), || {
        if !own_pids {
            let _ = prctl::set_pdeathsig(Signal::SIGKILL);
        }
        if let Some(directory) = directory {
            let _ = chdir(directory);
        }
        // Rust ignores SIGPIPE; the command is to have it as usual.
        let _ = sys::default_action(Signal::SIGPIPE);
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
        let Err(errno) = execvp(program, &argv);
        let _ = writer.write_all(&(errno as i32).to_ne_bytes());
        NOT_EXECUTABLE
    })
    .context("cannot fork in the sandbox")?;
    drop(writer);
    let mut number = [0; 4];
    if reader.read_exact(&mut number).is_err() {
        return Ok(child);
    }
    waitpid(child, None)?;
    Err(refusal(program, Errno::from_raw(i32::from_ne_bytes(number))).into())
}

fn refusal(program: &CString, errno: Errno) -> Failure {
    let name = program.to_string_lossy();
    // A directory of PATH that may not be entered hides whether the command is there: it is not, for this user.
    let hidden = errno == Errno::EACCES && !name.contains('/') && !in_path(&name);
    let (status, message) = if errno == Errno::ENOENT && !name.contains('/') || hidden {
        (
            NOT_FOUND,
            format!("{name}: command not found: check the spelling and PATH"),
        )
    } else if errno == Errno::ENOENT {
        (
            NOT_FOUND,
            format!("{name}: no such file, or the interpreter it names is missing"),
        )
    } else if errno == Errno::EACCES {
        let advice = "make it executable with chmod +x, and see that it is no directory";
        (
            NOT_EXECUTABLE,
            format!("{name}: cannot be executed: {advice}"),
        )
    } else {
        (
            NOT_EXECUTABLE,
            format!("{name}: cannot be executed: {}", errno.desc()),
        )
    };
    Failure {
        message,
        status,
        errno: Some(errno as i32),
    }
}

fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).exists())
}

/// Reaps and hands signals on until the command ends; gives its status.
/// Errors: the helper has gone.
fn look_after(child: Pid, deaths: &SignalFd, helper: &mut Channel) -> Result<i32> {
    loop {
        // Reap first: the command may have ended before the first wait.
        if let Some(status) = reap(child) {
            return Ok(status);
        }
        let mut fds = [
            PollFd::new(deaths.as_fd(), PollFlags::POLLIN),
            PollFd::new(helper.fd(), PollFlags::POLLIN),
        ];
        super::retry(|| poll(&mut fds, PollTimeout::NONE))?;
        let [died, told] = fds.map(|fd| fd.any().unwrap_or(false));
        if died {
            while let Ok(Some(_)) = deaths.read_signal() {}
        }
        if told {
            match helper.receive::<i32>()? {
                Some((number, _)) => {
                    if let Ok(signal) = Signal::try_from(number) {
                        let _ = kill(child, signal);
                    }
                }
                None => bail!("the helper has gone"),
            }
        }
    }
}

/// Takes the status of every process that has ended; gives the command's if it is among them.
fn reap(child: Pid) -> Option<i32> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => return Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Some(128 + signal as i32);
            }
            Ok(WaitStatus::StillAlive) => return None,
            Ok(_) | Err(Errno::EINTR) => {}
            // No child at all, the command included: its status was lost.
            Err(_) => return Some(125),
        }
    }
}

/// Ends what is left of the sandbox where there is no PID namespace: children of ended processes become ours.
fn end_descendants() {
    let own = std::process::id();
    loop {
        let list = fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        let Ok(list) = list else {
            return;
        };
        for pid in list.split_ascii_whitespace() {
            if let Ok(pid) = pid.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        match waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
