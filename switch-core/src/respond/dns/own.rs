//! Stage 4: Names of the network itself: the gateway and its guests.

use core::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::OUR_SIZE;
use super::message::bare_answer;
use crate::respond::Gateway;

/// Lifetime of own names in seconds: they come and go with endpoints.
const TTL: u32 = 5;

/// Answers a whole message if it asks for a name of ours; for DNS over TCP too.
#[must_use]
pub fn answer_local(gw: &Gateway, query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let plain = query.metadata.message_type == MessageType::Query
        && query.metadata.op_code == OpCode::Query
        && query.queries.len() == 1;
    if !plain {
        return None;
    }
    local(gw, &query)?.to_vec().ok()
}

pub(super) fn local(gw: &Gateway, query: &Message) -> Option<Message> {
    let question = query.queries.first()?;
    if question.query_class != DNSClass::IN {
        return None;
    }
    let text = question.name.to_ascii().to_ascii_lowercase();
    let text = text.trim_end_matches('.');
    let mut answer = bare_answer(query, OUR_SIZE);
    answer.metadata.authoritative = true;
    let mut push = |data| {
        answer.add_answer(Record::from_rdata(question.name.clone(), TTL, data));
    };
    if question.query_type == RecordType::PTR {
        let net = question.name.parse_arpa_name().ok()?;
        // Fewer labels name a part of the reverse zone, not a host.
        if net.prefix_len() != net.max_prefix_len() {
            return None;
        }
        let name = reverse(gw, net.addr())?;
        push(RData::PTR(hickory_proto::rr::rdata::PTR(
            Name::from_ascii(name).ok()?,
        )));
        return Some(answer);
    }
    let (v4, v6) = lookup(gw, text)?;
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the other record types are two dozen, and all alike here"
    )]
    match question.query_type {
        RecordType::A => {
            if let Some(a) = v4 {
                push(RData::A(a.into()));
            }
        }
        RecordType::AAAA => {
            if let Some(a) = v6 {
                push(RData::AAAA(a.into()));
            }
        }
        // The name exists, the record does not: an empty answer.
        _ => {}
    }
    Some(answer)
}

type Both = (Option<core::net::Ipv4Addr>, Option<core::net::Ipv6Addr>);

/// Finds a name of ours: bare, or under a search domain.
fn lookup(gw: &Gateway, name: &str) -> Option<Both> {
    // Search domains are as the user or the host wrote them; the name is in lower case by now.
    let bare = gw
        .search
        .iter()
        .find_map(|d| {
            let domain = d.trim_matches('.').to_ascii_lowercase();
            name.strip_suffix(&*domain)?.strip_suffix('.')
        })
        .unwrap_or(name);
    if bare == "gateway" {
        return Some((gw.v4.map(|v| v.0), gw.v6.map(|v| v.0)));
    }
    gw.guests
        .iter()
        .find(|g| g.name.eq_ignore_ascii_case(bare))
        .map(|g| (g.v4, g.v6))
}

fn reverse(gw: &Gateway, addr: IpAddr) -> Option<&str> {
    if gw.owns(addr) {
        return Some("gateway");
    }
    gw.guests
        .iter()
        .find(|g| g.v4.map(IpAddr::V4) == Some(addr) || g.v6.map(IpAddr::V6) == Some(addr))
        .map(|g| g.name.as_str())
}

/// Writes a domain name in its wire form. What is no name is left out.
pub(in crate::respond) fn encode_name(name: &str, out: &mut Vec<u8>) {
    let name = name.trim_end_matches('.');
    if name.is_empty() || name.len() > 253 || name.split('.').any(|l| l.is_empty() || l.len() > 63)
    {
        return;
    }
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap_or(0));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}
