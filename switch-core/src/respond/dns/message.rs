//! Stage 4: What is read of a message without reading its records, and the answers that are made of none.
//! Records of resolvers are passed on as they are: one that we cannot read is no reason to hide the others.

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};

use crate::wire::be16;

/// Bytes of the header. Source: RFC 1035 section 4.1.1.
const HEADER: usize = 12;
/// Bytes of a name at most, its final zero included. Source: RFC 1035 section 2.3.4.
const MAX_NAME: usize = 255;

/// True if a message has a whole header.
pub(super) fn has_header(message: &[u8]) -> bool {
    message.len() >= HEADER
}

/// True for a response. Shape: `message` starts at the DNS header, which may be cut short.
pub(super) fn is_response(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

/// True for a response that is not whole (TC).
pub(super) fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

/// The response code, without the bits that EDNS adds.
pub(super) fn code(message: &[u8]) -> u8 {
    message.get(3).map_or(0, |flags| flags & 0xf)
}

/// How many questions the header counts.
pub(super) fn questions(message: &[u8]) -> u16 {
    be16(message, 4).unwrap_or(0)
}

/// The first question as it is written: name, type and class. The name of a first question is never
/// compressed, for there is nothing before it.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut end = HEADER;
    loop {
        let label = usize::from(*message.get(end)?);
        if label > 63 || end - HEADER > MAX_NAME {
            return None;
        }
        end += 1 + label;
        if label == 0 {
            return message.get(HEADER..end + 4);
        }
    }
}

/// True if a response repeats the question of a query, whatever the case of its letters.
/// Source: RFC 5452 section 9.1, RFC 4343.
pub(super) fn same_question(asked: &[u8], told: &[u8]) -> bool {
    let (Some(asked), Some(found)) = (question(asked), question(told)) else {
        return false;
    };
    let split = |q: &[u8]| q.len().saturating_sub(4);
    let (Some((name, kind)), Some((found_name, found_kind))) = (
        asked.split_at_checked(split(asked)),
        found.split_at_checked(split(found)),
    ) else {
        return false;
    };
    // Lengths of labels are below the letters, so they compare as they are.
    questions(told) == 1 && kind == found_kind && name.eq_ignore_ascii_case(found_name)
}

/// An answer to a query without any records, in EDNS where the query is. Shape: `our_size` is what the
/// gateway takes itself.
pub(super) fn bare_answer(query: &Message, our_size: u16) -> Message {
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.add_queries(query.queries.iter().cloned());
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(our_size);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        answer.set_edns(edns);
    }
    answer
}

/// An answer with TC set, in the place of one that is too large: the client comes again over TCP.
/// Shape: `query` as sent to the resolver. Source: RFC 2181 section 9.
pub(super) fn truncated(query: &[u8], our_size: u16, code: u8) -> Option<Vec<u8>> {
    let mut answer = bare_answer(&Message::from_vec(query).ok()?, our_size);
    answer.metadata.truncation = true;
    answer.metadata.response_code = ResponseCode::from(0, code);
    answer.to_vec().ok()
}

/// An error answer made of the query's own header and question, whatever else is wrong with it.
/// None for a response, which is never answered.
pub(super) fn error(query: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let id = u16::from_be_bytes(*query.first_chunk::<2>()?);
    if query.len() < 3 || is_response(query) {
        return None;
    }
    let mut error = Message::error_msg(id, OpCode::Query, code);
    error.metadata.recursion_available = true;
    if let Ok(parsed) = Message::from_vec(query) {
        error.metadata.op_code = parsed.metadata.op_code;
        error.metadata.recursion_desired = parsed.metadata.recursion_desired;
        error.add_queries(parsed.queries.into_iter().take(1));
    }
    error.to_vec().ok()
}
