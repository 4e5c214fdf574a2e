//! The reviewers' desk: held mail is listed, shown, released, denied, extended, and deleted when its time is
//! over (spec R74, R75). Every act is a line of the audit log with who, what and by which revision.
//!
//! A release judges the message again by the policy of now, without the rules that held it. What comes of that
//! and the end of the holding are one commit of the spool.

pub mod clock;
pub mod hold;
pub mod http;
pub mod letters;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

use crate::bundle::document::{EnhancedCode, OnDeny};
use crate::gateway::acceptance::{Acceptance, Before, Message, Verdict};
use crate::gateway::access::Actor;
use crate::gateway::decisions::Occasion;
use crate::gateway::judge::{Case, Judge, Unjudged};
use crate::gateway::live::{Live, Running};
use crate::gateway::queue::Missing;
use crate::mail::edit;
use crate::mail::envelope::{Envelope, Recipient};
use crate::policy::settle::{Settlement, settle};
use crate::policy::verdict::Rejection;
use crate::spool::{
    Claim, ClaimError, CommitError, Content, Entry, Fate, Held, HeldSummary, Holding, QueueId, Queued,
    RuleName, Spool,
};

/// Messages of one page of a listing.
pub const PAGE: usize = 100;
/// Bytes of a header section that are shown.
const MAX_HEADERS: usize = 64 << 10;

/// Cheap to clone.
#[derive(Clone)]
pub struct Desk(Arc<Shared>);

struct Shared {
    acceptance: Acceptance,
    judge: Judge,
    policies: Policies,
    metrics: Metrics,
    /// Acts in progress: they go to their end whoever asked for them.
    acts: TaskTracker,
}

/// What a desk works with.
pub struct Parts {
    pub acceptance: Acceptance,
    pub judge: Judge,
    pub policies: Policies,
    pub metrics: Metrics,
}

/// Where the policy of now comes from.
pub enum Policies {
    Live(Arc<Live>),
    /// Without a gateway: the policy of a folder, for as long as the command runs.
    Fixed(Arc<Running>),
    /// Without a gateway and a folder; says how to get one.
    Nobody(&'static str),
}

/// Counts what becomes of held mail, by message.
#[derive(Clone, Default)]
pub struct Metrics(Family<[(&'static str, &'static str); 1], Counter>);

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "postern_quarantined",
            "Messages of the quarantine by what happened: held, released, rejected, denied, extended, expired",
            self.0.clone(),
        );
    }

    pub fn count(&self, act: &'static str, messages: usize) {
        self.0.get_or_create(&[("act", act)]).inc_by(messages as u64);
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("the message stays held: {0}")]
    NoPolicy(&'static str),
    /// Policy says later (a broken rule, a missing route, a directory that is down).
    #[error("the message stays held, policy defers it: {0}")]
    Deferred(String),
    #[error("the message stays held: {0}")]
    Unjudged(#[from] Unjudged),
    #[error("nothing was changed: {0}")]
    Store(#[from] CommitError),
    #[error("{0} is not later than the message expires now, {1}")]
    NotLater(Timestamp, Timestamp),
    #[error("nothing was changed: the work ended badly")]
    Lost,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub id: String,
    /// The pod that has it, where several were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The id that the client was told; another one when other recipients were not held.
    pub message: String,
    pub held_since: Timestamp,
    pub expires: Timestamp,
    pub quarantine: String,
    pub from: Option<String>,
    pub to: Vec<String>,
    pub subject: Option<String>,
    pub rules: Vec<String>,
    pub size: u64,
    /// Somebody decides about it right now.
    pub busy: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page {
    pub messages: Vec<Row>,
    /// Where the next page begins; absent on the last.
    pub next: Option<String>,
    /// Pods that gave no answer, where several were asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// Everything a reviewer sees of a message, but for the message itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detail {
    #[serde(flatten)]
    pub row: Row,
    /// The revision that held it.
    pub revision: String,
    pub origin: String,
    pub tls: bool,
    pub authenticated: Vec<String>,
    pub reasons: Vec<Why>,
    /// Rules that held it before and were overruled.
    pub passed: Vec<String>,
    pub headers: String,
}

/// A rule and what it found: the entry of its list or its expression, never the text around it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Why {
    pub rule: String,
    pub found: Vec<Match>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Match {
    pub part: String,
    pub entry: String,
    pub offset: u64,
    pub length: u64,
    pub hidden: bool,
}

/// What an act came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    pub id: String,
    /// `released`, `heldAgain`, `rejected`, `discarded`, `denied`, `extended`.
    pub result: String,
    /// What is delivered, copies included, and its id.
    pub deliveries: usize,
    pub delivered_as: Option<String>,
    /// Held by another rule now, under these ids.
    pub held_again: Vec<String>,
    /// Recipients that policy refuses now.
    pub rejected: usize,
    /// The sender is told.
    pub reported: bool,
    pub expires: Option<Timestamp>,
    /// The revision that decided.
    pub revision: Option<String>,
}

/// How much longer a message is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Longer {
    Until(Timestamp),
    /// Than it is held now.
    By(Duration),
}

/// How far [`Desk::expire`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    Done,
    More,
    /// Something could not be stored.
    Failed,
}

impl Desk {
    pub fn new(parts: Parts) -> Self {
        let Parts { acceptance, judge, policies, metrics } = parts;
        Self(Arc::new(Shared { acceptance, judge, policies, metrics, acts: TaskTracker::new() }))
    }

    fn spool(&self) -> &Spool {
        &self.0.acceptance.spool
    }

    fn running(&self) -> Option<Arc<Running>> {
        match &self.0.policies {
            Policies::Live(live) => live.current(),
            Policies::Fixed(running) => Some(Arc::clone(running)),
            Policies::Nobody(_) => None,
        }
    }

    /// What a release needs. Never made up: without it the message stays held.
    fn policy(&self) -> Result<Arc<Running>, DeskError> {
        self.running().ok_or(DeskError::NoPolicy(match &self.0.policies {
            Policies::Nobody(why) => why,
            Policies::Live(_) | Policies::Fixed(_) => "the gateway has no policy yet",
        }))
    }

    /// A page of the listing, oldest first. With `quarantine` a page may be empty and not the last.
    pub async fn list(&self, quarantine: Option<&str>, after: Option<QueueId>, limit: usize) -> Page {
        let limit = limit.clamp(1, PAGE);
        let summaries = self.spool().held(after, limit);
        let next = (summaries.len() == limit).then(|| summaries.last().map(|last| last.id.to_string()));
        let mut messages = Vec::with_capacity(summaries.len());
        let running = self.running();
        for summary in summaries {
            let queued = match self.spool().get(summary.id).await {
                Ok(Some(queued)) => queued,
                // Decided about since.
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(queue_id = %summary.id, %error, "a held message cannot be read");
                    continue;
                }
            };
            if let Some(held) = &queued.entry().held {
                messages.push(row(running.as_deref(), &summary, &queued, held));
            }
        }
        if let Some(wanted) = quarantine {
            messages
                .retain(|row| row.quarantine == wanted || row.quarantine.rsplit('/').next() == Some(wanted));
        }
        Page { messages, next: next.flatten(), missing: Vec::new() }
    }

    async fn held(&self, id: QueueId) -> Result<(HeldSummary, Queued, Arc<Held>), DeskError> {
        let not_held = || DeskError::Claim(ClaimError::NotHeld(id));
        let summary = self.spool().held_summary(id).ok_or_else(not_held)?;
        let queued = self.spool().get(id).await.map_err(ClaimError::Unreadable)?.ok_or_else(not_held)?;
        let held = queued.entry().held.clone().ok_or_else(not_held)?;
        Ok((summary, queued, held))
    }

    pub async fn show(&self, id: QueueId, actor: &Actor) -> Result<Detail, DeskError> {
        let (summary, queued, held) = self.held(id).await?;
        tracing::info!(%id, %actor, act = "show", "held message viewed");
        Ok(detail(self.running().as_deref(), &summary, &queued, &held))
    }

    /// The message as it came, with our own Received field in front.
    pub async fn raw(&self, id: QueueId, actor: &Actor) -> Result<Content, DeskError> {
        let (_, queued, _) = self.held(id).await?;
        tracing::info!(%id, %actor, act = "raw", "held message viewed");
        queued.content().map_err(|error| ClaimError::Unreadable(error).into())
    }

    /// Sends the message on, as policy has it now without the rules that held it.
    pub async fn release(&self, id: QueueId, actor: Actor) -> Result<Done, DeskError> {
        self.finish(move |desk| async move { desk.release_now(id, &actor).await }).await
    }

    /// Ends the message; its sender is told if the quarantine says so.
    pub async fn deny(&self, id: QueueId, actor: Actor) -> Result<Done, DeskError> {
        self.finish(move |desk| async move { desk.deny_now(id, &actor).await }).await
    }

    /// Holds the message longer.
    pub async fn extend(&self, id: QueueId, longer: Longer, actor: Actor) -> Result<Done, DeskError> {
        self.finish(move |desk| async move { desk.extend_now(id, longer, &actor).await }).await
    }

    /// An act goes to its end, also when whoever asked for it has gone.
    async fn finish<F>(&self, act: impl FnOnce(Desk) -> F) -> Result<Done, DeskError>
    where
        F: Future<Output = Result<Done, DeskError>> + Send + 'static,
    {
        self.0.acts.spawn(act(self.clone())).await.unwrap_or(Err(DeskError::Lost))
    }

    async fn release_now(&self, id: QueueId, actor: &Actor) -> Result<Done, DeskError> {
        let running = self.policy()?;
        let claim = self.spool().claim(id).await?;
        let (entry, held) = parts(&claim)?;
        let content = claim.queued().content().map_err(ClaimError::Unreadable)?;
        let mut passed = held.passed.clone();
        passed.extend(held.reasons.iter().map(|reason| reason.rule.clone()));
        let envelope = Envelope { sender: entry.sender.clone(), recipients: recipients(&claim, &entry) };
        let case = Case {
            id: held.message.to_string(),
            envelope: envelope.clone(),
            facts: held.facts.clone(),
            except: passed.iter().filter_map(hold::rule_id).collect(),
            now: entry.received_at,
            occasion: Occasion::Released,
        };
        let decision = self.0.judge.judge(&running, case, &content).await?;
        let message = Message {
            told: held.message,
            id: self.spool().new_id(),
            sender: &entry.sender,
            received_at: entry.received_at,
            origin: &entry.origin,
            content: &content,
            facts: &held.facts,
            before: Before { passed: &passed, archived: held.archived, made: &held.made },
        };
        let all = |fate: &Fate| claim.targets().iter().map(|target| (*target, fate.clone())).collect();
        let (verdict, fate, rejected) = match settle(&envelope, decision) {
            Settlement::Defer(deferral) => return Err(DeskError::Deferred(deferral.text)),
            Settlement::Reject { rejection, archive } => {
                let refused: Vec<(Recipient, Rejection)> =
                    envelope.recipients.iter().map(|one| (one.clone(), rejection.clone())).collect();
                let count = refused.len();
                (Verdict { refused, archive, ..Verdict::default() }, Fate::Failed, count)
            }
            Settlement::Accept { deliveries, held, discarded, archive, refused, unreported } => {
                if discarded > 0 {
                    tracing::info!(%id, discarded, "recipients discarded as blatant spam");
                }
                let rejected = refused.len() + unreported;
                (Verdict { deliveries, held, archive, refused }, Fate::Released, rejected)
            }
        };
        let acts = self.0.acceptance.acts(&running, &message, verdict);
        let done = Done {
            id: id.to_string(),
            result: match (acts.deliveries, acts.held.len()) {
                (0, 0) if rejected == 0 => "discarded",
                (0, 0) => "rejected",
                (0, _) => "heldAgain",
                _ => "released",
            }
            .to_owned(),
            deliveries: acts.deliveries,
            delivered_as: (acts.deliveries > 0).then(|| message.id.to_string()),
            held_again: acts.held.iter().map(QueueId::to_string).collect(),
            rejected,
            reported: acts.reported,
            expires: None,
            revision: Some(running.revision.to_string()),
        };
        let fates = all(&fate);
        let submissions = acts.submissions.clone();
        claim.settle(fates, submissions).await?;
        self.0.acceptance.done(&acts);
        self.0.metrics.count(if done.result == "rejected" { "rejected" } else { "released" }, 1);
        self.0.metrics.count("held", acts.held.len());
        tracing::info!(
            %id, %actor, act = "release", result = done.result, delivered_as = done.delivered_as,
            deliveries = done.deliveries, held_again = done.held_again.len(), rejected,
            reported = done.reported, held_by = entry.revision, revision = %running.revision,
            rules = %Names(&passed), "held message released"
        );
        Ok(done)
    }

    async fn deny_now(&self, id: QueueId, actor: &Actor) -> Result<Done, DeskError> {
        let running = self.running();
        let claim = self.spool().claim(id).await?;
        let (entry, held) = parts(&claim)?;
        let on_deny = match &running {
            Some(running) => hold::quarantine(&running.bundle, held.quarantine.as_ref())
                .map_or(OnDeny::default(), |quarantine| quarantine.on_deny),
            // The sender of a message of a quarantine that reports would never hear of its end.
            None => match &held.quarantine {
                Some(_) => return self.policy().map(|_| Done::default()),
                None => OnDeny::default(),
            },
        };
        let report = match (on_deny, &running) {
            (OnDeny::Reject, Some(running)) => {
                let content = claim.queued().content().map_err(ClaimError::Unreadable)?;
                let refused: Vec<(Recipient, Rejection)> = recipients(&claim, &entry)
                    .into_iter()
                    .filter_map(|recipient| Some((recipient, rejection(&held)?)))
                    .collect();
                self.0.acceptance.report(running, &entry, &content, &refused, Timestamp::now())
            }
            (OnDeny::Drop, _) | (OnDeny::Reject, None) => None,
        };
        let reported = report.is_some();
        let fates = claim.targets().iter().map(|target| (*target, Fate::Failed)).collect();
        claim.settle(fates, report.into_iter().collect()).await?;
        if reported {
            self.0.acceptance.count_report();
        }
        self.0.metrics.count("denied", 1);
        let revision = running.map(|running| running.revision.to_string());
        tracing::info!(
            %id, %actor, act = "deny", ?on_deny, reported, held_by = entry.revision, revision,
            rules = %Names(&rules(&held)), "held message denied"
        );
        Ok(Done { id: id.to_string(), result: "denied".into(), reported, revision, ..Done::default() })
    }

    async fn extend_now(&self, id: QueueId, longer: Longer, actor: &Actor) -> Result<Done, DeskError> {
        let claim = self.spool().claim(id).await?;
        let (entry, _) = parts(&claim)?;
        let ends = claim.targets().iter().filter_map(|target| match claim.queued().state(*target) {
            Fate::Held(holding) => Some(holding.until),
            Fate::Waiting(_)
            | Fate::Delivered
            | Fate::Failed
            | Fate::Released
            | Fate::HandedOver
            | Fate::Noted => None,
        });
        let now = ends.max().unwrap_or(entry.received_at);
        let until = match longer {
            Longer::Until(until) => until,
            Longer::By(by) => now.checked_add(by).unwrap_or(Timestamp::MAX),
        };
        if until <= now {
            return Err(DeskError::NotLater(until, now));
        }
        let fates = claim.targets().iter().map(|target| (*target, Fate::Held(Holding { until }))).collect();
        claim.settle(fates, Vec::new()).await?;
        self.0.metrics.count("extended", 1);
        let revision = self.running().map(|running| running.revision.to_string());
        tracing::info!(
            %id, %actor, act = "extend", %until, held_by = entry.revision, revision, "held message extended"
        );
        let (id, result) = (id.to_string(), "extended".to_owned());
        Ok(Done { id, result, expires: Some(until), revision, ..Done::default() })
    }

    /// Deletes what was held long enough, a few at a time.
    pub async fn expire(&self, now: Timestamp) -> Expiry {
        let over = self.spool().expired(now, PAGE);
        let mut expiry = if over.len() == PAGE { Expiry::More } else { Expiry::Done };
        for id in over {
            if let Err(error) = self.expire_one(id).await {
                expiry = Expiry::Failed;
                tracing::warn!(%id, %error, "an expired message is not deleted yet");
            }
        }
        expiry
    }

    /// Waits for the acts that run; for the end of the process.
    pub async fn close(&self) {
        self.0.acts.close();
        self.0.acts.wait().await;
    }

    async fn expire_one(&self, id: QueueId) -> Result<(), DeskError> {
        let claim = match self.spool().claim(id).await {
            // Somebody decides about it in its last moment, or did.
            Err(ClaimError::Busy(_) | ClaimError::NotHeld(_)) => return Ok(()),
            other => other?,
        };
        let (entry, held) = parts(&claim)?;
        let fates = claim.targets().iter().map(|target| (*target, Fate::Failed)).collect();
        claim.settle(fates, Vec::new()).await?;
        self.0.metrics.count("expired", 1);
        let revision = self.running().map(|running| running.revision.to_string());
        tracing::info!(
            %id, actor = %Actor::Clock, act = "expire", held_by = entry.revision, revision,
            rules = %Names(&rules(&held)), "held message deleted: its retention is over"
        );
        Ok(())
    }
}

fn parts(claim: &Claim) -> Result<(Arc<Entry>, Arc<Held>), DeskError> {
    let entry = Arc::clone(claim.queued().entry());
    let held = entry.held.clone().ok_or(ClaimError::NotHeld(claim.queued().id()))?;
    Ok((entry, held))
}

fn recipients(claim: &Claim, entry: &Entry) -> Vec<Recipient> {
    claim.targets().iter().map(|&target| entry.targets[target].recipient.clone()).collect()
}

/// The default reject message, for a sender whose message was denied (spec R69, R74).
fn rejection(held: &Held) -> Option<Rejection> {
    let rule = hold::rule_id(&held.reasons.first()?.rule)?;
    let text =
        format!("Message rejected by organization policy (rule: {}, ref: {})", rule.name, held.message);
    Some(Rejection { rule, code: EnhancedCode([5, 7, 1]), text: text.clone(), full_text: text })
}

fn rules(held: &Held) -> Vec<RuleName> {
    held.reasons.iter().map(|reason| reason.rule.clone()).collect()
}

/// Rules for a line of the log.
struct Names<'a>(&'a [RuleName]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, name)| {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{name}")
        })
    }
}

fn row(running: Option<&Running>, summary: &HeldSummary, queued: &Queued, held: &Held) -> Row {
    let quarantine = match running {
        Some(running) => hold::label(hold::quarantine(&running.bundle, held.quarantine.as_ref())),
        None => match &held.quarantine {
            Some(name) if name.name != hold::DEFAULT => format!("{}/{}", name.namespace, name.name),
            Some(_) | None => hold::DEFAULT.to_owned(),
        },
    };
    let entry = queued.entry();
    let still = entry.targets.iter().enumerate().filter(|(at, _)| matches!(queued.state(*at), Fate::Held(_)));
    Row {
        id: summary.id.to_string(),
        pod: None,
        message: held.message.to_string(),
        held_since: entry.received_at,
        expires: summary.until,
        quarantine,
        from: entry.sender.mailbox.as_ref().map(ToString::to_string),
        to: still.map(|(_, target)| target.recipient.mailbox.to_string()).collect(),
        subject: held.subject.clone(),
        rules: rules(held).iter().map(ToString::to_string).collect(),
        size: queued.size(),
        busy: summary.busy,
    }
}

fn detail(running: Option<&Running>, summary: &HeldSummary, queued: &Queued, held: &Held) -> Detail {
    let headers = queued.content().map(|content| {
        let (head, _) = edit::split(content.bytes());
        let head = &head[..head.len().min(MAX_HEADERS)];
        String::from_utf8_lossy(head).replace("\r\n", "\n")
    });
    let reasons = held.reasons.iter().map(|reason| Why {
        rule: reason.rule.to_string(),
        found: reason
            .found
            .iter()
            .map(|found| Match {
                part: found.part.clone(),
                entry: found.entry.clone(),
                offset: found.offset,
                length: found.length,
                hidden: found.hidden,
            })
            .collect(),
    });
    Detail {
        row: row(running, summary, queued, held),
        revision: queued.entry().revision.clone(),
        origin: queued.entry().origin.clone(),
        tls: held.facts.tls,
        authenticated: held.facts.authenticated.iter().map(|domain| domain.ascii().to_owned()).collect(),
        reasons: reasons.collect(),
        passed: held.passed.iter().map(ToString::to_string).collect(),
        headers: headers.unwrap_or_default(),
    }
}

/// The first few of many.
pub fn few(list: &[String], most: usize) -> String {
    let shown = list.iter().take(most).map(String::as_str).collect::<Vec<_>>().join(", ");
    match list.len().checked_sub(most) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
