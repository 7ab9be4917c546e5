//! `weft.toml`: networks, peers, endpoints, publishes and services as a person writes them, and the place of what is wrong in it.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::place;
use super::problem::{Code, Problem};
use super::wish::{EndpointWish, NetworkWish, PeerWish, PublishWish, ServiceWish};

/// Threads that carry packets, at most.
pub const WORKERS: u16 = 8;

/// Everything in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Topology {
    /// Settings of the daemon itself.
    pub daemon: DaemonWish,
    /// Networks.
    pub network: Vec<NetworkWish>,
    /// Peers: other hosts.
    pub peer: Vec<PeerWish>,
    /// Endpoints.
    pub endpoint: Vec<EndpointWish>,
    /// Published ports.
    pub publish: Vec<PublishWish>,
    /// Services.
    pub service: Vec<ServiceWish>,
}

/// Settings of the daemon itself, read when it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DaemonWish {
    /// Worker threads [default: half the cores, 1 to 8]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u16>,
    /// A port on the host's loopback for metrics [default: none]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_port: Option<u16>,
}

impl DaemonWish {
    /// Errors: `BadOption` for a number that cannot be used.
    pub fn check(&self) -> Result<(), Problem> {
        let refused =
            |field: &str, message: String| Err(Problem::new(Code::BadOption, message).at(field));
        match (self.workers, self.metrics_port) {
            (Some(n), _) if !(1..=WORKERS).contains(&n) => {
                refused("workers", format!("workers {n}: give 1 to {WORKERS}"))
            }
            (_, Some(0)) => {
                let message = "metrics-port 0: nobody would know which; give 1 to 65535";
                refused("metrics-port", message.to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// A file's text with what it says.
#[derive(Debug, Clone)]
pub struct TopologyFile {
    shown: String,
    text: String,
    /// What it says.
    pub topology: Topology,
}

impl TopologyFile {
    /// Reads a file. Errors: one line with path, line and column.
    pub fn load(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("config {shown}"))?;
        Self::parse(text, shown).map_err(anyhow::Error::new)
    }

    /// Reads a text that is called `shown` in errors.
    /// Errors: one line with the name, line and column.
    pub fn parse(text: String, shown: String) -> Result<Self, Problem> {
        match toml::from_str::<Topology>(&text) {
            Ok(topology) => {
                let file = Self {
                    shown,
                    text,
                    topology,
                };
                let checked = file.topology.daemon.check();
                checked.map_err(|p| file.point(&p.inside("daemon")))?;
                Ok(file)
            }
            Err(e) => {
                let (line, column) = place(&text, e.span().map_or(0, |s| s.start));
                let message = e.message().lines().collect::<Vec<_>>().join(", ");
                Err(Problem::new(
                    Code::BadRequest,
                    format!("config {shown}:{line}:{column}: {message}"),
                ))
            }
        }
    }

    /// Points a refusal of something in this file at its line and column.
    #[must_use]
    pub fn point(&self, problem: &Problem) -> Problem {
        let field = problem.field.as_deref().unwrap_or_default();
        let (line, column) = place(&self.text, self.offset(field));
        Problem {
            message: format!("config {}:{line}:{column}: {}", self.shown, problem.message),
            ..problem.clone()
        }
    }

    /// Where a key such as `network.web.subnet` or `endpoint.2.ip` is written; the nearest table if it is not.
    fn offset(&self, path: &str) -> usize {
        let Ok(root) = DeTable::parse(&self.text) else {
            return 0;
        };
        let mut at = 0;
        let mut here: Option<&DeValue<'_>> = None;
        for (depth, step) in path.split('.').enumerate() {
            let next: Option<(usize, &Spanned<DeValue<'_>>)> = match (depth, here) {
                (0, _) => entry(root.get_ref(), step),
                (_, Some(DeValue::Table(table))) => entry(table, step),
                (_, Some(DeValue::Array(list))) => step
                    .parse()
                    .ok()
                    .and_then(|i: usize| list.get(i))
                    .map(|v| (v.span().start, v)),
                _ => None,
            };
            let Some((start, value)) = next else { break };
            at = start;
            here = Some(value.get_ref());
        }
        at
    }
}

/// A key's value, with where the key is written.
fn entry<'a, 'b>(table: &'a DeTable<'b>, key: &str) -> Option<(usize, &'a Spanned<DeValue<'b>>)> {
    table
        .iter()
        .find(|(k, _)| k.get_ref() == key)
        .map(|(k, v)| (k.span().start, v))
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
