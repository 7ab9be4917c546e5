//! The daemon's control loop: everything on one thread, and the store on its own.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Gid, Uid, chown};
use redb::Database;
use sd_notify::NotifyState;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tracing::{info, warn};

use super::engine::{Engine, Job};
use super::identity::{self, Identity};
use super::model::Model;
use super::plan::Facts;
use super::plane::Plane;
use super::proto::{Reply, Request};
use super::server::{self, Handle, Listener};
use super::store::{self, OpenError, Store};
use super::sys;
use crate::config::topology::TopologyFile;

/// Jobs taken at a time.
const TURN: usize = 256;

/// Between two looks at the clock, while something expires by it.
const CLOCK: Duration = Duration::from_secs(60);

/// How often, and after how long each, it is looked whether a store that is in use is free: for three seconds.
const LOOKS: u32 = 150;
const LOOK: Duration = Duration::from_millis(20);

/// How the daemon is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// The API's socket.
    pub socket: PathBuf,
    /// The store's file.
    pub store: PathBuf,
    /// A port of the host's loopback for metrics.
    pub metrics_port: Option<u16>,
    /// A file to apply once everything is back.
    pub config: Option<TopologyFile>,
    /// What to do then, in this order; one that is refused ends it.
    pub first: Vec<Request>,
    /// Begins with an empty store, whatever an earlier one has left.
    pub fresh: bool,
    /// Where the host's key is; beside the store if absent.
    pub key: Option<PathBuf>,
    /// The hard limit on descriptors.
    pub descriptors: u64,
}

/// Where the API's socket is by default: beside those of other daemons of the user.
#[must_use]
pub fn default_socket() -> PathBuf {
    runtime_dir().join("weft.sock")
}

/// Where the store is by default. A system's state for root, the user's otherwise.
#[must_use]
pub fn default_store() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/weft/weft.redb");
    }
    let home = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let state = home("XDG_STATE_HOME").or_else(|| Some(home("HOME")?.join(".local/state")));
    state.unwrap_or_else(runtime_dir).join("weft/weft.redb")
}

/// Where a user's sockets are, and what need not outlive the machine's run.
#[must_use]
pub fn runtime_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/run/weft");
    }
    let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty());
    dir.map_or_else(
        || PathBuf::from(format!("/tmp/weft-{}", nix::unistd::geteuid())),
        |d| PathBuf::from(d).join("weft"),
    )
}

/// Serves until a request, a signal or the data plane ends it. The interfaces have left the sandboxes when it returns.
/// Must be given an empty data plane. Errors: the store or the socket cannot be had, or the data plane has ended.
pub fn serve<P: Plane>(plane: P, options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the control thread")?;
    runtime.block_on(run(plane, options))
}

async fn run<P: Plane>(plane: P, options: Options) -> Result<()> {
    private_dir(&options.store)?;
    private_dir(&options.socket)?;
    // Before the store: that the switch is up already says more than that its store is locked.
    let listener = server::bind(&options.socket)
        .with_context(|| format!("the API's socket {}", options.socket.display()))?;
    let served = serve_on(listener, plane, &options).await;
    // A socket that is left behind would be replaced by the next start.
    let _ = std::fs::remove_file(&options.socket);
    served
}

async fn serve_on<P: Plane>(listener: Listener, plane: P, options: &Options) -> Result<()> {
    if options.fresh {
        // Nobody else has it: the socket is ours.
        match std::fs::remove_file(&options.store) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("store {}", options.store.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    let (database, model) = open(&options.store)
        .await
        .with_context(|| format!("store {}", options.store.display()))?;
    let path = options.store.clone();
    let again = move || store::reopen(&path);
    let store = Store::start(database, again).context("starting the store's thread")?;
    let metrics = match options.metrics_port {
        None => None,
        Some(port) => {
            let bound = server::bind_metrics(port).await;
            Some(bound.with_context(|| format!("metrics on 127.0.0.1:{port}"))?)
        }
    };
    let facts = Facts {
        descriptors: options.descriptors,
        host: crate::config::facts::host_name(),
        ..Facts::default()
    };
    let key = options.key.clone();
    let identity = Identity::at(key.unwrap_or_else(|| identity::path(&options.store)));
    // From here on interfaces are in sandboxes: every way out leads past the engine's end.
    let mut engine = Engine::restore(plane, store, model, facts, identity).await?;
    let (handle, jobs) = Handle::new();
    tokio::spawn(listener.serve(server::router(handle.clone())));
    if let Some(listener) = metrics {
        tokio::spawn(listener.serve(server::metrics_router(handle)));
    }
    let applied = apply(&mut engine, options.config.as_ref()).await;
    let begun = match applied {
        Ok(()) => begin(&mut engine, &options.first).await,
        refused => refused,
    };
    let served = match begun {
        Ok(()) => {
            notify(NotifyState::Ready);
            info!(socket = %options.socket.display(), "serving");
            turn(&mut engine, jobs).await
        }
        Err(e) => Err(e),
    };
    notify(NotifyState::Stopping);
    let ended = engine.shut_down().context("ending");
    served.and(ended)
}

/// Opens the store; a daemon that was killed and is still ending is waited for. Errors: see [`OpenError`].
async fn open(path: &std::path::Path) -> Result<(Database, Model), OpenError> {
    for _ in 0..LOOKS {
        match store::open(path) {
            Err(OpenError::Busy) => tokio::time::sleep(LOOK).await,
            opened => return opened,
        }
    }
    Err(OpenError::Busy)
}

/// Makes the directory of a path, for this user only.
/// Errors: it cannot be made; it is there and others could put other files in the place of ours.
pub fn private_dir(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("directory {}", dir.display()))?;
    let meta = std::fs::metadata(dir)?;
    let owner = meta.uid();
    ensure!(
        owner == 0 || owner == nix::unistd::geteuid().as_raw(),
        "directory {} belongs to user {owner}; name a place of your own",
        dir.display()
    );
    // Where the sticky bit is set nobody can replace what is another's.
    ensure!(
        meta.mode() & 0o1002 != 0o002,
        "directory {} may be written by everybody; run `chmod o-w` on it, or name a place of your own",
        dir.display()
    );
    Ok(())
}

/// Makes the directory of a path for another user, whom the daemon is to become; one that is there stays as it is.
/// Errors: it cannot be made, or not be given away.
pub fn give_directory(path: &std::path::Path, owner: (Uid, Gid)) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) else {
        return Ok(());
    };
    // Not those above: he could not pass through what is root's alone.
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.with_context(|| format!("directory {}", dir.display()))?,
    }
    chown(dir, Some(owner.0), Some(owner.1)).with_context(|| format!("directory {}", dir.display()))
}

/// Tells the service manager; without one nobody is told.
fn notify(state: NotifyState<'_>) {
    match sd_notify::notify(&[state]) {
        Ok(()) => {}
        // `weft up --detach` waits for the first word only.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => warn!("telling the service manager: {e}"),
    }
}

/// Applies the file that the daemon was started with. Errors: the refusal, with its place in the file.
async fn apply<P: Plane>(engine: &mut Engine<P>, file: Option<&TopologyFile>) -> Result<()> {
    let Some(file) = file else {
        return Ok(());
    };
    let (answer, wait) = tokio::sync::oneshot::channel();
    let request = Request::Apply(Box::new(file.topology.clone()), false);
    engine.handle([Job { request, answer }]).await;
    match wait.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(problem)) => Err(file.point(&problem).into()),
        Err(_) => bail!("the switch is ending"),
    }
}

/// Does what the daemon was started for. Errors: the first refusal.
async fn begin<P: Plane>(engine: &mut Engine<P>, requests: &[Request]) -> Result<()> {
    for request in requests.iter().cloned() {
        let (answer, wait) = tokio::sync::oneshot::channel();
        engine.handle([Job { request, answer }]).await;
        let reply = wait.await.context("the switch is ending")?;
        tell(&reply?);
    }
    Ok(())
}

/// Logs what came of a request that nobody waits for.
fn tell(reply: &Reply) {
    if let Reply::Accepted(accepted) = reply {
        let peer = &accepted.peer;
        info!(peer = peer.name, networks = ?peer.networks, "invited");
        accepted.warnings.iter().for_each(|told| warn!("{told}"));
    } else if let Reply::Endpoint(made) = reply {
        info!(name = made.name, v4 = ?made.v4, v6 = ?made.v6, ifname = made.ifname, "connected");
        made.warnings.iter().for_each(|told| warn!("{told}"));
    }
}

/// Takes requests, events and signals until one of them ends it.
async fn turn<P: Plane>(engine: &mut Engine<P>, mut jobs: Receiver<Job>) -> Result<()> {
    let events = events_of(engine)?;
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut batch = Vec::new();
    while !engine.ending() {
        tokio::select! {
            // Events first: a request is to see a sandbox that has ended as ended.
            biased;
            _ = term.recv() => break,
            _ = int.recv() => break,
            ready = events.ready(Interest::READABLE) => {
                let mut ready = ready?;
                engine.events().await?;
                ready.clear_ready();
            }
            () = rest(engine.expires()) => engine.expire().await?,
            count = jobs.recv_many(&mut batch, TURN) => {
                if count == 0 {
                    break;
                }
                engine.handle(batch.drain(..)).await;
            }
        }
    }
    // Answers that were given must leave before the process does.
    tokio::time::sleep(LOOK).await;
    Ok(())
}

/// Rests for so many seconds, or for ever; not long at a time, as the clock that they are taken from may be set.
async fn rest(seconds: Option<u64>) {
    let Some(seconds) = seconds else {
        return std::future::pending().await;
    };
    tokio::time::sleep(Duration::from_secs(seconds).min(CLOCK)).await;
}

fn events_of<P: Plane>(engine: &Engine<P>) -> Result<AsyncFd<OwnedFd>> {
    let fd = engine.event_fd().as_fd().try_clone_to_owned()?;
    Ok(sys::watch(fd)?)
}

#[test]
fn a_place_that_everybody_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    for (mode, fine) in [(0o700, true), (0o775, true), (0o777, false), (0o1777, true)] {
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
        let result = private_dir(&dir.path().join("store"));
        assert_eq!(result.is_ok(), fine, "{mode:o}: {result:?}");
    }
}
