//! Ports of the host by the hundred: as many in one request as a message can carry descriptors.

use std::os::fd::OwnedFd;

use super::super::broker_proto::Failure;
use super::super::serve;
use super::Port;

/// Binds each port. Gives what kept it from being bound, and the sockets of the others in order.
pub(super) fn bind(ports: &[Port]) -> (Vec<Option<Failure>>, Vec<OwnedFd>) {
    let mut sockets = Vec::with_capacity(ports.len());
    let failures = ports.iter().map(|port| match serve::bind(*port) {
        Ok(socket) => {
            sockets.push(socket);
            None
        }
        Err(e) => Some(Failure::new(&e)),
    });
    (failures.collect(), sockets)
}
