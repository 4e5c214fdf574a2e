//! MTA-STS (RFC 8461): what a domain promises about its mail hosts, kept as long as it promised. A policy
//! that was once seen holds until it ends, whatever DNS or the web server do meanwhile, and over restarts.

mod policy;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::dns::{Dns, LookupError, Names, Servers};
use super::web::{Question, Web, WebError};

pub use self::policy::{Mode, Policy, PolicyError};

/// How long what DNS announces is not asked for again.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// How long after a failure of the web server (RFC 8461 section 3.3 wants 5 minutes), and of DNS.
const AFTER_FAILURE: Duration = Duration::from_secs(300);
const AFTER_DNS_FAILURE: Duration = Duration::from_secs(60);
/// A policy is fetched again once a day even if nothing announces a change, so that it seldom ends.
const REFRESH: Duration = Duration::from_secs(86_400);
/// One policy, from the first packet to the last octet.
const PATIENCE: Duration = Duration::from_secs(30);
/// Octets of a policy (RFC 8461 section 3.3).
const MAX_SIZE: usize = 64 << 10;
/// Domains remembered, with and without a policy.
const MAX_DOMAINS: usize = 20_000;

/// The policies of all domains that mail goes to.
#[derive(Default)]
pub struct Sts {
    pub web: Web,
    domains: Mutex<HashMap<String, Arc<Domain>>>,
    changed: AtomicBool,
}

#[derive(Debug, Default)]
struct Domain {
    /// One question at a time; whoever comes meanwhile waits for its answer.
    asking: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

impl Domain {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Default)]
struct Known {
    kept: Option<Kept>,
    /// Nothing is asked before.
    next_look: Option<Timestamp>,
    /// What went wrong last, as long as it does.
    failure: Option<FetchError>,
}

/// A policy with what is needed to know whether it still holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    id: String,
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    fetched: Timestamp,
    policy: Arc<Policy>,
}

/// Why there is no policy although one is announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("its web server has no address: {0}")]
    Name(LookupError),
    #[error("its web server: {0}")]
    Web(#[from] WebError),
    #[error("its web server answers {0}")]
    Status(u16),
    #[error("its policy is not text/plain but {0:?}")]
    Type(String),
    #[error("its policy cannot be used: {0}")]
    Policy(#[from] PolicyError),
}

/// What holds for a domain now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub policy: Option<Arc<Policy>>,
    /// The policy could not be fetched, for reports; one that was kept may hold all the same.
    pub failure: Option<FetchError>,
}

impl Kept {
    fn holds(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.fetched).as_secs();
        age <= i64::try_from(self.policy.max_age).unwrap_or(i64::MAX)
    }

    fn is_fresh(&self, id: &str, now: Timestamp) -> bool {
        let age = now.duration_since(self.fetched).as_secs();
        let half = i64::try_from(self.policy.max_age / 2).unwrap_or(i64::MAX);
        self.id == id && age < half.min(REFRESH.as_secs() as i64)
    }
}

impl Sts {
    /// The policies that a file holds. One that cannot be read is a first start.
    pub fn read(file: &Path) -> Self {
        let kept: HashMap<String, Kept> = match std::fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(%error, "the kept MTA-STS policies cannot be read; they are fetched again");
                HashMap::new()
            }),
            Err(_) => HashMap::new(),
        };
        let known = |kept| {
            let known = Mutex::new(Known { kept: Some(kept), ..Known::default() });
            Arc::new(Domain { known, ..Domain::default() })
        };
        let domains = kept.into_iter().map(|(name, kept)| (name, known(kept))).collect();
        Self { domains: Mutex::new(domains), ..Self::default() }
    }

    /// The policy of a domain, looked for if it was not for a while.
    pub async fn answer(&self, dns: &Dns, servers: &Servers, domain: &str, now: Timestamp) -> Answer {
        // Without room to remember it, it is asked each time and counts all the same.
        let entry = self.entry(domain, now).unwrap_or_default();
        self.look_if_due(dns, servers, domain, &entry, now).await;
        entry.known().answer(now)
    }

    fn entry(&self, domain: &str, now: Timestamp) -> Option<Arc<Domain>> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = domains.get(domain) {
            return Some(Arc::clone(entry));
        }
        if domains.len() >= MAX_DOMAINS {
            // Those without a promise can be forgotten; a promise that holds cannot.
            domains.retain(|_, entry| entry.known().kept.as_ref().is_some_and(|kept| kept.holds(now)));
            if domains.len() >= MAX_DOMAINS {
                return None;
            }
        }
        Some(Arc::clone(domains.entry(domain.to_owned()).or_default()))
    }

    async fn look_if_due(&self, dns: &Dns, servers: &Servers, domain: &str, entry: &Domain, now: Timestamp) {
        let due = || entry.known().next_look.is_none_or(|at| at <= now);
        if !due() {
            return;
        }
        let _one_at_a_time = entry.asking.lock().await;
        if due() {
            let before = entry.known().clone();
            let after = self.look(dns, servers, domain, before, now).await;
            *entry.known() = after;
        }
    }

    async fn look(&self, dns: &Dns, servers: &Servers, domain: &str, before: Known, now: Timestamp) -> Known {
        let again = |by: Duration| now.checked_add(by).ok();
        let unchanged = Known { next_look: again(LOOK_EVERY), failure: None, kept: before.kept.clone() };
        let announced = dns.txt(servers, &format!("_mta-sts.{domain}")).await;
        let id = match announced.as_deref().map(policy::announced) {
            Ok(Some(id)) => id,
            // Nothing is announced: what was promised holds until it ends (section 5.1).
            Ok(None) => return unchanged,
            Err(error) => {
                debug!(domain, %error, "no answer about MTA-STS");
                return Known { next_look: again(AFTER_DNS_FAILURE), ..before };
            }
        };
        if before.kept.as_ref().is_some_and(|kept| kept.is_fresh(&id, now)) {
            return unchanged;
        }
        match self.fetch(dns, servers, domain).await {
            Ok(policy) => {
                debug!(domain, mode = %policy.mode, "MTA-STS policy fetched");
                self.changed.store(true, Ordering::Relaxed);
                Known { kept: Some(Kept { id, fetched: now, policy: Arc::new(policy) }), ..unchanged }
            }
            Err(error) => {
                let kept = before.kept.as_ref().is_some_and(|kept| kept.holds(now));
                warn!(domain, %error, kept, "a domain's MTA-STS policy cannot be fetched");
                Known { next_look: again(AFTER_FAILURE), failure: Some(error), ..before }
            }
        }
    }

    async fn fetch(&self, dns: &Dns, servers: &Servers, domain: &str) -> Result<Policy, FetchError> {
        let host = format!("mta-sts.{domain}");
        let found = dns.hosts(servers, &host, Names::Complete).await.map_err(FetchError::Name)?;
        let question = Question {
            host: &host,
            port: 443,
            path: "/.well-known/mta-sts.txt",
            post: None,
            limit: MAX_SIZE,
            patience: PATIENCE,
        };
        let answer = self.web.ask(&found.what, question).await?;
        // A redirect is no policy (section 3.3).
        if answer.status != 200 {
            return Err(FetchError::Status(answer.status));
        }
        if answer.content_type != "text/plain" {
            return Err(FetchError::Type(answer.content_type));
        }
        Ok(Policy::parse(&answer.body)?)
    }

    /// Looks again at the policies that would end soon, mail or not (RFC 8461 section 3.3).
    pub async fn refresh(&self, dns: &Dns, servers: &Servers, now: Timestamp) {
        let all: Vec<(String, Arc<Domain>)> = {
            let domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
            domains.iter().map(|(name, entry)| (name.clone(), Arc::clone(entry))).collect()
        };
        for (name, entry) in all {
            let old = |kept: &Kept| kept.holds(now) && !kept.is_fresh(&kept.id, now);
            if entry.known().kept.as_ref().is_some_and(old) {
                self.look_if_due(dns, servers, &name, &entry, now).await;
            }
        }
    }

    /// What a file must hold, if it holds something else now.
    pub fn unsaved(&self, now: Timestamp) -> Option<Vec<u8>> {
        if !self.changed.swap(false, Ordering::Relaxed) {
            return None;
        }
        let domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = domains.iter().filter_map(|(name, entry)| {
            let kept = entry.known().kept.clone().filter(|kept| kept.holds(now))?;
            Some((name, kept))
        });
        let kept: BTreeMap<&String, Kept> = kept.collect();
        serde_json::to_vec(&kept).ok()
    }

    /// Nobody wrote what [`unsaved`](Self::unsaved) gave.
    pub fn still_unsaved(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }
}

impl Known {
    fn answer(&self, now: Timestamp) -> Answer {
        let kept = self.kept.as_ref().filter(|kept| kept.holds(now));
        Answer { policy: kept.map(|kept| Arc::clone(&kept.policy)), failure: self.failure.clone() }
    }
}

/// Where the policies of a spool are kept.
pub fn file(folder: &Path) -> PathBuf {
    folder.join("mta-sts.json")
}

#[cfg(test)]
mod tests;
