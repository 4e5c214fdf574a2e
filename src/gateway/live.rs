//! What runs now, and what became of the newest bundle offered.
//!
//! A bundle is taken whole or not at all: compiled, its listeners bound, then swapped in with one
//! store. A refusal leaves the last good one running and becomes part of the Ack (spec R153).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::sync::{Mutex, watch};

use crate::bundle::ack::Running as RunningFacts;
use crate::bundle::document::FORMAT;
use crate::bundle::{Ack, Bundle, Leaving, Materials, Nack, NackReason, Revision, Sequence};
use crate::delivery::{Own, RouteTable};
use crate::gateway::listeners::Listeners;
use crate::policy::{Policy, compile_after};

/// A bundle as it was found: complete, its hashes checked, not yet compiled.
#[derive(Debug, Clone)]
pub struct Found {
    pub sequence: Sequence,
    pub revision: Revision,
    pub bundle: Arc<Bundle>,
    pub materials: Arc<Materials>,
    /// This pod is named as leaving: no new mail, unready.
    pub leaving: bool,
}

/// The policy that decides the next transaction, with all it needs.
pub struct Running {
    pub sequence: Sequence,
    pub revision: Revision,
    pub bundle: Arc<Bundle>,
    pub policy: Arc<Policy>,
    pub routes: Arc<RouteTable>,
    pub loaded_at: Timestamp,
    pub leaving: bool,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("sequence", &self.sequence).field("revision", &self.revision).finish()
    }
}

/// Shared by everything in the process that must obey the newest policy.
pub struct Live {
    running: ArcSwapOption<Running>,
    listeners: Listeners,
    /// One bundle is taken at a time.
    taking: Mutex<()>,
    seen: watch::Sender<Seen>,
    /// Where the highest sequence that ran is kept; `None` in standalone mode.
    memory: Option<PathBuf>,
    started: Instant,
    /// Milliseconds since `started` when the last look at the bundle began.
    heartbeat: AtomicU64,
    /// The highest sequence a controller said is published; 0: none has polled yet.
    published: AtomicU64,
    was_ready: AtomicBool,
    /// That this pod is to leave.
    departures: watch::Sender<Option<Departure>>,
    /// How long a leaving pod still takes mail of those who have not heard of it.
    leave_lag: Duration,
    pod: String,
    instance: String,
}

/// This pod is to leave: its mail goes to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departure {
    /// Another one each time.
    pub epoch: u64,
    pub since: Instant,
}

/// What an Ack is made of; changes wake the long polls.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    running: Option<RunningFacts>,
    refused: Option<Nack>,
    tested: u64,
    leaving: Option<Leaving>,
}

/// A watcher that did not run for this long is not trusted (design section 4).
const STALE: Duration = Duration::from_secs(2);
static EPOCHS: AtomicU64 = AtomicU64::new(1);
/// A pod that no controller polls becomes ready with what it has after this (spec R154).
const LONELY: Duration = Duration::from_secs(10);

impl Live {
    pub fn new(pod: String, instance: String, listeners: Listeners, memory: Option<PathBuf>) -> Self {
        Self {
            running: ArcSwapOption::empty(),
            listeners,
            taking: Mutex::new(()),
            seen: watch::Sender::new(Seen::default()),
            memory,
            started: Instant::now(),
            heartbeat: AtomicU64::new(0),
            published: AtomicU64::new(0),
            was_ready: AtomicBool::new(false),
            departures: watch::Sender::new(None),
            leave_lag: Duration::ZERO,
            pod,
            instance,
        }
    }

    /// How long a leaving pod still takes mail: until every endpoint list has forgotten it.
    pub fn with_leave_lag(self, leave_lag: Duration) -> Self {
        Self { leave_lag, ..self }
    }

    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// What decides a transaction that begins now.
    pub fn current(&self) -> Option<Arc<Running>> {
        self.running.load_full()
    }

    /// Takes a bundle unless it is older than what ran before. Everything that can fail is tried before
    /// anything changes.
    pub async fn offer(&self, found: Found) -> Result<(), Nack> {
        let _one_at_a_time = self.taking.lock().await;
        let gateway = &found.bundle.gateway.origin.uid;
        let highest = self.highest(gateway);
        if found.sequence < highest {
            tracing::warn!(found = %found.sequence, %highest, "an older policy than ran before is not loaded");
            return Ok(());
        }
        if self.runs(&found) {
            return Ok(());
        }
        match self.take(found).await {
            Ok(running) => {
                let facts = RunningFacts {
                    sequence: running.sequence,
                    revision: running.revision.clone(),
                    loaded_at: running.loaded_at,
                };
                tracing::info!(sequence = %facts.sequence, revision = %facts.revision, "policy loaded");
                let leaves = running.leaving;
                self.running.store(Some(Arc::new(running)));
                self.seen.send_modify(|seen| {
                    (seen.running, seen.refused) = (Some(facts), None);
                    // What was said of an earlier departure does not hold for the next.
                    if self.depart(leaves) {
                        seen.leaving = leaves.then(Leaving::default);
                    }
                });
                Ok(())
            }
            Err(nack) => {
                self.refuse(nack.clone());
                Err(nack)
            }
        }
    }

    /// Records a refusal; what ran before goes on.
    pub fn refuse(&self, nack: Nack) {
        let changed = self.seen.send_if_modified(|seen| {
            let news = seen.refused.as_ref() != Some(&nack);
            seen.refused = Some(nack.clone());
            news
        });
        if changed {
            tracing::warn!(sequence = %nack.sequence, reason = ?nack.reason, message = %nack.message, "policy refused");
        }
    }

    async fn take(&self, found: Found) -> Result<Running, Nack> {
        let refuse = |reason, message: String| Nack {
            sequence: found.sequence,
            revision: found.revision.clone(),
            reason,
            message,
            object: None,
        };
        let policy = {
            let (bundle, revision) = (Arc::clone(&found.bundle), found.revision.clone());
            let before = self.current().map(|running| Arc::clone(&running.policy));
            tokio::task::spawn_blocking(move || compile_after(before.as_deref(), &bundle, &revision)).await
        };
        let policy = match policy {
            Ok(Ok(policy)) => policy,
            Ok(Err(error)) => {
                let object = Some(error.object.clone());
                return Err(Nack { object, ..refuse(NackReason::CompileFailed, error.to_string()) });
            }
            Err(_) => return Err(refuse(NackReason::CompileFailed, "the compiler panicked".to_owned())),
        };
        let own = Own {
            machine: self.listeners.hostname().to_owned(),
            listening: self.listeners.addresses(&found.bundle.gateway),
        };
        let routes = RouteTable::build(&found.bundle, &found.materials, &own);
        for (route, why) in routes.broken() {
            tracing::warn!(%route, why, "a route cannot be used: its mail waits");
        }
        self.listeners
            .apply(&found.bundle.gateway, &found.materials)
            .await
            .map_err(|error| refuse(error.reason(), error.to_string()))?;
        self.remember(&found.bundle.gateway.origin.uid, found.sequence)
            .map_err(|e| refuse(NackReason::CompileFailed, format!("cannot note the sequence: {e}")))?;
        Ok(Running {
            sequence: found.sequence,
            revision: found.revision,
            bundle: found.bundle,
            policy: Arc::new(policy),
            routes: Arc::new(routes),
            loaded_at: Timestamp::now(),
            leaving: found.leaving,
        })
    }

    /// Whether that is news.
    fn depart(&self, leaves: bool) -> bool {
        self.departures.send_if_modified(|departure| match (leaves, *departure) {
            (true, None) => {
                let epoch = EPOCHS.fetch_add(1, Ordering::Relaxed);
                tracing::info!("this pod is to leave: no new mail, and what is here goes to the others");
                *departure = Some(Departure { epoch, since: Instant::now() });
                true
            }
            (false, Some(_)) => {
                tracing::info!("this pod stays after all");
                *departure = None;
                true
            }
            (true, Some(_)) | (false, None) => false,
        })
    }

    pub fn departure(&self) -> Option<Departure> {
        *self.departures.borrow()
    }

    /// Tells when this pod is to leave, or to stay after all.
    pub fn departures(&self) -> watch::Receiver<Option<Departure>> {
        self.departures.subscribe()
    }

    pub fn is_leaving(&self) -> bool {
        self.departure().is_some()
    }

    /// Whether this pod leaves and takes no new mail any more.
    pub fn turns_away(&self) -> bool {
        self.departure().is_some_and(|departure| departure.since.elapsed() >= self.leave_lag)
    }

    /// How far the departure has come, unless it is over or another one by now.
    pub fn report(&self, epoch: u64, report: Leaving) {
        self.seen.send_if_modified(|seen| {
            if self.departure().is_none_or(|departure| departure.epoch != epoch) {
                return false;
            }
            let report = Some(report);
            let news = seen.leaving != report;
            seen.leaving = report;
            news
        });
    }

    fn runs(&self, found: &Found) -> bool {
        self.current().is_some_and(|now| now.sequence == found.sequence && now.revision == found.revision)
    }

    /// The highest sequence of this gateway object that ever ran here, in this process or one before it. A
    /// gateway that was deleted and made anew counts from the start.
    fn highest(&self, gateway_uid: &str) -> Sequence {
        let running = self.current().filter(|running| running.bundle.gateway.origin.uid == gateway_uid);
        let running = running.map(|running| running.sequence).unwrap_or_default();
        let kept = self.memory.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let kept = kept.and_then(|text| {
            let (uid, sequence) = text.trim().split_once(' ')?;
            (uid == gateway_uid).then(|| sequence.parse().ok())?
        });
        running.max(kept.map(Sequence).unwrap_or_default())
    }

    fn remember(&self, gateway_uid: &str, sequence: Sequence) -> std::io::Result<()> {
        let Some(path) = &self.memory else { return Ok(()) };
        crate::gateway::files::replace(path, format!("{gateway_uid} {sequence}").as_bytes())
    }

    /// Called after each look at the bundle, with the moment at which the look began: a process that was paused in
    /// the middle of one has seen an old state.
    pub fn beat(&self, began: Instant) {
        let began = began.saturating_duration_since(self.started).as_millis();
        self.heartbeat.fetch_max(u64::try_from(began).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the watcher ran recently enough that `current` can be trusted: a process that was
    /// paused must look again before it answers MAIL.
    pub fn is_fresh(&self) -> bool {
        let beat = Duration::from_millis(self.heartbeat.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(beat) < STALE
    }

    /// A controller's poll says which sequence is published.
    pub fn confirm(&self, published: Sequence) {
        self.published.fetch_max(published.0, Ordering::Relaxed);
    }

    /// Whether this pod may take mail (spec R154): a complete policy that a controller has confirmed to be
    /// the published one, or any complete one when no controller has polled for a while. Once ready, a
    /// pod stays ready by its last good policy while a newer one is on its way or refused.
    pub fn is_ready(&self) -> bool {
        let Some(running) = self.current() else { return false };
        let confirmed = match self.published.load(Ordering::Relaxed) {
            0 => self.memory.is_none() || self.started.elapsed() >= LONELY,
            published => running.sequence.0 >= published,
        };
        if confirmed {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        !running.leaving && self.was_ready.load(Ordering::Relaxed)
    }

    /// The Ack of this moment; `queued` is the caller's to know.
    pub fn ack(&self, queued: u64) -> Ack {
        let Seen { running, refused, tested, leaving } = self.seen.borrow().clone();
        Ack {
            pod: self.pod.clone(),
            instance: self.instance.clone(),
            running,
            formats: vec![FORMAT],
            refused,
            tested,
            queued,
            leaving,
        }
    }

    /// Tests of routes found something new; this is the count of such results.
    pub fn tested(&self, count: u64) {
        self.seen.send_if_modified(|seen| std::mem::replace(&mut seen.tested, count) != count);
    }

    /// Waits until something newer runs, or was refused, than the asker knows.
    pub async fn news(&self, after: Sequence, refused: Sequence) {
        self.news_or_tests(after, refused, None, None).await;
    }

    /// The same, or until the count of tests is another one, or what a leaving pod has left.
    pub async fn news_or_tests(
        &self,
        after: Sequence,
        refused: Sequence,
        tested: Option<u64>,
        left: Option<i64>,
    ) {
        let mut seen = self.seen.subscribe();
        let news = |seen: &Seen| {
            seen.running.as_ref().is_some_and(|running| running.sequence > after)
                || seen.refused.as_ref().is_some_and(|nack| nack.sequence > refused)
                || tested.is_some_and(|known| seen.tested != known)
                || left.is_some_and(|known| seen.leaving.as_ref().is_some_and(|now| now.key() != known))
        };
        // An error means that `self` is gone: there will be no news.
        let _ = seen.wait_for(news).await;
    }
}
