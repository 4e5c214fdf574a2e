//! RoutingRule and ComplianceRule → Rule records: which form of each rule is in force.

mod action;
mod content;
mod kept;
mod named;
mod remarks;
mod scope;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::order::{Draft, Given, Pass};
use super::pattern::Patterns;
use super::problem::{Findings, Outcome};
use super::resources::{Kind, Malformed, origin};
use crate::api::action as act;
use crate::api::compliance_rule::{self as spec, ComplianceRule, ComplianceRuleSpec};
use crate::api::routing_rule::{RoutingRule, RoutingRuleSpec};
use crate::api::scope as wide;
use crate::bundle::document::{
    AccountType, Action, Combine, OnScanLimit, OnUnreadable, Origin, Rule, UnitPath,
};

pub(super) use kept::Kept;
pub(super) use named::{Known, named_lists};
pub(super) use remarks::{Facts, same_descriptions};
pub(super) use scope::unit;

/// Every enabled rule of the gateway, one record each: as written, as last accepted, or broken.
pub(super) fn decide(
    pass: &Pass<'_>,
    known: &Known<'_>,
    kept: &mut Kept,
    outcomes: &mut Vec<Outcome>,
) -> Vec<Arc<Rule>> {
    let mut records = Vec::new();
    let mut kept = kept.begin(pass, known);
    let routing =
        pass.attached(&pass.resources.routing_rules, |rule: &RoutingRule| &rule.spec.gateway_ref, outcomes);
    for (origin, given) in routing {
        records.extend(match given {
            Given::Read(rule) => kept.rule(pass, rule, outcomes, |outcomes| {
                settle(pass, known, origin, routing_draft(pass, known, rule), outcomes)
            }),
            Given::Malformed(malformed) => settle(pass, known, origin, unread(malformed), outcomes),
        });
    }
    let compliance = pass.attached(
        &pass.resources.compliance_rules,
        |rule: &ComplianceRule| &rule.spec.gateway_ref,
        outcomes,
    );
    for (origin, given) in compliance {
        records.extend(match given {
            Given::Read(rule) => kept.rule(pass, rule, outcomes, |outcomes| {
                settle(pass, known, origin, compliance_draft(pass, known, rule), outcomes)
            }),
            Given::Malformed(malformed) => settle(pass, known, origin, unread(malformed), outcomes),
        });
    }
    kept.end();
    records
}

/// `None` in the place of a record: the rule is not enabled.
type RuleDraft = Draft<Option<Rule>>;

/// Chooses between the draft, the last accepted form and a broken record.
fn settle(
    pass: &Pass<'_>,
    known: &Known<'_>,
    origin: Origin,
    draft: RuleDraft,
    outcomes: &mut Vec<Outcome>,
) -> Option<Arc<Rule>> {
    let Draft { record, mut findings } = draft;
    // A form that names what is gone is no form to fall back to (spec R18).
    let published = pass.last_rule(&origin);
    let last = published.map(|last| (last, known.missing(pass, last)));
    let mut outcome = Outcome::new(origin);
    outcome.disabled = record.is_none();
    let mut chosen = match record {
        None => None,
        Some(record) => Some({
            let invalid = !findings.problems.is_empty();
            let missing = known.missing(pass, &record);
            match last {
                _ if !invalid && missing.is_nothing() => record,
                Some((last, gone)) if gone.is_nothing() => {
                    findings.problems.extend(missing.into_problems(false));
                    outcome.in_force = Some(last.origin.generation);
                    Rule::clone(last)
                }
                // Its route is gone: the last form still says which mail waits.
                Some((last, gone)) if invalid && gone.only_routes() => {
                    findings.problems.extend(gone.into_problems(true));
                    outcome.in_force = Some(last.origin.generation);
                    Rule::clone(last)
                }
                _ => {
                    let readable = !invalid && missing.only_routes();
                    findings.problems.extend(missing.into_problems(true));
                    if readable {
                        record
                    } else {
                        outcome.broken = true;
                        Rule { broken: Some(findings.summary()), ..known.widened(record) }
                    }
                }
            }
        }),
    };
    if let Some(rule) = &mut chosen {
        known.resolve(rule, &mut findings);
        remarks::of_rule(pass, known, rule, &mut findings);
    }
    let Findings { problems, warnings } = findings;
    outcomes.push(Outcome { problems, warnings, ..outcome });
    // What is published already is handed on, so that everybody sees that it is the same.
    chosen.map(|rule| match published {
        Some(published) if **published == rule => published.clone(),
        _ => Arc::new(rule),
    })
}

fn routing_draft(pass: &Pass<'_>, known: &Known<'_>, rule: &RoutingRule) -> RuleDraft {
    let mut findings = Findings::default();
    let RoutingRuleSpec {
        gateway_ref: _,
        description,
        enabled,
        mode,
        priority,
        organizational_unit,
        mandatory,
        messages,
        account_types,
        address_lists,
        envelope,
        action,
    } = &rule.spec;
    let common = Common {
        description,
        mode: *mode,
        priority: *priority,
        organizational_unit,
        mandatory: *mandatory,
        messages,
        account_types,
        address_lists,
        envelope,
        action,
    };
    let record = bare(pass, known, rule, &common, &mut findings);
    Draft { record: enabled.then_some(record), findings }
}

fn compliance_draft(pass: &Pass<'_>, known: &Known<'_>, rule: &ComplianceRule) -> RuleDraft {
    let mut findings = Findings::default();
    let ComplianceRuleSpec {
        gateway_ref: _,
        description,
        enabled,
        mode,
        priority,
        organizational_unit,
        mandatory,
        messages,
        account_types,
        address_lists,
        envelope,
        matches,
        on_scan_limit,
        on_unreadable,
        action,
    } = &rule.spec;
    let common = Common {
        description,
        mode: *mode,
        priority: *priority,
        organizational_unit,
        mandatory: *mandatory,
        messages,
        account_types,
        address_lists,
        envelope,
        action,
    };
    let mut record = Rule {
        on_scan_limit: match on_scan_limit {
            spec::OnScanLimit::TreatAsMatch => OnScanLimit::TreatAsMatch,
            spec::OnScanLimit::TreatAsNoMatch => OnScanLimit::TreatAsNoMatch,
            spec::OnScanLimit::Defer => OnScanLimit::Defer,
        },
        on_unreadable: match on_unreadable {
            spec::OnUnreadable::TreatAsMatch => OnUnreadable::TreatAsMatch,
            spec::OnUnreadable::TreatAsNoMatch => OnUnreadable::TreatAsNoMatch,
            spec::OnUnreadable::Defer => OnUnreadable::Defer,
        },
        ..bare(pass, known, rule, &common, &mut findings)
    };
    let before = findings.problems.len();
    let content = content::conditions(pass, &record.origin.object.namespace, matches, &mut findings);
    // Should the rule end up broken: with Any, what could not be read could match anything; with All, what
    // could be read still narrows it.
    let unread = findings.problems.len() > before;
    let narrows =
        content.combine == Combine::All && !(content.words.is_empty() && content.expressions.is_empty());
    record.content = (!unread || narrows).then_some(content);
    Draft { record: enabled.then_some(record), findings }
}

/// The fields both kinds share.
struct Common<'a> {
    description: &'a Option<String>,
    mode: wide::Mode,
    priority: u16,
    organizational_unit: &'a str,
    mandatory: bool,
    messages: &'a [wide::Direction],
    account_types: &'a [wide::AccountType],
    address_lists: &'a Option<wide::AddressLists>,
    envelope: &'a Option<wide::Envelope>,
    action: &'a act::Action,
}

fn bare<K: Kind>(
    pass: &Pass<'_>,
    known: &Known<'_>,
    rule: &K,
    common: &Common<'_>,
    findings: &mut Findings,
) -> Rule {
    let Common {
        description,
        mode,
        priority,
        organizational_unit,
        mandatory,
        messages,
        account_types,
        address_lists,
        envelope,
        action,
    } = common;
    let origin = origin(rule);
    let namespace = origin.object.namespace.clone();
    let accounts = scope::accounts(account_types, findings);
    let decided = action::disposition(&namespace, action, &accounts, findings);
    scope::together(common, findings);
    if let Action::Modify(modify) = &decided {
        remarks::external_targets(pass, known, modify, findings);
    }
    let unit = findings.ok(scope::unit("spec.organizationalUnit", organizational_unit));
    Rule {
        description: (*description).clone().unwrap_or_default(),
        priority: *priority,
        created: rule.meta().creation_timestamp.as_ref().map(|time| time.0),
        mode: scope::mode(*mode),
        unit: unit.unwrap_or_default(),
        mandatory: *mandatory,
        messages: scope::directions(messages, findings),
        accounts,
        lists: address_lists.as_ref().map(|lists| scope::lists(&namespace, lists)),
        envelope: scope::filters(&pass.patterns, envelope.as_ref(), findings),
        ..Rule::new(origin, decided)
    }
}

/// A record that stands for a rule that could not be read: it makes those messages wait that the readable
/// part of its scope covers.
fn unread(malformed: &Malformed) -> RuleDraft {
    let mut findings = Findings { problems: vec![malformed.problem()], ..Findings::default() };
    let spec = malformed.spec.as_ref();
    let field = |name: &str| spec.and_then(|spec| spec.get(name));
    if field("enabled") == Some(&Value::Bool(false)) {
        return Draft { record: None, findings };
    }
    let messages = list(field("messages")).unwrap_or_else(|| {
        use wide::Direction::{Inbound, InternalReceiving, InternalSending, Outbound};
        vec![Outbound, Inbound, InternalSending, InternalReceiving]
    });
    let accounts: Vec<AccountType> = match field("accountTypes") {
        None => vec![AccountType::Users],
        given => list(given)
            .map(|read: Vec<wide::AccountType>| scope::accounts(&read, &mut Findings::default()))
            .unwrap_or_else(|| vec![AccountType::Users, AccountType::Groups, AccountType::Unrecognized]),
    };
    let envelope = field("envelope").and_then(|value| wide::Envelope::deserialize(value).ok());
    let priority = field("priority").and_then(Value::as_u64).filter(|n| (1..=1000).contains(n));
    let mode = field("mode").and_then(|mode| wide::Mode::deserialize(mode).ok()).unwrap_or_default();
    let unit = field("organizationalUnit").and_then(Value::as_str);
    let unit = unit.and_then(|unit| scope::unit("", unit).ok());
    let mut aside = Findings::default();
    let mut envelope = scope::filters(&Patterns::default(), envelope.as_ref(), &mut aside);
    // Which groups there are may have been part of what cannot be read.
    let known = |filter: &_| !matches!(filter, crate::bundle::document::AddressFilter::Groups(_));
    envelope.senders = envelope.senders.filter(known);
    envelope.recipients = envelope.recipients.filter(known);
    let record = Rule {
        priority: priority.unwrap_or(500) as u16,
        mode: scope::mode(mode),
        unit: unit.unwrap_or_else(UnitPath::default),
        mandatory: field("mandatory") == Some(&Value::Bool(true)),
        messages: scope::directions(&messages, &mut findings),
        accounts,
        envelope,
        ..Rule::new(malformed.origin(), Action::Modify(Box::default()))
    };
    Draft { record: Some(record), findings }
}

fn list<'a, T: Deserialize<'a>>(value: Option<&'a Value>) -> Option<Vec<T>> {
    Vec::<T>::deserialize(value?).ok().filter(|read| !read.is_empty())
}
