//! Two configurations, one message: what counts as a change and what does not.

use super::treatment::changes;
use crate::bundle::document::{Action, Header, Modify, Reject};
use crate::cli::folder::Configured;
use crate::cli::trial::{Judge, Trial, envelope};
use crate::gateway::decisions::Listing;
use crate::policy::testing::{bundle, modify, words};
use crate::translate::LastGood;
use jiff::Timestamp;
use std::sync::Arc;

fn judge(rules: Vec<crate::bundle::document::Rule>) -> Judge {
    let mut bundle = bundle(rules);
    bundle.sort();
    let revision = crate::bundle::Revision::of(1, &crate::bundle::segment::cut(&bundle), &[]);
    let configured = Configured {
        unasked: None,
        last_good: LastGood { bundle: bundle.clone(), materials: Vec::new() },
        bundle: Arc::new(bundle),
        revision,
        materials: Arc::default(),
    };
    Judge::new(&configured, Timestamp::UNIX_EPOCH).unwrap()
}

fn mail() -> Trial {
    let text = b"From: ani@solarmora.com\nTo: b@x.example, c@y.example\nSubject: s\n\nrahasia\n";
    envelope::trial(envelope::Written::default(), text).unwrap()
}

/// What changes, as `recipient what`.
fn between(
    before: Vec<crate::bundle::document::Rule>,
    after: Vec<crate::bundle::document::Rule>,
) -> Vec<String> {
    let (before, after) = (judge(before), judge(after));
    let one = before.judge(&mail(), Listing::Concerned);
    let two = after.judge(&mail(), Listing::Concerned);
    let name =
        |change: &super::Change| format!("{} {}", change.recipient.as_deref().unwrap_or("all"), change.what);
    changes(&one, &two).iter().map(name).collect()
}

fn header(value: &str) -> Modify {
    Modify { headers: vec![Header { name: "X-R".into(), value: value.into() }], ..Modify::default() }
}

#[test]
fn r165_only_what_happens_to_mail_is_a_change() {
    let none: [&str; 0] = [];
    assert_eq!(between(vec![], vec![]), none);
    assert_eq!(between(vec![], vec![words("other", &["nowhere"])]), none);
    // Another name for the same effect; the revision differs too and its placeholder with it.
    assert_eq!(
        between(vec![modify("a", header("{revision}"))], vec![modify("b", header("{revision}"))]),
        none
    );
    assert_eq!(
        between(vec![], vec![words("w", &["rahasia"])]),
        [
            "b@x.example disposition",
            "b@x.example reply",
            "b@x.example delivery",
            "c@y.example disposition",
            "c@y.example reply",
            "c@y.example delivery"
        ]
    );
    assert_eq!(
        between(vec![modify("a", header("one"))], vec![modify("a", header("two"))]),
        ["b@x.example delivery", "c@y.example delivery"]
    );
}

#[test]
fn a_notice_in_other_words_is_a_change_of_the_reply() {
    let with = |notice: &str| {
        let mut rule = words("w", &["rahasia"]);
        rule.action = Action::Reject(Reject { notice: Some(notice.to_owned()), ..Reject::default() });
        vec![rule]
    };
    assert_eq!(between(with("no"), with("never")), ["b@x.example reply", "c@y.example reply"]);
}
