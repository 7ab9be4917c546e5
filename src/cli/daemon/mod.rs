//! Commands that ask the daemon: `weft network`, `endpoint`, `publish`, `service`, `policy`, `peer`, `apply`, `show`, `down`;
//! and `weft check` and `weft key`, which ask nobody.

mod args;
mod check;
pub(super) mod peer;
mod table;
#[cfg(test)]
mod tests;
mod up;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::topology::TopologyFile;
use crate::control::client::{Client, refusal, step};
use crate::control::proto::{
    Applied, Endpoint, GroupTable, Info, Named, Network, Policy, Pruned, Publish, Service, Station,
};
use crate::control::serve::default_socket;
use crate::control::show::{DropRow, FlowRow, StatRow, WorkerRow};

pub use args::{
    ApplyArgs, CheckArgs, DaemonCommand, EndpointCommand, KeyCommand, NetworkCommand, Output,
    PeerAddArgs, PeerCommand, PolicyCommand, PolicyScopeArgs, PublishCommand, ServiceCommand,
    ShowCommand,
};
pub use check::check;
pub use up::{UpArgs, up};

/// Does what a command says, on `out`. Errors: the daemon's refusals, or that none listens.
pub fn run(command: &DaemonCommand, out: &mut dyn Write) -> Result<ExitCode> {
    match command {
        DaemonCommand::Network { command, output } => Session::new(output, out).network(command),
        DaemonCommand::Endpoint { command, output } => Session::new(output, out).endpoint(command),
        DaemonCommand::Publish { command, output } => Session::new(output, out).publish(command),
        DaemonCommand::Service { command, output } => Session::new(output, out).service(command),
        DaemonCommand::Policy { command, output } => Session::new(output, out).policy(command),
        DaemonCommand::Peer { command, output } => Session::new(output, out).peer(command),
        DaemonCommand::Key { command } => peer::key(command, out),
        DaemonCommand::Apply { args, output } => Session::new(output, out).apply(args),
        DaemonCommand::Check(args) => check_file(&args.file),
        DaemonCommand::Show { command, output } => Session::new(output, out).table(command),
        DaemonCommand::Down { output } => Session::new(output, out).down(),
    }
}

/// How long a switch may take to end, and between two looks.
const DOWN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// A daemon, and how answers are shown.
#[allow(
    missing_debug_implementations,
    reason = "it writes to whatever it is given"
)]
pub struct Session<'a> {
    client: Client,
    json: bool,
    out: &'a mut dyn Write,
}

impl<'a> Session<'a> {
    /// A session with the daemon that the options name, shown on `out`.
    pub fn new(output: &Output, out: &'a mut dyn Write) -> Self {
        let socket: PathBuf = output.socket.clone().unwrap_or_else(default_socket);
        Self {
            client: Client::new(&socket),
            json: output.json,
            out,
        }
    }

    fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "{text}").or_else(|e| {
            // A reader that went away has what it wanted.
            (e.kind() == io::ErrorKind::BrokenPipe)
                .then_some(())
                .ok_or(e)
        })?;
        Ok(())
    }

    /// Shows what a path answers: as it came, or in a table.
    fn show<T: DeserializeOwned>(
        &mut self,
        path: &str,
        heads: &[&str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> Result<()> {
        if self.json {
            let value: Value = self.client.get(path)?;
            return self.value(&value);
        }
        let rows: Vec<T> = self.client.get(path)?;
        let rows = rows.iter().map(row).collect();
        self.line(&table::render(heads, rows))
    }

    fn value(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.line(&text)
    }

    /// One thing in full is JSON either way: every key has its name.
    fn inspect(&mut self, path: &str) -> Result<()> {
        let value: Value = self.client.get(path)?;
        self.value(&value)
    }

    /// Makes something and tells its name, or with `--json` all of it.
    fn make<T: DeserializeOwned + Serialize>(
        &mut self,
        method: &str,
        path: &str,
        body: &impl Serialize,
        tell: impl Fn(&T) -> (String, Vec<String>),
    ) -> Result<()> {
        let made: T = self.client.send(method, path, Some(body))?;
        if self.json {
            return self.value(&made);
        }
        let (text, warnings) = tell(&made);
        for warning in warnings {
            super::exit::complain(format_args!("warning: {warning}"));
        }
        self.line(&text)
    }

    /// `weft network`. Errors: the daemon's, or none listens; so below.
    pub fn network(&mut self, command: &NetworkCommand) -> Result<ExitCode> {
        match command {
            NetworkCommand::Create(wish) => {
                self.make("POST", "/v1/networks", wish, |n: &Network| {
                    (n.name.clone(), n.warnings.clone())
                })?;
            }
            NetworkCommand::Ls => self.show("/v1/networks", table::NETWORK, table::network)?,
            NetworkCommand::Inspect { name } => {
                self.inspect(&format!("/v1/networks/{}", step(name)))?;
            }
            NetworkCommand::Rm { names } => {
                let all: Vec<Network> = self.client.get("/v1/networks")?;
                let goes = |name: &&String| {
                    let mut all = all.iter();
                    all.any(|n| n.name == **name && n.endpoints.is_empty() && n.services.is_empty())
                };
                for name in refused_first(names, goes) {
                    self.client
                        .delete(&format!("/v1/networks/{}", step(name)))?;
                }
            }
            NetworkCommand::Prune => {
                let body = None::<&()>;
                let pruned: Pruned = self.client.send("POST", "/v1/networks/prune", body)?;
                if self.json {
                    self.value(&pruned)?;
                } else {
                    for name in pruned.removed {
                        self.line(&name)?;
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// `weft endpoint`.
    pub fn endpoint(&mut self, command: &EndpointCommand) -> Result<ExitCode> {
        match command {
            EndpointCommand::Connect(wish) => {
                self.make("POST", "/v1/endpoints", &**wish, |e: &Endpoint| {
                    (table::connected(e), e.warnings.clone())
                })?;
            }
            EndpointCommand::Disconnect { network, sandbox } => {
                self.client.delete(&endpoint_path(network, sandbox))?;
            }
            EndpointCommand::Ls { network } => {
                let path = of_network("/v1/endpoints", network.as_deref());
                self.show(&path, table::ENDPOINT, table::endpoint)?;
            }
            EndpointCommand::Inspect { network, sandbox } => {
                self.inspect(&endpoint_path(network, sandbox))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// `weft publish`.
    pub fn publish(&mut self, command: &PublishCommand) -> Result<ExitCode> {
        match command {
            PublishCommand::Add(wish) => {
                let tell = |rules: &Vec<Publish>| {
                    let lines = rules.iter().map(|r| format!("{} {}", r.id, r.rule));
                    (lines.collect::<Vec<_>>().join("\n"), Vec::new())
                };
                self.make("POST", "/v1/publishes", wish, tell)?;
            }
            PublishCommand::Ls => self.show("/v1/publishes", table::PUBLISH, table::publish)?,
            PublishCommand::Rm { ids } => {
                let all: Vec<Publish> = self.client.get("/v1/publishes")?;
                for id in refused_first(ids, |id| all.iter().any(|p| p.id.0 == **id)) {
                    self.client.delete(&format!("/v1/publishes/{id}"))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// `weft service`.
    pub fn service(&mut self, command: &ServiceCommand) -> Result<ExitCode> {
        let tell = |s: &Service| {
            let all: Vec<_> = s.addresses.iter().map(ToString::to_string).collect();
            (format!("{} {}", s.name, all.join(" ")), Vec::new())
        };
        match command {
            ServiceCommand::Create(wish) => self.make("POST", "/v1/services", wish, tell)?,
            ServiceCommand::Set(wish) => self.make("PUT", "/v1/services", wish, tell)?,
            ServiceCommand::Ls { network } => {
                let path = of_network("/v1/services", network.as_deref());
                self.show(&path, table::SERVICE, table::service)?;
            }
            ServiceCommand::Rm { network, name } => {
                let (network, name) = (step(network), step(name));
                self.client
                    .delete(&format!("/v1/networks/{network}/services/{name}"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// `weft policy`.
    pub fn policy(&mut self, command: &PolicyCommand) -> Result<ExitCode> {
        let path = |scope: &PolicyScopeArgs| match &scope.sandbox {
            None => format!("/v1/networks/{}/policy", step(&scope.network)),
            Some(sandbox) => format!("{}/policy", endpoint_path(&scope.network, sandbox)),
        };
        match command {
            PolicyCommand::Set { scope, wish } => {
                let wish = wish.as_ref();
                let tell = |p: &Policy| {
                    let count = p.policy.rules.len();
                    let s = if count == 1 { "" } else { "s" };
                    (format!("{count} rule{s}"), Vec::new())
                };
                self.make("PUT", &path(scope), wish, tell)?;
            }
            PolicyCommand::Show { scope } => self.inspect(&path(scope))?,
            PolicyCommand::Rm { scope } => self.client.delete(&path(scope))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// `weft apply`. Errors: also those of the file, with line and column.
    pub fn apply(&mut self, args: &ApplyArgs) -> Result<ExitCode> {
        let file = TopologyFile::load(&args.file)?;
        let path = if args.dry_run {
            "/v1/apply?dry-run=true"
        } else {
            "/v1/apply"
        };
        let sent = self.client.send("POST", path, Some(&file.topology));
        let applied: Applied = sent.map_err(|e| match refusal(&e) {
            Some(problem) if problem.field.is_some() => file.point(problem).into(),
            _ => e,
        })?;
        if self.json {
            self.value(&applied)?;
            return Ok(ExitCode::SUCCESS);
        }
        for warning in &applied.warnings {
            super::exit::complain(format_args!("warning: {warning}"));
        }
        for change in &applied.changes {
            self.line(&table::change(change))?;
        }
        if applied.changes.is_empty() {
            self.line("nothing differs")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// `weft show`.
    pub fn table(&mut self, command: &ShowCommand) -> Result<ExitCode> {
        match command {
            ShowCommand::Macs { network } => {
                let path = of_network("/v1/show/macs", network.as_deref());
                self.show::<Named<Station>>(&path, table::MAC, table::mac)?;
            }
            ShowCommand::Groups { network } => {
                let path = of_network("/v1/show/groups", network.as_deref());
                let groups: GroupTable = self.client.get(&path)?;
                if self.json {
                    self.value(&groups)?;
                } else {
                    self.line(&table::render(table::GROUP, table::groups(&groups)))?;
                }
            }
            ShowCommand::Flows { limit } => {
                let path = format!("/v1/show/flows?limit={limit}");
                self.show::<Named<FlowRow>>(&path, table::FLOW, table::flow)?;
            }
            ShowCommand::Drops => {
                self.show::<DropRow>("/v1/show/drops", table::DROP, table::drops)?;
            }
            ShowCommand::Stats => {
                self.show::<Named<StatRow>>("/v1/show/stats", table::STAT, table::stat)?;
            }
            ShowCommand::Workers => {
                self.show::<WorkerRow>("/v1/show/workers", table::WORKER, table::worker)?;
            }
            ShowCommand::Peers => self.peers()?,
            ShowCommand::Daemon => {
                let info: Info = self.client.get("/v1/info")?;
                if self.json {
                    self.value(&info)?;
                } else {
                    self.line(&format!("weft {}, process {}", info.version, info.pid))?;
                    for note in info.notes {
                        self.line(&note)?;
                    }
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// `weft down`.
    pub fn down(&mut self) -> Result<ExitCode> {
        self.client
            .bytes("POST", "/v1/down", None::<&()>)
            .context("ending the switch")?;
        // It has ended when its socket is gone, which is the last thing that it removes.
        for _ in 0..DOWN.as_millis() / LOOK.as_millis() {
            if !self.client.path().exists() {
                return Ok(ExitCode::SUCCESS);
            }
            std::thread::sleep(LOOK);
        }
        bail!(
            "the switch has not ended within {} s; see its log",
            DOWN.as_secs()
        )
    }
}

fn endpoint_path(network: &str, sandbox: &str) -> String {
    let (network, sandbox) = (step(network), step(sandbox));
    format!("/v1/networks/{network}/endpoints/{sandbox}")
}

/// Each thing once, and before all others those that will not go: so nothing has gone when the first is refused.
fn refused_first<T: Ord>(things: &[T], goes: impl Fn(&&T) -> bool) -> Vec<&T> {
    let mut all: Vec<&T> = things.iter().collect();
    all.sort_unstable();
    all.dedup();
    all.sort_by_key(goes);
    all
}

fn of_network(path: &str, network: Option<&str>) -> String {
    network.map_or_else(
        || path.to_owned(),
        |n| format!("{path}?network={}", step(n)),
    )
}

/// `weft check FILE`: reads it and plans it against nothing. Exit code 0 if it can be applied.
/// Errors: one line with path, line and column.
pub fn check_file(path: &Path) -> Result<ExitCode> {
    check(&TopologyFile::load(path)?)?;
    Ok(ExitCode::SUCCESS)
}
