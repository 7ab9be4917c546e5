//! Making namespaces and joining those that exist. Runs in a helper: a process of one thread that stays inside.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid};

use super::broker_proto::{Network, Target};
use super::end_watch::EndWatch;
use super::sys;

/// Makes a user namespace. Gives `false` where none may be made but none is needed: a root who keeps his rights.
/// Errors: one line that names the setting which forbids it.
pub(super) fn make_user() -> Result<bool> {
    match unshare(CloneFlags::CLONE_NEWUSER) {
        Ok(()) => Ok(true),
        Err(_) if may_administer() => Ok(false),
        Err(e) => Err(anyhow!(
            "user namespaces are refused here ({}): {}",
            e.desc(),
            user_namespace_advice()
        )),
    }
}

/// Makes the network namespace, unless the host's is to be used, and a UTS namespace.
/// Errors: one line that names the setting which forbids it.
pub(super) fn make_inner(network: Network) -> Result<()> {
    let mut flags = CloneFlags::CLONE_NEWUTS;
    if network != Network::Host {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(|e| {
        anyhow!(
            "a network namespace is refused here ({}): {}",
            e.desc(),
            user_namespace_advice()
        )
    })
}

fn may_administer() -> bool {
    caps::has_cap(
        None,
        caps::CapSet::Effective,
        caps::Capability::CAP_SYS_ADMIN,
    )
    .unwrap_or(false)
}

/// Finds the setting that forbids user namespaces and says how to change it.
fn user_namespace_advice() -> String {
    let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|v| v.trim() == value);
    let set =
        |name: &str, value: &str| format!("run `sudo sysctl -w {name}={value}`, or weft as root");
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        set("kernel.unprivileged_userns_clone", "1")
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        set("user.max_user_namespaces", "15000")
    } else if is("/proc/sys/user/max_net_namespaces", "0") {
        set("user.max_net_namespaces", "15000")
    } else if is(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        set("kernel.apparmor_restrict_unprivileged_userns", "0")
    } else {
        "if this is a container, start it with --privileged or with a seccomp profile that allows \
         unshare; otherwise run weft as root"
            .to_owned()
    }
}

/// Writes the maps of the user namespace of `child`. Runs in the broker, which has stayed outside.
/// Root gets every id as itself; another caller becomes root inside, or with `keep_id` itself.
/// Errors: those of the files below /proc/PID.
pub(super) fn write_maps(child: Pid, keep_id: bool) -> Result<()> {
    let path = |file: &str| PathBuf::from(format!("/proc/{child}/{file}"));
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        let whole = |own: &str, file: &str| -> io::Result<()> {
            fs::write(path(file), identity(&fs::read_to_string(own)?))
        };
        // In a container root may lack the right to map more than itself: then one id has to do.
        if whole("/proc/self/uid_map", "uid_map").is_ok() {
            return whole("/proc/self/gid_map", "gid_map")
                .with_context(|| format!("cannot write {}", path("gid_map").display()));
        }
    }
    let (inner_uid, inner_gid) = if keep_id {
        (uid, gid)
    } else {
        (Uid::from_raw(0), Gid::from_raw(0))
    };
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{inner_uid} {uid} 1\n")),
        ("gid_map", format!("{inner_gid} {gid} 1\n")),
    ] {
        let file = path(file);
        fs::write(&file, text).with_context(|| {
            format!(
                "cannot write {}: {}",
                file.display(),
                user_namespace_advice()
            )
        })?;
    }
    Ok(())
}

/// Maps every id of a map's inner side to itself. Source: user_namespaces(7).
fn identity(map: &str) -> String {
    let lines = map.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let inner = words.next()?;
        let count = words.nth(1)?;
        Some(format!("{inner} {inner} {count}\n"))
    });
    lines.collect()
}

/// Joins the network namespace of `target`, and before it the user namespace that owns it.
/// Gives what to watch for its end.
/// Errors: one line: no such process or file, not a network namespace, or another user's.
pub(super) fn join(target: &Target) -> Result<EndWatch> {
    let (path, what) = match target {
        Target::Pid(pid) => (
            PathBuf::from(format!("/proc/{pid}/ns/net")),
            format!("the network namespace of process {pid}"),
        ),
        Target::Path(path) => (
            path.clone(),
            format!("the network namespace {}", path.display()),
        ),
    };
    // The process is held before its files are opened, so that they are not another's of the same number.
    let by_pid = match target {
        Target::Pid(pid) => {
            Some(EndWatch::process(Pid::from_raw(*pid)).map_err(|e| explain(&e, &what))?)
        }
        Target::Path(_) => None,
    };
    let net = File::open(&path).map_err(|e| explain(&e, &what))?;
    if !sys::is_network_namespace(net.as_fd()) {
        bail!(
            "{} is not a network namespace: name a PID or a file like those below /run/netns or \
             /proc/PID/ns/net",
            path.display()
        );
    }
    let watch = match by_pid {
        Some(watch) => watch,
        None => EndWatch::path(&path, &net)?,
    };
    if watch.has_ended() {
        return Err(explain(&io::Error::from_raw_os_error(libc::ESRCH), &what));
    }
    let owner = sys::owner_of(net.as_fd()).map_err(|e| explain(&e, &what))?;
    let own = File::open("/proc/self/ns/user").context("cannot open /proc/self/ns/user")?;
    // The kernel refuses to join the namespace that one is in.
    if !sys::same_file(&owner, &own)? {
        setns(&owner, CloneFlags::CLONE_NEWUSER).map_err(|e| explain(&e.into(), &what))?;
    }
    setns(&net, CloneFlags::CLONE_NEWNET).map_err(|e| explain(&e.into(), &what))?;
    Ok(watch)
}

fn explain(error: &io::Error, what: &str) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            anyhow!(
                "cannot join {what}: it belongs to another user; run weft as that user or as root"
            )
        }
        Some(libc::ESRCH | libc::ENOENT | libc::EINVAL) => {
            anyhow!("cannot join {what}: there is none; see `lsns -t net`")
        }
        _ => anyhow!("cannot join {what}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_keeps_what_a_container_has() {
        assert_eq!(
            identity("         0          0 4294967295\n"),
            "0 0 4294967295\n"
        );
        assert_eq!(identity("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
        assert_eq!(identity(""), "");
    }

    #[test]
    fn targets_that_are_none() {
        let error = join(&Target::Pid(i32::MAX)).unwrap_err().to_string();
        assert!(error.contains("there is none"), "{error}");
        let error = join(&Target::Path("/etc/passwd".into()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("is not a network namespace"), "{error}");
        let error = join(&Target::Path("/run/no/such".into()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("there is none"), "{error}");
    }
}
