//! The demo passes on this machine, as whoever runs the tests and as an ordinary user, and leaves nothing behind.

use std::process::Command;

const STEPS: [&str; 9] = [
    "fetch a page from outside, IPv4",
    "fetch a page from outside, IPv6",
    "resolve a name",
    "ping the outside",
    "TCP to the outside at MTU 1500",
    "TCP from the outside at MTU 1500",
    "the host's loopback is closed",
    "the client's true address",
    "all 10 steps passed",
];

const ACROSS: [&str; 9] = [
    "'weft peer invite' on the first prints: weft peer add",
    "the hosts have met: up, a round trip of",
    "db is 10.9.",
    "ping it by its name",
    "a letter over TCP and back",
    "the letter is in none of them but the one that was sent in the clear",
    "TCP between the hosts, in the clear: ",
    "TCP over the encrypted network: ",
    "all 13 steps passed",
];

fn check(mut command: Command, steps: &[&str]) {
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}\n{errors}");
    for step in steps {
        assert!(
            text.contains(step),
            "'{step}' is missing in:\n{text}\n{errors}"
        );
    }
    assert!(!text.contains('✗'), "{text}");
}

#[test]
fn every_step_passes() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.arg("demo");
    check(command, &STEPS);
}

#[test]
fn every_step_passes_as_an_ordinary_user() {
    as_an_ordinary_user(&["demo"], &STEPS);
}

#[test]
fn every_step_passes_between_hosts() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(["demo", "--hosts", "2"]);
    check(command, &ACROSS);
}

#[test]
fn every_step_passes_between_hosts_as_an_ordinary_user() {
    as_an_ordinary_user(&["demo", "--hosts", "2"], &ACROSS);
}

fn as_an_ordinary_user(words: &[&str], steps: &[&str]) {
    if !nix::unistd::geteuid().is_root() {
        // The test above was it.
        return;
    }
    // The build's folder may be closed to others: the program is copied to where everyone may read.
    let folder = tempfile::Builder::new()
        .prefix("weft-demo")
        .tempdir_in("/tmp")
        .unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let copy = folder.path().join("weft");
    std::fs::copy(env!("CARGO_BIN_EXE_weft"), &copy).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&copy)
        .args(words)
        .current_dir("/");
    check(command, steps);
}
