//! RoutingRule and ComplianceRule → Rule records.

use std::collections::BTreeSet;

use serde::Deserialize as _;
use serde_json::Value;

use super::gateway::address;
use super::lists;
use super::order::{Draft, Given, Pass};
use super::pattern::Patterns;
use super::problem::{Findings, Outcome};
use super::resources::{Kind, Malformed, origin};
use crate::api::action as act;
use crate::api::checks;
use crate::api::compliance_rule::{self as spec, ComplianceRule, ComplianceRuleSpec, ExpressionType, Match};
use crate::api::routing_rule::{RoutingRule, RoutingRuleSpec};
use crate::api::scope;
use crate::bundle::document::{
    Action, AddressFilter, ChangeRoute, Combine, Confusables, Content, Direction, EnhancedCode,
    EnvelopeFilter, Expression, ExpressionKind, Header, Location, Modify, OnScanLimit, Origin, Reject, Rule,
    TextExpression, WordOptions,
};
use crate::mail::envelope::RouteName;

/// Every enabled rule of the gateway, one record each: as written, as last accepted, or broken.
pub(super) fn decide(
    pass: &Pass<'_>,
    routes: &BTreeSet<RouteName>,
    outcomes: &mut Vec<Outcome>,
) -> Vec<Rule> {
    let mut records = Vec::new();
    let routing =
        pass.attached(&pass.resources.routing_rules, |rule: &RoutingRule| &rule.spec.gateway_ref, outcomes);
    for (origin, given) in routing {
        let draft = match given {
            Given::Read(rule) => routing_draft(pass, rule),
            Given::Malformed(malformed) => unread(malformed),
        };
        records.extend(settle(pass, routes, origin, draft, outcomes));
    }
    let compliance = pass.attached(
        &pass.resources.compliance_rules,
        |rule: &ComplianceRule| &rule.spec.gateway_ref,
        outcomes,
    );
    for (origin, given) in compliance {
        let draft = match given {
            Given::Read(rule) => compliance_draft(pass, rule),
            Given::Malformed(malformed) => unread(malformed),
        };
        records.extend(settle(pass, routes, origin, draft, outcomes));
    }
    records
}

const ROUTE: &str = "spec.action.modify.route.name";

/// `None` in the place of a record: the rule is not enabled.
type RuleDraft = Draft<Option<Rule>>;

/// Chooses between the draft, the last accepted form and a broken record.
fn settle(
    pass: &Pass<'_>,
    routes: &BTreeSet<RouteName>,
    origin: Origin,
    draft: RuleDraft,
    outcomes: &mut Vec<Outcome>,
) -> Option<Rule> {
    let Draft { record, mut findings } = draft;
    let last = pass.last_rule(&origin);
    let mut outcome = Outcome::new(origin);
    outcome.disabled = record.is_none();
    let mut chosen = match (record, last) {
        (None, _) => None,
        (Some(record), last) if findings.problems.is_empty() => {
            // A rule that was changed to name a missing route keeps its last form while that one's own
            // route exists (spec R18).
            let there = |name: &&RouteName| routes.contains(*name);
            let missing = record.route().filter(|name| !there(name)).cloned();
            let usable = last.filter(|last| last.route().is_none_or(|name| there(&name)));
            match (missing, usable) {
                (None, _) => Some(record),
                (Some(name), Some(last)) => {
                    findings.push(pass.route_not_found(ROUTE, &name));
                    outcome.in_force = Some(last.origin.generation);
                    Some(last.clone())
                }
                (Some(name), None) => {
                    findings.push(pass.route_missing(ROUTE, &name));
                    Some(record)
                }
            }
        }
        (Some(_), Some(last)) => {
            outcome.in_force = Some(last.origin.generation);
            if let Some(name) = last.route().filter(|name| !routes.contains(name)) {
                findings.push(pass.route_missing(ROUTE, name));
            }
            Some(last.clone())
        }
        (Some(record), None) => {
            outcome.broken = true;
            Some(Rule { broken: Some(findings.summary()), ..record })
        }
    };
    if let Some(rule) = &mut chosen {
        resolve(rule, routes);
    }
    let Findings { problems, warnings } = findings;
    outcomes.push(Outcome { problems, warnings, ..outcome });
    chosen
}

impl Rule {
    /// The route it changes to, there or not.
    fn route(&self) -> Option<&RouteName> {
        let Action::Modify(modify) = &self.action else { return None };
        match modify.route.as_ref()? {
            ChangeRoute::To(name) | ChangeRoute::Missing(name) => Some(name),
        }
    }
}

/// Looks the rule's route up: it may have come or gone since the record was made.
fn resolve(rule: &mut Rule, routes: &BTreeSet<RouteName>) {
    let Some(name) = rule.route().cloned() else { return };
    if let Action::Modify(modify) = &mut rule.action {
        let there = routes.contains(&name);
        modify.route = Some(if there { ChangeRoute::To(name) } else { ChangeRoute::Missing(name) });
    }
}

fn routing_draft(pass: &Pass<'_>, rule: &RoutingRule) -> RuleDraft {
    let mut findings = Findings::default();
    let RoutingRuleSpec { gateway_ref: _, description, enabled, priority, messages, envelope, action } =
        &rule.spec;
    let record = Rule {
        description: description.clone().unwrap_or_default(),
        messages: directions(messages, &mut findings),
        envelope: filters(&pass.patterns, envelope.as_ref(), &mut findings),
        content: None,
        on_scan_limit: OnScanLimit::default(),
        ..bare(rule, *priority, action, &mut findings)
    };
    Draft { record: enabled.then_some(record), findings }
}

fn compliance_draft(pass: &Pass<'_>, rule: &ComplianceRule) -> RuleDraft {
    let mut findings = Findings::default();
    let ComplianceRuleSpec {
        gateway_ref: _,
        description,
        enabled,
        priority,
        messages,
        envelope,
        matches,
        on_scan_limit,
        action,
    } = &rule.spec;
    let mut record = Rule {
        description: description.clone().unwrap_or_default(),
        messages: directions(messages, &mut findings),
        envelope: filters(&pass.patterns, envelope.as_ref(), &mut findings),
        on_scan_limit: match on_scan_limit {
            spec::OnScanLimit::TreatAsMatch => OnScanLimit::TreatAsMatch,
            spec::OnScanLimit::TreatAsNoMatch => OnScanLimit::TreatAsNoMatch,
            spec::OnScanLimit::Defer => OnScanLimit::Defer,
        },
        ..bare(rule, *priority, action, &mut findings)
    };
    let before = findings.problems.len();
    let content = conditions(pass, &record.origin.object.namespace, matches, &mut findings);
    // Should the rule end up broken: with Any, what could not be read could match anything; with All, what
    // could be read still narrows it.
    let unread = findings.problems.len() > before;
    let narrows =
        content.combine == Combine::All && !(content.words.is_empty() && content.expressions.is_empty());
    record.content = (!unread || narrows).then_some(content);
    Draft { record: enabled.then_some(record), findings }
}

/// What both kinds share.
fn bare<K: Kind>(rule: &K, priority: u16, action: &act::Action, findings: &mut Findings) -> Rule {
    let origin = origin(rule);
    let namespace = origin.object.namespace.clone();
    let action = disposition(&namespace, action, findings);
    let created = rule.meta().creation_timestamp.as_ref().map(|time| time.0);
    Rule { priority, created, ..Rule::new(origin, action) }
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
    let read = |value: &Value| Vec::<scope::Direction>::deserialize(value).ok();
    let messages = field("messages").and_then(read).filter(|read| !read.is_empty()).unwrap_or_else(|| {
        use scope::Direction::{Inbound, InternalReceiving, InternalSending, Outbound};
        vec![Outbound, Inbound, InternalSending, InternalReceiving]
    });
    let envelope = field("envelope").and_then(|value| scope::Envelope::deserialize(value).ok());
    let priority = field("priority").and_then(Value::as_u64).filter(|n| (1..=1000).contains(n));
    let mut aside = Findings::default();
    let record = Rule {
        priority: priority.unwrap_or(500) as u16,
        messages: directions(&messages, &mut findings),
        envelope: filters(&Patterns::default(), envelope.as_ref(), &mut aside),
        ..Rule::new(malformed.origin(), Action::Modify(Box::default()))
    };
    Draft { record: Some(record), findings }
}

fn directions(messages: &[scope::Direction], findings: &mut Findings) -> Vec<Direction> {
    if messages.is_empty() {
        findings.invalid(
            "spec.messages",
            "needs at least one of Outbound, Inbound, InternalSending and InternalReceiving",
        );
    }
    let decided = messages.iter().map(|direction| match direction {
        scope::Direction::Outbound => Direction::Outbound,
        scope::Direction::Inbound => Direction::Inbound,
        scope::Direction::InternalSending => Direction::InternalSending,
        scope::Direction::InternalReceiving => Direction::InternalReceiving,
    });
    decided.collect::<BTreeSet<_>>().into_iter().collect()
}

fn filters(
    patterns: &Patterns<'_>,
    envelope: Option<&scope::Envelope>,
    findings: &mut Findings,
) -> EnvelopeFilter {
    let Some(scope::Envelope { senders, recipients }) = envelope else { return EnvelopeFilter::default() };
    let something = senders.is_some() || recipients.is_some();
    findings.check(something, "spec.envelope", &checks::ENVELOPE_SOMETHING);
    let mut read = |field: &str, given: &Option<scope::AddressFilter>| {
        given.as_ref().and_then(|given| filter(patterns, &format!("spec.envelope.{field}"), given, findings))
    };
    EnvelopeFilter { senders: read("senders", senders), recipients: read("recipients", recipients) }
}

fn filter(
    patterns: &Patterns<'_>,
    path: &str,
    given: &scope::AddressFilter,
    findings: &mut Findings,
) -> Option<AddressFilter> {
    let scope::AddressFilter { address: one, pattern: many } = given;
    findings.check(one.is_some() != many.is_some(), path, &checks::FILTER_ONE_OF);
    let pattern = many.as_ref().and_then(|text| {
        findings.ok(patterns.whole(&format!("{path}.pattern"), text))?;
        Some(AddressFilter::Pattern(text.clone()))
    });
    let address = one.as_ref().and_then(|text| findings.ok(address(&format!("{path}.address"), text)));
    pattern.or(address.map(AddressFilter::Address))
}

fn conditions(pass: &Pass<'_>, namespace: &str, matches: &Match, findings: &mut Findings) -> Content {
    let Match { words, words_from, word_options, search_html_source, expressions, combine } = matches;
    let something = !words.is_empty() || !words_from.is_empty() || !expressions.is_empty();
    findings.check(something, "spec.match", &checks::MATCH_SOMETHING);
    let spec::WordOptions { ignore_accents, confusables, turkish, substrings } = word_options;
    Content {
        words: lists::words(matches, namespace, pass.resources, findings),
        word_options: WordOptions {
            ignore_accents: *ignore_accents,
            confusables: match confusables {
                spec::Confusables::Disabled => Confusables::Disabled,
                spec::Confusables::MixedScript => Confusables::MixedScript,
                spec::Confusables::All => Confusables::All,
            },
            turkish: *turkish,
            substrings: substrings.iter().map(|word| word.trim().to_owned()).collect(),
        },
        search_html_source: *search_html_source,
        expressions: expressions
            .iter()
            .enumerate()
            .filter_map(|(at, given)| {
                expression(pass, &format!("spec.match.expressions[{at}]"), given, findings)
            })
            .collect(),
        combine: match combine {
            spec::Combine::Any => Combine::Any,
            spec::Combine::All => Combine::All,
        },
    }
}

fn expression(
    pass: &Pass<'_>,
    path: &str,
    given: &spec::Expression,
    findings: &mut Findings,
) -> Option<Expression> {
    let spec::Expression { location, kind, value, min_count } = given;
    match kind {
        ExpressionType::IsEmpty => findings.check(value.is_none(), path, &checks::EXPRESSION_NO_VALUE),
        _ => findings.check(value.is_some(), path, &checks::EXPRESSION_VALUE),
    }
    let value = match (kind, value) {
        (ExpressionType::IsEmpty, _) => String::new(),
        (ExpressionType::MatchesRegex | ExpressionType::NotMatchesRegex, Some(value)) => {
            findings.ok(pass.patterns.search(&format!("{path}.value"), value))?;
            value.clone()
        }
        (_, Some(value)) => value.clone(),
        (_, None) => return None,
    };
    Some(Expression::Text(TextExpression {
        location: place(*location),
        kind: comparison(*kind),
        value,
        min_count: (*min_count).max(1),
    }))
}

fn place(location: spec::Location) -> Location {
    match location {
        spec::Location::HeadersAndBody => Location::HeadersAndBody,
        spec::Location::FullHeaders => Location::FullHeaders,
        spec::Location::Body => Location::Body,
        spec::Location::Subject => Location::Subject,
        spec::Location::FromHeader => Location::FromHeader,
        spec::Location::RecipientsHeader => Location::RecipientsHeader,
        spec::Location::EnvelopeSender => Location::EnvelopeSender,
        spec::Location::AnyEnvelopeRecipient => Location::AnyEnvelopeRecipient,
        spec::Location::RawMessage => Location::RawMessage,
        spec::Location::Attachments => Location::Attachments,
    }
}

fn comparison(kind: ExpressionType) -> ExpressionKind {
    match kind {
        ExpressionType::StartsWith => ExpressionKind::StartsWith,
        ExpressionType::EndsWith => ExpressionKind::EndsWith,
        ExpressionType::Contains => ExpressionKind::Contains,
        ExpressionType::NotContains => ExpressionKind::NotContains,
        ExpressionType::Equals => ExpressionKind::Equals,
        ExpressionType::IsEmpty => ExpressionKind::IsEmpty,
        ExpressionType::MatchesRegex => ExpressionKind::MatchesRegex,
        ExpressionType::NotMatchesRegex => ExpressionKind::NotMatchesRegex,
        ExpressionType::AnyWord => ExpressionKind::AnyWord,
        ExpressionType::AllWords => ExpressionKind::AllWords,
    }
}

fn disposition(namespace: &str, action: &act::Action, findings: &mut Findings) -> Action {
    let act::Action { reject, modify } = action;
    findings.check(reject.is_some() != modify.is_some(), "spec.action", &checks::ACTION_ONE_OF);
    match (reject, modify) {
        (Some(reject), _) => Action::Reject(refusal(reject, findings)),
        (None, Some(modify)) => Action::Modify(Box::new(changes(namespace, modify, findings))),
        (None, None) => Action::Modify(Box::default()),
    }
}

fn refusal(reject: &act::Reject, findings: &mut Findings) -> Reject {
    let act::Reject { notice, ascii_notice, hide_rule, enhanced_code } = reject;
    let path = "spec.action.reject";
    let plain = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    for (field, text) in [("notice", notice), ("asciiNotice", ascii_notice)] {
        let Some(text) = text else { continue };
        let path = format!("{path}.{field}");
        findings.check(text.chars().all(plain), &path, &checks::NOTICE);
        if text.trim().is_empty() {
            findings.invalid(&path, "a notice cannot be blank; leave it out for the default one");
        }
        if text.chars().count() > 1000 {
            findings.invalid(&path, "a notice has at most 1000 characters");
        }
    }
    let ascii = ascii_notice.as_ref().is_none_or(|text| text.is_ascii());
    findings.check(ascii, &format!("{path}.asciiNotice"), &checks::ASCII_NOTICE);
    let code = code(enhanced_code);
    findings.check(code.is_some(), &format!("{path}.enhancedCode"), &checks::ENHANCED_CODE);
    let trimmed = |text: &Option<String>| text.as_ref().map(|text| text.trim_end().to_owned());
    Reject {
        notice: trimmed(notice),
        ascii_notice: trimmed(ascii_notice),
        hide_rule: *hide_rule,
        enhanced_code: code.unwrap_or_default(),
    }
}

fn code(text: &str) -> Option<EnhancedCode> {
    let detail = text.strip_prefix("5.7.").filter(|detail| detail.bytes().all(|b| b.is_ascii_digit()))?;
    let detail: u16 = detail.parse().ok()?;
    (text == format!("5.7.{detail}") && (detail == 1 || (900..=999).contains(&detail)))
        .then_some(EnhancedCode([5, 7, detail]))
}

fn changes(namespace: &str, modify: &act::Modify, findings: &mut Findings) -> Modify {
    let act::Modify { headers, subject_prefix, route, encryption } = modify;
    let require_tls = encryption.as_ref().is_some_and(|encryption| encryption.require_tls);
    let something = !headers.is_empty() || subject_prefix.is_some() || route.is_some() || require_tls;
    findings.check(something, "spec.action.modify", &checks::MODIFY_EMPTY);
    let one_line = |text: &str| !text.chars().any(|c| c.is_ascii_control() && c != '\t');
    for (at, act::Header { name, value }) in headers.iter().enumerate() {
        let path = format!("spec.action.modify.headers[{at}]");
        let printable = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        findings.check(printable, &format!("{path}.name"), &checks::HEADER_NAME);
        findings.check(
            !checks::is_forbidden_header(name),
            &format!("{path}.name"),
            &checks::HEADER_FORBIDDEN,
        );
        findings.check(one_line(value), &format!("{path}.value"), &checks::ONE_LINE);
    }
    if let Some(prefix) = subject_prefix {
        findings.check(one_line(prefix), "spec.action.modify.subjectPrefix", &checks::ONE_LINE);
    }
    Modify {
        // Whether it exists is decided when all routes are known.
        route: route.as_ref().map(|route| {
            ChangeRoute::To(RouteName { namespace: namespace.to_owned(), name: route.name.clone() })
        }),
        headers: headers
            .iter()
            .map(|act::Header { name, value }| Header { name: name.clone(), value: value.clone() })
            .collect(),
        subject_prefix: subject_prefix.clone(),
        require_tls,
        ..Modify::default()
    }
}
