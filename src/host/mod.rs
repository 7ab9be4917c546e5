//! Namespaces, links, sockets of the host.
pub mod sockets;
