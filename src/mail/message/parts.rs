//! The MIME tree walked without recursion, in every reading, within limits.
//!
//! The structure is read here and not by mail-parser's `MessageParser`, because that one settles for a
//! single reading of what is ambiguous, and because parts inside parts become values inside values
//! there: ten thousand of them overflow the stack when they are dropped.

use std::borrow::Cow;
use std::ops::Range;

use super::reading::{Encoding, Reading};
use super::{Message, charset, line_at, transfer};
use crate::mail::containers::{Budget, Why};
use crate::mail::filetype;

mod files;

use files::{Job, Origin};

/// Where a walk stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of decoded text.
    pub decoded_bytes: u64,
    /// Parts opened, each reading counted.
    pub parts: u32,
    /// Parts inside parts.
    pub depth: u32,
    /// Files inside archives.
    pub entries: u32,
    /// Archives inside archives; the outermost one is the first.
    pub nesting: u32,
}

/// How often the octets of a message may be looked at, all levels and readings together: a small
/// message may be deep, a large one must not cost minutes.
const PASSES: u64 = 64;
const PASSES_IF_SMALL: u64 = 512;
const SMALL: u64 = 2 << 20;

/// The text of a part as one reader would get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Counted as MIME does: `1.2`; the message itself is empty.
    pub path: String,
    pub name: Option<String>,
    pub attachment: bool,
    pub html: bool,
    /// The decoded text.
    pub text: String,
    /// Stretches of a document's text that its reader does not show, in order. What HTML hides is
    /// found where it is read.
    pub hidden: Vec<Range<usize>>,
    /// Which choice of which multipart/alternative this is: a reader is shown one of them.
    pub branch: Option<(u32, u32)>,
}

/// An attachment, or a file inside one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The path of the MIME part it is or is in.
    pub path: String,
    /// As the message names it; inside an archive behind the archive's name: `report.zip/list.docx`.
    pub name: Option<String>,
    /// The media type by content ([`filetype`]).
    pub kind: &'static str,
    /// Decoded bytes. Inside archives as the archive declares it where the file was not read whole.
    pub size: u64,
    /// It, or something that it holds, opens with a key only.
    pub encrypted: bool,
    pub inside_archive: bool,
}

#[derive(Debug, Default)]
pub struct Pieces {
    pub pieces: Vec<Piece>,
    /// Why the walk stopped before the end, in words.
    pub stopped: Option<&'static str>,
    /// Every attachment and every file inside one.
    pub files: Vec<File>,
    /// What could not be read, by name, and why: encrypted, damaged, a container of unknown kind.
    pub unreadable: Vec<(String, &'static str)>,
    /// A signature by S/MIME is somewhere in it; nobody has checked it.
    pub smime_signed: bool,
    pub smime_encrypted: bool,
}

/// A message or part that waits to be read.
#[derive(Debug, Clone)]
struct Entity {
    source: usize,
    range: Range<usize>,
    depth: u32,
    path: String,
    attachment: bool,
    branch: Option<(u32, u32)>,
    /// What a part without Content-Type is: a message inside multipart/digest, else text.
    digest: bool,
    /// A whole message with a Subject of its own, inside another.
    forwarded: bool,
    /// Where it came from, if out of a file.
    origin: Origin,
}

struct Walk<'a> {
    sources: Vec<Cow<'a, [u8]>>,
    waiting: Vec<Job>,
    limits: Limits,
    budget: Budget,
    out: Pieces,
    /// Files already opened, by part and content: readings often come to the same one.
    known: std::collections::HashSet<(String, u64)>,
    opened: u32,
    looked_at: u64,
    may_look_at: u64,
    alternatives: u32,
}

pub fn walk(bytes: &[u8], limits: Limits) -> Pieces {
    let root = Entity {
        source: 0,
        range: 0..bytes.len(),
        depth: 0,
        path: String::new(),
        attachment: false,
        branch: None,
        digest: false,
        forwarded: false,
        origin: Origin::default(),
    };
    let mut walk = Walk {
        sources: vec![Cow::Borrowed(bytes)],
        waiting: vec![Job::Entity(root)],
        limits,
        budget: Budget::new(limits.decoded_bytes, limits.entries, limits.nesting),
        out: Pieces::default(),
        known: Default::default(),
        opened: 0,
        looked_at: 0,
        may_look_at: (bytes.len() as u64 * PASSES)
            .max((bytes.len() as u64 + 4096).min(SMALL) * PASSES_IF_SMALL),
        alternatives: 0,
    };
    while let Some(job) = walk.waiting.pop() {
        let going_on = match job {
            Job::Entity(entity) => walk.open(&entity),
            Job::File(file) => walk.open_file(file),
            Job::Archive(archive) => walk.next_member(archive),
        };
        if !going_on {
            break;
        }
    }
    walk.out.stopped = walk.budget.stopped();
    walk.out
}

impl Walk<'_> {
    /// Reads one entity; false when a limit ends the walk.
    fn open(&mut self, entity: &Entity) -> bool {
        self.opened += 1;
        if self.opened > self.limits.parts {
            return self.stop("too many parts");
        }
        if entity.depth > self.limits.depth {
            self.stop("parts inside parts too deep");
            return true;
        }
        if !self.look(entity.range.len()) {
            return false;
        }
        let source = std::mem::take(&mut self.sources[entity.source]);
        let going_on = self.read(entity, &source);
        self.sources[entity.source] = source;
        going_on
    }

    fn stop(&mut self, why: Why) -> bool {
        self.budget.stop(why)
    }

    fn look(&mut self, octets: usize) -> bool {
        self.looked_at += octets as u64;
        self.looked_at <= self.may_look_at || self.stop("structure too costly to read")
    }

    fn read(&mut self, entity: &Entity, source: &[u8]) -> bool {
        let bytes = &source[entity.range.clone()];
        let message = Message::read(bytes);
        // Where the body may start: after the empty line; at a line that is no header field; and, if
        // the text begins with empty lines, after the header behind them.
        let mut bodies = vec![(message.fields.clone(), message.body)];
        if let Some(stray) = message.stray {
            bodies.push((message.fields.clone(), stray));
            let above = message.fields.iter().copied().filter(|f| f.offset < stray).collect();
            bodies.push((above, stray));
        }
        let blank = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        if blank > 0 && entity.depth == 0 {
            let late = Message::read(&bytes[blank..]);
            if !late.fields.is_empty() {
                bodies.push((late.fields.clone(), blank + late.body));
            }
        }
        if entity.forwarded {
            let subject: Vec<_> = message.all("subject").map(|field| field.decoded()).collect();
            for text in subject {
                self.add(entity, None, entity.attachment, false, text);
            }
        }
        let mut seen = Vec::new();
        for (fields, start) in bodies {
            let readings = Reading::all(&fields, entity.digest);
            for reading in readings {
                if seen.contains(&(reading.clone(), start)) {
                    continue;
                }
                if !self.follow(entity, &reading, source, entity.range.start + start) {
                    return false;
                }
                seen.push((reading, start));
            }
        }
        true
    }

    /// One reading of one entity.
    fn follow(&mut self, entity: &Entity, reading: &Reading, source: &[u8], start: usize) -> bool {
        let body = start..entity.range.end;
        let attachment = entity.attachment || reading.attachment;
        let inner = |source: usize, range: Range<usize>| Entity {
            source,
            range,
            depth: entity.depth + 1,
            path: entity.path.clone(),
            attachment,
            branch: entity.branch,
            digest: false,
            forwarded: false,
            origin: entity.origin.clone(),
        };
        if reading.media.main_type() == "multipart" {
            self.note_security(entity, reading);
            let boundaries = reading.media.all("boundary");
            let mut split = !boundaries.is_empty();
            for &boundary in &boundaries {
                if !self.look(body.len()) {
                    return false;
                }
                split &= self.split(&inner(entity.source, body.clone()), reading, source, boundary);
            }
            // An encoded multipart is forbidden (RFC 2045 section 6.4) and read by some all the same.
            if reading.encoding != Encoding::Identity && entity.depth < self.limits.depth {
                let Some(decoded) = self.decode(reading.encoding, &source[body.clone()]) else {
                    return false;
                };
                let mut head = format!("Content-Type: {}", reading.media.kind).into_bytes();
                for boundary in reading.media.all("boundary") {
                    head.extend(format!("; boundary=\"{boundary}\"").bytes());
                }
                head.extend(b"\r\n\r\n");
                head.extend(decoded.bytes);
                self.sources.push(Cow::Owned(head));
                let last = self.sources.len() - 1;
                let end = self.sources[last].len();
                self.waiting.push(Job::Entity(inner(last, 0..end)));
            }
            // A boundary that does not occur leaves a reader with the whole body as text.
            return split || self.leaf(entity, reading, &source[body], attachment);
        }
        let is_message =
            matches!(reading.media.kind.as_str(), "message/rfc822" | "message/global" | "message/news");
        if !is_message {
            return self.leaf(entity, reading, &source[body], attachment);
        }
        let mut message = if reading.encoding == Encoding::Identity {
            inner(entity.source, body)
        } else {
            let Some(decoded) = self.decode(reading.encoding, &source[body]) else { return false };
            let end = decoded.bytes.len();
            self.sources.push(Cow::Owned(decoded.bytes));
            inner(self.sources.len() - 1, 0..end)
        };
        message.forwarded = true;
        self.note_file(entity, reading.name.as_deref(), filetype::MESSAGE, message.range.len() as u64);
        self.waiting.push(Job::Entity(message));
        true
    }

    /// Queues the parts of a multipart; false if the boundary does not occur.
    fn split(&mut self, inner: &Entity, reading: &Reading, source: &[u8], boundary: &str) -> bool {
        let cuts = delimiters(source, &inner.range, boundary);
        let group = (reading.media.kind == "multipart/alternative" && inner.branch.is_none()).then(|| {
            self.alternatives += 1;
            self.alternatives
        });
        let mut found = false;
        for cut in cuts {
            let Some(first) = cut.first() else { continue };
            found = true;
            let outside = |range: Range<usize>| Entity { range, ..inner.clone() };
            let mut parts = Vec::new();
            // What stands before the first and behind the last delimiter is shown by readers that know
            // no MIME, so it is searched as text.
            self.plain(&outside(inner.range.start..first.start), source);
            for (at, delimiter) in cut.iter().enumerate() {
                let end = cut.get(at + 1).map_or(inner.range.end, |next| next.start);
                let range = delimiter.end.min(end)..end;
                if delimiter.closes {
                    self.plain(&outside(range), source);
                    continue;
                }
                let number = parts.len() as u32 + 1;
                let path = if inner.path.is_empty() {
                    number.to_string()
                } else if inner.path.len() < 200 {
                    format!("{}.{number}", inner.path)
                } else {
                    inner.path.clone()
                };
                parts.push(Entity {
                    range,
                    path,
                    digest: reading.media.kind == "multipart/digest",
                    branch: inner.branch.or(group.map(|group| (group, number))),
                    ..inner.clone()
                });
            }
            // Last in, first out: the first part is read first.
            self.waiting.extend(parts.into_iter().rev().map(Job::Entity));
        }
        found
    }

    /// Text outside every part.
    fn plain(&mut self, entity: &Entity, source: &[u8]) {
        let bytes = &source[entity.range.clone()];
        if bytes.iter().any(|b| !b.is_ascii_whitespace()) && self.spend(bytes.len()) {
            let text = charset::guess(bytes);
            self.add(entity, None, entity.attachment, false, text);
        }
    }

    /// A part that is no container of MIME: text, a file to open, or both.
    fn leaf(&mut self, entity: &Entity, reading: &Reading, body: &[u8], attachment: bool) -> bool {
        let kind = reading.media.kind.as_str();
        let declared_text =
            reading.media.main_type() == "text" || !kind.contains('/') || kind.starts_with("multipart/");
        let mut attachment = attachment;
        if !kind.starts_with("message/") {
            let sample = reading.encoding.decode(&body[..body.len().min(64 << 10)], 40 << 10).bytes;
            let by_content = filetype::detect(&sample);
            let reads = charset::looks_like_text(&sample);
            attachment |= !declared_text;
            // Whatever is no text is looked at whole: an archive may stand behind a picture.
            if self.is_file(kind, by_content, declared_text)
                || (!declared_text && !reads && !sample.is_empty())
            {
                self.attach(entity, reading, body, by_content, attachment);
                // What is shown as text by some is read as text, whatever else it is.
                if !declared_text || !reads || kind == "text/rtf" {
                    return true;
                }
            } else {
                let named = reading.name.as_deref();
                if attachment || named.is_some() {
                    let size = reading.encoding.decoded_len(body);
                    self.note_file(entity, named, by_content, size);
                }
                if !declared_text && !reads {
                    return true;
                }
            }
        }
        let Some(decoded) = self.decode(reading.encoding, body) else { return false };
        let labels = reading.media.all("charset");
        let html_type = matches!(kind, "text/html" | "text/x-amp-html" | "application/xhtml+xml");
        let mut raw = vec![decoded.bytes];
        if decoded.damaged {
            // Not what the encoding allows: some readers show it as it stands.
            raw.push(body.to_vec());
        }
        for bytes in raw {
            let mut texts = charset::readings(&bytes, &labels);
            if let Some(label) = html_type.then(|| meta_charset(&bytes)).flatten()
                && let Some(text) = charset::by_label(&bytes, &label)
                && !texts.contains(&text)
            {
                texts.push(text);
            }
            if let Some(joined) = reading.flowed().then(|| delete_soft_breaks(&texts[0])) {
                texts.push(joined);
            }
            for text in texts {
                let looks = !html_type && attachment && looks_like_html(&text);
                if !html_type {
                    self.inline_files(entity, reading.name.as_deref(), &text);
                }
                if looks {
                    // A file of that name opens in a browser, another name in an editor.
                    self.add(entity, reading.name.clone(), attachment, true, text.clone());
                }
                if !looks || declared_text {
                    self.add(entity, reading.name.clone(), attachment, html_type, text);
                }
            }
        }
        true
    }

    fn add(&mut self, entity: &Entity, name: Option<String>, attachment: bool, html: bool, text: String) {
        let path = entity.path.clone();
        let name = files::inside(entity, name.as_deref());
        let branch = entity.branch;
        self.out.pieces.push(Piece { path, name, attachment, html, text, hidden: Vec::new(), branch });
    }

    fn decode(&mut self, encoding: Encoding, body: &[u8]) -> Option<transfer::Decoded> {
        let mut decoded = encoding.decode(body, self.budget.text_left());
        self.budget.text(decoded.bytes.len());
        if decoded.cut {
            self.budget.text(usize::MAX);
        }
        if decoded.cut && decoded.bytes.is_empty() {
            return None;
        }
        decoded.damaged &= !decoded.cut;
        Some(decoded)
    }

    fn spend(&mut self, octets: usize) -> bool {
        self.budget.text(octets)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Delimiter {
    start: usize,
    end: usize,
    closes: bool,
}

/// The lines of `range` that are delimiters (RFC 2046 section 5.1.1) and, if that makes a difference,
/// the lines that begin like one: for some readers those are delimiters too.
fn delimiters(source: &[u8], range: &Range<usize>, boundary: &str) -> Vec<Vec<Delimiter>> {
    let (mut strict, mut loose) = (Vec::new(), Vec::new());
    let boundary = boundary.trim_end().as_bytes();
    if boundary.is_empty() {
        return Vec::new();
    }
    let source = &source[..range.end];
    let mut at = range.start;
    while at < range.end {
        let (line, next) = line_at(source, at);
        if let Some(rest) = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary)) {
            let (closes, rest) = rest.strip_prefix(b"--").map_or((false, rest), |rest| (true, rest));
            let delimiter = Delimiter { start: at, end: next, closes };
            if rest.iter().all(|b| matches!(b, b' ' | b'\t')) {
                strict.push(delimiter);
            }
            loose.push(delimiter);
        }
        at = next;
    }
    if strict.len() == loose.len() { vec![strict] } else { vec![strict, loose] }
}

/// Whether a text begins as HTML does; a tag that only HTML has is enough, since browsers ask for no more.
pub(crate) fn looks_like_html(text: &str) -> bool {
    const TAGS: &[&str] = &[
        "<!doctype html",
        "<html",
        "<head",
        "<body",
        "<!--",
        "<script",
        "<style",
        "<title",
        "<meta",
        "<table",
        "<div",
        "<p>",
        "<p ",
        "<h1",
        "<br",
        "<font",
        "<iframe",
        "<a href",
        "<span",
        "<center",
    ];
    let start: String = text.trim_start_matches('\u{feff}').trim_start().chars().take(64).collect();
    let start = start.to_ascii_lowercase();
    TAGS.iter().any(|tag| start.starts_with(tag))
}

/// The charset an HTML text claims for itself.
fn meta_charset(bytes: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).to_ascii_lowercase();
    let (_, after) = head.split_once("charset=")?;
    let label = after.trim_start_matches(['"', '\'', ' ']);
    let end = label.find(|c: char| !c.is_ascii_alphanumeric() && !"-_:.".contains(c)).unwrap_or(label.len());
    Some(label[..end].to_owned())
}

fn delete_soft_breaks(text: &str) -> String {
    text.replace(" \r\n", "").replace(" \n", "")
}

#[cfg(test)]
mod tests;
