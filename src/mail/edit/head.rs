//! The header section: fields added, replaced and prefixed, every other byte as it came.

use std::ops::Range;

use mail_parser::MessageParser;

use super::{Edit, encode};

/// Splits stored content into its header section and the rest. The rest begins with the empty line
/// that ends the header section, so `head + rest` is always the whole.
pub fn split(content: &[u8]) -> (&[u8], &[u8]) {
    let mut at = 0;
    for line in content.split_inclusive(|&b| b == b'\n') {
        if matches!(line, b"\r\n" | b"\n") {
            break;
        }
        at += line.len();
    }
    content.split_at(at)
}

/// Applies the edits that concern it to a header section (as [`split`] returns it). Without any the result is
/// `head`. Never fails and never panics: lines that are no header fields stay where they are.
pub(super) fn apply(head: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut added: Vec<(&str, &str)> = Vec::new();
    let mut prefixes: Vec<&str> = Vec::new();
    let mut replaced_names: Vec<&str> = Vec::new();
    for edit in edits {
        match edit {
            // Admission refuses such a name; written out, it would break the header section.
            Edit::AddHeader { name, .. } | Edit::SetHeader { name, .. }
                if !is_field_name(name.as_bytes()) => {}
            Edit::AddHeader { name, value } | Edit::SetHeader { name, value } => {
                if matches!(edit, Edit::SetHeader { .. }) {
                    replaced_names.push(name);
                }
                if !added.contains(&(name, value)) {
                    added.push((name, value));
                }
            }
            Edit::PrefixSubject { text } => {
                if !prefixes.contains(&text.as_str()) {
                    prefixes.push(text);
                }
            }
            Edit::RemoveAttachments(_)
            | Edit::Footer(_)
            | Edit::StripAmp
            | Edit::Smime { .. }
            | Edit::SmimeCbc { .. }
            | Edit::SmimeSign { .. }
            | Edit::Journal { .. } => {}
        }
    }
    if added.is_empty() && prefixes.is_empty() {
        return head.to_vec();
    }

    let fields = fields(head);
    let top = own_received(head);
    let mut insert = Vec::new();
    for (name, value) in &added {
        insert.extend(encode::field(name, value));
    }
    let mut replaced: Vec<(Range<usize>, Vec<u8>)> = Vec::new();
    if !prefixes.is_empty() {
        // Every Subject there is: which one of several a reader shows is anybody's guess.
        let subjects: Vec<&Field> = fields.iter().filter(|f| f.is(head, "Subject")).collect();
        for subject in &subjects {
            if let Some(new) = prefix_subject(&head[subject.span.clone()], subject.colon, &prefixes) {
                replaced.push((subject.span.clone(), new));
            }
        }
        if subjects.is_empty() {
            insert.extend(encode::subject(&prefixes, b"", b"\r\n"));
        }
    }
    for field in fields.iter().filter(|field| replaced_names.iter().any(|name| field.is(head, name))) {
        if field.span.start >= top && !field.is(head, "Subject") {
            replaced.push((field.span.clone(), Vec::new()));
        }
    }
    replaced.sort_by_key(|(span, _)| span.start);

    let mut out = Vec::with_capacity(head.len() + insert.len() + 128);
    let mut at = 0;
    let changes = std::iter::once((top..top, insert)).chain(replaced);
    for (span, bytes) in changes {
        // Our own Received is never changed, so the insertion point comes before every change.
        out.extend_from_slice(&head[at..span.start]);
        if !bytes.is_empty() && !out.is_empty() && !out.ends_with(b"\n") {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(&bytes);
        at = span.end;
    }
    out.extend_from_slice(&head[at..]);
    out
}

/// Where the gateway's own Received field ends, which is the first field of stored mail; 0 without one.
pub(super) fn own_received(head: &[u8]) -> usize {
    match fields(head).first() {
        Some(first) if first.span.start == 0 && first.is(head, "Received") => first.span.end,
        _ => 0,
    }
}

/// The field that a message with MIME in it needs, if it is missing.
pub(super) fn mime_version(head: &[u8]) -> Vec<u8> {
    match fields(head).iter().any(|field| field.is(head, "MIME-Version")) {
        true => Vec::new(),
        false => b"MIME-Version: 1.0\r\n".to_vec(),
    }
}

/// The rewritten field, or `None` when every prefix is already at the front.
fn prefix_subject(field: &[u8], colon: usize, prefixes: &[&str]) -> Option<Vec<u8>> {
    let line_end: &[u8] = if field.ends_with(b"\r\n") {
        b"\r\n"
    } else if field.ends_with(b"\n") {
        b"\n"
    } else {
        b""
    };
    let raw = &field[colon + 1..field.len() - line_end.len()];
    let decoded = decode(raw);
    let missing = missing(&decoded, prefixes);
    if missing.is_empty() {
        return None;
    }
    let rest = raw.trim_ascii_start();
    Some(encode::subject(&missing, rest, if line_end.is_empty() { b"\r\n" } else { line_end }))
}

/// The prefixes that are not yet at the front of a decoded subject, in their order.
fn missing<'a>(subject: &str, prefixes: &[&'a str]) -> Vec<&'a str> {
    let mut missing = prefixes.to_vec();
    let mut rest = subject.trim_start();
    while let Some((at, after)) = missing.iter().enumerate().find_map(|(at, prefix)| {
        let after = rest.strip_prefix('[')?.strip_prefix(*prefix)?.strip_prefix(']')?;
        (after.is_empty() || after.starts_with(char::is_whitespace)).then_some((at, after))
    }) {
        missing.remove(at);
        rest = after.trim_start();
    }
    missing
}

/// The text of a raw field value, unfolded and with encoded words decoded: by the same parser that
/// the rules read mail with.
pub(in crate::mail) fn decode(raw: &[u8]) -> String {
    let mut field = Vec::with_capacity(raw.len() + 16);
    field.extend_from_slice(b"Subject:");
    field.extend_from_slice(raw);
    field.extend_from_slice(b"\r\n\r\n");
    MessageParser::new()
        .default_header_text()
        .parse_headers(&field)
        .and_then(|message| message.subject().map(str::to_owned))
        .unwrap_or_default()
}

/// The decoded subject of a header section; the first one, if there are several.
pub fn subject_of(head: &[u8]) -> Option<String> {
    let subject = fields(head).into_iter().find(|field| field.is(head, "Subject"))?;
    Some(decode(head[subject.span][subject.colon + 1..].trim_ascii_end()))
}

/// One header field: its bytes with continuation lines, and where its colon is.
struct Field {
    span: Range<usize>,
    colon: usize,
}

impl Field {
    fn is(&self, head: &[u8], name: &str) -> bool {
        head[self.span.start..self.span.start + self.colon]
            .trim_ascii_end()
            .eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of a header section in order; what is no field is not among them.
fn fields(head: &[u8]) -> Vec<Field> {
    let mut fields: Vec<Field> = Vec::new();
    let mut at = 0;
    let mut continues = false;
    for line in head.split_inclusive(|&b| b == b'\n') {
        let span = at..at + line.len();
        at = span.end;
        if matches!(line.first(), Some(b' ' | b'\t')) {
            if let Some(field) = fields.last_mut().filter(|_| continues) {
                field.span.end = span.end;
            }
            continue;
        }
        let colon = line.iter().position(|&b| b == b':');
        // Blanks before the colon are obsolete syntax (RFC 5322 section 4.5), still read by everyone.
        let colon = colon.filter(|&colon| is_field_name(line[..colon].trim_ascii_end()));
        continues = colon.is_some();
        if let Some(colon) = colon {
            fields.push(Field { span, colon });
        }
    }
    fields
}

/// RFC 5322 section 3.6.8: printable ASCII without the colon.
fn is_field_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&b| b.is_ascii_graphic() && b != b':')
}
