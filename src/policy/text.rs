//! Decoded text → the views that are searched, each with a map back to the text it came from.
//!
//! A view is what two texts that read the same have in common: NFKC, case folded, invisible
//! characters gone, white space as one blank. Visible boundaries (paragraph, cell, list item) stay as
//! a line feed, which no entry of a word list contains.

pub mod fold;
pub mod html;
mod invisible;

use unicode_normalization::char::is_combining_mark;
use unicode_script::{Script, UnicodeScript};

pub use fold::{Folding, View};
pub use invisible::is_invisible;

/// A visible boundary inside a text made from HTML: neither words nor phrases cross it.
pub const BOUNDARY: char = '\u{2029}';

/// Positions of one text in terms of another that it was made from, as stretches of equal length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map {
    /// (position here, position there), rising.
    stretches: Vec<(u32, u32)>,
}

impl Map {
    pub fn mark(&mut self, here: usize, there: usize) {
        if self
            .stretches
            .last()
            .is_some_and(|&(h, t)| here >= h as usize && here - h as usize + t as usize == there)
        {
            return;
        }
        self.stretches.push((here as u32, there as u32));
    }

    pub fn to_source(&self, here: usize) -> usize {
        let at = self.stretches.partition_point(|&(h, _)| h as usize <= here);
        match at.checked_sub(1).map(|at| self.stretches[at]) {
            Some((h, t)) => here - h as usize + t as usize,
            None => here,
        }
    }
}

/// A letter, digit or underscore; marks belong to the letter before them.
pub fn is_word_char(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    c.is_alphanumeric() || is_combining_mark(c)
}

/// Scripts written without blanks between words: there an edge cannot be seen, so none is asked for.
/// A change from such a script to another one is an edge too.
pub fn is_unspaced(c: char) -> bool {
    if c.is_ascii() {
        return false;
    }
    // The prolonged sound mark is shared by both kana and has no script of its own.
    matches!(
        c.script(),
        Script::Han
            | Script::Hiragana
            | Script::Katakana
            | Script::Bopomofo
            | Script::Thai
            | Script::Lao
            | Script::Khmer
            | Script::Myanmar
    ) || c == 'ー'
}

/// Whether an entry may start or end between these two characters of a text.
pub fn is_edge(inside: char, outside: Option<char>) -> bool {
    if !is_word_char(inside) || is_unspaced(inside) {
        return true;
    }
    outside.is_none_or(|outside| !is_word_char(outside) || is_unspaced(outside))
}

/// The text as a reader sees it whose screen obeys right-to-left overrides (U+202E), if there are any:
/// letters typed backwards then show forwards.
pub fn reordered(text: &str) -> Option<String> {
    const OVERRIDE: char = '\u{202e}';
    const POP: char = '\u{202c}';
    if !text.contains(OVERRIDE) {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OVERRIDE) {
        out.push_str(before);
        let end = after.find([POP, '\n', BOUNDARY]).unwrap_or(after.len());
        out.extend(after[..end].chars().rev());
        rest = &after[end..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_where_no_letter_digit_or_underscore_is() {
        for outside in [' ', '-', '\'', '.', '[', '\n', '語', 'に', 'ก'] {
            assert!(is_edge('a', Some(outside)), "{outside:?}");
        }
        for outside in ['b', '7', '_', 'é', 'о', '한', '\u{301}', 'ा'] {
            assert!(!is_edge('a', Some(outside)), "{outside:?}");
        }
        assert!(is_edge('a', None) && is_edge('[', Some('a')) && is_edge('機', Some('密')));
        assert!(!is_edge('한', Some('국')));
    }

    #[test]
    fn overridden_letters_show_forwards() {
        assert_eq!(reordered("a \u{202e}neddibrof\u{202c} b").as_deref(), Some("a forbidden\u{202c} b"));
        assert_eq!(reordered("\u{202e}ab\ncd").as_deref(), Some("ba\ncd"));
        assert_eq!(reordered("plain"), None);
    }

    #[test]
    fn maps_lead_back() {
        let mut map = Map::default();
        for (here, there) in [(0, 0), (1, 1), (2, 5), (3, 6), (4, 20)] {
            map.mark(here, there);
        }
        assert_eq!(map.stretches.len(), 3);
        assert_eq!((0..5).map(|p| map.to_source(p)).collect::<Vec<_>>(), [0, 1, 5, 6, 20]);
    }
}
