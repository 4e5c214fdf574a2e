//! Conditions on what is known of a message besides its text (spec R57).
//!
//! Pure comparisons of values. Which message they are compared with is the business of
//! [`super::content`].

use ipnet::IpNet;

use super::pattern::{self, Pattern, PatternError};
use super::text::fold::{Folding, fold_entry};
use crate::bundle::document::{Metadata, NameTest};

/// A compiled condition.
#[derive(Debug)]
pub(super) enum Fact {
    SourceIp { networks: Vec<IpNet>, negated: bool },
    Authenticated(bool),
    InboundTls(bool),
    SmimeSigned(bool),
    SmimeEncrypted(bool),
    AttachmentEncrypted(bool),
    SizeOver(u64),
    SizeUnder(u64),
    AttachmentType(NameCode),
    AttachmentName(NameCode),
}

#[derive(Debug)]
pub(super) enum NameCode {
    /// Folded.
    Is(String),
    Matches(Pattern),
}

impl NameCode {
    fn compile(test: &NameTest) -> Result<Self, PatternError> {
        Ok(match test {
            NameTest::Is(name) => NameCode::Is(fold_entry(name, Folding::default())),
            NameTest::Matches(pattern) => NameCode::Matches(pattern::compile(pattern)?),
        })
    }

    pub fn fits(&self, name: &str) -> bool {
        match self {
            NameCode::Is(wanted) => fold_entry(name, Folding::default()) == *wanted,
            NameCode::Matches(pattern) => pattern.is_match(name),
        }
    }
}

impl Fact {
    pub fn compile(metadata: &Metadata) -> Result<Self, PatternError> {
        Ok(match metadata {
            Metadata::SourceIp { networks, negated } => {
                Fact::SourceIp { networks: networks.clone(), negated: *negated }
            }
            Metadata::Authenticated(wanted) => Fact::Authenticated(*wanted),
            Metadata::InboundTls(wanted) => Fact::InboundTls(*wanted),
            Metadata::SmimeSigned(wanted) => Fact::SmimeSigned(*wanted),
            Metadata::SmimeEncrypted(wanted) => Fact::SmimeEncrypted(*wanted),
            Metadata::AttachmentEncrypted(wanted) => Fact::AttachmentEncrypted(*wanted),
            Metadata::MessageSizeOver(size) => Fact::SizeOver(*size),
            Metadata::MessageSizeUnder(size) => Fact::SizeUnder(*size),
            Metadata::AttachmentType(test) => Fact::AttachmentType(NameCode::compile(test)?),
            Metadata::AttachmentName(test) => Fact::AttachmentName(NameCode::compile(test)?),
        })
    }

    /// The name of the condition, as its author writes it.
    pub const fn name(&self) -> &'static str {
        match self {
            Fact::SourceIp { .. } => "SourceIP",
            Fact::Authenticated(_) => "Authenticated",
            Fact::InboundTls(_) => "InboundTls",
            Fact::SmimeSigned(_) => "SmimeSigned",
            Fact::SmimeEncrypted(_) => "SmimeEncrypted",
            Fact::AttachmentEncrypted(_) => "AttachmentEncrypted",
            Fact::SizeOver(_) | Fact::SizeUnder(_) => "MessageSize",
            Fact::AttachmentType(_) => "AttachmentType",
            Fact::AttachmentName(_) => "AttachmentName",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_equal_whatever_their_case_and_patterns_are_searched_for() {
        let is = NameCode::compile(&NameTest::Is("Größe.PDF".into())).unwrap();
        assert!(is.fits("GRÖSSE.pdf") && is.fits("größe.p\u{200b}df") && !is.fits("größe.pdf.exe"));
        let matches = NameCode::compile(&NameTest::Matches(r"(?i)\.(exe|scr)$".into())).unwrap();
        assert!(matches.fits("a.EXE") && !matches.fits("exe.txt"));
        assert!(NameCode::compile(&NameTest::Matches("(".into())).is_err());
    }
}
