//! For tests against the kernel, as root and as an ordinary user: each runs again in a process of its own, and there in a
//! forked child, because the broker forks from a process of one thread and libtest always has two.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt;
use std::process;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::waitpid;
use nix::unistd::geteuid;

use super::broker::{Address, Broker, Command, Event, SandboxSpec};
use super::sys;

const AGAIN: &str = "WEFT_TEST_AGAIN";

/// An id that no account needs to have.
const ORDINARY: u32 = 61_234;

/// The child process that runs the test's body: this very program, one thread, one test.
pub(super) fn again(uid: Option<u32>) -> process::Command {
    let mut command = process::Command::new(std::env::current_exe().unwrap());
    // libtest names the thread of a test after it.
    let name = std::thread::current().name().unwrap().to_owned();
    command
        .args([&name, "--exact", "--nocapture", "--test-threads=1"])
        .env(AGAIN, "1");
    command.current_dir("/");
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command
}

/// Runs `body` in a process of its own: as the caller, and when that is root as an ordinary user too.
pub(super) fn alone(body: impl FnOnce()) {
    if std::env::var_os(AGAIN).is_some() {
        return forked(body);
    }
    let users = if geteuid().is_root() {
        vec![None, Some(ORDINARY)]
    } else {
        vec![None]
    };
    for uid in users {
        let output = again(uid).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let passed = output.status.success() && text.contains("1 passed");
        assert!(passed, "as {uid:?}:\n{text}\n{errors}");
    }
}

/// Runs `body` in a child of one thread. The other thread of this process only waits for the test.
pub(super) fn forked(body: impl FnOnce()) {
    let child = sys::fork_child_in(nix::sched::CloneFlags::empty(), || {
        body();
        0
    });
    let how = waitpid(child.unwrap(), None).unwrap();
    assert!(
        matches!(how, nix::sys::wait::WaitStatus::Exited(_, 0)),
        "{how:?}"
    );
}

pub(super) fn spec() -> SandboxSpec {
    SandboxSpec {
        hostname: "box".to_owned(),
        v4: Some(Address {
            addr: Ipv4Addr::new(10, 87, 9, 2),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 87, 9, 1),
        }),
        v6: Some(Address {
            addr: "fd87::2".parse().unwrap(),
            prefix: 64,
            gateway: "fd87::1".parse::<Ipv6Addr>().unwrap(),
        }),
        dns: vec![Ipv4Addr::new(10, 87, 9, 1).into()],
        search: vec!["weft.example".to_owned()],
        ..SandboxSpec::default()
    }
}

pub(super) fn sh(script: &str) -> Command {
    Command {
        argv: ["sh", "-c", script].map(Into::into).to_vec(),
    }
}

/// Waits for an event; half a minute is an age, on a busy machine too.
pub(super) fn event(broker: &mut Broker) -> Event {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if let Some(event) = broker.next_event() {
            return event;
        }
        let fd = broker.fd().unwrap();
        poll(
            &mut [PollFd::new(fd, PollFlags::POLLIN)],
            PollTimeout::from(1000_u16),
        )
        .unwrap();
    }
    panic!("no event came");
}

pub(super) fn run(spec: &SandboxSpec, script: &str) -> i32 {
    let mut broker = Broker::spawn().unwrap();
    let _sandbox = broker.create(spec).unwrap();
    broker.start(&sh(script)).unwrap();
    let told = event(&mut broker);
    let Event::Exited(status) = told else {
        panic!("{told:?}")
    };
    status
}

pub(super) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
