//! Between policy's words for held mail and the spool's. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::bundle::Bundle;
use crate::bundle::document::{ObjectId, ObjectKind, ObjectName, Quarantine};
use crate::mail::edit;
use crate::mail::envelope::{Recipient, Via};
use crate::policy::Delivery;
use crate::policy::verdict::{Evidence, Hold, Reason};
use crate::spool::{Content, Found, HeldFor, QuarantineName, RuleName, Target};

/// The name of the quarantine that is there without an object, and of the object that describes it.
pub const DEFAULT: &str = "default";
/// Characters of a subject that are kept for listings.
const MAX_SUBJECT: usize = 200;

/// Recipients that are held for the same reasons in the same place.
pub fn groups(held: Vec<(Recipient, Hold)>) -> Vec<(Hold, Vec<Recipient>)> {
    let mut groups: Vec<(Hold, Vec<Recipient>)> = Vec::new();
    for (recipient, hold) in held {
        match groups.iter_mut().find(|(known, _)| *known == hold) {
            Some((_, recipients)) => recipients.push(recipient),
            None => groups.push((hold, vec![recipient])),
        }
    }
    groups
}

/// What is owed to a held recipient is decided on release.
pub fn target(recipient: Recipient) -> Target {
    Target { recipient, via: Via::Normal, require_tls: false, edits: Arc::from([]), suppress_bounces: false }
}

pub fn quarantine_name(hold: &Hold) -> Option<QuarantineName> {
    let ObjectName { namespace, name } = hold.quarantine.clone()?;
    Some(QuarantineName { namespace, name })
}

pub fn reasons(hold: &Hold) -> Vec<HeldFor> {
    let found = |evidence: &Evidence| {
        let Evidence { part, entry, offset, length, hidden, .. } = evidence.clone();
        Found { part, entry, offset: offset as u64, length: length as u64, hidden }
    };
    let reason = |Reason { rule, evidence }: &Reason| HeldFor {
        rule: rule_name(rule),
        found: evidence.iter().map(found).collect(),
    };
    hold.reasons.iter().map(reason).collect()
}

pub fn rule_name(rule: &ObjectId) -> RuleName {
    let ObjectId { kind, namespace, name } = rule;
    RuleName { kind: kind.as_str().to_owned(), namespace: namespace.clone(), name: name.clone() }
}

/// The rule as policy knows it. `None`: no kind of rule this program knows.
pub fn rule_id(rule: &RuleName) -> Option<ObjectId> {
    let kinds = [ObjectKind::ComplianceRule, ObjectKind::RoutingRule];
    let kind = kinds.into_iter().find(|kind| kind.as_str() == rule.kind)?;
    Some(ObjectId { kind, namespace: rule.namespace.clone(), name: rule.name.clone() })
}

/// The quarantine a message belongs to now: that of its name, else the default one (spec R74). `None`: no
/// object describes it.
pub fn quarantine<'a>(bundle: &'a Bundle, name: Option<&QuarantineName>) -> Option<&'a Quarantine> {
    let find = |namespace: &str, name: &str| {
        bundle.quarantines.iter().find(|quarantine| {
            let object = &quarantine.origin.object;
            object.namespace == namespace && object.name == name
        })
    };
    let named = name.and_then(|name| find(&name.namespace, &name.name));
    named.or_else(|| find(&bundle.gateway.origin.object.namespace, DEFAULT))
}

/// What people call that quarantine.
pub fn label(quarantine: Option<&Quarantine>) -> String {
    match quarantine.map(|quarantine| &quarantine.origin.object) {
        Some(object) if object.name != DEFAULT => format!("{}/{}", object.namespace, object.name),
        Some(_) | None => DEFAULT.to_owned(),
    }
}

/// When a message that is held now is deleted.
pub fn until(bundle: &Bundle, hold: &Hold, now: Timestamp) -> Timestamp {
    let quarantine = quarantine(bundle, quarantine_name(hold).as_ref());
    let retention =
        quarantine.map_or(Quarantine::DEFAULT_RETENTION, |found| Duration::from_millis(found.retention_ms));
    now.checked_add(retention).unwrap_or(Timestamp::MAX)
}

/// The decoded subject, short enough for a listing and on one line.
pub fn subject(content: &Content) -> Option<String> {
    let (head, _) = edit::split(content.bytes());
    let subject = edit::subject_of(head)?;
    let clean = subject.chars().map(|c| if c.is_control() { ' ' } else { c });
    Some(clean.take(MAX_SUBJECT).collect())
}

/// Tells deliveries apart: to whom, which way, with which changes.
pub fn digest(delivery: &Delivery) -> u64 {
    let Delivery { recipient, via, edits, .. } = delivery;
    let bytes = postcard::to_stdvec(&(recipient.mailbox.folded(), via, &edits[..]));
    let hash = blake3::hash(&bytes.expect("memory takes all and the types have no unknown lengths"));
    let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}
