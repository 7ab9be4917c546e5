//! What the process gives up once everything is open: capabilities, uid 0 on request, and the way back to either.

use std::fs;

use anyhow::{Context, Result};
use caps::{CapSet, Capability};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, User, geteuid, getgid, setgroups, setresgid, setresuid};

/// Raises the limit of open descriptors to its hard limit and gives that number.
/// Errors: those of setrlimit(2).
pub fn raise_descriptor_limit() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        .with_context(|| format!("cannot raise the limit of open files to {hard}"))?;
    Ok(hard)
}

/// Drops every capability for good, becomes `user` (a name or a number) when one is given, and sets no_new_privs.
/// To be called before any thread is started: all of it is per thread.
/// Errors: an unknown user; `user` without being root; a refusal of the kernel.
pub fn lock_down(user: Option<&str>) -> Result<()> {
    let target = user.map(find_user).transpose()?;
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        caps::clear(None, CapSet::Bounding).context("cannot empty the capability bounding set")?;
    }
    if let Some((uid, gid)) = target {
        become_user(uid, gid)?;
    }
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set).with_context(|| format!("cannot drop capabilities ({set:?})"))?;
    }
    prctl::set_no_new_privs().context("cannot set no_new_privs")?;
    Ok(())
}

/// The ids of a user, by name or number. Errors: there is none of that name.
pub fn find_user(user: &str) -> Result<(Uid, Gid)> {
    if let Ok(number) = user.parse() {
        let uid = Uid::from_raw(number);
        let known = User::from_uid(uid)?;
        return Ok((uid, known.map_or_else(|| Gid::from_raw(number), |u| u.gid)));
    }
    let known = User::from_name(user)?
        .with_context(|| format!("--user {user}: there is no such user; see `getent passwd`"))?;
    Ok((known.uid, known.gid))
}

fn become_user(uid: Uid, gid: Gid) -> Result<()> {
    if geteuid() == uid && getgid() == gid {
        return Ok(());
    }
    let refused = || format!("cannot become user {uid}: only root can; leave --user away");
    setgroups(&[gid]).with_context(refused)?;
    setresgid(gid, gid, gid).with_context(refused)?;
    setresuid(uid, uid, uid).with_context(refused)?;
    Ok(())
}

/// The capabilities of this thread that are in force, as the kernel shows them; for `doctor` and for tests.
/// Errors: /proc is not readable.
pub fn effective_mask() -> Result<u64> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .context("/proc/thread-self/status has no CapEff line")?;
    Ok(u64::from_str_radix(mask.trim(), 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Capabilities are per thread, and libtest gives this test a thread of its own.
    #[test]
    fn nothing_is_left() {
        let result = std::thread::spawn(|| {
            lock_down(None).unwrap();
            assert!(prctl::get_no_new_privs().unwrap());
            effective_mask().unwrap()
        });
        assert_eq!(result.join().unwrap(), 0);
    }

    #[test]
    fn an_unknown_user_is_named() {
        let error = lock_down(Some("no-such-user-here")).unwrap_err();
        assert!(error.to_string().contains("no-such-user-here"));
    }
}
