//! Bytes → command lines and message content, without IO. The first thing that touches what a client
//! sent, and as strict as a reader can be: a line ends in CRLF and content ends in CRLF.CRLF, nothing
//! else does. No octet that another reader may take for a line end passes from here (CVE-2023-51764).

use memchr::{memchr, memchr_iter, memchr3, memrchr};

/// Octets of a command line without its CRLF. RFC 5321 asks for 510 plus what extensions add (SMTPUTF8,
/// DSN and SIZE together stay below 1200).
pub const MAX_COMMAND: usize = 2048;

/// Octets of one endless line that are thrown away before the connection is given up.
const MAX_SKIPPED: usize = 1 << 20;

/// The first octet of a TLS record with a handshake: no SMTP command begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// Cuts input into command lines.
#[derive(Debug, Default)]
pub struct Lines {
    /// Octets thrown away of a line that is too long.
    skipped: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Input ended inside a line.
    Partial,
    /// A line without its CRLF.
    Whole(&'a [u8]),
    /// The end of a line of more octets than are kept; its text is lost.
    TooLong,
    /// No line and no chance of one: the connection must be closed, nothing after it be read.
    Hopeless(Hopeless),
}

/// Why the rest of the input cannot be commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hopeless {
    /// A line feed without carriage return. Taking it for a line end would let a client that does not
    /// smuggle commands through one that does; waiting for CRLF would leave an honest one hanging.
    BareLf,
    /// The client speaks TLS.
    Tls,
    /// A line without end.
    Endless,
}

impl Lines {
    /// The next line of `input`, and how many octets of it are used up. Longer ones than `most` are lost.
    pub fn next<'a>(&mut self, input: &'a [u8], most: usize) -> (usize, Line<'a>) {
        if self.skipped == 0 && input.first() == Some(&TLS_HANDSHAKE) {
            return (input.len(), Line::Hopeless(Hopeless::Tls));
        }
        match memchr(b'\n', input) {
            Some(at) if at > 0 && input[at - 1] == b'\r' => {
                let too_long = self.skipped > 0 || at - 1 > most;
                self.skipped = 0;
                (at + 1, if too_long { Line::TooLong } else { Line::Whole(&input[..at - 1]) })
            }
            Some(_) => (input.len(), Line::Hopeless(Hopeless::BareLf)),
            None if self.skipped > MAX_SKIPPED => (input.len(), Line::Hopeless(Hopeless::Endless)),
            None if self.skipped > 0 || input.len() > most + 1 => {
                // The last octet stays: it may be the CR of this line's CRLF.
                let used = input.len().saturating_sub(1);
                self.skipped += used;
                (used, Line::Partial)
            }
            None => (0, Line::Partial),
        }
    }
}

/// Reads message content: finds its end, takes off stuffed dots, and notices every octet that some
/// reader could take for a line end.
#[derive(Debug)]
pub struct Content {
    at: At,
    /// Octets of input used up by earlier calls.
    seen: u64,
    line: u64,
    line_start: u64,
    fault: Option<Fault>,
    last_bare_cr: Option<u64>,
    crooked: bool,
}

/// Where in its line the content stands between two calls. What is withheld is never needed again:
/// a leading dot is either stuffed or ends the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    LineStart,
    Dot,
    DotCr,
    Line,
    Cr,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Content, a part of the input as it is.
    Text(&'a [u8]),
    /// The final dot was read.
    End,
    /// All input is used up.
    More,
}

/// The first octet that makes the content unacceptable, and where it stands (both from 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at line {line}, column {column}")]
pub struct Fault {
    pub what: Broken,
    pub line: u64,
    pub column: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("bare CR")]
    BareCr,
    #[error("bare LF")]
    BareLf,
    #[error("NUL")]
    Nul,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            at: At::LineStart,
            seen: 0,
            line: 1,
            line_start: 0,
            fault: None,
            last_bare_cr: None,
            crooked: false,
        }
    }
}

impl Content {
    /// Why the message must be refused. Its end is looked for all the same.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// After the end: whether it was `CR CR LF . CR LF`, which is the end of data by its octets but
    /// not for every reader. What follows it must not be taken for commands.
    pub fn ended_crooked(&self) -> bool {
        self.crooked
    }

    /// Octets read so far, the final dot and stuffed ones included.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The next piece of `input`, and how many octets of it are used up.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> (usize, Piece<'a>) {
        let (used, piece) = self.piece(input);
        self.seen += used as u64;
        (used, piece)
    }

    fn piece<'a>(&mut self, input: &'a [u8]) -> (usize, Piece<'a>) {
        let mut start = 0;
        loop {
            let Some(&octet) = input.get(start) else { return (start, Piece::More) };
            match (self.at, octet) {
                (At::LineStart, b'.') => (self.at, start) = (At::Dot, start + 1),
                (At::Dot, b'\r') => (self.at, start) = (At::DotCr, start + 1),
                (At::DotCr, b'\n') => return (start + 1, Piece::End),
                (At::DotCr, _) => {
                    self.broken(Broken::BareCr, start as u64, 1);
                    self.at = At::Line;
                }
                (At::Cr, b'\n') => return self.text(input, start, start + 1, true),
                (At::Cr, _) => {
                    self.broken(Broken::BareCr, start as u64, 1);
                    self.at = At::Line;
                }
                (At::LineStart | At::Dot | At::Line, _) => return self.text(input, start, start, false),
            }
        }
    }

    /// The content from `start` up to the next line that begins with a dot. `at` is where to look
    /// on; `line_ended` when the CRLF before it is not yet counted.
    fn text<'a>(
        &mut self,
        input: &'a [u8],
        start: usize,
        mut at: usize,
        line_ended: bool,
    ) -> (usize, Piece<'a>) {
        if line_ended && self.end_line(input, at) {
            return (at, Piece::Text(&input[start..at]));
        }
        if let Some(lines) = plain_lines(&input[at..]) {
            at += lines.len;
            self.line += lines.count - 1;
            if self.end_line(input, at) {
                return (at, Piece::Text(&input[start..at]));
            }
        }
        while let Some(found) = memchr3(b'\r', b'\n', 0, &input[at..]) {
            let found = at + found;
            at = found + 1;
            match (input[found], input.get(at)) {
                (b'\r', Some(b'\n')) => {
                    at += 1;
                    if self.end_line(input, at) {
                        return (at, Piece::Text(&input[start..at]));
                    }
                }
                (b'\r', None) => {
                    self.at = At::Cr;
                    return (at, Piece::Text(&input[start..]));
                }
                (b'\r', Some(_)) => self.broken(Broken::BareCr, found as u64, 0),
                (b'\n', _) => self.broken(Broken::BareLf, found as u64, 0),
                _ => self.broken(Broken::Nul, found as u64, 0),
            }
        }
        self.at = At::Line;
        (input.len(), Piece::Text(&input[start..]))
    }

    /// Counts the line whose CRLF ends before `at`; true when the next octet is a dot or not here yet.
    fn end_line(&mut self, input: &[u8], at: usize) -> bool {
        self.line += 1;
        self.line_start = self.seen + at as u64;
        self.crooked = self.last_bare_cr.is_some_and(|bare| bare + 3 == self.line_start);
        let stop = matches!(input.get(at), None | Some(b'.'));
        self.at = if stop { At::LineStart } else { At::Line };
        stop
    }

    fn broken(&mut self, what: Broken, at: u64, back: u64) {
        let at = self.seen + at - back;
        if what == Broken::BareCr {
            self.last_bare_cr = Some(at);
        }
        let (line, column) = (self.line, at - self.line_start + 1);
        self.fault.get_or_insert(Fault { what, line, column });
    }
}

/// Lines that need no closer look.
struct Plain {
    len: usize,
    count: u64,
}

/// What `text` begins with, up to its last line end, if no octet in it is NUL, each CR and LF is half of a CRLF,
/// and no line begins with a dot but perhaps the first. Nearly all mail is nothing else, and in this form the
/// compiler looks at many octets at once: 3 us for 64 KiB, 70 us with `bool` instead of `u8`.
fn plain_lines(text: &[u8]) -> Option<Plain> {
    let len = memrchr(b'\n', text)? + 1;
    let lines = &text[..len];
    let mut odd = u8::from(lines[0] == b'\n');
    for (octet, next) in lines.iter().zip(&lines[1..]) {
        odd |= u8::from((*octet == b'\r') != (*next == b'\n'));
        odd |= u8::from((*octet == b'\n') & (*next == b'.'));
        odd |= u8::from(*octet == 0);
    }
    let count = memchr_iter(b'\n', lines).count();
    (odd == 0).then_some(Plain { len, count: count as u64 })
}

#[cfg(test)]
mod tests;
