//! PDF as text (ISO 32000-1), by a reader of our own that trusts nothing of the file's structure.
//!
//! A PDF says in several places where its objects are, and programs differ in which they believe. Here
//! the file is searched for objects wherever they stand, every page, form and appearance of a form field
//! is read, and streams that nothing leads to as well (as hidden text): an object that is doubled, or
//! replaced by a later version, hides nothing. A library that follows the tables, expands ranges of
//! character maps and limits each stream by itself (lopdf 0.47) would have to be guarded on each of
//! these counts.

mod content;
mod file;
mod filter;
mod font;
mod object;

use std::collections::HashSet;

use super::document::Document;
use super::{BOUNDARY, Budget, ENCRYPTED, Extract, Sink, Why};
use content::{Fonts, Interpreter};
use file::File;
use object::{Dict, Object};

const NO_MAP: Why = "text in a font without a map to characters";
const NO_OBJECTS: Why = "damaged";

pub fn read(content: &[u8], budget: &Budget) -> Document {
    let file = File::scan(content, budget);
    if file.encrypted {
        return Document { failed: Some(ENCRYPTED), ..Document::default() };
    }
    if file.objects.is_empty() {
        return Document { failed: Some(NO_OBJECTS), ..Document::default() };
    }
    let mut reader = Reader {
        file: &file,
        budget,
        seen: HashSet::new(),
        fonts: Fonts::default(),
        document: Document::default(),
        unmapped: false,
    };
    reader.pages();
    reader.appearances();
    reader.spoken();
    reader.orphans();
    reader.embedded();
    if reader.unmapped {
        reader.document.failed = Some(NO_MAP);
    }
    reader.document
}

struct Reader<'f> {
    file: &'f File<'f>,
    budget: &'f Budget,
    /// Streams already read, by their place in the file's list.
    seen: HashSet<usize>,
    fonts: Fonts,
    document: Document,
    unmapped: bool,
}

/// Forms inside forms, ancestors of a page.
const DEEPEST: usize = 32;

impl<'f> Reader<'f> {
    fn pages(&mut self) {
        let file = self.file;
        for (_, object) in &file.objects {
            let Some(page) = object.dict().filter(|dict| dict.is_name("Type", b"Page")) else { continue };
            let resources = self.inherited(page);
            // Text may go on from one content stream to the next, in the middle of a word.
            let mut bytes = Vec::new();
            for at in file.streams(page.get("Contents")) {
                self.seen.insert(at);
                bytes.extend(file.decode(at, self.budget));
                bytes.push(b'\n');
            }
            self.interpret(&bytes, resources, false);
            self.forms(resources);
            if self.budget.stopped().is_some() {
                return;
            }
        }
    }

    /// The resources of a page: its own, or those of the nearest ancestor that has some.
    fn inherited(&self, page: &'f Dict) -> Option<&'f Dict> {
        let mut node = page;
        for _ in 0..DEEPEST {
            if let Some(resources) = self.file.dict(node.get("Resources")) {
                return Some(resources);
            }
            node = self.file.dict(node.get("Parent"))?;
        }
        None
    }

    /// The forms that resources name, and those that theirs name, each once.
    fn forms(&mut self, resources: Option<&'f Dict>) {
        let mut waiting = vec![resources];
        while let Some(resources) = waiting.pop() {
            let named = resources.and_then(|resources| self.file.dict(resources.get("XObject")));
            for (_, object) in named.map(Dict::iter).into_iter().flatten() {
                for at in self.file.streams(Some(object)) {
                    waiting.extend(self.form(at, resources, false));
                }
            }
        }
    }

    /// Reads a form once; returns its resources.
    fn form(&mut self, at: usize, around: Option<&'f Dict>, hidden: bool) -> Option<Option<&'f Dict>> {
        let dict = self.file.objects[at].1.dict()?;
        if is_no_text(dict) || self.budget.stopped().is_some() || !self.seen.insert(at) {
            return None;
        }
        let resources = self.file.dict(dict.get("Resources")).or(around);
        let bytes = self.file.decode(at, self.budget);
        self.interpret(&bytes, resources, hidden);
        Some(resources)
    }

    /// What form fields and annotations look like.
    fn appearances(&mut self) {
        let file = self.file;
        for (_, object) in &file.objects {
            let Some(looks) = object.dict().and_then(|dict| file.dict(dict.get("AP"))) else { continue };
            for (_, look) in looks.iter() {
                // One stream, or one for each state of the field.
                let states = file.dict(Some(look)).filter(|_| file.streams(Some(look)).is_empty());
                let mut found = file.streams(Some(look));
                for (_, state) in states.map(Dict::iter).into_iter().flatten() {
                    found.extend(file.streams(Some(state)));
                }
                for at in found {
                    let resources = self.form(at, None, false);
                    self.forms(resources.flatten());
                }
            }
        }
    }

    /// Texts that are not drawn by a page: notes, values of fields, bookmarks.
    fn spoken(&mut self) {
        let mut sink = Sink::new(self.budget);
        for (_, object) in &self.file.objects {
            let Some(dict) = object.dict() else { continue };
            let note = dict.get("Subtype").is_some() && dict.get("Rect").is_some();
            let bookmark = dict.get("Parent").is_some() && dict.get("Title").is_some();
            for key in ["Contents", "V", "Title", "TU"] {
                let wanted = match key {
                    "Contents" => note,
                    "Title" => bookmark,
                    _ => dict.get("FT").is_some() || note,
                };
                if wanted && let Some(Object::String(bytes)) = self.file.resolve(dict.get(key)) {
                    sink.push(&font::text_string(bytes), false);
                    sink.boundary();
                }
            }
        }
        self.document.texts.extend(sink.take());
    }

    /// Streams that nothing led to: former versions, doubled objects, forms that only a script shows.
    fn orphans(&mut self) {
        for at in 0..self.file.objects.len() {
            let (_, object) = &self.file.objects[at];
            if let Object::Stream(dict, _) = object
                && !is_no_text(dict)
                && (dict.get("Resources").is_some() || dict.get("Type").is_none())
            {
                self.form(at, None, true);
            }
        }
    }

    fn embedded(&mut self) {
        let file = self.file;
        let mut named = std::collections::HashMap::new();
        for (_, object) in &file.objects {
            let Some(dict) = object.dict() else { continue };
            let Some(held) = file.dict(dict.get("EF")) else { continue };
            let name = ["UF", "F"].iter().find_map(|key| match file.resolve(dict.get(key)) {
                Some(Object::String(name)) => Some(font::text_string(name)),
                _ => None,
            });
            for at in held.iter().flat_map(|(_, object)| file.streams(Some(object))) {
                named.insert(at, name.clone());
            }
        }
        for (at, (_, object)) in file.objects.iter().enumerate() {
            let Object::Stream(dict, _) = object else { continue };
            if !named.contains_key(&at) && !dict.is_name("Type", b"EmbeddedFile") {
                continue;
            }
            let content = file.decode(at, self.budget);
            if !content.is_empty() {
                let name = named.remove(&at).flatten().unwrap_or_else(|| format!("embedded{at}"));
                self.document.files.push((name, content));
            }
        }
    }

    fn interpret(&mut self, bytes: &[u8], resources: Option<&'f Dict>, hidden: bool) {
        let interpreter = Interpreter::new(self.file, self.budget, &mut self.fonts, resources, hidden);
        let read = interpreter.run(bytes);
        self.unmapped |= read.unmapped && !hidden;
        self.document.texts.extend(read.text);
        if let Some(text) = read.otherwise.filter(|text| self.budget.text(text.len())) {
            self.document.texts.push(Extract { text, hidden: Vec::new() });
        }
    }
}

/// Streams that are pictures, fonts, tables: what is in them is not drawn as text.
fn is_no_text(dict: &Dict) -> bool {
    const TYPES: [&[u8]; 6] = [b"XRef", b"ObjStm", b"Metadata", b"EmbeddedFile", b"CMap", b"Font"];
    TYPES.iter().any(|name| dict.is_name("Type", name))
        || dict.is_name("Subtype", b"Image")
        || dict.is_name("Subtype", b"XML")
        || ["Length1", "FunctionType", "ShadingType", "CMapName", "N", "Width"]
            .iter()
            .any(|key| dict.get(key).is_some())
        || ["Type1C", "CIDFontType0C", "OpenType"].iter().any(|name| dict.is_name("Subtype", name.as_bytes()))
}

/// Paragraphs and columns apart.
const GAP: char = BOUNDARY;
