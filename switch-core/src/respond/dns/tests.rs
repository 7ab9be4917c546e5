//! The forwarder against resolvers that answer, lie, fail and stay silent.

use core::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Edns, MessageType, Query};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;

mod choice;
mod own;
mod streamed;

use super::*;
use crate::flow::host::HostError;
use crate::respond::Guest;
use crate::respond::names::{NameTable, Owner};

/// Resolvers in memory: what was sent to which, and the sockets that are open.
#[derive(Debug, Default)]
struct Resolvers {
    count: usize,
    sent: Vec<(u32, usize, Vec<u8>)>,
    /// Which of these over TCP.
    over_tcp: Vec<usize>,
    open: Vec<u32>,
    next: u32,
    /// Sending fails.
    dead: bool,
    /// Names that it knows; who asks does so on the first network.
    names: NameTable,
}

impl DnsHost for Resolvers {
    fn lookup(&self, asker: Mac, name: &str) -> Option<Vec<IpAddr>> {
        self.names.lookup(0, asker, name)
    }
    fn name_of(&self, asker: Mac, addr: IpAddr) -> Option<&str> {
        self.names.name_of(0, asker, addr)
    }
    fn resolvers(&self) -> usize {
        self.count
    }
    fn resolver(&self, index: usize) -> Option<SocketAddr> {
        let last = u8::try_from(index).ok()?;
        (index < self.count).then(|| (Ipv4Addr::new(192, 0, 2, last), 53).into())
    }
    fn dns_send(
        &mut self,
        query: u32,
        resolver: usize,
        message: &[u8],
    ) -> Result<SockId, HostError> {
        if self.dead {
            return Err(HostError::NetUnreachable);
        }
        self.sent.push((query, resolver, message.to_vec()));
        self.next += 1;
        self.open.push(self.next);
        Ok(SockId(self.next))
    }
    fn dns_send_tcp(
        &mut self,
        query: u32,
        resolver: usize,
        message: &[u8],
    ) -> Result<SockId, HostError> {
        let sock = self.dns_send(query, resolver, message)?;
        self.over_tcp.push(self.sent.len() - 1);
        Ok(sock)
    }
    fn dns_close(&mut self, sock: SockId) {
        self.open.retain(|&s| s != sock.0);
    }
}

struct World {
    gw: Gateway,
    dns: Dns,
    host: Resolvers,
    now: Tick,
}

const CLIENT_ID: u16 = 0x1234;

impl World {
    fn new(resolvers: usize) -> Self {
        Self {
            gw: gateway(),
            dns: Dns::new([1, 2, 3, 4]),
            host: Resolvers {
                count: resolvers,
                ..Resolvers::default()
            },
            now: Tick::from_millis(1),
        }
    }

    fn ask(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        self.dns
            .handle_query(self.now, client(), &self.gw, query, &mut self.host)
    }

    /// Asks over a connection.
    fn ask_streamed(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        self.dns
            .handle_query(self.now, streamed(), &self.gw, query, &mut self.host)
    }

    fn answer(&mut self, id: u32, answer: &[u8]) -> Option<Vec<u8>> {
        self.dns
            .handle_answer(self.now, id, answer, &mut self.host)
            .map(|(to, bytes)| {
                assert!([client(), streamed()].contains(&to));
                bytes
            })
    }

    /// Lets the next deadline pass.
    fn wait(&mut self) -> Vec<Vec<u8>> {
        self.now = self.dns.poll_timeout().unwrap();
        let mut out = Vec::new();
        self.dns.handle_timeout(self.now, &mut self.host, &mut out);
        out.into_iter().map(|(_, bytes)| bytes).collect()
    }

    fn asked(&self) -> Vec<usize> {
        self.host.sent.iter().map(|s| s.1).collect()
    }
}

fn gateway() -> Gateway {
    Gateway {
        mac: Mac([2, 0, 0, 0, 0, 1]),
        v4: Some((Ipv4Addr::new(10, 0, 0, 1), 24)),
        v6: Some(("fd00::1".parse().unwrap(), 64)),
        mtu: 1500,
        uplink: true,
        v6_default_route: true,
        search: vec!["Corp.Test".into()],
        guests: vec![Guest {
            mac: Mac([2, 0, 0, 0, 0, 2]),
            name: "box".into(),
            v4: Some(Ipv4Addr::new(10, 0, 0, 2)),
            v6: None,
        }]
        .into(),
        hosts: Vec::new(),
    }
}

fn client() -> Client {
    Client {
        port: PortId(3),
        mac: Mac([2, 0, 0, 0, 0, 2]),
        addr: (Ipv4Addr::new(10, 0, 0, 2), 4000).into(),
        server: (Ipv4Addr::new(10, 0, 0, 1), 53).into(),
        stream: None,
    }
}

/// Someone who asks over a connection.
fn streamed() -> Client {
    let mut streams = stream::Streams::default();
    streams.open(Tick::from_millis(1), 0, client());
    streams.client(SockId(0)).unwrap()
}

fn message(name: &str, kind: RecordType) -> Message {
    let mut m = Message::new(CLIENT_ID, MessageType::Query, OpCode::Query);
    m.metadata.recursion_desired = true;
    m.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    m
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    message(name, kind).to_vec().unwrap()
}

/// What a resolver says to a query as sent to it.
fn reply(sent: &[u8], code: ResponseCode) -> Message {
    let asked = Message::from_vec(sent).unwrap();
    let mut m = Message::response(asked.metadata.id, OpCode::Query);
    m.metadata.response_code = code;
    m.add_queries(asked.queries);
    m
}

fn long_reply(sent: &[u8], len: usize) -> Vec<u8> {
    let mut m = reply(sent, ResponseCode::NoError);
    let name = m.queries[0].name.clone();
    while m.to_vec().unwrap().len() < len {
        let text = TXT::new(vec!["x".repeat(200)]);
        m.add_answer(Record::from_rdata(name.clone(), 60, RData::TXT(text)));
    }
    m.to_vec().unwrap()
}

fn code(answer: &[u8]) -> ResponseCode {
    let m = Message::from_vec(answer).unwrap();
    assert_eq!(m.metadata.message_type, MessageType::Response);
    assert_eq!(m.metadata.id, CLIENT_ID);
    m.metadata.response_code
}

fn texts(answer: &[u8]) -> Vec<String> {
    let m = Message::from_vec(answer).unwrap();
    assert_eq!(code(answer), ResponseCode::NoError);
    m.answers.iter().map(|r| r.data.to_string()).collect()
}

#[test]
fn a_query_goes_on_under_another_id_and_the_answer_back_under_its_own() {
    let mut w = World::new(2);
    let q = query("example.org.", RecordType::A);
    assert_eq!(w.ask(&q), None);
    let (id, resolver, sent) = w.host.sent[0].clone();
    assert_eq!((resolver, &sent[2..]), (0, &q[2..]));
    assert_ne!(sent[..2], q[..2], "these seeds give another id");
    let mut told = reply(&sent, ResponseCode::NoError).to_vec().unwrap();
    // Resolvers may change the case of the name (RFC 1035 section 2.3.3).
    told[13..20].make_ascii_uppercase();
    let answer = w.answer(id, &told).unwrap();
    assert_eq!((&answer[..2], &answer[2..]), (&q[..2], &told[2..]));
    assert!(w.host.open.is_empty());
    assert!(w.dns.poll_timeout().is_none());
    assert_eq!(w.answer(id, &told), None, "once only");
}

#[test]
fn an_answer_to_another_question_is_passed_over() {
    let mut w = World::new(1);
    w.ask(&query("example.org.", RecordType::A));
    let (id, _, sent) = w.host.sent[0].clone();
    let good = reply(&sent, ResponseCode::NoError);
    let mut bad = vec![Vec::new(), sent.clone()];
    let mut other_id = good.to_vec().unwrap();
    other_id[0] ^= 1;
    bad.push(other_id);
    for (name, kind, class) in [
        ("example.com.", RecordType::A, DNSClass::IN),
        ("example.org.", RecordType::AAAA, DNSClass::IN),
        ("example.org.", RecordType::A, DNSClass::CH),
    ] {
        let mut m = good.clone();
        m.queries[0] = Query::query(Name::from_ascii(name).unwrap(), kind);
        m.queries[0].set_query_class(class);
        bad.push(m.to_vec().unwrap());
    }
    let mut none = good.clone();
    none.queries.clear();
    bad.push(none.to_vec().unwrap());
    for answer in bad {
        assert_eq!(w.answer(id, &answer), None, "{answer:02x?}");
    }
    assert_eq!(w.host.sent.len(), 1);
    assert!(w.answer(id, &good.to_vec().unwrap()).is_some());
}

#[test]
fn records_that_we_cannot_read_are_passed_on_as_they_are() {
    let mut w = World::new(1);
    w.ask(&query("example.org.", RecordType::A));
    let (id, _, sent) = w.host.sent[0].clone();
    let mut told = reply(&sent, ResponseCode::NoError).to_vec().unwrap();
    told[7] = 1;
    // An A record of three bytes.
    told.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 3, 1, 2, 3]);
    assert!(Message::from_vec(&told).is_err());
    let answer = w.answer(id, &told).unwrap();
    assert_eq!(answer[2..], told[2..]);
}

#[test]
fn a_resolver_that_fails_or_refuses_makes_room_for_the_next() {
    for bad in [ResponseCode::ServFail, ResponseCode::Refused] {
        let mut w = World::new(2);
        w.ask(&query("example.org.", RecordType::A));
        let (id, _, sent) = w.host.sent[0].clone();
        let told = reply(&sent, bad).to_vec().unwrap();
        assert_eq!(w.answer(id, &told), None);
        assert_eq!(w.asked(), [0, 1]);
        assert_eq!(w.host.open.len(), 1);
        // The last one's word is passed on.
        assert_eq!(code(&w.answer(id, &told).unwrap()), bad);
        assert!(w.host.open.is_empty());
    }
}

#[test]
fn an_error_without_a_question_makes_room_for_the_next() {
    let mut w = World::new(2);
    w.ask(&query("example.org.", RecordType::A));
    let (id, _, sent) = w.host.sent[0].clone();
    let mut told = reply(&sent, ResponseCode::FormErr);
    told.queries.clear();
    assert_eq!(w.answer(id, &told.to_vec().unwrap()), None);
    assert_eq!(w.asked(), [0, 1]);
}

#[test]
fn what_is_no_query_of_one_question_is_refused() {
    let mut w = World::new(1);
    let good = query("example.org.", RecordType::A);
    let mut none = good.clone();
    none[5] = 0;
    none.truncate(12);
    let mut two = message("example.org.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let cut = &good[..good.len() - 1];
    let mut huge = good.clone();
    huge.resize(20_000, 0);
    for bad in [&none[..], &two.to_vec().unwrap(), cut, &huge] {
        assert_eq!(code(&w.ask(bad).unwrap()), ResponseCode::FormErr);
    }
    let mut update = message("example.org.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let answer = w.ask(&update.to_vec().unwrap()).unwrap();
    assert_eq!(code(&answer), ResponseCode::NotImp);
    // A response gets none, whatever is wrong with it: two servers would never stop.
    let mut response = good.clone();
    response[2] |= 0x80;
    assert_eq!(w.ask(&response), None);
    assert_eq!(w.ask(&response[..9]), None);
    assert_eq!(w.ask(&[]), None);
    assert!(w.host.sent.is_empty());
    assert!(w.dns.poll_timeout().is_none());
}

#[test]
fn answers_are_cut_to_what_the_client_and_the_link_take() {
    for (edns, mtu, len, cut) in [
        (None, 1500, 450, false),
        (None, 1500, 600, true),
        (Some(1232), 1500, 1000, false),
        (Some(1232), 1500, 1300, true),
        (Some(4096), 1500, 1200, false),
        // Whatever the client takes, the frame has to fit the link.
        (Some(4096), 1500, 2000, true),
        (Some(65_535), 65_520, 60_000, false),
        (Some(65_535), 65_000, 65_400, true),
        (Some(100), 1500, 450, false),
    ] {
        let mut w = World::new(1);
        w.gw.mtu = mtu;
        let mut m = message("example.org.", RecordType::TXT);
        if let Some(size) = edns {
            let mut options = Edns::new();
            options.set_max_payload(size);
            m.set_edns(options);
        }
        let mut q = m.to_vec().unwrap();
        if edns == Some(100) {
            // hickory writes no less than 512.
            let at = q.len() - 8;
            q[at..at + 2].copy_from_slice(&100u16.to_be_bytes());
        }
        assert_eq!(w.ask(&q), None);
        let (id, _, sent) = w.host.sent[0].clone();
        let told = long_reply(&sent, len);
        let answer = w.answer(id, &told).unwrap();
        let truncated = answer[2] & 2 != 0;
        assert_eq!(truncated, cut, "{edns:?} {mtu} {len}");
        if cut {
            let m = Message::from_vec(&answer).unwrap();
            assert!(answer.len() <= 512 && m.answers.is_empty());
            assert_eq!((m.metadata.id, m.queries.len()), (CLIENT_ID, 1));
            assert_eq!(m.edns.is_some(), edns.is_some());
        } else {
            assert_eq!(answer[2..], told[2..]);
        }
    }
}

#[test]
fn the_oldest_query_makes_room() {
    let mut w = World::new(1);
    let q = query("example.org.", RecordType::A);
    for _ in 0..MAX_PENDING + 3 {
        assert_eq!(w.ask(&q), None);
    }
    assert_eq!(w.host.open.len(), MAX_PENDING);
    let answer = |w: &mut World, at: usize| {
        let (id, _, sent) = w.host.sent[at].clone();
        let told = reply(&sent, ResponseCode::NoError).to_vec().unwrap();
        w.answer(id, &told)
    };
    assert_eq!(answer(&mut w, 2), None);
    assert!(answer(&mut w, 3).is_some());
    assert!(answer(&mut w, MAX_PENDING + 2).is_some());
}

#[test]
fn queries_that_are_answered_leave_nothing_behind() {
    let mut w = World::new(1);
    let q = query("example.org.", RecordType::A);
    for _ in 0..4 * MAX_PENDING {
        assert_eq!(w.ask(&q), None);
        let (id, _, sent) = w.host.sent.pop().unwrap();
        let told = reply(&sent, ResponseCode::NoError).to_vec().unwrap();
        // Always before its deadline, so that no time-out ever comes to tidy up.
        assert!(w.answer(id, &told).is_some());
    }
    assert_eq!(w.dns.shares.len(), (0, 0));
    // The same where one query never ends.
    w.ask(&q);
    for _ in 0..4 * MAX_PENDING {
        assert_eq!(w.ask(&q), None);
        let (id, _, sent) = w.host.sent.pop().unwrap();
        let told = reply(&sent, ResponseCode::NoError).to_vec().unwrap();
        assert!(w.answer(id, &told).is_some());
    }
    let (ids, _) = w.dns.shares.len();
    assert!(ids < 100, "{ids}");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        mut query_bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0usize..64, flip: u8,
        answer_bytes in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut w = World::new(1);
        let _ = w.ask(&query_bytes);
        query_bytes.resize(12, 0);
        let mut near = query("gateway.example.org.", RecordType::A);
        if let Some(byte) = near.get_mut(at) {
            *byte = flip;
        }
        let _ = w.ask(&near);
        for (id, _, sent) in w.host.sent.clone() {
            let mut told = sent[..2].to_vec();
            told.extend_from_slice(&answer_bytes);
            let _ = w.answer(id, &told);
            let mut told = sent;
            told[2] |= 0x80;
            if let Some(byte) = told.get_mut(at) {
                *byte = flip;
            }
            told.extend_from_slice(&answer_bytes);
            let _ = w.answer(id, &told);
        }
    }

    #[test]
    fn encoded_names_are_read_back(name in "[a-z0-9]{1,12}(\\.[a-z0-9]{1,12}){0,3}\\.?") {
        let mut bytes = Vec::new();
        encode_name(&name, &mut bytes);
        let mut m = query(".", RecordType::A);
        let tail = m.split_off(13);
        m.truncate(12);
        m.extend_from_slice(&bytes);
        m.extend_from_slice(&tail);
        let read = Message::from_vec(&m).unwrap();
        let read = read.queries[0].name.to_ascii();
        prop_assert_eq!(read.trim_end_matches('.'), name.trim_end_matches('.'));
    }
}
