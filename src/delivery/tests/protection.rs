//! DANE, MTA-STS and REQUIRETLS at mail hosts: signed DNS, certificates and policies of our own, and next hops
//! that are what they say, or not.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;
use crate::delivery::attempt::{Outside, attempt};
use crate::delivery::authority::Authority as DnsAuthority;
use crate::delivery::client::transaction::Letter;
use crate::delivery::dane::tests::association;
use crate::delivery::outcome::{Outcome, Tally};
use crate::delivery::plan;
use crate::delivery::sink::{Authority, Behaviour, Sink, expired};
use crate::delivery::webserver::{WebServer, policy};
use crate::mail::envelope::Sender;

const PLAIN: &str = "Subject: s\r\n";

/// A domain, its DNS, and a gateway that delivers to it.
pub struct World {
    pub dns: DnsAuthority,
    pub outside: Outside,
    pub table: RouteTable,
    pub port: u16,
}

pub struct Setup<'a> {
    pub ca: &'a Authority,
    pub port: u16,
    pub dnssec: bool,
    pub web: Option<&'a WebServer>,
    pub target: RouteTarget,
}

impl World {
    pub async fn new(setup: Setup<'_>, records: &[&str]) -> Self {
        let Setup { ca, port, dnssec, web, target } = setup;
        let dns = match dnssec {
            true => DnsAuthority::signed(records).await,
            false => {
                let honest: Vec<&str> = records.iter().map(|record| record.trim_start_matches('!')).collect();
                DnsAuthority::start(&honest).await
            }
        };
        let gateway = Gateway {
            dns_servers: vec![dns.address],
            dnssec,
            dns_anchors: if dnssec { vec![dns.anchor.clone()] } else { Vec::new() },
            tls_reports: Some(crate::bundle::document::TlsReports {
                organization: "Solarmora".into(),
                contact: "tls@solarmora.com".into(),
            }),
            ..gateway()
        };
        let tls = RouteTls { ca: Some(ca_material()), ..RouteTls::opportunistic() };
        let table = table_of(gateway, vec![Route { tls, ..route(target) }], Some(&ca.pem()));
        let mut outside = Outside { timeouts: impatient(), ..Outside::default() };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
        outside.protection.sts.web.roots = Some(roots);
        // Nobody listens there unless a test starts a server.
        outside.protection.sts.web.port = Some(web.map_or(1, |web| web.address.port()));
        Self { dns, outside, table, port }
    }

    pub async fn outcome(&self, head: &str, strict: bool) -> Outcome {
        let recipient = to("a@d.example");
        let route = self.table.resolve(&via()).unwrap();
        let host = recipient.mailbox.host();
        match plan::plan(&self.table, &self.outside.dns, route, host, false, self.port).await {
            Ok(plan) => {
                let sender = Sender { require_tls: strict, ..Sender::default() };
                let letter = Letter::new(&sender, head.as_bytes(), b"\r\nx\r\n");
                attempt(&self.outside, &self.table, &plan, &pass(&plan), &letter, &[&recipient])
                    .await
                    .remove(0)
            }
            Err(problem) => {
                let mut tally = Tally::default();
                tally.add(problem, OnTlsFailure::Bounce).or_else(|| tally.sum()).unwrap()
            }
        }
    }

    /// How it was protected, why it waits, or the status with which it is returned.
    pub async fn send(&self) -> String {
        self.send_with(PLAIN, false).await
    }

    pub async fn send_with(&self, head: &str, strict: bool) -> String {
        match self.outcome(head, strict).await {
            Outcome::Delivered(receipt) => format!("{:?} by {}", receipt.protected, receipt.host),
            Outcome::Later(problem) => format!("later: {problem}"),
            Outcome::Failed { status: [a, b, c], problem } => format!("{a}.{b}.{c}: {problem}"),
        }
    }
}

fn by_mx(ca: &Authority, port: u16) -> Setup<'_> {
    Setup { ca, port, dnssec: true, web: None, target: RouteTarget::RecipientMx }
}

const MX: [&str; 2] = ["d.example. MX 10 mx.d.example.", "mx.d.example. A 127.0.0.1"];

fn tlsa(port: u16, host: &str, record: &str) -> String {
    format!("_{port}._tcp.{host}. TLSA {record}")
}

#[tokio::test]
async fn r020_a_host_with_tlsa_records_gets_mail_under_its_certificate_only() {
    let (ca, other) = (Authority::new(), Authority::new());
    let (server, chain) = other.server_with_chain(&["whatever.example"], expired);
    let sink = Sink::start(Behaviour::with_tls(server)).await;
    let port = sink.address.port();
    let right = tlsa(port, "mx.d.example", &association(3, 1, 1, &chain[0]));
    let world = World::new(by_mx(&ca, port), &[MX[0], MX[1], &right]).await;
    assert_eq!(world.send().await, "Dane by mx.d.example");
    // A session that was kept stands under the same demand.
    assert_eq!(world.send().await, "Dane by mx.d.example");
    assert_eq!(sink.connections(), 1);

    let wrong = tlsa(port, "mx.d.example", &association(3, 1, 1, &chain[1]));
    let world = World::new(by_mx(&ca, port), &[MX[0], MX[1], &wrong]).await;
    let said = world.send().await;
    assert!(
        said.starts_with("later: ") && said.contains("DANE") && said.contains("none of its TLSA"),
        "{said}"
    );
    assert_eq!(sink.accepted().len(), 2);
    assert_eq!(sink.commands().iter().filter(|line| line.starts_with("MAIL")).count(), 2);

    // Without DNSSEC the records mean nothing.
    let world = World::new(Setup { dnssec: false, ..by_mx(&ca, port) }, &[MX[0], MX[1], &wrong]).await;
    assert_eq!(world.send().await, "Unverified by mx.d.example");
}

#[tokio::test]
async fn r020_r094_a_host_that_fails_dane_is_passed_over_and_with_no_other_the_mail_waits() {
    let ca = Authority::new();
    let (server, chain) = ca.server_with_chain(&["mx2.d.example"], |_| {});
    // The better host has no TLS at all.
    let bad = Sink::start(Behaviour::default()).await;
    let port = bad.address.port();
    let good =
        Sink::start_at(format!("127.0.0.2:{port}").parse().unwrap(), Behaviour::with_tls(server)).await;
    let record = association(3, 1, 1, &chain[0]);
    let (first, second) = (tlsa(port, "mx1.d.example", &record), tlsa(port, "mx2.d.example", &record));
    let records = [
        "d.example. MX 10 mx1.d.example.",
        "d.example. MX 20 mx2.d.example.",
        "mx1.d.example. A 127.0.0.1",
        "mx2.d.example. A 127.0.0.2",
        &first,
        &second,
    ];
    let world = World::new(by_mx(&ca, port), &records).await;
    assert_eq!(world.send().await, "Dane by mx2.d.example");
    drop(good);
    let world = World::new(by_mx(&ca, port), &[records[0], records[2], &first]).await;
    let said = world.send().await;
    assert!(said.starts_with("later: ") && said.contains("STARTTLS"), "{said}");
    assert!(bad.mails().is_empty());
}

#[tokio::test]
async fn r020_tlsa_records_that_cannot_be_used_demand_encryption_and_nothing_more() {
    let ca = Authority::new();
    let (server, chain) = Authority::new().server_with_chain(&["x.example"], |_| {});
    let sink = Sink::start(Behaviour::with_tls(server)).await;
    let port = sink.address.port();
    let unusable = tlsa(port, "mx.d.example", &association(3, 1, 1, &chain[0]).replacen('3', "1", 1));
    let world = World::new(by_mx(&ca, port), &[MX[0], MX[1], &unusable]).await;
    assert_eq!(world.send().await, "Unverified by mx.d.example");
    let plain = Sink::start_at(format!("127.0.0.2:{port}").parse().unwrap(), Behaviour::default()).await;
    let records = [MX[0], "mx.d.example. A 127.0.0.2", &unusable];
    let world = World::new(by_mx(&ca, port), &records).await;
    let said = world.send().await;
    assert!(said.starts_with("later: ") && said.contains("DANE"), "{said}");
    assert!(plain.mails().is_empty());
}

#[tokio::test]
async fn r020_what_dnssec_finds_forged_is_never_taken_for_absent() {
    let ca = Authority::new();
    let (server, chain) = ca.server_with_chain(&["mx.d.example"], |_| {});
    let sink = Sink::start(Behaviour::with_tls(server)).await;
    let port = sink.address.port();
    let record = tlsa(port, "mx.d.example", &association(3, 1, 1, &chain[0]));
    let forged = |text: &str| format!("!{text}");
    for records in [
        [forged(MX[0]), MX[1].to_owned(), record.clone()],
        [MX[0].to_owned(), forged(MX[1]), record.clone()],
        [MX[0].to_owned(), MX[1].to_owned(), forged(&record)],
    ] {
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        let world = World::new(by_mx(&ca, port), &records).await;
        let said = world.send().await;
        assert!(said.starts_with("later: ") && said.contains("DNSSEC"), "{records:?}: {said}");
    }
    assert_eq!(sink.connections(), 0);
}

#[tokio::test]
async fn r020_tlsa_records_are_found_behind_aliases_that_are_proved() {
    let ca = Authority::new();
    let (server, chain) = ca.server_with_chain(&["real.d.example"], |_| {});
    let sink = Sink::start(Behaviour::with_tls(server)).await;
    let port = sink.address.port();
    let at_target = tlsa(port, "real.d.example", &association(3, 1, 1, &chain[0]));
    let alias = [
        "d.example. MX 10 mx.d.example.",
        "mx.d.example. CNAME real.d.example.",
        "real.d.example. A 127.0.0.1",
    ];
    let world = World::new(by_mx(&ca, port), &[alias[0], alias[1], alias[2], &at_target]).await;
    assert_eq!(world.send().await, "Dane by mx.d.example");
    // The records themselves may be behind an alias.
    let redirected = format!("_{port}._tcp.mx.d.example. CNAME tlsa.d.example.");
    let record = format!("tlsa.d.example. TLSA {}", association(3, 1, 1, &chain[0]));
    let world = World::new(by_mx(&ca, port), &[MX[0], MX[1], &redirected, &record]).await;
    assert_eq!(world.send().await, "Dane by mx.d.example");
}

fn sts(records: &[&'static str]) -> Vec<&'static str> {
    let mut all = records.to_vec();
    all.extend(["_mta-sts.d.example. TXT v=STSv1; id=1;", "mta-sts.d.example. A 127.0.0.1"]);
    all
}

async fn publish(ca: &Authority, says: String) -> WebServer {
    WebServer::start("127.0.0.1:0".parse().unwrap(), ca.server(&["mta-sts.d.example"]), says).await
}

#[tokio::test]
async fn r014_r020_r094_an_enforced_policy_demands_a_named_host_with_a_certificate_for_its_name() {
    let (ca, other) = (Authority::new(), Authority::new());
    let good = || Behaviour::with_tls(ca.server(&["mx.d.example"]));
    let enforce = |mx: &str| policy("enforce", &[mx], 86_400);
    for (behaviour, says, expected) in [
        (good(), enforce("mx.d.example"), "Sts by mx.d.example"),
        (good(), enforce("*.d.example"), "Sts by mx.d.example"),
        (
            good(),
            enforce("mx.elsewhere.example"),
            "later: The domain demands protected transport (MTA-STS) and the mail server mx.d.example does not give it: the policy of the domain does not name this host",
        ),
        (Behaviour::default(), enforce("mx.d.example"), "offers no encryption"),
        (Behaviour::with_tls(ca.server(&["other.example"])), enforce("mx.d.example"), "name mismatch"),
        (Behaviour::with_tls(ca.server_with(&["mx.d.example"], expired)), enforce("mx.d.example"), "expired"),
        (Behaviour::with_tls(other.server(&["mx.d.example"])), enforce("mx.d.example"), "unknown issuer"),
        (Behaviour::default(), policy("testing", &["mx.elsewhere.example"], 86_400), "None by mx.d.example"),
        (Behaviour::default(), policy("none", &[], 86_400), "None by mx.d.example"),
    ] {
        let (sink, web) = (Sink::start(behaviour).await, publish(&ca, says).await);
        let setup = Setup { dnssec: false, web: Some(&web), ..by_mx(&ca, sink.address.port()) };
        let world = World::new(setup, &sts(&MX)).await;
        let said = world.send().await;
        assert!(said.contains(expected), "{expected}: {said}");
        let delivered = expected.contains(" by ");
        assert_eq!(said.starts_with("later: "), !delivered, "{said}");
        assert_eq!(sink.accepted().len(), usize::from(delivered), "{said}");
        assert_eq!(web.asked().len(), 1);
        assert!(web.asked()[0].starts_with(b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n"));
    }
}

#[tokio::test]
async fn r020_a_host_that_the_policy_does_not_name_is_passed_over() {
    let ca = Authority::new();
    let tls = |name: &str| Behaviour::with_tls(ca.server(&[name]));
    let first = Sink::start(tls("mx1.d.example")).await;
    let port = first.address.port();
    let _second = Sink::start_at(format!("127.0.0.2:{port}").parse().unwrap(), tls("mx2.d.example")).await;
    let web = publish(&ca, policy("enforce", &["mx2.d.example"], 86_400)).await;
    let setup = Setup { dnssec: false, web: Some(&web), ..by_mx(&ca, port) };
    let records = sts(&[
        "d.example. MX 10 mx1.d.example.",
        "d.example. MX 20 mx2.d.example.",
        "mx1.d.example. A 127.0.0.1",
        "mx2.d.example. A 127.0.0.2",
    ]);
    assert_eq!(World::new(setup, &records).await.send().await, "Sts by mx2.d.example");
    assert_eq!(first.connections(), 0);
}

#[tokio::test]
async fn r020_when_both_exist_dane_decides() {
    let (ca, other) = (Authority::new(), Authority::new());
    let (unknown, chain) = other.server_with_chain(&["mx.d.example"], |_| {});
    let unknown = Sink::start(Behaviour::with_tls(unknown)).await;
    let port = unknown.address.port();
    let web = publish(&ca, policy("enforce", &["mx.elsewhere.example"], 86_400)).await;
    let right = tlsa(port, "mx.d.example", &association(3, 1, 1, &chain[0]));
    let mut records = sts(&MX);
    let all = |record| [&records[..], &[record]].concat();
    let world = World::new(Setup { web: Some(&web), ..by_mx(&ca, port) }, &all(&right)).await;
    assert_eq!(world.send().await, "Dane by mx.d.example");

    let known = Sink::start(Behaviour::with_tls(ca.server(&["mx.d.example"]))).await;
    let port = known.address.port();
    web.say(policy("enforce", &["mx.d.example"], 86_400));
    let wrong = tlsa(port, "mx.d.example", &association(3, 1, 1, &chain[0]));
    let world = World::new(Setup { web: Some(&web), ..by_mx(&ca, port) }, &all(&wrong)).await;
    assert!(world.send().await.contains("DANE"));
    // Without TLSA records the policy of the domain is what is left.
    records.sort_unstable();
    let world = World::new(Setup { web: Some(&web), ..by_mx(&ca, port) }, &records).await;
    assert_eq!(world.send().await, "Sts by mx.d.example");
}

#[tokio::test]
async fn r107_requiretls_reaches_mail_hosts_that_dnssec_or_a_policy_vouches_for() {
    let ca = Authority::new();
    let mut behaviour = Behaviour::with_tls(ca.server(&["mx.d.example"]));
    behaviour.extensions.push("REQUIRETLS".into());
    let sink = Sink::start(behaviour).await;
    let port = sink.address.port();
    let web = publish(&ca, policy("enforce", &["mx.d.example"], 86_400)).await;
    let signed = World::new(by_mx(&ca, port), &MX).await;
    assert_eq!(signed.send_with(PLAIN, true).await, "Verified by mx.d.example");
    let unsigned = |web| Setup { dnssec: false, web, ..by_mx(&ca, port) };
    let vouched = World::new(unsigned(Some(&web)), &sts(&MX)).await;
    assert_eq!(vouched.send_with(PLAIN, true).await, "Sts by mx.d.example");
    let nobody = World::new(unsigned(None), &MX).await;
    let said = nobody.send_with(PLAIN, true).await;
    assert!(said.starts_with("5.7.30") && said.contains("nothing protects"), "{said}");
    assert!(sink.accepted().iter().all(|mail| mail.tls && mail.mail.contains("REQUIRETLS")));
    // A certificate that only TLSA records vouch for is as good.
    let (server, chain) = Authority::new().server_with_chain(&["x.example"], |_| {});
    let mut behaviour = Behaviour::with_tls(server);
    behaviour.extensions.push("REQUIRETLS".into());
    let sink = Sink::start(behaviour).await;
    let port = sink.address.port();
    let record = tlsa(port, "mx.d.example", &association(3, 1, 1, &chain[0]));
    let world = World::new(by_mx(&ca, port), &[MX[0], MX[1], &record]).await;
    assert_eq!(world.send_with(PLAIN, true).await, "Dane by mx.d.example");
    let world = World::new(by_mx(&ca, port), &MX).await;
    assert!(world.send_with(PLAIN, true).await.starts_with("5.7.30"));
}

#[tokio::test]
async fn r107_an_author_who_waives_protection_gets_his_mail_through_what_a_domain_demands() {
    let ca = Authority::new();
    let sink = Sink::start(Behaviour::default()).await;
    let web = publish(&ca, policy("enforce", &["mx.elsewhere.example"], 86_400)).await;
    let setup = Setup { dnssec: false, web: Some(&web), ..by_mx(&ca, sink.address.port()) };
    let world = World::new(setup, &sts(&MX)).await;
    assert!(world.send().await.starts_with("later: "));
    assert_eq!(world.send_with("Subject: s\r\nTLS-Required: No\r\n", false).await, "None by mx.d.example");
    let got = sink.accepted().remove(0);
    assert!(String::from_utf8_lossy(&got.content).contains("TLS-Required: No"));
    // Not what the field is for: said twice, something else, or over the sender's own REQUIRETLS.
    for head in
        ["TLS-Required: Maybe\r\n", "TLS-Required: No\r\nTLS-Required: No\r\n", "X: TLS-Required: No\r\n"]
    {
        assert!(world.send_with(head, false).await.starts_with("later: "), "{head}");
    }
    assert!(world.send_with("TLS-Required: No\r\n", true).await.starts_with("5.7.30"));
}

#[tokio::test]
async fn r020_a_smart_host_stands_under_its_own_records_and_policy_not_those_of_the_recipient() {
    let ca = Authority::new();
    let (server, chain) = Authority::new().server_with_chain(&["x.example"], |_| {});
    let sink = Sink::start(Behaviour::with_tls(server)).await;
    let port = sink.address.port();
    let at = || HostPort { host: "relay.r.example".into(), port };
    let smart = || RouteTarget::Hosts {
        primary: vec![WeightedHost { at: at(), weight: None }],
        secondary: Vec::new(),
    };
    let typed = || Setup { target: smart(), ..by_mx(&ca, port) };
    let host = "relay.r.example. A 127.0.0.1";
    let right = tlsa(port, "relay.r.example", &association(3, 1, 1, &chain[0]));
    let wrong = tlsa(port, "relay.r.example", &association(3, 1, 1, &chain[1]));
    assert_eq!(World::new(typed(), &[host, &right]).await.send().await, "Dane by relay.r.example");
    assert!(World::new(typed(), &[host, &wrong]).await.send().await.contains("DANE"));

    // MTA-STS: the route's host names itself; what the recipient's domain wants is not asked.
    let says = policy("enforce", &["relay.r.example"], 86_400);
    let tls = ca.server(&["mta-sts.relay.r.example", "mta-sts.r.example"]);
    let web = WebServer::start("127.0.0.1:0".parse().unwrap(), tls, says).await;
    let records = [
        host,
        "_mta-sts.relay.r.example. TXT v=STSv1; id=1",
        "mta-sts.relay.r.example. A 127.0.0.1",
        "_mta-sts.d.example. TXT v=STSv1; id=1",
        "_mta-sts.r.example. TXT v=STSv1; id=1",
        "mta-sts.r.example. A 127.0.0.1",
        "r.example. MX 10 relay.r.example.",
    ];
    let setup = Setup { web: Some(&web), dnssec: false, ..typed() };
    let said = World::new(setup, &records).await.send().await;
    assert!(said.contains("MTA-STS") && said.contains("unknown issuer"), "{said}");
    // By MX of a domain that the route names: the policy of that domain.
    let mx_of = RouteTarget::MxOf(vec![HostPort { host: "r.example".into(), port }]);
    let setup = Setup { web: Some(&web), target: mx_of, dnssec: false, ..by_mx(&ca, port) };
    let said = World::new(setup, &records).await.send().await;
    assert!(said.contains("MTA-STS") && said.contains("unknown issuer"), "{said}");
    assert!(sink.accepted().len() == 1 && web.asked().len() == 2);
}

#[tokio::test]
async fn r020_terms_of_a_route_hold_beside_tlsa_records() {
    let ca = Authority::new();
    let (server, chain) = Authority::new().server_with_chain(&["mx.d.example"], |_| {});
    let sink = Sink::start(Behaviour::with_tls(server)).await;
    let port = sink.address.port();
    let record = tlsa(port, "mx.d.example", &association(3, 1, 1, &chain[0]));
    let mut world = World::new(by_mx(&ca, port), &[MX[0], MX[1], &record]).await;
    let strict = Route { tls: strict(true), ..route(RouteTarget::RecipientMx) };
    let gateway = Gateway {
        dns_servers: vec![world.dns.address],
        dnssec: true,
        dns_anchors: vec![world.dns.anchor.clone()],
        ..gateway()
    };
    world.table = table_of(gateway, vec![strict], Some(&ca.pem()));
    let said = world.send().await;
    assert!(said.starts_with("5.7.5") && said.contains("unknown issuer"), "{said}");
}
