use proptest::prelude::*;

use super::*;

/// What a reader makes of `input` given in pieces that end at `cuts`.
#[derive(Debug, PartialEq)]
struct Read {
    text: Vec<u8>,
    fault: Option<Fault>,
    /// What is left behind the end; `None` if there is no end.
    rest: Option<Vec<u8>>,
    crooked: bool,
}

fn read(input: &[u8], cuts: &[usize]) -> Read {
    let mut content = Content::default();
    let mut text = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([input.len()]) {
        loop {
            let (used, piece) = content.next(&input[from..to]);
            from += used;
            match piece {
                Piece::Text(part) => text.extend_from_slice(part),
                Piece::More => break,
                Piece::End => {
                    let rest = Some(input[from..].to_vec());
                    return Read { text, fault: content.fault(), rest, crooked: content.ended_crooked() };
                }
            }
        }
        assert_eq!(from, to, "input was left unused");
    }
    Read { text, fault: content.fault(), rest: None, crooked: false }
}

/// Reads `input` whole, octet by octet and cut in two at each place: the outcome is always the same.
fn read_in_every_way(input: &[u8]) -> Read {
    let whole = read(input, &[]);
    let octets: Vec<usize> = (1..input.len()).collect();
    for cuts in octets.iter().map(std::slice::from_ref).chain([&octets[..]]) {
        let cut = read(input, cuts);
        let same = cut.fault == whole.fault && cut.rest == whole.rest && cut.crooked == whole.crooked;
        assert!(same, "cut at {cuts:?}: {cut:?} is not {whole:?}");
        if whole.fault.is_none() {
            assert_eq!(cut.text, whole.text, "cut at {cuts:?}");
        }
    }
    whole
}

#[test]
fn content_ends_at_the_lone_dot_and_stuffed_dots_are_taken_off() {
    for (input, text, rest) in [
        ("hi\r\n.\r\n", "hi\r\n", ""),
        (".\r\n", "", ""),
        ("\r\n.\r\n", "\r\n", ""),
        ("..\r\n.\r\n", ".\r\n", ""),
        ("...\r\n..a\r\n.b\r\n.\r\n", "..\r\n.a\r\nb\r\n", ""),
        ("a.\r\nb\r\n.\r\nQUIT\r\n", "a.\r\nb\r\n", "QUIT\r\n"),
        ("a\r\n\r\n.\r\n.\r\n", "a\r\n\r\n", ".\r\n"),
    ] {
        let read = read_in_every_way(input.as_bytes());
        assert_eq!(read.fault, None, "{input:?}");
        assert_eq!(String::from_utf8(read.text).unwrap(), text, "{input:?}");
        assert_eq!(read.rest.as_deref(), Some(rest.as_bytes()), "{input:?}");
        assert!(!read.crooked, "{input:?}");
    }
}

/// Whatever some server takes for the end of data, only CRLF.CRLF is, and the message is refused.
#[test]
fn no_other_end_of_data_exists_and_what_looks_like_one_is_a_fault() {
    use Broken::*;
    for (trick, what, line, column) in [
        ("\n.\n", BareLf, 1, 4),
        ("\n.\r\n", BareLf, 1, 4),
        ("\r.\r", BareCr, 1, 4),
        ("\r.\r\n", BareCr, 1, 4),
        ("\r\n.\n", BareLf, 2, 2),
        ("\r\n.\r", BareCr, 2, 2),
        ("\r\n.\r\r\n", BareCr, 2, 2),
        ("\r\n.\0\r\n", Nul, 2, 2),
        ("\r\n\0.\r\n", Nul, 2, 1),
        ("\0\r\n..\r\n", Nul, 1, 4),
        ("\r\0\n.\r\n", BareCr, 1, 4),
        ("\n\r.\n\r", BareLf, 1, 4),
        ("\r\r\n", BareCr, 1, 4),
        ("\r\n\n.\r\n", BareLf, 2, 1),
        ("\r\n.\n\r\n", BareLf, 2, 2),
    ] {
        let input = format!("one{trick}MAIL FROM:<evil@x>\r\n.\r\nNOOP\r\n");
        let read = read_in_every_way(input.as_bytes());
        assert_eq!(read.fault, Some(Fault { what, line, column }), "{trick:?}");
        assert_eq!(read.rest.as_deref(), Some(&b"NOOP\r\n"[..]), "{trick:?}");
    }
}

#[test]
fn an_end_behind_a_bare_cr_is_known_to_be_crooked() {
    assert!(read_in_every_way(b"a\r\r\n.\r\nMAIL").crooked);
    assert!(read_in_every_way(b"\r\r\n.\r\nMAIL").crooked);
    assert!(!read_in_every_way(b"a\r\r\nb\r\n.\r\nMAIL").crooked);
    assert!(!read_in_every_way(b"a\rb\r\n.\r\nMAIL").crooked);
}

#[test]
fn lines_of_any_length_stay_whole() {
    for length in [998, 1200, 70_000, 2 << 20] {
        let line = [vec![b'x'; length], b"\r\n".to_vec()].concat();
        let input = [&line[..], b".\r\n"].concat();
        assert!(read(&input, &[length / 2, length + 1]).text == line);
    }
}

/// Our own reading of RFC 5321 section 4.5.2, as slow and plain as can be.
fn plainly(input: &[u8]) -> Option<(Vec<u8>, bool, Vec<u8>)> {
    let framed = [b"\r\n", input].concat();
    let end = framed.windows(5).position(|five| five == b"\r\n.\r\n")?;
    let body = &framed[2..end + 2];
    let mut text = Vec::new();
    for (at, &octet) in body.iter().enumerate() {
        let line_start = framed[..at + 2].ends_with(b"\r\n");
        if !(line_start && octet == b'.') {
            text.push(octet);
        }
    }
    let broken = (0..body.len()).any(|at| match body[at] {
        b'\r' => body.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || body[at - 1] != b'\r',
        octet => octet == 0,
    });
    Some((text, broken, framed[end + 5..].to_vec()))
}

proptest! {
    #[test]
    fn reading_agrees_with_the_plain_reading(input in "[\r\n.\0a]{0,40}", cuts in prop::collection::vec(0usize..40, 0..6)) {
        let input = input.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut <= input.len()).collect();
        cuts.sort_unstable();
        let read = read(input, &cuts);
        match plainly(input) {
            None => prop_assert_eq!(read.rest, None),
            Some((text, broken, rest)) => {
                prop_assert_eq!(read.rest, Some(rest));
                prop_assert_eq!(read.fault.is_some(), broken);
                if !broken {
                    prop_assert_eq!(read.text, text);
                }
            }
        }
    }

    #[test]
    fn what_a_strict_writer_stuffs_comes_back_as_it_was(lines in prop::collection::vec("[.a-c]{0,4}", 0..12)) {
        let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let dot = |line: &str| if line.starts_with('.') { "." } else { "" };
        let stuffed: String = lines.iter().map(|line| format!("{}{line}\r\n", dot(line))).collect();
        let read = read_in_every_way(format!("{stuffed}.\r\n").as_bytes());
        prop_assert_eq!(read.text, text.into_bytes());
        prop_assert_eq!(read.rest, Some(vec![]));
    }

    #[test]
    fn command_lines_do_not_depend_on_how_they_arrive(input in "[\r\na\u{16}]{0,30}") {
        prop_assert_eq!(lines_of(input.as_bytes(), usize::MAX), lines_of(input.as_bytes(), 1));
    }
}

/// The lines of `input` when `step` octets arrive at a time.
fn lines_of(input: &[u8], step: usize) -> Vec<String> {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    let (mut from, mut to) = (0, 0);
    loop {
        let (used, line) = lines.next(&input[from..to], MAX_COMMAND);
        from += used;
        match line {
            Line::Partial if to == input.len() => return found,
            Line::Partial => to = to.saturating_add(step).min(input.len()),
            Line::Hopeless(_) => {
                found.push("hopeless".to_owned());
                return found;
            }
            Line::TooLong => found.push("too long".to_owned()),
            Line::Whole(text) => found.push(String::from_utf8_lossy(text).into_owned()),
        }
    }
}

#[test]
fn a_long_command_line_is_one_mistake_and_the_next_line_is_fine() {
    for length in [MAX_COMMAND - 1, MAX_COMMAND, MAX_COMMAND + 1, 3 * MAX_COMMAND, 100_000] {
        let input = format!("{}\r\nNOOP\r\n", "x".repeat(length));
        for step in [1, 1000, usize::MAX] {
            let lines = lines_of(input.as_bytes(), step);
            assert_eq!(lines.len(), 2, "{length} in steps of {step}");
            assert_eq!(lines[0] == "too long", length > MAX_COMMAND, "{length} in steps of {step}");
            assert_eq!(lines[1], "NOOP");
        }
    }
}

#[test]
fn a_line_without_end_is_given_up() {
    let mut lines = Lines::default();
    let junk = vec![b'x'; 64 << 10];
    let hopeless = (0..100).any(|_| lines.next(&junk, MAX_COMMAND).1 == Line::Hopeless(Hopeless::Endless));
    assert!(hopeless);
}
