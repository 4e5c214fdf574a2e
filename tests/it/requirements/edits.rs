//! Requirements of this part, one test each, named by its number (see docs/requirements.md).
//! What edits do to bytes is tested beside them (src/mail/edit/tests, src/delivery/tests/edits.rs).

use crate::support::client::Client;
use crate::support::judge::Judge;
use crate::support::sink::{Authority, Behaviour, Sink};
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::wait;

/// The bytes of the first delivery, as `explain --out` writes them.
fn delivered(judge: &Judge, mail: impl AsRef<[u8]>) -> String {
    let folder = judge.folder.0.join("out");
    std::fs::remove_dir_all(&folder).ok();
    let out = folder.display().to_string();
    judge.explain(mail, &["--from", OWN, "--to", PARTNER, "--out", &out]);
    String::from_utf8(std::fs::read(folder.join("001.eml")).expect("a delivery")).expect("UTF-8")
}

#[test]
fn r081_e6_a_prefix_stands_once_before_the_subject_however_often_mail_passes() {
    let judge = Judge::new(&Judge::routing("mark", "{modify: {subjectPrefix: Rahasia}}", ""));
    let once = delivered(&judge, message("Laporan bulanan"));
    assert!(once.contains("\r\nSubject: [Rahasia] Laporan bulanan\r\n"), "{once}");
    assert_eq!(delivered(&judge, &once), once);
}

#[test]
fn r080_a_header_of_a_rule_is_encoded_and_everything_else_stays_as_it_came() {
    let action = "{modify: {headers: [{name: X-Why, value: 'Grüße {rule}'}]}}";
    let judge = Judge::new(&Judge::routing("mark", action, ""));
    let mail = message("s");
    let out = delivered(&judge, &mail);
    let (added, rest) = out.split_at(out.len() - mail.len());
    assert_eq!(rest, mail);
    assert!(added.starts_with("X-Why: =?utf-8?") && added.is_ascii(), "{added}");
}

#[test]
fn r107_requiretls_is_offered_under_tls_and_kept_to_the_next_hop() {
    let authority = Authority::new();
    let mut behaviour = Behaviour::with_tls(authority.server(&["127.0.0.1"]));
    behaviour.extensions.push("REQUIRETLS".to_owned());
    let sink = wait(Sink::start(behaviour));
    let site = Site::new("requiretls", sink.address);
    site.ca("ca", &authority.pem());
    let ca = "require: false, caRef: {kind: ConfigMap, name: ca, key: ca.crt}";
    site.route("relay", sink.address, ca);
    let gateway = site.start();

    let mut clear = Client::hello(gateway.smtp);
    assert!(!clear.say("EHLO client.example").unwrap().contains("REQUIRETLS"));
    let refused = clear.say(&format!("MAIL FROM:<{OWN}> REQUIRETLS")).unwrap();
    assert!(refused.starts_with('5'), "{refused}");

    let mut client = Client::hello_tls(gateway.smtp);
    assert!(client.say("EHLO client.example").unwrap().contains("REQUIRETLS"));
    for line in [format!("MAIL FROM:<{OWN}> REQUIRETLS"), format!("RCPT TO:<{PARTNER}>")] {
        let reply = client.say(&line).unwrap();
        assert!(reply.starts_with("250"), "{line}: {reply}");
    }
    assert!(client.say("DATA").unwrap().starts_with("354"));
    let reply = client.say(&format!("{}.", message("protected"))).unwrap();
    assert!(reply.starts_with("250"), "{reply}");
    let mail = wait(sink.wait_for(1)).remove(0);
    assert!(mail.tls && mail.mail.contains(" REQUIRETLS"), "{}", mail.mail);
}

#[test]
fn r107_who_asks_for_delivery_before_protection_gets_it_where_nobody_demands_otherwise() {
    // A certificate of a stranger, for another name: encrypted all the same, and the wish goes on with the mail.
    let sink = wait(Sink::start(Behaviour::with_tls(Authority::new().server(&["other.example"]))));
    let site = Site::new("tls-required-no", sink.address);
    let gateway = site.start();
    let mut client = Client::hello_tls(gateway.smtp);
    let mail = format!("TLS-Required: No\r\n{}", message("anyhow"));
    assert!(client.send(OWN, &[PARTNER], &mail).unwrap().starts_with("250"));
    let got = wait(sink.wait_for(1)).remove(0);
    assert!(got.tls && String::from_utf8_lossy(&got.content).contains("TLS-Required: No\r\n"));
}
