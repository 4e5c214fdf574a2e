//! What two judgements of one message do differently. Compared is what happens to mail, not which rules say so: a
//! rule that was renamed or split changes nothing here unless its name leaves with the message.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use crate::cli::trial::Outcome;
use crate::gateway::decisions::{DeliveryFate, MessageFate};
use crate::mail::edit::Edit;
use crate::policy::verdict::Disposition;

/// One thing that changes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// `None`: it concerns the message as a whole (the archive's copy).
    pub recipient: Option<String>,
    /// `disposition`, `reply`, `quarantine`, `delivery` or `archive`.
    pub what: &'static str,
    /// `null` where there is none.
    pub before: Value,
    pub after: Value,
    /// The rules that matched there, without those in shadow.
    #[serde(rename = "rulesBefore")]
    pub rules_before: Vec<String>,
    #[serde(rename = "rulesAfter")]
    pub rules_after: Vec<String>,
}

impl Change {
    pub fn text(&self) -> String {
        let mut out = String::new();
        let to = self.recipient.as_ref().map(|to| format!("to {to}: ")).unwrap_or_default();
        let _ = writeln!(out, "  {to}{}", self.what);
        for (mark, value, rules) in
            [("-", &self.before, &self.rules_before), ("+", &self.after, &self.rules_after)]
        {
            let by = if rules.is_empty() { String::new() } else { format!("  ({})", rules.join(", ")) };
            let _ = writeln!(out, "    {mark} {}{by}", shown(value));
        }
        out
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let told = fields.iter().filter(|(_, value)| {
                let empty = value.as_array().is_some_and(Vec::is_empty);
                !(value.is_null() || empty || **value == Value::Bool(false))
            });
            told.map(|(name, value)| format!("{name} {}", shown(value))).collect::<Vec<_>>().join(", ")
        }
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// A copy as it is compared: what is told of it, and a hash of its edits for what is not told in full.
fn copies(message: &MessageFate, edits: &[String], revision: &str) -> Vec<Value> {
    message.deliveries.iter().zip(edits).map(|(copy, edits)| copy_value(copy, edits, revision)).collect()
}

fn copy_value(copy: &DeliveryFate, edits: &str, revision: &str) -> Value {
    let mut value = serde_json::to_value(copy).expect("it has string keys only");
    value["edits"] = Value::String(edits.to_owned());
    without(value, revision)
}

/// Header values may name the revision, which differs always.
fn without(value: Value, revision: &str) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace(revision, "{revision}")),
        Value::Array(items) => items.into_iter().map(|item| without(item, revision)).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, without(value, revision))).collect()
        }
        other => other,
    }
}

fn edits_hash(edits: &[Edit], revision: &str) -> String {
    let text = serde_json::to_string(edits).expect("edits have string keys only").replace(revision, "");
    if edits.is_empty() { "none".to_owned() } else { blake3::hash(text.as_bytes()).to_hex()[..12].to_owned() }
}

/// One side of the comparison.
struct Side<'a> {
    outcome: &'a Outcome,
    revision: &'a str,
    /// For each message the hashes of the edits of its deliveries.
    edits: Vec<Vec<String>>,
}

impl<'a> Side<'a> {
    fn of(outcome: &'a Outcome) -> Self {
        let revision = outcome.explained.revision.as_str();
        let mut verdicts = outcome.decision.verdicts.iter();
        let edits = outcome.explained.transaction.rcpt.iter().map(|rcpt| {
            // Recipients refused at RCPT have no verdict.
            match rcpt.starts_with('2').then(|| verdicts.next()).flatten().map(|verdict| &verdict.disposition)
            {
                Some(Disposition::Deliver(copies)) => {
                    copies.iter().map(|copy| edits_hash(&copy.edits, revision)).collect()
                }
                _ => Vec::new(),
            }
        });
        Self { outcome, revision, edits: edits.collect() }
    }

    fn rules(&self, at: usize) -> Vec<String> {
        let rules = &self.outcome.explained.messages[at].considered.rules;
        let in_force = rules
            .iter()
            .filter(|rule| rule.matched && rule.mode == crate::bundle::document::Mode::Enforce)
            .map(|rule| rule.rule.clone());
        in_force.collect()
    }
}

/// Everything that would be done otherwise, in the order of the recipients.
pub fn changes(before: &Outcome, after: &Outcome) -> Vec<Change> {
    let (before, after) = (Side::of(before), Side::of(after));
    let mut changes = Vec::new();
    let pairs = before.outcome.explained.messages.iter().zip(&after.outcome.explained.messages);
    for (at, (one, two)) in pairs.enumerate() {
        let mut note = |what: &'static str, from: Value, to: Value| {
            changes.push(Change {
                recipient: Some(one.recipient.clone()),
                what,
                before: from,
                after: to,
                rules_before: before.rules(at),
                rules_after: after.rules(at),
            });
        };
        if (one.disposition, one.discarded) != (two.disposition, two.discarded) {
            note("disposition", one.disposition.as_str().into(), two.disposition.as_str().into());
        }
        let replies = (
            one.reply.replace(before.revision, "{revision}"),
            two.reply.replace(after.revision, "{revision}"),
        );
        if replies.0 != replies.1 {
            note("reply", one.reply.clone().into(), two.reply.clone().into());
        }
        if one.quarantine != two.quarantine {
            note("quarantine", one.quarantine.clone().into(), two.quarantine.clone().into());
        }
        let from = copies(one, &before.edits[at], before.revision);
        let to = copies(two, &after.edits[at], after.revision);
        pair(from, to, &mut |from, to| note("delivery", from, to));
    }
    let archive = |side: &Side<'_>| {
        let copy = side.outcome.explained.archive.as_ref()?;
        let edits = side.outcome.decision.archive.as_ref().map(|copy| edits_hash(&copy.edits, side.revision));
        Some(copy_value(copy, &edits.unwrap_or_default(), side.revision))
    };
    let (from, to) = (archive(&before), archive(&after));
    if from != to {
        changes.push(Change {
            recipient: None,
            what: "archive",
            before: from.into(),
            after: to.into(),
            rules_before: Vec::new(),
            rules_after: Vec::new(),
        });
    }
    changes
}

/// Copies that are on both sides cancel each other; of the rest those to the same address are told together.
fn pair(mut from: Vec<Value>, mut to: Vec<Value>, note: &mut impl FnMut(Value, Value)) {
    from.retain(|copy| match to.iter().position(|other| other == copy) {
        Some(same) => {
            to.remove(same);
            false
        }
        None => true,
    });
    for copy in from {
        let partner = to.iter().position(|other| other["to"] == copy["to"]);
        let other = partner.map_or(Value::Null, |at| to.remove(at));
        note(copy, other);
    }
    for other in to {
        note(Value::Null, other);
    }
}
