//! Codes of a font → characters, and how wide they are.

use std::collections::HashMap;

use super::file::File;
use super::object::{Dict, Lexer, Object, Token};
use crate::mail::containers::Budget;
use crate::mail::message::{guess_charset, text_by_label};

/// Mappings kept of one font; the largest real ones have some 30,000.
const MOST: usize = 70_000;

#[derive(Debug, Default)]
pub struct Font {
    /// From its ToUnicode map: code and length of the code in octets.
    map: HashMap<(u32, u8), String>,
    /// Ranges of that map: first, last, length of the code, what the first one stands for.
    ranges: Vec<(u32, u32, u8, u32)>,
    has_map: bool,
    /// Lengths of codes that the map knows, as a set of bits.
    lengths: u8,
    composite: bool,
    /// The charset of the codes of a composite font, if it has one.
    charset: Option<&'static str>,
    /// Of a simple font: what each code stands for.
    table: Option<Box<[Option<char>; 256]>>,
    widths: HashMap<u32, f32>,
    default_width: f32,
    fixed: bool,
}

/// A code of a string to show.
pub struct Glyph {
    pub code: u32,
    pub octets: u8,
}

impl Font {
    pub fn read(dict: &Dict, file: &File<'_>, budget: &Budget) -> Self {
        let mut font = Self { default_width: 0.5, ..Self::default() };
        for at in file.streams(dict.get("ToUnicode")) {
            let bytes = file.decode(at, budget);
            font.read_to_unicode(&bytes);
        }
        font.composite = dict.is_name("Subtype", b"Type0");
        let base = file.resolve(dict.get("BaseFont")).and_then(Object::name).unwrap_or_default();
        font.fixed = memchr::memmem::find(base, b"Courier").is_some();
        let encoding = file.resolve(dict.get("Encoding"));
        if font.composite {
            font.charset = encoding.and_then(Object::name).and_then(charset_of_cmap);
            font.composite_widths(dict, file);
        } else {
            font.table = Some(Box::new(simple_table(encoding, file)));
            font.simple_widths(dict, file);
        }
        font
    }

    /// Cuts a string into codes.
    pub fn glyphs(&self, bytes: &[u8]) -> Vec<Glyph> {
        let mut glyphs = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while !rest.is_empty() {
            let octets = self.length_of(rest).min(rest.len());
            let code = rest[..octets].iter().fold(0u32, |sum, &b| sum << 8 | u32::from(b));
            glyphs.push(Glyph { code, octets: octets as u8 });
            rest = &rest[octets..];
        }
        glyphs
    }

    fn length_of(&self, rest: &[u8]) -> usize {
        if !self.composite {
            return 1;
        }
        if let Some(charset) = self.charset.filter(|charset| *charset != "utf-16be") {
            // Double-byte charsets of the East: the first octet tells.
            let lead = match charset {
                "shift_jis" => matches!(rest[0], 0x81..=0x9f | 0xe0..=0xfc),
                _ => rest[0] >= 0x81,
            };
            return 1 + usize::from(lead);
        }
        // One octet if the map says so and knows no longer codes.
        if self.lengths & 0b10 != 0 && self.lengths & 0b100 == 0 { 1 } else { 2 }
    }

    /// What a code stands for by the map, else by the encoding.
    pub fn character(&self, glyph: &Glyph, out: &mut String) -> bool {
        if self.has_map && self.mapped(glyph, out) {
            return true;
        }
        self.encoded(glyph, out)
    }

    fn mapped(&self, glyph: &Glyph, out: &mut String) -> bool {
        if let Some(text) = self.map.get(&(glyph.code, glyph.octets)) {
            out.push_str(text);
            return true;
        }
        let at = self.ranges.partition_point(|range| range.0 <= glyph.code);
        let near = self.ranges[at.saturating_sub(8)..at].iter().rev();
        for &(first, last, octets, start) in near {
            if octets == glyph.octets && (first..=last).contains(&glyph.code) {
                out.extend(char::from_u32(start.wrapping_add(glyph.code - first)));
                return true;
            }
        }
        false
    }

    /// What a code stands for by the encoding alone, which is what its shape is chosen by.
    pub fn encoded(&self, glyph: &Glyph, out: &mut String) -> bool {
        if let Some(table) = &self.table {
            let c = usize::try_from(glyph.code).ok().and_then(|code| table.get(code)).copied().flatten();
            out.extend(c);
            return c.is_some();
        }
        let Some(charset) = self.charset else { return false };
        let bytes = glyph.code.to_be_bytes();
        let bytes = &bytes[4 - usize::from(glyph.octets.clamp(1, 4))..];
        match text_by_label(bytes, charset) {
            Some(text) => {
                out.push_str(&text);
                true
            }
            None => false,
        }
    }

    /// Whether shape and map may tell different stories.
    pub fn is_doubled(&self) -> bool {
        self.has_map && self.table.is_some()
    }

    /// In parts of the font's size.
    pub fn width(&self, glyph: &Glyph) -> f32 {
        if let Some(width) = self.widths.get(&glyph.code) {
            return *width;
        }
        if self.composite {
            return self.default_width;
        }
        if self.fixed {
            return 0.6;
        }
        let at = usize::try_from(glyph.code).ok().and_then(|code| code.checked_sub(32));
        at.and_then(|at| HELVETICA.get(at)).map_or(self.default_width, |width| f32::from(*width) / 1000.0)
    }

    fn simple_widths(&mut self, dict: &Dict, file: &File<'_>) {
        let first = file.resolve(dict.get("FirstChar")).and_then(Object::integer).unwrap_or(0);
        let scale = match file.resolve(dict.get("FontMatrix")).map(Object::array) {
            Some([Object::Number(scale), ..]) => scale.abs(),
            _ => 0.001,
        };
        let widths = file.resolve(dict.get("Widths")).map(Object::array).unwrap_or_default();
        for (at, width) in widths.iter().take(256).enumerate() {
            if let Some(width) = file.resolve(Some(width)).and_then(Object::number) {
                self.widths.insert((first + at) as u32, width * scale);
            }
        }
    }

    fn composite_widths(&mut self, dict: &Dict, file: &File<'_>) {
        self.default_width = 1.0;
        let descendants = file.resolve(dict.get("DescendantFonts")).map(Object::array).unwrap_or_default();
        let Some(descendant) = descendants.first().and_then(|object| file.dict(Some(object))) else { return };
        if let Some(width) = file.resolve(descendant.get("DW")).and_then(Object::number) {
            self.default_width = width / 1000.0;
        }
        let mut items = file.resolve(descendant.get("W")).map(Object::array).unwrap_or_default().iter();
        while let Some(first) =
            items.next().and_then(|first| file.resolve(Some(first))).and_then(Object::integer)
        {
            let next = items.next().and_then(|next| file.resolve(Some(next)));
            match next {
                Some(Object::Array(widths)) => {
                    for (at, width) in widths.iter().enumerate() {
                        if let Some(width) = width.number().filter(|_| self.widths.len() < MOST) {
                            self.widths.insert((first + at) as u32, width / 1000.0);
                        }
                    }
                }
                Some(Object::Number(last)) => {
                    let Some(width) = items.next().and_then(Object::number) else { return };
                    for code in first..=(*last as usize).min(first.saturating_add(0xffff)) {
                        if self.widths.len() >= MOST {
                            return;
                        }
                        self.widths.insert(code as u32, width / 1000.0);
                    }
                }
                _ => return,
            }
        }
    }

    /// Reads a ToUnicode map (section 9.10.3): the mappings, in whatever order they come.
    fn read_to_unicode(&mut self, bytes: &[u8]) {
        let mut lexer = Lexer::new(bytes, 0, false);
        let mut operands: Vec<Object> = Vec::new();
        while let Some(token) = lexer.token() {
            match token {
                Token::Object(object) if operands.len() < 100_000 => operands.push(object),
                Token::Word(b"endbfchar") => {
                    for pair in operands.chunks_exact(2) {
                        if let [Object::String(code), Object::String(text)] = pair {
                            self.put(code_of(code), code.len(), utf16(text));
                        }
                    }
                    operands.clear();
                }
                Token::Word(b"endbfrange") => {
                    for three in operands.chunks_exact(3) {
                        if let [Object::String(first), Object::String(last), target] = three {
                            self.range(first, last, target);
                        }
                    }
                    operands.clear();
                }
                Token::Word(_) => operands.clear(),
                _ => {}
            }
        }
        self.ranges.sort_unstable();
    }

    fn put(&mut self, code: u32, octets: usize, text: String) {
        let octets = octets.min(4) as u8;
        if self.map.len() < MOST && octets > 0 {
            self.has_map = true;
            self.lengths |= 1 << octets;
            self.map.insert((code, octets), text);
        }
    }

    fn range(&mut self, first: &[u8], last: &[u8], target: &Object) {
        let octets = first.len().min(4);
        let (start, end) = (code_of(first), code_of(last));
        if start > end || octets == 0 {
            return;
        }
        match target {
            Object::Array(targets) => {
                for (at, text) in targets.iter().enumerate().take((end - start) as usize + 1) {
                    if let Object::String(text) = text {
                        self.put(start + at as u32, octets, utf16(text));
                    }
                }
            }
            Object::String(text) => {
                let text = utf16(text);
                let mut chars = text.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) if self.ranges.len() < MOST => {
                        self.has_map = true;
                        self.lengths |= 1 << octets;
                        self.ranges.push((start, end, octets as u8, u32::from(c)));
                    }
                    (Some(_), Some(_)) => self.put(start, octets, text),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

fn code_of(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |sum, &b| sum << 8 | u32::from(b))
}

fn utf16(bytes: &[u8]) -> String {
    if bytes.len() == 1 {
        return char::from(bytes[0]).to_string();
    }
    encoding_rs::UTF_16BE.decode_without_bom_handling(bytes).0.into_owned()
}

/// A string outside of content streams (section 7.9.2.2).
pub fn text_string(bytes: &[u8]) -> String {
    match bytes {
        [0xfe, 0xff, rest @ ..] => utf16(rest),
        [0xff, 0xfe, rest @ ..] => encoding_rs::UTF_16LE.decode_without_bom_handling(rest).0.into_owned(),
        bytes => guess_charset(bytes),
    }
}

/// The charset of a predefined map from codes to glyphs (section 9.7.5.2).
fn charset_of_cmap(name: &[u8]) -> Option<&'static str> {
    let name = std::str::from_utf8(name).ok()?;
    Some(match name {
        _ if name.contains("UCS2") || name.contains("UTF16") => "utf-16be",
        _ if name.contains("RKSJ") => "shift_jis",
        _ if name.starts_with("GB") => "gbk",
        _ if name.contains("B5") || name.starts_with("HKscs") => "big5",
        _ if name.starts_with("KSC") => "euc-kr",
        _ if name.starts_with("EUC-") => "euc-jp",
        _ => return None,
    })
}

fn simple_table(encoding: Option<&Object>, file: &File<'_>) -> [Option<char>; 256] {
    let base = match encoding {
        Some(Object::Name(name)) => Some(&**name),
        Some(Object::Dict(dict)) => file.resolve(dict.get("BaseEncoding")).and_then(Object::name),
        _ => None,
    };
    let label = match base {
        Some(b"MacRomanEncoding") => "macintosh",
        _ => "windows-1252",
    };
    let mut table = std::array::from_fn(|code| {
        let text = text_by_label(&[code as u8], label)?;
        text.chars().next().filter(|c| !c.is_control())
    });
    let Some(dict) = encoding.and_then(Object::dict) else { return table };
    let mut code = 0usize;
    for item in file.resolve(dict.get("Differences")).map(Object::array).unwrap_or_default() {
        match file.resolve(Some(item)) {
            Some(Object::Number(start)) => code = *start as usize,
            Some(Object::Name(name)) => {
                if let Some(entry) = table.get_mut(code) {
                    *entry = glyph(name).or(*entry);
                }
                code = code.saturating_add(1);
            }
            _ => {}
        }
    }
    table
}

/// What a glyph of this name stands for (Adobe Glyph List, the part that mail is written with).
fn glyph(name: &[u8]) -> Option<char> {
    let name = std::str::from_utf8(name).ok()?;
    let base = name.split('.').next().unwrap_or(name);
    let hex = |digits: &str| {
        u32::from_str_radix(digits.get(..digits.len().min(6))?, 16).ok().and_then(char::from_u32)
    };
    if let Some(c) =
        base.strip_prefix("uni").filter(|digits| digits.len() >= 4).and_then(|digits| hex(digits.get(..4)?))
    {
        return Some(c);
    }
    if let Some(c) = base.strip_prefix('u').filter(|digits| digits.len() >= 4).and_then(hex) {
        return Some(c);
    }
    let mut chars = base.chars();
    if let (Some(c), None) = (chars.next(), chars.next()) {
        return Some(c);
    }
    if let Some((_, c)) = NAMES.iter().find(|(known, _)| *known == base) {
        return Some(*c);
    }
    // A letter and its accent: `eacute`.
    let letter = base.chars().next()?;
    let accent = MARKS.iter().find(|(mark, _)| *mark == &base[letter.len_utf8()..])?.1;
    unicode_normalization::char::compose(letter, accent)
}

const MARKS: &[(&str, char)] = &[
    ("acute", '\u{301}'),
    ("grave", '\u{300}'),
    ("circumflex", '\u{302}'),
    ("dieresis", '\u{308}'),
    ("tilde", '\u{303}'),
    ("ring", '\u{30a}'),
    ("caron", '\u{30c}'),
    ("cedilla", '\u{327}'),
    ("commaaccent", '\u{327}'),
    ("ogonek", '\u{328}'),
    ("breve", '\u{306}'),
    ("macron", '\u{304}'),
    ("dotaccent", '\u{307}'),
    ("hungarumlaut", '\u{30b}'),
];

const NAMES: &[(&str, char)] = &[
    ("space", ' '),
    ("nbspace", ' '),
    ("exclam", '!'),
    ("quotedbl", '"'),
    ("numbersign", '#'),
    ("dollar", '$'),
    ("percent", '%'),
    ("ampersand", '&'),
    ("quotesingle", '\''),
    ("quoteright", '’'),
    ("quoteleft", '‘'),
    ("parenleft", '('),
    ("parenright", ')'),
    ("asterisk", '*'),
    ("plus", '+'),
    ("comma", ','),
    ("hyphen", '-'),
    ("minus", '−'),
    ("period", '.'),
    ("slash", '/'),
    ("zero", '0'),
    ("one", '1'),
    ("two", '2'),
    ("three", '3'),
    ("four", '4'),
    ("five", '5'),
    ("six", '6'),
    ("seven", '7'),
    ("eight", '8'),
    ("nine", '9'),
    ("colon", ':'),
    ("semicolon", ';'),
    ("less", '<'),
    ("equal", '='),
    ("greater", '>'),
    ("question", '?'),
    ("at", '@'),
    ("bracketleft", '['),
    ("backslash", '\\'),
    ("bracketright", ']'),
    ("underscore", '_'),
    ("braceleft", '{'),
    ("bar", '|'),
    ("braceright", '}'),
    ("quotedblleft", '“'),
    ("quotedblright", '”'),
    ("endash", '–'),
    ("emdash", '—'),
    ("bullet", '•'),
    ("ellipsis", '…'),
    ("fi", 'ﬁ'),
    ("fl", 'ﬂ'),
    ("ff", 'ﬀ'),
    ("ffi", 'ﬃ'),
    ("ffl", 'ﬄ'),
    ("germandbls", 'ß'),
    ("ae", 'æ'),
    ("AE", 'Æ'),
    ("oe", 'œ'),
    ("OE", 'Œ'),
    ("oslash", 'ø'),
    ("Oslash", 'Ø'),
    ("dotlessi", 'ı'),
    ("lslash", 'ł'),
    ("Lslash", 'Ł'),
    ("eth", 'ð'),
    ("thorn", 'þ'),
    ("Euro", '€'),
    ("sterling", '£'),
    ("section", '§'),
    ("copyright", '©'),
    ("registered", '®'),
    ("degree", '°'),
];

/// Widths of Helvetica for codes 32 to 126, for fonts that every reader has and no file describes.
const HELVETICA: [u16; 95] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556,
    556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278,
    500, 667, 556, 833, 722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469,
    556, 333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500,
    278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
];
