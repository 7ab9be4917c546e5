//! Noise IK by snow, with random bytes of the caller's, ring's ciphers, and no more Diffie-Hellman than needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random as SnowRandom};
use snow::{Builder, Error, HandshakeState};

use super::keys::{HostSecret, PublicKey, Random};
use super::suite::{KEY_LEN, Suite};
use super::wire::{HEAD, INITIATION_NOISE, RESPONSE_NOISE, STAMP_LEN};
use crate::sync::facade::{AtomicU64, Ordering};

/// What the prologue starts with; the 12 bytes before the Noise message of the initiation follow.
const LABEL: &[u8] = b"weft sealed v1";

/// The keys of a session: what this side sends with, and what it receives with.
pub(super) struct Split {
    pub(super) send: [u8; KEY_LEN],
    pub(super) receive: [u8; KEY_LEN],
}

/// What a responder learns from message 1.
pub(super) struct Hello {
    pub(super) key: PublicKey,
    pub(super) stamp: u64,
    state: HandshakeState,
}

/// Why message 1 was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HelloError {
    /// A static key that nobody added.
    Stranger,
    /// It does not decrypt.
    Forged,
}

/// Results of DH with the static keys of peers, which never change.
pub(super) type Shared = BTreeMap<PublicKey, [u8; 32]>;

/// This host's static key, and how often it was used.
pub(super) struct Identity {
    own: Arc<Own>,
    shared: Arc<Shared>,
}

struct Own {
    dh: Box<dyn Dh>,
    public: PublicKey,
    done: AtomicU64,
}

impl Own {
    /// One DH, counted. A point of low order, which makes the result known to all, is refused.
    fn dh(&self, with: &dyn Dh, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        self.done.fetch_add(1, Ordering::Relaxed);
        with.dh(public, out)?;
        if out.iter().all(|&byte| byte == 0) {
            return Err(Error::Dh);
        }
        Ok(())
    }
}

fn x25519() -> Option<Box<dyn Dh>> {
    DefaultResolver.resolve_dh(&DHChoice::Curve25519)
}

impl HostSecret {
    /// The public key of this private one. None only without X25519, which is compiled in.
    #[must_use]
    pub fn public(&self) -> Option<PublicKey> {
        let mut dh = x25519()?;
        dh.set(self.bytes());
        dh.pubkey().try_into().ok().map(PublicKey)
    }
}

impl Identity {
    pub(super) fn new(secret: &HostSecret) -> Option<Self> {
        let mut dh = x25519()?;
        dh.set(secret.bytes());
        let public = PublicKey(dh.pubkey().try_into().ok()?);
        let own = Own {
            dh,
            public,
            done: AtomicU64::new(0),
        };
        Some(Self {
            own: Arc::new(own),
            shared: Arc::default(),
        })
    }

    pub(super) fn public(&self) -> PublicKey {
        self.own.public
    }

    /// How many Diffie-Hellman computations were done.
    pub(super) fn done(&self) -> u64 {
        self.own.done.load(Ordering::Relaxed)
    }

    /// Makes `key` one that is answered; false for a point of low order.
    pub(super) fn add(&mut self, key: PublicKey) -> bool {
        let mut out = [0; 32];
        if self.own.dh(&*self.own.dh, &key.0, &mut out).is_err() {
            return false;
        }
        Arc::make_mut(&mut self.shared).insert(key, out);
        true
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        Arc::make_mut(&mut self.shared).remove(key);
    }

    fn builder(
        &self,
        suite: Suite,
        known: Known,
        random: &mut dyn Random,
    ) -> Option<Builder<'static>> {
        let mut seed = [0; 32];
        random.fill(&mut seed);
        let resolver = Resolver {
            own: Arc::clone(&self.own),
            known,
            seed,
        };
        let name = match suite {
            Suite::Aes256Gcm => "Noise_IK_25519_AESGCM_SHA256",
            Suite::ChaCha20Poly1305 => "Noise_IK_25519_ChaChaPoly_BLAKE2s",
        };
        let params: NoiseParams = name.parse().ok()?;
        // The resolver has the key; what stands here only says that there is one.
        Builder::with_resolver(params, Box::new(resolver))
            .local_private_key(&[0; 32])
            .ok()
    }

    /// Writes the Noise part of message 1. Cost: one DH, and a key.
    pub(super) fn initiate(
        &self,
        suite: Suite,
        head: &[u8; HEAD],
        peer: &PublicKey,
        stamp: u64,
        random: &mut dyn Random,
    ) -> Option<(HandshakeState, [u8; INITIATION_NOISE])> {
        let known = Known::One(*peer, *self.shared.get(peer)?);
        let prologue = [LABEL, head].concat();
        let mut state = self
            .builder(suite, known, random)?
            .prologue(&prologue)
            .ok()?
            .remote_public_key(&peer.0)
            .ok()?
            .build_initiator()
            .ok()?;
        let mut noise = [0; INITIATION_NOISE];
        let len = state.write_message(&stamp.to_le_bytes(), &mut noise).ok()?;
        (len == noise.len()).then_some((state, noise))
    }

    /// Reads the Noise part of message 1. Cost: one DH; one more for a stranger where `strangers` are heard.
    pub(super) fn hear(
        &self,
        suite: Suite,
        head: &[u8; HEAD],
        noise: &[u8],
        strangers: bool,
        random: &mut dyn Random,
    ) -> Result<Hello, HelloError> {
        let known = Known::All(Arc::clone(&self.shared), strangers);
        let prologue = [LABEL, head].concat();
        let mut state = self
            .builder(suite, known, random)
            .and_then(|b| b.prologue(&prologue).ok()?.build_responder().ok())
            .ok_or(HelloError::Forged)?;
        let mut payload = [0; STAMP_LEN + 16];
        let read = state.read_message(noise, &mut payload);
        let key = state
            .get_remote_static()
            .and_then(|key| key.try_into().ok());
        match (read, key) {
            (Ok(STAMP_LEN), Some(key)) => Ok(Hello {
                key: PublicKey(key),
                stamp: u64::from_le_bytes(super::keys::first(&payload)),
                state,
            }),
            (Err(Error::Dh), Some(_)) => Err(HelloError::Stranger),
            _ => Err(HelloError::Forged),
        }
    }
}

impl Hello {
    /// Writes the Noise part of message 2 and ends the handshake. Cost: two DH, and a key.
    pub(super) fn respond(mut self) -> Option<([u8; RESPONSE_NOISE], Split)> {
        let mut noise = [0; RESPONSE_NOISE];
        let len = self.state.write_message(&[], &mut noise).ok()?;
        if len != noise.len() {
            return None;
        }
        let (receive, send) = self.state.dangerously_get_raw_split();
        Some((noise, Split { send, receive }))
    }
}

/// Reads the Noise part of message 2 and ends the handshake. A forged one changes nothing. Cost: two DH.
pub(super) fn complete(state: &mut HandshakeState, noise: &[u8]) -> Option<Split> {
    state.read_message(noise, &mut [0; 16]).ok()?;
    let (send, receive) = state.dangerously_get_raw_split();
    Some(Split { send, receive })
}

/// With whose static keys the results are known.
#[derive(Clone)]
enum Known {
    /// Of the one that is called.
    One(PublicKey, [u8; 32]),
    /// Of all peers; and whether others are heard at all.
    All(Arc<Shared>, bool),
}

impl Known {
    fn get(&self, key: &[u8]) -> Option<&[u8; 32]> {
        match self {
            Self::One(peer, shared) => (peer.0 == *key).then_some(shared),
            Self::All(shared, _) => shared.get(&PublicKey(key.try_into().ok()?)),
        }
    }
}

struct Resolver {
    own: Arc<Own>,
    known: Known,
    seed: [u8; 32],
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn SnowRandom>> {
        Some(Box::new(Seed(Some(self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let inner = DefaultResolver.resolve_dh(choice)?;
        Some(Box::new(Half {
            own: Arc::clone(&self.own),
            known: self.known.clone(),
            ephemeral: inner,
            is_static: false,
            calls: AtomicU64::new(0),
        }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver
            .resolve_hash(choice)
            .or_else(|| DefaultResolver.resolve_hash(choice))
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

/// Random bytes for one ephemeral key, given out once.
struct Seed(Option<[u8; 32]>);

impl SnowRandom for Seed {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let seed = self.0.take().ok_or(Error::Rng)?;
        let dest: &mut [u8; 32] = dest.try_into().map_err(|_| Error::Rng)?;
        *dest = seed;
        Ok(())
    }
}

/// A private key in a handshake: the host's own once `set` was called, else an ephemeral one.
struct Half {
    own: Arc<Own>,
    known: Known,
    ephemeral: Box<dyn Dh>,
    is_static: bool,
    calls: AtomicU64,
}

impl Dh for Half {
    fn name(&self) -> &'static str {
        self.ephemeral.name()
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, _: &[u8]) {
        self.is_static = true;
    }

    fn generate(&mut self, random: &mut dyn SnowRandom) -> Result<(), Error> {
        self.is_static = false;
        self.ephemeral.generate(random)
    }

    fn pubkey(&self) -> &[u8] {
        if self.is_static {
            &self.own.public.0
        } else {
            self.ephemeral.pubkey()
        }
    }

    fn privkey(&self) -> &[u8] {
        if self.is_static {
            self.own.dh.privkey()
        } else {
            self.ephemeral.privkey()
        }
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public = public.get(..32).ok_or(Error::Dh)?;
        if !self.is_static {
            return self.own.dh(&*self.ephemeral, public, out);
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(shared) = self.known.get(public) {
            out.get_mut(..32).ok_or(Error::Dh)?.copy_from_slice(shared);
            return Ok(());
        }
        // The responder's first is with the caller's ephemeral key, which reveals the static one; the second would
        // be with that, and is what a stranger does not get.
        if matches!(self.known, Known::All(_, false)) && call > 0 {
            return Err(Error::Dh);
        }
        self.own.dh(&*self.own.dh, public, out)
    }
}
