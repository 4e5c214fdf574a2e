//! What becomes of a message when several rules match, one test for each requirement, named by its number (see
//! docs/requirements.md). Rules are given as YAML, in both orders where the order of reading could matter.

use std::fs;

use serde_json::{Value, json};

use crate::support::judge::{Judge, letter, matched, rule, ways};
use crate::support::site::{OWN, PARTNER};

const PEOPLE: &str = "  directoryRef: {name: main}\n";

fn routing(name: &str, spec: &str) -> String {
    Judge::object("RoutingRule", name, &format!("messages: [Outbound], {spec}"))
}

fn modify(name: &str, changes: &str) -> String {
    routing(name, &format!("action: {{modify: {{{changes}}}}}"))
}

/// The account of the message to the partner; the same whichever way round the files are read.
fn told(gateway: &str, rules: &[&str], rest: &str) -> Value {
    let reversed: String = rules.iter().rev().copied().collect();
    let first = Judge::with_gateway(gateway, &(rules.concat() + rest)).between(OWN, &[PARTNER]);
    let second = Judge::with_gateway(gateway, &(reversed + rest)).between(OWN, &[PARTNER]);
    assert_eq!(first, second, "the order of objects decides nothing");
    first["messages"][0].clone()
}

fn overridden(message: &Value, name: &str) -> Value {
    rule(message, &format!("RoutingRule/default/{name}"))["overridden"].clone()
}

#[test]
fn r121_r131_a_rule_that_changes_the_route_replaces_the_default_route() {
    for default in ["{host: smart.example}", "{name: standard}"] {
        let gateway = format!("  defaultRoute: {default}\n");
        let routes = Judge::routes(&["standard", "special"]);
        let normal = if default.contains("host") { "default" } else { "standard" };
        for (rules, expected) in [
            (vec![], normal),
            (vec![modify("mark", "subjectPrefix: P")], normal),
            (vec![modify("change", "route: {name: special}")], "special"),
            (
                vec![Judge::compliance("word", "{words: [secret]}", "{modify: {route: {name: special}}}")],
                "special",
            ),
        ] {
            let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
            assert_eq!(ways(&told(&gateway, &rules, &routes)), [(PARTNER, Some(expected))], "{default}");
        }
    }
}

#[test]
fn r122_rules_are_collected_then_those_without_say_drop_out_then_all_are_merged() {
    let directory = "units: [{path: /sales, disabledRules: [RoutingRule/b]}], \
                     users: [{address: ani@solarmora.com, unit: /sales}]";
    let rules = [
        modify("a", "subjectPrefix: A, headers: [{name: X-R, value: a}]"),
        modify("b", "subjectPrefix: B"),
        routing("c", "addressLists: {mode: Bypass, names: [l]}, action: {modify: {subjectPrefix: C}}"),
        modify("d", "subjectPrefix: D, headers: [{name: X-R, value: d}]"),
    ];
    let rest = Judge::object("Directory", "main", directory)
        + &Judge::object("AddressList", "l", "entries: [{domain: partner.example}]");
    let mut first = None;
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
        let objects: String = order.iter().map(|at| rules[*at].as_str()).collect();
        let account = Judge::with_gateway(PEOPLE, &(rest.clone() + &objects)).between(OWN, &[PARTNER]);
        let message = &account["messages"][0];
        assert_eq!(matched(message), ["a", "d"]);
        assert_eq!(rule(message, "RoutingRule/default/b")["clause"], "disabledRules");
        assert_eq!(rule(message, "RoutingRule/default/c")["bypassedBy"], "l");
        assert_eq!(message["deliveries"][0]["subject"], "[A] [D] Laporan bulanan");
        assert_eq!(message["deliveries"][0]["headersAdded"], json!([["X-R", "a"], ["X-R", "d"]]));
        assert_eq!(first.get_or_insert_with(|| account.clone()), &account, "{order:?}");
    }
}

/// A rule of this kind that takes the route of its own name; `spec` and `metadata` end in a comma, or are empty.
fn contender(kind: &str, route: &str, spec: &str, metadata: &str) -> String {
    let matches = if kind == "ComplianceRule" { "match: {words: [secret]}, " } else { "" };
    let spec =
        format!("{spec}{matches}messages: [Outbound], action: {{modify: {{route: {{name: {route}}}}}}}");
    let name = if metadata.contains("name: ") { String::new() } else { format!("name: {route}") };
    format!(
        "---\napiVersion: postern.dev/v1alpha1\nkind: {kind}\nmetadata: {{{metadata}{name}}}\nspec: {{{spec}}}\n"
    )
}

#[test]
fn r123_every_step_of_the_order_of_rules_decides_when_those_before_are_equal() {
    let (compliance, routing) = ("ComplianceRule", "RoutingRule");
    let sales = "organizationalUnit: /sales, ";
    let export = "organizationalUnit: /sales/export, ";
    let with = |parts: &[&str]| parts.concat();
    let old = "creationTimestamp: '2026-01-01T00:00:00Z', ";
    let new = "creationTimestamp: '2026-01-01T00:00:01Z', ";
    // Each: what decides, the better rule (route `win`), the other (route `lose`).
    for (step, win, lose) in [
        (
            "1: mandatory before everything below",
            (routing, "mandatory: true, priority: 1000, ".to_owned(), ""),
            (compliance, with(&[export, "priority: 1, "]), ""),
        ),
        (
            "1: of mandatory ones the root's first",
            (routing, "mandatory: true, priority: 1000, ".to_owned(), ""),
            (routing, with(&["mandatory: true, priority: 1, ", sales]), ""),
        ),
        (
            "1: of mandatory ones the one nearer the root, also before compliance",
            (routing, with(&["mandatory: true, ", sales]), ""),
            (compliance, with(&["mandatory: true, ", export]), ""),
        ),
        (
            "2: compliance before routing",
            (compliance, "priority: 1000, ".to_owned(), new),
            (routing, with(&[export, "priority: 1, "]), old),
        ),
        (
            "3: the deeper unit",
            (routing, with(&[export, "priority: 1000, "]), new),
            (routing, with(&[sales, "priority: 1, "]), old),
        ),
        (
            "3: any unit before the root",
            (routing, with(&[sales, "priority: 1000, "]), new),
            (routing, "priority: 1, ".to_owned(), old),
        ),
        (
            "4: the smaller priority",
            (routing, "priority: 499, ".to_owned(), new),
            (routing, String::new(), old),
        ),
        (
            "4: 500 where none is given",
            (routing, String::new(), new),
            (routing, "priority: 501, ".to_owned(), old),
        ),
        (
            "5: the older",
            (routing, String::new(), "creationTimestamp: '2026-01-01T00:00:00Z', name: z, "),
            (routing, String::new(), "creationTimestamp: '2026-01-01T00:00:01Z', name: a, "),
        ),
        ("6: by name", (routing, String::new(), "name: a, "), (routing, String::new(), "name: b, ")),
        (
            "6: by name, at the same age",
            (routing, String::new(), "creationTimestamp: '2026-01-01T00:00:00Z', name: a, "),
            (routing, String::new(), "creationTimestamp: '2026-01-01T00:00:00Z', name: b, "),
        ),
    ] {
        let (win, lose) =
            (contender(win.0, "win", &win.1, win.2), contender(lose.0, "lose", &lose.1, lose.2));
        let directory = "users: [{address: ani@solarmora.com, unit: /sales/export}]";
        let rest = Judge::routes(&["win", "lose"]) + &Judge::object("Directory", "main", directory);
        let message = told(PEOPLE, &[&win, &lose], &rest);
        assert_eq!(ways(&message), [(PARTNER, Some("win"))], "{step}: {message:#}");
        assert_eq!(message["rules"][1]["overridden"], json!(["route"]), "{step}");
    }
}

#[test]
fn r123_names_are_compared_with_their_namespace_first() {
    // `a/z` stands before `b/a`.
    let of = |namespace: &str, name: &str| {
        let metadata = format!("namespace: {namespace}, name: {name}, ");
        let rule =
            contender("RoutingRule", "way", "gatewayRef: {name: default, namespace: default}, ", &metadata);
        let route = Judge::object(
            "OutboundRoute",
            "way",
            &format!(
                "gatewayRef: {{name: default, namespace: default}}, hosts: [{{host: {namespace}.example}}]"
            ),
        );
        rule + &route.replace("metadata: {", &format!("metadata: {{namespace: {namespace}, "))
    };
    let message = told("  allowedNamespaces: [a, b]\n", &[&of("a", "z"), &of("b", "a")], "");
    let names: Vec<_> =
        message["rules"].as_array().expect("a list").iter().map(|rule| &rule["rule"]).collect();
    assert_eq!(names, ["RoutingRule/a/z", "RoutingRule/b/a"]);
    assert_eq!(message["rules"][1]["overridden"], json!(["route"]), "{message:#}");
}

#[test]
fn r124_r126_reject_beats_quarantine_beats_modify_whatever_their_rank() {
    let with = |action: &str, priority: u32| {
        routing(action, &format!("priority: {priority}, action: {{{action}: {{}}}}"))
    };
    let change = |priority: u32| {
        routing("modify", &format!("priority: {priority}, action: {{modify: {{subjectPrefix: P}}}}"))
    };
    let (reject, hold) = (with("reject", 900), with("quarantine", 500));
    let all = told("", &[&reject, &hold, &change(1)], "");
    assert_eq!((&all["disposition"], &all["quarantine"]), (&json!("reject"), &json!(null)));
    assert_eq!(matched(&all), ["modify", "quarantine", "reject"]);
    let held = told("", &[&hold, &change(1)], "");
    assert_eq!((&held["disposition"], &held["quarantine"]), (&json!("quarantine"), &json!("default")));
    assert_eq!(held["deliveries"], json!([]));
    let changed = told("", &[&change(900)], "");
    assert_eq!(changed["disposition"], "deliver");
    assert_eq!(told("", &[], "")["disposition"], "deliver");
}

#[test]
fn r127_r067_e5_a_rejected_message_is_only_rejected() {
    let reject = Judge::object(
        "ComplianceRule",
        "word",
        "priority: 900, messages: [Outbound], match: {words: [secret]}, action: {reject: {notice: Not this word}}",
    );
    let change = routing(
        "change",
        "priority: 1, action: {modify: {route: {name: other}, addRecipients: [{address: one@solarmora.com}, \
         {address: two@solarmora.com}]}}",
    );
    let routes = Judge::routes(&["other", "archive"]);
    let archive = "  archive: {route: {name: archive}, address: journal@archive.example}\n";
    for gateway in ["", archive] {
        let objects = [reject.as_str(), &change, &routes].concat();
        let account = Judge::with_gateway(gateway, &objects).between(OWN, &[PARTNER]);
        let message = &account["messages"][0];
        let reply = message["reply"].as_str().expect("a reply");
        assert!(reply.starts_with("550 5.7.1 Not this word (ref: "), "{reply}");
        assert_eq!(account["transaction"]["data"], message["reply"]);
        assert_eq!((&message["deliveries"], &message["copiesLeftOut"]), (&json!([]), &json!([])));
        assert_eq!(account["archive"], json!(null), "no record leaves either");
        assert_eq!(overridden(message, "change"), json!(["route", "addRecipients"]));
        // Without the word the same rules do what they say.
        let fine = Judge::with_gateway(gateway, &objects);
        let fine = fine.explain("Subject: x\r\n\r\nhello\r\n", &["--from", OWN, "--to", PARTNER]);
        assert_eq!(fine["messages"][0]["deliveries"].as_array().map(Vec::len), Some(3));
        assert_eq!(fine["archive"].is_null(), gateway.is_empty());
    }
    // A journal of what was rejected is kept only where the gateway says so; it is no delivery.
    let keeping = archive.replace("example}", "example, includeRejected: true}");
    let account = Judge::with_gateway(&keeping, &(reject + &change + &routes)).between(OWN, &[PARTNER]);
    assert_eq!(account["archive"]["to"], "journal@archive.example");
    assert_eq!(account["messages"][0]["deliveries"], json!([]));
}

#[test]
fn r128_r139_two_quarantines_hold_once_with_all_reasons_and_tell_the_sender_once() {
    let quarantines = Judge::object("Quarantine", "law", "retention: 24h")
        + &Judge::object("Quarantine", "sales", "retention: 24h");
    let hold = |name: &str, priority: u32, notify: bool| {
        let spec =
            format!("priority: {priority}, action: {{quarantine: {{name: {name}, notifySender: {notify}}}}}");
        routing(name, &spec)
    };
    for (first, second) in [(false, true), (true, false), (true, true), (false, false)] {
        let message = told("", &[&hold("law", 1, first), &hold("sales", 2, second)], &quarantines);
        assert_eq!((&message["disposition"], &message["quarantine"]), (&json!("quarantine"), &json!("law")));
        let step = &message["merge"][0];
        let told = if first || second { "held in law, the sender is told" } else { "held in law" };
        assert_eq!(step["result"], told);
        assert_eq!(step["by"], json!(["RoutingRule/default/law", "RoutingRule/default/sales"]));
    }
    let swapped = told("", &[&hold("law", 2, true), &hold("sales", 1, false)], &quarantines);
    assert_eq!(swapped["quarantine"], "sales");
}

/// What the release makes of it is in `quarantine.rs`.
#[test]
fn r129_what_is_held_is_not_changed_nor_copied_before_its_release() {
    let hold = routing("hold", "priority: 900, action: {quarantine: {}}");
    let change = modify("change", "subjectPrefix: P, addRecipients: [{address: copy@solarmora.com}]");
    let message = told("", &[&hold, &change], "");
    assert_eq!((&message["disposition"], &message["deliveries"]), (&json!("quarantine"), &json!([])));
    assert_eq!(message["copiesLeftOut"], json!([]));
    assert_eq!(overridden(&message, "change"), json!(["subjectPrefix", "addRecipients"]));
    let waiting = &message["merge"][1];
    assert_eq!(waiting["result"], "worked out anew on release");
    assert_eq!(waiting["by"], json!(["RoutingRule/default/change"]));
}

#[test]
fn r130_of_two_changes_of_route_the_better_ranked_wins_and_the_other_is_told() {
    let message = told(
        "",
        &[&modify("a", "route: {name: one}"), &modify("b", "route: {name: two}, subjectPrefix: B")],
        &Judge::routes(&["one", "two"]),
    );
    assert_eq!(ways(&message), [(PARTNER, Some("one"))]);
    assert_eq!((overridden(&message, "a"), overridden(&message, "b")), (json!([]), json!(["route"])));
    assert_eq!(message["deliveries"][0]["subject"], "[B] Laporan bulanan", "the rest of it applies");
}

#[test]
fn r132_a_changed_recipient_goes_where_the_changed_route_says() {
    let rules =
        [&*modify("to", "envelopeRecipient: {domain: example.net}"), &modify("way", "route: {name: one}")];
    let message = told("  defaultRoute: {host: smart.example}\n", &rules, &Judge::routes(&["one"]));
    assert_eq!(ways(&message), [("b@example.net", Some("one"))]);
    assert_eq!((overridden(&message, "to"), overridden(&message, "way")), (json!([]), json!([])));
}

#[test]
fn r133_the_best_change_of_recipient_wins_as_a_whole_and_the_first_recipient_is_told() {
    let user = modify("user", "envelopeRecipient: {user: archive}");
    let domain = routing(
        "domain",
        "priority: 501, action: {modify: {envelopeRecipient: {domain: example.net}, originalToHeader: true}}",
    );
    let message = told("", &[&user, &domain], "");
    assert_eq!(ways(&message), [("archive@partner.example", None)], "nothing of the other's domain");
    let header = json!([["X-Gm-Original-To", PARTNER]]);
    assert_eq!(message["deliveries"][0]["headersAdded"], header);
    assert_eq!(overridden(&message, "domain"), json!(["envelopeRecipient"]));
    let better = domain.replace("501", "1");
    let message = told("", &[&user, &better], "");
    assert_eq!(ways(&message), [("b@example.net", None)]);
    assert_eq!(message["deliveries"][0]["headersAdded"], header);
}

#[test]
fn r134_headers_add_up_in_the_order_of_rules_without_repetition() {
    let a = modify("a", "spamHeaders: true, headers: [{name: X-A, value: one}, {name: X-Same, value: s}]");
    let b = modify("b", "spamHeaders: true, headers: [{name: x-same, value: s}, {name: X-A, value: two}]");
    let message = told("", &[&a, &b], "");
    let expected =
        json!([["X-A", "one"], ["X-Same", "s"], ["X-A", "two"], ["X-Gm-Spam", "0"], ["X-Gm-Phishy", "0"]]);
    assert_eq!(message["deliveries"][0]["headersAdded"], expected);
}

#[test]
fn r135_prefixes_stand_side_by_side_the_best_outermost_and_equal_ones_once() {
    let prefix = |name: &str, text: &str| modify(name, &format!("subjectPrefix: {text}"));
    for (first, second, subject) in [
        ("A", "B", "[A] [B] Laporan bulanan"),
        ("B", "A", "[B] [A] Laporan bulanan"),
        ("A", "A", "[A] Laporan bulanan"),
    ] {
        let message = told("", &[&prefix("one", first), &prefix("two", second)], "");
        assert_eq!(message["deliveries"][0]["subject"], subject);
    }
}

#[test]
fn r136_added_recipients_are_the_union_of_all() {
    let add = |name: &str, to: &[&str]| {
        let to: Vec<_> = to.iter().map(|to| format!("{{address: {to}@archive.example}}")).collect();
        modify(name, &format!("addRecipients: [{}]", to.join(", ")))
    };
    let message = told("", &[&add("a", &["one", "two"]), &add("b", &["two", "three"])], "");
    let to: Vec<_> = ways(&message).iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [PARTNER, "one@archive.example", "two@archive.example", "three@archive.example"]);
    let left_out = &message["copiesLeftOut"][0];
    assert_eq!((&left_out["to"], &left_out["fate"]), (&json!("two@archive.example"), &json!("duplicate")));
    assert_eq!(left_out["rule"], "RoutingRule/default/b");
}

#[test]
fn r137_removals_are_the_union_of_all_and_each_notice_stands_once() {
    let part = |name: &str| {
        format!(
            "--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename={name}\r\n\r\n{name} text\r\n"
        )
    };
    let mail = format!(
        "From: {OWN}\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\n\r\nsee\r\n{}{}{}--b--\r\n",
        part("a.one"),
        part("b.two"),
        part("c.three")
    );
    let remove = |name: &str, what: &str, notice: &str| {
        modify(name, &format!("removeAttachments: {{names: ['{what}'], notice: {notice}}}"))
    };
    let rules = remove("a", "*.one", "First-notice")
        + &remove("b", "*.two", "Second-notice")
        + &remove("c", "*.one", "First-notice");
    let judge = Judge::new(&rules);
    let out = judge.folder.0.join("out");
    let account =
        judge.explain(&mail, &["--from", OWN, "--to", PARTNER, "--out", out.to_str().expect("UTF-8")]);
    assert_eq!(account["messages"][0]["deliveries"][0]["attachmentsRemoved"], json!(["a.one", "b.two"]));
    let bytes = fs::read_to_string(out.join("001.eml")).expect("a delivery");
    for (text, times) in
        [("First-notice", 1), ("Second-notice", 1), ("a.one text", 0), ("b.two text", 0), ("c.three text", 1)]
    {
        assert_eq!(bytes.matches(text).count(), times, "{text}: {bytes}");
    }
}

#[test]
fn r138_of_demands_for_protection_the_strictest_holds() {
    let loose = Judge::object(
        "OutboundRoute",
        "loose",
        "hosts: [{host: mx.loose.example}], tls: {require: false, requireCaSigned: false, validateHostname: false}",
    );
    let way = modify("way", "route: {name: loose}");
    let tls = |message: &Value| message["deliveries"][0]["tls"].clone();
    assert_eq!(tls(&told("", &[&way], &loose)), "opportunistic");
    for priority in [1, 1000] {
        let demand = routing(
            "tls",
            &format!("priority: {priority}, action: {{modify: {{encryption: {{requireTls: true}}}}}}"),
        );
        assert_eq!(tls(&told("", &[&way, &demand], &loose)), "required", "the route is tightened");
    }
    // Nobody has a certificate here: one rule lets mail go all the same, another does not.
    let smime = |name: &str, bounce: bool| {
        modify(name, &format!("encryption: {{smime: {{encrypt: true, bounceIfUnable: {bounce}}}}}"))
    };
    assert_eq!(told("", &[&smime("a", false), &smime("b", false)], "")["disposition"], "deliver");
    for (a, b, blamed) in [(true, false, "a"), (false, true, "b")] {
        let message = told("", &[&smime("a", a), &smime("b", b)], "");
        let reply = message["reply"].as_str().expect("a reply");
        let expected = format!("550 5.7.5 Cannot encrypt for {PARTNER}: no valid certificate");
        assert!(reply.starts_with(&expected), "{reply}");
        assert_eq!(message["merge"][0]["by"], json!([format!("RoutingRule/default/{blamed}")]));
    }
}

#[test]
fn r139_bounces_are_suppressed_where_one_rule_says_so() {
    let way = |name: &str, priority: u32, suppress: bool| {
        let route = format!("route: {{name: one, suppressBounces: {suppress}}}");
        routing(name, &format!("priority: {priority}, action: {{modify: {{{route}}}}}"))
    };
    for (a, b) in [(true, false), (false, true), (true, true), (false, false)] {
        let message = told("", &[&way("a", 1, a), &way("b", 2, b)], &Judge::routes(&["one"]));
        assert_eq!(message["deliveries"][0]["suppressBounces"], json!(a || b), "{a} {b}");
    }
}

#[test]
fn r139_bypassing_the_spam_filter_wins_for_inbound_mail_and_is_void_for_outbound() {
    let rules = Judge::object(
        "RoutingRule",
        "trusted",
        "messages: [Inbound, Outbound], action: {modify: {bypassSpamFilter: true, subjectPrefix: P}}",
    ) + &Judge::object(
        "RoutingRule",
        "way",
        "messages: [Inbound, Outbound], action: {modify: {route: {name: one, rerouteSpam: false}}}",
    ) + &Judge::routes(&["one"]);
    let gateway = "  clients: {cidrs: [10.0.0.0/8], allowForeignSenders: true}\n";
    let judge = Judge::with_gateway(gateway, &rules);
    let spam = |from: &str, to: &str, how: &str| {
        judge.explain(letter(from), &["--from", from, "--to", to, how])["messages"][0].clone()
    };
    let inbound = spam(PARTNER, OWN, "--spam");
    assert_eq!(ways(&inbound), [(OWN, Some("one"))], "it is no spam any more, so it takes the route");
    assert_eq!(overridden(&inbound, "trusted"), json!([]));
    let outbound = spam(OWN, PARTNER, "--spam");
    assert_eq!(ways(&outbound), [(PARTNER, None)], "spam is not rerouted");
    assert_eq!(overridden(&outbound, "trusted"), json!(["bypassSpamFilter"]));
    assert_eq!(overridden(&outbound, "way"), json!(["route"]));
    assert_eq!(spam(PARTNER, OWN, "--blatant")["disposition"], "deliver");
    assert_eq!(spam(OWN, PARTNER, "--blatant")["disposition"], "reject");
}

#[test]
fn r142_what_cannot_be_decided_waits_and_is_never_let_through() {
    let waits = |gateway: &str, objects: &str, to: &str| {
        let account = Judge::with_gateway(gateway, objects).between(OWN, &[to]);
        let reply = account["transaction"]["data"].as_str().expect("a reply").to_owned();
        let deferred = reply.starts_with("451 4.7.1 Policy evaluation unavailable, try again later");
        assert!(deferred || reply.starts_with("250 "), "{reply}");
        let none = account["messages"][0]["deliveries"] == json!([]);
        assert_eq!(deferred, none, "nothing leaves with a 451");
        deferred
    };
    // Its Directory is not there, and a rule asks for a unit.
    let unit = routing("r", "organizationalUnit: /sales, action: {reject: {}}");
    assert!(waits(PEOPLE, &unit, PARTNER));
    // A list, a route, a word list that is not there.
    let list = routing("r", "addressLists: {mode: OnlyApply, names: [gone]}, action: {reject: {}}");
    assert!(waits("", &list, PARTNER));
    assert!(waits("", &modify("r", "route: {name: gone}"), PARTNER));
    let words = Judge::compliance("r", "{wordsFrom: [{configMapRef: {name: gone, key: k}}]}", "{reject: {}}");
    assert!(waits("", &words, PARTNER));
    // A rule with a mistake: only what its readable clauses could match waits.
    let broken = |filter: &str| {
        routing("r", &format!("{filter}action: {{modify: {{headers: [{{name: Subject, value: x}}]}}}}"))
    };
    assert!(waits("", &broken(""), PARTNER));
    let narrow = broken("envelope: {recipients: {address: b@partner.example}}, ");
    assert!(waits("", &narrow, PARTNER));
    assert!(!waits("", &narrow, "c@partner.example"));
    // A reject that stands beside it still rejects; a rule in shadow makes nothing wait.
    let beside = broken("") + &routing("refuse", "action: {reject: {}}");
    let account = Judge::new(&beside).between(OWN, &[PARTNER]);
    assert_eq!(account["messages"][0]["disposition"], "reject");
    assert!(!waits("", &broken("mode: Shadow, "), PARTNER));
    assert!(!waits("", &broken("enabled: false, "), PARTNER));
}

#[test]
fn r143_check_names_the_peers_of_a_conflict_and_blocks_nothing() {
    let rules = modify("a", "route: {name: one}") + &modify("b", "route: {name: two}");
    let gateway = "  allowedExternalTargets: [one.example, two.example]\n";
    let found = Judge::with_gateway(gateway, &(rules + &Judge::routes(&["one", "two"]))).problems();
    let told = found.iter().find(|problem| problem.starts_with("RoutingRule/default/b")).expect("a warning");
    assert!(told.contains("RoutingRule/default/a") && told.contains("route"), "{told}");
}
