//! The folder of the log: segments `audit-<first number>.jsonl`, one writer, durable on return. What a crash left
//! half written is cut off and said in the chain; what somebody damaged is left as it is, for [`super::verify`] to
//! name, and a new segment goes on from the last whole line.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rustix::fs::FlockOperation;

use super::chain::{self, Link};
use super::{Entry, Event};

const LOCK: &str = "lock";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How the log is cut and how long it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Octets of a segment; a new day (UTC) begins a new one too.
    pub segment: u64,
    /// Segments whose last record is older are removed.
    pub retention: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment: 8 << 20, retention: 400 * DAY }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} is written by another process", .0.display())]
    Locked(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What was found when the log was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opening {
    /// A line that was not written to its end: `file`, octets that were cut off.
    pub repaired: Option<(String, u64)>,
    /// A line that is not what it was: `file: line: what`.
    pub damaged: Option<String>,
}

pub struct Log {
    folder: PathBuf,
    limits: Limits,
    segment: Option<Segment>,
    last: Link,
    /// The end of the last write is not certain.
    unsure: bool,
    /// Held while the log is open.
    _lock: File,
}

struct Segment {
    path: PathBuf,
    file: File,
    written: u64,
    day: Date,
}

/// The segments of a folder, oldest first.
pub fn segments(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("audit-") && name.ends_with(".jsonl") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

impl Log {
    /// Opens the log of a folder, or begins one, and writes that it did.
    pub fn open(
        folder: &Path,
        limits: Limits,
        who: &str,
        now: Timestamp,
    ) -> Result<(Self, Opening), OpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
        let lock = folder.join(LOCK);
        let held = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let held = held.map_err(at(&lock))?;
        match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Locked(folder.to_owned())),
            Err(error) => return Err(OpenError::Io { path: lock, source: error.into() }),
        }
        let (mut opening, mut last, mut tail) = (Opening::default(), None, None);
        for path in segments(folder).map_err(at(folder))?.into_iter().rev() {
            let found = examine(&path).map_err(at(&path))?;
            let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if found.torn > 0 {
                let file = OpenOptions::new().write(true).open(&path).map_err(at(&path))?;
                file.set_len(found.whole).and_then(|()| file.sync_all()).map_err(at(&path))?;
                opening.repaired = Some((name(), found.torn));
            }
            if let Some((line, what)) = found.damage {
                opening.damaged.get_or_insert(format!("{}:{line}: {what}", name()));
            } else if tail.is_none() {
                tail = Some((path.clone(), found.whole, found.day));
            }
            if found.last.is_some() {
                last = found.last;
                break;
            }
        }
        let last = last.unwrap_or(Link::START);
        let mut log =
            Self { folder: folder.to_owned(), limits, segment: None, last, unsure: false, _lock: held };
        // Behind a damaged line nothing is added: the next segment goes on from the last whole one.
        if let Some((path, written, day)) = tail.filter(|_| opening.damaged.is_none()) {
            let file = OpenOptions::new().append(true).open(&path).map_err(at(&path))?;
            log.segment = Some(Segment { path, file, written, day: day.unwrap_or_else(|| today(now)) });
        }
        let mut opened = Entry::new(now, Event::Opened).with("by", who);
        if let Some((file, octets)) = &opening.repaired {
            opened = opened
                .with("repaired", format!("{file}: {octets} octets of an unfinished line were cut off"));
        }
        if let Some(damaged) = &opening.damaged {
            opened = opened.with("damaged", damaged.as_str());
        }
        log.append(vec![opened], now).map_err(at(folder))?;
        Ok((log, opening))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The end of the chain. Whoever keeps it elsewhere can prove later that nothing before it was changed.
    pub fn head(&self) -> Link {
        self.last
    }

    /// Adds entries; when this returns they are on the disk, all of them or none.
    pub fn append(&mut self, entries: Vec<Entry>, now: Timestamp) -> io::Result<Link> {
        self.settle()?;
        let (mut last, mut lines) = (self.last, Vec::new());
        for entry in entries {
            let (line, link) = chain::seal(last, entry);
            lines.extend_from_slice(line.as_bytes());
            lines.push(b'\n');
            last = link;
        }
        if lines.is_empty() {
            return Ok(last);
        }
        let segment = self.current(now)?;
        let result = segment.file.write_all(&lines).and_then(|()| segment.file.sync_data());
        match result {
            Ok(()) => {
                segment.written += lines.len() as u64;
                self.last = last;
                Ok(last)
            }
            Err(error) => {
                self.unsure = true;
                // The room it took is needed by others; if this fails too, the next write tries again.
                let _ = self.settle();
                Err(error)
            }
        }
    }

    /// Takes back what a failed write may have left.
    fn settle(&mut self) -> io::Result<()> {
        if self.unsure
            && let Some(segment) = &mut self.segment
        {
            segment.file.set_len(segment.written)?;
            segment.file.sync_all()?;
        }
        self.unsure = false;
        Ok(())
    }

    fn current(&mut self, now: Timestamp) -> io::Result<&mut Segment> {
        let (day, most) = (today(now), self.limits.segment);
        let fits = |segment: &Segment| segment.written == 0 || (segment.day >= day && segment.written < most);
        if self.segment.as_ref().is_none_or(|segment| !fits(segment)) {
            let path = self.folder.join(format!("audit-{:020}.jsonl", self.last.seq + 1));
            // A file of that name holds no record, or its number would have been given.
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
            let written = file.metadata()?.len();
            if written > 0 {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!("{} is in the way", path.display()),
                ));
            }
            File::open(&self.folder)?.sync_all()?;
            self.segment = Some(Segment { path, file, written, day });
        }
        Ok(self.segment.as_mut().expect("just made"))
    }

    /// Removes segments that are older than the retention. What remains begins with a record that says so, so it
    /// can still be verified. Returns how many went.
    pub fn expire(&mut self, now: Timestamp) -> io::Result<usize> {
        let oldest = now.checked_sub(self.limits.retention).unwrap_or(Timestamp::MIN);
        let mut gone = Vec::new();
        let mut through = None;
        for path in segments(&self.folder)? {
            let found = examine(&path)?;
            let current = self.segment.as_ref().is_some_and(|segment| segment.path == path);
            let (Some(link), Some(at)) = (found.last, found.at) else { break };
            if current || at >= oldest {
                break;
            }
            through = Some(link);
            gone.push(path);
        }
        let Some(through) = through else { return Ok(0) };
        let expired = Entry::new(now, Event::Expired)
            .with("through", through.seq)
            .with("hash", through.hash.to_string())
            .with("segments", gone.len());
        // Said first: a crash in between leaves more than was promised, not less.
        self.append(vec![expired], now)?;
        for path in &gone {
            fs::remove_file(path)?;
        }
        File::open(&self.folder)?.sync_all()?;
        Ok(gone.len())
    }
}

fn today(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

/// What a segment holds, as far as a writer must know.
#[derive(Default)]
struct Found {
    /// Up to the end of the last line that ends.
    whole: u64,
    /// Octets behind it.
    torn: u64,
    last: Option<Link>,
    /// Time of the last record.
    at: Option<Timestamp>,
    /// Day of the first record.
    day: Option<Date>,
    damage: Option<(usize, String)>,
}

fn examine(path: &Path) -> io::Result<Found> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut found, mut line, mut number) = (Found::default(), Vec::new(), 0);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            return Ok(found);
        }
        number += 1;
        if line.pop() != Some(b'\n') {
            found.torn = read;
            return Ok(found);
        }
        found.whole += read;
        match chain::open(&line) {
            Ok(sealed) => {
                found.last = Some(sealed.link);
                found.at = Some(sealed.entry.at);
                found.day.get_or_insert(today(sealed.entry.at));
            }
            Err(flaw) => _ = found.damage.get_or_insert((number, flaw.to_string())),
        }
    }
}
