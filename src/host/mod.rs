//! Namespaces, links, sockets of the host.
pub mod broker;
pub mod broker_proto;
#[cfg(test)]
mod confined_tests;
mod end_watch;
mod etc;
pub mod fleet;
mod helper;
mod init;
pub mod link;
pub mod netlink;
mod netns;
pub mod netwatch;
pub mod privileges;
pub mod resolver;
mod sandbox;
mod serve;
pub mod sockets;
pub mod start;
mod sys;
#[cfg(test)]
mod testing;

/// The network namespace that the process is in, by no file that anyone has mounted.
pub const OWN_NET: &str = "/proc/self/ns/net";

/// Repeats a call that a signal has interrupted.
fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => {}
            result => return result,
        }
    }
}
