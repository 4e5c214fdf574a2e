//! Trust before and after, one test for each requirement, named by its number (see docs/requirements.md).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::client::send;
use crate::support::gateway::{Folder, POSTERN};
use crate::support::inbox::Inbox;
use crate::support::judge::Judge;
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::wait_for;

fn postern(arguments: &[&str]) -> Output {
    Command::new(POSTERN).args(arguments).output().expect("postern runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8 names")
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/samples")
}

/// Runs the tests of a sample, beside the gateway that samples without one attach to.
fn check_sample(name: &str) {
    let folder = Folder::new(&format!("sample-{name}"));
    let copy = |from: PathBuf| {
        let to = folder.0.join(from.file_name().expect("a file"));
        fs::copy(&from, to).expect("it is there");
    };
    copy(samples().join(format!("{name}.yaml")));
    copy(samples().join(format!("tests/{name}.test.yaml")));
    copy(samples().join("tests/report.eml"));
    let sample = fs::read_to_string(samples().join(format!("{name}.yaml"))).expect("readable");
    if !sample.contains("kind: OutboundGateway") {
        copy(samples().join("tests/gateway.yaml"));
    }
    let output = postern(&["check", path(&folder.0)]);
    assert!(output.status.success(), "{name}: {}", text(&output));
    let said = text(&output);
    let cases: Vec<&str> = said.trim().rsplit(", ").next().expect("a last word").split(' ').collect();
    assert!(matches!(cases[..], [passed, "of", all, "cases", "pass"] if passed == all), "{name}: {said}");
}

#[test]
fn r047_the_use_cases_of_the_source_pages_are_samples_that_do_what_they_say() {
    for name in ["reject-confidential", "quarantine-word", "notify-others"] {
        check_sample(name);
    }
}

#[test]
fn every_sample_with_tests_passes_them() {
    let mut names = Vec::new();
    for entry in fs::read_dir(samples().join("tests")).expect("readable") {
        let name = entry.expect("readable").file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".test.yaml").map(str::to_owned));
    }
    assert!(names.len() >= 7, "{names:?}");
    names.iter().for_each(|name| check_sample(name));
}

/// The reference at the end of a reply.
fn reference(reply: &str) -> String {
    let end = reply.trim_end().trim_end_matches(')');
    end.rsplit([' ', ':']).next().expect("a last word").to_owned()
}

/// `explain --ref -o json` on the state folder of a site.
fn recall(site: &Site, reference: &str) -> Value {
    let state = site.folder.0.join("state");
    let output = wait_for("the decision is in the log", std::time::Duration::from_secs(10), || {
        let output = postern(&["explain", "--ref", reference, "--state", path(&state), "-o", "json"]);
        output.status.success().then_some(output)
    });
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn r068_r148_the_reference_in_a_reply_finds_the_decision_again() {
    let sink = Inbox::start();
    let site = Site::new("reference", sink.address);
    site.add(
        "ComplianceRule",
        "word",
        "  messages: [Outbound]\n  match: {words: [rahasia]}\n  action: {reject: {notice: Not this word}}\n",
    );
    site.rule("tag", "{modify: {subjectPrefix: Out}}");
    site.add(
        "RoutingRule",
        "waits",
        "  messages: [Outbound]\n  envelope: {recipients: {address: later@partner.example}}\n  action: {modify: {route: {name: gone}}}\n",
    );
    let gateway = site.start();
    let rejected = send(gateway.smtp, OWN, &[PARTNER], &message("rahasia"));
    assert!(rejected.starts_with("550 5.7.1 Not this word (ref: "), "{rejected}");
    let accepted = send(gateway.smtp, OWN, &[PARTNER], &message("fine"));
    let deferred = send(gateway.smtp, OWN, &["later@partner.example"], &message("later"));
    assert!(deferred.starts_with("451 4.7.1") && deferred.contains("(ref: "), "{deferred}");
    // Beside the running gateway.
    let told = recall(&site, &reference(&rejected));
    assert_eq!(told["messages"][0]["disposition"], "reject");
    assert_eq!(told["transaction"]["data"].as_str().map(str::trim), Some(rejected.trim()));
    assert_eq!(told["decided"]["from"], OWN);
    let word = &told["messages"][0]["rules"][0];
    assert_eq!((&word["rule"], &word["matched"]), (&"ComplianceRule/default/word".into(), &true.into()));
    assert_eq!(word["why"][0]["part"], "subject");
    assert_eq!(recall(&site, &reference(&accepted))["messages"][0]["deliveries"][0]["subject"], "[Out] fine");
    assert_eq!(recall(&site, &reference(&deferred))["messages"][0]["disposition"], "defer");
    // After it, by the beginning of the reference, for people.
    gateway.stop();
    let state = site.folder.0.join("state");
    let beginning = &reference(&rejected)[..18];
    let output = postern(&["explain", "--ref", beginning, "--state", path(&state)]);
    let said = text(&output);
    assert!(output.status.success() && said.contains("✓ ComplianceRule/default/word"), "{said}");
    assert!(said.contains("reject: 550 5.7.1 (by ComplianceRule/default/word)"), "{said}");
    // What is not there is said with where it was looked for.
    let output = postern(&["explain", "--ref", "0nothing", "--state", path(&state)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("state/spool/decisions (1 files)"), "{}", text(&output));
}

#[test]
fn r063_explain_says_what_matched_and_where() {
    let judge = Judge::new(&Judge::compliance("r", "{words: [rahasia]}", "{reject: {}}"));
    let told = judge.mail("Subject: x\r\n\r\nini RAHASIA sekali\r\n");
    let why = &told["messages"][0]["rules"][0]["why"][0];
    assert_eq!(why["part"], "body");
    assert_eq!(why["entry"], "rahasia");
    assert_eq!((why["offset"].as_u64(), why["length"].as_u64()), (Some(4), Some(7)));
    assert_eq!(why["hidden"], false);
}

#[test]
fn r125_every_rule_that_matched_is_told_also_behind_the_one_whose_notice_is_used() {
    let rules = [
        Judge::compliance("one", "{words: [rahasia]}", "{reject: {notice: One}}\n  priority: 1"),
        Judge::compliance("two", "{words: [rahasia]}", "{reject: {notice: Two}}"),
        Judge::compliance("three", "{words: [rahasia]}", "{quarantine: {}}"),
        Judge::routing("four", "{modify: {subjectPrefix: X}}", ""),
    ];
    let told = Judge::new(&rules.concat()).mail("Subject: rahasia\r\n\r\n.\r\n");
    let message = &told["messages"][0];
    assert!(message["reply"].as_str().is_some_and(|reply| reply.starts_with("550 5.7.1 One")), "{told}");
    let matched = message["rules"].as_array().expect("a list").iter().filter(|rule| rule["matched"] == true);
    let matched: Vec<_> = matched.filter_map(|rule| rule["rule"].as_str()).collect();
    assert_eq!(matched.len(), 4, "{matched:?}");
    assert_eq!(message["merge"][0]["by"], serde_json::json!(["ComplianceRule/default/one"]));
    assert_eq!(message["merge"][0]["insteadOf"], serde_json::json!(["ComplianceRule/default/two"]));
}

#[test]
fn r163_a_rule_in_shadow_is_judged_and_counted_and_has_no_effect() {
    let sink = Inbox::start();
    let site = Site::new("shadow", sink.address);
    site.add(
        "ComplianceRule",
        "tried",
        "  mode: Shadow\n  messages: [Outbound]\n  match: {words: [rahasia]}\n  action: {reject: {}}\n",
    );
    let gateway = site.start();
    let reply = send(gateway.smtp, OWN, &[PARTNER], &message("rahasia"));
    assert!(reply.starts_with("250 "), "{reply}");
    assert_eq!(sink.wait(1).len(), 1);
    assert_eq!(
        gateway.metric("postern_rule_matches", "rule=\"ComplianceRule/default/tried\",mode=\"shadow\""),
        1
    );
    assert_eq!(gateway.metric("postern_matches", "action=\"reject\",mode=\"shadow\""), 1);
    let (_, page) = gateway.get("/status").expect("the status is served");
    let page: Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page["rules"][0]["rule"], "ComplianceRule/default/tried");
    assert_eq!(page["rules"][0]["shadowMatched"], 1);
    assert_eq!(page["rules"][0]["matched"], 0);
    let told = recall(&site, &reference(&reply));
    assert_eq!(told["messages"][0]["rules"][0]["mode"], "Shadow");
    let steps = told["messages"][0]["merge"].as_array().expect("a list");
    let shadow = steps.iter().find(|step| step["step"] == "shadow").expect("it is told");
    assert_eq!(shadow["result"], "would reject");
}

#[test]
fn r164_explain_is_deterministic_and_tells_the_merge_step_by_step() {
    let rules = [
        "---\napiVersion: postern.dev/v1alpha1\nkind: OutboundRoute\nmetadata: {name: one}\nspec: {hosts: [{host: one.example}]}\n".to_owned(),
        "---\napiVersion: postern.dev/v1alpha1\nkind: OutboundRoute\nmetadata: {name: two}\nspec: {hosts: [{host: two.example}]}\n".to_owned(),
        Judge::routing("a", "{modify: {route: {name: one}, subjectPrefix: A}}", "  priority: 1\n"),
        Judge::routing("b", "{modify: {route: {name: two}, headers: [{name: X-R, value: '{rule}'}]}}", ""),
        Judge::routing("c", "{modify: {subjectPrefix: C}}", "  envelope: {senders: {address: x@solarmora.com}}\n"),
    ];
    let judge = Judge::new(&rules.concat());
    let mail = message("s");
    let first = judge.mail(&mail);
    assert_eq!(first, judge.mail(&mail));
    let message = &first["messages"][0];
    let steps: Vec<_> = message["merge"].as_array().expect("a list").iter().collect();
    let route = steps.iter().find(|step| step["step"] == "route").expect("a route was decided");
    assert_eq!(route["result"], "one");
    assert_eq!(route["insteadOf"], serde_json::json!(["RoutingRule/default/b"]));
    let by_name = |name: &str| {
        let rules = message["rules"].as_array().expect("a list");
        rules.iter().find(|rule| rule["rule"] == format!("RoutingRule/default/{name}")).expect("considered")
    };
    assert_eq!(by_name("b")["overridden"], serde_json::json!(["route"]));
    assert_eq!(by_name("c")["clause"], "envelope.senders");
    assert_eq!(message["deliveries"][0]["route"], "one");
    assert_eq!(message["deliveries"][0]["tls"], "required");
    assert_eq!(message["deliveries"][0]["subject"], "[A] s");
    assert_eq!(message["deliveries"][0]["headersAdded"], serde_json::json!([["X-R", "b"]]));
}

#[test]
fn r165_diff_lists_each_message_whose_treatment_would_change_and_no_other() {
    let folder = Folder::new("diff");
    let gateway = "apiVersion: postern.dev/v1alpha1\nkind: OutboundGateway\nmetadata: {name: default}\nspec: {domains: [solarmora.com], clients: {cidrs: [10.0.0.0/8]}}\n";
    folder.write("before/gateway.yaml", gateway);
    folder.write("after/gateway.yaml", gateway);
    folder.write("after/rule.yaml", &Judge::compliance("word", "{words: [rahasia]}", "{reject: {}}"));
    folder.write("mail/one.eml", &message("nothing"));
    folder.write("mail/two.eml", &message("rahasia"));
    folder.write("mail/three.eml", &message("rahasia again"));
    folder.write("mail/three.envelope.yaml", "from: ani@solarmora.com\nto: [budi@solarmora.com]\n");
    let [before, after, mail] = ["before", "after", "mail"].map(|name| folder.0.join(name));
    let run = |a: &Path, b: &Path, more: &[&str]| {
        let fixed = ["diff", path(a), path(b), "--mail", path(&mail)];
        postern(&[&fixed[..], more].concat())
    };
    let output = run(&before, &after, &["-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let names: Vec<_> =
        told["differences"].as_array().expect("a list").iter().map(|one| &one["mail"]).collect();
    assert_eq!(names, ["two.eml"], "{told}");
    assert_eq!((&told["judged"], &told["envelopesFromHeaders"]), (&3.into(), &2.into()));
    let first = &told["differences"][0]["changes"][0];
    assert_eq!(
        (&first["what"], &first["before"], &first["after"]),
        (&"disposition".into(), &"deliver".into(), &"reject".into())
    );
    assert_eq!(first["rulesAfter"], serde_json::json!(["ComplianceRule/default/word"]));
    let said = text(&run(&before, &after, &[]));
    assert!(said.contains("two.eml (envelope from headers)\n  to b@partner.example: disposition\n    - deliver\n    + reject"), "{said}");
    assert_eq!(run(&before, &before, &[]).status.code(), Some(0));
    assert_eq!(run(&before, &folder.0.join("nowhere"), &[]).status.code(), Some(64));
    assert_eq!(postern(&["diff", path(&before), path(&after), "--mail", "/nowhere"]).status.code(), Some(2));
}

#[test]
fn cases_that_fail_are_told_by_check_with_file_and_line() {
    let judge = Judge::new(&Judge::compliance("word", "{words: [rahasia]}", "{reject: {}}"));
    let cases = "cases:\n- name: leaves\n  mail: \"From: ani@solarmora.com\\nTo: b@x.example\\nSubject: rahasia\\n\\n.\\n\"\n  expect:\n    disposition: deliver\n";
    judge.folder.write("config/own.test.yaml", cases);
    let output = postern(&["check", path(&judge.folder.0.join("config"))]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let expected = "own.test.yaml:5: error: case \"leaves\": disposition for b@x.example\n    - deliver\n    + reject (550 5.7.1";
    assert!(said.contains(expected), "{said}");
    assert!(said.contains("1 errors, 0 warnings, 0 of 1 cases pass"), "{said}");
}
