//! Coming back: the data plane is made what the store says, and what is not there any more is forgotten.

use super::diff::{self, Done, Step};
use super::engine::{Engine, Runtime};
use super::identity::Identity;
use super::model::{Model, NetworkRecord};
use super::plan::{self, Facts};
use super::plane::{Plane, PlaneError};
use super::spec::{Carrier, EndpointSpec};
use super::store::{Store, StoreError};
use super::{answer, engine};
use crate::config::Problem;
use std::sync::Arc;

/// Why control cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data plane has ended.
    #[error(transparent)]
    Plane(#[from] PlaneError),
}

impl<P: Plane> Engine<P> {
    /// Makes the empty `plane` what `stored` says. What cannot be had is noted and kept down; only endpoints whose sandbox
    /// has ended are forgotten. Interfaces that an earlier daemon has left are taken over.
    /// Errors: the store's; the data plane has ended.
    pub async fn restore(
        mut plane: P,
        store: Store,
        stored: Model,
        mut facts: Facts,
        mut identity: Identity,
    ) -> Result<Self, StartError> {
        facts.routes = plane.host_routes();
        facts.key = identity.known();
        let mut runtime = Runtime::default();
        if sealed(&stored) {
            match identity.tell(&mut plane) {
                Ok(key) => facts.key = Some(key),
                // What needs it is down, and says so.
                Err(problem) => runtime.note(problem.to_string()),
            }
        }
        let mut model = stored.clone();
        let boot = plane.boot_id();
        let rebooted = !model.counters.boot.is_empty() && model.counters.boot != boot;
        model.counters.boot = boot;
        leavers(&mut plane, &mut model, &mut runtime)?;
        survivors(&mut plane, &mut model, rebooted, &mut runtime);
        for name in plan::expire(&mut model, plane.now()) {
            runtime.note(format!(
                "the invite of peer '{name}' has expired, and nobody has taken it"
            ));
        }
        // Those forgotten here have no interface any more: their sandboxes are gone.
        model.leaving.clear();
        // On the disk first: an endpoint that is forgotten must not be found again.
        store.commit(diff::writes(&stored, &model)).await?;
        let before = model.clone();
        for step in diff::steps(&Model::default(), &model) {
            carry(&mut plane, &step, &mut model, &mut runtime)?;
        }
        plane.settle()?;
        store.commit(diff::writes(&before, &model)).await?;
        Ok(Self::new(plane, store, model, runtime, facts, identity))
    }
}

/// True for a model that the host needs its key for.
fn sealed(model: &Model) -> bool {
    let network = |n: &NetworkRecord| n.spec.overlay.map(|o| o.carrier) == Some(Carrier::Sealed);
    model.networks.values().any(|n| network(n))
        || model
            .peers
            .values()
            .any(|p| p.carrier.kind() == Carrier::Sealed)
}

/// Takes away the interfaces of endpoints that were on their way out when an earlier daemon died.
/// Errors: the data plane has ended.
fn leavers<P: Plane>(
    plane: &mut P,
    model: &mut Model,
    runtime: &mut Runtime,
) -> Result<(), PlaneError> {
    for (&id, record) in std::mem::take(&mut model.leaving).iter() {
        let mut take = || {
            plane.add_network(&record.network)?;
            let adopted = plane.adopt_endpoint(&record.endpoint);
            let detached = adopted.and_then(|_| plane.detach_endpoint(id, false));
            plane.remove_network(record.network.id)?;
            detached
        };
        match take() {
            // It went with its sandbox, or before the daemon did.
            Ok(()) | Err(PlaneError::SandboxGone(_) | PlaneError::InterfaceMissing(_)) => {}
            Err(e @ PlaneError::Ended(_)) => return Err(e),
            Err(e) => runtime.note(format!(
                "an interface {} may be left in a sandbox: {e}",
                record.endpoint.ifname
            )),
        }
    }
    Ok(())
}

/// Forgets endpoints whose sandbox has ended. After a boot process ids and inodes mean nothing: a namespace that has a file
/// is looked up again, a process is gone.
fn survivors<P: Plane>(plane: &mut P, model: &mut Model, rebooted: bool, runtime: &mut Runtime) {
    let ids: Vec<_> = model.endpoints.keys().copied().collect();
    for id in ids {
        let Some(record) = model.endpoints.get(&id) else {
            continue;
        };
        let known = record.spec.sandbox.clone();
        let name = record.name.clone();
        let found = plane.identify(&known.at);
        match found {
            Ok(now) if now == known => {}
            Ok(now) if rebooted && known.start_time.is_none() => {
                if let Some(record) = model.endpoints.get_mut(&id) {
                    Arc::make_mut(record).spec.sandbox = now;
                }
            }
            // Another process may be in a network that cannot be looked at.
            Err(e) if !matches!(e, PlaneError::SandboxGone(_)) && !plane.is_replaced(&known) => {
                runtime.endpoints_down.insert(id, e.to_string());
            }
            Ok(_) | Err(_) => {
                runtime.note(format!(
                    "sandbox '{name}' has ended meanwhile; its endpoint is gone"
                ));
                plan::forget(model, id);
            }
        }
    }
}

/// Does one step, and takes a refusal as something to tell. Errors: the data plane has ended.
fn carry<P: Plane>(
    plane: &mut P,
    step: &Step,
    model: &mut Model,
    runtime: &mut Runtime,
) -> Result<(), PlaneError> {
    let result = match step {
        Step::Endpoint(None, Some(spec)) => {
            if runtime.endpoints_down.contains_key(&spec.id)
                || runtime.networks_down.contains_key(&spec.network)
            {
                return Ok(());
            }
            adopt(plane, spec)
        }
        Step::Network(..)
        | Step::Endpoint(..)
        | Step::Policy(..)
        | Step::Names(..)
        | Step::Service(..)
        | Step::Publish(..)
        | Step::Peer(..) => step.run(plane),
    };
    match (result, step) {
        (Ok(Done::Plain), _) => {}
        (Ok(Done::Interface(id, interface)), _) => {
            runtime.interfaces.insert(id, interface);
        }
        (Ok(Done::Published(spec, published)), _) => {
            for failure in &published.failed {
                runtime.note(format!("publish {}: {}", spec.rule, failure.message));
            }
            answer::publish_outcome(runtime, model, spec.id, published);
        }
        (Err(e @ PlaneError::Ended(_)), _) => return Err(e),
        (Err(e), Step::Network(_, Some(spec))) => {
            runtime.note(format!("network '{}' is down: {e}", spec.name));
            runtime.networks_down.insert(spec.id, e.to_string());
        }
        (Err(e), Step::Peer(_, Some(spec))) => {
            runtime.note(format!("peer '{}' is down: {e}", spec.name));
            runtime.peers_down.insert(spec.id, e.to_string());
        }
        (Err(e), Step::Endpoint(_, Some(spec))) => {
            let name = model.endpoints.get(&spec.id).map(|r| r.name.clone());
            let name = name.unwrap_or_default();
            runtime.note(format!("sandbox '{name}' is not connected: {e}"));
            runtime.endpoints_down.insert(spec.id, e.to_string());
        }
        // What belongs to something that is down is down with it, and told with it.
        (Err(PlaneError::NoNetwork(_) | PlaneError::NoEndpoint(_)), _) => {}
        (Err(e), _) => {
            let problem: Problem = engine::problem(&e);
            runtime.note(format!("{}: {problem}", what(step)));
        }
    }
    Ok(())
}

/// Takes over an interface, or makes it anew.
fn adopt<P: Plane>(plane: &mut P, spec: &EndpointSpec) -> Result<Done, PlaneError> {
    let interface = match plane.adopt_endpoint(spec) {
        Err(PlaneError::InterfaceMissing(_)) => plane.attach_endpoint(spec)?,
        other => other?,
    };
    Ok(Done::Interface(spec.id, interface))
}

fn what(step: &Step) -> String {
    match step {
        Step::Network(..) => "a network".to_owned(),
        Step::Endpoint(..) => "an endpoint".to_owned(),
        Step::Policy(..) => "a policy".to_owned(),
        Step::Names(..) => "names".to_owned(),
        Step::Service(..) => "a service".to_owned(),
        Step::Publish(_, spec) => spec
            .as_ref()
            .map_or_else(String::new, |s| format!("publish {}", s.rule)),
        Step::Peer(..) => "a peer".to_owned(),
    }
}
