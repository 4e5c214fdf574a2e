//! Protection of the way out, seen from both its ends: nothing in clear that must not be, and a sender who is
//! told precisely why (spec E9, E17, R12-R15, R92-R94).

use std::time::Duration;

use crate::support::client::{Client, send};
use crate::support::gateway::{Folder, free_address};
use crate::support::inbox::{Delivered, Inbox};
use crate::support::postfix::{self, Postfix};
use crate::support::sink::{Authority, Behaviour, Sink};
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::{wait, wait_for};

/// The one report that came: for the sender, from nobody.
fn report(inbox: &Inbox) -> String {
    let mail: Delivered = inbox.wait(1).remove(0);
    assert_eq!((mail.from.as_str(), mail.to.as_slice()), ("", [OWN.to_owned()].as_slice()));
    let text = mail.text();
    assert!(text.to_ascii_lowercase().contains("multipart/report"), "{text}");
    // Long lines of prose may be folded; what is asked for here is words.
    text.replace("=\r\n", "").replace("\r\n", " ")
}

#[test]
fn r012_r021_r092_r093_r094_e17_where_a_rule_demands_tls_nothing_leaves_in_clear_and_the_sender_is_told_5_7_4()
 {
    let (sink, notices) = (wait(Sink::start(Behaviour::default())), Inbox::start());
    let site = Site::new("e17", sink.address);
    site.notices(notices.address);
    site.add(
        "RoutingRule",
        "secure",
        "  messages: [Outbound]
  envelope: {recipients: {address: secret@partner.example}}
  action: {modify: {encryption: {requireTls: true}}}
",
    );
    let gateway = site.start();
    let secret = ["secret@partner.example"];

    // R93: the demand holds for the way in as well.
    let reply = send(gateway.smtp, OWN, &secret, &message("in-clear"));
    assert!(reply.starts_with("550 5.7.1 Secure transport required by policy"), "{reply}");

    let mut client = Client::hello_tls(gateway.smtp);
    assert!(client.send(OWN, &secret, &message("confidential")).unwrap().starts_with("250"));
    let text = report(&notices);
    assert!(text.contains("Status: 5.7.4"), "{text}");
    assert!(text.contains("secret@partner.example"), "{text}");
    let seen = sink.commands();
    assert!(seen.iter().any(|line| line.starts_with("EHLO")), "the next hop was asked: {seen:?}");
    assert!(seen.iter().all(|line| line.starts_with("EHLO") || line == "QUIT"), "{seen:?}");
    assert_eq!(gateway.metric("postern_plaintext_deliveries", "route=\"default/relay\""), 0);

    // The same message under no rule.
    assert!(client.send(OWN, &[PARTNER], &message("confidential")).unwrap().starts_with("250"));
    let got = wait(sink.wait_for(1)).remove(0);
    assert!(!got.tls && got.rcpts.len() == 1);
    gateway.wait_empty();
    assert_eq!(gateway.metric("postern_plaintext_deliveries", "route=\"default/relay\""), 1);
}

#[test]
fn r014_r019_e9_a_certificate_for_another_name_returns_the_mail_with_both_names_and_switched_off_it_is_delivered()
 {
    let authority = Authority::new();
    let behaviour = Behaviour::with_tls(authority.server(&["mx1.example.org"]));
    let (sink, notices) = (wait(Sink::start(behaviour)), Inbox::start());
    let site = Site::new("e9-names", sink.address);
    site.notices(notices.address);
    site.ca("ca", &authority.pem());
    const CA: &str = "serverName: mx.example.org, caRef: {kind: ConfigMap, name: ca, key: ca.crt}";
    site.route("relay", sink.address, CA);
    let gateway = site.start();
    assert!(send(gateway.smtp, OWN, &[PARTNER], &message("names")).starts_with("250"));
    let text = report(&notices);
    for part in ["Status: 5.7.5", "Could not validate certificate", "mx.example.org", "mx1.example.org"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(sink.mails().is_empty());
    assert!(!sink.commands().iter().any(|line| line.starts_with("MAIL")), "{:?}", sink.commands());
    // R19: the route is saved and in force all the same; what it cannot prove, its mail pays for.
    gateway.wait_condition("OutboundRoute/default/relay", "Ready", "True");

    site.route("relay", sink.address, &format!("{CA}, validateHostname: false"));
    wait_for("the changed route delivers", Duration::from_secs(20), || {
        send(gateway.smtp, OWN, &[PARTNER], &message("names off"));
        gateway.wait_empty();
        (!sink.accepted().is_empty()).then_some(())
    });
    assert!(sink.accepted().iter().all(|mail| mail.tls));
}

#[test]
fn r013_r015_e9_an_unknown_authority_returns_the_mail_and_without_the_demand_any_certificate_encrypts() {
    let authority = Authority::new();
    let behaviour = Behaviour::with_tls(authority.server(&["127.0.0.1"]));
    let (sink, notices) = (wait(Sink::start(behaviour)), Inbox::start());
    let site = Site::new("e9-unknown", sink.address);
    site.notices(notices.address);
    site.route("strict", sink.address, "require: true");
    site.route("encrypted", sink.address, "require: true, requireCaSigned: false, validateHostname: false");
    for route in ["strict", "encrypted"] {
        site.add(
            "RoutingRule",
            route,
            &format!(
                "  messages: [Outbound]
  envelope: {{recipients: {{address: {route}@partner.example}}}}
  action: {{modify: {{route: {{name: {route}}}}}}}
"
            ),
        );
    }
    let gateway = site.start();
    let mail = message("authority");
    assert!(send(gateway.smtp, OWN, &["strict@partner.example"], &mail).starts_with("250"));
    let text = report(&notices);
    assert!(text.contains("Status: 5.7.5") && text.contains("Could not validate certificate"), "{text}");
    assert!(sink.mails().is_empty());
    assert!(send(gateway.smtp, OWN, &["encrypted@partner.example"], &mail).starts_with("250"));
    assert!(wait(sink.wait_for(1))[0].tls);
}

#[test]
fn mail_reaches_a_real_postfix_over_verified_tls() {
    let (inbox, folder) = (Inbox::start(), Folder::new("postfix-ca"));
    let authority = postfix::Authority::new(&folder.0);
    let address = free_address();
    let postfix = Postfix::start(address, Some(authority.issue(&["localhost"])), inbox.address);
    let site = Site::new("postfix", address);
    site.ca("ca", &authority.certificate());
    site.route_by_name(
        "relay",
        "localhost",
        address.port(),
        "require: true, requireCaSigned: true, validateHostname: true, caRef: {kind: ConfigMap, name: ca, key: ca.crt}",
    );
    site.rule("mark", "{modify: {subjectPrefix: Rahasia, headers: [{name: X-Rule, value: '{rule}'}]}}");
    let gateway = site.start();
    for n in 0..10 {
        assert!(send(gateway.smtp, OWN, &[PARTNER], &message(&format!("postfix {n}"))).starts_with("250"));
    }
    let got = inbox.wait(10);
    let mut subjects: Vec<String> = got.iter().filter_map(|mail| mail.header("Subject")).collect();
    subjects.sort();
    let expected: Vec<String> = (0..10).map(|n| format!("[Rahasia] postfix {n}")).collect();
    assert_eq!(subjects, expected, "{}", postfix.log());
    let text = got[0].text();
    assert!(text.contains("(using TLSv1.3 with cipher"), "Postfix says how it came: {text}");
    assert!(text.contains("X-Rule: mark"), "{text}");
    gateway.wait_empty();
    assert_eq!(gateway.metric("postern_plaintext_deliveries", ""), 0);
}
