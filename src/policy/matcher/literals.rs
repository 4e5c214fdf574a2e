//! The literal texts of all expressions as one automaton: one pass over a text serves every rule.
//!
//! Tallies are kept by literal and not by rule, so that a thousand rules with the same word cost what
//! one costs.

use std::collections::HashMap;
use std::sync::Arc;

use aho_corasick::AhoCorasick;

use super::{HITS_PER_BYTE, TooManyHits, WordError, automaton, stands_alone};
use crate::policy::text::fold::View;

/// A folded text that some expression asks for.
pub type LiteralId = usize;

/// Places remembered of one literal in one text.
pub const MAX_SPOTS: usize = 8;

#[derive(Debug, Default)]
pub struct Builder {
    before: Literals,
    ids: HashMap<String, LiteralId>,
}

impl Builder {
    /// Keeps the numbers that literals have there; new ones come behind.
    pub fn after(before: &Literals) -> Self {
        Self { before: before.clone(), ids: HashMap::new() }
    }

    /// `folded` has a visible character.
    pub fn add(&mut self, folded: String) -> LiteralId {
        let next = self.before.len() + self.ids.len();
        *self.ids.entry(folded).or_insert(next)
    }

    pub fn build(self) -> Result<Literals, WordError> {
        let Self { before, ids } = self;
        if ids.is_empty() {
            return Ok(before);
        }
        let mut new: Vec<(String, LiteralId)> = ids.into_iter().collect();
        new.sort_by_key(|(_, id)| *id);
        let new = new.into_iter().map(|(text, _)| text);
        if before.is_empty() {
            let texts: Vec<String> = new.collect();
            return Ok(Literals { main: Some((automaton(&texts)?.into(), texts.len())), late: None });
        }
        let late = before.late.iter().flat_map(|(_, texts)| texts.iter().cloned());
        let texts: Vec<String> = late.chain(new).collect();
        let late = Some((automaton(&texts)?.into(), texts.into()));
        Ok(Literals { late, ..before })
    }
}

#[derive(Debug, Clone, Default)]
pub struct Literals {
    /// The automaton, and for how many literals it is.
    main: Option<(Arc<AhoCorasick>, usize)>,
    /// Those that came since `main` was built; their numbers go on behind it.
    late: Option<(Arc<AhoCorasick>, Arc<[String]>)>,
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
        self.main.is_none()
    }

    fn len(&self) -> usize {
        let main = self.main.as_ref().map_or(0, |(_, count)| *count);
        main + self.late.as_ref().map_or(0, |(_, texts)| texts.len())
    }

    pub fn search(&self, view: &View) -> Result<HashMap<LiteralId, Tally>, TooManyHits> {
        let mut tallies: HashMap<LiteralId, Tally> = HashMap::new();
        let Some((main, count)) = &self.main else { return Ok(tallies) };
        let text = view.text.as_str();
        let mut left = text.len().saturating_mul(HITS_PER_BYTE).saturating_add(1024);
        let main = main.find_overlapping_iter(text).map(|found| (found.pattern().as_usize(), found.range()));
        let late = self.late.iter().flat_map(|(automaton, _)| automaton.find_overlapping_iter(text));
        let late = late.map(|found| (count + found.pattern().as_usize(), found.range()));
        for (literal, range) in main.chain(late) {
            left = left.checked_sub(1).ok_or(TooManyHits)?;
            let tally = tallies.entry(literal).or_default();
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

    #[test]
    fn literals_that_came_later_are_found_beside_the_first_ones() {
        let mut builder = Builder::default();
        let bad = builder.add("bad".into());
        let first = builder.build().unwrap();
        let mut builder = Builder::after(&first);
        let worse = builder.add("worse".into());
        let second = builder.build().unwrap();
        let mut builder = Builder::after(&second);
        let worst = builder.add("worst".into());
        let third = builder.build().unwrap();
        let view = fold("bad worse worst", Folding::default());
        let found = third.search(&view).unwrap();
        assert!([bad, worse, worst].iter().all(|literal| found[literal].whole.count == 1));
        assert_eq!(first.search(&view).unwrap().len(), 1, "what runs already is not touched");
    }
}
