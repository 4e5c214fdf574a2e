//! Sends the reports of days that are over: to whom each domain says in DNS (RFC 8460 section 3), by mail
//! over the gateway's own way for notices, or by HTTPS.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tracing::{debug, info, warn};

use super::report::{About, compose, compressed, json};
use super::{Domain, Reports, date};
use crate::bundle::document::TlsReports;
use crate::delivery::attempt::Outside;
use crate::delivery::dns::Names;
use crate::delivery::routes::RouteTable;
use crate::delivery::web::Question;
use crate::mail::address::Mailbox;
use crate::mail::envelope::{Notify, Recipient};
use crate::spool::{Content, Entry, QueueId, Spool, Submission, Target};

/// Reports go out within this time after midnight, each domain at its own moment, so that not all the
/// world's reports come at once (section 5.3 speaks of four hours).
const SPREAD: u64 = 4 * 3600;
/// How long a report is tried whose receiver cannot be asked or reached.
const GIVE_UP: SignedDuration = SignedDuration::from_hours(26);
/// Places that one domain may name.
const MAX_PLACES: usize = 4;
/// Octets that a web server may answer with.
const MAX_ANSWER: usize = 64 << 10;

/// Where a report goes.
#[derive(Debug, Clone, PartialEq)]
enum Place {
    Mail(Mailbox),
    Https { host: String, port: u16, path: String },
}

/// Sends what is due. What could not be sent stays for the next call; what is too old is dropped.
pub async fn send_due(outside: &Outside, spool: &Spool, table: &RouteTable, now: Timestamp) {
    let reports = &outside.protection.reports;
    let Some(by) = &table.tls_reports else {
        reports.forget_all();
        return;
    };
    for (day, name) in reports.due(now) {
        let Some(domain) = reports.get(day, &name) else { continue };
        if report(outside, spool, table, by, day, &name, domain, now).await || is_too_late(day, now) {
            reports.forget(day, &name);
        }
    }
}

/// Whether nothing is left to do for this report.
#[allow(clippy::too_many_arguments)]
async fn report(
    outside: &Outside,
    spool: &Spool,
    table: &RouteTable,
    by: &TlsReports,
    day: Date,
    name: &str,
    domain: Domain,
    now: Timestamp,
) -> bool {
    let records = match outside.dns.txt(&table.dns, &format!("_smtp._tls.{name}")).await {
        Ok(records) => records,
        Err(error) => {
            debug!(domain = name, %error, "no answer about TLS reports");
            return false;
        }
    };
    let mut done = true;
    for (text, place) in wanted(&records) {
        if domain.sent.contains(&text) {
            continue;
        }
        let id = spool.new_id();
        let about = About {
            day,
            domain: name,
            by,
            id: &id.to_string(),
            host: &table.hostname,
            from: &table.notices_from,
            address: table.public_address,
        };
        let gzip = compressed(&json(about, &domain));
        let sent = match place {
            Place::Mail(to) => mail(spool, table, id, about, to, gzip, now).await,
            Place::Https { host, port, path } => post(outside, table, &host, port, &path, gzip).await,
        };
        match sent {
            Ok(()) => {
                info!(domain = name, %day, "TLS report sent");
                outside.protection.reports.sent(day, name, text);
            }
            Err(why) => {
                warn!(domain = name, %day, why, "a TLS report cannot be sent now");
                done = false;
            }
        }
    }
    done
}

async fn mail(
    spool: &Spool,
    table: &RouteTable,
    id: QueueId,
    about: About<'_>,
    to: Mailbox,
    gzip: Vec<u8>,
    now: Timestamp,
) -> Result<(), String> {
    let composed = compose(about, &to, gzip, now);
    let target = Target {
        recipient: Recipient { notify: Notify::Never, ..Recipient::new(to) },
        via: table.notices_via.clone(),
        require_tls: false,
        edits: Arc::from([]),
        suppress_bounces: true,
    };
    let entry = Entry {
        sender: composed.sender,
        received_at: now,
        origin: table.hostname.clone(),
        revision: String::new(),
        own: true,
        held: None,
        targets: vec![target],
    };
    let submission = Submission { id, entry, content: Content::from(composed.content) };
    spool.commit(vec![submission]).await.map(drop).map_err(|error| error.to_string())
}

async fn post(
    outside: &Outside,
    table: &RouteTable,
    host: &str,
    port: u16,
    path: &str,
    gzip: Vec<u8>,
) -> Result<(), String> {
    let found =
        outside.dns.hosts(&table.dns, host, Names::Complete).await.map_err(|error| error.to_string())?;
    let question = Question {
        host,
        port,
        path,
        post: Some(("application/tlsrpt+gzip", gzip)),
        limit: MAX_ANSWER,
        patience: Duration::from_secs(60),
    };
    let answer = outside.protection.sts.web.ask(&found.what, question).await.map_err(|e| e.to_string())?;
    if (200..300).contains(&answer.status) { Ok(()) } else { Err(format!("it answers {}", answer.status)) }
}

/// The places that a domain names, in its own words beside. Exactly one record counts.
fn wanted(records: &[String]) -> Vec<(String, Place)> {
    let mut ours = records.iter().filter(|text| {
        let rest = text.strip_prefix("v=TLSRPTv1").map(str::trim_start);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(';'))
    });
    let (Some(one), None) = (ours.next(), ours.next()) else { return Vec::new() };
    let Some(rua) = one.split(';').find_map(|field| field.trim().strip_prefix("rua=")) else {
        return Vec::new();
    };
    let places = rua.split(',').filter_map(|text| Some((text.trim().to_owned(), place(text.trim())?)));
    places.take(MAX_PLACES).collect()
}

fn place(uri: &str) -> Option<Place> {
    let (scheme, rest) = uri.split_once(':')?;
    if scheme.eq_ignore_ascii_case("mailto") {
        let address = rest.split('?').next().unwrap_or_default();
        return Some(Place::Mail(unescaped(address)?.parse().ok()?));
    }
    if !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let uri: hyper::Uri = uri.parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty() && !host.starts_with('['))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Some(Place::Https {
        host: host.to_ascii_lowercase(),
        port: uri.port_u16().unwrap_or(443),
        path: path.to_owned(),
    })
}

/// Without percent encoding (RFC 3986 section 2.1).
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

/// The moment at which a report may be sent: after midnight, each domain at its own.
fn moment(day: Date, name: &str) -> Timestamp {
    let hash = blake3::hash(name.as_bytes());
    let spread = u64::from(u32::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 octets"))) % SPREAD;
    midnight_after(day).checked_add(Duration::from_secs(spread)).unwrap_or(Timestamp::MAX)
}

fn midnight_after(day: Date) -> Timestamp {
    let next = day.tomorrow().and_then(|next| next.to_zoned(TimeZone::UTC));
    next.map_or(Timestamp::MAX, |next| next.timestamp())
}

fn is_too_late(day: Date, now: Timestamp) -> bool {
    now.duration_since(midnight_after(day)) > GIVE_UP
}

impl Reports {
    /// Days and domains whose reports may be sent now.
    pub(super) fn due(&self, now: Timestamp) -> Vec<(Date, String)> {
        let today = date(now);
        let days = self.days();
        let over = days.range(..today);
        let all = over.flat_map(|(day, domains)| domains.keys().map(|name| (*day, name.clone())));
        all.filter(|(day, name)| moment(*day, name) <= now).collect()
    }

    fn get(&self, day: Date, name: &str) -> Option<Domain> {
        self.days().get(&day)?.get(name).cloned()
    }

    fn sent(&self, day: Date, name: &str, place: String) {
        if let Some(domain) = self.days().get_mut(&day).and_then(|domains| domains.get_mut(name)) {
            domain.sent.push(place);
        }
        self.changed.store(true, Ordering::Relaxed);
    }

    fn forget(&self, day: Date, name: &str) {
        let mut days = self.days();
        if let Some(domains) = days.get_mut(&day) {
            domains.remove(name);
            if domains.is_empty() {
                days.remove(&day);
            }
        }
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Reports are switched off.
    fn forget_all(&self) {
        let mut days = self.days();
        if !days.is_empty() {
            days.clear();
            self.changed.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted_by(record: &str) -> Vec<Place> {
        wanted(&[record.to_owned()]).into_iter().map(|(_, place)| place).collect()
    }

    #[test]
    fn a_domain_says_where_its_reports_go() {
        let mail = |text: &str| Place::Mail(text.parse().unwrap());
        let https =
            |host: &str, port, path: &str| Place::Https { host: host.into(), port, path: path.into() };
        assert_eq!(wanted_by("v=TLSRPTv1; rua=mailto:tls@d.example"), [mail("tls@d.example")]);
        assert_eq!(
            wanted_by("v=TLSRPTv1;rua=mailto:a%2Bb@d.example?subject=x, https://r.d.example:8443/v1?k=1"),
            [mail("a+b@d.example"), https("r.d.example", 8443, "/v1?k=1")]
        );
        assert_eq!(wanted_by("v=TLSRPTv1; rua=https://R.d.example"), [https("r.d.example", 443, "/")]);
        for nobody in [
            "v=TLSRPTv2; rua=mailto:tls@d.example",
            "v=TLSRPTv1",
            "v=TLSRPTv1; rua=http://d.example/",
            "v=TLSRPTv1; rua=mailto:nobody",
            "v=TLSRPTv1; rua=mailto:a%zz@d.example",
        ] {
            assert_eq!(wanted_by(nobody), [], "{nobody}");
        }
        let twice = ["v=TLSRPTv1; rua=mailto:a@d.example", "v=TLSRPTv1; rua=mailto:b@d.example"];
        assert_eq!(wanted(&twice.map(str::to_owned)), []);
        let many: Vec<String> = (0..50).map(|n| format!("mailto:{n}@d.example")).collect();
        assert_eq!(wanted_by(&format!("v=TLSRPTv1; rua={}", many.join(","))).len(), MAX_PLACES);
    }

    #[test]
    fn reports_leave_within_four_hours_after_midnight_and_not_all_at_once() {
        let day: Date = "2026-11-21".parse().unwrap();
        let midnight: Timestamp = "2026-11-22T00:00:00Z".parse().unwrap();
        let after = |n: u32| moment(day, &format!("{n}.example")).duration_since(midnight).as_secs();
        let times: Vec<i64> = (0..100).map(after).collect();
        assert!(times.iter().all(|at| (0..14_400).contains(at)), "{times:?}");
        assert!(times.iter().filter(|at| **at < 7200).count() > 20);
        assert!(!is_too_late(day, "2026-11-23T01:00:00Z".parse().unwrap()));
        assert!(is_too_late(day, "2026-11-23T03:00:00Z".parse().unwrap()));
    }
}
