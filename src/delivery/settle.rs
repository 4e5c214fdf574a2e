//! From the outcomes of an attempt to fates and reports: pure, the time and the dice are passed in.

use jiff::Timestamp;

use super::bounce;
use super::outcome::{EXPIRED, Outcome};
use super::retry::{self, Next};
use crate::bundle::document::Retry;
use crate::mail::dsn::{self, Action};
use crate::spool::{Entry, Fate, Waiting};

/// What the spool is told, and what the sender is told, about one attempt.
#[derive(Debug, Default, PartialEq)]
pub struct Settlement {
    pub fates: Vec<(usize, Fate)>,
    /// For reports, by action; reports that nobody wants are already left out.
    pub failed: Vec<dsn::Fate>,
    pub delayed: Vec<dsn::Fate>,
    pub relayed: Vec<dsn::Fate>,
}

/// One recipient: its index in the entry, where it stood, what became of it.
#[derive(Debug, Clone, Copy)]
pub struct Attempted<'a> {
    pub target: usize,
    pub before: &'a Waiting,
    pub outcome: &'a Outcome,
}

/// Recipients whose way is paused: looked at again at `again`, or as soon as they are late; given up never, and
/// their sender hears once that they are late. Each outcome says what is paused.
pub fn paused(
    entry: &Entry,
    schedule: &Retry,
    now: Timestamp,
    again: Timestamp,
    paused: &[Attempted<'_>],
) -> Settlement {
    let mut settlement = Settlement::default();
    for &Attempted { target, before, outcome } in paused {
        let recipient = &entry.targets[target].recipient;
        let late_at = retry::late_at(schedule, entry.received_at);
        let unheard = !before.warned
            && !entry.targets[target].suppress_bounces
            && bounce::is_wanted(entry, recipient, Action::Delayed);
        let next_attempt = if unheard && late_at > now { again.min(late_at) } else { again };
        let mut waiting = Waiting { next_attempt, ..before.clone() };
        if let (Outcome::Later(problem), true) = (outcome, unheard && late_at <= now) {
            let until = Some(retry::give_up_at(schedule, entry.received_at).max(again));
            let fate = bounce::fate(recipient, Action::Delayed, [4, 4, 7], problem, now);
            settlement.delayed.push(dsn::Fate { retry_until: until, ..fate });
            waiting.warned = true;
            waiting.last_error = Some(problem.to_string());
        }
        settlement.fates.push((target, Fate::Waiting(waiting)));
    }
    settlement
}

pub fn settle(
    entry: &Entry,
    schedule: &Retry,
    now: Timestamp,
    mut dice: impl FnMut() -> f64,
    attempted: &[Attempted<'_>],
) -> Settlement {
    let mut settlement = Settlement::default();
    for &Attempted { target, before, outcome } in attempted {
        let recipient = &entry.targets[target].recipient;
        let report = |action, status, problem| bounce::fate(recipient, action, status, problem, now);
        // R85: a rule wants nobody told; the log and the metrics know.
        let silent = entry.targets[target].suppress_bounces;
        let wanted = |action| !silent && bounce::is_wanted(entry, recipient, action);
        let fate = match outcome {
            Outcome::Delivered(receipt) => {
                if !receipt.dsn && wanted(Action::Relayed) {
                    settlement.relayed.push(dsn::Fate {
                        recipient: recipient.clone(),
                        action: Action::Relayed,
                        status: [2, 0, 0],
                        reason: format!("The mail server {} took the message", receipt.host),
                        remote_mta: Some(receipt.host.clone()),
                        remote_reply: Some(receipt.reply.to_string()),
                        last_attempt: Some(now),
                        retry_until: None,
                    });
                }
                Fate::Delivered
            }
            Outcome::Failed { status, problem } => {
                if wanted(Action::Failed) {
                    settlement.failed.push(report(Action::Failed, *status, problem));
                }
                Fate::Failed
            }
            Outcome::Later(problem) => {
                let attempts = before.attempts.saturating_add(1);
                match retry::next(schedule, entry.received_at, attempts, now, dice()) {
                    Next::GiveUp => {
                        if wanted(Action::Failed) {
                            settlement.failed.push(report(Action::Failed, EXPIRED, problem));
                        }
                        Fate::Failed
                    }
                    Next::At(next_attempt) => {
                        let warn = !before.warned
                            && retry::is_late(schedule, entry.received_at, now)
                            && wanted(Action::Delayed);
                        if warn {
                            let until = retry::give_up_at(schedule, entry.received_at);
                            let fate = report(Action::Delayed, [4, 4, 7], problem);
                            settlement.delayed.push(dsn::Fate { retry_until: Some(until), ..fate });
                        }
                        Fate::Waiting(Waiting {
                            attempts,
                            next_attempt,
                            last_error: Some(problem.to_string()),
                            warned: before.warned || warn,
                        })
                    }
                }
            }
        };
        settlement.fates.push((target, fate));
    }
    settlement
}
