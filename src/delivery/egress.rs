//! Where mail leaves from: the addresses of a route and whose turn it is. Pure; [`super::client::dial`] binds
//! them, [`super::limits`] says which may be used now.
//!
//! Mail of a route with sources never leaves by another address (design section 10).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::bundle::document::{self, HostPort, Rotation, WarmUp};

/// The sources of a route.
#[derive(Debug, Clone)]
pub struct Sources {
    pub list: Vec<Arc<Source>>,
    pub rotation: Rotation,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub address: IpAddr,
    pub weight: u32,
    /// What EHLO says from here; `None`: the gateway's name.
    pub ehlo: Option<String>,
    /// A SOCKS5 proxy that has the address; `None`: this machine has it.
    pub proxy: Option<HostPort>,
    pub warm_up: Option<WarmUp>,
}

impl Sources {
    pub fn read(record: &document::Egress) -> Self {
        let source = |source: &document::EgressSource| {
            let document::EgressSource { address, weight, ehlo, proxy, warm_up } = source.clone();
            Arc::new(Source { address, weight: weight.unwrap_or(1).max(1), ehlo, proxy, warm_up })
        };
        Self { list: record.sources.iter().map(source).collect(), rotation: record.rotation }
    }
}

/// What one message may leave from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Leave {
    /// The machine picks: the route has no sources.
    #[default]
    Anywhere,
    /// One source for each family of addresses; none at all: the message stays.
    From { v4: Option<Arc<Source>>, v6: Option<Arc<Source>>, v6_first: bool },
}

impl Leave {
    pub fn nowhere() -> Self {
        Leave::From { v4: None, v6: None, v6_first: false }
    }

    /// The sources, the one whose turn it is first; `None` in it: the machine picks.
    pub fn ways(&self) -> Vec<Option<&Arc<Source>>> {
        match self {
            Leave::Anywhere => vec![None],
            Leave::From { v4, v6, v6_first } => {
                let (first, second) = if *v6_first { (v6, v4) } else { (v4, v6) };
                [first, second].into_iter().filter_map(|way| way.as_ref().map(Some)).collect()
            }
        }
    }

    /// Addresses of a host that can be reached, each with the source for it; first those of the source whose
    /// turn it is.
    pub fn reach(&self, addresses: &[IpAddr]) -> Vec<(IpAddr, Option<&Arc<Source>>)> {
        let of = |way: Option<&Arc<Source>>, ip: &IpAddr| {
            way.is_none_or(|source| source.address.is_ipv4() == ip.to_canonical().is_ipv4())
        };
        let each = self.ways().into_iter();
        each.flat_map(|way| addresses.iter().filter(move |ip| of(way, ip)).map(move |ip| (*ip, way)))
            .collect()
    }

    pub fn addresses(&self) -> Vec<Option<IpAddr>> {
        self.ways().into_iter().map(|way| way.map(|source| source.address)).collect()
    }
}

/// Whose turn it is among the sources of one route.
#[derive(Debug, Default)]
pub struct Rotor {
    /// Smooth weighted turns: each choice earns everybody its weight and costs the chosen one all of it, so
    /// shares are kept in every stretch and not only on average.
    credit: HashMap<IpAddr, i64>,
}

impl Rotor {
    /// Chooses among the sources that can be used now. `domain`: where the message goes.
    pub fn pick(&mut self, rotation: Rotation, domain: &str, usable: &[Arc<Source>]) -> Leave {
        let chosen = match rotation {
            Rotation::PerDomain => usable.iter().max_by_key(|source| affinity(source, domain)),
            Rotation::RoundRobin => self.turn(usable, |_| 1),
            Rotation::Weighted => self.turn(usable, |source| i64::from(source.weight)),
        };
        let Some(chosen) = chosen else { return Leave::nowhere() };
        let other = usable.iter().filter(|source| source.address.is_ipv4() != chosen.address.is_ipv4());
        let other = match rotation {
            Rotation::PerDomain => other.max_by_key(|source| affinity(source, domain)),
            _ => other.max_by_key(|source| self.credit.get(&source.address)),
        };
        let (chosen, other) = (Some(Arc::clone(chosen)), other.map(Arc::clone));
        match chosen.as_ref().is_some_and(|source| source.address.is_ipv6()) {
            true => Leave::From { v4: other, v6: chosen, v6_first: true },
            false => Leave::From { v4: chosen, v6: other, v6_first: false },
        }
    }

    fn turn<'a>(
        &mut self,
        usable: &'a [Arc<Source>],
        weight: impl Fn(&Source) -> i64,
    ) -> Option<&'a Arc<Source>> {
        let mut total = 0;
        for source in usable {
            total += weight(source);
            *self.credit.entry(source.address).or_default() += weight(source);
        }
        // The first of several with equal credit.
        let chosen = usable.iter().rev().max_by_key(|source| self.credit.get(&source.address))?;
        *self.credit.entry(chosen.address).or_default() -= total;
        Some(chosen)
    }
}

/// Highest random weight: a domain keeps its source when others come and go, in every pod and after a restart.
fn affinity(source: &Source, domain: &str) -> [u8; 32] {
    *blake3::hash(format!("{} {domain}", source.address).as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str, weight: u32) -> Arc<Source> {
        let address = address.parse().unwrap();
        Arc::new(Source { address, weight, ehlo: None, proxy: None, warm_up: None })
    }

    fn first(leave: &Leave) -> String {
        leave.ways()[0].unwrap().address.to_string()
    }

    #[test]
    fn r001_turns_are_even_and_weighted_shares_hold_in_every_stretch() {
        let sources = [source("192.0.2.1", 1), source("192.0.2.2", 2), source("192.0.2.3", 1)];
        let mut rotor = Rotor::default();
        let turns: Vec<String> =
            (0..6).map(|_| first(&rotor.pick(Rotation::RoundRobin, "a", &sources))).collect();
        let order = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
        assert_eq!(turns, [order, order].concat());
        let mut rotor = Rotor::default();
        let turns: Vec<String> =
            (0..400).map(|_| first(&rotor.pick(Rotation::Weighted, "a", &sources))).collect();
        for four in turns.chunks(4) {
            assert_eq!(four.iter().filter(|turn| *turn == "192.0.2.2").count(), 2, "{four:?}");
        }
    }

    #[test]
    fn r001_a_source_that_was_away_takes_its_share_and_no_more_when_it_is_back() {
        let all = [source("192.0.2.1", 1), source("192.0.2.2", 1)];
        let mut rotor = Rotor::default();
        for _ in 0..1000 {
            assert_eq!(first(&rotor.pick(Rotation::RoundRobin, "a", &all[..1])), "192.0.2.1");
        }
        let back = (0..10).filter(|_| first(&rotor.pick(Rotation::RoundRobin, "a", &all)) == "192.0.2.2");
        assert_eq!(back.count(), 5);
        assert_eq!(rotor.pick(Rotation::RoundRobin, "a", &[]), Leave::nowhere());
    }

    #[test]
    fn r001_a_domain_keeps_its_address_and_moves_only_when_that_one_is_gone() {
        let all: Vec<_> = (1..=4).map(|n| source(&format!("192.0.2.{n}"), 1)).collect();
        let mut rotor = Rotor::default();
        let mut moved = 0;
        for n in 0..200 {
            let domain = format!("d{n}.example");
            let home = first(&rotor.pick(Rotation::PerDomain, &domain, &all));
            assert_eq!(first(&rotor.pick(Rotation::PerDomain, &domain, &all)), home);
            let without = first(&rotor.pick(Rotation::PerDomain, &domain, &all[1..]));
            assert_eq!(without != home, home == "192.0.2.1");
            moved += usize::from(without != home);
        }
        assert!((25..=75).contains(&moved), "{moved} of 200 lived at one of four");
    }

    #[test]
    fn r001_each_family_reaches_its_own_and_the_turn_decides_which_is_first() {
        let (v4, v6) = (source("192.0.2.1", 1), source("2001:db8::1", 1));
        let mut rotor = Rotor::default();
        let hosts = ["198.51.100.1".parse().unwrap(), "2001:db8:1::1".parse().unwrap()];
        let both = [v4.clone(), v6];
        let reached = |leave: &Leave, hosts: &[IpAddr]| -> Vec<(IpAddr, IpAddr)> {
            leave.reach(hosts).into_iter().map(|(ip, way)| (ip, way.unwrap().address)).collect()
        };
        let one = rotor.pick(Rotation::RoundRobin, "a", &both);
        let two = rotor.pick(Rotation::RoundRobin, "a", &both);
        assert_eq!(reached(&one, &hosts)[0].0, hosts[0]);
        assert_eq!(reached(&two, &hosts)[0].0, hosts[1]);
        assert!(reached(&two, &hosts).iter().all(|(to, from)| to.is_ipv4() == from.is_ipv4()));
        let only = rotor.pick(Rotation::RoundRobin, "a", &[v4]);
        assert_eq!(reached(&only, &hosts).len(), 1);
        assert!(reached(&only, &hosts[1..]).is_empty(), "never by another address");
        assert_eq!(Leave::Anywhere.reach(&hosts), [(hosts[0], None), (hosts[1], None)]);
        assert!(Leave::nowhere().reach(&hosts).is_empty());
    }
}
