//! Peers come and go, are found and lost: what the thread does about each.

use std::net::SocketAddr;

use switch_core::addr::PeerId;
use switch_core::time::Tick;
use switch_core::tunnel::announce::Holder;
use switch_core::tunnel::control::record::Announced;
use switch_core::tunnel::peers::{News as Said, Source};
use switch_core::tunnel::seal::{NetworkSecret, PeerConfig, PublicKey};

use super::command::{Asked, News, View};
use super::install::Change;
use super::member::{About, Member};
use super::run::{Run, node};
use super::tell::named;

impl Run {
    /// Takes what the source of peers says.
    pub(super) fn ask_source(&mut self, now: Tick) {
        while let Some(said) = self.source.poll_news(now) {
            match said {
                Said::Peer(peer, asked) => self.set_peer(now, peer, asked),
                Said::NoPeer(peer) => self.remove_peer(now, peer),
                Said::Endpoint(peer, endpoint) => {
                    if let Err(e) = self.announcer.place(now, peer, &endpoint) {
                        let mac = endpoint.mac;
                        let problem = format!("its endpoint {mac} is not taken: {e}");
                        self.complain(peer, About::Endpoint(endpoint.vni, mac), problem);
                    }
                }
                Said::NoEndpoint(peer, vni, mac) => self.announcer.take_back(now, peer, vni, mac),
            }
        }
    }

    fn set_peer(&mut self, now: Tick, peer: PeerId, asked: Asked) {
        self.announcer.set_peer(now, peer, asked.rules.clone());
        // What it may no longer have goes while the ways there are known.
        self.hear_announcer(now);
        let known = self.members.get(&peer).map(|m| {
            let (a, b) = (&m.asked, &asked);
            (a.key, a.secret, a.keepalive) == (b.key, b.secret, b.keepalive)
        });
        let lanes = asked.lanes.iter().copied().collect();
        match known {
            Some(true) => {
                if let Some(member) = self.members.get_mut(&peer) {
                    if member.asked.endpoint != asked.endpoint {
                        self.node.set_endpoint(now, peer, asked.endpoint);
                    }
                    if member.asked.rules != asked.rules {
                        // What is still not allowed is told again.
                        member.settle(|about| about == About::Rules);
                    }
                    member.lanes = lanes;
                    member.asked = asked;
                }
                self.tell_all(peer);
                self.spread_mtu(peer);
                return;
            }
            Some(false) => self.forget(now, peer),
            None => {}
        }
        let endpoint = asked.endpoint.or(asked.seen);
        self.enrol(now, peer, asked, endpoint);
    }

    /// Takes a peer up that there are no sessions with.
    fn enrol(&mut self, now: Tick, peer: PeerId, asked: Asked, endpoint: Option<SocketAddr>) {
        let (key, keepalive) = (asked.key, asked.keepalive);
        let secret = NetworkSecret::new(asked.secret);
        let member = Member::new(now, asked, self.link_mtu);
        self.members.insert(peer, member);
        let added = match key {
            None => self.node.add_invite(peer.0, &secret),
            Some(key) => self.node.add_peer(
                now,
                peer,
                &PeerConfig {
                    key: PublicKey(key),
                    secrets: vec![secret],
                    endpoint,
                    keepalive,
                },
            ),
        };
        match added {
            // Each tells the other what it has before anybody asks for it.
            Ok(()) if endpoint.is_some() => self.node.demand(now, peer),
            Ok(()) => {}
            Err(e) => self.complain(peer, About::Peer, format!("it cannot be used: {e}")),
        }
    }

    /// Is another to its peers from now on. All sessions end: peers that know the new key make new ones.
    pub(super) fn renew(&mut self, now: Tick, secret: [u8; 32]) {
        let Some(node) = node(now, secret) else {
            tracing::error!("the host's new key is of no use; the one before stays");
            return;
        };
        let peers: Vec<PeerId> = self.members.keys().copied().collect();
        let seen = peers.iter().map(|&peer| {
            let at = self.node.status(peer).and_then(|s| s.endpoint);
            self.forget(now, peer);
            at
        });
        let seen: Vec<Option<SocketAddr>> = seen.collect();
        self.node = node;
        for (peer, at) in peers.into_iter().zip(seen) {
            if let Some(member) = self.members.remove(&peer) {
                let known = member.asked.endpoint.or(member.asked.seen);
                let endpoint = at.or(known);
                self.enrol(now, peer, member.asked, endpoint);
            }
        }
    }

    fn remove_peer(&mut self, now: Tick, peer: PeerId) {
        self.announcer.remove_peer(now, peer);
        self.hear_announcer(now);
        self.forget(now, peer);
        self.members.remove(&peer);
    }

    /// Ends sessions with a peer.
    pub(super) fn forget(&mut self, now: Tick, peer: PeerId) {
        self.node.remove_invite(peer.0);
        self.node.remove_peer(peer);
        self.hear_node(now);
        self.announcer.lost(now, peer);
        self.workers.send(peer, None);
    }

    pub(super) fn rises(&mut self, now: Tick, peer: PeerId, to: SocketAddr) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        member.v6 = to.is_ipv6();
        member.settle(|about| about == About::Silence);
        if !member.up {
            member.rises(now);
            member.mtu.restart(now, self.link_mtu);
            self.announcer.connected(now, peer);
            self.groups.hurry(now);
        }
    }

    pub(super) fn falls(&mut self, now: Tick, peer: PeerId) {
        if let Some(member) = self.members.get_mut(&peer) {
            member.falls();
        }
        self.announcer.lost(now, peer);
    }

    /// Somebody has shown the secret of an invite: it is the peer from now on, and no other.
    pub(super) fn introduced(&mut self, now: Tick, peer: PeerId, key: PublicKey, from: SocketAddr) {
        let open = |member: &&mut Member| member.asked.key.is_none();
        // Whoever was first has it: also where it had to say so twice before it was heard.
        let Some(member) = self.members.get_mut(&peer).filter(open) else {
            return;
        };
        member.asked.key = Some(key.0);
        let config = PeerConfig {
            key,
            secrets: vec![NetworkSecret::new(member.asked.secret)],
            endpoint: member.asked.endpoint.or(Some(from)),
            keepalive: member.asked.keepalive,
        };
        self.node.remove_invite(peer.0);
        match self.node.add_peer(now, peer, &config) {
            Ok(()) => self.tell(News::Joined(peer, key.0)),
            Err(e) => {
                let problem = format!("who shows its invite cannot be used: {e}");
                self.complain(peer, About::Peer, problem);
            }
        }
    }

    /// Tells where a peer is heard, now and then, so that this host finds it there when it starts again.
    pub(super) fn note_place(&mut self, now: Tick, peer: PeerId) {
        let at = self.node.status(peer).and_then(|status| status.endpoint);
        let Some((member, at)) = self.members.get_mut(&peer).zip(at) else {
            return;
        };
        if member.is_new_place(now, at) {
            self.tell(News::Seen(peer, at));
        }
    }

    /// Says what is wrong with a peer, unless that is known.
    pub(super) fn complain(&mut self, peer: PeerId, about: About, problem: String) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        if member.complain(about, &problem) {
            self.tell(News::Problem(peer, problem));
        }
    }

    pub(super) fn tell(&self, news: News) {
        // Nobody listens any more at the end.
        let _ = self.news.send(news);
        let _ = self.told.write(1);
    }

    /// Says so where the way to a peer has turned out to be narrower than the link of this host, so that packets of
    /// the networks' sizes do not pass.
    pub(super) fn judge_way(&mut self, peer: PeerId) {
        let Some(member) = self.members.get_mut(&peer).filter(|m| m.mtu.is_settled()) else {
            return;
        };
        let (mtu, inner) = (member.mtu.mtu(), member.inner_mtu());
        let mut lanes = member.lanes.iter();
        let narrow = lanes.find(|(_, lane)| mtu < self.link_mtu && inner < lane.mtu);
        let Some((&vni, lane)) = narrow else {
            return member.settle(|about| about == About::Way);
        };
        let problem = format!(
            "packets to it may have {inner} bytes, fewer than the {} of {}: the way there takes no more than {mtu}",
            lane.mtu,
            named(&self.overlays, vni),
        );
        if !member.knows(&problem) {
            member.settle(|about| about == About::Way);
            self.complain(peer, About::Way, problem);
        }
    }

    /// Tells the switches how large packets to a peer may be.
    pub(super) fn spread_mtu(&mut self, peer: PeerId) {
        let Some(member) = self.members.get(&peer) else {
            return;
        };
        let inner = member.inner_mtu();
        for lane in member.lanes.values() {
            self.changes.push(Change::Mtu {
                slot: lane.slot,
                port: lane.port,
                mtu: inner.min(lane.mtu),
            });
        }
    }

    /// The endpoints that each peer has announced.
    pub(super) fn announced(&self) -> Vec<(PeerId, Announced)> {
        let each = self.members.keys().flat_map(|&peer| {
            let endpoints = self.announcer.endpoints(Holder::Peer(peer));
            endpoints.map(move |endpoint| (peer, endpoint))
        });
        each.collect()
    }

    pub(super) fn views(&self, now: Tick) -> Vec<View> {
        let each = self.members.iter().map(|(&peer, member)| {
            let status = self.node.status(peer);
            let stats = self.announcer.stats(peer);
            View {
                peer,
                invited: member.asked.key.is_none(),
                status,
                rtt: member.rtt.or_else(|| status.and_then(|s| s.rtt)),
                mtu: member.mtu.mtu(),
                loss: member.loss(),
                handshake: status.and_then(|s| s.handshake).map(|at| now.since(at)),
                refused: stats
                    .iter()
                    .flat_map(|s| s.refused())
                    .map(|(r, n)| (r.name(), n))
                    .collect(),
                problems: member.problems(),
            }
        });
        each.collect()
    }
}
