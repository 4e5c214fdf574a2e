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
    let expression = |location, kind, value: &str| Expression { location, kind, value: value.into(), min_count: 2 };
    let rule = Rule {
        origin: origin(ObjectKind::ComplianceRule),
        description: String::new(),
        priority: 500,
        created: None,
        messages: vec![Direction::Outbound],
        envelope: EnvelopeFilter::default(),
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
        on_scan_limit: OnScanLimit::TreatAsMatch,
        action: Action::Reject(Reject::default()),
        broken: None,
    };
    let gateway = Gateway {
        origin: origin(ObjectKind::OutboundGateway),
        hostname: None,
        domains: Vec::new(),
        listeners: Vec::new(),
        clients: Vec::new(),
        allow_foreign_senders: true,
        default_route: None,
        limits: Limits::default(),
        notices: Notices::default(),
        dns_servers: Vec::new(),
    };
    let bundle = Bundle { gateway, routes: Vec::new(), rules: vec![rule] };
    compile(&bundle, &Revision::of(FORMAT, &[], &[])).expect("the rule is right")
});

fuzz_target!(|content: &[u8]| {
    let to = Recipient::new("b@rcpt.example".parse().expect("an address"));
    let envelope = Envelope { sender: Sender::default(), recipients: vec![to] };
    let transaction =
        Transaction { id: "F", client: [127, 0, 0, 1].into(), tls: true, utf8_replies: false, envelope: &envelope };
    let fuel = Fuel { decoded_bytes: 1 << 20, parts: 1000, depth: 50 };
    assert_eq!(decide(&POLICY, &transaction, content, fuel).verdicts.len(), 1);
});
