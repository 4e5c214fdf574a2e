//! Mistakes and remarks, one test for each requirement, named by its number (see docs/requirements.md): what
//! `postern check` says of a folder. The same mistakes are shown to a real API server in
//! `tests/it/cluster/static_errors.rs`.

use std::process::Command;

use crate::support::gateway::POSTERN;
use crate::support::judge::Judge;

/// What `check` says of the objects, beside the gateway of [`Judge`].
fn problems(gateway: &str, objects: &str) -> Vec<String> {
    Judge::with_gateway(gateway, objects).problems()
}

fn says(gateway: &str, objects: &str, text: &str) -> bool {
    let problems = problems(gateway, objects);
    let found = problems.iter().any(|problem| problem.contains(text));
    if !found {
        eprintln!("{problems:#?} do not say {text:?}");
    }
    found
}

/// Every file of `tests/golden/bad` whose name begins so is refused by `check` with its text and line.
fn golden(prefix: &str) {
    let folder = format!("{}/tests/golden/bad", env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("readable").path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) {
            continue;
        }
        seen += 1;
        let yaml = std::fs::read_to_string(&path).expect("readable");
        let note = |name: &str| yaml.lines().find_map(|line| line.strip_prefix(name)).expect("a note").trim();
        let output = Command::new(POSTERN).arg("check").arg(&path).output().expect("postern runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let place = format!(":{}: error: ", note("# line:"));
        let hit = said.lines().any(|line| line.contains(&place) && line.contains(note("# message:")));
        assert!(hit, "{}: {said}", path.display());
        assert_eq!(output.status.code(), Some(1), "{}", path.display());
    }
    assert!(seen > 0, "no file begins with {prefix}");
}

#[test]
fn r040_two_rules_of_a_unit_with_one_description_are_told() {
    let rule = |name: &str, unit: &str| {
        Judge::routing(
            name,
            "{modify: {headers: [{name: X-A, value: b}]}}",
            &format!("  description: Everything\n  organizationalUnit: {unit}\n"),
        )
    };
    let same = "RoutingRule/default/b in the same unit has the same description";
    assert!(says("", &[rule("a", "/"), rule("b", "/")].concat(), same));
    let other = problems("", &[rule("a", "/"), rule("b", "/sales")].concat());
    assert!(!other.iter().any(|problem| problem.contains("same description")), "{other:?}");
}

#[test]
fn r044_a_routing_rule_has_every_change_and_no_content() {
    let everything = "{modify: {originalToHeader: true, spamHeaders: true, headers: [{name: X-A, value: b}], \
        subjectPrefix: P, route: {name: relay, rerouteSpam: true, suppressBounces: true}, \
        envelopeRecipient: {user: x}, removeAttachments: {all: true}, stripAmp: true, \
        addRecipients: [{address: a@solarmora.com, dropSpam: false, encryption: {requireTls: true}}], \
        encryption: {requireTls: true, smime: {encrypt: true}}, footer: {text: t}}}";
    let route = "---\napiVersion: postern.dev/v1alpha1\nkind: OutboundRoute\nmetadata: {name: relay}\nspec: {hosts: [{host: mx.solarmora.com}]}\n";
    for rule in [Judge::routing("r", everything, ""), Judge::compliance("r", "{words: [x]}", everything)] {
        let found = Judge::new(&[rule.as_str(), route].concat());
        let output = Command::new(POSTERN).arg("check").arg(found.folder.0.join("config")).output();
        let output = output.expect("postern runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let content = Judge::routing("r", "{reject: {}}", "  match: {words: [x]}\n");
    assert!(says("", &content, "unknown field \"spec.match\""));
}

#[test]
fn r045_direction_account_type_and_an_effective_action_are_needed() {
    golden("r045-");
    golden("modify-empty");
    golden("messages-empty");
    golden("messages-missing");
    golden("no-action");
}

#[test]
fn r072_quarantine_is_for_users_only() {
    golden("r072-");
}

#[test]
fn r080_headers_that_mail_systems_read_cannot_be_added() {
    golden("r080-");
    golden("header-");
}

#[test]
fn r089_the_spam_filter_is_bypassed_for_inbound_mail_only() {
    golden("r089-");
}

#[test]
fn r096_e8_one_hundred_added_recipients_and_no_more() {
    golden("r096-");
    let hundred: Vec<String> = (0..100).map(|n| format!("{{address: r{n}@solarmora.com}}")).collect();
    let rule = Judge::routing("r", &format!("{{modify: {{addRecipients: [{}]}}}}", hundred.join(", ")), "");
    let found = problems("", &rule);
    assert!(!found.iter().any(|problem| problem.contains("too many")), "{found:?}");
}

#[test]
fn r099_dropping_spam_is_not_for_groups() {
    golden("r099-");
}

#[test]
fn r102_what_leaves_the_organisation_is_checked_or_told() {
    golden("r102-");
    let rule = Judge::routing("r", "{modify: {addRecipients: [{address: a@archive.example}]}}", "");
    assert!(says("", &rule, "the gateway does not say where rules may send to"));
    for allowed in ["archive.example", "example"] {
        let found = problems(&format!("  allowedExternalTargets: [{allowed}]\n"), &rule);
        assert!(found.is_empty(), "{found:?}");
    }
    let not_allowed = "is outside the organisation and not among allowedExternalTargets";
    let gateway = "  allowedExternalTargets: [elsewhere.example]\n";
    for action in [
        "{modify: {addRecipients: [{address: a@archive.example}]}}",
        "{modify: {envelopeRecipient: {domain: archive.example}}}",
        "{modify: {envelopeRecipient: {address: a@archive.example}}}",
        "{modify: {addRecipients: [{address: a@solarmora.com, envelopeRecipient: {domain: archive.example}}]}}",
        "{modify: {route: {name: out}}}",
        "{modify: {addRecipients: [{address: a@solarmora.com, route: {name: out}}]}}",
    ] {
        let route = "---\napiVersion: postern.dev/v1alpha1\nkind: OutboundRoute\nmetadata: {name: out}\nspec: {hosts: [{host: mx.archive.example}]}\n";
        assert!(says(gateway, &(Judge::routing("r", action, "") + route), not_allowed), "{action}");
    }
}

#[test]
fn a_private_key_is_no_password_for_another_host() {
    let shared = "  sharedLimits: {redis: {address: \"redis.thief.example:6379\", passwordRef: {name: web-tls, key: tls.key}}}\n";
    let secret = |labels: &str| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: web-tls{labels}}}\ntype: kubernetes.io/tls\nstringData: {{tls.crt: a certificate, tls.key: a key}}\n"
        )
    };
    let told = "is a certificate with its key, no password for another host";
    assert!(says(shared, &secret(""), told));
    let meant = problems(shared, &secret(", labels: {postern.dev/use: \"true\"}"));
    assert!(!meant.iter().any(|problem| problem.contains(told)), "{meant:?}");
}

#[test]
fn r104_smime_without_certificates_is_told() {
    let rule = Judge::routing("r", "{modify: {encryption: {smime: {encrypt: true}}}}", "");
    assert!(says("", &rule, "the gateway has no certificates of recipients, so nothing can be encrypted"));
    let rule = Judge::routing("r", "{modify: {encryption: {smime: {sign: true}}}}", "");
    assert!(says("", &rule, "no certificates of senders, so nothing can be signed"));
    golden("r103-");
}

#[test]
fn r113_entries_that_anybody_can_claim_are_told() {
    let list = "---\napiVersion: postern.dev/v1alpha1\nkind: AddressList\nmetadata: {name: partners}\nspec:\n  entries:\n  - {domain: partner.example, requireAuthentication: false}\n";
    let rule = Judge::routing("r", "{reject: {}}", "  addressLists: {mode: Bypass, names: [partners]}\n")
        .replace("[Outbound]", "[Inbound]");
    let found = problems("", &(rule + list));
    assert!(
        found.iter().any(|p| p.contains("AddressList/default/partners") && p.contains("1 entries count"))
    );
    assert!(
        found.iter().any(|p| p.contains("whoever claims such an address is exempt from this rule")),
        "{found:?}"
    );
}

#[test]
fn r114_a_list_may_be_kept_in_config_maps() {
    golden("r108-bad-entry");
    let list = "---\napiVersion: postern.dev/v1alpha1\nkind: AddressList\nmetadata: {name: partners}\nspec:\n  entriesFrom:\n  - configMapRef: {name: one, key: list}\n  - configMapRef: {name: two, key: list}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {list: 'a.example, b@c.example'}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: two}\ndata: {list: \"d.example\\nbücher.example\"}\n";
    let rule = Judge::routing("r", "{reject: {}}", "  addressLists: {mode: Bypass, names: [partners]}\n");
    let found = problems("", &(rule.clone() + list));
    assert!(found.is_empty(), "{found:?}");
    let missing = list.replace("metadata: {name: two}", "metadata: {name: three}");
    let found = problems("", &(rule + &missing));
    assert!(found.iter().any(|p| p.contains("there is no ConfigMap default/two")), "{found:?}");
    assert!(found.iter().any(|p| p.contains("AddressList default/partners cannot be used")), "{found:?}");
}

#[test]
fn r115_unrecognized_receives_only() {
    golden("r115-");
}

#[test]
fn r116_spam_settings_are_for_users() {
    golden("r116-");
}

#[test]
fn r119_groups_are_senders_of_sent_and_recipients_of_received_mail() {
    golden("r119-");
    // E16: groups that are members of each other work, and their author is told.
    let directory = "---\napiVersion: postern.dev/v1alpha1\nkind: Directory\nmetadata: {name: main}\nspec:\n  users: [{address: ani@solarmora.com}]\n  groups:\n  - {address: a@solarmora.com, members: [b@solarmora.com]}\n  - {address: b@solarmora.com, members: [ani@solarmora.com, a@solarmora.com]}\n";
    let rule = Judge::routing("r", "{reject: {}}", "  envelope: {senders: {groups: [a@solarmora.com]}}\n");
    let judge = Judge::with_gateway("  directoryRef: {name: main}\n", &(rule + directory));
    let found = judge.problems();
    let told = "groups are members of each other: a@solarmora.com > b@solarmora.com > a@solarmora.com";
    assert!(found.iter().any(|problem| problem.contains(told)), "{found:?}");
    let checked = Command::new(POSTERN).arg("check").arg(judge.folder.0.join("config")).output();
    assert!(checked.expect("postern runs").status.success(), "a warning, not an error");
}

#[test]
fn r120_a_mandatory_rule_cannot_be_disabled() {
    golden("r120-");
}

#[test]
fn r032_changes_that_void_upstream_signatures_are_told() {
    let changes = "subjectPrefix, footer voids DKIM signatures that were made before the gateway";
    let rule = Judge::routing("r", "{modify: {subjectPrefix: P, footer: {text: t}}}", "");
    assert!(says("", &rule, &format!("{changes}, and no signing key is configured for solarmora.com")));
    let gateway = "  dkim: [{domain: solarmora.com, selector: s1, keyRef: {name: dkim, key: k}}]\n";
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: dkim, labels: {postern.dev/use: \"true\"}}\nstringData: {k: x}\n";
    let signed = format!("{changes}; the gateway signs what it changed with its own keys");
    assert!(says(gateway, &(rule + secret), &signed));
    // Fields that signers commonly sign, and the entity as a whole.
    for change in [
        "headers: [{name: Reply-To, value: a@solarmora.com}]",
        "removeAttachments: {all: true}",
        "encryption: {smime: {sign: true}}",
        "stripAmp: true",
        "headers: [{name: list-unsubscribe, value: <mailto:x>}]",
    ] {
        let rule = Judge::routing("r", &format!("{{modify: {{{change}}}}}"), "");
        assert!(says("", &rule, "voids DKIM signatures that were made before the gateway"), "{change}");
    }
    let harmless = Judge::routing("r", "{modify: {headers: [{name: X-A, value: b}]}}", "");
    let found = problems("", &harmless);
    assert!(!found.iter().any(|problem| problem.contains("DKIM")), "{found:?}");
}
