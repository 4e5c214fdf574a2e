//! A message as bytes with a map: header fields by offset, MIME parts as readings of their text.
//!
//! Nothing here rewrites a byte. A message that different clients read differently is given in every
//! reading ([`parts`]), so that whoever searches it sees what any of them would show.

pub(crate) mod charset;
mod encoded;
pub(crate) mod media;
pub mod parts;
mod reading;
pub(crate) mod transfer;

use std::ops::Range;

pub(crate) use charset::{
    beginning as beginning_of_text, by_label as text_by_label, guess as guess_charset, looks_like_text,
};
pub use encoded::decode_words;
pub(crate) use parts::looks_like_html;
pub use parts::{File, Limits, Piece, Pieces};

/// Base64 as the most lenient client reads it.
pub(crate) fn base64(encoded: &[u8]) -> Vec<u8> {
    transfer::base64(encoded, usize::MAX).bytes
}

/// A name inside a zip: UTF-8, else the code page of DOS, as the format has it.
pub(crate) fn zip_name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(name) => name.to_owned(),
        Err(_) => charset::by_label(bytes, "ibm437").unwrap_or_else(|| charset::guess(bytes)),
    }
}

/// One header field where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// As written.
    pub name: &'a str,
    /// Between the colon and the last line end, folding included.
    pub raw: &'a [u8],
    /// Offset of the field's first octet in the message.
    pub offset: usize,
    /// Octets of the whole field, line end included.
    pub length: usize,
}

impl Field<'_> {
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The value on one line, 8-bit text as UTF-8 (or windows-1252 if it is not), words still encoded.
    pub fn unfolded(&self) -> String {
        let joined: Vec<u8> = self.raw.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        charset::guess(&joined).trim().to_owned()
    }

    /// What a reader sees: unfolded, encoded words decoded (RFC 2047).
    pub fn decoded(&self) -> String {
        decode_words(&self.unfolded())
    }
}

/// A header section and where the body after it starts. Duplicate fields stay visible.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    pub bytes: &'a [u8],
    pub fields: Vec<Field<'a>>,
    /// Offset of the body: after the empty line, or the end when there is none.
    pub body: usize,
    /// Offset of the first line of the header section that is no header field: some readers take the
    /// body to start there (RFC 7103 section 7.2).
    pub stray: Option<usize>,
}

impl<'a> Message<'a> {
    /// Reads the header section. Never fails: what is no field is remembered as stray.
    pub fn read(bytes: &'a [u8]) -> Self {
        let mut message = Self { bytes, fields: Vec::new(), body: bytes.len(), stray: None };
        let mut at = 0;
        while at < bytes.len() {
            let (line, next) = line_at(bytes, at);
            if line.is_empty() {
                message.body = next;
                return message;
            }
            let folded = matches!(line[0], b' ' | b'\t');
            match (folded, message.fields.last_mut()) {
                (true, Some(field)) => {
                    field.length = next - field.offset;
                    let start = value_start(field);
                    field.raw = trim_line_end(&bytes[start..next]);
                    // A line of blanks only: folding by the RFC, the end of the header for some readers.
                    if line.iter().all(|b| matches!(b, b' ' | b'\t')) {
                        message.stray.get_or_insert(next);
                    }
                }
                _ => match field_at(bytes, at, line, next) {
                    Some(field) => message.fields.push(field),
                    None => {
                        message.stray.get_or_insert(at);
                    }
                },
            }
            at = next;
        }
        message
    }

    /// Every field of this name, in order.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Field<'a>> + 's {
        self.fields.iter().filter(move |field| field.is(name))
    }

    /// The header section with its empty line.
    pub fn header_range(&self) -> Range<usize> {
        0..self.body
    }

    /// The texts of the message, in every reading, within `limits`.
    pub fn pieces(&self, limits: Limits) -> Pieces {
        parts::walk(self.bytes, limits)
    }

    /// Addresses of a header field such as From, as far as they can be told.
    pub fn addresses(&self, name: &str) -> Vec<crate::mail::address::Mailbox> {
        let mut found = Vec::new();
        for field in self.all(name) {
            let mut line = field.raw.to_vec();
            line.push(b'\n');
            let value = mail_parser::parsers::MessageStream::new(&line).parse_address();
            let Some(address) = value.as_address() else { continue };
            found.extend(address.iter().filter_map(|one| one.address()).filter_map(|a| a.parse().ok()));
        }
        found
    }
}

/// The line that starts at `at` without its end, and where the next one starts.
fn line_at(bytes: &[u8], at: usize) -> (&[u8], usize) {
    let next = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |lf| at + lf + 1);
    (trim_line_end(&bytes[at..next]), next)
}

fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn field_at<'a>(bytes: &'a [u8], at: usize, line: &'a [u8], next: usize) -> Option<Field<'a>> {
    let colon = memchr::memchr(b':', line)?;
    // "Subject : x" is obsolete syntax that readers accept (RFC 5322 section 4.5).
    let name = line[..colon].trim_ascii_end();
    let valid = !name.is_empty() && name.iter().all(|b| (33..=126).contains(b));
    let name = std::str::from_utf8(name).ok().filter(|_| valid)?;
    let raw = trim_line_end(&bytes[at + colon + 1..next]);
    Some(Field { name, raw, offset: at, length: next - at })
}

/// Where the value of a field starts in the message.
fn value_start(field: &Field<'_>) -> usize {
    // Blanks may stand between name and colon, so the offset is told by the slices themselves.
    field.offset + (field.raw.as_ptr() as usize - field.name.as_ptr() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_place_and_duplicates_stay_visible() {
        let bytes = b"Subject: one\r\n two\r\nX: y\r\nsubject : three\r\n\r\nbody\r\n";
        let message = Message::read(bytes);
        let decoded: Vec<_> = message.all("Subject").map(Field::decoded).collect();
        assert_eq!(decoded, ["one two", "three"]);
        assert_eq!(&bytes[message.body..], b"body\r\n");
        let first = message.fields[0];
        assert_eq!(&bytes[first.offset..first.offset + first.length], b"Subject: one\r\n two\r\n");
        assert_eq!(message.stray, None);
    }

    #[test]
    fn a_line_that_is_no_field_is_remembered() {
        let message = Message::read(b"From: a@b.c\r\nno field here\r\nTo: d@e.f\r\n\r\nx");
        assert_eq!(message.stray, Some(13));
        assert_eq!(message.fields.len(), 2);
    }

    #[test]
    fn from_addresses_are_found_behind_names_and_comments() {
        let message =
            Message::read("From: \"A, B\" <a@b.example>, =?utf-8?q?C?= <c@d.example>\n\n".as_bytes());
        let found: Vec<_> = message.addresses("from").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["a@b.example", "c@d.example"]);
    }
}
