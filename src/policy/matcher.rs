//! Word lists as shared automata: all lists with the same options are searched in one pass. A matcher grows out of
//! the one before it: see [`set`].

pub mod literals;
mod set;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};

use super::text::fold::{Folding, fold_entry};
use super::text::{is_edge, is_unspaced, is_word_char};
use crate::bundle::document::{Confusables, WordOptions};

pub use self::set::{Progress, Set};

/// A list of the policy; counts from zero in the order of [`Builder::add`].
pub type ListId = usize;

/// Hits looked at per byte of text. Only entries that contain one another many times over need more.
const HITS_PER_BYTE: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    #[error("the entry {0:?} has no visible character")]
    Empty(String),
    #[error("the word lists are too large to be compiled: {0}")]
    TooLarge(String),
}

/// How an entry of a word list is read, for people (spec R52).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HowRead {
    /// Nothing of it is visible: it cannot be searched for.
    Nothing,
    Word,
    Phrase,
    /// It begins or ends with punctuation, which must stand there.
    Literal,
    /// Script without blanks between words: found inside longer text.
    Unspaced,
}

impl HowRead {
    pub const fn as_str(self) -> &'static str {
        match self {
            HowRead::Nothing => "nothing visible to search for",
            HowRead::Word => "a whole word",
            HowRead::Phrase => "a phrase of whole words with any white space between them",
            HowRead::Literal => "literal text, its punctuation included",
            HowRead::Unspaced => "text anywhere, since its script puts no blanks between words",
        }
    }
}

pub fn how_read(entry: &str) -> HowRead {
    // Most entries, told without folding: lists may be long, and this is asked in each pass.
    if !entry.is_empty() && entry.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return HowRead::Word;
    }
    let folded = fold_entry(entry, Folding::default());
    let (Some(first), Some(last)) = (folded.chars().next(), folded.chars().next_back()) else {
        return HowRead::Nothing;
    };
    if !is_word_char(first) || !is_word_char(last) {
        HowRead::Literal
    } else if is_unspaced(first) || is_unspaced(last) {
        HowRead::Unspaced
    } else if folded.contains([' ', '\n']) {
        HowRead::Phrase
    } else {
        HowRead::Word
    }
}

/// One use of a pattern by an entry of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Use {
    list: ListId,
    entry: usize,
    /// Found inside longer words too.
    substring: bool,
    /// Only in tokens that mix scripts.
    mixed_only: bool,
}

/// What was found where: positions are those of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    pub list: ListId,
    pub entry: usize,
    pub range: Range<usize>,
}

/// The search stopped before the end of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyHits;

#[derive(Debug, Default)]
pub struct Builder {
    before: Matcher,
    lists: usize,
    sets: HashMap<Folding, HashMap<String, Vec<Use>>>,
}

impl Builder {
    /// Keeps the lists of another matcher under their numbers; new ones come behind.
    pub fn after(before: &Matcher) -> Self {
        Self { lists: before.lists, before: before.clone(), sets: HashMap::new() }
    }

    /// Adds a list. `lenient` passes over entries that have nothing to search for.
    pub fn add(
        &mut self,
        words: &[String],
        options: &WordOptions,
        lenient: bool,
    ) -> Result<ListId, WordError> {
        let list = self.lists;
        self.lists += 1;
        let plain = Folding { accents: options.ignore_accents, turkish: options.turkish, skeleton: false };
        let looks = Folding { turkish: false, skeleton: true, ..plain };
        let substrings: HashSet<String> = options.substrings.iter().map(|s| fold_entry(s, plain)).collect();
        for (entry, word) in words.iter().enumerate() {
            let folded = fold_entry(word, plain);
            if folded.is_empty() && lenient {
                continue;
            }
            if folded.is_empty() {
                return Err(WordError::Empty(word.clone()));
            }
            let substring = substrings.contains(&folded);
            let mut add = |folding, pattern: String, mixed_only| {
                let uses = self.sets.entry(folding).or_default().entry(pattern).or_default();
                // The same entry again after folding: once is enough.
                if !uses
                    .iter()
                    .any(|u| u.list == list && u.substring >= substring && u.mixed_only == mixed_only)
                {
                    uses.push(Use { list, entry, substring, mixed_only });
                }
            };
            if options.confusables != Confusables::Disabled {
                let mixed_only = options.confusables == Confusables::MixedScript;
                // An entry may be shown in capitals, which have other look-alikes.
                add(looks, fold_entry(word, looks), mixed_only);
                add(looks, fold_entry(&folded.to_uppercase(), looks), mixed_only);
                add(looks, fold_entry(&folded, looks), mixed_only);
            }
            add(plain, folded, false);
        }
        Ok(list)
    }

    /// `in_use`: which lists some rule has, by number.
    pub fn build(self, in_use: impl Fn(ListId) -> bool) -> Result<Matcher, WordError> {
        let Self { before, lists, sets: mut new } = self;
        let mut sets = Vec::new();
        for set in &before.sets {
            sets.push(set.and(new.remove(&set.folding()).unwrap_or_default())?);
        }
        for (folding, patterns) in new {
            sets.push(Set::new(folding, patterns)?);
        }
        sets.sort_by_key(|set| set.folding());
        let idle: Arc<[bool]> = (0..lists).map(|list| !in_use(list)).collect();
        if idle.contains(&true) {
            sets.iter_mut().for_each(|set| set.rest(&idle));
            sets.retain(|set| !set.is_idle());
        }
        Ok(Matcher { lists, sets })
    }
}

/// Every word list of a policy, ready to search.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    lists: usize,
    sets: Vec<Set>,
}

impl Matcher {
    pub fn lists(&self) -> usize {
        self.lists
    }

    /// One set for each way of folding a text.
    pub fn sets(&self) -> &[Set] {
        &self.sets
    }
}

/// One automaton for many texts.
fn automaton<T: AsRef<[u8]>>(texts: impl IntoIterator<Item = T>) -> Result<AhoCorasick, WordError> {
    let built = AhoCorasick::builder().match_kind(MatchKind::Standard).build(texts);
    built.map_err(|error| WordError::TooLarge(error.to_string()))
}

/// Whether both ends of a hit are edges of words, where it has word characters there.
fn stands_alone(text: &str, range: &Range<usize>) -> bool {
    let inside = &text[range.clone()];
    let (Some(first), Some(last)) = (inside.chars().next(), inside.chars().next_back()) else { return false };
    is_edge(first, text[..range.start].chars().next_back()) && is_edge(last, text[range.end..].chars().next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::text::fold::fold;

    proptest::proptest! {
        #[test]
        fn what_is_skipped_mixes_no_scripts(text in "[ -~¡-ɏ\u{2000}-\u{206f}€ ]{0,60}") {
            let looks = Folding { skeleton: true, ..Folding::default() };
            if text.chars().all(set::is_plain_latin) {
                let view = fold(&text, looks);
                proptest::prop_assert!(!view.mixes_scripts(0, view.text.len()), "{text:?}");
            }
        }
    }

    fn finds(words: &[&str], options: &WordOptions, text: &str) -> bool {
        let words: Vec<String> = words.iter().map(|&w| w.to_owned()).collect();
        let mut builder = Builder::default();
        builder.add(&words, options, false).unwrap();
        let matcher = builder.build(|_| true).unwrap();
        let mut found = false;
        for set in matcher.sets() {
            let view = fold(text, set.folding());
            set.search(&view, &mut set.progress(), |_| {
                found = true;
                true
            })
            .unwrap();
        }
        found
    }

    fn check(word: &str, cases: &[(&str, bool)]) {
        for (text, expected) in cases {
            assert_eq!(finds(&[word], &WordOptions::default(), text), *expected, "{word:?} in {text:?}");
        }
    }

    #[test]
    fn only_whole_words_match_and_case_is_ignored() {
        check("BURUK", &[("buruk", true), ("BuRuK", true), ("keburukan", false), ("\"Buruk\".", true)]);
        check(
            "olah",
            &[("olahraga", false), ("(olah)", true), ("olah_", false), ("7olah", false), ("olah-x", true)],
        );
        check("bad", &[("bad's", true), ("top.bad.plan", true), ("badé", false), ("bad\u{301}", false)]);
        check("straße", &[("STRASSE", true), ("strasse", true), ("straßen", false)]);
        check("प्रतिबंधित", &[("यह प्रतिबंधित है", true), ("प्रतिबंधितता", false)]);
    }

    #[test]
    fn punctuation_of_an_entry_is_literal() {
        check("[BAD]", &[("x [bad] y", true), ("x[bad]y", true), ("bad", false), ("[bad", false)]);
        check("BAD", &[("x [bad] y", true)]);
        check("C++", &[("we use c++!", true), ("c+", false), ("xc++", false)]);
        check("$100", &[("it is $100.", true), ("$1000", false)]);
    }

    #[test]
    fn scripts_without_blanks_match_inside_text_and_korean_by_blanks() {
        check("機密", &[("本件は機密です", true), ("機 密", false)]);
        check("ประกาศ", &[("มีประกาศใหม่", true)]);
        check("forbidden", &[("これはforbiddenです", true)]);
        check("기밀", &[("이것은 기밀 입니다", true), ("기밀입니다", false)]);
        let particles = WordOptions { substrings: vec!["기밀".into()], ..WordOptions::default() };
        assert!(finds(&["기밀"], &particles, "기밀입니다"));
        assert!(!finds(&["기밀", "비밀"], &particles, "비밀입니다"));
    }

    #[test]
    fn phrases_cross_white_space_but_no_boundary() {
        check(
            "top  secret",
            &[
                ("TOP secret", true),
                ("top\r\n\tsecret", true),
                ("top\u{a0}secret", true),
                ("top\n\nsecret", false),
                ("top\u{2029}secret", false),
                ("top-secret", false),
                ("topsecret", false),
                ("stop secret", false),
                ("top secrets", false),
            ],
        );
    }

    #[test]
    fn options_widen_the_search() {
        let accents = WordOptions { ignore_accents: true, ..WordOptions::default() };
        assert!(finds(&["resume"], &accents, "my résumé") && finds(&["résumé"], &accents, "RESUME"));
        assert!(!finds(&["resume"], &WordOptions::default(), "my résumé"));
        let turkish = WordOptions { turkish: true, ..WordOptions::default() };
        assert!(finds(&["sınır"], &turkish, "SINIR") && finds(&["istanbul"], &turkish, "İSTANBUL"));
        assert!(!finds(&["ilik"], &turkish, "ILIK") && finds(&["ilik"], &WordOptions::default(), "ILIK"));
    }

    #[test]
    fn look_alikes_match_by_option() {
        let with = |confusables| WordOptions { confusables, ..WordOptions::default() };
        let (off, mixed, all) =
            (with(Confusables::Disabled), with(Confusables::MixedScript), with(Confusables::All));
        for text in
            ["f\u{43e}rbidd\u{435}n", "F\u{41e}R\u{412}IDDEN", "FORB\u{406}DDEN", "\u{192}orbidd\u{435}n"]
        {
            assert!(finds(&["forbidden"], &mixed, text) && !finds(&["forbidden"], &off, text), "{text}");
        }
        assert!(!finds(&["forbidden"], &mixed, "f0rbidden") && finds(&["forbidden"], &all, "f0rbidden"));
        assert!(!finds(&["cop"], &mixed, "сор"), "a whole Cyrillic word is no mixture");
        assert!(finds(&["вор"], &mixed, "B\u{41e}\u{420}"));
        assert!(finds(&["top secret"], &mixed, "top s\u{435}cret"));
        assert!(!finds(&["forbidden"], &all, "f\u{43e}rbidd\u{435}nness"));
    }

    #[test]
    fn entries_that_contain_one_another_stop_at_a_limit() {
        let words: Vec<String> = (1..200).map(|n| "a".repeat(n)).collect();
        let mut builder = Builder::default();
        builder
            .add(&words, &WordOptions { confusables: Confusables::Disabled, ..WordOptions::default() }, false)
            .unwrap();
        let matcher = builder.build(|_| true).unwrap();
        let view = fold(&"a".repeat(100_000), matcher.sets()[0].folding());
        let set = &matcher.sets()[0];
        assert_eq!(set.search(&view, &mut set.progress(), |_| false), Err(TooManyHits));
    }

    #[test]
    fn admission_says_how_an_entry_is_read() {
        for (entry, read) in [
            ("word", HowRead::Word),
            ("two words", HowRead::Phrase),
            ("[BAD]", HowRead::Literal),
            ("機密", HowRead::Unspaced),
            ("\u{200b}", HowRead::Nothing),
        ] {
            assert_eq!(how_read(entry), read);
        }
        let mut builder = Builder::default();
        assert!(builder.add(&[" ".into()], &WordOptions::default(), false).is_err());
    }
}
