//! Which parts of a message are attachments, and which of them a rule wants gone (spec R90, design section 9).

use std::collections::BTreeMap;
use std::ops::Range;

use super::tree::{Cms, Form, Transfer, Tree};
use super::{EditError, Note, Removal, surgery, text};
use crate::mail::containers::uuencode;
use crate::mail::filetype;

/// An attachment that goes.
#[derive(Debug)]
pub(super) struct Found {
    pub part: usize,
    /// Where in the decoded text of the part it stands, if it is a file written into a text (uuencode).
    within: Option<Range<usize>>,
    pub name: String,
    /// Which of the removals want it gone.
    pub by: Vec<usize>,
}

/// The message without the attachments that `removals` name; `None` when there is none of them.
pub(super) fn remove(
    content: &[u8],
    removals: &[&Removal],
    notes: &mut Vec<Note>,
) -> Result<Option<Vec<u8>>, EditError> {
    let tree = Tree::read(content);
    if let Some(open) = opened(&tree)? {
        // Only if something goes: else the signature is worth more.
        let new = remove(&open, removals, notes)?;
        notes.extend(new.is_some().then_some(Note::SignatureVoid));
        return Ok(new);
    }
    let found = find(&tree, removals, notes)?;
    if found.is_empty() {
        return Ok(None);
    }
    let mut notices: Vec<&str> = Vec::new();
    for (at, removal) in removals.iter().enumerate() {
        let Some(notice) = removal.notice.as_deref().filter(|_| found.iter().any(|f| f.by.contains(&at)))
        else {
            continue;
        };
        // Several rules may want the same said (spec R137).
        if !notices.contains(&notice) {
            notices.push(notice);
        }
    }
    notes.extend(found.iter().map(|found| Note::Removed(found.name.clone())));
    let mut gone = Vec::new();
    let mut texts: BTreeMap<usize, Vec<(Range<usize>, String)>> = BTreeMap::new();
    for Found { part, within, name, by: _ } in found {
        match within {
            Some(range) => texts.entry(part).or_default().push((range, name)),
            None => gone.push((part, Some(name))),
        }
    }
    let texts = texts.into_iter().map(|(part, files)| (part, without_files(&tree, part, &files, &notices)));
    let texts = texts.collect();
    Ok(Some(surgery::cut(&tree, gone, texts, &notices, notes)))
}

/// The names of what a removal would take out.
pub(super) fn names(content: &[u8], removal: &Removal) -> Result<Vec<String>, EditError> {
    let tree = Tree::read(content);
    if let Some(open) = opened(&tree)? {
        return names(&open, removal);
    }
    let found = find(&tree, &[removal], &mut Vec::new())?;
    Ok(found.into_iter().map(|found| found.name).collect())
}

/// A message that is signed or compressed as a whole, as it reads without that.
fn opened(tree: &Tree<'_>) -> Result<Option<Vec<u8>>, EditError> {
    match tree.cms(0) {
        None | Some(Cms::Encrypted) => Ok(None),
        Some(Cms::Opaque(entity)) if entity.is_empty() => Err(EditError::Opaque),
        Some(Cms::Opaque(entity)) => {
            let open = surgery::with_entity(tree, &entity);
            // One inside the other again and again is nobody's mail.
            match Tree::read(&open).cms(0) {
                Some(Cms::Opaque(_)) => Err(EditError::Opaque),
                _ => Ok(Some(open)),
            }
        }
    }
}

/// A text part without the files written into it, ready to stand in its place.
fn without_files(
    tree: &Tree<'_>,
    part: usize,
    files: &[(Range<usize>, String)],
    notices: &[&str],
) -> (Range<usize>, Vec<u8>) {
    let text = tree.decoded(part);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    for (range, name) in files {
        out.extend_from_slice(&text[at..range.start]);
        // In ASCII, which is right in every charset that lines of uuencode can stand in.
        let told = format!("[Attachment removed: {name}]");
        for line in notices.iter().flat_map(|notice| notice.lines()).chain([told.as_str()]) {
            out.extend(line.chars().map(|c| if c.is_ascii() && !c.is_control() { c as u8 } else { b'?' }));
            out.extend_from_slice(b"\r\n");
        }
        at = range.end;
    }
    out.extend_from_slice(&text[at..]);
    let this = &tree.parts[part];
    let written = match this.transfer {
        Transfer::Base64 => text::base64_lines(&out),
        Transfer::QuotedPrintable => text::quoted_printable(&out),
        Transfer::SevenBit | Transfer::EightBit | Transfer::Unknown => out,
    };
    (this.body..this.span.end, written)
}

/// Files that an old program wrote into a text, and that some programs still show as attachments.
fn written_files(text: &[u8]) -> Vec<(Range<usize>, String, Vec<u8>)> {
    let mut found = Vec::new();
    if memchr::memmem::find(text, b"begin ").is_none() {
        return found;
    }
    let mut at = 0;
    while at < text.len() {
        let end = |from: usize| memchr::memchr(b'\n', &text[from..]).map_or(text.len(), |lf| from + lf + 1);
        let next = end(at);
        if text[at..].starts_with(b"begin ") {
            let mut stop = next;
            loop {
                let line = &text[stop..end(stop)];
                stop = end(stop);
                if stop >= text.len() || line.trim_ascii() == b"end" {
                    break;
                }
                // Lines of it are short; a text that only mentions "begin" is left soon.
                if line.len() > 80 || line.starts_with(b"begin ") {
                    break;
                }
            }
            let files = uuencode::files(&String::from_utf8_lossy(&text[at..stop]));
            if let Some(file) = files.into_iter().next() {
                found.push((at..stop, file.name, file.content));
                at = stop;
                continue;
            }
        }
        at = next;
    }
    found
}

fn find(tree: &Tree<'_>, removals: &[&Removal], notes: &mut Vec<Note>) -> Result<Vec<Found>, EditError> {
    if let Some(why) = tree.doubt {
        return Err(EditError::Structure(why));
    }
    let pictures = Pictures::of(tree);
    let mut found: Vec<Found> = Vec::new();
    // Parts inside something that goes as a whole, or that stays as it is.
    let mut settled = vec![false; tree.parts.len()];
    for part in 0..tree.parts.len() {
        let this = &tree.parts[part];
        if this.parent.is_some_and(|parent| settled[parent]) {
            settled[part] = true;
            continue;
        }
        match this.form {
            Form::Multipart if tree.is_encrypted_multipart(part) => {
                settled[part] = true;
                notes.push(Note::EncryptedKept);
                continue;
            }
            Form::Multipart => continue,
            Form::Leaf => match tree.cms(part) {
                Some(Cms::Encrypted) => {
                    notes.push(Note::EncryptedKept);
                    continue;
                }
                Some(Cms::Opaque(_)) => return Err(EditError::Opaque),
                None => {}
            },
            Form::Message => {}
        }
        if this.parent.is_some_and(|parent| tree.signature(parent) == Some(part)) {
            continue;
        }
        let wanted_by = |attachment: &Attachment<'_>| -> Vec<usize> {
            let all = removals.iter().enumerate();
            all.filter(|(_, removal)| attachment.is_meant_by(removal)).map(|(at, _)| at).collect()
        };
        let Some(attachment) = Attachment::read(tree, part, &pictures) else {
            if this.media.main_type() == "text" {
                for (range, name, content) in written_files(&tree.decoded(part)) {
                    let names = [name];
                    let attachment = Attachment {
                        names: &names,
                        kind: filetype::detect(&content),
                        declared: filetype::OCTETS,
                        size: content.len() as u64,
                        inline: false,
                    };
                    let by = wanted_by(&attachment);
                    if !by.is_empty() {
                        found.push(Found { part, within: Some(range), name: attachment.label(), by });
                    }
                }
            }
            continue;
        };
        let by = wanted_by(&attachment);
        if !by.is_empty() {
            settled[part] = true;
            found.push(Found { part, within: None, name: attachment.label(), by });
        }
    }
    Ok(found)
}

struct Attachment<'a> {
    names: &'a [String],
    /// By content.
    kind: &'static str,
    declared: &'a str,
    size: u64,
    /// A picture that the text shows.
    inline: bool,
}

impl<'a> Attachment<'a> {
    /// `None`: the part is no attachment but what the message says.
    fn read(tree: &'a Tree<'_>, part: usize, pictures: &Pictures) -> Option<Self> {
        let this = &tree.parts[part];
        let declared = this.media.kind.as_str();
        let (kind, size, starts_as_pdf) = match this.form {
            Form::Message => (filetype::MESSAGE, tree.raw_body(part).len(), false),
            Form::Leaf | Form::Multipart => {
                let content = tree.decoded(part);
                (filetype::detect(&content), content.len(), content.starts_with(b"%PDF-"))
            }
        };
        let disposition = this.disposition.as_deref().filter(|token| !token.is_empty());
        // What nobody knows is to be taken for an attachment (RFC 2183 section 2.8).
        let attached = disposition.is_some_and(|token| token != "inline") || is_inside_attached(tree, part);
        let shown = declared.starts_with("image/")
            && kind.starts_with("image/")
            && kind != "image/svg+xml"
            && this.id.as_ref().is_some_and(|id| pictures.0.contains(id));
        let inline = shown && !attached;
        let text = this.media.main_type() == "text" || !declared.contains('/');
        let disguised = match kind {
            filetype::PDF => starts_as_pdf,
            filetype::RTF => !declared.contains("rtf") && !declared.contains("rich"),
            filetype::OCTETS | filetype::MESSAGE | filetype::PGP_ENCRYPTED | filetype::PGP_SIGNATURE => false,
            filetype::PGP_KEYS | filetype::PKCS7 => false,
            kind => !kind.starts_with("text/") && kind != "image/svg+xml",
        };
        let report = declared.ends_with("delivery-status") || declared == "message/disposition-notification";
        let report = report && kind == filetype::PLAIN && this.names.is_empty();
        let is_one = attached || !this.names.is_empty() || disguised || (!text && !report);
        is_one.then(|| Attachment { names: &this.names, kind, declared, size: size as u64, inline })
    }

    fn is_meant_by(&self, removal: &Removal) -> bool {
        let Removal { all, types, names, larger_than, notice: _ } = removal;
        if names.iter().any(|glob| self.names.iter().any(|name| fits(glob, name))) {
            return true;
        }
        // Content that tells nothing leaves what the sender says.
        let vague = matches!(self.kind, filetype::OCTETS | filetype::PLAIN);
        let is = |wanted: &String| is_type(wanted, self.kind) || (vague && is_type(wanted, self.declared));
        if types.iter().any(is) {
            return true;
        }
        !self.inline && (*all || larger_than.is_some_and(|limit| self.size > limit))
    }

    /// What the removal calls it.
    fn label(&self) -> String {
        match self.names.first() {
            Some(name) => name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect(),
            None if self.kind == filetype::OCTETS || self.kind == filetype::PLAIN => self.declared.to_owned(),
            None => self.kind.to_owned(),
        }
    }
}

/// Whether a multipart around it says that all in it is attached.
fn is_inside_attached(tree: &Tree<'_>, part: usize) -> bool {
    let mut at = part;
    while let Some(parent) = tree.multipart_of(at) {
        if tree.parts[parent]
            .disposition
            .as_deref()
            .is_some_and(|token| token != "inline" && !token.is_empty())
        {
            return true;
        }
        at = parent;
    }
    false
}

fn is_type(wanted: &str, kind: &str) -> bool {
    let wanted = wanted.trim().to_ascii_lowercase();
    match wanted.strip_suffix("/*") {
        Some(main) => kind.split('/').next() == Some(main) || main == "*",
        None => wanted == kind,
    }
}

/// `*` is any text and `?` any character, ignoring case, the whole name. Linear in each try, no recursion.
pub(super) fn fits(glob: &str, name: &str) -> bool {
    let fold = |text: &str| text.trim().chars().flat_map(char::to_lowercase).collect::<Vec<char>>();
    let (glob, name) = (fold(glob), fold(name));
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, n));
                g += 1;
            }
            Some('?') => (g, n) = (g + 1, n + 1),
            Some(c) if *c == name[n] => (g, n) = (g + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (g, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// Content-IDs that an HTML text of the message refers to.
struct Pictures(std::collections::HashSet<String>);

impl Pictures {
    fn of(tree: &Tree<'_>) -> Self {
        let mut ids = std::collections::HashSet::new();
        let wanted = tree.parts.iter().any(|part| part.id.is_some());
        for (at, part) in tree.parts.iter().enumerate() {
            if !wanted || part.media.kind != "text/html" || part.form != Form::Leaf {
                continue;
            }
            let text = tree.decoded(at);
            let lower = text.to_ascii_lowercase();
            for start in memchr::memmem::find_iter(&lower, b"cid:") {
                let id = &text[start + 4..];
                let end = id.iter().position(|b| b"\"'<> )\\\r\n\t".contains(b)).unwrap_or(id.len());
                ids.insert(percent_decoded(&id[..end.min(300)]));
            }
        }
        Self(ids)
    }
}

fn percent_decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, crate::mail::message::transfer::hex_pair(tail)) {
            (b'%', Some((octet, after))) => {
                out.push(octet);
                rest = after;
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).replace("&amp;", "&")
}
