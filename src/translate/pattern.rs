//! Regular expressions, judged by the code that will run them (spec R59).

use std::cell::OnceCell;
use std::collections::HashSet;

use super::problem::Problem;
use crate::api::checks;
use crate::api::conditions::{ConditionType, Reason};
use crate::bundle::Bundle;
use crate::bundle::document::{
    AddressFilter, Expression, ExpressionKind, Metadata, NameTest, Rule, TextExpression,
};
use crate::policy::pattern::{self, PatternError};

/// The judge. What was accepted before is not compiled once more: with thousands of rules that is most of a
/// pass, and the pre-flight compile has the last word anyway.
#[derive(Default)]
pub(super) struct Patterns<'a> {
    last: Option<&'a Bundle>,
    /// Read off when the first pattern is asked about: in most passes none is.
    accepted: OnceCell<Accepted<'a>>,
}

#[derive(Default)]
struct Accepted<'a> {
    searched: HashSet<&'a str>,
    whole: HashSet<&'a str>,
}

impl<'a> Accepted<'a> {
    fn of(rules: impl Iterator<Item = &'a Rule>) -> Self {
        let mut known = Self::default();
        for rule in rules.filter(|rule| rule.broken.is_none()) {
            for filter in [&rule.envelope.senders, &rule.envelope.recipients].into_iter().flatten() {
                if let AddressFilter::Pattern(pattern) = filter {
                    known.whole.insert(pattern);
                }
            }
            for expression in rule.content.iter().flat_map(|content| &content.expressions) {
                match expression {
                    Expression::Text(TextExpression { kind, value, .. }) => {
                        if matches!(kind, ExpressionKind::MatchesRegex | ExpressionKind::NotMatchesRegex) {
                            known.searched.insert(value);
                        }
                    }
                    Expression::Metadata(
                        Metadata::AttachmentType(NameTest::Matches(pattern))
                        | Metadata::AttachmentName(NameTest::Matches(pattern)),
                    ) => drop(known.searched.insert(pattern)),
                    Expression::Metadata(_) | Expression::Detector(_) => {}
                }
            }
        }
        known
    }
}

impl<'a> Patterns<'a> {
    /// Knows the patterns of rules that were accepted.
    pub fn accepted(last: Option<&'a Bundle>) -> Self {
        Self { last, accepted: OnceCell::new() }
    }

    fn known(&self) -> &Accepted<'a> {
        let rules = || self.last.iter().flat_map(|last| &last.rules).map(|rule| &**rule);
        self.accepted.get_or_init(|| Accepted::of(rules()))
    }

    /// A pattern that is searched for.
    pub fn search(&self, path: &str, text: &str) -> Result<(), Problem> {
        if self.known().searched.contains(text) {
            return Ok(());
        }
        pattern::compile(text).map(drop).map_err(|error| refused(path, &error))
    }

    /// A pattern that must match a whole address.
    pub fn whole(&self, path: &str, text: &str) -> Result<(), Problem> {
        if self.known().whole.contains(text) {
            return Ok(());
        }
        pattern::compile_whole(text).map(drop).map_err(|error| refused(path, &error))
    }
}

fn refused(path: &str, error: &PatternError) -> Problem {
    let message = format!("{}: {error}", checks::PATTERN.message);
    Problem::new(path, Reason::PatternInvalid, message, ConditionType::Accepted)
}
