//! Mail that waits for its way out, and ways that somebody closes for a while.

use std::collections::BTreeMap;

use super::workers::{Running, fast, quick, relay, start, target};
use super::*;
use crate::bundle::document::Retry;
use crate::delivery::pauses::{Closed, Closures, Pause};
use crate::delivery::sink::{Behaviour, Sink, nobody, say};
use crate::spool::{Fate, Target};

fn pause(closed: &[Closed]) -> Closures {
    let pause = || Pause { since: jiff::Timestamp::now(), by: "uid/0".into(), reason: None };
    closed.iter().map(|closed| (closed.clone(), pause())).collect::<BTreeMap<_, _>>()
}

fn route(name: &str) -> Closed {
    Closed::Route(name.to_owned())
}

/// So long that only waking can explain a delivery within the test.
fn slow() -> Retry {
    Retry { initial: Duration::from_secs(600), max: Duration::from_secs(600), ..Retry::default() }
}

async fn deferred(running: &Running, count: usize) {
    let attempted = |running: &Running| {
        running.spool.list().iter().filter(|mail| mail.attempts == 1 && !mail.in_flight).count()
    };
    for _ in 0..4000 {
        if attempted(running) == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not deferred: {:?}", running.spool.list());
}

#[tokio::test]
async fn r141_mail_of_a_missing_route_leaves_as_soon_as_the_route_is_there() {
    let sink = Sink::start(Behaviour::default()).await;
    let running = start(table(Vec::new(), None), quick());
    for n in 0..20 {
        running.send(&format!("u{n}@x.example")).await;
    }
    deferred(&running, 20).await;
    running.route(relay(&[sink.address], None, slow()));
    running.empty().await;
    assert_eq!(sink.accepted().len(), 20);
    running.stop().await;
}

#[tokio::test]
async fn r141_mail_that_a_route_could_not_deliver_is_tried_as_soon_as_its_hosts_change() {
    let sink = Sink::start(Behaviour::default()).await;
    let elsewhere = Sink::start(Behaviour::default().on("RCPT", say("451 4.3.0 later"))).await;
    let mut old = relay(&[nobody().await], None, slow());
    old.hostname = "gw.solarmora.com".into();
    let running = start(old, quick());
    running.send("a@x.example").await;
    // Mail of another way is not touched by the change.
    let other = RouteName { namespace: "mail".into(), name: "other".into() };
    running
        .submit(Some("app@solarmora.com"), vec![Target { via: Via::Route(other), ..target("b@x.example") }])
        .await;
    deferred(&running, 2).await;
    running.route(relay(&[sink.address], None, slow()));
    sink.wait_for(1).await;
    assert_eq!(sink.accepted()[0].rcpts, ["RCPT TO:<a@x.example>"]);
    // The same route with another schedule changes nothing for who waits.
    running.route(relay(&[elsewhere.address], None, slow()));
    tokio::time::sleep(Duration::from_millis(800)).await;
    running.send("c@x.example").await;
    elsewhere.wait_commands("RCPT", 1).await;
    running.route(relay(&[elsewhere.address], None, fast()));
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(elsewhere.commands().iter().filter(|command| command.starts_with("RCPT")).count(), 1);
    running.stop().await;
}

#[tokio::test]
async fn r159_a_paused_route_is_not_tried_and_goes_on_when_it_is_resumed() {
    let sink = Sink::start(Behaviour::default()).await;
    let running = start(relay(&[sink.address], None, fast()), quick());
    running.pauses.set(pause(&[route("mail/relay")]));
    for n in 0..30 {
        running.send(&format!("u{n}@x.example")).await;
    }
    running
        .until("set aside", |spool| {
            spool.list().iter().filter(|mail| !mail.in_flight && is_later(mail.next_attempt)).count() == 30
        })
        .await;
    assert_eq!(sink.connections(), 0);
    assert!(running.spool.list().iter().all(|mail| mail.attempts == 0), "no attempt is counted");
    running.pauses.set(Closures::new());
    running.empty().await;
    assert_eq!(sink.accepted().len(), 30);
    running.stop().await;
}

fn is_later(at: Option<jiff::Timestamp>) -> bool {
    at.is_some_and(|at| at > jiff::Timestamp::now() + Duration::from_secs(20))
}

#[tokio::test]
async fn a_paused_domain_holds_its_recipients_and_nobody_else_of_the_same_message() {
    let sink = Sink::start(Behaviour::default()).await;
    let running = start(relay(&[sink.address], None, fast()), quick());
    running.pauses.set(pause(&[Closed::Domain("x.example".into())]));
    let targets = ["a@x.example", "b@y.example", "c@X.EXAMPLE", "d@sub.x.example"].map(target);
    running.submit(Some("app@solarmora.com"), targets.to_vec()).await;
    let rcpts = sink.wait_for(1).await.remove(0).rcpts;
    assert_eq!(rcpts, ["RCPT TO:<b@y.example>", "RCPT TO:<d@sub.x.example>"]);
    running
        .until("two wait", |spool| spool.list().iter().all(|mail| mail.waiting == 2 && !mail.in_flight))
        .await;
    running.pauses.set(Closures::new());
    running.empty().await;
    assert_eq!(sink.accepted().len(), 2);
    running.stop().await;
}

/// The clock of a paused message goes on, but the pause alone never ends it: its sender hears that it is late, and
/// after the pause it has an attempt before it may be returned.
#[tokio::test]
async fn r159_a_pause_warns_the_sender_and_never_gives_up() {
    let hop = Sink::start(Behaviour::default().on("RCPT", say("451 4.3.0 not today"))).await;
    let home = Sink::start(Behaviour::default()).await;
    let schedule =
        Retry { give_up_after: Duration::from_millis(600), warn_after: Duration::from_millis(150), ..fast() };
    let running = start(relay(&[hop.address], Some(&home), schedule), quick());
    running.pauses.set(pause(&[route("mail/relay")]));
    running.send("a@x.example").await;
    let warning = String::from_utf8(home.wait_for(1).await.remove(0).content).unwrap();
    assert!(warning.contains("Action: delayed\r\nStatus: 4.4.7\r\n"), "{warning}");
    assert!(warning.contains("paused the route mail/relay"), "{warning}");
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(
        (running.spool.list().len(), hop.connections()),
        (1, 0),
        "it is older than its time and waits"
    );
    running.pauses.set(Closures::new());
    let report = String::from_utf8(home.wait_for(2).await.remove(1).content).unwrap();
    assert!(report.contains("Action: failed\r\nStatus: 5.4.7\r\n"), "{report}");
    assert!(report.contains("451 4.3.0 not today"), "it was tried once more, and these are the last words");
    running.empty().await;
    assert_eq!(hop.commands().iter().filter(|command| command.starts_with("RCPT")).count(), 1);
    running.stop().await;
}

/// `accepted = delivered + failed + released + lost + waiting + held`, recipient by recipient, whatever happens.
#[tokio::test]
async fn every_recipient_that_came_is_delivered_failed_or_waiting() {
    let behaviour = Behaviour::default()
        .on("RCPT TO:<no", say("550 5.1.1 no"))
        .on("RCPT TO:<later", say("451 4.3.0 later"));
    let hop = Sink::start(behaviour).await;
    let running = start(relay(&[hop.address], Some(&hop), slow()), quick());
    for n in 0..20 {
        let to = [format!("a{n}@x.example"), format!("no{n}@x.example"), format!("later{n}@x.example")];
        let targets = to.iter().map(|to| target(to)).collect();
        running.submit(Some("app@solarmora.com"), targets).await;
    }
    running
        .until("only the late ones wait", |spool| spool.stats().recipients == 20 && spool.len() == 20)
        .await;
    let stats = running.spool.stats();
    // 20 reports on the refused ones came in as well, and were delivered.
    assert_eq!((stats.entered, stats.delivered, stats.failed), (80, 40, 20));
    assert_eq!(
        stats.entered,
        stats.delivered + stats.failed + stats.released + stats.lost + stats.recipients
    );
    let claim = running.spool.take(running.spool.list()[0].id, &[2]).await.unwrap();
    claim.settle(vec![(2, Fate::Failed)], Vec::new()).await.unwrap();
    let stats = running.spool.stats();
    assert_eq!((stats.failed, stats.recipients), (21, 19));
    let folder = running.stop().await;
    let (spool, _) = crate::spool::Spool::open(folder.path(), crate::spool::Options::default()).unwrap();
    let stats = spool.stats();
    assert_eq!((stats.entered, stats.recipients, stats.delivered, stats.failed), (19, 19, 0, 0));
    spool.close().await;
}
