//! The table of pairs, and the properties that hold for every set of rules in every order.

use proptest::prelude::*;

use super::*;
use crate::bundle::document::{ChangeRoute, Smime};
use crate::policy::testing::{added_recipient, route_name};

/// One rule's action, as the table names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reject,
    Broken,
    Quarantine,
    QuarantineNotify,
    Route,
    RouteSpamToo,
    MissingRoute,
    BrokenRoute,
    Recipient,
    OriginalTo,
    Headers,
    SpamHeaders,
    Prefix,
    Bypass,
    Removal,
    Copies,
    Tls,
    Encrypt,
    EncryptOrBounce,
    Footer,
    StripAmp,
}

const KINDS: [(Kind, &str); 21] = [
    (Kind::Reject, "reject"),
    (Kind::Broken, "broken rule"),
    (Kind::Quarantine, "quarantine"),
    (Kind::QuarantineNotify, "quarantine, sender told"),
    (Kind::Route, "change route, no bounces"),
    (Kind::RouteSpamToo, "change route, spam too"),
    (Kind::MissingRoute, "change route, route missing"),
    (Kind::BrokenRoute, "change route, route broken"),
    (Kind::Recipient, "change recipient"),
    (Kind::OriginalTo, "change recipient, first one told"),
    (Kind::Headers, "custom headers"),
    (Kind::SpamHeaders, "spam headers"),
    (Kind::Prefix, "subject prefix"),
    (Kind::Bypass, "bypass spam filter"),
    (Kind::Removal, "remove attachments"),
    (Kind::Copies, "add recipients"),
    (Kind::Tls, "require TLS"),
    (Kind::Encrypt, "S/MIME"),
    (Kind::EncryptOrBounce, "S/MIME or bounce"),
    (Kind::Footer, "footer"),
    (Kind::StripAmp, "strip AMP"),
];

/// The record behind a kind.
enum Record {
    Reject(Reject),
    Quarantine(Quarantining),
    Modify(Box<Modify>),
    Broken,
}

/// `tag` tells two rules of one kind apart.
fn record(kind: Kind, tag: &str) -> Record {
    let mut modify = Modify::default();
    match kind {
        Kind::Reject => return Record::Reject(Reject { notice: Some(tag.into()), ..Reject::default() }),
        Kind::Broken => return Record::Broken,
        Kind::Quarantine | Kind::QuarantineNotify => {
            let quarantine =
                crate::bundle::document::ObjectName { namespace: "mail".into(), name: tag.into() };
            let notify_sender = kind == Kind::QuarantineNotify;
            return Record::Quarantine(Quarantining { quarantine: Some(quarantine), notify_sender });
        }
        Kind::Route => {
            modify.route = Some(ChangeRoute::To(route_name(&format!("route-{tag}"))));
            modify.suppress_bounces = true;
        }
        Kind::RouteSpamToo => {
            modify.route = Some(ChangeRoute::To(route_name(&format!("route-{tag}"))));
            modify.reroute_spam = true;
        }
        Kind::MissingRoute => modify.route = Some(ChangeRoute::Missing(route_name(&format!("gone-{tag}")))),
        Kind::BrokenRoute => modify.route = Some(ChangeRoute::To(route_name("broken"))),
        Kind::Recipient => modify.envelope_recipient = Some(ChangeRecipient::User(tag.into())),
        Kind::OriginalTo => {
            modify.envelope_recipient = Some(ChangeRecipient::User(tag.into()));
            modify.original_to_header = true;
        }
        Kind::Headers => modify.headers = vec![Header { name: "X-Rule".into(), value: tag.into() }],
        Kind::SpamHeaders => modify.spam_headers = true,
        Kind::Prefix => modify.subject_prefix = Some(tag.into()),
        Kind::Bypass => modify.bypass_spam_filter = true,
        Kind::Removal => {
            let names = vec![format!("*.{tag}")];
            modify.remove_attachments =
                Some(Removal { names, notice: Some(tag.into()), ..Removal::default() });
        }
        Kind::Copies => modify.add_recipients = vec![added_recipient(&format!("copy-{tag}@solarmora.com"))],
        Kind::Tls => modify.require_tls = true,
        Kind::Encrypt => modify.smime = Some(Smime { encrypt: true, sign: false, bounce_if_unable: false }),
        Kind::EncryptOrBounce => {
            modify.smime = Some(Smime { encrypt: true, sign: false, bounce_if_unable: true });
        }
        Kind::Footer => modify.footer = Some(Footer { text: tag.into(), html: None }),
        Kind::StripAmp => modify.strip_amp = true,
    }
    Record::Modify(Box::new(modify))
}

fn effect(record: &Record) -> Effect<'_> {
    match record {
        Record::Reject(reject) => Effect::Reject(reject),
        Record::Quarantine(how) => Effect::Quarantine(how),
        Record::Modify(modify) => Effect::Modify(modify),
        Record::Broken => Effect::Defer("broken"),
    }
}

fn broken(name: &RouteName) -> Option<String> {
    (name.name == "broken").then(|| "it cannot be read".to_owned())
}

const OUTGOING: Reach = Reach { sending: true, inbound: false, person: true };
const INCOMING: Reach = Reach { sending: false, inbound: true, person: true };

#[derive(Debug, Clone, Copy)]
struct Case {
    tls: bool,
    spam: Spam,
    reach: Reach,
    drop_blatant: bool,
}

const PLAIN: Case = Case {
    tls: true,
    spam: Spam { spam: false, phishy: false, blatant: false },
    reach: OUTGOING,
    drop_blatant: false,
};
const SPAM: Spam = Spam { spam: true, phishy: false, blatant: false };
const BLATANT: Spam = Spam { spam: true, phishy: false, blatant: true };

fn merged<'a>(records: &'a [Record], order: &[usize], case: Case) -> Merged<'a> {
    let matches = order.iter().map(|&rank| Match {
        rank,
        effect: effect(&records[rank]),
        reach: case.reach,
        carried: false,
    });
    let setting = Setting {
        tls: case.tls,
        spam: case.spam,
        default_route: None,
        broken: &broken,
        drop_blatant: case.drop_blatant,
        spam_headers: false,
    };
    merge(&matches.collect::<Vec<_>>(), &setting)
}

/// A fate in the words of the table; A is the better-ranked rule.
fn words(merged: &Merged<'_>) -> String {
    let who = |rank: usize| ["A", "B"][rank];
    let all = |ranks: Vec<usize>| ranks.into_iter().map(who).collect::<Vec<_>>().join(", then ");
    let mut text = match &merged.fate {
        Fate::Reject { rank: Some(rank), why: Refusal::ClearText } => {
            format!("rejected: no TLS, by {}", who(*rank))
        }
        Fate::Reject { rank: Some(rank), .. } => format!("rejected with the notice of {}", who(*rank)),
        Fate::Reject { rank: None, .. } => "refused as spam".to_owned(),
        Fate::Defer { rank, .. } => format!("deferred because of {}", rank.map_or("the default route", who)),
        Fate::Discard => "dropped".to_owned(),
        Fate::Quarantine { by, reasons, notify_sender } => {
            let name = by.quarantine.as_ref().map_or("default", |name| &name.name);
            let told = if *notify_sender { ", sender told" } else { "" };
            format!("held in the quarantine of {name} for {}{told}", all(reasons.clone()))
        }
        Fate::Deliver(changes) => delivered(changes, &all),
    };
    for (rank, fields) in &merged.overridden {
        text.push_str(&format!(" ({} of {} without effect)", fields.join(", "), who(*rank)));
    }
    text
}

fn delivered(changes: &Changes<'_>, all: &dyn Fn(Vec<usize>) -> String) -> String {
    let mut parts = Vec::new();
    if let Via::Route(route) = &changes.via {
        parts.push(format!("by the route of {}", route.name.trim_start_matches("route-")));
    }
    if let Some((rank, _)) = &changes.recipient {
        let told = if changes.original_to { ", X-Gm-Original-To" } else { "" };
        parts.push(format!("to the recipient of {}{told}", all(vec![*rank])));
    }
    if let Some(removal) = &changes.removal {
        parts.push(format!("without attachments {}", removal.names.join(" and ")));
    }
    if changes.strip_amp {
        parts.push("without AMP".into());
    }
    if !changes.footers.is_empty() {
        let footers: Vec<_> = changes.footers.iter().map(|footer| footer.text.as_str()).collect();
        parts.push(format!("footer of {}", footers.join(", then ")));
    }
    if !changes.prefixes.is_empty() {
        parts.push(format!("subject `[{}] …`", changes.prefixes.join("] [")));
    }
    if !changes.headers.is_empty() {
        parts.push(format!("headers of {}", all(changes.headers.iter().map(|(rank, _)| *rank).collect())));
    }
    if changes.spam_headers {
        parts.push(format!("X-Gm-Spam: {}", u8::from(changes.spam.spam)));
    }
    if let Some(smime) = &changes.encrypt {
        let bounce = if smime.bounce_if_unable { ", else bounced" } else { " where a certificate is known" };
        parts.push(format!("encrypted{bounce}"));
    }
    if changes.require_tls {
        parts.push("only over TLS".into());
    }
    if changes.suppress_bounces {
        parts.push("no bounces".into());
    }
    if !changes.copies.is_empty() {
        parts.push(format!("copies of {}", all(changes.copies.iter().map(|(rank, _)| *rank).collect())));
    }
    let parts = if parts.is_empty() { "unchanged".to_owned() } else { parts.join("; ") };
    format!("delivered: {parts}")
}

/// The pairs whose outcome differs from the one in `usual`, or all of them.
fn table(case: Case, usual: Option<Case>) -> String {
    let mut out = String::from("| A | B | outcome |\n|---|---|---|\n");
    for (a, a_name) in KINDS {
        for (b, b_name) in KINDS {
            let records = [record(a, "A"), record(b, "B")];
            let outcome = |case| words(&merged(&records, &[0, 1], case));
            if usual.is_none_or(|usual| outcome(usual) != outcome(case)) {
                out.push_str(&format!("| {a_name} | {b_name} | {} |\n", outcome(case)));
            }
        }
    }
    out
}

#[test]
fn r122_precedence_of_every_pair_is_the_documented_one() {
    let spam = Case { spam: SPAM, ..PLAIN };
    let text = format!(
        "# When several rules match\n\n\
         Written by a test from the code that decides (`UPDATE=1 cargo test precedence`, or `make generate`).\n\n\
         Every rule that matches a recipient takes part. Rules are ranked: mandatory ones (those of units nearer \
         the root first), ComplianceRule before RoutingRule, those of deeper units before those above, then smaller \
         `priority`, then older, then by name. In each row A is the better-ranked rule.\n\n\
         1. Reject wins over everything, whatever its rank. Nothing else applies then: no copy, no archive.\n\
         2. Blatant spam is refused, unless a rule bypasses the spam filter for it.\n\
         3. A rule or route that is broken: 451, the sender's server tries again.\n\
         4. With `dropBlatantSpam`, blatant spam is dropped.\n\
         5. Quarantine: held once, with every reason. What would be modified is worked out on release.\n\
         6. All modifications together: of routes and of recipients the best-ranked, of TLS and encryption the \
         strictest, of everything else all.\n\n\
         A recipient without a valid certificate is refused (5.7.5) where a rule says S/MIME or bounce, after all \
         this. A copy that a rule adds takes over what is done to its primary, except the recipient; it is judged \
         once more as a message to its own address by every rule but the one that made it, and its own settings \
         come on top.\n\n\
         ## A message that came over TLS and is no spam\n\n{}\n\
         ## The message came in clear text\n\n\
         A rule that requires TLS rejects such a message (`550 5.7.1 Secure transport required by policy`), \
         at its own rank among the rules that reject. Pairs that differ from the first table:\n\n{}\n\
         ## The message is spam\n\n\
         It takes a changed route only where the rule says so. Pairs that differ from the first table:\n\n{}\n\
         ## The message is spam from outside\n\n\
         Only here a rule can bypass the spam filter. Pairs that differ from the table before:\n\n{}\n\
         ## The message is blatant spam from outside\n\n\
         Pairs that differ from the table before:\n\n{}",
        table(PLAIN, None),
        table(Case { tls: false, ..PLAIN }, Some(PLAIN)),
        table(spam, Some(PLAIN)),
        table(Case { reach: INCOMING, ..spam }, Some(spam)),
        table(Case { reach: INCOMING, spam: BLATANT, ..PLAIN }, Some(Case { reach: INCOMING, ..spam })),
    );
    crate::policy::testing::golden("docs/precedence.md", &text);
}

#[test]
fn r134_r135_headers_and_prefixes_accumulate_in_rank_order_without_repetition() {
    let header = |value: &str| Header { name: "X-Rule".into(), value: value.into() };
    let modify = |headers: &[&str], prefix: &str| {
        Record::Modify(Box::new(Modify {
            headers: headers.iter().map(|value| header(value)).collect(),
            subject_prefix: Some(prefix.into()),
            ..Modify::default()
        }))
    };
    let records = [modify(&["1", "2"], "A"), modify(&["2", "3"], "B"), modify(&["1"], "A")];
    let Fate::Deliver(changes) = merged(&records, &[2, 0, 1], PLAIN).fate else { panic!("it is delivered") };
    let values: Vec<_> = changes.headers.iter().map(|(_, header)| header.value.as_str()).collect();
    assert_eq!((values, changes.prefixes), (vec!["1", "2", "3"], vec!["A", "B"]));
}

#[test]
fn r137_what_is_removed_is_the_union_and_each_notice_stands_once() {
    let removal = |names: &[&str], larger_than: Option<u64>, notice: &str| Removal {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        larger_than,
        notice: (!notice.is_empty()).then(|| notice.to_owned()),
        ..Removal::default()
    };
    let mut all = removal(&["*.exe"], Some(100), "Taken out");
    unite(&mut all, &removal(&["*.exe", "*.js"], Some(50), "By policy"));
    unite(&mut all, &removal(&[], None, "Taken out"));
    unite(&mut all, &removal(&[], None, ""));
    assert_eq!(all, removal(&["*.exe", "*.js"], Some(50), "Taken out\nBy policy"));
}

#[test]
fn r121_r131_the_default_route_counts_only_where_no_rule_changes_the_route() {
    let default = |route: &DefaultRoute, records: &[Record], spam: Spam| {
        let matches = records.iter().enumerate().map(|(rank, one)| Match {
            rank,
            effect: effect(one),
            reach: OUTGOING,
            carried: false,
        });
        let setting = Setting {
            tls: true,
            spam,
            default_route: Some(route),
            broken: &broken,
            drop_blatant: false,
            spam_headers: false,
        };
        match merge(&matches.collect::<Vec<_>>(), &setting).fate {
            Fate::Deliver(changes) => format!("{:?}", changes.via),
            Fate::Defer { rank, why } => format!("{rank:?} {why}"),
            Fate::Reject { .. } => "reject".into(),
            Fate::Quarantine { .. } | Fate::Discard => "held".into(),
        }
    };
    let (missing, none) = (DefaultRoute::Missing(route_name("gone")), Spam::default());
    assert_eq!(default(&missing, &[], none), "None default route mail/gone does not exist");
    assert!(default(&missing, &[record(Kind::Route, "A")], none).contains("route-A"));
    assert!(default(&missing, &[record(Kind::Route, "A")], SPAM).starts_with("None default route"), "R83");
    assert_eq!(default(&missing, &[record(Kind::Reject, "A")], none), "reject");
    assert_eq!(default(&DefaultRoute::Named(route_name("relay")), &[], none), "Normal");
    let broken_route = DefaultRoute::Named(route_name("broken"));
    assert!(default(&broken_route, &[], none).starts_with("None route mail/broken"));
}

fn any_case() -> impl Strategy<Value = Case> {
    let spam = prop::sample::select(vec![Spam::default(), SPAM, BLATANT]);
    let reach = (any::<bool>(), any::<bool>())
        .prop_map(|(out, person)| Reach { person, ..if out { OUTGOING } else { INCOMING } });
    (any::<bool>(), spam, reach, any::<bool>()).prop_map(|(tls, spam, reach, drop_blatant)| Case {
        tls,
        spam,
        reach,
        drop_blatant,
    })
}

fn any_rules() -> impl Strategy<Value = (Vec<Kind>, Vec<usize>, Case)> {
    let kinds = prop::collection::vec(prop::sample::select(KINDS.map(|(kind, _)| kind).to_vec()), 0..8);
    kinds.prop_flat_map(|kinds| {
        let order: Vec<usize> = (0..kinds.len()).collect();
        (Just(kinds), Just(order).prop_shuffle(), any_case())
    })
}

/// The promises of the merge, checked for one set of rules.
fn promises(kinds: &[Kind], order: &[usize], case: Case) -> Result<(), TestCaseError> {
    let records: Vec<_> = kinds.iter().enumerate().map(|(n, kind)| record(*kind, &n.to_string())).collect();
    let sorted: Vec<usize> = (0..kinds.len()).collect();
    let merged_here = merged(&records, order, case);
    prop_assert_eq!(&merged_here, &merged(&records, &sorted, case), "order does not matter");

    let has = |kind| kinds.contains(&kind);
    let count = |wanted: &[Kind]| kinds.iter().filter(|kind| wanted.contains(kind)).count();
    let first = |wanted: &[Kind]| kinds.iter().position(|kind| wanted.contains(kind));
    let waived = has(Kind::Bypass) && case.reach.inbound && case.reach.person;
    let blatant = case.spam.blatant && !waived;
    let refuses = |kind: &Kind| *kind == Kind::Reject || (*kind == Kind::Tls && !case.tls);
    let rejects = kinds.iter().any(refuses);
    let is_rejected = matches!(merged_here.fate, Fate::Reject { .. });
    prop_assert_eq!(rejects || (blatant && !case.drop_blatant), is_rejected, "reject dominates");
    match &merged_here.fate {
        Fate::Deliver(changes) => {
            prop_assert!(!has(Kind::Broken), "a broken rule is never passed over");
            prop_assert!(!has(Kind::Quarantine) && !has(Kind::QuarantineNotify), "nothing held gets away");
            prop_assert!(!blatant, "blatant spam is never delivered");
            prop_assert_eq!(changes.require_tls, has(Kind::Tls), "TLS never weakens");
            let smime = has(Kind::Encrypt) || has(Kind::EncryptOrBounce);
            let bounce = changes.encrypt.map(|smime| smime.bounce_if_unable);
            prop_assert_eq!(bounce, smime.then(|| has(Kind::EncryptOrBounce)), "encryption never weakens");
            let routes = [Kind::Route, Kind::RouteSpamToo, Kind::MissingRoute, Kind::BrokenRoute];
            let best = first(&routes).map(|at| kinds[at]);
            let spam = case.spam.spam && !waived;
            let stays = spam && !(best == Some(Kind::RouteSpamToo) && case.reach.person);
            prop_assert_eq!(best.is_some() && !stays, matches!(changes.via, Via::Route(_)));
            prop_assert!(
                stays || !matches!(best, Some(Kind::MissingRoute | Kind::BrokenRoute)),
                "a missing route is never replaced"
            );
            prop_assert_eq!(changes.suppress_bounces, has(Kind::Route));
            prop_assert_eq!(
                changes.recipient.map(|(rank, _)| rank),
                first(&[Kind::Recipient, Kind::OriginalTo])
            );
            prop_assert_eq!(changes.headers.len(), count(&[Kind::Headers]));
            prop_assert_eq!(changes.prefixes.len(), count(&[Kind::Prefix]));
            prop_assert_eq!(changes.footers.len(), count(&[Kind::Footer]));
            prop_assert_eq!(changes.copies.len(), count(&[Kind::Copies]));
            let removed = changes.removal.as_ref().map_or(0, |removal| removal.names.len());
            prop_assert_eq!(removed, count(&[Kind::Removal]));
            prop_assert_eq!(changes.strip_amp, has(Kind::StripAmp));
            prop_assert_eq!(changes.spam_headers, has(Kind::SpamHeaders) && case.reach.person);
        }
        Fate::Defer { rank: Some(rank), .. } => {
            prop_assert!(matches!(kinds[*rank], Kind::Broken | Kind::MissingRoute | Kind::BrokenRoute));
        }
        Fate::Defer { rank: None, .. } => prop_assert!(false, "there is no default route here"),
        Fate::Discard => prop_assert!(blatant && case.drop_blatant && !has(Kind::Broken)),
        Fate::Quarantine { reasons, notify_sender, .. } => {
            let quarantines = [Kind::Quarantine, Kind::QuarantineNotify];
            prop_assert_eq!(reasons.len(), count(&quarantines), "every reason is kept");
            prop_assert_eq!(reasons.first().copied(), first(&quarantines));
            prop_assert_eq!(*notify_sender, has(Kind::QuarantineNotify) && case.reach.sending);
        }
        Fate::Reject { rank, .. } => {
            prop_assert_eq!(*rank, kinds.iter().position(refuses), "the best-ranked notice is used");
        }
    }
    Ok(())
}

#[test]
fn r124_r130_r138_every_pair_in_both_orders_keeps_the_promises() {
    let spams = [Spam::default(), SPAM, BLATANT];
    for (a, _) in KINDS {
        for (b, _) in KINDS {
            for (tls, spam, reach, drop_blatant) in [true, false]
                .into_iter()
                .flat_map(|tls| spams.map(|spam| (tls, spam)))
                .flat_map(|(tls, spam)| [OUTGOING, INCOMING].map(|reach| (tls, spam, reach)))
                .flat_map(|(tls, spam, reach)| [true, false].map(|drop| (tls, spam, reach, drop)))
            {
                let case = Case { tls, spam, reach, drop_blatant };
                for order in [[0, 1], [1, 0]] {
                    promises(&[a, b], &order, case)
                        .unwrap_or_else(|error| panic!("{a:?} {b:?} {case:?}: {error}"));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn every_set_of_rules_in_every_order_keeps_the_promises((kinds, order, case) in any_rules()) {
        promises(&kinds, &order, case)?;
        // A further rule never makes the fate milder, but for a bypass, which is what a bypass is for, and for a
        // better-ranked route that can be used.
        let severity = |fate: &Fate<'_>| match fate {
            Fate::Deliver(changes) => u8::from(changes.require_tls),
            Fate::Quarantine { .. } => 2,
            Fate::Discard => 3,
            Fate::Defer { .. } => 4,
            Fate::Reject { .. } => 5,
        };
        let records: Vec<_> = kinds.iter().enumerate().map(|(n, kind)| record(*kind, &n.to_string())).collect();
        let sorted: Vec<usize> = (0..kinds.len()).collect();
        if let Some((last, fewer)) = sorted.split_last() && kinds[*last] != Kind::Bypass {
            let (before, after) = (merged(&records, fewer, case), merged(&records, &sorted, case));
            let unused = matches!(before.fate, Fate::Defer { .. });
            prop_assert!(severity(&after.fate) >= severity(&before.fate) || unused);
        }
    }

    /// A rule carried over to a copy says nothing about who gets it.
    #[test]
    fn what_carries_over_to_a_copy_leaves_recipients_alone(kinds in prop::collection::vec(prop::sample::select(KINDS.map(|(kind, _)| kind).to_vec()), 0..6)) {
        let records: Vec<_> = kinds.iter().enumerate().map(|(n, kind)| record(*kind, &n.to_string())).collect();
        let matches: Vec<_> = records.iter().enumerate().map(|(rank, record)| Match { rank, effect: effect(record), reach: OUTGOING, carried: true }).collect();
        let setting = Setting { tls: true, spam: Spam::default(), default_route: None, broken: &broken, drop_blatant: false, spam_headers: false };
        if let Fate::Deliver(changes) = merge(&matches, &setting).fate {
            prop_assert!(changes.recipient.is_none() && !changes.original_to && changes.copies.is_empty());
            prop_assert_eq!(changes.require_tls, kinds.contains(&Kind::Tls));
        }
    }
}
