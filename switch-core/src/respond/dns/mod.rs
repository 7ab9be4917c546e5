//! Stage 4: DNS at the gateway: own names are answered, everything else goes to the host's resolvers.
//! Formats from `hickory-proto`. Source: RFC 1035, RFC 5452 (matching of answers), RFC 6891.

mod message;
mod own;

pub use own::answer_local;
pub(super) use own::encode_name;

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use hickory_proto::op::{Message, OpCode, ResponseCode};

use self::own::local;
use super::Gateway;
use crate::addr::{Mac, PortId, SockId};
use crate::flow::host::DnsHost;
use crate::time::Tick;

/// Queries under way at most; the oldest makes room.
const MAX_PENDING: usize = 1024;
/// How long one resolver has.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How often the list of resolvers is gone through.
const ROUNDS: usize = 2;
/// Answer size without EDNS. Source: RFC 1035 section 4.2.1.
const PLAIN_LIMIT: usize = 512;
/// Largest query that is sent on: no question with its options needs more, and `MAX_PENDING` of them are kept.
const MAX_QUERY: usize = 4096;
/// What the gateway says that it takes, where it answers itself. Source: DNS flag day 2020.
const OUR_SIZE: u16 = 1232;
/// IPv6 and UDP headers, the longer ones.
const HEADERS: usize = 48;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The endpoint.
    pub port: PortId,
    /// Its MAC.
    pub mac: Mac,
    /// Its address and port.
    pub addr: SocketAddr,
    /// The gateway's address and port that it asked.
    pub server: SocketAddr,
}

#[derive(Debug)]
struct Pending {
    client: Client,
    /// The query with our id, as sent on.
    message: Vec<u8>,
    client_id: [u8; 2],
    attempt: usize,
    sock: Option<SockId>,
    deadline: Tick,
    limit: usize,
}

/// An answer for a client.
pub type Answer = (Client, Vec<u8>);

/// The forwarder of one gateway.
#[derive(Debug)]
pub struct Dns {
    pending: HashMap<u32, Pending>,
    /// Ids in the order in which they came.
    order: VecDeque<u32>,
    next: u32,
    seeds: RandomState,
}

impl Dns {
    /// No queries yet. `seeds` key the transaction ids.
    #[must_use]
    pub fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self {
            pending: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
            seeds: RandomState::with_seeds(a, b, c, d),
        }
    }

    /// Takes a query over UDP. An answer that is known at once is returned.
    pub fn handle_query<H: DnsHost>(
        &mut self,
        now: Tick,
        client: Client,
        gw: &Gateway,
        query: &[u8],
        host: &mut H,
    ) -> Option<Vec<u8>> {
        // What is not even a query gets no answer: it could be one of ours that comes round.
        if message::is_response(query) {
            return None;
        }
        let parsed = match Message::from_vec(query) {
            Ok(m) if m.metadata.op_code != OpCode::Query => {
                return message::error(query, ResponseCode::NotImp);
            }
            // More than one question has no meaning (RFC 9619).
            Ok(m) if m.queries.len() == 1 && query.len() <= MAX_QUERY => m,
            _ => return message::error(query, ResponseCode::FormErr),
        };
        if let Some(answer) = local(gw, &parsed) {
            return answer.to_vec().ok();
        }
        let limit = parsed
            .edns
            .as_ref()
            .map_or(PLAIN_LIMIT, |e| usize::from(e.max_payload()))
            .min(usize::from(gw.mtu).saturating_sub(HEADERS))
            .max(PLAIN_LIMIT);
        while self.pending.len() >= MAX_PENDING {
            let oldest = self.order.pop_front()?;
            self.forget(oldest, host);
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let [a, b, ..] = self.seeds.hash_one((id, now.as_nanos())).to_le_bytes();
        let mut message = query.to_vec();
        let client_id = *query.first_chunk::<2>()?;
        message.get_mut(..2)?.copy_from_slice(&[a, b]);
        self.pending.insert(
            id,
            Pending {
                client,
                message,
                client_id,
                attempt: 0,
                sock: None,
                deadline: now,
                limit,
            },
        );
        // Queries that were answered leave their ids in the order, which is tidied once in so many.
        if self.order.len() >= 2 * MAX_PENDING {
            self.order.retain(|id| self.pending.contains_key(id));
        }
        self.order.push_back(id);
        self.send(now, id, host).map(|(_, bytes)| bytes)
    }

    /// Asks the resolver whose turn it is; an error answer where none is left.
    fn send<H: DnsHost>(&mut self, now: Tick, id: u32, host: &mut H) -> Option<Answer> {
        loop {
            let resolvers = host.resolvers();
            let pending = self.pending.get_mut(&id)?;
            if let Some(sock) = pending.sock.take() {
                host.dns_close(sock);
            }
            if pending.attempt >= resolvers * ROUNDS {
                let (client, client_id) = (pending.client, pending.client_id);
                let error = message::error(&pending.message, ResponseCode::ServFail);
                // Over in any case: what stayed would be due for ever.
                self.forget(id, host);
                let mut error = error?;
                error.get_mut(..2)?.copy_from_slice(&client_id);
                return Some((client, error));
            }
            let resolver = pending.attempt % resolvers;
            pending.attempt += 1;
            pending.deadline = now + PATIENCE;
            if let Ok(sock) = host.dns_send(id, resolver, &pending.message) {
                pending.sock = Some(sock);
                return None;
            }
        }
    }

    fn forget<H: DnsHost>(&mut self, id: u32, host: &mut H) {
        if let Some(sock) = self.pending.remove(&id).and_then(|p| p.sock) {
            host.dns_close(sock);
        }
    }

    /// Takes what a resolver sent. What does not belong to the query is passed over (RFC 5452 section 9.1).
    pub fn handle_answer<H: DnsHost>(
        &mut self,
        now: Tick,
        id: u32,
        answer: &[u8],
        host: &mut H,
    ) -> Option<Answer> {
        let pending = self.pending.get(&id)?;
        let ours = answer.get(..2) == pending.message.get(..2);
        if !ours || !message::has_header(answer) || !message::is_response(answer) {
            return None;
        }
        let code = message::code(answer);
        if message::questions(answer) == 0 && code != 0 {
            // Servers that could not read the query leave the question out: no word of use to the client.
            return self.send(now, id, host);
        }
        if !message::same_question(&pending.message, answer) {
            return None;
        }
        if [ResponseCode::ServFail, ResponseCode::Refused]
            .map(u16::from)
            .contains(&code.into())
            && pending.attempt < host.resolvers()
        {
            return self.send(now, id, host);
        }
        let (client, client_id, limit) = (pending.client, pending.client_id, pending.limit);
        let mut bytes = if answer.len() > limit {
            message::truncated(&pending.message, OUR_SIZE, code)?
        } else {
            answer.to_vec()
        };
        bytes.get_mut(..2)?.copy_from_slice(&client_id);
        self.forget(id, host);
        Some((client, bytes))
    }

    /// The host reports that a resolver is not there: the next one is asked at once.
    pub fn handle_error<H: DnsHost>(&mut self, now: Tick, id: u32, host: &mut H) -> Option<Answer> {
        self.send(now, id, host)
    }

    /// Goes on with queries whose resolver did not answer in time.
    pub fn handle_timeout<H: DnsHost>(
        &mut self,
        now: Tick,
        host: &mut H,
        answers: &mut Vec<Answer>,
    ) {
        self.order.retain(|id| self.pending.contains_key(id));
        let due: Vec<u32> = self
            .order
            .iter()
            .copied()
            .filter(|id| self.pending.get(id).is_some_and(|p| p.deadline <= now))
            .collect();
        for id in due {
            answers.extend(self.send(now, id, host));
        }
    }

    /// The next deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.pending.values().map(|p| p.deadline).min()
    }
}

#[cfg(test)]
mod tests;
