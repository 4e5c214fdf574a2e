//! A line and its place in the chain. Every octet of a line is covered: the frame is fixed, the hash is that of
//! all that follows it, and what follows names the hash of the line before. Pure.
//!
//! ```text
//! {"hash":"<64 hex digits>","prev":"<64 hex digits>","seq":17,"at":…}
//!          blake3 of         ^^^^^^ from here to the closing brace
//! ```

use blake3::Hash;
use serde::{Deserialize, Serialize};

use super::Entry;

const OPENING: &[u8] = b"{\"hash\":\"";
const AFTER_HASH: &[u8] = b"\",";
const HEX: usize = 64;
/// Where the text begins that the hash is of.
const BODY: usize = OPENING.len() + HEX + AFTER_HASH.len();

/// The end of a chain: what the next line refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub seq: u64,
    pub hash: Hash,
}

impl Link {
    /// Before the first line.
    pub const START: Link = Link { seq: 0, hash: Hash::from_bytes([0; 32]) };
}

impl std::fmt::Display for Link {
    /// As `verify --head` takes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash)
    }
}

impl std::str::FromStr for Link {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected SEQ:HASH, as `postern audit verify` prints it";
        let (seq, hash) = text.split_once(':').ok_or(FORM)?;
        Ok(Link { seq: seq.parse().map_err(|_| FORM)?, hash: Hash::from_hex(hash).map_err(|_| FORM)? })
    }
}

/// A line that is what it says it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Sealed {
    pub link: Link,
    /// Hash of the line before.
    pub prev: Hash,
    pub entry: Entry,
}

/// What is wrong with a line by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("it is no line of an audit log")]
    Form,
    #[error("its content is not what its hash says: it was changed")]
    Changed,
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

#[derive(Serialize, Deserialize)]
struct Body {
    prev: String,
    seq: u64,
    #[serde(flatten)]
    entry: Entry,
}

/// The next line, without its line end.
pub fn seal(last: Link, entry: Entry) -> (String, Link) {
    let seq = last.seq + 1;
    let body = Body { prev: last.hash.to_string(), seq, entry };
    let text = serde_json::to_string(&body).expect("an entry has string keys only");
    let rest = &text[1..];
    let hash = blake3::hash(rest.as_bytes());
    (format!("{{\"hash\":\"{hash}\",{rest}"), Link { seq, hash })
}

/// Reads a line, without its line end.
pub fn open(line: &[u8]) -> Result<Sealed, Flaw> {
    if line.len() <= BODY || !line.starts_with(OPENING) || line[BODY - AFTER_HASH.len()..BODY] != *AFTER_HASH
    {
        return Err(Flaw::Form);
    }
    let (said, rest) = (&line[OPENING.len()..OPENING.len() + HEX], &line[BODY..]);
    let hash = blake3::hash(rest);
    // As text: the same number in other letters is another line.
    if hash.to_hex().as_bytes() != said {
        return Err(Flaw::Changed);
    }
    let whole = [b"{", rest].concat();
    let unreadable = |error: &dyn std::fmt::Display| Flaw::Unreadable(error.to_string());
    let Body { prev, seq, entry } = serde_json::from_slice(&whole).map_err(|error| unreadable(&error))?;
    let prev = Hash::from_hex(&prev).map_err(|error| unreadable(&error))?;
    Ok(Sealed { link: Link { seq, hash }, prev, entry })
}
