//! Stage 4: DNS at the gateway: own names are answered, everything else goes to the host's resolvers.
//! Formats from `hickory-proto`. Source: RFC 1035, RFC 5452 (matching of answers), RFC 6891.

mod own;

pub use own::answer_local;
pub(super) use own::encode_name;

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{HashMap, VecDeque};

use ahash::RandomState;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::Name;

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
        let parsed = match Message::from_vec(query) {
            Ok(m) if m.metadata.message_type == MessageType::Query && !m.queries.is_empty() => m,
            // What is not even a query gets no answer: it could be one of ours that comes round.
            Ok(_) => return None,
            Err(_) => return rough_error(query, ResponseCode::FormErr),
        };
        if let Some(answer) = local(gw, &parsed) {
            return answer.to_vec().ok();
        }
        let limit = parsed.edns.as_ref().map_or(PLAIN_LIMIT, |e| {
            usize::from(e.max_payload()).max(PLAIN_LIMIT)
        });
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
                let mut error = rough_error(&pending.message, ResponseCode::ServFail)?;
                error.get_mut(..2)?.copy_from_slice(&client_id);
                self.forget(id, host);
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
        if answer.get(..2) != pending.message.get(..2) {
            return None;
        }
        let (asked, told) = (
            Message::from_vec(&pending.message).ok()?,
            Message::from_vec(answer).ok()?,
        );
        let same = match (asked.queries.first(), told.queries.first()) {
            (Some(a), Some(b)) => {
                a.name.eq_ignore_root_case_free(&b.name) && a.query_type == b.query_type
            }
            _ => false,
        };
        if told.metadata.message_type != MessageType::Response || !same {
            return None;
        }
        if matches!(
            told.metadata.response_code,
            ResponseCode::ServFail | ResponseCode::Refused
        ) && pending.attempt < host.resolvers()
        {
            return self.send(now, id, host);
        }
        let (client, client_id, limit) = (pending.client, pending.client_id, pending.limit);
        let mut bytes = if answer.len() > limit {
            told.truncate().to_vec().ok()?
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

/// Names compared without regard to case or a final dot.
trait SameName {
    fn eq_ignore_root_case_free(&self, other: &Self) -> bool;
}

impl SameName for Name {
    fn eq_ignore_root_case_free(&self, other: &Self) -> bool {
        self.to_lowercase().eq_ignore_root(&other.to_lowercase())
    }
}

/// An error answer made of the query's own header and question, whatever else is wrong with it.
fn rough_error(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes(*query.first_chunk::<2>()?);
    // A response is never answered.
    if query.get(2).is_none_or(|flags| flags & 0x80 != 0) {
        return None;
    }
    let mut error = Message::error_msg(id, OpCode::Query, code);
    error.metadata.recursion_available = true;
    if let Ok(parsed) = Message::from_vec(query) {
        error.metadata.recursion_desired = parsed.metadata.recursion_desired;
        error.queries = parsed.queries;
    }
    error.to_vec().ok()
}
