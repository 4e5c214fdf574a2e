//! The log as files: bounded, found again, torn lines tolerated; what is told of a decision; the counters.

use super::account::Occasion;
use super::log::{Limits, Log};
use super::*;
use crate::bundle::document::{ChangeRoute, Header, Mode, Modify, Rule};
use crate::delivery::{Own, RouteTable};
use crate::policy::testing::{bundle, envelope, modify, revision, route_name, transaction, words};
use crate::policy::{Fuel, Transaction, compile, decide};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("postern-decisions-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const MAIL: &[u8] =
    b"From: ani@solarmora.com\r\nMessage-ID: <m@solarmora.com>\r\nSubject: s\r\n\r\nrahasia\r\n";

fn shadow(mut rule: Rule) -> Rule {
    rule.mode = Mode::Shadow;
    rule
}

/// Judges [`MAIL`] to these recipients under this id, and tells it.
fn judged<T>(rules: Vec<Rule>, id: &str, to: &[&str], tell: impl Fn(&Judged<'_>) -> T) -> T {
    let bundle = Arc::new(bundle(rules));
    let policy = compile(&bundle, &revision()).unwrap();
    let envelope = envelope("ani@solarmora.com", to);
    let transaction = Transaction { id, ..transaction(&envelope) };
    let decision = decide(&policy, &transaction, MAIL, Fuel::default());
    tell(&Judged {
        bundle: &bundle,
        revision: &revision(),
        routes: &RouteTable::build(&bundle, &Default::default(), &Own::default()),
        transaction: &transaction,
        decision: &decision,
        content: MAIL,
        occasion: Occasion::Received,
    })
}

fn open(spool: &Folder, limits: Limits) -> Decisions {
    Decisions::open(&spool.0, limits, Matches::default(), &mut Registry::default())
}

#[test]
fn r148_a_decision_is_found_again_by_its_reference_or_the_beginning_of_it() {
    let spool = Folder::new();
    let decisions = open(&spool, Limits::default());
    let rules = || vec![words("w", &["rahasia"]), modify("tag", Modify::default())];
    for id in ["AAA1", "AAA2", "BBB1"] {
        judged(rules(), id, &["b@rcpt.example", "c@rcpt.example"], |judged| decisions.note(judged));
    }
    decisions.close();
    let found = find(&spool.0, "BBB").unwrap();
    let [one] = found.decisions.as_slice() else { panic!("{found:?}") };
    let told = judged(rules(), "BBB1", &["b@rcpt.example", "c@rcpt.example"], |judged| {
        account(judged, Listing::Concerned)
    });
    assert_eq!(one.messages, told.messages);
    assert_eq!(one.transaction, told.transaction);
    assert!(one.transaction.data.as_ref().unwrap().ends_with("ref: BBB1)"));
    let decided = one.decided.as_ref().unwrap();
    assert_eq!(decided.from.as_deref(), Some("ani@solarmora.com"));
    assert_eq!(decided.message_id.as_deref(), Some("<m@solarmora.com>"));
    assert_eq!(decided.size, MAIL.len() as u64);
    assert_eq!(find(&spool.0, "AAA").unwrap().ambiguous.len(), 2);
    assert_eq!(find(&spool.0, "AAA1").unwrap().decisions.len(), 1);
    assert!(find(&spool.0, "CCC").unwrap().decisions.is_empty());
    let file = fs::read_dir(spool.0.join(FOLDER)).unwrap().next().unwrap().unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn plain_acceptance_is_not_logged_and_a_match_in_shadow_is() {
    let spool = Folder::new();
    let decisions = open(&spool, Limits::default());
    judged(vec![words("w", &["nowhere"])], "PLAIN", &["b@rcpt.example"], |judged| decisions.note(judged));
    judged(vec![shadow(words("w", &["rahasia"]))], "SHADOW", &["b@rcpt.example"], |judged| {
        decisions.note(judged);
    });
    decisions.close();
    assert!(find(&spool.0, "PLAIN").unwrap().decisions.is_empty());
    assert_eq!(find(&spool.0, "SHADOW").unwrap().decisions.len(), 1);
}

#[test]
fn the_files_stay_within_their_bounds_and_the_oldest_go_first() {
    let folder = Folder::new();
    let limits = Limits { file: 1_000, total: 5_000 };
    let lost = Counter::default();
    let log = Log::start(folder.0.clone(), limits, lost.clone());
    for number in 0..200 {
        assert!(
            log.push(format!("{{\"ref\":\"R{number:03}\",\"filling\":\"{}\"}}\n", "x".repeat(70)).into())
        );
    }
    log.close();
    let sizes: Vec<u64> =
        fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.iter().sum::<u64>() <= limits.total, "{sizes:?}");
    assert!(sizes.len() >= 4 && sizes.iter().all(|size| *size <= limits.file), "{sizes:?}");
    let kept: String = log::names(&folder.0)
        .unwrap()
        .iter()
        .map(|n| fs::read_to_string(folder.0.join(n)).unwrap())
        .collect();
    assert!(kept.contains("R199") && !kept.contains("R000"));
    assert_eq!(lost.get(), 0);
}

#[test]
fn a_torn_last_line_loses_itself_only() {
    let spool = Folder::new();
    let note = |id: &str| {
        let decisions = open(&spool, Limits::default());
        judged(vec![words("w", &["rahasia"])], id, &["b@rcpt.example"], |judged| decisions.note(judged));
        decisions.close();
    };
    note("FIRST");
    let names = log::names(&spool.0.join(FOLDER)).unwrap();
    let path = spool.0.join(FOLDER).join(&names[0]);
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"ref\":\"TORN\",\"ti").unwrap();
    note("SECOND");
    assert_eq!(log::names(&spool.0.join(FOLDER)).unwrap().len(), 1, "a restart goes on in the same file");
    for (id, there) in [("FIRST", 1), ("TORN", 0), ("SECOND", 1)] {
        assert_eq!(find(&spool.0, id).unwrap().decisions.len(), there, "{id}");
    }
}

#[test]
fn a_disk_that_cannot_be_written_loses_decisions_and_counts_them() {
    let spool = Folder::new();
    fs::write(spool.0.join(FOLDER), "a file where the folder should be").unwrap();
    let mut registry = Registry::default();
    let decisions = Decisions::open(&spool.0, Limits::default(), Matches::default(), &mut registry);
    judged(vec![words("w", &["rahasia"])], "LOST", &["b@rcpt.example"], |judged| decisions.note(judged));
    decisions.close();
    assert_eq!(decisions.dropped.get(), 1);
}

#[test]
fn r125_all_matching_rules_are_told_and_whose_notice_is_used() {
    let told = judged(
        vec![
            words("better", &["rahasia"]),
            words("worse", &["rahasia"]),
            modify("tag", Modify { subject_prefix: Some("X".into()), ..Modify::default() }),
        ],
        "T",
        &["b@rcpt.example"],
        |judged| account(judged, Listing::All),
    );
    let considered = &told.messages[0].considered;
    let matched: Vec<_> = considered.rules.iter().filter(|r| r.matched).map(|r| r.rule.as_str()).collect();
    assert_eq!(matched, ["ComplianceRule/mail/better", "ComplianceRule/mail/worse", "RoutingRule/mail/tag"]);
    let merge: Vec<_> = considered
        .merge
        .iter()
        .map(|s| (s.step.as_str(), s.by.as_slice(), s.instead_of.as_slice()))
        .collect();
    let name = |name: &str| vec![name.to_owned()];
    assert_eq!(
        merge,
        [
            (
                "reject",
                name("ComplianceRule/mail/better").as_slice(),
                name("ComplianceRule/mail/worse").as_slice()
            ),
            ("void", name("RoutingRule/mail/tag").as_slice(), &[])
        ]
    );
}

#[test]
fn the_merge_is_told_field_by_field() {
    let route = |name: &str| Modify { route: Some(ChangeRoute::To(route_name(name))), ..Modify::default() };
    let header = |value: &str| Header { name: "X-R".into(), value: value.into() };
    let told = judged(
        vec![
            modify("a", Modify { headers: vec![header("1")], ..route("one") }),
            modify("b", Modify { headers: vec![header("2")], ..route("two") }),
        ],
        "T",
        &["b@rcpt.example"],
        |judged| account(judged, Listing::All),
    );
    let lines: Vec<_> = told.messages[0]
        .considered
        .merge
        .iter()
        .map(|s| format!("{}: {} by {:?} not {:?}", s.step, s.result, s.by, s.instead_of))
        .collect();
    assert_eq!(
        lines,
        [
            "route: one by [\"RoutingRule/mail/a\"] not [\"RoutingRule/mail/b\"]",
            "headers: X-R: 1, X-R: 2 by [\"RoutingRule/mail/a\", \"RoutingRule/mail/b\"] not []",
        ]
    );
}

#[test]
fn r163_matches_are_counted_once_for_each_message_by_mode() {
    let matches = Matches::default();
    let mut registry = Registry::default();
    matches.register(&mut registry);
    let rules = || vec![words("enforced", &["rahasia"]), shadow(words("tried", &["rahasia"]))];
    for _ in 0..2 {
        judged(rules(), "T", &["b@rcpt.example", "c@rcpt.example"], |judged| matches.count(judged));
    }
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
    for line in [
        "postern_rule_matches_total{rule=\"ComplianceRule/mail/enforced\",mode=\"enforce\"} 2",
        "postern_rule_matches_total{rule=\"ComplianceRule/mail/tried\",mode=\"shadow\"} 2",
        "postern_matches_total{action=\"reject\",mode=\"shadow\"} 2",
    ] {
        assert!(page.contains(line), "{page}");
    }
    let counts = matches.of(&bundle([rules(), vec![words("never", &["x"])]].concat()));
    let counts: Vec<_> = counts.iter().map(|c| (c.rule.as_str(), c.matched, c.shadow_matched)).collect();
    assert_eq!(
        counts,
        [
            ("ComplianceRule/mail/enforced", 2, 0),
            ("ComplianceRule/mail/tried", 0, 2),
            ("ComplianceRule/mail/never", 0, 0)
        ]
    );
}

#[test]
fn rules_beyond_a_thousand_share_a_label() {
    let matches = Matches::default();
    let mut registry = Registry::default();
    matches.register(&mut registry);
    let rules = (0..1_005).map(|number| words(&format!("r{number:04}"), &["rahasia"])).collect();
    judged(rules, "T", &["b@rcpt.example"], |judged| matches.count(judged));
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
    assert_eq!(page.lines().filter(|line| line.starts_with("postern_rule_matches_total")).count(), 1_001);
    assert!(page.contains("postern_rule_matches_total{rule=\"other\",mode=\"enforce\"} 5"), "{page}");
}
