use mail_parser::{MessageParser, MimeHeaders, PartType};

use super::*;

const CONTENT: &str = "Received: from app ([192.0.2.1])\r\n by gw.solarmora.com id 1\r\nFrom: app@solarmora.com\r\nSubject: =?utf-8?b?TGFwb3JhbiBidWxhbmFu?=\r\n\r\nbody\r\n";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn fate(address: &str, action: Action, status: [u16; 3]) -> Fate {
    Fate {
        recipient: Recipient::new(address.parse().unwrap()),
        action,
        status,
        reason: "The mail server mx.example said: 550 5.1.1 no such user".into(),
        remote_mta: Some("mx.example".into()),
        remote_reply: Some("550 5.1.1 no such user".into()),
        last_attempt: Some(at("2026-11-22T04:10:00Z")),
        retry_until: None,
    }
}

fn sender() -> Sender {
    Sender { mailbox: Some("app@solarmora.com".parse().unwrap()), ..Sender::default() }
}

fn composed(sender: &Sender, content: &[u8], fates: &[Fate]) -> Composed {
    compose(&Report {
        now: at("2026-11-22T04:10:01Z"),
        id: "0000000000000000000042",
        reporting_mta: "gw.solarmora.com",
        from: &"postmaster@solarmora.com".parse().unwrap(),
        to: sender.mailbox.as_ref().unwrap(),
        sender,
        arrived: at("2026-11-22T04:00:00Z"),
        content,
        fates,
    })
}

/// Compares with `tests/golden/dsn/NAME.eml`; `UPDATE=1` rewrites it.
#[track_caller]
fn check(name: &str, report: &Composed) {
    let text = String::from_utf8(report.content.clone()).unwrap();
    let lines = text.replace("\r\n", "\n");
    assert!(!lines.contains('\r') && text.matches('\n').count() == text.matches("\r\n").count());
    let path = format!("{}/tests/golden/dsn/{name}.eml", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &lines).unwrap();
    }
    assert_eq!(lines, std::fs::read_to_string(&path).unwrap());
}

#[test]
fn a_failure_report_says_what_happened_and_what_to_do() {
    let mut unreachable = fate("ani@other.example", Action::Failed, [5, 4, 7]);
    unreachable.reason = "The mail server mx.other.example could not be reached: connection refused".into();
    (unreachable.remote_mta, unreachable.remote_reply) = (Some("mx.other.example".into()), None);
    let mut first = fate("budi@x.example", Action::Failed, [5, 1, 1]);
    first.recipient.original = Some("rfc822;Budi+2B1@x.example".into());
    let sender = Sender { envid: Some("QQ+2B1".into()), ..sender() };
    check("failed", &composed(&sender, CONTENT.as_bytes(), &[first, unreachable]));
}

#[test]
fn a_delay_notice_says_that_nothing_need_be_done() {
    let mut late = fate("budi@x.example", Action::Delayed, [4, 4, 7]);
    late.retry_until = Some(at("2026-11-27T04:00:00Z"));
    check("delayed", &composed(&sender(), CONTENT.as_bytes(), &[late]));
}

#[test]
fn a_relay_notice_says_that_no_more_will_follow() {
    let mut relayed = fate("budi@x.example", Action::Relayed, [2, 0, 0]);
    relayed.remote_reply = Some("250 2.0.0 queued".into());
    check("relayed", &composed(&sender(), CONTENT.as_bytes(), &[relayed]));
}

#[test]
fn the_whole_message_comes_back_only_on_demand_and_when_it_is_not_huge() {
    let fates = [fate("budi@x.example", Action::Failed, [5, 1, 1])];
    let full = Sender { ret: Some(Ret::Full), ..sender() };
    let content = [CONTENT.as_bytes(), b"8-bit \xff\r\n"].concat();
    let report = composed(&full, &content, &fates);
    assert!(report.content.windows(content.len()).any(|window| window == content));
    assert_eq!(report.sender, Sender { body: BodyType::EightBitMime, ..Sender::default() });
    for (sender, content) in
        [(sender(), content.clone()), (full, [content, vec![b'x'; MAX_RETURNED]].concat())]
    {
        let report = composed(&sender, &content, &fates);
        assert!(report.content.is_ascii() && report.content.len() < 4000);
        assert!(!report.content.windows(4).any(|window| window == b"body"));
    }
}

#[test]
fn a_sender_that_spoke_utf8_is_told_in_utf8_and_another_is_not() {
    let fates = [fate("jürgen@bücher.example", Action::Failed, [5, 6, 7])];
    let content = "Subject: Grüße\r\n\r\nx\r\n".as_bytes();
    let utf8 = composed(&Sender { smtputf8: true, ..sender() }, content, &fates);
    assert!(utf8.sender.smtputf8);
    let text = String::from_utf8(utf8.content).unwrap();
    assert!(text.contains("Content-Type: message/global-delivery-status"));
    assert!(text.contains("Final-Recipient: utf-8; jürgen@bücher.example\r\n"));
    assert!(text.contains("Content-Type: message/global-headers"));

    let ascii = composed(&sender(), content, &fates);
    assert!(!ascii.sender.smtputf8 && ascii.content.is_ascii());
    let text = String::from_utf8(ascii.content).unwrap();
    assert!(text.contains("Final-Recipient: utf-8; j\\x{FC}rgen@b\\x{FC}cher.example\r\n"));
}

#[test]
fn every_report_is_read_by_a_mail_parser_as_three_parts() {
    for content in [CONTENT.as_bytes(), b"", b"no header at all\r\n", b"X: \xff\xfe\r\n\r\n", b"\r\n\r\n"] {
        let mut failed = fate("a@x.example", Action::Failed, [5, 0, 0]);
        failed.remote_reply = Some(format!("550 {}", "very long \u{7}text é ".repeat(500)));
        let report = composed(&sender(), content, &[failed]);
        assert!(report.content.is_ascii());
        assert!(report.content.split(|&b| b == b'\n').all(|line| line.len() <= 999));
        let message = MessageParser::default().parse(&report.content).unwrap();
        assert_eq!(message.content_type().unwrap().subtype(), Some("report"));
        assert_eq!(message.header_raw("Auto-Submitted").map(str::trim), Some("auto-replied"));
        let PartType::Multipart(parts) = &message.parts[0].body else { panic!() };
        assert_eq!(parts.len(), 3);
    }
}

#[test]
fn a_boundary_inside_the_returned_message_is_avoided() {
    let content = format!("{CONTENT}--report-0000000000000000000042--\r\n");
    let full = Sender { ret: Some(Ret::Full), ..sender() };
    let report = composed(&full, content.as_bytes(), &[fate("a@x.example", Action::Failed, [5, 0, 0])]);
    let text = String::from_utf8(report.content).unwrap();
    assert!(text.contains("boundary=\"report-0000000000000000000042x\""));
}
