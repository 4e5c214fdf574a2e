//! Whole gateways and a real name server with signed zones: what names, TLSA records and policies of MTA-STS
//! make of mail to other domains (R11, R14, R20, R94, R107).

use std::time::Duration;

use crate::support::client::Client;
use crate::support::gateway::{Folder, Standalone};
use crate::support::inbox::Inbox;
use crate::support::named::{Named, Signing, Zone};
use crate::support::network::in_own_network;
use crate::support::sink::{Authority, Behaviour, Sink};
use crate::support::site::{OWN, message};
use crate::support::web::{WebServer, policy};
use crate::support::{wait, wait_for};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `3 0 1` for a certificate.
fn tlsa(certificate: &[u8]) -> String {
    format!("3 0 1 {}", hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate).as_ref()))
}

#[test]
fn r011_r014_r020_r094_mail_hosts_found_in_signed_zones_of_a_real_server() {
    in_own_network(
        "requirements::names::r011_r014_r020_r094_mail_hosts_found_in_signed_zones_of_a_real_server",
        signed_zones,
    );
}

fn signed_zones() {
    let (ca, nobody) = (Authority::new(), Authority::new());
    let (dane, chain) = nobody.server_with_chain(&["whatever.example"], |_| {});
    let known = ca.server(&["mx.sts.example"]);
    let start = |address: &str, tls| wait(Sink::start_at(address.parse().unwrap(), Behaviour::with_tls(tls)));
    let (first, second, third) =
        (start("127.0.0.1:25", dane.clone()), start("127.0.0.2:25", known), start("127.0.0.3:25", dane));
    let tls = ca.server(&["mta-sts.sts.example"]);
    let says = policy("enforce", &["mx.sts.example"], 86_400);
    let web = wait(WebServer::start("127.0.0.1:443".parse().unwrap(), tls, says));
    let (right, wrong) = (tlsa(&chain[0]), tlsa(&chain[1]));
    let named = Named::start(&[
        Zone {
            name: "signed.example",
            records: &format!(
                "@ IN MX 10 mx\nmx IN A 127.0.0.1\n_25._tcp.mx IN TLSA {right}\n\
                 alias IN CNAME @\n\
                 wrong IN MX 10 other\nother IN A 127.0.0.1\n_25._tcp.other IN TLSA {wrong}\n\
                 null IN MX 0 .\nnone IN TXT x\nplain IN MX 10 bare\nbare IN A 127.0.0.3\n_mta-sts.bare IN TXT x\nz.bare IN TXT x\n"
            ),
            signing: Signing::Signed,
        },
        Zone {
            name: "unsigned.example",
            records: &format!("@ IN MX 10 mx\nmx IN A 127.0.0.3\n_25._tcp.mx IN TLSA {wrong}\n"),
            signing: Signing::Unsigned,
        },
        Zone {
            name: "broken.example",
            records: "@ IN MX 10 mx\nmx IN A 127.0.0.3\n",
            signing: Signing::Broken,
        },
        Zone {
            name: "sts.example",
            records: "@ IN MX 10 mx\nmx IN A 127.0.0.2\n_mta-sts IN TXT \"v=STSv1; id=1;\"\n\
                      mta-sts IN A 127.0.0.1\nelse IN MX 10 mx.unsigned.example.\n",
            signing: Signing::Unsigned,
        },
    ]);
    let reports = Inbox::start();
    let folder = Folder::new("names");
    let root = folder.write("ca.pem", &ca.pem());
    folder.write(
        "config/gateway.yaml",
        &format!(
            "apiVersion: postern.dev/v1alpha1
kind: OutboundGateway
metadata: {{name: default}}
spec:
  hostname: gw.solarmora.com
  domains: [solarmora.com]
  clients: {{cidrs: [127.0.0.0/8]}}
  notices: {{from: postmaster@solarmora.com, route: {{name: notices}}}}
  dns: {{servers: [127.0.0.1], dnssec: true, trustAnchors: [\"{}\"]}}
  tlsReports: {{organization: Solarmora, contact: tls@solarmora.com}}
---
apiVersion: postern.dev/v1alpha1
kind: OutboundRoute
metadata: {{name: notices}}
spec:
  hosts: [{{host: \"{}\", port: {}}}]
  tls: {{require: false}}
",
            named.anchor,
            reports.address.ip(),
            reports.address.port()
        ),
    );
    let trust = format!("SSL_CERT_FILE={}", root.display());
    let config = folder.0.join("config");
    let gateway = Standalone::launch_by(&["env", &trust], &config, &folder.0.join("state"));
    gateway.wait_ready();
    let mut client = Client::hello(gateway.smtp);
    let mut send = |domain: &str| {
        let reply = client.send(OWN, &[&format!("b@{domain}")], &message(domain)).expect("answered");
        assert!(reply.starts_with("250"), "{reply}");
    };
    let protection =
        |kind: &str| gateway.metric("postern_delivery_protection", &format!("protection=\"{kind}\""));
    let counts = |kind: &str, count: u64| {
        wait_for(&format!("{kind} {count}"), Duration::from_secs(30), || {
            (protection(kind) >= count).then_some(())
        });
        assert_eq!(protection(kind), count, "{kind}");
    };
    let deferred = || gateway.metric("postern_deliveries", "result=\"deferred\"");

    send("signed.example");
    counts("dane", 1);
    send("alias.signed.example");
    counts("dane", 2);
    send("plain.signed.example");
    counts("unverified", 1);
    // TLSA records of a zone without signatures mean nothing.
    send("unsigned.example");
    counts("unverified", 2);
    send("sts.example");
    counts("sts", 1);
    assert_eq!(web.asked().len(), 1);

    for (n, domain) in [(1, "wrong.signed.example"), (2, "broken.example")] {
        send(domain);
        wait_for(&format!("{domain} waits"), Duration::from_secs(30), || (deferred() >= n).then_some(()));
    }
    for (n, domain, status) in [
        (1, "null.signed.example", "5.1.10"),
        (2, "none.signed.example", "5.4.4"),
        (3, "missing.signed.example", "5.1.2"),
    ] {
        send(domain);
        let told = reports.wait(n).pop().expect("a report").text();
        assert!(told.contains(&format!("Status: {status}")), "{domain}: {told}");
    }
    wait_for("all but two are gone", Duration::from_secs(30), || (gateway.queued() == 2).then_some(()));
    assert_eq!(deferred(), 2);
    assert_eq!((first.accepted().len(), second.accepted().len(), third.accepted().len()), (2, 1, 2));
    assert!([&first, &second, &third].iter().all(|sink| sink.accepted().iter().all(|mail| mail.tls)));

    // What was learned is there after a restart, without the web server.
    gateway.stop();
    let kept = std::fs::read_to_string(folder.0.join("state/spool/mta-sts.json")).expect("it is kept");
    assert!(kept.contains("sts.example") && kept.contains("enforce"), "{kept}");
    let told = std::fs::read_to_string(folder.0.join("state/spool/tls-reports.json")).expect("it is kept");
    assert!(told.contains("signed.example") && told.contains("validation-failure"), "{told}");
    drop(web);
    let again = Standalone::launch_by(&["env", &trust], &config, &folder.0.join("state"));
    again.wait_ready();
    let reply = Client::hello(again.smtp).send(OWN, &["b@sts.example"], &message("again")).expect("answered");
    assert!(reply.starts_with("250"), "{reply}");
    wait_for("protected by the kept policy", Duration::from_secs(30), || {
        (again.metric("postern_delivery_protection", "protection=\"sts\"") == 1).then_some(())
    });
}
