//! The evaluation of SPF (RFC 7208 section 4) for one address at a time, which counts look-ups as receivers do; and
//! the survey of a whole record, which counts what the worst case takes.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use super::names::{Found, Names, Silence};
use super::spf::{self, Mechanism, Qualifier, Record, Text, Values};
use crate::translate::published::SpfResult;

/// Terms that cost a look-up, and look-ups without an answer, that receivers allow (RFC 7208 section 4.6.4).
const LOOKUPS: u32 = 10;
const VOID: u32 = 2;
/// Hosts of one mx, and names of one ptr.
const HOSTS: usize = 10;
/// A survey ends here: such a record works nowhere.
const SURVEY: u32 = 60;
/// Longest answer that is kept.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// One evaluation on its way.
pub struct Walk<'a, N> {
    names: &'a N,
    /// `None`: a survey, in which nothing matches.
    address: Option<IpAddr>,
    sender: &'a str,
    helo: &'a str,
    pub lookups: u32,
    void: u32,
    /// How long the shortest-lived answer holds.
    pub ttl: Duration,
    /// Names whose records were read after the first.
    pub chain: Vec<String>,
}

/// Why an evaluation ends before its result.
enum End {
    Broken(String),
    Silent(Silence),
}

impl From<Silence> for End {
    fn from(silence: Silence) -> Self {
        End::Silent(silence)
    }
}

type Step<'s, T> = Pin<Box<dyn Future<Output = Result<T, End>> + Send + 's>>;

/// The one SPF record of a domain; `None`: it has none.
pub async fn record(
    names: &impl Names,
    domain: &str,
) -> Result<(Result<Option<String>, String>, Duration), Silence> {
    let Found { records, ttl } = names.txt(domain).await?;
    let mut found = records.into_iter().filter(|text| spf::is_record(text));
    let first = found.next();
    let one = match found.next() {
        Some(_) => Err(format!("{domain} has more than one SPF record")),
        None => Ok(first),
    };
    Ok((one, ttl))
}

impl<'a, N: Names> Walk<'a, N> {
    pub fn new(names: &'a N, address: Option<IpAddr>, sender: &'a str, helo: &'a str) -> Self {
        let chain = Vec::new();
        Self { names, address, sender, helo, lookups: 0, void: 0, ttl: LONGEST, chain }
    }

    /// What a receiver would say of mail of this domain from the address.
    pub async fn check(&mut self, domain: &str) -> Result<SpfResult, Silence> {
        match self.host(domain).await {
            Ok(Some(Qualifier::Pass)) => Ok(SpfResult::Pass),
            Ok(Some(Qualifier::Fail)) => Ok(SpfResult::Fail),
            Ok(Some(Qualifier::SoftFail)) => Ok(SpfResult::SoftFail),
            Ok(Some(Qualifier::Neutral)) => Ok(SpfResult::Neutral),
            Ok(None) => Ok(SpfResult::None),
            Err(End::Broken(why)) => Ok(SpfResult::PermError(why)),
            Err(End::Silent(silence)) => Err(silence),
        }
    }

    /// `check_host`; `None`: the domain has no record.
    fn host<'s>(&'s mut self, domain: &'s str) -> Step<'s, Option<Qualifier>> {
        Box::pin(async move {
            let (text, ttl) = record(self.names, domain).await?;
            self.ttl = self.ttl.min(ttl);
            let Some(text) = text.map_err(End::Broken)? else { return Ok(None) };
            let Record { terms, redirect } =
                spf::read(&text).map_err(|error| End::Broken(format!("{domain}: {error}")))?;
            let ends = terms.iter().any(|term| term.mechanism == Mechanism::All);
            for term in terms {
                if self.matches(domain, &term.mechanism).await? {
                    return Ok(Some(term.qualifier));
                }
            }
            // A redirect counts only where there is no `all`, wherever that stands.
            let Some(target) = redirect.filter(|_| !ends) else { return Ok(Some(Qualifier::Neutral)) };
            self.count()?;
            let target = self.expand(&target, domain);
            self.chain.push(target.clone());
            match self.host(&target).await? {
                None => Err(End::Broken(format!("{domain} redirects to {target}, which has no SPF record"))),
                found => Ok(found),
            }
        })
    }

    fn matches<'s>(&'s mut self, domain: &'s str, mechanism: &'s Mechanism) -> Step<'s, bool> {
        Box::pin(async move {
            let survey = self.address.is_none();
            match mechanism {
                Mechanism::All => Ok(!survey),
                Mechanism::Net(net) => Ok(self.address.is_some_and(|address| net.contains(&address))),
                Mechanism::Include(text) => {
                    self.count()?;
                    let target = self.expand(text, domain);
                    self.chain.push(target.clone());
                    match self.host(&target).await? {
                        None => {
                            Err(End::Broken(format!("{domain} includes {target}, which has no SPF record")))
                        }
                        found => Ok(found == Some(Qualifier::Pass)),
                    }
                }
                Mechanism::A(..) | Mechanism::Mx(..) | Mechanism::Ptr(_) | Mechanism::Exists(_) => {
                    self.count()?;
                    let Some(address) = self.address else { return Ok(false) };
                    self.asks(domain, mechanism, address).await
                }
            }
        })
    }

    /// Mechanisms that ask for more than a record of SPF.
    async fn asks(&mut self, domain: &str, mechanism: &Mechanism, address: IpAddr) -> Result<bool, End> {
        let of = |text: &Option<Text>, walk: &Self| match text {
            Some(text) => walk.expand(text, domain),
            None => domain.to_owned(),
        };
        let v6 = address.is_ipv6();
        match mechanism {
            Mechanism::A(text, widths) => {
                let found = self.names.addresses(&of(text, self), v6).await?;
                let found = self.noted(found)?;
                Ok(found.into_iter().any(|at| widths.around(at).contains(&address)))
            }
            Mechanism::Mx(text, widths) => {
                let name = of(text, self);
                let hosts = self.names.mx(&name).await?;
                let hosts = self.noted(hosts)?;
                if hosts.len() > HOSTS {
                    return Err(End::Broken(format!("{name} has more than {HOSTS} mail hosts")));
                }
                for host in hosts.iter().filter(|host| !host.is_empty()) {
                    let found = self.names.addresses(host, v6).await?;
                    if found.records.iter().any(|at| widths.around(*at).contains(&address)) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Mechanism::Ptr(text) => {
                let target = of(text, self);
                // Errors of a ptr count as no match (RFC 7208 section 5.5).
                let Ok(names) = self.names.ptr(address).await else { return Ok(false) };
                let names = self.noted(names)?;
                for name in names.iter().take(HOSTS) {
                    let within = *name == target || name.ends_with(&format!(".{target}"));
                    let Some(name) = within.then_some(name) else { continue };
                    let back = self.names.addresses(name, v6).await;
                    if back.is_ok_and(|back| back.records.contains(&address)) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Mechanism::Exists(text) => {
                let found = self.names.addresses(&self.expand(text, domain), false).await?;
                Ok(!self.noted(found)?.is_empty())
            }
            Mechanism::All | Mechanism::Net(_) | Mechanism::Include(_) => Ok(false),
        }
    }

    fn expand(&self, text: &Text, domain: &str) -> String {
        text.expand(Values { address: self.address, sender: self.sender, domain, helo: self.helo })
    }

    /// Counts a term that costs a look-up.
    fn count(&mut self) -> Result<(), End> {
        self.lookups += 1;
        let most = if self.address.is_some() { LOOKUPS } else { SURVEY };
        if self.lookups > most {
            return Err(End::Broken(format!("it takes more than {most} DNS look-ups")));
        }
        Ok(())
    }

    fn noted<T>(&mut self, found: Found<T>) -> Result<Vec<T>, End> {
        self.ttl = self.ttl.min(found.ttl);
        if found.records.is_empty() {
            self.void += 1;
            if self.void > VOID {
                return Err(End::Broken(format!("more than {VOID} of its names lead nowhere")));
            }
        }
        Ok(found.records)
    }
}
