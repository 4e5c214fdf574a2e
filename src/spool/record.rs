//! One record on disk: its bytes and back. The unit of atomicity is a batch: records that follow
//! each other and say which part of how many they are; a batch counts only when all are there.
//!
//! ```text
//! magic  kind  0  part  parts  0  meta length  content length  crc  home  synced  check  meta  content  end  0…
//!   4     1    1   2      2    2       4             4          4     8      8      4      n      m      4   to 8
//! ```
//! Little endian. `crc` covers meta and content. `check` covers the header, the segment's number and
//! the record's place in it, so neither stale nor misplaced bytes pass for a record.

use std::io::IoSlice;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::content::Content;
use super::entry::{Entry, Fate};
use super::id::QueueId;

pub(super) const MAGIC: [u8; 4] = *b"PREC";
const END: [u8; 4] = *b"PEND";
/// Bytes before the meta data.
pub(super) const HEADER: usize = 44;
/// Records begin at multiples of this, which makes the search for one after damage short.
pub(super) const ALIGN: u64 = 8;
const TRAILER: [u8; 12] = [b'P', b'E', b'N', b'D', 0, 0, 0, 0, 0, 0, 0, 0];

/// The first record of a segment.
pub(super) const OPENING: u8 = 1;
/// A message: [`Head`], then its [`Entry`], then its content unless a content file has it.
pub(super) const MESSAGE: u8 = 2;
/// News of a message that lies elsewhere.
pub(super) const FATES: u8 = 3;

/// Room between records that start-up found unusable and closed.
pub(super) const GAP: u8 = 4;

/// Meta data of [`OPENING`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Opening {
    /// Earlier segments and where they end: all before was durable, all behind is void.
    pub ends: Vec<(u64, u64)>,
}

/// What the index needs of a [`MESSAGE`], in front of the entry so that start-up reads no further.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    pub id: QueueId,
    #[serde(with = "jiff::fmt::serde::timestamp::nanosecond::required")]
    pub received_at: Timestamp,
    pub targets: u32,
    pub body: Option<BodyRef>,
    /// How the recipients stood when the record was written; None when all were due at once.
    pub fates: Option<Vec<Fate>>,
}

/// The file that has a large content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BodyRef {
    pub file: QueueId,
    pub len: u64,
    pub crc: u32,
}

impl BodyRef {
    pub fn name(&self) -> String {
        body_name(self.file)
    }
}

pub(super) fn body_name(file: QueueId) -> String {
    format!("{file}.body")
}

/// Meta data of [`FATES`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct News {
    pub id: QueueId,
    pub fates: Vec<(u32, Fate)>,
}

/// A record ready to be written, but for its place.
#[derive(Debug)]
pub(super) struct Record {
    /// Header and meta data.
    front: Vec<u8>,
    content: Option<Content>,
    /// The message whose earlier record this one replaces or continues.
    about: Option<QueueId>,
}

impl Record {
    pub fn opening(ends: Vec<(u64, u64)>) -> Record {
        Record::new(OPENING, None, |meta| append(meta, &Opening { ends }))
    }

    pub fn message(head: &Head, entry: &Entry, content: Option<Content>) -> Record {
        Record::new(MESSAGE, content, |meta| append(append(meta, head), entry))
    }

    /// A message that moves: its entry stays as it was encoded.
    pub fn moved(head: &Head, entry: &[u8], content: Option<Content>) -> Record {
        let record = Record::new(MESSAGE, content, |meta| {
            let mut meta = append(meta, head);
            meta.extend_from_slice(entry);
            meta
        });
        Record { about: Some(head.id), ..record }
    }

    pub fn news(news: &News) -> Record {
        Record { about: Some(news.id), ..Record::new(FATES, None, |meta| append(meta, news)) }
    }

    pub fn about(&self) -> Option<QueueId> {
        self.about
    }

    /// Fills `len` bytes, which is the length of one or more records.
    pub fn gap(len: u64) -> Record {
        let around = (HEADER + END.len()) as u64;
        let zeros = usize::try_from(len - around).expect("it lies within a segment");
        Record::new(GAP, Some(Content::from(vec![0; zeros])), |meta| meta)
    }

    fn new(kind: u8, content: Option<Content>, meta: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Record {
        let mut front = Vec::with_capacity(512);
        front.resize(HEADER, 0);
        let mut front = meta(front);
        let body = content.as_ref().map_or(&[][..], Content::bytes);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&front[HEADER..]);
        crc.update(body);
        let meta_len = length(front.len() - HEADER);
        let body_len = length(body.len());
        front[0..4].copy_from_slice(&MAGIC);
        front[4] = kind;
        front[12..16].copy_from_slice(&meta_len.to_le_bytes());
        front[16..20].copy_from_slice(&body_len.to_le_bytes());
        front[20..24].copy_from_slice(&crc.finalize().to_le_bytes());
        Record { front, content, about: None }
    }

    pub fn len(&self) -> u64 {
        padded(self.front.len() + self.body().len())
    }

    /// Says where the record goes. `home`: the segment of the message that a [`FATES`] is about, or
    /// that a moved message leaves; else 0. `synced`: before this offset all of the segment was
    /// durable when the record was written.
    pub fn place(&mut self, at: (u64, u64), part: (u16, u16), home: u64, synced: u64) {
        let front = &mut self.front;
        front[6..8].copy_from_slice(&part.0.to_le_bytes());
        front[8..10].copy_from_slice(&part.1.to_le_bytes());
        front[24..32].copy_from_slice(&home.to_le_bytes());
        front[32..40].copy_from_slice(&synced.to_le_bytes());
        let check = check(&front[..40], at);
        front[40..44].copy_from_slice(&check.to_le_bytes());
    }

    /// The bytes, after [`Record::place`].
    pub fn pieces(&self) -> [IoSlice<'_>; 3] {
        let written = self.front.len() + self.body().len();
        let trailer = usize::try_from(self.len()).expect("it was made of usizes") - written;
        [IoSlice::new(&self.front), IoSlice::new(self.body()), IoSlice::new(&TRAILER[..trailer])]
    }

    fn body(&self) -> &[u8] {
        self.content.as_ref().map_or(&[], Content::bytes)
    }
}

fn append<T: Serialize>(to: Vec<u8>, value: &T) -> Vec<u8> {
    postcard::to_extend(value, to).expect("memory takes all and the types have no unknown lengths")
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("messages are limited far below 4 GiB")
}

/// Length of a record whose header, meta data and content are this long.
fn padded(bytes: usize) -> u64 {
    (bytes as u64 + END.len() as u64).next_multiple_of(ALIGN)
}

fn check(header: &[u8], at: (u64, u64)) -> u32 {
    let mut check = crc32fast::Hasher::new();
    check.update(header);
    check.update(&at.0.to_le_bytes());
    check.update(&at.1.to_le_bytes());
    check.finalize()
}

/// What stands in front of a record found on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: u8,
    pub part: u16,
    pub parts: u16,
    pub meta_len: u32,
    pub body_len: u32,
    crc: u32,
    pub home: u64,
    pub synced: u64,
}

impl Header {
    /// None: no record begins at this place.
    pub fn read(bytes: &[u8], at: (u64, u64)) -> Option<Header> {
        let bytes: &[u8; HEADER] = bytes.first_chunk()?;
        if bytes[..4] != MAGIC {
            return None;
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(40) != check(&bytes[..40], at) {
            return None;
        }
        Some(Header {
            kind: bytes[4],
            part: u16_at(6),
            parts: u16_at(8),
            meta_len: u32_at(12),
            body_len: u32_at(16),
            crc: u32_at(20),
            home: u64_at(24),
            synced: u64_at(32),
        })
    }

    pub fn len(&self) -> u64 {
        padded(HEADER + self.meta_len as usize + self.body_len as usize)
    }

    /// Whether the whole record is as it was written.
    pub fn verify(&self, record: &[u8]) -> bool {
        let end = HEADER + self.meta_len as usize + self.body_len as usize;
        record.get(end..end + END.len()) == Some(&END[..])
            && crc32fast::hash(&record[HEADER..end]) == self.crc
    }

    /// The meta data in a whole record.
    pub fn meta<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        &record[HEADER..HEADER + self.meta_len as usize]
    }

    /// Where the content is in a whole record.
    pub fn body(&self) -> std::ops::Range<usize> {
        let start = HEADER + self.meta_len as usize;
        start..start + self.body_len as usize
    }
}

/// Decodes what `meta` begins with; returns the rest too.
pub(super) fn decode<T: DeserializeOwned>(meta: &[u8]) -> Option<(T, &[u8])> {
    postcard::take_from_bytes(meta).ok()
}
