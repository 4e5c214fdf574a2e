//! The MIME structure of a message as ranges of its bytes, in the one reading that the standards give, and
//! whether there is a doubt that others read it so. Nothing is copied but parameters; nothing recurses.

use std::ops::Range;

use crate::mail::containers::Budget;
use crate::mail::containers::signed::{self, Signed};
use crate::mail::filetype;
use crate::mail::message::media::Media;
use crate::mail::message::{Message, transfer};

/// More than anybody's mail has; beyond it nothing is edited.
const MAX_PARTS: usize = 10_000;
const MAX_DEPTH: usize = 100;
/// How often the octets of a message may be looked at, all levels together.
const PASSES: usize = 64;

/// What compressed mail may unpack to, beside its own size.
const MAX_UNPACKED: u64 = 64 << 20;

/// Content-Transfer-Encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    SevenBit,
    /// 8bit or binary.
    EightBit,
    QuotedPrintable,
    Base64,
    /// One that nobody knows: what is inside cannot be told.
    Unknown,
}

impl Transfer {
    fn read(value: &str) -> Self {
        match value.trim().to_ascii_lowercase().as_str() {
            "" | "7bit" => Transfer::SevenBit,
            "8bit" | "binary" => Transfer::EightBit,
            "quoted-printable" => Transfer::QuotedPrintable,
            "base64" => Transfer::Base64,
            _ => Transfer::Unknown,
        }
    }

    pub fn is_identity(self) -> bool {
        matches!(self, Transfer::SevenBit | Transfer::EightBit)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Leaf,
    Multipart,
    /// A message inside the message, whose root is its only child.
    Message,
}

/// A part: its header fields and its body.
#[derive(Debug)]
pub(super) struct Part {
    pub parent: Option<usize>,
    pub children: Vec<usize>,
    /// Header and body, without the line break that belongs to the delimiter behind it.
    pub span: Range<usize>,
    pub body: usize,
    /// Where the delimiter before it starts, the line break that belongs to it included.
    pub delimiter: usize,
    pub form: Form,
    pub media: Media,
    pub transfer: Transfer,
    /// The token of Content-Disposition.
    pub disposition: Option<String>,
    /// Every name that some client may save it by.
    pub names: Vec<String>,
    /// Content-ID without its brackets.
    pub id: Option<String>,
}

#[derive(Debug)]
pub(super) struct Tree<'a> {
    pub bytes: &'a [u8],
    /// The root first; a parent before its children.
    pub parts: Vec<Part>,
    /// Why clients may read this message differently.
    pub doubt: Option<&'static str>,
}

struct Waiting {
    range: Range<usize>,
    delimiter: usize,
    parent: Option<usize>,
    depth: usize,
    digest: bool,
}

impl<'a> Tree<'a> {
    pub fn read(bytes: &'a [u8]) -> Self {
        let mut tree = Tree { bytes, parts: Vec::new(), doubt: None };
        let root = Waiting { range: 0..bytes.len(), delimiter: 0, parent: None, depth: 0, digest: false };
        let mut waiting = vec![root];
        let mut looked_at = 0;
        while let Some(next) = waiting.pop() {
            looked_at += next.range.len();
            if tree.parts.len() >= MAX_PARTS {
                tree.doubt("it has too many parts");
                break;
            }
            if next.depth > MAX_DEPTH || looked_at > PASSES * bytes.len() {
                tree.doubt("its parts are nested too deeply");
                break;
            }
            tree.part(next, &mut waiting);
        }
        tree
    }

    fn doubt(&mut self, why: &'static str) {
        self.doubt.get_or_insert(why);
    }

    fn part(&mut self, this: Waiting, waiting: &mut Vec<Waiting>) {
        let Waiting { range, delimiter, parent, depth, digest } = this;
        let message = Message::read(&self.bytes[range.clone()]);
        let body = range.start + message.body;
        if message.stray.is_some() {
            self.doubt("a line of its header section is no header field");
        }
        let mut fields: [Vec<String>; 4] = Default::default();
        for field in &message.fields {
            let at = ["content-type", "content-transfer-encoding", "content-disposition", "content-id"]
                .iter()
                .position(|name| field.is(name));
            let Some(at) = at else { continue };
            let value = field.unfolded();
            if !fields[at].contains(&value) {
                fields[at].push(value);
            }
        }
        if fields[..3].iter().any(|values| values.len() > 1) {
            self.doubt("a header field that describes a part is there twice");
        }
        let [types, transfers, dispositions, ids] = fields;
        let default = if digest { "message/rfc822" } else { "text/plain" };
        let media = Media::read(types.first().map_or(default, String::as_str));
        let transfer = Transfer::read(transfers.first().map_or("", String::as_str));
        let disposition = dispositions.first().map(|value| Media::read(value));
        let mut names: Vec<String> = Vec::new();
        let given = disposition.iter().flat_map(|d| d.all("filename")).chain(media.all("name"));
        for name in given.filter(|name| !name.trim().is_empty()) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        let id = ids.first().map(|id| id.trim().trim_start_matches('<').trim_end_matches('>').to_owned());
        let at = self.parts.len();
        let mut part = Part {
            parent,
            children: Vec::new(),
            span: range.clone(),
            body,
            delimiter,
            form: Form::Leaf,
            transfer,
            disposition: disposition.map(|d| d.kind),
            names,
            id,
            media,
        };
        if part.media.main_type() == "multipart" {
            if !part.transfer.is_identity() {
                self.doubt("a multipart is encoded");
            }
            match self.split(&part, body..range.end) {
                Ok(children) => {
                    part.form = Form::Multipart;
                    let digest = part.media.kind == "multipart/digest";
                    // Last in, first out: the first part is read first.
                    waiting.extend(children.into_iter().rev().map(|(range, delimiter)| Waiting {
                        range,
                        delimiter,
                        parent: Some(at),
                        depth: depth + 1,
                        digest,
                    }));
                }
                Err(why) => self.doubt(why),
            }
        } else if matches!(part.media.kind.as_str(), "message/rfc822" | "message/global" | "message/news") {
            if part.transfer.is_identity() {
                part.form = Form::Message;
                let range = body..range.end;
                waiting.push(Waiting {
                    delimiter: range.start,
                    range,
                    parent: Some(at),
                    depth: depth + 1,
                    digest: false,
                });
            } else {
                self.doubt("a message inside it is encoded");
            }
        }
        if let Some(parent) = parent {
            self.parts[parent].children.push(at);
        }
        self.parts.push(part);
    }

    /// The parts of a multipart and where the delimiter before each starts.
    fn split(&mut self, part: &Part, body: Range<usize>) -> Result<Vec<(Range<usize>, usize)>, &'static str> {
        let boundary = match part.media.all("boundary").as_slice() {
            [] => return Err("a multipart names no boundary"),
            [one] => one.trim_end().to_owned(),
            _ => return Err("a multipart names two boundaries"),
        };
        if boundary.is_empty() {
            return Err("a multipart names no boundary");
        }
        let mut parts: Vec<(Range<usize>, usize)> = Vec::new();
        let mut open: Option<(usize, usize)> = None;
        let (mut closed, mut found) = (false, false);
        let bytes = self.bytes;
        let mut at = body.start;
        for line in bytes[body.clone()].split_inclusive(|&b| b == b'\n') {
            let (start, end) = (at, at + line.len());
            at = end;
            let Some(rest) = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary.as_bytes()))
            else {
                continue;
            };
            let (closes, rest) = rest.strip_prefix(b"--").map_or((false, rest), |rest| (true, rest));
            if !rest.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
                // By RFC 2046 section 5.1.1 it is one for who compares the beginning of the line.
                self.doubt("a line begins like a boundary and is none");
                continue;
            }
            if closed {
                self.doubt("a boundary follows behind the end of its multipart");
            }
            found = true;
            let before = line_break_before(bytes, body.start, start);
            if let Some((from, delimiter)) = open.take() {
                parts.push((from..before.max(from), delimiter));
            }
            closed |= closes;
            open = (!closes).then_some((end, before));
        }
        if let Some((from, delimiter)) = open {
            parts.push((from..body.end, delimiter));
        }
        if !found || parts.is_empty() {
            return Err("the boundary of a multipart does not occur");
        }
        Ok(parts)
    }

    pub fn raw_body(&self, part: usize) -> &'a [u8] {
        let part = &self.parts[part];
        &self.bytes[part.body..part.span.end]
    }

    /// The decoded body of a leaf.
    pub fn decoded(&self, part: usize) -> Vec<u8> {
        let body = self.raw_body(part);
        match self.parts[part].transfer {
            Transfer::SevenBit | Transfer::EightBit | Transfer::Unknown => body.to_vec(),
            Transfer::QuotedPrintable => transfer::quoted_printable(body, usize::MAX).bytes,
            Transfer::Base64 => transfer::base64(body, usize::MAX).bytes,
        }
    }

    /// The multipart this part stands in; `None` for the root of a message.
    pub fn multipart_of(&self, part: usize) -> Option<usize> {
        self.parts[part].parent.filter(|&parent| self.parts[parent].form == Form::Multipart)
    }

    /// Whether a multipart is encrypted mail: not by its name, which anybody can write, but by what is in it.
    pub fn is_encrypted_multipart(&self, part: usize) -> bool {
        let this = &self.parts[part];
        this.media.kind == "multipart/encrypted"
            && this.children.len() == 2
            && self.parts[this.children[0]].media.kind == "application/pgp-encrypted"
            && self.raw_body(this.children[0]).len() < 1000
            && filetype::detect(&self.decoded(this.children[1])) == filetype::PGP_ENCRYPTED
    }

    /// What a message is that consists of one CMS object: told by the object, not by what it is called.
    pub fn cms(&self, part: usize) -> Option<Cms> {
        let this = &self.parts[part];
        if this.form != Form::Leaf
            || self.multipart_of(part).is_some()
            || !matches!(this.media.kind.as_str(), "application/pkcs7-mime" | "application/x-pkcs7-mime")
        {
            return None;
        }
        let object = self.decoded(part);
        // What is in it is in memory already; there is nothing to unpack but what is compressed.
        let budget = Budget::new(object.len() as u64 + MAX_UNPACKED, 1, 1);
        match signed::open(&object, &budget) {
            Signed::Enveloped => Some(Cms::Encrypted),
            Signed::Content(entity) | Signed::Compressed(entity) if budget.stopped().is_none() => {
                Some(Cms::Opaque(entity))
            }
            Signed::Content(_) | Signed::Compressed(_) => Some(Cms::Opaque(Vec::new())),
            // No message is in these, whatever else is.
            Signed::Detached | Signed::Other | Signed::Damaged => None,
        }
    }

    /// The signature of a multipart/signed, if its second part is one.
    pub fn signature(&self, multipart: usize) -> Option<usize> {
        let this = &self.parts[multipart];
        if this.media.kind != "multipart/signed" || this.children.len() != 2 {
            return None;
        }
        let signature = this.children[1];
        let found = filetype::detect(&self.decoded(signature));
        let genuine = match self.parts[signature].media.kind.as_str() {
            "application/pkcs7-signature" | "application/x-pkcs7-signature" => found == filetype::PKCS7,
            "application/pgp-signature" => {
                found == filetype::PGP_SIGNATURE
                    || found == filetype::PLAIN
                    || found == filetype::PGP_ENCRYPTED
            }
            _ => false,
        };
        genuine.then_some(signature)
    }

    /// Whether the whole message is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.parts
            .first()
            .is_some_and(|_| self.is_encrypted_multipart(0) || self.cms(0) == Some(Cms::Encrypted))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cms {
    Encrypted,
    /// Content and signature in one, or compressed: the MIME entity in it; empty if it cannot be had.
    Opaque(Vec<u8>),
}

/// Where the line break before `at` starts, not before `first`.
fn line_break_before(bytes: &[u8], first: usize, at: usize) -> usize {
    let text = &bytes[first..at];
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    first + text.len()
}
