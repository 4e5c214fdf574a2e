//! The lines above the message: a bundle and an envelope in words.

use std::sync::Arc;

use crate::bundle::Bundle;
use crate::bundle::document::*;
use crate::mail::edit::{Footer, Removal};
use crate::policy::testing::*;
use crate::policy::verdict::Fuel;

pub struct Setup<'a> {
    pub bundle: Bundle,
    pub fuel: Fuel,
    pub mail: &'a str,
}

impl<'a> Setup<'a> {
    pub fn read(lines: &'a str) -> Self {
        let mail = "from ani@solarmora.com to b@rcpt.example";
        let mut setup = Self { bundle: bundle(Vec::new()), fuel: Fuel::default(), mail };
        for line in lines.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            if line.starts_with(' ') {
                let rule = setup.bundle.rules.last_mut().expect("a rule stands before its fields");
                field(Arc::make_mut(rule), word, rest);
            } else {
                setup.line(word, rest);
            }
        }
        setup
    }

    fn line(&mut self, word: &str, rest: &'a str) {
        let bundle = &mut self.bundle;
        match word {
            "rule" => bundle.rules.push(new_rule(rest).into()),
            "route" => bundle.routes.push(new_route(rest)),
            "default-route" => {
                let (how, name) = rest.split_once(' ').unwrap();
                let name = route_name(name);
                let missing = how == "missing";
                let route = if missing { DefaultRoute::Missing(name) } else { DefaultRoute::Named(name) };
                bundle.gateway.default_route = Some(route);
            }
            "user" => {
                let mut words = rest.split(' ');
                let (address, unit) = (words.next().unwrap(), words.next().unwrap_or("/"));
                let groups: Vec<&str> = words.collect();
                account(bundle, address, AccountKind::User(UnitPath(unit.into())), &groups);
            }
            "group" => account(bundle, rest, AccountKind::Group, &[]),
            "unit" => {
                let (path, rules) = rest.split_once(" disable ").unwrap();
                let disabled = rules.split(", ").map(|rule| {
                    let (kind, name) = rule.split_once('/').unwrap();
                    origin(named(kind), name).object
                });
                let unit = Unit { path: UnitPath(path.into()), disabled: disabled.collect() };
                directory(bundle).units.push(unit);
            }
            "unknown-senders" => directory(bundle).unknown_senders = UnknownSenders::Refuse,
            "directory-broken" => directory(bundle).broken = Some(rest.to_owned()),
            "list" => {
                let (name, entries) = rest.split_once(' ').unwrap();
                bundle.lists.push(list(name, &entries.split(", ").collect::<Vec<_>>()));
            }
            "archive" => {
                let mut words = rest.split(' ');
                let recipient = words.next().unwrap().parse().unwrap();
                let route = match words.next().unwrap() {
                    "missing" => ChangeRoute::Missing(route_name("gone")),
                    name => ChangeRoute::To(route_name(name)),
                };
                let include_rejected = words.next() == Some("rejected");
                bundle.gateway.archive = Some(Archive { recipient, route, include_rejected });
            }
            "gateway" => match rest.split_once(' ').unwrap_or((rest, "")) {
                ("drop-blatant", _) => bundle.gateway.drop_blatant_spam = true,
                ("spam-headers", _) => bundle.gateway.default_route_spam_headers = true,
                ("smime", address) => bundle.gateway.smime.push(certificate(address)),
                (other, _) => panic!("no such setting: {other}"),
            },
            "fuel" => self.fuel.decoded_bytes = rest.parse().unwrap(),
            "mail" => self.mail = rest,
            other => panic!("no such line: {other}"),
        }
    }
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
    let origin = origin(ObjectKind::OutboundRoute, name);
    Route { broken, ..Route::new(origin, RouteTarget::RecipientMx, RouteTls::opportunistic()) }
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
        ("mode", _) => rule.mode = named(rest),
        ("unit", _) => rule.unit = UnitPath(rest.into()),
        ("mandatory", _) => rule.mandatory = true,
        ("accounts", _) => rule.accounts = rest.split(", ").map(named).collect(),
        ("lists", _) => {
            let mut words = rest.splitn(3, ' ');
            let (mode, by) = (named(words.next().unwrap()), named(words.next().unwrap()));
            let names = words.next().unwrap().split(", ").map(list_name).collect();
            rule.lists = Some(ListCondition { mode, by, names });
        }
        ("quarantine", _) => {
            let (name, notify) = rest.split_once(' ').unwrap_or((rest, ""));
            let quarantine = (name != "default").then(|| list_name(name));
            rule.action = Action::Quarantine(Quarantining { quarantine, notify_sender: notify == "notify" });
        }
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
        (Action::Modify(modify), "original-to") => modify.original_to_header = true,
        (Action::Modify(modify), "spam-headers") => modify.spam_headers = true,
        (Action::Modify(modify), "reroute-spam") => modify.reroute_spam = true,
        (Action::Modify(modify), "suppress-bounces") => modify.suppress_bounces = true,
        (Action::Modify(modify), "bypass-spam-filter") => modify.bypass_spam_filter = true,
        (Action::Modify(modify), "recipient") => modify.envelope_recipient = Some(recipient(rest)),
        (Action::Modify(modify), "remove") => modify.remove_attachments = Some(removal(rest)),
        (Action::Modify(modify), "add") => modify.add_recipients.push(added(rest)),
        (Action::Modify(modify), "smime") => {
            modify.smime = Some(Smime { encrypt: true, sign: false, bounce_if_unable: rest == "bounce" });
        }
        (Action::Modify(modify), "footer") => modify.footer = Some(Footer { text: rest.into(), html: None }),
        (Action::Modify(modify), "strip-amp") => modify.strip_amp = true,
        (_, other) => panic!("no such field here: {other}"),
    }
}

fn filter(text: &str) -> AddressFilter {
    match text.split_once(' ').unwrap_or((text, "")) {
        ("address", address) => AddressFilter::Address(address.parse().unwrap()),
        ("pattern", pattern) => AddressFilter::Pattern(pattern.to_owned()),
        ("groups", groups) => AddressFilter::Groups(groups.split(' ').map(str::to_owned).collect()),
        (other, _) => panic!("no such filter: {other}"),
    }
}

fn recipient(text: &str) -> ChangeRecipient {
    match text.split_once(' ').unwrap() {
        ("address", address) => ChangeRecipient::Address(address.parse().unwrap()),
        ("user", user) => ChangeRecipient::User(user.to_owned()),
        ("domain", domain) => ChangeRecipient::Domain(domain.parse().unwrap()),
        (other, _) => panic!("no such form: {other}"),
    }
}

/// Names of files, then the notice in brackets.
fn removal(text: &str) -> Removal {
    let (names, notice) = text.split_once(" [").unwrap_or((text, ""));
    let names: Vec<String> = names.split(' ').map(str::to_owned).collect();
    let notice = (!notice.is_empty()).then(|| notice.trim_end_matches(']').to_owned());
    match names == ["all"] {
        true => Removal { all: true, notice, ..Removal::default() },
        false => Removal { names, notice, ..Removal::default() },
    }
}

/// An address, then its settings separated by `; `.
fn added(text: &str) -> AddedRecipient {
    let mut words = text.split("; ");
    let mut added = added_recipient(words.next().unwrap());
    for setting in words {
        let (word, rest) = setting.split_once(' ').unwrap_or((setting, ""));
        match word {
            "recipient" => added.envelope_recipient = Some(recipient(rest)),
            "prefix" => added.subject_prefix = Some(rest.to_owned()),
            "remove" => added.remove_attachments = Some(removal(rest)),
            "route" => added.route = Some(ChangeRoute::To(route_name(rest))),
            "route-missing" => added.route = Some(ChangeRoute::Missing(route_name(rest))),
            "require-tls" => added.require_tls = true,
            "spam-too" => added.drop_spam = false,
            "bounces" => added.suppress_bounces = false,
            "header" => {
                let (name, value) = rest.split_once(": ").unwrap();
                added.headers.push(Header { name: name.to_owned(), value: value.to_owned() });
            }
            other => panic!("no such setting: {other}"),
        }
    }
    added
}
