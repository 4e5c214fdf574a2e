//! From a day's counts to the report of a domain: JSON (RFC 8460 section 4.4), compressed, in a mail (section
//! 5.3). Pure but for the compression.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox as Placeholder, MultiPart, SinglePart};
use serde_json::{Value, json};

use super::{Detail, Domain, PolicyKind, Sessions};
use crate::bundle::document::TlsReports;
use crate::mail::address::{Host, Mailbox};
use crate::mail::dsn::Composed;
use crate::mail::envelope::{BodyType, Sender};

/// What a report says besides the counts.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub day: Date,
    /// The domain it is for.
    pub domain: &'a str,
    pub by: &'a TlsReports,
    /// Makes the report's name unique.
    pub id: &'a str,
    /// The gateway's own host name.
    pub host: &'a str,
    pub from: &'a Mailbox,
    /// Where the world sees the gateway's mail come from.
    pub address: Option<std::net::IpAddr>,
}

impl About<'_> {
    fn report_id(&self) -> String {
        format!("{}.{}@{}", self.day.strftime("%Y%m%d"), self.id, self.host)
    }

    /// The organisation that sends, by its domain.
    fn submitter(&self) -> String {
        match self.from.host() {
            Host::Domain(domain) => domain.ascii().to_owned(),
            Host::Literal(_) => self.host.to_owned(),
        }
    }

    fn range(&self) -> (Timestamp, Timestamp) {
        let start = self.day.to_zoned(TimeZone::UTC).map(|at| at.timestamp()).unwrap_or_default();
        let end = start.checked_add(24.hours()).and_then(|end| end.checked_sub(1.second()));
        (start, end.unwrap_or(start))
    }

    /// The name of the file (section 5.1).
    pub fn file_name(&self) -> String {
        let (start, end) = self.range();
        let (start, end) = (start.as_second(), end.as_second());
        format!("{}!{}!{start}!{end}!{}.json.gz", self.submitter(), self.domain, self.id)
    }
}

/// The JSON of a report.
pub fn json(about: About<'_>, domain: &Domain) -> Value {
    let (start, end) = about.range();
    json!({
        "organization-name": about.by.organization,
        "date-range": {"start-datetime": start.to_string(), "end-datetime": end.to_string()},
        "contact-info": about.by.contact,
        "report-id": about.report_id(),
        "policies": domain.policies.iter().map(|sessions| policy(about, sessions)).collect::<Vec<_>>(),
    })
}

fn policy(about: About<'_>, sessions: &Sessions) -> Value {
    let Sessions { kind, text, mx_hosts, succeeded, failed, details } = sessions;
    let kind = match kind {
        PolicyKind::Tlsa => "tlsa",
        PolicyKind::Sts => "sts",
        PolicyKind::NoPolicyFound => "no-policy-found",
    };
    let mut policy = json!({"policy-type": kind, "policy-domain": about.domain});
    if !text.is_empty() {
        policy["policy-string"] = json!(text);
    }
    if !mx_hosts.is_empty() {
        policy["mx-host"] = json!(mx_hosts);
    }
    let mut report = json!({
        "policy": policy,
        "summary": {"total-successful-session-count": succeeded, "total-failure-session-count": failed},
    });
    if !details.is_empty() {
        report["failure-details"] = details.iter().map(|detail| failure(about, detail)).collect();
    }
    report
}

fn failure(about: About<'_>, detail: &Detail) -> Value {
    let Detail { kind, host, ip, why, count } = detail;
    let mut failure = json!({
        "result-type": kind,
        "receiving-mx-hostname": host,
        "failed-session-count": count,
    });
    if let Some(address) = about.address {
        failure["sending-mta-ip"] = json!(address);
    }
    if let Some(ip) = ip {
        failure["receiving-ip"] = json!(ip);
    }
    if let Some(why) = why {
        failure["failure-reason-code"] = json!(why);
    }
    failure
}

/// The JSON as it is sent.
pub fn compressed(json: &Value) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(json.to_string().as_bytes()).expect("a Vec takes everything");
    encoder.finish().expect("a Vec takes everything")
}

/// The mail with a report (section 5.3).
pub fn compose(about: About<'_>, to: &Mailbox, gzip: Vec<u8>, now: Timestamp) -> Composed {
    let (domain, submitter) = (about.domain, about.submitter());
    let text = format!(
        "This is a report about TLS between the mail servers of {submitter} and of {domain}\r\n\
         on {} (UTC), as {domain} asks for it in DNS (RFC 8460).\r\n",
        about.day
    );
    let file = about.file_name();
    let report = SinglePart::builder()
        .content_type(content_type("application/tlsrpt+gzip"))
        .header(lettre::message::header::ContentDisposition::attachment(&file))
        .body(
            Body::new_with_encoding(gzip, ContentTransferEncoding::Base64).expect("base64 takes every octet"),
        );
    let boundary = format!("tlsrpt-{}", about.id);
    let multipart = MultiPart::builder()
        .header(content_type(&format!("multipart/report; report-type=tlsrpt; boundary=\"{boundary}\"")))
        .singlepart(SinglePart::plain(text))
        .singlepart(report);
    let placeholder: Placeholder = "postmaster@localhost".parse().expect("a literal address");
    let subject =
        format!("Report Domain: {domain} Submitter: {submitter} Report-ID: <{}>", about.report_id());
    let mut message = lettre::Message::builder()
        .from(placeholder.clone())
        .to(placeholder)
        .subject(subject)
        .date(now.into())
        .message_id(Some(format!("<{}@{}>", about.id, about.host)))
        .multipart(multipart)
        .expect("From and To are set");
    let headers = message.headers_mut();
    headers.insert_raw(raw("From", &format!("{} <{}>", "TLS reports", about.from)));
    headers.insert_raw(raw("To", &format!("<{to}>")));
    headers.insert_raw(raw("TLS-Report-Domain", domain));
    headers.insert_raw(raw("TLS-Report-Submitter", &submitter));
    // What is wrong with the TLS of a domain must not keep the report about it away (RFC 8460 section 3,
    // RFC 8689 section 5).
    headers.insert_raw(raw("TLS-Required", "No"));
    headers.insert_raw(raw("Auto-Submitted", "auto-generated"));
    let content = message.formatted();
    let body = if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
    let smtputf8 = to.needs_utf8() || about.from.needs_utf8();
    Composed { sender: Sender { body, smtputf8, ..Sender::default() }, content }
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
