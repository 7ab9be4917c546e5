//! Listening: who may connect, and how many.

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::debug;

use super::timed::Timed;
use super::{PATIENCE, refusing};

/// Connections at once.
const CONNECTIONS: usize = 256;

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
            let message = format!("{} is there and is no socket", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        Ok(_) => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                let message = format!("another weft listens on {}", path.display());
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

/// Listens on a port of the host's loopback. Errors: those of bind(2).
pub async fn bind_metrics(port: u16) -> io::Result<Listener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    Ok(Listener::Tcp(listener))
}

impl Listener {
    /// Serves everyone who comes, for ever. Other users than this one and root are refused on the Unix socket.
    pub async fn serve(self, router: Router) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // Past the limit connections wait in the kernel's queue, and those past that are refused by it.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let accepted = match &self {
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    let router = if trusted(&stream) {
                        router.clone()
                    } else {
                        refusing()
                    };
                    tokio::spawn(connection(stream, router, slot))
                }),
                Self::Tcp(listener) => listener
                    .accept()
                    .await
                    .map(|(stream, _)| tokio::spawn(connection(stream, router.clone(), slot))),
            };
            if let Err(e) = accepted {
                debug!("accepting: {e}");
                // No descriptor is free: time frees one.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
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

async fn connection<S>(stream: S, router: Router, slot: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Timed::new(stream, PATIENCE));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(io, TowerToHyperService::new(router))
        .await;
    if let Err(e) = served {
        debug!("a client: {e}");
    }
    drop(slot);
}

#[test]
fn other_users_may_not() {
    assert!(may(1000, 1000) && may(1000, 0) && may(0, 0));
    assert!(!may(1000, 1001) && !may(0, 1000));
}
