//! Objects of PDF (ISO 32000-1 section 7.3) and the tokens of content streams.

use std::ops::Range;

#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Null,
    Number(f32),
    Name(Box<[u8]>),
    String(Box<[u8]>),
    Array(Box<[Object]>),
    Dict(Dict),
    Ref(u32),
    /// Its dictionary and where its octets are in the file.
    Stream(Dict, Box<Range<usize>>),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dict(Box<[(Box<[u8]>, Object)]>);

impl Dict {
    pub fn get(&self, key: &str) -> Option<&Object> {
        self.0.iter().find(|(name, _)| &**name == key.as_bytes()).map(|(_, value)| value)
    }

    pub fn is_name(&self, key: &str, value: &[u8]) -> bool {
        matches!(self.get(key), Some(Object::Name(name)) if &**name == value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Object)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// The value of either name: inline images and filters have short ones.
    pub fn either(&self, long: &str, short: &str) -> Option<&Object> {
        self.get(long).or_else(|| self.get(short))
    }
}

impl Object {
    pub fn dict(&self) -> Option<&Dict> {
        match self {
            Object::Dict(dict) | Object::Stream(dict, _) => Some(dict),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<f32> {
        match self {
            Object::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub fn integer(&self) -> Option<usize> {
        self.number().filter(|n| *n >= 0.0).map(|n| n as usize)
    }

    pub fn name(&self) -> Option<&[u8]> {
        match self {
            Object::Name(name) => Some(name),
            _ => None,
        }
    }

    pub fn array(&self) -> &[Object] {
        match self {
            Object::Array(items) => items,
            _ => &[],
        }
    }
}

/// Containers inside containers; deeper ones read as null.
const DEEPEST: usize = 48;

/// Something in a content stream or between objects.
#[derive(Debug, PartialEq)]
pub enum Token<'a> {
    Object(Object),
    Word(&'a [u8]),
    /// A closing bracket without an opening one, or a stray octet.
    Stray,
}

pub struct Lexer<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    /// Objects made so far: each costs memory many times its octets.
    pub made: usize,
    /// Read `1 0 R` as a reference; content streams have none.
    references: bool,
}

pub fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'\0' | 0x0c)
}

fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b'(' | b')' | b'<' | b'>' | b'[' | b']' | b'{' | b'}' | b'/' | b'%')
}

fn is_regular(byte: u8) -> bool {
    !is_white(byte) && !is_delimiter(byte)
}

impl<'a> Lexer<'a> {
    pub fn new(bytes: &'a [u8], at: usize, references: bool) -> Self {
        Self { bytes, at, made: 0, references }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub fn skip_white(&mut self) {
        while let Some(byte) = self.peek() {
            if byte == b'%' {
                let rest = &self.bytes[self.at..];
                self.at += memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            } else if is_white(byte) {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    /// The next token; `None` at the end.
    pub fn token(&mut self) -> Option<Token<'a>> {
        self.value(0)
    }

    pub fn object(&mut self) -> Option<Object> {
        match self.value(0)? {
            Token::Object(object) => Some(object),
            _ => None,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Token<'a>> {
        self.skip_white();
        let byte = self.peek()?;
        self.made += 1;
        let object = match byte {
            b'/' => {
                self.at += 1;
                Object::Name(self.name())
            }
            b'(' => Object::String(self.literal()),
            b'<' if self.bytes.get(self.at + 1) == Some(&b'<') => {
                self.at += 2;
                self.dict(depth)
            }
            b'<' => Object::String(self.hexadecimal()),
            b'[' => {
                self.at += 1;
                self.array(depth)
            }
            b'+' | b'-' | b'.' | b'0'..=b'9' => self.number(),
            byte if is_regular(byte) => {
                let word = self.word();
                return Some(match word {
                    b"true" | b"false" | b"null" => Token::Object(Object::Null),
                    word => Token::Word(word),
                });
            }
            b'>' if self.bytes.get(self.at + 1) == Some(&b'>') => {
                self.at += 2;
                return Some(Token::Stray);
            }
            _ => {
                self.at += 1;
                return Some(Token::Stray);
            }
        };
        Some(Token::Object(object))
    }

    fn word(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| !is_regular(b)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn name(&mut self) -> Box<[u8]> {
        let word = self.word();
        if !word.contains(&b'#') {
            return word.into();
        }
        let mut name = Vec::with_capacity(word.len());
        let mut rest = word;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            let digit = |at: usize| tail.get(at).and_then(|&b| char::from(b).to_digit(16));
            match (byte, digit(0), digit(1)) {
                (b'#', Some(high), Some(low)) => {
                    name.push((high << 4 | low) as u8);
                    rest = &tail[2..];
                }
                _ => name.push(byte),
            }
        }
        name.into()
    }

    fn number(&mut self) -> Object {
        let word = self.word();
        let number = number(word);
        if !self.references || !word.iter().all(u8::is_ascii_digit) {
            return Object::Number(number);
        }
        // A reference is two integers and an R.
        let before = self.at;
        self.skip_white();
        let generation = self.peek().is_some_and(|b| b.is_ascii_digit()).then(|| self.word());
        if generation.is_some_and(|word| word.len() <= 5 && word.iter().all(u8::is_ascii_digit)) {
            self.skip_white();
            if self.peek() == Some(b'R') && !self.bytes.get(self.at + 1).is_some_and(|&b| is_regular(b)) {
                self.at += 1;
                return match std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()) {
                    Some(number) => Object::Ref(number),
                    None => Object::Null,
                };
            }
        }
        self.at = before;
        Object::Number(number)
    }

    fn literal(&mut self) -> Box<[u8]> {
        let mut out = Vec::new();
        let mut open = 0usize;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'(' => {
                    if open > 0 {
                        out.push(byte);
                    }
                    open += 1;
                }
                b')' => {
                    open -= 1;
                    if open == 0 {
                        break;
                    }
                    out.push(byte);
                }
                b'\\' => self.escape(&mut out),
                byte => out.push(byte),
            }
        }
        out.into()
    }

    fn escape(&mut self, out: &mut Vec<u8>) {
        let Some(byte) = self.peek() else { return };
        self.at += 1;
        match byte {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'\r' => {
                if self.peek() == Some(b'\n') {
                    self.at += 1;
                }
            }
            b'\n' => {}
            b'0'..=b'7' => {
                let mut value = u32::from(byte - b'0');
                for _ in 0..2 {
                    let Some(digit @ b'0'..=b'7') = self.peek() else { break };
                    value = value * 8 + u32::from(digit - b'0');
                    self.at += 1;
                }
                out.push(value as u8);
            }
            byte => out.push(byte),
        }
    }

    fn hexadecimal(&mut self) -> Box<[u8]> {
        self.at += 1;
        let rest = &self.bytes[self.at..];
        let length = memchr::memchr(b'>', rest).unwrap_or(rest.len());
        self.at = (self.at + length + 1).min(self.bytes.len());
        let digits: Vec<u8> =
            rest[..length].iter().filter_map(|&b| char::from(b).to_digit(16)).map(|d| d as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect()
    }

    fn array(&mut self, depth: usize) -> Object {
        let mut items = Vec::new();
        loop {
            self.skip_white();
            match self.peek() {
                None => break,
                Some(b']') => {
                    self.at += 1;
                    break;
                }
                _ if depth >= DEEPEST => {
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            let before = self.at;
            match self.value(depth + 1) {
                Some(Token::Object(object)) => items.push(object),
                // The object ends without its bracket.
                Some(Token::Word(b"endobj" | b"stream")) => {
                    self.at = before;
                    break;
                }
                Some(_) => {}
                None => break,
            }
        }
        Object::Array(items.into())
    }

    fn dict(&mut self, depth: usize) -> Object {
        let mut entries = Vec::new();
        loop {
            self.skip_white();
            match self.peek() {
                None => break,
                Some(b'>') => {
                    self.at += 1;
                    if self.peek() == Some(b'>') {
                        self.at += 1;
                    }
                    break;
                }
                _ if depth >= DEEPEST => {
                    self.at += 1;
                    continue;
                }
                Some(b'/') => {
                    self.at += 1;
                    let name = self.name();
                    self.skip_white();
                    if matches!(self.peek(), Some(b'>') if self.bytes.get(self.at + 1) == Some(&b'>')) {
                        continue;
                    }
                    let before = self.at;
                    match self.value(depth + 1) {
                        Some(Token::Object(object)) => entries.push((name, object)),
                        Some(Token::Word(b"endobj" | b"stream")) => {
                            self.at = before;
                            break;
                        }
                        Some(_) => {}
                        None => break,
                    }
                }
                Some(_) => {
                    let before = self.at;
                    if let Some(Token::Word(b"endobj" | b"stream")) = self.value(depth + 1) {
                        self.at = before;
                        break;
                    }
                }
            }
        }
        Object::Dict(Dict(entries.into()))
    }
}

/// A number as readers take it: what follows the digits is left out.
fn number(word: &[u8]) -> f32 {
    let (negative, digits) = match word.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, word),
    };
    let (mut value, mut scale) = (0f64, None);
    for &byte in digits {
        match (byte, &mut scale) {
            (b'0'..=b'9', None) => value = value * 10.0 + f64::from(byte - b'0'),
            (b'0'..=b'9', Some(scale)) => {
                *scale /= 10.0;
                value += f64::from(byte - b'0') * *scale;
            }
            (b'.', None) => scale = Some(1.0),
            (b'-', _) => {}
            _ => break,
        }
    }
    (if negative { -value } else { value }).clamp(-1e9, 1e9) as f32
}
