//! `weft peer`, `weft key` and `weft show peers`.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::args::{KeyCommand, PeerAddArgs, PeerCommand};
use super::{Session, table};
use crate::config::invite::{self, Invite, LONGEST};
use crate::config::life;
use crate::config::wish::AcceptWish;
use crate::control::client::{Client, step};
use crate::control::identity;
use crate::control::key::PublicKey;
use crate::control::proto::{Accepted, Invited, Key, Peer, PeerStatus, Pinged};
use crate::control::serve::{default_socket, default_store};

/// Between two probes.
const PAUSE: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// `weft peer`. Errors: the daemon's, or none listens; what is on the standard input is no invite.
    pub fn peer(&mut self, command: &PeerCommand) -> Result<ExitCode> {
        match command {
            PeerCommand::Invite(wish) => {
                let body = Some(wish);
                let made: Invited = self.client.send("POST", "/v1/invites", body)?;
                if self.json {
                    self.value(&made)?;
                } else {
                    self.line(&format!("weft peer add {}", made.invite))?;
                    let within = made.peer.expires.map(life::show);
                    let within = within.map_or_else(String::new, |w| format!(" within {w}"));
                    crate::cli::exit::complain(format_args!(
                        "peer '{}' is whoever runs this line first{within}; 'weft peer add -' reads it from the standard input, where no list of processes shows it",
                        made.peer.name
                    ));
                }
            }
            PeerCommand::Add(args) => self.add(args)?,
            PeerCommand::Ls => self.show("/v1/peers", table::PEER, table::peer)?,
            PeerCommand::Inspect { name } => {
                self.inspect(&format!("/v1/peers/{}", step(name)))?;
            }
            PeerCommand::Rm { names } => {
                for name in names {
                    self.client.delete(&format!("/v1/peers/{}", step(name)))?;
                }
            }
            PeerCommand::Ping { name, count } => return self.ping(name, *count),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn add(&mut self, args: &PeerAddArgs) -> Result<()> {
        let wish = &args.wish;
        let text = match wish.name.as_str() {
            "-" => Some(read_invite()?),
            text if invite::is_invite(text) => Some(text.to_owned()),
            _ => None,
        };
        let Some(invite) = text else {
            if let Some(name) = &args.rename {
                bail!("--name '{name}': that is for an invite; a peer's name is the first word");
            }
            let tell = |p: &Peer| (p.name.clone(), Vec::new());
            return self.make("POST", "/v1/peers", wish, tell);
        };
        let bare = crate::config::wish::PeerWish {
            name: wish.name.clone(),
            ..Default::default()
        };
        if *wish != bare {
            bail!("an invite says all that there is to say; only --name goes with it");
        }
        // Said here already: a daemon need not be up to see a line that was cut.
        let told: Invite = invite.parse()?;
        let invite = told.reveal();
        let name = args.rename.clone();
        let wish = AcceptWish { invite, name };
        let tell = |a: &Accepted| {
            let made = a.made.iter().map(|n| format!("made network {n}"));
            let lines: Vec<_> = std::iter::once(a.peer.name.clone()).chain(made).collect();
            (lines.join("\n"), a.warnings.clone())
        };
        self.make("POST", "/v1/invites/accept", &wish, tell)
    }

    /// Exit code 1 when no probe was answered.
    fn ping(&mut self, name: &str, count: u32) -> Result<ExitCode> {
        let path = format!("/v1/peers/{}/ping", step(name));
        let mut answered = false;
        for n in 0..count {
            if n > 0 {
                std::thread::sleep(PAUSE);
            }
            let pinged: Pinged = self.client.send("POST", &path, None::<&()>)?;
            answered |= pinged.rtt.is_some();
            if self.json {
                self.value(&pinged)?;
                continue;
            }
            match pinged.rtt {
                Some(us) => self.line(&format!("{name}: {}", table::millis(us)))?,
                None => self.line(&format!("{name}: no answer"))?,
            }
        }
        Ok(if answered {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// `weft show peers`: a table, and below it what is wrong. Errors: the daemon's.
    pub(super) fn peers(&mut self) -> Result<()> {
        let path = "/v1/show/peers";
        if self.json {
            return self.inspect(path);
        }
        let rows: Vec<PeerStatus> = self.client.get(path)?;
        let lines = rows.iter().map(table::peer_status).collect();
        self.line(&table::render(table::PEER_STATUS, lines))?;
        for status in rows {
            for problem in &status.row.problems {
                self.line(&format!("{}: {problem}", status.name))?;
            }
        }
        Ok(())
    }
}

/// Reads an invite from the standard input. Errors: it is a terminal, or cannot be read.
pub(in crate::cli) fn read_invite() -> Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        crate::cli::exit::complain(format_args!("paste the invite, then press Ctrl-D"));
    }
    let mut text = String::new();
    stdin
        .lock()
        .take(LONGEST as u64 + 1)
        .read_to_string(&mut text)
        .context("reading the invite from the standard input")?;
    Ok(text)
}

/// `weft key`: asks no daemon but one whose key is replaced. Errors: the key cannot be read, written or made.
pub(super) fn key(command: &KeyCommand, out: &mut dyn std::io::Write) -> Result<ExitCode> {
    let at = |store: &Option<PathBuf>| identity::path(&store.clone().unwrap_or_else(default_store));
    let key = match command {
        KeyCommand::Show { store } => identity::need(&at(store))?,
        KeyCommand::New {
            store,
            replace,
            socket,
        } => {
            let path = at(store);
            let before = identity::load(&path).ok().flatten();
            let key = identity::make(&path, *replace)?;
            if let Some(before) = before {
                let client = Client::new(&socket.clone().unwrap_or_else(default_socket));
                renew(&client, before.public(), key.public());
            }
            key
        }
    };
    writeln!(out, "{}", key.public())?;
    Ok(ExitCode::SUCCESS)
}

/// Has a switch that is known by the old key take the new one, and tells what that means.
fn renew(client: &Client, before: &PublicKey, now: &PublicKey) {
    let known: Result<Key> = client.get("/v1/key");
    // Without one that runs, or where it has another key file, the file is all that there is to change.
    if !known.is_ok_and(|known| known.key == *before) {
        return;
    }
    let taken: Result<Key> = client.send("POST", "/v1/key", None::<&()>);
    let said = match taken {
        Ok(taken) if taken.key == *now && taken.voided.is_empty() => {
            "the switch has the new key, and no session: peers must be given it, or invited again"
                .to_owned()
        }
        Ok(taken) if taken.key == *now => format!(
            "the switch has the new key, and no session: peers must be given it, or invited again; so must those with an open invite ({})",
            taken.voided.join(", ")
        ),
        Ok(_) => "the switch keeps the old key: its key is another file".to_owned(),
        Err(e) => format!("the switch keeps the old key until its next start: {e:#}"),
    };
    crate::cli::exit::complain(format_args!("{said}"));
}
