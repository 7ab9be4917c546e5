//! Stage 4: DNS at the gateway: own names are answered, everything else goes to the host's resolvers.
//! Formats from `hickory-proto`. Source: RFC 1035, RFC 5452 (matching of answers), RFC 6891, RFC 7766 (TCP).
//!
//! A query goes on the way it came: over UDP, where a truncated answer goes back as it is and the client will ask
//! again over TCP; or over TCP, and over UDP only where no resolver could be reached so.

mod choice;
mod message;
mod own;
mod share;
pub mod stream;

pub use own::answer_local;
pub(super) use own::encode_name;

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::HashMap;

use ahash::RandomState;
use hickory_proto::op::{Message, OpCode, ResponseCode};

use self::choice::{Choice, Shunned};
use self::own::local;
use self::share::Shares;
use self::stream::StreamId;
use super::Gateway;
use crate::addr::{Mac, PortId, SockId};
use crate::flow::host::DnsHost;
use crate::time::Tick;

/// Queries under way at most; the oldest of the endpoint that asks most makes room.
const MAX_PENDING: usize = 1024;
/// How long one resolver has.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long it has over TCP: a handshake, and an answer of many segments. Clients wait for five seconds.
const TCP_PATIENCE: Duration = Duration::from_secs(3);
/// Answer size without EDNS. Source: RFC 1035 section 4.2.1.
const PLAIN_LIMIT: usize = 512;
/// Longest message. Source: RFC 1035 section 4.2.2, the length before it.
const MAX_MESSAGE: usize = 65_535;
/// Largest query over UDP: no question with its options needs more, and `MAX_PENDING` of them are kept.
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
    /// The connection over which it asked, unless it was UDP.
    pub stream: Option<StreamId>,
}

#[derive(Debug)]
struct Pending {
    client: Client,
    /// The query with our id, as sent on.
    message: Vec<u8>,
    client_id: [u8; 2],
    choice: Choice,
    /// The resolver was asked over TCP.
    tcp: bool,
    sock: Option<SockId>,
    deadline: Tick,
    limit: usize,
}

impl Pending {
    /// The way that it is to go: the client's, until no resolver was there, unless a datagram may not carry it.
    fn over_tcp(&self) -> bool {
        let long = self.message.len() > usize::from(OUR_SIZE);
        self.client.stream.is_some() && (self.choice.is_first_round() || long)
    }
}

/// An answer for a client.
pub type Answer = (Client, Vec<u8>);

/// The forwarder of one gateway.
#[derive(Debug)]
pub struct Dns {
    pending: HashMap<u32, Pending>,
    shares: Shares,
    next: u32,
    shunned: Shunned,
    seeds: RandomState,
}

impl Dns {
    /// No queries yet. `seeds` key the transaction ids.
    #[must_use]
    pub fn new(seeds: [u64; 4]) -> Self {
        let [a, b, c, d] = seeds;
        Self {
            pending: HashMap::new(),
            shares: Shares::default(),
            next: 0,
            shunned: Shunned::default(),
            seeds: RandomState::with_seeds(a, b, c, d),
        }
    }

    /// Takes a query. An answer that is known at once is returned; every query that came over TCP has one in the end.
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
        let longest = if client.stream.is_some() {
            MAX_MESSAGE
        } else {
            MAX_QUERY
        };
        let parsed = match Message::from_vec(query) {
            Ok(m) if m.metadata.op_code != OpCode::Query => {
                return message::error(query, ResponseCode::NotImp);
            }
            // More than one question has no meaning (RFC 9619).
            Ok(m) if m.queries.len() == 1 && query.len() <= longest => m,
            _ => return message::error(query, ResponseCode::FormErr),
        };
        if let Some(answer) = local(gw, client.mac, &parsed, host) {
            let answer = answer.to_vec().ok();
            return answer.or_else(|| message::error(query, ResponseCode::ServFail));
        }
        let limit = if client.stream.is_some() {
            if !self.shares.admits(client.port, query.len()) {
                return message::error(query, ResponseCode::ServFail);
            }
            MAX_MESSAGE
        } else {
            udp_limit(&parsed, gw)
        };
        self.make_room(host);
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
                choice: Choice::default(),
                tcp: false,
                sock: None,
                deadline: now,
                limit,
            },
        );
        let waits = |id| self.pending.contains_key(&id);
        self.shares.add(id, &client, query.len(), waits);
        self.send(now, id, host).map(|(_, bytes)| bytes)
    }

    /// Forgets a query over UDP where there are too many.
    fn make_room<H: DnsHost>(&mut self, host: &mut H) {
        if self.pending.len() >= MAX_PENDING
            && let Some(id) = self.shares.oldest(|id| self.pending.contains_key(&id))
        {
            self.forget(id, host);
        }
    }

    /// Asks the resolver whose turn it is; an error answer where none is left.
    fn send<H: DnsHost>(&mut self, now: Tick, id: u32, host: &mut H) -> Option<Answer> {
        loop {
            let pending = self.pending.get_mut(&id)?;
            let goes_on = pending.choice.goes_on(host);
            let tcp = pending.over_tcp();
            let shunned = &self.shunned;
            let next = goes_on.then(|| pending.choice.next(now, tcp, shunned, host));
            let Some(resolver) = next.flatten() else {
                let (client, client_id) = (pending.client, pending.client_id);
                let error = message::error(&pending.message, ResponseCode::ServFail);
                // Over in any case: what stayed would be due for ever.
                self.forget(id, host);
                let mut error = error?;
                error.get_mut(..2)?.copy_from_slice(&client_id);
                return Some((client, error));
            };
            if self.ask(now, id, resolver, tcp, host) {
                return None;
            }
        }
    }

    /// Asks the next resolver, and others before the one that was of no use.
    fn send_past<H: DnsHost>(&mut self, now: Tick, id: u32, host: &mut H) -> Option<Answer> {
        let pending = self.pending.get(&id)?;
        if let Some(server) = pending.choice.last().and_then(|r| host.resolver(r)) {
            self.shunned.add(now, (server, pending.tcp));
        }
        self.send(now, id, host)
    }

    /// Asks one resolver. False if the host cannot.
    fn ask<H: DnsHost>(
        &mut self,
        now: Tick,
        id: u32,
        resolver: usize,
        tcp: bool,
        host: &mut H,
    ) -> bool {
        let Some(pending) = self.pending.get_mut(&id) else {
            return false;
        };
        if let Some(sock) = pending.sock.take() {
            host.dns_close(sock);
        }
        pending.tcp = tcp;
        let sent = if tcp {
            pending.deadline = now + TCP_PATIENCE;
            host.dns_send_tcp(id, resolver, &pending.message)
        } else {
            pending.deadline = now + PATIENCE;
            host.dns_send(id, resolver, &pending.message)
        };
        pending.sock = sent.ok();
        pending.sock.is_some()
    }

    fn forget<H: DnsHost>(&mut self, id: u32, host: &mut H) {
        let Some(pending) = self.pending.remove(&id) else {
            return;
        };
        self.shares.remove(&pending.client, pending.message.len());
        if let Some(sock) = pending.sock {
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
            && pending.choice.has_fresh(host)
        {
            return self.send(now, id, host);
        }
        if let Some(server) = pending.choice.last().and_then(|r| host.resolver(r)) {
            self.shunned.remove((server, pending.tcp));
        }
        if message::is_truncated(answer)
            && pending.client.stream.is_some()
            && !pending.tcp
            && let Some(resolver) = pending.choice.last()
        {
            // There is no other way left for who has come over TCP already.
            if self.ask(now, id, resolver, true, host) {
                return None;
            }
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
        self.send_past(now, id, host)
    }

    /// Goes on with queries whose resolver did not answer in time.
    pub fn handle_timeout<H: DnsHost>(
        &mut self,
        now: Tick,
        host: &mut H,
        answers: &mut Vec<Answer>,
    ) {
        let due = self.pending.iter().filter(|(_, p)| p.deadline <= now);
        let mut due: Vec<u32> = due.map(|(&id, _)| id).collect();
        // In the order in which they came: that of a hash map is nobody's.
        due.sort_unstable();
        for id in due {
            answers.extend(self.send_past(now, id, host));
        }
    }

    /// The next deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.pending.values().map(|p| p.deadline).min()
    }
}

/// The longest answer for who asks over UDP: what it takes, and its link too. Source: RFC 6891 section 6.2.3.
fn udp_limit(query: &Message, gw: &Gateway) -> usize {
    query
        .edns
        .as_ref()
        .map_or(PLAIN_LIMIT, |e| usize::from(e.max_payload()))
        .min(usize::from(gw.mtu).saturating_sub(HEADERS))
        .max(PLAIN_LIMIT)
}

#[cfg(test)]
mod tests;
