//! What every match of an expression must contain, read off the expression itself.
//!
//! An atom is a piece of text with its case folded away; at least one atom of an expression is in every
//! text that the expression matches. So one search for the atoms of a thousand expressions tells which
//! few of them are worth running.

use std::borrow::Cow;

use regex_syntax::hir::{Class, Hir, HirKind};

/// Strings followed at once through a concatenation.
const MAX_EXACT: usize = 16;
/// Atoms of one expression.
const MAX_ATOMS: usize = 64;
/// Letters that a class may come to.
const MAX_CLASS: usize = 4;
/// Shorter atoms are in most texts.
const MIN_LETTERS: usize = 2;

/// Folds a text as atoms are folded.
pub(super) fn fold_text(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return match text.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(text.to_ascii_lowercase()),
            false => Cow::Borrowed(text),
        };
    }
    Cow::Owned(text.chars().map(fold_char).collect())
}

/// A letter whatever its case. It need not be the fold of Unicode: what counts is that an expression and
/// a text go through the same function.
fn fold_char(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut upper = c.to_uppercase();
    let upper = match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => c,
    };
    let mut lower = upper.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        _ => upper,
    }
}

/// Atoms one of which is in every match; none when nothing useful is known.
pub(super) fn required(hir: &Hir) -> Option<Vec<String>> {
    let mut atoms = Known::of(hir).clause()?;
    atoms.sort();
    atoms.dedup();
    let useful = atoms.len() <= MAX_ATOMS && atoms.iter().all(|atom| atom.chars().count() >= MIN_LETTERS);
    useful.then_some(atoms)
}

struct Known {
    /// Everything it can match, if that is little.
    exact: Option<Vec<String>>,
    /// Strings one of which is in whatever it matches.
    best: Option<Vec<String>>,
}

impl Known {
    const NOTHING: Known = Known { exact: None, best: None };

    fn exactly(text: &str) -> Self {
        Self { exact: Some(vec![text.to_owned()]), best: None }
    }

    fn of(hir: &Hir) -> Self {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => Self::exactly(""),
            HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
                Ok(text) => Self::exactly(&text.chars().map(fold_char).collect::<String>()),
                Err(_) => Self::NOTHING,
            },
            HirKind::Class(class) => Self { exact: letters(class), best: None },
            HirKind::Capture(capture) => Self::of(&capture.sub),
            HirKind::Repetition(repetition) if repetition.min == 0 => Self::NOTHING,
            HirKind::Repetition(repetition) => {
                let inner = Self::of(&repetition.sub);
                let times = repetition.min as usize;
                // As often as it must be there, side by side.
                let best = match &inner.exact {
                    Some(exact) if exact.len() == 1 => Some(vec![exact[0].repeat(times.min(8))]),
                    _ => inner.clause(),
                };
                Self { exact: None, best }
            }
            HirKind::Concat(parts) => Self::concat(parts),
            HirKind::Alternation(choices) => Self::alternation(choices),
        }
    }

    fn concat(parts: &[Hir]) -> Self {
        let mut run = vec![String::new()];
        let (mut whole, mut best) = (true, None);
        for part in parts {
            let known = Self::of(part);
            match known.exact {
                Some(exact) if run.len() * exact.len() <= MAX_EXACT => {
                    run = run.iter().flat_map(|a| exact.iter().map(move |b| format!("{a}{b}"))).collect();
                }
                exact => {
                    whole = false;
                    best = better(best, Some(std::mem::take(&mut run)));
                    best = better(best, known.best);
                    run = exact.unwrap_or_else(|| vec![String::new()]);
                }
            }
        }
        match whole {
            true => Self { exact: Some(run), best: None },
            false => Self { exact: None, best: better(best, Some(run)) },
        }
    }

    fn alternation(choices: &[Hir]) -> Self {
        let known: Vec<Self> = choices.iter().map(Self::of).collect();
        let all: Option<Vec<&Vec<String>>> = known.iter().map(|one| one.exact.as_ref()).collect();
        if let Some(exact) = all {
            let exact: Vec<String> = exact.into_iter().flatten().cloned().collect();
            return match exact.len() <= MAX_EXACT {
                true => Self { exact: Some(exact), best: None },
                false => Self { exact: None, best: Some(exact) },
            };
        }
        let clauses: Option<Vec<Vec<String>>> = known.into_iter().map(Self::clause).collect();
        Self { exact: None, best: clauses.map(|clauses| clauses.concat()) }
    }

    fn clause(self) -> Option<Vec<String>> {
        better(self.best, self.exact)
    }
}

/// The clause that fewer texts satisfy: its shortest atom is longer, or it has fewer atoms.
fn better(one: Option<Vec<String>>, other: Option<Vec<String>>) -> Option<Vec<String>> {
    let worth = |clause: &Vec<String>| {
        let shortest = clause.iter().map(|atom| atom.chars().count()).min().unwrap_or(0);
        (shortest, usize::MAX - clause.len())
    };
    let useful = |clause: &Vec<String>| worth(clause).0 > 0 && clause.len() <= MAX_ATOMS;
    let (one, other) = (one.filter(useful), other.filter(useful));
    match (one, other) {
        (Some(one), Some(other)) => Some(if worth(&one) >= worth(&other) { one } else { other }),
        (one, other) => one.or(other),
    }
}

/// The letters of a class that is one letter in several cases, or a few of them.
fn letters(class: &Class) -> Option<Vec<String>> {
    let Class::Unicode(class) = class else { return None };
    if class.iter().map(|range| range.len()).sum::<usize>() > 4 * MAX_CLASS {
        return None;
    }
    let mut letters: Vec<char> =
        class.iter().flat_map(|range| range.start()..=range.end()).map(fold_char).collect();
    letters.sort_unstable();
    letters.dedup();
    (!letters.is_empty() && letters.len() <= MAX_CLASS).then(|| letters.iter().map(char::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atoms(pattern: &str) -> Option<Vec<String>> {
        required(&regex_syntax::parse(pattern).expect("a pattern"))
    }

    #[test]
    fn atoms_are_what_every_match_contains() {
        for (pattern, expected) in [
            ("bad", Some(vec!["bad"])),
            (r"(?i)\[(BAD)\]", Some(vec!["[bad]"])),
            (r"(?i)\bkiosk\b", Some(vec!["kiosk"])),
            ("top.*secret", Some(vec!["secret"])),
            ("(?:alpha|beta) [0-9]+", Some(vec!["alpha ", "beta "])),
            ("(?:foo|.*)x", None),
            (r"[0-9]{3}-[0-9]{2}", None),
            ("(?:ab)+", Some(vec!["ab"])),
            ("(?:ab)*", None),
            ("(?:ab){3}", Some(vec!["ababab"])),
            ("[ab]c", Some(vec!["ac", "bc"])),
            ("x", None),
        ] {
            let expected = expected.map(|atoms| atoms.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(atoms(pattern), expected, "{pattern}");
        }
    }
}
