//! Networks of a daemon that `run` and `attach` join, and sandboxes that they share.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

use super::publish::PublishRule;
use super::raw::NetOptions;
use super::resolve::{NetworkMode, Target};
use super::wish::EndpointWish;

/// Networks of a daemon, and what the sandbox is on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The daemon's socket; that of the user's own when absent.
    pub socket: Option<PathBuf>,
    /// One a network, at least one. The first gives the default route. Their sandbox is not known yet.
    pub endpoints: Vec<EndpointWish>,
    /// Published ports; they lead to the first network's address.
    pub publish: Vec<PublishRule>,
}

/// A sandbox of a daemon whose network is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The daemon's socket; that of the user's own when absent.
    pub socket: Option<PathBuf>,
    /// The sandbox's name.
    pub name: String,
}

/// What `--network`, given once or several times, asks for.
/// Errors: no kind of network; kinds that exclude each other; one that `attach` cannot give.
pub(super) fn mode(target: &Target, raw: &NetOptions) -> Result<NetworkMode> {
    let kind = match raw.network.as_slice() {
        [] => NetworkMode::Private,
        [one] => single(one, raw)?,
        several => {
            for (at, one) in several.iter().enumerate() {
                ensure!(
                    matches!(single(one, raw)?, NetworkMode::Joined(_)),
                    "--network '{one}' cannot go with another network"
                );
                ensure!(
                    !several.iter().take(at).any(|before| before == one),
                    "--network '{one}' is given twice"
                );
            }
            NetworkMode::Joined(join(raw))
        }
    };
    if !matches!(target, Target::Command(_)) {
        ensure!(
            matches!(kind, NetworkMode::Private | NetworkMode::Joined(_)),
            "--network '{}': attach gives a namespace that exists a private network, or those of 'weft up' by name",
            raw.network.first().map_or("", String::as_str)
        );
    }
    Ok(kind)
}

fn single(text: &str, raw: &NetOptions) -> Result<NetworkMode> {
    const KINDS: &str =
        "give none, host, netns:PATH, container:NAME, or the name of a network of 'weft up'";
    match (text, text.split_once(':')) {
        ("none", _) => Ok(NetworkMode::None),
        ("host", _) => Ok(NetworkMode::Host),
        (_, Some(("netns" | "container", rest))) if rest.trim().is_empty() => {
            bail!("--network '{text}': {KINDS}")
        }
        (_, Some(("netns", path))) => Ok(NetworkMode::Netns(path.into())),
        (_, Some(("container", name))) => Ok(NetworkMode::Shared(Share {
            socket: raw.socket.clone(),
            name: name.to_owned(),
        })),
        (_, Some((kind, _))) => {
            bail!("--network '{text}': '{kind}:' is no kind of network; {KINDS}")
        }
        (name, None) if name.trim().is_empty() => bail!("--network '{text}': {KINDS}"),
        (_, None) => Ok(NetworkMode::Joined(join(raw))),
    }
}

/// The daemon checks what the wishes say; ports are filled in when they have been.
fn join(raw: &NetOptions) -> Join {
    let wish = |network: &String| EndpointWish {
        network: network.clone(),
        name: raw.name.clone(),
        hostname: raw.hostname.clone(),
        aliases: raw.alias.clone(),
        ip: raw.ip.clone(),
        ip6: raw.ip6.clone(),
        mac: raw.mac.clone(),
        ifname: raw.ifname.clone(),
        kind: raw.kind,
        mtu: raw.mtu,
        priority: raw.priority,
        no_configure: raw.no_configure,
        vlan: raw.vlan,
        trunk: raw.trunk.clone(),
        native: raw.native,
        sysctls: raw.sysctl.clone(),
        policy: raw.policy.clone(),
        // Which sandbox that is turns out later.
        sandbox: String::new(),
    };
    Join {
        socket: raw.socket.clone(),
        endpoints: raw.network.iter().map(wish).collect(),
        publish: Vec::new(),
    }
}

/// Options that mean nothing for the network that is asked for are refused, not dropped in silence.
/// Errors: the first of them, and what it needs.
pub(super) fn refuse_options(mode: &NetworkMode, keep_id: bool, raw: &NetOptions) -> Result<()> {
    let private = [
        ("--subnet", raw.subnet.is_some()),
        ("--subnet6", raw.subnet6.is_some()),
        ("--dns", !raw.dns.is_empty()),
        (
            "--host-loopback",
            raw.host_loopback.iter().any(|s| s != "none"),
        ),
        ("--host-access", raw.host_access),
        ("--udp-filter", raw.udp_filter.is_some()),
    ];
    let switch = [("--workers", raw.workers.is_some())];
    let link = [
        ("--pcap", raw.pcap.is_some()),
        ("--impair", raw.impair.is_some()),
        ("--queues", raw.queues.is_some()),
    ];
    let one = [
        ("--ip", raw.ip.is_some()),
        ("--ip6", raw.ip6.is_some()),
        ("--mac", raw.mac.is_some()),
        ("--ifname", raw.ifname.is_some()),
    ];
    let any = [
        ("--mtu", raw.mtu.is_some()),
        ("--kind", raw.kind.is_some()),
        ("--publish", !raw.publish.is_empty()),
        ("--publish-all", raw.publish_all),
    ];
    let vlan = [
        ("--vlan", raw.vlan.is_some()),
        ("--trunk", raw.trunk.is_some()),
        ("--native", raw.native.is_some()),
    ];
    let joined = [
        ("--alias", !raw.alias.is_empty()),
        ("--priority", raw.priority.is_some()),
        ("--no-configure", raw.no_configure),
        ("--sysctl", !raw.sysctl.is_empty()),
        ("policy", raw.policy.is_some()),
    ];
    let socket = [("--socket", raw.socket.is_some())];
    let shared = [("--name", raw.name.is_some()), ("--keep-id", keep_id)];
    let first = |of: &[&[(&'static str, bool)]]| {
        let mut all = of.iter().copied().flatten();
        all.find(|(_, given)| *given).map(|(option, _)| *option)
    };
    let network = raw.network.first().map_or("", String::as_str);
    match mode {
        NetworkMode::Private | NetworkMode::Netns(_) => {
            if let Some(option) = first(&[&joined, &vlan, &socket]) {
                bail!("{option} needs a network of 'weft up': name it by --network");
            }
        }
        NetworkMode::None | NetworkMode::Host => {
            // Settings that change nothing there have always been let through.
            let old = private.get(..5).unwrap_or_default();
            if let Some(option) = first(&[&one, old, &any, &link, &joined, &vlan, &socket]) {
                bail!(
                    "{option} needs a network of weft's own: leave it out, or leave out --network {network}"
                );
            }
        }
        NetworkMode::Joined(join) => {
            if let Some(option) = first(&[&private]) {
                bail!(
                    "{option} is a matter of the whole network: leave it out here, and give it to 'weft network create'"
                );
            }
            if let Some(option) = first(&[&switch]) {
                bail!(
                    "{option} is a matter of the whole switch: leave it out here, and give it to 'weft up'"
                );
            }
            if let Some(option) = first(&[&link, &[("--user", raw.user.is_some())]]) {
                bail!(
                    "{option} needs a private network: leave it out, or leave out --network {network}"
                );
            }
            if let Some(option) = first(&[&one, &vlan]).filter(|_| join.endpoints.len() > 1) {
                bail!(
                    "{option} is of one network, and several are given: connect the others by 'weft endpoint connect'"
                );
            }
        }
        NetworkMode::Shared(_) => {
            let user = [("--user", raw.user.is_some())];
            let own = [
                &shared[..],
                &one,
                &private,
                &switch,
                &any,
                &link,
                &user,
                &joined,
                &vlan,
            ];
            if let Some(option) = first(&own) {
                bail!(
                    "{option} cannot be another one in a network that is shared: leave it out with --network {network}"
                );
            }
        }
    }
    Ok(())
}
