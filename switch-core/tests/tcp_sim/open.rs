//! Beginnings and ends that cross, segment by segment. Source: RFC 9293 sections 3.5 and 3.6.

use core::net::SocketAddr;
use core::time::Duration;

use switch_core::flow::tcp::Limits;
use switch_core::testing::host::TcpServer;
use switch_core::testing::net::Setup;
use switch_core::testing::script::Script;
use switch_core::wire::tcp::{ACK, FIN, RST, SYN};

use super::raw::{Client, Got, SERVER};

/// The place of the client's SYN before its stream.
const BEFORE: u32 = u32::MAX;

fn client(server: TcpServer) -> Client {
    Client::new(Limits::default(), server)
}

/// The server connects itself, from its port to the one from which the client sends.
fn comes_in(client: &mut Client, down: Script) {
    let to: SocketAddr = (Setup::addresses(1).v4, 5_000).into();
    client.net.connect_in(1, SERVER.parse().unwrap(), to, down);
}

fn one(got: &[Got], flags: u8) -> Got {
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!(got[0].flags, flags);
    got[0]
}

/// Some bytes each way.
fn talk(client: &mut Client, down: u32) {
    client.send(0, 0, 1_000);
    let got = client.got();
    assert!(
        got.iter().any(|got| got.ack == client.seq(1_000)),
        "{got:?}"
    );
    let sent: u32 = got.iter().map(|got| got.len).sum();
    assert_eq!(sent, down);
    assert_eq!(client.peer().taken().len(), 1_000);
}

/// Figure 8: both SYNs are under way at once, and each is answered.
#[test]
fn syns_that_cross_make_one_connection() {
    let mut client = client(TcpServer::Silent);
    comes_in(&mut client, Script::new(2, 700));
    let syn = one(&client.got(), SYN);
    client.segment(SYN, BEFORE, &[]);
    let answer = one(&client.got(), SYN | ACK);
    assert_eq!((answer.seq, answer.ack), (syn.seq, client.seq(0)));
    assert!(client.net.host.connects.is_empty(), "a second connection");
    client.ack = syn.seq.wrapping_add(1);
    client.segment(SYN | ACK, BEFORE, &[]);
    talk(&mut client, 700);
}

/// The client's SYN is lost with all its answers but one: the connection stands all the same.
#[test]
fn syns_that_cross_are_sent_again() {
    let mut client = client(TcpServer::Silent);
    comes_in(&mut client, Script::new(2, 700));
    let syn = one(&client.got(), SYN);
    client.segment(SYN, BEFORE, &[]);
    client.net.run_for(Duration::from_secs(4));
    let again = client.got();
    assert!(
        again.iter().filter(|got| got.flags == SYN | ACK).count() >= 2,
        "{again:?}"
    );
    client.segment(SYN, BEFORE, &[]);
    one(&client.got(), SYN | ACK);
    client.ack = syn.seq.wrapping_add(1);
    client.segment(ACK, 0, &[]);
    talk(&mut client, 700);
}

/// The client was first, and the host's attempt to reach the server has come to nothing yet.
#[test]
fn who_comes_while_it_is_called_is_connected() {
    let mut client = client(TcpServer::Silent);
    client.segment(SYN, BEFORE, &[]);
    assert_eq!(client.got(), []);
    comes_in(&mut client, Script::new(2, 700));
    let answer = one(&client.got(), SYN | ACK);
    assert_eq!(answer.ack, client.seq(0));
    assert_eq!(client.net.host.open(), 1, "the socket that called in vain");
    client.ack = answer.seq.wrapping_add(1);
    client.segment(ACK, 0, &[]);
    client.send(0, 0, 1_000);
    client.got();
    let mut peers = client.net.host.peers();
    let took = peers.find(|peer| peer.taken().len() == 1_000);
    assert!(took.is_some_and(|peer| peer.script().key == 2));
}

/// Figure 13: neither FIN acknowledges the other.
#[test]
fn ends_that_cross_are_each_acknowledged() {
    let mut client = client(TcpServer::Near(Script::new(2, 0)));
    client.segment(SYN, BEFORE, &[]);
    let answer = one(&client.got(), SYN | ACK);
    client.ack = answer.seq.wrapping_add(1);
    client.segment(ACK, 0, &[]);
    let end = one(&client.got(), FIN | ACK);
    client.segment(FIN | ACK, 0, &[]);
    let got = one(&client.got(), ACK);
    assert_eq!((got.seq, got.ack), (end.seq.wrapping_add(1), client.seq(1)));
    assert!(
        client.peer().closed.is_none(),
        "its end is not acknowledged yet"
    );
    client.ack = end.seq.wrapping_add(1);
    client.segment(ACK, 1, &[]);
    assert_eq!(client.got(), []);
    assert!(client.peer().closed.is_some_and(|closed| !closed.reset));
    // Who did not hear the last word asks again.
    client.segment(FIN | ACK, 0, &[]);
    assert_eq!(one(&client.got(), ACK).ack, client.seq(1));
    client.net.run_for(Duration::from_secs(3));
    assert_eq!(client.net.switch.flows().0, 0);
}

/// A reset was answered once, which brought the next one, for as long as the old connection was remembered.
#[test]
fn a_reset_to_a_connection_that_is_over_is_not_answered() {
    let mut client = client(TcpServer::Near(Script::new(2, 0)));
    client.segment(SYN, BEFORE, &[]);
    let answer = one(&client.got(), SYN | ACK);
    client.ack = answer.seq.wrapping_add(1);
    client.segment(ACK, 0, &[]);
    client.ack = one(&client.got(), FIN | ACK).seq.wrapping_add(1);
    client.segment(FIN | ACK, 0, &[]);
    one(&client.got(), ACK);
    assert_eq!(client.net.switch.flows().0, 1);
    client.segment(RST, 7, &[]);
    assert_eq!(client.got(), []);
    assert_eq!(client.net.switch.flows().0, 1, "out of its place");
    client.segment(RST, 1, &[]);
    assert_eq!(client.got(), []);
    assert_eq!(client.net.switch.flows().0, 0);
}
