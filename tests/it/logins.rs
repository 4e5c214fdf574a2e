//! Who the gateway is to its next hops, told by real ones: a Postfix with Dovecot's SASL behind it, a Postfix that
//! wants a certificate (spec R16, R17). Nothing is restarted when credentials change.

use std::time::Duration;

use jiff::Timestamp;

use crate::support::client::send;
use crate::support::dovecot::{self, Dovecot};
use crate::support::gateway::{Folder, Standalone, free_address};
use crate::support::inbox::Inbox;
use crate::support::postfix::{self, Postfix};
use crate::support::sink::{Authority, Behaviour, Sink};
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::{wait, wait_for};

const PASSWORD: &str = "correct horse, battery=staple";
const VERIFIED: &str = "caRef: {kind: ConfigMap, name: ca, key: ca.crt}";
const BASIC: &str = "kubernetes.io/basic-auth";

/// A route named so that logs in by this mechanism, with more terms of TLS.
fn route(site: &Site, name: &str, port: u16, tls: &str, login: &str) {
    site.add(
        "OutboundRoute",
        name,
        &format!(
            "  hosts: [{{host: localhost, port: {port}}}]
  tls: {{{tls}}}
{login}  retry: {{initial: 100ms, max: 500ms}}
"
        ),
    );
}

fn auth(secret: &str, mechanism: &str) -> String {
    format!("  auth: {{credentialsRef: {{name: {secret}}}, mechanism: {mechanism}}}\n")
}

/// Sends mail until the gateway has read what was changed, which shows in an attempt put off for this reason.
fn until_put_off(gateway: &Standalone, reason: &str) {
    let label = format!("reason=\"{reason}\"");
    let deferrals = || gateway.metric("postern_auth_deferrals", &label);
    let before = deferrals();
    wait_for(reason, Duration::from_secs(30), || {
        assert!(send(gateway.smtp, OWN, &[PARTNER], &message(reason)).starts_with("250"));
        // Each message has its answer: it left, or it was put off.
        wait_for("an attempt", Duration::from_secs(20), || {
            (gateway.queued() == 0 || deferrals() > before).then_some(())
        });
        (deferrals() > before).then_some(())
    });
    assert!(gateway.queued() > 0, "it waits");
}

#[test]
fn r016_every_mechanism_logs_in_at_a_real_postfix_and_a_repaired_password_sends_what_waited() {
    let (inbox, folder) = (Inbox::start(), Folder::new("logins-ca"));
    let authority = postfix::Authority::new(&folder.0);
    let dovecot = Dovecot::start("logins-dovecot", PASSWORD);
    let address = free_address();
    let certificate = authority.issue(&["localhost"]);
    let relay = Postfix::start_with(address, Some(certificate), inbox.address, &dovecot.for_postfix());

    let site = Site::new("logins", address);
    site.ca("ca", &authority.certificate());
    let token = dovecot::token(Timestamp::now());
    site.secret("login", BASIC, &[("username", dovecot::USER), ("password", PASSWORD), ("token", &token)]);
    let wire = ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2"];
    let mechanisms = ["Plain", "Login", "CramMd5", "ScramSha256", "XOAuth2"];
    for mechanism in mechanisms {
        let name = mechanism.to_lowercase();
        route(&site, &name, address.port(), VERIFIED, &auth("login", mechanism));
        site.add(
            "RoutingRule",
            &name,
            &format!(
                "  messages: [Outbound]
  description: {name}
  envelope: {{recipients: {{address: {name}@partner.example}}}}
  action: {{modify: {{route: {{name: {name}}}}}}}
"
            ),
        );
    }
    // The default: no login, so this relay takes nothing from it.
    route(&site, "relay", address.port(), VERIFIED, &auth("login", "ScramSha256"));
    let gateway = site.start();
    for mechanism in mechanisms {
        let to = format!("{}@partner.example", mechanism.to_lowercase());
        assert!(send(gateway.smtp, OWN, &[&to], &message(mechanism)).starts_with("250"));
    }
    let got = inbox.wait(mechanisms.len());
    assert_eq!(got.len(), 5, "{}", relay.log());
    let log = relay.log();
    for mechanism in wire {
        let line = format!("sasl_method={mechanism}, sasl_username={}", dovecot::USER);
        assert!(log.contains(&line), "{mechanism}: {log}");
    }
    gateway.wait_empty();

    // A password that is no longer the right one: mail waits, is counted, and leaves when it is repaired.
    site.secret("login", BASIC, &[("username", dovecot::USER), ("password", "wrong"), ("token", "wrong")]);
    until_put_off(&gateway, "AuthRefused");
    assert!(gateway.log().contains("does not let this gateway in"), "{}", gateway.log());
    site.secret("login", BASIC, &[("username", dovecot::USER), ("password", PASSWORD), ("token", &token)]);
    gateway.wait_empty();
    assert_eq!(gateway.metric("postern_deliveries", "result=\"failed\""), 0);
    assert_eq!(gateway.metric("postern_plaintext_deliveries", ""), 0);
    for secret in [PASSWORD, token.as_str(), "wrong"] {
        assert!(!gateway.log().contains(secret), "a secret is in the log");
    }
}

#[test]
fn r016_a_real_postfix_without_the_mechanism_gets_no_mail() {
    let (inbox, folder) = (Inbox::start(), Folder::new("no-login-ca"));
    let authority = postfix::Authority::new(&folder.0);
    let address = free_address();
    // It would take the mail without any login.
    let _relay = Postfix::start(address, Some(authority.issue(&["localhost"])), inbox.address);
    let site = Site::new("no-login", address);
    site.ca("ca", &authority.certificate());
    site.secret("login", BASIC, &[("username", "app"), ("password", PASSWORD)]);
    route(&site, "relay", address.port(), VERIFIED, &auth("login", "Plain"));
    let gateway = site.start();
    until_put_off(&gateway, "AuthNotOffered");
    // The route gives its login up: an administrator's decision, and the mail leaves.
    route(&site, "relay", address.port(), VERIFIED, "");
    inbox.wait(1);
    gateway.wait_empty();
}

#[test]
fn r017_a_real_postfix_that_wants_a_certificate_gets_it_and_a_renewed_one_without_a_restart() {
    let (inbox, folder, other) = (Inbox::start(), Folder::new("mutual-ca"), Folder::new("mutual-other-ca"));
    let authority = postfix::Authority::new(&folder.0);
    let stranger = postfix::Authority::new(&other.0);
    let address = free_address();
    let more = format!(
        "smtpd_tls_security_level = encrypt
smtpd_tls_req_ccert = yes
smtpd_tls_CAfile = {}
mynetworks = 192.0.2.1/32
smtpd_relay_restrictions = permit_tls_all_clientcerts, reject
smtpd_tls_loglevel = 1
",
        folder.0.join("ca.crt").display()
    );
    let relay = Postfix::start_with(address, Some(authority.issue(&["localhost"])), inbox.address, &more);
    let site = Site::new("mutual", address);
    site.ca("ca", &authority.certificate());
    let own = |authority: &postfix::Authority| {
        let (chain, key) = authority.issue(&["gw.solarmora.com"]);
        site.secret("own", "kubernetes.io/tls", &[("tls.crt", &chain), ("tls.key", &key)]);
    };
    own(&stranger);
    let tls = format!("{VERIFIED}, minVersion: TLSv1.3, clientCertificateRef: {{name: own}}");
    route(&site, "relay", address.port(), &tls, "");
    let gateway = site.start();
    // Postfix ends the handshake well and says it in SMTP; a peer that says it by an alert has a test of its own
    // (delivery::tests::mutual).
    let refused = |why: &str| {
        assert!(send(gateway.smtp, OWN, &[PARTNER], &message(why)).starts_with("250"));
        wait_for(why, Duration::from_secs(30), || relay.log().contains(why).then_some(()));
        wait_for("it waits", Duration::from_secs(20), || {
            let log = gateway.log();
            (log.contains("\"reason\":\"Refused\",\"code\":421") && gateway.queued() > 0).then_some(())
        });
    };
    refused("Client certificate not trusted");
    own(&authority);
    let got = inbox.wait(1).remove(0);
    gateway.wait_empty();
    let text = got.text();
    assert!(text.contains("(using TLSv1.3 with cipher"), "{text}");
    assert!(text.contains("gw.solarmora.com") && text.contains("verified OK"), "{text}\n{}", relay.log());

    // And without one, where it is wanted.
    route(&site, "relay", address.port(), VERIFIED, "");
    wait_for("the route without a certificate is read", Duration::from_secs(20), || {
        assert!(send(gateway.smtp, OWN, &[PARTNER], &message("bare")).starts_with("250"));
        wait_for("an attempt", Duration::from_secs(20), || {
            let told = relay.log().contains("No client certificate presented");
            (told || gateway.queued() == 0).then_some(())
        });
        (gateway.queued() > 0).then_some(())
    });
    // A key that belongs to another certificate breaks the route, by name, and its mail waits.
    let ((chain, _), (_, key)) = (authority.issue(&["gw.solarmora.com"]), authority.issue(&["x.example"]));
    site.secret("own", "kubernetes.io/tls", &[("tls.crt", &chain), ("tls.key", &key)]);
    route(&site, "relay", address.port(), &tls, "");
    wait_for("the route is broken", Duration::from_secs(20), || {
        let log = gateway.log();
        log.contains("RouteBroken").then_some(())
    });
    own(&authority);
    gateway.wait_empty();
}

/// R141: terms are read afresh for each attempt; a new authority in a ConfigMap is enough.
#[test]
fn r141_a_new_ca_file_is_used_by_the_next_attempt() {
    let (old, new) = (Authority::called("Old"), Authority::called("New"));
    let sink = wait(Sink::start(Behaviour::with_tls(new.server(&["127.0.0.1"]))));
    let site = Site::new("new-ca", sink.address);
    site.ca("ca", &old.pem());
    site.add(
        "OutboundRoute",
        "relay",
        &format!(
            "  hosts: [{{host: 127.0.0.1, port: {}}}]
  tls: {{{VERIFIED}}}
  onTlsFailure: Defer
  retry: {{initial: 100ms, max: 500ms}}
",
            sink.address.port()
        ),
    );
    let gateway = site.start();
    assert!(send(gateway.smtp, OWN, &[PARTNER], &message("ca")).starts_with("250"));
    wait_for("it is put off", Duration::from_secs(20), || {
        (gateway.metric("postern_deliveries", "result=\"deferred\"") > 0).then_some(())
    });
    assert!(sink.mails().is_empty());
    site.ca("ca", &new.pem());
    assert!(wait(sink.wait_for(1))[0].tls);
    gateway.wait_empty();
}
