//! What outlives a daemon: sandboxes, their interfaces, ports and routes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use crate::control::ids::EndpointId;
use crate::control::spec::{Sandbox, SandboxRef, Underlay};

/// What there is beside any daemon.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// This boot.
    pub(crate) boot: String,
    /// Namespaces that live.
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    /// Interfaces of ours, by inode of the namespace and name.
    pub(crate) interfaces: BTreeMap<(u64, String), EndpointId>,
    /// Ports of the host that another program has.
    pub(crate) taken: BTreeSet<u16>,
    /// What the host has routes to.
    pub(crate) routes: Vec<(IpAddr, u8)>,
    /// The time, in seconds.
    pub(crate) now: u64,
    /// The way to other hosts.
    pub(crate) underlay: Underlay,
}

impl World {
    /// A world with a boot of its own.
    pub(crate) fn new() -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            boot: "boot-1".to_owned(),
            underlay: Underlay {
                addr: Some([192, 0, 2, 1].into()),
                mtu: 1500,
            },
            ..Self::default()
        }))
    }

    /// Starts a process with a namespace.
    pub(crate) fn start(&mut self, pid: i32, start_time: u64, inode: u64) {
        let at = SandboxRef::Pid(pid);
        let sandbox = Sandbox {
            at: at.clone(),
            start_time: Some(start_time),
            netns: (4, inode),
        };
        self.sandboxes.insert(key(&at), sandbox);
    }

    /// Ends a process and its namespace.
    pub(crate) fn end(&mut self, pid: i32) {
        if let Some(ended) = self.sandboxes.remove(&key(&SandboxRef::Pid(pid))) {
            self.interfaces
                .retain(|(inode, _), _| *inode != ended.netns.1);
        }
    }
}

/// What a sandbox is found by.
pub(super) fn key(at: &SandboxRef) -> String {
    match at {
        SandboxRef::Pid(pid) => pid.to_string(),
        SandboxRef::Netns(path) => path.display().to_string(),
    }
}
