//! `weft check`: would a file be accepted, as far as can be told without a daemon.

use std::collections::HashMap;

use anyhow::Result;

use crate::config::topology::TopologyFile;
use crate::config::wish::EndpointWish;
use crate::config::{HostFacts, Problem};
use crate::control::model::Model;
use crate::control::plan::{self, Facts};
use crate::control::spec::{Sandbox, SandboxRef};

/// Plans a file against an empty switch. Sandboxes need not be there: each text stands for one of its own.
/// Errors: the refusal with its line and column.
pub fn check(file: &TopologyFile) -> Result<()> {
    let host = HostFacts::gather()?;
    let facts = Facts {
        routes: host.routes,
        descriptors: host.descriptors,
        underlay: crate::config::way::underlay(&[]),
        ..Facts::default()
    };
    let mut seen: HashMap<SandboxRef, u64> = HashMap::new();
    let mut identify = |model: &Model, wish: &EndpointWish| -> Result<Sandbox, Problem> {
        let (at, known) = plan::parse_sandbox(model, &wish.sandbox)?;
        if let Some(known) = known {
            return Ok(known);
        }
        let next = seen.len() as u64 + 1;
        let inode = *seen.entry(at.clone()).or_insert(next);
        Ok(Sandbox {
            at,
            start_time: None,
            netns: (0, inode),
        })
    };
    let mut model = Model::default();
    let mut warnings = Vec::new();
    plan::apply(
        &mut model,
        &facts,
        &file.topology,
        &mut identify,
        &mut warnings,
    )
    .map_err(|problem| file.point(&problem))?;
    for warning in warnings {
        crate::cli::exit::complain(format_args!("warning: {warning}"));
    }
    Ok(())
}
