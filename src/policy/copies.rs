//! Added recipients (spec R95-R101): each makes a message of its own. It takes over what is done to the primary,
//! is judged once more as a message to its own address, and has its own settings on top. Copies make no copies.

use std::collections::HashSet;
use std::sync::Arc;

use super::changes::{Template, changed};
use super::decide::{Judge, Row, unit};
use super::merge::{self, Changes, Fate, Match, Merged};
use super::notice;
use super::scope::Party;
use super::verdict::{CopyFate, CopyTrace, Deferral, Delivery, Disposition, Hold, Verdict};
use crate::bundle::document::{AccountType, AddedRecipient, ObjectId};
use crate::mail::address::Mailbox;
use crate::mail::edit::Edit;
use crate::mail::envelope::{Recipient, Via};

/// Copies of one message, over all rules and recipients.
const MAX_COPIES: usize = 500;

/// A copy that a rule asks for.
pub(super) struct Asked {
    rule: ObjectId,
    to: Mailbox,
    answer: Answer,
}

enum Answer {
    /// `copy_of` is still to be said.
    Deliver(Box<Delivery>),
    Not(CopyFate),
    /// It cannot be decided, so the message must wait as a whole.
    Defer(Deferral),
}

/// What becomes of the copies that the rules of a class ask for. `rows` and `matches` are the primary's.
pub(super) fn ask<'a>(
    judge: &mut Judge<'a>,
    changes: &Changes<'_>,
    matches: &[Match<'_>],
    rows: &[Row<'a>],
) -> Vec<Asked> {
    let wanted = changes.copies.iter();
    wanted.map(|(rank, added)| one(judge, (*rank, added), matches, rows)).collect()
}

fn one<'a>(
    judge: &mut Judge<'a>,
    (rank, added): (usize, &AddedRecipient),
    matches: &[Match<'_>],
    rows: &[Row<'a>],
) -> Asked {
    let address = &added.address;
    let own = added.envelope_recipient.as_ref();
    let to = own.and_then(|change| changed(address, change)).unwrap_or_else(|| address.clone());
    let rule = judge.object(rank).clone();
    let asked = |answer| Asked { rule: rule.clone(), to: to.clone(), answer };
    let policy = judge.policy;
    let party = Party::recipient(policy, address).with_disabled(policy);
    let known = judge.considered.get(&(rank, address.folded())).cloned();
    let considered: Arc<[Row<'a>]> = match known {
        Some(known) => known,
        None => {
            let rows: Arc<[Row<'a>]> = judge.consider(&party, Some(rank)).into();
            judge.considered.insert((rank, address.folded()), Arc::clone(&rows));
            rows
        }
    };
    let mut all = judge.matches(&considered, false);
    let carried = matches.iter().filter(|one| !all.iter().any(|own| own.rank == one.rank));
    let carried: Vec<Match<'_>> = carried.map(|one| Match { carried: true, ..*one }).collect();
    all.extend(carried);
    let Merged { fate, overridden: _ } = judge.merge(&all, &party);
    let changes = match fate {
        Fate::Deliver(changes) => changes,
        Fate::Reject { rank, why } => {
            return asked(Answer::Not(CopyFate::Refused(judge.rejection(rank, &why))));
        }
        Fate::Defer { rank, .. } => return asked(Answer::Defer(judge.deferral(rank))),
        Fate::Discard => return asked(Answer::Not(CopyFate::Spam)),
        Fate::Quarantine { by, reasons, .. } => {
            let reasons = reasons.iter().map(|rank| judge.reason(*rank, &considered)).collect();
            // The sender knows nothing of the copy.
            let hold = Hold { quarantine: by.quarantine.clone(), reasons, notify_sender: false };
            return asked(Answer::Not(CopyFate::Held(hold)));
        }
    };
    // What a group gets, its members filter (spec R99).
    let is_group = party.own && party.standing.account == AccountType::Groups;
    if added.drop_spam && changes.spam.spam && !is_group {
        return asked(Answer::Not(CopyFate::Spam));
    }
    let broken = |name: &_| policy.broken_routes.get(name).cloned();
    let via = match added.route.as_ref().map(|route| merge::route::changed(route, &broken)).transpose() {
        Ok(via) => via,
        Err(_) => return asked(Answer::Defer(judge.deferral(Some(rank)))),
    };
    let unit = |rank| unit(&considered, rank).or_else(|| unit(rows, rank));
    let template = Template::copy(&changes, (rank, added), via, policy, judge.transaction, unit);
    let answer = match judge.address(&template, &Recipient::new(address.clone())) {
        Ok(addressed) => {
            let mut delivery = addressed.delivery;
            delivery.drop_spam = added.drop_spam;
            Answer::Deliver(Box::new(delivery))
        }
        Err(Disposition::Reject(rejection)) => Answer::Not(CopyFate::Refused(rejection)),
        Err(Disposition::Defer(deferral)) => Answer::Defer(deferral),
        Err(_) => unreachable!("a delivery that cannot be made is refused or deferred"),
    };
    asked(answer)
}

/// Puts the copies of each recipient beside its primary: each identical one once for the message, none for
/// somebody who gets the very same anyway. More than the limit, or one that cannot be decided: all wait, since
/// a message is never sent in part (spec R101).
pub(super) fn make(judge: &Judge<'_>, verdicts: &mut [Verdict], asked: Vec<Vec<Asked>>) {
    if asked.iter().all(Vec::is_empty) {
        return;
    }
    let mut known: HashSet<Identity> = HashSet::new();
    for verdict in verdicts.iter() {
        if let Disposition::Deliver(deliveries) = &verdict.disposition {
            known.extend(deliveries.iter().map(identity));
        }
    }
    let mut made = 0;
    let recipients = &judge.transaction.envelope.recipients;
    for ((verdict, asked), recipient) in verdicts.iter_mut().zip(asked).zip(recipients) {
        for Asked { rule, to, answer } in asked {
            let fate = match answer {
                Answer::Not(fate) => fate,
                Answer::Defer(deferral) => {
                    verdict.disposition = Disposition::Defer(deferral);
                    verdict.copies.clear();
                    break;
                }
                Answer::Deliver(delivery) => {
                    let Disposition::Deliver(deliveries) = &mut verdict.disposition else { break };
                    if !known.insert(identity(&delivery)) {
                        CopyFate::Duplicate
                    } else {
                        made += 1;
                        deliveries.push(Delivery { copy_of: Some(recipient.mailbox.clone()), ..*delivery });
                        CopyFate::Made
                    }
                }
            };
            verdict.copies.push(CopyTrace { rule, to, fate });
        }
    }
    if made > MAX_COPIES {
        let deferral = notice::too_many_copies(MAX_COPIES, judge.transaction);
        for verdict in verdicts.iter_mut() {
            if matches!(verdict.disposition, Disposition::Deliver(_)) {
                verdict.disposition = Disposition::Defer(deferral.clone());
            }
            verdict.copies.clear();
        }
    }
}

/// What makes two deliveries the same to who gets them.
type Identity = (String, Via, Arc<[Edit]>, bool);

fn identity(delivery: &Delivery) -> Identity {
    (
        delivery.recipient.mailbox.folded(),
        delivery.via.clone(),
        Arc::clone(&delivery.edits),
        delivery.require_tls,
    )
}
