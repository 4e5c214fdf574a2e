//! Reads a segment from front to end, as start-up and the sweeper do, and tells records from what
//! is none. Judges nothing else.

use std::io;
use std::sync::Arc;

use super::record::{ALIGN, FATES, GAP, HEADER, Header, MAGIC, MESSAGE, OPENING};
use super::segment::FRONT;
use super::store::File;

/// Bytes read at once.
const WINDOW: usize = 1 << 20;

/// A stretch of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found {
    Record {
        at: u64,
        header: Header,
    },
    /// Bytes that are no record, up to `end`.
    Bad {
        at: u64,
        end: u64,
    },
    /// A record that this program does not know.
    Unknown {
        at: u64,
        kind: u8,
    },
}

/// Walks over a segment's records.
pub(super) struct Scan {
    file: Arc<dyn File>,
    number: u64,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Scan {
    /// Reads up to `end`, or to the end of the file if that comes first.
    pub fn new(file: Arc<dyn File>, number: u64, end: u64) -> io::Result<Scan> {
        let end = end.min(file.len()?);
        Ok(Scan { file, number, at: FRONT, end, window: Vec::new(), window_at: 0 })
    }

    /// The next stretch and, of a record, its bytes.
    pub fn next(&mut self) -> io::Result<Option<(Found, &[u8])>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let at = self.at;
        if let Some(header) = self.record(at)? {
            let len = header.len();
            self.at = at + len;
            if !matches!(header.kind, OPENING | MESSAGE | FATES | GAP) {
                return Ok(Some((Found::Unknown { at, kind: header.kind }, &[])));
            }
            return Ok(Some((Found::Record { at, header }, self.bytes(at, len as usize)?)));
        }
        let mut end = at + ALIGN;
        while end < self.end && self.record(end)?.is_none() {
            end = self.skip(end + ALIGN)?;
        }
        self.at = end.min(self.end);
        Ok(Some((Found::Bad { at, end: self.at }, &[])))
    }

    /// The whole and sound record at this place.
    fn record(&mut self, at: u64) -> io::Result<Option<Header>> {
        let number = self.number;
        let Some(header) = Header::read(self.bytes(at, HEADER)?, (number, at)) else { return Ok(None) };
        if header.len() > self.end - at {
            return Ok(None);
        }
        let sound = header.verify(self.bytes(at, header.len() as usize)?);
        Ok(sound.then_some(header))
    }

    /// The first place from here on, within what is in memory, where a record could begin.
    fn skip(&mut self, from: u64) -> io::Result<u64> {
        let bytes = self.bytes(from, HEADER)?;
        if bytes.is_empty() {
            return Ok(from);
        }
        let start = (from - self.window_at) as usize;
        let rest = &self.window[start..];
        let step = ALIGN as usize;
        let found = rest.chunks(step).position(|chunk| chunk.starts_with(&MAGIC));
        Ok(from + found.map_or(rest.len().next_multiple_of(step), |chunks| chunks * step) as u64)
    }

    /// Bytes of the segment; fewer at its end.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let len = len.min(self.end.saturating_sub(at) as usize);
        let inside = at >= self.window_at && at + len as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let wanted = len.max(WINDOW).min(self.end.saturating_sub(at) as usize);
            self.window.resize(wanted, 0);
            let read = self.file.read_at(&mut self.window, at)?;
            self.window.truncate(read);
            self.window_at = at;
        }
        let start = (at - self.window_at) as usize;
        let end = (start + len).min(self.window.len());
        Ok(&self.window[start.min(end)..end])
    }
}
