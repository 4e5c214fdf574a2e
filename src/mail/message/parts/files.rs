//! Attachments on the walk: files, archives and the files inside them, one after the other and without
//! recursion.

use std::hash::BuildHasher;
use std::rc::Rc;

use super::super::charset;
use super::super::reading::Reading;
use super::{Entity, File, Piece, Walk, looks_like_html};
use crate::mail::containers::archive::{self, Member};
use crate::mail::containers::document::{self, Document};
use crate::mail::containers::signed::Signed;
use crate::mail::containers::{DAMAGED, ENCRYPTED, Extract, UNKNOWN, Why, legacy, signed, tnef, uuencode};
use crate::mail::filetype;

/// What waits to be read.
#[derive(Debug)]
pub(super) enum Job {
    Entity(Entity),
    File(Attached),
    Archive(Archive),
}

/// Where something came from, if out of a file.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    /// Names of the files around it, joined by `/`.
    pub name: Option<Rc<str>>,
    /// Archives around it.
    pub nesting: u32,
}

/// A file with its content.
#[derive(Debug)]
pub(super) struct Attached {
    /// The part it is or is in.
    part: Entity,
    name: Option<String>,
    kind: &'static str,
    content: Vec<u8>,
}

/// An archive whose files are taken one by one.
#[derive(Debug)]
pub(super) struct Archive {
    part: Entity,
    name: Option<String>,
    content: Vec<u8>,
    members: std::vec::IntoIter<Member>,
    /// A document that holds files: only what is no part of the document itself.
    document: bool,
}

impl Walk<'_> {
    /// Whether a part is more than the text it may be shown as.
    pub(super) fn is_file(&self, declared: &str, kind: &str, declared_text: bool) -> bool {
        let opens = archive::members(kind, &[], &super::Budget::new(0, 1, 1)).is_some()
            || document::is_document(kind)
            || filetype::is_unknown_container(kind)
            || matches!(kind, filetype::TNEF | filetype::PKCS7 | filetype::PGP_ENCRYPTED | filetype::EXE);
        let signed = matches!(declared, "application/pkcs7-mime" | "application/x-pkcs7-mime");
        opens || signed || (kind == filetype::MESSAGE && !declared_text)
    }

    /// A MIME part that is a file.
    pub(super) fn attach(
        &mut self,
        entity: &Entity,
        reading: &Reading,
        body: &[u8],
        kind: &'static str,
        attachment: bool,
    ) {
        let content = reading.encoding.decode(body, usize::MAX).bytes;
        let kind = match filetype::detect(&content) {
            // Told by its beginning only: something before the archive, a type that says more.
            filetype::OCTETS if reading.media.kind.ends_with("pkcs7-mime") => filetype::PKCS7,
            filetype::OCTETS => kind,
            whole => whole,
        };
        let part = Entity { attachment, ..entity.clone() };
        let name = reading.name.clone();
        let shown_inline = !attachment && name.is_none() && kind == filetype::PGP_ENCRYPTED;
        if !shown_inline {
            self.note_file(entity, name.as_deref(), kind, content.len() as u64);
        }
        self.waiting.push(Job::File(Attached { part, name, kind, content }));
    }

    /// Files inside a text: uuencoded ones.
    pub(super) fn inline_files(&mut self, entity: &Entity, name: Option<&str>, text: &str) {
        for found in uuencode::files(text) {
            if !self.budget.entry() {
                return;
            }
            let kind = filetype::detect(&found.content);
            let part = Entity { attachment: true, ..entity.clone() };
            let name = match name {
                Some(outer) => format!("{outer}/{}", found.name),
                None => found.name,
            };
            self.note_file(&part, Some(&name), kind, found.content.len() as u64);
            self.waiting.push(Job::File(Attached { part, name: Some(name), kind, content: found.content }));
        }
    }

    /// What the type of a multipart says of signatures and encryption.
    pub(super) fn note_security(&mut self, entity: &Entity, reading: &Reading) {
        let protocols = reading.media.all("protocol");
        let about =
            |word: &str| protocols.iter().any(|protocol| protocol.to_ascii_lowercase().contains(word));
        match reading.media.kind.as_str() {
            "multipart/signed" => self.out.smime_signed |= about("pkcs7-signature"),
            "multipart/encrypted" if about("pgp") => {
                let name = label(entity, None);
                self.cannot_read(&name, ENCRYPTED);
            }
            _ => {}
        }
    }

    pub(super) fn note_file(&mut self, entity: &Entity, name: Option<&str>, kind: &'static str, size: u64) {
        let name = inside(entity, name);
        let inside_archive = entity.origin.nesting > 0;
        let path = entity.path.clone();
        let file = File { path, name, kind, size, encrypted: false, inside_archive };
        // Readings of one part come in a row.
        if !self.out.files.iter().rev().take(16).any(|known| *known == file) {
            self.out.files.push(file);
        }
    }

    fn cannot_read(&mut self, name: &str, why: Why) {
        if !self.out.unreadable.iter().rev().take(64).any(|known| known.0 == name && known.1 == why) {
            self.out.unreadable.push((name.to_owned(), why));
        }
    }

    /// Something of this file is not readable: it and the files around it say so.
    fn unreadable(&mut self, part: &Entity, name: Option<&str>, why: Why) {
        let full = label(part, name);
        if why == ENCRYPTED {
            for file in self.out.files.iter_mut().filter(|file| file.path == part.path) {
                let around = file.name.as_deref().is_none_or(|outer| {
                    full == outer || full.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
                });
                file.encrypted |= around;
            }
        }
        self.cannot_read(&full, why);
    }

    /// Opens a file; false when a limit ends the walk.
    pub(super) fn open_file(&mut self, file: Attached) -> bool {
        self.opened += 1;
        if self.opened > self.limits.parts.saturating_add(self.limits.entries) {
            return self.stop("too many parts");
        }
        let hash = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
        let key = (label(&file.part, file.name.as_deref()), hash.hash_one(&file.content));
        if !self.known.insert(key) {
            return true;
        }
        let (part, name) = (file.part.clone(), file.name.clone());
        match file.kind {
            filetype::TNEF => self.open_tnef(&file),
            filetype::PKCS7 => self.open_signed(&file),
            filetype::PGP_ENCRYPTED => self.unreadable(&part, name.as_deref(), ENCRYPTED),
            filetype::MESSAGE => self.open_message(file),
            filetype::OLE => {
                let read = legacy::read(&file.content, &self.budget);
                if let Some(extract) = read.text {
                    self.add_extract(&part, name.as_deref(), extract);
                }
                self.unreadable(&part, name.as_deref(), read.why);
            }
            kind if document::is_document(kind) => self.open_document(file),
            kind if archive::is_text(kind) => self.read_text(&file),
            kind if filetype::is_unknown_container(kind) => self.unreadable(&part, name.as_deref(), UNKNOWN),
            _ => self.open_archive(file),
        }
        true
    }

    fn open_document(&mut self, file: Attached) {
        let name = file.name.as_deref();
        let Document { texts, files, failed, holds_files } =
            document::read(file.kind, &file.content, &self.budget);
        for extract in texts {
            self.add_extract(&file.part, name, extract);
        }
        if let Some(why) = failed.filter(|_| self.budget.stopped().is_none()) {
            self.unreadable(&file.part, name, why);
        }
        for (inner, content) in files {
            self.push_inner(&file.part, name, &inner, content);
        }
        if holds_files || filetype::has_zip_at_the_end(&file.content) {
            self.push_archive(file, true);
        }
    }

    fn open_archive(&mut self, file: Attached) {
        self.push_archive(file, false);
    }

    fn push_archive(&mut self, file: Attached, document: bool) {
        let Attached { part, name, kind, content } = file;
        let archive_kind = match kind {
            filetype::ZIP | filetype::EPUB | filetype::TAR | filetype::GZIP => kind,
            // Programs and pictures with an archive behind them, documents that are one.
            _ if filetype::has_zip_at_the_end(&content) => filetype::ZIP,
            _ => return,
        };
        if !self.budget.nest(part.origin.nesting + 1) {
            return;
        }
        let sure = archive_kind == kind;
        match archive::members(archive_kind, &content, &self.budget) {
            Some(Ok((members, damage))) => {
                if let Some(why) = damage {
                    self.unreadable(&part, name.as_deref(), why);
                }
                let members = members.into_iter();
                self.waiting.push(Job::Archive(Archive { part, name, content, members, document }));
            }
            Some(Err(why)) if sure => self.unreadable(&part, name.as_deref(), why),
            _ => {}
        }
    }

    /// Takes one file out of an archive and leaves the rest for later.
    pub(super) fn next_member(&mut self, mut archive: Archive) -> bool {
        let Some(member) = archive.members.next() else { return true };
        if member.is_folder() || (archive.document && document::is_own_part(&member.name)) {
            self.waiting.push(Job::Archive(archive));
            return true;
        }
        let part = self.inner_part(&archive.part, archive.name.as_deref());
        let name = match member.name.is_empty() {
            true => unpacked_name(archive.name.as_deref().unwrap_or_default()),
            false => member.name.clone(),
        };
        let taken = archive::take(&member, &archive.content, &self.budget);
        let (outer, outer_name) = (archive.part.clone(), archive.name.clone());
        self.waiting.push(Job::Archive(archive));
        let name = Some(name);
        match taken {
            Ok(taken) => {
                let size = if taken.whole { taken.content.len() as u64 } else { member.size };
                self.note_file(&part, name.as_deref(), taken.kind, size);
                if taken.damaged {
                    self.unreadable(&part, name.as_deref(), DAMAGED);
                }
                if taken.whole {
                    let (kind, content) = (taken.kind, taken.content);
                    self.waiting.push(Job::File(Attached { part, name, kind, content }));
                }
            }
            Err(why) if self.budget.stopped().is_some() && why != ENCRYPTED => {}
            Err(why) => {
                self.note_file(&part, name.as_deref(), filetype::OCTETS, member.size);
                self.unreadable(&part, name.as_deref(), why);
                if why == ENCRYPTED {
                    self.unreadable(&outer, outer_name.as_deref(), ENCRYPTED);
                }
            }
        }
        self.going_on()
    }

    /// A spent budget ends the walk, never without saying so: nothing that follows could be read.
    fn going_on(&self) -> bool {
        self.budget.stopped().is_none() || self.budget.unpacked_left() > 0
    }

    /// The part as seen from inside a file of it.
    fn inner_part(&self, part: &Entity, name: Option<&str>) -> Entity {
        let nesting = part.origin.nesting + 1;
        let name = Some(Rc::from(label(part, name)));
        Entity { attachment: true, origin: super::Origin { name, nesting }, ..part.clone() }
    }

    fn push_inner(&mut self, part: &Entity, outer: Option<&str>, name: &str, content: Vec<u8>) {
        if !self.budget.nest(part.origin.nesting + 1) || !self.budget.entry() {
            return;
        }
        let part = self.inner_part(part, outer);
        let kind = filetype::detect(&content);
        self.note_file(&part, Some(name), kind, content.len() as u64);
        self.waiting.push(Job::File(Attached { part, name: Some(name.to_owned()), kind, content }));
    }

    /// A message saved as a file: it goes through the same walk, one level deeper.
    fn open_message(&mut self, file: Attached) {
        let name = label(&file.part, file.name.as_deref());
        let end = file.content.len();
        self.sources.push(file.content.into());
        let origin = super::Origin { name: Some(Rc::from(name)), nesting: file.part.origin.nesting };
        let entity = Entity {
            source: self.sources.len() - 1,
            range: 0..end,
            depth: file.part.depth + 1,
            forwarded: true,
            digest: false,
            origin,
            ..file.part
        };
        self.waiting.push(Job::Entity(entity));
    }

    fn open_signed(&mut self, file: &Attached) {
        match signed::open(&file.content, &self.budget) {
            Signed::Content(content) => {
                self.out.smime_signed = true;
                self.open_mime(file, content);
            }
            Signed::Compressed(content) => self.open_mime(file, content),
            Signed::Detached => self.out.smime_signed = true,
            Signed::Enveloped => {
                self.out.smime_encrypted = true;
                self.unreadable(&file.part, file.name.as_deref(), ENCRYPTED);
            }
            Signed::Other => {}
            Signed::Damaged => self.unreadable(&file.part, file.name.as_deref(), DAMAGED),
        }
    }

    /// What a signature is around: the body of the message, not an attachment.
    fn open_mime(&mut self, file: &Attached, content: Vec<u8>) {
        let end = content.len();
        self.sources.push(content.into());
        let part = &file.part;
        let nested = super::Origin { name: part.origin.name.clone(), nesting: part.origin.nesting };
        let entity = Entity {
            source: self.sources.len() - 1,
            range: 0..end,
            depth: part.depth + 1,
            attachment: part.origin.name.is_some(),
            digest: false,
            forwarded: false,
            origin: nested,
            ..part.clone()
        };
        self.waiting.push(Job::Entity(entity));
    }

    fn open_tnef(&mut self, file: &Attached) {
        let opened = tnef::open(&file.content, &self.budget);
        let name = file.name.as_deref();
        for extract in opened.texts {
            self.add_extract(&file.part, name, extract);
        }
        for (inner, content) in opened.files {
            self.push_inner(&file.part, name, &inner, content);
        }
        if opened.damaged {
            self.unreadable(&file.part, name, DAMAGED);
        }
    }

    fn read_text(&mut self, file: &Attached) {
        let most = file.content.len().min(self.budget.text_left());
        self.budget.text(file.content.len());
        let bytes = &file.content[..most];
        for text in charset::readings(bytes, &[]) {
            self.inline_files(&file.part, file.name.as_deref(), &text);
            let html = looks_like_html(&text);
            let extract = Extract { text, hidden: Vec::new() };
            self.piece(&file.part, file.name.as_deref(), html, extract);
        }
    }

    fn add_extract(&mut self, part: &Entity, name: Option<&str>, extract: Extract) {
        let shown = extract.shown();
        self.piece(part, name, false, extract);
        if let Some(text) = shown {
            self.piece(part, name, false, Extract { text, hidden: Vec::new() });
        }
    }

    fn piece(&mut self, part: &Entity, name: Option<&str>, html: bool, extract: Extract) {
        let Extract { text, hidden } = extract;
        let name = inside(part, name);
        let (path, branch) = (part.path.clone(), part.branch);
        self.out.pieces.push(Piece { path, name, attachment: part.attachment, html, text, hidden, branch });
    }
}

/// The name of a file inside what is around it.
pub(super) fn inside(part: &Entity, name: Option<&str>) -> Option<String> {
    match (&part.origin.name, name) {
        (Some(around), Some(name)) => Some(format!("{around}/{name}")),
        (Some(around), None) => Some(around.to_string()),
        (None, name) => name.map(str::to_owned),
    }
}

/// What a file is called where it must be called something.
fn label(part: &Entity, name: Option<&str>) -> String {
    inside(part, name).unwrap_or_else(|| if part.path.is_empty() { "body".into() } else { part.path.clone() })
}

/// The name that `gunzip` gives a file whose archive does not name it.
fn unpacked_name(archive: &str) -> String {
    let name = archive.rsplit('/').next().unwrap_or(archive);
    let lower = name.to_ascii_lowercase();
    if lower.ends_with(".tgz") {
        return format!("{}.tar", &name[..name.len() - 4]);
    }
    if lower.ends_with(".gz") { name[..name.len() - 3].to_owned() } else { "content".to_owned() }
}
