//! OpenDocument texts, sheets and slides: all text of content.xml and styles.xml (headers and footers),
//! spans joined, paragraphs and cells apart.

use std::collections::HashSet;

use super::archive::zip_members;
use super::document::Document;
use super::xml::{self, Node};
use super::{Budget, ENCRYPTED, Sink};

pub fn read(content: &[u8], budget: &Budget) -> Document {
    let mut document = Document { holds_files: true, ..Document::default() };
    let members = match zip_members(content, budget) {
        Ok(members) => members,
        Err(why) => return Document { failed: Some(why), ..document },
    };
    let named = |name: &'static str| members.iter().filter(move |m| m.name.rsplit('/').next() == Some(name));
    for manifest in named("manifest.xml") {
        let mut encrypted = false;
        let _ = xml::each(content, manifest, budget, |node| {
            encrypted |= matches!(node, Node::Open("encryption-data", ..));
        });
        if encrypted {
            return Document { failed: Some(ENCRYPTED), ..document };
        }
    }
    let mut sink = Sink::new(budget);
    // Objects inside (a chart, a formula) have a content.xml of their own.
    for member in named("content.xml").chain(named("styles.xml")) {
        let mut part = Part {
            sink: &mut sink,
            hidden_styles: HashSet::new(),
            style: None,
            inside: 0,
            dropping: 0,
            spans: Vec::new(),
            hiding: 0,
        };
        if let Err(why) = xml::each(content, member, budget, |node| part.node(node)) {
            document.failed.get_or_insert(why);
        }
        document.texts.extend(sink.take());
    }
    document
}

struct Part<'s, 'b> {
    sink: &'s mut Sink<'b>,
    hidden_styles: HashSet<String>,
    /// The style being defined.
    style: Option<String>,
    /// Paragraphs and headings open.
    inside: usize,
    /// Elements open whose text is about the text: who wrote a comment, and when.
    dropping: usize,
    /// Spans open, and whether each hides.
    spans: Vec<bool>,
    /// How many of them hide.
    hiding: usize,
}

impl Part<'_, '_> {
    fn hidden(&self) -> bool {
        self.hiding > 0
    }

    fn node(&mut self, node: Node<'_>) {
        match node {
            Node::Open(name, tag, empty) => match name {
                "style" => self.style = xml::attribute(tag, "name"),
                "text-properties" => {
                    let hides = xml::attribute(tag, "display").is_some_and(|display| display == "none")
                        || xml::attribute(tag, "font-size")
                            .is_some_and(|size| size.starts_with("0") || size == "1pt");
                    if let Some(style) =
                        self.style.clone().filter(|_| hides && self.hidden_styles.len() < 4096)
                    {
                        self.hidden_styles.insert(style);
                    }
                }
                "p" | "h" if !empty => {
                    self.inside += 1;
                    self.enter(tag);
                }
                "span" | "a" if !empty => self.enter(tag),
                "creator" | "date" | "date-string" if !empty => self.dropping += 1,
                "s" => {
                    let count =
                        xml::attribute(tag, "c").and_then(|count| count.parse().ok()).unwrap_or(1usize);
                    self.sink.push(&" ".repeat(count.min(8)), self.hidden());
                }
                "tab" => self.sink.push_char(' ', self.hidden()),
                "line-break" => self.sink.push_char('\n', false),
                "hidden-text" | "conditional-text" => {
                    if let Some(value) = xml::attribute(tag, "string-value") {
                        self.sink.push(&value, true);
                    }
                }
                "table" => {
                    if let Some(name) = xml::attribute(tag, "name") {
                        self.sink.boundary();
                        self.sink.push(&name, false);
                        self.sink.boundary();
                    }
                }
                _ => {}
            },
            Node::Close(name) => match name {
                "style" => self.style = None,
                "p" | "h" => {
                    self.inside = self.inside.saturating_sub(1);
                    self.leave();
                    self.sink.boundary();
                }
                "span" | "a" => self.leave(),
                "creator" | "date" | "date-string" => self.dropping = self.dropping.saturating_sub(1),
                "table-cell" | "list-item" | "annotation" | "note" => self.sink.boundary(),
                _ => {}
            },
            Node::Text(text) if self.inside > 0 && self.dropping == 0 => {
                let hidden = self.hidden();
                self.sink.push(text, hidden);
            }
            Node::Text(_) => {}
        }
    }

    fn enter(&mut self, tag: &quick_xml::events::BytesStart<'_>) {
        let style = xml::attribute(tag, "style-name");
        let hides = style.is_some_and(|style| self.hidden_styles.contains(&style));
        self.hiding += usize::from(hides);
        self.spans.push(hides);
    }

    fn leave(&mut self) {
        self.hiding -= usize::from(self.spans.pop().unwrap_or(false));
    }
}
