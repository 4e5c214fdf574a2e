//! Every reply of the table in spec R170 that this gateway can give, asked for once.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::client::Client;
use crate::support::gateway::{Folder, POSTERN, Standalone, free_address, http_get};
use crate::support::inbox::Inbox;
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::wait_for;

/// `C:` a command, `S:` the beginning of the reply to it; `TLS` starts it, `DATA` sends a message.
fn check(gateway: &Standalone, name: &str, dialogue: &str) {
    let mut client = Client::connect(gateway.smtp).unwrap();
    let mut last = client.greeting.clone();
    for line in dialogue.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(": ") {
            Some(("C", command)) => last = client.say(command).unwrap(),
            Some(("M", subject)) => last = client.data(message(subject).as_bytes()).unwrap(),
            Some(("S", expected)) => {
                assert!(last.starts_with(expected), "{name}: {expected} was expected, {last} came");
            }
            _ => panic!("{name}: {line}"),
        }
    }
}

fn rows(gateway: &Standalone, rows: &[(&str, &str)]) {
    for (name, dialogue) in rows {
        check(gateway, name, dialogue);
    }
}

#[test]
fn r170_every_reply_says_what_the_table_says() {
    let sink = Inbox::start();
    let site = Site::new("r170", sink.address);
    site.gateway("  limits: {messageSize: 1Mi, recipients: 2}\n");
    for (name, address, action) in [
        ("closed", "closed", "{reject: {notice: Not to them}}"),
        ("dangling", "dangling", "{modify: {route: {name: nowhere}}}"),
        ("secure", "secure", "{modify: {encryption: {requireTls: true}}}"),
    ] {
        site.add(
            "RoutingRule",
            name,
            &format!(
                "  messages: [Outbound]
  envelope: {{recipients: {{address: {address}@partner.example}}}}
  action: {action}
"
            ),
        );
    }
    site.add(
        "ComplianceRule",
        "word",
        "  messages: [Outbound]\n  match: {words: [rahasia]}\n  action: {reject: {}}\n",
    );
    let gateway = site.start();
    let start = format!("C: EHLO c.example\nS: 250-gw.solarmora.com\nC: MAIL FROM:<{OWN}>\nS: 250 2.1.0");
    let to = |to: &str| format!("{start}\nC: RCPT TO:<{to}>\nS: 250 2.1.5\nC: DATA\nS: 354 ");
    let rows_of = [
        ("greeting", "S: 220 gw.solarmora.com ESMTP".to_owned()),
        ("accepted", format!("{}\nM: fine\nS: 250 2.0.0 Ok: queued as ", to(PARTNER))),
        ("rejected by policy", format!("{}\nM: x\nS: 550 5.7.1 Not to them", to("closed@partner.example"))),
        ("rejected by content", format!("{}\nM: rahasia\nS: 550 5.7.1 Message rejected by", to(PARTNER))),
        ("deferred by policy", format!("{}\nM: x\nS: 451 4.7.1 ", to("dangling@partner.example"))),
        (
            "secure transport",
            format!(
                "{}\nM: x\nS: 550 5.7.1 Secure transport required by policy",
                to("secure@partner.example")
            ),
        ),
        (
            "too many recipients",
            format!(
                "{start}\nC: RCPT TO:<a@p.example>\nS: 250\nC: RCPT TO:<b@p.example>\nS: 250\nC: RCPT TO:<c@p.example>\nS: 452 4.5.3"
            ),
        ),
        ("bad sender", "C: EHLO c.example\nC: MAIL FROM:<a b@solarmora.com>\nS: 501 5.1.7".to_owned()),
        ("bad recipient", format!("{start}\nC: RCPT TO:<b@>\nS: 501 5.1.3")),
        (
            "foreign sender",
            format!(
                "C: EHLO c.example\nC: MAIL FROM:<a@other.example>\nC: RCPT TO:<{PARTNER}>\nS: 550 5.7.1 Relay access denied"
            ),
        ),
        ("too big, declared", format!("C: EHLO c.example\nC: MAIL FROM:<{OWN}> SIZE=1048577\nS: 552 5.3.4")),
        (
            "not declared utf-8",
            "C: EHLO c.example\nC: MAIL FROM:<jürgen@solarmora.com>\nS: 553 5.6.7".to_owned(),
        ),
        ("unknown parameter", format!("C: EHLO c.example\nC: MAIL FROM:<{OWN}> FOO=BAR\nS: 555 5.5.4")),
        ("unknown command", "C: EHLO c.example\nC: FLY\nS: 500 5.5.2".to_owned()),
        ("wrong syntax", "C: EHLO\nS: 501 5.5.4".to_owned()),
        ("out of order", "C: EHLO c.example\nC: RCPT TO:<b@p.example>\nS: 503 5.5.1".to_owned()),
    ];
    let rows_of: Vec<(&str, &str)> = rows_of.iter().map(|(name, text)| (*name, text.as_str())).collect();
    rows(&gateway, &rows_of);
    gateway.wait_empty();

    site.gateway("  clients: {cidrs: [192.0.2.0/24]}\n");
    gateway.wait_condition("OutboundGateway/default/default", "Ready", "True");
    wait_for("the changed clients hold", Duration::from_secs(10), || {
        let mut client = Client::hello(gateway.smtp);
        client.say(&format!("MAIL FROM:<{OWN}>")).unwrap();
        let reply = client.say(&format!("RCPT TO:<{PARTNER}>")).unwrap();
        reply.starts_with("550 5.7.1 Relay access denied: client address not allowed").then_some(())
    });

    site.gateway("  listeners: [{name: smtp, port: 2525, tls: Required}]\n");
    wait_for("TLS is demanded", Duration::from_secs(10), || {
        let mut client = Client::connect(gateway.smtp).ok()?;
        // Whoever meets the old listener in its last moment is told to come again.
        assert!(client.greeting.starts_with("220 ") || client.greeting.starts_with("421 4.3.2 "));
        client.say("EHLO client.example").ok().filter(|reply| reply.starts_with("250"))?;
        let reply = client.say(&format!("MAIL FROM:<{OWN}>")).ok()?;
        reply.starts_with("530 5.7.0 Must issue a STARTTLS command first").then_some(())
    });
    let mut client = Client::hello_tls(gateway.smtp);
    assert!(client.send(OWN, &[PARTNER], &message("secured")).unwrap().starts_with("250"));
}

/// Every policy reply ends in a reference, the same for every line of it.
#[test]
fn r170_a_policy_reply_of_several_lines_ends_in_its_reference() {
    let sink = Inbox::start();
    let site = Site::new("r170-lines", sink.address);
    site.add(
        "RoutingRule",
        "closed",
        "  messages: [Outbound]\n  action:\n    reject:\n      notice: |\n        Not sent.\n        Ask the security team.\n",
    );
    let gateway = site.start();
    let reply = Client::hello(gateway.smtp).send(OWN, &[PARTNER], &message("x")).unwrap();
    let lines: Vec<&str> = reply.lines().collect();
    assert_eq!(lines[0], "550-5.7.1 Not sent.");
    assert!(lines[1].starts_with("550-5.7.1 Ask") || lines[1].starts_with("550 5.7.1 Ask"), "{reply}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("550 5.7.1 ") && last.contains("ref"), "{reply}");
}

/// E32: a gateway that never had a policy takes nothing, and says so.
#[test]
fn e32_a_gateway_without_a_policy_answers_421_and_is_not_ready() {
    let folder = Folder::new("no-policy");
    fs::create_dir_all(folder.0.join("bundle")).unwrap();
    let (smtp, admin) = (free_address(), free_address());
    let mut child = Command::new(POSTERN)
        .args(["gateway", "--pod", "gw-0", "--drain-lag", "0"])
        .args(["--smtp", &smtp.to_string(), "--admin", &admin.to_string()])
        .arg("--bundle")
        .arg(folder.0.join("bundle"))
        .arg("--secrets")
        .arg(folder.0.join("secrets"))
        .arg("--spool")
        .arg(folder.0.join("spool"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("it lives", Duration::from_secs(10), || http_get(admin, "/livez").filter(|(s, _)| *s == 200));
    let ready = http_get(admin, "/readyz").unwrap().0;
    let greeting = wait_for("it answers", Duration::from_secs(5), || Client::connect(smtp).ok()).greeting;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ready, 503);
    assert!(greeting.starts_with("421 4.3.2 Service not ready (no policy revision)"), "{greeting}");
}
