//! Probes of what the host's sockets can do, each by trying it on a socket that is closed at once.

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Check, set_sysctl, sysctl};
use crate::host::sockets::tcp::{PeekMode, probe_peek};

pub(super) fn ping() -> Check {
    const NAME: &str = "ping";
    const SETTING: &str = "net.ipv4.ping_group_range";
    let open = |domain, kind, protocol| Socket::new(domain, kind, Some(protocol)).is_ok();
    let both = |kind| {
        (
            open(Domain::IPV4, kind, Protocol::ICMPV4),
            open(Domain::IPV6, kind, Protocol::ICMPV6),
        )
    };
    let range = sysctl(SETTING).unwrap_or_default().replace('\t', " ");
    match both(Type::DGRAM) {
        (true, true) => {
            return Check::ok(NAME, format!("ping sockets open ({SETTING} is {range})"));
        }
        (true, false) => return Check::note(NAME, "ping sockets open for IPv4 only"),
        (false, _) => {}
    }
    if both(Type::RAW).0 {
        return Check::ok(NAME, "raw sockets open; ping sockets are not needed");
    }
    Check::warn(
        NAME,
        format!("ping sockets are refused ({SETTING} is {range})"),
    )
    .cost("a ping to the outside is answered with \"unreachable\"")
    .mend(set_sysctl(SETTING, "0 2147483647"))
}

pub(super) fn peek_offset() -> Check {
    const NAME: &str = "tcp peek";
    const COST: &str =
        "data towards the sandbox is copied once more, and kept in memory until it is acknowledged";
    let has = |v6| matches!(probe_peek(v6), PeekMode::Offset);
    match (has(false), has(true)) {
        (true, true) => Check::ok(NAME, "SO_PEEK_OFF works on TCP, IPv4 and IPv6"),
        (true, false) => Check::note(NAME, "SO_PEEK_OFF works on TCP over IPv4 only").cost(COST),
        (false, true) => Check::note(NAME, "SO_PEEK_OFF works on TCP over IPv6 only").cost(COST),
        (false, false) => Check::note(NAME, "SO_PEEK_OFF does not work on TCP")
            .cost(COST)
            .mend("boot a kernel of 6.9 or later"),
    }
}

pub(super) fn udp_batches() -> Check {
    const NAME: &str = "udp batches";
    let socket = match Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)) {
        Ok(socket) => socket,
        Err(e) => return Check::fail(NAME, format!("no UDP socket opens: {e}")),
    };
    let send = setsockopt(&socket, sockopt::UdpGsoSegment, &1000).is_ok();
    let receive = setsockopt(&socket, sockopt::UdpGroSegment, &true).is_ok();
    let found = match (send, receive) {
        (true, true) => return Check::ok(NAME, "UDP_SEGMENT and UDP_GRO work"),
        (true, false) => "UDP_GRO is refused",
        (false, true) => "UDP_SEGMENT is refused",
        (false, false) => "UDP_SEGMENT and UDP_GRO are refused",
    };
    Check::warn(NAME, found).cost("one system call for each datagram")
}
