//! The files of a zip as any program would find them: those in its directory, and those that only have
//! a header of their own.
//!
//! Programs differ in which they believe: of two archives one behind the other some show the first and
//! some the last, some go by the directory and some by the headers. That is a well-known way past
//! scanners, so the structure is read here and not by a library that settles for one answer.

use memchr::memmem;

use super::archive::Member;
use super::budget::Packing;
use super::{Budget, Why};
use crate::mail::message::zip_name;

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const DESCRIPTOR: &[u8] = b"PK\x07\x08";

const NO_FILES: Why = "damaged";

/// The files of a zip; an error if there are none to be found.
pub fn members(content: &[u8], budget: &Budget) -> Result<Vec<Member>, Why> {
    let mut members = directory(content, budget);
    let mut covered: Vec<(usize, usize)> =
        members.iter().map(|(local, member)| (*local, member.range.end)).collect();
    covered.sort_unstable();
    let mut covered = covered.into_iter().peekable();
    let mut reach = 0;
    let mut free = Vec::new();
    for at in memmem::find_iter(content, LOCAL) {
        while let Some((start, end)) = covered.next_if(|(start, _)| *start <= at) {
            // A stored archive inside brings headers of its own; those are its affair.
            reach = reach.max(if start == at { at + 1 } else { end });
            if start == at {
                reach = reach.max(end);
            }
        }
        if at < reach {
            continue;
        }
        let Some(member) = local(content, at, None) else { continue };
        if !budget.entry() {
            break;
        }
        reach = if member.packing == Packing::Stored { member.range.end } else { at + 4 };
        free.push((at, member));
    }
    members.extend(free);
    members.sort_by_key(|(at, _)| *at);
    if members.is_empty() {
        // An archive without files is no damage.
        return if content.starts_with(END) { Ok(Vec::new()) } else { Err(NO_FILES) };
    }
    Ok(members.into_iter().map(|(_, member)| member).collect())
}

fn number(content: &[u8], at: usize, size: usize) -> Option<usize> {
    let bytes = content.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |sum, &b| sum << 8 | usize::from(b)))
}

/// What the directory says of a file.
struct Said {
    name: String,
    flags: usize,
    method: usize,
    packed: Option<usize>,
    size: u64,
}

/// Files named by a directory, with the place of their headers.
fn directory(content: &[u8], budget: &Budget) -> Vec<(usize, Member)> {
    let mut members = Vec::new();
    let tail = content.len().saturating_sub(22 + 0xffff);
    let Some(end) = memmem::rfind(&content[tail..], END).map(|at| tail + at) else { return members };
    let (Some(size), Some(offset)) = (number(content, end + 12, 4), number(content, end + 16, 4)) else {
        return members;
    };
    // Something may stand before the archive: then all offsets are short by its length.
    let starts = [end.checked_sub(size), Some(offset)];
    let is_start = |at: &usize| content.get(*at..).is_some_and(|rest| rest.starts_with(CENTRAL));
    let Some(mut at) = starts.into_iter().flatten().find(is_start) else { return members };
    let shift = at.saturating_sub(offset);
    while content.get(at..).is_some_and(|rest| rest.starts_with(CENTRAL)) {
        let lengths = (number(content, at + 28, 2), number(content, at + 30, 2), number(content, at + 32, 2));
        let (Some(name), Some(extra), Some(comment)) = lengths else { break };
        let Some(text) = content.get(at + 46..at + 46 + name) else { break };
        let field = |offset, size| number(content, at + offset, size).unwrap_or(0);
        let packed = Some(field(20, 4)).filter(|size| *size != 0xffff_ffff);
        let said = Said {
            name: zip_name(text),
            flags: field(8, 2),
            method: field(10, 2),
            packed,
            size: field(24, 4) as u64,
        };
        let header = field(42, 4);
        let place = [header + shift, header]
            .into_iter()
            .find(|at| content.get(*at..).is_some_and(|c| c.starts_with(LOCAL)));
        at += 46 + name + extra + comment;
        if !budget.entry() {
            break;
        }
        // A file with no header where the directory says so is found by its header, or not at all.
        if let Some(place) = place
            && let Some(member) = local(content, place, Some(said))
        {
            members.push((place, member));
        }
    }
    members
}

/// The file whose header stands at `at`.
fn local(content: &[u8], at: usize, said: Option<Said>) -> Option<Member> {
    let field = |offset, size| number(content, at + offset, size);
    let (flags, method) = (field(6, 2)?, field(8, 2)?);
    let (name, extra) = (field(26, 2)?, field(28, 2)?);
    let text = content.get(at + 30..at + 30 + name)?;
    let start = at + 30 + name + extra;
    if start > content.len() || (said.is_none() && (name == 0 || method > 99)) {
        return None;
    }
    let own_size = Some(field(18, 4)?).filter(|size| *size != 0xffff_ffff && (flags & 8 == 0 || *size != 0));
    let packed = said.as_ref().and_then(|said| said.packed).or(own_size);
    let end = match packed {
        Some(packed) => start.saturating_add(packed).min(content.len()),
        // Deflate ends by itself; a stored file of unknown length ends where the next thing begins.
        None if method == 0 => [DESCRIPTOR, CENTRAL, LOCAL]
            .iter()
            .filter_map(|mark| memmem::find(&content[start..], mark))
            .min()
            .map_or(content.len(), |length| start + length),
        None => content.len(),
    };
    let packing = |method| match method {
        0 => Packing::Stored,
        8 => Packing::Deflate,
        _ => Packing::Unknown,
    };
    let (said_flags, said_method) = said.as_ref().map_or((flags, method), |said| (said.flags, said.method));
    let mut packing = packing(said_method);
    if packing == Packing::Unknown && method == 8 {
        packing = Packing::Deflate;
    }
    let declared = said.as_ref().map_or(field(22, 4)? as u64, |said| said.size);
    let local_name = zip_name(text);
    let name = said.map_or(local_name, |said| said.name);
    Some(Member {
        name,
        range: start..end,
        packing,
        // Bit 0: encrypted, bit 6: strongly, bit 13: the directory too. Programs that ignore the bit
        // read the file when it is not, so it is encrypted only when both places say so.
        encrypted: flags & said_flags & 0x41 != 0 || said_method == 99,
        maybe_encrypted: (flags | said_flags) & 0x41 != 0,
        size: declared,
    })
}
