//! The folded views: one character stream, one map.

use std::collections::HashMap;
use std::ops::Range;

use caseless::Caseless;
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};
use unicode_security::{MixedScript, skeleton};

use super::{BOUNDARY, Map, is_invisible, is_word_char};

/// What two texts may differ in and still be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Folding {
    pub accents: bool,
    /// Case as Turkish has it: I is the capital of ı, İ of i.
    pub turkish: bool,
    /// Look-alikes of UTS 39 are one character.
    pub skeleton: bool,
}

/// A folded text.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub text: String,
    /// Back to the text that was folded.
    pub map: Map,
    /// Where the folded tokens mix scripts; filled in skeleton views only.
    mixed: Vec<(u32, u32)>,
}

impl View {
    /// Whether a token between these positions mixes scripts.
    pub fn mixes_scripts(&self, start: usize, end: usize) -> bool {
        let at = self.mixed.partition_point(|&(_, e)| e as usize <= start);
        self.mixed.get(at).is_some_and(|&(s, _)| (s as usize) < end)
    }

    /// The stretch of `source`, the text this view was folded from, behind a stretch of the view:
    /// offset and length.
    pub fn span(&self, source: &str, start: usize, end: usize) -> (usize, usize) {
        let from = self.map.to_source(start);
        let last = self.text[..end].char_indices().next_back().map_or(start, |(at, _)| at);
        let last = self.map.to_source(last);
        let end = last + source.get(last..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
        (from, end.saturating_sub(from))
    }
}

/// Folds an entry of a list: like a text, without a map.
pub fn fold_entry(entry: &str, folding: Folding) -> String {
    fold(entry, folding).text
}

/// Folds a text. Linear in its length.
pub fn fold(text: &str, folding: Folding) -> View {
    let mut folder = Folder { folding, view: View::default(), blank: Blank::Start, known: HashMap::new() };
    folder.view.text.reserve(text.len());
    each_chunk(text, |at, chunk| match chunk {
        Chunk::Ascii(run) => folder.ascii(at, run),
        Chunk::White(c) => folder.white(at, c),
        Chunk::Other(chunk) => folder.chunk(at, chunk),
    });
    if folding.skeleton { skeleton_view(folder.view) } else { folder.view }
}

/// The text as regular expressions see it: invisible characters gone, line ends and boundaries LF,
/// none at the end. With `compatible`, letters of compatibility (full-width, ligatures) are plain ones.
pub fn display(text: &str, compatible: bool) -> View {
    let mut view = View::default();
    let mut after_cr = false;
    each_chunk(text, |at, chunk| {
        let (mut one, mut normal) = ([0; 4], String::new());
        let shown: &str = match chunk {
            Chunk::Ascii(run) => run,
            Chunk::White('\n') if after_cr => "",
            Chunk::White('\r' | '\u{85}' | '\u{2028}' | BOUNDARY) => "\n",
            Chunk::White(c) => c.encode_utf8(&mut one),
            Chunk::Other(chunk) if compatible => {
                normal.extend(chunk.nfkc());
                &normal
            }
            Chunk::Other(chunk) => chunk,
        };
        after_cr = matches!(chunk, Chunk::White('\r'));
        view.map.mark(view.text.len(), at);
        view.text.push_str(shown);
    });
    let end = view.text.trim_end_matches('\n').len();
    view.text.truncate(end);
    view
}

#[derive(Clone, Copy)]
enum Chunk<'a> {
    /// Visible ASCII characters that nothing combines with: most of most mail, and handled as one.
    Ascii(&'a str),
    White(char),
    /// A character with all that may combine with it: normalising chunk by chunk is normalising the
    /// whole.
    Other(&'a str),
}

/// Cuts a text into chunks, leaving out what is invisible.
fn each_chunk(text: &str, mut with: impl FnMut(usize, Chunk<'_>)) {
    let mut next = 0;
    let mut chunk = String::new();
    while next < text.len() {
        let run = plain_run(text.as_bytes(), next);
        if !run.is_empty() {
            next = run.end;
            with(run.start, Chunk::Ascii(&text[run]));
            continue;
        }
        let at = next;
        let Some(c) = text[at..].chars().next() else { break };
        next += c.len_utf8();
        if is_invisible(c) {
            continue;
        }
        if c.is_whitespace() {
            with(at, Chunk::White(c));
            continue;
        }
        chunk.clear();
        match without_tatweel(c) {
            Some(bare) => chunk.push_str(&bare),
            None => chunk.push(c),
        }
        while let Some(c) = text[next..].chars().next() {
            if is_invisible(c) {
                // Nothing of it shows.
            } else if let Some(bare) = without_tatweel(c) {
                chunk.push_str(&bare);
            } else if c.is_ascii() || starts_chunk(c) {
                break;
            } else {
                chunk.push(c);
            }
            next += c.len_utf8();
        }
        with(at, Chunk::Other(&chunk));
    }
}

/// The visible ASCII from here on that nothing can combine with: all but the last character before one that
/// is not ASCII.
fn plain_run(bytes: &[u8], start: usize) -> Range<usize> {
    let length = bytes[start..].iter().position(|byte| !byte.is_ascii_graphic());
    let end = length.map_or(bytes.len(), |length| start + length);
    let combines = bytes.get(end).is_some_and(|byte| !byte.is_ascii());
    start..if combines { end.saturating_sub(1).max(start) } else { end }
}

/// The marks of an Arabic presentation form that shows them on a tatweel, which is invisible: taken out before
/// normalising, so that they order themselves among the marks before them.
fn without_tatweel(c: char) -> Option<String> {
    let on_tatweel = matches!(
        c,
        '\u{fcf2}'..='\u{fcf4}' | '\u{fe71}' | '\u{fe77}' | '\u{fe79}' | '\u{fe7b}' | '\u{fe7d}' | '\u{fe7f}'
    );
    on_tatweel.then(|| std::iter::once(c).nfkd().filter(|c| !is_invisible(*c)).collect())
}

/// Whether normalisation never joins this character to the one before it.
fn starts_chunk(c: char) -> bool {
    if canonical_combining_class(c) != 0 {
        return false;
    }
    match is_nfkc_quick(std::iter::once(c)) {
        IsNormalized::Yes => return true,
        IsNormalized::Maybe => return false,
        IsNormalized::No => {}
    }
    let first = std::iter::once(c).nfkd().next().unwrap_or(c);
    canonical_combining_class(first) == 0 && is_nfkc_quick(std::iter::once(first)) != IsNormalized::Maybe
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blank {
    /// Nothing yet: blanks at the start vanish.
    Start,
    None,
    /// White space was seen, with this many line ends.
    Seen {
        at: usize,
        lines: u32,
    },
    /// A visible boundary was seen.
    Boundary {
        at: usize,
    },
}

struct Folder {
    folding: Folding,
    view: View,
    blank: Blank,
    known: HashMap<char, String>,
}

impl Folder {
    fn ascii(&mut self, at: usize, run: &str) {
        self.flush_blank();
        let text = &mut self.view.text;
        if self.folding.turkish && run.contains('I') {
            for (offset, c) in run.char_indices() {
                self.view.map.mark(text.len(), at + offset);
                text.push(if c == 'I' {
                    'ı'
                } else if self.folding.skeleton {
                    c
                } else {
                    c.to_ascii_lowercase()
                });
            }
            return;
        }
        let start = text.len();
        self.view.map.mark(start, at);
        text.push_str(run);
        // Skeletons look at the character as it is shown; they fold afterwards.
        if !self.folding.skeleton {
            text[start..].make_ascii_lowercase();
        }
    }

    fn white(&mut self, at: usize, c: char) {
        let is_line = matches!(c, '\n' | '\u{85}' | '\u{2028}' | '\u{b}' | '\u{c}');
        self.blank = match self.blank {
            _ if c == BOUNDARY => Blank::Boundary { at },
            Blank::Start => Blank::Start,
            Blank::Boundary { at } => Blank::Boundary { at },
            Blank::None => Blank::Seen { at, lines: u32::from(is_line) },
            Blank::Seen { at, lines } => Blank::Seen { at, lines: lines + u32::from(is_line) },
        };
    }

    /// White space before a character becomes one blank; an empty line is the end of a paragraph.
    fn flush_blank(&mut self) {
        let (at, c) = match std::mem::replace(&mut self.blank, Blank::None) {
            Blank::Start | Blank::None => return,
            Blank::Seen { at, lines } => (at, if lines > 1 { '\n' } else { ' ' }),
            Blank::Boundary { at } => (at, '\n'),
        };
        if !self.view.text.is_empty() {
            self.view.map.mark(self.view.text.len(), at);
            self.view.text.push(c);
        }
    }

    fn chunk(&mut self, at: usize, chunk: &str) {
        let mut chars = chunk.chars();
        // Single characters are most of most texts, and few different ones.
        let alone = chars.next().filter(|_| chars.next().is_none());
        let folded = match alone {
            Some(c) => self.known.remove(&c).unwrap_or_else(|| self.folding.normalise(chunk)),
            None => self.folding.normalise(chunk),
        };
        for c in folded.chars() {
            // NFKC makes blanks of some characters.
            if c.is_whitespace() {
                self.white(at, c);
            } else if !is_invisible(c) {
                self.flush_blank();
                self.view.map.mark(self.view.text.len(), at);
                self.view.text.push(c);
            }
        }
        if let Some(c) = alone {
            self.known.insert(c, folded);
        }
    }
}

impl Folding {
    /// A chunk normalised and folded; for a skeleton in its original case, since what a character
    /// looks like depends on it.
    fn normalise(self, chunk: &str) -> String {
        if self.skeleton && self.accents {
            return chunk.nfkd().filter(|c| !is_accent(*c)).nfkc().collect();
        }
        if self.skeleton {
            return chunk.nfkc().collect();
        }
        let cased = |c: char| match c {
            'I' if self.turkish => 'ı',
            'İ' if self.turkish => 'i',
            c => c,
        };
        let lower: String = chunk.nfkc().map(cased).default_case_fold().collect();
        if self.accents {
            lower.nfkd().filter(|c| !is_accent(*c)).map(without_stroke).nfkc().collect()
        } else {
            lower.nfkc().collect()
        }
    }
}

/// Marks that leave a letter the same letter in the eyes of a hasty reader. Marks that are vowels or
/// make another letter (Thai, Indic, kana) are not among them.
fn is_accent(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5c7}' | '\u{64b}'..='\u{65f}' | '\u{670}'
        | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20f0}' | '\u{fe20}'..='\u{fe2f}')
}

/// Letters whose stroke or missing dot is an accent that Unicode does not take apart.
fn without_stroke(c: char) -> char {
    match c {
        'ø' => 'o',
        'ł' => 'l',
        'đ' => 'd',
        'ħ' => 'h',
        'ŧ' => 't',
        'ı' => 'i',
        _ => c,
    }
}

/// The view in which look-alikes are one (UTS 39 section 4), made from a view in its original case.
fn skeleton_view(cased: View) -> View {
    let mut view = View::default();
    let mut seen: HashMap<char, String> = HashMap::new();
    let mut token_start = None;
    let mut first = 0;
    let text = cased.text.as_str();
    for (at, c) in text.char_indices() {
        if is_word_char(c) {
            if token_start.is_none() {
                token_start = Some(view.text.len());
                first = at;
            }
        } else if let Some(start) = token_start.take() {
            note_mixed(&mut view, start, &text[first..at]);
        }
        let source = cased.map.to_source(at);
        if matches!(c, ' ' | '\n') {
            view.map.mark(view.text.len(), source);
            view.text.push(c);
            continue;
        }
        let shown = seen.entry(c).or_insert_with(|| look_alike(c));
        for c in shown.chars() {
            view.map.mark(view.text.len(), source);
            view.text.push(c);
        }
    }
    if let Some(start) = token_start {
        note_mixed(&mut view, start, &text[first..]);
    }
    view
}

fn note_mixed(view: &mut View, start: usize, token: &str) {
    if !token.is_ascii() && !token.is_single_script() {
        view.mixed.push((start as u32, view.text.len() as u32));
    }
}

/// What a character looks like, case aside. A capital is looked at as a capital first (Cyrillic В is
/// a B); i and l are one, since I is the capital of one and the image of the other.
fn look_alike(c: char) -> String {
    let mut one = [0; 4];
    let shown: String = if c.is_ascii_alphabetic() {
        skeleton(c.to_ascii_lowercase().encode_utf8(&mut one)).collect()
    } else {
        let seen: String = skeleton(c.encode_utf8(&mut one)).default_case_fold().collect();
        skeleton(&seen).collect()
    };
    shown.replace('l', "i")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        fold(text, Folding::default()).text
    }

    #[test]
    fn texts_that_read_the_same_fold_the_same() {
        for (a, b) in [
            ("BURUK Buruk", "buruk buruk"),
            ("STRASSE", "straße"),
            ("ｆｏｒｂｉｄｄｅｎ", "forbidden"),
            ("for\u{ad}bid\u{200b}den", "forbidden"),
            ("e\u{301}", "é"),
            ("e\u{200b}\u{301}", "é"),
            ("ｶﾞ", "ガ"),
            ("ΣΊΣΥΦΟΣ", "σίσυφος"),
            ("top \t\r\n secret", "top secret"),
            ("\u{feff} x ", "x"),
            ("ﬁx", "fix"),
            ("a\u{a0}b", "a b"),
            ("مـــمنوع", "ممنوع"),
            ("f\0o\u{8}r", "for"),
        ] {
            assert_eq!(plain(a), plain(b), "{a:?}");
        }
        assert_eq!(plain("one\n\ntwo"), "one\ntwo");
        assert_eq!(plain("one\u{2029}two"), "one\ntwo");
        assert_ne!(plain("forbiddené"), plain("forbiddene"));
    }

    #[test]
    fn options_fold_more() {
        let accents = Folding { accents: true, ..Folding::default() };
        assert_eq!(fold("Ünïcödé øłı", accents).text, "unicode oli");
        assert_eq!(fold("ประกาศ が", accents).text, plain("ประกาศ が"));
        let turkish = Folding { turkish: true, ..Folding::default() };
        assert_eq!(fold("KIRMIZI İ", turkish).text, "kırmızı i");
        let seen = Folding { skeleton: true, ..Folding::default() };
        for alike in ["f\u{43e}rbidd\u{435}n", "FORBIDDEN", "F\u{41e}R\u{412}IDD\u{415}N", "forb\u{456}dden"]
        {
            assert_eq!(fold(alike, seen).text, fold("forbidden", seen).text, "{alike}");
        }
        let view = fold("x f\u{43e}r слово", seen);
        assert!(
            view.mixes_scripts(2, 5) && !view.mixes_scripts(0, 1) && !view.mixes_scripts(6, view.text.len())
        );
    }

    #[test]
    fn positions_lead_back_to_the_text() {
        for (text, word, found) in [
            ("xx FORBIDDEN", "forbidden", "FORBIDDEN"),
            ("ß für\u{ad}\u{200b}x bad", "bad", "bad"),
            ("ﬁ ﬁ a\u{301} bád", "bád", "bád"),
            ("x ｂａｄ y", "bad", "ｂａｄ"),
            ("a  \r\n\r\n b", "b", "b"),
        ] {
            let view = fold(text, Folding::default());
            let at = view.text.find(word).unwrap();
            let (offset, length) = view.span(text, at, at + word.len());
            assert_eq!(&text[offset..offset + length], found);
        }
    }

    #[test]
    fn marks_on_a_tatweel_order_themselves_among_the_marks_before_them() {
        // Shadda (33) belongs behind fathatan (27); U+FE71 is a fathatan on a tatweel.
        assert_eq!(plain("م\u{651}\u{fe71}ن"), plain("م\u{651}\u{64b}ن"));
        assert_eq!(plain("م\u{fcf2}ن"), plain("م\u{64e}\u{651}ن"));
        let hides = |c: &char| !is_invisible(*c) && std::iter::once(*c).nfkc().any(|c| c == '\u{640}');
        let missed: Vec<char> =
            ('\u{80}'..=char::MAX).filter(hides).filter(|c| without_tatweel(*c).is_none()).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }

    proptest::proptest! {
        #[test]
        fn folding_twice_changes_nothing_and_maps_stay_inside(text in "\\PC{0,40}") {
            for folding in [Folding::default(), Folding { accents: true, ..Folding::default() }] {
                let once = fold(&text, folding);
                // LF in a view is the end of a paragraph, which a source writes as BOUNDARY.
                let twice = fold(&once.text.replace('\n', "\u{2029}"), folding);
                proptest::prop_assert_eq!(&once.text, &twice.text);
                for (at, _) in once.text.char_indices() {
                    proptest::prop_assert!(once.map.to_source(at) <= text.len());
                }
            }
        }
    }
}
