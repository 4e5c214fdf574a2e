//! Sender authentication, spam and signatures on a whole gateway, with DNS, a classifier and a next hop on
//! loopback. Messages are signed and verified by other software (dkimpy).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;

use crate::support::authority::Authority;
use crate::support::client::send;
use crate::support::inbox::Inbox;
use crate::support::site::{OWN, PARTNER, Site};
use crate::support::wait;

const STRANGER: &str = "x@sender.example";

/// Answers like rspamd by words in the message: BLATANT, SPAMMY, PHISHY.
fn classifier() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut request, mut block) = (Vec::new(), [0; 4096]);
            let text = loop {
                let text = String::from_utf8_lossy(&request).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                    if length.is_some_and(|length| body.len() >= length.parse().unwrap_or(0)) {
                        break text;
                    }
                }
                match stream.read(&mut block) {
                    Ok(read) if read > 0 => request.extend_from_slice(&block[..read]),
                    _ => break text,
                }
            };
            let action = if text.contains("BLATANT") {
                "reject"
            } else if text.contains("SPAMMY") {
                "add header"
            } else {
                "no action"
            };
            let symbols = if text.contains("PHISHY") { r#""PHISHING": {"score": 5.0}"# } else { "" };
            let json = format!(r#"{{"action": "{action}", "symbols": {{{symbols}}}}}"#);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len());
        }
    });
    address
}

/// A gateway with a classifier; `more` are further lines of its spec.
fn classifying(name: &str, relay: &Inbox, default_route: &str, more: &str) -> Site {
    let site = Site::new(name, relay.address);
    let yaml = format!(
        "apiVersion: postern.dev/v1alpha1\nkind: OutboundGateway\nmetadata: {{name: default}}\nspec:\n  \
         hostname: gw.solarmora.com\n  domains: [solarmora.com]\n  clients: {{cidrs: [127.0.0.0/8]}}\n  \
         defaultRoute: {default_route}\n  contentScanners: {{rspamd: {{url: \"http://{}\"}}}}\n{more}",
        classifier()
    );
    site.folder.write("config/gateway.yaml", &yaml);
    site
}

fn mail(body: &str) -> String {
    format!("From: Ani <{OWN}>\r\nTo: <{PARTNER}>\r\nX-Gm-Spam: 7\r\nSubject: x\r\n\r\n{body}\r\n")
}

/// What the two headers say on each message, in the order in which they came.
fn marks(relay: &Inbox, count: usize) -> Vec<(Option<String>, Option<String>)> {
    let of = |mail: &crate::support::inbox::Delivered| (mail.header("X-Gm-Spam"), mail.header("X-Gm-Phishy"));
    relay.wait(count).iter().map(of).collect()
}

#[test]
fn r078_the_spam_headers_say_what_the_classifier_said_and_not_what_the_client_claims() {
    let relay = Inbox::start();
    let site = classifying("r078", &relay, "{name: relay}", "");
    site.rule("mark", "{modify: {spamHeaders: true}}");
    let gateway = site.start();
    let mark = |spam: &str, phishy: &str| (Some(spam.to_owned()), Some(phishy.to_owned()));
    let mut expected = Vec::new();
    for (body, marks_of) in
        [("hello", mark("0", "0")), ("SPAMMY", mark("1", "0")), ("PHISHY", mark("0", "1"))]
    {
        assert!(send(gateway.smtp, OWN, &[PARTNER], &mail(body)).starts_with("250"), "{body}");
        expected.push(marks_of);
        assert_eq!(marks(&relay, expected.len()), expected);
    }
    let last = relay.wait(3).remove(2).text();
    assert_eq!(last.matches("X-Gm-Spam:").count(), 1, "{last}");
    assert_eq!(gateway.metric("postern_classified", "spam"), 1);
}

#[test]
fn r079_mail_of_the_default_route_carries_the_spam_headers_when_it_says_so() {
    for (route, expected) in
        [("{name: relay, spamHeaders: true}", Some("1".to_owned())), ("{name: relay}", Some("7".to_owned()))]
    {
        let relay = Inbox::start();
        let site = classifying("r079", &relay, route, "");
        let gateway = site.start();
        assert!(send(gateway.smtp, OWN, &[PARTNER], &mail("SPAMMY")).starts_with("250"));
        assert_eq!(marks(&relay, 1)[0].0, expected, "{route}");
    }
}

#[test]
fn r083_blatant_spam_is_refused_or_vanishes_and_only_normal_mail_is_rerouted() {
    let (relay, other) = (Inbox::start(), Inbox::start());
    let site = classifying("r083", &relay, "{name: relay}", "");
    site.route("other", other.address, "require: false");
    site.rule("reroute", "{modify: {route: {name: other}}}");
    let gateway = site.start();
    let reply = send(gateway.smtp, OWN, &[PARTNER], &mail("BLATANT"));
    assert!(reply.starts_with("550 5.7.1"), "{reply}");
    assert!(send(gateway.smtp, OWN, &[PARTNER], &mail("hello")).starts_with("250"));
    other.wait(1);
    assert!(send(gateway.smtp, OWN, &[PARTNER], &mail("SPAMMY")).starts_with("250"));
    assert!(relay.wait(1)[0].text().contains("SPAMMY"));

    let relay = Inbox::start();
    let site = classifying("r083-drop", &relay, "{name: relay}", "  dropBlatantSpam: true\n");
    let gateway = site.start();
    assert!(send(gateway.smtp, OWN, &[PARTNER], &mail("BLATANT")).starts_with("250"));
    assert!(send(gateway.smtp, OWN, &[PARTNER], &mail("after it")).starts_with("250"));
    assert!(relay.wait(1)[0].text().contains("after it"));
}

fn python(arguments: &[&str], message: &[u8]) -> Vec<u8> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/signature.py");
    let mut child = Command::new("/usr/bin/python3")
        .arg(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's python3 is there: run `make deps`");
    child.stdin.take().expect("piped").write_all(message).expect("it reads all of it");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "dkimpy, of Debian's python3-dkim (`make deps`), failed");
    output.stdout
}

/// An RSA key in `folder` and the value of its DNS record.
fn rsa_key(folder: &Path) -> (String, String) {
    let file = folder.join("key.pem").to_str().expect("UTF-8").to_owned();
    let openssl = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).output().expect("openssl is there: run `make deps`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    openssl(&["genrsa", "-traditional", "-out", &file, "2048"]);
    let public = String::from_utf8(openssl(&["rsa", "-in", &file, "-pubout"])).expect("PEM");
    let public: String = public.lines().filter(|line| !line.starts_with('-')).collect();
    (file, format!("v=DKIM1; k=rsa; p={public}"))
}

#[test]
fn r113_only_authenticated_senders_profit_from_a_bypass_list() {
    let relay = Inbox::start();
    let site = Site::new("r113", relay.address);
    let (key, record) = rsa_key(&site.folder.0);
    let authority = wait(Authority::start(&[
        "spf.example. TXT v=spf1 ip4:127.0.0.0/8 -all",
        "other.example. TXT v=spf1 ip4:192.0.2.0/24 -all",
        &format!("s1._domainkey.sender.example. TXT {record}"),
    ]));
    site.gateway(&format!(
        "  clients: {{cidrs: [127.0.0.0/8], allowForeignSenders: true}}\n  dns: {{servers: [\"{}\"]}}\n",
        authority.address
    ));
    site.add(
        "AddressList",
        "friends",
        "  entries: [{domain: spf.example}, {domain: other.example}, {domain: sender.example}]\n",
    );
    let rule = "  messages: [Inbound]\n  match: {words: [rahasia]}\n  addressLists: {mode: Bypass, names: [friends]}\n  \
                action: {reject: {}}\n";
    site.add("ComplianceRule", "word", rule);
    let gateway = site.start();
    let mail = |from: &str| format!("From: <{from}>\r\nTo: <{OWN}>\r\nSubject: x\r\n\r\nrahasia\r\n");
    let code = |envelope: &str, mail: &str| send(gateway.smtp, envelope, &[OWN], mail)[..3].to_owned();

    // By SPF: the envelope sender's domain lists the client, and From is of that domain.
    assert_eq!(code("x@spf.example", &mail("x@spf.example")), "250");
    assert_eq!(code("x@other.example", &mail("x@other.example")), "550");
    assert_eq!(code("x@spf.example", &mail("x@other.example")), "550", "not aligned");

    // By DKIM, whatever the envelope says.
    let signed = python(&["sign", &key, "sender.example", "s1"], mail(STRANGER).as_bytes());
    let signed = String::from_utf8(signed).expect("ASCII");
    assert_eq!(code("bounces@other.example", &signed), "250");
    assert_eq!(code("bounces@other.example", &signed.replace("Subject: x", "Subject: y")), "550");
    assert_eq!(code("bounces@other.example", &mail(STRANGER)), "550");
    assert!(gateway.metric("postern_authentication", "method=\"dkim\",result=\"pass\"") >= 1);
}

/// An Ed25519 key in `folder` and the value of its DNS record.
fn ed25519_key(folder: &Path) -> (String, String) {
    let file = folder.join("ed25519.pem").to_str().expect("UTF-8").to_owned();
    let openssl = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).output().expect("openssl is there: run `make deps`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", &file]);
    let info = openssl(&["pkey", "-in", &file, "-pubout", "-outform", "DER"]);
    // The key itself is at the end of its wrapping.
    let public = base64::engine::general_purpose::STANDARD.encode(&info[info.len() - 32..]);
    (file, format!("v=DKIM1; k=ed25519; p={public}"))
}

/// A site that signs for solarmora.com with both kinds of keys, and the DNS records as a file for dkimpy.
fn signing_site(name: &str, relay: &Inbox) -> (Site, std::path::PathBuf, String) {
    let site = Site::new(name, relay.address);
    let (rsa, rsa_record) = rsa_key(&site.folder.0);
    let (ed, ed_record) = ed25519_key(&site.folder.0);
    let pem = |file: &str| std::fs::read_to_string(file).expect("readable").replace('\n', "\n    ");
    site.folder.write(
        "config/secret.yaml",
        &format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: dkim, labels: {{postern.dev/use: \"true\"}}}}\nstringData:\n  \
             s1.pem: |\n    {}\n  s2.pem: |\n    {}\n",
            pem(&rsa),
            pem(&ed)
        ),
    );
    let key = |selector: &str| {
        format!(
            "{{domain: solarmora.com, selector: {selector}, keyRef: {{name: dkim, key: {selector}.pem}}}}"
        )
    };
    site.gateway(&format!("  dkim: [{}, {}]\n", key("s1"), key("s2")));
    let records = site.folder.write(
        "records",
        &format!(
            "s1._domainkey.solarmora.com. {rsa_record}\ns2._domainkey.solarmora.com. {ed_record}\n\
             upstream._domainkey.solarmora.com. {rsa_record}\n"
        ),
    );
    (site, records, rsa)
}

#[test]
fn r033_a_changed_message_is_signed_with_every_key_and_an_unchanged_one_is_not() {
    let relay = Inbox::start();
    let (site, records, _) = signing_site("r033", &relay);
    site.add(
        "ComplianceRule",
        "mark",
        "  messages: [Outbound]\n  match: {words: [rahasia]}\n  action: {modify: {subjectPrefix: Rahasia}}\n",
    );
    let gateway = site.start();
    assert!(send(gateway.smtp, OWN, &[PARTNER], &mail("nothing")).starts_with("250"));
    assert!(!relay.wait(1)[0].text().contains("DKIM-Signature"));
    assert!(send(gateway.smtp, OWN, &[PARTNER], &mail("ini rahasia")).starts_with("250"));
    let changed = relay.wait(2).remove(1);
    assert!(changed.header("Subject").is_some_and(|subject| subject == "[Rahasia] x"));
    let verdict = python(&["check", records.to_str().expect("UTF-8")], &changed.content);
    let mut verdicts: Vec<String> = String::from_utf8_lossy(&verdict).lines().map(str::to_owned).collect();
    verdicts.sort();
    assert_eq!(verdicts, ["solarmora.com ed25519-sha256 good", "solarmora.com rsa-sha256 good"]);
}

#[test]
fn r031_r034_an_upstream_signature_stays_valid_unless_a_rule_changes_what_it_covers() {
    let relay = Inbox::start();
    let (site, records, upstream) = signing_site("r031", &relay);
    let records = records.to_str().expect("UTF-8").to_owned();
    site.rule("label", "{modify: {headers: [{name: X-Label, value: b}]}}");
    let gateway = site.start();
    let signed = python(&["sign", &upstream, "solarmora.com", "upstream"], mail("unchanged").as_bytes());
    let signed = String::from_utf8(signed).expect("ASCII");
    let receive = |count: usize| {
        assert!(send(gateway.smtp, OWN, &[PARTNER], &signed).starts_with("250"));
        let got = relay.wait(count).remove(count - 1);
        let verdict = python(&["check", &records], &got.content);
        let upstream = got.text().matches("s=upstream").count();
        assert_eq!(upstream, 1);
        (got.text(), String::from_utf8_lossy(&verdict).into_owned())
    };
    // A field that no signature is about: what came is there byte for byte, and verifies.
    let (text, verdicts) = receive(1);
    assert!(text.contains("X-Label: b\r\n") && text.ends_with(&signed), "{text}");
    assert!(!verdicts.contains("bad"), "{verdicts}");
    // A footer voids it; the gateway's own signatures are good.
    site.rule("label", "{modify: {footer: {text: the footer}}}");
    gateway.wait_condition("RoutingRule/default/label", "BreaksUpstreamDKIM", "True");
    gateway.wait_condition("RoutingRule/default/label", "Ready", "True");
    let (text, verdicts) = receive(2);
    assert!(text.contains("the footer"), "{text}");
    assert_eq!(verdicts.matches("bad").count(), 1, "{verdicts}");
    assert_eq!(verdicts.matches("good").count(), 2, "{verdicts}");
}
