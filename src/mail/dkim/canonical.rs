//! The canonical forms that DKIM signs (RFC 6376 section 3.4): text only.
//!
//! Lines are taken as delivery writes them to the wire: a bare CR or LF ends a line as CRLF
//! does, so what is signed here is what arrives there.

use memchr::memchr2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Simple,
    Relaxed,
}

/// Gives the canonical body piece by piece. `body` begins after the empty line.
pub fn body(form: Form, body: &[u8], mut put: impl FnMut(&[u8])) {
    let mut empty = 0usize;
    let mut anything = false;
    let mut buffer = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let (line, after) = next_line(rest);
        rest = after;
        let line = match form {
            Form::Simple => line,
            Form::Relaxed => {
                squeeze(line, &mut buffer);
                buffer.strip_suffix(b" ").unwrap_or(&buffer)
            }
        };
        // Empty lines count only when something follows.
        if line.is_empty() {
            empty += 1;
            continue;
        }
        for _ in 0..std::mem::take(&mut empty) {
            put(b"\r\n");
        }
        put(line);
        put(b"\r\n");
        anything = true;
    }
    if !anything && form == Form::Simple {
        put(b"\r\n");
    }
}

/// Appends the relaxed form of one header field, given with or without its line end, ending in CRLF.
pub fn relaxed_field(field: &[u8], out: &mut Vec<u8>) {
    let colon = memchr::memchr(b':', field).unwrap_or(field.len());
    let (name, value) = field.split_at(colon);
    out.extend(name.trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let mut unfolded = Vec::with_capacity(value.len());
    unfolded.extend(value.iter().skip(1).filter(|byte| !matches!(byte, b'\r' | b'\n')));
    let mut squeezed = Vec::with_capacity(unfolded.len());
    squeeze(&unfolded, &mut squeezed);
    let value = squeezed.strip_prefix(b" ").unwrap_or(&squeezed);
    out.extend_from_slice(value.strip_suffix(b" ").unwrap_or(value));
    out.extend_from_slice(b"\r\n");
}

/// The fields of a header section, each with its continuation lines.
pub fn fields(head: &[u8]) -> Vec<&[u8]> {
    let mut fields = Vec::new();
    let (mut start, mut rest) = (0, head);
    while !rest.is_empty() {
        rest = next_line(rest).1;
        if !matches!(rest.first(), Some(b' ' | b'\t')) {
            let end = head.len() - rest.len();
            fields.push(&head[start..end]);
            start = end;
        }
    }
    fields
}

pub fn is_named(field: &[u8], name: &str) -> bool {
    let colon = memchr::memchr(b':', field).unwrap_or(0);
    field[..colon].trim_ascii_end().eq_ignore_ascii_case(name.as_bytes())
}

/// One line without its end, and what follows.
fn next_line(text: &[u8]) -> (&[u8], &[u8]) {
    let Some(at) = memchr2(b'\r', b'\n', text) else { return (text, &[]) };
    let end = if text[at..].starts_with(b"\r\n") { 2 } else { 1 };
    (&text[..at], &text[at + end..])
}

/// Every run of blanks and tabs becomes one blank.
fn squeeze(line: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut rest = line;
    while let Some(at) = memchr2(b' ', b'\t', rest) {
        out.extend_from_slice(&rest[..at]);
        out.push(b' ');
        let run = rest[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        rest = &rest[at + run..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(form: Form, text: &[u8]) -> String {
        let mut all = Vec::new();
        body(form, text, |piece| all.extend_from_slice(piece));
        String::from_utf8_lossy(&all).into_owned()
    }

    #[test]
    fn bodies_become_what_rfc_6376_says() {
        // The example of section 3.4.5, and what verifiers get wrong.
        for (text, relaxed, simple) in [
            (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n", " C \r\nD \t E\r\n"),
            ("", "", "\r\n"),
            ("\r\n\r\n", "", "\r\n"),
            (" \t\r\n", "", " \t\r\n"),
            ("abc\r\n  \r\n\r\n", "abc\r\n", "abc\r\n  \r\n"),
            ("a\r\n\r\n b", "a\r\n\r\n b\r\n", "a\r\n\r\n b\r\n"),
            ("bare\nline\rends\r\n", "bare\r\nline\r\nends\r\n", "bare\r\nline\r\nends\r\n"),
            ("no end", "no end\r\n", "no end\r\n"),
        ] {
            assert_eq!(of(Form::Relaxed, text.as_bytes()), relaxed, "{text:?}");
            assert_eq!(of(Form::Simple, text.as_bytes()), simple, "{text:?}");
        }
    }

    #[test]
    fn header_fields_become_what_rfc_6376_says() {
        for (field, relaxed) in [
            ("A: X\r\n", "a:X\r\n"),
            ("B : Y\t\r\n\tZ  \r\n", "b:Y Z\r\n"),
            ("SubJect:  two  words", "subject:two words\r\n"),
            ("Empty:\r\n", "empty:\r\n"),
        ] {
            let mut out = Vec::new();
            relaxed_field(field.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), relaxed);
        }
    }

    proptest! {
        #[test]
        fn a_canonical_form_is_its_own_canonical_form(
            text in prop::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b' '), Just(b'\t'), any::<u8>()
            ], 0..300),
        ) {
            for form in [Form::Simple, Form::Relaxed] {
                let mut once = Vec::new();
                body(form, &text, |piece| once.extend_from_slice(piece));
                let mut twice = Vec::new();
                body(form, &once, |piece| twice.extend_from_slice(piece));
                prop_assert_eq!(once, twice);
            }
        }
    }
}
