//! Word, Excel and PowerPoint (ECMA-376): runs join, paragraphs and cells separate.
//!
//! Every XML part of the package is read by the same rules, wherever its relations lead and whatever it
//! is called: main text, headers, footers, notes, comments, slides, charts, diagrams.

use super::archive::{Member, zip_members};
use super::document::Document;
use super::xml::{self, Node};
use super::{Budget, METHOD, Sink, Why};

/// Each shared string of a workbook is given as often as cells name it, up to this: counts of matches
/// stay right as far as anybody counts, and a small file cannot be made to hold a book.
const SHARED_AT_MOST: u8 = 16;

pub fn read(content: &[u8], budget: &Budget) -> Document {
    let mut document = Document { holds_files: true, ..Document::default() };
    let members = match zip_members(content, budget) {
        Ok(members) => members,
        Err(why) => return Document { failed: Some(why), ..document },
    };
    let mut sink = Sink::new(budget);
    let mut shared = Vec::new();
    let lower = |member: &Member| member.name.to_ascii_lowercase();
    if let Some(strings) = members.iter().find(|member| lower(member).ends_with("sharedstrings.xml"))
        && let Err(why) = shared_strings(content, strings, budget, &mut shared)
    {
        document.failed = Some(why);
    }
    for member in &members {
        let name = lower(member);
        // Styles, settings and relations hold no text; a binary workbook holds nothing else.
        if name.ends_with(".bin") && name.starts_with("xl/work") {
            document.failed = Some(METHOD);
        }
        if !name.ends_with(".xml") || name.starts_with("docprops/") || name.ends_with("sharedstrings.xml") {
            continue;
        }
        let mut part = Part::new(&mut sink, &mut shared);
        if let Err(why) = xml::each(content, member, budget, |node| part.node(node)) {
            document.failed.get_or_insert(why);
        }
        document.texts.extend(sink.take());
    }
    for (text, count) in &shared {
        if *count == 0 {
            sink.push(text, false);
            sink.boundary();
        }
    }
    document.texts.extend(sink.take());
    document
}

fn shared_strings(
    content: &[u8],
    member: &Member,
    budget: &Budget,
    strings: &mut Vec<(String, u8)>,
) -> Result<(), Why> {
    let (mut text, mut in_text, mut phonetic) = (String::new(), false, false);
    xml::each(content, member, budget, |node| match node {
        Node::Open("si", _, _) => text.clear(),
        Node::Open("rPh", _, empty) => phonetic = !empty,
        Node::Close("rPh") => phonetic = false,
        Node::Open("t", _, empty) => in_text = !empty && !phonetic,
        Node::Close("t") => in_text = false,
        Node::Text(piece) if in_text => text.push_str(piece),
        Node::Close("si") => strings.push((std::mem::take(&mut text), 0)),
        _ => {}
    })
}

struct Part<'s, 'b> {
    sink: &'s mut Sink<'b>,
    shared: &'s mut Vec<(String, u8)>,
    /// Inside an element whose text shows.
    reading: bool,
    /// Inside one whose text does not, deleted text or a field's code.
    unseen: bool,
    /// The run at hand is not shown.
    hidden: bool,
    in_properties: bool,
    phonetic: bool,
    cell: Cell,
    value: String,
}

/// What the value of a spreadsheet's cell means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    None,
    Shared,
    Plain,
}

impl<'s, 'b> Part<'s, 'b> {
    fn new(sink: &'s mut Sink<'b>, shared: &'s mut Vec<(String, u8)>) -> Self {
        Self {
            sink,
            shared,
            reading: false,
            unseen: false,
            hidden: false,
            in_properties: false,
            phonetic: false,
            cell: Cell::None,
            value: String::new(),
        }
    }

    fn node(&mut self, node: Node<'_>) {
        match node {
            Node::Open(name, tag, empty) => self.open(name, tag, empty),
            Node::Close(name) => self.close(name),
            Node::Text(text) if self.cell != Cell::None && self.reading => self.value.push_str(text),
            Node::Text(text) if self.reading && !self.phonetic => {
                self.sink.push(text, self.hidden || self.unseen);
            }
            Node::Text(_) => {}
        }
    }

    fn open(&mut self, name: &str, tag: &quick_xml::events::BytesStart<'_>, empty: bool) {
        let value = || xml::attribute(tag, "val");
        match name {
            "t" | "text" | "oddHeader" | "oddFooter" | "evenHeader" | "evenFooter" | "firstHeader"
            | "firstFooter" => self.reading = !empty,
            "delText" | "instrText" => (self.reading, self.unseen) = (!empty, true),
            "v" => {
                self.reading = !empty;
                self.value.clear();
            }
            "c" => {
                self.cell = match xml::attribute(tag, "t").as_deref() {
                    Some("s") => Cell::Shared,
                    Some("inlineStr") => Cell::None,
                    _ => Cell::Plain,
                }
            }
            "rPh" => self.phonetic = !empty,
            "r" => self.hidden = false,
            "rPr" => self.in_properties = !empty,
            "vanish" | "webHidden" | "specVanish" if self.in_properties => {
                self.hidden |= !matches!(value().as_deref(), Some("0" | "false" | "off"));
            }
            // Half points: one point and less is no size to be read in.
            "sz" if self.in_properties => {
                self.hidden |=
                    value().and_then(|size| size.parse::<u32>().ok()).is_some_and(|size| size <= 2);
            }
            "color" if self.in_properties => {
                self.hidden |= value().is_some_and(|color| color.eq_ignore_ascii_case("ffffff"));
            }
            "tab" | "ptab" => self.sink.push_char(' ', self.hidden),
            "br" | "cr" => self.sink.push_char('\n', false),
            "noBreakHyphen" => self.sink.push_char('-', self.hidden),
            "sym" => {
                let code = xml::attribute(tag, "char").and_then(|code| u32::from_str_radix(&code, 16).ok());
                // Fonts of symbols keep their letters in the private area.
                let code =
                    code.map(|code| if (0xf000..0xf100).contains(&code) { code - 0xf000 } else { code });
                if let Some(c) = code.and_then(char::from_u32) {
                    self.sink.push_char(c, self.hidden);
                }
            }
            // What a tab of a workbook and a picture are called is shown.
            "sheet" => self.spoken(xml::attribute(tag, "name")),
            "docPr" | "cNvPr" => self.spoken(xml::attribute(tag, "descr")),
            _ => {}
        }
    }

    fn spoken(&mut self, text: Option<String>) {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.sink.boundary();
            self.sink.push(&text, false);
            self.sink.boundary();
        }
    }

    fn close(&mut self, name: &str) {
        match name {
            "t" | "delText" | "instrText" => (self.reading, self.unseen) = (false, false),
            "text" | "oddHeader" | "oddFooter" | "evenHeader" | "evenFooter" | "firstHeader"
            | "firstFooter" => {
                self.reading = false;
                self.sink.boundary();
            }
            "v" => {
                self.reading = false;
                self.value_of_cell();
            }
            "rPr" => self.in_properties = false,
            "rPh" => self.phonetic = false,
            "r" => self.hidden = false,
            "c" => {
                self.cell = Cell::None;
                self.sink.boundary();
            }
            "p" | "tc" | "tr" | "si" | "is" | "comment" | "txBody" | "pt" => self.sink.boundary(),
            _ => {}
        }
    }

    fn value_of_cell(&mut self) {
        let value = std::mem::take(&mut self.value);
        match self.cell {
            Cell::Shared => {
                let at: Option<usize> = value.trim().parse().ok();
                let Some((text, count)) = at.and_then(|at| self.shared.get_mut(at)) else { return };
                if *count < SHARED_AT_MOST {
                    *count += 1;
                    self.sink.push(text, false);
                }
            }
            Cell::Plain => self.sink.push(&value, false),
            Cell::None => {}
        }
        self.sink.boundary();
    }
}
