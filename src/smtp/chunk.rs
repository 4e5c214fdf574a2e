//! Content that comes in chunks (BDAT, RFC 3030), without IO. Its length is known, so no dot and no line end has
//! a meaning in it; but the next hop may get it by DATA, where they do. So whatever some reader could take for
//! the end of the data is refused here as strictly as in DATA: a bare CR, a bare LF, a NUL.

use memchr::memchr3;

use super::line::{Broken, Fault};

/// Reads a message as its chunks come and notices every octet that must not be passed on.
#[derive(Debug)]
pub struct Chunks {
    seen: u64,
    line: u64,
    line_start: u64,
    /// The last octet was a CR.
    cr: bool,
    /// The last two octets were CRLF, or there was none yet.
    ended: bool,
    fault: Option<Fault>,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { seen: 0, line: 1, line_start: 0, cr: false, ended: true, fault: None }
    }
}

impl Chunks {
    /// Octets so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Reads on. After it [`fault`](Self::fault) says whether `text` may be kept.
    pub fn read(&mut self, text: &[u8]) {
        let Some(&last) = text.last() else { return };
        let mut at = 0;
        if self.cr {
            match text[0] {
                b'\n' => {
                    self.end_line(1);
                    at = 1;
                }
                _ => self.broken(Broken::BareCr, self.seen - 1),
            }
        }
        while let Some(found) = memchr3(b'\r', b'\n', 0, &text[at..]) {
            let found = at + found;
            at = found + 1;
            match (text[found], text.get(at)) {
                (b'\r', Some(b'\n')) => {
                    at += 1;
                    self.end_line(at as u64);
                }
                (b'\r', None) => {}
                (b'\r', Some(_)) => self.broken(Broken::BareCr, self.seen + found as u64),
                (b'\n', _) => self.broken(Broken::BareLf, self.seen + found as u64),
                _ => self.broken(Broken::Nul, self.seen + found as u64),
            }
        }
        self.seen += text.len() as u64;
        self.cr = last == b'\r';
        self.ended = self.line_start == self.seen;
    }

    /// There is no more: whether a line end is missing, without which the content cannot be sent by DATA.
    pub fn end(&mut self) -> Result<Tail, Fault> {
        if self.cr {
            self.broken(Broken::BareCr, self.seen - 1);
        }
        match self.fault {
            Some(fault) => Err(fault),
            None if self.ended => Ok(Tail::Complete),
            None => Ok(Tail::NeedsLineEnd),
        }
    }

    fn end_line(&mut self, at: u64) {
        self.line += 1;
        self.line_start = self.seen + at;
    }

    fn broken(&mut self, what: Broken, at: u64) {
        let column = at.saturating_sub(self.line_start) + 1;
        self.fault.get_or_insert(Fault { what, line: self.line, column });
    }
}

/// How the content ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    Complete,
    NeedsLineEnd,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::line::{Content, Piece};
    use super::*;

    /// The same in chunks cut anywhere.
    fn read(text: &[u8], cuts: &[usize]) -> Result<Tail, Fault> {
        let mut chunks = Chunks::default();
        let mut at = 0;
        for cut in cuts {
            let to = (at + cut).min(text.len());
            chunks.read(&text[at..to]);
            at = to;
        }
        chunks.read(&text[at..]);
        assert_eq!(chunks.seen(), text.len() as u64);
        chunks.end()
    }

    #[test]
    fn line_ends_are_crlf_and_nothing_else() {
        let fault = |what, line, column| Err(Fault { what, line, column });
        for (text, said) in [
            (&b""[..], Ok(Tail::Complete)),
            (b"a\r\n.\r\n", Ok(Tail::Complete)),
            (b"a", Ok(Tail::NeedsLineEnd)),
            (b"a\nb\r\n", fault(Broken::BareLf, 1, 2)),
            (b"a\r\nb\r", fault(Broken::BareCr, 2, 2)),
            (b"\r\r\n", fault(Broken::BareCr, 1, 1)),
            (b"ab\r\ncd\0\r\n", fault(Broken::Nul, 2, 3)),
        ] {
            for cut in 0..=text.len() {
                assert_eq!(read(text, &[cut]), said, "{text:?} cut at {cut}");
                assert_eq!(read(text, &[1; 10]), said, "{text:?} octet by octet");
            }
        }
    }

    proptest! {
        /// What is taken in chunks is what DATA would take, dots or not; and the chunks' edges do not matter.
        #[test]
        fn chunks_and_data_refuse_the_same(
            words in prop::collection::vec(prop::sample::select(vec!["a", "\r\n", "\n", "\r", "\0", ".", "b c"]), 0..20),
            cuts in prop::collection::vec(0usize..6, 0..10),
        ) {
            let text = words.concat().into_bytes();
            let whole = read(&text, &[]);
            prop_assert_eq!(read(&text, &cuts), whole);
            let mut by_data = text.clone();
            if !by_data.ends_with(b"\r\n") {
                by_data.extend(b"\r\n");
            }
            // Every dot stuffed at the start of a line, then the end.
            let stuffed: Vec<u8> = String::from_utf8(by_data).unwrap().split_inclusive("\r\n")
                .flat_map(|line| if line.starts_with('.') { format!(".{line}") } else { line.to_owned() }.into_bytes())
                .collect();
            let wire = [&stuffed[..], b".\r\n"].concat();
            let mut content = Content::default();
            let mut rest = &wire[..];
            loop {
                let (used, piece) = content.next(rest);
                let over = matches!(piece, Piece::End);
                rest = &rest[used..];
                if over || rest.is_empty() {
                    break;
                }
            }
            // DATA sees a trailing CR before the line end we add as a bare one too.
            prop_assert_eq!(whole.is_err(), content.fault().is_some());
        }
    }
}
