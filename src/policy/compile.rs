//! Bundle → Policy: every pattern and word list compiled, so that a mistake is found before it runs.

mod content;

use std::collections::HashMap;
use std::sync::Arc;

pub(super) use self::content::{Conditions, ContentCode, ExpressionCode, PatternId, Test, TextCode};
use super::matcher::ListId;
use super::pattern::{self, Pattern};
use super::verdict::Needs;
use crate::bundle::document::{AddressFilter, Direction, ObjectId, Rule};
use crate::bundle::{Bundle, Revision};
use crate::mail::address::{Domain, Host, Mailbox};
use crate::mail::envelope::RouteName;

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
        Needs { authentication: self.content.asks_authentication, ..Needs::default() }
    }

    /// Whether an address belongs to the organisation.
    pub fn is_own(&self, mailbox: &Mailbox) -> bool {
        let own = |domain: &Domain| self.bundle.gateway.domains.iter().any(|parent| domain.is_within(parent));
        mailbox.domain().is_some_and(own)
    }
}

/// A rule ready to run.
#[derive(Debug)]
pub(super) struct RuleCode {
    /// In `bundle.rules`.
    pub index: usize,
    pub directions: Vec<Direction>,
    pub senders: Option<AddressCode>,
    pub recipients: Option<AddressCode>,
    pub content: ContentCode,
}

#[derive(Debug)]
pub(super) enum AddressCode {
    Address(String),
    Pattern(Pattern),
    /// It cannot be read: every address could match (broken rules only).
    Unreadable,
}

impl AddressCode {
    pub fn matches(&self, mailbox: Option<&Mailbox>) -> bool {
        match (self, mailbox) {
            (AddressCode::Unreadable, _) => true,
            (AddressCode::Address(address), Some(mailbox)) => *address == mailbox.folded(),
            (AddressCode::Address(_), None) => false,
            (AddressCode::Pattern(pattern), None) => pattern.is_match(""),
            (AddressCode::Pattern(pattern), Some(mailbox)) => {
                spellings(mailbox).iter().any(|spelling| pattern.is_match(spelling))
            }
        }
    }
}

/// An address as a pattern may mean it: as written, its domain in ASCII, its domain in Unicode.
fn spellings(mailbox: &Mailbox) -> Vec<String> {
    let mut spellings = vec![mailbox.to_string()];
    if let Host::Domain(domain) = mailbox.host() {
        spellings.push(format!("{}@{}", mailbox.local(), domain.ascii()));
        let (unicode, _) = idna::domain_to_unicode(domain.ascii());
        spellings.push(format!("{}@{unicode}", mailbox.local()));
    }
    spellings.dedup();
    spellings
}

/// Compiles everything. The first thing that cannot run ends it: a policy is whole or is none.
pub fn compile(bundle: &Bundle, revision: &Revision) -> Result<Policy, CompileError> {
    let mut compiler = Compiler::default();
    let mut order: Vec<usize> = (0..bundle.rules.len()).collect();
    order.sort_by(|&a, &b| bundle.rules[a].rank().cmp(&bundle.rules[b].rank()));
    let rules = order.into_iter().map(|index| compiler.rule(index, &bundle.rules[index]));
    let rules: Vec<RuleCode> = rules.collect::<Result<_, _>>()?;
    let error = |message: String| CompileError { object: bundle.gateway.origin.object.clone(), message };
    let content = compiler.content.build().map_err(|e| error(e.to_string()))?;
    let broken = bundle.routes.iter().filter_map(|route| Some((route.name(), route.broken.clone()?)));
    Ok(Policy {
        bundle: Arc::new(bundle.clone()),
        revision: revision.clone(),
        content,
        broken_routes: broken.collect(),
        rules,
    })
}

#[derive(Default)]
struct Compiler {
    content: content::Builder,
}

impl Compiler {
    fn rule(&mut self, index: usize, rule: &Rule) -> Result<RuleCode, CompileError> {
        let lenient = rule.broken.is_some();
        let fail = |message: String| CompileError { object: rule.origin.object.clone(), message };
        let address = |filter: &Option<AddressFilter>, clause: &str| {
            let Some(filter) = filter else { return Ok(None) };
            match filter {
                AddressFilter::Address(mailbox) => Ok(Some(AddressCode::Address(mailbox.folded()))),
                AddressFilter::Groups(_) => Ok(Some(AddressCode::Unreadable)),
                AddressFilter::Pattern(pattern) => match pattern::compile_whole(pattern) {
                    Ok(pattern) => Ok(Some(AddressCode::Pattern(pattern))),
                    Err(_) if lenient => Ok(Some(AddressCode::Unreadable)),
                    Err(error) => Err(fail(format!("envelope.{clause}.pattern: {error}"))),
                },
            }
        };
        let content = match &rule.content {
            Some(content) => self.content.add(index, content, lenient).map_err(fail)?,
            None if lenient => ContentCode::Unreadable,
            None => ContentCode::Always,
        };
        Ok(RuleCode {
            index,
            directions: rule.messages.clone(),
            senders: address(&rule.envelope.senders, "senders")?,
            recipients: address(&rule.envelope.recipients, "recipients")?,
            content,
        })
    }
}
