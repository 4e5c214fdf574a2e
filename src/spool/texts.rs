//! What was said when a delivery was put off, kept once however many messages it was said about, and
//! bounded whatever next hops invent: a million messages must not keep a million sentences in memory.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::sync::Arc;

/// Distinct texts that are kept as they are.
const MOST: usize = 8192;
/// Longer texts lose their end.
const LONGEST: usize = 512;
/// Instead of a text for which there was no room at all.
const NOT_KEPT: &str = "(too many different replies: the text is in the log, at debug)";

/// A shared text, one pointer wide. The set of known texts holds one reference to each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Text(Arc<Box<str>>);

impl Text {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// The texts in use.
#[derive(Debug, Default)]
pub(super) struct Texts {
    known: HashSet<Text>,
    /// Times a text was not known since those out of use were last thrown away.
    unknown: usize,
}

impl Texts {
    /// The shared form of a text. While there are too many different ones, without what tells one
    /// message's reply from another's: words with digits that are no reply codes.
    pub fn share(&mut self, text: &str) -> Text {
        let text = shortened(text);
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        self.unknown += 1;
        if self.known.len() >= MOST {
            self.tidy();
        }
        if self.known.len() < MOST {
            return self.add(text);
        }
        let general = generalised(text);
        if let Some(known) = self.known.get(&*general) {
            return known.clone();
        }
        self.add(if self.known.len() < 2 * MOST { &general } else { NOT_KEPT })
    }

    fn add(&mut self, text: &str) -> Text {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let text = Text(Arc::new(text.into()));
        self.known.insert(text.clone());
        text
    }

    /// Throws away what nobody refers to. Not every time: it looks at each text.
    fn tidy(&mut self) {
        if self.unknown >= MOST / 2 {
            self.known.retain(|text| Arc::strong_count(&text.0) > 1);
            self.unknown = 0;
        }
    }
}

fn shortened(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A text without the words that are likely to be another's in the next reply.
fn generalised(text: &str) -> String {
    let code = |word: &str| word.len() <= 7 && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let word = |word| match code(word) || !word.bytes().any(|byte| byte.is_ascii_digit()) {
        true => word,
        false => "…",
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_are_kept_once() {
        let mut texts = Texts::default();
        let (one, other) = (texts.share("451 later"), texts.share("451 later"));
        assert!(Arc::ptr_eq(&one.0, &other.0));
        assert_eq!(texts.share(&"ä".repeat(400)).as_str().len(), LONGEST);
    }

    #[test]
    fn a_next_hop_that_says_something_else_each_time_cannot_fill_the_memory() {
        let mut texts = Texts::default();
        let reply = |n: usize| format!("mx{n}.example said 451 4.7.1 Try again (ref a{n}b)");
        let kept: Vec<Text> = (0..100_000).map(|n| texts.share(&reply(n))).collect();
        assert_eq!(kept[0].as_str(), reply(0));
        assert_eq!(kept[99_999].as_str(), "… said 451 4.7.1 Try again (ref …");
        assert!(texts.known.len() <= 2 * MOST);
        let words: Vec<Text> = (0..60_000)
            .map(|n: u32| texts.share(&format!("{n:b}").replace('0', "a").replace('1', "b")))
            .collect();
        assert_eq!(words.last().map(Text::as_str), Some(NOT_KEPT));
        assert!(texts.known.len() <= 2 * MOST + 1);
        // When mail has gone, there is room for new texts again before long.
        drop((kept, words));
        let last = (0..MOST).map(|n| texts.share(&reply(200_000 + n))).last();
        assert_eq!(last.as_ref().map(Text::as_str), Some(&*reply(200_000 + MOST - 1)));
        assert!(texts.known.len() <= MOST, "{}", texts.known.len());
    }
}
