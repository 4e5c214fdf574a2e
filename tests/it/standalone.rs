//! A whole gateway on a folder of YAML: what users see of rules, replies, changes and broken files.

use std::process::Command;
use std::time::Duration;

use crate::support::client::{Client, send};
use crate::support::gateway::{Folder, POSTERN, Standalone};
use crate::support::inbox::Inbox;
use crate::support::site::Site;
use crate::support::site::reject;
use crate::support::wait_for;

const MAIL: &str =
    "From: Ani <ani@solarmora.com>\r\nTo: b@partner.example\r\nSubject: Laporan bulanan\r\n\r\nbody\r\n";

fn gateway(sink: &Inbox) -> String {
    format!(
        "apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {{name: default}}
spec:
  hostname: gw.solarmora.com
  domains: [solarmora.com]
  clients: {{cidrs: [127.0.0.0/8]}}
  defaultRoute: {{host: {}, port: {}}}
",
        sink.address.ip(),
        sink.address.port()
    )
}

const PREFIX: &str = "apiVersion: postern.dev/v1alpha1
kind: RoutingRule
metadata: {name: mark}
spec:
  description: Mark everything
  messages: [Outbound]
  action: {modify: {subjectPrefix: Rahasia, headers: [{name: X-Rule, value: '{rule}'}]}}
";

struct Setup {
    folder: Folder,
    sink: Inbox,
}

impl Setup {
    fn new(name: &str) -> Self {
        let setup = Self { folder: Folder::new(name), sink: Inbox::start() };
        setup.folder.write("config/gateway.yaml", &gateway(&setup.sink));
        setup
    }

    fn start(&self) -> Standalone {
        Standalone::start(&self.folder.0.join("config"), &self.folder.0.join("state"))
    }
}

#[test]
fn mail_without_a_matching_rule_leaves_byte_identical_below_our_received_field() {
    let setup = Setup::new("identical");
    let gateway = setup.start();
    let reply = send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], MAIL);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    let mail = setup.sink.wait(1);
    let text = mail[0].text();
    assert!(text.starts_with("Received: from client.example"), "{text}");
    assert!(text.ends_with(MAIL), "{text}");
    assert_eq!((mail[0].from.as_str(), mail[0].to[0].as_str()), ("ani@solarmora.com", "b@partner.example"));
}

#[test]
fn e6_the_prefix_stands_once_even_when_mail_comes_through_twice() {
    let setup = Setup::new("prefix");
    setup.folder.write("config/mark.yaml", PREFIX);
    let gateway = setup.start();
    send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], MAIL);
    let once = setup.sink.wait(1).remove(0);
    assert_eq!(once.header("Subject").as_deref(), Some("[Rahasia] Laporan bulanan"));
    assert_eq!(once.header("X-Rule").as_deref(), Some("mark"));
    send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], &once.text());
    let twice = setup.sink.wait(2).remove(1);
    assert_eq!(twice.header("Subject").as_deref(), Some("[Rahasia] Laporan bulanan"));
}

#[test]
fn a_word_is_rejected_with_the_notice_and_a_reference() {
    let setup = Setup::new("word");
    setup.folder.write("config/word.yaml", &reject("word", "rahasia"));
    let gateway = setup.start();
    let with_word = MAIL.replace("body\r\n", "ini RAHASIA.\r\n");
    let reply = send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], &with_word);
    assert!(reply.starts_with("550"), "{reply}");
    assert!(reply.contains("5.7.1 Not this word"), "{reply}");
    assert!(send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], MAIL).starts_with("250"));
    assert_eq!(setup.sink.wait(1).len(), 1);
}

#[test]
fn e10_a_client_that_is_not_listed_is_refused_at_rcpt_and_nothing_is_queued() {
    let setup = Setup::new("relay");
    let config = gateway(&setup.sink).replace("127.0.0.0/8", "192.0.2.0/24");
    setup.folder.write("config/gateway.yaml", &config);
    let gateway = setup.start();
    let mut client = Client::connect(gateway.smtp).unwrap();
    client.say("EHLO c.example").unwrap();
    assert!(client.say("MAIL FROM:<ani@solarmora.com>").unwrap().starts_with("250"));
    for to in ["<b@partner.example>", "<b%rival.example@partner.example>", "<@a.example:b@partner.example>"] {
        let reply = client.say(&format!("RCPT TO:{to}")).unwrap();
        assert_eq!(reply, "550 5.7.1 Relay access denied: client address not allowed", "{to}");
    }
    assert!(client.say("NOOP").unwrap().starts_with("250"));
    let (_, ack) = gateway.get("/ack").unwrap();
    assert!(ack.contains("\"queued\":0"), "{ack}");
}

#[test]
fn a_foreign_sender_is_refused() {
    let setup = Setup::new("foreign");
    let gateway = setup.start();
    let reply = send(gateway.smtp, "x@elsewhere.example", &["b@partner.example"], MAIL);
    assert!(reply.starts_with("550 5.7.1 Relay access denied: sender domain"), "{reply}");
}

#[test]
fn a_changed_rule_acts_without_a_restart_and_a_broken_one_leaves_the_last_good_in_force() {
    let setup = Setup::new("reload");
    setup.folder.write("config/word.yaml", &reject("word", "one"));
    let gateway = setup.start();
    let say = |word: &str| {
        let mail = MAIL.replace("body", &format!("the word {word} here"));
        send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], &mail)
    };
    assert!(say("one").starts_with("550"));
    assert!(say("two").starts_with("250"));
    setup.folder.write("config/word.yaml", &reject("word", "two"));
    wait_for("the changed rule acts", Duration::from_secs(10), || {
        say("two").starts_with("550").then_some(())
    });
    assert!(say("one").starts_with("250"));

    // A typo in a field name: the last accepted form stays, and the author is told where.
    setup.folder.write("config/word.yaml", &reject("word", "three").replace("words:", "wrods:"));
    let message = gateway.wait_condition("ComplianceRule/default/word", "Accepted", "False");
    assert!(message.contains("wrods"), "{message}");
    assert!(say("two").starts_with("550"));
    assert!(say("three").starts_with("250"));

    setup.folder.write("config/word.yaml", &reject("word", "three"));
    wait_for("the repaired rule acts", Duration::from_secs(10), || {
        say("three").starts_with("550").then_some(())
    });
    // The status follows what acts, a moment later.
    gateway.wait_condition("ComplianceRule/default/word", "Ready", "True");
}

#[test]
fn a_file_that_is_empty_takes_no_rule_away_and_nothing_runs_before_a_folder_was_whole() {
    let setup = Setup::new("empty");
    setup.folder.write("config/word.yaml", "");
    let gateway = Standalone::launch(&setup.folder.0.join("config"), &setup.folder.0.join("state"));
    gateway.wait_log("word.yaml:1: cannot be read: it is empty");
    gateway.wait_log("no mail is taken");
    assert_eq!(gateway.get("/readyz").map(|(status, _)| status), Some(503));

    setup.folder.write("config/word.yaml", &reject("word", "one"));
    gateway.wait_ready();
    let say = |word: &str| {
        let mail = MAIL.replace("body", &format!("the word {word} here"));
        send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], &mail)
    };
    assert!(say("one").starts_with("550"));

    // An editor that writes over a file, stopped in the middle; and the file of the gateway as well.
    setup.folder.write("config/word.yaml", "");
    setup.folder.write("config/gateway.yaml", "");
    gateway.wait_log("what ran goes on");
    assert!(say("one").starts_with("550"));
    assert!(say("two").starts_with("250"));
    setup.folder.write("config/gateway.yaml", &self::gateway(&setup.sink));
    setup.folder.write("config/word.yaml", &reject("word", "two"));
    wait_for("the changed rule acts", Duration::from_secs(10), || {
        say("two").starts_with("550").then_some(())
    });
    assert!(say("one").starts_with("250"));
}

#[test]
fn one_policy_snapshot_lasts_from_mail_to_the_reply_after_the_data() {
    let setup = Setup::new("snapshot");
    setup.folder.write("config/word.yaml", &reject("word", "one"));
    let gateway = setup.start();
    let mut client = Client::connect(gateway.smtp).unwrap();
    client.say("EHLO c.example").unwrap();
    client.say("MAIL FROM:<ani@solarmora.com>").unwrap();
    client.say("RCPT TO:<b@partner.example>").unwrap();
    setup.folder.write("config/word.yaml", &reject("word", "two"));
    let two = MAIL.replace("body", "two");
    wait_for("the new rule acts on new transactions", Duration::from_secs(10), || {
        send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], &two).starts_with("550").then_some(())
    });
    assert!(client.say("DATA").unwrap().starts_with("354"));
    assert!(client.say(&format!("{two}.")).unwrap().starts_with("250"));
    // The next transaction of the same session follows the new rule.
    assert!(client.send("ani@solarmora.com", &["b@partner.example"], &two).unwrap().starts_with("550"));
}

#[test]
fn a_rule_with_a_missing_route_defers() {
    let setup = Setup::new("dangling");
    let rule = PREFIX.replace("{subjectPrefix: Rahasia,", "{route: {name: nowhere},");
    setup.folder.write("config/mark.yaml", &rule);
    let gateway = setup.start();
    let message = gateway.wait_condition("RoutingRule/default/mark", "ResolvedRefs", "False");
    assert!(message.contains("nowhere"), "{message}");
    let reply = send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], MAIL);
    assert!(reply.starts_with("451 4.7.1") || reply.starts_with("451"), "{reply}");
    assert!(setup.sink.mail().is_empty());
}

#[test]
fn mail_that_was_accepted_survives_a_kill_and_a_busy_next_hop() {
    let sink = Inbox::start();
    // Its retries come quickly: whether the first deferral was on disk when the axe fell is not what this is about.
    let site = Site::new("survives", sink.address);
    sink.set_busy(true);
    let gateway = site.start();
    assert!(send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], MAIL).starts_with("250"));
    gateway.kill();
    sink.set_busy(false);
    let gateway = site.start();
    let mail = sink.wait(1);
    assert!(mail[0].text().ends_with(MAIL));
    drop(gateway);
}

#[test]
fn explain_and_the_gateway_give_the_same_answer() {
    let setup = Setup::new("explain");
    setup.folder.write("config/word.yaml", &reject("word", "rahasia"));
    setup.folder.write("config/mark.yaml", PREFIX);
    let gateway = setup.start();
    for (body, code) in [("ini rahasia", "550"), ("ini biasa", "250")] {
        let mail = MAIL.replace("body", body);
        let file = setup.folder.write("mail.eml", &mail);
        let reply = send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], &mail);
        assert!(reply.starts_with(code), "{reply}");
        let output = Command::new(POSTERN)
            .arg("explain")
            .arg(setup.folder.0.join("config"))
            .arg("--mail")
            .arg(&file)
            .args(["--from", "ani@solarmora.com", "--to", "b@partner.example", "-o", "json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let explained: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let data = explained["transaction"]["data"].as_str().unwrap();
        assert!(data.starts_with(code), "{data}");
        let first = &explained["messages"][0];
        assert_eq!(first["disposition"], if code == "550" { "reject" } else { "deliver" });
        if code == "250" {
            assert_eq!(first["deliveries"][0]["subject"], "[Rahasia] Laporan bulanan");
            assert_eq!(first["deliveries"][0]["headersAdded"][0][0], "X-Rule");
            assert_eq!(first["deliveries"][0]["route"], "default");
        } else {
            let word = first["rules"]
                .as_array()
                .unwrap()
                .iter()
                .find(|r| r["rule"] == "ComplianceRule/default/word");
            let why = &word.unwrap()["why"][0];
            assert_eq!((why["part"].as_str(), why["offset"].as_u64()), (Some("body"), Some(4)));
        }
    }
}

#[test]
fn a_drain_finishes_and_says_421_to_newcomers() {
    let setup = Setup::new("drain");
    let gateway = setup.start();
    assert!(send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], MAIL).starts_with("250"));
    setup.sink.wait(1);
    gateway.stop();
}

#[test]
fn mail_that_waits_shows_in_the_metrics() {
    let setup = Setup::new("gauges");
    setup.sink.set_busy(true);
    let gateway = setup.start();
    assert_eq!(gateway.metric("postern_queue_messages", ""), 0);
    assert!(send(gateway.smtp, "ani@solarmora.com", &["b@partner.example"], MAIL).starts_with("250"));
    assert_eq!(gateway.metric("postern_queue_messages", ""), 1);
    assert_eq!(gateway.metric("postern_messages", "accepted"), 1);
    assert_eq!(gateway.metric("postern_policy_sequence", ""), 1);
}
