//! How often each rule matched, in force and in shadow. Counted once for each message, whatever the number of its
//! recipients; kept in memory only, since counters must cause no writes (design section 10).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::account::{self, Judged};
use crate::bundle::Bundle;
use crate::bundle::document::{Mode, ObjectId};

/// Rules with a label of their own; further ones share `other`.
const MAX_LABELS: usize = 1_000;
/// Rules counted for the status page; a gateway has fewer, but rules come and go.
const MAX_RULES: usize = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
enum ModeLabel {
    enforce,
    shadow,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRule {
    rule: String,
    mode: ModeLabel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
enum ActionLabel {
    reject,
    quarantine,
    modify,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAction {
    action: ActionLabel,
    mode: ModeLabel,
}

/// A cheap handle; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Matches {
    rules: Arc<Mutex<HashMap<ObjectId, Count>>>,
    labels: Arc<Mutex<HashSet<ObjectId>>>,
    by_rule: Family<ByRule, Counter>,
    by_action: Family<ByAction, Counter>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    enforced: u64,
    shadow: u64,
    last: Option<Timestamp>,
}

/// What the status page shows of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleCount {
    pub rule: String,
    /// As it runs now.
    pub mode: Mode,
    /// What it asks for; in shadow: what it would do.
    pub action: &'static str,
    /// Messages it matched while in force.
    pub matched: u64,
    /// Messages it matched in shadow.
    pub shadow_matched: u64,
    pub last_matched: Option<Timestamp>,
}

impl Matches {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "postern_rule_matches",
            "Messages that a rule matched, by rule (at most 1,000, then other) and mode",
            self.by_rule.clone(),
        );
        registry.register(
            "postern_matches",
            "Messages that a rule matched, by what it asks for and mode; in shadow it has no effect",
            self.by_action.clone(),
        );
    }

    pub(super) fn count(&self, judged: &Judged<'_>) {
        let mut matched: BTreeMap<&ObjectId, Mode> = BTreeMap::new();
        let mut last = None;
        for verdict in &judged.decision.verdicts {
            // Recipients alike share a trace, and stand together more often than not.
            if last == Some(verdict.trace.as_ptr()) {
                continue;
            }
            last = Some(verdict.trace.as_ptr());
            let found = verdict.trace.iter().filter(|trace| trace.outcome.matched());
            matched.extend(found.map(|trace| (&trace.rule, trace.mode)));
        }
        for (rule, mode) in matched {
            self.count_one(judged, rule, mode);
        }
    }

    fn count_one(&self, judged: &Judged<'_>, rule: &ObjectId, mode: Mode) {
        let mode_label = match mode {
            Mode::Enforce => ModeLabel::enforce,
            Mode::Shadow => ModeLabel::shadow,
        };
        let action = match account::action(judged.bundle, rule) {
            "Reject" => ActionLabel::reject,
            "Quarantine" => ActionLabel::quarantine,
            _ => ActionLabel::modify,
        };
        let label = {
            let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
            if !labels.contains(rule) && labels.len() < MAX_LABELS {
                labels.insert(rule.clone());
            }
            if labels.contains(rule) { rule.to_string() } else { "other".to_owned() }
        };
        self.by_rule.get_or_create(&ByRule { rule: label, mode: mode_label }).inc();
        self.by_action.get_or_create(&ByAction { action, mode: mode_label }).inc();
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if rules.len() >= MAX_RULES && !rules.contains_key(rule) {
            return;
        }
        let count = rules.entry(rule.clone()).or_default();
        match mode {
            Mode::Enforce => count.enforced += 1,
            Mode::Shadow => count.shadow += 1,
        }
        count.last = count.last.max(Some(judged.transaction.now));
    }

    /// Every rule of the bundle with what was counted since the start, in the order of rank; a rule that never
    /// matched is there too.
    pub fn of(&self, bundle: &Bundle) -> Vec<RuleCount> {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let of_rule = |rule: &crate::bundle::document::Rule| {
            let object = &rule.origin.object;
            let Count { enforced, shadow, last } = rules.get(object).copied().unwrap_or_default();
            RuleCount {
                rule: object.to_string(),
                mode: rule.mode,
                action: account::name_of(&rule.action),
                matched: enforced,
                shadow_matched: shadow,
                last_matched: last,
            }
        };
        bundle.rules.iter().map(|rule| of_rule(rule)).collect()
    }
}
