//! How much work strangers may cause: cookies that prove an address, and buckets that bound the handshakes computed.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;

use super::keys::{MAC_LEN, MacKey, Random};
use super::wire::Proof;
use crate::time::Tick;

/// Handshakes computed a second without asking for a cookie, and how many at once. Each costs some 200 us of one core,
/// so this is 1 % of it.
const FREE: Rate = Rate {
    per_second: 50,
    burst: 50,
};
/// Handshakes computed a second in all: a tenth of a core, whoever asks and from how many addresses.
const ALL: Rate = Rate {
    per_second: 500,
    burst: 500,
};
/// Handshakes computed a second for one address that has proven to be there.
/// Source: WireGuard's rate limiter, 20 a second and 5 at once.
const ONE: Rate = Rate {
    per_second: 20,
    burst: 5,
};
/// Addresses that are told apart at a time; beyond it, whoever is new waits. A full table is 300 KB.
pub const MAX_SOURCES: usize = 4096;
/// How long a secret makes cookies; they are good for as long again.
/// Source: WireGuard, COOKIE_SECRET_MAX_AGE.
pub(super) const COOKIE_AGE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: u32,
    burst: u32,
}

/// A bucket of tokens, filled by time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When it is or was full again. Each token taken moves it on.
    full_at: Tick,
}

impl Bucket {
    const FULL: Self = Self {
        full_at: Tick::ZERO,
    };

    fn is_full(&self, now: Tick) -> bool {
        self.full_at <= now
    }

    fn take(&mut self, now: Tick, rate: Rate) -> bool {
        let token = Duration::from_secs(1) / rate.per_second;
        let after = self.full_at.max(now) + token;
        let fits = after <= now + token * rate.burst;
        if fits {
            self.full_at = after;
        }
        fits
    }
}

/// What is made of a message whose first MAC is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admit {
    /// Compute it.
    Yes,
    /// Ask for a cookie.
    Prove,
    /// Not now.
    No,
}

/// Who may cause a handshake to be computed now.
#[derive(Debug)]
pub(super) struct Load {
    free: Bucket,
    all: Bucket,
    sources: BTreeMap<IpAddr, Bucket>,
    /// The present secret and the one before it.
    secrets: [MacKey; 2],
    renew_at: Tick,
}

/// An IPv6 host has a whole /64 to choose addresses from.
fn source(of: SocketAddr) -> IpAddr {
    match of.ip().to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
    }
}

fn secret(random: &mut dyn Random) -> MacKey {
    let mut bytes = [0; 32];
    random.fill(&mut bytes);
    MacKey::new(&bytes)
}

/// The address and port, as bytes that a cookie covers.
fn place(of: SocketAddr) -> [u8; 18] {
    let address = match of.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; 18];
    let octets = address.octets().into_iter().chain(of.port().to_le_bytes());
    for (to, from) in bytes.iter_mut().zip(octets) {
        *to = from;
    }
    bytes
}

impl Load {
    pub(super) fn new(now: Tick, random: &mut dyn Random) -> Self {
        Self {
            free: Bucket::FULL,
            all: Bucket::FULL,
            sources: BTreeMap::new(),
            secrets: [secret(random), secret(random)],
            renew_at: now + COOKIE_AGE,
        }
    }

    /// Changes the secret when it is time to.
    fn renew(&mut self, now: Tick, random: &mut dyn Random) {
        if now < self.renew_at {
            return;
        }
        // After two ages not even the last one is good any more.
        let keep = now < self.renew_at + COOKIE_AGE;
        let [present, _] = &self.secrets;
        let before = if keep {
            present.clone()
        } else {
            secret(random)
        };
        self.secrets = [secret(random), before];
        self.renew_at = now + COOKIE_AGE;
    }

    /// The cookie of an address.
    pub(super) fn cookie(
        &mut self,
        now: Tick,
        from: SocketAddr,
        random: &mut dyn Random,
    ) -> [u8; MAC_LEN] {
        self.renew(now, random);
        let [present, _] = &self.secrets;
        present.sign(&[&place(from)])
    }

    /// Whether to compute a handshake for a message from there.
    pub(super) fn admit(
        &mut self,
        now: Tick,
        from: SocketAddr,
        proof: Proof<'_>,
        random: &mut dyn Random,
    ) -> Admit {
        if self.free.take(now, FREE) {
            return if self.all.take(now, ALL) {
                Admit::Yes
            } else {
                Admit::No
            };
        }
        self.renew(now, random);
        let proven = *proof.mac2 != [0; MAC_LEN]
            && self.secrets.iter().any(|secret| {
                let cookie = secret.sign(&[&place(from)]);
                MacKey::new(&cookie).verify(&[proof.before], proof.mac2)
            });
        if !proven {
            return Admit::Prove;
        }
        if self.take_of(now, source(from)) && self.all.take(now, ALL) {
            Admit::Yes
        } else {
            Admit::No
        }
    }

    fn take_of(&mut self, now: Tick, source: IpAddr) -> bool {
        if let Some(bucket) = self.sources.get_mut(&source) {
            return bucket.take(now, ONE);
        }
        if self.sources.len() >= MAX_SOURCES {
            self.sources.retain(|_, bucket| !bucket.is_full(now));
        }
        if self.sources.len() >= MAX_SOURCES {
            return false;
        }
        let mut bucket = Bucket::FULL;
        let taken = bucket.take(now, ONE);
        self.sources.insert(source, bucket);
        taken
    }

    /// Whether one more response, which only a handshake of this host's own can cause, is computed.
    pub(super) fn admit_response(&mut self, now: Tick) -> bool {
        self.all.take(now, ALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);

    impl Random for Fixed {
        fn fill(&mut self, bytes: &mut [u8]) {
            self.0 = self.0.wrapping_add(1);
            bytes.fill(self.0);
        }
    }

    fn at(ip: [u8; 4], port: u16) -> SocketAddr {
        SocketAddr::from((ip, port))
    }

    fn with(mac2: &[u8; MAC_LEN]) -> Proof<'_> {
        Proof {
            before: b"message",
            mac2,
        }
    }

    fn mac2(cookie: [u8; MAC_LEN]) -> [u8; MAC_LEN] {
        MacKey::new(&cookie).sign(&[b"message"])
    }

    #[test]
    fn under_load_an_address_must_be_proven() {
        let mut random = Fixed(0);
        let now = Tick::from_millis(5_000);
        let mut load = Load::new(now, &mut random);
        let (here, there) = (at([192, 0, 2, 1], 7348), at([192, 0, 2, 2], 7348));
        let zero = [0; MAC_LEN];
        for _ in 0..FREE.burst {
            assert_eq!(load.admit(now, here, with(&zero), &mut random), Admit::Yes);
        }
        assert_eq!(
            load.admit(now, here, with(&zero), &mut random),
            Admit::Prove
        );
        let proof = mac2(load.cookie(now, here, &mut random));
        assert_eq!(
            load.admit(now, there, with(&proof), &mut random),
            Admit::Prove
        );
        let other_port = at([192, 0, 2, 1], 7349);
        assert_eq!(
            load.admit(now, other_port, with(&proof), &mut random),
            Admit::Prove
        );
        for _ in 0..ONE.burst {
            assert_eq!(load.admit(now, here, with(&proof), &mut random), Admit::Yes);
        }
        assert_eq!(load.admit(now, here, with(&proof), &mut random), Admit::No);
        let later = now + Duration::from_secs(2);
        assert_eq!(
            load.admit(later, here, with(&zero), &mut random),
            Admit::Yes,
            "free again"
        );
    }

    #[test]
    fn a_cookie_lives_for_two_ages_at_most() {
        let mut random = Fixed(0);
        let start = Tick::from_millis(1_000);
        let mut load = Load::new(start, &mut random);
        let here = at([192, 0, 2, 1], 7348);
        let proof = mac2(load.cookie(start, here, &mut random));
        for (seconds, expected) in [(119, Admit::Yes), (121, Admit::Yes), (242, Admit::Prove)] {
            let now = start + Duration::from_secs(seconds);
            while load.free.take(now, FREE) {}
            let admit = load.admit(now, here, with(&proof), &mut random);
            assert_eq!(admit, expected, "after {seconds} s");
        }
    }

    #[test]
    fn many_addresses_get_no_more_than_the_total_and_the_table_stays_small() {
        let mut random = Fixed(0);
        let now = Tick::from_millis(1_000);
        let mut load = Load::new(now, &mut random);
        let mut computed = 0;
        for n in 0..10_000u16 {
            let [a, b] = n.to_be_bytes();
            let here = at([10, 0, a, b], 1);
            let proof = mac2(load.cookie(now, here, &mut random));
            if load.admit(now, here, with(&proof), &mut random) == Admit::Yes {
                computed += 1;
            }
        }
        assert_eq!(computed, ALL.burst);
        assert_eq!(load.sources.len(), MAX_SOURCES);
        let later = now + Duration::from_secs(5);
        while load.free.take(later, FREE) {}
        let here = at([11, 0, 0, 1], 1);
        let proof = mac2(load.cookie(later, here, &mut random));
        assert_eq!(
            load.admit(later, here, with(&proof), &mut random),
            Admit::Yes
        );
        assert_eq!(load.sources.len(), 1, "who was quiet is forgotten");
    }

    #[test]
    fn a_host_is_its_prefix() {
        let one: SocketAddr = "[2001:db8:1:2:3::4]:1".parse().unwrap();
        let two: SocketAddr = "[2001:db8:1:2:ffff::1]:2".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:2".parse().unwrap();
        assert_eq!(source(one), source(two));
        assert_eq!(source(mapped), IpAddr::from([192, 0, 2, 1]));
    }
}
