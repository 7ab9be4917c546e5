//! `[7]` Where peers come from: what a configuration says, or one day what hosts tell each other of third ones, or what a
//! store that they share says. Neighbours: `announce`, which takes peers and endpoints from here; the program, which
//! makes sessions with them.

use std::collections::{BTreeMap, VecDeque};

use super::control::record::Announced;
use crate::addr::{Mac, PeerId, Vni};
use crate::time::Tick;

/// What a source says. `P` is what it takes to reach a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News<P> {
    /// There is a peer, or it is reached in another way.
    Peer(PeerId, P),
    /// There is no such peer any more; its endpoints are gone with it.
    NoPeer(PeerId),
    /// A peer has an endpoint, in place of the one with its network and MAC. Peers that announce say that themselves.
    Endpoint(PeerId, Announced),
    /// A peer has no such endpoint any more.
    NoEndpoint(PeerId, Vni, Mac),
}

/// Who feeds the table of peers.
pub trait Source {
    /// What it takes to reach a peer.
    type Peer;

    /// What is to be known now, in the order in which it happened.
    fn poll_news(&mut self, now: Tick) -> Option<News<Self::Peer>>;

    /// When [`Self::poll_news`] wants to be called although nothing has come from outside.
    fn poll_timeout(&self) -> Option<Tick>;
}

/// Peers that somebody has named, one by one.
#[derive(Debug)]
pub struct Static<P> {
    /// The endpoints of the peers that there are.
    peers: BTreeMap<PeerId, BTreeMap<(Vni, Mac), Announced>>,
    news: VecDeque<News<P>>,
}

impl<P> Default for Static<P> {
    fn default() -> Self {
        Self {
            peers: BTreeMap::new(),
            news: VecDeque::new(),
        }
    }
}

impl<P> Static<P> {
    /// Adds a peer, or says how it is reached from now on.
    pub fn set(&mut self, id: PeerId, peer: P) {
        self.peers.entry(id).or_default();
        self.news.push_back(News::Peer(id, peer));
    }

    /// Takes a peer away. One that there is not is no error.
    pub fn remove(&mut self, id: PeerId) {
        if self.peers.remove(&id).is_some() {
            self.news.push_back(News::NoPeer(id));
        }
    }

    /// Gives a peer that announces nothing an endpoint. False if there is no such peer.
    pub fn set_endpoint(&mut self, id: PeerId, endpoint: Announced) -> bool {
        let Some(endpoints) = self.peers.get_mut(&id) else {
            return false;
        };
        let key = (endpoint.vni, endpoint.mac);
        if endpoints.get(&key) != Some(&endpoint) {
            endpoints.insert(key, endpoint.clone());
            self.news.push_back(News::Endpoint(id, endpoint));
        }
        true
    }

    /// Takes an endpoint from a peer. One that there is not is no error.
    pub fn remove_endpoint(&mut self, id: PeerId, vni: Vni, mac: Mac) {
        let endpoints = self.peers.get_mut(&id);
        if endpoints.is_some_and(|e| e.remove(&(vni, mac)).is_some()) {
            self.news.push_back(News::NoEndpoint(id, vni, mac));
        }
    }
}

impl<P> Source for Static<P> {
    type Peer = P;

    fn poll_news(&mut self, _now: Tick) -> Option<News<P>> {
        self.news.pop_front()
    }

    fn poll_timeout(&self) -> Option<Tick> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_come_once_and_in_order() {
        let mut peers = Static::default();
        let (a, b) = (PeerId(1), PeerId(2));
        let vni = Vni::new(7).unwrap();
        let endpoint = Announced {
            vni,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addrs: ["10.0.0.1".parse().unwrap()].into_iter().collect(),
            names: Box::default(),
        };
        peers.set(a, "first");
        assert!(peers.set_endpoint(a, endpoint.clone()));
        assert!(peers.set_endpoint(a, endpoint.clone()));
        assert!(!peers.set_endpoint(b, endpoint.clone()));
        peers.remove(b);
        peers.set(a, "second");
        peers.remove_endpoint(a, vni, endpoint.mac);
        peers.remove_endpoint(a, vni, endpoint.mac);
        peers.remove(a);
        let news: Vec<_> = core::iter::from_fn(|| peers.poll_news(Tick::ZERO)).collect();
        let mac = endpoint.mac;
        let expected = [
            News::Peer(a, "first"),
            News::Endpoint(a, endpoint),
            News::Peer(a, "second"),
            News::NoEndpoint(a, vni, mac),
            News::NoPeer(a),
        ];
        assert_eq!(news, expected);
        assert_eq!(peers.poll_timeout(), None);
    }
}
