//! Stage 4: Which resolver is asked next: in the order of the host's list, those that were of no use lately last.

use core::net::SocketAddr;
use core::time::Duration;

use crate::flow::host::DnsHost;
use crate::time::Tick;

/// How often the list of resolvers is gone through for one query.
const ROUNDS: u8 = 2;
/// How long one that did not answer is asked after the others.
const SHUN: Duration = Duration::from_secs(30);
/// Resolvers remembered, and asked at all. The C library knows three.
const MAX_RESOLVERS: usize = 16;

/// A resolver, asked over TCP or not: one that does not listen there may be as good as any over UDP.
type Way = (SocketAddr, bool);

/// Resolvers that did not answer, and until when that is held against them.
#[derive(Debug, Default)]
pub(super) struct Shunned(Vec<(Way, Tick)>);

impl Shunned {
    pub(super) fn add(&mut self, now: Tick, way: Way) {
        self.0.retain(|s| s.0 != way && s.1 > now);
        if self.0.len() < 2 * MAX_RESOLVERS {
            self.0.push((way, now + SHUN));
        }
    }

    pub(super) fn remove(&mut self, way: Way) {
        self.0.retain(|s| s.0 != way);
    }

    fn contains(&self, now: Tick, way: Way) -> bool {
        self.0.iter().any(|s| s.0 == way && s.1 > now)
    }
}

/// The resolvers that one query has been sent to.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Rounds that are over.
    rounds: u8,
    /// Those of this round.
    tried: [bool; MAX_RESOLVERS],
    last: Option<usize>,
}

impl Choice {
    /// Begins the next round where this one is over. False if all have been asked often enough.
    pub(super) fn goes_on<H: DnsHost>(&mut self, host: &H) -> bool {
        let count = host.resolvers().min(MAX_RESOLVERS);
        if self.fresh(count).next().is_none() {
            self.rounds += 1;
            self.tried = [false; MAX_RESOLVERS];
        }
        count > 0 && self.rounds < ROUNDS
    }

    /// The next one of this round.
    pub(super) fn next<H: DnsHost>(
        &mut self,
        now: Tick,
        tcp: bool,
        shunned: &Shunned,
        host: &H,
    ) -> Option<usize> {
        let count = host.resolvers().min(MAX_RESOLVERS);
        let shuns = |r: usize| {
            let server = host.resolver(r);
            server.is_some_and(|s| shunned.contains(now, (s, tcp)))
        };
        self.last = self.fresh(count).min_by_key(|&r| shuns(r));
        if let Some(tried) = self.last.and_then(|next| self.tried.get_mut(next)) {
            *tried = true;
        }
        self.last
    }

    /// Those below `count` that have not been asked in this round.
    fn fresh(&self, count: usize) -> impl Iterator<Item = usize> + '_ {
        let tried = self.tried.iter().take(count).enumerate();
        tried.filter(|(_, tried)| !**tried).map(|(r, _)| r)
    }

    /// The one that was asked last.
    pub(super) fn last(&self) -> Option<usize> {
        self.last
    }

    /// No resolver has been asked twice.
    pub(super) fn is_first_round(&self) -> bool {
        self.rounds == 0
    }

    /// There are resolvers that have not been asked at all.
    pub(super) fn has_fresh<H: DnsHost>(&self, host: &H) -> bool {
        let count = host.resolvers().min(MAX_RESOLVERS);
        self.is_first_round() && self.fresh(count).next().is_some()
    }
}
