//! All objects of a PDF, found by looking for them.

use std::collections::HashMap;

use memchr::memmem;

use super::filter;
use super::object::{Dict, Lexer, Object, Token, is_white};
use crate::mail::containers::{Budget, Why};

pub struct File<'a> {
    content: &'a [u8],
    /// In the order of the file, every version of each.
    pub objects: Vec<(u32, Object)>,
    /// The last version of each.
    last: HashMap<u32, usize>,
    pub encrypted: bool,
}

/// Objects in all, parts of arrays and dictionaries counted: each takes some 30 octets.
const MOST: usize = 2_000_000;
const TOO_MANY: Why = "a PDF of more objects than may be read";

impl<'a> File<'a> {
    pub fn scan(content: &'a [u8], budget: &Budget) -> Self {
        let mut file = Self { content, objects: Vec::new(), last: HashMap::new(), encrypted: false };
        let mut made = 0;
        let mut reach = 0;
        for at in memmem::find_iter(content, b"obj") {
            // What stands in a stream is no object of the file.
            if at < reach {
                continue;
            }
            let Some(number) = header(content, at) else { continue };
            let mut lexer = Lexer::new(content, at + 3, true);
            let Some(object) = lexer.object() else { continue };
            made += lexer.made;
            if made > MOST {
                budget.stop(TOO_MANY);
                break;
            }
            reach = lexer.at;
            let Object::Dict(dict) = object else {
                file.add(number, object);
                continue;
            };
            let after = lexer.at;
            if lexer.token() != Some(Token::Word(b"stream")) {
                reach = after;
                file.add(number, Object::Dict(dict));
                continue;
            }
            let mut start = lexer.at;
            if content.get(start) == Some(&b'\r') {
                start += 1;
            }
            if content.get(start) == Some(&b'\n') {
                start += 1;
            }
            let end = stream_end(content, start, &dict);
            reach = end;
            file.encrypted |= dict.is_name("Type", b"XRef") && dict.get("Encrypt").is_some();
            let packed = dict.is_name("Type", b"ObjStm");
            file.add(number, Object::Stream(dict, Box::new(start..end)));
            if packed {
                file.unpack(file.objects.len() - 1, budget, &mut made);
            }
        }
        for at in memmem::find_iter(content, b"trailer") {
            let mut lexer = Lexer::new(content, at + 7, true);
            lexer.skip_white();
            if content.get(lexer.at..).is_some_and(|rest| rest.starts_with(b"<<"))
                && let Some(Object::Dict(trailer)) = lexer.object()
            {
                file.encrypted |= trailer.get("Encrypt").is_some_and(|value| *value != Object::Null);
            }
            made += lexer.made;
            if made > MOST {
                break;
            }
        }
        file
    }

    fn add(&mut self, number: u32, object: Object) {
        self.last.insert(number, self.objects.len());
        self.objects.push((number, object));
    }

    /// The objects inside an object stream (section 7.5.7).
    fn unpack(&mut self, at: usize, budget: &Budget, made: &mut usize) {
        let bytes = self.decode(at, budget);
        let dict = self.objects[at].1.dict();
        let first = dict.and_then(|dict| dict.get("First")).and_then(Object::integer).unwrap_or(0);
        let mut index = Lexer::new(bytes.get(..first).unwrap_or_default(), 0, false);
        let mut places = Vec::new();
        while let (Some(Object::Number(number)), Some(Object::Number(offset))) =
            (index.object(), index.object())
        {
            places.push((number as u32, offset as usize));
        }
        for (number, offset) in places {
            let mut lexer = Lexer::new(&bytes, first.saturating_add(offset).min(bytes.len()), true);
            if let Some(object) = lexer.object() {
                *made += lexer.made;
                if *made > MOST {
                    budget.stop(TOO_MANY);
                    return;
                }
                self.add(number, object);
            }
        }
    }

    pub fn resolve<'s>(&'s self, object: Option<&'s Object>) -> Option<&'s Object> {
        let mut object = object?;
        for _ in 0..8 {
            let Object::Ref(number) = object else { return Some(object) };
            object = &self.objects[*self.last.get(number)?].1;
        }
        None
    }

    pub fn dict<'s>(&'s self, object: Option<&'s Object>) -> Option<&'s Dict> {
        self.resolve(object)?.dict()
    }

    /// The streams that a reference, or an array of references, leads to.
    pub fn streams(&self, object: Option<&Object>) -> Vec<usize> {
        let place = |object: &Object| match object {
            Object::Ref(number) => {
                let at = *self.last.get(number)?;
                matches!(self.objects[at].1, Object::Stream(..)).then_some(at)
            }
            _ => None,
        };
        let Some(object) = object else { return Vec::new() };
        if let Some(at) = place(object) {
            return vec![at];
        }
        self.resolve(Some(object)).map(Object::array).unwrap_or_default().iter().filter_map(place).collect()
    }

    /// The octets of a stream, filters undone; empty for a filter that makes pictures.
    pub fn decode(&self, at: usize, budget: &Budget) -> Vec<u8> {
        let Some((_, Object::Stream(dict, range))) = self.objects.get(at) else { return Vec::new() };
        let raw = &self.content[(**range).clone()];
        filter::decode(raw, dict, |object| self.resolve(object), budget)
    }
}

/// The number of the object whose `obj` stands at `at`: `12 0 obj`.
fn header(content: &[u8], at: usize) -> Option<u32> {
    let back = |end: usize, is: fn(u8) -> bool| {
        let window = &content[end.saturating_sub(12)..end];
        end - window.iter().rev().take_while(|b| is(**b)).count()
    };
    let digit = |b: u8| b.is_ascii_digit();
    let generation_end = back(at, is_white);
    let generation = back(generation_end, digit);
    let number_end = back(generation, is_white);
    let number = back(number_end, digit);
    if generation == generation_end || number == number_end || number_end == generation {
        return None;
    }
    std::str::from_utf8(&content[number..number_end]).ok()?.parse().ok()
}

/// Where a stream ends: by its length if that leads to `endstream`, else at the next one.
fn stream_end(content: &[u8], start: usize, dict: &Dict) -> usize {
    const MARK: &[u8] = b"endstream";
    if let Some(length) = dict.get("Length").and_then(Object::integer)
        && let Some(end) = start.checked_add(length).filter(|end| *end <= content.len())
    {
        let rest = &content[end..];
        let blanks = rest.iter().take(4).take_while(|b| is_white(**b)).count();
        if rest[blanks..].starts_with(MARK) {
            return end;
        }
    }
    let rest = content.get(start..).unwrap_or_default();
    start.min(content.len()) + memmem::find(rest, MARK).unwrap_or(rest.len())
}
