//! Mail the gateway writes itself that is no report: a text, composed with lettre. Pure.

use jiff::Timestamp;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox as Placeholder, SinglePart};

use super::address::Mailbox;
use super::dsn::Composed;
use super::envelope::{BodyType, Sender};

#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    pub now: Timestamp,
    /// Names the letter: letters and digits.
    pub id: &'a str,
    /// The gateway's own host name.
    pub host: &'a str,
    /// What the sender is called.
    pub name: &'a str,
    pub from: &'a Mailbox,
    pub to: &'a [&'a Mailbox],
    pub subject: &'a str,
    /// Lines end in LF.
    pub text: &'a str,
    /// `auto-replied` to somebody's mail, or `auto-generated`.
    pub auto_submitted: &'static str,
}

/// Composes a letter. Its sender is null, and nobody answers it (RFC 3834).
pub fn compose(letter: &Letter<'_>) -> Composed {
    let placeholder: Placeholder = "postmaster@localhost".parse().expect("a literal address");
    let mut message = lettre::Message::builder()
        .from(placeholder.clone())
        .to(placeholder)
        .subject(letter.subject)
        .date(letter.now.into())
        .message_id(Some(format!("<{}@{}>", letter.id, letter.host)))
        .singlepart(SinglePart::plain(letter.text.to_owned()))
        .expect("From and To are set");
    // lettre's own address type knows neither quoted local parts nor all of RFC 6531.
    let to: Vec<String> = letter.to.iter().map(|mailbox| format!("<{mailbox}>")).collect();
    let headers = message.headers_mut();
    headers.insert_raw(raw("From", &format!("{} <{}>", letter.name, letter.from)));
    headers.insert_raw(raw("To", &to.join(",\r\n ")));
    headers.insert_raw(raw("Auto-Submitted", letter.auto_submitted));
    headers.insert_raw(raw("Precedence", "bulk"));
    let content = message.formatted();
    let body = if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
    let smtputf8 = letter.from.needs_utf8() || letter.to.iter().any(|to| to.needs_utf8());
    Composed { sender: Sender { body, smtputf8, ..Sender::default() }, content }
}

fn raw(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::dangerous_new_pre_encoded(
        HeaderName::new_from_ascii_str(name),
        value.to_owned(),
        value.to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_says_that_a_machine_wrote_it_and_stays_seven_bit() {
        let address = |text: &str| text.parse::<Mailbox>().expect("an address");
        let (from, to) = (address("postmaster@solarmora.com"), address("\"a b\"@partner.example"));
        let letter = Letter {
            now: Timestamp::UNIX_EPOCH,
            id: "abc",
            host: "gw.example",
            name: "Mail gateway",
            from: &from,
            to: &[&to],
            subject: "Zurückgehalten",
            text: "Grüße\nund mehr\n",
            auto_submitted: "auto-replied",
        };
        let Composed { sender, content } = compose(&letter);
        let text = String::from_utf8(content).expect("ASCII");
        assert!(text.is_ascii() && sender.mailbox.is_none() && !sender.smtputf8);
        for part in
            ["Auto-Submitted: auto-replied", "To: <\"a b\"@partner.example>", "Message-ID: <abc@gw.example>"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("Zur\u{fc}ck") && text.contains("=?utf-8?"), "{text}");
    }
}
