//! Bundle → Policy: every pattern and word list compiled, so that a mistake is found before it runs.

use std::collections::HashMap;
use std::sync::Arc;

use super::matcher::{self, ListId, Matcher};
use super::pattern::{self, Pattern};
use super::text::fold::{Folding, fold_entry};
use super::verdict::Needs;
use crate::bundle::document::{
    AddressFilter, Combine, Confusables, Content, Direction, Expression, ExpressionKind, Location, ObjectId,
    Rule, TextExpression, WordOptions,
};
use crate::bundle::{Bundle, Revision};
use crate::mail::address::{Domain, Host, Mailbox};
use crate::mail::envelope::RouteName;

/// A compiled bundle.
#[derive(Debug)]
pub struct Policy {
    bundle: Arc<Bundle>,
    revision: Revision,
    pub(super) matcher: Matcher,
    /// In the order of rank, whatever their order in the bundle.
    pub(super) rules: Vec<RuleCode>,
    /// Routes that cannot be used, with the reason.
    pub(super) broken_routes: HashMap<RouteName, String>,
    /// Some rule reads the source of HTML parts.
    pub(super) reads_html_source: bool,
    /// By list: whether it is searched for in the source of HTML parts too.
    pub(super) source_lists: Vec<bool>,
    /// By list: the rule in `bundle.rules` whose words it holds.
    list_rules: Vec<usize>,
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
        let content = self.bundle.rules[self.list_rules[list]].content.as_ref();
        content.and_then(|content| content.words.get(entry)).map_or("", String::as_str)
    }

    /// What must be found out about a message before it is judged.
    pub fn needs(&self) -> Needs {
        Needs::default()
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
pub(super) enum ContentCode {
    /// Every message has it.
    Always,
    /// A content condition that could not be read: any message could have it (broken rules only).
    Unreadable,
    Conditions(Conditions),
}

#[derive(Debug)]
pub(super) struct Conditions {
    /// The list and its words; `None` when there is no list.
    pub words: Option<ListId>,
    /// `None` stands for an expression that cannot be read (broken rules only).
    pub expressions: Vec<Option<ExpressionCode>>,
    pub combine: Combine,
    pub html_source: bool,
}

#[derive(Debug)]
pub(super) struct ExpressionCode {
    pub location: Location,
    pub test: Test,
    /// The opposite of `test` is asked for.
    pub negated: bool,
    pub min_count: usize,
    /// As written, for the trace.
    pub value: String,
}

#[derive(Debug)]
pub(super) enum Test {
    StartsWith(String),
    EndsWith(String),
    Contains(String),
    Equals(String),
    IsEmpty,
    Matches(Pattern),
    AnyWord(Matcher),
    AllWords(Matcher),
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
    let matcher = compiler.lists.build().map_err(|e| error(e.to_string()))?;
    let broken = bundle.routes.iter().filter_map(|route| Some((route.name(), route.broken.clone()?)));
    let html = |rule: &RuleCode| matches!(&rule.content, ContentCode::Conditions(c) if c.html_source);
    Ok(Policy {
        bundle: Arc::new(bundle.clone()),
        revision: revision.clone(),
        matcher,
        broken_routes: broken.collect(),
        reads_html_source: rules.iter().any(html),
        source_lists: compiler.source_lists,
        list_rules: compiler.list_rules,
        rules,
    })
}

#[derive(Default)]
struct Compiler {
    lists: matcher::Builder,
    source_lists: Vec<bool>,
    list_rules: Vec<usize>,
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
            Some(content) => self.content(index, content, lenient).map_err(fail)?,
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

    fn content(&mut self, index: usize, content: &Content, lenient: bool) -> Result<ContentCode, String> {
        let mut words = None;
        if !content.words.is_empty() {
            let added = self.lists.add(&content.words, &content.word_options, lenient);
            words = Some(added.map_err(|e| format!("match.words: {e}"))?);
            self.list_rules.push(index);
            self.source_lists.push(content.search_html_source);
        }
        let mut expressions = Vec::new();
        for (number, expression) in content.expressions.iter().enumerate() {
            let Expression::Text(expression) = expression else { continue };
            match self::expression(expression) {
                Ok(code) => expressions.push(Some(code)),
                Err(_) if lenient => expressions.push(None),
                Err(message) => return Err(format!("match.expressions[{number}]: {message}")),
            }
        }
        Ok(ContentCode::Conditions(Conditions {
            words,
            expressions,
            combine: content.combine,
            html_source: content.search_html_source,
        }))
    }
}

fn expression(expression: &TextExpression) -> Result<ExpressionCode, String> {
    use ExpressionKind as Kind;
    let folded = || fold_entry(&expression.value, Folding::default());
    let visible =
        || Some(folded()).filter(|value| !value.is_empty()).ok_or("value: nothing of it is visible");
    let words = || {
        let words: Vec<String> = expression.value.split_whitespace().map(str::to_owned).collect();
        let mut builder = matcher::Builder::default();
        // One list for each word, so that AllWords can tell them apart.
        let options = WordOptions { confusables: Confusables::Disabled, ..WordOptions::default() };
        for word in words {
            builder.add(&[word], &options, false).map_err(|e| format!("value: {e}"))?;
        }
        let matcher = builder.build().map_err(|e| format!("value: {e}"))?;
        if matcher.lists() == 0 { Err("value: there is no word in it".to_owned()) } else { Ok(matcher) }
    };
    let regex = || pattern::compile(&expression.value).map_err(|e| format!("value: {e}"));
    let (test, negated) = match expression.kind {
        Kind::StartsWith => (Test::StartsWith(visible()?), false),
        Kind::EndsWith => (Test::EndsWith(visible()?), false),
        Kind::Contains => (Test::Contains(visible()?), false),
        Kind::NotContains => (Test::Contains(visible()?), true),
        Kind::Equals => (Test::Equals(folded()), false),
        Kind::IsEmpty => (Test::IsEmpty, false),
        Kind::MatchesRegex => (Test::Matches(regex()?), false),
        Kind::NotMatchesRegex => (Test::Matches(regex()?), true),
        Kind::AnyWord => (Test::AnyWord(words()?), false),
        Kind::AllWords => (Test::AllWords(words()?), false),
    };
    Ok(ExpressionCode {
        location: expression.location,
        test,
        negated,
        min_count: expression.min_count.max(1) as usize,
        value: expression.value.clone(),
    })
}
