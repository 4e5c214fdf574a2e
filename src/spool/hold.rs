//! Held mail: accepted, durable, and due for nobody until a reviewer says what becomes of it (spec R71, R76).
//!
//! Recipients that are held make a message of their own, committed together with what the same 250 promised
//! to the others. Its end (released, denied, expired) and what comes out of it (deliveries, a report, mail
//! held by another rule) are one commit, so nothing is ever both held and on its way, whatever happens in
//! between. Who may decide, and what a release makes of a message, is not known here.

use std::io;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::entry::{Fate, Holding, Submission};
use super::id::QueueId;
use super::{CommitError, Queued, Spool};
use crate::mail::address::{Domain, Mailbox};

/// Why a message is held, until when, and what must be known to judge it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The id that the client was told; that of the recipients who were not held.
    pub message: QueueId,
    /// When it is deleted, unless somebody extends it: then the recipients' fates know better.
    #[serde(with = "jiff::fmt::serde::timestamp::nanosecond::required")]
    pub until: Timestamp,
    /// `None`: the built-in one.
    pub quarantine: Option<QuarantineName>,
    /// Best rank first.
    pub reasons: Vec<HeldFor>,
    /// Rules that held it before and were overruled by a reviewer: they do not judge it again.
    pub passed: Vec<RuleName>,
    /// Some rule wanted the sender told.
    pub notify_sender: bool,
    pub subject: Option<String>,
    /// The archive has its copy.
    pub archived: bool,
    /// Digests of deliveries that were made when the message was accepted, so that a release makes no second.
    pub made: Vec<u64>,
    pub facts: Facts,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QuarantineName {
    pub namespace: String,
    pub name: String,
}

/// A rule that holds the message, with what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFor {
    pub rule: RuleName,
    pub found: Vec<Found>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleName {
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for RuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// What matched, as the rule writes it and not as the message does, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub part: String,
    pub entry: String,
    pub offset: u64,
    pub length: u64,
    pub hidden: bool,
}

/// What was known of the message besides its bytes and its envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub client: IpAddr,
    pub tls: bool,
    pub authenticated: Vec<Domain>,
    pub spam: bool,
    pub phishy: bool,
    pub blatant: bool,
    /// Length of our own Received field, which no rule reads.
    pub received: u64,
    /// Who handed it over, where that is known by a login or a certificate.
    pub identity: Option<Mailbox>,
}

/// One line of a listing; made without reading the disk.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldSummary {
    pub id: QueueId,
    pub received_at: Timestamp,
    pub size: u64,
    /// Recipients still held.
    pub recipients: usize,
    /// The first of them expires.
    pub until: Timestamp,
    /// Somebody decides about it right now.
    pub busy: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("there is no held message {0}")]
    NotHeld(QueueId),
    #[error("there is no message {0} that waits for its delivery")]
    NotWaiting(QueueId),
    #[error("message {0} is in other hands right now")]
    Busy(QueueId),
    #[error("the message cannot be read: {0}")]
    Unreadable(io::Error),
}

/// A held or waiting message in the hands of one who decides. Dropped without a decision it is as before.
pub struct Claim {
    spool: Spool,
    queued: Queued,
    targets: Vec<usize>,
    /// The committer has the decision: from now on only its answer counts.
    handed_over: bool,
}

impl Claim {
    pub fn queued(&self) -> &Queued {
        &self.queued
    }

    /// Recipients (indexes into the entry's targets) that it is about.
    pub fn targets(&self) -> &[usize] {
        &self.targets
    }

    /// Ends the holding of these recipients, or changes its end; `submissions` come with it or not at all.
    /// Durable on return. An error: nothing happened, and everything is held as before.
    pub async fn settle(
        mut self,
        fates: Vec<(usize, Fate)>,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Queued>, CommitError> {
        let id = self.queued.id();
        // Reports may use the room that is kept free of new mail; what is sent on may not.
        let bytes = submissions.iter().filter(|one| !one.entry.own).map(|one| one.content.memory() + 1024);
        let bytes = bytes.sum::<u64>();
        if bytes > 0 && !self.spool.inner.shared.take_room(bytes) {
            return Err(CommitError::Full);
        }
        self.handed_over = true;
        let settled: Vec<usize> = fates.iter().map(|(target, _)| *target).collect();
        let result = self.spool.store(Some((id, fates)), submissions, true).await;
        if result.is_ok() {
            // Those may be in other hands by now.
            self.targets.retain(|target| !settled.contains(target));
        }
        self.handed_over = false;
        result
    }
}

impl Claim {
    /// The message is another spool's. Durable on Ok; after an error it still holds in this process, and is written as
    /// soon as the disk takes it.
    pub async fn give_away(mut self) -> Result<(), CommitError> {
        let id = self.queued.id();
        let fates: Vec<(usize, Fate)> =
            self.targets.iter().map(|target| (*target, Fate::HandedOver)).collect();
        self.handed_over = true;
        let result = self.spool.store(Some((id, fates.clone())), Vec::new(), true).await;
        if result.is_err() {
            let _ = self.spool.store(Some((id, fates)), Vec::new(), false).await;
        }
        self.handed_over = false;
        self.targets.clear();
        result.map(drop)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Given up in the middle of a commit, it may be over already: a restart will tell.
        if !self.handed_over {
            self.spool.inner.shared.index().give_back(self.queued.id(), &self.targets);
            self.spool.inner.shared.wake.notify_one();
        }
    }
}

impl Spool {
    /// Held messages behind this one, oldest first, at most `limit`.
    pub fn held(&self, after: Option<QueueId>, limit: usize) -> Vec<HeldSummary> {
        self.inner.shared.index().held(after, limit)
    }

    /// One of them; `None`: it is not held (any more).
    pub fn held_summary(&self, id: QueueId) -> Option<HeldSummary> {
        self.inner.shared.index().held_one(id)
    }

    /// Messages with a held recipient.
    pub fn held_len(&self) -> usize {
        self.inner.shared.index().held_len()
    }

    /// When the first held message expires.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.inner.shared.index().next_expiry()
    }

    /// Held messages whose time is over, at most `limit`.
    pub fn expired(&self, now: Timestamp, limit: usize) -> Vec<QueueId> {
        self.inner.shared.index().expired(now, limit)
    }

    /// Takes a held message to decide about it. Only one may have it at a time.
    pub async fn claim(&self, id: QueueId) -> Result<Claim, ClaimError> {
        let targets = self.inner.shared.index().claim(id)?;
        match self.hold_on(id, targets).await {
            Err(ClaimError::NotWaiting(id)) => Err(ClaimError::NotHeld(id)),
            other => other,
        }
    }

    /// Takes recipients that wait out of delivery's hands, those of `wanted` that are not attempted just now.
    pub async fn take(&self, id: QueueId, wanted: &[usize]) -> Result<Claim, ClaimError> {
        let targets = self.inner.shared.index().take_waiting(id, wanted)?;
        self.hold_on(id, targets).await
    }

    /// Recipients that were just taken, with their message.
    pub(super) async fn hold_on(&self, id: QueueId, targets: Vec<usize>) -> Result<Claim, ClaimError> {
        let taken = Taken { spool: self, id, targets: Some(targets) };
        match self.get(id).await {
            Ok(Some(queued)) => {
                Ok(Claim { spool: self.clone(), queued, targets: taken.keep(), handed_over: false })
            }
            Ok(None) => Err(ClaimError::NotWaiting(id)),
            Err(error) => Err(ClaimError::Unreadable(error)),
        }
    }
}

/// Gives recipients back unless they are kept: whoever waits for the disk may be cancelled.
struct Taken<'a> {
    spool: &'a Spool,
    id: QueueId,
    targets: Option<Vec<usize>>,
}

impl Taken<'_> {
    fn keep(mut self) -> Vec<usize> {
        self.targets.take().expect("taken only here and when dropped")
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(targets) = self.targets.take() {
            self.spool.inner.shared.index().give_back(self.id, &targets);
            self.spool.inner.shared.wake.notify_one();
        }
    }
}

/// How the recipients of a message stand when it comes: all held, or all due.
pub(super) fn first_fates(held: &Held, targets: usize) -> Vec<Fate> {
    vec![Fate::Held(Holding { until: held.until }); targets]
}
