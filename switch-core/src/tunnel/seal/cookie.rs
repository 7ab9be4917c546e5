//! The cookie reply: a host under load hands its caller a proof of the caller's address, sealed for who knows the secret.

use ring::aead::{Aad, LessSafeKey, Nonce};

use super::keys::{MAC_LEN, MacKey, NetworkSecret, PublicKey, Random};
use super::suite::Suite;
use super::wire::{COOKIE, COOKIE_LEN, CookieReply, SALT_LEN};

/// The key of one reply. The salt is random and long, so each key is used once, with a nonce of zeros.
fn key(secret: &NetworkSecret, sender: &PublicKey, salt: &[u8; SALT_LEN]) -> Option<LessSafeKey> {
    let key = MacKey::new(&secret.cookie_key(sender)).sign_long(&[salt]);
    Suite::ChaCha20Poly1305.key(&key)
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Writes a reply of `sender` to a message with this sender's index and first MAC.
pub(super) fn write(
    secret: &NetworkSecret,
    sender: &PublicKey,
    (receiver, mac1): (u32, &[u8; MAC_LEN]),
    mut cookie: [u8; MAC_LEN],
    random: &mut dyn Random,
) -> Option<Vec<u8>> {
    let mut salt = [0; SALT_LEN];
    random.fill(&mut salt);
    let tag = key(secret, sender, &salt)?
        .seal_in_place_separate_tag(nonce(), Aad::from(mac1), &mut cookie)
        .ok()?;
    let mut datagram = Vec::with_capacity(COOKIE_LEN);
    datagram.extend([COOKIE, 0, 0, 0]);
    datagram.extend(receiver.to_le_bytes());
    datagram.extend(salt);
    datagram.extend(cookie);
    datagram.extend(tag.as_ref());
    Some(datagram)
}

/// The cookie in a reply of `sender` to a message with this first MAC.
pub(super) fn read(
    secret: &NetworkSecret,
    sender: &PublicKey,
    mac1: &[u8; MAC_LEN],
    reply: &CookieReply<'_>,
) -> Option<[u8; MAC_LEN]> {
    let mut sealed = *reply.sealed;
    key(secret, sender, reply.salt)?
        .open_in_place(nonce(), Aad::from(mac1), &mut sealed)
        .ok()?
        .try_into()
        .ok()
}
