//! Short forms for tests: bundles, envelopes and messages in a line or two.

use std::sync::Arc;

use crate::bundle::document::*;
use crate::bundle::{Bundle, Revision};
use crate::mail::envelope::{Envelope, Recipient, RouteName, Sender};
use crate::policy::verdict::{
    CopyFate, Decision, Disposition, Fuel, Outcome, SenderSource, SenderTrace, Transaction,
};
use crate::policy::{Policy, compile, decide};

pub fn origin(kind: ObjectKind, name: &str) -> Origin {
    let object = ObjectId { kind, namespace: "mail".into(), name: name.into() };
    Origin { object, uid: name.into(), generation: 1 }
}

pub fn route_name(name: &str) -> RouteName {
    RouteName { namespace: "mail".into(), name: name.into() }
}

pub fn list_name(name: &str) -> ObjectName {
    ObjectName { namespace: "mail".into(), name: name.into() }
}

/// An address list; an entry with `!` in front needs no authentication.
pub fn list(name: &str, entries: &[&str]) -> AddressList {
    let entries = entries.iter().map(|entry| match entry.strip_prefix('!') {
        Some(free) => (free.parse().expect("an entry"), false),
        None => (entry.parse().expect("an entry"), true),
    });
    AddressList { origin: origin(ObjectKind::AddressList, name), entries: ListEntries::build(entries) }
}

/// The directory of a bundle, made if it has none.
pub fn directory(bundle: &mut Bundle) -> &mut Directory {
    bundle.directory.get_or_insert_with(|| Directory {
        origin: origin(ObjectKind::Directory, "main"),
        units: Vec::new(),
        unknown_senders: UnknownSenders::RootUnit,
        accounts: Vec::new(),
        broken: None,
    })
}

pub fn account(bundle: &mut Bundle, address: &str, kind: AccountKind, groups: &[&str]) {
    let groups = groups.iter().map(|&group| group.to_owned()).collect();
    directory(bundle).accounts.push(Account { address: address.into(), kind, groups });
}

/// A certificate that is always valid. What it holds is nobody's business here.
pub fn certificate(address: &str) -> SmimeCertificate {
    SmimeCertificate {
        address: address.into(),
        der: format!("certificate-of-{address}"),
        not_before: jiff::Timestamp::MIN,
        not_after: jiff::Timestamp::MAX,
    }
}

/// An added recipient with the defaults of spec R98.
pub fn added_recipient(address: &str) -> AddedRecipient {
    AddedRecipient {
        address: address.parse().expect("an address"),
        envelope_recipient: None,
        headers: Vec::new(),
        subject_prefix: None,
        remove_attachments: None,
        route: None,
        require_tls: false,
        drop_spam: true,
        suppress_bounces: true,
    }
}

pub fn revision() -> Revision {
    Revision::of(FORMAT, &[], &[])
}

pub fn rule(kind: ObjectKind, name: &str, action: Action) -> Rule {
    Rule {
        description: name.into(),
        messages: vec![
            Direction::Outbound,
            Direction::Inbound,
            Direction::InternalSending,
            Direction::InternalReceiving,
        ],
        ..Rule::new(origin(kind, name), action)
    }
}

pub fn content(words: &[&str]) -> Content {
    Content {
        words: words.iter().map(|&word| word.to_owned()).collect(),
        word_options: WordOptions::default(),
        search_html_source: false,
        expressions: Vec::new(),
        combine: Combine::Any,
    }
}

/// A rule that rejects messages with one of these words.
pub fn words(name: &str, words: &[&str]) -> Rule {
    let mut rule = rule(ObjectKind::ComplianceRule, name, Action::Reject(Reject::default()));
    rule.content = Some(content(words));
    rule
}

pub fn modify(name: &str, modify: Modify) -> Rule {
    rule(ObjectKind::RoutingRule, name, Action::Modify(Box::new(modify)))
}

pub fn expression(location: Location, kind: ExpressionKind, value: &str) -> Rule {
    let mut rule = words("expression", &[]);
    let expression = Expression::Text(TextExpression { location, kind, value: value.into(), min_count: 1 });
    rule.content.as_mut().expect("it was just given").expressions.push(expression);
    rule
}

pub fn bundle(rules: Vec<Rule>) -> Bundle {
    let gateway = Gateway {
        domains: vec!["solarmora.com".parse().expect("a domain")],
        ..Gateway::new(origin(ObjectKind::OutboundGateway, "default"))
    };
    Bundle { rules: rules.into_iter().map(Arc::new).collect(), ..Bundle::new(gateway) }
}

pub fn policy(rules: Vec<Rule>) -> Policy {
    compile(&Arc::new(bundle(rules)), &revision()).expect("the rules are right")
}

pub fn envelope(from: &str, to: &[&str]) -> Envelope {
    let mailbox = (!from.is_empty()).then(|| from.parse().expect("a sender"));
    let recipients = to.iter().map(|to| Recipient::new(to.parse().expect("a recipient"))).collect();
    Envelope { sender: Sender { mailbox, ..Sender::default() }, recipients }
}

pub fn transaction(envelope: &Envelope) -> Transaction<'_> {
    Transaction { client: [10, 0, 0, 1].into(), utf8_replies: false, ..Transaction::new("T1", envelope) }
}

/// Judges a message from ani@solarmora.com to one outside recipient.
pub fn judge(policy: &Policy, content: &[u8]) -> Decision {
    let envelope = envelope("ani@solarmora.com", &["b@rcpt.example"]);
    decide(policy, &transaction(&envelope), content, Fuel::default())
}

pub fn rejects(policy: &Policy, content: &[u8]) -> bool {
    matches!(judge(policy, content).verdicts[0].disposition, Disposition::Reject(_))
}

/// A decision as text, for comparison and for reading.
pub fn describe(decision: &Decision, envelope: &Envelope) -> String {
    let mut out = String::new();
    let sender = &decision.sender;
    if sender.source != SenderSource::Envelope || sender.unit != UnitPath::default() {
        let address = sender.address.as_ref().map_or("nobody".to_owned(), ToString::to_string);
        let SenderTrace { source, account, unit, .. } = sender;
        out.push_str(&format!("sender {address} ({source:?}): {account:?} of {}\n", unit.0));
    }
    for (recipient, verdict) in envelope.recipients.iter().zip(&decision.verdicts) {
        out.push_str(&format!("{}: ", recipient.mailbox));
        match &verdict.disposition {
            Disposition::Reject(r) => {
                out.push_str(&format!("reject 550 {} {:?} by {}\n", r.code, r.text, r.rule));
                if r.full_text != r.text {
                    out.push_str(&format!("  full text {:?}\n", r.full_text));
                }
            }
            Disposition::Defer(d) => {
                let object = d.object.as_ref().map(ToString::to_string).unwrap_or_default();
                out.push_str(&format!("defer 451 {} {:?} for {object}\n", d.code, d.text));
            }
            Disposition::Quarantine(hold) => {
                let notify = if hold.notify_sender { ", sender told" } else { "" };
                let name = hold.quarantine.as_ref().map_or("default".to_owned(), ToString::to_string);
                out.push_str(&format!("quarantine {name}{notify}\n"));
                for reason in &hold.reasons {
                    out.push_str(&format!("  for {}\n", reason.rule));
                }
            }
            Disposition::Discard => out.push_str("discard\n"),
            Disposition::Deliver(deliveries) => {
                for d in deliveries {
                    let tls = if d.require_tls { " with TLS" } else { "" };
                    let quiet = if d.suppress_bounces { ", no bounces" } else { "" };
                    let copy = d.copy_of.as_ref().map(|of| format!(", copy of {of}")).unwrap_or_default();
                    out.push_str(&format!(
                        "deliver to {} by {:?}{tls}{quiet}{copy}\n",
                        d.recipient.mailbox, d.via
                    ));
                    for edit in d.edits.iter() {
                        out.push_str(&format!("  {edit:?}\n"));
                    }
                }
            }
        }
        for trace in verdict.trace.iter() {
            let outcome = match &trace.outcome {
                Outcome::Matched(evidence) => {
                    let places = evidence
                        .iter()
                        .map(|e| format!(" {}:{}+{} {:?}", e.part, e.offset, e.length, e.entry));
                    format!("matched{}", places.collect::<String>())
                }
                Outcome::MatchedByScanLimit(why) => format!("matched by scan limit ({why})"),
                Outcome::NoMatch(clause) => format!("no match ({clause})"),
                Outcome::Deferred(why) => format!("deferred ({why})"),
            };
            let overridden = match trace.overridden.is_empty() {
                true => String::new(),
                false => format!(", overridden: {}", trace.overridden.join(" ")),
            };
            let shadow = if trace.mode == Mode::Shadow { " (shadow)" } else { "" };
            let list =
                trace.bypassed_by.as_ref().map(|list| format!(", bypassed by {list}")).unwrap_or_default();
            out.push_str(&format!("  {}{shadow} {outcome}{list}{overridden}\n", trace.rule));
        }
        for copy in &verdict.copies {
            let fate = match &copy.fate {
                CopyFate::Made => "made".to_owned(),
                CopyFate::Duplicate => "not made, the same goes there anyway".to_owned(),
                CopyFate::Spam => "not made, spam".to_owned(),
                CopyFate::Refused(rejection) => format!("refused {} {:?}", rejection.code, rejection.text),
                CopyFate::Held(hold) => {
                    let reasons: Vec<String> = hold.reasons.iter().map(|r| r.rule.to_string()).collect();
                    format!("held for {}", reasons.join(", "))
                }
            };
            out.push_str(&format!("  copy to {} by {}: {fate}\n", copy.to, copy.rule));
        }
    }
    if let Some(archive) = &decision.archive {
        out.push_str(&format!("archive to {} by {:?}\n", archive.recipient.mailbox, archive.via));
        for edit in archive.edits.iter() {
            out.push_str(&format!("  {edit:?}\n"));
        }
    }
    out
}

/// Compares a text with a file of the repository; UPDATE=1 writes the file.
pub fn golden(path: &str, text: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().expect("it lies in a folder")).expect("a folder");
        std::fs::write(&file, text).expect("a file");
        return;
    }
    let known = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(known == text, "{path} differs; UPDATE=1 rewrites it. Now:\n{text}");
}
