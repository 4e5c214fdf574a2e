//! Is the chain whole? Line by line, from files or from what a controller sends, in one pass and without keeping
//! anything but the last link.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use blake3::Hash;
use jiff::Timestamp;
use serde::Serialize;

use super::chain::{self, Link};
use super::{Event, log};

/// A place where the chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Break {
    pub file: String,
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// What a look at the whole log found.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    pub files: usize,
    pub records: u64,
    /// Number and time of the first record that is there.
    pub first: Option<(u64, Timestamp)>,
    pub last: Option<(u64, Timestamp)>,
    /// `SEQ:HASH` of the end.
    pub head: Option<String>,
    /// Records before this one were removed by retention, as a record of the chain says.
    pub expired_through: Option<u64>,
    pub breaks: Vec<Break>,
}

impl Report {
    pub fn is_whole(&self) -> bool {
        self.breaks.is_empty()
    }
}

/// Breaks that are listed; a log of which more is wrong is no log.
const MOST: usize = 100;

/// Takes the lines of a log in their order.
#[derive(Default)]
pub struct Verifier {
    report: Report,
    file: String,
    line: usize,
    /// The line before, when it is known.
    last: Option<Link>,
    /// The chain begins later than at its start: with this number, behind this hash. Where, to be told.
    begins: Option<(u64, Hash, Break)>,
    expired: Vec<(u64, String)>,
    /// The end that is known from elsewhere.
    expected: Option<Link>,
    met: bool,
}

impl Verifier {
    /// `expected`: a head that was noted earlier and must be in the chain.
    pub fn new(expected: Option<Link>) -> Self {
        Self { expected, ..Self::default() }
    }

    pub fn file(&mut self, name: &str) {
        name.clone_into(&mut self.file);
        self.line = 0;
        self.report.files += 1;
    }

    /// One line, without its line end.
    pub fn line(&mut self, line: &[u8]) {
        self.line += 1;
        let sealed = match chain::open(line) {
            Ok(sealed) => sealed,
            Err(flaw) => {
                self.broken(flaw.to_string());
                self.last = None;
                return;
            }
        };
        let chain::Sealed { link, prev, entry } = sealed;
        self.report.records += 1;
        match self.last {
            Some(last) if prev != last.hash || link.seq != last.seq + 1 => {
                self.broken(format!(
                    "record {} does not follow record {}: records were left out, put in or moved",
                    link.seq, last.seq
                ));
            }
            None if self.report.first.is_none()
                && self.report.breaks.is_empty()
                && prev != Link::START.hash =>
            {
                let what = format!(
                    "the log begins with record {}, and no record says that retention removed what was before",
                    link.seq
                );
                self.begins =
                    Some((link.seq, prev, Break { file: self.file.clone(), line: self.line, what }));
            }
            _ => {}
        }
        if entry.event == Event::Expired {
            let through = entry.detail.get("through").and_then(serde_json::Value::as_u64);
            let hash = entry.detail.get("hash").and_then(|hash| hash.as_str());
            self.expired.extend(through.zip(hash.map(str::to_owned)));
        }
        self.met |= self.expected == Some(link);
        self.last = Some(link);
        self.report.first.get_or_insert((link.seq, entry.at));
        self.report.last = Some((link.seq, entry.at));
        self.report.head = Some(link.to_string());
    }

    /// The file ends in the middle of a line.
    pub fn torn(&mut self, octets: usize) {
        self.line += 1;
        self.broken(format!(
            "{octets} octets of a line that does not end: a crash while writing (the next start of the writer \
             repairs it), or something was cut off"
        ));
    }

    fn broken(&mut self, what: String) {
        if self.report.breaks.len() < MOST {
            self.report.breaks.push(Break { file: self.file.clone(), line: self.line, what });
        }
    }

    pub fn finish(mut self) -> Report {
        if let Some((seq, prev, place)) = self.begins.take() {
            let prev = prev.to_string();
            match self.expired.iter().find(|(through, hash)| through + 1 == seq && *hash == prev) {
                Some((through, _)) => self.report.expired_through = Some(*through),
                None => self.report.breaks.insert(0, place),
            }
        }
        if let Some(expected) = self.expected.filter(|_| !self.met) {
            self.broken(format!(
                "record {} with that hash is not in the log: its end was cut off",
                expected.seq
            ));
        }
        self.report
    }
}

/// The log of a folder.
pub fn folder(folder: &Path, expected: Option<Link>) -> io::Result<Report> {
    let mut verifier = Verifier::new(expected);
    let mut line = Vec::new();
    for path in log::segments(folder)? {
        verifier.file(&path.display().to_string());
        let mut reader = BufReader::new(File::open(&path)?);
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            match line.pop() {
                Some(b'\n') => verifier.line(&line),
                Some(_) | None => verifier.torn(line.len() + 1),
            }
        }
    }
    Ok(verifier.finish())
}
