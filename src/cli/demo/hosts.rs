//! Two hosts and an encrypted network between them: they meet by an invite, and somebody listens to what passes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::net::Net;
use super::part::{Part, Tally};
use super::veth::{self, There};
use super::wire::{self, Wire};
use super::{AWAY, LETTER, SINK, guest, myself, outside, say};
use crate::host::link;

/// The hosts' addresses. No route but the default one leads to those that the way to the world is asked by.
const HOSTS: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 2),
];
/// The network that both are on.
const MESH: &str = "mesh";
const SUBNET: &str = "10.9.0.0/16";
/// How long a switch may take to serve, and hosts to meet.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of a datagram that are shown.
const SHOWN: usize = 64;
/// The headers that lead a sealed datagram on the wire: Ethernet, IPv4, UDP.
const AROUND: usize = 14 + 20 + 8;

/// A host: a namespace, and a switch in it.
struct Host {
    net: Net,
    dir: PathBuf,
    switch: Child,
}

impl Host {
    /// Starts a switch in a namespace, and waits until it serves.
    fn start(net: Net, dir: PathBuf) -> Result<Self> {
        std::fs::create_dir(&dir)?;
        let mut command = myself()?;
        command.arg("up").arg("--socket").arg(dir.join("weft.sock"));
        command.arg("--store").arg(dir.join("weft.redb"));
        // What it has to say is told by the steps.
        command.env(crate::observe::log::VARIABLE, "error");
        command.stdin(Stdio::null());
        let switch = net.enter(|| command.spawn()).context("starting a switch")?;
        let mut host = Self { net, dir, switch };
        let deadline = Instant::now() + PATIENCE;
        while host.ask(&["show", "daemon"]).is_err() {
            if let Some(status) = host.switch.try_wait()? {
                bail!("a switch has ended: {status}");
            }
            ensure!(Instant::now() < deadline, "a switch does not serve");
            thread::sleep(LOOK);
        }
        Ok(host)
    }

    /// A command of this host's, for its switch.
    fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = myself()?;
        command.args(words).arg("--socket").arg(self.socket());
        Ok(command)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("weft.sock")
    }

    /// Runs a command of weft's; gives what it has said.
    fn ask(&self, words: &[&str]) -> Result<String> {
        let mut command = self.command(words)?;
        command.stdin(Stdio::null());
        let said = self.net.enter(|| command.output())?;
        let errors = String::from_utf8_lossy(&said.stderr);
        ensure!(
            said.status.success(),
            "weft {}: {}",
            words.join(" "),
            errors.trim()
        );
        Ok(String::from_utf8(said.stdout)?.trim().to_owned())
    }

    /// Starts a part of the demo in a sandbox on the network.
    fn sandbox(&self, name: &str, part: &str) -> Result<Part> {
        let mut command = self.command(&["run", "--network", MESH, "--name", name])?;
        command.arg("--").arg(std::env::current_exe()?);
        command.args(["demo", "--part", part]);
        Part::start(|piped| self.net.enter(|| piped.spawn()), command)
    }

    /// How its only peer stands: the state, the round trip and the MTU.
    fn peer(&self) -> Result<(String, Option<u64>, Option<u64>)> {
        let rows: serde_json::Value =
            serde_json::from_str(&self.ask(&["show", "peers", "--json"])?)?;
        let row = &rows[0];
        let state = row["state"].as_str().unwrap_or("nowhere").to_owned();
        Ok((state, row["rtt"].as_u64(), row["mtu"].as_u64()))
    }

    fn end(mut self) -> Result<bool> {
        self.ask(&["down"])?;
        Ok(self.switch.wait()?.success())
    }
}

/// Runs in namespaces of the demo's own, as their first command.
pub(super) fn run() -> Result<ExitCode> {
    let dir = own_place()?;
    let mut tally = Tally::begin();
    let [a, b] = hosts(&dir)?;
    let [here, there] = HOSTS;
    say(&format!("two hosts, {here} and {there}, a switch on each:"));
    meet(&mut tally, &a, &b)?;
    let tap = Wire::tap(&a.net).context("listening between the hosts")?;
    let mut away = b.sandbox(AWAY, "away")?;
    away.expect("serving")?;
    say(&format!(
        "sandbox 'web' on the first host, sandbox '{AWAY}' on the second:"
    ));
    let mut near = a.sandbox("web", "near")?;
    let steps = near.report(&mut tally)?;
    tally.step(
        near.child.wait()?.success() && steps == 3,
        "sandbox 'web' ended well",
    );
    in_the_clear(&a.net, &b.net)?;
    seen(&mut tally, &tap.end());
    say("throughput:");
    let plain = b.net.enter(|| TcpListener::bind((there, SINK)))?;
    thread::spawn(move || {
        for stream in plain.incoming().flatten() {
            // One that goes away mid-way is told of by its client.
            thread::spawn(move || drop(outside::sink(stream)));
        }
    });
    let rate = a
        .net
        .enter(|| Ok(guest::up(SocketAddr::new(there.into(), SINK))))?;
    match rate {
        Ok(rate) => tally.step(
            true,
            &format!("TCP between the hosts, in the clear: {rate}"),
        ),
        Err(e) => tally.step(
            false,
            &format!("TCP between the hosts, in the clear: {e:#}"),
        ),
    }
    let mut fast = a.sandbox("fast", "fast")?;
    let steps = fast.report(&mut tally)?;
    tally.step(
        fast.child.wait()?.success() && steps == 1,
        "sandbox 'fast' ended well",
    );
    drop(away.to);
    tally.step(
        away.child.wait()?.success(),
        &format!("sandbox '{AWAY}' ended well"),
    );
    let ended = [a.end()?, b.end()?];
    tally.step(ended == [true; 2], "both switches ended well");
    Ok(tally.end())
}

/// A place for sockets and stores that nobody else sees, and that is gone with this process.
fn own_place() -> Result<PathBuf> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("making the demo's mount namespace")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("keeping the demo's mounts to itself")?;
    // Nothing of the demo is in any of them.
    let places = ["/dev/shm", "/mnt", "/media", "/srv"].map(PathBuf::from);
    let place = places.into_iter().find(|p| p.is_dir());
    let place = place.context("no directory to put the demo's files into")?;
    mount(
        Some("weft-demo"),
        &place,
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
        Some("mode=0700"),
    )
    .with_context(|| {
        format!(
            "mounting a place for the demo's files on {}",
            place.display()
        )
    })?;
    Ok(place)
}

/// Two hosts with a wire between them.
fn hosts(dir: &std::path::Path) -> Result<[Host; 2]> {
    let nets = [Net::here()?, Net::new()?];
    let [first, second] = &nets;
    first
        .enter(|| veth::make("up0", "up0", &There::Open(second.as_fd())))
        .context("making the wire between the hosts")?;
    for (net, own, other) in [(first, HOSTS[0], HOSTS[1]), (second, HOSTS[1], HOSTS[0])] {
        let addresses = [(IpAddr::V4(own), 24)];
        net.enter(|| {
            veth::prepare();
            veth::up("up0", &addresses, &[other.into()])?;
            let _ = link::sysctl("net/ipv4/ping_group_range", "0 0");
            Ok(())
        })
        .context("setting up an end of the wire")?;
    }
    for (net, own) in [(first, HOSTS[0]), (second, HOSTS[1])] {
        net.enter(|| veth::wait(&[(own.into(), 24)]))?;
    }
    let [first, second] = nets;
    Ok([
        Host::start(first, dir.join("first"))?,
        Host::start(second, dir.join("second"))?,
    ])
}

/// One invites, the other adds.
fn meet(tally: &mut Tally, a: &Host, b: &Host) -> Result<()> {
    a.ask(&[
        "network", "create", MESH, "--driver", "overlay", "--subnet", SUBNET,
    ])?;
    let at = HOSTS[0].to_string();
    let line = a.ask(&[
        "peer",
        "invite",
        "second",
        "--as",
        "first",
        "--endpoint",
        &at,
    ])?;
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    let invite = words.last().copied().unwrap_or_default();
    let begin = invite.get(..24).unwrap_or(invite);
    tally.step(
        line.starts_with("weft peer add "),
        &format!("'weft peer invite' on the first prints: weft peer add {begin}…"),
    );
    let added = b.ask(&words);
    tally.step(
        added.is_ok(),
        &match &added {
            Ok(said) => format!("run on the second: {}", said.replace('\n', ", ")),
            Err(e) => format!("run on the second: {e:#}"),
        },
    );
    let deadline = Instant::now() + PATIENCE;
    let mut stands = Vec::new();
    while Instant::now() < deadline {
        stands = vec![a.peer()?, b.peer()?];
        if stands
            .iter()
            .all(|(state, rtt, _)| state == "up" && rtt.is_some())
        {
            break;
        }
        thread::sleep(LOOK);
    }
    let up = stands.iter().all(|(state, ..)| state == "up");
    let told = stands
        .first()
        .map_or_else(String::new, |(state, rtt, mtu)| {
            let rtt = rtt.map_or_else(String::new, |us| format!(", a round trip of {us} us"));
            let mtu = mtu.map_or_else(String::new, |mtu| format!(", an MTU of {mtu}"));
            format!("{state}{rtt}{mtu}")
        });
    tally.step(up, &format!("the hosts have met: {told}"));
    Ok(())
}

/// Sends the letter from host to host as it is, so that it is sure that the listener would hear it.
fn in_the_clear(a: &Net, b: &Net) -> Result<()> {
    let [here, there] = HOSTS;
    let to = b.enter(|| UdpSocket::bind((there, 0)))?;
    to.set_read_timeout(Some(PATIENCE))?;
    let from = a.enter(|| UdpSocket::bind((here, 0)))?;
    from.send_to(LETTER.as_bytes(), to.local_addr()?)?;
    to.recv(&mut [0; 128]).context("the letter in the clear")?;
    Ok(())
}

/// Shows what was heard between the hosts.
fn seen(tally: &mut Tally, frames: &[Vec<u8>]) {
    let found = wire::with(frames, LETTER.as_bytes());
    say(&format!(
        "what passed between the hosts meanwhile, {} frames:",
        frames.len()
    ));
    let sealed = frames.iter().filter(|f| f.get(AROUND) == Some(&4));
    // The longest is one that carries a letter, or nearly.
    if let Some(longest) = sealed.max_by_key(|f| f.len()) {
        let from = longest.get(AROUND..).unwrap_or_default();
        for line in wire::dump(from.get(..SHOWN).unwrap_or(from)) {
            say(&line);
        }
    }
    tally.step(
        found == 1,
        &match found {
            1 => "the letter is in none of them but the one that was sent in the clear".to_owned(),
            0 => "not even the letter in the clear was heard".to_owned(),
            n => format!("the letter can be read in {} of them", n - 1),
        },
    );
}
