//! Stage 7: The sealed protocol: an authenticated, encrypted datagram between two hosts. Neighbours: `super::vxlan`, whose
//! frames it carries, and `super::control`, whose messages it carries.
//!
//! This text is the protocol; `tests.rs` beside it and `data/tests.rs` have exact bytes to check another
//! implementation against. It is WireGuard's in spirit and most of its numbers, and differs where a switch differs from
//! a VPN: the payload is an Ethernet frame in VXLAN, the first MAC is keyed by a secret that only the network's hosts
//! know, the suite can be AES-GCM, and what is lost is tried again within a second.
//!
//! # Words
//! *Caller*: who sends an initiation. *Answerer*: who gets it. *Key*: an X25519 key pair that a host keeps for good.
//! *Secret*: 32 random bytes that the hosts of a network have in common; a host may have many. *Index*: 32 random bits,
//! not zero, by which a receiver finds a session or a handshake. *Stamp*: the caller's time of day in nanoseconds since
//! 1970, or one more than its last stamp, whichever is more.
//!
//! Integers are little-endian. `HMAC` is HMAC-SHA256, `|` puts bytes together, `[..16]` takes the first 16 bytes.
//!
//! # Datagrams
//! UDP, by default to port 7348. The first byte tells the type. Any other length, type, suite, flag or reserved byte
//! than these is dropped and counted, never answered.
//!
//! ## 1, initiation, 148 bytes
//! | byte | content |
//! |---|---|
//! | 0 | 1 |
//! | 1 | suite: 1 is `Noise_IK_25519_AESGCM_SHA256`, 2 is `Noise_IK_25519_ChaChaPoly_BLAKE2s` |
//! | 2..4 | 0 |
//! | 4..8 | the caller's index of the session |
//! | 8..12 | hint: `HMAC(secret, "weft hint")[..4]`, which of the answerer's secrets this is by |
//! | 12..116 | Noise message 1, `e, es, s, ss`: ephemeral key 32, static key 32 + 16, payload 8 + 16: the stamp |
//! | 116..132 | mac1: `HMAC(HMAC(secret, "weft mac1" \| answerer's public key), bytes 0..116)[..16]` |
//! | 132..148 | mac2: `HMAC(cookie, bytes 0..132)[..16]`, or zeros without a cookie |
//!
//! The Noise prologue is `"weft sealed v1" | bytes 0..12`, so that neither the suite nor the index can be changed.
//!
//! ## 2, response, 76 bytes
//! | byte | content |
//! |---|---|
//! | 0 | 2 |
//! | 1 | the initiation's suite |
//! | 2..4 | 0 |
//! | 4..8 | the answerer's index of the session |
//! | 8..12 | the caller's |
//! | 12..60 | Noise message 2, `e, ee, se`: ephemeral key 32, empty payload 0 + 16 |
//! | 60..76 | mac1: `HMAC(HMAC(secret, "weft mac1" \| caller's public key), bytes 0..60)[..16]` |
//!
//! ## 3, cookie reply, 64 bytes
//! | byte | content |
//! |---|---|
//! | 0 | 3 |
//! | 1..4 | 0 |
//! | 4..8 | the caller's index |
//! | 8..32 | salt, random |
//! | 32..64 | cookie 16 + 16: ChaCha20-Poly1305, nonce 0, associated data the mac1 of the initiation, key `HMAC(HMAC(secret, "weft cookie" \| answerer's public key), salt)` |
//!
//! The cookie is `HMAC(an own secret, the caller's address and port)[..16]`. The own secret changes every 120 s, and
//! the one before it is taken too. A caller keeps a cookie for 120 s.
//!
//! ## 4, data, 32 bytes and the payload
//! | byte | content |
//! |---|---|
//! | 0 | 4 |
//! | 1 | flags: bit 0 the inner L4 checksum is partial, bit 1 the payload is a control message |
//! | 2 | where the inner L4 header starts, from the inner Ethernet header; 0 unless bit 0 |
//! | 3 | where its checksum stands, from the inner Ethernet header too; 0 unless bit 0 |
//! | 4..8 | the receiver's index |
//! | 8..16 | the number of the datagram: 0, 1, 2, … for each key |
//! | 16.. | the payload encrypted, and a tag of 16 bytes |
//!
//! AES-256-GCM or ChaCha20-Poly1305 as the suite says; associated data are bytes 0..16; the nonce is 4 zero bytes and
//! bytes 8..16. The keys are those of Noise's `Split()`: the caller sends with the first, the answerer with the second.
//! The payload is a VXLAN header and an Ethernet frame, or a control message; an empty control message is a
//! keep-alive. A partial checksum holds the pseudo-header's sum only, as the tag proves more than a checksum could.
//! Overhead over IPv4: 20 + 8 + 16 + 8 + 14 + 16, so an MTU of 1418 inside of 1500.
//!
//! # What an answerer does with an initiation
//! In the order of what it costs; each step has its [`Refusal`]:
//! 1. length, type, suite and zeros;
//! 2. the hint is looked up in a table;
//! 3. mac1: one HMAC, and whoever is not of the network ends here;
//! 4. load: 50 handshakes a second are free. Beyond them mac2 must be right, or a cookie reply is all that follows;
//!    then 20 a second for each address (a /64 counts as one), and 500 a second in all;
//! 5. one Diffie-Hellman (`es`) reveals the static key. It must be a peer's, whose `ss` is known in advance;
//! 6. the stamp must be higher than that of any session of that peer that was confirmed, and than that of the last
//!    answer while it is younger than 5 s; the secret one that this peer may use; the last answer 20 ms ago. A stamp
//!    counts for good only when its session is confirmed: an initiation that somebody kept for long cannot then lock a
//!    host out whose clock went back;
//! 7. two more Diffie-Hellman make the response.
//!
//! Each answer is shorter than its question, and goes to where that came from: nothing is amplified. A stranger whose
//! initiation is by the secret of an invitation is told of ([`Event::Introduced`]) and not answered; its next try is,
//! once it is a peer.
//!
//! # Sessions
//! A side holds three at most: *current*, which it sends with; *previous*, which still receives; and *next*, which the
//! answerer has made and not yet been heard on.
//! - The answerer makes `next` and responds. The first datagram that opens under it makes it `current`: only then is it
//!   known that the caller has it, and that the initiation was no replay. What was `current` becomes `previous`.
//! - The caller makes `current` from the response, `previous` from what was current, and sends a keep-alive at once,
//!   and again twice a second until it hears something under the new key. The answerer answers the first with one.
//! - So either side always holds the key that the other sends with. With the keys installed before the datagram leaves
//!   that tells of them, a new key costs no packet, at any rate.
//! - The caller of a session makes a new one after 120 s, the answerer after 150 s if the caller did not; either does
//!   when its key has sealed 2^27 datagrams of at most 2 KB (see [`REKEY_AFTER_UNITS`]). After 180 s, or twice that
//!   volume, a key is used no more, whatever happens.
//! - Received numbers are noted in a window of 8192: a number that came before, or is further behind the highest, is
//!   dropped. It is checked before the tag, which is costly, and noted after it.
//!
//! # Tries
//! A handshake that is not answered is tried again after 0.3, 0.6, 1.2, 2.4 and then every 5 s, and up to a quarter
//! more by chance; after 90 s every 15 s for a peer with a keep-alive, and no more for others. Each try is a new
//! initiation; only the last one's response is taken. After three tries the address where the peer was heard last and
//! the one that was configured take turns; several secrets take turns too. After 10 s the peer is reported
//! unreachable, once. A first cookie reply makes the next try come at once.
//!
//! *Both call at once*: the one with the lower public key drops its own handshake when it answers the other's. The
//! other answers too, for its initiation may not have arrived; that answer comes to nothing. One session is made.
//!
//! # Hearing nothing
//! Twice a second, or once while a session is idle, a node looks at what its workers have sealed and opened:
//! - something came, and at the next look nothing has gone out: a keep-alive goes, so that a sender hears something
//!   within two seconds. A keep-alive asks for no other;
//! - something went out, and for 3 s nothing came: the session or the path is gone, and a handshake is tried while the
//!   old key is still used. If the peer is heard on that again, the handshake is dropped;
//! - the configured keep-alive time is near its end, and nothing went out: a keep-alive goes. This is what keeps a NAT
//!   open, and lets the side outside of it send at any time. Nothing heard for three such times: a handshake.
//!
//! *Data under an index that nobody has*, from where a peer is: that peer holds a session that this host has lost, as
//! after a restart or a long sleep. One handshake is tried at once, if nothing was heard for a second.
//!
//! *A stamp that does not grow*, of a peer: a replay, or a host whose clock went back while it was down. If nothing was
//! heard of the peer for a second, a handshake is tried the other way round, every 5 s at most. So a false clock costs
//! one round trip, and a replay gets one initiation sent to the peer's own address.
//!
//! # Roaming
//! A peer is where its last datagram came from that authenticated and has a higher number than any before it. A message
//! of a handshake moves nobody, except the response to one's own.
//!
//! # Time
//! All times are of the caller's monotonic clock; the wall clock is asked once, at the start, for stamps. Whether that
//! clock counts a machine's sleep does not matter: if so, keys are over when it wakes and a handshake follows; if not,
//! its data arrives under an index that nobody has.
//!
//! # What it does not do
//! It does not hide who talks to whom, nor how much. A network's secret protects against cost, not against its
//! members: a member can make a host compute 500 handshakes a second, a tenth of a core, and so delay others' by cookies
//! and turns. Whoever sits on the path can drop datagrams, and so can move a peer to itself as a relay, blind.

mod cookie;
mod data;
mod drive;
mod event;
mod keys;
mod load;
mod node;
mod noise;
mod nonce;
mod peer;
mod receive;
mod refuse;
mod shared;
mod suite;
mod times;
mod window;
mod wire;

#[cfg(test)]
mod tests;

pub use data::{
    CONTROL, DATA, HEADER_LEN, LONG, OpenError, OpenKey, Opened, PARTIAL, Reserved, SealError,
    SendKey, SessionStats, TAG_LEN, receiver,
};
pub use event::{AddError, Event, NodeConfig, PeerConfig, SendError, State, Status};
pub use keys::{HostSecret, NetworkSecret, PublicKey, Random};
pub use load::MAX_SOURCES;
pub use node::Node;
pub use nonce::{REJECT_AFTER_UNITS, REKEY_AFTER_UNITS, UNIT};
pub use refuse::{Refusal, Refusals};
pub use shared::{MAX_PEERS, MAX_QUEUED, MAX_SECRETS};
pub use suite::{KEY_LEN, Suite};
pub use times::{ATTEMPT, REJECT_AFTER, REKEY_AFTER, REKEY_LATE, UNREACHABLE_AFTER};
pub use window::WINDOW;
pub use wire::{COOKIE_LEN, INITIATION_LEN, RESPONSE_LEN};

/// The longest control message that a datagram carries. Units: bytes. Source: 65,507 in UDP over IPv4.
pub const MAX_CONTROL: usize = 65_507 - HEADER_LEN - TAG_LEN;
