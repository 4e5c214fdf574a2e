//! The queue in the hands of people: what waits is listed and shown, tried again, dropped; routes and domains are
//! paused and opened again. Every act that changes something is a line of the audit log with who and what.
//!
//! A queue can be a million messages long. Nothing here walks it in one go: each call looks at a bounded number of
//! messages and says where the next one begins, so the gateway goes on, memory stays small, and whoever asked may
//! stop at any time.

mod closures;
mod filter;
pub mod http;
mod rows;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;

use crate::delivery::bounce::{self, About};
use crate::delivery::pauses::{Closed, Closures, Pause, Pauses};
use crate::delivery::wake::{self, Situation};
use crate::delivery::{Allowance, RouteTable};
use crate::gateway::acceptance::Acceptance;
use crate::gateway::access::Actor;
use crate::mail::dsn::{self, Action};
use crate::spool::{Claim, ClaimError, CommitError, Content, Entry, Fate, QueueId, Spool, Standing};

pub use closures::{ClosuresError, FILE, PauseRow, rows as pause_rows};
pub use filter::{Filter, FilterError, State};
pub use rows::{Acted, Detail, Missing, Page, RecipientRow, Row};

/// Messages of one page of a listing.
pub const PAGE: usize = 100;
/// Messages whose envelopes one call reads at most, found or not.
const LOOKED: usize = 2000;
/// Messages that one call drops at most.
const DROPPED: usize = 500;
/// Commits that run at the same time; they share a sync.
const TOGETHER: usize = 32;

/// What the sender of a dropped message is told. The status says no more than that it is final (RFC 3463: other
/// undefined).
const DROPPED_STATUS: [u16; 3] = [5, 0, 0];

/// Cheap to clone.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    spool: Spool,
    allowance: Allowance,
    reports: Acceptance,
    routes: Box<Current>,
    pauses: Pauses,
    metrics: Metrics,
    /// Where pauses are kept over a restart.
    file: PathBuf,
    /// One change of the pauses at a time.
    pausing: Mutex<()>,
}

/// The routes of now; `None`: nobody knows them (no policy yet, or no gateway).
pub type Current = dyn Fn() -> Option<Arc<RouteTable>> + Send + Sync;

/// Counts what people do to the queue.
#[derive(Clone, Default)]
pub struct Metrics {
    dropped: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "postern_queue_dropped",
            "Recipients that an administrator took out of the queue",
            self.dropped.clone(),
        );
    }
}

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("nothing was changed: {0}")]
    Store(#[from] CommitError),
    #[error("no report can be written before the gateway has a policy; --no-report drops without one")]
    NoPolicy,
    #[error("{0}")]
    Unknown(String),
    #[error("the pauses cannot be kept over a restart, so nothing was changed: {0}")]
    Pauses(std::io::Error),
}

/// What to do with a message and which of its recipients.
struct Chosen {
    standing: Standing,
    targets: Vec<usize>,
    /// Recipients that fit too, but are attempted right now.
    busy: usize,
}

impl Queue {
    /// Reads what was paused before; fails if that cannot be known.
    pub fn open(
        acceptance: &Acceptance,
        routes: Box<Current>,
        pauses: Pauses,
        metrics: Metrics,
    ) -> Result<Self, ClosuresError> {
        let spool = acceptance.spool.clone();
        let file = spool.dir().join(FILE);
        pauses.set(closures::read(&file)?);
        Ok(Self(Arc::new(Shared {
            spool,
            allowance: acceptance.allowance.clone(),
            reports: acceptance.clone(),
            routes,
            pauses,
            metrics,
            file,
            pausing: Mutex::new(()),
        })))
    }

    fn situation(&self) -> Option<Situation> {
        let table = (self.0.routes)()?;
        Some(Situation { table, closures: self.0.pauses.current() })
    }

    pub fn paused(&self) -> Vec<PauseRow> {
        closures::rows(&self.0.pauses.current())
    }

    /// A page of what waits and fits, oldest first. A page may be short, even empty, and not the last.
    pub async fn list(&self, filter: &Filter, after: Option<QueueId>, limit: usize) -> Page {
        let limit = limit.clamp(1, PAGE);
        let (now, situation) = (Timestamp::now(), self.situation());
        let (mut messages, mut at, mut looked) = (Vec::new(), after, 0);
        // Without a filter as few envelopes as fill the page.
        while messages.len() < limit && looked < LOOKED {
            let step = if filter.is_empty() { limit - messages.len() } else { LOOKED - looked };
            let (chosen, next, seen) = self.look(filter, at, step, now).await;
            looked += seen;
            for one in chosen {
                messages.push(rows::row(situation.as_ref(), &one.standing));
                if messages.len() == limit {
                    let last = Some(one.standing.id);
                    let more = !self.0.spool.page(last, 1).await.is_empty();
                    return Page {
                        messages,
                        next: last.filter(|_| more).map(|id| id.to_string()),
                        paused: self.paused(),
                        missing: Vec::new(),
                    };
                }
            }
            at = next;
            if next.is_none() {
                break;
            }
        }
        let next = at.filter(|_| looked > 0).map(|id| id.to_string());
        Page { messages, next, paused: self.paused(), missing: Vec::new() }
    }

    /// The next `step` messages: those that fit, where to go on (`None`: that was the end), how many were seen.
    async fn look(
        &self,
        filter: &Filter,
        after: Option<QueueId>,
        step: usize,
        now: Timestamp,
    ) -> (Vec<Chosen>, Option<QueueId>, usize) {
        let page = self.0.spool.page(after, step).await;
        let next = page.last().filter(|_| page.len() == step).map(|last| last.id);
        let seen = page.len();
        let ids = page.iter().filter(|one| filter.may_fit(one, now)).map(|one| one.id).collect();
        let situation = self.situation();
        let standings = self.0.spool.standings(ids).await;
        let chosen = standings.into_iter().filter_map(|standing| {
            let (targets, busy) = filter.targets(situation.as_ref(), &standing, now);
            (!targets.is_empty() || busy > 0).then_some(Chosen { standing, targets, busy })
        });
        (chosen.collect(), next, seen)
    }

    async fn one(&self, id: QueueId) -> Result<Standing, QueueError> {
        let waits = self.0.spool.summary(id).is_some();
        let standing = if waits { self.0.spool.standings(vec![id]).await.pop() } else { None };
        Ok(standing.ok_or(ClaimError::NotWaiting(id))?)
    }

    pub async fn show(&self, id: QueueId, actor: &Actor) -> Result<Detail, QueueError> {
        let standing = self.one(id).await?;
        tracing::info!(%id, %actor, act = "show", "queued message viewed");
        Ok(rows::detail(self.situation().as_ref(), &standing))
    }

    /// The message as it is stored, before the edits of its deliveries.
    pub async fn content(&self, id: QueueId, actor: &Actor) -> Result<Content, QueueError> {
        self.one(id).await?;
        let unreadable = |error| QueueError::Claim(ClaimError::Unreadable(error));
        let queued = self.0.spool.get(id).await.map_err(unreadable)?.ok_or(ClaimError::NotWaiting(id))?;
        tracing::info!(%id, %actor, act = "content", "queued message read");
        queued.content().map_err(unreadable)
    }

    /// Makes one message due now.
    pub async fn retry_one(&self, id: QueueId, actor: &Actor) -> Result<Acted, QueueError> {
        let standing = self.one(id).await?;
        let (targets, busy) =
            Filter::default().targets(self.situation().as_ref(), &standing, Timestamp::now());
        let mut acted = Acted::default();
        self.retry_chosen(Chosen { standing, targets, busy }, Timestamp::now(), &mut acted);
        tracing::info!(%id, %actor, act = "retry", recipients = acted.recipients, "queued message is tried again");
        Ok(acted)
    }

    /// Makes due what fits, spread over time: `turn` is how many messages earlier calls have made due.
    pub async fn retry(
        &self,
        filter: &Filter,
        after: Option<QueueId>,
        turn: u32,
        actor: &Actor,
    ) -> Result<Acted, QueueError> {
        let now = Timestamp::now();
        let (chosen, next, _) = self.look(filter, after, LOOKED, now).await;
        let mut acted = Acted { next: next.map(|id| id.to_string()), ..Acted::default() };
        for one in chosen {
            let n = turn.saturating_add(u32::try_from(acted.messages).unwrap_or(u32::MAX));
            self.retry_chosen(one, wake::turn(now, n, wake::PER_SECOND, 0.0), &mut acted);
        }
        tracing::info!(
            %actor, act = "retry", filter = filter.words(), messages = acted.messages,
            recipients = acted.recipients, "queued messages are tried again"
        );
        Ok(acted)
    }

    fn retry_chosen(&self, chosen: Chosen, at: Timestamp, acted: &mut Acted) {
        let Chosen { standing, targets, busy } = chosen;
        acted.busy += busy;
        let situation = self.situation();
        let (paused, open): (Vec<_>, Vec<_>) = targets
            .into_iter()
            .partition(|target| filter::state(situation.as_ref(), &standing, *target) == Some(State::Paused));
        acted.paused += paused.len();
        // Due already: nothing is gained by making it later.
        let changed = self.0.spool.retime(standing.id, &open, at, true);
        acted.messages += usize::from(!open.is_empty());
        acted.recipients += open.len().max(changed);
    }

    /// Ends one message, or those of its recipients that wait; with `report` the sender is told.
    pub async fn drop_one(&self, id: QueueId, report: bool, actor: &Actor) -> Result<Acted, QueueError> {
        let standing = self.one(id).await?;
        let (targets, busy) =
            Filter::default().targets(self.situation().as_ref(), &standing, Timestamp::now());
        if targets.is_empty() {
            return Err(if busy > 0 { ClaimError::Busy(id) } else { ClaimError::NotWaiting(id) }.into());
        }
        let recipients = self.drop_targets(id, &targets, report, actor).await?;
        Ok(Acted { messages: 1, recipients, busy, ..Acted::default() })
    }

    /// Ends what fits.
    pub async fn drop(
        &self,
        filter: &Filter,
        after: Option<QueueId>,
        report: bool,
        actor: &Actor,
    ) -> Result<Acted, QueueError> {
        if report && self.situation().is_none() {
            return Err(QueueError::NoPolicy);
        }
        let (chosen, next, _) = self.look(filter, after, DROPPED, Timestamp::now()).await;
        let mut acted = Acted { next: next.map(|id| id.to_string()), ..Acted::default() };
        acted.busy = chosen.iter().map(|one| one.busy).sum();
        let drops = chosen
            .into_iter()
            .filter(|one| !one.targets.is_empty())
            .map(|one| async move { self.drop_targets(one.standing.id, &one.targets, report, actor).await });
        let mut drops = stream::iter(drops).buffer_unordered(TOGETHER);
        while let Some(dropped) = drops.next().await {
            match dropped {
                Ok(recipients) => {
                    acted.messages += 1;
                    acted.recipients += recipients;
                }
                // Attempted, delivered or dropped by somebody else since we looked.
                Err(QueueError::Claim(ClaimError::Busy(_))) => acted.busy += 1,
                Err(QueueError::Claim(ClaimError::NotWaiting(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(acted)
    }

    async fn drop_targets(
        &self,
        id: QueueId,
        targets: &[usize],
        report: bool,
        actor: &Actor,
    ) -> Result<usize, QueueError> {
        let claim = self.0.spool.take(id, targets).await?;
        let reports = match report {
            true => self.report(&claim)?,
            false => Vec::new(),
        };
        let (told, recipients) = (!reports.is_empty(), claim.targets().len());
        let fates = claim.targets().iter().map(|target| (*target, Fate::Failed)).collect();
        claim.settle(fates, reports).await?;
        if told {
            self.0.reports.count_report();
        }
        let kind = if told { "told" } else { "silent" };
        self.0.metrics.dropped.get_or_create(&[("sender", kind)]).inc_by(recipients as u64);
        tracing::warn!(%id, %actor, act = "drop", recipients, told, "queued message dropped");
        Ok(recipients)
    }

    /// What the sender hears of a drop; nothing if nobody is to be told, or was told too often.
    fn report(&self, claim: &Claim) -> Result<Vec<crate::spool::Submission>, QueueError> {
        let table = (self.0.routes)().ok_or(QueueError::NoPolicy)?;
        let (entry, now) = (claim.queued().entry(), Timestamp::now());
        let wanted = |target: &&usize| {
            let target = &entry.targets[**target];
            !target.suppress_bounces && bounce::is_wanted(entry, &target.recipient, Action::Failed)
        };
        let fates: Vec<dsn::Fate> =
            claim.targets().iter().filter(wanted).map(|target| dropped(entry, *target, now)).collect();
        let sender = entry.sender.mailbox.as_ref().filter(|_| !fates.is_empty());
        let Some(sender) = sender else { return Ok(Vec::new()) };
        if !self.0.allowance.take(&sender.folded(), now) {
            self.0.reports.metrics.reports_suppressed.inc();
            return Ok(Vec::new());
        }
        let content = claim.queued().content().map_err(ClaimError::Unreadable)?;
        let about = About { entry, content: content.bytes() };
        Ok(bounce::report(&table, self.0.spool.new_id(), now, about, &fates).into_iter().collect())
    }

    /// Pauses a route or a domain: from now on nothing more is attempted there. Durable on return.
    pub async fn pause(
        &self,
        wanted: &Closed,
        reason: Option<String>,
        actor: &Actor,
    ) -> Result<Closed, QueueError> {
        let wanted = self.known(wanted)?;
        let pause = Pause { since: Timestamp::now(), by: actor.to_string(), reason };
        let closed = wanted.clone();
        self.change(move |closures| _ = closures.entry(closed).or_insert(pause)).await?;
        tracing::warn!(%actor, act = "pause", what = %wanted, "delivery paused");
        Ok(wanted)
    }

    /// Opens it again; its mail is tried again by and by.
    pub async fn resume(&self, wanted: &Closed, actor: &Actor) -> Result<Closed, QueueError> {
        let current = self.0.pauses.current();
        let found = current.keys().find(|closed| closures::is_called(closed, wanted)).cloned();
        let found = found.ok_or_else(|| QueueError::Unknown(format!("the {wanted} is not paused")))?;
        let closed = found.clone();
        self.change(move |closures| _ = closures.remove(&closed)).await?;
        tracing::warn!(%actor, act = "resume", what = %found, "delivery goes on");
        Ok(found)
    }

    /// Takes over what is paused at a pod whose mail comes here; what is paused here already stays as it is.
    pub async fn adopt_pauses(&self, rows: Vec<PauseRow>, pod: &str) -> Result<(), QueueError> {
        let known = self.0.pauses.current();
        let new: Vec<PauseRow> = rows.into_iter().filter(|row| !known.contains_key(&row.closed)).collect();
        if new.is_empty() {
            return Ok(());
        }
        for PauseRow { closed, .. } in &new {
            tracing::warn!(pod, act = "pause", what = %closed, "delivery paused, as it was where mail was taken over from");
        }
        self.change(move |closures| {
            for PauseRow { closed, pause, pod: _ } in new {
                closures.entry(closed).or_insert(pause);
            }
        })
        .await
    }

    async fn change(&self, change: impl FnOnce(&mut Closures)) -> Result<(), QueueError> {
        let _one_at_a_time = self.0.pausing.lock().await;
        let mut closures = Closures::clone(&self.0.pauses.current());
        change(&mut closures);
        let (file, kept) = (self.0.file.clone(), closures.clone());
        let written = tokio::task::spawn_blocking(move || closures::write(&file, &kept)).await;
        written.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(QueueError::Pauses)?;
        self.0.pauses.set(closures);
        Ok(())
    }

    /// The route that is meant, by the name that logs and metrics give it.
    fn known(&self, wanted: &Closed) -> Result<Closed, QueueError> {
        let (Closed::Route(_), Some(table)) = (wanted, (self.0.routes)()) else { return Ok(wanted.clone()) };
        let known: Vec<Closed> = table.labels().map(|label| Closed::Route(label.to_string())).collect();
        let mut found = known.iter().filter(|closed| closures::is_called(closed, wanted));
        match (found.next(), found.next()) {
            (Some(closed), None) => Ok(closed.clone()),
            (Some(_), Some(_)) => Err(QueueError::Unknown(format!(
                "several namespaces have the {wanted}: write NAMESPACE/NAME"
            ))),
            (None, _) => {
                let names: Vec<String> = known.iter().map(ToString::to_string).collect();
                Err(QueueError::Unknown(format!("there is no {wanted} here; there is: {}", names.join(", "))))
            }
        }
    }
}

fn dropped(entry: &Entry, target: usize, now: Timestamp) -> dsn::Fate {
    dsn::Fate {
        recipient: entry.targets[target].recipient.clone(),
        action: Action::Failed,
        status: DROPPED_STATUS,
        reason: "The administrator of the gateway has cancelled the delivery".to_owned(),
        remote_mta: None,
        remote_reply: None,
        last_attempt: Some(now),
        retry_until: None,
    }
}

/// Ages are written in seconds.
fn age(received_at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(received_at)).unwrap_or_default()
}
