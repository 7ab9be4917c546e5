//! An invite: everything that another host needs to become a peer, in one word that survives copying.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::control::key::{PublicKey, Secret};
use crate::control::spec::{HostPort, Prefix};

/// What an invite begins with. A name has no dot.
const MARK: &str = "weft1.";
/// Bytes of an invite's text at most.
pub const LONGEST: usize = 64 << 10;

/// A network as an invite tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InvitedNetwork {
    /// Its name.
    pub name: String,
    /// Its number.
    pub vni: u32,
    /// Its IPv4 subnet.
    pub subnet: Prefix,
    /// The switches' address on it.
    pub gateway: std::net::Ipv4Addr,
    /// Its IPv6 subnet.
    pub subnet6: Option<Prefix>,
    /// The switches' address on it.
    pub gateway6: Option<std::net::Ipv6Addr>,
    /// Its largest packet.
    pub mtu: u16,
    /// It leads nowhere outside.
    pub internal: bool,
    /// What the inviting host hands out of it.
    pub taken: Prefix,
    /// What the invited host hands out of it.
    pub given: Prefix,
}

/// An invite, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Invite {
    /// The inviting host's name.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
    /// Where it is.
    pub endpoint: HostPort,
    /// What is known to these two only.
    pub secret: Secret,
    /// Until when it can be taken, if that ends. Units: seconds since 1970, by the inviting host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The networks that both shall be on.
    pub networks: Vec<InvitedNetwork>,
}

/// Why a text is no invite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseInviteError {
    /// It is something else.
    #[error("not an invite: it begins with '{MARK}', as 'weft peer invite' prints it")]
    Other,
    /// It is one, with something missing or changed.
    #[error("the invite is cut short or was changed on its way; copy all of the line")]
    Damaged,
    /// It is whole, and says what this weft does not know.
    #[error("the invite is of another release: {0}")]
    Release(String),
}

/// FNV-1a: enough to tell a slip of the hand. Whoever changes an invite on purpose only loses the host that takes it.
fn check(text: &[u8]) -> u32 {
    text.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

impl Invite {
    /// The text. Anyone who has it can join in the invited host's place.
    #[must_use]
    pub fn reveal(&self) -> String {
        // Plain data with keys of text: writing it to memory does not fail.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.extend(check(&bytes).to_be_bytes());
        format!("{MARK}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an invite of {} at {}", self.name, self.endpoint)
    }
}

impl FromStr for Invite {
    type Err = ParseInviteError;

    /// Reads an invite, also with the command before it, and broken over lines.
    fn from_str(text: &str) -> Result<Self, ParseInviteError> {
        if text.len() > LONGEST {
            return Err(ParseInviteError::Other);
        }
        let at = text.find(MARK).ok_or(ParseInviteError::Other)?;
        let word = text.get(at + MARK.len()..).unwrap_or_default();
        let word: String = word.split_whitespace().collect();
        let bytes = BASE64URL_NOPAD.decode(word.as_bytes());
        let bytes = bytes.map_err(|_| ParseInviteError::Damaged)?;
        let (body, sum) = bytes
            .split_last_chunk::<4>()
            .ok_or(ParseInviteError::Damaged)?;
        if check(body) != u32::from_be_bytes(*sum) {
            return Err(ParseInviteError::Damaged);
        }
        serde_json::from_slice(body).map_err(|e| ParseInviteError::Release(e.to_string()))
    }
}

/// True for a text that is meant as an invite.
#[must_use]
pub fn is_invite(text: &str) -> bool {
    text.starts_with(MARK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::key::StaticKey;

    fn invite() -> Invite {
        Invite {
            name: "a".to_owned(),
            key: *StaticKey::generate().unwrap().public(),
            endpoint: "192.0.2.1:7348".parse().unwrap(),
            secret: Secret::generate().unwrap(),
            expires: Some(1_700_000_000),
            networks: vec![InvitedNetwork {
                name: "web".to_owned(),
                vni: 7,
                subnet: "10.1.0.0/16".parse().unwrap(),
                gateway: "10.1.0.1".parse().unwrap(),
                subnet6: None,
                gateway6: None,
                mtu: 1418,
                internal: false,
                taken: "10.1.0.0/24".parse().unwrap(),
                given: "10.1.1.0/24".parse().unwrap(),
            }],
        }
    }

    #[test]
    fn invites_read_back_as_they_are_copied() {
        let invite = invite();
        let text = invite.reveal();
        assert!(is_invite(&text) && !is_invite("web"));
        assert_eq!(text.parse(), Ok(invite.clone()));
        assert_eq!(
            format!("weft peer add {text}\n").parse(),
            Ok(invite.clone())
        );
        let (head, tail) = text.split_at(80);
        assert_eq!(format!(" {head}\n  {tail} ").parse(), Ok(invite.clone()));
        let told = format!("{invite} {invite:?}");
        assert!(!told.contains(&invite.secret.reveal()), "{told}");
    }

    #[test]
    fn what_was_damaged_is_refused() {
        let text = invite().reveal();
        for len in MARK.len()..text.len() {
            let cut: Result<Invite, _> = text[..len].parse();
            assert_eq!(cut, Err(ParseInviteError::Damaged), "{len}");
        }
        for at in MARK.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(changed.parse::<Invite>().is_err(), "{at}");
        }
        assert_eq!("".parse::<Invite>(), Err(ParseInviteError::Other));
        let long = format!("{MARK}{}", "A".repeat(LONGEST));
        assert_eq!(long.parse::<Invite>(), Err(ParseInviteError::Other));
        let mut body = b"{\"name\":\"a\"}".to_vec();
        body.extend(check(&body).to_be_bytes());
        let alien = format!("{MARK}{}", BASE64URL_NOPAD.encode(&body));
        let told = alien.parse::<Invite>();
        assert!(
            matches!(told, Err(ParseInviteError::Release(_))),
            "{told:?}"
        );
    }
}
