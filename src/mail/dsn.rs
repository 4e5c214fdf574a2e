//! Reports on the fate of a message (RFC 3461, 3464, 6533), composed with lettre. Pure: the time and
//! the name of the report come from outside. Who gets one, and how often, is decided elsewhere.

mod status;
#[cfg(test)]
mod tests;
mod words;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox as Placeholder, MultiPart, SinglePart};

use super::address::Mailbox;
use super::edit;
use super::envelope::{BodyType, Recipient, Ret, Sender};

/// A message larger than this is reported with its header section alone, even for RET=FULL.
const MAX_RETURNED: usize = 1 << 20;
/// How much of a header section a report repeats.
const MAX_HEADERS: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    Failed,
    Delayed,
    /// Handed to a next hop that knows no delivery reports (RFC 3461 section 5.2.2).
    Relayed,
}

/// What happened to one recipient.
#[derive(Debug, Clone, PartialEq)]
pub struct Fate {
    pub recipient: Recipient,
    pub action: Action,
    /// RFC 3463: `[5, 1, 1]`.
    pub status: [u16; 3],
    /// Why, in plain words and without a final full stop: `mx.example said 550 5.1.1 no such user`.
    pub reason: String,
    /// The next hop's name.
    pub remote_mta: Option<String>,
    /// The reply of the next hop, as it came: `550 5.1.1 no such user`.
    pub remote_reply: Option<String>,
    pub last_attempt: Option<Timestamp>,
    /// Until when a delayed message is tried.
    pub retry_until: Option<Timestamp>,
}

/// Everything a report is made of. Only fates of one `action` belong together in one report.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    pub now: Timestamp,
    /// Names the report: its Message-ID and MIME boundaries are made of it. Letters and digits.
    pub id: &'a str,
    /// The gateway's own host name.
    pub reporting_mta: &'a str,
    /// From of the report.
    pub from: &'a Mailbox,
    /// To whom: the sender of the message.
    pub to: &'a Mailbox,
    pub sender: &'a Sender,
    pub arrived: Timestamp,
    /// The message as stored.
    pub content: &'a [u8],
    pub fates: &'a [Fate],
}

/// A composed report and what its MAIL command must say (its sender is null).
#[derive(Debug, Clone, PartialEq)]
pub struct Composed {
    pub sender: Sender,
    pub content: Vec<u8>,
}

/// Composes a report. Lines end in CRLF only; there is no 8-bit octet in it unless the original was
/// returned in full or the sender spoke SMTPUTF8.
pub fn compose(report: &Report<'_>) -> Composed {
    let (head, _) = edit::split(report.content);
    let head = match head.get(..MAX_HEADERS) {
        Some(cut) => &cut[..cut.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1)],
        None => head,
    };
    let full = report.sender.ret == Some(Ret::Full) && report.content.len() <= MAX_RETURNED;
    // Only a sender that spoke SMTPUTF8 can be told in UTF-8 (RFC 6533 section 3).
    let foreign = |text: &str| !text.is_ascii();
    let utf8 = report.sender.smtputf8
        && (foreign(&report.to.to_string())
            || report.fates.iter().any(|fate| foreign(&fate.recipient.mailbox.to_string()))
            || (!head.is_ascii() && std::str::from_utf8(head).is_ok()));

    let returned = if full { report.content } else { head };
    let multipart = MultiPart::builder()
        .header(content_type(&format!(
            "multipart/report; report-type=delivery-status; boundary=\"{}\"",
            boundary(report.id, returned)
        )))
        .singlepart(SinglePart::plain(words::text(report, head)))
        .singlepart(delivery_status(report, utf8))
        .singlepart(original(report, head, full, utf8));

    let placeholder: Placeholder = "postmaster@localhost".parse().expect("a literal address");
    let mut message = lettre::Message::builder()
        .from(placeholder.clone())
        .to(placeholder)
        .subject(words::subject(report))
        .date(report.now.into())
        .message_id(Some(format!("<{}@{}>", report.id, report.reporting_mta)))
        .multipart(multipart)
        .expect("From and To are set");
    // lettre's own address type knows neither quoted local parts nor all of RFC 6531; ours is
    // parsed already and holds no character that could end the field.
    let headers = message.headers_mut();
    headers.insert_raw(raw("From", &format!("Mail delivery <{}>", report.from)));
    headers.insert_raw(raw("To", &format!("<{}>", report.to)));
    headers.insert_raw(raw("Auto-Submitted", "auto-replied"));

    let content = message.formatted();
    let body = if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
    let smtputf8 = utf8 || report.to.needs_utf8() || report.from.needs_utf8();
    Composed { sender: Sender { body, smtputf8, ..Sender::default() }, content }
}

/// The second part: what programs read.
fn delivery_status(report: &Report<'_>, utf8: bool) -> SinglePart {
    let kind = if utf8 { "message/global-delivery-status" } else { "message/delivery-status" };
    let fields = status::fields(report, utf8).into_bytes();
    let encoding = if utf8 { ContentTransferEncoding::EightBit } else { ContentTransferEncoding::SevenBit };
    SinglePart::builder().content_type(content_type(kind)).body(Body::dangerous_pre_encoded(fields, encoding))
}

/// The third part: the message, or its header section.
fn original(report: &Report<'_>, head: &[u8], full: bool, utf8: bool) -> SinglePart {
    if full {
        // message/* may not be encoded (RFC 2046 section 5.2.1), so the octets go as they are.
        let ascii = report.content.is_ascii();
        let encoding =
            if ascii { ContentTransferEncoding::SevenBit } else { ContentTransferEncoding::EightBit };
        let kind = if utf8 { "message/global" } else { "message/rfc822" };
        let body = Body::dangerous_pre_encoded(report.content.to_vec(), encoding);
        return SinglePart::builder().content_type(content_type(kind)).body(body);
    }
    let kind = if utf8 { "message/global-headers" } else { "text/rfc822-headers" };
    let body = match std::str::from_utf8(head) {
        Ok(text) if utf8 => Body::dangerous_pre_encoded(text.into(), ContentTransferEncoding::EightBit),
        // Whatever it is (raw 8-bit, endless lines), lettre finds an encoding that is safe to send.
        _ => Body::new(head.to_vec()),
    };
    SinglePart::builder().content_type(content_type(kind)).body(body)
}

/// A boundary that occurs nowhere in the original.
fn boundary(id: &str, returned: &[u8]) -> String {
    let mut boundary = format!("report-{id}");
    while returned.windows(boundary.len()).any(|window| window == boundary.as_bytes()) {
        boundary.push('x');
    }
    boundary
}

fn content_type(text: &str) -> ContentType {
    ContentType::parse(text).expect("a literal type with a boundary of letters and digits")
}

fn raw(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::dangerous_new_pre_encoded(
        HeaderName::new_from_ascii_str(name),
        value.to_owned(),
        value.to_owned(),
    )
}

fn date(at: Timestamp) -> String {
    let utc = at.to_zoned(TimeZone::UTC);
    jiff::fmt::rfc2822::to_string(&utc).unwrap_or_else(|_| at.to_string())
}
