//! `weft up`: the switch as a daemon, in this terminal or in the background.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use nix::unistd::geteuid;

use crate::config::HostFacts;
use crate::config::topology::{DaemonWish, TopologyFile};
use crate::control::live::{LivePlane, Options};
use crate::control::serve::{self, default_socket, default_store};
use crate::host::privileges;

/// How long a switch may take to come up: with a thousand endpoints to take over, some seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks whether it is still there.
const LOOK: Duration = Duration::from_millis(50);

/// `weft up`
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Networks, endpoints and ports to apply once the switch is up
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Goes to the background once the switch is up; its log is beside its store
    #[arg(long)]
    pub detach: bool,
    /// Threads that carry packets [default: half the cores]
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
    /// Becomes this user, as root; the switch is then his and root's
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// The API's socket [default: that of the user's own switch]
    #[arg(long, value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// Where networks, endpoints and leases are kept [default: below the user's state directory]
    #[arg(long, value_name = "FILE")]
    pub store: Option<PathBuf>,
    /// Serves metrics on this port of the host's loopback, too
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// The background part of --detach.
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// Runs the switch until it is told to end. Must be called while the process has one thread.
/// Errors: one line, before anything is changed.
pub fn up(args: &UpArgs) -> Result<ExitCode> {
    let asked = DaemonWish {
        workers: args.workers,
        metrics_port: args.metrics_port,
    };
    asked.check().map_err(|p| anyhow!("--{p}"))?;
    // Those of whoever calls: root may become another user below.
    let store = args.store.clone().unwrap_or_else(default_store);
    let socket = args.socket.clone().unwrap_or_else(default_socket);
    if let Some(user) = args.user.as_deref().filter(|_| geteuid().is_root()) {
        let owner = privileges::find_user(user)?;
        serve::give_directory(&store, owner)?;
        serve::give_directory(&socket, owner)?;
    }
    if args.detach {
        // As the background part does it, which becomes that user.
        if args.user.is_none() {
            serve::private_dir(&store)?;
        }
        return detach(&store);
    }
    if args.detached {
        // Fails only for the leader of a group, which no child is.
        let _ = nix::unistd::setsid();
    }
    let config = args.config.as_deref().map(TopologyFile::load).transpose()?;
    let descriptors = HostFacts::gather()?.descriptors;
    // Options go before the file.
    let wish = config
        .as_ref()
        .map(|c| c.topology.daemon.clone())
        .unwrap_or_default();
    let plane = LivePlane::start(&Options {
        workers: args.workers.or(wish.workers).map(usize::from),
        user: args.user.clone(),
        at_home: false,
    })?;
    let options = serve::Options {
        socket,
        store,
        metrics_port: args.metrics_port.or(wish.metrics_port),
        config,
        first: Vec::new(),
        fresh: false,
        key: None,
        descriptors,
    };
    serve::serve(plane, options)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the same command in the background, and waits until it serves.
/// Errors: what it has failed with.
fn detach(store: &Path) -> Result<ExitCode> {
    let log_path = store.with_extension("log");
    let mut log = open_log(&log_path)?;
    let from = log.seek(SeekFrom::End(0))?;
    let told_at = std::env::temp_dir().join(format!("weft-up-{}.sock", std::process::id()));
    // One of a process that had our number and died.
    let _ = fs::remove_file(&told_at);
    let told = UnixDatagram::bind(&told_at)
        .with_context(|| format!("cannot make {}", told_at.display()))?;
    let started = start(&told_at, &log).and_then(|child| wait(child, &told));
    let _ = fs::remove_file(&told_at);
    match started? {
        Ended::Serving => Ok(ExitCode::SUCCESS),
        Ended::Failed => {
            log.seek(SeekFrom::Start(from))?;
            let mut text = String::new();
            log.read_to_string(&mut text)?;
            let last = text.lines().rev().find(|l| l.starts_with("weft: "));
            let why = last.and_then(|l| l.strip_prefix("weft: "));
            bail!(
                "{}",
                why.map_or_else(
                    || format!("the switch has ended; see {}", log_path.display()),
                    str::to_owned
                )
            );
        }
    }
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        // Root is not to be led elsewhere by whoever has the directory.
        .custom_flags(libc::O_NOFOLLOW)
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn start(told_at: &Path, log: &File) -> Result<Child> {
    let mut args: Vec<_> = std::env::args_os().skip(1).collect();
    args.retain(|a| a != "--detach");
    Command::new("/proc/self/exe")
        .args(args)
        .arg("--detached")
        .env("NOTIFY_SOCKET", told_at)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.try_clone()?)
        .spawn()
        .context("cannot start the background part")
}

enum Ended {
    Serving,
    Failed,
}

fn wait(mut child: Child, told: &UnixDatagram) -> Result<Ended> {
    told.set_read_timeout(Some(LOOK))?;
    let mut buf = [0; 256];
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        if let Ok(n) = told.recv(&mut buf)
            && buf[..n].starts_with(b"READY=1")
        {
            return Ok(Ended::Serving);
        }
        if child.try_wait()?.is_some() {
            return Ok(Ended::Failed);
        }
    }
    child.kill()?;
    bail!("the switch did not come up within {} s", PATIENCE.as_secs());
}
