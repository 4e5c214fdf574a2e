//! RFC 2047 encoded words, read as leniently as the most lenient client.

use super::{charset, transfer};

/// Longest charset (with language, RFC 2231) of an encoded word that is worth looking at.
const MAX_CHARSET: usize = 64;

struct Word<'a> {
    charset: &'a str,
    bytes: Vec<u8>,
    /// What follows it.
    rest: &'a str,
}

/// Decodes every encoded word, wherever it stands. White space between two of them vanishes (section
/// 6.2); neighbours of one charset are joined before decoding, since a character may be split over them.
pub fn decode_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut pending: Option<(&str, Vec<u8>)> = None;
    // Behind the last `?=` nothing can be a word; looking for an end there would be quadratic.
    let last_end = text.rfind("?=").unwrap_or(0);
    while let Some(start) = rest.find("=?") {
        if text.len() - rest.len() + start >= last_end {
            break;
        }
        let (before, from) = rest.split_at(start);
        let Some(word) = word_at(from) else {
            flush(&mut out, &mut pending);
            out.push_str(before);
            out.push_str("=?");
            rest = &from[2..];
            continue;
        };
        let between_words = pending.is_some() && before.chars().all(char::is_whitespace);
        match &mut pending {
            Some((charset, bytes)) if between_words && charset.eq_ignore_ascii_case(word.charset) => {
                bytes.extend(word.bytes);
            }
            _ => {
                flush(&mut out, &mut pending);
                if !between_words {
                    out.push_str(before);
                }
                pending = Some((word.charset, word.bytes));
            }
        }
        rest = word.rest;
    }
    flush(&mut out, &mut pending);
    out.push_str(rest);
    out
}

fn flush(out: &mut String, pending: &mut Option<(&str, Vec<u8>)>) {
    if let Some((label, bytes)) = pending.take() {
        let text = charset::by_label(&bytes, label).filter(|text| !text.contains('\u{fffd}'));
        out.push_str(&text.unwrap_or_else(|| charset::guess(&bytes)));
    }
}

/// The encoded word at the start of `text`, which begins with `=?`.
fn word_at(text: &str) -> Option<Word<'_>> {
    let (charset, after) = text[2..].split_once('?').filter(|(charset, _)| charset.len() <= MAX_CHARSET)?;
    let encoding = after.as_bytes().first()?.to_ascii_lowercase();
    let body = after.get(1..)?.strip_prefix('?')?;
    let end = body.find("?=")?;
    let bytes = match encoding {
        b'b' => transfer::base64(&body.as_bytes()[..end], usize::MAX).bytes,
        b'q' => {
            let spaced = body[..end].replace('_', " ");
            transfer::quoted_printable(spaced.as_bytes(), usize::MAX).bytes
        }
        _ => return None,
    };
    let charset = charset.split('*').next().unwrap_or(charset);
    Some(Word { charset, bytes, rest: &body[end + 2..] })
}

#[cfg(test)]
mod tests {
    use super::decode_words;

    #[test]
    fn encoded_words_read_as_clients_show_them() {
        for (encoded, shown) in [
            ("plain", "plain"),
            ("=?utf-8?Q?a_forbidden_t=C3=B6pic?=", "a forbidden töpic"),
            ("=?utf-8?B?dGhlIGZvcmJp?= =?utf-8?B?ZGRlbiBlbmQ=?=", "the forbidden end"),
            ("=?iso-8859-1?Q?=FCber_forb?=  =?iso-8859-1?Q?idden?=", "über forbidden"),
            ("=?utf-8?Q?for_?= =?utf-8?Q?bidden?=", "for bidden"),
            ("=?utf-8?q?a=C3?= =?utf-8?q?=B6b?=", "aöb"),
            ("=?iso-8859-1*de?q?=FC?= x", "ü x"),
            ("=?utf-8?q?=66orbidden?=", "forbidden"),
            ("x=?utf-8?q?a?=y=?utf-8?q?b?=", "xayb"),
            ("=?nobody?q?gr=F6?=", "grö"),
            ("=?utf-8?x?a?= =?", "=?utf-8?x?a?= =?"),
        ] {
            assert_eq!(decode_words(encoded), shown, "{encoded}");
        }
    }

    #[test]
    fn bait_is_read_in_linear_time() {
        assert!(decode_words(&"=?utf-8?q?".repeat(100_000)).len() <= 1_000_000);
        for piece in ["=?x?", "=? ", "=?x?q? ", "=?x?z?"] {
            let bait = format!("{}?=", piece.repeat(100_000));
            assert!(decode_words(&bait).len() <= bait.len());
        }
    }
}
