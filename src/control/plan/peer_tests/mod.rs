//! What is asked of overlays, peers and invites, and what is refused.

mod file;
mod flannel;
mod invite;
mod overlay;
mod peer;
mod service;

use super::*;
use crate::config::invite::Invite;
use crate::config::topology::{Topology, TopologyFile};
use crate::config::wish::{
    AcceptWish, EndpointWish, InviteWish, NetworkWish, PeerWish, PublishWish,
};
use crate::control::ids::PeerId;
use crate::control::key::{PublicKey, StaticKey};
use crate::control::model::{Model, Origin};
use crate::control::spec::{Carrier, Driver, LAST_VNI, PeerCarrier, Sandbox, SandboxRef};

fn facts() -> Facts {
    Facts {
        descriptors: 20_000,
        underlay: Underlay {
            addr: Some([192, 0, 2, 1].into()),
            mtu: 1500,
        },
        key: Some(public(1)),
        host: "here".to_owned(),
        ..Facts::default()
    }
}

/// The public half of the `n`th key.
fn public(n: u8) -> PublicKey {
    *StaticKey::new([n; 32]).unwrap().public()
}

fn key(n: u8) -> String {
    public(n).to_string()
}

fn over(name: &str, opt: &[&str]) -> NetworkWish {
    NetworkWish {
        name: name.to_owned(),
        driver: Some(Driver::Overlay),
        opt: opt.iter().map(|o| (*o).to_owned()).collect(),
        ..NetworkWish::default()
    }
}

fn wide(name: &str, subnet: &str) -> NetworkWish {
    NetworkWish {
        subnet: Some(subnet.to_owned()),
        ..over(name, &[])
    }
}

fn make(model: &mut Model, wish: &NetworkWish) -> Result<(), (Code, String)> {
    made(model, &facts(), wish).map(drop)
}

/// Makes a network, or leaves the model as it was. Gives the warnings.
fn made(
    model: &mut Model,
    facts: &Facts,
    wish: &NetworkWish,
) -> Result<Vec<String>, (Code, String)> {
    let mut copy = model.clone();
    let mut warnings = Vec::new();
    let asked = create(&mut copy, facts, wish, Origin::Command, &mut warnings);
    asked.map_err(|p| {
        assert_eq!(p.message.lines().count(), 1, "{p}");
        (p.code, p.field.unwrap_or_default())
    })?;
    *model = copy;
    Ok(warnings)
}

fn sealed(name: &str, n: u8) -> PeerWish {
    PeerWish {
        name: name.to_owned(),
        key: Some(key(n)),
        ..PeerWish::default()
    }
}

fn meet(model: &mut Model, wish: &PeerWish) -> Result<PeerId, (Code, String)> {
    let mut copy = model.clone();
    let id = add_peer(&mut copy, &facts(), wish, Origin::Command).map_err(|p| {
        assert_eq!(p.message.lines().count(), 1, "{p}");
        (p.code, p.field.unwrap_or_default())
    })?;
    *model = copy;
    Ok(id)
}

fn join(
    model: &mut Model,
    network: &str,
    pid: u16,
    ip: Option<&str>,
) -> Result<(String, String), Code> {
    let wish = EndpointWish {
        network: network.to_owned(),
        name: Some(format!("s{pid}")),
        ip: ip.map(str::to_owned),
        ..EndpointWish::default()
    };
    let sandbox = Sandbox {
        at: SandboxRef::Pid(pid.into()),
        start_time: Some(1),
        netns: (4, u64::from(pid)),
    };
    let mut copy = model.clone();
    let id = connect(&mut copy, &wish, &sandbox, Origin::Command).map_err(|p| p.code)?;
    *model = copy;
    let spec = &model.endpoints[&id].spec;
    let (v4, v6) = (spec.v4.into_iter(), spec.v6.into_iter());
    let text = (v4.map(|a| a.to_string()), v6.map(|a| a.to_string()));
    Ok((text.0.collect(), text.1.collect()))
}

fn list(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}
