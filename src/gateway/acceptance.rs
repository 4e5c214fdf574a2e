//! From a verdict that accepts to what one commit stores: the deliveries, the archive's copy, what is held, the
//! report on whom policy refused, the notice about what is held. The same for mail that arrives and for mail
//! that a reviewer releases, so that nothing is decided twice in two ways.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::delivery::bounce::{self, About};
use crate::delivery::metrics::{ByKind, ReportKind};
use crate::delivery::{self, Allowance};
use crate::gateway::live::Running;
use crate::gateway::quarantine::{hold, letters};
use crate::mail::dsn;
use crate::mail::envelope::{Notify, Recipient, Sender};
use crate::policy::Delivery;
use crate::policy::verdict::{Hold, Rejection};
use crate::spool::{Content, Entry, Facts, Held, QueueId, RuleName, Spool, Submission, Target};

/// Writes down what was accepted. Cheap to clone.
#[derive(Clone)]
pub struct Acceptance {
    pub spool: Spool,
    /// Mail to a sender about his mail, reports of delivery included.
    pub allowance: Allowance,
    pub metrics: delivery::Metrics,
}

/// A message besides its verdict.
pub struct Message<'a> {
    /// The id that its client was told.
    pub told: QueueId,
    /// The id of what is delivered.
    pub id: QueueId,
    pub sender: &'a Sender,
    pub received_at: Timestamp,
    pub origin: &'a str,
    pub content: &'a Content,
    pub facts: &'a Facts,
    /// What is known of it from an earlier time, when it was held.
    pub before: Before<'a>,
}

/// All empty for a message that just arrived.
#[derive(Clone, Copy, Default)]
pub struct Before<'a> {
    /// Rules that a reviewer has overruled.
    pub passed: &'a [RuleName],
    /// The archive has its copy.
    pub archived: bool,
    /// Digests of the deliveries that were made of it.
    pub made: &'a [u64],
}

/// The parts of [`Settlement::Accept`](crate::policy::settle::Settlement::Accept) that are stored.
#[derive(Default)]
pub struct Verdict {
    pub deliveries: Vec<Delivery>,
    pub held: Vec<(Recipient, Hold)>,
    pub archive: Option<Delivery>,
    pub refused: Vec<(Recipient, Rejection)>,
}

/// What is to be committed, and what to count when it is.
pub struct Acts {
    pub submissions: Vec<Submission>,
    /// Deliveries, the archive's not among them.
    pub deliveries: usize,
    pub held: Vec<QueueId>,
    pub reported: bool,
    pub noticed: bool,
}

impl Acceptance {
    /// Everything the commit is made of. Nothing is stored or counted yet.
    pub fn acts(&self, running: &Running, message: &Message<'_>, verdict: Verdict) -> Acts {
        let Verdict { deliveries, held, archive, refused } = verdict;
        let now = Timestamp::now();
        let is_new = |delivery: &Delivery| {
            delivery.copy_of.is_none() || !message.before.made.contains(&hold::digest(delivery))
        };
        let deliveries: Vec<Delivery> = deliveries.into_iter().filter(is_new).collect();
        let mut made = message.before.made.to_vec();
        made.extend(deliveries.iter().map(hold::digest));
        let archive = archive.filter(|_| !message.before.archived);
        let archived = message.before.archived || archive.is_some();

        let entry = self.entry(running, message, deliveries.into_iter().map(target).collect());
        let count = entry.targets.len();
        let mut submissions = Vec::new();
        let report = self.report(running, &entry, message.content, &refused, now);
        let reported = report.is_some();
        submissions.extend(report);

        let notice = self.notice(running, message, &held, now);
        let noticed = notice.is_some();
        submissions.extend(notice);

        // The id that the client was told is that of what is delivered, if anything is.
        let mut told = (count == 0).then_some(message.id);
        let mut held_ids = Vec::new();
        for (hold, recipients) in hold::groups(held) {
            let id = told.take().unwrap_or_else(|| self.spool.new_id());
            let until = hold::until(&running.bundle, &hold, now);
            let held = Held {
                message: message.told,
                until,
                quarantine: hold::quarantine_name(&hold),
                reasons: hold::reasons(&hold),
                passed: message.before.passed.to_vec(),
                notify_sender: hold.notify_sender,
                subject: hold::subject(message.content),
                archived,
                made: made.clone(),
                facts: message.facts.clone(),
            };
            let entry = Entry {
                held: Some(Arc::new(held)),
                ..self.entry(running, message, recipients.into_iter().map(hold::target).collect())
            };
            held_ids.push(id);
            submissions.push(Submission { id, entry, content: message.content.clone() });
        }
        if let Some(archive) = archive {
            submissions.push(self.journal(running, message, archive));
        }
        if count > 0 {
            submissions.push(Submission { id: message.id, entry, content: message.content.clone() });
        }
        Acts { submissions, deliveries: count, held: held_ids, reported, noticed }
    }

    /// Counts what was committed.
    pub fn done(&self, acts: &Acts) {
        if acts.reported {
            self.count_report();
        }
    }

    pub fn count_report(&self) {
        self.metrics.reports.get_or_create(&ByKind { kind: ReportKind::failed }).inc();
    }

    /// Tells the sender which recipients policy refused.
    pub fn report(
        &self,
        running: &Running,
        entry: &Entry,
        content: &Content,
        refused: &[(Recipient, Rejection)],
        now: Timestamp,
    ) -> Option<Submission> {
        let fates: Vec<dsn::Fate> = refused
            .iter()
            .map(|(recipient, rejection)| bounce::refused(recipient, rejection.code.0, &rejection.full_text))
            .filter(|fate| bounce::is_wanted(entry, &fate.recipient, fate.action))
            .collect();
        if fates.is_empty() || !self.may_write_to(entry.sender.mailbox.as_ref()?, now) {
            return None;
        }
        let about = About { entry, content: content.bytes() };
        bounce::report(&running.routes, self.spool.new_id(), now, about, &fates)
    }

    /// Tells the sender of an outgoing message that it is held, once for all its rules and recipients (spec
    /// R73, R128).
    fn notice(
        &self,
        running: &Running,
        message: &Message<'_>,
        held: &[(Recipient, Hold)],
        now: Timestamp,
    ) -> Option<Submission> {
        let leaves = |recipient: &Recipient| !running.policy.is_own(&recipient.mailbox);
        let told = held.iter().filter(|(recipient, hold)| {
            hold.notify_sender && leaves(recipient) && recipient.notify != Notify::Never
        });
        let recipients: Vec<_> = told.map(|(recipient, _)| &recipient.mailbox).collect();
        let to = message.sender.mailbox.as_ref().filter(|_| !recipients.is_empty())?;
        if !self.may_write_to(to, now) {
            return None;
        }
        let id = self.spool.new_id();
        Some(letters::held_notice(running, id, now, to, &recipients, message.told, message.content))
    }

    fn may_write_to(&self, sender: &crate::mail::address::Mailbox, now: Timestamp) -> bool {
        let may = self.allowance.take(&sender.folded(), now);
        if !may {
            self.metrics.reports_suppressed.inc();
        }
        may
    }

    /// The archive's copy is mail of the gateway's own: nobody hears of its failure but the log (spec R46).
    fn journal(&self, running: &Running, message: &Message<'_>, archive: Delivery) -> Submission {
        let entry = self.entry(running, message, vec![Target { suppress_bounces: true, ..target(archive) }]);
        let sender = Sender { mailbox: None, ret: None, envid: None, ..entry.sender.clone() };
        let content = message.content.clone();
        Submission { id: self.spool.new_id(), entry: Entry { sender, own: true, ..entry }, content }
    }

    fn entry(&self, running: &Running, message: &Message<'_>, targets: Vec<Target>) -> Entry {
        Entry {
            sender: message.sender.clone(),
            received_at: message.received_at,
            origin: message.origin.to_owned(),
            revision: running.revision.to_string(),
            own: false,
            held: None,
            targets,
        }
    }
}

fn target(delivery: Delivery) -> Target {
    let Delivery { recipient, via, edits, require_tls, suppress_bounces, .. } = delivery;
    Target { recipient, via, require_tls, edits, suppress_bounces }
}

/// Where a message came from, for reports: `client.example ([192.0.2.1])`.
pub fn origin(helo: &str, client: IpAddr) -> String {
    format!("{helo} ([{}])", client.to_canonical())
}
