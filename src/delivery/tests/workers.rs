//! The worker with a real spool, a real next hop and routes that change.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use prometheus_client::registry::Registry;

use super::*;
use crate::bundle::document::Retry;
use crate::delivery::sink::{Action, Behaviour, Mail, Sink, nobody, say};
use crate::delivery::{Allowance, Config, Metrics, Pauses, Routes, Worker};
use crate::mail::edit::Edit;
use crate::mail::envelope::{Notify, Sender};
use crate::spool::{Content, Entry, Options, Spool, Submission, Target};

pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn path(&self) -> &std::path::Path {
        &self.0
    }

    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("postern-delivery-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

struct Live(ArcSwap<RouteTable>);

impl Routes for Live {
    fn current(&self) -> Arc<RouteTable> {
        self.0.load_full()
    }
}

pub(super) struct Running {
    pub(super) spool: Spool,
    routes: Arc<Live>,
    pub(super) pauses: Pauses,
    pub(super) metrics: Metrics,
    throttle: Throttle,
    worker: Worker,
    folder: Folder,
}

pub(super) fn fast() -> Retry {
    Retry {
        initial: Duration::from_millis(30),
        factor: 1.5,
        max: Duration::from_millis(200),
        give_up_after: Duration::from_secs(60),
        warn_after: Duration::from_secs(30),
    }
}

/// One route `relay` to these hosts with a fast schedule; reports leave by `normal` routing to `reports`.
pub(super) fn relay(at: &[std::net::SocketAddr], reports: Option<&Sink>, retry: Retry) -> RouteTable {
    let gateway = match reports {
        Some(sink) => normal(HostPort { host: sink.address.ip().to_string(), port: sink.address.port() }),
        None => gateway(),
    };
    table_of(gateway, vec![Route { retry, ..route(hosts(at)) }], None)
}

pub(super) fn start(table: RouteTable, config: Config) -> Running {
    start_in(Folder::new(), table, config)
}

fn start_in(folder: Folder, table: RouteTable, config: Config) -> Running {
    let options = Options { segment_bytes: Some(1 << 20), ..Options::default() };
    let (spool, _) = Spool::open(&folder.0, options).unwrap();
    let routes = Arc::new(Live(ArcSwap::from_pointee(table)));
    let metrics = Metrics::default();
    let throttle = config.throttle.clone();
    let pauses = Pauses::default();
    let worker = Worker::start(
        spool.clone(),
        routes.clone(),
        metrics.clone(),
        Allowance::default(),
        pauses.clone(),
        config,
    );
    Running { spool, routes, pauses, metrics, throttle, worker, folder }
}

pub(super) fn quick() -> Config {
    Config { timeouts: impatient(), drain: Duration::from_secs(5), ..Config::default() }
}

pub(super) fn target(address: &str) -> Target {
    Target {
        recipient: to(address),
        via: via(),
        require_tls: false,
        edits: Arc::from([]),
        suppress_bounces: false,
    }
}

const CONTENT: &str = "Received: x\r\nSubject: Laporan bulanan\r\n\r\nbody\r\n";

impl Running {
    pub(super) async fn submit(&self, sender: Option<&str>, targets: Vec<Target>) {
        let entry = Entry {
            sender: Sender { mailbox: sender.map(|s| s.parse().unwrap()), ..Sender::default() },
            received_at: Timestamp::now(),
            origin: "app ([192.0.2.1])".into(),
            revision: "r1".into(),
            own: false,
            held: None,
            targets,
        };
        let content = Content::from(CONTENT.as_bytes().to_vec());
        let id = self.spool.new_id();
        self.spool.commit(vec![Submission { id, entry, content }]).await.unwrap();
    }

    /// A new table of routes.
    pub(super) fn route(&self, table: RouteTable) {
        self.routes.0.store(Arc::new(table));
    }

    pub(super) async fn send(&self, address: &str) {
        self.submit(Some("app@solarmora.com"), vec![target(address)]).await;
    }

    /// Waits until nothing is left in the spool.
    pub(super) async fn empty(&self) {
        for _ in 0..4000 {
            if self.spool.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("still in the spool: {:?}", self.spool.list());
    }

    pub(super) async fn until(&self, what: &str, mut reached: impl FnMut(&Spool) -> bool) {
        for _ in 0..4000 {
            if reached(&self.spool) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never {what}: {:?}", self.spool.list());
    }

    pub(super) async fn stop(self) -> Folder {
        self.worker.shutdown().await;
        self.spool.close().await;
        self.folder
    }

    pub(super) fn metrics(&self) -> String {
        let mut registry = Registry::default();
        self.metrics.register(&mut registry);
        self.throttle.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }
}

fn text(mail: &Mail) -> String {
    String::from_utf8(mail.content.clone()).unwrap()
}

#[tokio::test]
async fn mail_is_delivered_with_its_edits_and_leaves_the_spool() {
    let sink = Sink::start(Behaviour::default()).await;
    let running = start(relay(&[sink.address], None, fast()), quick());
    let edits = Arc::from([
        Edit::PrefixSubject { text: "Rahasia".into() },
        Edit::AddHeader { name: "X-Rule".into(), value: "r".into() },
    ]);
    let edited = Target { edits, ..target("b@x.example") };
    running
        .submit(Some("app@solarmora.com"), vec![target("a@x.example"), edited, target("c@x.example")])
        .await;
    running.empty().await;
    let mut mails = sink.accepted();
    mails.sort_by_key(|mail| mail.rcpts.len());
    assert_eq!(mails.len(), 2, "recipients alike share a transaction");
    assert_eq!(text(&mails[1]), CONTENT, "without edits every byte is as it came");
    assert_eq!(
        text(&mails[0]),
        "Received: x\r\nX-Rule: r\r\nSubject: [Rahasia] Laporan bulanan\r\n\r\nbody\r\n"
    );
    let metrics = running.metrics();
    assert!(
        metrics.contains(r#"postern_deliveries_total{route="mail/relay",result="delivered"} 3"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#"postern_plaintext_deliveries_total{route="mail/relay"} 3"#));
    running.stop().await;
}

#[tokio::test]
async fn temporary_failures_are_tried_again_until_one_delivery() {
    let behaviour = Behaviour::default()
        .on_times("RCPT", 1, say("451 4.3.0 later"))
        .on_times("RCPT", 1, say("450 4.2.0 later"))
        .on_times("DATA", 1, Action::SayAndClose("421 4.3.2 bye".into()))
        .on_times("CONTENT", 1, Action::Close)
        .on_times("END", 1, say("451 4.3.0 disk"))
        .on_times("END", 1, Action::Close)
        .on_times("CONNECT", 1, Action::Close);
    let sink = Sink::start(behaviour).await;
    let running = start(relay(&[sink.address], None, fast()), quick());
    running.send("a@x.example").await;
    running.empty().await;
    assert_eq!(sink.accepted().len(), 1);
    assert_eq!(text(&sink.accepted()[0]), CONTENT);
    running.stop().await;
}

#[tokio::test]
async fn a_permanent_failure_returns_one_report_to_the_sender() {
    let hop = Sink::start(Behaviour::default().on("END", say("554 5.6.0 we do not like it"))).await;
    let home = Sink::start(Behaviour::default()).await;
    let running = start(relay(&[hop.address], Some(&home), fast()), quick());
    running.submit(Some("app@solarmora.com"), vec![target("a@x.example"), target("b@x.example")]).await;
    let report = home.wait_for(1).await.remove(0);
    running.empty().await;
    assert!(report.mail.starts_with("MAIL FROM:<>"), "{report:?}");
    assert_eq!(report.rcpts, ["RCPT TO:<app@solarmora.com> NOTIFY=NEVER"]);
    let report = text(&report);
    for part in [
        "Auto-Submitted: auto-replied\r\n",
        "From: Mail delivery <postmaster@solarmora.com>\r\n",
        "report-type=delivery-status",
        "Final-Recipient: rfc822; a@x.example\r\nAction: failed\r\nStatus: 5.6.0\r\n",
        "Final-Recipient: rfc822; b@x.example\r\n",
        "Diagnostic-Code: smtp; 554 5.6.0 we do not like it\r\n",
        "Content-Type: text/rfc822-headers",
        "Subject: Laporan bulanan",
    ] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    assert!(!report.contains("\r\nbody\r\n"));
    assert_eq!((hop.mails().len(), home.accepted().len()), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn no_report_is_made_for_a_null_sender_nor_against_notify_nor_about_a_report() {
    let hop = Sink::start(Behaviour::default().on("RCPT", say("550 5.1.1 no"))).await;
    let running = start(relay(&[hop.address], Some(&hop), fast()), quick());
    running.submit(None, vec![target("a@x.example")]).await;
    let mut never = target("b@x.example");
    never.recipient.notify = Notify::Never;
    running.submit(Some("app@solarmora.com"), vec![never]).await;
    // This one is reported; the report fails in turn, and that is the end of it.
    running.send("c@x.example").await;
    running.until("3 rejections and one report", |spool| spool.is_empty()).await;
    let rcpts = |address: &str| hop.commands().iter().filter(|c| c.contains(address)).count();
    running.until("the report was tried", |_| rcpts("<app@solarmora.com> NOTIFY") == 1).await;
    running.empty().await;
    assert_eq!((rcpts("a@x.example"), rcpts("b@x.example"), rcpts("c@x.example")), (1, 1, 1));
    let metrics = running.metrics();
    assert!(metrics.contains(r#"postern_reports_total{kind="failed"} 1"#), "{metrics}");
    running.stop().await;
}

#[tokio::test]
async fn a_sender_whose_mail_always_fails_is_not_flooded() {
    let hop = Sink::start(Behaviour::default().on("RCPT", say("550 5.1.1 no"))).await;
    let home = Sink::start(Behaviour::default()).await;
    let running = start(relay(&[hop.address], Some(&home), fast()), quick());
    for n in 0..120 {
        running.submit(Some("forged@solarmora.com"), vec![target(&format!("u{n}@x.example"))]).await;
    }
    running.empty().await;
    assert!((50..=52).contains(&home.accepted().len()), "{} reports", home.accepted().len());
    running.stop().await;
}

#[tokio::test]
async fn missing_tls_is_reported_and_nothing_is_sent() {
    let hop = Sink::start(Behaviour::default()).await;
    let home = Sink::start(Behaviour::default()).await;
    let running = start(relay(&[hop.address], Some(&home), fast()), quick());
    let demanding = Target { require_tls: true, ..target("a@x.example") };
    running.submit(Some("app@solarmora.com"), vec![demanding]).await;
    let report = text(&home.wait_for(1).await[0]);
    running.empty().await;
    assert!(report.contains("Status: 5.7.4\r\n"), "{report}");
    assert!(hop.mails().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn success_is_reported_as_relayed_only_where_the_next_hop_will_not() {
    let bare = Sink::start(Behaviour::bare()).await;
    let home = Sink::start(Behaviour::default()).await;
    let mut wish = target("a@x.example");
    wish.recipient.notify = Notify::On { success: true, failure: true, delay: false };
    let running = start(relay(&[bare.address], Some(&home), fast()), quick());
    running.submit(Some("app@solarmora.com"), vec![wish.clone(), target("b@x.example")]).await;
    let report = text(&home.wait_for(1).await[0]);
    assert!(report.contains("Final-Recipient: rfc822; a@x.example\r\nAction: relayed\r\nStatus: 2.0.0\r\n"));
    assert!(!report.contains("b@x.example"));
    running.empty().await;
    running.stop().await;

    let able = Sink::start(Behaviour::default()).await;
    let running = start(relay(&[able.address], Some(&home), fast()), quick());
    running.submit(Some("app@solarmora.com"), vec![wish]).await;
    running.empty().await;
    assert_eq!(home.accepted().len(), 1);
    assert!(able.accepted()[0].rcpts[0].ends_with("NOTIFY=SUCCESS,FAILURE"));
    running.stop().await;
}

#[tokio::test]
async fn a_late_message_is_announced_once_and_returned_when_its_time_is_up() {
    let hop = Sink::start(Behaviour::default().on("RCPT", say("451 4.3.0 not today"))).await;
    let home = Sink::start(Behaviour::default()).await;
    let schedule = Retry {
        initial: Duration::from_millis(100),
        factor: 1.0,
        max: Duration::from_millis(100),
        give_up_after: Duration::from_millis(1500),
        warn_after: Duration::from_millis(400),
    };
    let running = start(relay(&[hop.address], Some(&home), schedule), quick());
    running.send("a@x.example").await;
    let reports = home.wait_for(2).await;
    running.empty().await;
    let (delayed, failed) = (text(&reports[0]), text(&reports[1]));
    assert!(
        delayed.contains("Action: delayed\r\nStatus: 4.4.7\r\n") && delayed.contains("Will-Retry-Until: ")
    );
    assert!(failed.contains("Action: failed\r\nStatus: 5.4.7\r\n"));
    assert!(failed.contains("Diagnostic-Code: smtp; 451 4.3.0 not today\r\n"));
    assert_eq!(home.accepted().len(), 2);
    let attempts = hop.commands().iter().filter(|command| command.starts_with("RCPT")).count();
    assert!((6..=17).contains(&attempts), "{attempts} attempts in 1.5 s, one each 0.1 s");
    running.stop().await;
}

#[tokio::test]
async fn r018_a_route_that_is_missing_makes_mail_wait_and_a_new_one_is_used_at_once() {
    let sink = Sink::start(Behaviour::default()).await;
    // Normal routing would lead to the sink too, and must not be taken.
    let without = table_of(
        normal(HostPort { host: sink.address.ip().to_string(), port: sink.address.port() }),
        Vec::new(),
        None,
    );
    let running = start(without, quick());
    let retry = Duration::from_secs(300);
    running.send("a@x.example").await;
    running
        .until("deferred", |spool| {
            spool.list().first().is_some_and(|mail| {
                let error = mail.last_error.as_deref().unwrap_or_default();
                let soon = mail.next_attempt.is_some_and(|at| at < Timestamp::now() + retry / 2);
                error == "The route mail/relay does not exist" && !soon
            })
        })
        .await;
    assert!(sink.commands().is_empty());
    running.routes.0.store(Arc::new(relay(&[sink.address], None, fast())));
    running.send("b@x.example").await;
    assert_eq!(sink.wait_for(1).await[0].rcpts, ["RCPT TO:<b@x.example>"]);
    running.stop().await;
}

#[tokio::test]
async fn a_dead_next_hop_holds_up_nobody_else() {
    let black_hole = Sink::start(Behaviour::default().on("CONNECT", Action::Hang)).await;
    let good = Sink::start(Behaviour::default()).await;
    let mut table = relay(&[black_hole.address], Some(&good), Retry::default());
    table.hostname = "gw.solarmora.com".into();
    let mut config = Config { concurrency: 10, per_destination: 4, ..quick() };
    config.timeouts.greeting = Duration::from_secs(4);
    let running = start(table, config);
    for n in 0..100 {
        running.send(&format!("dead{n}@x.example")).await;
    }
    for n in 0..20 {
        let target = Target { via: Via::Normal, ..target(&format!("good{n}@x.example")) };
        running.submit(Some("app@solarmora.com"), vec![target]).await;
    }
    let since = std::time::Instant::now();
    good.wait_for(20).await;
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert!(black_hole.most_open() <= 4);
    // The first silence speaks for all that stood in line: nobody waits for it a second time.
    running.until("all deferred", |spool| spool.list().iter().all(|mail| mail.attempts == 1)).await;
    assert!(black_hole.connections() <= 8, "{} connections", black_hole.connections());
    running.stop().await;
}

#[tokio::test]
async fn connections_to_one_destination_are_limited_and_used_again() {
    let sink = Sink::start(Behaviour::default()).await;
    let running = start(relay(&[sink.address], None, fast()), Config { per_destination: 3, ..quick() });
    for n in 0..200 {
        running.send(&format!("u{n}@x.example")).await;
    }
    running.empty().await;
    assert_eq!(sink.accepted().len(), 200);
    assert!(sink.most_open() <= 3, "{} at once", sink.most_open());
    assert!(sink.connections() < 20, "{} connections for 200 messages", sink.connections());
    running.stop().await;
}

#[tokio::test]
async fn shutdown_finishes_what_runs_and_keeps_the_rest_for_the_next_start() {
    let slow = Sink::start(Behaviour::default().on("END", Action::Wait(Duration::from_millis(200)))).await;
    let table = || relay(&[slow.address], None, fast());
    let config = Config { per_destination: 2, ..quick() };
    let running = start(table(), config.clone());
    for n in 0..10 {
        running.send(&format!("u{n}@x.example")).await;
    }
    slow.wait_for(1).await;
    let folder = running.stop().await;
    let before = slow.accepted().len();
    assert!(before < 10, "too quick to prove anything");
    let running = start_in(folder, table(), config);
    running.empty().await;
    let mut rcpts: Vec<String> = slow.accepted().into_iter().flat_map(|mail| mail.rcpts).collect();
    assert_eq!(rcpts.len(), 10, "each exactly once");
    rcpts.sort();
    rcpts.dedup();
    assert_eq!(rcpts.len(), 10);
    running.stop().await;
}

#[tokio::test]
async fn the_first_host_being_dead_costs_no_more_than_its_time_out() {
    let good = Sink::start(Behaviour::default()).await;
    let primary = vec![host(nobody().await)];
    let target = RouteTarget::Hosts { primary, secondary: vec![host(good.address)] };
    let running = start(table(vec![Route { retry: Retry::default(), ..route(target) }], None), quick());
    running.send("a@x.example").await;
    good.wait_for(1).await;
    running.empty().await;
    running.stop().await;
}
