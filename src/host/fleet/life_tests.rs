//! Sandboxes, interfaces and brokers that end, as root and as an ordinary user.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::process::Command;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::geteuid;
use switch_core::addr::Mac;

use super::super::broker::{Broker, Event, Target};
use super::super::testing::{alone, event};
use super::testing::{Holder, joined, link_spec, old};
use super::*;

#[test]
fn an_interface_outlives_the_broker_and_is_adopted() {
    alone(|| {
        let holder = Holder::new(true);
        let state = "ip -d addr show eth0; ip route; ip -6 route";
        // What the kernel says of the cable comes and goes with the descriptor, and some time later.
        let carrier = |mut text: String| {
            for part in [
                "NO-CARRIER,",
                "LOWER_UP",
                " linkdown",
                " UNKNOWN",
                " DOWN",
                " UP",
            ] {
                text = text.replace(part, "");
            }
            text
        };
        let mut broker = Broker::spawn().unwrap();
        let id = joined(&mut broker, &holder);
        let link = broker.add_link(id, &link_spec(5)).unwrap();
        let index = link.ifindex;
        let before = carrier(holder.sh(state));
        kill(broker.pid(), Signal::SIGKILL).unwrap();
        assert!(matches!(event(&mut broker), Event::Lost(_)));
        let error = broker.leave(id).unwrap_err();
        assert!(matches!(error, FleetError::Ended(_)), "{error:?}");

        drop(link);
        let mut broker = Broker::spawn().unwrap();
        let id = joined(&mut broker, &holder);
        for wrong in [
            link_spec(6),
            LinkSpec {
                ifname: "eth1".to_owned(),
                ..link_spec(5)
            },
        ] {
            let error = broker.adopt_link(id, &wrong).unwrap_err();
            assert_eq!(error, FleetError::InterfaceMissing(wrong.ifname));
        }
        let other = LinkSpec {
            mac: Mac([2, 9, 9, 9, 9, 9]),
            ..link_spec(5)
        };
        let link = broker.adopt_link(id, &other).unwrap();
        assert!(link.opened.how.caps.tso);
        assert_eq!((link.ifindex, link.mac), (index, link_spec(5).mac));
        assert_eq!(carrier(holder.sh(state)), before);
        let error = broker.adopt_link(id, &link_spec(5)).unwrap_err();
        assert!(
            matches!(
                error,
                FleetError::Refused {
                    errno: Some(libc::EBUSY),
                    ..
                }
            ),
            "{error:?}"
        );
        let mut tap = fs::File::from(link.opened.fd);
        let mut frame = [0; 2048];
        while tap.read(&mut frame).is_ok() {}
        holder.sh("ping -c 1 -W 1 10.87.9.1 || true");
        assert!(tap.read(&mut frame).unwrap() > 12, "frames come out again");
        drop(tap);
        broker.remove_link(&old(id, "eth0", 5)).unwrap();
        assert!(!holder.has("eth0"));
    });
}

#[test]
fn another_process_of_the_same_number_is_not_the_sandbox() {
    alone(|| {
        let holder = Holder::new(true);
        let mut broker = Broker::spawn().unwrap();
        let identity = broker.identify(&holder.target()).unwrap();
        assert_eq!(broker.identify(&holder.target()).unwrap(), identity);
        let late = Identity {
            start_time: identity.start_time.map(|ticks| ticks + 1),
            ..identity.clone()
        };
        let elsewhere = Identity {
            netns: (identity.netns.0, identity.netns.1 + 1),
            ..identity.clone()
        };
        for wrong in [late, elsewhere] {
            let error = broker.join(&wrong).unwrap_err();
            assert!(matches!(error, FleetError::SandboxGone(_)), "{error:?}");
        }
        let id = broker.join(&identity).unwrap();
        holder.end();
        let error = broker.add_link(id, &link_spec(1)).unwrap_err();
        assert!(matches!(error, FleetError::SandboxGone(_)), "{error:?}");
        let error = broker.join(&identity).unwrap_err();
        assert!(matches!(error, FleetError::SandboxGone(_)), "{error:?}");
        assert_eq!(event(&mut broker), Event::SandboxEnded(id));
        broker.leave(id).unwrap();
        if !geteuid().is_root() {
            let error = broker.identify(&Target::Pid(1)).unwrap_err();
            assert!(matches!(error, FleetError::NotPermitted(_)), "{error:?}");
        }
    });
}

#[test]
fn a_sandbox_named_by_a_file_ends_with_it() {
    alone(|| {
        let holder = Holder::new(true);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net");
        let process = format!("/proc/{}/ns/net", holder.0);
        std::os::unix::fs::symlink(&process, &path).unwrap();
        let mut broker = Broker::spawn().unwrap();
        let by_file = broker.identify(&Target::Path(path.clone())).unwrap();
        let by_process = broker.identify(&holder.target()).unwrap();
        assert_eq!(by_file.netns, by_process.netns);
        assert_eq!(by_file.start_time, by_process.start_time);
        let file = broker.join(&by_file).unwrap();
        let direct = broker.identify(&Target::Path(process.into())).unwrap();
        let direct = broker.join(&direct).unwrap();
        let link = broker.add_link(file, &link_spec(1)).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(event(&mut broker), Event::SandboxEnded(file));
        broker.leave(file).unwrap();
        drop(link);
        broker.remove_link(&old(direct, "eth0", 1)).unwrap();
        holder.end();
        assert_eq!(event(&mut broker), Event::SandboxEnded(direct));
    });
}

#[test]
fn files_that_go_one_after_the_other_are_all_missed() {
    const MANY: usize = 20;
    alone(|| {
        let holder = Holder::new(true);
        let folder = tempfile::tempdir().unwrap();
        let mut broker = Broker::spawn().unwrap();
        let joined: Vec<_> = (0..MANY)
            .map(|n| {
                let path = folder.path().join(n.to_string());
                let process = format!("/proc/{}/ns/net", holder.0);
                std::os::unix::fs::symlink(process, &path).unwrap();
                let identity = broker.identify(&Target::Path(path.clone())).unwrap();
                (path, broker.join(&identity).unwrap())
            })
            .collect();
        // The first is looked for at once; the others go while that look is just over, and nothing happens after the last.
        for (path, id) in &joined {
            fs::remove_file(path).unwrap();
            let error = broker.add_link(*id, &link_spec(1)).unwrap_err();
            assert!(matches!(error, FleetError::SandboxGone(_)), "{error:?}");
        }
        let mut left: BTreeSet<_> = joined.iter().map(|(_, id)| *id).collect();
        while !left.is_empty() {
            let told = event(&mut broker);
            let ended = left.iter().find(|id| told == Event::SandboxEnded(**id));
            let ended = *ended.unwrap_or_else(|| panic!("{told:?}"));
            left.remove(&ended);
        }
    });
}

#[test]
fn a_mounted_namespace_ends_with_its_mount() {
    alone(|| {
        if !geteuid().is_root() {
            return;
        }
        let name = format!("weft-test-{}", std::process::id());
        let ip = |verb: &str| {
            let status = Command::new("ip").args(["netns", verb, &name]).status();
            assert!(status.unwrap().success());
        };
        ip("add");
        let mut broker = Broker::spawn().unwrap();
        let target = Target::Path(format!("/run/netns/{name}").into());
        let identity = broker.identify(&target);
        let result = identity.clone().and_then(|identity| {
            let id = broker.join(&identity)?;
            broker.add_link(id, &link_spec(1)).map(|link| (id, link))
        });
        ip("del");
        let (id, _link) = result.unwrap();
        assert_eq!(event(&mut broker), Event::SandboxEnded(id));
        // Another one of the same name.
        ip("add");
        let again = broker.join(&identity.unwrap());
        ip("del");
        assert!(
            matches!(again, Err(FleetError::SandboxGone(_))),
            "{again:?}"
        );
    });
}

#[test]
fn a_lost_interface_tells_itself_and_a_shared_sandbox_stays() {
    alone(|| {
        let holder = Holder::new(true);
        let mut broker = Broker::spawn().unwrap();
        let id = joined(&mut broker, &holder);
        assert_eq!(joined(&mut broker, &holder), id);
        let second = LinkSpec {
            ifname: "eth1".to_owned(),
            default_route: DefaultRoute::default(),
            ..link_spec(2)
        };
        let first = broker.add_link(id, &link_spec(1)).unwrap();
        let _second = broker.add_link(id, &second).unwrap();
        let mut tap = fs::File::from(first.opened.fd);
        let mut frame = [0; 2048];
        while tap.read(&mut frame).is_ok() {}
        // As a worker waits: for a change, and then it reads.
        let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&tap, EpollEvent::new(flags, 1)).unwrap();
        let mut events = [EpollEvent::empty()];
        holder.sh("ip link del eth0");
        let told = epoll.wait(&mut events, EpollTimeout::from(5_000_u16));
        assert_eq!(told, Ok(1));
        while tap.read(&mut frame).is_ok() {}
        let error = tap.read(&mut frame).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADFD));
        broker.leave(id).unwrap();
        holder.sh("ip link set eth1 name other");
        broker.remove_link(&old(id, "eth1", 2)).unwrap();
        assert!(!holder.has("other"));
        broker.leave(id).unwrap();
        let error = broker.add_link(id, &second).unwrap_err();
        assert!(matches!(error, FleetError::SandboxGone(_)), "{error:?}");
        holder.end();
        broker.identify(&holder.target()).unwrap_err();
        assert_eq!(broker.next_event(), None);
    });
}
