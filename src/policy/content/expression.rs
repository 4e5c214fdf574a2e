//! One expression over the texts of its location.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

use super::{MAX_EVIDENCE, Text};
use crate::policy::compile::{ExpressionCode, Test};
use crate::policy::matcher::Matcher;
use crate::policy::text::fold::{View, display};
use crate::policy::verdict::Evidence;

/// Whether a test holds over the texts of a location, and where. Fails if a search had to stop.
pub(super) fn hold(expression: &ExpressionCode, texts: &[&Text]) -> Result<(bool, Vec<Evidence>), ()> {
    let mut evidence = Vec::new();
    let mut note = |text: &Text, view: &View, range: Range<usize>| {
        if evidence.len() < MAX_EVIDENCE {
            evidence.push(text.evidence(view, &range, &expression.value));
        }
    };
    let min = expression.min_count;
    let counts: Vec<usize> = match &expression.test {
        Test::IsEmpty => {
            let empty = texts.iter().all(|text| text.folded().text.is_empty());
            return Ok((
                empty,
                texts.first().map(|t| t.evidence(t.folded(), &(0..0), "")).into_iter().collect(),
            ));
        }
        Test::Equals(value) => each(texts, |text| {
            let view = text.folded();
            let equal = view.text == *value;
            if equal {
                note(text, view, 0..view.text.len());
            }
            usize::from(equal)
        }),
        Test::StartsWith(value) => each(texts, |text| {
            let view = text.folded();
            let starts = view.text.starts_with(value.as_str());
            if starts {
                note(text, view, 0..value.len());
            }
            usize::from(starts)
        }),
        Test::EndsWith(value) => each(texts, |text| {
            let view = text.folded();
            let ends = view.text.ends_with(value.as_str());
            if ends {
                note(text, view, view.text.len() - value.len()..view.text.len());
            }
            usize::from(ends)
        }),
        Test::Contains(value) => each(texts, |text| {
            let view = text.folded();
            view.text
                .match_indices(value.as_str())
                .map(|(at, _)| note(text, view, at..at + value.len()))
                .count()
        }),
        Test::Matches(pattern) => each(texts, |text| {
            let view = text.display();
            let found = pattern.find_iter(&view.text).map(|range| note(text, view, range)).count();
            if found >= min || view.text.is_ascii() {
                return found;
            }
            // Full-width and other compatible letters are worth a second look.
            let compatible = display(text.shown(), true);
            if compatible.text == view.text {
                return found;
            }
            found.max(pattern.find_iter(&compatible.text).map(|range| note(text, &compatible, range)).count())
        }),
        Test::AnyWord(matcher) | Test::AllWords(matcher) => {
            let by_word = count_words(matcher, texts, &mut note)?;
            let total = match expression.test {
                Test::AllWords(_) => by_word.into_iter().min(),
                _ => Some(by_word.into_iter().sum()),
            };
            vec![total.unwrap_or(0)]
        }
    };
    Ok((total(texts, &counts) >= min, evidence))
}

fn each(texts: &[&Text], mut count: impl FnMut(&Text) -> usize) -> Vec<usize> {
    texts.iter().map(|text| count(text)).collect()
}

/// Matches over a location: the choices of a multipart/alternative say the same thing, so the one with
/// the most counts.
fn total(texts: &[&Text], counts: &[usize]) -> usize {
    if counts.len() != texts.len() {
        return counts.iter().sum();
    }
    let mut sum = 0;
    let mut choices: HashMap<u32, HashMap<u32, usize>> = HashMap::new();
    for (text, count) in texts.iter().zip(counts) {
        match text.branch {
            None => sum += count,
            Some((group, choice)) => *choices.entry(group).or_default().entry(choice).or_default() += count,
        }
    }
    sum + choices.values().filter_map(|choices| choices.values().max()).sum::<usize>()
}

/// Occurrences of each word over the texts.
fn count_words(
    matcher: &Matcher,
    texts: &[&Text],
    note: &mut impl FnMut(&Text, &View, Range<usize>),
) -> Result<Vec<usize>, ()> {
    let mut by_word = Vec::new();
    let mut counts = vec![vec![0; texts.len()]; matcher.lists()];
    for (at, text) in texts.iter().enumerate() {
        for set in matcher.sets() {
            let view = text.folded();
            let searched = set.search(view, |hit| {
                counts[hit.list][at] += 1;
                note(text, view, hit.range);
                ControlFlow::Continue(())
            });
            searched.map_err(|_| ())?;
        }
    }
    by_word.extend(counts.iter().map(|counts| total(texts, counts)));
    Ok(by_word)
}
