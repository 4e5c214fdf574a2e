//! Inspection against a DNS server and a classifier on loopback.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::{Ed25519Key, RsaKey, Sha256, SigningKey};
use mail_auth::common::headers::HeaderWriter;
use mail_auth::dkim::{Canonicalization, DkimSigner};
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::bundle::document::{ObjectId, ObjectKind, Origin};
use crate::delivery::authority::Authority;
use crate::mail::envelope::{Recipient, Sender};

const RECEIVED: &str = "Received: from us\r\n";
const MAIL: &str = "From: Ani <ani@solarmora.example>\r\nTo: b@partner.example\r\nSubject: Laporan\r\n\r\nbody\r\n\r\n \t\r\n";
/// Without white lines at the end, whose relaxed form the library that signs here gets wrong.
const PLAIN: &str =
    "From: Ani <ani@solarmora.example>\r\nTo: b@partner.example\r\nSubject: Laporan\r\n\r\nbody\r\n";
const BOTH: Needs = Needs { authentication: true, classification: true };

fn gateway(dns: SocketAddr) -> Gateway {
    let object = ObjectId { kind: ObjectKind::OutboundGateway, namespace: "ns".into(), name: "gw".into() };
    let origin = Origin { object, uid: "u".into(), generation: 1 };
    Gateway { dns_servers: vec![dns], ..Gateway::new(origin) }
}

fn envelope(from: &str) -> Envelope {
    let mailbox = (!from.is_empty()).then(|| from.parse().unwrap());
    let to = Recipient::new("b@partner.example".parse().unwrap());
    Envelope { sender: Sender { mailbox, ..Sender::default() }, recipients: vec![to] }
}

struct Case<'a> {
    gateway: &'a Gateway,
    from: &'a str,
    client: &'a str,
    mail: &'a [u8],
}

impl Case<'_> {
    async fn inspect(&self, inspector: &Inspector) -> Findings {
        let content = Content::from([RECEIVED.as_bytes(), self.mail].concat());
        let arrived = Arrived {
            id: "ID1",
            client: self.client.parse().unwrap(),
            helo: "client.solarmora.example",
            envelope: &envelope(self.from),
            content: &content,
            received: RECEIVED.len(),
        };
        inspector.inspect(BOTH, self.gateway, arrived).await
    }

    async fn authenticated(&self) -> Vec<String> {
        let found = self.inspect(&Inspector::default()).await;
        found.authenticated.iter().map(ToString::to_string).collect()
    }
}

/// A key and its DNS record.
fn rsa() -> (RsaKey<Sha256>, String) {
    let pair = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let key = RsaKey::from_key_der(PrivateKeyDer::try_from(pair.serialize_der()).unwrap()).unwrap();
    (key, format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(pair.subject_public_key_info())))
}

fn ed25519() -> (Ed25519Key, String) {
    let key = Ed25519Key::from_pkcs8_der(&Ed25519Key::generate_pkcs8().unwrap()).unwrap();
    let record = format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(key.public_key()));
    (key, record)
}

fn sign(key: impl SigningKey, domain: &str, headers: &[&str], form: Canonicalization, mail: &str) -> Vec<u8> {
    let signer = DkimSigner::from_key(key).domain(domain).selector("s").headers(headers.iter().copied());
    let signer = signer.header_canonicalization(form).body_canonicalization(form);
    [signer.sign(mail.as_bytes()).unwrap().to_header().as_bytes(), mail.as_bytes()].concat()
}

#[tokio::test]
async fn r113_spf_vouches_for_the_envelope_senders_domain_when_it_lists_the_client() {
    let authority = Authority::start(&[
        "solarmora.example. TXT v=spf1 include:_spf.provider.example -all",
        "_spf.provider.example. TXT v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 a:mail.provider.example ?all",
        "mail.provider.example. A 198.51.100.7",
        "client.solarmora.example. TXT v=spf1 ip4:192.0.2.1 -all",
        "xn--bcher-kva.example. TXT v=spf1 ip4:192.0.2.1 -all",
        "soft.example. TXT v=spf1 ~all",
        "twice.example. TXT v=spf1 include:twice.example -all",
    ])
    .await;
    let gateway = gateway(authority.address);
    for (from, client, expected) in [
        ("ani@solarmora.example", "192.0.2.9", &["solarmora.example"][..]),
        ("ani@solarmora.example", "::ffff:192.0.2.9", &["solarmora.example"]),
        ("ani@solarmora.example", "2001:db8::1", &["solarmora.example"]),
        ("ani@solarmora.example", "198.51.100.7", &["solarmora.example"]),
        ("ani@solarmora.example", "203.0.113.1", &[]),
        ("ani@bücher.example", "192.0.2.1", &["bücher.example"]),
        // The null sender is that of HELO.
        ("", "192.0.2.1", &["client.solarmora.example"]),
        ("", "192.0.2.9", &[]),
        ("a@soft.example", "192.0.2.9", &[]),
        ("a@twice.example", "192.0.2.9", &[]),
        ("a@no-record.example", "192.0.2.9", &[]),
        ("a@[192.0.2.9]", "192.0.2.9", &[]),
    ] {
        let case = Case { gateway: &gateway, from, client, mail: MAIL.as_bytes() };
        assert_eq!(case.authenticated().await, expected, "{from} {client}");
    }
}

#[tokio::test]
async fn r113_dkim_vouches_for_the_signing_domain_of_an_unchanged_message() {
    let ((rsa, rsa_record), (ed, ed_record)) = (rsa(), ed25519());
    let ed_again = Ed25519Key::generate_pkcs8().unwrap();
    let authority = Authority::start(&[
        &format!("s._domainkey.rsa.example. TXT {rsa_record}"),
        &format!("s._domainkey.ed.example. TXT {ed_record}"),
        &format!("s._domainkey.other.example. TXT {ed_record}"),
        "s._domainkey.revoked.example. TXT v=DKIM1; k=ed25519; p=",
    ])
    .await;
    let gateway = gateway(authority.address);
    let authenticated = async |mail: &[u8]| {
        let case = Case { gateway: &gateway, from: "x@nowhere.example", client: "192.0.2.9", mail };
        case.authenticated().await
    };
    let (relaxed, simple) = (Canonicalization::Relaxed, Canonicalization::Simple);
    let by_rsa = sign(rsa, "rsa.example", &["From", "Subject"], relaxed, PLAIN);
    assert_eq!(authenticated(&by_rsa).await, ["rsa.example"]);
    let large = format!("{PLAIN}{}", "a line of a large body\r\n".repeat(20_000));
    let by_ed = sign(ed, "ed.example", &["from", "to"], simple, &large);
    assert_eq!(authenticated(&by_ed).await, ["ed.example"]);
    let stranger = Ed25519Key::from_pkcs8_der(&ed_again).unwrap();
    assert_eq!(authenticated(&sign(stranger, "other.example", &["From"], relaxed, PLAIN)).await, [""; 0]);

    let text = String::from_utf8(by_rsa).unwrap();
    for (changed, why) in [
        (text.replace("body", "evil"), "body"),
        (text.replace("Laporan", "Evil"), "subject"),
        (text.replace("ani@", "eve@"), "from"),
        (format!("From: eve@evil.example\r\n{text}"), "a second From on top"),
        (text.replace("rsa-sha256", "rsa-sha1"), "SHA-1"),
        (text.replace("; t=", "; x=1; t="), "expired"),
        (text.replace("; t=", "; l=1; t="), "a part of the body"),
        (text.replace("d=rsa.example", "d=revoked.example"), "revoked"),
        (text.replace("d=rsa.example", "d=gone.example"), "no key"),
    ] {
        assert_ne!(changed, text, "{why}");
        assert_eq!(authenticated(changed.as_bytes()).await, [""; 0], "{why}");
    }
    let added = format!("X-Mailer: relay\r\nReceived: from a\r\n{text}");
    assert_eq!(authenticated(added.as_bytes()).await, ["rsa.example"]);
}

#[tokio::test]
async fn a_signature_that_leaves_from_out_vouches_for_nobody() {
    let (key, record) = ed25519();
    let authority = Authority::start(&[&format!("s._domainkey.ed.example. TXT {record}")]).await;
    let mail = sign(key, "ed.example", &["Subject"], Canonicalization::Relaxed, PLAIN);
    let gateway = gateway(authority.address);
    let case = Case { gateway: &gateway, from: "x@nowhere.example", client: "192.0.2.9", mail: &mail };
    assert_eq!(case.authenticated().await, [""; 0]);
}

#[tokio::test]
async fn many_signatures_cost_no_more_than_ten_questions() {
    let authority = Authority::start(&[]).await;
    let signature = |n| {
        format!(
            "DKIM-Signature: v=1; a=rsa-sha256; d=d{n}.example; s=s; c=relaxed/relaxed; h=From;\r\n\t\
             bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA\r\n"
        )
    };
    let signatures: String = (0..500).map(signature).collect();
    let mail = format!("{signatures}From: a@b.example\r\n\r\n");
    let gateway = gateway(authority.address);
    let inspector = Inspector::default();
    let case =
        Case { gateway: &gateway, from: "x@nowhere.example", client: "192.0.2.9", mail: mail.as_bytes() };
    assert_eq!(case.inspect(&inspector).await, Findings::default());
    let failed = [("method", "dkim"), ("result", "fail")];
    assert_eq!(inspector.metrics.authentication.get_or_create(&failed).get(), 10);
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_from_dns_nobody_is_authenticated_and_mail_goes_on() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (key, _) = ed25519();
    let mail = sign(key, "ed.example", &["From"], Canonicalization::Relaxed, PLAIN);
    let gateway = gateway(silent.local_addr().unwrap());
    let inspector = Inspector::default();
    let case = Case { gateway: &gateway, from: "a@solarmora.example", client: "192.0.2.9", mail: &mail };
    assert_eq!(case.inspect(&inspector).await, Findings::default());
    for method in ["spf", "dkim"] {
        let unanswered = [("method", method), ("result", "unanswered")];
        assert_eq!(inspector.metrics.authentication.get_or_create(&unanswered).get(), 1, "{method}");
    }
}

/// Answers like rspamd, and keeps what it was asked.
struct Classifier {
    base: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Classifier {
    /// `answer`: a whole HTTP response; empty: never says anything.
    async fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&asked), answer.to_owned());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                let complete = |request: &[u8]| {
                    let text = String::from_utf8_lossy(request).into_owned();
                    let (head, body) = text.split_once("\r\n\r\n")?;
                    let length = head.split_once("content-length: ")?.1.lines().next()?.parse().ok()?;
                    (body.len() >= length).then_some(text)
                };
                let text = loop {
                    if stream.read_buf(&mut request).await.unwrap() == 0 {
                        break String::new();
                    }
                    if let Some(text) = complete(&request) {
                        break text;
                    }
                };
                kept.lock().unwrap().push(text);
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { base, asked }
    }

    fn saying(json: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{json}", json.len())
    }
}

async fn classified(base: &str) -> (Spam, u64) {
    let authority = Authority::start(&[]).await;
    let gateway = Gateway { rspamd: Some(base.to_owned()), ..gateway(authority.address) };
    let inspector = Inspector::default();
    let case =
        Case { gateway: &gateway, from: "ani@solarmora.example", client: "192.0.2.9", mail: MAIL.as_bytes() };
    let spam = case.inspect(&inspector).await.spam;
    (spam, inspector.metrics.failures.get_or_create(&[("scanner", "rspamd")]).get())
}

#[tokio::test]
async fn r078_the_classifiers_action_says_spam_and_its_symbols_say_phishy() {
    let none = Spam::default();
    let spam = Spam { spam: true, ..none };
    let blatant = Spam { spam: true, blatant: true, ..none };
    for (action, symbols, expected) in [
        ("no action", "", none),
        ("greylist", "", none),
        ("soft reject", "", none),
        ("add header", "", spam),
        ("rewrite subject", "", spam),
        ("reject", "", blatant),
        ("no action", r#""PHISHING": {"score": 4.0}"#, Spam { phishy: true, ..none }),
        (
            "add header",
            r#""PHISHED_OPENPHISH": {"score": 7.0, "options": ["x"]}"#,
            Spam { phishy: true, ..spam },
        ),
        ("no action", r#""PHISHING": {"score": 0.0}, "R_SPF_ALLOW": {"score": -0.2}"#, none),
    ] {
        let answer = format!(
            r#"{{"is_skipped": false, "score": 1.5, "action": "{action}", "symbols": {{{symbols}}}}}"#
        );
        let classifier = Classifier::start(&Classifier::saying(&answer)).await;
        assert_eq!(classified(&classifier.base).await, (expected, 0), "{action} {symbols}");
    }
}

#[tokio::test]
async fn the_classifier_is_told_the_envelope_and_gets_the_message_as_it_came() {
    let classifier = Classifier::start(&Classifier::saying(r#"{"action": "no action"}"#)).await;
    classified(&format!("{}/base/", classifier.base)).await;
    let asked = classifier.asked.lock().unwrap()[0].clone();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /base/checkv2 HTTP/1.1\r\n"), "{head}");
    for line in [
        "from: ani@solarmora.example",
        "rcpt: b@partner.example",
        "ip: 192.0.2.9",
        "helo: client.solarmora.example",
        "queue-id: ID1",
    ] {
        assert!(head.contains(&format!("\r\n{line}")), "{line} is not in {head}");
    }
    assert_eq!(body, MAIL);
}

#[tokio::test]
async fn a_classifier_that_fails_is_counted_and_the_message_is_not_spam() {
    let nobody = crate::delivery::nobody().await;
    for base in [
        format!("http://{nobody}"),
        "http://gone.example:11333".to_owned(),
        "https://127.0.0.1:1".to_owned(),
        "not an address".to_owned(),
        Classifier::start("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await.base,
        Classifier::start(&Classifier::saying("{}")).await.base,
        Classifier::start(&Classifier::saying(r#"{"action": "reject""#)).await.base,
        Classifier::start("what?\r\n\r\n").await.base,
    ] {
        assert_eq!(classified(&base).await, (Spam::default(), 1), "{base}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_classifier_that_says_nothing_is_waited_for_ten_seconds() {
    let classifier = Classifier::start("").await;
    let began = tokio::time::Instant::now();
    assert_eq!(classified(&classifier.base).await, (Spam::default(), 1));
    assert!(began.elapsed() < Duration::from_secs(11), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_no_rule_asks_for_is_not_looked_at() {
    let classifier = Classifier::start(&Classifier::saying(r#"{"action": "reject"}"#)).await;
    let (base, asked) = (classifier.base.clone(), Arc::clone(&classifier.asked));
    let authority = Authority::start(&["solarmora.example. TXT v=spf1 +all"]).await;
    let gateway = Gateway { rspamd: Some(base), ..gateway(authority.address) };
    let content = Content::from(MAIL.as_bytes().to_vec());
    let envelope = envelope("ani@solarmora.example");
    let client = [192, 0, 2, 9].into();
    let mail = Arrived { id: "I", client, helo: "c", envelope: &envelope, content: &content, received: 0 };
    let inspector = Inspector::default();
    assert_eq!(inspector.inspect(Needs::default(), &gateway, mail).await, Findings::default());
    let only = Needs { authentication: true, classification: false };
    let found = inspector.inspect(only, &gateway, mail).await;
    assert_eq!((found.authenticated.len(), found.spam), (1, Spam::default()));
    assert!(asked.lock().unwrap().is_empty());
}
