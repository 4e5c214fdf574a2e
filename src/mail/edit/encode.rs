//! Writing header fields: RFC 2047 encoded words and folding (78 wanted, 998 never exceeded by what we add).

use std::fmt::Write as _;

/// Where lines are folded when there is a blank to fold at.
const WANTED: usize = 78;
/// The longest word left as it is. A line may have 998 octets (RFC 5322 section 2.1.1); the rest is
/// room for the field's name.
const LONGEST_PLAIN: usize = 900;
/// Characters of one encoded word (RFC 2047 section 2).
const MAX_WORD: usize = 75;

/// A whole new field with its line end.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut line = Folder::new(name);
    for word in words(value, name) {
        line.push(&word);
    }
    line.finish(b"\r\n")
}

/// A Subject of `[prefix] ` for each of `prefixes`, then `rest` (raw, as it stood) byte for byte.
pub(super) fn subject(prefixes: &[&str], rest: &[u8], line_end: &[u8]) -> Vec<u8> {
    let mut text = prefixes.iter().map(|prefix| format!("[{prefix}]")).collect::<Vec<_>>().join(" ");
    // Blanks between two encoded words are not shown (RFC 2047 section 6.2), so the one that
    // separates an encoded prefix from an encoded subject must be inside a word.
    if !is_plain(&text) && starts_encoded(rest) {
        text.push(' ');
    }
    let mut line = Folder::new("Subject");
    for word in words(&text, "Subject") {
        line.push(&word);
    }
    let first_line = rest.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    line.append(rest, first_line.len());
    line.finish(line_end)
}

fn starts_encoded(raw: &[u8]) -> bool {
    raw.starts_with(b"=?")
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

/// Splits a value into what is written with a blank or a fold between: plain words as they are, the
/// stretch from the first to the last word that needs it as encoded words.
/// The first word stands beside the field's `name`.
fn words(value: &str, name: &str) -> Vec<String> {
    // A control would end the field or the message early; admission refuses it.
    let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let parts: Vec<&str> = value.split(' ').collect();
    // A word too long for any line is encoded too: encoded words can be cut anywhere.
    let encoded = |part: &&str| !part.is_ascii() || part.len() > LONGEST_PLAIN;
    let Some(first) = parts.iter().position(encoded) else {
        return parts.into_iter().map(str::to_owned).collect();
    };
    let last = parts.iter().rposition(encoded).unwrap_or(first);
    // A blank at the very end of an encoded stretch belongs inside it, where nobody trims it.
    let last = if parts[last + 1..].iter().all(|p| p.is_empty()) { parts.len() - 1 } else { last };
    let mut words: Vec<String> = parts[..first].iter().map(|p| (*p).to_owned()).collect();
    let beside = if first == 0 { WANTED.saturating_sub(name.len() + 2).max(MAX_WORD / 2) } else { MAX_WORD };
    words.extend(encoded_words(&parts[first..=last].join(" "), beside.min(MAX_WORD)));
    words.extend(parts[last + 1..].iter().map(|p| (*p).to_owned()));
    words
}

/// UTF-8 text as encoded words, cut between characters; Q or B, whichever is shorter. The first is at most
/// `first` characters long.
fn encoded_words(text: &str, first: usize) -> Vec<String> {
    let quoted: usize = text.bytes().map(q_len).sum();
    let base64 = text.len().div_ceil(3) * 4;
    let by_q = quoted <= base64;
    const AROUND: usize = "=?utf-8?q??=".len();
    let mut words: Vec<String> = Vec::new();
    let mut chunk = String::new();
    let mut used = 0;
    for c in text.chars() {
        let mut buffer = [0; 4];
        let bytes = c.encode_utf8(&mut buffer).bytes();
        let room = if words.is_empty() { first } else { MAX_WORD } - AROUND;
        let fits = if by_q {
            let len: usize = bytes.map(q_len).sum();
            used += len;
            if used > room {
                used = len;
                false
            } else {
                true
            }
        } else {
            (chunk.len() + c.len_utf8()).div_ceil(3) * 4 <= room
        };
        if !fits {
            words.push(encoded_word(&chunk, by_q));
            chunk.clear();
        }
        chunk.push(c);
    }
    if !chunk.is_empty() {
        words.push(encoded_word(&chunk, by_q));
    }
    words
}

fn encoded_word(text: &str, by_q: bool) -> String {
    if !by_q {
        return format!("=?utf-8?b?{}?=", base64(text.as_bytes()));
    }
    let mut word = String::from("=?utf-8?q?");
    for byte in text.bytes() {
        match byte {
            b' ' => word.push('_'),
            _ if q_len(byte) == 1 => word.push(char::from(byte)),
            _ => write!(word, "={byte:02X}").expect("a String takes everything"),
        }
    }
    word.push_str("?=");
    word
}

/// Octets that one byte takes in the Q encoding.
fn q_len(byte: u8) -> usize {
    let plain = byte.is_ascii_alphanumeric() || b" !*+-/[]:.,".contains(&byte);
    if plain { 1 } else { 3 }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &b| (bits << 8) | u32::from(b)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) & 0x3f;
            text.push(if at <= group.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

/// Collects the words of a field and folds before a word that would pass the wanted width.
struct Folder {
    out: Vec<u8>,
    width: usize,
    /// Whether the current line has something besides blanks, so that a fold leaves no empty line.
    filled: bool,
}

impl Folder {
    fn new(name: &str) -> Self {
        Self { out: format!("{name}:").into_bytes(), width: name.len() + 1, filled: true }
    }

    fn push(&mut self, word: &str) {
        self.append(word.as_bytes(), word.len());
    }

    /// Appends bytes whose first line is `first_line` long, after a blank or a fold.
    fn append(&mut self, bytes: &[u8], first_line: usize) {
        if bytes.is_empty() {
            // Two blanks in a row: kept as blanks.
            self.out.push(b' ');
            self.width += 1;
            return;
        }
        if self.filled && self.width + 1 + first_line > WANTED && !self.out.ends_with(b":") {
            self.out.extend_from_slice(b"\r\n");
            self.width = 0;
            self.filled = false;
        }
        self.out.push(b' ');
        self.out.extend_from_slice(bytes);
        self.width += 1 + first_line;
        self.filled = true;
    }

    fn finish(mut self, line_end: &[u8]) -> Vec<u8> {
        while self.out.ends_with(b" ") {
            self.out.pop();
        }
        self.out.extend_from_slice(line_end);
        self.out
    }
}
