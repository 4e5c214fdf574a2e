//! Attachments opened: archives into their files, documents into their text.
//!
//! Everything here reads what a stranger made. Nothing is allocated from a size that a file declares,
//! every octet that comes out of a decoder is paid for from one [`Budget`] per message, and whatever
//! cannot be read says so by name: `stopped` when a limit was reached, unreadable when it is encrypted,
//! damaged or of a kind we cannot open. The walk itself is in [`super::message::parts`], without
//! recursion.

pub mod archive;
pub mod budget;
pub mod document;
pub mod legacy;
mod odf;
mod ooxml;
mod pdf;
mod rtf;
pub mod signed;
mod tar;
pub mod tnef;
pub mod uuencode;
mod xml;
mod zip;

#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;

pub use budget::Budget;

/// Why a file could not be read, in words.
pub type Why = &'static str;

pub const ENCRYPTED: Why = "encrypted";
pub const DAMAGED: Why = "damaged";
pub const UNKNOWN: Why = "no reader for this kind of container";
pub const METHOD: Why = "packed by an unknown method";

/// The end of a paragraph, a cell, a page: neither words nor phrases cross it.
pub const BOUNDARY: char = '\u{2029}';

/// A text out of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extract {
    pub text: String,
    /// Stretches of it that a reader is not shown, in order.
    pub hidden: Vec<Range<usize>>,
}

impl Extract {
    /// The text without what is hidden, if something is.
    pub fn shown(&self) -> Option<String> {
        if self.hidden.is_empty() {
            return None;
        }
        let mut shown = String::with_capacity(self.text.len());
        let mut at = 0;
        for range in &self.hidden {
            shown.push_str(self.text.get(at..range.start).unwrap_or_default());
            at = range.end;
        }
        shown.push_str(self.text.get(at..).unwrap_or_default());
        Some(shown)
    }
}

/// Collects the text of a document, paid for as it comes.
pub(crate) struct Sink<'b> {
    pub budget: &'b Budget,
    extract: Extract,
}

impl<'b> Sink<'b> {
    pub fn new(budget: &'b Budget) -> Self {
        Self { budget, extract: Extract::default() }
    }

    /// Adds text; nothing once the budget is spent.
    pub fn push(&mut self, text: &str, hidden: bool) {
        if text.is_empty() || !self.budget.text(text.len()) {
            return;
        }
        let start = self.extract.text.len();
        self.extract.text.push_str(text);
        if hidden {
            let end = self.extract.text.len();
            match self.extract.hidden.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => self.extract.hidden.push(start..end),
            }
        }
    }

    pub fn push_char(&mut self, c: char, hidden: bool) {
        self.push(c.encode_utf8(&mut [0; 4]), hidden);
    }

    /// Ends a paragraph or a cell; several ends are one.
    pub fn boundary(&mut self) {
        if !self.extract.text.is_empty() && !self.extract.text.ends_with(BOUNDARY) {
            self.push_char(BOUNDARY, false);
        }
    }

    /// What was collected, and the sink is empty again.
    pub fn take(&mut self) -> Option<Extract> {
        let extract = std::mem::take(&mut self.extract);
        (!extract.text.trim_matches(BOUNDARY).is_empty()).then_some(extract)
    }
}
