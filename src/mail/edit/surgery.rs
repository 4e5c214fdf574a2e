//! Taking parts out of a message: what is cut goes with its delimiter, where something was a note may stand,
//! every other byte stays as it came.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::head;
use super::text;
use super::tree::{Form, Tree};
use super::{EditError, Note};
use crate::mail::message::Message;

/// Replacements of ranges of the original, in any order; ranges do not overlap.
#[derive(Default)]
pub(super) struct Splices(Vec<(Range<usize>, Vec<u8>)>);

impl Splices {
    pub fn replace(&mut self, range: Range<usize>, by: impl Into<Vec<u8>>) {
        self.0.push((range, by.into()));
    }

    pub fn apply(mut self, bytes: &[u8]) -> Vec<u8> {
        // Stable: what is put at one place stays in the order it was asked for.
        self.0.sort_by_key(|(range, _)| (range.start, range.end));
        let mut out = Vec::with_capacity(bytes.len() + 1024);
        let mut at = 0;
        for (range, by) in self.0 {
            out.extend_from_slice(&bytes[at.min(range.start)..range.start]);
            out.extend_from_slice(&by);
            at = at.max(range.end);
        }
        out.extend_from_slice(&bytes[at..]);
        out
    }
}

/// Where the names of what is gone are told.
enum Place {
    /// Instead of this part.
    Instead(usize),
    /// Behind this part, in the same multipart.
    Behind(usize),
    /// Behind the whole body of this message, which becomes a multipart/mixed for it.
    Around(usize),
}

/// The body of a part, and what stands there instead.
type Rewritten = (Range<usize>, Vec<u8>);

/// The message without the parts of `gone`. Those with a name are told of, with the `notices`; those without
/// go silently, where a part may be missing, and leave an empty text where one must be. `texts` are parts that
/// stay and get another body.
pub(super) fn cut(
    tree: &Tree<'_>,
    gone: Vec<(usize, Option<String>)>,
    texts: Vec<(usize, Rewritten)>,
    notices: &[&str],
    notes: &mut Vec<Note>,
) -> Vec<u8> {
    let bytes = tree.bytes;
    let mut gone: BTreeMap<usize, Vec<String>> =
        gone.into_iter().map(|(part, name)| (part, Vec::from_iter(name))).collect();

    // What is signed and changes is not signed any more: no broken seal stays behind.
    let mut unsealed = BTreeSet::new();
    for part in gone.keys().copied().chain(texts.iter().map(|(part, _)| *part)) {
        let mut at = Some(part);
        while let Some(part) = at {
            if tree.parts[part].media.kind == "multipart/signed" {
                unsealed.insert(part);
            }
            at = tree.parts[part].parent;
        }
    }
    let seals: Vec<usize> = unsealed.iter().filter_map(|&part| tree.signature(part)).collect();
    if !unsealed.is_empty() {
        notes.push(Note::SignatureVoid);
    }
    for seal in seals {
        gone.entry(seal).or_default();
    }

    // A multipart that loses all its parts goes itself. Children come behind their parents.
    for part in (0..tree.parts.len()).rev() {
        let this = &tree.parts[part];
        if this.form == Form::Multipart && this.children.iter().all(|child| gone.contains_key(child)) {
            let names = this.children.iter().filter_map(|child| gone.remove(child)).flatten().collect();
            gone.insert(part, names);
            unsealed.remove(&part);
        }
    }

    let html = tree.parts.iter().enumerate().any(|(at, part)| {
        part.media.kind == "text/html" && part.names.is_empty() && !is_inside(tree, at, &gone)
    });
    let mut splices = Splices::default();
    for (_, (range, body)) in texts {
        splices.replace(range, body);
    }
    for &part in &unsealed {
        unseal(tree, part, &mut splices);
    }
    let mut places: BTreeMap<usize, (Place, Vec<String>)> = BTreeMap::new();
    for (&part, names) in &gone {
        if tree.multipart_of(part).is_none() {
            let note = Entity::notice(bytes, notices, names, html, part);
            replace_root(tree, part, &note, &mut splices);
            continue;
        }
        let mut instead = false;
        if !names.is_empty() {
            let (key, place) = place(tree, part);
            let (place, told) = places.entry(key).or_insert_with(|| (place, Vec::new()));
            instead = matches!(place, Place::Instead(this) if *this == part);
            told.extend(names.iter().cloned());
        }
        if !instead {
            let this = &tree.parts[part];
            splices.replace(this.delimiter..this.span.end, []);
        }
    }
    // The innermost first, for places that fall together.
    for (&key, (place, names)) in places.iter().rev() {
        let note = Entity::notice(bytes, notices, names, html, key);
        match *place {
            Place::Instead(part) => splices.replace(tree.parts[part].span.clone(), note.part()),
            Place::Behind(part) => {
                let boundary = tree.parts[key].media.first("boundary").unwrap_or_default().trim_end();
                let end = tree.parts[part].span.end;
                splices
                    .replace(end..end, [format!("\r\n--{boundary}\r\n").as_bytes(), &note.part()].concat());
            }
            Place::Around(root) => wrap(tree, root, &note, &mut splices),
        }
    }
    splices.apply(bytes)
}

/// Whether a part goes, itself or with one around it.
fn is_inside(tree: &Tree<'_>, part: usize, gone: &BTreeMap<usize, Vec<String>>) -> bool {
    let mut at = Some(part);
    while let Some(part) = at {
        if gone.contains_key(&part) {
            return true;
        }
        at = tree.parts[part].parent;
    }
    false
}

/// Where a part that goes is told of: never where a client would show the note instead of the text.
fn place(tree: &Tree<'_>, part: usize) -> (usize, Place) {
    let mut at = part;
    loop {
        let Some(multipart) = tree.multipart_of(at) else { return (at, Place::Around(at)) };
        let this = &tree.parts[multipart];
        let shown = match this.media.kind.as_str() {
            "multipart/alternative" => false,
            "multipart/related" => this.children.first() == Some(&at) && at == part,
            _ => true,
        };
        if shown {
            return (multipart, if at == part { Place::Instead(part) } else { Place::Behind(at) });
        }
        at = multipart;
    }
}

/// A multipart/signed without its signature is a multipart/mixed.
fn unseal(tree: &Tree<'_>, part: usize, splices: &mut Splices) {
    let this = &tree.parts[part];
    let boundary = this.media.first("boundary").unwrap_or_default();
    let header = &tree.bytes[this.span.start..this.body];
    for field in Message::read(header).all("content-type") {
        let at = this.span.start + field.offset;
        let new = format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n");
        splices.replace(at..at + field.length, new);
    }
}

/// Makes the root of a message out of `new`: its own fields about content go, all others stay.
fn replace_root(tree: &Tree<'_>, root: usize, new: &Entity, splices: &mut Splices) {
    let this = &tree.parts[root];
    let (fields, end) = describing_fields(tree.bytes, this.span.start, this.body);
    for range in fields {
        splices.replace(range, []);
    }
    let mut body = head::mime_version(&tree.bytes[this.span.start..this.body]);
    body.extend_from_slice(&new.fields);
    body.extend_from_slice(b"\r\n");
    body.extend_from_slice(&new.body);
    body.extend_from_slice(b"\r\n");
    if end > this.span.start && !tree.bytes[..end].ends_with(b"\n") {
        body.splice(0..0, *b"\r\n");
    }
    splices.replace(end..this.span.end, body);
}

/// The message with this entity (fields that describe it, an empty line, a body) in the place of its content.
pub(super) fn with_entity(tree: &Tree<'_>, entity: &[u8]) -> Vec<u8> {
    let root = &tree.parts[0];
    let (fields, end) = describing_fields(tree.bytes, root.span.start, root.body);
    let mut splices = Splices::default();
    for range in fields {
        splices.replace(range, []);
    }
    splices.replace(end..root.span.end, entity);
    splices.apply(tree.bytes)
}

/// Puts what a message consists of into a multipart/mixed, as its first part, with `note` behind it.
fn wrap(tree: &Tree<'_>, root: usize, note: &Entity, splices: &mut Splices) {
    let this = &tree.parts[root];
    let (fields, end) = describing_fields(tree.bytes, this.span.start, this.body);
    let boundary = text::boundary(tree.bytes, &format!("wrap{root}"));
    let mut opening = head::mime_version(&tree.bytes[this.span.start..this.body]);
    opening.extend(
        format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\n").bytes(),
    );
    for range in fields {
        opening.extend_from_slice(&tree.bytes[range.clone()]);
        splices.replace(range, []);
    }
    splices.replace(end..end, opening);
    let mut closing = format!("\r\n--{boundary}\r\n").into_bytes();
    closing.extend(note.part());
    closing.extend(format!("\r\n--{boundary}--\r\n").bytes());
    splices.replace(this.span.end..this.span.end, closing);
}

/// The Content-… fields of a header section, and where the section ends: before its empty line.
fn describing_fields(bytes: &[u8], start: usize, body: usize) -> (Vec<Range<usize>>, usize) {
    let header = &bytes[start..body];
    let fields = Message::read(header)
        .fields
        .iter()
        .filter(|field| field.name.len() > 8 && field.name.as_bytes()[..8].eq_ignore_ascii_case(b"content-"))
        .map(|field| start + field.offset..start + field.offset + field.length)
        .collect();
    (fields, start + super::split(header).0.len())
}

/// Something to stand in a message: fields that describe it, and its body without a line end at its end.
struct Entity {
    fields: Vec<u8>,
    body: Vec<u8>,
}

impl Entity {
    /// What is told in the place of what is gone; nothing, if nothing is to be told.
    fn notice(bytes: &[u8], notices: &[&str], names: &[String], html: bool, salt: usize) -> Self {
        if names.is_empty() {
            return Self::text("plain", "");
        }
        let mut lines: Vec<String> = Vec::new();
        for notice in notices {
            lines.extend(notice.lines().map(str::to_owned));
            lines.push(String::new());
        }
        lines.extend(names.iter().map(|name| format!("[Attachment removed: {name}]")));
        let plain = Self::text("plain", &lines.join("\r\n"));
        if !html {
            return plain;
        }
        let lines: Vec<String> = lines.iter().map(|line| text::escaped(line)).collect();
        let html = Self::text("html", &format!("<p>{}</p>", lines.join("<br>\r\n")));
        let boundary = text::boundary(bytes, &format!("note{salt}"));
        let mut body = Vec::new();
        for part in [plain, html] {
            body.extend(format!("--{boundary}\r\n").bytes());
            body.extend(part.part());
            body.extend(b"\r\n");
        }
        body.extend(format!("--{boundary}--").bytes());
        let fields = format!("Content-Type: multipart/alternative; boundary=\"{boundary}\"\r\n");
        Self { fields: fields.into_bytes(), body }
    }

    fn text(kind: &str, content: &str) -> Self {
        let plain = text::is_seven_bit(content.as_bytes());
        let transfer = if plain { "7bit" } else { "quoted-printable" };
        let fields = format!(
            "Content-Type: text/{kind}; charset=utf-8\r\nContent-Transfer-Encoding: {transfer}\r\n\
             Content-Disposition: inline\r\n"
        );
        let body =
            if plain { content.as_bytes().to_vec() } else { text::quoted_printable(content.as_bytes()) };
        Self { fields: fields.into_bytes(), body }
    }

    fn part(&self) -> Vec<u8> {
        [&self.fields[..], b"\r\n", &self.body].concat()
    }
}

/// Takes out the alternatives in AMP (spec R62); `None` when there is none.
pub(super) fn strip_amp(content: &[u8], notes: &mut Vec<Note>) -> Result<Option<Vec<u8>>, EditError> {
    const AMP: &[u8] = b"x-amp-html";
    let may_be = content.windows(AMP.len()).any(|word| word.eq_ignore_ascii_case(AMP));
    if !may_be {
        return Ok(None);
    }
    let tree = Tree::read(content);
    if let Some(why) = tree.doubt {
        return Err(EditError::Structure(why));
    }
    let is_amp = |at: &usize| {
        let part = &tree.parts[*at];
        part.form == Form::Leaf && part.media.kind == "text/x-amp-html"
    };
    let gone: Vec<_> = (0..tree.parts.len()).filter(is_amp).map(|part| (part, None)).collect();
    Ok((!gone.is_empty()).then(|| cut(&tree, gone, Vec::new(), &[], notes)))
}
