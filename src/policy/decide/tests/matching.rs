//! Requirements of the matching engine that are shortest to show on records (spec R47-R64).

use std::time::Instant;

use super::super::super::testing::*;
use super::*;

fn with(expression: Expression) -> Rule {
    let mut rule = words("r", &[]);
    rule.content.as_mut().expect("it was just given").expressions.push(expression);
    rule
}

fn matched(rule: &Rule, transaction: &Transaction<'_>, mail: &[u8]) -> bool {
    let policy = policy(vec![rule.clone()]);
    let decision = decide(&policy, transaction, mail, Fuel::default());
    matches!(decision.verdicts[0].disposition, Disposition::Reject(_))
}

const TEXT: &[u8] = b"From: Ann <ann@solarmora.com>\r\nSubject: x\r\n\r\nhello\r\n";

#[test]
fn r057_metadata_conditions_look_at_the_transaction() {
    let envelope = envelope("ann@solarmora.com", &["b@rcpt.example"]);
    let base = transaction(&envelope);
    let vouched = ["solarmora.com".parse().expect("a domain")];
    let clear = Transaction { tls: false, ..base };
    let known = Transaction { authenticated: &vouched, ..base };
    let mapped = Transaction { client: "::ffff:10.0.0.9".parse().expect("an address"), ..base };
    let outside = Transaction { client: [192, 0, 2, 1].into(), ..base };
    let networks = || vec!["10.0.0.0/8".parse().expect("a network")];
    let inside = Metadata::SourceIp { networks: networks(), negated: false };
    let not_inside = Metadata::SourceIp { networks: networks(), negated: true };
    let size = TEXT.len() as u64;
    for (metadata, transaction, expected) in [
        (inside.clone(), &base, true),
        (inside.clone(), &mapped, true),
        (inside, &outside, false),
        (not_inside.clone(), &outside, true),
        (not_inside, &base, false),
        (Metadata::InboundTls(true), &base, true),
        (Metadata::InboundTls(true), &clear, false),
        (Metadata::InboundTls(false), &clear, true),
        (Metadata::Authenticated(true), &known, true),
        (Metadata::Authenticated(true), &base, false),
        (Metadata::Authenticated(false), &base, true),
        (Metadata::MessageSizeOver(size - 1), &base, true),
        (Metadata::MessageSizeOver(size), &base, false),
        (Metadata::MessageSizeUnder(size), &base, false),
        (Metadata::MessageSizeUnder(size + 1), &base, true),
        (Metadata::SmimeSigned(false), &base, true),
        (Metadata::SmimeEncrypted(true), &base, false),
        (Metadata::AttachmentEncrypted(true), &base, false),
    ] {
        let rule = with(Expression::Metadata(metadata.clone()));
        assert_eq!(matched(&rule, transaction, TEXT), expected, "{metadata:?}");
    }
    let asks = policy(vec![with(Expression::Metadata(Metadata::Authenticated(true)))]);
    assert!(asks.needs().authentication && !policy(vec![words("w", &["x"])]).needs().authentication);
}

#[test]
fn r057_metadata_conditions_look_at_attachments() {
    let mail =
        b"From: a@solarmora.com\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\n\r\nhi\r\n--b\r\nContent-Type: image/png; name=\"Report.PDF\"\r\n\
        Content-Disposition: attachment; filename=\"Report.PDF\"\r\n\r\n%PDF-1.4\r\n%%EOF\r\n--b--\r\n";
    let envelope = envelope("ann@solarmora.com", &["b@rcpt.example"]);
    let transaction = transaction(&envelope);
    let name = |test| Metadata::AttachmentName(test);
    for (metadata, expected) in [
        (name(NameTest::Is("report.pdf".into())), true),
        (name(NameTest::Is("report".into())), false),
        (name(NameTest::Matches(r"(?i)\.pdf$".into())), true),
        (name(NameTest::Matches(r"\.exe$".into())), false),
        (Metadata::AttachmentType(NameTest::Is("application/pdf".into())), true),
        (Metadata::AttachmentType(NameTest::Is("image/png".into())), false),
        (Metadata::AttachmentType(NameTest::Matches("^image/".into())), false),
    ] {
        let rule = with(Expression::Metadata(metadata.clone()));
        assert_eq!(matched(&rule, &transaction, mail), expected, "{metadata:?}");
    }
}

#[test]
fn r058_detectors_count_different_finds_of_the_confidence_asked_for() {
    let mail = |body: &str| mail("x", body);
    let rule = |min_count, confidence| {
        with(Expression::Detector(Detection { detector: Detector::PaymentCard, min_count, confidence }))
    };
    let two = "4111 1111 1111 1111 and 5555-5555-5555-4444";
    let same = "4111 1111 1111 1111 and 4111111111111111";
    let named = "my card: 4111 1111 1111 1111";
    for (min_count, confidence, body, expected) in [
        (1, Confidence::Medium, two, true),
        (2, Confidence::Medium, two, true),
        (2, Confidence::Medium, same, false),
        (1, Confidence::High, two, false),
        (1, Confidence::High, named, true),
        (1, Confidence::Medium, "4111 1111 1111 1112", false),
        (1, Confidence::Low, "4111 1111 1111 1112", true),
    ] {
        let policy = policy(vec![rule(min_count, confidence)]);
        assert_eq!(rejects(&policy, &mail(body)), expected, "{min_count} {confidence:?} {body}");
    }
    let decision = judge(&policy(vec![rule(1, Confidence::Medium)]), &mail(two));
    let Outcome::Matched(evidence) = &decision.verdicts[0].trace[0].outcome else { panic!("{decision:?}") };
    assert_eq!((evidence[0].entry.as_str(), evidence[0].offset, evidence[0].length), ("PaymentCard", 0, 19));
    assert!(!format!("{decision:?}").contains("4111"), "no number in a trace");
}

#[test]
fn r060_what_cannot_be_opened_is_for_the_rule_to_say_and_always_told() {
    let mail = b"From: a@solarmora.com\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\n\r\nhi\r\n--b\r\nContent-Type: application/x-7z-compressed\r\nContent-Transfer-Encoding: base64\r\n\
        Content-Disposition: attachment; filename=a.7z\r\n\r\nN3q8ryccAAQAAAAAAAAAAAAAAAAAAAAAAAAAAA==\r\n--b--\r\n";
    let judged = |on_unreadable| {
        let mut rule = words("w", &["secret"]);
        rule.on_unreadable = on_unreadable;
        judge(&policy(vec![rule]), mail)
    };
    let passed = judged(OnUnreadable::TreatAsNoMatch);
    assert!(matches!(passed.verdicts[0].disposition, Disposition::Deliver(_)));
    assert_eq!(passed.verdicts[0].trace[0].outcome, Outcome::NoMatch("onUnreadable"));
    assert!(passed.unreadable[0].to_string().contains("a.7z"), "{:?}", passed.unreadable);
    let refused = judged(OnUnreadable::TreatAsMatch);
    let Outcome::MatchedByScanLimit(why) = &refused.verdicts[0].trace[0].outcome else {
        panic!("{refused:?}")
    };
    assert!(
        why.contains("a.7z") && matches!(refused.verdicts[0].disposition, Disposition::Reject(_)),
        "{why}"
    );
    assert!(matches!(judged(OnUnreadable::Defer).verdicts[0].disposition, Disposition::Defer(_)));
}

/// A thousand rules of every kind beside ten: were there a pass for each, it would be a hundred times as long.
#[test]
fn r064_a_thousand_rules_cost_one_pass() {
    let rules = |count: usize| -> Vec<Rule> {
        (0..count)
            .map(|n| {
                let list: Vec<String> = (0..5).map(|m| format!("forbidden{n}x{m}")).collect();
                let mut rule = words(&format!("r{n}"), &list.iter().map(String::as_str).collect::<Vec<_>>());
                let text = |kind, value: String| {
                    Expression::Text(TextExpression { location: Location::Body, kind, value, min_count: 1 })
                };
                let content = rule.content.as_mut().expect("it has words");
                content.expressions = vec![
                    text(ExpressionKind::Contains, format!("needle number {n}")),
                    text(ExpressionKind::AllWords, format!("alpha{n} beta{n}")),
                    text(ExpressionKind::MatchesRegex, format!(r"(?i)\bproject[- ]{n}x\b")),
                    Expression::Detector(Detection {
                        detector: Detector::Iban,
                        min_count: 1,
                        confidence: Confidence::High,
                    }),
                ];
                rule
            })
            .collect()
    };
    let message =
        mail("x", &"an ordinary line of größer text, with needle words and a project\r\n".repeat(4000));
    let cost = |count: usize| {
        let policy = policy(rules(count));
        let once = |_| {
            let start = Instant::now();
            assert!(!rejects(&policy, &message));
            start.elapsed()
        };
        (0..3).map(once).min().expect("three times")
    };
    let (few, many) = (cost(10), cost(1000));
    assert!(many < few * 10, "10 rules: {few:?}, 1000 rules: {many:?}");
}

#[test]
fn r064_every_rule_that_shares_a_word_has_its_evidence() {
    let rules: Vec<Rule> = (0..200).map(|n| words(&format!("r{n:03}"), &["confidential"])).collect();
    let decision = judge(&policy(rules), &mail("x", &"confidential ".repeat(2000)));
    for trace in decision.verdicts[0].trace.iter() {
        let Outcome::Matched(evidence) = &trace.outcome else { panic!("{trace:?}") };
        assert_eq!((evidence.len(), evidence[0].offset, evidence[0].length), (1, 0, 12));
    }
}
