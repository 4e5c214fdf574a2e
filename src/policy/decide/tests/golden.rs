//! Golden pairs in `tests/golden/decide/`: rules and a message, then the decision. The part before
//! `=== decision` is written by hand, the rest by UPDATE=1.
//!
//! ```text
//! rule ComplianceRule no-secrets     a rule, its fields indented below it
//!   words secret, top secret
//!   reject Not this
//! route relay                        an OutboundRoute; more words: why it is broken
//! default-route missing relay        or: named relay
//! fuel 100                           bytes of text that may be searched
//! mail from a@b.c to d@e.f, g@h.i    flags: clear, utf8
//! ---                                then the message
//! === decision
//! ```

use std::path::Path;

use super::super::super::testing::*;
use crate::bundle::document::*;
use crate::policy::verdict::Fuel;
use crate::policy::{compile, decide};

#[test]
fn decisions_are_the_golden_ones() {
    let folder = "tests/golden/decide";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(!names.is_empty());
    for name in names {
        let file = format!("{folder}/{name}");
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap();
        let input = text.split("\n=== decision\n").next().unwrap().trim_end();
        golden(&file, &format!("{input}\n=== decision\n{}", run(input)));
    }
}

fn run(input: &str) -> String {
    let (setup, message) = input.split_once("\n---\n").expect("--- stands before the message");
    let mut bundle = bundle(Vec::new());
    let mut fuel = Fuel::default();
    let mut mail = "from ani@solarmora.com to b@rcpt.example";
    for line in setup.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        if line.starts_with(' ') {
            field(bundle.rules.last_mut().expect("a rule stands before its fields"), word, rest);
            continue;
        }
        match word {
            "rule" => bundle.rules.push(new_rule(rest)),
            "route" => bundle.routes.push(new_route(rest)),
            "default-route" => {
                let (how, name) = rest.split_once(' ').unwrap();
                let name = route_name(name);
                let missing = how == "missing";
                let route = if missing { DefaultRoute::Missing(name) } else { DefaultRoute::Named(name) };
                bundle.gateway.default_route = Some(route);
            }
            "fuel" => fuel.decoded_bytes = rest.parse().unwrap(),
            "mail" => mail = rest,
            other => panic!("no such line: {other}"),
        }
    }
    let policy = match compile(&bundle, &revision()) {
        Ok(policy) => policy,
        Err(error) => return format!("not compiled: {error}\n"),
    };
    let (from, to) = mail.strip_prefix("from ").unwrap().split_once(" to ").unwrap();
    let mut words = to.split([',', ' ']).filter(|word| !word.is_empty());
    let (to, flags): (Vec<&str>, Vec<&str>) = words.by_ref().partition(|word| word.contains('@'));
    let envelope = envelope(from.trim_matches(['<', '>']), &to);
    let mut transaction = transaction(&envelope);
    transaction.tls = !flags.contains(&"clear");
    transaction.utf8_replies = flags.contains(&"utf8");
    let bytes = message.replace('\n', "\r\n");
    describe(&decide(&policy, &transaction, bytes.as_bytes(), fuel), &envelope)
}

fn new_rule(text: &str) -> Rule {
    let (kind, name) = text.split_once(' ').unwrap();
    let kind = match kind {
        "ComplianceRule" => ObjectKind::ComplianceRule,
        "RoutingRule" => ObjectKind::RoutingRule,
        other => panic!("no such kind: {other}"),
    };
    rule(kind, name, Action::Modify(Box::default()))
}

fn new_route(text: &str) -> Route {
    let (name, broken) =
        text.split_once(' ').map_or((text, None), |(name, why)| (name, Some(why.to_owned())));
    Route {
        origin: origin(ObjectKind::OutboundRoute, name),
        target: RouteTarget::RecipientMx,
        tls: RouteTls::opportunistic(),
        on_tls_failure: OnTlsFailure::Bounce,
        retry: Retry::default(),
        broken,
    }
}

/// An enum of the bundle by its name there.
fn named<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_value(name.into()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn field(rule: &mut Rule, word: &str, rest: &str) {
    let in_content = matches!(word, "words" | "option" | "expression" | "combine");
    if in_content && rule.content.is_none() {
        rule.content = Some(content(&[]));
    }
    match (word, &mut rule.content) {
        ("words", Some(content)) => content.words = rest.split(", ").map(str::to_owned).collect(),
        ("combine", Some(content)) => content.combine = named(rest),
        ("option", Some(content)) => match rest.split_once(' ').unwrap_or((rest, "")) {
            ("accents", _) => content.word_options.ignore_accents = true,
            ("turkish", _) => content.word_options.turkish = true,
            ("source", _) => content.search_html_source = true,
            ("confusables", how) => content.word_options.confusables = named(how),
            ("substring", entry) => content.word_options.substrings.push(entry.to_owned()),
            (other, _) => panic!("no such option: {other}"),
        },
        ("expression", Some(content)) => {
            let mut words = rest.splitn(4, ' ');
            content.expressions.push(Expression::Text(TextExpression {
                location: named(words.next().unwrap()),
                kind: named(words.next().unwrap()),
                min_count: words.next().unwrap().parse().unwrap(),
                value: words.next().unwrap_or_default().to_owned(),
            }));
        }
        ("priority", _) => rule.priority = rest.parse().unwrap(),
        ("messages", _) => rule.messages = rest.split(", ").map(named).collect(),
        ("senders", _) => rule.envelope.senders = Some(filter(rest)),
        ("recipients", _) => rule.envelope.recipients = Some(filter(rest)),
        ("on-scan-limit", _) => rule.on_scan_limit = named(rest),
        ("broken", _) => rule.broken = Some(rest.to_owned()),
        ("reject", _) => {
            let notice = (!rest.is_empty()).then(|| rest.replace("\\n", "\n"));
            rule.action = Action::Reject(Reject { notice, ..Reject::default() });
        }
        _ => action(&mut rule.action, word, rest),
    }
}

fn action(action: &mut Action, word: &str, rest: &str) {
    match (action, word) {
        (Action::Reject(reject), "ascii") => reject.ascii_notice = Some(rest.to_owned()),
        (Action::Reject(reject), "hide") => reject.hide_rule = true,
        (Action::Reject(reject), "code") => {
            let digits: Vec<u16> = rest.split('.').map(|digit| digit.parse().unwrap()).collect();
            reject.enhanced_code = EnhancedCode([digits[0], digits[1], digits[2]]);
        }
        (Action::Modify(modify), "route") => modify.route = Some(ChangeRoute::To(route_name(rest))),
        (Action::Modify(modify), "route-missing") => {
            modify.route = Some(ChangeRoute::Missing(route_name(rest)));
        }
        (Action::Modify(modify), "header") => {
            let (name, value) = rest.split_once(": ").unwrap();
            modify.headers.push(Header { name: name.to_owned(), value: value.to_owned() });
        }
        (Action::Modify(modify), "prefix") => modify.subject_prefix = Some(rest.to_owned()),
        (Action::Modify(modify), "require-tls") => modify.require_tls = true,
        (_, other) => panic!("no such field here: {other}"),
    }
}

fn filter(text: &str) -> AddressFilter {
    match text.split_once(' ').unwrap_or((text, "")) {
        ("address", address) => AddressFilter::Address(address.parse().unwrap()),
        ("pattern", pattern) => AddressFilter::Pattern(pattern.to_owned()),
        (other, _) => panic!("no such filter: {other}"),
    }
}
