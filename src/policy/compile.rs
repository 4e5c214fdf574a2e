//! Bundle → Policy: every pattern and word list compiled, so that a mistake is found before it runs.
//!
//! A policy grows out of the one before it. Rules are shared between bundles, so a rule that did not change is
//! told by its address: what was compiled of it is taken over. New rules come into small automata beside the
//! large ones; when they have become too many for that, everything is put together anew. How a policy came about
//! never shows in what it decides.

mod content;
mod growth;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

pub(super) use self::content::{Conditions, ContentCode, ExpressionCode, PatternId, Test, TextCode};
use self::growth::{Growth, Known};
use super::directory::People;
use super::lists::ListCode;
use super::matcher::ListId;
use super::scope::{AddressCode, Tests};
use super::verdict::Needs;
use crate::bundle::document::{
    Action, AddressFilter, Direction, Directory, Expression, Header, ListMatch, ListMode, Metadata, ObjectId,
    ObjectName, Rule, SmimeCertificate,
};
use crate::bundle::{Bundle, Revision};
use crate::mail::address::{Domain, Mailbox};
use crate::mail::envelope::Envelope;
use crate::mail::envelope::RouteName;
use crate::mail::message::Message;

/// A compiled bundle.
#[derive(Debug)]
pub struct Policy {
    bundle: Arc<Bundle>,
    revision: Revision,
    pub(super) content: content::Shared,
    /// In the order of rank, whatever their order in the bundle.
    pub(super) rules: Vec<RuleCode>,
    /// Routes that cannot be used, with the reason.
    pub(super) broken_routes: HashMap<RouteName, String>,
    pub(super) people: People,
    pub(super) sender_tests: Tests,
    pub(super) recipient_tests: Tests,
    /// Some header names the unit, so that units which no rule tells apart still matter.
    pub(super) names_units: bool,
    /// By folded address, places in `gateway.smime`.
    certificates: HashMap<String, Vec<usize>>,
    needs: Needs,
    growth: Growth,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{object}: {message}")]
pub struct CompileError {
    /// The object whose author must act.
    pub object: ObjectId,
    pub message: String,
}

impl Policy {
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    pub(super) fn rule(&self, code: &RuleCode) -> &Rule {
        &self.bundle.rules[code.index]
    }

    /// An entry of a list as written.
    pub(super) fn word(&self, list: ListId, entry: usize) -> &str {
        self.content.word(&self.bundle.rules, list, entry)
    }

    /// What must be found out about a message before it is judged.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Without rules nothing of a message is looked at but its header section.
    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether an address belongs to the organisation.
    pub fn is_own(&self, mailbox: &Mailbox) -> bool {
        let own = |domain: &Domain| self.bundle.gateway.domains.iter().any(|parent| domain.is_within(parent));
        mailbox.domain().is_some_and(own)
    }

    /// Who signs a message, by folded address: its one author, if the envelope names the same sender and there is a
    /// certificate that is valid now. Clients that log in are held to their envelope senders, so they are to this.
    pub(super) fn signer(&self, message: &Message<'_>, envelope: &Envelope, now: Timestamp) -> Option<&str> {
        let signers = &self.bundle.gateway.smime_signers;
        if signers.is_empty() || message.all("From").count() != 1 {
            return None;
        }
        let authors = message.addresses("From");
        let [author] = authors.as_slice() else { return None };
        let author = author.folded();
        if envelope.sender.mailbox.as_ref().is_none_or(|sender| sender.folded() != author) {
            return None;
        }
        // The first that names the address: it is the one that delivery has, too.
        let named = signers.iter().find_map(|signer| {
            let address = signer.addresses.iter().find(|address| **address == author)?;
            Some((signer, address.as_str()))
        });
        let (signer, address) = named?;
        (signer.not_before <= now && now <= signer.not_after).then_some(address)
    }

    /// The certificate to encrypt for an address with: of those valid now, the one that is so for longest.
    pub(super) fn certificate(&self, mailbox: &Mailbox, now: Timestamp) -> Option<&SmimeCertificate> {
        let known = self.certificates.get(&mailbox.folded())?;
        let known = known.iter().map(|place| &self.bundle.gateway.smime[*place]);
        known.filter(|one| one.not_before <= now && now <= one.not_after).max_by_key(|one| one.not_after)
    }
}

/// A rule ready to run.
#[derive(Debug)]
pub(super) struct RuleCode {
    /// In `bundle.rules`.
    pub index: usize,
    pub directions: Vec<Direction>,
    pub lists: Option<ListCode>,
    pub senders: Option<AddressCode>,
    pub recipients: Option<AddressCode>,
    pub content: ContentCode,
    /// Something the scope names is not there: what the rule could apply to must wait. Says what.
    pub uncertain: Option<String>,
}

/// Compiles everything. The first thing that cannot run ends it: a policy is whole or is none.
pub fn compile(bundle: &Arc<Bundle>, revision: &Revision) -> Result<Policy, CompileError> {
    compile_after(None, bundle, revision)
}

/// The same, sparing what was compiled before. What the policy decides does not depend on `before`.
pub fn compile_after(
    before: Option<&Policy>,
    bundle: &Arc<Bundle>,
    revision: &Revision,
) -> Result<Policy, CompileError> {
    grow(before, bundle, revision, growth::LIMITS)
}

/// Whether a gateway could run `bundle`: compiles those rules that `good` does not hold. A rule runs or does not,
/// whatever the others are.
pub fn try_out(bundle: &Bundle, good: Option<&Bundle>, revision: &Revision) -> Result<(), CompileError> {
    let known: HashSet<*const Rule> = good.iter().flat_map(|good| &good.rules).map(Arc::as_ptr).collect();
    let new = bundle.rules.iter().filter(|rule| !known.contains(&Arc::as_ptr(rule)));
    let sample = Bundle {
        gateway: bundle.gateway.clone(),
        routes: Vec::new(),
        rules: new.cloned().collect(),
        lists: bundle.lists.clone(),
        // What it holds is not compiled; that it is there makes a difference.
        directory: bundle.directory.as_ref().map(|directory| Directory {
            origin: directory.origin.clone(),
            units: Vec::new(),
            unknown_senders: directory.unknown_senders,
            accounts: Vec::new(),
            broken: directory.broken.clone(),
        }),
        quarantines: Vec::new(),
    };
    compile(&Arc::new(sample), revision).map(drop)
}

fn grow(
    before: Option<&Policy>,
    bundle: &Arc<Bundle>,
    revision: &Revision,
    limits: growth::Limits,
) -> Result<Policy, CompileError> {
    let mut order: Vec<usize> = (0..bundle.rules.len()).collect();
    order.sort_by(|&a, &b| bundle.rules[a].rank().cmp(&bundle.rules[b].rank()));
    let ranked: Vec<&Rule> = order.iter().map(|index| &*bundle.rules[*index]).collect();
    let people = People::compile(bundle, &ranked);
    let (known, growth) = Known::of(before, bundle, limits);
    let mut compiler = Compiler::new(bundle, before, known);
    let rules = order.into_iter().map(|index| compiler.rule(index, &bundle.rules[index]));
    let rules: Vec<RuleCode> = rules.collect::<Result<_, _>>()?;
    let error = |message: String| CompileError { object: bundle.gateway.origin.object.clone(), message };
    let content = compiler.content.build().map_err(|e| error(e.to_string()))?;
    let broken = bundle.routes.iter().filter_map(|route| Some((route.name(), route.broken.clone()?)));
    let mut certificates: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, certificate) in bundle.gateway.smime.iter().enumerate() {
        certificates.entry(certificate.address.clone()).or_default().push(place);
    }
    let needs = needs(bundle, &rules);
    Ok(Policy {
        bundle: Arc::clone(bundle),
        revision: revision.clone(),
        content,
        broken_routes: broken.collect(),
        rules,
        people,
        sender_tests: compiler.senders,
        recipient_tests: compiler.recipients,
        names_units: bundle.rules.iter().any(|rule| names_unit(rule)),
        certificates,
        needs,
        growth,
    })
}

/// A gateway with a classifier refuses blatant spam whatever its rules say (spec R83), so it classifies
/// everything.
fn needs(bundle: &Bundle, rules: &[RuleCode]) -> Needs {
    let received = |code: &RuleCode| {
        code.directions.iter().any(|way| matches!(way, Direction::Inbound | Direction::InternalReceiving))
    };
    let by_sender =
        |code: &RuleCode| code.lists.as_ref().is_some_and(|lists| !lists.recipient_only) && received(code);
    let asked = |code: &RuleCode| {
        let mut expressions =
            bundle.rules[code.index].content.iter().flat_map(|content| &content.expressions);
        expressions.any(|one| matches!(one, Expression::Metadata(Metadata::Authenticated(_))))
    };
    Needs {
        authentication: rules.iter().any(|code| by_sender(code) || asked(code)),
        classification: bundle.gateway.rspamd.is_some(),
    }
}

fn names_unit(rule: &Rule) -> bool {
    let Action::Modify(modify) = &rule.action else { return false };
    let names = |header: &Header| header.value.contains("{unit}");
    modify.headers.iter().any(names)
        || modify.add_recipients.iter().any(|added| added.headers.iter().any(names))
}

struct Compiler<'a> {
    /// What was compiled of rules before.
    known: Known<'a>,
    before: Option<&'a Policy>,
    content: content::Builder<'a>,
    senders: Tests,
    recipients: Tests,
    lists: HashMap<(&'a str, &'a str), usize>,
    has_directory: bool,
}

impl<'a> Compiler<'a> {
    fn new(bundle: &'a Bundle, before: Option<&'a Policy>, known: Known<'a>) -> Self {
        let lists = bundle.lists.iter().enumerate().map(|(place, list)| {
            let object = &list.origin.object;
            ((object.namespace.as_str(), object.name.as_str()), place)
        });
        let shared = before.map(|before| &before.content);
        let content = match shared.filter(|_| known.goes_on()) {
            Some(shared) => content::Builder::after(shared),
            None => content::Builder::new(shared),
        };
        Self {
            known,
            before,
            content,
            senders: Tests::default(),
            recipients: Tests::default(),
            lists: lists.collect(),
            has_directory: bundle.directory.is_some(),
        }
    }

    fn rule(&mut self, index: usize, rule: &Arc<Rule>) -> Result<RuleCode, CompileError> {
        let lenient = rule.broken.is_some();
        let fail = |message: String| CompileError { object: rule.origin.object.clone(), message };
        let mut uncertain = None;
        let lists = rule.lists.as_ref().map(|condition| {
            let mut lists = Vec::new();
            for ObjectName { namespace, name } in &condition.names {
                match self.lists.get(&(namespace.as_str(), name.as_str())) {
                    Some(place) => lists.push(*place),
                    None => uncertain = Some(format!("AddressList {namespace}/{name} does not exist")),
                }
            }
            self.recipients.add_lists(&lists);
            let recipient_only = condition.by == ListMatch::Recipient;
            ListCode { bypass: condition.mode == ListMode::Bypass, recipient_only, lists }
        });
        let filters = [&rule.envelope.senders, &rule.envelope.recipients];
        let by_groups = filters.into_iter().any(|filter| matches!(filter, Some(AddressFilter::Groups(_))));
        if by_groups && !self.has_directory {
            uncertain = Some("a filter names groups, and there is no Directory".to_owned());
        }
        let (by_sender, by_recipient) = (
            self.before.map(|before| &before.sender_tests),
            self.before.map(|before| &before.recipient_tests),
        );
        let address = |tests: &mut Tests, filter: &Option<AddressFilter>, before, clause: &str| {
            let added = filter.as_ref().map(|filter| tests.add(filter, lenient, before)).transpose();
            added.map_err(|error| fail(format!("envelope.{clause}.pattern: {error}")))
        };
        let senders = address(&mut self.senders, &rule.envelope.senders, by_sender, "senders")?;
        let recipients =
            address(&mut self.recipients, &rule.envelope.recipients, by_recipient, "recipients")?;
        let content = match &rule.content {
            Some(content) => match self.known.code(rule) {
                Some(code) => {
                    self.content.keep(index, content, code);
                    code.clone()
                }
                None => self.content.add(index, content, lenient).map_err(fail)?,
            },
            None if lenient => ContentCode::Unreadable,
            None => ContentCode::Always,
        };
        let directions = rule.messages.clone();
        Ok(RuleCode { index, directions, lists, senders, recipients, content, uncertain })
    }
}

#[cfg(test)]
mod tests;
