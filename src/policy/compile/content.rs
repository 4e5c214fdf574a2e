//! The content conditions of all rules, compiled together: what rules share is searched for once. What an earlier
//! policy compiled of a rule is taken over with its numbers; only new rules add something.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::bundle::document::{
    Combine, Content, Detection, Detector, Expression, ExpressionKind, Location, Rule, TextExpression,
};
use crate::policy::matcher::literals::{self, LiteralId, Literals};
use crate::policy::matcher::{self, ListId, Matcher, WordError};
use crate::policy::metadata::Fact;
use crate::policy::pattern::{self, Pattern, Sieve};
use crate::policy::text::fold::{Folding, fold_entry};

/// What all content conditions of a policy share.
#[derive(Debug)]
pub(in crate::policy) struct Shared {
    pub matcher: Matcher,
    pub literals: Literals,
    /// Every regular expression once, and which of them a text can have at all.
    pub patterns: Vec<Arc<Pattern>>,
    pub sieve: Sieve,
    /// Every detector that some rule uses.
    pub detectors: Vec<Detector>,
    /// Some rule reads the source of HTML parts.
    pub reads_html_source: bool,
    /// By list: whether it is searched for in the source of HTML parts too.
    pub source_lists: Vec<bool>,
    /// By list: the rule in `bundle.rules` whose words it holds; `None`: that rule is gone.
    list_rules: Vec<Option<usize>>,
}

impl Shared {
    /// An entry of a list as written.
    pub fn word<'a>(&self, rules: &'a [Arc<Rule>], list: ListId, entry: usize) -> &'a str {
        let content = self.list_rules[list].and_then(|rule| rules[rule].content.as_ref());
        content.and_then(|content| content.words.get(entry)).map_or("", String::as_str)
    }
}

#[derive(Debug, Clone)]
pub(in crate::policy) enum ContentCode {
    /// Every message has it.
    Always,
    /// A content condition that could not be read: any message could have it (broken rules only).
    Unreadable,
    Conditions(Arc<Conditions>),
}

#[derive(Debug)]
pub(in crate::policy) struct Conditions {
    /// The list and its words; `None` when there is no list.
    pub words: Option<ListId>,
    /// `None` stands for an expression that cannot be read (broken rules only).
    pub expressions: Vec<Option<ExpressionCode>>,
    pub combine: Combine,
    pub html_source: bool,
}

#[derive(Debug)]
pub(in crate::policy) enum ExpressionCode {
    Text(TextCode),
    Metadata(Fact),
    Detector(Detection),
}

#[derive(Debug)]
pub(in crate::policy) struct TextCode {
    pub location: Location,
    pub test: Test,
    /// The opposite of `test` is asked for.
    pub negated: bool,
    pub min_count: usize,
    /// As written, for the trace.
    pub value: String,
}

/// A regular expression of [`Shared::patterns`].
pub(in crate::policy) type PatternId = usize;

#[derive(Debug)]
pub(in crate::policy) enum Test {
    IsEmpty,
    StartsWith(LiteralId),
    EndsWith(LiteralId),
    Contains(LiteralId),
    /// `None` is the empty text.
    Equals(Option<LiteralId>),
    Matches(PatternId),
    AnyWord(Vec<LiteralId>),
    AllWords(Vec<LiteralId>),
}

/// Collects the conditions of rules.
#[derive(Default)]
pub(super) struct Builder<'b> {
    lists: matcher::Builder,
    literals: literals::Builder,
    sieve: Sieve,
    patterns: Vec<Arc<Pattern>>,
    written: HashMap<String, PatternId>,
    /// Expressions that were compiled before.
    spare: HashMap<&'b str, &'b Arc<Pattern>>,
    detectors: BTreeSet<Detector>,
    source_lists: Vec<bool>,
    list_rules: Vec<Option<usize>>,
    reads_html_source: bool,
}

impl<'b> Builder<'b> {
    /// Begins anew, but compiles no expression again that `before` has.
    pub fn new(before: Option<&'b Shared>) -> Self {
        let patterns = before.iter().flat_map(|before| &before.patterns);
        Self { spare: patterns.map(|pattern| (pattern.as_str(), pattern)).collect(), ..Self::default() }
    }

    /// Goes on where `before` ended: what it compiled keeps its numbers.
    pub fn after(before: &'b Shared) -> Self {
        let written = before.patterns.iter().enumerate();
        Self {
            lists: matcher::Builder::after(&before.matcher),
            literals: literals::Builder::after(&before.literals),
            sieve: before.sieve.clone(),
            patterns: before.patterns.clone(),
            written: written.map(|(id, pattern)| (pattern.as_str().to_owned(), id)).collect(),
            source_lists: before.source_lists.clone(),
            list_rules: vec![None; before.list_rules.len()],
            ..Self::default()
        }
    }

    /// Takes over what was compiled of the rule that now stands at `index`.
    pub fn keep(&mut self, index: usize, content: &Content, code: &ContentCode) {
        let ContentCode::Conditions(conditions) = code else { return };
        if let Some(list) = conditions.words {
            self.list_rules[list] = Some(index);
        }
        let detectors = content.expressions.iter().filter_map(|expression| match expression {
            Expression::Detector(detection) => Some(detection.detector),
            Expression::Text(_) | Expression::Metadata(_) => None,
        });
        self.detectors.extend(detectors);
        self.reads_html_source |= content.search_html_source;
    }

    /// The conditions of the rule at `index`. `lenient`: the rule is broken, so a mistake is no surprise.
    pub fn add(&mut self, index: usize, content: &Content, lenient: bool) -> Result<ContentCode, String> {
        let mut words = None;
        if !content.words.is_empty() {
            let added = self.lists.add(&content.words, &content.word_options, lenient);
            words = Some(added.map_err(|e| format!("match.words: {e}"))?);
            self.list_rules.push(Some(index));
            self.source_lists.push(content.search_html_source);
        }
        let mut expressions = Vec::new();
        for (number, expression) in content.expressions.iter().enumerate() {
            match self.expression(expression) {
                Ok(code) => expressions.push(Some(code)),
                Err(_) if lenient => expressions.push(None),
                Err(message) => return Err(format!("match.expressions[{number}]: {message}")),
            }
        }
        self.reads_html_source |= content.search_html_source;
        Ok(ContentCode::Conditions(Arc::new(Conditions {
            words,
            expressions,
            combine: content.combine,
            html_source: content.search_html_source,
        })))
    }

    pub fn build(self) -> Result<Shared, WordError> {
        let written: Vec<&str> = self.patterns.iter().map(|pattern| pattern.as_str()).collect();
        let sieve = match self.sieve.is_empty() {
            true => Sieve::new(written),
            false => self.sieve.and(&written),
        };
        Ok(Shared {
            matcher: self.lists.build(|list| self.list_rules[list].is_some())?,
            literals: self.literals.build()?,
            sieve,
            patterns: self.patterns,
            detectors: self.detectors.into_iter().collect(),
            reads_html_source: self.reads_html_source,
            source_lists: self.source_lists,
            list_rules: self.list_rules,
        })
    }

    fn expression(&mut self, expression: &Expression) -> Result<ExpressionCode, String> {
        Ok(match expression {
            Expression::Text(text) => ExpressionCode::Text(self.text(text)?),
            Expression::Metadata(metadata) => {
                ExpressionCode::Metadata(Fact::compile(metadata).map_err(|e| format!("value: {e}"))?)
            }
            Expression::Detector(detection) => {
                self.detectors.insert(detection.detector);
                ExpressionCode::Detector(detection.clone())
            }
        })
    }

    fn text(&mut self, expression: &TextExpression) -> Result<TextCode, String> {
        use ExpressionKind as Kind;
        let folded = || fold_entry(&expression.value, Folding::default());
        let visible =
            || Some(folded()).filter(|value| !value.is_empty()).ok_or("value: nothing of it is visible");
        let (test, negated) = match expression.kind {
            Kind::StartsWith => (Test::StartsWith(self.literals.add(visible()?)), false),
            Kind::EndsWith => (Test::EndsWith(self.literals.add(visible()?)), false),
            Kind::Contains => (Test::Contains(self.literals.add(visible()?)), false),
            Kind::NotContains => (Test::Contains(self.literals.add(visible()?)), true),
            Kind::Equals => (Test::Equals(visible().ok().map(|value| self.literals.add(value))), false),
            Kind::IsEmpty => (Test::IsEmpty, false),
            Kind::MatchesRegex => (Test::Matches(self.regex(&expression.value)?), false),
            Kind::NotMatchesRegex => (Test::Matches(self.regex(&expression.value)?), true),
            Kind::AnyWord => (Test::AnyWord(self.words(&expression.value)?), false),
            Kind::AllWords => (Test::AllWords(self.words(&expression.value)?), false),
        };
        Ok(TextCode {
            location: expression.location,
            test,
            negated,
            min_count: expression.min_count.max(1) as usize,
            value: expression.value.clone(),
        })
    }

    fn regex(&mut self, written: &str) -> Result<PatternId, String> {
        if let Some(known) = self.written.get(written) {
            return Ok(*known);
        }
        let pattern = match self.spare.get(written) {
            Some(known) => Arc::clone(known),
            None => Arc::new(pattern::compile(written).map_err(|e| format!("value: {e}"))?),
        };
        self.patterns.push(pattern);
        self.written.insert(written.to_owned(), self.patterns.len() - 1);
        Ok(self.patterns.len() - 1)
    }

    /// The words of a value, each once.
    fn words(&mut self, value: &str) -> Result<Vec<LiteralId>, String> {
        let mut words = Vec::new();
        for word in value.split_whitespace() {
            let folded = fold_entry(word, Folding::default());
            if folded.is_empty() {
                return Err(format!("value: {}", WordError::Empty(word.to_owned())));
            }
            let id = self.literals.add(folded);
            if !words.contains(&id) {
                words.push(id);
            }
        }
        if words.is_empty() { Err("value: there is no word in it".to_owned()) } else { Ok(words) }
    }
}
