//! Probes of what the host's sockets can do, each by trying it on a socket that is closed at once.

use std::net::{Ipv4Addr, SocketAddr};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Check, set_sysctl, sysctl};
use crate::endpoint::udp::{BUFFER, PathMtu, UnderlaySocket};
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

/// The buffers of the sockets that other hosts send to.
pub(super) fn udp_buffers() -> Check {
    const NAME: &str = "udp buffers";
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let opened = UnderlaySocket::service(at, PathMtu::Probed);
    match opened.and_then(|socket| socket.buffers()) {
        Ok(held) => judge(NAME, held),
        Err(e) => Check::fail(NAME, format!("no UDP socket opens: {e}")),
    }
}

fn judge(name: &'static str, held: [usize; 2]) -> Check {
    let settings = ["net.core.rmem_max", "net.core.wmem_max"];
    let mut short = held
        .iter()
        .zip(settings)
        .filter(|(held, _)| **held < BUFFER);
    let Some((held, setting)) = short.next() else {
        let whole = format!("{} MB for what other hosts send, as wished", BUFFER >> 20);
        return Check::ok(name, whole);
    };
    let found = format!(
        "{} of {} KB, which is as much as {setting} allows",
        held >> 10,
        BUFFER >> 10
    );
    Check::warn(name, found)
        .cost("on overlays a burst of other hosts is dropped before weft sees it")
        .mend(match short.next() {
            Some((_, other)) => [setting, other]
                .map(|s| set_sysctl(s, &BUFFER.to_string()))
                .join("; "),
            None => set_sysctl(setting, &BUFFER.to_string()),
        })
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn small_buffers_are_named_with_what_mends_them() {
        assert_eq!(judge("b", [BUFFER, BUFFER]).status, Status::Ok);
        let small = judge("b", [212_992, BUFFER]);
        assert_eq!(small.status, Status::Warn);
        assert!(small.found.starts_with("208 of 8192 KB"), "{}", small.found);
        let mend = small.mend.unwrap();
        assert_eq!(mend, "sudo sysctl -w net.core.rmem_max=\"8388608\"");
        let both = judge("b", [212_992, 212_992]).mend.unwrap();
        assert!(
            both.contains("rmem_max") && both.contains("wmem_max"),
            "{both}"
        );
    }
}
