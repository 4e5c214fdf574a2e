//! The desk on a real spool folder, with a policy of its own. Whole gateways are in `tests/it/quarantine.rs`.

use std::path::PathBuf;

use super::*;
use crate::bundle::document::{Action, ObjectKind, ObjectName, Quarantine, Reject};
use crate::bundle::{Bundle, Materials, Sequence};
use crate::delivery::{self, Allowance, Own, RouteTable};
use crate::gateway::budget::Budgets;
use crate::gateway::decisions::{Decisions, Limits, Matches};
use crate::mail::envelope::Via;
use crate::policy::testing;
use crate::policy::verdict::{Evidence, Hold, Reason};
use crate::policy::{Delivery, compile};
use crate::spool::{Facts, Options};

const OWN: &str = "ani@solarmora.com";
const PARTNER: &str = "budi@partner.example";
const MAIL: &[u8] = b"Received: x\r\nFrom: <ani@solarmora.com>\r\nSubject: Q3\r\n\r\nsecret\r\n";

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Office {
    desk: Desk,
    running: Arc<Running>,
    _folder: Folder,
}

fn office(bundle: Bundle) -> Office {
    let folder = std::env::temp_dir().join(format!("postern-desk-{:016x}", rand::random::<u64>()));
    let options = Options { segment_bytes: Some(1 << 20), ..Options::default() };
    let (spool, _) = Spool::open(&folder, options).expect("it opens");
    let bundle = Arc::new(bundle);
    let policy = compile(&bundle, &testing::revision()).expect("the rules are right");
    let running = Arc::new(Running {
        sequence: Sequence::default(),
        revision: testing::revision(),
        routes: Arc::new(RouteTable::build(&bundle, &Materials::default(), &Own::default())),
        bundle,
        policy: Arc::new(policy),
        loaded_at: Timestamp::now(),
        leaving: false,
        tally: Arc::default(),
    });
    let acceptance =
        Acceptance { spool, allowance: Allowance::default(), metrics: delivery::Metrics::default() };
    let decisions = Decisions::open(&folder, Limits::default(), Matches::default(), &mut Registry::default());
    let desk = Desk::new(Parts {
        acceptance,
        judge: Judge::new(Budgets::of_this_machine(), decisions),
        policies: Policies::Fixed(Arc::clone(&running)),
        metrics: Metrics::default(),
    });
    Office { desk, running, _folder: Folder(folder) }
}

fn holding(rule: &str) -> Hold {
    let evidence = Evidence {
        part: "body".into(),
        entry: "secret".into(),
        offset: 0,
        length: 6,
        hidden: false,
        expression: None,
        snippet: String::new(),
    };
    let rule = testing::origin(ObjectKind::ComplianceRule, rule).object;
    Hold { quarantine: None, reasons: vec![Reason { rule, evidence: vec![evidence] }], notify_sender: false }
}

fn in_quarantine(name: &str) -> Hold {
    let quarantine = ObjectName { namespace: "mail".into(), name: name.into() };
    Hold { quarantine: Some(quarantine), ..holding("words") }
}

fn quarantine(name: &str, retention_ms: u64, on_deny: OnDeny) -> Quarantine {
    let origin = testing::origin(ObjectKind::Quarantine, name);
    Quarantine { origin, retention_ms, on_deny, digest: None }
}

fn delivery_to(to: &str) -> Delivery {
    Delivery {
        recipient: Recipient::new(to.parse().expect("an address")),
        via: Via::Normal,
        edits: [].into(),
        require_tls: false,
        suppress_bounces: false,
        drop_spam: false,
        copy_of: None,
    }
}

fn facts() -> Facts {
    Facts {
        client: [10, 0, 0, 1].into(),
        tls: true,
        authenticated: vec![],
        spam: false,
        phishy: false,
        blatant: false,
        received: 13,
        identity: None,
    }
}

impl Office {
    fn spool(&self) -> &Spool {
        self.desk.spool()
    }

    /// Accepts a message as intake does.
    async fn accept(&self, from: &str, verdict: Verdict) -> (QueueId, Vec<QueueId>) {
        let envelope = testing::envelope(from, &[]);
        let (content, facts) = (Content::from(MAIL.to_vec()), facts());
        let id = self.spool().new_id();
        let message = Message {
            told: id,
            id,
            sender: &envelope.sender,
            received_at: Timestamp::now(),
            origin: "client.example ([10.0.0.1])",
            content: &content,
            facts: &facts,
            before: Before::default(),
        };
        let acts = self.desk.0.acceptance.acts(&self.running, &message, verdict);
        self.spool().commit(acts.submissions).await.expect("committed");
        (id, acts.held)
    }

    async fn hold(&self, from: &str, to: &[&str], hold: Hold) -> QueueId {
        let held = to.iter().map(|to| (Recipient::new(to.parse().expect("an address")), hold.clone()));
        let (id, held) = self.accept(from, Verdict { held: held.collect(), ..Verdict::default() }).await;
        assert_eq!(held, [id], "held mail keeps the name the client was told");
        id
    }

    /// Everything that is due, by recipient.
    async fn due(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        while let Ok(due) =
            tokio::time::timeout(std::time::Duration::from_millis(50), self.spool().next_due()).await
        {
            let text =
                String::from_utf8_lossy(due.queued.content().expect("it is there").bytes()).into_owned();
            for target in due.targets {
                let to = due.queued.entry().targets[target].recipient.mailbox.to_string();
                all.push((to, text.clone()));
            }
        }
        all.sort();
        all
    }

    async fn release(&self, id: QueueId) -> Result<Done, DeskError> {
        self.desk.release(id, Actor::Uid(0)).await
    }

    async fn deny(&self, id: QueueId) -> Result<Done, DeskError> {
        self.desk.deny(id, Actor::Uid(0)).await
    }
}

fn plain() -> Bundle {
    testing::bundle(vec![])
}

#[tokio::test]
async fn one_recipient_gets_the_mail_and_the_other_waits_for_a_reviewer() {
    let office = office(plain());
    let held = vec![(Recipient::new(PARTNER.parse().expect("an address")), holding("words"))];
    let deliveries = vec![delivery_to("fine@partner.example")];
    let (id, held) = office.accept(OWN, Verdict { deliveries, held, ..Verdict::default() }).await;
    assert_eq!(held.len(), 1);
    assert_ne!(held[0], id);
    assert_eq!(
        office.due().await.iter().map(|(to, _)| to.as_str()).collect::<Vec<_>>(),
        ["fine@partner.example"]
    );
    let page = office.desk.list(None, None, 10).await;
    assert_eq!((page.messages[0].message.clone(), page.next), (id.to_string(), None));
    let done = office.release(held[0]).await.expect("released");
    assert_eq!((done.result.as_str(), done.deliveries), ("released", 1));
    assert_eq!(office.due().await, [(PARTNER.to_owned(), String::from_utf8_lossy(MAIL).into_owned())]);
    let again = office.release(held[0]).await.expect_err("it is held no more");
    assert!(matches!(again, DeskError::Claim(ClaimError::NotHeld(_))), "{again}");
}

#[tokio::test]
async fn r075_what_a_reviewer_sees_names_rule_part_and_entry_but_not_the_text_around() {
    let office = office(plain());
    let id = office.hold(OWN, &[PARTNER], holding("words")).await;
    let detail = office.desk.show(id, &Actor::Uid(0)).await.expect("it is held");
    assert_eq!(detail.row.rules, ["ComplianceRule/mail/words"]);
    assert_eq!(detail.reasons[0].found[0].entry, "secret");
    assert!(
        detail.headers.contains("Subject: Q3") && !detail.headers.contains("secret"),
        "{}",
        detail.headers
    );
    assert_eq!(office.desk.raw(id, &Actor::Token).await.expect("it is held").bytes(), MAIL);
    let row = detail.row;
    assert_eq!(
        (row.subject.as_deref(), row.from.as_deref(), row.to),
        (Some("Q3"), Some(OWN), vec![PARTNER.into()])
    );
}

#[tokio::test]
async fn r075_an_extended_message_is_held_longer_and_never_shorter() {
    let office = office(plain());
    let id = office.hold(OWN, &[PARTNER], holding("words")).await;
    let expires = office.desk.list(None, None, 1).await.messages[0].expires;
    let by = |seconds| Longer::By(Duration::from_secs(seconds));
    let done = office.desk.extend(id, by(3600), Actor::Token).await.expect("extended");
    assert_eq!(done.expires, Some(expires + Duration::from_secs(3600)));
    let shorter = office.desk.extend(id, Longer::Until(expires), Actor::Token).await;
    assert!(matches!(shorter, Err(DeskError::NotLater(..))), "{shorter:?}");
    assert_eq!(
        office.desk.list(None, None, 1).await.messages[0].expires,
        expires + Duration::from_secs(3600)
    );
}

#[tokio::test]
async fn r074_a_message_of_a_quarantine_that_is_gone_belongs_to_the_default_one() {
    let mut bundle = plain();
    bundle.quarantines = vec![quarantine("legal", 3_600_000, OnDeny::Drop)];
    let office = office(bundle);
    office.hold(OWN, &[PARTNER], in_quarantine("legal")).await;
    office.hold(OWN, &[PARTNER], in_quarantine("deleted")).await;
    office.hold(OWN, &[PARTNER], holding("words")).await;
    let all = office.desk.list(None, None, 10).await.messages;
    let names: Vec<&str> = all.iter().map(|row| row.quarantine.as_str()).collect();
    assert_eq!(names, ["mail/legal", "default", "default"]);
    assert_eq!(office.desk.list(Some("default"), None, 10).await.messages.len(), 2);
    assert_eq!(office.desk.list(Some("legal"), None, 10).await.messages.len(), 1);
    let hour = all[0].expires.duration_since(all[0].held_since).as_secs();
    let month = all[1].expires.duration_since(all[1].held_since).as_secs();
    assert_eq!((hour, month / 86_400), (3600, 30), "retention is that of the quarantine, 30 days by default");
}

#[tokio::test]
async fn r074_a_denied_message_ends_in_silence_or_with_a_report_as_its_quarantine_says() {
    for (on_deny, reports) in [(OnDeny::Drop, 0), (OnDeny::Reject, 1)] {
        let mut bundle = plain();
        bundle.quarantines = vec![quarantine("legal", 3_600_000, on_deny)];
        let office = office(bundle);
        let id = office.hold(OWN, &[PARTNER], in_quarantine("legal")).await;
        let done = office.deny(id).await.expect("denied");
        assert_eq!((done.result.as_str(), done.reported), ("denied", reports == 1));
        let due = office.due().await;
        assert_eq!(due.len(), reports, "{on_deny:?}");
        if let Some((to, text)) = due.first() {
            assert_eq!(to, OWN);
            for part in ["Status: 5.7.1", "rule: words", &format!("ref: {id}"), PARTNER] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(!text.contains("secret"), "{text}");
        }
        assert!(office.spool().held(None, 10).is_empty());
        // A null sender hears of nothing, whatever the quarantine says.
        let id = office.hold("", &[PARTNER], in_quarantine("legal")).await;
        assert!(!office.deny(id).await.expect("denied").reported);
    }
}

#[tokio::test]
async fn r069_a_message_that_another_rule_rejects_on_release_is_reported_with_its_code_and_notice() {
    let notice = Reject { notice: Some("Not to them".into()), ..Reject::default() };
    let rules = vec![testing::rule(ObjectKind::RoutingRule, "closed", Action::Reject(notice))];
    let office = office(testing::bundle(rules));
    let id = office.hold(OWN, &[PARTNER, "two@partner.example"], holding("words")).await;
    let done = office.release(id).await.expect("decided");
    assert_eq!((done.result.as_str(), done.rejected, done.reported), ("rejected", 2, true));
    let due = office.due().await;
    assert_eq!(due.len(), 1, "one report for both");
    for part in ["Status: 5.7.1", "Not to them", &format!("ref: {id}"), PARTNER, "two@partner.example"] {
        assert!(due[0].1.contains(part), "{part}: {}", due[0].1);
    }
}

#[tokio::test]
async fn r075_a_message_that_policy_defers_on_release_stays_held_and_says_why() {
    let mut broken = testing::modify("broken", Default::default());
    broken.broken = Some("its route was never right".into());
    let office = office(testing::bundle(vec![broken]));
    let id = office.hold(OWN, &[PARTNER], holding("words")).await;
    let error = office.release(id).await.expect_err("it is deferred");
    assert!(matches!(&error, DeskError::Deferred(why) if why.contains("try again later")), "{error}");
    assert_eq!(office.spool().held_len(), 1);
    assert!(office.due().await.is_empty());
    assert!(!office.desk.list(None, None, 1).await.messages[0].busy, "others can decide");
}

#[tokio::test]
async fn r073_the_sender_of_outgoing_mail_is_told_once_and_a_null_sender_never() {
    let office = office(plain());
    let asks = |rule: &str| Hold { notify_sender: true, ..holding(rule) };
    let to = |to: &str| Recipient::new(to.parse().expect("an address"));
    // Held by two rules for two recipients, and one inside.
    let held = vec![
        (to(PARTNER), asks("a")),
        (to("c@partner.example"), asks("b")),
        (to("d@solarmora.com"), asks("a")),
    ];
    office.accept(OWN, Verdict { held: held.clone(), ..Verdict::default() }).await;
    let due = office.due().await;
    assert_eq!(due.len(), 1, "one notice for all: {due:?}");
    let (to, text) = &due[0];
    assert_eq!(to, OWN);
    for part in ["Auto-Submitted: auto-replied", "Held for review: Q3", PARTNER, "c@partner.example"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("d@solarmora.com") && !text.contains("secret"), "onward delivery only: {text}");
    office.accept("", Verdict { held, ..Verdict::default() }).await;
    office.hold(OWN, &[PARTNER], holding("words")).await;
    assert!(office.due().await.is_empty(), "a null sender, and a rule that does not ask");
}

#[tokio::test]
async fn r073_notices_to_one_sender_are_limited() {
    let office = office(plain());
    for _ in 0..60 {
        office.hold(OWN, &[PARTNER], Hold { notify_sender: true, ..holding("words") }).await;
    }
    assert_eq!((office.due().await.len(), office.spool().held_len()), (50, 60));
}

#[tokio::test]
async fn r074_held_mail_is_deleted_when_its_retention_is_over() {
    let mut bundle = plain();
    bundle.quarantines = vec![quarantine("short", 60_000, OnDeny::Reject)];
    let office = office(bundle);
    let short = office.hold(OWN, &[PARTNER], in_quarantine("short")).await;
    let long = office.hold(OWN, &[PARTNER], holding("words")).await;
    let now = Timestamp::now();
    assert_eq!(office.desk.expire(now).await, Expiry::Done);
    assert_eq!(office.spool().held_len(), 2);
    assert_eq!(office.desk.expire(now + Duration::from_secs(61)).await, Expiry::Done);
    let left: Vec<QueueId> = office.spool().held(None, 10).iter().map(|held| held.id).collect();
    assert_eq!(left, [long]);
    assert!(office.due().await.is_empty(), "nobody is told");
    assert!(matches!(office.deny(short).await, Err(DeskError::Claim(ClaimError::NotHeld(_)))));
}

#[tokio::test]
async fn the_archive_has_one_copy_of_a_message_however_late_it_leaves() {
    let office = office(plain());
    let archive = Some(delivery_to("journal@archive.example"));
    let held = vec![(Recipient::new(PARTNER.parse().expect("an address")), holding("words"))];
    let (_, held) = office.accept(OWN, Verdict { held, archive, ..Verdict::default() }).await;
    let due =
        tokio::time::timeout(Duration::from_secs(5), office.spool().next_due()).await.expect("it is due");
    let entry = due.queued.entry();
    assert!(entry.own && entry.sender.mailbox.is_none(), "its failure is nobody's business");
    let kept = office.spool().get(held[0]).await.expect("it can be read").expect("it is there");
    assert!(kept.entry().held.as_ref().is_some_and(|held| held.archived));
}

#[tokio::test]
async fn copies_that_were_made_at_acceptance_are_not_made_again_on_release() {
    let office = office(plain());
    let copy =
        Delivery { copy_of: Some(PARTNER.parse().expect("an address")), ..delivery_to("copy@solarmora.com") };
    let envelope = testing::envelope(OWN, &[]);
    let (content, facts) = (Content::from(MAIL.to_vec()), facts());
    let made = [hold::digest(&copy)];
    let message = Message {
        told: office.spool().new_id(),
        id: office.spool().new_id(),
        sender: &envelope.sender,
        received_at: Timestamp::now(),
        origin: "x",
        content: &content,
        facts: &facts,
        before: Before { made: &made, ..Before::default() },
    };
    let deliveries = vec![
        delivery_to(PARTNER),
        copy.clone(),
        Delivery { edits: [].into(), via: Via::Route(testing::route_name("r")), ..copy },
    ];
    let acts = office.desk.0.acceptance.acts(
        &office.running,
        &message,
        Verdict { deliveries, ..Verdict::default() },
    );
    assert_eq!(acts.deliveries, 2, "the primary, and the copy that goes another way");
}
