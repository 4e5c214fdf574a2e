//! A text as runs of letters and digits, and what stands between them.

use std::ops::Range;

/// Tokens looked at together; the last of a batch are seen again with the next one.
const BATCH: usize = 8192;
const OVERLAP: usize = 24;
/// Digits without which no number is in a text.
const FEWEST_DIGITS: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// Nothing that a number is written with.
    Far,
    /// White space, alone or around something else.
    Blank,
    /// A line end.
    Line,
    /// A hyphen, dot, slash or underscore.
    Tight(char),
    /// With a parenthesis in it.
    Parenthesis,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub range: Range<usize>,
    /// In [`Tokens::flat`].
    pub flat: Range<usize>,
    /// Between the token before and this one.
    pub gap: Gap,
    /// Only digits.
    pub digits: bool,
    /// A plus sign stands right before it.
    pub plus: bool,
    /// A letter that is neither ASCII nor of a script without blanks is next to it: part of a longer word.
    pub glued: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Letters and digits of all tokens, in capitals, digits as ASCII.
    pub flat: String,
    pub list: Vec<Token>,
}

/// Tokens side by side that could be one number.
pub(super) struct Run<'t> {
    /// Letters and digits joined.
    pub text: &'t str,
    pub tokens: &'t [Token],
    /// The gap to whatever follows.
    pub next: Option<&'t Token>,
    /// Index of the last token.
    pub last: usize,
}

impl Run<'_> {
    pub fn range(&self) -> Range<usize> {
        let first = &self.tokens[0];
        let last = &self.tokens[self.tokens.len() - 1];
        first.range.start - usize::from(first.plus)..last.range.end
    }

    pub fn is_digits(&self) -> bool {
        self.tokens.iter().all(|token| token.digits)
    }

    /// Lengths of the groups.
    pub fn groups(&self) -> impl Iterator<Item = usize> + '_ {
        self.tokens.iter().map(|token| token.flat.len())
    }

    pub fn is_grouped(&self, groups: &[usize]) -> bool {
        self.groups().eq(groups.iter().copied())
    }
}

impl Tokens {
    /// Every run that starts at a token, the shortest first.
    pub fn runs(
        &self,
        start: usize,
        groups: usize,
        longest: usize,
        parentheses: bool,
        mut with: impl FnMut(&Run<'_>),
    ) {
        let first = &self.list[start];
        // The rest of a longer number is no number.
        let continues = |gap: Gap, one: &Token, other: &Token| {
            matches!(gap, Gap::Tight('-' | '.' | '/')) && one.digits && other.digits
        };
        if first.glued || (start > 0 && continues(first.gap, &self.list[start - 1], first)) {
            return;
        }
        for last in start..(start + groups).min(self.list.len()) {
            let token = &self.list[last];
            if last > start {
                let linked = match token.gap {
                    Gap::Far => false,
                    Gap::Parenthesis => parentheses,
                    Gap::Blank | Gap::Line | Gap::Tight(_) => true,
                };
                if !linked || token.plus {
                    return;
                }
            }
            let text = &self.flat[first.flat.start..token.flat.end];
            if text.len() > longest {
                return;
            }
            let next = self.list.get(last + 1);
            let cut = next.is_some_and(|next| continues(next.gap, token, next));
            if !token.glued && !cut {
                with(&Run { text, tokens: &self.list[start..=last], next, last });
            }
        }
    }
}

/// Cuts a text into tokens and hands them on in batches.
pub(super) fn each_batch(text: &str, with: &mut dyn FnMut(&Tokens)) {
    if text.chars().filter(|c| digit(*c).is_some()).take(FEWEST_DIGITS).count() < FEWEST_DIGITS {
        return;
    }
    let mut tokens = Tokens::default();
    let mut chars = text.char_indices().peekable();
    // What stands between the last token and here, as far as it matters.
    let mut between = Between::default();
    let mut glued = false;
    while let Some((at, c)) = chars.next() {
        if letter(c).is_none() {
            let word = c.is_alphanumeric() && !crate::policy::text::is_unspaced(c);
            if word
                && between.nothing()
                && let Some(last) = tokens.list.last_mut()
            {
                last.glued = true;
            }
            glued = word;
            between.add(c);
            continue;
        }
        let (flat, mut end, mut digits) = (tokens.flat.len(), at, true);
        let mut next = Some((at, c));
        while let Some((at, c)) = next {
            let Some(shown) = letter(c) else { break };
            digits &= shown.is_ascii_digit();
            tokens.flat.push(shown);
            end = at + c.len_utf8();
            next = chars.next_if(|(_, c)| letter(*c).is_some());
        }
        let gap = if tokens.list.is_empty() { Gap::Far } else { between.gap() };
        let plus = between.last == Some('+');
        let flat = flat..tokens.flat.len();
        tokens.list.push(Token { range: at..end, flat, gap, digits, plus, glued });
        (between, glued) = (Between::default(), false);
        if tokens.list.len() == BATCH {
            with(&tokens);
            tokens = tokens.tail();
        }
    }
    with(&tokens);
}

impl Tokens {
    fn tail(&self) -> Self {
        let kept = &self.list[self.list.len() - OVERLAP..];
        let from = kept[0].flat.start;
        let shift =
            |token: &Token| Token { flat: token.flat.start - from..token.flat.end - from, ..token.clone() };
        Self { flat: self.flat[from..].to_owned(), list: kept.iter().map(shift).collect() }
    }
}

#[derive(Default)]
struct Between {
    count: usize,
    blank: bool,
    line: bool,
    tight: Option<char>,
    parenthesis: bool,
    other: bool,
    last: Option<char>,
}

impl Between {
    fn nothing(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self, c: char) {
        self.count += 1;
        self.last = Some(c);
        match c {
            '\n' | '\u{2028}' => self.line = true,
            '\r' => {}
            c if c.is_whitespace() => self.blank = true,
            '-' | '\u{2010}'..='\u{2015}' | '\u{2212}' => self.tight = Some('-'),
            '.' | '/' | '_' | '·' => self.tight = Some(c),
            '(' | ')' => self.parenthesis = true,
            '+' => {}
            _ => self.other = true,
        }
    }

    fn gap(&self) -> Gap {
        if self.other || self.count > 4 || self.count == 0 {
            Gap::Far
        } else if self.parenthesis {
            Gap::Parenthesis
        } else if self.line {
            Gap::Line
        } else if self.blank {
            Gap::Blank
        } else {
            self.tight.map_or(Gap::Far, Gap::Tight)
        }
    }
}

/// An ASCII letter in capitals, or a digit of any script as ASCII.
fn letter(c: char) -> Option<char> {
    if c.is_ascii_alphanumeric() {
        return Some(c.to_ascii_uppercase());
    }
    digit(c).map(|value| char::from(b'0' + value))
}

/// The value of a decimal digit. Digits of compatibility are ASCII by now.
fn digit(c: char) -> Option<u8> {
    /// Zeros of the scripts that people write numbers in.
    const ZEROS: [char; 15] = [
        '\u{660}', '\u{6f0}', '\u{966}', '\u{9e6}', '\u{a66}', '\u{ae6}', '\u{b66}', '\u{be6}', '\u{c66}',
        '\u{ce6}', '\u{d66}', '\u{e50}', '\u{ed0}', '\u{1040}', '\u{17e0}',
    ];
    if c.is_ascii() {
        return c.is_ascii_digit().then(|| c as u8 - b'0');
    }
    let value = |zero: char| (u32::from(c)).checked_sub(u32::from(zero)).filter(|value| *value < 10);
    ZEROS.iter().find_map(|&zero| value(zero)).map(|value| value as u8)
}
