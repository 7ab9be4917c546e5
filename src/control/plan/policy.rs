//! Policies: from lines and tables to rules.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::problem::coded;
use crate::config::wish::{PolicyWish, RuleTable, RuleWish};
use crate::config::{Code, PortRange, Problem, names};
use crate::control::model::{Model, Origin, PolicyRecord};
use crate::control::policy::{
    Action, Direction, PolicyLimits, PolicyScope, PolicySpec, Rate, Remote, Rule, Transport,
};

/// Rules of one policy at most.
const RULES: usize = 1024;

/// Sets a policy in place of the one that is there; `None` takes it away. Errors: `BadPolicy`, `UnknownNetwork`.
pub fn set(
    model: &mut Model,
    scope: PolicyScope,
    wish: Option<&PolicyWish>,
    origin: Origin,
) -> Result<(), Problem> {
    match wish {
        None => drop(model.policies.remove(&scope)),
        Some(wish) => {
            let record = PolicyRecord {
                spec: parse(model, wish)?,
                wish: wish.clone(),
                origin,
            };
            model.policies.insert(scope, Arc::new(record));
        }
    }
    Ok(())
}

/// Checks a policy. Errors: `BadPolicy`, and `UnknownNetwork` for a rule about one.
pub fn parse(model: &Model, wish: &PolicyWish) -> Result<PolicySpec, Problem> {
    if wish.rules.len() > RULES {
        return Err(bad(format!("{} rules: at most {RULES}", wish.rules.len())).at("rules"));
    }
    let mut rules = Vec::with_capacity(wish.rules.len());
    for (at, wish) in wish.rules.iter().enumerate() {
        let rule = match wish {
            RuleWish::Line(line) => split(line).and_then(|table| rule(model, &table)),
            RuleWish::Table(table) => rule(model, table),
        };
        rules.push(rule.map_err(|p| Problem { field: None, ..p }.at(&format!("rules.{at}")))?);
    }
    Ok(PolicySpec {
        rules,
        ingress: wish.ingress.unwrap_or_default(),
        egress: wish.egress.unwrap_or_default(),
        limits: limits(&wish.limits)?,
        isolated: wish.isolated,
        spoof_guard: !wish.no_spoof_guard,
    })
}

fn bad(message: impl Into<String>) -> Problem {
    Problem::new(Code::BadPolicy, message)
}

/// Splits `ingress|egress allow|drop|reject [tcp|udp|icmp] [REMOTE] [PORTS]`.
fn split(line: &str) -> Result<RuleTable, Problem> {
    let form = || {
        bad(format!(
            "rule '{line}': the form is ingress|egress allow|drop|reject [tcp|udp|icmp] [REMOTE] [PORT[-PORT]]"
        ))
    };
    let mut words = line.split_whitespace().peekable();
    let direction = match words.next() {
        Some("ingress") => Direction::Ingress,
        Some("egress") => Direction::Egress,
        _ => return Err(form()),
    };
    let action = match words.next() {
        Some("allow") => Action::Allow,
        Some("drop") => Action::Drop,
        Some("reject") => Action::Reject,
        _ => return Err(form()),
    };
    let protocol = words.next_if(|w| matches!(*w, "any" | "tcp" | "udp" | "icmp"));
    let ports = |w: &str| w.parse::<PortRange>().is_ok();
    let remote = words.next_if(|w| !ports(w));
    let range = words.next();
    if words.next().is_some() {
        return Err(form());
    }
    Ok(RuleTable {
        direction,
        action,
        protocol: protocol.map(str::to_owned),
        remote: remote.map(str::to_owned),
        ports: range.map(str::to_owned),
    })
}

fn rule(model: &Model, table: &RuleTable) -> Result<Rule, Problem> {
    let transport = match table.protocol.as_deref() {
        None | Some("any") => Transport::Any,
        Some("tcp") => Transport::Tcp,
        Some("udp") => Transport::Udp,
        Some("icmp") => Transport::Icmp,
        Some(other) => {
            return Err(bad(format!(
                "'{other}' is not a protocol of rules: use tcp, udp or icmp"
            )));
        }
    };
    let ports = table.ports.as_deref().map(|text| {
        let range: PortRange = coded(Code::BadPolicy, "ports", text.parse())?;
        match transport {
            Transport::Tcp | Transport::Udp => Ok((range.first(), range.last())),
            Transport::Any | Transport::Icmp => {
                Err(bad(format!("ports {text} need the protocol tcp or udp")))
            }
        }
    });
    Ok(Rule {
        direction: table.direction,
        action: table.action,
        remote: remote(model, table.remote.as_deref().unwrap_or("any"))?,
        transport,
        ports: ports.transpose()?,
    })
}

fn remote(model: &Model, text: &str) -> Result<Remote, Problem> {
    if text == "any" {
        return Ok(Remote::Any);
    }
    if let Some(name) = text.strip_prefix("network:") {
        return Ok(Remote::Network(model.network(name)?.spec.id));
    }
    if let Some(name) = text.strip_prefix("name:") {
        let bare = name.strip_prefix("*.").unwrap_or(name);
        coded(Code::BadPolicy, "remote", names::domain("name", bare))?;
        return Ok(Remote::Name(name.to_ascii_lowercase()));
    }
    let wrong = || {
        bad(format!(
            "'{text}': give any, ADDR, ADDR/LEN, name:NAME or network:NAME"
        ))
    };
    let (addr, len) = match text.split_once('/') {
        None => (text, None),
        Some((addr, len)) => (addr, Some(len.parse::<u8>().map_err(|_| wrong())?)),
    };
    let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
    let (longest, bits) = match addr {
        IpAddr::V4(a) => (32, u128::from(a.to_bits()) << 96),
        IpAddr::V6(a) => (128, a.to_bits()),
    };
    let len = len.unwrap_or(longest);
    if len > longest {
        return Err(wrong());
    }
    if bits.checked_shl(u32::from(len)).unwrap_or(0) != 0 {
        return Err(bad(format!("'{text}': bits behind the prefix are set")));
    }
    Ok(Remote::Prefix(addr, len))
}

fn limits(list: &[(String, String)]) -> Result<PolicyLimits, Problem> {
    let mut limits = PolicyLimits::default();
    for (key, text) in list {
        let count = || {
            text.parse::<u32>()
                .map_err(|_| bad(format!("'{text}' is not a number")))
        };
        let result = match key.as_str() {
            "ingress" => rate(text).map(|r| limits.ingress = Some(r)),
            "egress" => rate(text).map(|r| limits.egress = Some(r)),
            "broadcast" => rate(text).map(|r| limits.broadcast = Some(r)),
            "new-flows" => rate(text).map(|r| limits.new_flows = Some(r)),
            "macs" => count().map(|n| limits.macs = Some(n)),
            "flows" => count().map(|n| limits.flows = Some(n)),
            _ => Err(bad(
                "there are ingress, egress, broadcast, new-flows, macs and flows",
            )),
        };
        result.map_err(|p| bad(format!("limit {key}: {}", p.message)).at("limits"))?;
    }
    Ok(limits)
}

/// Reads `RATE[:BURST]` with K, M or G for thousands, millions and so on; a burst is a second's worth if none is given.
/// A rate of 0 is no limit.
fn rate(text: &str) -> Result<Rate, Problem> {
    let amount = |t: &str| {
        let (digits, factor) = match t.as_bytes().last() {
            Some(b'K' | b'k') => (t.get(..t.len() - 1), 1_000),
            Some(b'M' | b'm') => (t.get(..t.len() - 1), 1_000_000),
            Some(b'G' | b'g') => (t.get(..t.len() - 1), 1_000_000_000),
            _ => (Some(t), 1),
        };
        digits
            .and_then(|d| d.parse::<u64>().ok())
            .and_then(|n| n.checked_mul(factor))
            .filter(|n| *n > 0)
            .ok_or_else(|| bad(format!("'{t}' is not an amount, such as 500, 20K or 10M")))
    };
    if text == "0" {
        return Ok(Rate {
            per_second: 0,
            burst: 0,
        });
    }
    let (per_second, burst) = text.split_once(':').unwrap_or((text, text));
    Ok(Rate {
        per_second: amount(per_second)?,
        burst: amount(burst)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Rule, Problem> {
        let wish = PolicyWish {
            rules: vec![RuleWish::Line(text.to_owned())],
            ..PolicyWish::default()
        };
        parse(&Model::default(), &wish).map(|p| p.rules[0].clone())
    }

    #[test]
    fn lines() {
        let rule = line("ingress allow tcp 10.0.0.0/8 80-90").unwrap();
        assert_eq!(rule.ports, Some((80, 90)));
        assert_eq!(rule.remote, Remote::Prefix([10, 0, 0, 0].into(), 8));
        assert_eq!(line("egress drop").unwrap().remote, Remote::Any);
        let named = line("egress allow udp name:*.Example.com 53").unwrap();
        assert_eq!(named.remote, Remote::Name("*.example.com".to_owned()));
        assert_eq!(line("egress reject tcp 25").unwrap().ports, Some((25, 25)));
        let host = line("egress reject fd00::7").unwrap().remote;
        assert_eq!(host, Remote::Prefix("fd00::7".parse().unwrap(), 128));
    }

    #[test]
    fn lines_that_are_refused() {
        for text in [
            "",
            "inward allow",
            "ingress permit",
            "ingress allow 80",
            "ingress allow icmp any 80",
            "ingress allow tcp 10.0.0.1/8",
            "ingress allow tcp 10.0.0.0/33",
            "ingress allow tcp name: 80",
            "ingress allow tcp any 80 81",
            "ingress allow tcp any 0",
            "ingress allow sctp",
            "ingress allow tcp any 90-80",
        ] {
            let problem = line(text).unwrap_err();
            assert_eq!(problem.code, Code::BadPolicy, "{text}");
            assert_eq!(problem.field.as_deref(), Some("rules.0"), "{text}");
        }
        let unknown = line("ingress allow network:nowhere").unwrap_err();
        assert_eq!(unknown.code, Code::UnknownNetwork);
    }

    #[test]
    fn amounts() {
        assert_eq!(
            rate("10M:64K").unwrap(),
            Rate {
                per_second: 10_000_000,
                burst: 64_000
            }
        );
        assert_eq!(rate("5").unwrap().burst, 5);
        assert_eq!(rate("0").unwrap().per_second, 0);
        for text in ["", "0:5", "5:0", "0K", "M", "-1", "1:", "99999999999G"] {
            assert!(rate(text).is_err(), "{text}");
        }
        let unknown = limits(&[("speed".to_owned(), "1".to_owned())]).unwrap_err();
        assert_eq!(unknown.field.as_deref(), Some("limits"));
    }
}
