//! What a switch needs of the host when it starts, whichever command starts it.

use socket2::Socket;

use super::broker::Broker;
use super::sockets::ping::PingSock;
pub use super::sys::random_seeds;

/// A raw ICMP socket where ping sockets are closed to us and the start context may open one.
#[must_use]
pub fn raw_icmp(broker: &mut Broker, v6: bool) -> Option<Socket> {
    if PingSock::open(v6).is_ok() {
        return None;
    }
    broker.raw_icmp(v6).ok().map(Socket::from)
}

/// The host's range of outgoing ports; the kernel's default where it cannot be read.
#[must_use]
pub fn local_port_range() -> (u16, u16) {
    let text =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|n| n.parse().ok());
    numbers
        .next()
        .zip(numbers.next())
        .unwrap_or((32_768, 60_999))
}

/// True where the host has IPv6; one that was booted without it has none to bind.
#[must_use]
pub fn has_v6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

/// The kernel's number of this boot; empty where it is not told.
#[must_use]
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.unwrap_or_default().trim().to_owned()
}
