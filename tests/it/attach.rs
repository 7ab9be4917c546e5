//! `weft attach`: the same for a namespace that exists.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use crate::support::netns::{self, Namespace, OUTSIDE, World};
use crate::support::wait::{self, SOON};
use crate::support::weft::{Running, Sandbox, find, json};
use crate::support::{guest, servers};

/// A process with namespaces of its own, that weft did not make.
fn stranger(at: &Namespace) -> (Running, u32) {
    let mut command = Command::new("unshare");
    command.args([
        "--user",
        "--map-root-user",
        "--net",
        "--",
        "sleep",
        "2000001",
    ]);
    let running = Running::start(at, &mut command);
    let pid = wait::value("the stranger runs", SOON, || find("sleep\x002000001\0"));
    (running, pid)
}

#[test]
fn a_namespace_that_exists_is_joined_and_left() {
    netns::inside(|world| {
        let page = servers::http(&world.outside, (OUTSIDE, 0));
        let (mut stranger, pid) = stranger(&world.host);
        let net = Namespace::of(pid);
        let weft = world.start(&["attach", "-p", "8080:80", &pid.to_string()]);
        wait::until("an address inside", SOON, || {
            let info = json(&net, &["-4", "addr", "show", "dev", "eth0", "up"]);
            info[0]["addr_info"]
                .as_array()
                .is_some_and(|infos| !infos.is_empty())
        });
        let sandbox = Sandbox::at(weft, net, pid);
        guest::fetch(&sandbox.net, page);
        servers::http(&sandbox.net, (sandbox.v4, 80));
        let seen = guest::fetch(&world.outside, (netns::HOST, 8080).into());
        assert_eq!(seen, format!("hello {OUTSIDE}"));

        // Leaving takes the interface along, and nothing else.
        let Sandbox { weft, net, .. } = sandbox;
        weft.stop();
        wait::until("the interface is gone", SOON, || {
            json(&net, &["link"])
                .as_array()
                .is_some_and(|links| links.len() == 1)
        });
        assert!(!stranger.has_ended());
    });
}

#[test]
fn it_ends_with_the_namespaces_process() {
    netns::inside(|world| {
        let (stranger, pid) = stranger(&world.host);
        let net = Namespace::of(pid);
        let mut weft = world.start(&["attach", &pid.to_string()]);
        wait::until("an interface inside", SOON, || {
            json(&net, &["link"])
                .as_array()
                .is_some_and(|links| links.len() == 2)
        });
        drop(net);
        drop(stranger);
        assert_eq!(weft.end(SOON).status, 0);
        assert_eq!(world.processes(), Vec::<String>::new());
    });
}

#[test]
fn who_comes_while_another_goes_waits_for_it() {
    netns::inside(|world| {
        let page = servers::http(&world.outside, (OUTSIDE, 0));
        let (_stranger, pid) = stranger(&world.host);
        let net = Namespace::of(pid);
        let up = || {
            let info = json(&net, &["-4", "route", "show", "default"]);
            info.as_array().is_some_and(|routes| !routes.is_empty())
        };
        for kind in ["tap", "packet"] {
            let attach = || world.start(&["attach", "--kind", kind, &pid.to_string()]);
            let mut first = attach();
            wait::until("an address inside", SOON, up);
            // One that lives is not waited for without an end.
            let refused = attach().end(SOON);
            refused.refused(&["interface eth0 exists already", "--ifname"]);
            let before = inside(pid);
            let next = attach();
            wait::until("the next one is inside", SOON, || inside(pid) > before);
            first.signal(Signal::SIGKILL);
            first.end(SOON);
            wait::until("the next one is up", SOON, || {
                up() && guest::connect(&net, page).is_ok()
            });
            next.stop();
            wait::until("the interfaces are gone", SOON, || {
                json(&net, &["link"])
                    .as_array()
                    .is_some_and(|links| links.len() == 1)
            });
        }
    });
}

/// How many processes are in the network of this one.
fn inside(pid: u32) -> usize {
    let network = |process: &Path| std::fs::read_link(process.join("ns/net")).ok();
    let wanted = network(&Path::new("/proc").join(pid.to_string())).unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| network(&entry.path()).as_ref() == Some(&wanted))
        .count()
}

/// Attaches to what `name` makes of a path, and sees the end when `go` has made the namespace go.
fn ends_with(world: &World, name: impl Fn(&Path, u32), go: impl Fn(&Path, Running)) {
    let (stranger, pid) = stranger(&world.host);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("name");
    name(&path, pid);
    let mut weft = world.start(&["attach", path.to_str().unwrap()]);
    up(pid);
    assert!(!weft.has_ended());
    go(&path, stranger);
    assert_eq!(weft.end(SOON).status, 0);
    assert_eq!(world.processes(), Vec::<String>::new());
}

/// Waits until the namespace of a process has its interface.
#[track_caller]
fn up(pid: u32) {
    let net = Namespace::of(pid);
    wait::until("an interface inside", SOON, || {
        json(&net, &["link"])
            .as_array()
            .is_some_and(|links| links.len() == 2)
    });
}

fn link_to(path: &Path, pid: u32) {
    std::os::unix::fs::symlink(format!("/proc/{pid}/ns/net"), path).unwrap();
}

/// As `ip netns add` keeps a namespace.
fn mount_at(path: &Path, pid: u32) {
    std::fs::write(path, "").unwrap();
    let source = PathBuf::from(format!("/proc/{pid}/ns/net"));
    mount(
        Some(&source),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
}

#[test]
fn a_path_below_proc_ends_with_its_process() {
    netns::inside(|world| {
        let (stranger, pid) = stranger(&world.host);
        let mut weft = world.start(&["attach", &format!("/proc/{pid}/ns/net")]);
        up(pid);
        drop(stranger);
        assert_eq!(weft.end(SOON).status, 0);
        assert_eq!(world.processes(), Vec::<String>::new());
    });
}

#[test]
fn a_link_to_a_process_ends_with_it() {
    netns::inside(|world| ends_with(world, link_to, |_, stranger| drop(stranger)));
}

#[test]
fn a_name_ends_when_it_is_removed() {
    netns::inside(|world| {
        ends_with(world, mount_at, |path, _stranger| {
            umount2(path, MntFlags::MNT_DETACH).unwrap();
            std::fs::remove_file(path).unwrap();
        });
    });
}

#[test]
fn a_name_ends_when_it_is_unmounted_and_its_file_stays() {
    netns::inside(|world| {
        ends_with(world, mount_at, |path, _stranger| {
            umount2(path, MntFlags::MNT_DETACH).unwrap();
        });
    });
}

#[test]
fn a_name_outlives_the_process_that_it_was_made_from() {
    netns::inside(|world| {
        ends_with(world, mount_at, |path, stranger| {
            drop(stranger);
            // Still served: the gateway answers inside.
            let net = Namespace::at(path);
            let routes = json(&net, &["-4", "route", "show", "default"]);
            let gateway = routes[0]["gateway"].as_str().unwrap().to_owned();
            let ping = net.enter(|| Command::new("ping").args(["-c1", "-W5", &gateway]).output());
            assert!(ping.unwrap().status.success());
            drop(net);
            umount2(path, MntFlags::MNT_DETACH).unwrap();
        });
    });
}

#[test]
fn a_command_in_a_namespace_outlives_its_name() {
    netns::inside(|world| {
        let (_stranger, pid) = stranger(&world.host);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("name");
        mount_at(&path, pid);
        let network = format!("netns:{}", path.display());
        let mark = "2000003";
        let mut weft = world.start(&["run", "--network", &network, "--", "sleep", mark]);
        wait::value("the command runs", SOON, || {
            find(&format!("sleep\0{mark}\0"))
        });
        umount2(&path, MntFlags::MNT_DETACH).unwrap();
        std::fs::remove_file(&path).unwrap();
        // What is being shown is that nothing happens.
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!weft.has_ended());
        weft.stop();
    });
}

#[test]
fn what_is_not_there_is_refused() {
    netns::inside(|world| {
        world.weft(&["attach", "999999"]).refused(&["999999"]);
        world
            .weft(&["attach", "/no/such/netns"])
            .refused(&["/no/such/netns"]);
        world
            .weft(&["attach", "/etc/resolv.conf"])
            .refused(&["/etc/resolv.conf"]);
    });
}

#[test]
fn a_taken_interface_name_is_refused() {
    netns::inside(|world| {
        let (_stranger, pid) = stranger(&world.host);
        Namespace::of(pid).ip("link add eth0 type veth peer name other");
        world.weft(&["attach", &pid.to_string()]).refused(&["eth0"]);
    });
}
