//! Messages about other hosts.

use serde::{Deserialize, Serialize};

use crate::control::ids::PeerId;
use crate::control::key::PublicKey;
use crate::control::show::PeerRow;
use crate::control::spec::{Carrier, HostPort, Prefix};

/// The host's own key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The half that others know.
    pub key: PublicKey,
    /// Peers whose invites nobody can take any more, as they tell of the key before; they are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voided: Vec<String>,
}

/// A peer, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Peer {
    /// Its number.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// How it is reached.
    pub carrier: Carrier,
    /// Who it is; none while its invite is open.
    pub key: Option<PublicKey>,
    /// Where it is, as it was said.
    pub endpoint: Option<HostPort>,
    /// Networks that it is on.
    pub networks: Vec<String>,
    /// What it hands out and may announce; empty for all that this host does not hand out.
    pub prefixes: Vec<Prefix>,
    /// How often it is sent something when there is nothing to send; 0 for never. Units: seconds.
    pub keepalive: u16,
    /// For how long its invite can still be taken; absent for one that was, and where that does not end. Units: seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Why it is not up; absent for one that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
}

/// An invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// The peer that will take it.
    pub peer: Peer,
    /// Its text. Anyone who has it can join in the invited host's place.
    pub invite: String,
}

/// An invite that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The inviting host.
    pub peer: Peer,
    /// Networks that were made for it.
    pub made: Vec<String>,
    /// What it costs, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinged {
    /// The round trip; none without an answer. Units: microseconds.
    pub rtt: Option<u64>,
}

/// A peer as it stands, with its name and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// How it is reached.
    pub carrier: Carrier,
    /// Who it is; none while its invite is open.
    pub key: Option<PublicKey>,
    /// Networks that it is on.
    pub networks: Vec<String>,
    /// For how long its invite can still be taken; absent for one that was, and where that does not end. Units: seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// How it stands.
    #[serde(flatten)]
    pub row: PeerRow,
}
