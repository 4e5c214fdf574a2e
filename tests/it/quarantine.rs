//! Held mail, end to end: a standalone gateway, a next hop, and `postern quarantine` as reviewers use it.

use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::support::client::{Client, send};
use crate::support::gateway::{POSTERN, Standalone};
use crate::support::inbox::{Delivered, Inbox};
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::wait_for;

/// A gateway that holds outgoing mail with the word "secret". Its own mail goes to a next hop of its own.
struct Office {
    sink: Inbox,
    notices: Inbox,
    site: Site,
}

const HOLD: &str = "{quarantine: {}}";

impl Office {
    fn new(name: &str) -> Self {
        let (sink, notices) = (Inbox::start(), Inbox::start());
        let site = Site::new(name, sink.address);
        site.notices(notices.address);
        let office = Self { sink, notices, site };
        office.holds("no-secrets", "secret", HOLD);
        office
    }

    fn holds(&self, name: &str, word: &str, action: &str) {
        let spec = format!("  messages: [Outbound]\n  match: {{words: [{word}]}}\n  action: {action}\n");
        self.site.add("ComplianceRule", name, &spec);
    }

    fn start(&self) -> Standalone {
        self.site.start()
    }

    fn command(&self, arguments: &[&str]) -> Output {
        let state = self.site.folder.0.join("state");
        let mut command = Command::new(POSTERN);
        command.arg("quarantine").args(arguments).arg("--state").arg(state).env("RUST_LOG", "warn");
        command.output().expect("postern runs")
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it prints UTF-8")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("it prints JSON")
    }

    /// What a command that fails says; its exit code is 1.
    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).expect("it prints UTF-8")
    }

    fn held(&self) -> Vec<Value> {
        self.json(&["list"])["messages"].as_array().expect("a list").clone()
    }

    fn only(&self) -> String {
        let held = self.held();
        assert_eq!(held.len(), 1, "{held:?}");
        held[0]["id"].as_str().expect("an id").to_owned()
    }

    fn act(&self, act: &str, id: &str) -> Value {
        self.json(&[act, id])[0].clone()
    }
}

fn secret(subject: &str) -> String {
    message(subject).replace("body of", "a secret of")
}

/// Below the gateway's own Received field.
fn as_sent(delivered: &Delivered) -> String {
    let text = delivered.text();
    let own = text.split_inclusive("\r\n").enumerate();
    let is_own = |(at, line): (usize, &str)| at == 0 || line.starts_with([' ', '\t']);
    own.skip_while(|(at, line)| is_own((*at, line))).map(|(_, line)| line).collect()
}

fn accepted(reply: &str) -> String {
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    reply.trim_end().rsplit(' ').next().expect("the queue id").to_owned()
}

#[test]
fn r071_r076_held_mail_waits_for_a_reviewer_survives_kill_9_and_leaves_byte_for_byte() {
    let office = Office::new("held");
    let gateway = office.start();
    let small = secret("held");
    let large = format!("{}{}", secret("large"), "0123456789 abcdefghij\r\n".repeat(30_000));
    let id = accepted(&send(gateway.smtp, OWN, &[PARTNER], &small));
    accepted(&send(gateway.smtp, OWN, &[PARTNER], &large));
    let held = office.held();
    assert_eq!(held.len(), 2);
    assert_eq!(held[0]["id"], id, "the name the client was told");
    assert_eq!(held[0]["rules"][0], "ComplianceRule/default/no-secrets");
    assert_eq!((&held[0]["from"], &held[0]["to"][0]), (&OWN.into(), &PARTNER.into()));
    assert_eq!(gateway.metric("postern_held_messages", ""), 2);
    assert_eq!(gateway.metric("postern_quarantined", "held"), 2);
    gateway.kill();

    let gateway = office.start();
    assert_eq!(office.held(), held, "as it was");
    assert!(office.sink.mail().is_empty(), "nothing left");
    for (at, whole) in [small, large].iter().enumerate() {
        let done = office.act("release", held[at]["id"].as_str().expect("an id"));
        assert_eq!((&done["result"], &done["deliveries"]), (&"released".into(), &1.into()));
        let mail = office.sink.wait(at + 1);
        assert_eq!(as_sent(&mail[at]), *whole, "byte for byte");
    }
    gateway.wait_empty();
    assert!(office.held().is_empty());
    assert!(office.refusal(&["release", &id]).contains("no held message"));
    assert!(gateway.log().contains("held message released"), "{}", gateway.log());
    assert_eq!(office.sink.mail().len(), 2);
}

#[test]
fn r071_one_of_two_recipients_is_held_and_the_other_gets_the_mail() {
    let office = Office::new("half-held");
    let rule = "  messages: [Outbound]
  envelope: {recipients: {address: held@partner.example}}
  action: {quarantine: {}}
";
    office.site.add("RoutingRule", "watched", rule);
    let gateway = office.start();
    let id = accepted(&send(gateway.smtp, OWN, &["held@partner.example", PARTNER], &message("two")));
    assert_eq!(office.sink.wait(1)[0].to, [PARTNER]);
    let held = office.held();
    assert_eq!((held.len(), &held[0]["message"]), (1, &id.into()));
    assert_eq!(held[0]["to"], serde_json::json!(["held@partner.example"]));
    office.act("release", held[0]["id"].as_str().expect("an id"));
    assert_eq!(office.sink.wait(2)[1].to, ["held@partner.example"]);
    gateway.wait_empty();
}

#[test]
fn r075_a_release_skips_the_rule_that_held_and_runs_all_others() {
    let office = Office::new("others");
    office.site.rule("mark", "{modify: {headers: [{name: X-Rule, value: \"{rule}\"}]}}");
    office.holds("second", "a", HOLD);
    let gateway = office.start();
    accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("both")));
    let id = office.only();
    let detail = office.json(&["show", &id]);
    let rules: Vec<&Value> =
        detail["reasons"].as_array().expect("a list").iter().map(|r| &r["rule"]).collect();
    assert_eq!(rules.len(), 2, "R128: held once, for all reasons: {detail}");
    // Held by one more rule, which came after the message.
    office.holds("third", "of", HOLD);
    gateway.wait_condition("ComplianceRule/default/third", "Ready", "True");
    let done = office.act("release", &id);
    assert_eq!(done["result"], "heldAgain", "{done}");
    let again = office.only();
    assert_eq!(done["heldAgain"], serde_json::json!([again]));
    assert!(office.sink.mail().is_empty());
    let done = office.act("release", &again);
    assert_eq!(done["result"], "released", "rules that a reviewer overruled do not hold it again: {done}");
    assert_eq!(office.sink.wait(1)[0].header("X-Rule").as_deref(), Some("mark"));
}

#[test]
fn r129_changes_and_copies_are_those_of_the_release_and_die_with_a_denial() {
    let office = Office::new("late-changes");
    let gateway = office.start();
    accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("first")));
    accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("second")));
    let modify = "{modify: {subjectPrefix: Later, addRecipients: [{address: copy@solarmora.com}]}}";
    office.site.rule("later", modify);
    gateway.wait_condition("RoutingRule/default/later", "Ready", "True");
    let held = office.held();
    let id = |at: usize| held[at]["id"].as_str().expect("an id").to_owned();
    let denied = office.act("deny", &id(0));
    assert_eq!((&denied["result"], &denied["reported"]), (&"denied".into(), &false.into()));
    office.act("release", &id(1));
    let mut mail = office.sink.wait(2);
    mail.sort_by(|a, b| a.to.cmp(&b.to));
    assert_eq!(
        (&mail[0].to[..], &mail[1].to[..]),
        (&[PARTNER.to_owned()][..], &["copy@solarmora.com".to_owned()][..])
    );
    for one in &mail {
        assert_eq!(one.header("Subject").as_deref(), Some("[Later] second"), "{}", one.text());
    }
    gateway.wait_empty();
    assert_eq!((office.sink.mail().len(), office.notices.mail().len()), (2, 0));
}

#[test]
fn r069_r074_a_denied_message_is_reported_where_its_quarantine_says_so() {
    let office = Office::new("denied");
    office.site.add("Quarantine", "legal", "  onDeny: Reject\n");
    office.holds("no-secrets", "secret", "{quarantine: {name: legal}}");
    let gateway = office.start();
    let id = accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("denied")));
    assert_eq!(office.held()[0]["quarantine"], "default/legal");
    assert_eq!(office.act("deny", &id)["reported"], true);
    let report = office.notices.wait(1).remove(0);
    assert_eq!((report.from.as_str(), &report.to[..]), ("", &[OWN.to_owned()][..]));
    let text = report.text();
    for part in ["Status: 5.7.1", "Action: failed", PARTNER, "rule: no-secrets", &format!("ref: {id}")] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("a secret of"), "{text}");

    // Its object goes: the mail belongs to the default quarantine, which says nothing.
    let id = accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("orphan")));
    std::fs::remove_file(office.site.folder.0.join("config/quarantine-legal.yaml")).expect("it is there");
    gateway.wait_condition("ComplianceRule/default/no-secrets", "ResolvedRefs", "False");
    wait_for("the mail moves to the default quarantine", Duration::from_secs(20), || {
        (office.held()[0]["quarantine"] == "default").then_some(())
    });
    let later = accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("later")));
    assert_eq!(office.held()[1]["id"], later, "rules that name it hold in the default one");
    assert_eq!(office.act("deny", &id)["reported"], false);
    assert!(office.sink.mail().is_empty());
}

#[test]
fn r073_the_sender_is_told_that_outgoing_mail_is_held() {
    let office = Office::new("told");
    office.holds("no-secrets", "secret", "{quarantine: {notifySender: true}}");
    let gateway = office.start();
    let id = accepted(&send(gateway.smtp, OWN, &[PARTNER, "c@partner.example"], &secret("told")));
    let notice = office.notices.wait(1).remove(0);
    assert_eq!((notice.from.as_str(), &notice.to[..]), ("", &[OWN.to_owned()][..]));
    for part in ["Auto-Submitted: auto-replied", "Held for review: told", PARTNER, "c@partner.example", &id] {
        assert!(notice.text().contains(part), "{part}: {}", notice.text());
    }
    accepted(&send(gateway.smtp, "", &[PARTNER], &secret("null")));
    assert_eq!(office.held().len(), 2);
    assert_eq!(office.notices.mail().len(), 1, "a null sender hears nothing");
}

#[test]
fn r074_held_mail_is_deleted_after_its_retention_unless_somebody_extends_it() {
    let office = Office::new("expires");
    office.site.add("Quarantine", "short", "  retention: 2s\n");
    office.holds("no-secrets", "secret", "{quarantine: {name: short}}");
    let gateway = office.start();
    let extended = accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("extended")));
    let done = office.json(&["extend", &extended, "--by", "1h"])[0].clone();
    assert_eq!(done["result"], "extended");
    accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("forgotten")));
    wait_for("one is deleted", Duration::from_secs(30), || {
        (gateway.metric("postern_quarantined", "expired") == 1).then_some(())
    });
    assert_eq!(office.only(), extended);
    gateway.wait_log("its retention is over");
    assert!(office.sink.mail().is_empty() && office.notices.mail().is_empty());
}

#[test]
fn r074_reviewers_get_a_summary_once_in_each_interval() {
    let office = Office::new("digest");
    office.site.add("Quarantine", "legal", "  digest: {to: [legal@solarmora.com], every: 2s}\n");
    office.holds("no-secrets", "secret", "{quarantine: {name: legal}}");
    let gateway = office.start();
    let id = accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("listed")));
    let summary = office.notices.wait(1).remove(0);
    assert_eq!(summary.to, ["legal@solarmora.com"]);
    for part in [id.as_str(), "Auto-Submitted: auto-generated", "listed", "ComplianceRule/default/no-secrets"]
    {
        assert!(summary.text().contains(part), "{part}: {}", summary.text());
    }
    assert!(!summary.text().contains("a secret of"), "{}", summary.text());
}

#[test]
fn r075_reviewers_see_headers_rules_and_matches_and_the_message_only_when_they_ask() {
    let office = Office::new("shown");
    let gateway = office.start();
    let sent = secret("Q3 numbers");
    let id = accepted(&send(gateway.smtp, OWN, &[PARTNER], &sent));
    let text = office.text(&["show", &id]);
    for part in
        ["Held by       ComplianceRule/default/no-secrets", "secret in body", "Subject: Q3 numbers", PARTNER]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("a secret of"), "{text}");
    assert!(office.text(&["show", &id, "--raw"]).ends_with(&sent));
    let table = office.text(&["list"]);
    assert!(table.starts_with("ID ") && table.contains(&id) && table.contains("Q3 numbers"), "{table}");
    assert_eq!(office.text(&["list", "--quarantine", "other"]), "no held mail\n");
    assert!(
        gateway.log().contains("act=\"show\"") || gateway.log().contains("act\":\"show\""),
        "{}",
        gateway.log()
    );
}

#[test]
fn r075_without_the_token_nobody_sees_or_changes_held_mail_over_the_admin_address() {
    let office = Office::new("token");
    let gateway = office.start();
    let id = accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("guarded")));
    for path in ["/quarantine".to_owned(), format!("/quarantine/{id}"), format!("/quarantine/{id}/raw")] {
        let (status, text) = gateway.get(&path).expect("it answers");
        assert_eq!(status, 401, "{text}");
        assert!(!text.contains("guarded"), "{text}");
    }
    let state = office.site.folder.0.join("state");
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(state.join(name)).expect("it is there").permissions().mode() & 0o777
    };
    assert_eq!((mode("token"), mode("spool/control.sock")), (0o600, 0o600));
    let base = format!("http://{}", gateway.admin);
    let token = state.join("token").display().to_string();
    let by_token = |token: &str, act: &str| {
        let line = ["quarantine", act, &id, "--gateway", &base, "--token", token];
        Command::new(POSTERN).args(line).output().expect("postern runs")
    };
    let wrong = office.site.folder.write("wrong", "0123").display().to_string();
    let refused = by_token(&wrong, "release");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("token"), "{refused:?}");
    assert_eq!(office.only(), id);
    let released = by_token(&token, "release");
    assert!(released.status.success(), "{released:?}");
    assert_eq!(office.sink.wait(1).len(), 1);
}

#[test]
fn r075_without_a_gateway_the_spool_folder_itself_is_decided_about() {
    let office = Office::new("offline");
    let gateway = office.start();
    let first = accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("first")));
    let second = accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("second")));
    gateway.stop();
    assert_eq!(office.held().len(), 2);
    let text = office.text(&["release", &first]);
    assert!(text.contains("when the gateway runs"), "{text}");
    assert_eq!(office.act("deny", &second)["result"], "denied");
    assert!(office.sink.mail().is_empty());
    let gateway = office.start();
    assert_eq!(office.sink.wait(1)[0].header("Subject").as_deref(), Some("first"));
    gateway.wait_empty();
    gateway.stop();

    // What the gateway ran last is gone: somebody must say by which rules to judge.
    let gateway = office.start();
    let third = accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("third")));
    gateway.stop();
    std::fs::remove_file(office.site.folder.0.join("state/last-good.json")).expect("it is there");
    assert!(office.refusal(&["release", &third]).contains("--config"));
    let config = office.site.folder.0.join("config").display().to_string();
    assert_eq!(office.json(&["release", &third, "--config", &config])[0]["result"], "released");
    let nothing = Command::new(POSTERN).args(["quarantine", "list", "--state", "/nonexistent"]).output();
    let nothing = nothing.expect("postern runs");
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--state"), "{nothing:?}");
    let wrong =
        Command::new(POSTERN).args(["quarantine", "release", "not-an-id"]).output().expect("postern runs");
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn r046_the_archive_gets_a_journal_that_neither_sender_nor_recipients_see() {
    let office = Office::new("archive");
    let archive = Inbox::start();
    office.site.route("archive", archive.address, "require: false");
    office.site.gateway(
        "  notices: {from: postmaster@solarmora.com, route: {name: notices}}
  archive: {route: {name: archive}, address: journal@archive.example}
",
    );
    let gateway = office.start();
    let sent = message("kept");
    accepted(&send(gateway.smtp, OWN, &[PARTNER, "bcc@partner.example"], &sent));
    let journal = archive.wait(1).remove(0);
    assert_eq!(journal.to, ["journal@archive.example"]);
    assert_eq!(journal.from, "", "its failure is not the sender's");
    for part in [OWN, PARTNER, "bcc@partner.example", "body of kept"] {
        assert!(journal.text().contains(part), "{part}: {}", journal.text());
    }
    gateway.wait_empty();
    let seen = office.sink.mail();
    assert_eq!(seen.iter().map(|mail| mail.to.len()).sum::<usize>(), 2);
    for mail in seen {
        assert_eq!(as_sent(&mail), sent);
    }

    // What is held is archived when it leaves, once.
    accepted(&send(gateway.smtp, OWN, &[PARTNER], &secret("held")));
    let (id, before) = (office.only(), office.sink.mail().len());
    assert_eq!(archive.mail().len(), 1);
    office.act("release", &id);
    assert!(archive.wait(2)[1].text().contains("a secret of held"));
    office.sink.wait(before + 1);
    gateway.wait_empty();
    assert_eq!((archive.mail().len(), office.notices.mail().len()), (2, 0));
}

/// A message waits while its rule and its route change.
#[test]
fn r141_queued_mail_keeps_its_verdict_and_takes_the_route_as_it_is_now() {
    let office = Office::new("queued");
    office.site.rule("mark", "{modify: {subjectPrefix: Before}}");
    let gateway = office.start();
    office.sink.set_busy(true);
    accepted(&send(gateway.smtp, OWN, &[PARTNER], &message("waits")));
    let other = Inbox::start();
    office.site.rule("mark", "{modify: {subjectPrefix: After}}");
    office.site.route("relay", other.address, "require: false");
    let mail = other.wait(1);
    assert_eq!(mail[0].header("Subject").as_deref(), Some("[Before] waits"));
    wait_for("the new rule decides", Duration::from_secs(20), || {
        let count = other.mail().len();
        accepted(&send(gateway.smtp, OWN, &[PARTNER], &message("new")));
        let newest = other.wait(count + 1).remove(count);
        (newest.header("Subject").as_deref() == Some("[After] new")).then_some(())
    });
}

#[test]
fn a_release_and_a_denial_at_the_same_time_end_a_message_once() {
    let office = Office::new("race");
    let gateway = office.start();
    let mut client = Client::hello(gateway.smtp);
    let ids: Vec<String> = (0..10)
        .map(|n| accepted(&client.send(OWN, &[PARTNER], &secret(&format!("m{n}"))).expect("answered")))
        .collect();
    let run = |act: &'static str| {
        let line: Vec<&str> = [act].into_iter().chain(ids.iter().map(String::as_str)).collect();
        office.command(&[&line[..], &["-o", "json"]].concat())
    };
    let count = |output: &Output, key: &str| {
        let done: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
        done.as_array().expect("a list").iter().filter(|done| done["result"] == key).count()
    };
    let (released, denied) = std::thread::scope(|scope| {
        let release = scope.spawn(|| run("release"));
        let deny = scope.spawn(|| run("deny"));
        (release.join().expect("it ran"), deny.join().expect("it ran"))
    });
    let (released, denied) = (count(&released, "released"), count(&denied, "denied"));
    assert_eq!(released + denied, 10);
    office.sink.wait(released);
    gateway.wait_empty();
    assert_eq!(office.sink.mail().len(), released);
}
