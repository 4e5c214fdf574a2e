//! The certificate table (B19, E9): refused with the precise cause when verification is on, taken
//! when it is off.

use super::attempts::Attempt;
use super::*;
use crate::delivery::outcome::Trouble;
use crate::delivery::sink::{
    Authority, Behaviour, Sink, common_name, expired, must_staple, not_yet_valid, self_signed,
};
use rustls::ServerConfig;

/// Sends over a route with these switches; the text of a refused certificate, or None when delivered.
async fn refusal(
    server: Arc<ServerConfig>,
    ca: &Authority,
    name: &str,
    change: impl FnOnce(&mut RouteTls),
) -> Option<String> {
    let sink = Sink::start(Behaviour::with_tls(server)).await;
    let mut attempt = Attempt::to_hosts(&[sink.address]);
    attempt.route.tls = RouteTls { server_name: Some(name.to_owned()), ..strict(true) };
    change(&mut attempt.route.tls);
    attempt.ca = Some(ca.pem());
    let tried = attempt.send(&[to("a@x.example")]).await;
    if tried.words() == ["delivered"] {
        assert!(sink.accepted()[0].tls);
        return None;
    }
    assert_eq!(tried.words(), ["5.7.5"], "{:?}", tried.outcomes);
    assert!(sink.mails().is_empty());
    match tried.trouble() {
        Trouble::Certificate(text) => Some(text.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn certificates_are_refused_with_the_precise_cause() {
    let (ca, other) = (Authority::new(), Authority::new());
    let mx = "mx.example.org";
    let cases: Vec<(Arc<ServerConfig>, &str, &str)> = vec![
        (self_signed(&[mx]).0, mx, "self-signed"),
        (ca.server_with(&[mx], expired), mx, "expired at 2020-01-02T00:00:00Z"),
        (ca.server_with(&[mx], not_yet_valid), mx, "not yet valid, it begins at 2090-01-01T00:00:00Z"),
        (
            ca.server(&["mx1.example.org", "mx2.example.org"]),
            mx,
            "name mismatch: wanted mx.example.org, certificate has mx1.example.org, mx2.example.org",
        ),
        (
            ca.server_with(&[], common_name("mx.example.org")),
            mx,
            "name mismatch: wanted mx.example.org, certificate has no names (its common name mx.example.org does not count)",
        ),
        (
            ca.server(&["*.example.org"]),
            "a.b.example.org",
            "name mismatch: wanted a.b.example.org, certificate has *.example.org",
        ),
        (ca.server(&["*.org"]), "example.org", "name mismatch: wanted example.org, certificate has *.org"),
        (other.server(&[mx]), mx, "unknown issuer (CN=Test Authority)"),
        (
            ca.server_with(&[mx], must_staple),
            mx,
            "it demands proof that it is not revoked and the server sent none",
        ),
        (ca.server(&[mx]), "127.0.0.1", "name mismatch: wanted 127.0.0.1, certificate has mx.example.org"),
        (
            ca.server(&["127.0.0.9"]),
            "127.0.0.1",
            "name mismatch: wanted 127.0.0.1, certificate has 127.0.0.9",
        ),
    ];
    for (server, name, cause) in cases {
        let text = refusal(server, &ca, name, |_| {}).await;
        assert_eq!(text, Some(format!("Could not validate certificate: {cause}")));
    }
}

#[tokio::test]
async fn the_right_certificate_is_taken() {
    let ca = Authority::new();
    for (names, name) in [
        (&["mx.example.org"][..], "mx.example.org"),
        (&["x.example", "MX.Example.org"], "mx.example.org"),
        (&["*.example.org"], "mx.example.org"),
        (&["127.0.0.1"], "127.0.0.1"),
    ] {
        assert_eq!(refusal(ca.server(names), &ca, name, |_| {}).await, None, "{names:?}");
    }
    // Without serverName the host itself is the name: here an address.
    assert_eq!(refusal(ca.server(&["127.0.0.1"]), &ca, "x", |tls| tls.server_name = None).await, None);
}

#[tokio::test]
async fn the_three_switches_are_separate() {
    let (ca, other) = (Authority::new(), Authority::new());
    let wrong_name = ca.server(&["other.example"]);
    let unknown = other.server(&["mx.example.org"]);
    let both = other.server(&["other.example"]);
    let name_off = |tls: &mut RouteTls| tls.validate_hostname = false;
    let chain_off = |tls: &mut RouteTls| tls.require_ca_signed = false;
    let off = |tls: &mut RouteTls| (tls.require_ca_signed, tls.validate_hostname) = (false, false);
    let mx = "mx.example.org";
    assert_eq!(refusal(wrong_name.clone(), &ca, mx, name_off).await, None);
    assert!(refusal(wrong_name, &ca, mx, chain_off).await.unwrap().contains("name mismatch"));
    assert_eq!(refusal(unknown.clone(), &ca, mx, chain_off).await, None);
    assert!(refusal(unknown, &ca, mx, name_off).await.unwrap().contains("unknown issuer"));
    assert_eq!(refusal(both, &ca, mx, off).await, None);
    assert_eq!(refusal(self_signed(&["x"]).0, &ca, mx, off).await, None);
    assert_eq!(refusal(ca.server_with(&["x"], expired), &ca, mx, off).await, None);
}

#[tokio::test]
async fn a_self_signed_certificate_named_by_the_route_is_trusted() {
    let (server, pem) = self_signed(&["mx.example.org"]);
    let sink = Sink::start(Behaviour::with_tls(server)).await;
    let mut attempt = Attempt::to_hosts(&[sink.address]);
    attempt.route.tls = RouteTls { server_name: Some("mx.example.org".into()), ..strict(true) };
    attempt.ca = Some(pem);
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"]);
}

#[tokio::test]
async fn a_bad_certificate_is_returned_only_when_every_host_was_reached_and_never_means_clear_text() {
    let ca = Authority::new();
    let bad = Sink::start(Behaviour::with_tls(ca.server(&["other.example"]))).await;
    let good = Sink::start(Behaviour::with_tls(ca.server(&["127.0.0.1"]))).await;
    let mut attempt = Attempt::to_hosts(&[bad.address, good.address]);
    attempt.route.tls = strict(true);
    attempt.ca = Some(ca.pem());
    for _ in 0..5 {
        assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"]);
    }
    drop(good);
    attempt.outside = Default::default();
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["later"]);
    attempt.route.target = hosts(&[bad.address]);
    attempt.route.on_tls_failure = OnTlsFailure::Defer;
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["later"]);
    assert!(bad.mails().is_empty());
}

#[test]
fn a_route_whose_ca_file_is_missing_or_unreadable_makes_its_mail_wait() {
    let broken = |ca: Option<&str>| {
        let route = Route { tls: strict(true), ..route(hosts(&["127.0.0.1:25".parse().unwrap()])) };
        table(vec![route], ca).resolve(&via()).unwrap_err().to_string()
    };
    assert!(broken(None).contains("CA file mail/ca (key ca.crt) is not here"));
    assert!(broken(Some("not PEM")).contains("holds no certificate"));
}
