//! Bytes → text, in each way a client may take the charset.

use encoding_rs::{Encoding, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Text of unknown charset: UTF-8 if valid, else windows-1252 (design section 9).
pub fn guess(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(),
    }
}

/// Decodes by a label, as a header names it; `None` if nobody knows the label.
pub fn by_label(bytes: &[u8], label: &str) -> Option<String> {
    let label = label.trim().trim_matches(['"', '\'']);
    if is_utf7(label) {
        return Some(utf7(bytes));
    }
    if let Some(encoding) = Encoding::for_label(label.as_bytes())
        // Its "replacement" stands for charsets browsers refuse to decode; readers of mail do.
        && encoding != encoding_rs::REPLACEMENT
    {
        return Some(encoding.decode(bytes).0.into_owned());
    }
    mail_parser::decoders::charsets::map::charset_decoder(label.as_bytes()).map(|decode| decode(bytes))
}

/// Every text a client may make of a part with these charset labels; the first is the proper one.
pub fn readings(bytes: &[u8], labels: &[&str]) -> Vec<String> {
    if let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return vec![encoding.decode(bytes).0.into_owned()];
    }
    let mut readings = Vec::new();
    for label in labels {
        let Some(text) = by_label(bytes, label) else { continue };
        let utf16 = Encoding::for_label(label.trim().as_bytes()).is_some_and(|e| e == UTF_16LE);
        if utf16 {
            // No mark: RFC 2781 says big-endian, practice says little-endian.
            add(&mut readings, UTF_16BE.decode_without_bom_handling(bytes).0.into_owned());
        }
        let damaged = text.contains('\u{fffd}');
        add(&mut readings, text);
        if damaged {
            add(&mut readings, guess(bytes));
        }
    }
    let utf8 = std::str::from_utf8(bytes);
    if readings.is_empty() {
        if let Some(text) = utf16_without_mark(bytes) {
            readings.push(text);
        }
        add(&mut readings, guess(bytes));
    } else if let Ok(text) = utf8
        && !text.is_ascii()
    {
        // Valid UTF-8 under another label is almost surely a wrong label.
        add(&mut readings, text.to_owned());
    }
    readings
}

fn add(readings: &mut Vec<String>, text: String) {
    if !readings.contains(&text) {
        readings.push(text);
    }
}

/// Text whose every other byte is zero, near enough.
fn utf16_without_mark(bytes: &[u8]) -> Option<String> {
    let sample = &bytes[..bytes.len().min(4096)];
    let zeros = |odd: usize| sample.iter().skip(odd).step_by(2).filter(|b| **b == 0).count();
    let most = sample.len() * 2 / 5;
    let encoding = match (zeros(0), zeros(1)) {
        (0, odd) if odd > most => UTF_16LE,
        (even, 0) if even > most => UTF_16BE,
        _ => return None,
    };
    Some(encoding.decode_without_bom_handling(bytes).0.into_owned())
}

/// The first characters of a text whose charset nobody named, for telling what it is.
pub fn beginning(bytes: &[u8]) -> String {
    let sample = &bytes[..bytes.len().min(1024)];
    if let Some((encoding, _)) = Encoding::for_bom(sample) {
        return encoding.decode(sample).0.into_owned();
    }
    utf16_without_mark(sample).unwrap_or_else(|| String::from_utf8_lossy(sample).into_owned())
}

/// Whether bytes of no text type read as text all the same.
pub fn looks_like_text(bytes: &[u8]) -> bool {
    const BINARY: [&[u8]; 9] = [
        b"\x89PNG",
        b"GIF8",
        b"\xff\xd8\xff",
        b"PK\x03\x04",
        b"\x1f\x8b",
        b"BM",
        b"RIFF",
        b"\x7fELF",
        b"OggS",
    ];
    if bytes.is_empty() {
        return false;
    }
    if Encoding::for_bom(bytes).is_some() {
        return true;
    }
    let sample = &bytes[..bytes.len().min(4096)];
    // "BM" alone starts many words; a bitmap goes on with binary numbers, seen below.
    if BINARY.iter().any(|magic| *magic != b"BM" && sample.starts_with(magic)) {
        return false;
    }
    if utf16_without_mark(bytes).is_some() {
        return true;
    }
    let control = |b: &&u8| **b < 32 && !matches!(**b, b'\t' | b'\n' | b'\r' | 0x0c | 0x1b);
    sample.iter().filter(control).count() * 50 < sample.len()
}

fn is_utf7(label: &str) -> bool {
    ["utf-7", "utf7", "unicode-1-1-utf-7", "csunicode11utf7"].iter().any(|l| label.eq_ignore_ascii_case(l))
}

/// UTF-7 (RFC 2152). Written here because a run that ends with the text, or with a character other
/// than `-`, must not be lost: it is where a word would hide.
fn utf7(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut plain = Vec::new();
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'+' {
            plain.push(byte);
            continue;
        }
        text.push_str(&guess(&std::mem::take(&mut plain)));
        let run = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')).count();
        if run == 0 {
            text.push('+');
        } else {
            let octets = super::transfer::base64(&rest[..run], usize::MAX).bytes;
            let units = octets.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            text.extend(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
        }
        rest = &rest[run..];
        rest = rest.strip_prefix(b"-").unwrap_or(rest);
    }
    text.push_str(&guess(&plain));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_mail_are_known() {
        let (thai, _, _) = encoding_rs::WINDOWS_874.encode("ประกาศ");
        for (label, bytes, text) in [
            ("windows-874", thai.as_ref(), "ประกาศ"),
            ("KOI8-R", b"\xd3\xcc\xcf\xd7\xcf".as_slice(), "слово"),
            ("iso-2022-jp", b"\x1b$B5!L)\x1b(B x", "機密 x"),
            ("utf-7", b"it is +AGY-orbidden", "it is forbidden"),
            ("utf-7", b"+AGYAbwBy", "for"),
            ("utf-7", b"a +AGY, b +- c +-", "a f, b + c +"),
            ("ibm850", b"\x9b", "ø"),
        ] {
            assert_eq!(by_label(bytes, label).as_deref(), Some(text), "{label}");
        }
        assert_eq!(by_label(b"x", "no-such-charset"), None);
    }

    #[test]
    fn a_wrong_or_missing_label_still_reads() {
        assert_eq!(readings("größer".as_bytes(), &[]), ["größer"]);
        assert_eq!(readings(b"gr\xf6\xdfer", &[]), ["größer"]);
        assert_eq!(readings(b"gr\xf6\xdfer", &["utf-8"]).last().unwrap(), "größer");
        assert!(readings("größer".as_bytes(), &["koi8-r"]).contains(&"größer".to_owned()));
        assert_eq!(readings(b"w\0o\0r\0d\0", &[]).first().unwrap(), "word");
        assert!(readings(b"\0w\0o\0r\0d", &["utf-16"]).contains(&"word".to_owned()));
    }

    #[test]
    fn pictures_are_no_text_and_notes_are() {
        assert!(looks_like_text(b"forbidden\r\n") && looks_like_text(b"BMW is a word"));
        assert!(!looks_like_text(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"));
        assert!(!looks_like_text(&[0, 1, 2, 3, 4, 5, 6, 7, 65, 66]));
    }
}
