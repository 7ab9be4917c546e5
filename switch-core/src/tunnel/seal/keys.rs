//! What hosts know of each other before they talk: keys of hosts, and secrets of networks.

use core::fmt;
use core::hint::black_box;

use ring::hmac;

/// Where random bytes come from: the program's generator, or a repeatable one in a simulation.
pub trait Random: Send {
    /// Fills the whole slice with bytes that nobody can guess.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// The name of a host that nobody else can claim: its public X25519 key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "PublicKey({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

/// Overwrites a secret, in a way that the compiler keeps.
fn wipe(bytes: &mut [u8; 32]) {
    bytes.fill(0);
    black_box(bytes);
}

macro_rules! secret {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone)]
        pub struct $name([u8; 32]);
        impl $name {
            /// That of these bytes, all of which are possible.
            #[must_use]
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
            /// A new one.
            #[must_use]
            pub fn generate(random: &mut dyn Random) -> Self {
                let mut bytes = [0; 32];
                random.fill(&mut bytes);
                Self(bytes)
            }
            /// The bytes, for those who may know them.
            #[must_use]
            pub const fn bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }
        impl Drop for $name {
            fn drop(&mut self) {
                wipe(&mut self.0);
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret! {
    /// A host's private X25519 key. Never shown, and overwritten when dropped.
    HostSecret
}

secret! {
    /// What the hosts of one network have in common, from the invitation. Who does not know it costs a host no more than
    /// one MAC; it opens nothing by itself. Never shown, and overwritten when dropped.
    #[derive(PartialEq, Eq)]
    NetworkSecret
}

impl NetworkSecret {
    /// HMAC-SHA256 of a label and a public key.
    fn derive(&self, label: &[u8], key: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(label);
        context.update(key);
        first(context.sign().as_ref())
    }

    /// What names this secret in message 1, so that a receiver with many tries one.
    #[must_use]
    pub fn hint(&self) -> u32 {
        let [a, b, c, d, ..] = self.derive(b"weft hint", &[]);
        u32::from_le_bytes([a, b, c, d])
    }

    /// The key of the first MAC of messages to `receiver`.
    pub(super) fn mac_key(&self, receiver: &PublicKey) -> MacKey {
        MacKey::new(&self.derive(b"weft mac1", &receiver.0))
    }

    /// The key that cookie replies of `sender` are sealed with.
    pub(super) fn cookie_key(&self, sender: &PublicKey) -> [u8; 32] {
        self.derive(b"weft cookie", &sender.0)
    }
}

/// The first bytes of a longer digest; zeros for what is missing, which no digest here is.
pub(super) fn first<const N: usize>(digest: &[u8]) -> [u8; N] {
    digest.first_chunk().copied().unwrap_or([0; N])
}

/// Bytes of a MAC on the wire. Source: as WireGuard's; forging one costs 2^127 tries against a live host.
pub(super) const MAC_LEN: usize = 16;

/// A key of MACs on the wire: HMAC-SHA256, cut to 16 bytes.
#[derive(Debug, Clone)]
pub(super) struct MacKey(hmac::Key);

impl MacKey {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    pub(super) fn sign(&self, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        first(&self.sign_long(parts))
    }

    pub(super) fn sign_long(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        first(context.sign().as_ref())
    }

    /// Whether `mac` is that of `parts`; takes as long whichever byte differs.
    pub(super) fn verify(&self, parts: &[&[u8]], mac: &[u8; MAC_LEN]) -> bool {
        let pairs = self.sign(parts).into_iter().zip(mac);
        let difference = pairs.fold(0, |all, (a, b)| all | black_box(a ^ b));
        black_box(difference) == 0
    }
}
