//! The networks that an SPF record lets send, its chain of includes followed: what `clients.spfDomains` means.
//! What depends on the sender or asks about one address names no networks, and is left out and said.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use ipnet::IpNet;

use super::names::Names;
use super::spf::{self, Mechanism, Qualifier, Record, Text, Values};
use super::walk::record;
use crate::translate::published::Ranges;

/// Names that one domain may lead to. More than receivers allow, since nobody waits for this.
const NAMES: usize = 50;
/// Networks of one domain.
const NETWORKS: usize = 4000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangesError {
    #[error(transparent)]
    Silent(#[from] super::names::Silence),
    #[error("{0} has no SPF record")]
    NoRecord(String),
    #[error("{0}")]
    Several(String),
    #[error("{domain}: {error}")]
    Unreadable { domain: String, error: spf::Unreadable },
    #[error("its records lead to more than {NAMES} names")]
    Endless,
    #[error("it names more than {NETWORKS} networks")]
    TooMany,
}

/// The networks of a domain and how long the answer holds.
pub async fn ranges(names: &impl Names, domain: &str) -> Result<(Ranges, Duration), RangesError> {
    let mut gathering =
        Gathering { names, asked: 0, skipped: BTreeSet::new(), ttl: Duration::from_secs(24 * 3600) };
    let passing = gathering.host(domain).await?;
    let Gathering { skipped, ttl, .. } = gathering;
    Ok((Ranges { networks: IpNet::aggregate(&passing), skipped: skipped.into_iter().collect() }, ttl))
}

struct Gathering<'a, N> {
    names: &'a N,
    asked: usize,
    skipped: BTreeSet<String>,
    ttl: Duration,
}

type Step<'s> = Pin<Box<dyn Future<Output = Result<Vec<IpNet>, RangesError>> + Send + 's>>;

impl<N: Names> Gathering<'_, N> {
    /// The networks for which `check_host` of this domain gives pass.
    fn host<'s>(&'s mut self, domain: &'s str) -> Step<'s> {
        Box::pin(async move {
            self.asked += 1;
            if self.asked > NAMES {
                return Err(RangesError::Endless);
            }
            let (text, ttl) = record(self.names, domain).await?;
            self.ttl = self.ttl.min(ttl);
            let text = text.map_err(RangesError::Several)?;
            let text = text.ok_or_else(|| RangesError::NoRecord(domain.to_owned()))?;
            let unreadable = |error| RangesError::Unreadable { domain: domain.to_owned(), error };
            let Record { terms, redirect } = spf::read(&text).map_err(unreadable)?;
            // Terms count in their order: what an earlier one refused, no later one lets in.
            let (mut passing, mut refused): (Vec<IpNet>, Vec<IpNet>) = (Vec::new(), Vec::new());
            for term in &terms {
                let found = match &term.mechanism {
                    Mechanism::All => everything(),
                    mechanism => self.networks(domain, mechanism).await?,
                };
                match term.qualifier {
                    Qualifier::Pass => passing.extend(without(found, &refused)),
                    _ => refused.extend(found),
                }
                if passing.len() > NETWORKS {
                    return Err(RangesError::TooMany);
                }
                if term.mechanism == Mechanism::All {
                    return Ok(passing);
                }
            }
            if let Some(target) = redirect {
                match self.fixed(&target, domain) {
                    Some(target) => {
                        let found = self.host(&target).await?;
                        passing.extend(without(found, &refused));
                    }
                    None => drop(self.skipped.insert(format!("redirect in {domain}"))),
                }
            }
            Ok(passing)
        })
    }

    async fn networks(&mut self, domain: &str, mechanism: &Mechanism) -> Result<Vec<IpNet>, RangesError> {
        let skip = |gathering: &mut Self, what: &str| {
            gathering.skipped.insert(format!("{what} in {domain}"));
            Ok(Vec::new())
        };
        let named = |text: &Option<Text>, gathering: &Self| match text {
            Some(text) => gathering.fixed(text, domain),
            None => Some(domain.to_owned()),
        };
        match mechanism {
            Mechanism::Net(net) => Ok(vec![*net]),
            Mechanism::Include(text) => match self.fixed(text, domain) {
                Some(target) => self.host(&target).await,
                None => skip(self, "include"),
            },
            Mechanism::A(text, widths) => match named(text, self) {
                Some(name) => {
                    Ok(self.addresses(&name).await?.into_iter().map(|at| widths.around(at)).collect())
                }
                None => skip(self, "a"),
            },
            Mechanism::Mx(text, widths) => {
                let Some(name) = named(text, self) else { return skip(self, "mx") };
                let hosts = self.names.mx(&name).await?;
                self.ttl = self.ttl.min(hosts.ttl);
                let mut found = Vec::new();
                for host in hosts.records.iter().filter(|host| !host.is_empty()).take(10) {
                    found.extend(self.addresses(host).await?.into_iter().map(|at| widths.around(at)));
                }
                Ok(found)
            }
            Mechanism::Ptr(_) => skip(self, "ptr"),
            Mechanism::Exists(_) => skip(self, "exists"),
            Mechanism::All => Ok(everything()),
        }
    }

    fn fixed(&self, text: &Text, domain: &str) -> Option<String> {
        let values = Values { address: None, sender: domain, domain, helo: "" };
        text.is_fixed().then(|| text.expand(values))
    }

    async fn addresses(&mut self, name: &str) -> Result<Vec<std::net::IpAddr>, RangesError> {
        self.asked += 1;
        let (v4, v6) = (self.names.addresses(name, false).await?, self.names.addresses(name, true).await?);
        self.ttl = self.ttl.min(v4.ttl).min(v6.ttl);
        Ok(v4.records.into_iter().chain(v6.records).collect())
    }
}

fn everything() -> Vec<IpNet> {
    ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a literal network")).to_vec()
}

/// What of `nets` is in none of `gaps`.
fn without(nets: Vec<IpNet>, gaps: &[IpNet]) -> Vec<IpNet> {
    let mut left = nets;
    for gap in gaps {
        left = left.into_iter().flat_map(|net| subtract(net, *gap)).collect();
    }
    left
}

fn subtract(net: IpNet, gap: IpNet) -> Vec<IpNet> {
    if gap.contains(&net) {
        return Vec::new();
    }
    if !net.contains(&gap) {
        return vec![net];
    }
    let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| subtract(half, gap)).collect()
}
