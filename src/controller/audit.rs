//! The audit log of the operator (spec R144-R147): what the watches show becomes records of who changed which
//! field, when each change was obeyed everywhere, and what pods refused; acts through the [`super::api`] are
//! recorded before they are done.
//!
//! For objects the operator goes on when a record cannot be written: it says so, keeps what it saw and writes it
//! later. An act that cannot be recorded is not done.

mod forms;
mod managers;
mod recorder;
mod sight;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::metrics::Metrics;
use crate::audit::{Entry, Event, Limits, Link, Log};
use crate::bundle::document::ObjectId;
use crate::published::RangeNews;

pub use recorder::record;
pub use sight::{Observer, Sight};

/// A disk that takes longer than this for a record is taken for broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the log is and how long it is kept.
#[derive(Debug, Clone)]
pub struct Store {
    pub folder: PathBuf,
    pub retention: Duration,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("the audit log cannot be written: {0}")]
pub struct Unrecorded(pub String);

/// The log, for all who have something to record.
pub struct Ledger {
    log: Arc<Mutex<State>>,
    metrics: Arc<Metrics>,
    folder: Option<PathBuf>,
}

enum State {
    Open(Box<Log>),
    /// Why not.
    Closed(String),
}

fn lock(log: &Mutex<State>) -> MutexGuard<'_, State> {
    // What was half done when somebody panicked is taken back by the next write.
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// A ledger that is opened by [`Ledger::open`].
    pub fn new(store: Option<&Store>, metrics: Arc<Metrics>) -> Self {
        let why = match store {
            Some(_) => "it is not open yet",
            None => "none is configured (--audit)",
        };
        Self {
            log: Arc::new(Mutex::new(State::Closed(why.to_owned()))),
            metrics,
            folder: store.map(|store| store.folder.clone()),
        }
    }

    /// The folder, for those who read.
    pub fn folder(&self) -> Option<PathBuf> {
        self.folder.clone()
    }

    /// Opens the log. What fails is said and counted, and tried again by whoever calls.
    async fn open(&self, store: &Store, who: &str) -> bool {
        let limits = Limits { retention: store.retention, ..Limits::default() };
        let (folder, who) = (store.folder.clone(), who.to_owned());
        let opened =
            tokio::task::spawn_blocking(move || Log::open(&folder, limits, &who, Timestamp::now())).await;
        match opened {
            Ok(Ok((log, opening))) => {
                if let Some((file, octets)) = opening.repaired {
                    warn!(file, octets, "the audit log ended in an unfinished line; it is cut off");
                }
                if let Some(place) = opening.damaged {
                    error!(
                        place,
                        "the audit log is damaged: see `postern audit verify`; it goes on behind that"
                    );
                }
                info!(head = %log.head(), folder = %log.folder().display(), "audit log opened");
                *lock(&self.log) = State::Open(Box::new(log));
                true
            }
            Ok(Err(error)) => self.failed(&error.to_string()),
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn failed(&self, why: &str) -> bool {
        self.metrics.audit_failed();
        error!(error = why, "the audit log cannot be opened; changes are kept in memory, acts are refused");
        *lock(&self.log) = State::Closed(why.to_owned());
        false
    }

    /// Writes entries; on return they are on the disk. The head of the chain goes into the log of the process: who
    /// ships that elsewhere can prove that the end was not cut off.
    pub async fn record(&self, entries: Vec<Entry>) -> Result<Link, Unrecorded> {
        let log = Arc::clone(&self.log);
        let count = entries.len();
        let write = tokio::task::spawn_blocking(move || match &mut *lock(&log) {
            State::Open(log) => log.append(entries, Timestamp::now()).map_err(|error| error.to_string()),
            State::Closed(why) => Err(why.clone()),
        });
        let written = match timeout(PATIENCE, write).await {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the disk does not answer".to_owned()),
        };
        match written {
            Ok(link) => {
                self.metrics.audited(count);
                info!(target: "audit", seq = link.seq, hash = %link.hash, records = count, "recorded");
                Ok(link)
            }
            Err(why) => {
                self.metrics.audit_failed();
                Err(Unrecorded(why))
            }
        }
    }

    /// Removes what is older than the retention.
    async fn expire(&self) {
        let log = Arc::clone(&self.log);
        let work = move || match &mut *lock(&log) {
            State::Open(log) => log.expire(Timestamp::now()),
            State::Closed(_) => Ok(0),
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(0)) => {}
            Ok(Ok(segments)) => info!(segments, "audit records past their retention removed"),
            Ok(Err(error)) => warn!(%error, "cannot remove audit records past their retention"),
            Err(error) => error!(%error, "removing old audit records ended badly"),
        }
    }

    /// Lets go of the folder: the next leader may write it.
    pub fn close(&self) {
        *lock(&self.log) = State::Closed("this process does not lead".to_owned());
    }

    /// Who may relay has changed because DNS says so.
    pub async fn client_ranges(&self, gateway: &ObjectId, news: &[RangeNews]) {
        if self.folder.is_none() || news.is_empty() {
            return;
        }
        let list = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        let entries = news.iter().map(|news| {
            Entry::new(Timestamp::now(), Event::ClientRanges)
                .about(gateway)
                .with("domain", news.domain.as_str())
                .with("added", list(&news.added))
                .with("removed", list(&news.removed))
        });
        if let Err(error) = self.record(entries.collect()).await {
            error!(%error, %gateway, "a change of the client ranges is not recorded");
        }
    }
}

/// Who is meant by a field manager, in words for people.
pub fn source(managers: &[String]) -> Option<String> {
    let name = |manager: &String| {
        let manager = manager.as_str();
        let begins = |names: &[&str]| names.iter().any(|name| manager.starts_with(name));
        if begins(&["kubectl"]) {
            "kubectl".to_owned()
        } else if begins(&["argocd"]) {
            "Argo CD".to_owned()
        } else if begins(&["kustomize-controller", "helm-controller", "flux"]) {
            "Flux".to_owned()
        } else if begins(&["helm", "Helm"]) {
            "Helm".to_owned()
        } else if manager == super::apply::MANAGER {
            "the operator".to_owned()
        } else {
            manager.to_owned()
        }
    };
    let mut names: Vec<String> = managers.iter().map(name).collect();
    names.sort();
    names.dedup();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Labels and annotations that say something about an object; not those in which tools keep copies.
fn telling(map: BTreeMap<String, String>) -> BTreeMap<String, String> {
    const COPIES: [&str; 1] = ["kubectl.kubernetes.io/last-applied-configuration"];
    map.into_iter().filter(|(name, _)| !COPIES.contains(&name.as_str())).collect()
}
