//! A journal (spec R46): who sent what to whom, as text, and the message exactly as it came. The same message
//! makes the same journal, byte for byte.

use super::encode;
use super::head;
use super::text;
use crate::mail::message::{Field, Message};

/// The whole journal message: our own Received stays on top, all else is inside.
pub(super) fn wrap(content_head: &[u8], rest: &[u8], sender: &str, recipients: &[String]) -> Vec<u8> {
    let received = head::own_received(content_head);
    let (trace, inner) = content_head.split_at(received);
    let message = Message::read(inner);
    let first = |name: &str| message.all(name).next().map(Field::decoded).filter(|value| !value.is_empty());

    let mut hasher = blake3::Hasher::new();
    for piece in [sender.as_bytes(), inner, rest].into_iter().chain(recipients.iter().map(String::as_bytes)) {
        hasher.update(&(piece.len() as u64).to_le_bytes());
        hasher.update(piece);
    }
    let id = hasher.finalize().to_hex();
    let domain = sender.rsplit_once('@').map_or("journal.invalid", |(_, domain)| domain);
    let domain: String = domain.chars().filter(|c| c.is_ascii_alphanumeric() || ".-".contains(*c)).collect();
    let domain = if domain.is_empty() { "journal.invalid".to_owned() } else { domain };

    let mut out = trace.to_vec();
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.extend_from_slice(b"\r\n");
    }
    let mut field = |name: &str, value: &str| out.extend(encode::field(name, value));
    // The author of the message is not the author of the journal; a group without members is nobody (RFC 6854).
    match sender.is_ascii() && !sender.is_empty() {
        true => field("From", &format!("Journal <{sender}>")),
        false => field("From", "Journal:;"),
    }
    field(
        "Subject",
        &first("Subject").map_or_else(|| "Journal".to_owned(), |subject| format!("Journal: {subject}")),
    );
    if let Some(date) = date(trace, &message) {
        field("Date", &date);
    }
    field("Message-ID", &format!("<journal.{}@{domain}>", &id[..32]));
    field("Auto-Submitted", "auto-generated");
    field("X-Auto-Response-Suppress", "All");
    field("MIME-Version", "1.0");

    let none = || "(none)".to_owned();
    let mut lines = vec![
        format!("Sender: {}", if sender.is_empty() { "<>" } else { sender }),
        format!("Message-ID: {}", first("Message-ID").unwrap_or_else(none)),
        format!("Date: {}", first("Date").unwrap_or_else(none)),
        format!("Recipients: {}", recipients.len()),
    ];
    lines.extend(recipients.iter().map(|recipient| format!("  {recipient}")));
    let envelope = lines.join("\r\n").replace(['\u{0}', '\u{b}', '\u{c}'], " ") + "\r\n";
    let (envelope, transfer) = if text::is_seven_bit(envelope.as_bytes()) {
        (envelope.into_bytes(), "7bit")
    } else {
        (text::quoted_printable(envelope.as_bytes()), "quoted-printable")
    };

    let (ascii_head, ascii) = (inner.is_ascii(), inner.is_ascii() && rest.is_ascii());
    let eight = if ascii { "7bit" } else { "8bit" };
    // Header fields in UTF-8 make it another kind of message (RFC 6532 section 3.7).
    let kind =
        if !ascii_head && std::str::from_utf8(inner).is_ok() { "message/global" } else { "message/rfc822" };
    let boundary = journal_boundary(inner, rest, &id[32..]);
    out.extend(
        format!(
            "Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\nContent-Transfer-Encoding: {eight}\r\n\r\n\
             --{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: {transfer}\r\n\r\n"
        )
        .bytes(),
    );
    out.extend_from_slice(&envelope);
    out.extend(
        format!(
            "--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {eight}\r\n\
             Content-Disposition: attachment\r\n\r\n"
        )
        .bytes(),
    );
    out.extend_from_slice(inner);
    out.extend_from_slice(rest);
    out.extend(format!("\r\n--{boundary}--\r\n").bytes());
    out
}

/// A boundary that occurs nowhere in the message.
fn journal_boundary(head: &[u8], rest: &[u8], seed: &str) -> String {
    let mut boundary = format!("=_{seed}");
    while [head, rest].iter().any(|piece| memchr::memmem::find(piece, boundary.as_bytes()).is_some()) {
        boundary = text::boundary(rest, &boundary);
    }
    boundary
}

/// The date of the message, else of its arrival here.
fn date(trace: &[u8], message: &Message<'_>) -> Option<String> {
    let arrival = || {
        let text = String::from_utf8_lossy(trace).replace(['\r', '\n'], " ");
        text.rsplit_once(';').map(|(_, date)| date.trim().to_owned())
    };
    message.all("Date").next().map(Field::decoded).filter(|date| !date.is_empty()).or_else(arrival)
}
