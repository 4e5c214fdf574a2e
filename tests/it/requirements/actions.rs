//! What one rule does to a message, one test for each requirement, named by its number (see
//! docs/requirements.md): refusals, changes, added recipients, as YAML says them and `postern explain` shows them.

use std::fs;

use serde_json::{Value, json};

use crate::support::judge::{Judge, letter, matched, ways};
use crate::support::site::{OWN, PARTNER};

const BOTH_WAYS: &str = "  clients: {cidrs: [10.0.0.0/8], allowForeignSenders: true}\n";
const COPY: &str = "copy@archive.example";

fn modify(name: &str, changes: &str) -> String {
    Judge::object("RoutingRule", name, &format!("messages: [Outbound], action: {{modify: {{{changes}}}}}"))
}

/// The account of a short message to the partner.
fn told(objects: &str) -> Value {
    Judge::new(objects).between(OWN, &[PARTNER])["messages"][0].clone()
}

fn reply(message: &Value) -> &str {
    message["reply"].as_str().expect("a reply")
}

/// The bytes that leave, in the order of the account.
fn delivered(judge: &Judge, mail: &str, options: &[&str]) -> Vec<String> {
    let folder = judge.folder.0.join("out");
    fs::remove_dir_all(&folder).ok();
    judge.explain(mail, &[options, &["--out", folder.to_str().expect("UTF-8")]].concat());
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("a folder").map(|one| one.expect("readable").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).expect("UTF-8")).collect()
}

#[test]
fn r065_a_rule_has_exactly_one_disposition() {
    for (action, fine) in [
        ("reject: {}", true),
        ("quarantine: {}", true),
        ("modify: {subjectPrefix: P}", true),
        ("", false),
        ("reject: {}, quarantine: {}", false),
        ("reject: {}, modify: {subjectPrefix: P}", false),
        ("quarantine: {}, modify: {subjectPrefix: P}", false),
    ] {
        let rule = Judge::object("RoutingRule", "r", &format!("messages: [Outbound], action: {{{action}}}"));
        let found = Judge::new(&rule).problems();
        let refused = found
            .iter()
            .any(|problem| problem.contains("exactly one of reject, quarantine and modify must be given"));
        assert_eq!(refused, !fine, "{action}: {found:?}");
    }
}

#[test]
fn r066_r068_a_refusal_carries_the_notice_or_names_the_rule_and_always_code_and_reference() {
    let refused = |reject: &str| {
        let message = told(&Judge::compliance("word", "{words: [secret]}", &format!("{{reject: {reject}}}")));
        assert_eq!((&message["disposition"], &message["deliveries"]), (&json!("reject"), &json!([])));
        reply(&message).to_owned()
    };
    for (reject, beginning) in [
        ("{notice: Ask the law office}", "550 5.7.1 Ask the law office (ref: "),
        ("{}", "550 5.7.1 Message rejected by organization policy (rule: word, ref: "),
        ("{hideRule: true}", "550 5.7.1 Message rejected by organization policy (ref: "),
        ("{notice: Never, enhancedCode: 5.7.987}", "550 5.7.987 Never (ref: "),
        ("{notice: 550 2.0.0 fine}", "550 5.7.1 550 2.0.0 fine (ref: "),
        ("{notice: Größe, asciiNotice: Too large}", "550 5.7.1 Too large (ref: "),
        ("{notice: Größe}", "550 5.7.1 Message rejected by organization policy (rule: word, ref: "),
    ] {
        let reply = refused(reject);
        assert!(reply.starts_with(beginning) && reply.trim_end().ends_with(')'), "{reject}: {reply}");
    }
}

#[test]
fn r070_all_that_happens_to_one_message_comes_in_one_reply() {
    let rule = |name: &str, action: &str| {
        let filter = format!("envelope: {{recipients: {{address: {name}@x.example}}}}");
        Judge::object("RoutingRule", name, &format!("messages: [Outbound], {filter}, action: {action}"))
    };
    let judge = Judge::new(
        &[
            rule("refused", "{reject: {}}"),
            rule("never", "{reject: {}}"),
            rule("later", "{modify: {route: {name: gone}}}"),
            rule("held", "{quarantine: {}}"),
        ]
        .concat(),
    );
    for (to, expected) in [
        (&["fine", "refused"][..], "250 2.0.0"),
        (&["held", "refused"], "250 2.0.0"),
        (&["refused", "never"], "550 5.7.1"),
        (&["refused"], "550 5.7.1"),
        (&["fine", "later"], "451 4.7.1"),
        (&["refused", "later"], "451 4.7.1"),
        (&["held", "later", "fine"], "451 4.7.1"),
    ] {
        let addresses: Vec<String> = to.iter().map(|name| format!("{name}@x.example")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let account = judge.between(OWN, &addresses);
        let data = account["transaction"]["data"].as_str().expect("a reply");
        assert!(data.starts_with(expected), "{to:?}: {data}");
    }
}

#[test]
fn r077_r086_r087_e7_a_changed_recipient_is_told_the_first_one_and_goes_by_normal_routing() {
    let first = "ani@solarmora.com";
    let rule = |change: &str| {
        format!(
            "messages: [Inbound], action: {{modify: {{envelopeRecipient: {{domain: example.net}}, originalToHeader: true{change}}}}}"
        )
    };
    let plain = Judge::object("RoutingRule", "r", &rule(""));
    let routed = Judge::object("RoutingRule", "r", &rule(", route: {name: one}")) + &Judge::routes(&["one"]);
    let by_default = format!("{BOTH_WAYS}  defaultRoute: {{host: smart.example}}\n");
    for (gateway, objects, route) in [
        (BOTH_WAYS, &plain, None),
        (by_default.as_str(), &plain, Some("default")),
        (BOTH_WAYS, &routed, Some("one")),
        (by_default.as_str(), &routed, Some("one")),
    ] {
        let message = Judge::with_gateway(gateway, objects).between(PARTNER, &[first])["messages"][0].clone();
        assert_eq!(ways(&message), [("ani@example.net", route)], "{gateway}");
        assert_eq!(message["deliveries"][0]["headersAdded"], json!([["X-Gm-Original-To", first]]));
    }
    // What a client claims goes; another recipient's copy says nothing.
    let judge = Judge::with_gateway(BOTH_WAYS, &plain);
    let mail = format!("X-Gm-Original-To: forged@x.example\r\n{}", letter(PARTNER));
    let leaves = delivered(&judge, &mail, &["--from", PARTNER, "--to", first, "c@elsewhere.example"]);
    assert_eq!(leaves.len(), 2);
    assert_eq!(leaves[0].matches("X-Gm-Original-To:").count(), 1, "{}", leaves[0]);
    assert!(leaves[0].contains("X-Gm-Original-To: ani@solarmora.com\r\n"), "{}", leaves[0]);
    assert!(!leaves[1].contains(first), "{}", leaves[1]);
    let unchanged = told(&modify("r", "originalToHeader: true, subjectPrefix: P"));
    assert_eq!(unchanged["deliveries"][0]["headersAdded"], json!([]), "there is no other first recipient");
    // The three forms.
    for (form, to) in [
        ("address: x@other.example", "x@other.example"),
        ("user: x", "x@partner.example"),
        ("domain: other.example", "b@other.example"),
    ] {
        let message = told(&modify("r", &format!("envelopeRecipient: {{{form}}}")));
        assert_eq!(ways(&message), [(to, None)], "{form}");
        assert_eq!(message["deliveries"][0]["headersAdded"], json!([]), "nobody asked for the header");
    }
}

#[test]
fn r082_mail_moves_to_another_server_and_waits_when_that_is_not_there() {
    let rule = modify("r", "route: {name: exchange}");
    let message = told(&(rule.clone() + &Judge::routes(&["exchange"])));
    assert_eq!(ways(&message), [(PARTNER, Some("exchange"))]);
    let judge = Judge::new(&rule);
    assert!(reply(&judge.between(OWN, &[PARTNER])["messages"][0]).starts_with("451 4.7.1 "));
    let found = judge.problems();
    assert!(found.iter().any(|problem| problem.contains("exchange")), "{found:?}");
}

#[test]
fn r084_an_approved_senders_list_overrides_the_spam_settings() {
    let objects = Judge::object("AddressList", "approved", "entries: [{domain: partner.example}]")
        + &Judge::object(
            "RoutingRule",
            "approved",
            "messages: [Inbound], addressLists: {mode: OnlyApply, names: [approved]}, \
             action: {modify: {bypassSpamFilter: true, spamHeaders: true}}",
        );
    let judge = Judge::with_gateway(BOTH_WAYS, &objects);
    let of = |from: &str, domain: &str, spam: &str| {
        let options = ["--from", from, "--to", OWN, "--authenticated", domain, spam];
        judge.explain(letter(from), &options)["messages"][0].clone()
    };
    let approved = of(PARTNER, "partner.example", "--blatant");
    assert_eq!(approved["disposition"], "deliver");
    assert_eq!(approved["deliveries"][0]["headersAdded"], json!([["X-Gm-Spam", "0"], ["X-Gm-Phishy", "0"]]));
    // Who is not on the list, or only says to be, is filtered as ever.
    assert_eq!(of("b@other.example", "other.example", "--blatant")["disposition"], "reject");
    assert_eq!(of(PARTNER, "other.example", "--blatant")["disposition"], "reject");
}

#[test]
fn r088_a_blind_copy_is_an_added_recipient_of_whom_the_others_see_nothing() {
    let judge = Judge::new(&modify("r", &format!("addRecipients: [{{address: {COPY}}}]")));
    let mail = letter(OWN);
    let leaves = delivered(&judge, &mail, &["--from", OWN, "--to", PARTNER]);
    assert_eq!(leaves, [mail.clone(), mail], "both are the message as it came");
    assert_eq!(ways(&judge.between(OWN, &[PARTNER])["messages"][0]), [(PARTNER, None), (COPY, None)]);
}

#[test]
fn r093_mail_that_came_in_clear_text_is_refused_where_a_rule_requires_tls() {
    let judge = Judge::new(&modify("r", "encryption: {requireTls: true}"));
    let from = |clear: &[&str]| {
        judge.explain(letter(OWN), &[&["--from", OWN, "--to", PARTNER], clear].concat())["messages"][0]
            .clone()
    };
    assert_eq!(from(&[])["deliveries"][0]["tls"], "required");
    let clear = from(&["--clear"]);
    assert!(reply(&clear).starts_with("550 5.7.1 Secure transport required by policy"), "{clear}");
    assert_eq!(clear["deliveries"], json!([]));
}

/// A message with an attachment.
fn with_file() -> String {
    format!(
        "From: {OWN}\r\nSubject: s\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\n\r\nsee\r\n--b\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; \
         filename=a.txt\r\n\r\nfile\r\n--b--\r\n"
    )
}

#[test]
fn r095_every_setting_of_an_added_recipient_is_for_that_copy_alone() {
    let added = format!(
        "addRecipients: [{{address: {COPY}, envelopeRecipient: {{user: x}}, headers: [{{name: X-C, value: '{{rule}}'}}], \
         subjectPrefix: Copy, removeAttachments: {{all: true}}, route: {{name: one}}, dropSpam: false, \
         suppressBounces: false, encryption: {{requireTls: true}}}}]"
    );
    let judge = Judge::new(&(modify("r", &added) + &Judge::routes(&["one"])));
    let deliveries = judge.mail(with_file())["messages"][0]["deliveries"].clone();
    let field = |number: usize, name: &str| deliveries[number][name].clone();
    for (name, primary, copy) in [
        ("to", json!(PARTNER), json!("x@archive.example")),
        ("route", json!(null), json!("one")),
        ("tls", json!("opportunistic"), json!("required")),
        ("subject", json!("s"), json!("[Copy] s")),
        ("headersAdded", json!([]), json!([["X-C", "r"]])),
        ("attachmentsRemoved", json!([]), json!(["a.txt"])),
        ("suppressBounces", json!(false), json!(false)),
        ("dropSpam", json!(false), json!(false)),
        ("copyOf", json!(null), json!(PARTNER)),
    ] {
        assert_eq!((field(0, name), field(1, name)), (primary, copy), "{name}");
    }
}

#[test]
fn r097_copies_take_over_what_is_done_to_the_primary_but_not_its_recipient() {
    let changes = format!(
        "subjectPrefix: P, headers: [{{name: X-H, value: h}}], route: {{name: one}}, removeAttachments: {{all: true}}, \
         encryption: {{requireTls: true}}, envelopeRecipient: {{domain: example.net}}, originalToHeader: true, \
         addRecipients: [{{address: {COPY}}}]"
    );
    let judge = Judge::new(&(modify("r", &changes) + &Judge::routes(&["one"])));
    let deliveries = judge.mail(with_file())["messages"][0]["deliveries"].clone();
    assert_eq!((&deliveries[0]["to"], &deliveries[1]["to"]), (&json!("b@example.net"), &json!(COPY)));
    for name in ["route", "tls", "subject", "attachmentsRemoved"] {
        assert_eq!(deliveries[0][name], deliveries[1][name], "{name}");
    }
    assert_eq!(deliveries[1]["subject"], "[P] s");
    assert_eq!(deliveries[0]["headersAdded"], json!([["X-H", "h"], ["X-Gm-Original-To", PARTNER]]));
    assert_eq!(deliveries[1]["headersAdded"], json!([["X-H", "h"]]));
    // What other rules do to the primary carries over as well.
    let rules =
        modify("a", &format!("addRecipients: [{{address: {COPY}}}]")) + &modify("b", "subjectPrefix: Q");
    assert_eq!(told(&rules)["deliveries"][1]["subject"], "[Q] Laporan bulanan");
}

#[test]
fn r098_copies_drop_spam_and_suppress_bounces_unless_told_otherwise() {
    let of = |settings: &str, spam: &[&str]| {
        let rule = modify("r", &format!("addRecipients: [{{address: {COPY}{settings}}}]"));
        let options = [&["--from", OWN, "--to", PARTNER], spam].concat();
        Judge::new(&rule).explain(letter(OWN), &options)["messages"][0].clone()
    };
    let plain = of("", &[]);
    let flags = |message: &Value, number: usize| {
        let one = &message["deliveries"][number];
        (one["dropSpam"].clone(), one["suppressBounces"].clone())
    };
    assert_eq!(flags(&plain, 0), (json!(false), json!(false)));
    assert_eq!(flags(&plain, 1), (json!(true), json!(true)));
    let spam = of("", &["--spam"]);
    assert_eq!(ways(&spam), [(PARTNER, None)], "the copy of spam is not made");
    assert_eq!(spam["copiesLeftOut"][0]["fate"], "spam");
    let wanted = of(", dropSpam: false, suppressBounces: false", &["--spam"]);
    assert_eq!(ways(&wanted), [(PARTNER, None), (COPY, None)]);
    assert_eq!(flags(&wanted, 1), (json!(false), json!(false)));
}

#[test]
fn r100_each_copy_is_judged_once_as_a_message_of_its_own() {
    let inside = "copy@solarmora.com";
    let add = modify("add", &format!("addRecipients: [{{address: {inside}, subjectPrefix: Copy}}]"));
    let for_copy = |action: &str| {
        let spec = format!(
            "messages: [InternalSending], envelope: {{recipients: {{address: {inside}}}}}, action: {action}"
        );
        Judge::object("RoutingRule", "internal", &spec)
    };
    // Rules for its own address apply to it and not to the primary.
    let marked = told(&[add.clone(), for_copy("{modify: {headers: [{name: X-I, value: i}]}}")].concat());
    assert_eq!(marked["deliveries"][0]["headersAdded"], json!([]));
    assert_eq!(marked["deliveries"][1]["headersAdded"], json!([["X-I", "i"]]));
    assert_eq!(marked["deliveries"][1]["subject"], "[Copy] Laporan bulanan");
    assert_eq!(matched(&marked), ["add"]);
    // A rule that refuses the copy leaves the primary alone.
    for (action, fate) in [("{reject: {}}", "rejected"), ("{quarantine: {}}", "quarantined")] {
        let refused = told(&[add.clone(), for_copy(action)].concat());
        assert_eq!(ways(&refused), [(PARTNER, None)]);
        let left_out = &refused["copiesLeftOut"][0];
        assert_eq!((&left_out["to"], &left_out["fate"]), (&json!(inside), &json!(fate)));
        assert_eq!(left_out["note"], "RoutingRule/default/internal");
    }
    // Copies make no copies, of their own rule or of another.
    let further =
        told(&[add, for_copy("{modify: {addRecipients: [{address: more@solarmora.com}]}}")].concat());
    assert_eq!(ways(&further), [(PARTNER, None), (inside, None)]);
    let own = told(&modify(
        "r",
        &format!("envelopeRecipient: {{domain: example.net}}, addRecipients: [{{address: {COPY}}}]"),
    ));
    let expected = [("b@example.net", None), (COPY, None)];
    assert_eq!(ways(&own), expected, "the rule does not fire on its own copy");
}

#[test]
fn r101_nobody_gets_the_same_copy_twice_and_a_flood_of_copies_waits_as_a_whole() {
    let add = |name: &str, added: &str| modify(name, &format!("addRecipients: [{{{added}}}]"));
    let to = |message: &Value| ways(message).iter().map(|(to, _)| (*to).to_owned()).collect::<Vec<_>>();
    let copy = format!("address: {COPY}");
    assert_eq!(to(&told(&(add("a", &copy) + &add("b", &copy)))), [PARTNER, COPY]);
    let marked = format!("{copy}, subjectPrefix: P");
    assert_eq!(to(&told(&(add("a", &copy) + &add("b", &marked)))), [PARTNER, COPY, COPY], "another message");
    let already = format!("address: {PARTNER}");
    assert_eq!(to(&told(&add("a", &already))), [PARTNER], "a recipient already");
    // Several recipients share one copy, listed under the first.
    let account = Judge::new(&add("a", &copy)).between(OWN, &[PARTNER, "c@partner.example"]);
    assert_eq!(to(&account["messages"][0]), [PARTNER, COPY]);
    assert_eq!(to(&account["messages"][1]), ["c@partner.example"]);
    // 500 copies of one message and no more.
    let hundred = |rule: usize, count: usize| {
        let added: Vec<_> = (0..count).map(|n| format!("{{address: r{rule}x{n}@archive.example}}")).collect();
        modify(&format!("r{rule}"), &format!("addRecipients: [{}]", added.join(", ")))
    };
    let five: String = (0..5).map(|rule| hundred(rule, 100)).collect();
    assert_eq!(told(&five)["deliveries"].as_array().map(Vec::len), Some(501));
    let account = Judge::new(&(five + &hundred(5, 1))).between(OWN, &[PARTNER, "c@partner.example"]);
    let data = account["transaction"]["data"].as_str().expect("a reply");
    assert!(data.starts_with("451 4.7.1 Policy adds more than 500 recipients to this message"), "{data}");
    for message in account["messages"].as_array().expect("a list") {
        assert_eq!((&message["disposition"], &message["deliveries"]), (&json!("defer"), &json!([])));
    }
}
