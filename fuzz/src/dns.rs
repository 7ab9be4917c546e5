//! The forwarder of names: a query from a sandbox, and what a resolver says about it.
//! Shape: a query behind its length, then answers behind theirs.

use core::net::Ipv4Addr;

use switch_core::addr::PortId;
use switch_core::respond::dns::{Client, Dns, answer_local};
use switch_core::time::Tick;

use super::bytes::Bytes;
use super::host::{GUEST, World, gateway};

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let gateway = gateway();
    let mut world = World::default();
    let mut dns = Dns::new([1, 2, 3, 4]);
    let client = Client {
        port: PortId(0),
        mac: GUEST,
        addr: (Ipv4Addr::new(10, 0, 0, 2), 4000).into(),
        server: (Ipv4Addr::new(10, 0, 0, 1), 53).into(),
        stream: None,
    };
    let mut now = Tick::from_millis(1);
    let query = bytes.piece();
    let _own = answer_local(&gateway, query);
    if let Some(answer) = dns.handle_query(now, client, &gateway, query, &mut world) {
        assert_eq!(answer.get(..2), query.get(..2), "the client's own number");
        assert!(world.open.is_empty());
    }
    while !bytes.is_empty() {
        let answer = bytes.piece();
        if let Some((to, told)) = dns.handle_answer(now, 0, answer, &mut world) {
            assert_eq!(to, client);
            assert_eq!(told.get(..2), query.get(..2), "the client's own number");
        }
    }
    // Whatever came, every query ends, and its socket with it.
    let mut answers = Vec::new();
    for _ in 0..1000 {
        let Some(next) = dns.poll_timeout() else {
            break;
        };
        now = now.max(next);
        dns.handle_timeout(now, &mut world, &mut answers);
    }
    assert!(dns.poll_timeout().is_none() && world.open.is_empty());
}
