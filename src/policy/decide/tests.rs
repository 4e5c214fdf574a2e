mod disguises;
mod evasion;
mod golden;
mod matching;

use super::super::testing::*;
use super::*;
use crate::bundle::document::*;

fn mail(subject: &str, body: &str) -> Vec<u8> {
    format!("From: a@solarmora.com\r\nSubject: {subject}\r\n\r\n{body}\r\n").into_bytes()
}

fn check(rules: Vec<Rule>, cases: &[(&str, &str, bool)]) {
    let policy = policy(rules);
    for (subject, body, expected) in cases {
        assert_eq!(rejects(&policy, &mail(subject, body)), *expected, "{subject:?} {body:?}");
    }
}

#[test]
fn e1_whole_words_in_any_case() {
    check(
        vec![words("w", &["BURUK"])],
        &[("x", "buruk", true), ("x", "BuRuK", true), ("x", "keburukan", false)],
    );
}

#[test]
fn e2_subject_body_and_text_attachments() {
    let cases = [("x", "olahraga", false), ("x", "(olah)", true), ("OLAH", "x", true)];
    check(vec![words("w", &["olah"])], &cases);
    let attachment =
        b"Subject: x\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nhi\r\n--b\r\n\
        Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\
        Content-Disposition: attachment; filename=n.txt\r\n\r\nYW4gb2xhaCBoZXJl\r\n--b--\r\n";
    assert!(rejects(&policy(vec![words("w", &["olah"])]), attachment));
}

#[test]
fn e3_square_brackets() {
    for rule in [
        words("w", &["[BAD]"]),
        words("w", &["BAD"]),
        expression(Location::Body, ExpressionKind::MatchesRegex, r"(?i)\[(BAD)\]"),
    ] {
        check(vec![rule], &[("x", "x [bad] y", true), ("x", "x [badly] y", false)]);
    }
}

#[test]
fn e4_words_of_any_script() {
    let policy = policy(vec![words("w", &["straße", "機密", "ประกาศ"])]);
    assert!(rejects(&policy, &mail("x", "STRASSE")));
    assert!(rejects(&policy, &mail("x", "本件は機密です")));
    let mut thai = b"Content-Type: text/plain; charset=windows-874\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        .to_vec();
    for byte in encoding_rs::WINDOWS_874.encode("นี่คือประกาศใหม่").0.iter() {
        thai.extend(format!("={byte:02X}").bytes());
    }
    assert!(rejects(&policy, &thai));
    assert!(!rejects(&policy, &mail("x", "nothing of the kind")));
}

#[test]
fn e5_reject_wins_over_everything_whatever_the_priority() {
    let mut reject = words("reject", &["secret"]);
    reject.priority = 900;
    reject.action = Action::Reject(Reject { notice: Some("Not this".into()), ..Reject::default() });
    let route = Modify { route: Some(ChangeRoute::To(route_name("relay"))), ..Modify::default() };
    let mut change = modify("change", route);
    change.priority = 1;
    let decision = judge(&policy(vec![change, reject]), &mail("x", "a secret"));
    let Disposition::Reject(rejection) = &decision.verdicts[0].disposition else { panic!("{decision:?}") };
    assert_eq!(
        (rejection.code.to_string().as_str(), rejection.text.as_str()),
        ("5.7.1", "Not this (ref: T1)")
    );
    assert_eq!(decision.verdicts[0].trace[1].overridden, ["route"]);
}

#[test]
fn e6_a_subject_prefix_is_an_edit() {
    let prefix = Modify { subject_prefix: Some("Rahasia".into()), ..Modify::default() };
    let decision = judge(&policy(vec![modify("p", prefix)]), &mail("Laporan bulanan", "x"));
    let Disposition::Deliver(deliveries) = &decision.verdicts[0].disposition else { panic!("{decision:?}") };
    assert_eq!(deliveries[0].edits[..], [Edit::PrefixSubject { text: "Rahasia".into() }]);
}

/// Messages that hide a word, and others that only seem to.
#[test]
fn shared_mail_cases_are_judged_as_their_manifest_says() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mail-cases");
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let word = manifest["word"].as_str().unwrap();
    // A word of the same length, so that a twin differs in nothing but meaning.
    let twin = policy(vec![words("twin", &["xylophone"])]);
    let policy = policy(vec![words("w", &[word])]);
    let mut wrong = Vec::new();
    let samples = manifest["samples"].as_array().unwrap();
    for sample in samples {
        let bytes = std::fs::read(folder.join(sample["file"].as_str().unwrap())).unwrap();
        if rejects(&policy, &bytes) != sample["expect_match"].as_bool().unwrap() {
            wrong.push(sample["name"].clone());
        }
        if rejects(&twin, &bytes) {
            wrong.push(format!("twin of {}", sample["name"]).into());
        }
    }
    assert!(wrong.is_empty() && samples.len() > 50, "{wrong:?}");
}

#[test]
fn a_policy_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<crate::policy::Policy>();
}

#[test]
fn order_in_the_bundle_does_not_matter() {
    let mut reject = words("reject", &["plan"]);
    reject.action = Action::Reject(Reject { notice: Some("first".into()), ..Reject::default() });
    let mut other = words("other", &["plan"]);
    other.priority = 499;
    let message = mail("plan", "x");
    let forward = judge(&policy(vec![reject.clone(), other.clone()]), &message);
    assert_eq!(forward, judge(&policy(vec![other, reject]), &message));
    let Disposition::Reject(rejection) = &forward.verdicts[0].disposition else { panic!("{forward:?}") };
    assert_eq!(rejection.rule.name, "other");
}

#[test]
fn ten_thousand_parts_inside_parts_are_refused_not_passed() {
    let policy = policy(vec![words("w", &["forbidden"])]);
    let mut deep = String::new();
    for depth in 0..10_000 {
        deep.push_str(&format!("Content-Type: multipart/mixed; boundary=b{depth}\r\n\r\n--b{depth}\r\n"));
    }
    assert!(rejects(&policy, deep.as_bytes()));
    let forwards = "Content-Type: message/rfc822\r\n\r\n".repeat(10_000);
    assert!(rejects(&policy, forwards.as_bytes()));
    let ordinary = "Content-Type: message/rfc822\r\n\r\n".repeat(12) + "Subject: x\r\n\r\nhello\r\n";
    assert!(!rejects(&policy, ordinary.as_bytes()));
}

#[test]
fn long_notices_fit_the_wire() {
    let mut rule = words("w", &["plan"]);
    let notice = format!("{} {}", "word ".repeat(150), "x".repeat(700));
    rule.action = Action::Reject(Reject { notice: Some(notice), ..Reject::default() });
    let decision = judge(&policy(vec![rule]), &mail("plan", "x"));
    let Disposition::Reject(rejection) = &decision.verdicts[0].disposition else { panic!("{decision:?}") };
    assert!(rejection.text.lines().all(|line| !line.is_empty() && line.len() <= 490));
    assert!(rejection.text.len() <= 1010 && rejection.text.ends_with("(ref: T1)"));
}

proptest::proptest! {
    /// Whatever bytes come, every recipient gets exactly one verdict, the same each time.
    #[test]
    fn any_bytes_are_judged(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), count in 1usize..5) {
        let mut rule = words("w", &["forbidden", "[x]"]);
        rule.content.as_mut().unwrap().search_html_source = true;
        let policy = policy(vec![rule, expression(Location::HeadersAndBody, ExpressionKind::MatchesRegex, "a.b")]);
        let to: Vec<String> = (0..count).map(|n| format!("r{n}@rcpt.example")).collect();
        let envelope = envelope("", &to.iter().map(String::as_str).collect::<Vec<_>>());
        let head = b"Content-Type: multipart/mixed; boundary=\"\"\r\nContent-Type: text/html\r\n".to_vec();
        for content in [bytes.clone(), [head, bytes].concat()] {
            let one = decide(&policy, &transaction(&envelope), &content, Fuel::default());
            proptest::prop_assert_eq!(one.verdicts.len(), count);
            let two = decide(&policy, &transaction(&envelope), &content, Fuel::default());
            proptest::prop_assert_eq!(one, two);
        }
    }
}
