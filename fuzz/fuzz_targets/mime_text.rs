//! Any bytes as a message: the walk, the views and the decision never panic, hang or lose a recipient.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postern::bundle::document::*;
use postern::bundle::{Bundle, Revision};
use postern::mail::envelope::{Envelope, Recipient, Sender};
use postern::policy::{Fuel, Policy, Transaction, compile, decide};

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let object = |kind| ObjectId { kind, namespace: "f".into(), name: "f".into() };
    let origin = |kind| Origin { object: object(kind), uid: String::new(), generation: 1 };
    let expression = |location, kind, value: &str| Expression::Text(TextExpression { location, kind, value: value.into(), min_count: 2 });
    let rule = Rule {
        content: Some(Content {
            words: ["forbidden", "[x]", "top secret", "機密"].map(str::to_owned).to_vec(),
            word_options: WordOptions { ignore_accents: true, confusables: Confusables::All, ..WordOptions::default() },
            search_html_source: true,
            expressions: vec![
                expression(Location::HeadersAndBody, ExpressionKind::MatchesRegex, r"(?i)a+\s*b"),
                expression(Location::RawMessage, ExpressionKind::NotContains, "x"),
                expression(Location::Attachments, ExpressionKind::AllWords, "a b"),
            ],
            combine: Combine::All,
        }),
        ..Rule::new(origin(ObjectKind::ComplianceRule), Action::Reject(Reject::default()))
    };
    let gateway = Gateway { allow_foreign_senders: true, ..Gateway::new(origin(ObjectKind::OutboundGateway)) };
    let bundle = Bundle { rules: vec![rule.into()], ..Bundle::new(gateway) };
    compile(&std::sync::Arc::new(bundle), &Revision::of(FORMAT, &[], &[])).expect("the rule is right")
});

fuzz_target!(|content: &[u8]| {
    let to = Recipient::new("b@rcpt.example".parse().expect("an address"));
    let envelope = Envelope { sender: Sender::default(), recipients: vec![to] };
    let transaction = Transaction::new("F", &envelope);
    let fuel = Fuel { decoded_bytes: 1 << 20, parts: 1000, depth: 50, entries: 1000, nesting: 5 };
    assert_eq!(decide(&POLICY, &transaction, content, fuel).verdicts.len(), 1);
});
