//! Probes that need namespaces: made in a child process that ends, so that nothing is left behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use serde::{Deserialize, Serialize};

use super::{Check, set_sysctl, sysctl};
use crate::endpoint::tap::{Tap, TapCaps, TapOptions};

/// How one step went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Step<T> {
    #[default]
    NotTried,
    Done(T),
    Failed(String),
}

impl<T> Step<T> {
    fn of(result: Result<T>) -> Self {
        match result {
            Ok(value) => Self::Done(value),
            Err(e) => Self::Failed(format!("{e:#}")),
        }
    }

    const fn done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

/// What the child found, in the order of its steps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Found {
    /// A user namespace, and becoming root in it.
    user: Step<()>,
    /// A network and a mount namespace.
    inner: Step<()>,
    /// A TAP.
    tap: Step<TapCaps>,
    /// An overlay on top of /etc.
    overlay: Step<()>,
}

/// Takes the steps in this process, which must end afterwards: it has left the host's namespaces.
pub(super) fn probe() -> Found {
    let mut found = Found {
        user: Step::of(enter_user()),
        ..Found::default()
    };
    // Where user namespaces are forbidden, root goes on without one; so does the program itself.
    let both = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    found.inner = Step::of(unshare(both).context("unshare"));
    if !found.inner.done() {
        return found;
    }
    found.tap = Step::of(
        Tap::open("weft-probe", &TapOptions::default())
            .map(|t| t.caps)
            .map_err(Into::into),
    );
    found.overlay = Step::of(overlay());
    found
}

fn enter_user() -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).context("unshare")?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(Path::new("/proc/self").join(file), text)
            .with_context(|| format!("writing {file}"))?;
    }
    Ok(())
}

/// Lays an overlay over /etc as a sandbox does: with its layers on a tmpfs, in a mount namespace that nobody else sees.
fn overlay() -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("making mounts private")?;
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), none).context("tmpfs")?;
    fs::create_dir("/tmp/upper")?;
    fs::create_dir("/tmp/work")?;
    let layers = "lowerdir=/etc,upperdir=/tmp/upper,workdir=/tmp/work";
    let with_attributes = format!("{layers},userxattr");
    let lay = |options: &str| {
        mount(
            Some("overlay"),
            "/etc",
            Some("overlay"),
            MsFlags::empty(),
            Some(options),
        )
    };
    lay(&with_attributes)
        .or_else(|_| lay(layers))
        .context("overlay")
}

/// Has a child take the steps. A child that cannot be started or understood counts as a failed first step.
pub(super) fn probe_in_child() -> Found {
    let ask = || -> Result<Found> {
        let output = Command::new("/proc/self/exe")
            .args(["doctor", "--probe-namespace"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .context("starting the probe")?;
        ensure!(
            output.status.success(),
            "the probe ended with {}",
            output.status
        );
        serde_json::from_slice(&output.stdout).context("reading the probe's report")
    };
    ask().unwrap_or_else(|e| {
        let failed = Step::Failed(format!("{e:#}"));
        Found {
            user: failed.clone(),
            inner: failed,
            ..Found::default()
        }
    })
}

pub(super) fn checks(found: &Found) -> Vec<Check> {
    vec![
        user(found),
        interface(found),
        udp_offload(found),
        etc(found),
    ]
}

fn user(found: &Found) -> Check {
    const NAME: &str = "namespaces";
    const COST: &str = "no sandbox can be made";
    match (&found.user, &found.inner) {
        (Step::Done(()), Step::Done(())) => {
            Check::ok(NAME, "user, network and mount namespaces can be made")
        }
        (Step::Failed(why), Step::Done(())) => Check::warn(
            NAME,
            format!("only root can make them: user namespaces are refused ({why})"),
        )
        .cost("ordinary users cannot run weft, and root runs it without a user namespace")
        .mend(permit()),
        (Step::Failed(why), _) => Check::fail(NAME, format!("user namespaces are refused ({why})"))
            .cost(COST)
            .mend(permit()),
        // AppArmor lets the user namespace be made and then takes every right in it away.
        (Step::Done(()) | Step::NotTried, Step::Failed(why)) => {
            Check::fail(NAME, format!("a user namespace gives no rights ({why})"))
                .cost(COST)
                .mend(permit())
        }
        (Step::Done(()) | Step::NotTried, Step::NotTried) | (Step::NotTried, Step::Done(())) => {
            Check::fail(NAME, "the probe did not come to an end").cost(COST)
        }
    }
}

/// Finds the setting that forbids namespaces.
fn permit() -> String {
    let is = |name: &str, value: &str| sysctl(name).is_some_and(|v| v == value);
    for (name, bad, good) in [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "15000"),
        ("user.max_net_namespaces", "0", "15000"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ] {
        if is(name, bad) {
            return set_sysctl(name, good);
        }
    }
    "run weft as root; for a container, start it with --privileged or with a seccomp profile that allows unshare".to_owned()
}

fn interface(found: &Found) -> Check {
    const NAME: &str = "tap";
    const COST: &str = "throughput at MTU 1500 falls to that of single packets";
    match &found.tap {
        Step::Done(caps) if caps.tso() => Check::ok(NAME, "takes checksum and TCP offload"),
        Step::Done(caps) if caps.csum() => {
            Check::warn(NAME, "takes checksum offload, but no TCP super-frames").cost(COST)
        }
        Step::Done(_) => Check::warn(NAME, "takes no offload")
            .cost(COST)
            .mend("boot a kernel whose TUN driver has virtio headers"),
        Step::Failed(why) => Check::fail(NAME, format!("cannot be made: {why}"))
            .cost("no sandbox can have an interface"),
        Step::NotTried => Check::fail(NAME, "cannot be tried without namespaces")
            .cost("no sandbox can have an interface"),
    }
}

fn udp_offload(found: &Found) -> Check {
    const NAME: &str = "tap udp";
    match &found.tap {
        Step::Done(caps) if caps.uso() => Check::ok(NAME, "takes UDP offload"),
        Step::Done(_) => Check::note(NAME, "takes no UDP offload")
            .cost("one system call for each datagram of a sandbox")
            .mend("boot a kernel of 6.2 or later"),
        Step::Failed(_) | Step::NotTried => Check::note(NAME, "not tried"),
    }
}

fn etc(found: &Found) -> Check {
    const NAME: &str = "overlay";
    match &found.overlay {
        Step::Done(()) => Check::ok(NAME, "/etc can be overlaid inside a sandbox"),
        Step::Failed(why) => Check::warn(NAME, format!("/etc cannot be overlaid ({why})"))
            .cost("a sandbox gets links to the host's files in /etc, and does not see ones added later")
            .mend("sudo modprobe overlay"),
        Step::NotTried => Check::note(NAME, "not tried"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn failed<T>() -> Step<T> {
        Step::Failed("EPERM".into())
    }

    #[test]
    fn the_report_of_the_child_survives_the_pipe() {
        let found = Found {
            user: Step::Done(()),
            inner: Step::Done(()),
            tap: Step::Done(TapCaps {
                vnet: true,
                offload: 0x6f,
            }),
            overlay: failed(),
        };
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Found>(&text).unwrap(), found);
    }

    #[test]
    fn what_stops_weft_and_what_does_not() {
        let worst = |found: &Found| checks(found).iter().map(|c| c.status).max().unwrap();
        let good = Found {
            user: Step::Done(()),
            inner: Step::Done(()),
            tap: Step::Done(TapCaps {
                vnet: true,
                offload: 0x6f,
            }),
            overlay: Step::Done(()),
        };
        assert_eq!(worst(&good), Status::Ok);
        assert_eq!(
            worst(&Found {
                user: failed(),
                ..good.clone()
            }),
            Status::Warn
        );
        assert_eq!(
            worst(&Found {
                overlay: failed(),
                ..good.clone()
            }),
            Status::Warn
        );
        let old = Step::Done(TapCaps {
            vnet: true,
            offload: 0x0f,
        });
        assert_eq!(
            worst(&Found {
                tap: old,
                ..good.clone()
            }),
            Status::Note
        );
        assert_eq!(
            worst(&Found {
                tap: Step::Done(TapCaps::default()),
                ..good.clone()
            }),
            Status::Warn
        );
        assert_eq!(
            worst(&Found {
                tap: failed(),
                ..good
            }),
            Status::Fail
        );
        assert_eq!(
            worst(&Found {
                user: failed(),
                inner: failed(),
                ..Found::default()
            }),
            Status::Fail
        );
        assert_eq!(
            worst(&Found {
                user: Step::Done(()),
                inner: failed(),
                ..Found::default()
            }),
            Status::Fail
        );
        assert_eq!(worst(&Found::default()), Status::Fail);
    }
}
