//! Networks of a running switch around a sandbox that is ours: joined before its command starts, left when it has ended.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::exit;
use crate::config::wish::{EndpointWish, PublishWish};
use crate::config::{Join, Share, Target};
use crate::control::client::{Client, refusal, step};
use crate::control::proto::{Endpoint, Network, Publish};
use crate::control::serve::default_socket;
use crate::control::spec::{Sandbox, SandboxRef};
use crate::host::broker_proto::{self, Names};

/// What the sandbox sent last may take so long, and so long without any of it moving.
const LIMIT: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(500);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(2);

/// A sandbox on networks of a switch. It leaves them when this goes.
#[derive(Debug)]
pub(super) struct Joined {
    client: Client,
    endpoints: Vec<Endpoint>,
}

impl Joined {
    /// Joins the networks and publishes the ports. `init` is a process in a sandbox that was made for it.
    /// Errors: no switch listens, or what it refuses; all that was joined is left again.
    pub(super) fn connect(join: &Join, target: &Target, init: i32) -> Result<Self> {
        let mut joined = Self {
            client: client(join.socket.as_deref()),
            endpoints: Vec::new(),
        };
        let sandbox = match target {
            Target::Command(_) => init.to_string(),
            Target::Pid(pid) => pid.to_string(),
            Target::Netns(path) => format!("netns:{}", path::absolute(path)?.display()),
        };
        for wish in &join.endpoints {
            let wish = EndpointWish {
                sandbox: sandbox.clone(),
                ..wish.clone()
            };
            let answer = joined.client.send("POST", "/v1/endpoints", Some(&wish));
            let endpoint: Endpoint = answer.map_err(|e| named(e, &wish.network))?;
            for warning in &endpoint.warnings {
                exit::complain(format_args!("warning: {warning}"));
            }
            joined.endpoints.push(endpoint);
        }
        joined.publish(join)?;
        Ok(joined)
    }

    fn publish(&self, join: &Join) -> Result<()> {
        let Some(first) = self.endpoints.first().filter(|_| !join.publish.is_empty()) else {
            return Ok(());
        };
        let wish = PublishWish {
            sandbox: first.name.clone(),
            network: Some(first.network.clone()),
            ports: join.publish.iter().map(ToString::to_string).collect(),
        };
        let published: Vec<Publish> = self.client.send("POST", "/v1/publishes", Some(&wish))?;
        let chosen = published.iter().filter(|p| !wish.ports.contains(&p.rule));
        for rule in chosen {
            exit::complain(format_args!("published {}", rule.rule));
        }
        Ok(())
    }

    /// What /etc inside is to say: `hostname` at the sandbox's own addresses, and the gateways that it can reach.
    /// Errors: the switch has ended.
    pub(super) fn names(&self, hostname: &str) -> Result<Names> {
        names(&self.client, &self.endpoints, hostname)
    }

    fn leave(&mut self) {
        while let Some(own) = self.endpoints.pop() {
            let (network, name) = (step(&own.network), step(&own.name));
            let path = format!("/v1/networks/{network}/endpoints/{name}");
            // Somebody may have disconnected it, and another have the name now.
            let left = self.client.get(&path).and_then(|found: Endpoint| {
                ensure!(found.id == own.id, "it is another one's");
                self.client.delete(&path)
            });
            if let Err(error) = left {
                // The switch sees by itself that a sandbox has ended.
                tracing::debug!(network = own.network, "leaving: {error:#}");
            }
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A sandbox that is shared: where it is, and what /etc inside is to say.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) target: broker_proto::Target,
    pub(super) names: Names,
}

impl Shared {
    /// Asks the switch for a sandbox by its name.
    /// Errors: no switch listens; it knows none of that name; the sandbox has ended.
    pub(super) fn find(share: &Share, hostname: &str) -> Result<Self> {
        let client = client(share.socket.as_deref());
        let option = format!("container:{}", share.name);
        let all: Result<Vec<Endpoint>> = client.get("/v1/endpoints");
        let mut endpoints = all.map_err(|e| named(e, &option))?;
        endpoints.retain(|e| e.name == share.name);
        let Some(first) = endpoints.first() else {
            bail!(
                "--network {option}: the switch has no sandbox of that name; see 'weft endpoint ls'"
            );
        };
        let target = place(&first.sandbox).map_err(|e| named(e, &option))?;
        // The one with the default route is asked for names first.
        endpoints.sort_by_key(|e| (!e.default_route, e.id));
        let names = names(&client, &endpoints, hostname)?;
        Ok(Self { target, names })
    }
}

fn client(socket: Option<&Path>) -> Client {
    Client::new(&socket.map_or_else(default_socket, Path::to_owned))
}

/// Names the option at fault; what the switch refuses says itself what it is about.
fn named(error: anyhow::Error, network: &str) -> anyhow::Error {
    match refusal(&error) {
        Some(_) => error,
        None => error.context(format!("--network {network}")),
    }
}

/// Where a sandbox is. Errors: it is not the one any more that the switch knows.
fn place(sandbox: &Sandbox) -> Result<broker_proto::Target> {
    let (target, path) = match &sandbox.at {
        SandboxRef::Pid(pid) => (
            broker_proto::Target::Pid(*pid),
            PathBuf::from(format!("/proc/{pid}/ns/net")),
        ),
        SandboxRef::Netns(path) => (broker_proto::Target::Path(path.clone()), path.clone()),
    };
    let found = fs::metadata(&path).context("the sandbox has ended")?;
    ensure!(
        (found.dev(), found.ino()) == sandbox.netns,
        "the sandbox has ended"
    );
    Ok(target)
}

fn names(client: &Client, endpoints: &[Endpoint], hostname: &str) -> Result<Names> {
    let mut own = Vec::new();
    let mut gateways = Vec::new();
    for endpoint in endpoints {
        let path = format!("/v1/networks/{}", step(&endpoint.network));
        let network: Network = client.get(&path)?;
        let v4 = endpoint.v4.zip(network.v4);
        let v6 = endpoint.v6.zip(network.v6);
        own.extend(v4.map(|(addr, _)| IpAddr::V4(addr)));
        own.extend(v6.map(|(addr, _)| IpAddr::V6(addr)));
        if endpoint.vlan.meets_gateway() {
            gateways.extend(v4.map(|(_, subnet)| IpAddr::V4(subnet.gateway)));
            gateways.extend(v6.map(|(_, subnet)| IpAddr::V6(subnet.gateway)));
        }
    }
    let own = own.into_iter().map(|addr| (hostname.to_owned(), addr));
    let first = gateways.iter().map(|addr| ("gateway".to_owned(), *addr));
    Ok(Names {
        hosts: own.chain(first).collect(),
        dns: gateways,
    })
}

/// Waits until the peers have what the processes of a sandbox wrote before they ended, `init` left aside.
pub(super) fn settle(init: i32) {
    let began = Instant::now();
    let mut waiting = (unsent(init), began);
    while waiting.0 > 0 && waiting.1.elapsed() < QUIET && began.elapsed() < LIMIT {
        sleep(LOOK);
        let now = unsent(init);
        if now != waiting.0 {
            waiting = (now, Instant::now());
        }
    }
}

/// Bytes that TCP connections without a process still have to send in the network of a process; the end counts as one.
fn unsent(pid: i32) -> u64 {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|file| fs::read_to_string(format!("/proc/{pid}/net/{file}")).ok())
        .map(|table| table.lines().filter_map(unsent_of).sum::<u64>())
        .sum()
}

/// Of one line. Source: proc_pid_net(5); states of include/net/tcp_states.h.
fn unsent_of(line: &str) -> Option<u64> {
    const FIN_WAIT1: &str = "04";
    const LAST_ACK: &str = "09";
    const CLOSING: &str = "0B";
    let mut words = line.split_ascii_whitespace().skip(3);
    let state = words.next()?;
    let queue = words.next()?.split_once(':')?.0;
    [FIN_WAIT1, LAST_ACK, CLOSING]
        .contains(&state)
        .then(|| u64::from_str_radix(queue, 16).ok())?
}

#[test]
fn only_what_nobody_holds_any_more_is_waited_for() {
    let line = |state: &str| {
        format!(
            "   1: 0200580A:C350 010200C0:1F90 {state} 0000002A:00000000 01:00000014 00000000     0        0 0 2 0 20 4 30 10 -1"
        )
    };
    assert_eq!(unsent_of(&line("04")), Some(42));
    assert_eq!(unsent_of(&line("09")), Some(42));
    assert_eq!(unsent_of(&line("01")), None);
    assert_eq!(
        unsent_of("  sl  local_address rem_address   st tx_queue"),
        None
    );
}
