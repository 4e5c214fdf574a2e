//! What the gateway hands on must be what it was given: content, addresses, parameters (families A and E31).

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::client::Client;
use crate::support::sink::{Mail, Sink};
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::wait;

struct Relay {
    site: Site,
    sink: Sink,
}

impl Relay {
    fn new(name: &str) -> Self {
        let sink = wait(Sink::start(Default::default()));
        Self { site: Site::new(name, sink.address), sink }
    }

    fn wait(&self, count: usize) -> Vec<Mail> {
        wait(self.sink.wait_for(count))
    }
}

/// What stands below our own Received field, which must be the first and only thing that was added.
fn below_received(content: &[u8]) -> &[u8] {
    assert!(content.starts_with(b"Received: from "), "{}", String::from_utf8_lossy(content));
    let mut end = 0;
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        if end > 0 && !line.starts_with(b"\t") && !line.starts_with(b" ") {
            break;
        }
        end += line.len();
    }
    &content[end..]
}

fn assert_same(got: &[u8], sent: &[u8]) {
    let got = below_received(got);
    let at = got.iter().zip(sent).position(|(a, b)| a != b);
    assert!(got == sent, "{} octets of {}, first difference at {at:?}", got.len(), sent.len());
}

/// One of the parameters of a MAIL or RCPT line.
fn parameter<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn dkim(arguments: [&str; 2], message: &[u8]) -> (bool, Vec<u8>) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/signature.py");
    let mut child = Command::new("/usr/bin/python3")
        .arg(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Debian's python3 is there: run `make deps`");
    child.stdin.take().expect("piped").write_all(message).expect("it reads all of it");
    let output = child.wait_with_output().expect("it ends");
    let trouble = String::from_utf8_lossy(&output.stderr);
    assert!(trouble.is_empty(), "dkimpy, of Debian's python3-dkim (`make deps`), says: {trouble}");
    (output.status.success(), output.stdout)
}

fn keys(folder: &Path) -> (String, String) {
    let path = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    let (private, public) = (path("dkim.pem"), path("dkim.pub"));
    for arguments in [
        ["genrsa", "-traditional", "-out", &private, "2048"].as_slice(),
        ["rsa", "-in", &private, "-pubout", "-out", &public].as_slice(),
    ] {
        let output =
            Command::new("openssl").args(arguments).output().expect("openssl is there: run `make deps`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    (private, public)
}

/// E15, E31: the strictest canonicalization, and everything a rewriter would be tempted to tidy up.
#[test]
fn e15_e31_a_signed_message_that_no_rule_matches_arrives_untouched_and_its_signature_verifies() {
    let relay = Relay::new("dkim");
    relay.site.rule("inbound-only", "{modify: {subjectPrefix: Touched}}");
    let rule = relay.site.folder.0.join("config/routingrule-inbound-only.yaml");
    let text = std::fs::read_to_string(&rule).unwrap().replace("[Outbound]", "[Inbound]");
    std::fs::write(&rule, text).unwrap();
    let gateway = relay.site.start();
    let (private, public) = keys(&relay.site.folder.0);
    let original = [
        b"From:  Ani <ani@solarmora.com>\r\nTo: b@partner.example\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\n"
            .as_slice(),
        b"Message-ID: <1@solarmora.com>\r\nSubject: =?utf-8?q?Laporan?=\r\n  =?utf-8?q?_bulanan?=\r\n",
        b"X-Folded: one\r\n\ttwo  \r\n   three\t\r\nMIME-Version: 1.0\r\n",
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
        b".starts with a dot\r\n..two\r\ntrailing blanks  \t\r\n\xc3\xbc and \xff\r\nFrom the start\r\n",
        b"a line of 998: ",
        "x".repeat(983).as_bytes(),
        b"\r\n\r\n\r\n",
    ]
    .concat();
    let (_, signed) = dkim(["sign", &private], &original);
    assert!(signed.ends_with(&original) && signed.starts_with(b"DKIM-Signature:"));
    assert!(dkim(["verify", &public], &signed).0, "the signature is good before it is sent");

    let mut client = Client::hello(gateway.smtp);
    let reply = client.send_with(&format!("<{OWN}> BODY=8BITMIME"), &[PARTNER], &signed).unwrap();
    assert!(reply.starts_with("250"), "{reply}");
    let got = relay.wait(1).remove(0);
    assert_same(&got.content, &signed);
    assert!(dkim(["verify", &public], &got.content).0, "the signature verifies at the receiver");
    let forged = String::from_utf8_lossy(&got.content).replace("trailing", "trialing").into_bytes();
    assert!(!dkim(["verify", &public], &forged).0, "and would not if one word were changed");
}

#[test]
fn a13_a_message_larger_than_it_was_declared_is_refused_and_the_next_one_is_fine() {
    let relay = Relay::new("size-lie");
    relay.site.gateway("  limits: {messageSize: 1Mi}\n");
    let gateway = relay.site.start();
    let mut client = Client::hello(gateway.smtp);
    let too_big = message("big") + &"0123456789 0123456789 0123456789\r\n".repeat((1 << 20) / 34 * 105 / 100);
    let reply = client.send_with(&format!("<{OWN}> SIZE=100"), &[PARTNER], too_big.as_bytes()).unwrap();
    assert!(reply.starts_with("552 5.3.4"), "{reply}");
    let fine = message("fine");
    assert!(client.send(OWN, &[PARTNER], &fine).unwrap().starts_with("250"));
    let got = relay.wait(1);
    assert_same(&got[0].content, fine.as_bytes());
    gateway.wait_empty();
    assert_eq!(relay.sink.mails().len(), 1);
}

#[test]
fn a14_a_hundred_recipients_get_one_message_exactly_once_each() {
    let relay = Relay::new("hundred");
    let gateway = relay.site.start();
    let to: Vec<String> = (0..100).map(|n| format!("r{n}@partner.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let content = message("hundred");
    assert!(Client::hello(gateway.smtp).send(OWN, &to, &content).unwrap().starts_with("250"));
    gateway.wait_empty();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for mail in relay.sink.accepted() {
        assert_same(&mail.content, content.as_bytes());
        assert!(!String::from_utf8_lossy(&mail.content).contains("for <"), "no recipient learns of another");
        for rcpt in mail.rcpts {
            *times.entry(rcpt.split(['<', '>']).nth(1).unwrap().to_owned()).or_default() += 1;
        }
    }
    assert_eq!(times.len(), 100);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    assert_eq!(gateway.metric("postern_deliveries", "result=\"delivered\""), 100);
}

#[test]
fn a20_a_null_sender_is_relayed_as_one() {
    let relay = Relay::new("null-sender");
    let gateway = relay.site.start();
    assert!(Client::hello(gateway.smtp).send("", &[PARTNER], &message("report")).unwrap().starts_with("250"));
    assert!(relay.wait(1)[0].mail.starts_with("MAIL FROM:<>"));
}

/// A22, A25, C14: nothing in a local part is ours to interpret; a source route goes.
#[test]
fn a22_a25_c14_local_parts_are_handed_on_as_they_came() {
    let relay = Relay::new("local-parts");
    let gateway = relay.site.start();
    let mut client = Client::hello(gateway.smtp);
    let odd = [
        "a+b=c/d{e}!#$%&*?^_`@partner.example",
        "MiXeD@partner.example",
        "user%other.example@partner.example",
        "other.example!user@partner.example",
        "\"a@b\"@partner.example",
    ];
    for (n, to) in odd.iter().enumerate() {
        let reply = client.send(OWN, &[to], &message("odd")).unwrap();
        assert!(reply.starts_with("250"), "{to}: {reply}");
        let got = relay.wait(n + 1).pop().unwrap();
        assert!(got.rcpts[0].starts_with(&format!("RCPT TO:<{to}>")), "{to}: {:?}", got.rcpts);
    }
    client.say(&format!("MAIL FROM:<{OWN}>")).unwrap();
    let reply = client.say("RCPT TO:<@a.example,@b.example:user@partner.example>").unwrap();
    if reply.starts_with("250") {
        client.say("DATA").unwrap();
        assert!(client.data(message("routed").as_bytes()).unwrap().starts_with("250"));
        let got = relay.wait(odd.len() + 1).pop().unwrap();
        assert!(got.rcpts[0].starts_with("RCPT TO:<user@partner.example>"), "{:?}", got.rcpts);
    } else {
        assert!(reply.starts_with('5'), "{reply}");
    }
}

#[test]
fn a26_eight_bit_content_leaves_octet_for_octet_and_is_declared_again() {
    let relay = Relay::new("8bit");
    let gateway = relay.site.start();
    let mut content = message("octets").into_bytes();
    content.extend((0x80..=0xff).chain(1..0x20).filter(|octet| !b"\r\n".contains(octet)));
    content.extend_from_slice(b"\r\n");
    let mut client = Client::hello(gateway.smtp);
    let reply = client.send_with(&format!("<{OWN}> BODY=8BITMIME"), &[PARTNER], &content).unwrap();
    assert!(reply.starts_with("250"), "{reply}");
    let got = relay.wait(1).remove(0);
    assert_same(&got.content, &content);
    assert_eq!(parameter(&got.mail, "BODY"), Some("8BITMIME"), "{}", got.mail);
}

#[test]
fn a28_utf8_addresses_and_headers_leave_unchanged_and_smtputf8_is_declared_again() {
    let relay = Relay::new("utf8");
    let gateway = relay.site.start();
    let content =
        "From: Jürgen <jürgen@solarmora.com>\r\nTo: 用户@例え.example\r\nSubject: Grüße 機密\r\n\r\nä\r\n";
    let mut client = Client::hello(gateway.smtp);
    let from = "<jürgen@solarmora.com> SMTPUTF8 BODY=8BITMIME";
    let reply = client.send_with(from, &["用户@例え.example"], content.as_bytes()).unwrap();
    assert!(reply.starts_with("250"), "{reply}");
    let got = relay.wait(1).remove(0);
    assert_same(&got.content, content.as_bytes());
    assert!(got.mail.starts_with("MAIL FROM:<jürgen@solarmora.com>"), "{}", got.mail);
    assert!(got.mail.split(' ').any(|word| word == "SMTPUTF8"), "{}", got.mail);
    assert!(got.rcpts[0].starts_with("RCPT TO:<用户@例え.example>"), "{:?}", got.rcpts);
    let reply = client.send("jürgen@solarmora.com", &[PARTNER], &message("undeclared")).unwrap();
    assert!(reply.starts_with("553 5.6.7"), "A29: {reply}");
}

#[test]
fn a33_wishes_for_reports_are_passed_on_to_a_next_hop_that_knows_them() {
    let relay = Relay::new("dsn");
    let gateway = relay.site.start();
    let mut client = Client::hello(gateway.smtp);
    let say = |client: &mut Client, line: String| {
        let reply = client.say(&line).unwrap();
        assert!(reply.starts_with('2') || reply.starts_with('3'), "{line}: {reply}");
    };
    say(&mut client, format!("MAIL FROM:<{OWN}> RET=HDRS ENVID=QQ+2B314159"));
    say(
        &mut client,
        format!("RCPT TO:<{PARTNER}> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bold@partner.example"),
    );
    say(&mut client, "DATA".to_owned());
    assert!(client.data(message("wishes").as_bytes()).unwrap().starts_with("250"));
    let got = relay.wait(1).remove(0);
    let decoded = |text: Option<&str>| text.map(|text| text.replace("+2B", "+"));
    assert_eq!(parameter(&got.mail, "RET"), Some("HDRS"));
    assert_eq!(decoded(parameter(&got.mail, "ENVID")).as_deref(), Some("QQ+314159"));
    let mut notify: Vec<&str> = parameter(&got.rcpts[0], "NOTIFY").unwrap().split(',').collect();
    notify.sort_unstable();
    assert_eq!(notify, ["DELAY", "SUCCESS"]);
    let original = decoded(parameter(&got.rcpts[0], "ORCPT"));
    assert_eq!(original.as_deref(), Some("rfc822;b+old@partner.example"));
    gateway.wait_empty();
    assert_eq!(relay.sink.mails().len(), 1, "the next hop reports now, not we");
}

/// A36, A37: exact or refused, never cut or folded.
#[test]
fn a36_a37_long_lines_arrive_whole_or_are_refused() {
    let relay = Relay::new("long-lines");
    relay.site.gateway("  limits: {messageSize: 4Mi}\n");
    let gateway = relay.site.start();
    let mut accepted = 0;
    for length in [998, 1200, 70_000, 2 << 20] {
        let line: String = (0..length).map(|n| char::from(b'!' + (n % 90) as u8)).collect();
        let content = format!("{}{line}\r\nthe end\r\n", message("long"));
        let reply = Client::hello(gateway.smtp).send(OWN, &[PARTNER], &content).unwrap();
        if reply.starts_with("250") {
            accepted += 1;
            assert_same(&relay.wait(accepted)[accepted - 1].content, content.as_bytes());
        } else {
            assert!(reply.starts_with('5') && length > 998, "{length}: {reply}");
        }
    }
}

#[test]
fn a40_a_session_that_comes_one_octet_at_a_time_works() {
    let relay = Relay::new("octets");
    let gateway = relay.site.start();
    let mut client = Client::connect(gateway.smtp).unwrap();
    let content = message("slow");
    let mut say = |text: &str, expected: &str| {
        for octet in text.as_bytes() {
            client.raw(&[*octet]).unwrap();
        }
        let reply = client.reply().unwrap();
        assert!(reply.starts_with(expected), "{text}: {reply}");
    };
    say("EHLO client.example\r\n", "250");
    say(&format!("MAIL FROM:<{OWN}>\r\n"), "250");
    say(&format!("RCPT TO:<{PARTNER}>\r\n"), "250");
    say("DATA\r\n", "354");
    say(&format!("{content}..\r\n.\r\n"), "250");
    say("QUIT\r\n", "221");
    assert_same(&relay.wait(1)[0].content, format!("{content}.\r\n").as_bytes());
}

#[test]
fn r038_a42_a_message_of_many_hops_passes_and_one_that_goes_in_circles_is_refused() {
    let relay = Relay::new("hops");
    let gateway = relay.site.start();
    let mut client = Client::hello(gateway.smtp);
    let hop =
        "Received: from a.example by b.example with ESMTP id 1;\r\n\tSun, 22 Nov 2026 10:00:00 +0000\r\n";
    let content = |hops: usize| hop.repeat(hops) + &message("hops");
    assert!(client.send(OWN, &[PARTNER], &content(25)).unwrap().starts_with("250"));
    let reply = client.send(OWN, &[PARTNER], &content(150)).unwrap();
    assert!(reply.starts_with("554 5.4.6"), "{reply}");
    let mut got = relay.wait(1).remove(0).content;
    assert_same(&got, content(25).as_bytes());

    // Back to the gateway twice: it has seen this message before.
    let mut rounds = 0;
    let reply = loop {
        let reply = client.send_with(&format!("<{OWN}>"), &[PARTNER], &got).unwrap();
        if !reply.starts_with("250") || rounds == 10 {
            break reply;
        }
        rounds += 1;
        got = relay.wait(1 + rounds).pop().unwrap().content;
    };
    assert!(reply.starts_with("554 5.4.6"), "after {rounds} rounds: {reply}");
    assert_eq!(rounds, 1, "the own mark twice is a loop");
}
