//! The content conditions of all rules, compiled together: what rules share is searched for once.

use crate::bundle::document::{
    Combine, Confusables, Content, Expression, ExpressionKind, Location, Rule, TextExpression, WordOptions,
};
use crate::policy::matcher::{self, ListId, Matcher, WordError};
use crate::policy::pattern::{self, Pattern};
use crate::policy::text::fold::{Folding, fold_entry};

/// What all content conditions of a policy share.
#[derive(Debug)]
pub(in crate::policy) struct Shared {
    pub matcher: Matcher,
    /// Some rule reads the source of HTML parts.
    pub reads_html_source: bool,
    /// By list: whether it is searched for in the source of HTML parts too.
    pub source_lists: Vec<bool>,
    /// By list: the rule in `bundle.rules` whose words it holds.
    list_rules: Vec<usize>,
}

impl Shared {
    /// An entry of a list as written.
    pub fn word<'a>(&self, rules: &'a [Rule], list: ListId, entry: usize) -> &'a str {
        let content = rules[self.list_rules[list]].content.as_ref();
        content.and_then(|content| content.words.get(entry)).map_or("", String::as_str)
    }
}

#[derive(Debug)]
pub(in crate::policy) enum ContentCode {
    /// Every message has it.
    Always,
    /// A content condition that could not be read: any message could have it (broken rules only).
    Unreadable,
    Conditions(Conditions),
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
pub(in crate::policy) struct ExpressionCode {
    pub location: Location,
    pub test: Test,
    /// The opposite of `test` is asked for.
    pub negated: bool,
    pub min_count: usize,
    /// As written, for the trace.
    pub value: String,
}

#[derive(Debug)]
pub(in crate::policy) enum Test {
    StartsWith(String),
    EndsWith(String),
    Contains(String),
    Equals(String),
    IsEmpty,
    Matches(Pattern),
    AnyWord(Matcher),
    AllWords(Matcher),
}

/// Collects the conditions of rules.
#[derive(Default)]
pub(super) struct Builder {
    lists: matcher::Builder,
    source_lists: Vec<bool>,
    list_rules: Vec<usize>,
    reads_html_source: bool,
}

impl Builder {
    /// The conditions of the rule at `index`. `lenient`: the rule is broken, so a mistake is no surprise.
    pub fn add(&mut self, index: usize, content: &Content, lenient: bool) -> Result<ContentCode, String> {
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
        self.reads_html_source |= content.search_html_source;
        Ok(ContentCode::Conditions(Conditions {
            words,
            expressions,
            combine: content.combine,
            html_source: content.search_html_source,
        }))
    }

    pub fn build(self) -> Result<Shared, WordError> {
        Ok(Shared {
            matcher: self.lists.build()?,
            reads_html_source: self.reads_html_source,
            source_lists: self.source_lists,
            list_rules: self.list_rules,
        })
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
