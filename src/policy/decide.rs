//! Judges one message for each of its recipients.
//!
//! Per recipient: direction and envelope filters pick the rules, content (worked out once per message)
//! says which match, the merge makes one fate of them. Recipients for whom the same rules come into
//! question share one verdict.

use std::collections::HashMap;
use std::sync::Arc;

use super::compile::{Policy, RuleCode};
use super::content::Texts;
use super::merge::{self, Effect, Fate, Match, Merged, Refusal, Setting};
use super::notice;
use super::verdict::{Decision, Delivery, Disposition, Fuel, Outcome, RuleTrace, Transaction, Verdict};
use crate::bundle::document::{Action, Direction, Mode};
use crate::mail::address::Mailbox;
use crate::mail::edit::Edit;
use crate::mail::envelope::{Recipient, Via};
use crate::mail::message::Message;

/// Pure and linear in the size of the content. `content` is the message as it came.
pub fn decide(policy: &Policy, transaction: &Transaction<'_>, content: &[u8], fuel: Fuel) -> Decision {
    let message = Message::read(content);
    let judge = Judge {
        policy,
        transaction,
        texts: Texts::new(policy, transaction, &message, fuel),
        sender: Sender::of(policy, transaction, &message),
        outcomes: vec![None; policy.rules.len()],
        traced: 0,
    };
    judge.all()
}

/// Who sent the message, as far as directions go.
struct Sender {
    own: bool,
}

impl Sender {
    /// The envelope sender; a null sender is judged by From (design section 9), and a message that
    /// tells neither counts as the organisation's own, since it came from one of its clients.
    fn of(policy: &Policy, transaction: &Transaction<'_>, message: &Message<'_>) -> Self {
        let own = match &transaction.envelope.sender.mailbox {
            Some(mailbox) => policy.is_own(mailbox),
            None => {
                let from = message.addresses("from");
                from.is_empty() || from.iter().any(|mailbox| policy.is_own(mailbox))
            }
        };
        Self { own }
    }

    /// Which ways a message to this recipient goes. What passes from outside to outside leaves, so
    /// rules for outgoing mail apply.
    fn directions(&self, own_recipient: bool) -> &'static [Direction] {
        match (self.own, own_recipient) {
            (_, false) => &[Direction::Outbound],
            (false, true) => &[Direction::Inbound],
            (true, true) => &[Direction::InternalSending, Direction::InternalReceiving],
        }
    }
}

struct Judge<'a> {
    policy: &'a Policy,
    transaction: &'a Transaction<'a>,
    texts: Texts<'a>,
    sender: Sender,
    /// By rule in the order of rank: what sender and content come to, once asked for.
    outcomes: Vec<Option<Outcome>>,
    /// Outcomes kept for traces so far.
    traced: usize,
}

/// Outcomes of one message that are traced in full. Past it (thousands of rules that each name their
/// own recipients) the traces of further classes list only the rules that had an effect.
const MAX_TRACED: usize = 100_000;

/// What recipients with the same rules have in common.
struct Class {
    fate: ClassFate,
    trace: Arc<[RuleTrace]>,
}

enum ClassFate {
    Reject(super::verdict::Rejection),
    Defer(super::verdict::Deferral),
    Deliver { via: Via, edits: Arc<[Edit]>, require_tls: bool },
}

impl Judge<'_> {
    fn all(mut self) -> Decision {
        let mut classes: HashMap<(bool, Vec<usize>), Class> = HashMap::new();
        let mut verdicts = Vec::with_capacity(self.transaction.envelope.recipients.len());
        for recipient in &self.transaction.envelope.recipients {
            let own = self.policy.is_own(&recipient.mailbox);
            // Rules with a filter on recipients are what recipients of one direction differ in.
            let filtered = self.policy.rules.iter().enumerate().filter(|(_, rule)| {
                rule.recipients.as_ref().is_some_and(|filter| filter.matches(Some(&recipient.mailbox)))
            });
            let key = (own, filtered.map(|(rank, _)| rank).collect::<Vec<_>>());
            let class = match classes.entry(key) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => {
                    let class = self.class(own, &recipient.mailbox);
                    new.insert(class)
                }
            };
            verdicts.push(class.verdict(recipient));
        }
        Decision { verdicts, archive: None, unreadable: self.texts.unreadable() }
    }

    fn class(&mut self, own: bool, recipient: &Mailbox) -> Class {
        let policy = self.policy;
        let directions = self.sender.directions(own);
        let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(policy.rules.len());
        for (rank, code) in policy.rules.iter().enumerate() {
            let outcome = if !code.directions.iter().any(|direction| directions.contains(direction)) {
                Outcome::NoMatch("messages")
            } else if code.recipients.as_ref().is_some_and(|filter| !filter.matches(Some(recipient))) {
                Outcome::NoMatch("envelope.recipients")
            } else {
                self.outcome(rank, code)
            };
            if self.traced < MAX_TRACED || !matches!(outcome, Outcome::NoMatch(_)) {
                outcomes.push((rank, outcome));
            }
        }
        self.traced += outcomes.len();
        let Merged { fate, overridden } = self.merge(&outcomes);
        let fate = self.fate(fate);
        let trace = outcomes.iter().map(|(rank, outcome)| {
            let fields = overridden.iter().find(|(of, _)| of == rank).map(|(_, fields)| fields.clone());
            let rule = policy.rule(&policy.rules[*rank]).origin.object.clone();
            RuleTrace {
                rule,
                mode: Mode::Enforce,
                outcome: outcome.clone(),
                bypassed_by: None,
                overridden: fields.unwrap_or_default(),
            }
        });
        Class { fate, trace: trace.collect() }
    }

    /// Fills in what only the transaction knows: reference ids, placeholders.
    fn fate(&self, fate: Fate<'_>) -> ClassFate {
        let object = |rank: usize| &self.policy.rule(&self.policy.rules[rank]).origin.object;
        match fate {
            Fate::Reject { rank, why: Refusal::Notice(reject) } => {
                ClassFate::Reject(notice::rejection(object(rank), reject, self.transaction))
            }
            Fate::Reject { rank, why: Refusal::ClearText } => {
                ClassFate::Reject(notice::clear_text(object(rank), self.transaction))
            }
            Fate::Defer { rank, .. } => {
                let gateway = &self.policy.bundle().gateway.origin.object;
                let blamed = rank.map_or(gateway, object).clone();
                ClassFate::Defer(notice::deferral(Some(blamed), self.transaction))
            }
            Fate::Deliver(changes) => {
                let mut edits: Vec<Edit> = Vec::new();
                for (rank, header) in changes.headers {
                    let value = self.fill(&header.value, &object(rank).name);
                    let edit = Edit::AddHeader { name: header.name.clone(), value };
                    if !edits.contains(&edit) {
                        edits.push(edit);
                    }
                }
                edits.extend(
                    changes.prefixes.into_iter().map(|text| Edit::PrefixSubject { text: text.to_owned() }),
                );
                ClassFate::Deliver { via: changes.via, edits: edits.into(), require_tls: changes.require_tls }
            }
        }
    }

    /// Placeholders of header values (spec R80), in one pass: what is filled in is not read again.
    fn fill(&self, value: &str, rule: &str) -> String {
        let known = [
            ("{rule}", rule),
            ("{revision}", self.policy.revision().as_str()),
            ("{id}", self.transaction.id),
        ];
        let mut out = String::with_capacity(value.len());
        let mut rest = value;
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let (written, filled) =
                known.into_iter().find(|(name, _)| rest.starts_with(name)).unwrap_or(("{", "{"));
            out.push_str(filled);
            rest = &rest[written.len()..];
        }
        out.push_str(rest);
        out
    }

    /// What does not depend on the recipient: the sender's filter and the content.
    fn outcome(&mut self, rank: usize, code: &RuleCode) -> Outcome {
        if self.outcomes[rank].is_none() {
            self.outcomes[rank] = Some(self.work_out(code));
        }
        self.outcomes[rank].clone().expect("it was just worked out")
    }

    fn work_out(&self, code: &RuleCode) -> Outcome {
        let rule = self.policy.rule(code);
        let sender = self.transaction.envelope.sender.mailbox.as_ref();
        if code.senders.as_ref().is_some_and(|filter| !filter.matches(sender)) {
            return Outcome::NoMatch("envelope.senders");
        }
        self.texts.outcome(&code.content, rule)
    }

    fn merge<'t>(&'t self, outcomes: &'t [(usize, Outcome)]) -> Merged<'t> {
        let effects = outcomes.iter().filter_map(|(rank, outcome)| {
            let effect = match (outcome, &self.policy.rule(&self.policy.rules[*rank]).action) {
                (Outcome::NoMatch(_), _) => return None,
                (Outcome::Deferred(why), _) => Effect::Defer(why),
                (_, Action::Reject(reject)) => Effect::Reject(reject),
                (_, Action::Quarantine(_)) => Effect::Defer("quarantine is not there yet"),
                (_, Action::Modify(modify)) => Effect::Modify(modify),
            };
            Some(Match { rank: *rank, effect })
        });
        let effects: Vec<_> = effects.collect();
        let broken = |name: &_| self.policy.broken_routes.get(name).cloned();
        let default_route = self.policy.bundle().gateway.default_route.as_ref();
        merge::merge(&effects, &Setting { tls: self.transaction.tls, default_route, broken: &broken })
    }
}

impl Class {
    fn verdict(&self, recipient: &Recipient) -> Verdict {
        let disposition = match &self.fate {
            ClassFate::Reject(rejection) => Disposition::Reject(rejection.clone()),
            ClassFate::Defer(deferral) => Disposition::Defer(deferral.clone()),
            ClassFate::Deliver { via, edits, require_tls } => Disposition::Deliver(vec![Delivery {
                recipient: recipient.clone(),
                via: via.clone(),
                edits: edits.clone(),
                require_tls: *require_tls,
                suppress_bounces: false,
                drop_spam: false,
                copy_of: None,
            }]),
        };
        Verdict { disposition, trace: self.trace.clone() }
    }
}

#[cfg(test)]
mod tests;
