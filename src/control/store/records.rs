//! The records and their keys. Schema 1: a table of texts about the file itself, a table of records as JSON.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::open::OpenError;
use crate::control::ids::{EndpointId, NetworkId, PeerId, PublishId, ServiceId};
use crate::control::model::Model;
use crate::control::policy::PolicyScope;

/// The version of what is written below. Raised with every change that an older weft could not read.
pub(super) const SCHEMA: &str = "1";
/// What the file says about itself.
pub(super) const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");
/// The records.
pub(super) const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A network.
    Network(NetworkId),
    /// An endpoint.
    Endpoint(EndpointId),
    /// A publish rule.
    Publish(PublishId),
    /// A service.
    Service(ServiceId),
    /// A policy.
    Policy(PolicyScope),
    /// A peer.
    Peer(PeerId),
    /// An endpoint on its way out.
    Leaving(EndpointId),
    /// The next numbers.
    Counters,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(id) => write!(f, "network/{id}"),
            Self::Endpoint(id) => write!(f, "endpoint/{id}"),
            Self::Publish(id) => write!(f, "publish/{id}"),
            Self::Service(id) => write!(f, "service/{id}"),
            Self::Policy(PolicyScope::Network(id)) => write!(f, "network-policy/{id}"),
            Self::Policy(PolicyScope::Endpoint(id)) => write!(f, "endpoint-policy/{id}"),
            Self::Peer(id) => write!(f, "peer/{id}"),
            Self::Leaving(id) => write!(f, "leaving/{id}"),
            Self::Counters => f.write_str("counters"),
        }
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "counters" {
            return Ok(Self::Counters);
        }
        let (kind, id) = text.split_once('/').ok_or(())?;
        let id = id.parse().map_err(|_| ())?;
        Ok(match kind {
            "network" => Self::Network(NetworkId(id)),
            "endpoint" => Self::Endpoint(EndpointId(id)),
            "publish" => Self::Publish(PublishId(id)),
            "service" => Self::Service(ServiceId(id)),
            "peer" => Self::Peer(PeerId(id)),
            "leaving" => Self::Leaving(EndpointId(id)),
            "network-policy" => Self::Policy(PolicyScope::Network(NetworkId(id))),
            "endpoint-policy" => Self::Policy(PolicyScope::Endpoint(EndpointId(id))),
            _ => return Err(()),
        })
    }
}

/// A record to be written, or taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Which.
    pub key: Key,
    /// What it becomes; `None` takes it away.
    pub value: Option<Vec<u8>>,
}

impl Write {
    /// A record as it will be kept.
    pub fn new<T: Serialize>(key: Key, value: Option<&T>) -> Self {
        // Records are plain data with keys of text, and writing to memory does not fail.
        let value = value.and_then(|v| serde_json::to_vec(v).ok());
        Self { key, value }
    }
}

/// Reads everything. Errors: `Foreign` for what is not a store of this schema, `Torn` for a record that cannot be read.
pub fn read(database: &Database) -> Result<Model, OpenError> {
    let transaction = database.begin_read().map_err(OpenError::torn)?;
    let about = match transaction.open_table(ABOUT) {
        Ok(about) => about,
        Err(redb::TableError::Storage(e)) => return Err(OpenError::torn(e)),
        Err(_) => return Err(OpenError::Foreign),
    };
    let schema = about.get("schema").map_err(OpenError::torn)?;
    let schema = schema
        .map(|s| s.value().to_owned())
        .ok_or(OpenError::Foreign)?;
    if schema != SCHEMA {
        return Err(OpenError::Schema(schema));
    }
    let records = transaction.open_table(RECORDS).map_err(OpenError::torn)?;
    let mut model = Model::default();
    for entry in records.iter().map_err(OpenError::torn)? {
        let (key, value) = entry.map_err(OpenError::torn)?;
        place(&mut model, key.value(), value.value())
            .map_err(|why| OpenError::Record(key.value().to_owned(), why))?;
    }
    Ok(model)
}

fn place(model: &mut Model, key: &str, value: &[u8]) -> Result<(), String> {
    fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
        serde_json::from_slice(value).map_err(|e| e.to_string())
    }
    let key = key
        .parse()
        .map_err(|()| "no record of this weft's".to_owned())?;
    match key {
        Key::Network(id) => drop(model.networks.insert(id, Arc::new(parse(value)?))),
        Key::Endpoint(id) => drop(model.endpoints.insert(id, Arc::new(parse(value)?))),
        Key::Publish(id) => drop(model.publishes.insert(id, Arc::new(parse(value)?))),
        Key::Service(id) => drop(model.services.insert(id, Arc::new(parse(value)?))),
        Key::Policy(scope) => drop(model.policies.insert(scope, Arc::new(parse(value)?))),
        Key::Peer(id) => drop(model.peers.insert(id, Arc::new(parse(value)?))),
        Key::Leaving(id) => drop(model.leaving.insert(id, Arc::new(parse(value)?))),
        Key::Counters => model.counters = parse(value)?,
    }
    Ok(())
}
