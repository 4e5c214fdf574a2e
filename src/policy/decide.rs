//! Judges one message for each of its recipients.
//!
//! Per recipient: direction, accounts, lists and envelope filters pick the rules, content (worked out once
//! per message) says which match, the merge makes one fate of them. Recipients whom no rule tells apart share
//! one verdict. Copies that rules add are judged once more, as messages to their own address.

use std::collections::HashMap;
use std::sync::Arc;

use super::changes::{Addressed, Sealing, Template, Undeliverable, is_encrypted};
use super::compile::{Policy, RuleCode};
use super::content::Texts;
use super::copies::{self, Asked};
use super::lists::Senders;
use super::merge::{self, Changes, Effect, Fate, Match, Merged, Reach, Refusal, Setting};
use super::notice;
use super::scope::{self, Party, Scope, Sender};
use super::verdict::{
    CopyTrace, Decision, Deferral, Delivery, Disposition, Fuel, Hold, Outcome, Reason, Rejection, RuleTrace,
    Transaction, Verdict,
};
use crate::bundle::document::{AccountType, Action, Archive, Mode, ObjectId, ObjectName, UnitPath};
use crate::mail::edit::Edit;
use crate::mail::envelope::Recipient;
use crate::mail::message::Message;

/// Pure and linear in the size of the content. `content` is the message as it came.
pub fn decide(policy: &Policy, transaction: &Transaction<'_>, content: &[u8], fuel: Fuel) -> Decision {
    let message = Message::read(content);
    let senders = Senders::new(policy, transaction, &message);
    let judge = Judge {
        policy,
        transaction,
        sealing: Sealing {
            encrypted: is_encrypted(&message),
            signer: policy.signer(&message, transaction.envelope, transaction.now),
        },
        texts: Texts::new(policy, transaction, &message, fuel),
        sender: Sender::of(policy, transaction, senders.from()),
        senders,
        outcomes: vec![None; policy.rules.len()],
        considered: HashMap::new(),
        traced: 0,
    };
    judge.all()
}

pub(super) struct Judge<'a> {
    pub policy: &'a Policy,
    pub transaction: &'a Transaction<'a>,
    pub sealing: Sealing<'a>,
    texts: Texts<'a>,
    senders: Senders<'a>,
    pub sender: Sender<'a>,
    /// By rule in the order of rank: what the content comes to, once asked for.
    outcomes: Vec<Option<Outcome>>,
    /// By the rule that makes a copy and the address it goes to: what the rules say of it.
    pub considered: HashMap<(usize, String), Arc<[Row<'a>]>>,
    /// Outcomes kept for traces so far.
    traced: usize,
}

/// Outcomes of one message that are traced in full. Past it (thousands of rules that each name their
/// own recipients) the traces of further classes list only the rules that had an effect.
const MAX_TRACED: usize = 100_000;

/// What one rule says of a message to one recipient.
#[derive(Debug, Clone)]
pub(super) struct Row<'a> {
    pub rank: usize,
    pub outcome: Outcome,
    bypassed_by: Option<ObjectName>,
    reach: Reach,
    /// Of the account through which the rule came to apply.
    pub unit: Option<&'a UnitPath>,
}

/// What recipients whom no rule tells apart have in common.
struct Class {
    fate: ClassFate,
    trace: Arc<[RuleTrace]>,
    /// Copies that are still to be made: the first recipient who gets the message brings them about.
    asked: Vec<Asked>,
    /// Ranks of the rules that want encryption.
    encrypting: Vec<usize>,
}

enum ClassFate {
    Reject(Rejection),
    Defer(Deferral),
    Quarantine(Hold),
    Discard,
    Deliver(Template),
}

impl<'a> Judge<'a> {
    fn all(mut self) -> Decision {
        let sender = self.sender.trace();
        let recipients = &self.transaction.envelope.recipients;
        if self.sender.is_refused(self.policy) {
            let directory = self.policy.bundle().directory.as_ref().expect("it refused the sender");
            let object = &directory.origin.object;
            let verdict = Verdict::new(match directory.broken {
                // It may well be there.
                Some(_) => Disposition::Defer(notice::deferral(Some(object.clone()), self.transaction)),
                None => Disposition::Reject(notice::unknown_sender(object, self.transaction)),
            });
            return Decision { verdicts: vec![verdict; recipients.len()], sender, ..Decision::default() };
        }
        let mut classes = HashMap::new();
        let mut asked: Vec<Vec<Asked>> = Vec::with_capacity(recipients.len());
        let mut verdicts: Vec<Verdict> = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            let party = Party::recipient(self.policy, &recipient.mailbox);
            let class = match classes.entry(party.class()) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => {
                    let class = self.class(&party.with_disabled(self.policy));
                    new.insert(class)
                }
            };
            let verdict = self.verdict(class, recipient);
            let delivered = matches!(verdict.disposition, Disposition::Deliver(_));
            asked.push(if delivered { std::mem::take(&mut class.asked) } else { Vec::new() });
            verdicts.push(verdict);
        }
        copies::make(&self, &mut verdicts, asked);
        let archive = self.archive(&mut verdicts);
        let unreadable = self.texts.unreadable();
        Decision { verdicts, archive, unreadable, sender }
    }

    fn class(&mut self, party: &Party<'a>) -> Class {
        let rows = self.consider(party, None);
        let matches = self.matches(&rows, false);
        let Merged { fate, overridden } = self.merge(&matches, party);
        let mut class = Class {
            fate: ClassFate::Discard,
            trace: self.trace(&rows, &overridden),
            asked: Vec::new(),
            encrypting: Vec::new(),
        };
        class.fate = match self.held_back(&fate, &rows) {
            Some(fate) => fate,
            None => {
                let Fate::Deliver(changes) = fate else { unreachable!("everything else holds it back") };
                class.asked = copies::ask(self, &changes, &matches, &rows);
                class.encrypting = encrypting(&matches);
                ClassFate::Deliver(self.template(&changes, &rows))
            }
        };
        class
    }

    fn template(&self, changes: &Changes<'_>, rows: &[Row<'a>]) -> Template {
        Template::primary(changes, self.policy, self.transaction, |rank| unit(rows, rank))
    }

    /// A fate that is no delivery, with what only the transaction knows filled in.
    fn held_back(&self, fate: &Fate<'_>, rows: &[Row<'a>]) -> Option<ClassFate> {
        Some(match fate {
            Fate::Deliver(_) => return None,
            Fate::Discard => ClassFate::Discard,
            Fate::Reject { rank, why } => ClassFate::Reject(self.rejection(*rank, why)),
            Fate::Defer { rank, .. } => ClassFate::Defer(self.deferral(*rank)),
            Fate::Quarantine { by, reasons, notify_sender } => ClassFate::Quarantine(Hold {
                quarantine: by.quarantine.clone(),
                reasons: reasons.iter().map(|rank| self.reason(*rank, rows)).collect(),
                notify_sender: *notify_sender && self.transaction.envelope.sender.mailbox.is_some(),
            }),
        })
    }

    pub fn object(&self, rank: usize) -> &'a ObjectId {
        &self.policy.rule(&self.policy.rules[rank]).origin.object
    }

    pub fn rejection(&self, rank: Option<usize>, why: &Refusal<'_>) -> Rejection {
        let gateway = &self.policy.bundle().gateway.origin.object;
        let object = rank.map_or(gateway, |rank| self.object(rank));
        match why {
            Refusal::Notice(reject) => notice::rejection(object, reject, self.transaction),
            Refusal::ClearText => notice::clear_text(object, self.transaction),
            Refusal::Spam => notice::spam(object, self.transaction),
        }
    }

    pub fn deferral(&self, rank: Option<usize>) -> Deferral {
        let gateway = &self.policy.bundle().gateway.origin.object;
        let blamed = rank.map_or(gateway, |rank| self.object(rank)).clone();
        notice::deferral(Some(blamed), self.transaction)
    }

    pub fn reason(&self, rank: usize, rows: &[Row<'_>]) -> Reason {
        let evidence = rows.iter().find(|row| row.rank == rank).map(|row| match &row.outcome {
            Outcome::Matched(evidence) => evidence.clone(),
            Outcome::MatchedByScanLimit(_) | Outcome::NoMatch(_) | Outcome::Deferred(_) => Vec::new(),
        });
        Reason { rule: self.object(rank).clone(), evidence: evidence.unwrap_or_default() }
    }

    /// What every rule says of a message to this recipient. `creator`: the rule that made this copy, and so does
    /// not judge it (spec R100).
    pub fn consider(&mut self, recipient: &Party<'a>, creator: Option<usize>) -> Vec<Row<'a>> {
        let policy = self.policy;
        let no = |clause| (Outcome::NoMatch(clause), None, Reach::default(), None);
        let mut rows = Vec::with_capacity(policy.rules.len());
        for (rank, code) in policy.rules.iter().enumerate() {
            let (outcome, bypassed_by, reach, unit) = if self.transaction.except.contains(self.object(rank)) {
                no("released")
            } else if creator == Some(rank) {
                no("ownCopy")
            } else {
                match scope::scope(policy, rank, &mut self.senders, &self.sender.party, recipient) {
                    Scope::Outside(clause) => no(clause),
                    Scope::Bypassed(list) => {
                        (Outcome::NoMatch("addressLists"), Some(list), Reach::default(), None)
                    }
                    Scope::Inside { reach, unit, uncertain } => {
                        let outcome = match (self.outcome(rank, code), uncertain) {
                            (outcome, Some(why)) if outcome.matched() => Outcome::Deferred(why),
                            (outcome, _) => outcome,
                        };
                        (outcome, None, reach, Some(unit))
                    }
                }
            };
            rows.push(Row { rank, outcome, bypassed_by, reach, unit });
        }
        rows
    }

    fn trace(&mut self, rows: &[Row<'a>], overridden: &[(usize, Vec<&'static str>)]) -> Arc<[RuleTrace]> {
        let full = self.traced < MAX_TRACED;
        let kept = rows.iter().filter(|row| full || !matches!(row.outcome, Outcome::NoMatch(_)));
        let trace = kept.map(|row| {
            let rule = self.policy.rule(&self.policy.rules[row.rank]);
            let fields = overridden.iter().find(|(rank, _)| *rank == row.rank);
            RuleTrace {
                rule: rule.origin.object.clone(),
                mode: rule.mode,
                outcome: row.outcome.clone(),
                bypassed_by: row.bypassed_by.clone(),
                overridden: fields.map(|(_, fields)| fields.clone()).unwrap_or_default(),
            }
        });
        let trace: Arc<[RuleTrace]> = trace.collect();
        self.traced += trace.len();
        trace
    }

    /// The rules that take part in the merge: those that match and those that cannot tell, but none in shadow.
    /// `carried`: only what they modify, for a copy of what they matched.
    pub fn matches<'r>(&self, rows: &'r [Row<'a>], carried: bool) -> Vec<Match<'r>>
    where
        'a: 'r,
    {
        let policy = self.policy;
        let matches = rows.iter().filter_map(|row| {
            let rule = policy.rule(&policy.rules[row.rank]);
            let effect = match (&row.outcome, rule.mode, &rule.action) {
                (Outcome::NoMatch(_), _, _) | (_, Mode::Shadow, _) => return None,
                (Outcome::Deferred(why), Mode::Enforce, _) => Effect::Defer(why),
                (_, Mode::Enforce, Action::Reject(reject)) => Effect::Reject(reject),
                (_, Mode::Enforce, Action::Quarantine(how)) => Effect::Quarantine(how),
                (_, Mode::Enforce, Action::Modify(modify)) => Effect::Modify(modify),
            };
            Some(Match { rank: row.rank, effect, reach: row.reach, carried })
        });
        matches.collect()
    }

    pub fn merge<'r>(&self, matches: &[Match<'r>], recipient: &Party<'_>) -> Merged<'r> {
        let gateway = &self.policy.bundle().gateway;
        let broken = |name: &_| self.policy.broken_routes.get(name).cloned();
        let people = scope::parties(&self.sender.party, recipient)
            .any(|party| party.standing.account == AccountType::Users);
        let setting = Setting {
            tls: self.transaction.tls,
            spam: self.transaction.spam,
            default_route: gateway.default_route.as_ref(),
            broken: &broken,
            drop_blatant: gateway.drop_blatant_spam,
            spam_headers: gateway.default_route_spam_headers && people,
        };
        merge::merge(matches, &setting)
    }

    /// What does not depend on the recipient: the content.
    fn outcome(&mut self, rank: usize, code: &RuleCode) -> Outcome {
        if self.outcomes[rank].is_none() {
            self.outcomes[rank] = Some(self.work_out(code));
        }
        self.outcomes[rank].clone().expect("it was just worked out")
    }

    fn work_out(&self, code: &RuleCode) -> Outcome {
        let rule = self.policy.rule(code);
        self.texts.outcome(&code.content, rule)
    }

    /// The class's fate for one of its recipients.
    fn verdict(&self, class: &Class, recipient: &Recipient) -> Verdict {
        let mut trace = Arc::clone(&class.trace);
        let disposition = match &class.fate {
            ClassFate::Reject(rejection) => Disposition::Reject(rejection.clone()),
            ClassFate::Defer(deferral) => Disposition::Defer(deferral.clone()),
            ClassFate::Quarantine(hold) => Disposition::Quarantine(hold.clone()),
            ClassFate::Discard => Disposition::Discard,
            ClassFate::Deliver(template) => match self.address(template, recipient) {
                Ok(Addressed { delivery, unencrypted }) => {
                    if unencrypted {
                        trace = self.unencrypted(&trace, &class.encrypting);
                    }
                    Disposition::Deliver(vec![delivery])
                }
                Err(problem) => problem,
            },
        };
        Verdict { disposition, trace, copies: Vec::<CopyTrace>::new() }
    }

    /// The delivery, or why there is none.
    pub fn address(&self, template: &Template, recipient: &Recipient) -> Result<Addressed, Disposition> {
        template.address(recipient, self.policy, self.transaction, self.sealing).map_err(|why| match why {
            Undeliverable::Certificate { rank, to } => {
                Disposition::Reject(notice::no_certificate(self.object(rank), &to, self.transaction))
            }
            Undeliverable::Signer { rank } => {
                Disposition::Reject(notice::no_signer(self.object(rank), self.transaction))
            }
            Undeliverable::Address { rank } => Disposition::Defer(self.deferral(Some(rank))),
        })
    }

    /// The trace of a recipient without a certificate, whose rules let the message go as it is.
    fn unencrypted(&self, trace: &[RuleTrace], encrypting: &[usize]) -> Arc<[RuleTrace]> {
        let objects: Vec<&ObjectId> = encrypting.iter().map(|rank| self.object(*rank)).collect();
        let mark = |one: &RuleTrace| {
            let mut one = one.clone();
            if objects.contains(&&one.rule) {
                one.overridden.push("encryption.smime");
            }
            one
        };
        trace.iter().map(mark).collect()
    }

    /// One journal copy of the message, once anybody gets it (spec R46, R127). Who waits for review is named in
    /// it; a message of which all is held is recorded when it is released.
    fn archive(&self, verdicts: &mut [Verdict]) -> Option<Delivery> {
        let Archive { recipient, route, include_rejected } = self.policy.bundle().gateway.archive.as_ref()?;
        let leaves = |verdict: &Verdict| match verdict.disposition {
            Disposition::Deliver(_) => true,
            Disposition::Reject(_) | Disposition::Discard => *include_rejected,
            Disposition::Defer(_) | Disposition::Quarantine(_) => false,
        };
        if !verdicts.iter().any(leaves) {
            return None;
        }
        let recorded =
            |verdict: &Verdict| leaves(verdict) || matches!(verdict.disposition, Disposition::Quarantine(_));
        let recipients = self.transaction.envelope.recipients.iter().zip(verdicts.iter());
        let recipients = recipients.filter(|(_, verdict)| recorded(verdict));
        let recipients: Vec<String> = recipients.map(|(to, _)| to.mailbox.to_string()).collect();
        let broken = |name: &_| self.policy.broken_routes.get(name).cloned();
        let Ok(via) = merge::route::changed(route, &broken) else {
            // Nothing leaves without its record.
            for verdict in verdicts.iter_mut().filter(|verdict| leaves(verdict)) {
                verdict.disposition = Disposition::Defer(self.deferral(None));
                verdict.copies.clear();
            }
            return None;
        };
        let sender = self.transaction.envelope.sender.mailbox.as_ref();
        let sender = sender.map(ToString::to_string).unwrap_or_default();
        Some(Delivery {
            recipient: Recipient::new(recipient.clone()),
            via,
            edits: [Edit::Journal { sender, recipients }].into(),
            require_tls: false,
            suppress_bounces: true,
            drop_spam: false,
            copy_of: None,
        })
    }
}

/// The unit of the account through which the rule of a rank came to apply.
pub(super) fn unit<'a>(rows: &[Row<'a>], rank: usize) -> Option<&'a UnitPath> {
    rows.iter().find(|row| row.rank == rank).and_then(|row| row.unit)
}

fn encrypting(matches: &[Match<'_>]) -> Vec<usize> {
    let encrypts = |one: &&Match<'_>| matches!(one.effect, Effect::Modify(modify) if modify.smime.is_some());
    matches.iter().filter(encrypts).map(|one| one.rank).collect()
}

#[cfg(test)]
mod tests;
