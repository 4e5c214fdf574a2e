//! One door for every kind of document: its texts, the files it holds, and why it could not be read.

use super::{Budget, Extract, Why, odf, ooxml, pdf, rtf};
use crate::mail::filetype;

#[derive(Debug, Default)]
pub struct Document {
    pub texts: Vec<Extract>,
    /// Files embedded in it, with their names.
    pub files: Vec<(String, Vec<u8>)>,
    /// What of it could not be read is not told apart: the texts are what could.
    pub failed: Option<Why>,
    /// It is an archive, and files in it may be more than its own parts.
    pub holds_files: bool,
}

pub fn is_document(kind: &str) -> bool {
    matches!(
        kind,
        filetype::DOCX
            | filetype::XLSX
            | filetype::PPTX
            | filetype::ODT
            | filetype::ODS
            | filetype::ODP
            | filetype::ODG
            | filetype::PDF
            | filetype::RTF
    )
}

/// Whether a file of an office document is a part of it that [`read`] has seen, or a picture.
pub fn is_own_part(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower == "mimetype" || [".xml", ".rels", ".vml", ".rdf"].iter().any(|end| lower.ends_with(end))
}

pub fn read(kind: &str, content: &[u8], budget: &Budget) -> Document {
    match kind {
        filetype::DOCX | filetype::XLSX | filetype::PPTX => ooxml::read(content, budget),
        filetype::ODT | filetype::ODS | filetype::ODP | filetype::ODG => odf::read(content, budget),
        filetype::PDF => pdf::read(content, budget),
        filetype::RTF => rtf::read(content, budget),
        _ => Document::default(),
    }
}
