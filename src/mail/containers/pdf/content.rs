//! A content stream drawn in the mind: where each string lands decides what is one word.
//!
//! Producers put letters, words or lines on the page one by one, so neither the order of strings nor
//! the blanks in them tell words apart; the gaps between them do.

use std::collections::HashMap;

use super::file::File;
use super::font::{Font, Glyph};
use super::object::{Dict, Lexer, Object, Token, is_white};
use crate::mail::containers::{Budget, Extract, Sink};

/// Fonts already read, by the object they are.
#[derive(Default)]
pub struct Fonts {
    fonts: Vec<Font>,
    by_object: HashMap<u32, usize>,
}

pub struct Read {
    pub text: Option<Extract>,
    /// The text as the shapes of its letters have it, where that differs from what its map says.
    pub otherwise: Option<String>,
    /// Something was shown of which nobody can tell what it is.
    pub unmapped: bool,
}

type Matrix = [f32; 6];

const UNIT: Matrix = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];

fn times(a: Matrix, b: Matrix) -> Matrix {
    [
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
        a[4] * b[0] + a[5] * b[2] + b[4],
        a[4] * b[1] + a[5] * b[3] + b[5],
    ]
}

#[derive(Clone, Copy)]
struct State {
    matrix: Matrix,
    font: Option<usize>,
    size: f32,
    between: f32,
    words: f32,
    stretch: f32,
    leading: f32,
    rise: f32,
    /// Drawn with no ink (text under a scanned page), or in white.
    invisible: bool,
    pale: bool,
}

pub struct Interpreter<'i, 'f> {
    file: &'f File<'f>,
    budget: &'f Budget,
    sink: Sink<'f>,
    fonts: &'i mut Fonts,
    resources: Option<&'f Dict>,
    by_name: HashMap<Vec<u8>, Option<usize>>,
    state: State,
    saved: Vec<State>,
    text: Matrix,
    line: Matrix,
    /// Where the last glyph ended, and how high it was.
    pen: Option<(f32, f32, f32)>,
    otherwise: String,
    doubled: bool,
    unmapped: bool,
    hidden: bool,
}

/// States kept at once; a page saves a handful.
const DEEPEST: usize = 512;
/// Fonts read for one file.
const MOST_FONTS: usize = 1000;

impl<'i, 'f> Interpreter<'i, 'f> {
    pub fn new(
        file: &'f File<'f>,
        budget: &'f Budget,
        fonts: &'i mut Fonts,
        resources: Option<&'f Dict>,
        hidden: bool,
    ) -> Self {
        let state = State {
            matrix: UNIT,
            font: None,
            size: 1.0,
            between: 0.0,
            words: 0.0,
            stretch: 1.0,
            leading: 0.0,
            rise: 0.0,
            invisible: false,
            pale: false,
        };
        Self {
            file,
            budget,
            sink: Sink::new(budget),
            fonts,
            resources,
            by_name: HashMap::new(),
            state,
            saved: Vec::new(),
            text: UNIT,
            line: UNIT,
            pen: None,
            otherwise: String::new(),
            doubled: false,
            unmapped: false,
            hidden,
        }
    }

    pub fn run(mut self, bytes: &[u8]) -> Read {
        let mut lexer = Lexer::new(bytes, 0, false);
        let mut operands: Vec<Object> = Vec::new();
        while let Some(token) = lexer.token() {
            match token {
                Token::Object(object) => {
                    // No operator takes more than a handful; the last ones count.
                    if operands.len() >= 64 {
                        operands.clear();
                    }
                    operands.push(object);
                }
                Token::Word(b"ID") => {
                    lexer.at = image_end(bytes, lexer.at);
                    operands.clear();
                }
                Token::Word(word) => {
                    self.operator(word, &operands);
                    operands.clear();
                    if self.budget.stopped().is_some() {
                        break;
                    }
                }
                Token::Stray => {}
            }
        }
        let text = self.sink.take();
        let differs = text.as_ref().is_some_and(|text| text.text != self.otherwise);
        let otherwise = (self.doubled && differs).then_some(self.otherwise);
        Read { text, otherwise, unmapped: self.unmapped }
    }

    fn operator(&mut self, word: &[u8], operands: &[Object]) {
        let number = |at: usize| operands.get(at).and_then(Object::number).unwrap_or(0.0);
        let numbers = |from: usize| -> Option<Matrix> {
            let found: Vec<f32> = operands.iter().skip(from).filter_map(Object::number).collect();
            found.try_into().ok()
        };
        match word {
            b"q" if self.saved.len() < DEEPEST => self.saved.push(self.state),
            b"Q" => {
                if let Some(state) = self.saved.pop() {
                    self.state = state;
                }
            }
            b"cm" => {
                if let Some(matrix) = numbers(0) {
                    self.state.matrix = times(matrix, self.state.matrix);
                }
            }
            b"BT" => (self.text, self.line) = (UNIT, UNIT),
            b"Tf" => {
                if let Some(name) = operands.first().and_then(Object::name) {
                    self.state.font = self.font(name);
                }
                self.state.size = number(1);
            }
            b"Tm" => {
                if let Some(matrix) = numbers(0) {
                    (self.text, self.line) = (matrix, matrix);
                }
            }
            b"Td" => self.step(number(0), number(1)),
            b"TD" => {
                self.state.leading = -number(1);
                self.step(number(0), number(1));
            }
            b"T*" => self.step(0.0, -self.state.leading),
            b"TL" => self.state.leading = number(0),
            b"Tc" => self.state.between = number(0),
            b"Tw" => self.state.words = number(0),
            b"Tz" => self.state.stretch = number(0) / 100.0,
            b"Ts" => self.state.rise = number(0),
            b"Tr" => self.state.invisible = number(0) == 3.0 || number(0) == 7.0,
            b"g" => self.state.pale = number(0) > 0.95,
            b"rg" => self.state.pale = (0..3).all(|at| number(at) > 0.95),
            b"k" => self.state.pale = (0..4).all(|at| number(at) < 0.05),
            b"sc" | b"scn" => {
                let count = operands.len();
                self.state.pale = matches!(count, 1 | 3) && (0..count).all(|at| number(at) > 0.95);
            }
            b"Tj" => self.show(operands.first()),
            b"'" => {
                self.step(0.0, -self.state.leading);
                self.show(operands.first());
            }
            b"\"" => {
                (self.state.words, self.state.between) = (number(0), number(1));
                self.step(0.0, -self.state.leading);
                self.show(operands.get(2));
            }
            b"TJ" => {
                for item in operands.first().map(Object::array).unwrap_or_default() {
                    match item {
                        Object::Number(back) => self.advance(-back / 1000.0 * self.state.size),
                        item => self.show(Some(item)),
                    }
                }
            }
            // Text that stands for what is drawn, for those who cannot see it.
            b"BDC" => {
                if let Some(Object::String(actual)) =
                    operands.get(1).and_then(Object::dict).and_then(|d| d.get("ActualText"))
                {
                    self.doubled = true;
                    self.otherwise.push_str(&super::font::text_string(actual));
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, x: f32, y: f32) {
        self.line = times([1.0, 0.0, 0.0, 1.0, x, y], self.line);
        self.text = self.line;
    }

    fn advance(&mut self, by: f32) {
        self.text = times([1.0, 0.0, 0.0, 1.0, by * self.state.stretch, 0.0], self.text);
    }

    /// The font of a name, read once for each object it is.
    fn font(&mut self, name: &[u8]) -> Option<usize> {
        if let Some(known) = self.by_name.get(name) {
            return *known;
        }
        let fonts = self.resources.and_then(|resources| self.file.dict(resources.get("Font")));
        let key = std::str::from_utf8(name).ok();
        let object = fonts.and_then(|fonts| fonts.get(key?));
        let number = match object {
            Some(Object::Ref(number)) => Some(*number),
            _ => None,
        };
        let known = number.and_then(|number| self.fonts.by_object.get(&number)).copied();
        let found = known.or_else(|| {
            let dict = self.file.dict(object)?;
            if self.fonts.fonts.len() >= MOST_FONTS {
                return None;
            }
            self.fonts.fonts.push(Font::read(dict, self.file, self.budget));
            let at = self.fonts.fonts.len() - 1;
            if let Some(number) = number {
                self.fonts.by_object.insert(number, at);
            }
            Some(at)
        });
        if self.by_name.len() < MOST_FONTS {
            self.by_name.insert(name.to_vec(), found);
        }
        found
    }

    fn show(&mut self, string: Option<&Object>) {
        let Some(Object::String(bytes)) = string else { return };
        let glyphs = match self.state.font {
            Some(font) => self.fonts.fonts[font].glyphs(bytes),
            None => bytes.iter().map(|&b| Glyph { code: u32::from(b), octets: 1 }).collect(),
        };
        let mut text = String::new();
        for glyph in glyphs {
            self.place();
            text.clear();
            let hidden = self.hidden || self.state.invisible || self.state.pale || self.height() < 1.5;
            let (width, known) = match self.state.font {
                Some(font) => {
                    let font = &self.fonts.fonts[font];
                    let known = font.character(&glyph, &mut text);
                    if font.is_doubled() {
                        self.doubled = true;
                        font.encoded(&glyph, &mut self.otherwise);
                    } else {
                        self.otherwise.push_str(&text);
                    }
                    (font.width(&glyph), known)
                }
                None => {
                    text.extend(char::from_u32(glyph.code).filter(|c| !c.is_control()));
                    self.otherwise.push_str(&text);
                    (0.5, true)
                }
            };
            self.unmapped |= !known && glyph.code != 0;
            self.sink.push(&text, hidden);
            let blank = glyph.octets == 1 && glyph.code == 32;
            let words = if blank { self.state.words } else { 0.0 };
            self.advance(width * self.state.size + self.state.between + words);
            let end = times(self.text, self.state.matrix);
            self.pen = Some((end[4], end[5], self.height()));
        }
    }

    /// How high letters are on the page.
    fn height(&self) -> f32 {
        let drawn = times(self.text, self.state.matrix);
        self.state.size.abs() * drawn[2].hypot(drawn[3])
    }

    /// Says what lies between the last glyph and the one that comes now.
    fn place(&mut self) {
        let Some((x, y, before)) = self.pen else { return };
        let drawn = times(self.text, self.state.matrix);
        let height = self.height().max(before).max(0.01);
        // Along the line and across it, whichever way the line runs.
        let (dx, dy) = (drawn[4] - x, drawn[5] - y);
        let length = drawn[0].hypot(drawn[1]).max(1e-6);
        let along = (dx * drawn[0] + dy * drawn[1]) / length / height;
        let across = (dy * drawn[0] - dx * drawn[1]) / length / height;
        let gap = match (along, across.abs()) {
            (along, across) if !along.is_finite() || !across.is_finite() => super::GAP,
            (_, across) if across > 2.2 => super::GAP,
            (_, across) if across > 0.6 => '\n',
            (along, _) if along > 4.0 => super::GAP,
            (along, _) if along > 0.15 => ' ',
            (along, _) if along < -1.5 => '\n',
            _ => return,
        };
        self.sink.push_char(gap, false);
        self.otherwise.push(gap);
    }
}

/// Where the octets of an inline image end: at an `EI` between blanks.
fn image_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    for found in memchr::memmem::find_iter(rest, b"EI") {
        let before = found.checked_sub(1).and_then(|before| rest.get(before));
        let after = rest.get(found + 2);
        if before.is_some_and(|b| is_white(*b)) && after.is_none_or(|b| is_white(*b)) {
            return at + found + 2;
        }
    }
    bytes.len()
}
