//! Probes of the kernel, its settings and this process's limits, none of which need a namespace.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use nix::sys::resource::{Resource, getrlimit};

use super::{Check, set_sysctl, sysctl};
use crate::endpoint::tap;

/// The oldest kernel that weft is made for.
const OLDEST: (u32, u32) = (5, 15);
/// Fewer descriptors than this and a busy sandbox runs out: one is needed for each of its flows.
const DESCRIPTORS: u64 = 4096;

pub(super) fn kernel() -> Check {
    let release = sysctl("kernel.osrelease").unwrap_or_default();
    let (major, minor) = OLDEST;
    match version(&release) {
        Some(found) if found >= OLDEST => Check::ok("kernel", format!("Linux {release}")),
        Some(_) => Check::fail(
            "kernel",
            format!("Linux {release}, older than {major}.{minor}"),
        )
        .cost("system calls that weft needs are missing")
        .mend(format!("boot a kernel of {major}.{minor} or later")),
        None => Check::warn("kernel", format!("an unreadable release '{release}'")).cost(format!(
            "nobody knows whether it is {major}.{minor} or later"
        )),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

pub(super) fn tun_device() -> Check {
    const NAME: &str = "tun device";
    const COST: &str = "no sandbox can have an interface";
    let device = tap::DEVICE;
    let mode = match fs::metadata(device) {
        Ok(meta) => meta.permissions().mode() & 0o777,
        Err(e) => {
            return Check::fail(NAME, format!("{device}: {e}"))
                .cost(COST)
                .mend("sudo modprobe tun; for a container, start it with --device /dev/net/tun");
        }
    };
    match fs::File::options().read(true).write(true).open(device) {
        Ok(_) => Check::ok(NAME, format!("{device} opens, mode {mode:04o}")),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Check::fail(
            NAME,
            format!("{device} does not open for this user, mode {mode:04o}"),
        )
        .cost(COST)
        .mend(format!("sudo chmod 0666 {device}")),
        Err(e) => Check::fail(NAME, format!("{device}: {e}"))
            .cost(COST)
            .mend("sudo modprobe tun; for a container, start it with --device /dev/net/tun"),
    }
}

pub(super) fn low_ports() -> Check {
    const NAME: &str = "low ports";
    const SETTING: &str = "net.ipv4.ip_unprivileged_port_start";
    let start: u16 = sysctl(SETTING).and_then(|s| s.parse().ok()).unwrap_or(1024);
    let found = format!("{SETTING} is {start}");
    let privileged = caps::has_cap(
        None,
        caps::CapSet::Effective,
        caps::Capability::CAP_NET_BIND_SERVICE,
    );
    if start <= 1 || privileged.unwrap_or(false) {
        return Check::ok(
            NAME,
            format!("every port of the host can be published ({found})"),
        );
    }
    Check::warn(NAME, found)
        .cost(format!(
            "ports of the host below {start} cannot be published"
        ))
        .mend(set_sysctl(SETTING, "0"))
}

pub(super) fn congestion_control() -> Check {
    const NAME: &str = "congestion";
    const SETTING: &str = "net.ipv4.tcp_congestion_control";
    match sysctl(SETTING) {
        Some(name) if name == "bbr" => Check::note(NAME, "bbr, which paces what it sends")
            .cost("between namespaces of one host its pacing is measured, not weft")
            .mend(set_sysctl(SETTING, "cubic")),
        Some(name) => Check::ok(NAME, name),
        None => Check::note(NAME, "cannot be read"),
    }
}

pub(super) fn descriptors() -> Check {
    const NAME: &str = "descriptors";
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(e) => return Check::warn(NAME, format!("the limit cannot be read: {e}")),
    };
    // The soft limit is raised to the hard one at the start.
    let found = format!("{hard} at most, {soft} before weft raises it");
    if hard >= DESCRIPTORS {
        return Check::ok(NAME, found);
    }
    Check::warn(NAME, found)
        .cost("each flow and each published port needs one: new ones are refused beyond that")
        .mend("ulimit -Hn 65536 as root, or LimitNOFILE=65536 in the service's unit")
}

pub(super) fn ipv6() -> Check {
    const NAME: &str = "ipv6";
    let off = sysctl("net.ipv6.conf.all.disable_ipv6").is_none_or(|v| v == "1");
    if off {
        return Check::note(NAME, "switched off on this host")
            .cost("sandboxes have IPv6 among themselves only")
            .mend(set_sysctl("net.ipv6.conf.all.disable_ipv6", "0"));
    }
    let routes = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    if has_default_route(&routes) {
        Check::ok(NAME, "the host has a default route")
    } else {
        Check::note(NAME, "the host has no default route")
            .cost("sandboxes are told at once that the world has no IPv6")
    }
}

/// True if a default route leads out of a real interface. Source: net/ipv6/route.c, `rt6_info_route`: the kernel lists an
/// unreachable default on `lo` where there is none.
fn has_default_route(routes: &str) -> bool {
    routes.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let to_all = fields
            .first()
            .is_some_and(|to| to.bytes().all(|b| b == b'0'));
        to_all && fields.get(1) == Some(&"00") && fields.last() != Some(&"lo")
    })
}

pub(super) fn io_uring() -> Check {
    const NAME: &str = "io_uring";
    match sysctl("kernel.io_uring_disabled").as_deref() {
        Some("0") => Check::note(NAME, "allowed; weft does not use it"),
        Some(_) => Check::note(
            NAME,
            "forbidden by kernel.io_uring_disabled; weft does not use it",
        ),
        None => Check::note(
            NAME,
            "this kernel has no setting for it; weft does not use it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for (release, expected) in [
            ("6.18.44-fc-v657", Some((6, 18))),
            ("5.15.0-91-generic", Some((5, 15))),
            ("6.1", Some((6, 1))),
            ("7", None),
            ("", None),
            ("next", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn default_routes() {
        let zeros = "0".repeat(32);
        let line = |len: &str, dev: &str| {
            format!("{zeros} {len} {zeros} 00 {zeros} 00000400 1 0 0003 {dev}\n")
        };
        assert!(has_default_route(&line("00", "eth0")));
        assert!(!has_default_route(&line("00", "lo")));
        assert!(!has_default_route(&line("40", "eth0")));
        assert!(!has_default_route(""));
    }
}
