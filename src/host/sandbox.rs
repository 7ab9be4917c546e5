//! The network of a sandbox, set up from inside it: loopback, the TAP, addresses and routes.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::broker_proto::{Network, SandboxSpec};
use super::fleet::veth;
use super::link::{self, LinkChange};
use super::netlink::Netlink;
use crate::endpoint::tap::{self, Tap, TapOptions};
use crate::endpoint::{Kind, Opened};

/// How long the kernel may take until it takes packets for a new address. Usually it is microseconds.
const RECEPTION: Duration = Duration::from_secs(2);
/// Index of the loopback link in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// An interface that was made.
#[derive(Debug)]
pub(super) struct Interface {
    /// Its descriptor.
    pub(super) opened: Opened,
    /// What is to be removed when it is done with, where nothing else takes it away.
    pub(super) pair: Option<Pair>,
}

/// A pair, by one end. It goes with the value.
#[derive(Debug)]
pub(super) struct Pair(u32);

impl Drop for Pair {
    fn drop(&mut self) {
        // Someone may have been faster.
        let _ = veth::delete(self.0);
    }
}

/// Sets up the network namespace of the calling process. Gives the interface where the spec wants one, and warnings.
/// `own`: the namespace is weft's, and the interface ends with it; otherwise it ends with what is given.
/// Nothing is sent before all is set: neighbour discovery and solicitations are switched off before the link comes up.
/// Errors: one line: the TAP cannot be made, or an address or route is refused.
pub(super) fn set_up(spec: &SandboxSpec, own: bool) -> Result<(Option<Interface>, Vec<String>)> {
    if spec.network == Network::Host {
        return Ok((None, Vec::new()));
    }
    let mut netlink = Netlink::open().context("cannot open a netlink socket in the sandbox")?;
    let up = LinkChange {
        up: true,
        ..LinkChange::default()
    };
    link::set_link(&mut netlink, LOOPBACK, &up).context("cannot bring up lo in the sandbox")?;
    if matches!(spec.network, Network::None | Network::Joined) {
        return Ok((None, Vec::new()));
    }
    let name = &spec.ifname;
    if !own {
        veth::await_leavers(name)?;
    }
    if link::index_of(name).is_ok() {
        return Err(anyhow!(
            "interface {name} exists already in that namespace: choose another with --ifname"
        ));
    }
    let mut warnings = Vec::new();
    let made = open(spec, own, &mut warnings)?;
    let index = link::index_of(name)?;
    let refused = |what: String| move || format!("cannot set {what} on {name} in the sandbox");
    link::prepare_families(name, spec.v6.is_some(), spec.configure, false);
    let mut change = LinkChange {
        mac: Some(spec.mac),
        mtu: Some(spec.mtu),
        ..LinkChange::default()
    };
    link::set_link(&mut netlink, index, &change)
        .with_context(refused(format!("MAC {} and MTU {}", spec.mac, spec.mtu)))?;
    if spec.gso_max_size.is_some() {
        change = LinkChange {
            gso_max_size: spec.gso_max_size,
            ..LinkChange::default()
        };
        link::set_link(&mut netlink, index, &change)
            .with_context(refused("gso_max_size".into()))?;
    }
    link::set_link(&mut netlink, index, &up).with_context(refused("the link up".into()))?;
    if spec.configure {
        let v4 = spec
            .v4
            .map(|a| (IpAddr::V4(a.addr), a.prefix, IpAddr::V4(a.gateway)));
        let v6 = spec
            .v6
            .map(|a| (IpAddr::V6(a.addr), a.prefix, IpAddr::V6(a.gateway)));
        for (addr, prefix, gateway) in [v4, v6].into_iter().flatten() {
            let result = address(&mut netlink, index, addr, prefix, gateway, &mut warnings);
            match result {
                // A host booted without IPv6 has none for its sandboxes either.
                Err(e) if addr.is_ipv6() && no_family(&e) => {
                    warnings.push("the kernel has no IPv6: the sandbox has IPv4 only".to_owned());
                }
                result => result.with_context(refused(format!("address {addr}/{prefix}")))?,
            }
        }
    }
    Ok((Some(made), warnings))
}

/// Makes the interface, of the kind that is wanted, or of that which can be had.
fn open(spec: &SandboxSpec, own: bool, warnings: &mut Vec<String>) -> Result<Interface> {
    let name = &spec.ifname;
    let options = TapOptions {
        vnet: spec.vnet,
        persist: own,
        ..TapOptions::default()
    };
    if spec.kind != Some(Kind::Packet) {
        match Tap::open(name, &options) {
            Ok(tap) => {
                return Ok(Interface {
                    opened: tap.into(),
                    pair: None,
                });
            }
            Err(e) if spec.kind.is_none() && is_withheld(&e) => {
                warnings.push(format!(
                    "{} cannot be had ({e}): a veth pair with a packet socket takes the place of the TAP",
                    tap::DEVICE
                ));
            }
            Err(e) => return Err(explain_tap(&e, name)),
        }
    }
    let far = veth::make(veth::own_number(), name, spec.mtu)?;
    // A namespace of weft's own takes it away by its end.
    let pair = (!own).then(|| Pair(far));
    let opened = veth::open(far)?;
    Ok(Interface { opened, pair })
}

fn address(
    netlink: &mut Netlink,
    index: u32,
    addr: IpAddr,
    prefix: u8,
    gateway: IpAddr,
    warnings: &mut Vec<String>,
) -> io::Result<()> {
    link::add_address(netlink, index, addr, prefix)?;
    link::wait_own(netlink, addr, RECEPTION)?;
    match link::add_default_route(netlink, index, gateway) {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
            warnings.push(format!(
                "the namespace has a default route already: the one by {gateway} is not added"
            ));
            Ok(())
        }
        result => result,
    }
}

pub(super) fn no_family(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES)
    )
}

/// There is no device, or it may not be used: another kind may be had all the same.
fn is_withheld(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::EACCES | libc::EPERM)
    )
}

pub(super) fn explain_tap(error: &io::Error, name: &str) -> anyhow::Error {
    let device = tap::DEVICE;
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => anyhow!(
            "{device} is missing: run `sudo modprobe tun`, or start the container with --device {device}, or take --kind packet"
        ),
        Some(libc::EACCES) => {
            anyhow!(
                "{device} may not be opened by this user: run `sudo chmod 666 {device}`, or take --kind packet"
            )
        }
        Some(libc::EPERM) => anyhow!(
            "the kernel refuses to make the TAP {name}: allow {device} in the container's device rules \
             (--device {device}), or take --kind packet"
        ),
        _ => anyhow!("cannot make the TAP {name} with {device}: {error}"),
    }
}
