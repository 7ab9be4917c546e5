//! Namespaces, links, sockets of the host.
pub mod link;
pub mod netlink;
pub mod netwatch;
pub mod privileges;
pub mod resolver;
pub mod sockets;
