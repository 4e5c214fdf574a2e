//! S/MIME as a container (RFC 8551, RFC 5652): what a signature is around is read, what is encrypted is
//! said to be. Signatures are not checked here.
//!
//! Read by hand, because signers stream: indefinite lengths and strings in pieces are the rule, which a
//! reader of DER refuses.

use super::budget::{Packing, unpack};
use super::{Budget, Why};
use crate::mail::message::base64;

#[derive(Debug, PartialEq, Eq)]
pub enum Signed {
    /// The MIME entity inside a signature.
    Content(Vec<u8>),
    /// A signature beside what it signs.
    Detached,
    Compressed(Vec<u8>),
    Enveloped,
    /// Certificates only and the like.
    Other,
    Damaged,
}

const _: Why = super::ENCRYPTED;

const PKCS7: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];
const SMIME_CT: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01];

pub fn open(content: &[u8], budget: &Budget) -> Signed {
    let decoded;
    let mut bytes = content;
    if let Some(armoured) = content.strip_prefix(b"-----BEGIN PKCS7-----".as_slice()) {
        let end = memchr::memmem::find(armoured, b"-----END").unwrap_or(armoured.len());
        decoded = base64(&armoured[..end]);
        bytes = &decoded;
    }
    read(bytes, budget).unwrap_or(Signed::Damaged)
}

fn read(bytes: &[u8], budget: &Budget) -> Option<Signed> {
    let mut at = Cursor { bytes, at: 0 };
    at.enter(0x30)?;
    let kind = at.primitive(0x06)?.to_vec();
    let which = match (kind.strip_prefix(PKCS7), kind.strip_prefix(SMIME_CT)) {
        (Some([2]), _) => 2,
        (Some([3 | 6]), _) | (_, Some([23])) => return Some(Signed::Enveloped),
        (_, Some([9])) => 9,
        _ => return Some(Signed::Other),
    };
    at.enter(0xa0)?;
    at.enter(0x30)?;
    // Version, then the algorithms: a set of digests, or the one of compression.
    at.skip()?;
    at.skip()?;
    at.enter(0x30)?;
    at.primitive(0x06)?;
    if at.enter(0xa0).is_none() {
        return Some(Signed::Detached);
    }
    let content = at.octets(budget)?;
    Some(match which {
        2 if content.is_empty() => Signed::Other,
        2 => Signed::Content(content),
        _ => Signed::Compressed(unpack(&content, Packing::Zlib, budget).0),
    })
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Tag, length unless indefinite, and where the contents start.
    fn header(&self) -> Option<(u8, Option<usize>, usize)> {
        let tag = *self.bytes.get(self.at)?;
        // Tags of several octets do not occur up to where we read.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let first = *self.bytes.get(self.at + 1)?;
        let start = self.at + 2;
        match first {
            0x80 => Some((tag, None, start)),
            0..0x80 => Some((tag, Some(usize::from(first)), start)),
            _ => {
                let count = usize::from(first & 0x7f);
                let digits = self.bytes.get(start..start.checked_add(count)?)?;
                if count > 8 {
                    return None;
                }
                let length = digits.iter().fold(0usize, |sum, &b| sum << 8 | usize::from(b));
                Some((tag, Some(length), start + count))
            }
        }
    }

    fn enter(&mut self, tag: u8) -> Option<()> {
        let (found, _, start) = self.header()?;
        (found == tag).then(|| self.at = start)
    }

    fn primitive(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, length, start) = self.header()?;
        let contents = self.bytes.get(start..start.checked_add(length?)?)?;
        self.at = start + contents.len();
        (found == tag).then_some(contents)
    }

    /// Steps over one value, indefinite ones by counting what they open and close.
    fn skip(&mut self) -> Option<()> {
        let mut open = 0usize;
        loop {
            if self.bytes.get(self.at..self.at + 2)? == [0, 0] && open > 0 {
                self.at += 2;
                open -= 1;
            } else {
                match self.header()? {
                    (_, None, start) => {
                        self.at = start;
                        open += 1;
                    }
                    (_, Some(length), start) => self.at = start.checked_add(length)?,
                }
            }
            if open == 0 {
                return (self.at <= self.bytes.len()).then_some(());
            }
        }
    }

    /// An octet string, in one piece or many. One that ends early gives what there is.
    fn octets(&mut self, budget: &Budget) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let (tag, length, start) = self.header()?;
        if !matches!(tag, 0x04 | 0x24) {
            return None;
        }
        let end = length
            .and_then(|length| start.checked_add(length))
            .unwrap_or(self.bytes.len())
            .min(self.bytes.len());
        if tag == 0x04 {
            let contents = self.bytes.get(start..end)?;
            budget.unpacked(contents.len()).then(|| out.extend_from_slice(contents));
            return Some(out);
        }
        self.at = start;
        while self.at < end {
            match self.header() {
                Some((0x04, Some(length), start)) => {
                    let stop = start.saturating_add(length).min(end);
                    if !budget.unpacked(stop - start.min(stop)) {
                        break;
                    }
                    out.extend_from_slice(self.bytes.get(start..stop).unwrap_or_default());
                    self.at = stop;
                }
                // A string in pieces inside: its pieces come next.
                Some((0x24, _, start)) => self.at = start,
                _ => break,
            }
        }
        Some(out)
    }
}
