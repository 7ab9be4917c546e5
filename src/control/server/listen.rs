//! Listening: who may connect, and how many.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tracing::debug;

use super::timed::Timed;
use super::{PATIENCE, refusing};

/// Connections at once.
const CONNECTIONS: usize = 256;

/// How long who listens may take to answer whether it does.
const SILENCE: Duration = Duration::from_secs(1);
/// How often, and after how long each, it is looked whether one that hangs up has ended: for three seconds.
const LOOKS: u32 = 150;
const LOOK: Duration = Duration::from_millis(20);

/// A socket that listens.
#[derive(Debug)]
pub enum Listener {
    /// The API's.
    Unix(UnixListener),
    /// The metrics'.
    Tcp(TcpListener),
}

/// Listens at `path`, for this user only. A socket that nobody listens on any more is replaced.
/// Errors: `AddrInUse` when another process listens there, or the path is no socket; those of bind(2).
pub fn bind(path: &Path) -> io::Result<Listener> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            let message = "something is there that is no socket";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        Ok(_) => {
            if is_served(path) {
                let message = "another weft listens there";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
            }
            std::fs::remove_file(path)?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    // By the mask and not by chmod: there is no moment at which others could connect.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    Ok(Listener::Unix(listener?))
}

/// Whether somebody serves a socket. One that was killed may still be ending: it is waited for.
fn is_served(path: &Path) -> bool {
    for _ in 0..LOOKS {
        let Ok(mut stream) = std::os::unix::net::UnixStream::connect(path) else {
            return false;
        };
        let ask = b"GET /v1/info HTTP/1.1\r\nHost: weft\r\nConnection: close\r\n\r\n";
        let heard = stream
            .set_read_timeout(Some(SILENCE))
            .and_then(|()| stream.write_all(ask))
            .and_then(|()| stream.read(&mut [0; 1]));
        let over = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        match heard {
            Ok(0) => {}
            Err(e) if over.contains(&e.kind()) => {}
            // It answers; or it is there, and silent.
            Ok(_) | Err(_) => return true,
        }
        std::thread::sleep(LOOK);
    }
    true
}

/// Listens on a port of the host's loopback. Errors: those of bind(2).
pub async fn bind_metrics(port: u16) -> io::Result<Listener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    Ok(Listener::Tcp(listener))
}

impl Listener {
    /// Serves everyone who comes, for ever. Other users than this one and root are refused on the Unix socket.
    pub async fn serve(self, router: Router) {
        let mut seats = Seats::new();
        loop {
            let accepted = match &self {
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    let router = if trusted(&stream) {
                        router.clone()
                    } else {
                        refusing()
                    };
                    Client::Unix(stream, router)
                }),
                Self::Tcp(listener) => {
                    let accepted = listener.accept().await;
                    accepted.map(|(stream, _)| Client::Tcp(stream, router.clone()))
                }
            };
            match accepted {
                Ok(client) => seats.take(client).await,
                Err(e) => {
                    debug!("accepting: {e}");
                    // No descriptor is free: time frees one.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Who has just come, and what answers there.
enum Client {
    Unix(UnixStream, Router),
    Tcp(TcpStream, Router),
}

/// The connections. With all seats taken the first that is not being answered makes room, so that whoever opens
/// connections and asks nothing, or stops within a request, keeps nobody out; those that are being answered are waited for.
struct Seats {
    free: Arc<Semaphore>,
    /// In the order of their coming; some have ended.
    taken: VecDeque<Seat>,
}

struct Seat {
    busy: Busy,
    task: AbortHandle,
}

/// Whether a request of a connection is being answered: all of it has come, and not all of the answer has been made.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy(Arc<AtomicBool>);

impl Busy {
    pub(super) fn set(&self, busy: bool) {
        self.0.store(busy, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Seats {
    fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(CONNECTIONS)),
            taken: VecDeque::new(),
        }
    }

    async fn take(&mut self, client: Client) {
        self.taken.retain(|seat| !seat.task.is_finished());
        if self.free.available_permits() == 0 {
            let idle = |seat: &Seat| !seat.busy.get();
            let idle = self.taken.iter().position(idle);
            if let Some(seat) = idle.and_then(|at| self.taken.remove(at)) {
                seat.task.abort();
            }
        }
        // Never closed.
        let Ok(free) = Arc::clone(&self.free).acquire_owned().await else {
            return;
        };
        let busy = Busy::default();
        let mark = busy.clone();
        let task = match client {
            Client::Unix(stream, router) => tokio::spawn(connection(stream, router, mark, free)),
            Client::Tcp(stream, router) => tokio::spawn(connection(stream, router, mark, free)),
        };
        let task = task.abort_handle();
        self.taken.push_back(Seat { busy, task });
    }
}

/// True for this user and for root.
fn trusted(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    let peer = stream.peer_cred();
    peer.is_ok_and(|peer| may(own, peer.uid()))
}

const fn may(own: u32, peer: u32) -> bool {
    peer == own || peer == 0
}

async fn connection<S>(stream: S, router: Router, busy: Busy, seat: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Timed::new(stream, PATIENCE));
    let answers = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let (answers, busy) = (answers.clone(), busy.clone());
        // Set by who reads the body: until it is there nothing is being done.
        request.extensions_mut().insert(busy.clone());
        async move {
            let answer = answers.call(request).await;
            // To take it is the client's affair.
            busy.set(false);
            answer
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(io, service)
        .await;
    if let Err(e) = served {
        debug!("a client: {e}");
    }
    drop(seat);
}

#[test]
fn other_users_may_not() {
    assert!(may(1000, 1000) && may(1000, 0) && may(0, 0));
    assert!(!may(1000, 1001) && !may(0, 1000));
}

#[test]
fn one_that_is_ending_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let dying = std::os::unix::net::UnixListener::bind(&path).unwrap();
    // As of a process that is killed: what it had accepted or not is reset, then nobody listens.
    let end = std::thread::spawn(move || {
        for _ in 0..3 {
            drop(dying.accept().unwrap());
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { bind(&path).unwrap() });
    end.join().unwrap();
}
