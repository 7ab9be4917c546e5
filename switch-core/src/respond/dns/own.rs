//! Stage 4: Names of the network itself: the gateway, its guests, and what the user named.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::OUR_SIZE;
use super::message::bare_answer;
use crate::addr::Mac;
use crate::flow::host::DnsHost;
use crate::respond::Gateway;
use crate::respond::names::MAX_ADDRESSES;

/// Lifetime of own names in seconds: they come and go with endpoints.
const TTL: u32 = 5;

/// Answers a whole message if it asks for a name of ours that the endpoint with this MAC may know.
#[must_use]
pub fn answer_local<H: DnsHost>(
    gw: &Gateway,
    asker: Mac,
    query: &[u8],
    host: &H,
) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let plain = query.metadata.message_type == MessageType::Query
        && query.metadata.op_code == OpCode::Query
        && query.queries.len() == 1;
    if !plain {
        return None;
    }
    local(gw, asker, &query, host)?.to_vec().ok()
}

pub(super) fn local<H: DnsHost>(
    gw: &Gateway,
    asker: Mac,
    query: &Message,
    host: &H,
) -> Option<Message> {
    let question = query.queries.first()?;
    if question.query_class != DNSClass::IN {
        return None;
    }
    let text = question.name.to_ascii().to_ascii_lowercase();
    let text = text.trim_end_matches('.');
    let mut answer = bare_answer(query, OUR_SIZE);
    answer.metadata.authoritative = true;
    let record = |data| Record::from_rdata(question.name.clone(), TTL, data);
    if question.query_type == RecordType::PTR {
        let net = question.name.parse_arpa_name().ok()?;
        // Fewer labels name a part of the reverse zone, not a host.
        if net.prefix_len() != net.max_prefix_len() {
            return None;
        }
        let Some(name) = reverse(gw, asker, net.addr(), host) else {
            // Nobody outside knows who is inside. Without a record of the zone none keeps this answer: who comes next
            // may get the address. Source: RFC 6303 section 3, RFC 2308 section 5.
            answer.metadata.response_code = ResponseCode::NXDomain;
            return gw.covers(net.addr()).then_some(answer);
        };
        let name = Name::from_ascii(name).ok()?;
        answer.add_answer(record(RData::PTR(hickory_proto::rr::rdata::PTR(name))));
        return Some(answer);
    }
    // Where the name exists and the record does not, the answer is empty.
    for addr in lookup(gw, asker, text, host)? {
        let data = match (addr, question.query_type) {
            (IpAddr::V4(a), RecordType::A) => RData::A(a.into()),
            (IpAddr::V6(a), RecordType::AAAA) => RData::AAAA(a.into()),
            _ => continue,
        };
        answer.add_answer(record(data));
    }
    Some(answer)
}

/// The addresses of a name of ours, bare or under a search domain. Those of the network come first, as they do in the
/// hosts file of a sandbox.
fn lookup<H: DnsHost>(gw: &Gateway, asker: Mac, name: &str, host: &H) -> Option<Vec<IpAddr>> {
    // Search domains are as the user or the host wrote them; the name is in lower case by now.
    let bare = gw
        .search
        .iter()
        .find_map(|d| {
            let domain = d.trim_matches('.').to_ascii_lowercase();
            name.strip_suffix(&*domain)?.strip_suffix('.')
        })
        .unwrap_or(name);
    let both = |v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>| {
        let four = v4.map(IpAddr::V4).into_iter();
        four.chain(v6.map(IpAddr::V6)).collect()
    };
    if bare == "gateway" {
        return Some(both(gw.v4.map(|v| v.0), gw.v6.map(|v| v.0)));
    }
    let told = || host.lookup(asker, bare);
    if let Some(found) = gw.guests.lookup(bare).or_else(told) {
        return Some(found);
    }
    let given = |name: &str| -> Vec<IpAddr> {
        let of_name = gw.hosts.iter().filter(|h| same(&h.0, name));
        of_name.take(MAX_ADDRESSES).map(|h| h.1).collect()
    };
    // A name may be given with its domain, which can be one of the search domains.
    [name, bare].map(given).into_iter().find(|a| !a.is_empty())
}

/// True if a name as someone wrote it is `name`, which has no final dot.
fn same(written: &str, name: &str) -> bool {
    !name.is_empty() && written.trim_end_matches('.').eq_ignore_ascii_case(name)
}

fn reverse<'a, H: DnsHost>(
    gw: &'a Gateway,
    asker: Mac,
    addr: IpAddr,
    host: &'a H,
) -> Option<&'a str> {
    if gw.owns(addr) {
        return Some("gateway");
    }
    let known = gw.guests.name_of(addr);
    known.or_else(|| host.name_of(asker, addr)).or_else(|| {
        let given = gw.hosts.iter().find(|h| h.1 == addr);
        given.map(|h| h.0.as_str())
    })
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
