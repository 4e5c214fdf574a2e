//! Text below a message (spec R91): inside the parts that a reader is shown, in their own charset and transfer
//! encoding, never in what is signed or encrypted, and only once.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};

use super::head;
use super::surgery::Splices;
use super::text;
use super::tree::{Form, Transfer, Tree};
use super::{Footer, Note};
use crate::mail::message::{Message, charset};

/// Begins our own footers in HTML, so that they are known again.
const MARK: &str = "<div class=\"postern-footer\">";

/// The message with `footers` below it, in their order; `None` when there is nothing to change.
pub(super) fn append(content: &[u8], footers: &[&Footer], notes: &mut Vec<Note>) -> Option<Vec<u8>> {
    let tree = Tree::read(content);
    if let Some(why) = tree.doubt {
        notes.push(Note::FooterLeftOut(why));
        return None;
    }
    let mut targets = Vec::new();
    displayed(&tree, &mut targets, notes);
    if targets.is_empty() && notes.iter().all(|note| !matches!(note, Note::FooterLeftOut(_))) {
        notes.push(Note::FooterLeftOut("it has no text"));
    }
    let mut splices = Splices::default();
    let mut changed = false;
    for part in targets {
        let this = &tree.parts[part];
        let new = if this.media.all("charset").len() > 1 {
            Err("a part names two charsets")
        } else if this.transfer == Transfer::Unknown {
            Err("its encoding is unknown")
        } else if this.media.kind == "text/html" {
            html(&tree, part, footers)
        } else {
            plain(&tree, part, footers)
        };
        match new {
            Ok(Some(change)) => {
                changed = true;
                change.splice(&tree, part, &mut splices);
            }
            Ok(None) => {}
            Err(why) => notes.push(Note::FooterLeftOut(why)),
        }
    }
    changed.then(|| splices.apply(content))
}

/// The text parts that a reader is shown as the message: every alternative, the root of what is related, the
/// first text of what is mixed.
fn displayed(tree: &Tree<'_>, targets: &mut Vec<usize>, notes: &mut Vec<Note>) {
    // Parts to look at, and how many texts there were before the multipart/mixed they belong to.
    let mut waiting: Vec<(usize, Option<usize>)> = vec![(0, None)];
    while let Some((part, satisfied_above)) = waiting.pop() {
        if satisfied_above.is_some_and(|before| targets.len() > before) {
            continue;
        }
        let Some(this) = tree.parts.get(part) else { continue };
        let attached =
            this.disposition.as_deref().is_some_and(|token| token != "inline" && !token.is_empty());
        if attached {
            continue;
        }
        if tree.cms(part).is_some()
            || tree.is_encrypted_multipart(part)
            || this.media.kind == "multipart/signed"
        {
            notes.push(Note::FooterLeftOut("it is signed or encrypted"));
            continue;
        }
        match this.form {
            Form::Message => {}
            Form::Leaf => {
                let shown = matches!(this.media.kind.as_str(), "text/plain" | "text/html" | "text");
                if shown && this.names.is_empty() {
                    targets.push(part);
                }
            }
            Form::Multipart => match this.media.kind.as_str() {
                "multipart/alternative" => {
                    waiting.extend(this.children.iter().rev().map(|&child| (child, None)));
                }
                "multipart/related" => waiting.extend(this.children.first().map(|&root| (root, None))),
                // One below the other: the text is the first that is one.
                _ => {
                    let before = Some(targets.len());
                    waiting.extend(this.children.iter().rev().map(|&child| (child, before)));
                }
            },
        }
    }
}

/// What becomes of a part.
struct Change {
    /// Written as `transfer` says.
    body: Vec<u8>,
    /// `None`: as it was.
    transfer: Option<&'static str>,
    /// The charset is UTF-8 now.
    to_utf8: bool,
}

impl Change {
    fn splice(self, tree: &Tree<'_>, part: usize, splices: &mut Splices) {
        let this = &tree.parts[part];
        let header = &tree.bytes[this.span.start..this.body];
        let message = Message::read(header);
        let end = this.span.start + super::split(header).0.len();
        let mut added = Vec::new();
        let range = |field: &crate::mail::message::Field<'_>| {
            this.span.start + field.offset..this.span.start + field.offset + field.length
        };
        // It speaks of other bytes now.
        message.all("content-md5").for_each(|field| splices.replace(range(field), []));
        if self.to_utf8 {
            let mut field = format!("Content-Type: {}; charset=utf-8", this.media.kind);
            for name in ["format", "delsp", "reply-type"] {
                let plain = |value: &&str| value.bytes().all(|b| b.is_ascii_alphanumeric());
                if let Some(value) = this.media.first(name).filter(plain) {
                    field.push_str(&format!("; {name}={value}"));
                }
            }
            message.all("content-type").for_each(|field| splices.replace(range(field), []));
            added.extend(format!("{field}\r\n").bytes());
        }
        if let Some(transfer) = self.transfer {
            message.all("content-transfer-encoding").for_each(|field| splices.replace(range(field), []));
            added.extend(format!("Content-Transfer-Encoding: {transfer}\r\n").bytes());
        }
        if !added.is_empty() && tree.multipart_of(part).is_none() {
            added = [head::mime_version(header), added].concat();
        }
        // A message without an empty line has nowhere to begin its body.
        if end == this.body {
            added.extend_from_slice(b"\r\n");
        }
        if !added.is_empty() && end > this.span.start && !tree.bytes[..end].ends_with(b"\n") {
            added.splice(0..0, *b"\r\n");
        }
        splices.replace(end..end, added);
        splices.replace(this.body..this.span.end, self.body);
    }
}

/// The charset a part names, and what it means.
fn charset_of(tree: &Tree<'_>, part: usize) -> Option<&'static Encoding> {
    let label = tree.parts[part].media.first("charset")?.trim();
    if label.eq_ignore_ascii_case("us-ascii") || label.eq_ignore_ascii_case("ascii") {
        return None;
    }
    Encoding::for_label(label.as_bytes())
}

fn text_of(tree: &Tree<'_>, part: usize, decoded: &[u8]) -> String {
    let label = tree.parts[part].media.first("charset");
    label.and_then(|label| charset::by_label(decoded, label)).unwrap_or_else(|| charset::guess(decoded))
}

fn plain(tree: &Tree<'_>, part: usize, footers: &[&Footer]) -> Result<Option<Change>, &'static str> {
    let this = &tree.parts[part];
    let flowed = this.media.first("format").is_some_and(|format| format.eq_ignore_ascii_case("flowed"));
    let decoded = tree.decoded(part);
    let existing = text_of(tree, part, &decoded);
    if existing.contains("-----BEGIN PGP ") {
        return Err("it is signed or encrypted");
    }
    let lines: Vec<String> = existing.lines().map(|line| unstuffed(line, flowed)).collect();
    let mut below = String::new();
    for footer in footers {
        let own: Vec<&str> = footer.text.lines().map(str::trim_end).collect();
        if own.iter().all(|line| line.is_empty()) || has_block(&lines, &own) || has_block_of(&below, &own) {
            continue;
        }
        below.push_str("\r\n");
        for line in footer.text.lines() {
            let ended = line.trim_end();
            // A blank at the end of a line would join it to the next one (RFC 3676 section 4.2), but for the
            // mark above a signature.
            let line = if line == "-- " { line } else { ended };
            let stuffed = flowed && [" ", ">", "From "].iter().any(|start| line.starts_with(start));
            below.push_str(if stuffed { " " } else { "" });
            below.push_str(line);
            below.push_str("\r\n");
        }
    }
    if below.is_empty() {
        return Ok(None);
    }
    // What is not there needs no line end before the footer.
    let below = if decoded.is_empty() { below.trim_start().to_owned() } else { below };
    let own = charset_of(tree, part);
    let named = this.media.first("charset").is_some();
    let bytes = match own {
        _ if below.is_ascii() && own.is_none_or(Encoding::is_ascii_compatible) => {
            Some(below.clone().into_bytes())
        }
        Some(encoding) if encoding.output_encoding() == encoding => {
            let (bytes, _, unmappable) = encoding.encode(&below);
            (!unmappable).then(|| bytes.into_owned())
        }
        _ => None,
    };
    if own.is_none() && named && bytes.is_none() && !is_ascii_label(tree, part) {
        return Err("its charset is unknown");
    }
    if let Some(bytes) = bytes {
        return Ok(Some(appended(tree, part, decoded, &bytes)));
    }
    // The charset has no such characters: the part becomes UTF-8, if all of it can be read.
    let text = match own {
        Some(encoding) => encoding
            .decode_without_bom_handling_and_without_replacement(&decoded)
            .ok_or("its text is not in the charset it names")?
            .into_owned(),
        None => match String::from_utf8(decoded) {
            Ok(text) => text,
            Err(error) => WINDOWS_1252.decode_without_bom_handling(error.as_bytes()).0.into_owned(),
        },
    };
    let whole = format!("{}{}{below}", text.trim_start_matches('\u{feff}'), line_end(text.as_bytes()));
    Ok(Some(rewritten(this.transfer, whole.as_bytes(), true)))
}

fn is_ascii_label(tree: &Tree<'_>, part: usize) -> bool {
    tree.parts[part]
        .media
        .first("charset")
        .is_some_and(|label| label.trim().to_ascii_lowercase().ends_with("ascii"))
}

/// A body with `more` behind it, everything before as it was written wherever the encoding allows.
fn appended(tree: &Tree<'_>, part: usize, decoded: Vec<u8>, more: &[u8]) -> Change {
    let raw = tree.raw_body(part);
    let kept = |written: &[u8]| Change { body: [raw, written].concat(), transfer: None, to_utf8: false };
    let end = line_end(&decoded);
    match tree.parts[part].transfer {
        Transfer::SevenBit if text::is_seven_bit(more) => kept(&[end.as_bytes(), more].concat()),
        Transfer::EightBit if text::has_short_lines(more) => kept(&[end.as_bytes(), more].concat()),
        Transfer::QuotedPrintable => {
            // A soft line break at the very end would swallow ours.
            let blank = raw.trim_ascii_end();
            let open = blank.ends_with(b"=") && !blank.ends_with(b"==");
            let end = if open && !raw.ends_with(b"\n") { "\r\n" } else { "" }.to_owned() + end;
            kept(&[end.as_bytes(), &text::quoted_printable(more)].concat())
        }
        transfer => {
            let whole = [&decoded[..], end.as_bytes(), more].concat();
            rewritten(transfer, &whole, false)
        }
    }
}

/// A body written anew.
fn rewritten(transfer: Transfer, whole: &[u8], to_utf8: bool) -> Change {
    match transfer {
        Transfer::Base64 => Change { body: text::base64_lines(whole), transfer: None, to_utf8 },
        Transfer::QuotedPrintable => Change { body: text::quoted_printable(whole), transfer: None, to_utf8 },
        Transfer::SevenBit | Transfer::EightBit | Transfer::Unknown => {
            Change { body: text::quoted_printable(whole), transfer: Some("quoted-printable"), to_utf8 }
        }
    }
}

/// What is missing to the end of the last line.
fn line_end(text: &[u8]) -> &'static str {
    if text.is_empty() || text.ends_with(b"\n") { "" } else { "\r\n" }
}

fn unstuffed(line: &str, flowed: bool) -> String {
    let line = line.trim_end();
    let line = if flowed { line.strip_prefix(' ').unwrap_or(line) } else { line };
    line.to_owned()
}

/// Whether the lines of a footer stand there, one after the other, below an empty line as it is written.
fn has_block(lines: &[String], block: &[&str]) -> bool {
    let bare = |line: &str| line.strip_prefix(' ').unwrap_or(line).to_owned();
    let is =
        |window: &[String]| window.iter().zip(block).all(|(line, own)| line == own || *line == bare(own));
    let mut windows = lines.windows(block.len().max(1)).enumerate();
    windows.any(|(at, window)| (at == 0 || lines[at - 1].is_empty()) && is(window))
}

fn has_block_of(text: &str, block: &[&str]) -> bool {
    let lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
    has_block(&lines, block)
}

fn html(tree: &Tree<'_>, part: usize, footers: &[&Footer]) -> Result<Option<Change>, &'static str> {
    let this = &tree.parts[part];
    let encoding = charset_of(tree, part);
    let decoded = tree.decoded(part);
    // Markup is searched as bytes, which is right wherever ASCII is ASCII.
    let compatible = encoding.is_none_or(Encoding::is_ascii_compatible)
        && Encoding::for_bom(&decoded).is_none_or(|(encoding, _)| encoding == UTF_8);
    let (source, to_utf8) = if compatible {
        (decoded, false)
    } else {
        let encoding = encoding.or_else(|| Some(Encoding::for_bom(&decoded)?.0)).unwrap_or(UTF_8);
        let (text, _, damaged) = encoding.decode(&decoded);
        if damaged {
            return Err("its text is not in the charset it names");
        }
        (text.into_owned().into_bytes(), true)
    };
    let at = end_of_body(&source);
    let present = own_footers(&source[..at]);
    let mut below = String::new();
    let mut added: Vec<String> = Vec::new();
    for footer in footers {
        let own = match &footer.html {
            Some(html) => text::ascii_html(&text::crlf(html)),
            None => {
                let lines: Vec<String> = footer.text.lines().map(text::escaped).collect();
                lines.join("<br>\r\n")
            }
        };
        let bare = squeezed(&own);
        if bare.is_empty() || present.contains(&bare) || added.contains(&bare) {
            continue;
        }
        added.push(bare);
        below.push_str(&format!("\r\n{MARK}\r\n{own}\r\n</div>"));
    }
    if below.is_empty() {
        return Ok(None);
    }
    below.push_str("\r\n");
    if to_utf8 {
        let whole = [&source[..at], below.as_bytes(), &source[at..]].concat();
        return Ok(Some(rewritten(this.transfer, &whole, true)));
    }
    let raw = tree.raw_body(part);
    let kept = |at: usize, written: &[u8]| Change {
        body: [&raw[..at], written, &raw[at..]].concat(),
        transfer: None,
        to_utf8: false,
    };
    Ok(Some(match this.transfer {
        Transfer::SevenBit | Transfer::EightBit if text::is_seven_bit(below.as_bytes()) => {
            kept(at, below.as_bytes())
        }
        Transfer::QuotedPrintable if at == source.len() && raw.ends_with(b"\n") => {
            kept(raw.len(), &text::quoted_printable(below.as_bytes()))
        }
        Transfer::QuotedPrintable if same_end(raw, &source[at..]) => {
            let at = raw.len() - (source.len() - at);
            let written = [b"=\r\n".as_slice(), &text::quoted_printable(below.as_bytes())].concat();
            kept(at, &written)
        }
        transfer => {
            let whole = [&source[..at], below.as_bytes(), &source[at..]].concat();
            rewritten(transfer, &whole, false)
        }
    }))
}

/// Whether what is behind the footer is written in quoted-printable as it reads.
fn same_end(raw: &[u8], end: &[u8]) -> bool {
    !end.contains(&b'=') && raw.ends_with(end)
}

/// Where the body of an HTML text ends: before its last end tag.
fn end_of_body(source: &[u8]) -> usize {
    let last = |tag: &[u8]| {
        let mut starts = memchr::memrchr_iter(b'<', source);
        starts.find(|&at| source.get(at..at + tag.len()).is_some_and(|s| s.eq_ignore_ascii_case(tag)))
    };
    last(b"</body").or_else(|| last(b"</html")).unwrap_or(source.len())
}

/// The footers of ours at the end of a text.
fn own_footers(source: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source.trim_ascii_end();
    while let Some(inner) = rest.strip_suffix(b"</div>") {
        let Some(start) = memchr::memmem::rfind(inner, MARK.as_bytes()) else { break };
        found.push(squeezed(&String::from_utf8_lossy(&inner[start + MARK.len()..])));
        rest = inner[..start].trim_ascii_end();
    }
    found
}

/// Without white space, which relays may change.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
