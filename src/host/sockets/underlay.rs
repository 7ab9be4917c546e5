//! Stages 1 and 8: The sockets of the underlay among the others of a worker.

use std::io;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use switch_core::addr::PortId;

use super::HostIo;
use crate::endpoint::udp::UnderlaySocket;

impl HostIo {
    /// Polls a socket that other hosts send to, in the place of an endpoint. Errors: it cannot be.
    pub fn poll_underlay(&mut self, socket: &UnderlaySocket, place: PortId) -> io::Result<()> {
        let token = Token(place.0 as usize);
        self.registry
            .register(&mut SourceFd(&socket.fd()), token, Interest::READABLE)
    }

    /// Takes that back.
    pub fn forget_underlay(&mut self, socket: &UnderlaySocket) {
        // A descriptor that has others to the same file stays in epoll when it is closed.
        let _ = self.registry.deregister(&mut SourceFd(&socket.fd()));
    }

    /// Sends what waits for the end of the batch.
    pub fn flush_underlay(&mut self) {
        if let Some(underlay) = &mut self.underlay {
            underlay.flush();
        }
    }
}
