//! What tests of bodies share: messages by their parts, and what an edited one must still be.

use mail_parser::{MessageParser, MimeHeaders};

use super::super::*;

pub const FRONT: &str = "Received: from app ([192.0.2.1])\r\n\tby gw with ESMTP id 1\r\nFrom: ani@solarmora.com\r\n\
                         To: b@partner.example\r\nSubject: s\r\nMIME-Version: 1.0\r\n";

/// A message: fields about the content, an empty line, the body.
pub fn message(content: &str) -> Vec<u8> {
    format!("{FRONT}{content}").into_bytes()
}

/// A multipart as an entity: its Content-Type, an empty line, preamble, parts, epilogue.
pub fn multipart(kind: &str, boundary: &str, parts: &[&str]) -> String {
    let mut text =
        format!("Content-Type: multipart/{kind}; boundary=\"{boundary}\"\r\n\r\npreamble {boundary}\r\n");
    for part in parts {
        text += &format!("--{boundary}\r\n{part}\r\n");
    }
    text + &format!("--{boundary}--\r\nepilogue {boundary}\r\n")
}

pub const PLAIN: &str = "Content-Type: text/plain; charset=utf-8\r\n\r\nHello,\r\nplain text.\r\n";
pub const HTML: &str = "Content-Type: text/html; charset=utf-8\r\n\r\n<html><body><p>Hello</p>\
                        <img src=\"cid:logo@x\"></body></html>\r\n";
pub const PDF: &str = "Content-Type: application/pdf; name=\"Report.pdf\"\r\nContent-Disposition: attachment;\r\n \
                       filename=\"Report.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERi0xLjQKJcOkw7zDtsOfCg==\r\n";
/// The one-pixel PNG.
pub const LOGO: &str = "Content-Type: image/png; name=\"logo.png\"\r\nContent-ID: <logo@x>\r\nContent-Disposition: inline; \
                        filename=\"logo.png\"\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==\r\n";

/// The edited message and its notes. Applied again it stays what it is.
#[track_caller]
pub fn edited(content: &[u8], edits: &[Edit]) -> (String, Vec<Note>) {
    let once = apply_all(content, edits).expect("it can be edited");
    let notes = once.notes.clone();
    let once = once.into_bytes();
    let twice = apply_all(&once, edits).expect("it can be edited again").into_bytes();
    assert_eq!(String::from_utf8_lossy(&once), String::from_utf8_lossy(&twice), "twice is once");
    (String::from_utf8(once).expect("test messages are UTF-8"), notes)
}

/// The leaves of a message as another parser sees them: `type name decoded`.
pub fn leaves(content: &[u8]) -> Vec<String> {
    let message = MessageParser::new().parse(content).expect("it parses");
    let leaf = |part: &mail_parser::MessagePart<'_>| {
        let kind = part.content_type().map_or_else(
            || "text/plain".to_owned(),
            |c| format!("{}/{}", c.ctype(), c.subtype().unwrap_or_default()),
        );
        (!kind.starts_with("multipart")).then(|| {
            let name = part.attachment_name().unwrap_or("-");
            let text = String::from_utf8_lossy(part.contents()).trim().replace("\r\n", "|");
            format!("{kind} {name} {}", text.chars().take(60).collect::<String>())
        })
    };
    message.parts.iter().filter_map(leaf).collect()
}

/// Every one of `parts` is there, byte for byte.
#[track_caller]
pub fn has(text: &str, parts: &[&str]) {
    for part in parts {
        let part = part.trim_end_matches("\r\n");
        assert!(text.contains(part), "missing:\n{part}\nin:\n{text}");
    }
}
