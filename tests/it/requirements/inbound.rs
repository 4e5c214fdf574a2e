//! R35-R39, R117, R160, R161 on whole gateways: who may hand over mail, as whom, how much and how.

use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::support::client::Client;
use crate::support::gateway::Standalone;
use crate::support::inbox::Inbox;
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::wait_for;

/// A Secret that may be used.
fn secret(site: &Site, name: &str, password: &str) {
    let yaml = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, labels: {{postern.dev/use: \"true\"}}}}\n\
         stringData: {{password: \"{password}\"}}\n"
    );
    site.folder.write(&format!("config/secret-{name}.yaml"), &yaml);
}

/// Nobody relays by address; `app` may as itself, `ani@…` as whoever the organisation has.
fn with_users(name: &str, relay: &Inbox, more: &str) -> Site {
    let site = Site::new(name, relay.address);
    secret(&site, "app", "pencil");
    secret(&site, "ani", "s3cret");
    site.gateway(&format!(
        "  clients:
    users:
    - {{name: app, passwordRef: {{name: app, key: password}}, senders: [app@solarmora.com]}}
    - {{name: {OWN}, passwordRef: {{name: ani, key: password}}}}
{more}"
    ));
    site
}

fn send(client: &mut Client, from: &str) -> String {
    let reply = client.send(from, &[PARTNER], &message("x")).expect("the transaction is answered");
    if !reply.starts_with('2') {
        client.say("RSET").expect("RSET is answered");
    }
    reply
}

fn logged_in(gateway: &Standalone, name: &str, password: &str) -> Client {
    let mut client = Client::hello_tls(gateway.smtp);
    let reply = client.log_in(name, password);
    assert!(reply.starts_with("235 2.7.0"), "{reply}");
    client
}

#[test]
fn r036_a_login_relays_from_anywhere_as_the_senders_it_is_bound_to_and_under_tls_alone() {
    let relay = Inbox::start();
    let site = with_users("r036-login", &relay, "");
    let gateway = site.start();

    let mut clear = Client::hello(gateway.smtp);
    assert!(clear.log_in("app", "pencil").starts_with("538 5.7.11"));
    assert!(send(&mut clear, "app@solarmora.com").starts_with("550 5.7.1 Relay access denied"));

    let mut client = Client::hello_tls(gateway.smtp);
    let greeting = client.say("EHLO client.example").unwrap();
    assert!(greeting.contains("250-AUTH SCRAM-SHA-256 PLAIN LOGIN\n"), "{greeting}");
    let before = Instant::now();
    assert!(client.log_in("app", "wrong").starts_with("535 5.7.8"));
    assert!(before.elapsed() >= Duration::from_secs(1), "guessing takes time");
    assert!(send(&mut client, "app@solarmora.com").starts_with("550 5.7.1"));
    assert!(client.log_in("app", "pencil").starts_with("235"));
    assert!(client.log_in("app", "pencil").starts_with("503"));
    assert!(send(&mut client, "app@solarmora.com").starts_with("250"));
    for other in [OWN, "", "x@elsewhere.example"] {
        let reply = send(&mut client, other);
        assert!(reply.starts_with("550 5.7.1 Relay access denied: this login"), "{other}: {reply}");
    }
    let received = relay.wait(1).remove(0).text();
    assert!(received.contains("with ESMTPSA"), "{received}");
    assert!(!received.contains("Authenticated"), "{received}");

    // Any sender of the organisation, no other.
    let mut ani = logged_in(&gateway, OWN, "s3cret");
    assert!(send(&mut ani, "budi@solarmora.com").starts_with("250"));
    assert!(send(&mut ani, "x@elsewhere.example").starts_with("550 5.7.1"));
    assert_eq!(gateway.metric("postern_logins", "success"), 2);
    assert_eq!(gateway.metric("postern_logins", "failure"), 1);
    assert_eq!(gateway.metric("postern_relay_denied", "\"login\""), 3);

    // A new password counts at once, and whoever is taken away is nobody in the middle of a session.
    secret(&site, "app", "brush");
    wait_for("the new password", Duration::from_secs(10), || {
        Client::hello_tls(gateway.smtp).log_in("app", "brush").starts_with("235").then_some(())
    });
    assert!(Client::hello_tls(gateway.smtp).log_in("app", "pencil").starts_with("535"));
    site.gateway("  clients: {cidrs: [192.0.2.0/24]}\n");
    wait_for("the login is void", Duration::from_secs(10), || {
        send(&mut ani, OWN).starts_with("550 5.7.1 Relay access denied: client").then_some(())
    });
}

#[test]
fn r036_guessing_is_held_off_and_harms_nobody_else() {
    let relay = Inbox::start();
    let site = with_users("r036-guess", &relay, "    cidrs: [127.0.0.0/8]\n");
    let gateway = site.start();
    std::thread::scope(|threads| {
        for _ in 0..10 {
            threads
                .spawn(|| assert!(Client::hello_tls(gateway.smtp).log_in("app", "guess").starts_with("535")));
        }
    });
    let mut client = Client::hello_tls(gateway.smtp);
    assert!(client.log_in("app", "pencil").starts_with("454 4.7.0"), "even the right one");
    assert!(send(&mut client, OWN).starts_with("250"), "the network is still allowed");
    assert_eq!(gateway.metric("postern_logins", "held_off"), 1);
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Chain and key, PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

#[test]
fn r036_a_certificate_lets_in_and_a_strange_one_does_not_break_tls() {
    let relay = Inbox::start();
    let site = Site::new("r036-mtls", relay.address);
    let (ours, next, strange) = (Authority::new("ours"), Authority::new("next"), Authority::new("strange"));
    site.ca("client-ca", &ours.0.pem());
    let clients = |more: &str| {
        format!(
            "  clients:\n    mutualTLS: {{caRef: {{kind: ConfigMap, name: client-ca, key: ca.crt}}, subjects: [crm.solarmora.com]}}\n{more}"
        )
    };
    site.gateway(&clients(""));
    let gateway = site.start();
    let answer = |certificate: Option<&(String, String)>| {
        let certificate = certificate.map(|(chain, key)| (chain.as_str(), key.as_str()));
        send(&mut Client::hello_tls_as(gateway.smtp, certificate), OWN)
    };
    let (good, other) = (ours.issue("CRM.solarmora.com"), ours.issue("erp.solarmora.com"));
    let bad = strange.issue("crm.solarmora.com");
    let own = rcgen::generate_simple_self_signed(["crm.solarmora.com".to_owned()]).unwrap();
    let own = (own.cert.pem(), own.signing_key.serialize_pem());
    assert!(answer(Some(&good)).starts_with("250"));
    for certificate in [None, Some(&other), Some(&bad), Some(&own)] {
        assert!(answer(certificate).starts_with("550 5.7.1 Relay access denied"));
    }
    // Allowed for another reason: the certificate does not matter.
    site.gateway(&clients("    cidrs: [127.0.0.0/8]\n"));
    wait_for("the network is allowed", Duration::from_secs(10), || {
        answer(None).starts_with("250").then_some(())
    });
    for certificate in [Some(&good), Some(&other), Some(&bad), Some(&own)] {
        assert!(answer(certificate).starts_with("250"));
    }
    // Another authority, without a restart.
    site.gateway(&clients(""));
    site.ca("client-ca", &next.0.pem());
    let fresh = next.issue("crm.solarmora.com");
    wait_for("the new authority", Duration::from_secs(10), || {
        answer(Some(&fresh)).starts_with("250").then_some(())
    });
    assert!(answer(Some(&good)).starts_with("550"));
    assert!(answer(None).starts_with("550"));
}

#[test]
fn r037_a_client_that_is_not_listed_is_told_at_rcpt_counted_and_goes_on() {
    let relay = Inbox::start();
    let site = Site::new("r037", relay.address);
    site.gateway("  clients: {cidrs: [192.0.2.0/24]}\n");
    let gateway = site.start();
    let mut client = Client::hello(gateway.smtp);
    for from in [OWN, "", "x@elsewhere.example"] {
        assert!(client.say(&format!("MAIL FROM:<{from}>")).unwrap().starts_with("250"));
        let reply = client.say(&format!("RCPT TO:<{PARTNER}>")).unwrap();
        assert!(reply.starts_with("550 5.7.1 Relay access denied: client address not allowed"), "{reply}");
        assert!(client.say("RSET").unwrap().starts_with("250"));
    }
    assert_eq!(gateway.metric("postern_relay_denied", "\"client\""), 3);
    assert_eq!(gateway.queued(), 0);
}

#[test]
fn r039_tls_is_always_offered_and_can_be_demanded_for_mail_and_for_logins() {
    let relay = Inbox::start();
    let site = with_users("r039", &relay, "  listeners: [{name: smtp, port: 2525, tls: Required}]\n");
    let gateway = site.start();
    let mut client = Client::connect(gateway.smtp).unwrap();
    assert!(client.say("EHLO c").unwrap().contains("STARTTLS"));
    assert!(client.log_in("app", "pencil").starts_with("530 5.7.0 Must issue a STARTTLS command first"));
    client.raw(b"MAIL FROM:<>\r\nBDAT 6 LAST\r\nQUIT\r\n").unwrap();
    for _ in 0..2 {
        assert!(client.reply().unwrap().starts_with("530 5.7.0"));
    }
    assert!(client.say("NOOP").unwrap().starts_with("250"), "the chunk was no command");
    assert!(send(&mut logged_in(&gateway, "app", "pencil"), "app@solarmora.com").starts_with("250"));
}

#[test]
fn r117_who_has_logged_in_is_the_sender_whatever_the_envelope_says() {
    let relay = Inbox::start();
    let site = with_users("r117-login", &relay, "    cidrs: [127.0.0.0/8]\n  directoryRef: {name: main}\n");
    site.add(
        "Directory",
        "main",
        &format!(
            "  users: [{{address: {OWN}, unit: /sales}}, {{address: budi@solarmora.com, unit: /law}}]\n"
        ),
    );
    site.add(
        "RoutingRule",
        "sales",
        "  messages: [Outbound]\n  organizationalUnit: /sales\n  action: {reject: {notice: Not from sales}}\n",
    );
    let gateway = site.start();
    let rejected = |reply: &str| reply.starts_with("550 5.7.1 Not from sales");
    // By the envelope: Ani is in sales, Budi is not.
    let mut nobody = Client::hello_tls(gateway.smtp);
    assert!(rejected(&send(&mut nobody, OWN)));
    assert!(send(&mut nobody, "budi@solarmora.com").starts_with("250"));
    // Ani stays Ani, whoever the envelope says she is.
    let mut ani = logged_in(&gateway, OWN, "s3cret");
    let reply = send(&mut ani, "budi@solarmora.com");
    assert!(rejected(&reply), "{reply}");
    // The decision says why it took her for the sender.
    let log = site.folder.0.join("state/spool/decisions");
    let written = wait_for("the decision is on disk", Duration::from_secs(10), || {
        let files = std::fs::read_dir(&log).ok()?.flatten();
        let text: String = files.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect();
        text.contains("\"source\":\"authenticated\"").then_some(text)
    });
    let line = written.lines().find(|line| line.contains("\"source\":\"authenticated\"")).unwrap();
    assert!(line.contains(OWN) && line.contains("/sales"), "{line}");
}

#[test]
fn r160_a_client_that_hands_in_too_much_is_told_to_come_later_a_login_by_itself() {
    let relay = Inbox::start();
    let site = with_users(
        "r160-clients",
        &relay,
        "    cidrs: [127.0.0.0/8]\n  limits: {messagesPerMinutePerClient: 3}\n",
    );
    let gateway = site.start();
    let mut client = Client::hello(gateway.smtp);
    for _ in 0..3 {
        assert!(send(&mut client, OWN).starts_with("250"));
    }
    assert_eq!(send(&mut client, OWN), "450 4.7.1 Rate limit exceeded (3 per minute)");
    // The same address with another connection, and the same client as somebody.
    assert!(send(&mut Client::hello_tls(gateway.smtp), OWN).starts_with("450 4.7.1"));
    let mut app = logged_in(&gateway, "app", "pencil");
    for _ in 0..3 {
        assert!(send(&mut app, "app@solarmora.com").starts_with("250"));
    }
    assert!(send(&mut app, "app@solarmora.com").starts_with("450 4.7.1"));
    assert_eq!(gateway.metric("postern_rate_limited", ""), 3);
    relay.wait(6);
}

#[test]
fn r161_content_in_chunks_arrives_as_it_was_and_only_what_data_could_carry() {
    let relay = Inbox::start();
    let site = Site::new("r161", relay.address);
    site.gateway("  limits: {messageSize: 100Ki, recipients: 2}\n");
    let gateway = site.start();
    let mut client = Client::hello(gateway.smtp);
    let start = |client: &mut Client| {
        for line in [format!("MAIL FROM:<{OWN}>"), format!("RCPT TO:<{PARTNER}>")] {
            assert!(client.say(&line).unwrap().starts_with("250"));
        }
    };
    let dots = format!("{}.\r\n..\r\n.x\r\n{}", message("dots"), "long line ".repeat(3000) + "\r\n");
    for size in [1 << 20, 1000, 7] {
        start(&mut client);
        let reply = client.chunks(dots.as_bytes(), size).unwrap();
        assert!(reply.starts_with("250 2.0.0 Ok: queued"), "{reply}");
    }
    for mail in relay.wait(3) {
        assert!(mail.content.ends_with(dots.as_bytes()), "{}", mail.text());
    }
    for bad in ["one\ntwo\r\n", "one\r\rtwo\r\n", "x\r\n.\nMAIL FROM:<>\r\n", "nul\0\r\n"] {
        start(&mut client);
        let reply = client.chunks(format!("{}{bad}", message("bad")).as_bytes(), 50).unwrap();
        assert!(reply.starts_with("554 5.6.0"), "{bad:?}: {reply}");
        client.say("RSET").unwrap();
    }
    start(&mut client);
    let reply = client.chunks(&vec![b'x'; 200 << 10], 64 << 10).unwrap();
    assert!(reply.starts_with("552 5.3.4"), "{reply}");
    start(&mut client);
    assert!(client.say("RCPT TO:<c@partner.example>").unwrap().starts_with("250"));
    assert!(client.say("RCPT TO:<d@partner.example>").unwrap().starts_with("452 4.5.3"));
    client.say("RSET").unwrap();
    assert!(send(&mut client, OWN).starts_with("250"), "the connection is still good");
    relay.wait(4);
}
