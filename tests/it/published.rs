//! What DNS publishes of the organisation, end to end: a standalone gateway, a DNS server, and the status of the
//! gateway. What a message tells to publish is published as it is told, and is then right.

use std::process::Command;
use std::time::Duration;

use crate::support::authority::Authority;
use crate::support::client::send;
use crate::support::gateway::{Folder, Standalone, condition};
use crate::support::inbox::Inbox;
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::{wait, wait_for};

const GATEWAY: &str = "OutboundGateway/default/default";

fn authority(records: &[&str]) -> Authority {
    wait(Authority::start(records))
}

/// The record that a message says to publish, as the test's DNS server takes it.
fn advice(message: &str) -> String {
    let record = message.split("publish this TXT record at ").nth(1).expect(message);
    let mut parts = record.split('"');
    let (name, record) = (parts.next().expect(message), parts.next().expect(message));
    let name = name.split([' ', ':']).next().expect("a name");
    format!("{name}. TXT {record}")
}

fn reason(gateway: &Standalone, kind: &str) -> String {
    let found = gateway.status(GATEWAY).and_then(|status| condition(&status, kind));
    found.map(|found| found["reason"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

#[test]
fn r030_spf_that_lacks_the_gateway_is_told_with_the_record_that_repairs_it() {
    let inbox = Inbox::start();
    let site = Site::new("r030", inbox.address);
    let shared = "_spf.provider.example. TXT v=spf1 ip4:198.51.100.0/24 -all";
    let before = authority(&["solarmora.com. TXT v=spf1 include:_spf.provider.example ~all", shared]);
    let with = |authority: &Authority| {
        let dns = authority.address;
        format!("  dns: {{servers: [\"{dns}\"]}}\n  publicAddresses: [203.0.113.9, \"2001:db8::9\"]\n")
    };
    site.gateway(&with(&before));
    let gateway = site.start();
    let message = gateway.wait_condition(GATEWAY, "SPFAligned", "False");
    assert!(message.contains("203.0.113.9 (softfail), 2001:db8::9 (softfail)"), "{message}");
    assert_eq!(
        advice(&message),
        "solarmora.com. TXT v=spf1 include:_spf.provider.example ip4:203.0.113.9 ip6:2001:db8::9 ~all"
    );
    assert_eq!(reason(&gateway, "SPFAligned"), "AddressMissing");
    // Mail flows: SPF is for receivers to judge.
    assert!(send(gateway.smtp, OWN, &[PARTNER], &crate::support::site::message("x")).starts_with("250"));

    let after = authority(&[&advice(&message), shared]);
    site.gateway(&with(&after));
    let message = gateway.wait_condition(GATEWAY, "SPFAligned", "True");
    assert!(message.contains("from 203.0.113.9, 2001:db8::9 for: solarmora.com"), "{message}");

    // Without its addresses nothing can be said.
    site.gateway(&format!("  dns: {{servers: [\"{}\"]}}\n", after.address));
    let message = gateway.wait_condition(GATEWAY, "SPFAligned", "Unknown");
    assert!(message.contains("spec.publicAddresses"), "{message}");
    assert_eq!(reason(&gateway, "SPFAligned"), "PublicAddressUnknown");
}

/// A Secret with keys that openssl made.
fn keys(folder: &Folder, wanted: &[(&str, &[&str])]) -> String {
    let entries = wanted.iter().map(|(name, options)| {
        let file = folder.0.join(name);
        let output = Command::new("openssl").arg("genpkey").args(*options).arg("-out").arg(&file).output();
        let output = output.expect("openssl is there: run `make deps`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let pem = std::fs::read_to_string(file).expect("openssl wrote it").replace('\n', "\n    ");
        format!("  {name}: |\n    {pem}\n")
    });
    let entries: String = entries.collect();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: dkim, labels: {{postern.dev/use: \"true\"}}}}\n\
         stringData:\n  broken.pem: no key\n{entries}"
    )
}

#[test]
fn r033_signing_keys_are_compared_with_dns_and_the_record_to_publish_is_right() {
    let inbox = Inbox::start();
    let site = Site::new("r033-dns", inbox.address);
    let rsa: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let secret = keys(&site.folder, &[("rsa.pem", rsa), ("ed.pem", &["-algorithm", "ed25519"])]);
    site.folder.write("config/secret.yaml", &secret);
    let with = |authority: &Authority, keys: &[(&str, &str)]| {
        let keys = keys.iter().map(|(selector, key)| {
            format!("{{domain: solarmora.com, selector: {selector}, keyRef: {{name: dkim, key: {key}}}}}")
        });
        let keys = keys.collect::<Vec<_>>().join(", ");
        site.gateway(&format!("  dns: {{servers: [\"{}\"]}}\n  dkim: [{keys}]\n", authority.address));
    };
    let mut records = Vec::new();
    let empty = authority(&["solarmora.com. TXT hello"]);
    with(&empty, &[("s1", "rsa.pem")]);
    let gateway = site.start();
    for (selector, key) in [("s1", "rsa.pem"), ("s2", "ed.pem")] {
        with(&empty, &[(selector, key)]);
        let name = format!("nothing is published at {selector}._domainkey.solarmora.com");
        let message = wait_for("the missing key is told", Duration::from_secs(20), || {
            let message = gateway.wait_condition(GATEWAY, "DKIMPublished", "False");
            message.contains(&name).then_some(message)
        });
        records.push(advice(&message));
    }
    assert!(records[1].contains("k=ed25519; p="), "{records:?}");
    let lines: Vec<&str> = records.iter().map(String::as_str).collect();
    let right = authority(&lines);
    with(&right, &[("s1", "rsa.pem"), ("s2", "ed.pem")]);
    let message = gateway.wait_condition(GATEWAY, "DKIMPublished", "True");
    assert!(message.contains("s1._domainkey.solarmora.com, s2._domainkey.solarmora.com"), "{message}");

    // Somebody swapped the keys.
    let swapped: Vec<String> = records
        .iter()
        .map(|record| {
            let other = if record.starts_with("s1") { &records[1] } else { &records[0] };
            format!(
                "{} {}",
                record.split(' ').next().expect("a name"),
                other.split_once(' ').expect("a record").1
            )
        })
        .collect();
    let wrong = authority(&swapped.iter().map(String::as_str).collect::<Vec<_>>());
    with(&wrong, &[("s1", "rsa.pem"), ("s2", "ed.pem")]);
    let message = gateway.wait_condition(GATEWAY, "DKIMPublished", "False");
    assert!(message.contains("does not fit the signing key"), "{message}");

    // A file that is no key is told, not only logged.
    with(&right, &[("s1", "broken.pem")]);
    let message = gateway.wait_condition(GATEWAY, "ResolvedRefs", "False");
    assert!(message.contains("Secret default/dkim, key broken.pem: it holds no private key"), "{message}");
    assert_eq!(reason(&gateway, "ResolvedRefs"), "KeyInvalid");
}

#[test]
fn r036_client_networks_follow_the_spf_record_and_stay_when_it_says_nothing_or_nonsense() {
    let inbox = Inbox::start();
    let site = Site::new("r036", inbox.address);
    let with = |address: &str| {
        site.gateway(&format!(
            "  clients: {{spfDomains: [_spf.provider.example]}}\n  dns: {{servers: [\"{address}\"]}}\n"
        ));
    };
    let of = |records: &[&str]| {
        let authority = authority(records);
        (authority.address.to_string(), authority)
    };
    let code = |gateway: &Standalone| send(gateway.smtp, OWN, &[PARTNER], &message("x"))[..3].to_owned();
    let becomes = |gateway: &Standalone, expected: &str| {
        wait_for("who may relay", Duration::from_secs(20), || (code(gateway) == expected).then_some(()));
    };

    let (address, elsewhere) = of(&["_spf.provider.example. TXT v=spf1 ip4:198.51.100.0/24 -all"]);
    with(&address);
    let gateway = site.start();
    gateway.wait_condition(GATEWAY, "AcceptsMail", "True");
    assert_eq!(code(&gateway), "550");

    // An include brings this machine in; the change is audited.
    let loopback = "_a.provider.example. TXT v=spf1 ip4:127.0.0.0/8 -all";
    let (address, here) = of(&[
        "_spf.provider.example. TXT v=spf1 ip4:198.51.100.0/24 include:_a.provider.example -all",
        loopback,
    ]);
    drop(elsewhere);
    with(&address);
    becomes(&gateway, "250");
    gateway.wait_log("127.0.0.0/8");
    assert!(gateway.log().contains("audit"), "{}", gateway.log());

    // More than half are gone, everything is in, nothing is in: none of it is taken over.
    for record in ["v=spf1 ip4:198.51.100.0/24 -all", "v=spf1 +all", "v=spf1 -all"] {
        let (address, _authority) = of(&[&format!("_spf.provider.example. TXT {record}")]);
        with(&address);
        let message = wait_for("the answer is held", Duration::from_secs(20), || {
            let message = gateway.wait_condition(GATEWAY, "ClientRangesHeld", "True");
            (reason(&gateway, "ClientRangesHeld") == "RangesRefused").then_some(message)
        });
        assert!(message.contains("2 networks of before stay in force"), "{message}");
        assert_eq!(code(&gateway), "250", "{record}");
        with(&here.address.to_string());
        wait_for("all is well again", Duration::from_secs(20), || {
            let status = gateway.status(GATEWAY)?;
            condition(&status, "ClientRangesHeld").is_none().then_some(())
        });
    }

    // DNS goes away, and the gateway starts anew: what was published is remembered.
    gateway.stop();
    drop(here);
    let gateway = site.start();
    assert_eq!(code(&gateway), "250");
    let message = wait_for("silence is told", Duration::from_secs(60), || {
        let status = gateway.status(GATEWAY)?;
        condition(&status, "ClientRangesHeld").map(|found| found["message"].to_string())
    });
    assert!(message.contains("not answered since") && message.contains("stay in force"), "{message}");
    assert_eq!(code(&gateway), "250");
}

#[test]
fn r035_without_clients_nobody_relays_and_the_status_says_what_to_add() {
    let inbox = Inbox::start();
    let site = Site::new("r035", inbox.address);
    for (clients, expected) in
        [("{}", "550"), ("{cidrs: [192.0.2.0/24]}", "550"), ("{cidrs: [127.0.0.1/32]}", "250")]
    {
        site.gateway(&format!("  clients: {clients}\n"));
        let gateway = site.start();
        let reply = send(gateway.smtp, OWN, &[PARTNER], &message("x"));
        assert!(reply.starts_with(expected), "{clients}: {reply}");
        if clients == "{}" {
            assert!(reply.starts_with("550 5.7.1"), "{reply}");
            assert!(gateway.wait_condition(GATEWAY, "AcceptsMail", "False").contains("cidrs"));
        }
        gateway.stop();
    }
}
