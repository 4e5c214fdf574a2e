//! One reply to DATA, many fates (spec R70): the pure step from a decision to what is stored and said.

use super::verdict::{CopyFate, Decision, Deferral, Delivery, Disposition, Hold, Rejection};
use crate::mail::envelope::{Envelope, Recipient};

/// What the gateway does with a decided message.
#[derive(Debug, Clone, PartialEq)]
pub enum Settlement {
    /// Some recipient must wait: 451 for the message, nothing stored.
    Defer(Deferral),
    /// Every recipient is refused: 550 with the best-ranked rule's notice.
    Reject(Rejection),
    /// 250 once this is durable, in one commit.
    Accept {
        deliveries: Vec<Delivery>,
        held: Vec<(Recipient, Hold)>,
        /// Recipients whose copy was dropped as blatant spam: counted and logged.
        discarded: usize,
        /// The archive's copy.
        archive: Option<Delivery>,
        /// Recipients to report as failed; empty for a null sender. Those with NOTIFY=NEVER are left out.
        refused: Vec<(Recipient, Rejection)>,
        /// Recipients refused without a report (NOTIFY=NEVER or null sender): counted and logged.
        unreported: usize,
    },
}

pub fn settle(envelope: &Envelope, decision: Decision) -> Settlement {
    let mut deliveries = Vec::new();
    let mut rejections: Vec<(Recipient, Rejection)> = Vec::new();
    let (mut held, mut discarded) = (Vec::new(), 0);
    let mut accepted = 0;
    for (recipient, verdict) in envelope.recipients.iter().zip(decision.verdicts) {
        held.extend(verdict.copies.into_iter().filter_map(|copy| match copy.fate {
            CopyFate::Held(hold) => Some((Recipient::new(copy.to), hold)),
            CopyFate::Made | CopyFate::Duplicate | CopyFate::Spam | CopyFate::Refused(_) => None,
        }));
        match verdict.disposition {
            Disposition::Defer(deferral) => return Settlement::Defer(deferral),
            Disposition::Reject(rejection) => rejections.push((recipient.clone(), rejection)),
            Disposition::Quarantine(hold) => {
                accepted += 1;
                held.push((recipient.clone(), hold));
            }
            Disposition::Discard => {
                accepted += 1;
                discarded += 1;
            }
            Disposition::Deliver(copies) => {
                accepted += 1;
                deliveries.extend(copies);
            }
        }
    }
    if accepted == 0
        && let Some((_, first)) = rejections.first()
    {
        return Settlement::Reject(first.clone());
    }
    let total = rejections.len();
    let reportable = envelope.sender.mailbox.is_some();
    let refused: Vec<_> =
        rejections.into_iter().filter(|(recipient, _)| reportable && recipient.notify.on_failure()).collect();
    let unreported = total - refused.len();
    Settlement::Accept { deliveries, held, discarded, archive: decision.archive, refused, unreported }
}
