//! Who hears of what (RFC 3461 sections 4.1, 5.2.1, 5.2.2, 6.2): what the sender asked for, what the next hop can
//! do, what became of the recipient.

use jiff::Timestamp;

use super::workers::{quick, relay, start, target};
use super::*;
use crate::bundle::document::Retry;
use crate::delivery::outcome::{Outcome, Problem, Receipt, Stage, Trouble};
use crate::delivery::protect::Protected;
use crate::delivery::settle::{Attempted, settle};
use crate::delivery::sink::{Behaviour, Sink, say};
use crate::mail::dsn::Action;
use crate::mail::envelope::{Notify, Ret, Sender};
use crate::smtp::reply::Reply;
use crate::spool::{Content, Entry, Submission, Waiting};

const fn on(success: bool, failure: bool, delay: bool) -> Notify {
    Notify::On { success, failure, delay }
}

/// What was asked for; then who is told of a delivery to a hop without DSN, a failure, a delay.
const ROWS: [(Notify, bool, bool, bool); 9] = [
    (Notify::Unset, false, true, true),
    (Notify::Never, false, false, false),
    (on(true, false, false), true, false, false),
    (on(false, true, false), false, true, false),
    (on(false, false, true), false, false, true),
    (on(true, true, false), true, true, false),
    (on(true, false, true), true, false, true),
    (on(false, true, true), false, true, true),
    (on(true, true, true), true, true, true),
];

fn entry(sender: Option<&str>, own: bool, notify: Notify, silent: bool) -> Entry {
    let mut this = target("b@x.example");
    this.recipient.notify = notify;
    this.suppress_bounces = silent;
    Entry {
        sender: Sender { mailbox: sender.map(|sender| sender.parse().unwrap()), ..Sender::default() },
        received_at: Timestamp::from_second(1000).unwrap(),
        origin: "app".into(),
        revision: "r1".into(),
        own,
        held: None,
        targets: vec![this],
    }
}

fn reply(code: u16) -> Reply {
    Reply::new(code, [code / 100, 0, 0], "words")
}

fn outcomes() -> [(&'static str, Outcome, Duration); 5] {
    let delivered = |dsn| {
        let receipt =
            Receipt { host: "mx".into(), reply: reply(250), tls: None, protected: Protected::None, dsn };
        Outcome::Delivered(receipt)
    };
    let refused = |code| Problem::at("mx", Trouble::Refused(Stage::Rcpt, reply(code)));
    [
        ("delivered to a hop with DSN", delivered(true), Duration::ZERO),
        ("delivered to a hop without DSN", delivered(false), Duration::ZERO),
        ("failed", Outcome::Failed { status: [5, 0, 0], problem: refused(550) }, Duration::ZERO),
        ("late", Outcome::Later(refused(451)), Duration::from_secs(5 * 3600)),
        ("too late", Outcome::Later(refused(451)), Duration::from_secs(121 * 3600)),
    ]
}

/// What a sender hears of one attempt.
fn told(entry: &Entry, outcome: &Outcome, age: Duration) -> Option<Action> {
    let before = Waiting { attempts: 3, next_attempt: entry.received_at, last_error: None, warned: false };
    let attempted = [Attempted { target: 0, before: &before, outcome }];
    let settled = settle(entry, &Retry::default(), entry.received_at + age, || 0.5, &attempted);
    let all = [settled.failed, settled.delayed, settled.relayed].concat();
    assert!(all.len() <= 1, "one fate, one report");
    all.first().map(|fate| fate.action)
}

#[test]
fn r159_each_wish_of_a_sender_meets_each_outcome_as_rfc_3461_says() {
    let sender = Some("app@solarmora.com");
    for (notify, success, failure, delay) in ROWS {
        for (what, outcome, age) in outcomes() {
            let expected = match what {
                // The next hop has the wish now and will tell.
                "delivered to a hop with DSN" => None,
                "delivered to a hop without DSN" => success.then_some(Action::Relayed),
                "late" => delay.then_some(Action::Delayed),
                _ => failure.then_some(Action::Failed),
            };
            assert_eq!(
                told(&entry(sender, false, notify, false), &outcome, age),
                expected,
                "{notify:?} {what}"
            );
            for (why, silent) in [
                ("a null sender", entry(None, false, notify, false)),
                ("a report", entry(None, true, notify, false)),
                ("a rule", entry(sender, false, notify, true)),
            ] {
                assert_eq!(told(&silent, &outcome, age), None, "{why}: {notify:?} {what}");
            }
        }
    }
}

#[test]
fn r159_a_sender_is_warned_once() {
    let entry = entry(Some("app@solarmora.com"), false, Notify::Unset, false);
    let outcome = &outcomes()[3].1;
    let before = Waiting { attempts: 3, next_attempt: entry.received_at, last_error: None, warned: true };
    let attempted = [Attempted { target: 0, before: &before, outcome }];
    let now = entry.received_at + Duration::from_secs(6 * 3600);
    assert_eq!(settle(&entry, &Retry::default(), now, || 0.5, &attempted).delayed, []);
}

/// The wishes go to a hop that knows them, letter by letter, and to no other (section 5.2.1, 5.2.2 (a)).
#[tokio::test]
async fn r159_the_wishes_travel_to_a_hop_that_knows_them_and_to_no_other() {
    for (behaviour, knows) in [(Behaviour::default(), true), (Behaviour::bare(), false)] {
        let hop = Sink::start(behaviour).await;
        let home = Sink::start(Behaviour::default()).await;
        let running = start(relay(&[hop.address], Some(&home), Retry::default()), quick());
        let targets = ROWS.iter().enumerate().map(|(n, (notify, ..))| {
            let mut this = target(&format!("u{n}@x.example"));
            this.recipient.notify = *notify;
            this.recipient.original = (n == 3).then(|| "rfc822;first+40x.example".to_owned());
            this
        });
        let sender = Sender {
            mailbox: Some("app@solarmora.com".parse().unwrap()),
            ret: Some(Ret::Headers),
            envid: Some("QQ314159".into()),
            ..Sender::default()
        };
        let entry = Entry { sender, targets: targets.collect(), ..entry(None, false, Notify::Unset, false) };
        let entry = Entry { received_at: Timestamp::now(), ..entry };
        let content = Content::from(b"Subject: x\r\n\r\nbody\r\n".to_vec());
        let id = running.spool.new_id();
        running.spool.commit(vec![Submission { id, entry, content }]).await.unwrap();
        let mail = hop.wait_for(1).await.remove(0);
        running.empty().await;
        assert_eq!(mail.mail.contains(" RET=HDRS ENVID=QQ314159"), knows, "{}", mail.mail);
        let wishes = [
            "",
            " NOTIFY=NEVER",
            " NOTIFY=SUCCESS",
            " NOTIFY=FAILURE ORCPT=rfc822;first+40x.example",
            " NOTIFY=DELAY",
            " NOTIFY=SUCCESS,FAILURE",
            " NOTIFY=SUCCESS,DELAY",
            " NOTIFY=FAILURE,DELAY",
            " NOTIFY=SUCCESS,FAILURE,DELAY",
        ];
        for (n, (rcpt, wish)) in mail.rcpts.iter().zip(wishes).enumerate() {
            assert_eq!(*rcpt, format!("RCPT TO:<u{n}@x.example>{}", if knows { wish } else { "" }));
        }
        // One report for the four who wanted to hear of success, from us only if the hop will not send one.
        assert_eq!(home.accepted().len(), usize::from(!knows));
        if let Some(report) = home.accepted().first() {
            let text = String::from_utf8_lossy(&report.content).into_owned();
            assert_eq!(text.matches("Action: relayed").count(), 4, "{text}");
            assert!(text.contains("Original-Envelope-Id: QQ314159"), "{text}");
        }
        running.stop().await;
    }
}

/// A report that fails, and other mail of a null sender, is the end of it: counted, told to nobody (RFC 5321
/// section 6.1).
#[tokio::test]
async fn r069_a_failed_report_is_counted_and_never_reported() {
    let hop = Sink::start(Behaviour::default().on("RCPT", say("550 5.1.1 no"))).await;
    let running = start(relay(&[hop.address], Some(&hop), Retry::default()), quick());
    running.submit(None, vec![target("a@x.example"), target("b@x.example")]).await;
    running.send("c@x.example").await;
    running
        .until("its report was tried", |_| {
            hop.commands().iter().any(|command| command.starts_with("RCPT TO:<app@solarmora.com>"))
        })
        .await;
    running.empty().await;
    let metrics = running.metrics();
    assert!(metrics.contains("postern_double_bounces_total 3"), "{metrics}");
    assert!(metrics.contains(r#"postern_reports_total{kind="failed"} 1"#), "{metrics}");
    running.stop().await;
}
