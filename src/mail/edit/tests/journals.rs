//! The journal of a message (spec R46).

use mail_parser::{MessageParser, PartType};

use super::super::*;
use super::bodies::*;

fn journal(recipients: &[&str]) -> Edit {
    Edit::Journal {
        sender: "ani@solarmora.com".to_owned(),
        recipients: recipients.iter().map(|r| (*r).to_owned()).collect(),
    }
}

#[test]
fn r046_a_journal_names_the_envelope_and_holds_the_message_as_it_came() {
    let content = format!(
        "{FRONT}Message-ID: <1@solarmora.com>\r\nDate: Sun, 22 Nov 2026 07:00:00 +0000\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n.\r\nend"
    );
    let out = apply_all(content.as_bytes(), &[journal(&["b@partner.example", "hidden@c.example"])]).unwrap();
    let again =
        apply_all(content.as_bytes(), &[journal(&["b@partner.example", "hidden@c.example"])]).unwrap();
    assert_eq!(out, again, "the same message makes the same journal");
    let bytes = out.into_bytes();
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.starts_with("Received: from app ([192.0.2.1])\r\n\tby gw"),
        "our own Received stays on top: {text}"
    );
    let parsed = MessageParser::new().parse(&bytes).unwrap();
    assert_eq!(parsed.subject(), Some("Journal: s"));
    assert_eq!(parsed.header_raw("Auto-Submitted").map(str::trim), Some("auto-generated"));
    assert_ne!(parsed.message_id(), Some("1@solarmora.com"));
    assert!(parsed.message_id().is_some() && parsed.date().is_some() && parsed.from().is_some());
    let envelope = parsed.body_text(0).unwrap();
    for line in [
        "Sender: ani@solarmora.com",
        "Message-ID: <1@solarmora.com>",
        "  b@partner.example",
        "  hidden@c.example",
        "Date: Sun, 22 Nov 2026 07:00:00 +0000",
    ] {
        assert!(envelope.contains(line), "{line}: {envelope}");
    }
    let Some(PartType::Message(inner)) = parsed.attachment(0).map(|part| &part.body) else {
        panic!("no message: {text}")
    };
    assert_eq!(inner.subject(), Some("s"));
    let received = "Received: from app ([192.0.2.1])\r\n\tby gw with ESMTP id 1\r\n";
    let original = content.strip_prefix(received).unwrap();
    assert!(text.contains(&format!("\r\n\r\n{original}\r\n--")), "byte for byte");
    let other = apply_all(content.as_bytes(), &[journal(&["c@d.example"])]).unwrap().into_bytes();
    assert_ne!(MessageParser::new().parse(&other).unwrap().message_id(), parsed.message_id());
}

#[test]
fn r046_hostile_messages_make_journals_all_the_same() {
    for content in
        ["", "\r\n", "no header", "Subject: x\r\n", "Received: cut", "From: \u{1}\r\n\r\n--=_x--\r\n"]
    {
        let out = apply_all(content.as_bytes(), &[journal(&[])]).unwrap().into_bytes();
        assert!(MessageParser::new().parse(&out).is_some_and(|m| m.attachment_count() == 1), "{content:?}");
    }
}
