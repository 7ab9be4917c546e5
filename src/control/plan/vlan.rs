//! VLANs: which an endpoint is on, and what it does without on any but the network's own.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::wish::EndpointWish;
use crate::config::{Code, Problem};
use crate::control::model::EndpointRecord;
use crate::control::spec::{OWN_VLAN, Vlan};

/// Refuses what needs the gateway for an endpoint that it cannot reach. Errors: `BadOption`.
pub(super) fn meets_gateway(endpoint: &EndpointRecord, field: &str) -> Result<(), Problem> {
    if endpoint.spec.vlan.meets_gateway() {
        return Ok(());
    }
    let message = format!(
        "sandbox '{}' is on VLAN {}, and the gateway, which leads there, on VLAN {OWN_VLAN} only",
        endpoint.name, endpoint.spec.vlan
    );
    Err(Problem::new(Code::BadOption, message).at(field))
}

/// The addresses of a trunk whose frames without tags are dropped: none, for nothing could reach them.
/// Errors: `BadOption` where one is asked for.
pub(super) fn without_addresses(
    wish: &EndpointWish,
) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), Problem> {
    for (field, given) in [("ip", &wish.ip), ("ip6", &wish.ip6)] {
        if given.is_some() {
            let why = "a trunk has an address of its own only with a native VLAN";
            return Err(Problem::new(Code::BadOption, why).at(field));
        }
    }
    Ok((None, None))
}

/// The VLANs of an endpoint. Errors: `BadOption`. Source of the bounds: IEEE 802.1Q-2018 table 9-2.
pub(super) fn parse(wish: &EndpointWish) -> Result<Vlan, Problem> {
    let bad = |field: &str, why: String| Problem::new(Code::BadOption, why).at(field);
    let one = |field: &str, id: u16| {
        let message = || format!("{field} {id}: a VLAN is 1 to 4094");
        let known = (1..=4094).contains(&id);
        known.then_some(id).ok_or_else(|| bad(field, message()))
    };
    let Some(text) = &wish.trunk else {
        if wish.native.is_some() {
            let why = "native is the VLAN of a trunk's frames without tags: give trunk, too";
            return Err(bad("native", why.to_owned()));
        }
        let id = wish.vlan.map(|id| one("vlan", id)).transpose()?;
        let other = id.filter(|&id| id != OWN_VLAN);
        return Ok(other.map_or(Vlan::None, Vlan::Access));
    };
    if wish.vlan.is_some() {
        let why = "an endpoint is on one VLAN (vlan), or on several (trunk)";
        return Err(bad("vlan", why.to_owned()));
    }
    let wrong = || {
        bad(
            "trunk",
            format!("trunk '{text}': give VLAN,VLAN-VLAN, 2 to 4094"),
        )
    };
    let number = |t: &str| t.parse::<u16>().map_err(|_| wrong());
    let mut tagged = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last > 4094 || first == 0 {
            return Err(wrong());
        }
        if first == OWN_VLAN {
            let why = "VLAN 1 is the network's own and has no tags: give it as native";
            return Err(bad("trunk", why.to_owned()));
        }
        tagged.extend(first..=last);
    }
    let native = wish.native.map(|id| one("native", id)).transpose()?;
    tagged.retain(|&id| Some(id) != native);
    tagged.sort_unstable();
    tagged.dedup();
    Ok(Vlan::Trunk { tagged, native })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(vlan: Option<u16>, trunk: Option<&str>, native: Option<u16>) -> EndpointWish {
        EndpointWish {
            vlan,
            trunk: trunk.map(str::to_owned),
            native,
            ..EndpointWish::default()
        }
    }

    #[test]
    fn what_an_endpoint_is_on() {
        let trunk = |tagged: &[u16], native| Vlan::Trunk {
            tagged: tagged.to_vec(),
            native,
        };
        for (vlan, list, native, found) in [
            (None, None, None, Vlan::None),
            (Some(1), None, None, Vlan::None),
            (Some(4094), None, None, Vlan::Access(4094)),
            (None, Some("2"), None, trunk(&[2], None)),
            (None, Some("9,7-8,8"), Some(1), trunk(&[7, 8, 9], Some(1))),
            (None, Some("7-9"), Some(8), trunk(&[7, 9], Some(8))),
        ] {
            assert_eq!(parse(&wish(vlan, list, native)), Ok(found));
        }
        let all = parse(&wish(None, Some("2-4094"), None)).unwrap();
        assert_eq!(all.to_string(), "2-4094");
    }

    #[test]
    fn a_trunk_without_a_native_vlan_has_no_address() {
        let trunk = wish(None, Some("5"), None);
        assert_eq!(without_addresses(&trunk), Ok((None, None)));
        let asking = EndpointWish {
            ip: Some("10.0.0.9".to_owned()),
            ..trunk
        };
        let problem = without_addresses(&asking).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("ip"));
    }

    #[test]
    fn what_it_cannot_be_on() {
        for (vlan, list, native, field) in [
            (Some(0), None, None, "vlan"),
            (Some(4095), None, None, "vlan"),
            (Some(5), Some("7"), None, "vlan"),
            (None, None, Some(7), "native"),
            (None, Some("5"), Some(0), "native"),
            (None, Some(""), None, "trunk"),
            (None, Some("5,"), None, "trunk"),
            (None, Some("9-5"), None, "trunk"),
            (None, Some("0-5"), None, "trunk"),
            (None, Some("1-5"), None, "trunk"),
            (None, Some("5-6-7"), None, "trunk"),
            (None, Some("4000-4095"), None, "trunk"),
            (None, Some("5-70000"), None, "trunk"),
        ] {
            let problem = parse(&wish(vlan, list, native)).unwrap_err();
            let found = (problem.code, problem.field.as_deref());
            assert_eq!(found, (Code::BadOption, Some(field)), "{problem:?}");
        }
    }
}
