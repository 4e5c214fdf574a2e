//! Which of many expressions can be in a text at all, told in one pass (spec R64).
//!
//! Expressions with atoms (see [`super::atoms`]) are told by one search for all atoms. The others share
//! lazy automata that know their shapes with the anchors taken out: what such an automaton refuses,
//! the expression refuses too. "Possible" is a hint and never an answer: whoever asks runs the
//! expression. An automaton that gives up on a text calls all its expressions possible.

use std::collections::BTreeMap;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::pool::Pool;
use regex_automata::{Input, PatternSet};
use regex_syntax::hir::{Capture, Hir, HirKind, Repetition};

use super::atoms;

/// Hits looked at per byte of text.
const HITS_PER_BYTE: usize = 16;
/// Expressions in one automaton, and bytes of its program: larger sets are split.
const MAX_GROUP: usize = 64;
const MAX_PROGRAM: usize = 8 << 20;
const MAX_CACHE: usize = 2 << 20;

/// A set of expressions by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Possible(Vec<u64>);

impl Possible {
    fn none(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn add(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    pub fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }
}

/// Expressions by number, in the order they were given. A sieve grows: see [`Sieve::and`].
#[derive(Debug, Clone, Default)]
pub struct Sieve {
    len: usize,
    main: Arc<Part>,
    /// The expressions that came later.
    late: Arc<Part>,
}

/// Expressions that were compiled together. Numbers are those of the whole sieve.
#[derive(Debug, Default)]
struct Part {
    atoms: Option<AhoCorasick>,
    /// By atom: the expressions it belongs to.
    owners: Vec<Vec<usize>>,
    groups: Vec<Group>,
    /// Possible in every text.
    always: Vec<usize>,
    count: usize,
}

impl Sieve {
    /// Patterns that have been compiled before, so they are well formed.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Self {
        let patterns: Vec<(usize, &str)> = patterns.into_iter().enumerate().collect();
        let (len, main) = (patterns.len(), Part::new(patterns).into());
        Self { len, main, late: Arc::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same sieve with further expressions. `all`: those it has, then the new ones. What came later is compiled
    /// together again, so whoever lets it grow begins anew before that is much.
    pub fn and(&self, all: &[&str]) -> Self {
        if all.len() == self.len {
            return self.clone();
        }
        let late = all.iter().copied().enumerate().skip(self.main.count).collect();
        Self { len: all.len(), main: self.main.clone(), late: Part::new(late).into() }
    }

    pub fn possible(&self, text: &str) -> Possible {
        let mut possible = Possible::none(self.len);
        self.main.possible(text, &mut possible);
        self.late.possible(text, &mut possible);
        possible
    }
}

impl Part {
    fn new(patterns: Vec<(usize, &str)>) -> Self {
        let mut sieve = Self { count: patterns.len(), ..Self::default() };
        let mut by_atom: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut shapes = Vec::new();
        for (number, pattern) in patterns {
            let Ok(hir) = regex_syntax::parse(pattern) else {
                sieve.always.push(number);
                continue;
            };
            match atoms::required(&hir) {
                Some(atoms) => {
                    for atom in atoms {
                        by_atom.entry(atom).or_default().push(number);
                    }
                }
                None => shapes.push((number, without_looks(&hir))),
            }
        }
        let built = AhoCorasick::builder().match_kind(MatchKind::Standard).build(by_atom.keys());
        match built {
            Ok(_) if by_atom.is_empty() => {}
            Ok(automaton) => sieve.atoms = Some(automaton),
            Err(_) => sieve.always.extend(by_atom.values().flatten()),
        }
        sieve.owners = by_atom.into_values().collect();
        // What matches the empty text is in every text.
        let (empty, shapes): (Vec<_>, Vec<_>) = shapes
            .into_iter()
            .partition(|(_, hir)| hir.properties().minimum_len().is_none_or(|len| len == 0));
        sieve.always.extend(empty.into_iter().map(|(number, _)| number));
        for shapes in shapes.chunks(MAX_GROUP) {
            sieve.group(shapes);
        }
        sieve
    }

    /// One automaton, or two halves when that is too large.
    fn group(&mut self, shapes: &[(usize, Hir)]) {
        match Group::new(shapes) {
            Some(group) => self.groups.push(group),
            None if shapes.len() > 1 => {
                let (one, other) = shapes.split_at(shapes.len() / 2);
                self.group(one);
                self.group(other);
            }
            None => self.always.extend(shapes.iter().map(|(number, _)| *number)),
        }
    }

    fn possible(&self, text: &str, possible: &mut Possible) {
        self.always.iter().for_each(|number| possible.add(*number));
        if let Some(automaton) = &self.atoms {
            let folded = atoms::fold_text(text);
            let mut left = folded.len().saturating_mul(HITS_PER_BYTE).saturating_add(1024);
            let mut seen = Possible::none(self.owners.len());
            for found in automaton.find_overlapping_iter(&*folded) {
                let atom = found.pattern().as_usize();
                if !seen.has(atom) {
                    seen.add(atom);
                    self.owners[atom].iter().for_each(|number| possible.add(*number));
                }
                left -= 1;
                if left == 0 {
                    self.owners.iter().flatten().for_each(|number| possible.add(*number));
                    break;
                }
            }
        }
        for group in &self.groups {
            group.possible(text, possible);
        }
    }
}

type Caches = Pool<Cache, Box<dyn Fn() -> Cache + Send + Sync + UnwindSafe + RefUnwindSafe>>;

struct Group {
    dfa: DFA,
    numbers: Vec<usize>,
    caches: Caches,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("numbers", &self.numbers).finish_non_exhaustive()
    }
}

impl Group {
    fn new(shapes: &[(usize, Hir)]) -> Option<Self> {
        let config =
            thompson::Config::new().nfa_size_limit(Some(MAX_PROGRAM)).which_captures(WhichCaptures::None);
        let hirs: Vec<&Hir> = shapes.iter().map(|(_, hir)| hir).collect();
        let nfa = thompson::Compiler::new().configure(config).build_many_from_hir(&hirs).ok()?;
        let config = DFA::config()
            .match_kind(regex_automata::MatchKind::All)
            .cache_capacity(MAX_CACHE)
            .skip_cache_capacity_check(true)
            // Past this the automaton learns more states than it reuses.
            .minimum_cache_clear_count(Some(4));
        let dfa = DFA::builder().configure(config).build_from_nfa(nfa).ok()?;
        let for_cache = dfa.clone();
        let caches: Caches = Pool::new(Box::new(move || for_cache.create_cache()));
        Some(Self { dfa, numbers: shapes.iter().map(|(number, _)| *number).collect(), caches })
    }

    fn possible(&self, text: &str, possible: &mut Possible) {
        let mut found = PatternSet::new(self.numbers.len());
        let searched = {
            let mut cache = self.caches.get();
            self.dfa.try_which_overlapping_matches(&mut cache, &Input::new(text), &mut found)
        };
        for (at, number) in self.numbers.iter().enumerate() {
            if searched.is_err() || found.contains(regex_automata::PatternID::must(at)) {
                possible.add(*number);
            }
        }
    }
}

/// The same shape without anchors and word boundaries: it matches wherever the expression does.
fn without_looks(hir: &Hir) -> Hir {
    match hir.kind() {
        HirKind::Look(_) => Hir::empty(),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) => hir.clone(),
        HirKind::Repetition(repetition) => Hir::repetition(Repetition {
            sub: Box::new(without_looks(&repetition.sub)),
            ..repetition.clone()
        }),
        HirKind::Capture(capture) => {
            Hir::capture(Capture { sub: Box::new(without_looks(&capture.sub)), ..capture.clone() })
        }
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(without_looks).collect()),
        HirKind::Alternation(choices) => Hir::alternation(choices.iter().map(without_looks).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::pattern::compile;

    #[test]
    fn what_matches_is_possible_and_most_of_the_rest_is_not() {
        let patterns = [
            r"(?i)\[(BAD)\]",
            r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b",
            "^$",
            "a*",
            r"(?i)stra(ss|ß)e",
            "x|y",
            r"\p{Han}{2}",
        ];
        let sieve = Sieve::new(patterns);
        for (text, expected) in [
            ("see [bad]", vec![0, 2, 3]),
            ("078-05-1120", vec![1, 2, 3]),
            ("STRASSE", vec![2, 3, 4]),
            ("straße für 機密", vec![2, 3, 4, 6]),
            ("ſtraße y", vec![2, 3, 4, 5]),
            ("", vec![2, 3]),
        ] {
            let possible = sieve.possible(text);
            let found: Vec<usize> = (0..patterns.len()).filter(|&number| possible.has(number)).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn a_thousand_shapes_are_split_and_none_is_missed() {
        let patterns: Vec<String> =
            (0..1000).map(|n| format!(r"[A-Z]{{{}}}[0-9]{{{}}}\w?", n % 7 + 1, n % 11 + 2)).collect();
        let sieve = Sieve::new(patterns.iter().map(String::as_str));
        let possible = sieve.possible("é ABC12345 é");
        for (number, pattern) in patterns.iter().enumerate() {
            let matches = compile(pattern).expect("a pattern").is_match("é ABC12345 é");
            assert!(!matches || possible.has(number), "{pattern}");
        }
        let none = sieve.possible("nothing of the kind");
        assert!((0..patterns.len()).all(|number| !none.has(number)));
    }

    proptest::proptest! {
        /// The one promise: an expression that matches is never called impossible.
        #[test]
        fn no_match_is_missed(
            patterns in proptest::collection::vec("(\\(\\?i\\))?[a-cA-CkKsSſß\\[\\]().*+?|^$0-9]{1,8}", 1..6),
            text in "[a-cA-CkKſßS0-9 .\\n]{0,24}",
        ) {
            let known: Vec<_> = patterns.iter().filter_map(|p| Some((p.as_str(), compile(p).ok()?))).collect();
            let sieve = Sieve::new(known.iter().map(|(p, _)| *p));
            let possible = sieve.possible(&text);
            for (number, (written, pattern)) in known.iter().enumerate() {
                proptest::prop_assert!(!pattern.is_match(&text) || possible.has(number), "{} {:?}", written, text);
            }
        }
    }
}
