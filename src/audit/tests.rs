use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::chain::{self, Link};
use super::diff::{MOST, diff};
use super::verify::{self, Report};
use super::{Entry, Event, Limits, Log, Wanted, read};

/// Gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("postern-audit-{:016x}", rand::random::<u64>()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn entry(n: i64) -> Entry {
    Entry { user: Some("ani".into()), ..Entry::new(at(n), Event::Update) }
        .about(format!("ComplianceRule/mail/rule-{n}"))
        .with("n", n)
}

fn open(folder: &Path, limits: Limits, now: Timestamp) -> (Log, super::Opening) {
    Log::open(folder, limits, "test", now).unwrap()
}

/// A log of `n` records in small segments.
fn filled(folder: &Path, n: i64) -> Link {
    let limits = Limits { segment: 1000, ..Limits::default() };
    let (mut log, _) = open(folder, limits, at(0));
    for number in 1..=n {
        log.append(vec![entry(number)], at(number)).unwrap();
    }
    log.head()
}

fn report(folder: &Path) -> Report {
    verify::folder(folder, None).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    super::log::segments(folder).unwrap()
}

#[test]
fn r147_a_log_that_nobody_touched_is_whole_over_segments_and_restarts() {
    let folder = Folder::new();
    filled(&folder.0, 20);
    let head = filled(&folder.0, 20);
    assert!(files(&folder.0).len() > 5, "it was cut into segments");
    let found = report(&folder.0);
    assert!(found.is_whole(), "{:?}", found.breaks);
    assert_eq!((found.records, found.head), (42, Some(head.to_string())));
    assert!(verify::folder(&folder.0, Some(head)).unwrap().is_whole());
}

#[test]
fn r147_a_record_left_out_put_in_or_moved_is_named_by_file_and_line() {
    let folder = Folder::new();
    {
        let (mut log, _) = open(&folder.0, Limits::default(), at(0));
        for n in 1..=6 {
            log.append(vec![entry(n)], at(n)).unwrap();
        }
    }
    let file = &files(&folder.0)[0];
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let check = |lines: &[&str], line: usize| {
        fs::write(file, lines.join("\n") + "\n").unwrap();
        let breaks = report(&folder.0).breaks;
        assert_eq!(breaks.first().map(|b| b.line), Some(line), "{breaks:?}");
    };
    check(&[&lines[..3], &lines[4..]].concat(), 4);
    check(&[&lines[..3], &lines[2..]].concat(), 4);
    check(&[&lines[..2], &[lines[3], lines[2]], &lines[4..]].concat(), 3);
    // The first ones are missing and no record says why.
    check(&lines[2..], 1);
    // The end is missing: only somebody who noted the head can know.
    let head = chain::open(lines[6].as_bytes()).unwrap().link;
    fs::write(file, lines[..5].join("\n") + "\n").unwrap();
    assert!(report(&folder.0).is_whole());
    let known = verify::folder(&folder.0, Some(head)).unwrap();
    assert!(known.breaks[0].what.contains("its end was cut off"), "{known:?}");
}

#[test]
fn r147_a_line_that_a_crash_left_unfinished_is_cut_off_and_said() {
    let folder = Folder::new();
    filled(&folder.0, 3);
    let last = files(&folder.0).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    let torn = whole.len() - 7;
    fs::write(&last, &whole[..torn]).unwrap();
    assert!(report(&folder.0).breaks[0].what.contains("does not end"), "before the repair");
    let (log, opening) = open(&folder.0, Limits::default(), at(9));
    assert!(opening.repaired.is_some() && opening.damaged.is_none(), "{opening:?}");
    drop(log);
    let found = report(&folder.0);
    assert!(found.is_whole(), "{:?}", found.breaks);
    let mut said = String::new();
    let mut take = |line: &[u8]| {
        said.push_str(std::str::from_utf8(line).unwrap());
        true
    };
    read::lines(&folder.0, &Wanted::default(), &mut take).unwrap();
    assert!(said.contains("octets of an unfinished line were cut off"), "{said}");
}

#[test]
fn r147_a_damaged_line_stays_for_all_to_see_and_the_log_goes_on_behind_it() {
    let folder = Folder::new();
    filled(&folder.0, 2);
    let last = files(&folder.0).pop().unwrap();
    let damaged = fs::read_to_string(&last).unwrap().replace("ani", "eve");
    fs::write(&last, &damaged).unwrap();
    let (mut log, opening) = open(&folder.0, Limits::default(), at(9));
    assert!(opening.damaged.is_some());
    log.append(vec![entry(9)], at(9)).unwrap();
    assert_eq!(fs::read_to_string(&last).unwrap(), damaged, "nothing is made good");
    let breaks = report(&folder.0).breaks;
    assert!(breaks[0].what.contains("was changed"), "{breaks:?}");
}

#[test]
fn r147_what_retention_removes_leaves_the_rest_verifiable() {
    let folder = Folder::new();
    let limits = Limits { segment: 400, retention: Duration::from_secs(100) };
    let (mut log, _) = open(&folder.0, limits, at(0));
    for n in 1..=20 {
        log.append(vec![entry(n * 10)], at(n * 10)).unwrap();
    }
    assert_eq!(log.expire(at(99)).unwrap(), 0);
    let gone = log.expire(at(205)).unwrap();
    assert!(gone >= 5, "{gone}");
    log.append(vec![entry(300)], at(206)).unwrap();
    let found = report(&folder.0);
    assert!(found.is_whole(), "{:?}", found.breaks);
    assert!(found.expired_through.is_some() && found.first.unwrap().0 > 1);
    // One more that goes without a word is found.
    fs::remove_file(&files(&folder.0)[0]).unwrap();
    assert!(!report(&folder.0).is_whole());
}

#[test]
fn two_writers_never_share_a_log() {
    let folder = Folder::new();
    let (log, _) = open(&folder.0, Limits::default(), at(0));
    let second = Log::open(&folder.0, Limits::default(), "other", at(0));
    assert!(matches!(second, Err(super::log::OpenError::Locked(_))));
    drop(log);
    open(&folder.0, Limits::default(), at(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn r147_any_changed_octet_of_any_file_is_found(file in 0usize..4, place in any::<prop::sample::Index>(), by in 1u8..=255) {
        let folder = Folder::new();
        filled(&folder.0, 6);
        let files = files(&folder.0);
        let file = &files[file % files.len()];
        let mut text = fs::read(file).unwrap();
        let place = place.index(text.len());
        text[place] ^= by;
        fs::write(file, text).unwrap();
        prop_assert!(!report(&folder.0).is_whole());
    }

    #[test]
    fn r147_a_line_cut_anywhere_is_repaired_to_a_whole_log(cut in any::<prop::sample::Index>()) {
        let folder = Folder::new();
        filled(&folder.0, 4);
        let last = files(&folder.0).pop().unwrap();
        let text = fs::read(&last).unwrap();
        fs::write(&last, &text[..cut.index(text.len())]).unwrap();
        drop(open(&folder.0, Limits::default(), at(9)));
        let found = report(&folder.0);
        prop_assert!(found.is_whole(), "{:?}", found.breaks);
    }
}

fn fields(old: &Value, new: &Value) -> Vec<(String, Option<Value>, Option<Value>)> {
    let (changes, omitted) = diff(old, new, &|_| Vec::new());
    assert_eq!(omitted, 0);
    changes.into_iter().map(|change| (change.path, change.old, change.new)).collect()
}

#[test]
fn r145_a_difference_is_told_field_by_field_and_nothing_when_there_is_none() {
    let old = json!({"spec": {"priority": 500, "action": {"reject": {"notice": "no"}}, "match": {"words": ["a", "b"]}}});
    let new = json!({"spec": {"priority": 1, "action": {"modify": {"subjectPrefix": "X"}}, "match": {"words": ["b", "c"]}}});
    assert_eq!(
        fields(&old, &new),
        [
            ("spec.action.modify.subjectPrefix".into(), None, Some(json!("X"))),
            ("spec.action.reject.notice".into(), Some(json!("no")), None),
            ("spec.match.words".into(), Some(json!({"removed": ["a"]})), Some(json!({"added": ["c"]}))),
            ("spec.priority".into(), Some(json!(500)), Some(json!(1))),
        ]
    );
    assert!(fields(&old, &old).is_empty());
    let hosts = |port: u16| json!({"hosts": [{"host": "a", "port": port}], "labels": {"a.b/c": "d"}});
    assert_eq!(fields(&hosts(25), &hosts(26)), [("hosts[0].port".into(), Some(json!(25)), Some(json!(26)))]);
}

#[test]
fn r145_secrets_are_never_in_clear_and_long_texts_are_cut() {
    let new = json!({
        "password": "s3cret-1",
        "url": "redis://app:s3cret-2@cache.example:6379/0",
        "note": "-----BEGIN PRIVATE KEY-----\ns3cret-3\n-----END PRIVATE KEY-----",
        "annotations": {"example.com/token": "s3cret-4"},
        "passwordRef": {"name": "login", "key": "password"},
        "long": "x".repeat(5000),
    });
    let (changes, _) = diff(&json!({}), &new, &|_| Vec::new());
    let text = serde_json::to_string(&changes).unwrap();
    assert!(!text.contains("s3cret"), "{text}");
    assert!(text.contains("redis://app:[redacted]@cache.example:6379/0"), "{text}");
    assert!(text.contains("login") && text.contains("5000 octets, blake3 "), "{text}");
    let many: Value =
        (0..MOST + 7).map(|n| (format!("f{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
    let (changes, omitted) = diff(&json!({}), &many, &|_| Vec::new());
    assert_eq!((changes.len(), omitted), (MOST, 7));
}

#[test]
fn r147_an_export_has_just_what_was_asked_for() {
    let folder = Folder::new();
    filled(&folder.0, 9);
    let count = |wanted: Wanted| {
        let mut lines = 0;
        read::lines(&folder.0, &wanted, &mut |_| {
            lines += 1;
            true
        })
        .unwrap();
        lines
    };
    assert_eq!(count(Wanted::default()), 10);
    assert_eq!(count(Wanted { since: Some(at(3)), until: Some(at(5)), ..Wanted::default() }), 2);
    assert_eq!(count(Wanted { object: Some("rule-4".into()), ..Wanted::default() }), 1);
    assert_eq!(
        count(Wanted { actor: Some("ani".into()), namespace: Some("mail".into()), ..Wanted::default() }),
        9
    );
    assert_eq!(count(Wanted { actor: Some("eve".into()), ..Wanted::default() }), 0);
}
