//! winmail.dat (MS-OXTNEF): what Outlook sends instead of MIME. Attachments with their names, and the
//! body as text, HTML or packed RTF.

use super::document::Document;
use super::{Budget, Extract, rtf};
use crate::mail::message::guess_charset;

#[derive(Debug, Default)]
pub struct Tnef {
    pub texts: Vec<Extract>,
    pub files: Vec<(String, Vec<u8>)>,
    pub damaged: bool,
}

const SUBJECT: u32 = 0x8004;
const BODY: u32 = 0x800c;
const ATTACH_DATA: u32 = 0x800f;
const ATTACH_TITLE: u32 = 0x8010;
const ATTACH_BEGIN: u32 = 0x9002;
const MAPI: u32 = 0x9003;
const ATTACH_MAPI: u32 = 0x9005;

pub fn open(content: &[u8], budget: &Budget) -> Tnef {
    let mut tnef = Tnef::default();
    let mut rest = content.get(6..).unwrap_or_default();
    let mut current: Option<(String, Vec<u8>)> = None;
    while !rest.is_empty() {
        let Some((id, data, after)) = attribute(rest) else {
            tnef.damaged = true;
            break;
        };
        rest = after;
        match id {
            SUBJECT | BODY => tnef.text(guess_charset(data), budget),
            ATTACH_BEGIN => tnef.files.extend(current.replace((String::new(), Vec::new()))),
            ATTACH_TITLE | ATTACH_DATA | ATTACH_MAPI => {
                let file = current.get_or_insert_default();
                match id {
                    ATTACH_TITLE => {
                        if file.0.is_empty() {
                            file.0 = guess_charset(data).trim_end_matches('\0').to_owned();
                        }
                    }
                    ATTACH_DATA if budget.unpacked(data.len()) => file.1 = data.to_vec(),
                    ATTACH_DATA => {}
                    _ => properties(data, |id, data| match id {
                        // The long name, then an object inside: a message or an OLE file.
                        0x3707 => file.0 = text_of(data),
                        0x3701 if file.1.is_empty() && budget.unpacked(data.len()) => {
                            // An interface id stands before what it is.
                            file.1 = data.get(16..).unwrap_or(data).to_vec();
                        }
                        _ => {}
                    }),
                }
            }
            MAPI => properties(data, |id, data| match id {
                0x0037 | 0x1000 => tnef.text(text_of(data), budget),
                0x1009 => {
                    if let Some(unpacked) = unpack_rtf(data, budget) {
                        let Document { texts, files, .. } = rtf::read(&unpacked, budget);
                        tnef.texts.extend(texts);
                        tnef.files.extend(files);
                    }
                }
                0x1013 if budget.unpacked(data.len()) => tnef.files.push(("body.html".into(), data.to_vec())),
                _ => {}
            }),
            _ => {}
        }
    }
    tnef.files.extend(current);
    tnef.files.retain(|(_, content)| !content.is_empty());
    for (at, (name, _)) in tnef.files.iter_mut().enumerate() {
        if name.is_empty() {
            *name = format!("attachment{}", at + 1);
        }
    }
    tnef
}

impl Tnef {
    fn text(&mut self, text: String, budget: &Budget) {
        let text = text.trim_end_matches('\0').to_owned();
        if !text.is_empty() && budget.text(text.len()) {
            self.texts.push(Extract { text, hidden: Vec::new() });
        }
    }
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |sum, &b| sum << 8 | usize::from(b)))
}

/// Level, id, length, data, checksum.
fn attribute(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let id = number(bytes, 1, 4)? as u32 & 0xffff;
    let length = number(bytes, 5, 4)?;
    let end = 9usize.checked_add(length)?;
    let data = bytes.get(9..end)?;
    Some((id, data, bytes.get(end + 2..).unwrap_or_default()))
}

/// Properties of MAPI: id and octets of each value. Ends where it cannot be read on.
fn properties(bytes: &[u8], mut with: impl FnMut(usize, &[u8])) {
    let mut walk = || -> Option<()> {
        let count = number(bytes, 0, 4)?;
        let mut at = 4;
        for _ in 0..count.min(bytes.len()) {
            let (kind, id) = (number(bytes, at, 2)?, number(bytes, at + 2, 2)?);
            at += 4;
            if id >= 0x8000 {
                // A named property: its set, then a number or a name.
                let named = number(bytes, at + 16, 4)?;
                at += 20;
                at += match named {
                    0 => 4,
                    _ => 4 + padded(number(bytes, at, 4)?),
                };
            }
            let (single, many) = (kind & 0xfff, kind & 0x1000 != 0);
            let fixed = match single {
                0x02 | 0x03 | 0x04 | 0x0a | 0x0b => Some(4),
                0x05 | 0x06 | 0x07 | 0x14 | 0x40 => Some(8),
                0x48 => Some(16),
                _ => None,
            };
            let values = match (fixed, many) {
                (Some(_), false) => 1,
                _ => {
                    at += 4;
                    number(bytes, at - 4, 4)?
                }
            };
            for _ in 0..values.min(bytes.len()) {
                let length = match fixed {
                    Some(length) => length,
                    None => {
                        at += 4;
                        number(bytes, at - 4, 4)?
                    }
                };
                let value = bytes.get(at..at.checked_add(length)?)?;
                let text = if single == 0x1f { utf16(value).into_bytes() } else { Vec::new() };
                with(id, if single == 0x1f { &text } else { value });
                at = at.checked_add(padded(length))?;
            }
        }
        Some(())
    };
    walk();
}

fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn utf16(bytes: &[u8]) -> String {
    encoding_rs::UTF_16LE.decode_without_bom_handling(bytes).0.into_owned()
}

fn text_of(bytes: &[u8]) -> String {
    guess_charset(bytes).trim_end_matches('\0').to_owned()
}

/// What the dictionary of packed RTF holds before the first octet (MS-OXRTFCP section 2.1.3.1.5).
const DICTIONARY: &[u8] = b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \
\\fmodern \\fscript \\fdecor MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0\\blue0\r\n\
\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx";

fn unpack_rtf(packed: &[u8], budget: &Budget) -> Option<Vec<u8>> {
    let body = packed.get(16..)?;
    if packed.get(8..12)? == b"MELA" {
        return budget.unpacked(body.len()).then(|| body.to_vec());
    }
    let mut dictionary = [0u8; 4096];
    dictionary[..DICTIONARY.len()].copy_from_slice(DICTIONARY);
    let mut write = DICTIONARY.len();
    let mut out = Vec::new();
    let mut bytes = body.iter().copied();
    'all: while let Some(control) = bytes.next() {
        for bit in 0..8 {
            if control >> bit & 1 == 0 {
                let Some(byte) = bytes.next() else { break 'all };
                out.push(byte);
                dictionary[write] = byte;
                write = (write + 1) % 4096;
                continue;
            }
            let (Some(high), Some(low)) = (bytes.next(), bytes.next()) else { break 'all };
            let reference = usize::from(high) << 8 | usize::from(low);
            let (from, length) = (reference >> 4, (reference & 15) + 2);
            if from == write {
                break 'all;
            }
            for step in 0..length {
                let byte = dictionary[(from + step) % 4096];
                out.push(byte);
                dictionary[write] = byte;
                write = (write + 1) % 4096;
            }
        }
    }
    budget.unpacked(out.len()).then_some(out)
}
