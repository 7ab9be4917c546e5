//! Stage 5: What the names of rules have led to, for one endpoint: addresses of answers that the gateway gave it.
//!
//! Only names that a rule is about are kept, at most [`MOST`] addresses; the one that ends first makes room. A guest
//! that asks for names of its own choice under `*.` pushes out its own.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use hickory_proto::op::Message;
use hickory_proto::rr::RData;

use super::eval::Names;
use crate::time::Tick;

/// Addresses of one endpoint at most.
pub const MOST: usize = 1_024;
/// An address counts so long at least: resolvers inside of programs keep answers longer than their servers wish.
const LEAST: Duration = Duration::from_secs(300);
/// And so long at most, whatever a server says.
const LONGEST: Duration = Duration::from_secs(86_400);

/// The addresses, with the name's place in the rules and the end of the answer.
#[derive(Debug, Clone, Default)]
pub struct Learned(BTreeMap<(IpAddr, u16), Tick>);

impl Learned {
    /// True if a name has led to an address.
    #[must_use]
    pub fn has(&self, now: Tick, addr: IpAddr, name: u16) -> bool {
        self.0.get(&(addr, name)).is_some_and(|&until| now < until)
    }

    /// Takes the addresses of an answer to a question for a name that rules are about. Shape: a whole DNS message.
    pub fn answered(&mut self, now: Tick, names: &Names, message: &[u8]) {
        let Ok(message) = Message::from_vec(message) else {
            return;
        };
        let Some(question) = message.queries.first() else {
            return;
        };
        let name = question.name.to_ascii().to_ascii_lowercase();
        for place in names.of(name.trim_end_matches('.')) {
            for record in &message.answers {
                let addr = if let RData::A(a) = &record.data {
                    IpAddr::V4(a.0)
                } else if let RData::AAAA(a) = &record.data {
                    IpAddr::V6(a.0)
                } else {
                    continue;
                };
                let ttl = Duration::from_secs(u64::from(record.ttl));
                self.add(now, addr, place, ttl);
            }
        }
    }

    /// What is still of use when other rules come.
    #[must_use]
    pub fn carried(self, from: &Names, to: &Names) -> Self {
        let place = |((addr, name), until)| Some(((addr, to.place(from.at(name)?)?), until));
        Self(self.0.into_iter().filter_map(place).collect())
    }

    fn add(&mut self, now: Tick, addr: IpAddr, name: u16, ttl: Duration) {
        let until = now + ttl.clamp(LEAST, LONGEST);
        let key = (addr, name);
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            let first = self.0.iter().min_by_key(|e| e.1).map(|e| *e.0);
            if let Some(first) = first {
                self.0.remove(&first);
            }
        }
        let end = self.0.entry(key).or_insert(until);
        *end = until.max(*end);
    }
}
