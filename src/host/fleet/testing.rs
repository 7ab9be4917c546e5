//! Sandboxes for tests: processes that hold namespaces and do nothing.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pause};
use switch_core::addr::Mac;

use super::super::broker::{Broker, Target};
use super::super::{netns, sys};
use super::{DefaultRoute, LinkSpec, OldLink, SandboxId};

/// A process with namespaces of its own, which ends with the test.
pub(super) struct Holder(pub(super) Pid, bool);

impl Holder {
    /// `user`: with a user namespace too, as anyone but root needs it.
    pub(super) fn new(user: bool) -> Self {
        let mut flags = CloneFlags::CLONE_NEWNET;
        if user {
            flags |= CloneFlags::CLONE_NEWUSER;
        }
        let pid = sys::fork_child_in(flags, || {
            let _ = prctl::set_pdeathsig(Signal::SIGKILL);
            loop {
                pause();
            }
        })
        .unwrap();
        if user {
            netns::write_maps(pid, false).unwrap();
        }
        Self(pid, user)
    }

    pub(super) fn target(&self) -> Target {
        Target::Pid(self.0.as_raw())
    }

    pub(super) fn end(&self) {
        kill(self.0, Signal::SIGKILL).unwrap();
        waitpid(self.0, None).unwrap();
    }

    /// What a script says inside.
    pub(super) fn sh(&self, script: &str) -> String {
        let pid = self.0.to_string();
        let output = Command::new("nsenter")
            .args(["--preserve-credentials", "-n", "-t", &pid])
            .args(self.1.then_some("-U"))
            .args(["sh", "-c", script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(super) fn has(&self, ifname: &str) -> bool {
        let links = fs::read_to_string(format!("/proc/{}/net/dev", self.0)).unwrap();
        links.contains(&format!("{ifname}:"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if kill(self.0, Signal::SIGKILL).is_ok() {
            let _ = waitpid(self.0, None);
        }
    }
}

pub(super) fn link_spec(endpoint: u32) -> LinkSpec {
    let low = u8::try_from(endpoint % 250 + 2).unwrap();
    LinkSpec {
        endpoint,
        mac: Mac([2, 0, 0, 0, 1, low]),
        mtu: 1400,
        addresses: vec![
            (Ipv4Addr::new(10, 87, 9, low).into(), 24),
            (format!("fd87::{low:x}").parse().unwrap(), 64),
        ],
        default_route: DefaultRoute {
            gateways: vec![
                Ipv4Addr::new(10, 87, 9, 1).into(),
                "fd87::1".parse().unwrap(),
            ],
            metric: Some(50),
        },
        ..LinkSpec::default()
    }
}

pub(super) fn joined(broker: &mut Broker, holder: &Holder) -> SandboxId {
    let identity = broker.identify(&holder.target()).unwrap();
    broker.join(&identity).unwrap()
}

pub(super) fn old(sandbox: SandboxId, ifname: &str, endpoint: u32) -> OldLink {
    OldLink {
        sandbox,
        ifname: ifname.to_owned(),
        endpoint,
    }
}
