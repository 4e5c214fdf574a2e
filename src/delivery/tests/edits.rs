//! Messages changed on their way out, senders who are not told, and senders who demand TLS.

use std::sync::Arc;

use jiff::Timestamp;

use super::workers::{Running, fast, quick, relay, start, target};
use super::*;
use crate::delivery::authority::Authority as DnsAuthority;
use crate::delivery::sink::{Authority, Behaviour, Sink, say, self_signed};
use crate::mail::edit::{Edit, Footer, Removal};
use crate::mail::envelope::Sender;
use crate::spool::{Content, Entry, Submission, Target};

const FRONT: &str = "Received: x\r\nFrom: app@solarmora.com\r\nSubject: s\r\nMIME-Version: 1.0\r\n";
const MIXED: &str = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n\
                     Content-Type: application/octet-stream; name=x.bin\r\n\r\ncontent of x\r\n--b--\r\n";

async fn submit(running: &Running, sender: Sender, content: &str, targets: Vec<Target>) {
    let entry = Entry {
        sender,
        received_at: Timestamp::now(),
        origin: "app ([192.0.2.1])".into(),
        revision: "r1".into(),
        own: false,
        held: None,
        targets,
    };
    let content = Content::from(content.as_bytes().to_vec());
    let id = running.spool.new_id();
    running.spool.commit(vec![Submission { id, entry, content }]).await.unwrap();
}

fn sender() -> Sender {
    Sender { mailbox: Some("app@solarmora.com".parse().unwrap()), ..Sender::default() }
}

fn changed(address: &str, edits: Vec<Edit>) -> Target {
    Target { edits: Arc::from(edits), ..target(address) }
}

fn silent(address: &str) -> Target {
    Target { suppress_bounces: true, ..target(address) }
}

fn removal() -> Edit {
    Edit::RemoveAttachments(Removal { all: true, ..Removal::default() })
}

fn text(content: &[u8]) -> String {
    // Long lines of prose may be folded; what is asked for is words.
    String::from_utf8_lossy(content).replace("=\r\n", "").replace("\r\n", " ")
}

#[tokio::test]
async fn r090_r091_bodies_are_changed_for_those_a_rule_names_and_for_nobody_else() {
    let sink = Sink::start(Behaviour::default()).await;
    let running = start(relay(&[sink.address], None, fast()), quick());
    let footer = Edit::Footer(Footer { text: "below".into(), html: None });
    let targets = vec![
        changed("plain@x.example", vec![]),
        changed("less@x.example", vec![removal()]),
        changed("more@x.example", vec![footer, Edit::PrefixSubject { text: "P".into() }]),
    ];
    let content = format!("{FRONT}{MIXED}");
    submit(&running, sender(), &content, targets).await;
    let mails = sink.wait_for(3).await;
    let to = |who: &str| {
        let mail = mails.iter().find(|mail| mail.rcpts[0].contains(who)).expect("it came");
        String::from_utf8(mail.content.clone()).unwrap()
    };
    assert_eq!(to("plain@"), content);
    let less = to("less@");
    assert!(less.contains("[Attachment removed: x.bin]") && !less.contains("content of x"), "{less}");
    let more = to("more@");
    assert!(more.contains("text\r\n\r\nbelow\r\n") && more.contains("content of x"), "{more}");
    assert!(more.contains("Subject: [P] s\r\n"), "{more}");
    running.empty().await;
}

#[tokio::test]
async fn r090_what_cannot_be_changed_safely_is_returned_and_never_sent_unchanged() {
    let (sink, reports) = (Sink::start(Behaviour::default()).await, Sink::start(Behaviour::default()).await);
    let running = start(relay(&[sink.address], Some(&reports), fast()), quick());
    let ambiguous = format!("{FRONT}{}", MIXED.replace("boundary=b", "boundary=c; boundary=b"));
    submit(&running, sender(), &ambiguous, vec![changed("a@x.example", vec![removal()])]).await;
    let report = text(&reports.wait_for(1).await[0].content);
    assert!(report.contains("Status: 5.6.0") && report.contains("two boundaries"), "{report}");
    let smime = Edit::Smime { certificate: "bm8=".into() };
    submit(&running, sender(), FRONT, vec![changed("a@x.example", vec![smime])]).await;
    let report = text(&reports.wait_for(2).await[1].content);
    assert!(report.contains("Status: 5.7.5") && report.contains("Cannot encrypt for"), "{report}");
    assert!(report.contains("no valid certificate"), "{report}");
    running.empty().await;
    assert!(sink.mails().is_empty());
}

#[tokio::test]
async fn r085_suppressed_bounces_ask_the_next_hop_for_none_and_the_sender_hears_nothing_from_us() {
    let bare = Behaviour { extensions: vec!["PIPELINING".into(), "8BITMIME".into()], ..Behaviour::default() };
    for (behaviour, mail, rcpt) in [
        (Behaviour::default(), "MAIL FROM:<app@solarmora.com>", "RCPT TO:<quiet@x.example> NOTIFY=NEVER"),
        (bare, "MAIL FROM:<>", "RCPT TO:<quiet@x.example>"),
    ] {
        let refusing = behaviour.on("RCPT TO:<gone@", say("550 5.1.1 no such user"));
        let sink = Sink::start(refusing).await;
        let reports = Sink::start(Behaviour::default()).await;
        let running = start(relay(&[sink.address], Some(&reports), fast()), quick());
        let targets = vec![silent("quiet@x.example"), target("loud@x.example"), silent("gone@x.example")];
        submit(&running, sender(), FRONT, targets).await;
        let mails = sink.wait_for(2).await;
        running.empty().await;
        let quiet = mails.iter().find(|mail| mail.rcpts[0].contains("quiet")).unwrap();
        assert!(quiet.mail.starts_with(mail), "{}", quiet.mail);
        assert_eq!(quiet.rcpts, [rcpt]);
        let loud = mails.iter().find(|mail| mail.rcpts[0].contains("loud")).unwrap();
        assert!(loud.mail.starts_with("MAIL FROM:<app@solarmora.com>") && !loud.rcpts[0].contains("NOTIFY"));
        assert!(reports.mails().is_empty(), "nobody is told of {:?}", sink.commands());
        assert_eq!(running.metrics.bounces_suppressed.get(), 1);
    }
}

fn protected() -> Sender {
    Sender { require_tls: true, ..sender() }
}

fn offering(behaviour: Behaviour) -> Behaviour {
    let mut behaviour = behaviour;
    behaviour.extensions.push("REQUIRETLS".into());
    behaviour
}

#[tokio::test]
async fn r107_requiretls_goes_on_over_verified_tls_to_a_host_that_promises_the_same() {
    let authority = Authority::new();
    let sink = Sink::start(offering(Behaviour::with_tls(authority.server(&["127.0.0.1"])))).await;
    // The route itself would be content with anything.
    let tls = RouteTls { ca: Some(ca_material()), ..RouteTls::opportunistic() };
    let table = table(vec![Route { tls, ..route(hosts(&[sink.address])) }], Some(&authority.pem()));
    let running = start(table, quick());
    submit(&running, protected(), FRONT, vec![target("a@x.example")]).await;
    let mail = sink.wait_for(1).await.remove(0);
    assert!(mail.tls && mail.mail.ends_with(" REQUIRETLS"), "{}", mail.mail);
    submit(&running, sender(), FRONT, vec![target("a@x.example")]).await;
    assert!(!sink.wait_for(2).await[1].mail.contains("REQUIRETLS"));
    running.empty().await;
}

#[tokio::test]
async fn r107_where_it_cannot_go_on_protected_it_is_returned_5_7_30_and_its_body_stays_here() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (behaviour, why) in [
        (offering(Behaviour::default()), "STARTTLS"),
        (Behaviour::with_tls(authority.server(&["127.0.0.1"])), "does not offer REQUIRETLS"),
        (offering(Behaviour::with_tls(stranger.server(&["127.0.0.1"]))), "unknown issuer"),
        (offering(Behaviour::with_tls(authority.server(&["other.example"]))), "name mismatch"),
        (offering(Behaviour::with_tls(self_signed(&["127.0.0.1"]).0)), "self-signed"),
    ] {
        let (sink, reports) = (Sink::start(behaviour).await, Sink::start(Behaviour::default()).await);
        let host = HostPort { host: reports.address.ip().to_string(), port: reports.address.port() };
        let tls = RouteTls { ca: Some(ca_material()), ..RouteTls::opportunistic() };
        let on_tls_failure = OnTlsFailure::Defer;
        let relay = Route { tls, on_tls_failure, ..route(hosts(&[sink.address])) };
        let running = start(table_of(normal(host), vec![relay], Some(&authority.pem())), quick());
        let full = Sender { ret: Some(crate::mail::envelope::Ret::Full), ..protected() };
        submit(&running, full, &format!("{FRONT}\r\nsecret body\r\n"), vec![target("a@x.example")]).await;
        let report = text(&reports.wait_for(1).await[0].content);
        assert!(report.contains("Status: 5.7.30") && report.contains(why), "{why}: {report}");
        assert!(!report.contains("secret body"), "{report}");
        assert!(sink.mails().is_empty());
        assert!(!sink.commands().iter().any(|line| line.starts_with("MAIL")), "{:?}", sink.commands());
        running.empty().await;
    }
}

#[tokio::test]
async fn r107_a_host_named_by_unprotected_dns_is_no_verified_host() {
    let reports = Sink::start(Behaviour::default()).await;
    let host = HostPort { host: reports.address.ip().to_string(), port: reports.address.port() };
    let by_mx = route(RouteTarget::RecipientMx);
    let dns = DnsAuthority::start(&["d.example. MX 10 mx.d.example.", "mx.d.example. A 127.0.0.1"]).await;
    let gateway = Gateway { dns_servers: vec![dns.address], ..normal(host) };
    let running = start(table_of(gateway, vec![by_mx], None), quick());
    submit(&running, protected(), FRONT, vec![target("a@d.example")]).await;
    let report = text(&reports.wait_for(1).await[0].content);
    assert!(report.contains("Status: 5.7.30") && report.contains("nothing protects"), "{report}");
    running.empty().await;
}
