//! Reports about TLS (RFC 8460): counted where sessions are made, sent on the next day, by mail or HTTPS, once.

use std::io::Read as _;

use flate2::read::GzDecoder;
use jiff::Timestamp;
use serde_json::Value;

use super::protection::{Setup, World};
use super::*;
use crate::delivery::authority::Authority as DnsAuthority;
use crate::delivery::sink::{Authority, Behaviour, Sink, expired};
use crate::delivery::tlsrpt::{self, Applied, Failure, FailureKind, Reports};
use crate::delivery::webserver::{WebServer, page, policy};
use crate::spool::{Fate, Options, Queued, Spool};

struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("postern-tlsrpt-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// After every domain's moment of the next day.
/// The coming day at five: today's reports are due, and not given up.
fn tomorrow() -> Timestamp {
    let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    let midnight = today.tomorrow().and_then(|then| then.start_of_day()).unwrap();
    midnight.timestamp() + jiff::SignedDuration::from_hours(5)
}

async fn mails(spool: &Spool) -> Vec<Queued> {
    let mut all = Vec::new();
    for summary in spool.list() {
        all.extend(spool.get(summary.id).await.unwrap());
    }
    all
}

/// The JSON in a report's mail.
fn report(mail: &str) -> Value {
    let at = mail.find("application/tlsrpt+gzip").expect(mail);
    let body = &mail[at..][mail[at..].find("\r\n\r\n").unwrap() + 4..];
    let body: String = body[..body.find("--tlsrpt").unwrap()].split_whitespace().collect();
    unzipped(&base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap())
}

fn unzipped(gzip: &[u8]) -> Value {
    let mut json = String::new();
    GzDecoder::new(gzip).read_to_string(&mut json).unwrap();
    serde_json::from_str(&json).unwrap()
}

fn world<'a>(ca: &'a Authority, port: u16, web: &'a WebServer) -> Setup<'a> {
    Setup { ca, port, dnssec: false, web: Some(web), target: RouteTarget::RecipientMx }
}

#[tokio::test]
async fn r107_a_domain_that_asks_is_told_by_signed_mail_what_became_of_sessions_with_its_hosts() {
    let ca = Authority::new();
    let sink = Sink::start(Behaviour::with_tls(ca.server(&["mx.d.example"]))).await;
    let tls = ca.server(&["mta-sts.d.example"]);
    let says = policy("enforce", &["mx.d.example", "*.old.example"], 86_400);
    let web = WebServer::start("127.0.0.1:0".parse().unwrap(), tls, says).await;
    let world = World::new(
        world(&ca, sink.address.port(), &web),
        &[
            "d.example. MX 10 mx.d.example.",
            "mx.d.example. A 127.0.0.1",
            "_mta-sts.d.example. TXT v=STSv1; id=1",
            "mta-sts.d.example. A 127.0.0.1",
            "_smtp._tls.d.example. TXT v=TLSRPTv1; rua=mailto:tls-reports@d.example",
        ],
    )
    .await;
    assert_eq!(world.send().await, "Sts by mx.d.example");
    // A new certificate, expired: new sessions fail.
    drop(world.outside.pool.sweep(true));
    sink.behave(Behaviour::with_tls(ca.server_with(&["mx.d.example"], expired)));
    for _ in 0..3 {
        assert!(world.send().await.starts_with("later: "));
    }

    let folder = Folder::new("mail");
    let (spool, _) = Spool::open(&folder.0, Options::default()).unwrap();
    // Today is not over.
    tlsrpt::send_due(&world.outside, &spool, &world.table, Timestamp::now()).await;
    assert!(spool.is_empty());
    tlsrpt::send_due(&world.outside, &spool, &world.table, tomorrow()).await;
    tlsrpt::send_due(&world.outside, &spool, &world.table, tomorrow()).await;
    let all = mails(&spool).await;
    assert_eq!(all.len(), 1, "one report, once");
    let entry = all[0].entry();
    assert!(entry.own && entry.sender.mailbox.is_none());
    assert_eq!(entry.targets[0].recipient.mailbox.to_string(), "tls-reports@d.example");
    assert!(matches!(all[0].state(0), Fate::Waiting(_)));
    let mail = String::from_utf8(all[0].content().unwrap().bytes().to_vec()).unwrap();
    for part in [
        "From: TLS reports <postmaster@solarmora.com>\r\n",
        "TLS-Report-Domain: d.example\r\n",
        "TLS-Report-Submitter: solarmora.com\r\n",
        "TLS-Required: No\r\n",
        "report-type=tlsrpt",
        "Auto-Submitted: auto-generated\r\n",
    ] {
        assert!(mail.contains(part), "{part}: {mail}");
    }
    let json = report(&mail);
    assert_eq!(json["organization-name"], "Solarmora");
    assert_eq!(json["contact-info"], "tls@solarmora.com");
    let day = Timestamp::now().strftime("%F").to_string();
    assert_eq!(json["date-range"]["start-datetime"], format!("{day}T00:00:00Z"));
    assert_eq!(json["date-range"]["end-datetime"], format!("{day}T23:59:59Z"));
    let told = &json["policies"][0];
    assert_eq!(told["policy"]["policy-type"], "sts");
    assert_eq!(told["policy"]["policy-domain"], "d.example");
    assert_eq!(told["policy"]["mx-host"], serde_json::json!(["mx.d.example", "*.old.example"]));
    assert_eq!(told["policy"]["policy-string"][1], "mode: enforce");
    assert_eq!(told["summary"]["total-successful-session-count"], 1);
    assert_eq!(told["summary"]["total-failure-session-count"], 3);
    let detail = &told["failure-details"][0];
    assert_eq!(detail["result-type"], "certificate-expired");
    assert_eq!(detail["receiving-mx-hostname"], "mx.d.example");
    assert_eq!(detail["receiving-ip"], "127.0.0.1");
    assert_eq!(detail["failed-session-count"], 3);
    spool.close().await;
}

#[tokio::test]
async fn r107_a_web_address_gets_the_report_too_and_one_that_fails_gets_it_later() {
    let ca = Authority::new();
    let sink = Sink::start(Behaviour::default()).await;
    let tls = ca.server(&["reports.d.example"]);
    let web = WebServer::start("127.0.0.1:0".parse().unwrap(), tls, page("500 No", "text/plain", "")).await;
    let world = World::new(
        world(&ca, sink.address.port(), &web),
        &[
            "d.example. MX 10 mx.d.example.",
            "mx.d.example. A 127.0.0.1",
            "reports.d.example. A 127.0.0.1",
            "_smtp._tls.d.example. TXT v=TLSRPTv1; rua=https://reports.d.example/v1/tls,mailto:t@d.example",
        ],
    )
    .await;
    assert_eq!(world.send().await, "None by mx.d.example");
    let folder = Folder::new("web");
    let (spool, _) = Spool::open(&folder.0, Options::default()).unwrap();
    tlsrpt::send_due(&world.outside, &spool, &world.table, tomorrow()).await;
    assert_eq!((web.asked().len(), spool.len()), (1, 1));
    web.say(page("201 Created", "text/plain", ""));
    for _ in 0..2 {
        tlsrpt::send_due(&world.outside, &spool, &world.table, tomorrow()).await;
    }
    assert_eq!((web.asked().len(), spool.len()), (2, 1), "each place once");
    let asked = web.asked().pop().unwrap();
    let end = asked.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&asked[..end]).to_lowercase();
    assert!(head.starts_with("post /v1/tls http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/tlsrpt+gzip"), "{head}");
    let json = unzipped(&asked[end + 4..]);
    assert_eq!(json["policies"][0]["policy"]["policy-type"], "no-policy-found");
    assert_eq!(json["policies"][0]["failure-details"][0]["result-type"], "starttls-not-supported");
    spool.close().await;
}

#[tokio::test]
async fn r107_counts_are_kept_over_a_restart_and_nobody_who_did_not_ask_is_told() {
    let ca = Authority::new();
    let sink = Sink::start(Behaviour::default()).await;
    let web = WebServer::start("127.0.0.1:0".parse().unwrap(), ca.server(&["x"]), String::new()).await;
    let records = ["d.example. MX 10 mx.d.example.", "mx.d.example. A 127.0.0.1"];
    let mut world = World::new(world(&ca, sink.address.port(), &web), &records).await;
    assert_eq!(world.send().await, "None by mx.d.example");
    let folder = Folder::new("restart");
    let (spool, _) = Spool::open(&folder.0, Options::default()).unwrap();
    std::fs::write(tlsrpt::file(&folder.0), world.outside.protection.reports.unsaved().unwrap()).unwrap();
    assert_eq!(world.outside.protection.reports.unsaved(), None);
    let kept = Reports::read(&folder.0);
    assert_eq!(
        kept.days_and_domains(),
        [(Timestamp::now().strftime("%F").to_string(), "d.example".to_owned())]
    );
    world.outside.protection.reports = kept;
    tlsrpt::send_due(&world.outside, &spool, &world.table, tomorrow()).await;
    assert!(spool.is_empty() && world.outside.protection.reports.days_and_domains().is_empty());
    // DNS is silent: the counts wait, but not for ever.
    drop(world.outside.pool.sweep(true));
    assert_eq!(world.send().await, "None by mx.d.example");
    let asks = world.table.dns.clone();
    world.table.dns.addresses = vec![DnsAuthority::start(&[]).await.address];
    world.table.dns.addresses[0].set_port(1);
    tlsrpt::send_due(&world.outside, &spool, &world.table, tomorrow()).await;
    assert_eq!(world.outside.protection.reports.days_and_domains().len(), 1);
    let late = Timestamp::now() + jiff::SignedDuration::from_hours(24 * 3);
    tlsrpt::send_due(&world.outside, &spool, &world.table, late).await;
    assert!(world.outside.protection.reports.days_and_domains().is_empty());
    // Switched off: nothing is counted.
    world.table.dns = asks;
    world.table.tls_reports = None;
    drop(world.outside.pool.sweep(true));
    assert_eq!(world.send().await, "None by mx.d.example");
    assert!(world.outside.protection.reports.days_and_domains().is_empty());
    spool.close().await;
}

#[tokio::test]
async fn the_memory_for_reports_is_bounded() {
    let ca = Authority::new();
    let web = WebServer::start("127.0.0.1:0".parse().unwrap(), ca.server(&["x"]), String::new()).await;
    let world = World::new(world(&ca, 25, &web), &["d.example. A 127.0.0.1"]).await;
    let hop = |host: &str, domain: &str| crate::delivery::plan::Hop {
        host: host.to_owned(),
        port: 25,
        names: crate::delivery::dns::Names::Complete,
        by_mx: true,
        proved: false,
        domain: Some(domain.into()),
    };
    let reports = Reports::default();
    let failure = || Failure::new(FailureKind::ValidationFailure);
    for n in 0..12_000 {
        let hop = hop("mx.example", &format!("{n}.example"));
        reports.failure(&world.table, &hop, &Applied::Nothing, failure(), Timestamp::now());
    }
    assert_eq!(reports.days_and_domains().len(), 10_000);
    for n in 0..1000 {
        let hop = hop(&format!("mx{n}.example"), "0.example");
        let failure = failure().saying(&"why ".repeat(1000));
        reports.failure(&world.table, &hop, &Applied::Nothing, failure, Timestamp::now());
    }
    assert!(reports.unsaved().unwrap().len() < 4 << 20);
    for n in 0..10 {
        let day = Timestamp::now() + jiff::SignedDuration::from_hours(24 * n);
        reports.failure(&world.table, &hop("mx.example", "d.example"), &Applied::Nothing, failure(), day);
    }
    let days: std::collections::BTreeSet<String> =
        reports.days_and_domains().into_iter().map(|(day, _)| day).collect();
    assert_eq!(days.len(), 3);
}
