//! Why the protocol took no notice of a datagram, each reason with its counter.

/// A reason, in the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// No message of this protocol: its length, type, suite or reserved bytes.
    Malformed,
    /// A secret that this host does not have.
    UnknownNetwork,
    /// The first MAC is wrong: the sender does not know the secret.
    BadMac,
    /// Under load, and without a cookie: one was sent.
    CookieAsked,
    /// More handshakes from that address, or from all, than are computed.
    Busy,
    /// The handshake does not decrypt.
    Forged,
    /// A static key that is no peer's.
    Stranger,
    /// A peer, but by the secret of a network that it is not in.
    WrongNetwork,
    /// A stamp that does not grow: replayed, or of a host whose clock went back while it was down.
    StaleStamp,
    /// An initiation sooner after the last than any host sends them.
    TooOften,
    /// For a session or handshake that is not.
    UnknownIndex,
    /// A cookie reply that does not open.
    BadCookie,
    /// The queue of what is to be sent is full.
    QueueFull,
    /// Indices ran out: more sessions than may be.
    TableFull,
}

impl Refusal {
    /// All, in order.
    pub const ALL: [Self; 14] = [
        Self::Malformed,
        Self::UnknownNetwork,
        Self::BadMac,
        Self::CookieAsked,
        Self::Busy,
        Self::Forged,
        Self::Stranger,
        Self::WrongNetwork,
        Self::StaleStamp,
        Self::TooOften,
        Self::UnknownIndex,
        Self::BadCookie,
        Self::QueueFull,
        Self::TableFull,
    ];

    /// Its name, as users see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownNetwork => "unknown-network",
            Self::BadMac => "bad-mac",
            Self::CookieAsked => "cookie-asked",
            Self::Busy => "busy",
            Self::Forged => "forged",
            Self::Stranger => "stranger",
            Self::WrongNetwork => "wrong-network",
            Self::StaleStamp => "stale-stamp",
            Self::TooOften => "too-often",
            Self::UnknownIndex => "unknown-index",
            Self::BadCookie => "bad-cookie",
            Self::QueueFull => "queue-full",
            Self::TableFull => "table-full",
        }
    }
}

/// A counter for each reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals([u64; Refusal::ALL.len()]);

impl Refusals {
    /// How often.
    #[must_use]
    pub fn get(&self, reason: Refusal) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().zip(self.0)
    }

    pub(super) fn count(&mut self, reason: Refusal) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter_and_name() {
        let mut refusals = Refusals::default();
        for (times, reason) in Refusal::ALL.into_iter().enumerate() {
            for _ in 0..times {
                refusals.count(reason);
            }
        }
        for (times, (reason, count)) in refusals.iter().enumerate() {
            assert_eq!(count, times as u64, "{}", reason.name());
            assert_eq!(refusals.get(reason), count);
        }
    }
}
