//! S/MIME on a whole gateway: certificates out of ConfigMap, Secret and a real LDAP server, mail read back and
//! verified by `openssl cms` (spec R103-R106).

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::client::send;
use crate::support::gateway::Folder;
use crate::support::inbox::{Delivered, Inbox};
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::slapd::{BASE, PASSWORD, Slapd};
use crate::support::wait_for;

const OTHER: &str = "c@partner.example";

/// A key and a certificate for an address.
struct Identity {
    folder: Folder,
}

impl Identity {
    fn new(name: &str, address: &str) -> Self {
        let identity = Self { folder: Folder::new(&format!("identity-{name}")) };
        let name = format!("subjectAltName=email:{address}");
        let (key, certificate) = (identity.path("key.pem"), identity.path("cert.pem"));
        identity.openssl(&[
            "req",
            "-x509",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=somebody",
            "-newkey",
            "rsa:2048",
            "-addext",
            &name,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]);
        identity
    }

    fn path(&self, name: &str) -> String {
        self.folder.0.join(name).display().to_string()
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("openssl wrote it")
    }

    fn openssl(&self, options: &[&str]) -> Vec<u8> {
        let output =
            Command::new("openssl").args(options).output().expect("openssl is there: run `make deps`");
        assert!(output.status.success(), "openssl {options:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn written(&self, content: &[u8]) -> String {
        let file: PathBuf = self.folder.0.join("mail.eml");
        std::fs::write(&file, content).expect("writable");
        file.display().to_string()
    }

    /// What its owner reads.
    fn decrypted(&self, content: &[u8]) -> Vec<u8> {
        let (file, key, certificate) = (self.written(content), self.path("key.pem"), self.path("cert.pem"));
        self.openssl(&[
            "cms",
            "-decrypt",
            "-inform",
            "SMIME",
            "-in",
            &file,
            "-inkey",
            &key,
            "-recip",
            &certificate,
        ])
    }

    /// What its owner signed.
    fn verified(&self, content: &[u8]) -> String {
        let (file, certificate) = (self.written(content), self.path("cert.pem"));
        let out =
            self.openssl(&["cms", "-verify", "-inform", "SMIME", "-in", &file, "-CAfile", &certificate]);
        String::from_utf8(out).expect("text")
    }
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n    ")
}

/// A gateway that knows these certificates of recipients, and these identities of senders.
fn site(name: &str, inbox: &Inbox, recipients: &[&Identity], senders: &[&Identity], more: &str) -> Site {
    let site = Site::new(name, inbox.address);
    let all: String = recipients.iter().map(|one| one.text("cert.pem")).collect();
    let mut objects = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: partners}}\ndata:\n  all.pem: |\n    {}\n",
        indented(&all)
    );
    let mut signing = String::new();
    for (at, sender) in senders.iter().enumerate() {
        let (certificate, key) = (indented(&sender.text("cert.pem")), indented(&sender.text("key.pem")));
        let _ = write!(
            objects,
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: sender-{at}}}\ntype: kubernetes.io/tls\n\
             stringData:\n  tls.crt: |\n    {certificate}\n  tls.key: |\n    {key}\n"
        );
        let _ = write!(signing, "{{secretRef: {{name: sender-{at}}}}},");
    }
    site.folder.write("config/identities.yaml", &objects);
    let from = match recipients {
        [] => String::new(),
        _ => "certificatesFrom: [{configMapRef: {name: partners, key: all.pem}}], ".to_owned(),
    };
    site.gateway(&format!("  smime: {{{from}signingFrom: [{signing}]{more}}}\n"));
    site
}

fn encrypted(mail: &Delivered) -> bool {
    mail.header("Content-Type").is_some_and(|kind| kind.contains("pkcs7-mime"))
}

fn of<'a>(mail: &'a [Delivered], to: &str) -> &'a Delivered {
    mail.iter().find(|one| one.to.iter().any(|address| address.contains(to))).expect("it was delivered")
}

#[test]
fn r103_r105_a_message_is_split_by_who_has_a_certificate() {
    let partner = Identity::new("split", PARTNER);
    for (cipher, kind) in [("", "authEnveloped-data"), (", cipher: Aes256Cbc", "enveloped-data")] {
        let inbox = Inbox::start();
        let site = site("r105", &inbox, &[&partner], &[], cipher);
        site.rule("seal", "{modify: {encryption: {smime: {encrypt: true}}}}");
        let gateway = site.start();
        assert!(send(gateway.smtp, OWN, &[PARTNER, OTHER], &message("split")).starts_with("250"));
        let mail = inbox.wait(2);
        let (sealed, open) = (of(&mail, PARTNER), of(&mail, OTHER));
        assert!(encrypted(sealed) && !sealed.text().contains("body of"), "{}", sealed.text());
        assert!(sealed.text().contains(&format!("smime-type={kind}")), "{}", sealed.text());
        assert!(!encrypted(open) && open.text().contains("body of split"));
        let read = String::from_utf8(partner.decrypted(&sealed.content)).expect("text");
        assert!(read.contains("body of split"), "{read}");
    }
}

#[test]
fn r103_r105_without_a_certificate_the_message_is_refused_in_the_words_of_the_specification() {
    let inbox = Inbox::start();
    let partner = Identity::new("refused", PARTNER);
    let site = site("r105-refused", &inbox, &[&partner], &[], "");
    site.rule("seal", "{modify: {encryption: {smime: {encrypt: true, bounceIfUnable: true}}}}");
    let gateway = site.start();
    let reply = send(gateway.smtp, OWN, &[OTHER], &message("x"));
    assert_eq!(reply.trim_end(), format!("550 5.7.5 Cannot encrypt for {OTHER}: no valid certificate"));
    // One of two: it gets the message, the other one is reported.
    assert!(send(gateway.smtp, OWN, &[PARTNER, OTHER], &message("y")).starts_with("250"));
    let report = wait_for("the report", Duration::from_secs(20), || {
        inbox.mail().into_iter().find(|mail| mail.to.iter().any(|to| to.contains(OWN)))
    });
    assert!(
        report.text().contains(&format!("Cannot encrypt for {OTHER}: no valid certificate")),
        "{}",
        report.text()
    );
    let mail = inbox.wait(2);
    assert!(encrypted(of(&mail, PARTNER)));
    assert!(!mail.iter().any(|mail| mail.to.iter().any(|to| to.contains(OTHER))));
}

#[test]
fn r105_r106_mail_is_signed_with_the_sender_s_key_and_then_encrypted() {
    let inbox = Inbox::start();
    let (ani, partner) = (Identity::new("ani", OWN), Identity::new("partner", PARTNER));
    let site = site("r106", &inbox, &[&partner], &[&ani], "");
    site.rule("seal", "{modify: {subjectPrefix: P, encryption: {smime: {encrypt: true, sign: true}}}}");
    let gateway = site.start();
    assert!(send(gateway.smtp, OWN, &[PARTNER, OTHER], &message("both")).starts_with("250"));
    let mail = inbox.wait(2);
    let signed = partner.decrypted(&of(&mail, PARTNER).content);
    assert!(ani.verified(&signed).contains("body of both"));
    // Who has no certificate sees the text, and the signature.
    let open = of(&mail, OTHER);
    assert!(open.header("Content-Type").is_some_and(|kind| kind.contains("multipart/signed")));
    assert_eq!(open.header("Subject").as_deref(), Some("[P] both"));
    assert!(ani.verified(&open.content).contains("body of both"));
    // Nobody gets a signature by writing somebody else's name.
    assert!(send(gateway.smtp, "budi@solarmora.com", &[OTHER], &message("forged")).starts_with("250"));
    assert!(!inbox.wait(3)[2].text().contains("multipart/signed"));
    site.rule("seal", "{modify: {encryption: {smime: {sign: true, bounceIfUnable: true}}}}");
    let reply = wait_for("the rule holds", Duration::from_secs(10), || {
        let reply = send(gateway.smtp, "budi@solarmora.com", &[OTHER], &message("forged"));
        reply.starts_with('5').then_some(reply)
    });
    assert_eq!(reply.trim_end(), "550 5.7.5 Cannot sign for budi@solarmora.com: no valid certificate");
}

#[test]
fn r105_certificates_of_recipients_come_out_of_ldap() {
    let inbox = Inbox::start();
    let (partner, liar) = (Identity::new("ldap", PARTNER), Identity::new("liar", "ceo@partner.example"));
    let entry = |name: &str, mail: &str, identity: &Identity| {
        let der = identity.openssl(&["x509", "-in", &identity.path("cert.pem"), "-outform", "DER"]);
        format!(
            "dn: cn={name},ou=partners,{BASE}\nobjectClass: inetOrgPerson\ncn: {name}\nsn: {name}\nmail: {mail}\n\
             userCertificate;binary:: {}\n\n",
            STANDARD.encode(der)
        )
    };
    let people = format!(
        "dn: ou=partners,{BASE}\nobjectClass: organizationalUnit\nou: partners\n\n{}{}",
        entry("partner", PARTNER, &partner),
        // A certificate for somebody else does not count for this entry.
        entry("liar", OTHER, &liar)
    );
    let server = Slapd::start(&people);
    let site = Site::new("r105-ldap", inbox.address);
    site.ca("ldap-ca", &server.ca);
    site.folder.write(
        "config/reader.yaml",
        &format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: reader}}\ntype: kubernetes.io/basic-auth\n\
             stringData: {{username: \"cn=reader,{BASE}\", password: \"{PASSWORD}\"}}\n"
        ),
    );
    let ldap = format!(
        "  users: [{{address: {OWN}}}]\n  ldap:\n    url: ldaps://localhost:{}\n    \
         caRef: {{kind: ConfigMap, name: ldap-ca, key: ca.crt}}\n    bindRef: {{name: reader}}\n    baseDN: {BASE}\n    \
         refresh: 1s\n    mapping: {{users: {{filter: (cn=nobody)}}, certificates: {{baseDN: \"ou=partners,{BASE}\"}}}}\n",
        server.tls
    );
    site.add("Directory", "people", &ldap);
    site.gateway(
        "  directoryRef: {name: people}\n  smime: {certificatesFrom: [{directoryRef: {name: people}}]}\n",
    );
    site.rule("seal", "{modify: {encryption: {smime: {encrypt: true, bounceIfUnable: true}}}}");
    let gateway = site.start();
    gateway.wait_condition("Directory/default/people", "ResolvedRefs", "True");
    wait_for("the certificate is known", Duration::from_secs(20), || {
        send(gateway.smtp, OWN, &[PARTNER], &message("sealed")).starts_with("250").then_some(())
    });
    let read = String::from_utf8(partner.decrypted(&inbox.wait(1)[0].content)).expect("text");
    assert!(read.contains("body of sealed"), "{read}");
    let reply = send(gateway.smtp, OWN, &[OTHER], &message("x"));
    assert!(reply.starts_with("550 5.7.5"), "{reply}");
}

#[test]
fn r104_smime_that_is_off_is_told_and_the_rule_follows_its_switch() {
    let inbox = Inbox::start();
    let site = Site::new("r104", inbox.address);
    site.rule("seal", "{modify: {encryption: {smime: {encrypt: true, sign: true}}}}");
    let gateway = site.start();
    let message_of = gateway.wait_condition("RoutingRule/default/seal", "SMIMEDisabled", "True");
    assert!(
        message_of.contains("no certificates") && message_of.contains("mail goes as it is"),
        "{message_of}"
    );
    gateway.wait_condition("RoutingRule/default/seal", "Accepted", "True");
    assert!(send(gateway.smtp, OWN, &[PARTNER], &message("open")).starts_with("250"));
    assert!(inbox.wait(1)[0].text().contains("body of open"));
    site.rule("seal", "{modify: {encryption: {smime: {encrypt: true, bounceIfUnable: true}}}}");
    wait_for("the rule holds", Duration::from_secs(10), || {
        let reply = send(gateway.smtp, OWN, &[PARTNER], &message("x"));
        reply.starts_with("550 5.7.5").then_some(())
    });
    let message_of = gateway.wait_condition("RoutingRule/default/seal", "SMIMEDisabled", "True");
    assert!(message_of.contains("mail is refused"), "{message_of}");
}
