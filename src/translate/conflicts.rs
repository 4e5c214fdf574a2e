//! Rules that get in each other's way (spec R143): a pure look at the decided bundle. What is found stops
//! nothing; it becomes the condition `Conflicted` of the rule that has less effect than its author may think.
//!
//! Only what is certain from the rules alone is said: two rules *can* meet unless their scopes exclude each
//! other, and a rule is *covered* by another only if every message of it is one of the other's.

mod found;
mod scope;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use self::scope::Scopes;
use super::problem::Problem;
use crate::api::conditions::{ConditionType, Reason};
use crate::bundle::document::{
    Action, Bundle, ChangeRoute, Combine, Direction, Expression, Metadata, Mode, Modify, ObjectId, Route,
    Rule,
};
use crate::mail::envelope::RouteName;

/// Peers that one message names.
const MAX_NAMED: usize = 5;

pub(super) use found::Found;

/// What is said of which rule, in the order of rank.
#[cfg(test)]
fn find(bundle: &Bundle) -> Vec<(ObjectId, Problem)> {
    find_again(bundle, &mut Found::default())
}

/// The same, sparing what an earlier look found of rules that nothing new can meet.
pub(super) fn find_again(bundle: &Bundle, before: &mut Found) -> Vec<(ObjectId, Problem)> {
    let in_force = |rule: &&Arc<Rule>| rule.mode == Mode::Enforce && rule.broken.is_none();
    let mut shared: Vec<&Arc<Rule>> = bundle.rules.iter().filter(in_force).collect();
    shared.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let rules: Vec<&Rule> = shared.iter().map(|rule| &***rule).collect();
    // Made when a rule has to be looked at again.
    let look = OnceCell::new();
    let look = || look.get_or_init(|| Look::new(bundle, &rules));
    let said = before.renew(bundle, &shared, |rank| look().at(rank));
    said.into_iter().map(|(rule, problem)| (rule.origin.object.clone(), problem)).collect()
}

/// All rules, arranged to be held against one another.
struct Look<'a> {
    bundle: &'a Bundle,
    rules: &'a [&'a Rule],
    scopes: Scopes<'a>,
    /// Rules that reject whatever is in their scope.
    blankets: Vec<usize>,
    routes: HashMap<RouteName, &'a Route>,
}

impl<'a> Look<'a> {
    fn new(bundle: &'a Bundle, rules: &'a [&'a Rule]) -> Self {
        let scopes = Scopes::new(rules);
        let blankets = (0..rules.len())
            .filter(|rank| matches!(rules[*rank].action, Action::Reject(_)) && scopes.is_blanket(*rank))
            .collect();
        let routes = bundle.routes.iter().map(|route| (route.name(), route)).collect();
        Self { bundle, rules, scopes, blankets, routes }
    }

    /// What is said of the rule of this rank.
    fn at(&self, rank: usize) -> Vec<Problem> {
        let Self { bundle, rules, scopes, blankets, routes } = self;
        let rule = rules[rank];
        let problem = |path: &str, reason: Reason, message: String| {
            Problem::new(path, reason, message, ConditionType::Conflicted).warning()
        };
        if let Some(why) = unreachable(rule, bundle) {
            return vec![problem("spec", Reason::Unreachable, format!("no message can match: {why}"))];
        }
        if let Some(peer) = rejecting(rank, rules, scopes, blankets) {
            let message = format!("has no effect: {peer} rejects every message it could match");
            return vec![problem("spec", Reason::Shadowed, message)];
        }
        let Action::Modify(modify) = &rule.action else { return Vec::new() };
        let mut found = Vec::new();
        for field in [Field::Route, Field::Recipient] {
            if !field.is_set(modify) {
                continue;
            }
            let winners = winners(rank, field, rules, scopes);
            if let Some((path, message)) = overridden(field, &winners, only(modify, field)) {
                let reason = if winners.covered { Reason::Shadowed } else { Reason::Overridden };
                found.push(problem(path, reason, message));
            }
        }
        if let Some(route) = plain_route(modify, routes) {
            found.push(problem(
                "spec.action.modify.encryption.requireTls",
                Reason::TlsRequiredButRoutePlain,
                format!(
                    "the rule requires TLS, but {route} does not (tls.require is false): where its hosts offer none, mail is returned"
                ),
            ));
        }
        found
    }
}

/// A field that has one winner (spec R130, R133).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Route,
    Recipient,
}

impl Field {
    fn is_set(self, modify: &Modify) -> bool {
        match self {
            Field::Route => modify.route.is_some(),
            Field::Recipient => modify.envelope_recipient.is_some(),
        }
    }

    fn differs(self, a: &Modify, b: &Modify) -> bool {
        match self {
            Field::Route => a.route != b.route,
            Field::Recipient => a.envelope_recipient != b.envelope_recipient,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Field::Route => "spec.action.modify.route",
            Field::Recipient => "spec.action.modify.envelopeRecipient",
        }
    }
}

/// Whether the rule does nothing besides setting this field.
fn only(modify: &Modify, field: Field) -> bool {
    let mut rest = modify.clone();
    match field {
        Field::Route => {
            rest.route = None;
            rest.reroute_spam = false;
            rest.suppress_bounces = false;
        }
        Field::Recipient => rest.envelope_recipient = None,
    }
    rest == Modify::default()
}

#[derive(Default)]
struct Winners<'a> {
    named: Vec<&'a Rule>,
    more: bool,
    /// One of them covers the rule: its field never counts.
    covered: bool,
}

/// Better-ranked rules that set this field to something else and can meet the rule. A deeper unit that
/// overrides its parents is what units are for, and is not among them unless it covers the rule.
fn winners<'a>(rank: usize, field: Field, rules: &[&'a Rule], scopes: &Scopes<'_>) -> Winners<'a> {
    let mut winners = Winners::default();
    let rule = rules[rank];
    let Action::Modify(own) = &rule.action else { return winners };
    for other in scopes.may_meet(rank).take_while(|other| *other < rank) {
        let peer = rules[other];
        let Action::Modify(theirs) = &peer.action else { continue };
        if !field.is_set(theirs) || !field.differs(own, theirs) || !scopes.meet(rank, other) {
            continue;
        }
        let covers = scopes.covers(other, rank);
        if !covers && !peer.mandatory && peer.unit.depth() > rule.unit.depth() {
            continue;
        }
        winners.covered |= covers;
        if winners.named.len() == MAX_NAMED {
            winners.more = true;
            break;
        }
        winners.named.push(peer);
    }
    winners
}

fn overridden(field: Field, winners: &Winners<'_>, alone: bool) -> Option<(&'static str, String)> {
    let first = winners.named.first()?;
    let names: Vec<String> = winners.named.iter().map(|peer| peer.origin.object.to_string()).collect();
    let mut names = names.join(", ");
    if winners.more {
        names.push_str(" and others");
    }
    let name = field.path().rsplit('.').next().expect("rsplit gives at least one");
    let message = if winners.covered {
        let extent = if alone { "the rule has no effect" } else { "this field has no effect" };
        format!("{extent}: {names} matches every message of it, ranks before it and sets {name}")
    } else {
        format!(
            "where both match, {names} decides {name} (priority {}), because it ranks before this rule",
            first.priority
        )
    };
    Some((field.path(), message))
}

/// A rule that rejects whatever this one could match. `blankets`: those that reject and look at no content.
fn rejecting(rank: usize, rules: &[&Rule], scopes: &Scopes<'_>, blankets: &[usize]) -> Option<ObjectId> {
    let mut peers = blankets.iter().copied().filter(|other| *other != rank);
    // Of two that reject the same, the better-ranked one's notice is used (spec R125).
    let own = matches!(rules[rank].action, Action::Reject(_));
    peers
        .find(|other| scopes.covers(*other, rank) && (!own || *other < rank))
        .map(|other| rules[other].origin.object.clone())
}

/// Why no message can match, as far as the rule alone tells.
fn unreachable(rule: &Rule, bundle: &Bundle) -> Option<String> {
    let own = |filter: &Option<crate::bundle::document::AddressFilter>| {
        let Some(crate::bundle::document::AddressFilter::Address(mailbox)) = filter else { return None };
        let domain = mailbox.domain()?;
        Some(bundle.gateway.domains.iter().any(|parent| domain.is_within(parent)))
    };
    let (sender, recipient) = (own(&rule.envelope.senders), own(&rule.envelope.recipients));
    let possible = |direction: &Direction| {
        let (from_inside, to_inside) = match direction {
            // What passes from outside to outside counts as outgoing.
            Direction::Outbound => (None, Some(false)),
            Direction::Inbound => (Some(false), Some(true)),
            Direction::InternalSending | Direction::InternalReceiving => (Some(true), Some(true)),
        };
        let fits = |wanted: Option<bool>, given: Option<bool>| wanted.zip(given).is_none_or(|(w, g)| w == g);
        fits(from_inside, sender) && fits(to_inside, recipient)
    };
    if !rule.messages.iter().any(possible) {
        return Some("its envelope addresses exclude the directions in messages".to_owned());
    }
    let content = rule.content.as_ref()?;
    let mut most = bundle.gateway.limits.message_size;
    let mut least = 0;
    for expression in &content.expressions {
        let Expression::Metadata(metadata) = expression else { continue };
        match metadata {
            Metadata::MessageSizeOver(size) => least = least.max(*size),
            Metadata::MessageSizeUnder(size) => most = most.min(*size),
            _ => {}
        }
    }
    let alone = content.words.is_empty() && content.expressions.len() == 1;
    if (content.combine == Combine::All || alone) && least >= most {
        return Some(format!("no message is over {least} bytes and at most {most}"));
    }
    None
}

/// The route of the rule, if it requires TLS and the route says that it does not.
fn plain_route(modify: &Modify, routes: &HashMap<RouteName, &Route>) -> Option<ObjectId> {
    let Some(ChangeRoute::To(name)) = modify.route.as_ref().filter(|_| modify.require_tls) else {
        return None;
    };
    let route = routes.get(name).filter(|route| !route.tls.require)?;
    Some(route.origin.object.clone())
}

#[cfg(test)]
mod tests;
