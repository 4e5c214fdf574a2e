//! The queue on a real spool folder with nobody delivering. Whole gateways are in `tests/it/queue.rs`.

use std::path::PathBuf;

use super::*;
use crate::bundle::document::{
    Gateway, HostPort, ObjectId, ObjectKind, Origin, Route, RouteTarget, RouteTls,
};
use crate::bundle::{Bundle, Materials};
use crate::delivery::{self, Own};
use crate::mail::envelope::{Recipient, RouteName, Sender, Via};
use crate::spool::{Options, Submission, Target};

const ACTOR: Actor = Actor::Uid(0);

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Office {
    queue: Queue,
    spool: Spool,
    folder: Folder,
}

fn origin(kind: ObjectKind, name: &str) -> Origin {
    let object = ObjectId { kind, namespace: "mail".into(), name: name.into() };
    Origin { object, uid: "1".into(), generation: 1 }
}

fn table() -> RouteTable {
    let route = |name: &str| {
        let target = RouteTarget::MxOf(vec![HostPort { host: "relay.example".into(), port: 25 }]);
        Route::new(origin(ObjectKind::OutboundRoute, name), target, RouteTls::opportunistic())
    };
    let gateway = Gateway::new(origin(ObjectKind::OutboundGateway, "default"));
    let bundle = Bundle { routes: vec![route("relay"), route("archive")], ..Bundle::new(gateway) };
    RouteTable::build(&bundle, &Materials::default(), &Own::default())
}

fn open(folder: Folder) -> Result<Office, ClosuresError> {
    let options = Options { segment_bytes: Some(1 << 20), ..Options::default() };
    let (spool, _) = Spool::open(&folder.0, options).expect("it opens");
    let acceptance = Acceptance {
        spool: spool.clone(),
        allowance: Allowance::default(),
        metrics: delivery::Metrics::default(),
    };
    let table = Arc::new(table());
    let routes = Box::new(move || Some(Arc::clone(&table)));
    let queue = Queue::open(&acceptance, routes, Pauses::default(), Metrics::default())?;
    Ok(Office { queue, spool, folder })
}

fn office() -> Office {
    let folder = std::env::temp_dir().join(format!("postern-queue-{:016x}", rand::random::<u64>()));
    std::fs::create_dir_all(&folder).expect("writable");
    open(Folder(folder)).unwrap_or_else(|error| panic!("{error}"))
}

impl Office {
    async fn send(&self, from: Option<&str>, route: &str, to: &[&str]) -> QueueId {
        let via = Via::Route(RouteName { namespace: "mail".into(), name: route.into() });
        let targets = to.iter().map(|to| Target {
            recipient: Recipient::new(to.parse().expect("an address")),
            via: via.clone(),
            require_tls: false,
            edits: Arc::from([]),
            suppress_bounces: false,
        });
        let entry = Entry {
            sender: Sender {
                mailbox: from.map(|from| from.parse().expect("an address")),
                ..Sender::default()
            },
            received_at: Timestamp::now(),
            origin: "app ([192.0.2.1])".into(),
            revision: "r1".into(),
            own: false,
            held: None,
            targets: targets.collect(),
        };
        let id = self.spool.new_id();
        let content = Content::from(b"Subject: Laporan\r\n\r\nbody\r\n".to_vec());
        self.spool.commit(vec![Submission { id, entry, content }]).await.expect("stored");
        id
    }

    async fn ids(&self, filter: &Filter) -> Vec<String> {
        self.queue.list(filter, None, PAGE).await.messages.into_iter().map(|row| row.id).collect()
    }

    async fn close(self) -> Folder {
        let Office { queue, spool, folder } = self;
        drop(queue);
        spool.close().await;
        folder
    }
}

fn by(change: impl FnOnce(&mut Filter)) -> Filter {
    let mut filter = Filter::default();
    change(&mut filter);
    filter
}

#[tokio::test]
async fn a_filter_finds_who_fits_by_any_of_its_fields_and_all_that_are_given() {
    let office = office();
    let a = office
        .send(Some("app@solarmora.com"), "relay", &["x@one.example", "y@two.example"])
        .await
        .to_string();
    let b = office.send(Some("App@Solarmora.com"), "archive", &["Z@TWO.example"]).await.to_string();
    let c = office.send(None, "gone", &["x@one.example"]).await.to_string();
    let who = |text: &str| Some(text.parse().expect("it can be read"));
    let cases: [(&str, Filter, Vec<&str>); 14] = [
        ("nothing", Filter::default(), vec![&a, &b, &c]),
        ("sender", by(|f| f.sender = who("app@solarmora.com")), vec![&a, &b]),
        ("its domain", by(|f| f.sender = who("@solarmora.com")), vec![&a, &b]),
        ("the null sender", by(|f| f.sender = who("<>")), vec![&c]),
        ("recipient", by(|f| f.recipient = who("<x@one.example>")), vec![&a, &c]),
        ("recipient, in other letters", by(|f| f.recipient = who("z@two.example")), vec![&b]),
        ("domain", by(|f| f.domain = Some("two.example".into())), vec![&a, &b]),
        ("route by name", by(|f| f.route = Some("relay".into())), vec![&a]),
        ("route with its namespace", by(|f| f.route = Some("mail/archive".into())), vec![&b]),
        ("a route that is gone", by(|f| f.route = Some("gone".into())), vec![&c]),
        ("new", by(|f| f.state = Some(State::New)), vec![&a, &b, &c]),
        ("deferred", by(|f| f.state = Some(State::Deferred)), vec![]),
        ("age", by(|f| f.older = Some(Duration::from_secs(3600))), vec![]),
        ("two fields", by(|f| (f.domain, f.sender) = (Some("one.example".into()), who("<>"))), vec![&c]),
    ];
    for (what, filter, expected) in cases {
        assert_eq!(office.ids(&filter).await, expected, "{what}");
    }
    for wrong in ["nobody", "@", "a b@c.example", ""] {
        assert!(wrong.parse::<filter::Who>().is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn a_long_queue_is_listed_page_by_page_each_message_once() {
    let office = office();
    let mut sent = Vec::new();
    for n in 0..250 {
        let domain = if n % 50 == 0 { "rare.example" } else { "often.example" };
        sent.push(office.send(None, "relay", &[&format!("u{n}@{domain}")]).await.to_string());
    }
    let (mut after, mut seen, mut pages) = (None, Vec::new(), 0);
    loop {
        let page = office.queue.list(&Filter::default(), after, 60).await;
        assert!(page.messages.len() <= 60);
        seen.extend(page.messages.into_iter().map(|row| row.id));
        pages += 1;
        match page.next {
            Some(next) => after = Some(next.parse().expect("an id")),
            None => break,
        }
    }
    assert_eq!((seen, pages), (sent.clone(), 5));
    let rare = office.queue.list(&by(|f| f.domain = Some("rare.example".into())), None, 3).await;
    let ids: Vec<&String> = rare.messages.iter().map(|row| &row.id).collect();
    assert_eq!(ids, [&sent[0], &sent[50], &sent[100]]);
    let rest = office
        .queue
        .list(&by(|f| f.domain = Some("rare.example".into())), rare.next.map(|id| id.parse().unwrap()), 9)
        .await;
    assert_eq!((rest.messages.len(), rest.next), (2, None));
}

#[tokio::test]
async fn dropped_mail_is_gone_and_its_sender_is_told_unless_nobody_is_to_be() {
    let office = office();
    let told = office.send(Some("app@solarmora.com"), "relay", &["a@one.example", "b@two.example"]).await;
    let filter = by(|f| f.domain = Some("one.example".into()));
    let acted = office.queue.drop(&filter, None, true, &ACTOR).await.expect("dropped");
    assert_eq!((acted.messages, acted.recipients, acted.next), (1, 1, None));
    let detail = office.queue.show(told, &ACTOR).await.expect("the other still waits");
    let states: Vec<&str> = detail.recipients.iter().map(|row| row.state.as_str()).collect();
    assert_eq!(states, ["failed", "new"]);
    // The report waits to be delivered, from nobody to the sender.
    let reports: Vec<Row> =
        office.queue.list(&by(|f| f.sender = Some(filter::Who::Nobody)), None, 9).await.messages;
    assert_eq!((reports.len(), reports[0].to.as_slice()), (1, &["app@solarmora.com".to_owned()][..]));
    let report = office.queue.content(reports[0].id.parse().unwrap(), &ACTOR).await.expect("it is there");
    let report = String::from_utf8_lossy(report.bytes()).into_owned();
    assert!(report.contains("a@one.example") && report.contains("Status: 5.0.0"), "{report}");
    assert!(report.contains("has cancelled the delivery") && !report.contains("Final-Recipient: rfc822; b@"));

    office.queue.drop_one(told, false, &ACTOR).await.expect("dropped");
    assert_eq!(office.spool.len(), 1, "only the report is left");
    let error = office.queue.drop_one(told, false, &ACTOR).await.expect_err("it is gone");
    assert!(matches!(error, QueueError::Claim(ClaimError::NotWaiting(_))), "{error}");
    // Nobody is ever told of the end of a report.
    office.queue.drop(&by(|f| f.older = Some(Duration::ZERO)), None, true, &ACTOR).await.expect("dropped");
    assert_eq!(office.spool.len(), 0);
}

#[tokio::test]
async fn mail_in_flight_is_left_to_its_attempt() {
    let office = office();
    let id = office.send(Some("app@solarmora.com"), "relay", &["a@one.example"]).await;
    let due = office.spool.next_due().await;
    assert_eq!(office.ids(&by(|f| f.state = Some(State::Active))).await, [id.to_string()]);
    let error = office.queue.drop_one(id, false, &ACTOR).await.expect_err("it is being attempted");
    assert!(matches!(error, QueueError::Claim(ClaimError::Busy(_))), "{error}");
    let acted = office.queue.retry(&Filter::default(), None, 0, &ACTOR).await.expect("looked");
    assert_eq!((acted.recipients, acted.busy), (0, 1));
    // Given back for an hour later, then wanted now.
    let later = Timestamp::now() + Duration::from_secs(3600);
    office.spool.release(id, &[(due.targets[0], later)]);
    let acted = office.queue.retry_one(id, &ACTOR).await.expect("it waits");
    assert_eq!((acted.messages, acted.recipients, acted.busy), (1, 1, 0));
    let again =
        tokio::time::timeout(Duration::from_secs(5), office.spool.next_due()).await.expect("it is due now");
    assert_eq!(again.queued.id(), id);
}

#[tokio::test]
async fn r159_a_pause_is_kept_over_a_restart_and_a_file_that_cannot_be_read_stops_the_start() {
    let office = office();
    let id = office.send(Some("app@solarmora.com"), "relay", &["a@one.example"]).await;
    let wanted = Closed::Route("relay".into());
    let closed = office.queue.pause(&wanted, Some("they are down".into()), &ACTOR).await.expect("paused");
    assert_eq!(closed, Closed::Route("mail/relay".into()));
    let unknown = office.queue.pause(&Closed::Route("rely".into()), None, &ACTOR).await.expect_err("unknown");
    assert_eq!(
        unknown.to_string(),
        "there is no route rely here; there is: route mail/archive, route mail/relay, route mx"
    );
    office.queue.pause(&Closed::Domain("one.example".into()), None, &ACTOR).await.expect("paused");
    assert_eq!(office.ids(&by(|f| f.state = Some(State::Paused))).await, [id.to_string()]);
    let acted = office.queue.retry_one(id, &ACTOR).await.expect("it waits");
    assert_eq!((acted.recipients, acted.paused), (0, 1));

    let office = open(office.close().await).unwrap_or_else(|error| panic!("{error}"));
    let paused = office.queue.paused();
    assert_eq!(paused.len(), 2);
    assert_eq!(
        (paused[0].pause.by.as_str(), paused[0].pause.reason.as_deref()),
        ("uid/0", Some("they are down"))
    );
    office.queue.resume(&wanted, &ACTOR).await.expect("resumed");
    let again = office.queue.resume(&wanted, &ACTOR).await.expect_err("not paused any more");
    assert_eq!(again.to_string(), "the route relay is not paused");
    office.queue.resume(&Closed::Domain("one.example".into()), &ACTOR).await.expect("resumed");
    assert_eq!(office.ids(&by(|f| f.state = Some(State::Paused))).await, Vec::<String>::new());

    let folder = office.close().await;
    std::fs::write(folder.0.join(FILE), "[{").expect("writable");
    let Err(error) = open(folder) else { panic!("nobody may deliver without knowing what is paused") };
    assert!(error.to_string().contains("paused.json"), "{error}");
}
