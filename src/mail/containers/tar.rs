//! The files of a tar: places in it, since nothing there is packed.

use super::archive::Member;
use super::budget::Packing;
use super::{Budget, DAMAGED, Why};
use crate::mail::message::guess_charset;

/// The files of a tar, and whether its end is damaged.
pub fn members(content: &[u8], budget: &Budget) -> Result<(Vec<Member>, Option<Why>), Why> {
    let mut archive = tar::Archive::new(content);
    // Blocks of zeros end the archive for some programs and not for others.
    archive.set_ignore_zeros(true);
    let mut members = Vec::new();
    for entry in archive.entries().map_err(|_| DAMAGED)? {
        let Ok(entry) = entry else {
            return if members.is_empty() { Err(DAMAGED) } else { Ok((members, Some(DAMAGED))) };
        };
        if !budget.entry() {
            break;
        }
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let start = usize::try_from(entry.raw_file_position()).unwrap_or(usize::MAX).min(content.len());
        let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
        let end = start.saturating_add(size).min(content.len());
        members.push(Member {
            name: guess_charset(&entry.path_bytes()),
            range: start..end,
            packing: Packing::Stored,
            encrypted: false,
            maybe_encrypted: false,
            size: (end - start) as u64,
        });
    }
    Ok((members, None))
}
