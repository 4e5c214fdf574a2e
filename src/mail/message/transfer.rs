//! Content-Transfer-Encoding undone, as leniently as the most lenient client.

/// What was decoded, never more than the limit asked for.
#[derive(Debug, Default)]
pub struct Decoded {
    pub bytes: Vec<u8>,
    /// Something stood there that the encoding does not allow: other readers may see other text.
    pub damaged: bool,
    /// There was more than the limit.
    pub cut: bool,
}

/// Base64 (RFC 2045 section 6.8): characters outside the alphabet are passed over, padding ends a
/// group but not the text (several encoded texts in a row are seen in the wild).
pub fn base64(encoded: &[u8], limit: usize) -> Decoded {
    let mut out =
        Decoded { bytes: Vec::with_capacity((encoded.len() / 4 * 3).min(limit)), ..Decoded::default() };
    let (mut group, mut bits) = (0u32, 0u32);
    for &byte in encoded {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                (group, bits) = (0, 0);
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            _ => {
                out.damaged = true;
                continue;
            }
        };
        group = group << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            if out.bytes.len() >= limit {
                out.cut = true;
                return out;
            }
            out.bytes.push((group >> bits) as u8);
            group &= (1 << bits) - 1;
        }
    }
    out
}

/// Quoted-printable (RFC 2045 section 6.7): `=` before anything else than two hex digits or a line
/// end stands for itself.
pub fn quoted_printable(encoded: &[u8], limit: usize) -> Decoded {
    let mut out = Decoded { bytes: Vec::with_capacity(encoded.len().min(limit)), ..Decoded::default() };
    let mut rest = encoded;
    while let Some((&byte, tail)) = rest.split_first() {
        if out.bytes.len() >= limit {
            out.cut = true;
            return out;
        }
        rest = tail;
        if byte != b'=' {
            out.bytes.push(byte);
            continue;
        }
        if let Some((octet, after)) = hex_pair(tail) {
            out.bytes.push(octet);
            rest = after;
        } else if let Some(after) = soft_break(tail) {
            rest = after;
        } else {
            out.bytes.push(b'=');
            out.damaged = true;
        }
    }
    out
}

pub fn hex_pair(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let (&[high, low], after) = text.split_first_chunk()?;
    Some((digit(high)? << 4 | digit(low)?, after))
}

/// What follows a soft line break: blanks, then a line end or the end of the text.
fn soft_break(text: &[u8]) -> Option<&[u8]> {
    // The blanks are bounded, else a text of `=` and blanks would cost the square of its length.
    let blanks = text.iter().take(998).take_while(|b| matches!(b, b' ' | b'\t')).count();
    let text = &text[blanks..];
    let text = text.strip_prefix(b"\r").unwrap_or(text);
    if text.is_empty() { Some(text) } else { text.strip_prefix(b"\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_reads_what_a_lenient_client_reads() {
        for (encoded, decoded) in [
            ("Zm9yYmlkZGVu", "forbidden"),
            ("Zm9y\r\n\r\nYmlk ZGVu", "forbidden"),
            ("Zm9yYg==aWRkZW4=", "forbidden"),
            ("Zm9y*YmlkZGVu", "forbidden"),
            ("Zm9yYmlkZGV", "forbidde"),
            ("====", ""),
        ] {
            assert_eq!(base64(encoded.as_bytes(), 100).bytes, decoded.as_bytes(), "{encoded}");
        }
        let cut = base64(b"Zm9yYmlkZGVu", 3);
        assert!(cut.cut && cut.bytes == b"for");
    }

    #[test]
    fn quoted_printable_reads_what_a_lenient_client_reads() {
        for (encoded, decoded) in [
            ("=66=6F=72bidden", "forbidden"),
            ("=6f", "o"),
            ("for=\r\nbidden", "forbidden"),
            ("for= \t\nbidden", "forbidden"),
            ("1=2 =zz =", "1=2 =zz "),
        ] {
            assert_eq!(quoted_printable(encoded.as_bytes(), 100).bytes, decoded.as_bytes(), "{encoded}");
        }
    }
}
