//! Content-Type and Content-Disposition: type and parameters (RFC 2045, RFC 2231), duplicates kept.

use super::{charset, encoded, transfer};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Media {
    /// `type/subtype` of a Content-Type, the bare token of a Content-Disposition; lower case.
    pub kind: String,
    /// Lower-case names; a name may stand there twice, since clients differ in which one they take.
    params: Vec<(String, String)>,
}

impl Media {
    /// Reads an unfolded field value; never fails.
    pub fn read(value: &str) -> Self {
        let text = without_comments(value);
        let kind_end = text.find([';', ' ', '\t']).unwrap_or(text.len());
        let kind = text[..kind_end].to_ascii_lowercase();
        let mut raw = Vec::new();
        let mut rest = &text[kind_end..];
        loop {
            // Blanks and commas are taken for separators too: some clients do.
            rest = rest.trim_start_matches([';', ',', ' ', '\t']);
            if rest.is_empty() {
                break;
            }
            let name_end = rest.find(['=', ';']).unwrap_or(rest.len());
            let name = rest[..name_end].trim().to_ascii_lowercase();
            let Some(after) = rest[name_end..].strip_prefix('=') else {
                rest = &rest[name_end..];
                continue;
            };
            let (value, after) = value_at(after.trim_start());
            raw.push((name, value));
            rest = after;
        }
        Self { kind, params: assemble(raw) }
    }

    pub fn main_type(&self) -> &str {
        self.kind.split('/').next().unwrap_or_default()
    }

    /// Every value of a parameter, without repetitions.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let mut values: Vec<&str> = Vec::new();
        for (_, value) in self.params.iter().filter(|(n, _)| n == name) {
            if !values.contains(&value.as_str()) {
                values.push(value);
            }
        }
        values
    }

    pub fn first(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// A value and what follows it: a quoted string, or all up to a separator.
fn value_at(text: &str) -> (String, &str) {
    let Some(inner) = text.strip_prefix('"') else {
        let end = text.find([';', ' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &inner[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            _ => value.push(c),
        }
    }
    (value, "")
}

/// Removes comments (RFC 5322 section 3.2.2) outside quoted strings.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut depth, mut quoted) = (0usize, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted || depth > 0 => {
                let next = chars.next();
                if depth == 0 {
                    out.push(c);
                    out.extend(next);
                }
                continue;
            }
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth > 0 => {
                depth -= 1;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            out.push(c);
        }
    }
    out.trim().to_owned()
}

/// Puts continued and encoded parameters together (RFC 2231 sections 3 and 4); decodes encoded words
/// in the others, against the letter of RFC 2047 and with all clients.
fn assemble(raw: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut params = Vec::new();
    let mut sections: Vec<(String, u32, bool, String)> = Vec::new();
    for (name, value) in raw {
        let Some((base, tail)) = name.split_once('*') else {
            params.push((name, encoded::decode_words(&value)));
            continue;
        };
        let extended = tail.is_empty() || tail.ends_with('*');
        let number = tail.trim_end_matches('*').parse().unwrap_or(0);
        sections.push((base.to_owned(), number, extended, value));
    }
    sections.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    for run in sections.chunk_by(|a, b| a.0 == b.0) {
        let mut label = None;
        let mut bytes = Vec::new();
        for (at, (_, _, extended, value)) in run.iter().enumerate() {
            let mut text = value.as_str();
            if at == 0 && *extended {
                let mut pieces = text.splitn(3, '\'');
                if let (Some(charset), Some(_), Some(rest)) = (pieces.next(), pieces.next(), pieces.next()) {
                    label = Some(charset);
                    text = rest;
                }
            }
            if *extended { percent(text, &mut bytes) } else { bytes.extend(text.bytes()) }
        }
        let text = label.and_then(|label| charset::by_label(&bytes, label));
        params.push((run[0].0.clone(), text.unwrap_or_else(|| charset::guess(&bytes))));
    }
    params
}

fn percent(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, transfer::hex_pair(tail)) {
            (b'%', Some((octet, after))) => {
                out.push(octet);
                rest = after;
            }
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Media;

    #[test]
    fn parameters_are_read_in_every_spelling() {
        for (value, name, expected) in [
            ("text/plain; charset=utf-8", "charset", "utf-8"),
            ("TEXT/Plain;CHARSET=\"utf-8\"", "charset", "utf-8"),
            ("text/plain (a ; comment=x) ; charset=(y)utf-8", "charset", "utf-8"),
            ("text/plain charset=utf-8", "charset", "utf-8"),
            ("a/b; name=\"x \\\"y\\\"; z\"", "name", "x \"y\"; z"),
            ("a/b; name*=utf-8'de'gr%C3%B6%C3%9Fer.txt", "name", "größer.txt"),
            ("a/b; name*1=\"b c\"; name*0*=iso-8859-1''%FC", "name", "übc"),
            ("a/b; name=\"=?utf-8?q?gr=C3=B6?=\"", "name", "grö"),
            ("attachment; filename=x.txt", "filename", "x.txt"),
        ] {
            let media = Media::read(value);
            let got = media.first(name).unwrap_or_default();
            assert_eq!(got.replace(' ', ""), expected.replace(' ', ""), "{value}");
        }
        assert_eq!(Media::read("Multipart/Mixed; boundary=x; boundary=y").all("boundary"), ["x", "y"]);
        assert_eq!(Media::read("").kind, "");
    }
}
