//! What may be spent on the attachments of one message: one purse for all levels and readings, so that
//! no nesting and no repetition buys more of it.

use std::cell::Cell;
use std::io::{self, BufReader, Read};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use super::{DAMAGED, Why};

/// Octets that may come out of decoders for each octet of text that may be searched: the markup around
/// a text is several times its size, and pictures beside it are only looked at.
const UNPACKED_PER_TEXT: u64 = 8;
/// A file above this size that grew by more than this factor is a bomb, whatever is left in the purse.
const RATIO: u64 = 400;
const RATIO_FROM: u64 = 4 << 20;

const TEXT: Why = "more text than may be searched";
const UNPACKED: Why = "archives hold more than may be unpacked";
const TOO_DENSE: Why = "an archive unpacks to far more than its size";
const ENTRIES: Why = "too many files inside archives";
const NESTING: Why = "archives inside archives too deep";

/// Shared by everything that reads one message, hence the cells.
#[derive(Debug)]
pub struct Budget {
    text: Cell<u64>,
    unpacked: Cell<u64>,
    entries: Cell<u32>,
    nesting: u32,
    stopped: Cell<Option<Why>>,
}

impl Budget {
    pub fn new(text: u64, entries: u32, nesting: u32) -> Self {
        let unpacked = text.saturating_mul(UNPACKED_PER_TEXT);
        let (text, unpacked, entries) = (Cell::new(text), Cell::new(unpacked), Cell::new(entries));
        Self { text, unpacked, entries, nesting, stopped: Cell::new(None) }
    }

    /// Remembers the first limit that was reached; false for the caller to hand on.
    pub fn stop(&self, why: Why) -> bool {
        if self.stopped.get().is_none() {
            self.stopped.set(Some(why));
        }
        false
    }

    /// The first limit that was reached, in words.
    pub fn stopped(&self) -> Option<Why> {
        self.stopped.get()
    }

    /// Octets of text that may still be searched.
    pub fn text_left(&self) -> usize {
        usize::try_from(self.text.get()).unwrap_or(usize::MAX)
    }

    pub fn unpacked_left(&self) -> usize {
        usize::try_from(self.unpacked.get()).unwrap_or(usize::MAX)
    }

    /// Pays for text to be searched; false when there is not enough left.
    pub fn text(&self, octets: usize) -> bool {
        pay(&self.text, octets) || self.stop(TEXT)
    }

    /// Pays for octets that came out of a decoder.
    pub fn unpacked(&self, octets: usize) -> bool {
        pay(&self.unpacked, octets) || self.stop(UNPACKED)
    }

    /// Pays for one file inside an archive.
    pub fn entry(&self) -> bool {
        match self.entries.get().checked_sub(1) {
            Some(left) => {
                self.entries.set(left);
                true
            }
            None => self.stop(ENTRIES),
        }
    }

    /// Whether archives may be opened at this depth; the attachment itself is at 1.
    pub fn nest(&self, depth: u32) -> bool {
        depth <= self.nesting || self.stop(NESTING)
    }
}

/// What is not enough is spent all the same, so that nothing smaller slips through behind it.
fn pay(purse: &Cell<u64>, octets: usize) -> bool {
    let left = purse.get().checked_sub(octets as u64);
    purse.set(left.unwrap_or(0));
    left.is_some()
}

/// How octets are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Stored,
    Deflate,
    Zlib,
    Gzip,
    Unknown,
}

enum Decoder<'a> {
    Stored(&'a [u8]),
    Deflate(DeflateDecoder<&'a [u8]>),
    Zlib(ZlibDecoder<&'a [u8]>),
    Gzip(Box<MultiGzDecoder<&'a [u8]>>),
}

/// Packed octets as a stream of unpacked ones. An error says that the stream is damaged, or that the
/// budget is spent: then the budget says so too.
pub struct Unpacked<'a, 'b> {
    decoder: Decoder<'a>,
    packed: u64,
    out: u64,
    pub budget: &'b Budget,
}

impl<'a, 'b> Unpacked<'a, 'b> {
    /// `None` for a packing without a decoder.
    pub fn new(packed: &'a [u8], packing: Packing, budget: &'b Budget) -> Option<Self> {
        let decoder = match packing {
            Packing::Stored => Decoder::Stored(packed),
            Packing::Deflate => Decoder::Deflate(DeflateDecoder::new(packed)),
            Packing::Zlib => Decoder::Zlib(ZlibDecoder::new(packed)),
            Packing::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(packed))),
            Packing::Unknown => return None,
        };
        Some(Self { decoder, packed: packed.len() as u64, out: 0, budget })
    }

    /// Adds up to `most` octets to `out`. `Ok(true)` when the stream ended, `Err` when it is damaged or
    /// the budget is spent; what came before is in `out` all the same.
    pub fn read_up_to(&mut self, most: usize, out: &mut Vec<u8>) -> Result<bool, Why> {
        let mut chunk = [0; 16 << 10];
        let mut left = most;
        while left > 0 {
            let wanted = left.min(chunk.len());
            match self.read(&mut chunk[..wanted]) {
                Ok(0) => return Ok(true),
                Ok(count) => {
                    out.extend_from_slice(&chunk[..count]);
                    left -= count;
                }
                Err(_) => return Err(self.budget.stopped().unwrap_or(DAMAGED)),
            }
        }
        Ok(false)
    }

    pub fn buffered(self) -> BufReader<Self> {
        BufReader::with_capacity(16 << 10, self)
    }
}

impl Read for Unpacked<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::Stored(bytes) => bytes.read(into),
            Decoder::Deflate(decoder) => decoder.read(into),
            Decoder::Zlib(decoder) => decoder.read(into),
            Decoder::Gzip(decoder) => decoder.read(into),
        }?;
        self.out += count as u64;
        if self.out > RATIO_FROM && self.out / RATIO > self.packed {
            self.budget.stop(TOO_DENSE);
        } else if self.budget.unpacked(count) {
            return Ok(count);
        }
        Err(io::Error::other("limit"))
    }
}

/// Unpacks all of it: what came out, and whether it is damaged. Less than all when the budget is spent.
pub fn unpack(packed: &[u8], packing: Packing, budget: &Budget) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let Some(mut stream) = Unpacked::new(packed, packing, budget) else { return (out, true) };
    let read = stream.read_up_to(usize::MAX, &mut out);
    (out, read.is_err())
}
