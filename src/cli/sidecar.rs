//! `weft sidecar`: an overlay network for an application in the same network namespace, as in a pod.
//!
//! The daemon's plane in the foreground, with one network and one endpoint: a TAP in the namespace that it runs in itself.
//! What it is to do comes from an invite alone, so nothing but the host's key outlives it.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail, ensure};
use caps::{CapSet, Capability};
use clap::Args;
use switch_core::addr::Mac;

use super::daemon::peer::read_invite;
use crate::config::invite::{self, Invite, LONGEST};
use crate::config::topology::DaemonWish;
use crate::config::wish::{AcceptWish, EndpointWish};
use crate::config::{HostFacts, facts};
use crate::control::identity;
use crate::control::key::PublicKey;
use crate::control::live::{LivePlane, Options};
use crate::control::proto::Request;
use crate::control::serve;
use crate::endpoint::tap;
use crate::host::OWN_NET;

/// `weft sidecar`
#[derive(Debug, Default, Args)]
pub struct SidecarArgs {
    /// Another host: its invite, as 'weft peer invite' prints it there, a file that holds it, or - for the standard input (repeatable)
    #[arg(long = "peer", value_name = "INVITE|FILE|-", required = true)]
    pub peers: Vec<String>,
    /// The network, where the invite is to several
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// What the application is called on the network [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The IPv4 address [default: the first one that the invite gives]
    #[arg(long, value_name = "ADDR")]
    pub ip: Option<String>,
    /// The IPv6 address [default: the one that belongs to the IPv4 address]
    #[arg(long, value_name = "ADDR")]
    pub ip6: Option<String>,
    /// The interface's name
    #[arg(long, value_name = "NAME", default_value = "weft0")]
    pub ifname: String,
    /// The interface's MTU [default: the network's]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// Threads that carry packets [default: half the cores]
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
    /// Where the key and the socket are [default: /run/weft/sidecar, or weft/sidecar below $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The key, by which the other host knows this one again [default: weft.key of the state's directory]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The API's socket [default: weft.sock of the state's directory]
    #[arg(long, value_name = "FILE")]
    pub socket: Option<PathBuf>,
}

/// Runs until it is told to end. Must be called while the process has one thread.
/// Errors: one line, before anything is changed.
pub(super) fn sidecar(args: &SidecarArgs) -> Result<ExitCode> {
    let asked = DaemonWish {
        workers: args.workers,
        metrics_port: None,
    };
    asked.check().map_err(|p| anyhow!("--{p}"))?;
    let invites = args.peers.iter().map(|text| read(text));
    let invites = invites.collect::<Result<Vec<_>>>()?;
    let host = facts::host_name();
    // Before anything is made.
    network(args.network.as_deref(), &invites)?;
    check_rights()?;
    let state = args.state.clone();
    let state = state.unwrap_or_else(|| serve::runtime_dir().join("sidecar"));
    let store = state.join("weft.redb");
    serve::private_dir(&store)?;
    let key = args.key.clone().unwrap_or_else(|| identity::path(&store));
    let known_by = *identity::need(&key).context("the key")?.public();
    let first = requests(args, &invites, &host, &known_by)?;
    let descriptors = HostFacts::gather()?.descriptors;
    let plane = LivePlane::start(&Options {
        workers: args.workers.map(usize::from),
        user: None,
        at_home: true,
    })?;
    let socket = args.socket.clone();
    let options = serve::Options {
        socket: socket.unwrap_or_else(|| state.join("weft.sock")),
        store,
        metrics_port: None,
        config: None,
        first,
        fresh: true,
        key: Some(key),
        descriptors,
    };
    serve::serve(plane, options)?;
    Ok(ExitCode::SUCCESS)
}

/// An invite, from wherever it is. Errors: there is none.
fn read(text: &str) -> Result<Invite> {
    let from_file = |path: &str| -> Result<String> {
        let about = std::fs::metadata(path)?;
        ensure!(
            about.is_file() && about.len() <= LONGEST as u64,
            "that is no invite"
        );
        Ok(std::fs::read_to_string(path)?)
    };
    let (read, what) = match text {
        "-" => (read_invite()?, "the standard input"),
        _ if invite::is_invite(text) || !text.contains('/') => (text.to_owned(), "--peer"),
        path => (from_file(path).with_context(|| path.to_owned())?, path),
    };
    read.parse().with_context(|| what.to_owned())
}

/// What the switch is to do. Errors: the invites do not lead to one network; a host that would be reached through itself.
fn requests(
    args: &SidecarArgs,
    invites: &[Invite],
    host: &str,
    key: &PublicKey,
) -> Result<Vec<Request>> {
    let network = network(args.network.as_deref(), invites)?;
    let mut all = Vec::new();
    for told in invites {
        let mut invite = told.clone();
        invite.networks.retain(|n| n.name == network);
        for one in &mut invite.networks {
            let at = invite.endpoint.host.parse::<std::net::IpAddr>();
            ensure!(
                !at.is_ok_and(|at| one.subnet.contains(at)),
                "peer '{}' is at {}, which is inside of network '{network}' itself: its tunnel cannot lead through itself",
                invite.name,
                invite.endpoint
            );
            // The way to the world, and with it the default route, is not ours.
            one.internal = true;
        }
        let invite = invite.reveal();
        all.push(Request::Accept(AcceptWish { invite, name: None }));
    }
    let endpoint = EndpointWish {
        network: network.to_owned(),
        sandbox: OWN_NET.to_owned(),
        name: Some(args.name.clone().unwrap_or_else(|| host.to_owned())),
        ip: args.ip.clone(),
        ip6: args.ip6.clone(),
        mac: Some(mac(key).to_string()),
        ifname: Some(args.ifname.clone()),
        mtu: args.mtu,
        ..EndpointWish::default()
    };
    all.push(Request::Connect(Box::new(endpoint)));
    Ok(all)
}

/// The same in each life: neighbours elsewhere remember whose address it is.
fn mac(key: &PublicKey) -> Mac {
    let [a, b, c, d, e, ..] = *key.bytes();
    Mac([2, a, b, c, d, e])
}

/// The one network that all invites are to. Errors: there is none, or there are several.
fn network<'a>(asked: Option<&'a str>, invites: &'a [Invite]) -> Result<&'a str> {
    let names = |i: &'a Invite| i.networks.iter().map(|n| n.name.as_str());
    let network = match (asked, invites.first()) {
        (Some(asked), _) => asked,
        (None, Some(first)) => match *names(first).collect::<Vec<_>>() {
            [only] => only,
            ref all => bail!(
                "the invite is to {} networks ({}): choose one with --network",
                all.len(),
                all.join(", ")
            ),
        },
        (None, None) => bail!("--peer is missing"),
    };
    for invite in invites {
        ensure!(
            names(invite).any(|name| name == network),
            "the invite of '{}' is not to network '{network}', but to {}",
            invite.name,
            names(invite).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(network)
}

/// Errors: what a TAP needs is missing; the line says what to add to the container.
fn check_rights() -> Result<()> {
    let admin = caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN);
    ensure!(
        admin.unwrap_or(false),
        "the capability NET_ADMIN is missing, which the interface needs: add it to the container (--cap-add NET_ADMIN, or capabilities: {{add: [NET_ADMIN]}} of its securityContext)"
    );
    let device = Path::new(tap::DEVICE);
    let opened = OpenOptions::new().read(true).write(true).open(device);
    opened.map(drop).with_context(|| {
        format!(
            "{} cannot be opened: give it to the container (--device {0}, or a hostPath volume of type CharDevice)",
            device.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::invite::InvitedNetwork;
    use crate::control::key::{Secret, StaticKey};

    fn invite(name: &str, endpoint: &str, networks: &[&str]) -> Invite {
        let network = |n: &&str| InvitedNetwork {
            name: (*n).to_owned(),
            vni: 7,
            subnet: "10.1.0.0/16".parse().unwrap(),
            gateway: "10.1.0.1".parse().unwrap(),
            subnet6: None,
            gateway6: None,
            mtu: 1418,
            internal: false,
            taken: "10.1.0.0/24".parse().unwrap(),
            given: "10.1.1.0/24".parse().unwrap(),
        };
        Invite {
            name: name.to_owned(),
            key: key(),
            endpoint: endpoint.parse().unwrap(),
            secret: Secret::generate().unwrap(),
            expires: None,
            networks: networks.iter().map(network).collect(),
        }
    }

    fn key() -> PublicKey {
        *StaticKey::generate().unwrap().public()
    }

    fn refused(network: Option<&str>, invites: &[Invite]) -> String {
        let args = SidecarArgs {
            network: network.map(str::to_owned),
            ..SidecarArgs::default()
        };
        let error = requests(&args, invites, "pod", &key())
            .unwrap_err()
            .to_string();
        assert_eq!(error.lines().count(), 1);
        error
    }

    #[test]
    fn an_invite_becomes_a_peer_and_an_endpoint() {
        let args = SidecarArgs {
            network: Some("web".to_owned()),
            ip: Some("10.1.1.9".to_owned()),
            ifname: "weft0".to_owned(),
            ..SidecarArgs::default()
        };
        let both = [
            invite("a", "192.0.2.1:7348", &["web", "db"]),
            invite("b", "192.0.2.2:7348", &["web"]),
        ];
        let all = requests(&args, &both, "pod", &key()).unwrap();
        let [Request::Accept(a), Request::Accept(b), Request::Connect(e)] = &all[..] else {
            panic!("{all:?}")
        };
        for (wish, told) in [a, b].into_iter().zip(&both) {
            let taken: Invite = wish.invite.parse().unwrap();
            assert_eq!((&taken.name, taken.secret), (&told.name, told.secret));
            let [network] = &taken.networks[..] else {
                panic!("{taken:?}")
            };
            assert!(network.name == "web" && network.internal);
        }
        let asked = (e.network.as_str(), e.name.as_deref(), e.ip.as_deref());
        assert_eq!(asked, ("web", Some("pod"), Some("10.1.1.9")));
        assert_eq!(e.sandbox, OWN_NET);
    }

    #[test]
    fn what_leads_nowhere_is_named() {
        let several = [invite("a", "192.0.2.1:7348", &["web", "db"])];
        assert!(refused(None, &several).contains("web, db"));
        let other = refused(Some("mail"), &several);
        assert!(other.contains("'mail'"), "{other}");
        let mixed = [
            invite("a", "192.0.2.1:7348", &["web"]),
            invite("b", "192.0.2.2:7348", &["db"]),
        ];
        assert!(refused(None, &mixed).contains("'b'"));
        let inside = [invite("a", "10.1.0.7:7348", &["web"])];
        assert!(refused(None, &inside).contains("10.1.0.7"));
    }

    #[test]
    fn an_invite_comes_from_the_line_or_a_file() {
        let told = invite("a", "192.0.2.1:7348", &["web"]);
        assert_eq!(read(&told.reveal()).unwrap(), told);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("invite");
        std::fs::write(&path, format!("weft peer add {}\n", told.reveal())).unwrap();
        assert_eq!(read(path.to_str().unwrap()).unwrap(), told);
        let bad = |text: &str| format!("{:#}", read(text).unwrap_err());
        assert!(bad("web").contains("not an invite"));
        assert!(bad(dir.path().to_str().unwrap()).contains("no invite"));
        assert!(bad("/no/such").contains("/no/such"));
        assert!(bad(&told.reveal()[..90]).contains("cut short"));
    }
}
