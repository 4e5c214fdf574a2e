//! Content on its way to the wire: dots stuffed, lines ended by CRLF and nothing else, whatever the
//! reader let through. Independent of the reader on purpose (SMTP smuggling needs two mistakes).

/// Octets of content read at a time.
const BLOCK: usize = 64 << 10;

/// Encodes the pieces of one message in blocks.
pub struct Encoder<'a> {
    pieces: [&'a [u8]; 2],
    state: State,
    finished: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    Middle,
    AfterCr,
}

impl<'a> Encoder<'a> {
    pub fn new(head: &'a [u8], rest: &'a [u8]) -> Self {
        Self { pieces: [head, rest], state: State::LineStart, finished: false }
    }

    /// The next octets for the wire, which end with the final dot when they are the last: a part of the content
    /// as it lies there, or what was made of it in `wire`. A small message is one block, so one write takes it all.
    pub fn next_block<'w>(&mut self, wire: &'w mut Vec<u8>) -> Option<&'w [u8]>
    where
        'a: 'w,
    {
        if self.finished {
            return None;
        }
        if let Some(lines) = self.smooth_lines() {
            return Some(lines);
        }
        wire.clear();
        let mut left = BLOCK;
        for piece in &mut self.pieces {
            let mut len = piece.len().min(left);
            if len < piece.len() {
                // What follows begins with a line, so that it may leave as it lies there.
                len = Some(whole_lines(&piece[..len])).filter(|lines| *lines > 0).unwrap_or(len);
            }
            let (block, later) = piece.split_at(len);
            *piece = later;
            left -= block.len();
            self.state = encode(block, self.state, wire);
            if !piece.is_empty() {
                break;
            }
        }
        if self.pieces.iter().any(|piece| !piece.is_empty()) {
            return Some(wire);
        }
        self.finished = true;
        match self.state {
            State::LineStart => wire.extend_from_slice(b".\r\n"),
            State::Middle => wire.extend_from_slice(b"\r\n.\r\n"),
            State::AfterCr => wire.extend_from_slice(b"\n.\r\n"),
        }
        Some(wire)
    }

    /// Lines of a large message that need no change: they are not copied.
    fn smooth_lines(&mut self) -> Option<&'a [u8]> {
        let piece = self.pieces.iter_mut().find(|piece| !piece.is_empty())?;
        if self.state != State::LineStart || piece.len() <= BLOCK {
            return None;
        }
        let (lines, later) = piece.split_at(whole_lines(&piece[..BLOCK]));
        if lines.is_empty() || !is_smooth(lines) {
            return None;
        }
        *piece = later;
        Some(lines)
    }
}

/// Octets up to the last line feed.
fn whole_lines(block: &[u8]) -> usize {
    memchr::memrchr(b'\n', block).map_or(0, |at| at + 1)
}

/// Whether whole lines, the first at its beginning, leave as they are: each ends in CRLF and nothing else looks like
/// an end, none begins with a dot. In this form the compiler looks at many octets at once.
fn is_smooth(lines: &[u8]) -> bool {
    let [first, others @ ..] = lines else { return true };
    let mut rough = u8::from(matches!(first, b'.' | b'\n'));
    for (octet, next) in lines.iter().zip(others) {
        rough |= u8::from((*octet == b'\r') != (*next == b'\n'));
        rough |= u8::from((*octet == b'\n') & (*next == b'.'));
    }
    rough == 0
}

/// Every line end, however written, becomes CRLF; a dot that begins a line is doubled.
fn encode(block: &[u8], mut state: State, wire: &mut Vec<u8>) -> State {
    let mut rest = block;
    if state == State::LineStart {
        let (lines, later) = block.split_at(whole_lines(block));
        if is_smooth(lines) {
            wire.extend_from_slice(lines);
            rest = later;
        }
    }
    while let Some(&first) = rest.first() {
        match (state, first) {
            (State::AfterCr, b'\n') => {
                wire.push(b'\n');
                state = State::LineStart;
                rest = &rest[1..];
                continue;
            }
            // The CR before was bare.
            (State::AfterCr, _) => {
                wire.push(b'\n');
                state = State::LineStart;
                continue;
            }
            (State::LineStart, b'.') => wire.push(b'.'),
            _ => {}
        }
        let plain = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        wire.extend_from_slice(&rest[..plain]);
        if plain > 0 {
            state = State::Middle;
        }
        match rest.get(plain) {
            Some(b'\r') => {
                wire.push(b'\r');
                state = State::AfterCr;
            }
            Some(_) => {
                wire.extend_from_slice(b"\r\n");
                state = State::LineStart;
            }
            None => {}
        }
        rest = rest.get(plain + 1..).unwrap_or_default();
    }
    state
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wire(head: &[u8], rest: &[u8]) -> Vec<u8> {
        let (mut encoder, mut wire, mut all) = (Encoder::new(head, rest), Vec::new(), Vec::new());
        while let Some(block) = encoder.next_block(&mut wire) {
            all.extend_from_slice(block);
        }
        all
    }

    #[test]
    fn clean_content_leaves_as_it_is_with_dots_stuffed() {
        assert_eq!(wire(b"A: b\r\n", b"\r\n.\r\n..x\r\ny.z\r\n"), b"A: b\r\n\r\n..\r\n...x\r\ny.z\r\n.\r\n");
        assert_eq!(wire(b"", b""), b".\r\n");
        assert_eq!(wire(b"no end", b""), b"no end\r\n.\r\n");
        assert_eq!(wire(b"A: b\r", b"\n.\r\n"), b"A: b\r\n..\r\n.\r\n");
    }

    #[test]
    fn no_trick_with_line_ends_ends_the_message_early() {
        for trick in
            [&b"a\n.\nb"[..], b"a\n.\r\nb", b"a\r.\rb", b"a\r\n.\rb", b"a\r\r\n.\r\n", b"\r", b"a\r\n.\n"]
        {
            let sent = wire(b"", trick);
            let ends = sent.windows(5).filter(|w| w == b"\r\n.\r\n").count();
            let early = sent.starts_with(b".\r\n") && sent.len() > 3;
            assert!(ends <= 1 && sent.ends_with(b".\r\n") && !early, "{trick:?} became {sent:?}");
        }
    }

    /// Large messages by both ways: lines as they lie there, and lines that are made anew.
    #[test]
    fn a_large_message_leaves_as_the_same_octets_whatever_way_its_blocks_take() {
        let clean = b"0123456789 abcdefghijklmnopqrstuvwxyz\r\n".repeat(6000);
        assert_eq!(wire(b"A: b\r\n\r\n", &clean), [b"A: b\r\n\r\n", &clean[..], b".\r\n"].concat());
        for (at, what, becomes) in [
            (39 * 2500, &b".x\r\n"[..], &b"..x\r\n"[..]),
            (39 * 2500, b"\n.\r\n", b"\r\n..\r\n"),
            (39 * 2500, b"a\rb\r\n", b"a\r\nb\r\n"),
            (39 * 4000, b"\r\r\n", b"\r\n\r\n"),
            (BLOCK, b"", b""),
        ] {
            let (before, after) = clean.split_at(at / 39 * 39);
            let sent = wire(b"", &[before, what, after].concat());
            assert!(sent == [before, becomes, after, b".\r\n"].concat(), "{what:?} at {at}");
        }
        for cut in [0, 1, 38, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7, clean.len()] {
            let (head, rest) = clean.split_at(cut);
            assert!(wire(head, rest) == [&clean[..], b".\r\n"].concat(), "a header of {cut} octets");
        }
        let endless = vec![b'x'; 3 * BLOCK];
        assert_eq!(wire(b"", &endless), [&endless[..], b"\r\n.\r\n"].concat());
    }

    #[test]
    fn of_a_large_message_after_its_header_only_the_first_block_is_copied() {
        let head = b"Received: by a gateway\r\nFrom: a@b.example\r\n";
        let body = b"0123456789 abcdefghijklmnopqrstuvwxyz\r\n".repeat(20 * BLOCK / 39);
        let (mut encoder, mut wire, mut copied) = (Encoder::new(head, &body), Vec::new(), 0);
        let lies = body.as_ptr_range();
        while let Some(block) = encoder.next_block(&mut wire) {
            if !lies.contains(&block.as_ptr()) {
                copied += block.len();
            }
        }
        assert!(copied <= 2 * BLOCK, "{copied} of {} octets were copied", body.len());
    }

    proptest! {
        #[test]
        fn smooth_lines_are_those_that_encoding_leaves_alone(
            text in prop::collection::vec(prop_oneof![3 => Just(b'\r'), 3 => Just(b'\n'), 1 => Just(b'.'), 4 => Just(b'a')], 0..12),
        ) {
            let lines = [&text[..], b"\n"].concat();
            let mut made = Vec::new();
            let mut state = State::LineStart;
            // Octet by octet, the short way is never taken.
            for octet in lines.chunks(1) {
                state = encode(octet, state, &mut made);
            }
            prop_assert_eq!(is_smooth(&lines), made == lines && state == State::LineStart);
        }

        #[test]
        fn what_a_strict_reader_gets_back_is_the_content_with_crlf_line_ends(
            text in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), any::<u8>()], 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let (head, rest) = text.split_at(cut.index(text.len() + 1));
            let sent = wire(head, rest);
            let mut lines: Vec<&[u8]> = Vec::new();
            let mut at = 0;
            while let Some(end) = sent[at..].windows(2).position(|w| w == b"\r\n") {
                lines.push(&sent[at..at + end]);
                at += end + 2;
            }
            prop_assert_eq!(at, sent.len());
            prop_assert_eq!(lines.pop(), Some(&b"."[..]));
            let mut read = Vec::new();
            for line in lines {
                prop_assert!(!line.contains(&b'\r') && !line.contains(&b'\n') && line != b".");
                read.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
                read.extend_from_slice(b"\r\n");
            }
            // The same text by the plainest possible rules.
            let mut plain = Vec::new();
            let mut bytes = text.iter().copied().peekable();
            while let Some(byte) = bytes.next() {
                match byte {
                    b'\r' => {
                        bytes.next_if_eq(&b'\n');
                        plain.extend_from_slice(b"\r\n");
                    }
                    b'\n' => plain.extend_from_slice(b"\r\n"),
                    byte => plain.push(byte),
                }
            }
            if !plain.is_empty() && !plain.ends_with(b"\r\n") {
                plain.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(read, plain);
        }
    }
}
