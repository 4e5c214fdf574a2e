//! The staged test of a host (spec R23-R27): each reason and each stage against peers that are just so.

use rustls::ServerConfig;

use super::*;
use crate::bundle::probe::{HostProbe, Mark, Reason, RouteProbe, Stage};
use crate::delivery::attempt::Outside;
use crate::delivery::authority::Authority as Zone;
use crate::delivery::probe::{self, Trial, advice};
use crate::delivery::sink::{
    Action, Authority, Behaviour, Sink, expired, must_staple, nobody, not_yet_valid, say, self_signed,
};
use crate::mail::envelope::Sender;

const MX: &str = "mx.example.org";

/// A route with every demand, to a host that is called `mx.example.org`.
struct Test {
    route: Route,
    ca: Option<String>,
    trial: Option<Trial>,
    dns: Vec<std::net::SocketAddr>,
}

impl Test {
    fn of(at: std::net::SocketAddr, ca: &Authority) -> Self {
        let mut route = route(hosts(&[at]));
        route.tls = RouteTls { server_name: Some(MX.to_owned()), ..strict(true) };
        Self { route, ca: Some(ca.pem()), trial: None, dns: Vec::new() }
    }

    async fn hosts(&self) -> Vec<HostProbe> {
        let gateway = Gateway { dns_servers: self.dns.clone(), ..gateway() };
        let table = table_of(gateway, vec![self.route.clone()], self.ca.as_deref());
        let route = table.resolve(&via()).expect("the route is usable");
        let outside = Outside { timeouts: impatient(), ..Outside::default() };
        probe::hosts(&outside, &table, &route, self.trial.as_ref()).await
    }

    async fn one(&self) -> HostProbe {
        let mut hosts = self.hosts().await;
        assert_eq!(hosts.len(), 1);
        hosts.remove(0)
    }

    async fn whole(&self) -> RouteProbe {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        advice::sum_up(&self.route.origin, self.hosts().await, now).unwrap()
    }
}

/// `Resolve+ Connect+ Ehlo- StartTls. …`: passed, failed, failed without being demanded (~), skipped.
fn marks(probe: &HostProbe) -> String {
    let mark = |step: &crate::bundle::probe::Step| match (step.result, step.demanded) {
        (Mark::Passed, _) => '+',
        (Mark::Failed, true) => '-',
        (Mark::Failed, false) => '~',
        (Mark::Skipped, _) => '.',
    };
    probe.steps.iter().map(|step| format!("{}{}", step.stage, mark(step))).collect::<Vec<_>>().join(" ")
}

fn step(probe: &HostProbe, stage: Stage) -> &crate::bundle::probe::Step {
    probe.steps.iter().find(|step| step.stage == stage).unwrap()
}

#[tokio::test]
async fn r024_a_host_that_is_as_it_should_be_passes_every_stage_and_its_facts_are_told() {
    let ca = Authority::new();
    let sink = Sink::start(Behaviour::with_tls(ca.server(&["mx1.example.org", MX]))).await;
    let found = Test::of(sink.address, &ca).one().await;
    assert_eq!(
        marks(&found),
        "Resolve+ Connect+ Ehlo+ StartTls+ Handshake+ ChainTrusted+ HostnameMatches+ Auth. Recipient."
    );
    assert_eq!((found.reason, found.passed()), (Reason::Verified, true));
    assert!(found.advice.is_empty() && found.code.is_none());
    let tls = found.tls.unwrap();
    assert_eq!(tls.version, "TLSv1.3");
    assert!(tls.cipher.starts_with("TLS13_"), "{}", tls.cipher);
    let certificate = found.certificate.unwrap();
    assert_eq!(certificate.names, ["mx1.example.org", MX]);
    assert_eq!((certificate.subject.as_str(), certificate.issuer.as_str()), ("CN=sink", "CN=Test Authority"));
    assert!(found.extensions.contains(&"8BITMIME".to_owned()), "{:?}", found.extensions);
    assert_eq!(found.addresses, ["127.0.0.1"]);
    // It ends well, and nobody's mail is touched.
    assert_eq!(sink.commands(), ["EHLO gw.solarmora.com", "STARTTLS", "EHLO gw.solarmora.com", "QUIT"]);
}

#[tokio::test]
async fn r025_r028_every_certificate_fault_has_its_reason_and_the_canonical_text() {
    let (ca, other) = (Authority::new(), Authority::new());
    let cases: Vec<(Arc<ServerConfig>, Reason, &str, &str)> = vec![
        (self_signed(&[MX]).0, Reason::CertUntrusted, "ChainTrusted- HostnameMatches+", "self-signed"),
        (
            other.server(&[MX]),
            Reason::CertUntrusted,
            "ChainTrusted- HostnameMatches+",
            "unknown issuer (CN=Test Authority)",
        ),
        (
            ca.server_with(&[MX], expired),
            Reason::CertExpired,
            "ChainTrusted- HostnameMatches+",
            "expired at 2020-01-02T00:00:00Z",
        ),
        (
            ca.server_with(&[MX], not_yet_valid),
            Reason::CertUntrusted,
            "ChainTrusted- HostnameMatches+",
            "not yet valid, it begins at 2090-01-01T00:00:00Z",
        ),
        (
            ca.server_with(&[MX], must_staple),
            Reason::CertUntrusted,
            "ChainTrusted- HostnameMatches+",
            "it demands proof that it is not revoked and the server sent none",
        ),
        (
            ca.server(&["mx1.example.org", "mx2.example.org"]),
            Reason::CertNameMismatch,
            "ChainTrusted+ HostnameMatches-",
            "name mismatch: wanted mx.example.org, certificate has mx1.example.org, mx2.example.org",
        ),
        (
            ca.server(&["127.0.0.1"]),
            Reason::CertNameMismatch,
            "ChainTrusted+ HostnameMatches-",
            "name mismatch: wanted mx.example.org, certificate has 127.0.0.1",
        ),
        // Both wrong: who repairs one hears of the other.
        (
            self_signed(&["x.example"]).0,
            Reason::CertUntrusted,
            "ChainTrusted- HostnameMatches-",
            "self-signed; name mismatch: wanted mx.example.org, certificate has x.example",
        ),
    ];
    for (server, reason, stages, cause) in cases {
        let sink = Sink::start(Behaviour::with_tls(server)).await;
        let found = Test::of(sink.address, &ca).one().await;
        assert_eq!(found.text, format!("Could not validate certificate: {cause}"));
        assert_eq!((found.reason, found.passed()), (reason, false), "{cause}");
        assert!(
            marks(&found).contains(&format!("Handshake+ {stages} Auth. Recipient.")),
            "{}",
            marks(&found)
        );
        assert!(found.certificate.is_some());
        assert!(found.effect.contains("returned to its senders (5.7.5)"), "{}", found.effect);
    }
}

#[tokio::test]
async fn an_address_on_the_certificate_is_as_good_as_a_name() {
    let ca = Authority::new();
    let sink = Sink::start(Behaviour::with_tls(ca.server(&["127.0.0.1"]))).await;
    let mut test = Test::of(sink.address, &ca);
    test.route.tls.server_name = None;
    assert_eq!(test.one().await.reason, Reason::Verified);
}

#[tokio::test]
async fn r028_whatever_goes_wrong_before_the_certificate_has_its_reason_and_its_stage() {
    let ca = Authority::new();
    let good = || Behaviour::with_tls(ca.server(&[MX]));
    let close = || Action::Close;
    let cases: Vec<(Behaviour, Reason, &str, &str)> = vec![
        (
            good().on("CONNECT", close()),
            Reason::EhloFailed,
            "Connect+ Ehlo- StartTls.",
            "closed the connection",
        ),
        (good().on("CONNECT", Action::Hang), Reason::EhloFailed, "Connect+ Ehlo-", "did not answer in time"),
        (good().on("CONNECT", say("HTTP/1.1 400")), Reason::EhloFailed, "Ehlo-", "not SMTP"),
        (
            good().on("CONNECT", say("554 5.7.1 you are on a list")),
            Reason::EhloFailed,
            "Ehlo-",
            "554 5.7.1 you are on a list",
        ),
        (good().on("EHLO", close()), Reason::EhloFailed, "Ehlo-", "at EHLO"),
        (
            good().on("EHLO", Action::SayAndClose("421 4.3.2 busy".into())),
            Reason::EhloFailed,
            "Ehlo-",
            "421 4.3.2 busy",
        ),
        (
            Behaviour::default(),
            Reason::StartTlsNotOffered,
            "Ehlo+ StartTls- Handshake.",
            "offers no encryption (STARTTLS)",
        ),
        (
            good().on("STARTTLS", say("454 4.7.0 TLS not available")),
            Reason::HandshakeFailed,
            "StartTls+ Handshake- ChainTrusted.",
            "454 4.7.0 TLS not available",
        ),
        (good().on("STARTTLS", close()), Reason::HandshakeFailed, "StartTls+ Handshake-", "at STARTTLS"),
        (
            good().on("STARTTLS", Action::SayAndClose("220 go".into())),
            Reason::HandshakeFailed,
            "StartTls+ Handshake- ChainTrusted. HostnameMatches.",
            "Encryption with the mail server",
        ),
    ];
    for (behaviour, reason, stages, text) in cases {
        let sink = Sink::start(behaviour).await;
        let found = Test::of(sink.address, &ca).one().await;
        assert_eq!(found.reason, reason, "{found:?}");
        assert!(marks(&found).contains(stages), "{stages}: {}", marks(&found));
        assert!(found.text.contains(text), "{text}: {}", found.text);
        assert!(!found.advice.is_empty(), "{found:?}");
        assert!(!found.effect.is_empty());
    }
}

#[tokio::test]
async fn nobody_there_and_no_such_name_are_told_apart() {
    let ca = Authority::new();
    let found = Test::of(nobody().await, &ca).one().await;
    assert_eq!(
        (found.reason, marks(&found).starts_with("Resolve+ Connect- Ehlo.")),
        (Reason::ConnectFailed, true)
    );
    assert!(found.text.contains("refused") && !found.text.contains("os error"), "{}", found.text);
    assert!(found.effect.contains("waits") && found.effect.contains("120h"), "{}", found.effect);

    let zone = Zone::start(&["there.example. A 127.0.0.1"]).await;
    let mut test = Test::of("127.0.0.1:25".parse().unwrap(), &ca);
    test.dns = vec![zone.address];
    let missing = HostPort { host: "missing.example".into(), port: 25 };
    test.route.target = RouteTarget::Hosts {
        primary: vec![WeightedHost { at: missing, weight: None }],
        secondary: Vec::new(),
    };
    let found = test.one().await;
    assert_eq!((found.reason, found.host.as_str()), (Reason::ResolveFailed, "missing.example"));
    assert!(marks(&found).starts_with("Resolve- Connect. Ehlo."), "{}", marks(&found));
}

#[tokio::test]
async fn the_hosts_behind_an_mx_look_up_are_tested_and_null_mx_is_said() {
    let ca = Authority::new();
    let sink = Sink::start(Behaviour::with_tls(ca.server(&["mx.d.example"]))).await;
    let zone =
        Zone::start(&["d.example. MX 10 mx.d.example.", "mx.d.example. A 127.0.0.1", "no.example. MX 0 ."])
            .await;
    let mut test = Test::of(sink.address, &ca);
    (test.dns, test.route.tls.server_name) = (vec![zone.address], None);
    test.route.target =
        RouteTarget::MxOf(vec![HostPort { host: "d.example".into(), port: sink.address.port() }]);
    let found = test.one().await;
    assert_eq!((found.reason, found.host.as_str()), (Reason::Verified, "mx.d.example"));
    assert_eq!(step(&found, Stage::Resolve).text, "127.0.0.1");

    test.route.target = RouteTarget::MxOf(vec![HostPort { host: "no.example".into(), port: 25 }]);
    let found = test.one().await;
    assert_eq!(found.reason, Reason::ResolveFailed);
    assert!(found.text.contains("takes no mail"), "{}", found.text);
    // Nothing to test where each recipient's domain decides.
    test.route.target = RouteTarget::RecipientMx;
    assert!(test.hosts().await.is_empty());
}

#[tokio::test]
async fn r015_a_route_that_does_not_ask_is_told_what_it_would_have_heard() {
    let ca = Authority::new();
    let sink = Sink::start(Behaviour::with_tls(self_signed(&["x.example"]).0)).await;
    let mut test = Test::of(sink.address, &ca);
    (test.route.tls.require_ca_signed, test.route.tls.validate_hostname) = (false, false);
    let found = test.one().await;
    assert_eq!((found.reason, found.passed()), (Reason::Unauthenticated, true));
    assert!(marks(&found).contains("Handshake+ ChainTrusted~ HostnameMatches~"), "{}", marks(&found));
    for part in ["does not ask for issuer and name", "self-signed", "certificate has x.example"] {
        assert!(found.text.contains(part), "{part}: {}", found.text);
    }
    // Each switch for itself.
    test.route.tls.validate_hostname = true;
    assert_eq!(test.one().await.reason, Reason::CertNameMismatch);
    (test.route.tls.require_ca_signed, test.route.tls.validate_hostname) = (true, false);
    assert_eq!(test.one().await.reason, Reason::CertUntrusted);
}

#[tokio::test]
async fn a_route_that_can_do_without_tls_still_hears_that_there_is_none() {
    let ca = Authority::new();
    let mut test = Test::of(Sink::start(Behaviour::default()).await.address, &ca);
    let plain = Sink::start(Behaviour::default()).await;
    test.route = route(hosts(&[plain.address]));
    let found = test.one().await;
    assert_eq!(found.reason, Reason::StartTlsNotOffered);
    assert!(marks(&found).contains("StartTls~"), "{}", marks(&found));
    assert_eq!(found.effect, "Mail over this route leaves in clear text, since tls.require is off.");
}

#[tokio::test]
async fn tls_from_the_first_byte_has_its_own_order() {
    let ca = Authority::new();
    let tls = Behaviour { implicit: true, ..Behaviour::with_tls(ca.server(&[MX])) };
    let sink = Sink::start(tls).await;
    let mut test = Test::of(sink.address, &ca);
    test.route.tls.mode = TlsMode::Implicit;
    let found = test.one().await;
    assert_eq!(
        marks(&found),
        "Resolve+ Connect+ StartTls. Handshake+ ChainTrusted+ HostnameMatches+ Ehlo+ Auth. Recipient."
    );
    // Mistaken for a host that upgrades, and the other way round: the advice is the other mode.
    test.route.tls.mode = TlsMode::StartTls;
    let found = test.one().await;
    assert!(found.advice.iter().any(|advice| advice.contains("tls.mode: Implicit")), "{found:?}");
    let sink = Sink::start(Behaviour::with_tls(ca.server(&[MX]))).await;
    let mut test = Test::of(sink.address, &ca);
    test.route.tls.mode = TlsMode::Implicit;
    let found = test.one().await;
    assert_eq!(found.reason, Reason::HandshakeFailed);
    assert!(found.advice.iter().any(|advice| advice.contains("tls.mode: StartTls")), "{found:?}");
}

#[tokio::test]
async fn r024_a_recipient_is_tried_without_data_and_only_at_a_host_that_is_what_it_should_be() {
    let ca = Authority::new();
    let trial = Trial { sender: Sender::default(), recipient: to("b@partner.example") };
    let refuse = ("RCPT TO:<b@", say("550 5.1.1 nobody"));
    let behaviour = Behaviour::with_tls(ca.server(&[MX]));
    let sink = Sink::start(behaviour.clone()).await;
    let mut test = Test::of(sink.address, &ca);
    test.trial = Some(trial.clone());
    let found = test.one().await;
    assert!(marks(&found).ends_with("Auth. Recipient+") && found.passed(), "{}", marks(&found));
    let said = sink.commands().join("\n");
    assert!(said.contains("MAIL FROM:<>") && said.contains("RCPT TO:<b@partner.example>"), "{said}");
    assert!(!said.contains("DATA") && sink.mails().is_empty(), "{said}");

    sink.behave(behaviour.on(refuse.0, refuse.1));
    let found = test.one().await;
    assert_eq!((found.reason, found.passed(), found.code), (Reason::Verified, false, Some(550)));
    assert!(found.text.contains("550 5.1.1 nobody"), "{}", found.text);

    // Whoever is not who they should be learns nothing.
    let sink = Sink::start(Behaviour::with_tls(ca.server(&["other.example"]))).await;
    let mut test = Test::of(sink.address, &ca);
    test.trial = Some(trial);
    assert!(marks(&test.one().await).ends_with("HostnameMatches- Auth. Recipient."));
    assert!(!sink.commands().iter().any(|line| line.starts_with("MAIL")), "{:?}", sink.commands());
}

#[tokio::test]
async fn r026_r027_the_message_has_the_cause_the_effect_and_the_four_remedies_with_real_names() {
    let ca = Authority::new();
    let sink = Sink::start(Behaviour::with_tls(ca.server(&["mx1.example.org", "mx2.example.org"]))).await;
    let whole = Test::of(sink.address, &ca).whole().await;
    let expected = format!(
        "{}: Could not validate certificate: name mismatch: wanted mx.example.org, certificate has mx1.example.org, \
         mx2.example.org\n\
         Effect: Mail over this route is returned to its senders (5.7.5), even though the route is saved.\n\
         What helps:\n \
         1. If the mail server has more than one host name, use the one that is on its certificate; the certificate \
         has mx1.example.org, mx2.example.org: write one of them as the host of the route, or as tls.serverName.\n \
         2. If you have access to the mail server, install a new certificate from a trusted certificate authority, \
         with the name mx.example.org on it. An authority of your own is trusted when the route names it in tls.caRef.\n \
         3. If it is the mail relay of a third party, contact its provider about this error.\n \
         4. Or switch off one or more of tls.require (Require mail to be transmitted via a secure (TLS) connection), \
         tls.requireCaSigned (Require CA signed certificate) and tls.validateHostname (Validate certificate \
         hostname). Better leave them on: only then can the connection be verified.",
        sink.address
    );
    assert_eq!(whole.message, expected);
    assert_eq!((whole.reason, whole.passed()), (Reason::CertNameMismatch, false));

    let mut test = Test::of(sink.address, &ca);
    test.route.on_tls_failure = OnTlsFailure::Defer;
    let message = test.whole().await.message;
    assert!(
        message.contains("waits and is tried again; what is still there after 120h is returned"),
        "{message}"
    );
}

#[tokio::test]
async fn one_bad_host_fails_the_route_and_the_others_are_said_to_carry_the_mail() {
    let ca = Authority::new();
    let bad = Sink::start(Behaviour::with_tls(ca.server(&["other.example"]))).await;
    let good = Sink::start(Behaviour::with_tls(ca.server(&[MX]))).await;
    let mut test = Test::of(good.address, &ca);
    test.route.target =
        RouteTarget::Hosts { primary: vec![host(good.address)], secondary: vec![host(bad.address)] };
    let whole = test.whole().await;
    assert_eq!(whole.reason, Reason::CertNameMismatch);
    assert_eq!(whole.hosts[0].reason, Reason::Verified, "in the order in which they are written");
    assert!(whole.message.starts_with(&format!("{}: Could not validate", bad.address)), "{}", whole.message);
    assert!(whole.message.contains(&format!("leaves by {}", good.address)), "{}", whole.message);
}

#[tokio::test]
async fn two_tests_that_find_the_same_agree_whatever_words_and_times_there_are() {
    let ca = Authority::new();
    let sink =
        Sink::start(Behaviour::with_tls(ca.server(&[MX])).on("CONNECT", say("421 4.7.0 try later [id 1]")))
            .await;
    let test = Test::of(sink.address, &ca);
    let first = test.whole().await;
    sink.behave(Behaviour::with_tls(ca.server(&[MX])).on("CONNECT", say("421 4.7.0 try later [id 2]")));
    let second = test.whole().await;
    assert!(first.message != second.message && first.agrees_with(&second));
    sink.behave(Behaviour::with_tls(ca.server(&[MX])));
    assert!(!first.agrees_with(&test.whole().await));
}

#[test]
fn what_a_pod_tells_the_controller_reads_back_as_it_was() {
    let text = r#"{"instance":"i","tested":3,"routes":[]}"#;
    let probes: crate::bundle::probe::Probes = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&probes).unwrap(), text);
}
