//! Real clients that ask for addresses: dhclient, and the kernel itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::netns::Namespace;
use super::wait::{self, SOON};
use super::weft::Running;

/// Runs a real dhclient inside until it has a lease; returns the variables that it tells its script.
#[track_caller]
pub(crate) fn dhclient(net: &Namespace, family: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    // Written at once and then renamed, so that it is never read half.
    let script = format!("#!/bin/sh\nenv >{0}.$$; mv {0}.$$ {0}.$reason\n", at("got"));
    fs::write(at("script"), script).unwrap();
    fs::set_permissions(at("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let request = "also request interface-mtu, domain-search, rfc3442-classless-static-routes;";
    let request = if family == "-4" { request } else { "" };
    let option = "option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;";
    fs::write(at("conf"), format!("{option}\n{request}\n")).unwrap();
    fs::write(at("leases"), "").unwrap();
    let mut command = Command::new("dhclient");
    command.args([
        family,
        "-1",
        "-d",
        "-cf",
        &at("conf"),
        "-lf",
        &at("leases"),
        "--no-pid",
    ]);
    command.args(["-sf", &at("script"), "-e", "PATH=/usr/bin:/bin", "eth0"]);
    let mut running = Running::start(net, &mut command);
    let bound = at(if family == "-4" {
        "got.BOUND"
    } else {
        "got.BOUND6"
    });
    wait::value("a lease", SOON, || {
        assert!(
            !running.has_ended(),
            "dhclient ended: {:?}",
            running.end(SOON)
        );
        fs::read_to_string(&bound).ok()
    })
}

/// Makes the kernel configure eth0 from router advertisements, as a fresh host does.
pub(crate) fn autoconfigure(net: &Namespace) {
    // The kernel's defaults, which weft has replaced because it sets the addresses itself.
    for (key, value) in [
        ("accept_ra", "2"),
        ("autoconf", "1"),
        ("accept_ra_defrtr", "1"),
        ("router_solicitations", "-1"),
    ] {
        net.set(&format!("net/ipv6/conf/eth0/{key}"), value);
    }
    // Coming up makes the kernel solicit.
    net.ip("link set eth0 down");
    net.ip("addr flush dev eth0 scope global");
    net.ip("link set eth0 up");
}
