//! Addresses and telephone numbers.

use std::sync::LazyLock;

use regex::Regex;

use super::tokens::{Gap, Run};
use super::words;
use super::{Find, Form};
use crate::bundle::document::{Confidence, Detector};

/// A local part and a domain with a top level of letters.
static EMAIL: LazyLock<Regex> = LazyLock::new(|| {
    let local = r"[\p{L}\p{N}\p{M}.!#$%&'*+/=?^_`{|}~-]+";
    let label = r"[\p{L}\p{N}][\p{L}\p{N}\p{M}-]*";
    Regex::new(&format!(r"{local}@(?:{label}\.)+[\p{{L}}\p{{M}}]{{2,24}}")).expect("it is written here")
});
/// Longest local part and longest address (RFC 5321 section 4.5.3.1).
const LOCAL: usize = 64;
const ADDRESS: usize = 254;

pub(super) fn email(text: &str, found: &mut dyn FnMut(Find)) {
    if memchr::memchr(b'@', text.as_bytes()).is_none() {
        return;
    }
    for find in EMAIL.find_iter(text) {
        // Punctuation before an address belongs to the sentence.
        let trimmed = find.as_str().trim_start_matches(|c: char| !c.is_alphanumeric());
        let Some(at) = trimmed.find('@').filter(|at| *at > 0) else { continue };
        let local = &trimmed[..at];
        if local.len() > LOCAL || trimmed.len() > ADDRESS || local.ends_with('.') || local.contains("..") {
            continue;
        }
        let range = find.end() - trimmed.len()..find.end();
        let named = words::beside(Detector::EmailAddress, text, &range);
        let confidence = if named { Confidence::High } else { Confidence::Medium };
        found(Find { range, confidence, key: trimmed.to_lowercase() });
    }
}

/// Country codes of two digits (ITU E.164); 1 and 7 have one, all others three.
const TWO_DIGITS: [u32; 44] = [
    20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 51, 52, 53, 54, 55, 56, 57, 58,
    60, 61, 62, 63, 64, 65, 66, 81, 82, 84, 86, 90, 91, 92, 93, 94, 95, 98,
];
/// First two digits of codes of three.
const THREE_DIGITS: [u32; 13] = [21, 22, 23, 24, 25, 26, 29, 35, 37, 38, 42, 50, 59];
const THREE_DIGITS_EAST: [u32; 7] = [67, 68, 69, 80, 85, 88, 96];

/// International with `+` counts by itself, with 00 or national only beside a word for telephone.
pub(super) fn phone(run: &Run<'_>) -> Option<Form> {
    if !run.is_digits() || run.tokens[1..].iter().any(|token| token.gap == Gap::Line) {
        return None;
    }
    let text = run.text;
    let groups: Vec<usize> = run.groups().collect();
    // Groups of one digit are lists, except for a country code or a trunk prefix in front.
    if groups.iter().skip(1).any(|group| *group == 1) {
        return None;
    }
    if run.tokens[0].plus {
        return (text.len() >= 8 && is_international(text)).then_some(Form::Holds);
    }
    let abroad = text.strip_prefix("00").is_some_and(|rest| rest.len() >= 8 && is_international(rest));
    let at_home = text.starts_with('0') && (8..=12).contains(&text.len());
    let american = matches!(groups[..], [3, 3, 4] | [1, 3, 3, 4]);
    let long = groups.len() == 1 && matches!(text.len(), 10 | 11);
    let grouped = groups.len() > 1 && (8..=12).contains(&text.len());
    (abroad || at_home || american || long || grouped).then_some(Form::NeedsWord)
}

fn is_international(text: &str) -> bool {
    let two = text[..2].parse().unwrap_or(0);
    matches!(text.as_bytes()[0], b'1' | b'7')
        || TWO_DIGITS.contains(&two)
        || THREE_DIGITS.contains(&two)
        || THREE_DIGITS_EAST.contains(&two)
        || matches!(two, 97 | 99)
}
