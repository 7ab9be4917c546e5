//! Stage 4: What each endpoint has under way, so that one that floods makes room from its own.

use std::collections::{BTreeMap, VecDeque};

use super::Client;
use crate::addr::PortId;

/// Queries that came over TCP: each is answered in the end, so that none of them makes room.
pub(super) const MAX_STREAMED: usize = 256;
/// Of these, queries of one endpoint.
pub(super) const MAX_STREAMED_OF_PORT: usize = 64;
/// Bytes of them: each may be as long as a message can be.
const MAX_STREAMED_BYTES: usize = 1 << 20;
/// Ids of answered queries that an endpoint's order may hold before they are looked for.
const SLACK: usize = 64;

#[derive(Debug, Default)]
struct Share {
    /// Ids of queries over UDP in the order in which they came; some have been answered.
    order: VecDeque<u32>,
    /// Of these, how many have not.
    waiting: usize,
    streamed: usize,
}

/// The shares of all endpoints.
#[derive(Debug, Default)]
pub(super) struct Shares {
    ports: BTreeMap<PortId, Share>,
    streamed: usize,
    bytes: usize,
}

impl Shares {
    /// Whether a query of so many bytes that came over TCP has room.
    pub(super) fn admits(&self, port: PortId, len: usize) -> bool {
        let own = self.ports.get(&port).map_or(0, |s| s.streamed);
        own < MAX_STREAMED_OF_PORT
            && self.streamed < MAX_STREAMED
            && self.bytes + len <= MAX_STREAMED_BYTES
    }

    /// Adds a query of `len` bytes; `waits` says which queries have no answer so far.
    pub(super) fn add(
        &mut self,
        id: u32,
        client: &Client,
        len: usize,
        waits: impl Fn(u32) -> bool,
    ) {
        let share = self.ports.entry(client.port).or_default();
        if client.stream.is_some() {
            share.streamed += 1;
            self.streamed += 1;
            self.bytes += len;
            return;
        }
        share.waiting += 1;
        if share.order.len() >= 2 * share.waiting + SLACK {
            share.order.retain(|&id| waits(id));
        }
        share.order.push_back(id);
    }

    /// Takes a query off that is over.
    pub(super) fn remove(&mut self, client: &Client, len: usize) {
        let Some(share) = self.ports.get_mut(&client.port) else {
            return;
        };
        if client.stream.is_some() {
            share.streamed = share.streamed.saturating_sub(1);
            self.streamed = self.streamed.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(len);
        } else {
            share.waiting = share.waiting.saturating_sub(1);
        }
        if share.waiting == 0 && share.streamed == 0 {
            self.ports.remove(&client.port);
        }
    }

    /// The oldest query over UDP of the endpoint that has most of them. Cost: linear in endpoints with queries.
    pub(super) fn oldest(&mut self, waits: impl Fn(u32) -> bool) -> Option<u32> {
        let most = self.ports.values_mut().max_by_key(|s| s.waiting)?;
        loop {
            let id = most.order.pop_front()?;
            if waits(id) {
                return Some(id);
            }
        }
    }

    /// Ids that are held, and endpoints.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        let ids = self.ports.values().map(|s| s.order.len()).sum();
        (ids, self.ports.len())
    }
}
