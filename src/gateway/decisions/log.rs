//! The files of the decision log: lines of JSON, one writer, bounded. Not the spool: nothing is synced, and a
//! power cut may take the last second of it.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;

/// How long a decision waits for room before it is dropped.
pub const PATIENCE: Duration = Duration::from_millis(20);
/// What waits to be written: lines, and bytes of them.
const QUEUE_LINES: usize = 4096;
const QUEUE_BYTES: usize = 16 << 20;
/// Lines are handed to the system at least this often while they keep coming, and at once when none waits.
const FLUSH: Duration = Duration::from_secs(1);
/// A failed disk is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file; a new day begins a new one too.
    pub file: u64,
    /// Bytes of all files; the oldest go.
    pub total: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file: 16 << 20, total: 256 << 20 }
    }
}

#[derive(Debug)]
pub struct Log {
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// There is a line to write, or the end has come.
    filled: Condvar,
    /// There is room again.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Someone waited in vain: until the writer moves again, nobody else waits.
    stuck: bool,
    closed: bool,
}

impl State {
    fn is_full(&self) -> bool {
        self.lines.len() >= QUEUE_LINES || self.bytes >= QUEUE_BYTES
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Starts the writer. `lost` counts lines that were taken and could not be written.
    pub fn start(folder: PathBuf, limits: Limits, lost: Counter) -> Self {
        let queue = Arc::new(Queue::default());
        let work = {
            let queue = Arc::clone(&queue);
            move || write(&queue, Files::new(folder, limits), &lost)
        };
        let writer = std::thread::Builder::new().name("decisions".to_owned()).spawn(work);
        let writer = writer.inspect_err(|error| tracing::error!(%error, "no decision log")).ok();
        if writer.is_none() {
            queue.lock().closed = true;
        }
        Self { queue, writer: Mutex::new(writer) }
    }

    /// Takes a line; false when there is no room for it, even after a moment.
    pub fn push(&self, line: Vec<u8>) -> bool {
        let mut state = self.queue.lock();
        if state.is_full() && !state.stuck && !state.closed {
            let full = |state: &mut State| state.is_full() && !state.closed;
            let waited = self.queue.emptied.wait_timeout_while(state, PATIENCE, full);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.stuck = state.is_full();
        }
        if state.is_full() || state.closed {
            return false;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.queue.filled.notify_one();
        true
    }

    /// Writes what waits and ends the writer.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.queue.filled.notify_one();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer of the decision log did not end well");
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

/// The writer: everything that waits, then a flush, then sleep until there is more.
fn write(queue: &Queue, mut files: Files, lost: &Counter) {
    let mut flushed = Instant::now();
    loop {
        let mut state = queue.lock();
        if state.lines.is_empty() {
            drop(state);
            files.flush();
            flushed = Instant::now();
            state = queue.lock();
            while state.lines.is_empty() && !state.closed {
                state = queue.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let batch = std::mem::take(&mut state.lines);
        (state.bytes, state.stuck) = (0, false);
        let done = batch.is_empty() && state.closed;
        drop(state);
        queue.emptied.notify_all();
        if done {
            return files.flush();
        }
        for line in batch {
            if !files.append(&line, Timestamp::now()) {
                lost.inc();
            }
        }
        if flushed.elapsed() >= FLUSH {
            files.flush();
            flushed = Instant::now();
        }
    }
}

/// The files, named by day and number so that their names sort by age: `2026-11-22.000001.jsonl`.
struct Files {
    folder: PathBuf,
    limits: Limits,
    current: Option<Current>,
    /// Not tried before this: the disk failed.
    pause_until: Option<Instant>,
}

struct Current {
    file: BufWriter<File>,
    day: String,
    number: u32,
    bytes: u64,
}

impl Files {
    fn new(folder: PathBuf, limits: Limits) -> Self {
        Self { folder, limits, current: None, pause_until: None }
    }

    /// False: the line is lost.
    fn append(&mut self, line: &[u8], now: Timestamp) -> bool {
        if self.pause_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        match self.try_append(line, now) {
            Ok(()) => true,
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    fn try_append(&mut self, line: &[u8], now: Timestamp) -> io::Result<()> {
        let day = now.strftime("%Y-%m-%d").to_string();
        let fits = |current: &Current| {
            current.day == day && current.bytes + line.len() as u64 <= self.limits.file.max(line.len() as u64)
        };
        if !self.current.as_ref().is_some_and(fits) {
            self.flush();
            let next = match &self.current {
                Some(current) if current.day == day => current.number + 1,
                _ => 0,
            };
            self.current = None;
            self.current = Some(self.open(day, next)?);
            self.drop_oldest()?;
        }
        let current = self.current.as_mut().expect("it was just opened");
        current.bytes += line.len() as u64;
        current.file.write_all(line)
    }

    /// Opens the file to write to. `number` 0: the newest of the day, while there is room in it.
    fn open(&self, day: String, number: u32) -> io::Result<Current> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let newest = names(&self.folder)?.into_iter().rev().find_map(|name| {
            let (of, rest) = name.split_once('.')?;
            (of == day).then(|| rest.split('.').next()?.parse::<u32>().ok())?
        });
        let mut number = number.max(newest.unwrap_or(1));
        let open = |number: u32| {
            let path = self.folder.join(format!("{day}.{number:06}.jsonl"));
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
        };
        let mut file = open(number)?;
        let mut bytes = file.metadata()?.len();
        if bytes >= self.limits.file {
            number += 1;
            file = open(number)?;
            bytes = file.metadata()?.len();
        }
        if bytes > 0 {
            // A power cut may have torn the last line: what follows begins on a line of its own.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        Ok(Current { file: BufWriter::with_capacity(64 << 10, file), day, number, bytes })
    }

    /// Makes room for the file that was just begun.
    fn drop_oldest(&self) -> io::Result<()> {
        let mut sizes = Vec::new();
        for name in names(&self.folder)? {
            let path = self.folder.join(name);
            let size = fs::metadata(&path).map_or(0, |meta| meta.len());
            sizes.push((path, size));
        }
        // The one that is written to may grow to its whole size.
        sizes.pop();
        let mut total = sizes.iter().map(|(_, size)| size).sum::<u64>() + self.limits.file;
        for (path, size) in sizes {
            if total <= self.limits.total {
                break;
            }
            fs::remove_file(&path)?;
            total -= size;
        }
        Ok(())
    }

    fn flush(&mut self) {
        if let Some(current) = &mut self.current
            && let Err(error) = current.file.flush()
        {
            self.failed(&error);
        }
    }

    fn failed(&mut self, error: &io::Error) {
        tracing::warn!(%error, folder = %self.folder.display(), "cannot write the decision log");
        if let Some(current) = self.current.take() {
            // What is buffered is lost; written by halves later it would only be in the way.
            let _ = current.file.into_parts();
        }
        self.pause_until = Some(Instant::now() + RETRY);
    }
}

/// The names of the log's files, oldest first.
pub fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".jsonl") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
