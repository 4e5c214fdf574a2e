//! What narrows a rule: unit, directions, account types, lists, envelope; and what of it cannot go together.

use std::collections::BTreeSet;

use super::Common;
use crate::api::checks;
use crate::api::scope as spec;
use crate::bundle::document::{
    AccountType, AddressFilter, Direction, EnvelopeFilter, ListCondition, ListMatch, ListMode, Mode,
    ObjectName, UnitPath,
};
use crate::translate::gateway::address;
use crate::translate::pattern::Patterns;
use crate::translate::problem::{Findings, Problem};

pub fn mode(mode: spec::Mode) -> Mode {
    match mode {
        spec::Mode::Enforce => Mode::Enforce,
        spec::Mode::Shadow => Mode::Shadow,
    }
}

/// A path such as `/sales/export`.
pub fn unit(path: &str, text: &str) -> Result<UnitPath, Problem> {
    let name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(' ')
            && !name.ends_with(' ')
            && !name.chars().any(char::is_control)
    };
    let valid = text == "/" || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(name));
    match valid {
        true => Ok(UnitPath(text.to_owned())),
        false => Err(Problem::invalid(path, checks::UNIT.message)),
    }
}

pub fn directions(messages: &[spec::Direction], findings: &mut Findings) -> Vec<Direction> {
    if messages.is_empty() {
        findings.invalid(
            "spec.messages",
            "needs at least one of Outbound, Inbound, InternalSending and InternalReceiving",
        );
    }
    let decided = messages.iter().map(|direction| match direction {
        spec::Direction::Outbound => Direction::Outbound,
        spec::Direction::Inbound => Direction::Inbound,
        spec::Direction::InternalSending => Direction::InternalSending,
        spec::Direction::InternalReceiving => Direction::InternalReceiving,
    });
    decided.collect::<BTreeSet<_>>().into_iter().collect()
}

pub fn accounts(types: &[spec::AccountType], findings: &mut Findings) -> Vec<AccountType> {
    if types.is_empty() {
        findings.invalid("spec.accountTypes", "needs at least one of Users, Groups and Unrecognized");
    }
    let decided = types.iter().map(|account| match account {
        spec::AccountType::Users => AccountType::Users,
        spec::AccountType::Groups => AccountType::Groups,
        spec::AccountType::Unrecognized => AccountType::Unrecognized,
    });
    decided.collect::<BTreeSet<_>>().into_iter().collect()
}

pub fn lists(namespace: &str, lists: &spec::AddressLists) -> ListCondition {
    let spec::AddressLists { mode, by, names } = lists;
    let names: BTreeSet<&String> = names.iter().collect();
    ListCondition {
        mode: match mode {
            spec::ListMode::Bypass => ListMode::Bypass,
            spec::ListMode::OnlyApply => ListMode::OnlyApply,
        },
        by: match by {
            spec::ListMatch::Correspondent => ListMatch::Correspondent,
            spec::ListMatch::Recipient => ListMatch::Recipient,
        },
        // Whether they exist is decided when all lists are known.
        names: names
            .into_iter()
            .map(|name| ObjectName { namespace: namespace.to_owned(), name: name.clone() })
            .collect(),
    }
}

pub fn filters(
    patterns: &Patterns<'_>,
    envelope: Option<&spec::Envelope>,
    findings: &mut Findings,
) -> EnvelopeFilter {
    let Some(spec::Envelope { senders, recipients }) = envelope else { return EnvelopeFilter::default() };
    let something = senders.is_some() || recipients.is_some();
    findings.check(something, "spec.envelope", &checks::ENVELOPE_SOMETHING);
    let mut read = |field: &str, given: &Option<spec::AddressFilter>| {
        given.as_ref().and_then(|given| filter(patterns, &format!("spec.envelope.{field}"), given, findings))
    };
    EnvelopeFilter { senders: read("senders", senders), recipients: read("recipients", recipients) }
}

fn filter(
    patterns: &Patterns<'_>,
    path: &str,
    given: &spec::AddressFilter,
    findings: &mut Findings,
) -> Option<AddressFilter> {
    let spec::AddressFilter { address: one, pattern: many, groups } = given;
    let count = usize::from(one.is_some()) + usize::from(many.is_some()) + usize::from(!groups.is_empty());
    findings.check(count == 1, path, &checks::FILTER_ONE_OF);
    let pattern = many.as_ref().and_then(|text| {
        findings.ok(patterns.whole(&format!("{path}.pattern"), text))?;
        Some(AddressFilter::Pattern(text.clone()))
    });
    let one = one.as_ref().and_then(|text| findings.ok(address(&format!("{path}.address"), text)));
    let mut members = BTreeSet::new();
    for (at, group) in groups.iter().enumerate() {
        members
            .extend(findings.ok(address(&format!("{path}.groups[{at}]"), group)).map(|group| group.folded()));
    }
    let groups = (!members.is_empty()).then(|| AddressFilter::Groups(members.into_iter().collect()));
    pattern.or(one.map(AddressFilter::Address)).or(groups)
}

/// What no rule can have together (spec R72, R89, R99, R115, R116, R119): the table [`checks::RULE`].
pub(super) fn together(rule: &Common<'_>, findings: &mut Findings) {
    let Common { messages, account_types, envelope, action, .. } = rule;
    let groups = |pick: fn(&spec::Envelope) -> &Option<spec::AddressFilter>| {
        let filter = envelope.as_ref().and_then(|envelope| pick(envelope).as_ref());
        filter.is_some_and(|filter| !filter.groups.is_empty())
    };
    let senders = groups(|envelope| &envelope.senders);
    let path = "spec.envelope.senders.groups";
    findings.check(!senders || messages.iter().all(|m| m.is_sent()), path, &checks::GROUP_SENDERS);
    let recipients = groups(|envelope| &envelope.recipients);
    let path = "spec.envelope.recipients.groups";
    findings.check(!recipients || messages.iter().all(|m| !m.is_sent()), path, &checks::GROUP_RECIPIENTS);

    let is = |account: &spec::AccountType| account_types.contains(account);
    let unrecognized = is(&spec::AccountType::Unrecognized);
    let receives = messages.iter().any(|direction| !direction.is_sent());
    findings.check(!unrecognized || receives, "spec.accountTypes", &checks::UNRECOGNIZED_RECEIVES);
    let users = !unrecognized && !is(&spec::AccountType::Groups);
    let quarantine = action.quarantine.is_none() || users;
    findings.check(quarantine, "spec.action.quarantine", &checks::QUARANTINE_USERS);
    let Some(modify) = &action.modify else { return };
    let path = "spec.action.modify";
    let spam = !modify.spam_headers || users;
    findings.check(spam, &format!("{path}.spamHeaders"), &checks::SPAM_HEADERS_USERS);
    let reroutes = modify.route.as_ref().is_some_and(|route| route.reroute_spam);
    findings.check(!reroutes || users, &format!("{path}.route.rerouteSpam"), &checks::REROUTE_SPAM_USERS);
    let bypass = modify.bypass_spam_filter;
    let inbound = messages.contains(&spec::Direction::Inbound);
    findings.check(!bypass || users, &format!("{path}.bypassSpamFilter"), &checks::BYPASS_USERS);
    findings.check(!bypass || inbound, &format!("{path}.bypassSpamFilter"), &checks::BYPASS_INBOUND);
    let drops = modify.add_recipients.iter().position(|added| added.drop_spam == Some(true));
    if let Some(at) = drops.filter(|_| is(&spec::AccountType::Groups)) {
        findings.check(false, &format!("{path}.addRecipients[{at}].dropSpam"), &checks::DROP_SPAM_GROUPS);
    }
}
