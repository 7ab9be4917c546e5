//! The messages of the handshake, as bytes. Integers are little-endian; reserved bytes are zero.

use super::keys::MAC_LEN;
use super::suite::Suite;

/// Type of the first message.
pub(super) const INITIATION: u8 = 1;
/// Type of the answer to it.
pub(super) const RESPONSE: u8 = 2;
/// Type of what a host under load answers instead.
pub(super) const COOKIE: u8 = 3;

/// Bytes of an initiation.
pub const INITIATION_LEN: usize = 148;
/// Bytes of a response: fewer than of an initiation, so that nothing is amplified.
pub const RESPONSE_LEN: usize = 76;
/// Bytes of a cookie reply: fewer than of either.
pub const COOKIE_LEN: usize = 64;
const _: () = assert!(COOKIE_LEN < RESPONSE_LEN && RESPONSE_LEN < INITIATION_LEN);

/// Bytes before the Noise message of an initiation, which are in the prologue, and of a response.
pub(super) const HEAD: usize = 12;
/// Bytes of the Noise message in an initiation: e, s and its tag, the stamp and its tag.
pub(super) const INITIATION_NOISE: usize = 32 + 48 + STAMP_LEN + 16;
/// Bytes of the Noise message in a response: e, and a tag.
pub(super) const RESPONSE_NOISE: usize = 32 + 16;
/// Bytes of the payload of message 1.
pub(super) const STAMP_LEN: usize = 8;
const _: () = assert!(HEAD + INITIATION_NOISE + 2 * MAC_LEN == INITIATION_LEN);
const _: () = assert!(HEAD + RESPONSE_NOISE + MAC_LEN == RESPONSE_LEN);

/// An initiation or a response, of the right length and with zeros where they must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) suite: Suite,
    /// The index that the sender gives the session.
    pub(super) sender: u32,
    /// In an initiation the hint of the secret, in a response the receiver's index.
    pub(super) second: u32,
    pub(super) head: &'a [u8; HEAD],
    pub(super) noise: &'a [u8],
    /// What the first MAC covers.
    pub(super) before_mac1: &'a [u8],
    pub(super) mac1: &'a [u8; MAC_LEN],
}

/// The second MAC of an initiation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proof<'a> {
    /// What it covers.
    pub(super) before: &'a [u8],
    /// Zeros where the sender has no cookie.
    pub(super) mac2: &'a [u8; MAC_LEN],
}

fn parse(bytes: &[u8], kind: u8) -> Option<Message<'_>> {
    let (before_mac1, mac1) = bytes.split_last_chunk()?;
    let (head, noise) = before_mac1.split_first_chunk::<HEAD>()?;
    let [found, suite, 0, 0, s0, s1, s2, s3, h0, h1, h2, h3] = *head else {
        return None;
    };
    if found != kind {
        return None;
    }
    Some(Message {
        suite: Suite::from_number(suite)?,
        sender: u32::from_le_bytes([s0, s1, s2, s3]),
        second: u32::from_le_bytes([h0, h1, h2, h3]),
        head,
        noise,
        before_mac1,
        mac1,
    })
}

/// Reads an initiation.
pub(super) fn initiation(bytes: &[u8]) -> Option<(Message<'_>, Proof<'_>)> {
    let bytes: &[u8; INITIATION_LEN] = bytes.try_into().ok()?;
    let (before, mac2) = bytes.split_last_chunk()?;
    Some((parse(before, INITIATION)?, Proof { before, mac2 }))
}

/// Reads a response.
pub(super) fn response(bytes: &[u8]) -> Option<Message<'_>> {
    let bytes: &[u8; RESPONSE_LEN] = bytes.try_into().ok()?;
    parse(bytes, RESPONSE)
}

/// The 12 bytes before the Noise message.
pub(super) fn head(kind: u8, suite: Suite, sender: u32, second: u32) -> [u8; HEAD] {
    let [s0, s1, s2, s3] = sender.to_le_bytes();
    let [h0, h1, h2, h3] = second.to_le_bytes();
    [kind, suite.number(), 0, 0, s0, s1, s2, s3, h0, h1, h2, h3]
}

/// A cookie reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct CookieReply<'a> {
    /// The index of the sender of the message that caused it.
    pub(super) receiver: u32,
    pub(super) salt: &'a [u8; SALT_LEN],
    pub(super) sealed: &'a [u8; MAC_LEN + 16],
}

/// Bytes of what makes the key of a cookie reply its own.
pub(super) const SALT_LEN: usize = 24;

/// Reads a cookie reply.
pub(super) fn cookie_reply(bytes: &[u8]) -> Option<CookieReply<'_>> {
    let bytes: &[u8; COOKIE_LEN] = bytes.try_into().ok()?;
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    let [COOKIE, 0, 0, 0, r0, r1, r2, r3] = *head else {
        return None;
    };
    let (salt, sealed) = rest.split_first_chunk()?;
    Some(CookieReply {
        receiver: u32::from_le_bytes([r0, r1, r2, r3]),
        salt,
        sealed: sealed.try_into().ok()?,
    })
}
