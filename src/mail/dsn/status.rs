//! The fields of message/delivery-status (RFC 3464 section 2) and its UTF-8 form (RFC 6533).

use std::fmt::Write as _;

use super::{Action, Report, date};
use crate::mail::address::Mailbox;

/// A field's text is cut here: a next hop's reply can be long, a report need not be.
const MAX_VALUE: usize = 1500;

pub(super) fn fields(report: &Report<'_>, utf8: bool) -> String {
    let mut out = Fields { text: String::new(), utf8 };
    out.add("Reporting-MTA", &format!("dns; {}", report.reporting_mta));
    if let Some(envid) = &report.sender.envid {
        out.add("Original-Envelope-Id", &xtext(envid));
    }
    out.add("Arrival-Date", &date(report.arrived));
    for fate in report.fates {
        out.text.push_str("\r\n");
        if let Some(original) = &fate.recipient.original {
            match original.split_once(';') {
                Some((kind, address)) => {
                    out.add("Original-Recipient", &format!("{kind}; {}", xtext(address)));
                }
                None => out.add("Original-Recipient", &format!("rfc822; {}", xtext(original))),
            }
        }
        out.add("Final-Recipient", &address(&fate.recipient.mailbox, utf8));
        let action = match fate.action {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Relayed => "relayed",
        };
        out.add("Action", action);
        let [class, subject, detail] = fate.status;
        out.add("Status", &format!("{class}.{subject}.{detail}"));
        if let Some(remote) = &fate.remote_mta {
            out.add("Remote-MTA", &format!("dns; {remote}"));
        }
        match &fate.remote_reply {
            Some(reply) => out.add("Diagnostic-Code", &format!("smtp; {reply}")),
            None if fate.action != Action::Relayed => {
                out.add("Diagnostic-Code", &format!("x-postern; {}", fate.reason));
            }
            None => {}
        }
        if let Some(at) = fate.last_attempt {
            out.add("Last-Attempt-Date", &date(at));
        }
        if let Some(until) = fate.retry_until.filter(|_| fate.action == Action::Delayed) {
            out.add("Will-Retry-Until", &date(until));
        }
    }
    out.text
}

/// `rfc822; a@b`, or for an address beyond ASCII the type utf-8, written as RFC 6533 section 3 says.
fn address(mailbox: &Mailbox, utf8: bool) -> String {
    let text = mailbox.to_string();
    if text.is_ascii() {
        return format!("rfc822; {text}");
    }
    if utf8 {
        return format!("utf-8; {text}");
    }
    let mut escaped = String::from("utf-8; ");
    for c in text.chars() {
        match c {
            '\\' | '+' | '=' => write!(escaped, "\\x{{{:02X}}}", u32::from(c)),
            _ if c.is_ascii() => write!(escaped, "{c}"),
            _ => write!(escaped, "\\x{{{:X}}}", u32::from(c)),
        }
        .expect("a String takes everything");
    }
    escaped
}

/// Decodes xtext (RFC 3461 section 4); what is not xtext stays as it is.
fn xtext(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| byte == b'+').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Fields {
    text: String,
    utf8: bool,
}

impl Fields {
    /// One field, folded at blanks. Foreign text becomes harmless: no control, no 8-bit octet unless
    /// the part is UTF-8, no endless line.
    fn add(&mut self, name: &str, value: &str) {
        let clean = |c: char| match c {
            c if c.is_control() => ' ',
            c if c.is_ascii() || self.utf8 => c,
            _ => '?',
        };
        let value: String = value.chars().take(MAX_VALUE).map(clean).collect();
        self.text.push_str(name);
        self.text.push(':');
        let mut width = name.len() + 1;
        for word in value.split_ascii_whitespace() {
            if width + 1 + word.len() > 78 && width > name.len() + 1 {
                self.text.push_str("\r\n");
                width = 0;
            }
            self.text.push(' ');
            self.text.push_str(word);
            width += 1 + word.len();
        }
        self.text.push_str("\r\n");
    }
}
