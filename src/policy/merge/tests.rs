//! The table of pairs, and the properties that hold for every set of rules in every order.

use proptest::prelude::*;

use super::*;
use crate::policy::testing::route_name;

/// One rule's action, as the table names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reject,
    Route,
    MissingRoute,
    BrokenRoute,
    Headers,
    Prefix,
    Tls,
    Broken,
}

const KINDS: [(Kind, &str); 8] = [
    (Kind::Reject, "reject"),
    (Kind::Broken, "broken rule"),
    (Kind::Route, "change route"),
    (Kind::MissingRoute, "change route, route missing"),
    (Kind::BrokenRoute, "change route, route broken"),
    (Kind::Headers, "custom headers"),
    (Kind::Prefix, "subject prefix"),
    (Kind::Tls, "require TLS"),
];

/// The record behind a kind; `tag` tells two rules of one kind apart.
enum Record {
    Reject(Reject),
    Modify(Box<Modify>),
    Broken,
}

fn record(kind: Kind, tag: &str) -> Record {
    let mut modify = Modify::default();
    match kind {
        Kind::Reject => return Record::Reject(Reject { notice: Some(tag.into()), ..Reject::default() }),
        Kind::Broken => return Record::Broken,
        Kind::Route => modify.route = Some(ChangeRoute::To(route_name(&format!("route-{tag}")))),
        Kind::MissingRoute => modify.route = Some(ChangeRoute::Missing(route_name(&format!("gone-{tag}")))),
        Kind::BrokenRoute => modify.route = Some(ChangeRoute::To(route_name("broken"))),
        Kind::Headers => modify.headers = vec![Header { name: "X-Rule".into(), value: tag.into() }],
        Kind::Prefix => modify.subject_prefix = Some(tag.into()),
        Kind::Tls => modify.require_tls = true,
    }
    Record::Modify(Box::new(modify))
}

fn effect(record: &Record) -> Effect<'_> {
    match record {
        Record::Reject(reject) => Effect::Reject(reject),
        Record::Modify(modify) => Effect::Modify(modify),
        Record::Broken => Effect::Defer("broken"),
    }
}

fn broken(name: &RouteName) -> Option<String> {
    (name.name == "broken").then(|| "it cannot be read".to_owned())
}

fn setting(tls: bool) -> Setting<'static> {
    Setting { tls, default_route: None, broken: &broken }
}

fn merged<'a>(records: &'a [Record], order: &[usize], tls: bool) -> Merged<'a> {
    let matches: Vec<_> = order.iter().map(|&rank| Match { rank, effect: effect(&records[rank]) }).collect();
    merge(&matches, &setting(tls))
}

/// A fate in the words of the table; A is the better-ranked rule.
fn words(merged: &Merged<'_>) -> String {
    let who = |rank: usize| ["A", "B"][rank];
    let mut text = match &merged.fate {
        Fate::Reject { rank, why: Refusal::Notice(_) } => {
            format!("rejected with the notice of {}", who(*rank))
        }
        Fate::Reject { rank, why: Refusal::ClearText } => format!("rejected: no TLS, by {}", who(*rank)),
        Fate::Defer { rank, .. } => format!("deferred because of {}", rank.map_or("the default route", who)),
        Fate::Deliver(changes) => {
            let mut parts = Vec::new();
            if let Via::Route(route) = &changes.via {
                parts.push(format!("by the route of {}", route.name.trim_start_matches("route-")));
            }
            if !changes.headers.is_empty() {
                let of: Vec<_> = changes.headers.iter().map(|(rank, _)| who(*rank)).collect();
                parts.push(format!("headers of {}", of.join(", then ")));
            }
            if !changes.prefixes.is_empty() {
                parts.push(format!("subject `[{}] …`", changes.prefixes.join("] [")));
            }
            if changes.require_tls {
                parts.push("only over TLS".into());
            }
            format!("delivered: {}", parts.join("; "))
        }
    };
    for (rank, fields) in &merged.overridden {
        text.push_str(&format!(" ({} of {} without effect)", fields.join(", "), who(*rank)));
    }
    text
}

fn table(tls: bool) -> String {
    let mut out = String::from("| A | B | outcome |\n|---|---|---|\n");
    for (a, a_name) in KINDS {
        for (b, b_name) in KINDS {
            let records = [record(a, "A"), record(b, "B")];
            out.push_str(&format!("| {a_name} | {b_name} | {} |\n", words(&merged(&records, &[0, 1], tls))));
        }
    }
    out
}

#[test]
fn precedence_of_every_pair_is_the_documented_one() {
    let text = format!(
        "# When several rules match\n\n\
         Written by a test from the code that decides (`UPDATE=1 cargo test precedence`, or `make generate`).\n\n\
         Every rule that matches a recipient takes part. Rules are ranked: ComplianceRule before RoutingRule, \
         then smaller `priority`, then older, then by name. In each row A is the better-ranked rule. Reject wins \
         over everything whatever its rank, then a rule or route that is broken (451, the sender's server tries \
         again), then all modifications together.\n\n\
         ## The message came over TLS\n\n{}\n\
         ## The message came in clear text\n\n\
         A rule that requires TLS rejects such a message (`550 5.7.1 Secure transport required by policy`), \
         at its own rank among the rules that reject.\n\n{}",
        table(true),
        table(false)
    );
    crate::policy::testing::golden("docs/precedence.md", &text);
}

#[test]
fn headers_and_prefixes_accumulate_in_rank_order_without_repetition() {
    let header = |value: &str| Header { name: "X-Rule".into(), value: value.into() };
    let modify = |headers: &[&str], prefix: &str| {
        Record::Modify(Box::new(Modify {
            headers: headers.iter().map(|value| header(value)).collect(),
            subject_prefix: Some(prefix.into()),
            ..Modify::default()
        }))
    };
    let records = [modify(&["1", "2"], "A"), modify(&["2", "3"], "B"), modify(&["1"], "A")];
    let Fate::Deliver(changes) = merged(&records, &[2, 0, 1], true).fate else { panic!("it is delivered") };
    let values: Vec<_> = changes.headers.iter().map(|(_, header)| header.value.as_str()).collect();
    assert_eq!((values, changes.prefixes), (vec!["1", "2", "3"], vec!["A", "B"]));
}

#[test]
fn the_default_route_counts_only_where_no_rule_changes_the_route() {
    let default = |route: &DefaultRoute, records: &[Record]| {
        let matches: Vec<_> =
            records.iter().enumerate().map(|(rank, one)| Match { rank, effect: effect(one) }).collect();
        let setting = Setting { tls: true, default_route: Some(route), broken: &broken };
        match merge(&matches, &setting).fate {
            Fate::Deliver(changes) => format!("{:?}", changes.via),
            Fate::Defer { rank, why } => format!("{rank:?} {why}"),
            Fate::Reject { .. } => "reject".into(),
        }
    };
    let missing = DefaultRoute::Missing(route_name("gone"));
    assert_eq!(default(&missing, &[]), "None default route mail/gone does not exist");
    assert!(default(&missing, &[record(Kind::Route, "A")]).contains("route-A"));
    assert_eq!(default(&missing, &[record(Kind::Reject, "A")]), "reject");
    assert_eq!(default(&DefaultRoute::Named(route_name("relay")), &[]), "Normal");
    assert!(default(&DefaultRoute::Named(route_name("broken")), &[]).starts_with("None route mail/broken"));
}

fn any_rules() -> impl Strategy<Value = (Vec<Kind>, Vec<usize>, bool)> {
    let kinds = prop::collection::vec(prop::sample::select(KINDS.map(|(kind, _)| kind).to_vec()), 0..7);
    kinds.prop_flat_map(|kinds| {
        let order: Vec<usize> = (0..kinds.len()).collect();
        (Just(kinds), Just(order).prop_shuffle(), any::<bool>())
    })
}

proptest! {
    #[test]
    fn every_set_of_rules_in_every_order_keeps_the_promises((kinds, order, tls) in any_rules()) {
        let records: Vec<_> = kinds.iter().enumerate().map(|(n, kind)| record(*kind, &n.to_string())).collect();
        let sorted: Vec<usize> = (0..kinds.len()).collect();
        let merged_here = merged(&records, &order, tls);
        prop_assert_eq!(&merged_here, &merged(&records, &sorted, tls), "order does not matter");

        let has = |kind| kinds.contains(&kind);
        let rejects = has(Kind::Reject) || (has(Kind::Tls) && !tls);
        let is_rejected = matches!(merged_here.fate, Fate::Reject { .. });
        prop_assert_eq!(rejects, is_rejected, "reject dominates");
        match &merged_here.fate {
            Fate::Deliver(changes) => {
                prop_assert!(!has(Kind::Broken), "a broken rule is never passed over");
                prop_assert_eq!(changes.require_tls, has(Kind::Tls), "TLS never weakens");
                let first = kinds.iter().find(|k| matches!(k, Kind::Route | Kind::MissingRoute | Kind::BrokenRoute));
                prop_assert_eq!(first.is_some(), matches!(changes.via, Via::Route(_)));
                prop_assert!(first.is_none() || first == Some(&Kind::Route), "a missing route is never replaced");
                let count = |kind| kinds.iter().filter(|k| **k == kind).count();
                prop_assert_eq!(changes.headers.len(), count(Kind::Headers));
                prop_assert_eq!(changes.prefixes.len(), count(Kind::Prefix));
            }
            Fate::Defer { rank: Some(rank), .. } => {
                prop_assert!(matches!(kinds[*rank], Kind::Broken | Kind::MissingRoute | Kind::BrokenRoute));
            }
            Fate::Defer { rank: None, .. } => prop_assert!(false, "there is no default route here"),
            Fate::Reject { rank, .. } => {
                let best = kinds.iter().position(|k| *k == Kind::Reject || (*k == Kind::Tls && !tls));
                prop_assert_eq!(Some(*rank), best, "the best-ranked notice is used");
            }
        }
        // A further rule never makes the fate milder.
        let severity = |fate: &Fate<'_>| match fate {
            Fate::Deliver(changes) => u8::from(changes.require_tls),
            Fate::Defer { .. } => 2,
            Fate::Reject { .. } => 3,
        };
        if let Some((_, fewer)) = sorted.split_last() {
            let before = merged(&records, fewer, tls);
            let winner_changed = matches!(before.fate, Fate::Defer { .. } | Fate::Deliver(_));
            prop_assert!(severity(&merged_here.fate) >= severity(&before.fate) || !winner_changed);
        }
    }
}
