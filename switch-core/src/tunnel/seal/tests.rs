//! Test vectors of the handshake: fixed keys, and so exact bytes. Made with a second implementation too, by hand in
//! Python over its `cryptography` package, which agrees in every byte.
//!
//! The caller's private key is 32 bytes 11, the answerer's 22, the network's secret 33; the ephemeral keys are 32 bytes
//! 05 and 03, both indices 04040404, the stamp 0102030405060708, the cookie 16 bytes 44, its salt 24 bytes 01.

use core::net::SocketAddr;

use super::wire::{self, CookieReply};
use super::{
    Event, HostSecret, NetworkSecret, Node, NodeConfig, PeerConfig, PublicKey, Random, Suite,
    cookie,
};
use crate::addr::PeerId;
use crate::time::Tick;

/// The n-th call gives bytes n.
struct Counting(u8);

impl Random for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        self.0 += 1;
        bytes.fill(self.0);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn node(suite: Suite, secret: u8) -> Node {
    let config = NodeConfig {
        secret: HostSecret::new([secret; 32]),
        suite,
        wall: 0x0102_0304_0506_0708,
    };
    Node::new(Tick::ZERO, &config, Box::new(Counting(0))).unwrap()
}

fn peer(key: PublicKey, endpoint: Option<SocketAddr>) -> PeerConfig {
    PeerConfig {
        key,
        secrets: vec![NetworkSecret::new([0x33; 32])],
        endpoint,
        keepalive: None,
    }
}

/// The initiation, the response and the confirmation of one handshake.
fn handshake(suite: Suite) -> [String; 3] {
    let (here, there): (SocketAddr, SocketAddr) = (
        "192.0.2.1:7348".parse().unwrap(),
        "192.0.2.2:7348".parse().unwrap(),
    );
    let (mut caller, mut answerer) = (node(suite, 0x11), node(suite, 0x22));
    let id = PeerId(1);
    let now = Tick::ZERO;
    answerer
        .add_peer(now, id, &peer(caller.public(), None))
        .unwrap();
    caller
        .add_peer(now, id, &peer(answerer.public(), Some(there)))
        .unwrap();
    caller.demand(now, id);
    let (mut one, mut two, mut three) = (Vec::new(), Vec::new(), Vec::new());
    assert_eq!(caller.poll_transmit(&mut one), Some(there));
    answerer.handle_datagram(now, here, &one);
    assert_eq!(answerer.poll_transmit(&mut two), Some(here));
    caller.handle_datagram(now, there, &two);
    assert_eq!(caller.poll_transmit(&mut three), Some(there));
    let Some(Event::Receive { mut key, .. }) = answerer.poll_event() else {
        panic!("no key");
    };
    let confirmation = hex(&three);
    assert_eq!(key.open(&mut three, 0).unwrap().len, 0);
    [hex(&one), hex(&two), confirmation]
}

#[test]
fn a_handshake_has_these_bytes() {
    let expected = [
        (
            Suite::Aes256Gcm,
            [
                concat!(
                    "01010000040404046e7333a150a61409b1ddd0325e9b16b700e719e9772c07000b1bd778",
                    "6e907c653d20495d3355d9fc2993e4c0a38ecae28cdf610ad34f08037f5a206f48eda506",
                    "c41ee77be5079035ca192f1c8f18252452f4736e8c783ada71e21ec4760ec1381265f25b",
                    "371e01b510bfc34da6c58391981322f4d130a5f2b6b062d5000000000000000000000000",
                    "00000000",
                ),
                concat!(
                    "0201000004040404040404045dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9",
                    "df1c6e0124b3ef220311c82351f1c6a06a56d483e795a0d7c797ca047459743076a2c1f5",
                    "a2ef491e",
                ),
                "04020000040404040000000000000000b76afb168ee7a225a40b5500f67166ee",
            ],
        ),
        (
            Suite::ChaCha20Poly1305,
            [
                concat!(
                    "01020000040404046e7333a150a61409b1ddd0325e9b16b700e719e9772c07000b1bd778",
                    "6e907c653d20495d367410914cd870b8454f7749e2fa898041b1e6c0b999f6c4c576d48c",
                    "7a1740c0957469619b53f28901cd986ea88aaa29a1a779c3b462dddb1fd2cc70a99c9fef",
                    "e6c491248fa1b9d28528c0e6c410d710d6a7155def526e91000000000000000000000000",
                    "00000000",
                ),
                concat!(
                    "0202000004040404040404045dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9",
                    "df1c6e0124b3ef2222021c1f409c486945a6047419a0595e64524bc66eace02acca0bcec",
                    "86f9d97e",
                ),
                "0402000004040404000000000000000004bb0bf60d3fa4ec21eecacde878ccc6",
            ],
        ),
    ];
    for (suite, expected) in expected {
        assert_eq!(handshake(suite), expected, "{}", suite.name());
    }
}

#[test]
fn a_cookie_reply_has_these_bytes() {
    let secret = NetworkSecret::new([0x33; 32]);
    let sender = HostSecret::new([0x22; 32]).public().unwrap();
    let mac1 = [0x55; 16];
    let asked = (0x0404_0404, &mac1);
    let reply = cookie::write(&secret, &sender, asked, [0x44; 16], &mut Counting(0)).unwrap();
    assert_eq!(
        hex(&reply),
        concat!(
            "030000000404040401010101010101010101010101010101010101010101010137ddea3a",
            "0c08bd9737c671f0515a988e220156021a7e8b27711f7b8c1550a9d2",
        )
    );
    let parsed: CookieReply<'_> = wire::cookie_reply(&reply).unwrap();
    assert_eq!(
        cookie::read(&secret, &sender, &mac1, &parsed),
        Some([0x44; 16])
    );
    assert_eq!(cookie::read(&secret, &sender, &[0x56; 16], &parsed), None);
}
