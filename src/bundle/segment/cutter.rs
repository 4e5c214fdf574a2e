//! Cuts the rules of a bundle again and again, at the cost of what changed since the last time. The result is
//! that of [`super::cut`]: what is remembered only spares work.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{RULES, Segment, bucket, bucket_count, cut_with};
use crate::bundle::document::{Bundle, Rule};

/// What the last bundle was cut into. Whoever makes bundle after bundle keeps one.
#[derive(Debug, Default)]
pub struct Cutter {
    /// The hash that leads a rule to its bucket; the rule is kept so that no other one can stand at its address.
    known: HashMap<usize, (Arc<Rule>, u64)>,
    /// By name, with the rules in the order in which they are written.
    segments: HashMap<String, (Vec<Arc<Rule>>, Segment)>,
    /// Segments of rules that were written out and hashed so far.
    encoded: u64,
}

fn address(rule: &Arc<Rule>) -> usize {
    Arc::as_ptr(rule).addr()
}

impl Cutter {
    /// The same as [`super::cut`].
    pub fn cut(&mut self, bundle: &Bundle) -> Vec<Segment> {
        cut_with(self, bundle)
    }

    /// How many segments of rules were written out and hashed so far, for tests and benches.
    pub fn encoded(&self) -> u64 {
        self.encoded
    }

    pub(super) fn rules(&mut self, rules: &[Arc<Rule>]) -> Vec<Segment> {
        let count = bucket_count(rules.len());
        let mut known = HashMap::with_capacity(rules.len());
        let mut filled: BTreeMap<usize, Vec<Arc<Rule>>> = BTreeMap::new();
        for rule in rules {
            let address = address(rule);
            let hash = match self.known.get(&address) {
                Some((_, hash)) => *hash,
                None => bucket::hash(&rule.origin.object.to_string()),
            };
            known.insert(address, (rule.clone(), hash));
            filled.entry(bucket::place(hash, count)).or_default().push(rule.clone());
        }
        self.known = known;
        let mut segments = HashMap::with_capacity(filled.len());
        let mut cut = Vec::with_capacity(filled.len());
        for (number, mut rules) in filled {
            let name = format!("{RULES}-{number}");
            let before = self.segments.remove(&name);
            rules.sort_by(|a, b| a.origin.object.cmp(&b.origin.object));
            let same = |before: &[Arc<Rule>]| {
                before.len() == rules.len() && before.iter().zip(&rules).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            let segment = match before {
                Some((before, segment)) if same(&before) => segment,
                _ => {
                    self.encoded += 1;
                    Segment::of_rules(name.clone(), rules.clone())
                }
            };
            cut.push(segment.clone());
            segments.insert(name, (rules, segment));
        }
        self.segments = segments;
        cut
    }
}

#[cfg(test)]
mod tests;
