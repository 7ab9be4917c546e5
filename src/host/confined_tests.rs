//! Sandboxes where the machine refuses something: each test first confines itself in namespaces of its own.

use std::fs;
use std::path::Path;
use std::process;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::broker::{Broker, Event, SandboxSpec};
use super::testing::{alone, event, run, sh, spec};
use super::{etc, resolver};
use crate::endpoint::Kind;

const NONE: Option<&str> = None;

/// Goes into a user and a mount namespace as the root of the first.
fn confine() {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).unwrap();
    fs::write("/proc/self/setgroups", "deny").unwrap();
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
}

/// Puts a tmpfs with a resolv.conf of its own where /etc is, so that a test may change it.
fn own_etc() {
    let flags = MsFlags::empty();
    mount(Some("etc"), "/etc", Some("tmpfs"), flags, NONE).unwrap();
    fs::write(resolver::RESOLV_CONF, "nameserver 192.0.2.1\n").unwrap();
    fs::write("/etc/passwd", "root:x:0:0::/:/bin/sh\n").unwrap();
    fs::create_dir("/etc/sub").unwrap();
    fs::write("/etc/sub/file", "deep\n").unwrap();
    std::os::unix::fs::symlink("sub/file", "/etc/relative").unwrap();
}

#[test]
fn a_sandbox_inside_a_sandbox() {
    alone(|| {
        confine();
        assert_eq!(
            run(&spec(), "ip -6 addr show eth0 | grep -q fd87::2 && exit 6"),
            6
        );
    });
}

#[test]
fn without_a_new_proc_there_is_no_pid_namespace_and_still_nothing_is_left() {
    alone(|| {
        confine();
        // As container engines do: with part of /proc hidden the kernel refuses a whole one.
        mount(
            Some("mask"),
            "/proc/sys",
            Some("tmpfs"),
            MsFlags::empty(),
            NONE,
        )
        .unwrap();
        let mark = format!("{}.9", 40_000 + process::id());
        let script = format!("setsid sleep {mark} & test $$ -gt 20 && test -d /proc/$$ && exit 4");
        assert_eq!(run(&spec(), &script), 4);
        let wanted = format!("sleep\0{mark}\0");
        for task in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(task.path().join("cmdline")).unwrap_or_default();
            assert_ne!(line, wanted.as_bytes(), "{task:?}");
        }
    });
}

#[test]
fn the_sandboxs_resolver_survives_a_change_of_the_hosts() {
    alone(|| {
        confine();
        own_etc();
        let mut broker = Broker::spawn().unwrap();
        assert_eq!(broker.resolvers().servers[0].to_string(), "192.0.2.1:53");
        let _sandbox = broker.create(&spec()).unwrap();
        let go = tempfile::tempdir().unwrap();
        let mark = go.path().join("renamed");
        let script = format!(
            "until test -e {}; do sleep 0.02; done
            grep -q 'nameserver 10.87.9.1' /etc/resolv.conf && test $(cat /etc/relative) = deep",
            mark.display()
        );
        broker.start(&sh(&script)).unwrap();
        fs::write("/etc/new", "nameserver 192.0.2.2\n").unwrap();
        fs::rename("/etc/new", resolver::RESOLV_CONF).unwrap();
        let Event::Resolvers(now) = event(&mut broker) else {
            panic!("another event")
        };
        assert_eq!(now.servers[0].to_string(), "192.0.2.2:53");
        fs::write(&mark, "").unwrap();
        assert_eq!(event(&mut broker), Event::Exited(0));
    });
}

#[test]
fn links_stand_in_where_overlays_are_refused() {
    alone(|| {
        confine();
        own_etc();
        etc::link_etc(&[("resolv.conf", "nameserver 10.87.9.1\n".to_owned())]).unwrap();
        let read = |name: &str| fs::read_to_string(Path::new("/etc").join(name)).unwrap();
        assert_eq!(read("resolv.conf"), "nameserver 10.87.9.1\n");
        assert_eq!(read("relative"), "deep\n");
        assert!(read("passwd").starts_with("root"));
    });
}

#[test]
fn forbidden_user_namespaces_are_named_or_done_without() {
    alone(|| {
        confine();
        fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
        let mut broker = Broker::spawn().unwrap();
        let created = broker.create(&spec()).unwrap();
        assert!(created.warnings[0].contains("root inside is root outside"));
        drop(broker);
        caps::clear(None, caps::CapSet::Effective).unwrap();
        caps::clear(None, caps::CapSet::Permitted).unwrap();
        let mut broker = Broker::spawn().unwrap();
        let error = broker.create(&spec()).unwrap_err().to_string();
        assert!(
            error.contains("sysctl -w user.max_user_namespaces"),
            "{error}"
        );
        assert!(!error.contains('\n'), "{error}");
    });
}

#[test]
fn a_missing_tun_device_is_named() {
    alone(|| {
        confine();
        mount(
            Some("dev"),
            "/dev/net",
            Some("tmpfs"),
            MsFlags::empty(),
            NONE,
        )
        .unwrap();
        let mut broker = Broker::spawn().unwrap();
        let tap = SandboxSpec {
            kind: Some(Kind::Tap),
            ..spec()
        };
        let error = broker.create(&tap).unwrap_err().to_string();
        assert!(error.contains("modprobe tun"), "{error}");
        let any = Broker::spawn().unwrap().create(&spec()).unwrap();
        assert_eq!(any.opened.unwrap().how.kind, Kind::Packet);
        assert!(
            any.warnings[0].contains("/dev/net/tun"),
            "{:?}",
            any.warnings
        );
        // Where no TAP is wanted, none is needed.
        let none = SandboxSpec {
            network: super::broker::Network::None,
            ..spec()
        };
        broker.create(&none).unwrap();
    });
}
