//! The literal texts of all expressions as one automaton: one pass over a text serves every rule.
//!
//! Tallies are kept by literal and not by rule, so that a thousand rules with the same word cost what
//! one costs.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, MatchKind};

use super::{HITS_PER_BYTE, TooManyHits, WordError, stands_alone};
use crate::policy::text::fold::View;

/// A folded text that some expression asks for.
pub type LiteralId = usize;

/// Places remembered of one literal in one text.
pub const MAX_SPOTS: usize = 8;

#[derive(Debug, Default)]
pub struct Builder {
    ids: HashMap<String, LiteralId>,
}

impl Builder {
    /// `folded` has a visible character.
    pub fn add(&mut self, folded: String) -> LiteralId {
        let next = self.ids.len();
        *self.ids.entry(folded).or_insert(next)
    }

    pub fn build(self) -> Result<Literals, WordError> {
        let mut literals: Vec<(String, LiteralId)> = self.ids.into_iter().collect();
        literals.sort_by_key(|(_, id)| *id);
        if literals.is_empty() {
            return Ok(Literals::default());
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(literals.iter().map(|(text, _)| text))
            .map_err(|error| WordError::TooLarge(error.to_string()))?;
        Ok(Literals { automaton: Some(automaton) })
    }
}

#[derive(Debug, Default)]
pub struct Literals {
    automaton: Option<AhoCorasick>,
}

/// Occurrences that do not overlap, from the left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spots {
    pub count: usize,
    /// Where the first of them start.
    pub first: Vec<usize>,
    end: usize,
}

impl Spots {
    fn add(&mut self, start: usize, end: usize) {
        if self.count == 0 || start >= self.end {
            self.count += 1;
            self.end = end;
            if self.first.len() < MAX_SPOTS {
                self.first.push(start);
            }
        }
    }
}

/// What one literal does in one text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of the literal.
    pub length: usize,
    pub anywhere: Spots,
    /// With edges of words at both ends.
    pub whole: Spots,
    pub at_start: bool,
    pub at_end: bool,
}

impl Literals {
    pub fn is_empty(&self) -> bool {
        self.automaton.is_none()
    }

    pub fn search(&self, view: &View) -> Result<HashMap<LiteralId, Tally>, TooManyHits> {
        let mut tallies: HashMap<LiteralId, Tally> = HashMap::new();
        let Some(automaton) = &self.automaton else { return Ok(tallies) };
        let text = view.text.as_str();
        let mut left = text.len().saturating_mul(HITS_PER_BYTE).saturating_add(1024);
        for found in automaton.find_overlapping_iter(text) {
            left = left.checked_sub(1).ok_or(TooManyHits)?;
            let range = found.range();
            let tally = tallies.entry(found.pattern().as_usize()).or_default();
            tally.length = range.len();
            tally.at_start |= range.start == 0;
            tally.at_end |= range.end == text.len();
            tally.anywhere.add(range.start, range.end);
            if stands_alone(text, &range) {
                tally.whole.add(range.start, range.end);
            }
        }
        Ok(tallies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::text::fold::{Folding, fold};

    #[test]
    fn one_pass_tells_where_every_literal_is() {
        let mut builder = Builder::default();
        let (aa, bad, x) = (builder.add("aa".into()), builder.add("bad".into()), builder.add("x".into()));
        assert_eq!(builder.add("bad".into()), bad, "the same text is one literal");
        let literals = builder.build().unwrap();
        let found = literals.search(&fold("aaa badly bad aa", Folding::default())).unwrap();
        let tally = &found[&aa];
        assert_eq!((tally.anywhere.count, tally.whole.count), (2, 1), "occurrences do not overlap");
        assert!(tally.at_start && tally.at_end);
        assert_eq!((found[&bad].anywhere.count, found[&bad].whole.first.as_slice()), (2, &[10][..]));
        assert!(!found.contains_key(&x));
    }
}
