//! Small writers for text inside a message: transfer encodings, HTML escapes, boundaries.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The longest line that is written as it is (RFC 5322 section 2.1.1 allows 998).
const LONGEST: usize = 900;

/// Whether text can stand in a message as it is: ASCII, no control characters, lines not too long.
pub(super) fn is_seven_bit(text: &[u8]) -> bool {
    let fine = |b: &u8| matches!(b, b' '..=b'~' | b'\t' | b'\r' | b'\n');
    text.iter().all(fine) && has_short_lines(text)
}

pub(super) fn has_short_lines(text: &[u8]) -> bool {
    text.split(|&b| b == b'\n').all(|line| line.len() <= LONGEST)
}

/// Text in quoted-printable (RFC 2045 section 6.7): line ends stay line ends, lines of at most 76.
pub(super) fn quoted_printable(text: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len() + text.len() / 8);
    let mut width = 0;
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        let rest = &text[at + 1..];
        if byte == b'\r' && rest.first() == Some(&b'\n') {
            out.extend_from_slice(b"\r\n");
            (width, at) = (0, at + 2);
            continue;
        }
        at += 1;
        let at_end = rest.is_empty() || rest.starts_with(b"\r\n");
        let plain = match byte {
            b' ' | b'\t' => !at_end,
            b'=' => false,
            // A line of one dot, or one that begins with "From ", is not safe everywhere.
            b'.' | b'F' if width == 0 => false,
            byte => byte.is_ascii_graphic(),
        };
        let wanted = if plain { 1 } else { 3 };
        if width + wanted > if at_end { 76 } else { 75 } {
            out.extend_from_slice(b"=\r\n");
            width = 0;
        }
        if plain {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        width += wanted;
    }
    out
}

/// Base64 in lines of 76 characters, each with its line end.
pub(super) fn base64_lines(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / 57 * 78 + 80);
    for line in bytes.chunks(57) {
        out.extend_from_slice(STANDARD.encode(line).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Text for HTML, in ASCII, so that it is right in every charset.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_ascii() => out.push(c),
            c => out.push_str(&format!("&#{};", u32::from(c))),
        }
    }
    out
}

/// HTML in ASCII: what is not becomes a character reference.
pub(super) fn ascii_html(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    for c in html.chars() {
        if c.is_ascii() { out.push(c) } else { out.push_str(&format!("&#{};", u32::from(c))) }
    }
    out
}

/// A boundary that occurs nowhere in `bytes`; the same for the same bytes.
pub(super) fn boundary(bytes: &[u8], salt: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(salt.as_bytes());
    hasher.update(bytes);
    loop {
        let boundary = format!("=_{}", &hasher.finalize().to_hex()[..32]);
        if memchr::memmem::find(bytes, boundary.as_bytes()).is_none() {
            return boundary;
        }
        hasher.update(b"again");
    }
}

/// Lines ended by CRLF, whatever ended them.
pub(super) fn crlf(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join("\r\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::message::transfer;

    proptest! {
        #[test]
        fn what_is_written_in_quoted_printable_reads_back(
            text in prop::collection::vec(prop_oneof![Just(b"\r\n".to_vec()), any::<u8>().prop_filter("CR, LF", |b| !matches!(b, b'\r' | b'\n')).prop_map(|b| vec![b]), Just(b"words of text ".to_vec())], 0..200),
        ) {
            let text = text.concat();
            let written = quoted_printable(&text);
            prop_assert!(written.is_ascii());
            for line in written.split(|&b| b == b'\n') {
                prop_assert!(line.len() <= 77, "{}", line.len());
            }
            prop_assert_eq!(transfer::quoted_printable(&written, usize::MAX).bytes, text);
        }
    }
}
