//! An archive as a list of files that are still packed: the walk takes one after the other, so that no
//! more than one of them is unpacked at each level.

use std::ops::Range;

use flate2::bufread::GzDecoder;

use super::budget::{Packing, Unpacked};
use super::{Budget, DAMAGED, ENCRYPTED, METHOD, Why, tar, zip};
use crate::mail::filetype;
use crate::mail::message::guess_charset;

/// The files of an archive, and why the list ends early if it does.
type Listed = (Vec<Member>, Option<Why>);

/// One file inside an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    /// Where its packed octets are in the archive.
    pub range: Range<usize>,
    pub packing: Packing,
    pub encrypted: bool,
    /// One place says that it is encrypted and another one that it is not.
    pub maybe_encrypted: bool,
    /// As declared; told, never trusted.
    pub size: u64,
}

impl Member {
    pub fn is_folder(&self) -> bool {
        self.name.ends_with(['/', '\\']) && self.size == 0
    }
}

/// The files of an archive of this kind, and what is wrong with its end; `None` if the kind is none.
pub fn members(kind: &str, content: &[u8], budget: &Budget) -> Option<Result<Listed, Why>> {
    match kind {
        filetype::ZIP | filetype::EPUB => Some(zip::members(content, budget).map(|members| (members, None))),
        filetype::TAR => Some(tar::members(content, budget)),
        filetype::GZIP => Some(Ok((vec![gzip(content, budget)], None))),
        _ => None,
    }
}

pub fn zip_members(content: &[u8], budget: &Budget) -> Result<Vec<Member>, Why> {
    zip::members(content, budget)
}

fn gzip(content: &[u8], budget: &Budget) -> Member {
    budget.entry();
    let decoder = GzDecoder::new(content);
    let name = decoder.header().and_then(|header| header.filename()).map(guess_charset);
    Member {
        name: name.unwrap_or_default(),
        range: 0..content.len(),
        packing: Packing::Gzip,
        encrypted: false,
        maybe_encrypted: false,
        size: 0,
    }
}

/// A file out of an archive: all of it if something in it may be read, else its beginning.
#[derive(Debug)]
pub struct Taken {
    pub kind: &'static str,
    pub content: Vec<u8>,
    pub whole: bool,
    /// The end could not be read.
    pub damaged: bool,
}

/// Enough to tell what a file is; the mark of a CD image stands at 32 KiB.
const SAMPLE: usize = 40 << 10;

/// Unpacks a file of an archive, only its beginning if that shows that nothing in it can be searched.
pub fn take(member: &Member, archive: &[u8], budget: &Budget) -> Result<Taken, Why> {
    if member.encrypted {
        return Err(ENCRYPTED);
    }
    let mut content = Vec::new();
    let packed = &archive[member.range.clone()];
    let mut stream = Unpacked::new(packed, member.packing, budget).ok_or(METHOD)?;
    let sampled = stream.read_up_to(SAMPLE, &mut content);
    let kind = filetype::detect(&content);
    let mut taken = match sampled {
        Ok(true) => Taken { kind, content, whole: true, damaged: false },
        Ok(false) if !worth_reading(kind) => {
            return Ok(Taken { kind, content, whole: false, damaged: false });
        }
        Ok(false) => {
            // Text is searched no further than the budget for text reaches.
            let most = if is_text(kind) { stream.budget.text_left().saturating_add(1) } else { usize::MAX };
            let rest = stream.read_up_to(most, &mut content);
            Taken { kind: filetype::detect(&content), content, whole: true, damaged: rest.is_err() }
        }
        Err(_) => Taken { kind, content, whole: true, damaged: true },
    };
    if taken.damaged && budget.stopped().is_some() {
        taken.damaged = false;
    } else if taken.damaged && taken.content.is_empty() {
        return Err(if member.maybe_encrypted { ENCRYPTED } else { DAMAGED });
    }
    Ok(taken)
}

pub fn is_text(kind: &str) -> bool {
    kind.starts_with("text/") || kind == "image/svg+xml"
}

/// Whether anything can be found in a file of this kind beyond its beginning.
fn worth_reading(kind: &str) -> bool {
    !(kind == filetype::OCTETS
        || kind.starts_with("audio/")
        || kind.starts_with("video/")
        || kind.starts_with("font/")
        || (kind.starts_with("image/") && kind != "image/svg+xml"))
}
