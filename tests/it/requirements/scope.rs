//! Whom a rule is for, one test for each requirement, named by its number (see docs/requirements.md): directions,
//! lists, accounts, envelope filters and units, as YAML says them and `postern explain` shows them.

use serde_json::json;

use crate::support::judge::{Judge, letter, matched, rule, ways};
use crate::support::site::{OWN, PARTNER};

const COLLEAGUE: &str = "budi@solarmora.com";
/// Mail from outside comes through the gateway too.
const BOTH_WAYS: &str = "  clients: {cidrs: [10.0.0.0/8], allowForeignSenders: true}\n";
const PEOPLE: &str =
    "  directoryRef: {name: main}\n  clients: {cidrs: [10.0.0.0/8], allowForeignSenders: true}\n";

fn rejecting(name: &str, spec: &str) -> String {
    Judge::object("RoutingRule", name, &format!("action: {{reject: {{}}}}, {spec}"))
}

/// The disposition of a short message.
fn fate(judge: &Judge, from: &str, to: &str) -> String {
    judge.between(from, &[to])["messages"][0]["disposition"].as_str().expect("there is one").to_owned()
}

#[test]
fn r041_which_way_a_message_goes_depends_on_whose_both_ends_are() {
    let all = ["Outbound", "Inbound", "InternalSending", "InternalReceiving"];
    let marking = |way: &&str| {
        let spec =
            format!("messages: [{way}], action: {{modify: {{headers: [{{name: X-Way, value: {way}}}]}}}}");
        Judge::object("RoutingRule", &way.to_lowercase(), &spec)
    };
    let judge = Judge::with_gateway(BOTH_WAYS, &all.iter().map(marking).collect::<String>());
    for (from, to, expected) in [
        (OWN, PARTNER, vec!["outbound"]),
        (PARTNER, OWN, vec!["inbound"]),
        (OWN, COLLEAGUE, vec!["internalreceiving", "internalsending"]),
        ("ani@mail.solarmora.com", "budi@a.b.solarmora.com", vec!["internalreceiving", "internalsending"]),
        ("ani@notsolarmora.com", COLLEAGUE, vec!["inbound"]),
        (OWN, "b@solarmora.com.example", vec!["outbound"]),
    ] {
        let told = judge.between(from, &[to]);
        assert_eq!(matched(&told["messages"][0]), expected, "{from} to {to}");
    }
    // A message without an envelope sender is judged by its From.
    for (from, expected) in [(OWN, "outbound"), (PARTNER, "outbound")] {
        let told = judge.explain(letter(from), &["--from", "", "--to", "c@elsewhere.example"]);
        assert_eq!(matched(&told["messages"][0]), [expected], "{from}");
    }
    let told = judge.explain(letter(PARTNER), &["--from", "", "--to", OWN]);
    assert_eq!(matched(&told["messages"][0]), ["inbound"]);
}

#[test]
fn r042_the_gateway_recipe_of_the_source_pages_works_as_written() {
    let routes = "---\napiVersion: postern.dev/v1alpha1\nkind: OutboundRoute\nmetadata: {name: gateway}\nspec:\n  \
                  hosts: [{host: smtp.gateway.example, port: 25}]\n";
    let recipe = "---\napiVersion: postern.dev/v1alpha1\nkind: RoutingRule\nmetadata: {name: all-outgoing}\nspec:\n  \
                  description: All outgoing mail through the gateway\n  organizationalUnit: /\n  \
                  messages: [Outbound]\n  action:\n    modify:\n      route: {name: gateway}\n";
    let secure = "      encryption: {requireTls: true}\n";
    let way = |objects: &str, to: &str| {
        let told = Judge::new(objects).between(OWN, &[to]);
        let delivery = &told["messages"][0]["deliveries"][0];
        (delivery["route"].clone(), delivery["tls"].clone())
    };
    let demanding = [routes, recipe].concat();
    assert_eq!(way(&demanding, PARTNER), (json!("gateway"), json!("required")));
    assert_eq!(way(&demanding, COLLEAGUE), (json!(null), json!("opportunistic")), "it leaves the rest alone");
    // The route does not demand TLS: the option of the rule does.
    let relaxed = format!(
        "{routes}  tls: {{require: false, requireCaSigned: false, validateHostname: false}}\n{recipe}"
    );
    assert_eq!(way(&relaxed, PARTNER), (json!("gateway"), json!("opportunistic")));
    assert_eq!(way(&(relaxed + secure), PARTNER), (json!("gateway"), json!("required")));
    // Normal routing is what is chosen without a change of route.
    let marking = recipe.replace("route: {name: gateway}", "subjectPrefix: Out");
    assert_eq!(way(&marking, PARTNER), (json!(null), json!("opportunistic")));
}

#[test]
fn r043_any_number_of_rules_in_one_unit_apply_together() {
    let one = |n: usize| {
        let header = format!("{{modify: {{headers: [{{name: X-Rule-{n}, value: '{{rule}}'}}]}}}}");
        Judge::object("RoutingRule", &format!("r{n:02}"), &format!("messages: [Outbound], action: {header}"))
    };
    let judge = Judge::new(&(0..30).map(one).collect::<String>());
    let told = judge.between(OWN, &[PARTNER]);
    let added = told["messages"][0]["deliveries"][0]["headersAdded"].as_array().expect("a list").clone();
    let expected: Vec<_> = (0..30).map(|n| json!([format!("X-Rule-{n}"), format!("r{n:02}")])).collect();
    assert_eq!(added, expected);
}

const LIST: &str = "entries: [{address: boss@rival.example, requireAuthentication: false}, \
                    {domain: partner.example, requireAuthentication: false}]";

#[test]
fn r108_a_list_holds_addresses_and_domains_with_their_subdomains_and_serves_several_rules() {
    let list = Judge::object("AddressList", "partners", LIST);
    let lists = "messages: [Outbound], addressLists: {mode: OnlyApply, names: [partners]}";
    let second = Judge::object(
        "RoutingRule",
        "mark",
        &format!("{lists}, action: {{modify: {{subjectPrefix: Partner}}}}, enabled: true"),
    );
    let judge = Judge::new(&[list.as_str(), &rejecting("closed", lists), &second].concat());
    for (to, listed) in [
        ("b@partner.example", true),
        ("b@PARTNER.example", true),
        ("x@sub.partner.example", true),
        ("x@notpartner.example", false),
        ("boss@rival.example", true),
        ("Boss@Rival.example", true),
        ("other@rival.example", false),
        ("boss@sub.rival.example", false),
    ] {
        let told = judge.between(OWN, &[to]);
        let expected: &[&str] = if listed { &["closed", "mark"] } else { &[] };
        assert_eq!(matched(&told["messages"][0]), expected, "{to}");
    }
}

#[test]
fn r109_incoming_mail_is_checked_by_its_sender_and_outgoing_mail_by_its_recipient() {
    let rule =
        rejecting("closed", "messages: [Outbound, Inbound], addressLists: {mode: OnlyApply, names: [l]}");
    let judge = Judge::with_gateway(BOTH_WAYS, &(rule + &Judge::object("AddressList", "l", LIST)));
    for (from, to, expected) in [
        (OWN, "b@partner.example", "reject"),
        (OWN, "b@other.example", "deliver"),
        ("b@partner.example", OWN, "reject"),
        ("b@other.example", OWN, "deliver"),
    ] {
        assert_eq!(fate(&judge, from, to), expected, "{from} to {to}");
    }
    // The sender is who the message says it is from, not its return path (R113).
    for (from, header, expected) in [
        ("b@other.example", "b@partner.example", "reject"),
        ("b@partner.example", "b@other.example", "deliver"),
    ] {
        let told = judge.explain(letter(header), &["--from", from, "--to", OWN]);
        assert_eq!(told["messages"][0]["disposition"], expected, "{from}, From: {header}");
    }
}

#[test]
fn r110_the_recipient_method_looks_at_recipients_of_incoming_mail_too() {
    let list = Judge::object("AddressList", "l", &format!("entries: [{{address: {OWN}}}]"));
    for (method, expected) in
        [("", "deliver"), ("match: Correspondent, ", "deliver"), ("match: Recipient, ", "reject")]
    {
        let spec = format!("messages: [Inbound], addressLists: {{mode: OnlyApply, {method}names: [l]}}");
        let judge = Judge::with_gateway(BOTH_WAYS, &[rejecting("r", &spec), list.clone()].concat());
        assert_eq!(fate(&judge, PARTNER, OWN), expected, "{method}");
        assert_eq!(fate(&judge, PARTNER, COLLEAGUE), "deliver", "{method}");
    }
    // For senders their authentication counts too, unless the entry says otherwise.
    let list = Judge::object("AddressList", "l", "entries: [{domain: partner.example}]");
    let spec = "messages: [Inbound], addressLists: {mode: OnlyApply, names: [l]}";
    let judge = Judge::with_gateway(BOTH_WAYS, &(rejecting("r", spec) + &list));
    assert_eq!(fate(&judge, PARTNER, OWN), "deliver");
    let vouched = ["--from", PARTNER, "--to", OWN, "--authenticated", "partner.example"];
    assert_eq!(judge.explain(letter(PARTNER), &vouched)["messages"][0]["disposition"], "reject");
}

#[test]
fn r111_one_match_in_any_of_several_lists_suffices() {
    let one = Judge::object("AddressList", "one", "entries: [{domain: one.example}]");
    let two = Judge::object("AddressList", "two", "entries: [{domain: two.example}]");
    for (mode, listed, other) in [("OnlyApply", "reject", "deliver"), ("Bypass", "deliver", "reject")] {
        let spec = format!("messages: [Outbound], addressLists: {{mode: {mode}, names: [one, two]}}");
        let judge = Judge::new(&[rejecting("r", &spec), one.clone(), two.clone()].concat());
        for (to, expected) in
            [("a@one.example", listed), ("a@two.example", listed), ("a@three.example", other)]
        {
            assert_eq!(fate(&judge, OWN, to), expected, "{mode} {to}");
        }
    }
}

/// E12, as far as one judgement shows it; delivery and report are in `fates.rs`.
#[test]
fn r112_r070_e12_a_bypass_skips_the_rule_and_each_recipient_has_a_fate_of_its_own() {
    let list = Judge::object("AddressList", "partners", "entries: [{domain: partner.example}]");
    let spec = "messages: [Outbound], addressLists: {mode: Bypass, names: [partners]}";
    let judge = Judge::new(&(rejecting("closed", spec) + &list));
    let (sub, other) = ("x@sub.partner.example", "x@other.example");
    let both = judge.between(OWN, &[sub, other]);
    let of = |number: usize| &both["messages"][number];
    assert_eq!((&of(0)["disposition"], &of(1)["disposition"]), (&json!("deliver"), &json!("reject")));
    assert_eq!(ways(of(0)), [(sub, None)]);
    assert_eq!(ways(of(1)), []);
    let bypassed = rule(of(0), "RoutingRule/default/closed");
    assert_eq!((&bypassed["matched"], &bypassed["bypassedBy"]), (&json!(false), &json!("partners")));
    assert!(both["transaction"]["data"].as_str().expect("a reply").starts_with("250 2.0.0"), "{both}");
    let refused = judge.between(OWN, &[other, "y@other.example"]);
    assert!(refused["transaction"]["data"].as_str().expect("a reply").starts_with("550 5.7.1"), "{refused}");

    // OnlyApply is one condition more.
    let narrowed = Judge::object(
        "ComplianceRule",
        "word",
        "messages: [Outbound], match: {words: [secret]}, addressLists: {mode: OnlyApply, names: [partners]}, \
         action: {reject: {}}",
    );
    let judge = Judge::new(&(narrowed + &list));
    assert_eq!(fate(&judge, OWN, sub), "reject");
    assert_eq!(fate(&judge, OWN, other), "deliver");
    let harmless = judge.explain(format!("From: {OWN}\r\n\r\nhello\r\n"), &["--from", OWN, "--to", sub]);
    assert_eq!(harmless["messages"][0]["disposition"], "deliver");
}

#[test]
fn r115_users_groups_and_unrecognized_addresses_are_told_apart() {
    let directory = Judge::object(
        "Directory",
        "main",
        "users: [{address: ani@solarmora.com, aliases: [a@solarmora.com]}], \
         groups: [{address: all@solarmora.com, members: [ani@solarmora.com]}]",
    );
    let rule = |account: &str| {
        let spec = format!("messages: [Inbound], accountTypes: [{account}]");
        rejecting(&account.to_lowercase(), &spec)
    };
    let rules: String = ["Users", "Groups", "Unrecognized"].iter().map(|account| rule(account)).collect();
    let judge = Judge::with_gateway(PEOPLE, &(rules + &directory));
    for (to, expected) in [
        ("ani@solarmora.com", "users"),
        ("a@solarmora.com", "users"),
        ("all@solarmora.com", "groups"),
        ("nobody@solarmora.com", "unrecognized"),
    ] {
        assert_eq!(matched(&judge.between(PARTNER, &[to])["messages"][0]), [expected], "{to}");
    }
}

#[test]
fn r117_the_sender_is_the_envelopes_then_froms_and_the_trace_says_which() {
    let directory = |unknown: &str| {
        let users = "users: [{address: ani@solarmora.com, unit: /sales}, {address: budi@solarmora.com, unit: /law}], \
                     groups: [{address: all@solarmora.com, members: []}]";
        Judge::object("Directory", "main", &format!("{users}, unknownSenders: {unknown}"))
    };
    let sales = rejecting("sales", "messages: [Outbound], organizationalUnit: /sales");
    let judge = Judge::with_gateway(PEOPLE, &[sales.clone(), directory("RootUnit")].concat());
    let said = |envelope: &str, from: &str| {
        let told = judge.explain(letter(from), &["--from", envelope, "--to", PARTNER]);
        let sender = &told["sender"];
        let word = |name: &str| sender[name].as_str().unwrap_or("none").to_owned();
        let disposition = told["messages"][0]["disposition"].as_str().expect("one").to_owned();
        [word("address"), word("source"), word("accountType"), word("unit"), disposition]
    };
    for (envelope, from, expected) in [
        (
            "ani@solarmora.com",
            "ani@solarmora.com",
            ["ani@solarmora.com", "envelope", "Users", "/sales", "reject"],
        ),
        // Who writes another name into From is still who the envelope says, either way round.
        (
            "ani@solarmora.com",
            "budi@solarmora.com",
            ["ani@solarmora.com", "envelope", "Users", "/sales", "reject"],
        ),
        (
            "budi@solarmora.com",
            "ani@solarmora.com",
            ["budi@solarmora.com", "envelope", "Users", "/law", "deliver"],
        ),
        ("", "ani@solarmora.com", ["ani@solarmora.com", "from", "Users", "/sales", "reject"]),
        (
            "all@solarmora.com",
            "ani@solarmora.com",
            ["all@solarmora.com", "envelope", "Groups", "/", "deliver"],
        ),
        (
            "new@solarmora.com",
            "ani@solarmora.com",
            ["new@solarmora.com", "envelope", "Users", "/", "deliver"],
        ),
    ] {
        assert_eq!(said(envelope, from), expected, "{envelope}, From: {from}");
    }
    let strict = Judge::with_gateway(PEOPLE, &(sales + &directory("Refuse")));
    let told = strict.between("new@solarmora.com", &[PARTNER]);
    let reply = told["messages"][0]["reply"].as_str().expect("a reply");
    assert!(
        reply.starts_with("550 5.7.1 Sender is not in the directory of this organisation (ref: "),
        "{reply}"
    );
    assert_eq!(fate(&strict, "budi@solarmora.com", PARTNER), "deliver");
}

#[test]
fn r118_envelope_filters_take_addresses_patterns_and_groups_and_both_must_hold() {
    let directory = "groups: [{address: sales@solarmora.com, members: [ani@solarmora.com]}], \
                     users: [{address: ani@solarmora.com}, {address: budi@solarmora.com}]";
    let directory = Judge::object("Directory", "main", directory);
    let pattern =
        r"senders: {pattern: '^(?i)(user1@solarmora\.com|user2@solarmora\.com|user3@solarmora\.com)$'}";
    for (filter, from, to, expected) in [
        ("senders: {address: ani@solarmora.com}", OWN, PARTNER, "reject"),
        ("senders: {address: Ani@Solarmora.com}", OWN, PARTNER, "reject"),
        ("senders: {address: ani@solarmora.com}", COLLEAGUE, PARTNER, "deliver"),
        ("recipients: {address: b@partner.example}", OWN, PARTNER, "reject"),
        ("recipients: {address: b@partner.example}", OWN, "c@partner.example", "deliver"),
        (pattern, "USER2@solarmora.com", PARTNER, "reject"),
        (pattern, "user4@solarmora.com", PARTNER, "deliver"),
        (pattern, "xuser1@solarmora.com", PARTNER, "deliver"),
        // The whole address, as if anchored.
        ("recipients: {pattern: 'b@partner'}", OWN, PARTNER, "deliver"),
        ("recipients: {pattern: '.*@partner\\.example'}", OWN, PARTNER, "reject"),
        ("senders: {groups: [sales@solarmora.com]}", OWN, PARTNER, "reject"),
        ("senders: {groups: [sales@solarmora.com]}", COLLEAGUE, PARTNER, "deliver"),
        ("senders: {address: ani@solarmora.com}, recipients: {pattern: 'b@.*'}", OWN, PARTNER, "reject"),
        (
            "senders: {address: ani@solarmora.com}, recipients: {pattern: 'b@.*'}",
            OWN,
            "c@x.example",
            "deliver",
        ),
        (
            "senders: {address: ani@solarmora.com}, recipients: {pattern: 'b@.*'}",
            COLLEAGUE,
            PARTNER,
            "deliver",
        ),
    ] {
        let spec = format!("messages: [Outbound], envelope: {{{filter}}}");
        let judge = Judge::with_gateway(PEOPLE, &[rejecting("r", &spec), directory.clone()].concat());
        assert_eq!(fate(&judge, from, to), expected, "{filter}: {from} to {to}");
    }
    // Recipients by group, on received mail.
    let spec = "messages: [Inbound], envelope: {recipients: {groups: [sales@solarmora.com]}}";
    let judge = Judge::with_gateway(PEOPLE, &(rejecting("r", spec) + &directory));
    assert_eq!(fate(&judge, PARTNER, OWN), "reject");
    assert_eq!(fate(&judge, PARTNER, COLLEAGUE), "deliver");
}

#[test]
fn r119_e16_members_of_a_group_inside_a_group_count_and_a_cycle_ends() {
    let rule = rejecting("r", "messages: [Outbound], envelope: {senders: {groups: [a@solarmora.com]}}");
    for (members_of_b, cycle) in
        [("[ani@solarmora.com]", false), ("[ani@solarmora.com, a@solarmora.com]", true)]
    {
        let directory = format!(
            "users: [{{address: ani@solarmora.com}}, {{address: budi@solarmora.com}}], groups: [{{address: \
             a@solarmora.com, members: [b@solarmora.com]}}, {{address: b@solarmora.com, members: {members_of_b}}}]"
        );
        let objects = [rule.clone(), Judge::object("Directory", "main", &directory)].concat();
        let judge = Judge::with_gateway(PEOPLE, &objects);
        assert_eq!(fate(&judge, OWN, PARTNER), "reject", "{members_of_b}");
        assert_eq!(fate(&judge, COLLEAGUE, PARTNER), "deliver", "{members_of_b}");
        let told = judge.problems().iter().any(|problem| problem.contains("members of each other"));
        assert_eq!(told, cycle);
    }
}

#[test]
fn r120_e11_a_child_unit_disables_what_its_parent_says_and_its_sibling_keeps_it() {
    let objects = |mandatory: &str| {
        let rule = format!(
            "messages: [Outbound], match: {{words: [secret]}}, action: {{reject: {{}}}}, mandatory: {mandatory}"
        );
        let directory = "units: [{path: /sales, disabledRules: [ComplianceRule/secret]}], \
                         users: [{address: ani@solarmora.com, unit: /sales}, {address: tri@solarmora.com, \
                         unit: /sales/export}, {address: budi@solarmora.com, unit: /salesmen}]";
        Judge::object("ComplianceRule", "secret", &rule) + &Judge::object("Directory", "main", directory)
    };
    let judge = Judge::with_gateway(PEOPLE, &objects("false"));
    let child = judge.between(OWN, &[PARTNER]);
    assert_eq!(child["messages"][0]["disposition"], "deliver");
    let said = rule(&child["messages"][0], "ComplianceRule/default/secret");
    assert_eq!((&said["matched"], &said["clause"]), (&json!(false), &json!("disabledRules")));
    assert_eq!(fate(&judge, "tri@solarmora.com", PARTNER), "deliver", "units below take it over");
    assert_eq!(fate(&judge, COLLEAGUE, PARTNER), "reject", "the sibling");
    assert_eq!(fate(&judge, "new@solarmora.com", PARTNER), "reject", "the root itself");
    let refused = Judge::with_gateway(PEOPLE, &objects("true")).problems();
    let text = "ComplianceRule/default/secret cannot be disabled: mandatory";
    assert!(refused.iter().any(|problem| problem.contains(text)), "{refused:?}");
}
