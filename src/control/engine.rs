//! One request after the other: planned, written, carried out, answered.
//!
//! What has gathered while a batch was written is the next batch: one transaction for all of it. If the data plane refuses
//! a change, that one is undone, its place in the store too, and those planned after it, which may rest on it, are planned
//! anew.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::diff::{self, Done, Step};
use super::identity::Identity;
use super::ids::{EndpointId, NetworkId, PeerId, PublishId};
use super::model::Model;
use super::plan::{self, Facts};
use super::plane::{Plane, PlaneError, PlaneEvent};
use super::proto::{Reply, Request};
use super::spec::{Interface, PortFailure, Sandbox};
use super::store::Store;
use super::{answer, request};
use crate::config::wish::EndpointWish;
use crate::config::{Code, Problem};

/// Requests that become one transaction at most: with more, the first would wait for the last one's interface.
const BATCH: usize = 64;

/// A request with the one who waits for its answer.
#[derive(Debug)]
pub struct Job {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Reply, Problem>>,
}

/// What is known of things beside what the store keeps: it ends with the daemon.
#[derive(Debug, Default)]
pub struct Runtime {
    /// Networks that are not up, with the reason.
    pub networks_down: BTreeMap<NetworkId, String>,
    /// Endpoints that are not up, with the reason.
    pub endpoints_down: BTreeMap<EndpointId, String>,
    /// Peers that are not up, with the reason.
    pub peers_down: BTreeMap<PeerId, String>,
    /// Interfaces as they were made.
    pub interfaces: BTreeMap<EndpointId, Interface>,
    /// Ports that could not be had.
    pub failed: BTreeMap<PublishId, Vec<PortFailure>>,
    /// What the user should know, one sentence each.
    pub notes: VecDeque<String>,
}

/// Notes that are kept.
const NOTES: usize = 64;

impl Runtime {
    /// Keeps a sentence for `weft show`, and logs it.
    pub fn note(&mut self, text: String) {
        warn!("{text}");
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(text);
    }
}

/// Control: the model, the store and the data plane, which it keeps alike.
#[derive(Debug)]
pub struct Engine<P> {
    pub(super) plane: P,
    pub(super) store: Store,
    /// What is in force, and in the store.
    pub(super) model: Model,
    pub(super) runtime: Runtime,
    pub(super) facts: Facts,
    pub(super) identity: Identity,
    /// A request asked for the end.
    pub(super) ending: bool,
}

/// A change that is planned and not carried out.
struct Draft {
    job: Job,
    model: Model,
    reply: request::Told,
}

impl<P: Plane> Engine<P> {
    /// Puts the three together: the data plane must hold what `model` says.
    pub fn new(
        plane: P,
        store: Store,
        model: Model,
        runtime: Runtime,
        facts: Facts,
        identity: Identity,
    ) -> Self {
        Self {
            plane,
            store,
            model,
            runtime,
            facts,
            identity,
            ending: false,
        }
    }

    /// What is in force.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Readable when the data plane has something to tell.
    pub fn event_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.plane.event_fd()
    }

    /// A request has asked for the end.
    #[must_use]
    pub fn ending(&self) -> bool {
        self.ending
    }

    /// Answers requests, in their order. Every change is on the disk before its answer.
    pub async fn handle(&mut self, jobs: impl IntoIterator<Item = Job>) {
        let mut waiting: VecDeque<Job> = jobs.into_iter().collect();
        while !waiting.is_empty() {
            let drafts = self.draft(&mut waiting);
            let again = self.carry(drafts).await;
            for job in again.into_iter().rev() {
                waiting.push_front(job);
            }
        }
    }

    /// Plans as many requests as make a batch. Questions and refusals are answered here; a question waits for the changes
    /// before it, so that it sees them. So does a new key, which cannot be undone.
    fn draft(&mut self, waiting: &mut VecDeque<Job>) -> Vec<Draft> {
        let mut drafts: Vec<Draft> = Vec::new();
        while let Some(mut job) = waiting.pop_front() {
            let leads = request::asks(&job.request) || matches!(job.request, Request::RenewKey);
            if drafts.len() == BATCH || (leads && !drafts.is_empty()) {
                waiting.push_front(job);
                break;
            }
            if let Err(problem) = self.gather(&mut job.request) {
                // Whoever asked may have gone; so below.
                let _ = job.answer.send(Err(problem));
                continue;
            }
            if request::asks(&job.request) {
                self.answer(job);
                continue;
            }
            let mut model = drafts.last().map_or(&self.model, |d| &d.model).clone();
            let mut identify =
                |model: &Model, wish: &EndpointWish| identify(&mut self.plane, model, wish);
            let planned = request::plan(&mut model, &self.facts, &job.request, &mut identify);
            let planned = planned.and_then(|told| {
                if request::needs_key(&job.request) {
                    self.identity.tell(&mut self.plane)?;
                }
                Ok(told)
            });
            match planned {
                Ok(reply) => drafts.push(Draft { job, model, reply }),
                Err(problem) => drop(job.answer.send(Err(problem))),
            }
        }
        drafts
    }

    /// Answers a question: at once, or when another host has answered it, while others are served.
    fn answer(&mut self, job: Job) {
        let Request::Ping(name) = &job.request else {
            let reply = answer::ask(self, &job.request);
            let _ = job.answer.send(reply);
            return;
        };
        match answer::ping(self, name) {
            Ok(told) => drop(tokio::spawn(async {
                let _ = job.answer.send(Ok(answer::pong(told).await));
            })),
            Err(problem) => drop(job.answer.send(Err(problem))),
        }
    }

    /// Looks up what the plan of a request depends on. Errors: the host has no key, and cannot have one.
    fn gather(&mut self, request: &mut Request) -> Result<(), Problem> {
        self.facts.now = self.plane.now();
        if request::chooses_subnets(request) {
            self.facts.routes = self.plane.host_routes();
        }
        if request::meets_hosts(request) {
            self.facts.underlay = self.plane.underlay(&request::ways(&self.model, request));
        }
        if request::needs_key(request) {
            self.facts.key = Some(self.identity.need()?);
        }
        if matches!(request, Request::RenewKey) {
            if self.identity.renew(&mut self.plane)? {
                self.facts.key = self.identity.known();
            } else {
                // It is the same: there is nothing to do but to tell which.
                *request = Request::Key;
            }
        }
        Ok(())
    }

    /// Writes drafts, carries them out and answers. Gives the jobs that must be planned anew.
    async fn carry(&mut self, drafts: Vec<Draft>) -> Vec<Job> {
        let Some(last) = drafts.last() else {
            return Vec::new();
        };
        let written = last.model.clone();
        if let Err(e) = self.store.commit(diff::writes(&self.model, &written)).await {
            let problem = Problem::new(Code::Store, e.to_string());
            for draft in drafts {
                let _ = draft.job.answer.send(Err(problem.clone()));
            }
            return Vec::new();
        }
        let mut done = Vec::new();
        let mut again = Vec::new();
        let mut refused = None;
        for draft in drafts {
            if refused.is_some() {
                again.push(draft.job);
                continue;
            }
            match self.run(&draft.model) {
                Ok(()) => done.push((draft.job, draft.reply)),
                Err(problem) => refused = Some((draft.job, problem)),
            }
        }
        let settled = self.plane.settle().map_err(|e| problem(&e));
        // Numbers are never given out again, also those of what was undone.
        self.model.counters = written.counters.clone();
        let amended = self.store.commit(diff::writes(&written, &self.model)).await;
        let amended = amended.map_err(|e| Problem::new(Code::Store, e.to_string()));
        let after = settled.and(amended);
        for (job, told) in done {
            let reply = after.clone().map(|()| answer::tell(self, told));
            let _ = job.answer.send(reply);
        }
        if let Some((job, problem)) = refused {
            let _ = job.answer.send(Err(problem));
        }
        again
    }

    /// Makes the data plane what `next` says, or leaves it as it was.
    fn run(&mut self, next: &Model) -> Result<(), Problem> {
        let steps = diff::steps(&self.model, next);
        let mut next = next.clone();
        let mut undo: Vec<Step> = Vec::new();
        for step in steps {
            let outcome = step.run(&mut self.plane).map_err(|e| problem(&e));
            let outcome = outcome.and_then(|done| self.note_done(done, &mut next, &mut undo));
            if let Err(problem) = outcome {
                debug!(?step, %problem, "refused; undoing {} steps", undo.len());
                self.undo(undo);
                return Err(problem);
            }
            undo.push(step.inverse());
        }
        self.put_in_force(next);
        Ok(())
    }

    /// Undoes steps, the last first. What cannot be undone is told and left.
    fn undo(&mut self, steps: Vec<Step>) {
        for step in steps.into_iter().rev() {
            let runtime = &mut self.runtime;
            match step.run(&mut self.plane) {
                Ok(Done::Interface(id, interface)) => {
                    runtime.interfaces.insert(id, interface);
                }
                Ok(Done::Published(spec, published)) => {
                    if !published.failed.is_empty() {
                        runtime.failed.insert(spec.id, published.failed);
                    }
                }
                Ok(Done::Plain) => {
                    if let Step::Endpoint(Some(gone), None) = &step {
                        runtime.interfaces.remove(&gone.id);
                    } else if let Step::Publish(Some(gone), None) = &step {
                        runtime.failed.remove(&gone.id);
                    }
                }
                Err(e) => runtime.note(format!("undoing a change that failed: {e}")),
            }
        }
    }

    /// Takes note of what came of a step. Errors: `PortTaken` for ports that a new rule could not have; they are free again.
    fn note_done(
        &mut self,
        done: Done,
        next: &mut Model,
        undo: &mut Vec<Step>,
    ) -> Result<(), Problem> {
        match done {
            Done::Plain => Ok(()),
            Done::Interface(id, interface) => {
                self.runtime.endpoints_down.remove(&id);
                self.runtime.interfaces.insert(id, interface);
                Ok(())
            }
            Done::Published(spec, published) => {
                let known = self.model.publishes.contains_key(&spec.id);
                if let Some(first) = published.failed.first()
                    && !known
                {
                    let count = published.failed.len();
                    let more = if count > 1 {
                        format!(" ({} more ports of the rule cannot be had)", count - 1)
                    } else {
                        String::new()
                    };
                    undo.push(Step::Publish(Some(spec), None));
                    let message = format!("{}{more}", first.message);
                    return Err(Problem::new(Code::PortTaken, message).at("ports"));
                }
                answer::publish_outcome(&mut self.runtime, next, spec.id, published);
                Ok(())
            }
        }
    }

    /// Takes a model that the data plane is alike to, and forgets what was known of things that are gone.
    fn put_in_force(&mut self, mut next: Model) {
        // Their interfaces are gone by now.
        next.leaving.clear();
        let old = std::mem::replace(&mut self.model, next);
        let (new, runtime) = (&self.model, &mut self.runtime);
        for (id, _, now) in old.networks.changed(&new.networks) {
            if now.is_none() {
                runtime.networks_down.remove(&id);
            }
        }
        for (id, _, now) in old.endpoints.changed(&new.endpoints) {
            if now.is_none() {
                runtime.endpoints_down.remove(&id);
                runtime.interfaces.remove(&id);
            }
        }
        for (id, ..) in old.peers.changed(&new.peers) {
            runtime.peers_down.remove(&id);
        }
        for (id, _, now) in old.publishes.changed(&new.publishes) {
            if now.is_none() {
                runtime.failed.remove(&id);
            }
        }
    }

    /// Takes what the data plane tells unasked: an endpoint whose sandbox has ended goes, and the store forgets it.
    /// Errors: the data plane has ended; the store cannot be written.
    pub async fn events(&mut self) -> Result<(), Problem> {
        let mut next = self.model.clone();
        while let Some(event) = self.plane.next_event() {
            match event {
                PlaneEvent::SandboxGone(id) => {
                    if let Some(gone) = next.endpoints.get(&id) {
                        debug!(sandbox = gone.name, "the sandbox has ended");
                    }
                    plan::forget(&mut next, id);
                }
                PlaneEvent::LinkLost(id) => {
                    if let Some(e) = next.endpoints.get(&id) {
                        let why = format!("its interface {} was removed", e.spec.ifname);
                        self.runtime.note(format!("sandbox '{}': {why}", e.name));
                        self.runtime.endpoints_down.insert(id, why);
                    }
                }
                PlaneEvent::LoopDamped { network, mac } => {
                    let name = next.network_name(network);
                    self.runtime.note(format!(
                        "network '{name}': {mac} moves between sandboxes again and again and is damped"
                    ));
                }
                PlaneEvent::PeerJoined { peer, key } => {
                    if let Some(name) = plan::joined(&mut next, peer, key) {
                        self.runtime.note(format!(
                            "peer '{name}' has taken its invite: its key is {key}"
                        ));
                    }
                }
                PlaneEvent::PeerSeen { peer, at } => plan::seen(&mut next, peer, at),
                PlaneEvent::PeerProblem { peer, problem } => {
                    if let Some(p) = next.peers.get(&peer) {
                        self.runtime
                            .note(format!("peer '{}': {problem}", p.wish.name));
                    }
                }
                PlaneEvent::Ended(why) => return Err(Problem::new(Code::Ending, why)),
            }
        }
        self.follow(next).await
    }

    /// Takes invites away that nobody has taken in time. Errors: as of [`Self::events`].
    pub async fn expire(&mut self) -> Result<(), Problem> {
        let mut next = self.model.clone();
        for name in plan::expire(&mut next, self.plane.now()) {
            let text = format!("the invite of peer '{name}' has expired, and nobody has taken it");
            self.runtime.note(text);
        }
        self.follow(next).await
    }

    /// In how long the next invite expires. Units: seconds.
    pub fn expires(&mut self) -> Option<u64> {
        let all = self.model.peers.values();
        let next = all.filter_map(|p| p.carrier.expires()).min()?;
        Some(next.saturating_sub(self.plane.now()))
    }

    /// Takes over a model that has changed unasked. Errors: the data plane has ended; the store cannot be written.
    async fn follow(&mut self, next: Model) -> Result<(), Problem> {
        let writes = diff::writes(&self.model, &next);
        if writes.is_empty() {
            return Ok(());
        }
        let store = |e: super::store::StoreError| Problem::new(Code::Store, e.to_string());
        self.store.commit(writes).await.map_err(store)?;
        // What is gone cannot be refused; what else fails is told.
        for step in diff::steps(&self.model, &next) {
            if let Err(e) = step.run(&mut self.plane) {
                self.runtime.note(format!("after something has gone: {e}"));
            }
        }
        let written = next.clone();
        self.put_in_force(next);
        let amended = diff::writes(&written, &self.model);
        self.store.commit(amended).await.map_err(store)?;
        self.plane.settle().map_err(|e| problem(&e))
    }

    /// Ends: interfaces leave the sandboxes, the store keeps everything.
    /// Errors: the data plane's.
    pub fn shut_down(&mut self) -> Result<(), PlaneError> {
        let ids: Vec<_> = self.model.endpoints.keys().copied().collect();
        if let Err(e) = self.plane.detach_endpoints(&ids) {
            warn!("detaching endpoints: {e}");
        }
        self.plane.shut_down()
    }
}

/// Whom an endpoint's text means. Errors: `BadSandbox`, `UnknownSandbox`, `SandboxGone`, `NotPermitted`.
pub(super) fn identify<P: Plane>(
    plane: &mut P,
    model: &Model,
    wish: &EndpointWish,
) -> Result<Sandbox, Problem> {
    let (at, known) = plan::parse_sandbox(model, &wish.sandbox)?;
    let ended = || {
        let message = format!("sandbox '{}' has ended", wish.sandbox);
        Problem::new(Code::SandboxGone, message).at("sandbox")
    };
    if known.as_ref().is_some_and(|known| plane.is_replaced(known)) {
        return Err(ended());
    }
    let found = plane.identify(&at).map_err(|e| problem(&e).at("sandbox"))?;
    match known {
        Some(known) if known != found => Err(ended()),
        _ => Ok(found),
    }
}

/// The data plane's refusal, for whoever asked.
pub(super) fn problem(error: &PlaneError) -> Problem {
    let code = match error {
        PlaneError::SandboxGone(_) => Code::SandboxGone,
        PlaneError::NotPermitted(_) => Code::NotPermitted,
        PlaneError::InterfaceExists(_) => Code::InterfaceExists,
        PlaneError::Full { .. } => Code::Full,
        PlaneError::Unsupported(_) => Code::Unsupported,
        PlaneError::Ended(_) => Code::Ending,
        PlaneError::NoNetwork(_)
        | PlaneError::NoEndpoint(_)
        | PlaneError::NoPublish(_)
        | PlaneError::NoService(_)
        | PlaneError::NoPeer(_)
        | PlaneError::InterfaceMissing(_)
        | PlaneError::Refused { .. } => Code::Refused,
    };
    Problem::new(code, error.to_string())
}
