//! Log lines on their way to standard error, gathered: two lines for each message, each a system call under
//! one lock, would cost a busy gateway a tenth of its time.
//!
//! A warning or an error is written before the call returns. Everything else is written within
//! [`GATHERED`], also at an orderly end; a kill -9 loses that much of the log, never of the mail. A reader
//! that does not read holds up nobody: beyond [`MOST`] bytes lines are left out, and the log says how many.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line may wait for others.
const GATHERED: Duration = Duration::from_millis(20);
/// Bytes that wait at most.
const MOST: usize = 4 << 20;

/// Where lines are put. Cheap to clone.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    news: Condvar,
    /// Held while something is written, so that lines keep their order.
    out: Mutex<Box<dyn Write + Send>>,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    left_out: u64,
    closing: bool,
}

/// Writes what waits when it goes.
pub struct Flush {
    lines: Lines,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    pub fn to(out: Box<dyn Write + Send>) -> (Self, Flush) {
        let shared =
            Shared { waiting: Mutex::new(Waiting::default()), news: Condvar::new(), out: Mutex::new(out) };
        let lines = Self(Arc::new(shared));
        let of_thread = lines.clone();
        let thread = thread::Builder::new().name("log".into()).spawn(move || of_thread.run()).ok();
        // With nobody to write lines later, each is written at once.
        lines.waiting().closing = thread.is_none();
        (lines.clone(), Flush { lines, thread })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.text.len() + line.len() > MOST {
            waiting.left_out += 1;
            return;
        }
        let is_first = waiting.text.is_empty();
        waiting.text.extend_from_slice(line);
        drop(waiting);
        if is_first {
            self.0.news.notify_one();
        }
    }

    /// Writes all that waits. Nobody is there to hear of an error.
    fn flush(&self) {
        let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
        let (text, left_out) = {
            let mut waiting = self.waiting();
            (std::mem::take(&mut waiting.text), std::mem::take(&mut waiting.left_out))
        };
        let _ = out.write_all(&text);
        if left_out > 0 {
            let _ = writeln!(
                out,
                "{{\"level\":\"WARN\",\"message\":\"log lines left out\",\"lines\":{left_out}}}"
            );
        }
        let _ = out.flush();
    }

    fn run(&self) {
        loop {
            let mut waiting = self.waiting();
            while waiting.text.is_empty() && !waiting.closing {
                waiting = self.0.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            let closing = waiting.closing;
            drop(waiting);
            if closing {
                return self.flush();
            }
            thread::sleep(GATHERED);
            self.flush();
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.lines.waiting().closing = true;
        self.lines.0.news.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.lines.flush();
    }
}

/// One line of the log.
pub struct Line<'a> {
    lines: &'a Lines,
    /// Nobody may be there to write it later.
    at_once: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.at_once {
            self.lines.flush();
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, at_once: true }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line<'a> {
        let closing = self.waiting().closing;
        Line { lines: self, at_once: closing || *meta.level() <= Level::WARN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_keep_their_order_and_a_warning_takes_those_before_it_along() {
        let page = Page::default();
        let (lines, flush) = Lines::to(Box::new(page.clone()));
        lines.put(b"one\n");
        Line { lines: &lines, at_once: true }.write_all(b"two\n").unwrap();
        assert_eq!(page.text(), "one\ntwo\n");
        lines.put(b"three\n");
        drop(flush);
        assert_eq!(page.text(), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_says_so() {
        let page = Page::default();
        let (lines, flush) = Lines::to(Box::new(page.clone()));
        let busy = lines.0.out.lock().unwrap();
        let line = [b'x'; 1 << 20];
        for _ in 0..12 {
            lines.put(&line);
        }
        drop(busy);
        drop(flush);
        let text = page.text();
        assert!(text.contains("log lines left out"), "{}", &text[text.len() - 200..]);
        assert!(text.len() < 9 << 20, "{}", text.len());
    }
}
