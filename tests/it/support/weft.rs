//! `weft` as a test runs it: once to its end, in the background, or around a sandbox to work in.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::netns::{Namespace, World};
use super::wait::{self, SOON};

/// How something ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit status; 128 + n after signal n.
    pub(crate) status: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Ended {
    /// Standard output, if it ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.stdout
    }

    /// The one line of an error of weft's own (status 125), of which it holds all of `words`.
    #[track_caller]
    pub(crate) fn refused(&self, words: &[&str]) {
        assert_eq!(self.status, 125, "{self:?}");
        assert_eq!(
            self.stderr.trim_end().lines().count(),
            1,
            "one line: {self:?}"
        );
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} in {self:?}");
        }
    }
}

/// A process in the background. It is ended with the value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: fs::File,
    stderr: fs::File,
}

impl Running {
    /// Starts a command in `at`.
    pub(crate) fn start(at: &Namespace, command: &mut Command) -> Self {
        let stdout = tempfile::tempfile().unwrap();
        let stderr = tempfile::tempfile().unwrap();
        command
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap());
        let child = at.enter(|| command.spawn()).unwrap();
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error until now.
    pub(crate) fn said(&self) -> String {
        text(&self.stderr)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub(crate) fn end(&mut self, within: Duration) -> Ended {
        let child = &mut self.child;
        let what = format!(
            "the command ends; it said: {}{}",
            text(&self.stdout),
            text(&self.stderr)
        );
        let status = wait::value(&what, within, || child.try_wait().unwrap());
        Ended {
            status: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
        }
    }

    /// Asks it to end, and waits.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.end(SOON)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

fn text(file: &fs::File) -> String {
    // A descriptor of its own path: reading must not move where the process writes.
    use std::os::fd::AsRawFd as _;
    let mut copy = fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let mut bytes = Vec::new();
    copy.rewind().unwrap();
    copy.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The program under test with these arguments.
fn weft(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(args);
    command
}

impl World {
    /// Runs `weft` on the host with these arguments, to its end.
    #[track_caller]
    pub(crate) fn weft(&self, args: &[&str]) -> Ended {
        self.start(args).end(Duration::from_secs(60))
    }

    /// Runs `weft run OPTIONS -- COMMAND` on the host, to its end.
    #[track_caller]
    pub(crate) fn run(&self, options: &[&str], command: &[&str]) -> Ended {
        self.weft(&[&["run"], options, &["--"], command].concat())
    }

    /// Runs a line of shell in a sandbox, to its end.
    #[track_caller]
    pub(crate) fn sh(&self, options: &[&str], line: &str) -> Ended {
        self.run(options, &["sh", "-c", line])
    }

    /// Starts `weft` on the host with these arguments.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::start(&self.host, &mut weft(args))
    }

    /// Starts a sandbox that does nothing, for the test to work in.
    #[track_caller]
    pub(crate) fn sandbox(&self, options: &[&str]) -> Sandbox {
        self.sandbox_with(&[], options)
    }

    /// As `sandbox`, with this in `weft`'s environment.
    #[track_caller]
    pub(crate) fn sandbox_with(&self, environment: &[(&str, &str)], options: &[&str]) -> Sandbox {
        let (weft, pid) = self.idle(environment, options);
        Sandbox::at(weft, Namespace::of(pid), pid)
    }

    /// Starts a sandbox that does nothing, whatever it has for a network, and gives its command's process id, too.
    #[track_caller]
    pub(crate) fn idle(&self, environment: &[(&str, &str)], options: &[&str]) -> (Running, u32) {
        static NEXT: AtomicU32 = AtomicU32::new(1_000_001);
        let mark = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let mut command = weft(&[&["run"], options, &["--", "sleep", &mark]].concat());
        command.envs(environment.iter().copied());
        let mut weft = Running::start(&self.host, &mut command);
        let cmdline = format!("sleep\0{mark}\0");
        let pid = wait::value("the sandbox's command runs", SOON, || {
            if weft.has_ended() {
                panic!("weft ended: {:?}", weft.end(SOON));
            }
            find(&cmdline)
        });
        (weft, pid)
    }
}

/// The process with this command line.
pub(crate) fn find(cmdline: &str) -> Option<u32> {
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let path = entry.ok()?.path();
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        (fs::read_to_string(path.join("cmdline")).ok()? == cmdline).then_some(pid)
    })
}

/// A sandbox whose command does nothing.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// The `weft run` around it.
    pub(crate) weft: Running,
    /// Its network namespace.
    pub(crate) net: Namespace,
    /// Its command's process id.
    pub(crate) pid: u32,
    /// Its address.
    pub(crate) v4: Ipv4Addr,
    /// Its address, the global one.
    pub(crate) v6: Ipv6Addr,
    /// The switch's own address.
    pub(crate) gateway: Ipv4Addr,
    /// As `gateway`: the `::1` of the sandbox's prefix.
    pub(crate) gateway6: Ipv6Addr,
}

impl Sandbox {
    /// Reads the addresses of the sandbox that is there.
    #[track_caller]
    pub(crate) fn at(weft: Running, net: Namespace, pid: u32) -> Self {
        let addresses = json(&net, &["addr", "show", "up"]);
        let mut found = Vec::new();
        for link in addresses.as_array().into_iter().flatten() {
            for info in link["addr_info"].as_array().into_iter().flatten() {
                if info["scope"] == "global" {
                    found.push(info["local"].as_str().unwrap().parse::<IpAddr>().unwrap());
                }
            }
        }
        let v4 = found.iter().find_map(|ip| {
            if let IpAddr::V4(ip) = ip {
                Some(*ip)
            } else {
                None
            }
        });
        let v6 = found.iter().find_map(|ip| {
            if let IpAddr::V6(ip) = ip {
                Some(*ip)
            } else {
                None
            }
        });
        let routes = json(&net, &["-4", "route", "show", "default"]);
        let gateway = routes[0]["gateway"].as_str().and_then(|ip| ip.parse().ok());
        let v6 = v6.unwrap_or_else(|| panic!("an IPv6 address in {addresses}"));
        let [a, b, c, d, ..] = v6.segments();
        Self {
            weft,
            pid,
            v4: v4.unwrap_or_else(|| panic!("an IPv4 address in {addresses}")),
            v6,
            gateway: gateway.unwrap_or_else(|| panic!("a default route in {routes}")),
            gateway6: Ipv6Addr::new(a, b, c, d, 0, 0, 0, 1),
            net,
        }
    }

    /// The sandbox's address of the family of `ip`.
    pub(crate) fn address_like(&self, ip: IpAddr) -> IpAddr {
        if ip.is_ipv4() {
            self.v4.into()
        } else {
            self.v6.into()
        }
    }

    /// The gateway's address of the family of `ip`.
    pub(crate) fn gateway_like(&self, ip: IpAddr) -> IpAddr {
        if ip.is_ipv4() {
            self.gateway.into()
        } else {
            self.gateway6.into()
        }
    }

    /// Runs a command in the sandbox's network, to its end.
    #[track_caller]
    pub(crate) fn exec(&self, command: &[&str]) -> Ended {
        let (program, args) = command.split_first().unwrap();
        let mut command = Command::new(program);
        Running::start(&self.net, command.args(args)).end(Duration::from_secs(60))
    }
}

/// What `ip -j ARGS` says in `at`.
#[track_caller]
pub(crate) fn json(at: &Namespace, args: &[&str]) -> Value {
    let output = at
        .enter(|| Command::new("ip").arg("-j").args(args).output())
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}
