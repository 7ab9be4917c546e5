//! Keys: who a host is to the others (X25519), and secrets that two hosts share before they have met.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};

use super::text;

/// Bytes of each kind of key. Source: RFC 7748 section 5.
pub const LEN: usize = 32;

/// A text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 44 characters of base64, as 'weft key show' prints it")]
pub struct ParseKeyError;

fn decode(text: &str) -> Result<[u8; LEN], ParseKeyError> {
    let bytes = BASE64.decode(text.as_bytes()).map_err(|_| ParseKeyError)?;
    bytes.try_into().map_err(|_| ParseKeyError)
}

/// The half of a key that others know. Never zero, which is nobody's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; LEN]);

impl PublicKey {
    /// A key of these bytes. `None` for zeros. Shape: little-endian, RFC 7748 section 5.
    #[must_use]
    pub fn new(bytes: [u8; LEN]) -> Option<Self> {
        (bytes != [0; LEN]).then_some(Self(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// False for a point of low order, with which every exchange gives zeros. Source: RFC 7748 section 6.1.
    fn is_sound(&self) -> bool {
        let Some(mut dh) = DefaultResolver.resolve_dh(&DHChoice::Curve25519) else {
            return false;
        };
        dh.set(&[1; LEN]);
        let mut shared = [0; LEN];
        dh.dh(&self.0, &mut shared).is_ok() && shared != [0; LEN]
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        BASE64.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let key = Self::new(decode(text)?).filter(Self::is_sound);
        key.ok_or(ParseKeyError)
    }
}

/// A secret that two hosts share before they have met: it comes with an invite, and keys the cheap check of a first message.
/// Zeros where there is none. It is written to messages and the store, and never shown otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Secret([u8; LEN]);

impl Secret {
    /// A fresh one. Errors: the kernel gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; LEN];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// Its text, for those who may know it.
    #[must_use]
    pub fn reveal(&self) -> String {
        BASE64.encode(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl FromStr for Secret {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        decode(text).map(Self)
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&BASE64.encode_display(&self.0))
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

text::as_text!(PublicKey);

/// Both halves of the host's own key.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticKey {
    private: [u8; LEN],
    public: PublicKey,
}

impl StaticKey {
    /// A fresh one. Errors: the kernel gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut private = [0; LEN];
        getrandom::fill(&mut private)?;
        // Every 32 bytes are a private key, and none has a public half of zeros.
        Self::new(private).ok_or(getrandom::Error::UNEXPECTED)
    }

    /// The key of a private half. `None` for zeros.
    #[must_use]
    pub fn new(private: [u8; LEN]) -> Option<Self> {
        if private == [0; LEN] {
            return None;
        }
        let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519)?;
        dh.set(&private);
        let public = PublicKey::new(dh.pubkey().try_into().ok()?)?;
        Some(Self { private, public })
    }

    /// Reads a private half. Errors: it is none.
    pub fn parse(text: &str) -> Result<Self, ParseKeyError> {
        Self::new(decode(text)?).ok_or(ParseKeyError)
    }

    /// The half that others know.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The half that nobody else may know.
    #[must_use]
    pub const fn private(&self) -> &[u8; LEN] {
        &self.private
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKey({})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source: RFC 7748 section 5.2, the first of the iterations.
    #[test]
    fn public_halves_are_those_of_the_standard() {
        let mut private = [0; LEN];
        private[0] = 9;
        let key = StaticKey::new(private).unwrap();
        assert_eq!(
            data_encoding::HEXLOWER.encode(key.public().bytes()),
            "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
        );
    }

    #[test]
    fn keys_read_back_and_hide_what_is_private() {
        let key = StaticKey::generate().unwrap();
        assert_ne!(key, StaticKey::generate().unwrap());
        let text = key.public().to_string();
        assert_eq!(text.len(), 44);
        assert_eq!(text.parse(), Ok(*key.public()));
        let private = BASE64.encode(key.private());
        assert_eq!(StaticKey::parse(&private), Ok(key.clone()));
        assert!(!format!("{key:?}").contains(&private));
        let secret = Secret::generate().unwrap();
        assert_eq!(secret.reveal().parse(), Ok(secret));
        assert_eq!(format!("{secret:?}"), "Secret");
        for bad in ["", "AAAA", &"A".repeat(44), &"A".repeat(43), "é"] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
        let zero = BASE64.encode(&[0; LEN]);
        assert!(zero.parse::<PublicKey>().is_err() && StaticKey::parse(&zero).is_err());
    }
}
