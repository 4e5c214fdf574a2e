//! XML of office documents as a stream of what matters: nothing is kept but the event at hand, and
//! entities are never expanded beyond the five of XML itself.

use std::io::{BufRead, Cursor};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::archive::Member;
use super::budget::{Packing, Unpacked};
use super::{Budget, DAMAGED, Why};

pub enum Node<'a> {
    /// Local name and the element with its attributes; `true` if it has no content.
    Open(&'a str, &'a BytesStart<'a>, bool),
    Close(&'a str),
    Text(&'a str),
}

/// Hands every node of a part to `with`. What stands before the damage is handed over all the same.
pub fn each(archive: &[u8], member: &Member, budget: &Budget, with: impl FnMut(Node<'_>)) -> Result<(), Why> {
    let packed = &archive[member.range.clone()];
    if member.encrypted {
        return Err(super::ENCRYPTED);
    }
    let stream = |packing| Unpacked::new(packed, packing, budget).ok_or(super::METHOD);
    let mut reader = stream(member.packing)?.buffered();
    let head = reader.fill_buf().map_err(|_| budget.stopped().unwrap_or(DAMAGED))?;
    if let Some((encoding, _)) =
        encoding_rs::Encoding::for_bom(head).filter(|(e, _)| *e != encoding_rs::UTF_8)
    {
        drop(reader);
        let (bytes, damaged) = super::budget::unpack(packed, member.packing, budget);
        let text = encoding.decode(&bytes).0.into_owned();
        return run(Cursor::new(text.into_bytes()), budget, with).and(if damaged {
            Err(DAMAGED)
        } else {
            Ok(())
        });
    }
    let _ = Packing::Stored;
    run(reader, budget, with)
}

fn run(source: impl BufRead, budget: &Budget, mut with: impl FnMut(Node<'_>)) -> Result<(), Why> {
    let mut reader = Reader::from_reader(source);
    let config = reader.config_mut();
    config.check_end_names = false;
    config.allow_unmatched_ends = true;
    config.allow_dangling_amp = true;
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let event = reader.read_event_into(&mut buffer).map_err(|_| budget.stopped().unwrap_or(DAMAGED))?;
        match &event {
            Event::Start(tag) => with(Node::Open(local(tag.name().as_ref()), tag, false)),
            Event::Empty(tag) => with(Node::Open(local(tag.name().as_ref()), tag, true)),
            Event::End(tag) => with(Node::Close(local(tag.name().as_ref()))),
            Event::Text(text) => with(Node::Text(text)),
            Event::CData(text) => with(Node::Text(text)),
            Event::GeneralRef(name) => {
                let resolved = match &**name {
                    "lt" => Some('<'),
                    "gt" => Some('>'),
                    "amp" => Some('&'),
                    "quot" => Some('"'),
                    "apos" => Some('\''),
                    _ => name.resolve_char_ref().ok().flatten(),
                };
                if let Some(c) = resolved {
                    with(Node::Text(c.encode_utf8(&mut [0; 4])));
                }
            }
            Event::Eof => return Ok(()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}

fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

/// The value of an attribute by its local name, references resolved.
pub fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let mut attributes = tag.attributes();
    attributes.with_checks(false);
    let found = attributes.flatten().find(|attribute| local(attribute.key.as_ref()) == name)?;
    let raw: &str = &found.value;
    Some(quick_xml::escape::unescape(raw).map_or_else(|_| raw.to_owned(), |value| value.into_owned()))
}
