//! Text expressions: one search of each place serves all of them.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::text::{Clause, PLACES, Place, Text, Way};
use super::{Answer, Asked, MAX_EVIDENCE, Texts};
use crate::policy::compile::{PatternId, Test, TextCode};
use crate::policy::matcher::TooManyHits;
use crate::policy::matcher::literals::{LiteralId, Tally};
use crate::policy::pattern::Possible;
use crate::policy::verdict::Evidence;

/// By text of a place: what one pattern matches in it.
type SharedMatches = Rc<Vec<Matches>>;

/// What the automata found by place, each place searched when it is first asked for.
#[derive(Default)]
pub(super) struct Searches {
    literals: [OnceCell<Result<Tallies, TooManyHits>>; PLACES],
    possible: [OnceCell<Vec<Sifted>>; PLACES],
    matches: RefCell<HashMap<(PatternId, Place), SharedMatches>>,
}

/// By literal: the texts of the place that have it.
type Tallies = HashMap<LiteralId, Vec<(usize, Tally)>>;

/// The regular expressions that a text can have at all.
struct Sifted {
    display: Possible,
    compatible: Option<Possible>,
}

/// Matches of a regular expression in one text.
struct Matches {
    text: usize,
    way: Way,
    count: usize,
    first: Vec<Range<usize>>,
}

impl Searches {
    pub fn stopped(&self) -> Option<&'static str> {
        let failed = self.literals.iter().any(|found| matches!(found.get(), Some(Err(TooManyHits))));
        failed.then_some("too many matches of expressions")
    }
}

/// What one test found over its places.
#[derive(Default)]
struct Found<'t> {
    /// Occurrences by text, with its choice of a multipart/alternative.
    counts: Vec<(Option<(u32, u32)>, usize)>,
    spots: Vec<(&'t Text, Way, Range<usize>)>,
}

impl<'t> Found<'t> {
    fn add(&mut self, text: &'t Text, way: Way, count: usize, spots: impl IntoIterator<Item = Range<usize>>) {
        if count > 0 {
            self.counts.push((text.branch, count));
            let left = MAX_EVIDENCE.saturating_sub(self.spots.len());
            self.spots.extend(spots.into_iter().take(left).map(|range| (text, way, range)));
        }
    }

    /// The choices of a multipart/alternative say the same thing, so the one with the most counts.
    fn total(&self) -> usize {
        let mut sum = 0;
        let mut choices: HashMap<u32, HashMap<u32, usize>> = HashMap::new();
        for (branch, count) in &self.counts {
            match branch {
                None => sum += count,
                Some((group, choice)) => {
                    *choices.entry(*group).or_default().entry(*choice).or_default() += count;
                }
            }
        }
        sum + choices.values().filter_map(|choices| choices.values().max()).sum::<usize>()
    }
}

impl Texts<'_> {
    pub(super) fn text(&self, number: u16, code: &TextCode, asked: Asked<'_>) -> Answer {
        let places = Place::of(code.location, asked.html_source);
        let mut open = self.open_places(places, asked);
        let clause = Clause { entry: &code.value, expression: Some(number), secret: false };
        if let Test::IsEmpty = code.test {
            let mut texts = places.iter().flat_map(|place| self.places.texts(*place)).peekable();
            let first = texts.peek().copied();
            if !texts.all(|text| text.folded().text.is_empty()) {
                return Answer::No;
            }
            // What was not read need not be empty.
            return match open.any() {
                true => Answer::Unknown(open),
                false => {
                    Answer::Yes(first.map(|t| t.evidence(t.folded(), &(0..0), clause)).into_iter().collect())
                }
            };
        }
        let (holds, found) = match self.hold(code, places) {
            Ok(found) => found,
            Err(TooManyHits) => {
                open.limit = true;
                (false, Found::default())
            }
        };
        match (holds, code.negated) {
            (true, false) => {
                let evidence = |(text, way, range): &(&Text, Way, Range<usize>)| {
                    text.evidence(text.view(*way), range, clause)
                };
                Answer::Yes(found.spots.iter().map(evidence).collect())
            }
            (true, true) => Answer::No,
            (false, _) if open.any() => Answer::Unknown(open),
            (false, false) => Answer::No,
            (false, true) => {
                let first = places.iter().flat_map(|place| self.places.texts(*place)).next();
                Answer::Yes(vec![Evidence {
                    part: first.map_or("message", |text| &text.label).to_owned(),
                    entry: code.value.clone(),
                    expression: Some(number),
                    ..Evidence::default()
                }])
            }
        }
    }

    fn hold(&self, code: &TextCode, places: &[Place]) -> Result<(bool, Found<'_>), TooManyHits> {
        let mut found = Found::default();
        let anywhere = |t: &Tally| (t.anywhere.count, ranges(&t.anywhere.first, t.length));
        let whole = |t: &Tally| (t.whole.count, ranges(&t.whole.first, t.length));
        match &code.test {
            Test::IsEmpty => {}
            Test::Contains(literal) => self.literal(*literal, places, &mut found, |_, t| anywhere(t))?,
            Test::StartsWith(literal) => self.literal(*literal, places, &mut found, |_, t| {
                let at = 0..t.length;
                (usize::from(t.at_start), vec![at])
            })?,
            Test::EndsWith(literal) => self.literal(*literal, places, &mut found, |text, t| {
                let end = text.folded().text.len();
                let at = end - t.length..end;
                (usize::from(t.at_end), vec![at])
            })?,
            Test::Equals(Some(literal)) => self.literal(*literal, places, &mut found, |text, t| {
                let at = 0..t.length;
                (usize::from(text.folded().text.len() == t.length), vec![at])
            })?,
            Test::Equals(None) => {
                let texts = places.iter().flat_map(|place| self.places.texts(*place));
                for text in texts.filter(|text| text.folded().text.is_empty()) {
                    found.add(text, Way::Folded, 1, std::iter::once(0..0));
                }
            }
            Test::Matches(pattern) => self.matches(*pattern, places, &mut found),
            Test::AnyWord(words) | Test::AllWords(words) => {
                let all = matches!(code.test, Test::AllWords(_));
                let (mut least, mut sum) = (usize::MAX, 0);
                for word in words {
                    let mut one = Found::default();
                    self.literal(*word, places, &mut one, |_, t| whole(t))?;
                    let total = one.total();
                    (least, sum) = (least.min(total), sum + total);
                    let left = MAX_EVIDENCE.saturating_sub(found.spots.len());
                    found.spots.extend(one.spots.into_iter().take(left));
                }
                return Ok((if all { least } else { sum } >= code.min_count, found));
            }
        }
        Ok((found.total() >= code.min_count, found))
    }

    /// What one literal does over some places; `pick` says how much of a tally counts and where.
    fn literal<'t>(
        &'t self,
        literal: LiteralId,
        places: &[Place],
        found: &mut Found<'t>,
        pick: impl Fn(&Text, &Tally) -> (usize, Vec<Range<usize>>),
    ) -> Result<(), TooManyHits> {
        for place in places {
            for (at, tally) in self.tallies(*place)?.get(&literal).into_iter().flatten() {
                let text = &self.places.texts(*place)[*at];
                let (count, spots) = pick(text, tally);
                found.add(text, Way::Folded, count, spots);
            }
        }
        Ok(())
    }

    /// One pass of the automaton over the texts of a place, for all expressions of all rules.
    fn tallies(&self, place: Place) -> Result<&Tallies, TooManyHits> {
        let tallies = self.searches.literals[place as usize].get_or_init(|| {
            let mut tallies = Tallies::new();
            for (at, text) in self.places.texts(place).iter().enumerate() {
                for (literal, tally) in self.policy.content.literals.search(text.folded())? {
                    tallies.entry(literal).or_default().push((at, tally));
                }
            }
            Ok(tallies)
        });
        tallies.as_ref().map_err(|too_many| *too_many)
    }

    fn matches<'t>(&'t self, pattern: PatternId, places: &[Place], found: &mut Found<'t>) {
        for place in places {
            let possible = |sifted: &Sifted| {
                sifted.display.has(pattern) || sifted.compatible.as_ref().is_some_and(|p| p.has(pattern))
            };
            let sifted = self.sifted(*place);
            if !sifted.iter().any(possible) {
                continue;
            }
            let known = self.searches.matches.borrow().get(&(pattern, *place)).cloned();
            let matches = known.unwrap_or_else(|| {
                let matches = Rc::new(self.run(pattern, *place, sifted));
                self.searches.matches.borrow_mut().insert((pattern, *place), matches.clone());
                matches
            });
            for one in matches.iter() {
                let text = &self.places.texts(*place)[one.text];
                found.add(text, one.way, one.count, one.first.iter().cloned());
            }
        }
    }

    /// One pass over the texts of a place that says which expressions need be run there.
    fn sifted(&self, place: Place) -> &[Sifted] {
        let sieve = &self.policy.content.sieve;
        self.searches.possible[place as usize].get_or_init(|| {
            let texts = self.places.texts(place).iter();
            let sift = |text: &Text| Sifted {
                display: sieve.possible(&text.display().text),
                compatible: text.compatible().map(|view| sieve.possible(&view.text)),
            };
            texts.map(sift).collect()
        })
    }

    fn run(&self, pattern: PatternId, place: Place, sifted: &[Sifted]) -> Vec<Matches> {
        let regex = &self.policy.content.patterns[pattern];
        let run = |at: usize, way: Way| {
            let mut matches = Matches { text: at, way, count: 0, first: Vec::new() };
            for range in regex.find_iter(&self.places.texts(place)[at].view(way).text) {
                matches.count += 1;
                if matches.first.len() < MAX_EVIDENCE {
                    matches.first.push(range);
                }
            }
            matches
        };
        let mut all = Vec::new();
        for (at, sifted) in sifted.iter().enumerate() {
            let plain = sifted.display.has(pattern).then(|| run(at, Way::Display));
            // Full-width and other compatible letters are worth a second look.
            let wide =
                sifted.compatible.as_ref().filter(|p| p.has(pattern)).map(|_| run(at, Way::Compatible));
            let better = match (plain, wide) {
                (Some(plain), Some(wide)) => Some(if wide.count > plain.count { wide } else { plain }),
                (plain, wide) => plain.or(wide),
            };
            all.extend(better);
        }
        all
    }
}

fn ranges(starts: &[usize], length: usize) -> Vec<Range<usize>> {
    starts.iter().map(|&start| start..start + length).collect()
}
