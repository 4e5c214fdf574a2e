//! Which rules an earlier policy has compiled, and whether the next one goes on from it or begins anew.
//!
//! What is new stands in automata of its own, which every text is read by too, and what is gone leaves holes.
//! Both are bounded by a share of the whole, so searching stays what it costs after a fresh compile, and a
//! compile of everything is paid for by very many small ones.

use std::collections::HashMap;
use std::sync::Arc;

use super::{ContentCode, Policy};
use crate::bundle::Bundle;
use crate::bundle::document::Rule;

/// When to begin anew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Below this weight nothing is worth remembering but expressions.
    pub least: usize,
    /// One part in so many may be new or gone.
    pub share: usize,
}

pub(super) const LIMITS: Limits = Limits { least: 2000, share: 16 };

/// How a policy came about: see [`weight`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) total: usize,
    /// What came and went since everything was put together.
    pub(super) since: usize,
}

/// About what a rule adds to the automata: its words and expressions.
fn weight(rule: &Rule) -> usize {
    rule.content.as_ref().map_or(1, |content| 1 + content.words.len() + content.expressions.len())
}

/// What an earlier policy compiled, by the address of the rule; that policy keeps the rules where they are.
#[derive(Default)]
pub(super) struct Known<'a>(HashMap<*const Rule, &'a ContentCode>);

impl<'a> Known<'a> {
    /// Nothing, where the next policy begins anew.
    pub fn of(before: Option<&'a Policy>, bundle: &Bundle, limits: Limits) -> (Self, Growth) {
        let total: usize = bundle.rules.iter().map(|rule| weight(rule)).sum();
        let anew = (Self::default(), Growth { total, since: 0 });
        let Some(before) = before.filter(|_| total >= limits.least) else { return anew };
        let rules = &before.bundle.rules;
        let codes = before.rules.iter().map(|code| (Arc::as_ptr(&rules[code.index]), &code.content));
        let known = Self(codes.collect());
        let kept = bundle.rules.iter().filter(|rule| known.0.contains_key(&Arc::as_ptr(rule)));
        let kept: usize = kept.map(|rule| weight(rule)).sum();
        let since = before.growth.since + (total - kept) + (before.growth.total - kept);
        match since <= total / limits.share {
            true => (known, Growth { total, since }),
            false => anew,
        }
    }

    /// Whether numbers of the earlier policy stay good.
    pub fn goes_on(&self) -> bool {
        !self.0.is_empty()
    }

    pub fn code(&self, rule: &Arc<Rule>) -> Option<&'a ContentCode> {
        self.0.get(&Arc::as_ptr(rule)).copied()
    }
}
