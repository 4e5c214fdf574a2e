//! From outcomes to the mail that tells the sender. Reports go only where they belong: never for a
//! null sender, never for the gateway's own mail, never against NOTIFY, and never in floods.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::outcome::{Problem, Status};
use super::routes::RouteTable;
use crate::mail::dsn::{self, Action, Fate};
use crate::mail::envelope::{Notify, Recipient, Ret, Sender};
use crate::spool::{Content, Entry, QueueId, Submission, Target};

/// Reports a sender may get at once, and how long one more takes to become free.
const BURST: f64 = 50.0;
const SECONDS_EACH: f64 = 60.0;
/// Senders remembered; those with a full allowance are forgotten first.
const MAX_SENDERS: usize = 10_000;

/// The message a report is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub entry: &'a Entry,
    pub content: &'a [u8],
}

/// A recipient that a rule refused while others were accepted (spec R69): `text` is the full notice.
pub fn refused(recipient: &Recipient, status: Status, text: &str) -> Fate {
    let [class, subject, detail] = status;
    Fate {
        recipient: recipient.clone(),
        action: Action::Failed,
        status,
        reason: format!("A rule of your organisation refused it: 550 {class}.{subject}.{detail} {text}"),
        remote_mta: None,
        remote_reply: None,
        last_attempt: None,
        retry_until: None,
    }
}

/// What an attempt made of a recipient.
pub fn fate(
    recipient: &Recipient,
    action: Action,
    status: Status,
    problem: &Problem,
    now: Timestamp,
) -> Fate {
    Fate {
        recipient: recipient.clone(),
        action,
        status,
        reason: problem.to_string(),
        remote_mta: problem.host.clone(),
        remote_reply: problem.reply().map(ToString::to_string),
        last_attempt: Some(now),
        retry_until: None,
    }
}

/// Whether this sender wants, and may have, a report of this kind on this recipient.
pub fn is_wanted(entry: &Entry, recipient: &Recipient, action: Action) -> bool {
    let wanted = match action {
        Action::Failed => recipient.notify.on_failure(),
        Action::Delayed => recipient.notify.on_delay(),
        Action::Relayed => recipient.notify.on_success(),
    };
    wanted && !entry.own && entry.sender.mailbox.is_some()
}

/// The report on `fates`, all of one action, ready for the spool; `None` when there is nothing to
/// tell or nobody to tell it to. `id` becomes the report's own.
pub fn report(
    table: &RouteTable,
    id: QueueId,
    now: Timestamp,
    about: About<'_>,
    fates: &[Fate],
) -> Option<Submission> {
    let entry = about.entry;
    let to = entry.sender.mailbox.as_ref()?;
    let fates: Vec<Fate> =
        fates.iter().filter(|fate| is_wanted(entry, &fate.recipient, fate.action)).cloned().collect();
    if fates.is_empty() {
        return None;
    }
    // What had to travel encrypted does not come back in full over whatever way a report takes.
    let confidential = entry.sender.require_tls || entry.targets.iter().any(|target| target.require_tls);
    let ret = entry.sender.ret.filter(|ret| *ret == Ret::Full && !confidential);
    let sender = Sender { ret, ..entry.sender.clone() };
    let composed = dsn::compose(&dsn::Report {
        now,
        id: &id.to_string(),
        reporting_mta: &table.hostname,
        from: &table.notices_from,
        to,
        sender: &sender,
        arrived: entry.received_at,
        content: about.content,
        fates: &fates,
    });
    let target = Target {
        suppress_bounces: false,
        recipient: Recipient { notify: Notify::Never, ..Recipient::new(to.clone()) },
        via: table.notices_via.clone(),
        require_tls: false,
        edits: Arc::from([]),
    };
    let entry = Entry {
        sender: composed.sender,
        received_at: now,
        origin: table.hostname.clone(),
        revision: entry.revision.clone(),
        own: true,
        held: None,
        targets: vec![target],
    };
    Some(Submission { id, entry, content: Content::from(composed.content) })
}

/// Limits the reports to each sender: whoever forges one shall not make us flood him. A cheap handle;
/// clones share one allowance.
#[derive(Debug, Clone, Default)]
pub struct Allowance(Arc<Mutex<Senders>>);

impl Allowance {
    /// Takes one report from the sender's allowance, if there is one left.
    pub fn take(&self, sender: &str, now: Timestamp) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(sender, now)
    }
}

#[derive(Debug, Default)]
struct Senders {
    senders: HashMap<String, (f64, Timestamp)>,
}

impl Senders {
    fn take(&mut self, sender: &str, now: Timestamp) -> bool {
        let refilled = |left: f64, since: Timestamp| {
            let seconds = now.duration_since(since).as_secs_f64().max(0.0);
            (left + seconds / SECONDS_EACH).min(BURST)
        };
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(sender) {
            self.senders.retain(|_, (left, since)| refilled(*left, *since) < BURST);
            if self.senders.len() >= MAX_SENDERS {
                return false;
            }
        }
        let (left, since) = self.senders.entry(sender.to_owned()).or_insert((BURST, now));
        *left = refilled(*left, *since);
        *since = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_gets_fifty_reports_at_once_and_then_one_a_minute() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut allowance = Senders::default();
        let taken = (0..1000).filter(|_| allowance.take("a@b.example", at(0))).count();
        assert_eq!(taken, 50);
        assert!(allowance.take("other@b.example", at(0)));
        assert!(!allowance.take("a@b.example", at(59)));
        assert!(allowance.take("a@b.example", at(61)));
        assert!(!allowance.take("a@b.example", at(62)));
        let taken = (0..1000).filter(|_| allowance.take("a@b.example", at(1_000_000))).count();
        assert_eq!(taken, 50);
    }

    #[test]
    fn the_memory_for_senders_is_bounded() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut allowance = Senders::default();
        for n in 0..20_000 {
            allowance.take(&format!("{n}@b.example"), at(0));
        }
        assert_eq!(allowance.senders.len(), MAX_SENDERS);
        assert!(allowance.take("new@b.example", at(100_000)));
    }
}
