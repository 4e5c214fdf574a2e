//! Changes to a message as values, applied at the very end (design decision 8): the stored bytes
//! stay as they came, and what no edit touches leaves byte-identical.
//!
//! Edits of the header section never look at the body. Those of the body read its MIME structure in one strict
//! reading; where other readers could see another one, what must not leave is an [`EditError`] and what should
//! be added is left out and said so ([`Note`]).

mod attachments;
mod encode;
mod footer;
mod head;
mod journal;
mod smime;
mod surgery;
#[cfg(test)]
mod tests;
mod text;
mod tree;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use head::split;
pub use head::subject_of;
pub use smime::{CertificateError, Signer, SignerError, Signers, check_certificate};

use jiff::Timestamp;

/// One change of a message. Among edits of one kind the order is that of the rules' rank; the kinds are applied
/// in the order of spec R106, whatever their order in a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Edit {
    /// Adds a field at the top (below the gateway's own Received), encoded by RFC 2047 and folded
    /// as needed. The same name and value already added by an earlier edit is not added again.
    AddHeader { name: String, value: String },
    /// Puts `[text] ` before the subject, unless the prefix is already at its front (spec R81).
    /// A missing Subject is created.
    PrefixSubject { text: String },
    /// Like `AddHeader`, and every field of this name that came with the message goes (spec R77, R78).
    SetHeader { name: String, value: String },
    /// Takes attachments out (spec R90).
    RemoveAttachments(Removal),
    /// Adds text below the message, inside the right parts (spec R91).
    Footer(Footer),
    /// Takes out text/x-amp-html alternatives (spec R62).
    StripAmp,
    /// Encrypts for this certificate, X.509 in DER, base64 (spec R103). Mail already encrypted stays.
    Smime { certificate: String },
    /// Wraps the message into a journal: its envelope as text, then the message as it came (spec R46).
    Journal { sender: String, recipients: Vec<String> },
    /// The same as `Smime`, with a cipher that older clients know.
    SmimeCbc { certificate: String },
    /// Signs with the key of this sender (folded), before encryption (spec R106). The key itself is never stored.
    SmimeSign { address: String },
}

/// Which attachments go: all, or those that fulfil any of the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Removal {
    pub all: bool,
    /// Media types by content, such as `application/pdf`, or `image/*`.
    pub types: Vec<String>,
    /// File names with `*` and `?`, ignoring case.
    pub names: Vec<String>,
    /// Decoded bytes.
    pub larger_than: Option<u64>,
    /// Told to the recipients, as text where the attachment was.
    pub notice: Option<String>,
}

/// Text below a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Footer {
    pub text: String,
    /// For HTML parts; `None`: made from `text`.
    pub html: Option<String>,
}

/// Why a message cannot be changed as it must be; it does not leave then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error(
        "its structure is read differently by different programs ({0}), so nothing can be taken out of it safely"
    )]
    Structure(&'static str),
    #[error(
        "it is signed or compressed as a whole (S/MIME) in a way that cannot be opened, so nothing can be taken out of it"
    )]
    Opaque,
    #[error("it cannot be encrypted: {0}")]
    Certificate(#[from] CertificateError),
    /// The only error that may be another one tomorrow.
    #[error("the key that signs for its sender is not here")]
    NoSigningKey,
}

/// What happened beside what was asked for, or instead of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// An attachment was taken out.
    Removed(String),
    /// Its signature does not fit any more and was taken out (spec R90).
    SignatureVoid,
    /// What is encrypted stays: nobody can tell what is in it.
    EncryptedKept,
    /// No footer, and why.
    FooterLeftOut(&'static str),
    /// Encrypted already, so left as it is (spec R103).
    AlreadyEncrypted,
    /// Signed or encrypted already, so not signed again.
    AlreadySigned,
    /// It is signed when it leaves; who looks here has no keys.
    SignedOnItsWay,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Removed(name) => write!(f, "attachment removed: {name}"),
            Note::SignatureVoid => f.write_str("the signature of the message became void and was removed"),
            Note::EncryptedKept => f.write_str("encrypted content was left as it is"),
            Note::FooterLeftOut(why) => write!(f, "no footer was added: {why}"),
            Note::AlreadyEncrypted => f.write_str("the message was encrypted already"),
            Note::AlreadySigned => f.write_str("the message was signed or encrypted already"),
            Note::SignedOnItsWay => f.write_str("the message is signed when it leaves"),
        }
    }
}

impl Note {
    /// One word of a closed list, for logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Note::Removed(_) => "AttachmentRemoved",
            Note::SignatureVoid => "SignatureVoid",
            Note::EncryptedKept => "EncryptedKept",
            Note::FooterLeftOut(_) => "FooterLeftOut",
            Note::AlreadyEncrypted => "AlreadyEncrypted",
            Note::AlreadySigned => "AlreadySigned",
            Note::SignedOnItsWay => "SignedOnItsWay",
        }
    }
}

/// A message after its edits. The bytes that no edit touched are those of the original, not a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited<'a> {
    content: Cow<'a, [u8]>,
    /// Where the header section of `content` ends.
    at: usize,
    /// The header section instead of that of `content`.
    head: Option<Vec<u8>>,
    pub notes: Vec<Note>,
}

impl Edited<'_> {
    /// The header section.
    pub fn head(&self) -> &[u8] {
        self.head.as_deref().unwrap_or(&self.content[..self.at])
    }

    /// The empty line and the body.
    pub fn rest(&self) -> &[u8] {
        &self.content[self.at..]
    }

    /// Puts whole fields, each with its line end, below the gateway's own Received: for a signature, which comes
    /// after everything else.
    pub fn add_fields(&mut self, fields: &[u8]) {
        let mut head = self.head().to_vec();
        let at = head::own_received(&head);
        head.splice(at..at, fields.iter().copied());
        self.head = Some(head);
    }

    /// Whether the body is still the stored one.
    pub fn is_as_stored(&self) -> bool {
        matches!(self.content, Cow::Borrowed(_))
    }

    pub fn into_bytes(self) -> Vec<u8> {
        match self.head {
            None => self.content.into_owned(),
            Some(head) => [&head[..], &self.content[self.at..]].concat(),
        }
    }

    pub fn into_owned(self) -> Edited<'static> {
        let Edited { content, at, head, notes } = self;
        Edited { content: Cow::Owned(content.into_owned()), at, head, notes }
    }
}

/// Whether some edit needs the whole message in memory.
pub fn touches_body(edits: &[Edit]) -> bool {
    edits.iter().any(|edit| match edit {
        Edit::AddHeader { .. } | Edit::PrefixSubject { .. } | Edit::SetHeader { .. } => false,
        Edit::RemoveAttachments(_)
        | Edit::Footer(_)
        | Edit::StripAmp
        | Edit::Smime { .. }
        | Edit::SmimeCbc { .. }
        | Edit::SmimeSign { .. }
        | Edit::Journal { .. } => true,
    })
}

/// Those who can sign with S/MIME here, and the time that signatures bear.
#[derive(Debug, Clone, Copy)]
pub struct Signing<'a> {
    pub signers: &'a Signers,
    pub now: Timestamp,
}

/// The same as [`apply_signed`] where there are no keys: what would be signed is not, and noted.
pub fn apply_all<'a>(content: &'a [u8], edits: &[Edit]) -> Result<Edited<'a>, EditError> {
    apply(content, edits, None)
}

/// Applies all edits, in the order of spec R106: attachments and AMP go, footer, subject, headers, signature,
/// encryption; a journal wraps the rest. Without edits the result is `content`.
pub fn apply_signed<'a>(
    content: &'a [u8],
    edits: &[Edit],
    signing: Signing<'_>,
) -> Result<Edited<'a>, EditError> {
    apply(content, edits, Some(signing))
}

fn apply<'a>(
    content: &'a [u8],
    edits: &[Edit],
    signing: Option<Signing<'_>>,
) -> Result<Edited<'a>, EditError> {
    let mut notes = Vec::new();
    let mut content = Cow::Borrowed(content);
    let removals = removals(edits);
    if !removals.is_empty()
        && let Some(new) = attachments::remove(&content, &removals, &mut notes)?
    {
        content = Cow::Owned(new);
    }
    if edits.contains(&Edit::StripAmp)
        && let Some(new) = surgery::strip_amp(&content, &mut notes)?
    {
        content = Cow::Owned(new);
    }
    let footers: Vec<&Footer> =
        edits.iter().filter_map(|e| if let Edit::Footer(footer) = e { Some(footer) } else { None }).collect();
    if !footers.is_empty()
        && let Some(new) = footer::append(&content, &footers, &mut notes)
    {
        content = Cow::Owned(new);
    }
    let at = split(&content).0.len();
    let new_head = head::apply(&content[..at], edits);
    let head = (new_head != content[..at]).then_some(new_head);
    let mut edited = Edited { content, at, head, notes };

    let signer =
        edits.iter().find_map(|e| if let Edit::SmimeSign { address } = e { Some(address) } else { None });
    match (signer, signing) {
        (None, _) => {}
        (Some(_), None) => edited.notes.push(Note::SignedOnItsWay),
        (Some(address), Some(Signing { signers, now })) => {
            let signer = signers.get(address).ok_or(EditError::NoSigningKey)?;
            match smime::sign(edited.head(), edited.rest(), signer, now)? {
                Some(new) => edited.become_whole(new),
                None => edited.notes.push(Note::AlreadySigned),
            }
        }
    }
    let mut cipher = smime::Cipher::Gcm;
    let mut certificates: Vec<&str> = Vec::new();
    for edit in edits {
        match edit {
            Edit::Smime { certificate } => certificates.push(certificate),
            Edit::SmimeCbc { certificate } => {
                certificates.push(certificate);
                cipher = smime::Cipher::Cbc;
            }
            _ => {}
        }
    }
    if !certificates.is_empty() {
        match smime::encrypt(edited.head(), edited.rest(), &certificates, cipher)? {
            Some(new) => edited.become_whole(new),
            None => edited.notes.push(Note::AlreadyEncrypted),
        }
    }
    for edit in edits {
        if let Edit::Journal { sender, recipients } = edit {
            let new = journal::wrap(edited.head(), edited.rest(), sender, recipients);
            edited.become_whole(new);
        }
    }
    Ok(edited)
}

impl Edited<'_> {
    fn become_whole(&mut self, content: Vec<u8>) {
        self.at = split(&content).0.len();
        self.content = Cow::Owned(content);
        self.head = None;
    }
}

/// The names of the attachments that a removal would take out, for `explain`.
pub fn removed(content: &[u8], removal: &Removal) -> Result<Vec<String>, EditError> {
    attachments::names(content, removal)
}

fn removals(edits: &[Edit]) -> Vec<&Removal> {
    edits
        .iter()
        .filter_map(|e| if let Edit::RemoveAttachments(removal) = e { Some(removal) } else { None })
        .collect()
}
