//! Hosts that ask who we are (spec R17), and the oldest version of TLS that a route takes.

use rustls::version::{TLS12, TLS13};

use super::attempts::Attempt;
use super::*;
use crate::bundle::document::{Certificate, TlsVersion};
use crate::delivery::outcome::Trouble;
use crate::delivery::sink::{Authority, Behaviour, Sink};

const MX: &str = "mx.example.org";

fn material(key: &str) -> Material {
    Material { kind: MaterialKind::Secret, namespace: "mail".into(), name: "own".into(), key: key.into() }
}

/// A strict route to a host of `authority`, which shows this certificate.
fn attempt(to: &Sink, authority: &Authority, own: Option<(String, String)>) -> Attempt {
    let mut attempt = Attempt::to_hosts(&[to.address]);
    attempt.route.tls = RouteTls { server_name: Some(MX.into()), ..strict(true) };
    attempt.ca = Some(authority.pem());
    if let Some((chain, key)) = own {
        let (at, beside) = (material("tls.crt"), material("tls.key"));
        attempt.materials.insert(at.clone(), chain.as_bytes());
        attempt.materials.insert(beside.clone(), key.as_bytes());
        attempt.route.tls.client_certificate = Some(Certificate { chain: at, key: beside });
    }
    attempt
}

#[tokio::test]
async fn r017_a_host_that_asks_gets_the_certificate_of_the_route() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::called("Others"));
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let server = authority.server_for(&[MX], &clients, versions);
        let sink = Sink::start(Behaviour::with_tls(server)).await;
        let known = attempt(&sink, &authority, Some(clients.client("gw.solarmora.com")));
        assert_eq!(known.send(&[to("a@x.example")]).await.words(), ["delivered"], "{versions:?}");

        // None, or one of somebody else: the host's alert is what an administrator reads.
        for own in [None, Some(others.client("gw.solarmora.com"))] {
            let unknown = attempt(&sink, &authority, own);
            let tried = unknown.send(&[to("a@x.example")]).await;
            assert_eq!(tried.words(), ["later"]);
            let Trouble::ClientCertificate(alert) = tried.trouble() else {
                panic!("{versions:?}: {:?}", tried.trouble())
            };
            assert!(alert.contains("Certificate") || alert.contains("CA"), "{alert}");
        }
        // What the sender demands on top (RFC 8689) takes nothing away.
        let mut demanding = attempt(&sink, &authority, Some(clients.client("gw.solarmora.com")));
        demanding.sender.require_tls = true;
        let tried = demanding.send(&[to("a@x.example")]).await;
        assert!(
            matches!(tried.trouble(), Trouble::RequireTls(why) if why.contains("REQUIRETLS")),
            "{tried:?}"
        );
        assert_eq!(sink.accepted().len(), 1);
    }
    // A host that does not ask is told nothing.
    let sink = Sink::start(Behaviour::with_tls(authority.server(&[MX]))).await;
    let unasked = attempt(&sink, &authority, Some(clients.client("gw.solarmora.com")));
    assert_eq!(unasked.send(&[to("a@x.example")]).await.words(), ["delivered"]);
}

#[tokio::test]
async fn r017_a_renewed_certificate_is_shown_by_the_next_attempt() {
    let (authority, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let sink = Sink::start(Behaviour::with_tls(authority.server_for(&[MX], &old, &[&TLS13]))).await;
    let mut attempt = attempt(&sink, &authority, Some(old.client("gw")));
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"]);
    let (chain, key) = new.client("gw");
    attempt.materials.insert(material("tls.crt"), chain.as_bytes());
    attempt.materials.insert(material("tls.key"), key.as_bytes());
    // The session of the old one is still there and is not used.
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["later"]);
    sink.behave(Behaviour::with_tls(authority.server_for(&[MX], &new, &[&TLS13])));
    assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"]);
}

#[test]
fn r017_a_certificate_without_its_key_makes_mail_wait_with_the_reason() {
    let clients = Authority::new();
    let ((chain, key), (_, other)) = (clients.client("gw"), clients.client("gw"));
    let why = |chain: &str, key: &str| {
        let mut materials = Materials::default();
        let (at, beside) = (material("tls.crt"), material("tls.key"));
        materials.insert(at.clone(), chain.as_bytes());
        materials.insert(beside.clone(), key.as_bytes());
        let certificate = Certificate { chain: at, key: beside };
        let tls = RouteTls { client_certificate: Some(certificate), ..strict(false) };
        let route = Route { tls, ..route(hosts(&["127.0.0.1:25".parse().unwrap()])) };
        let table = table_with(gateway(), vec![route], None, &materials);
        table.resolve(&via()).map(|_| ()).map_err(|problem| problem.to_string())
    };
    assert_eq!(why(&chain, &key), Ok(()));
    for (chain, key, expected) in [
        (chain.as_str(), other.as_str(), "and the private key beside it do not belong together"),
        ("no PEM", &key, "its client certificate holds no certificate"),
        (&key, &key, "its client certificate holds no certificate"),
        (&chain, "hunter2", "the private key of its client certificate cannot be read"),
        (&chain, &chain, "the private key of its client certificate cannot be read"),
    ] {
        let text = why(chain, key).unwrap_err();
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn r017_a_host_whose_tls_is_older_than_the_route_wants_gets_no_mail() {
    let authority = Authority::new();
    for (server, wanted, delivered) in [
        (&[&TLS12][..], TlsVersion::Tls12, true),
        (&[&TLS12], TlsVersion::Tls13, false),
        (&[&TLS13], TlsVersion::Tls12, true),
        (&[&TLS13], TlsVersion::Tls13, true),
        (&[&TLS12, &TLS13], TlsVersion::Tls13, true),
    ] {
        let sink = Sink::start(Behaviour::with_tls(authority.server_of(&[MX], server))).await;
        let mut attempt = attempt(&sink, &authority, None);
        attempt.route.tls.min_version = wanted;
        let tried = attempt.send(&[to("a@x.example")]).await;
        assert_eq!(tried.words(), [if delivered { "delivered" } else { "later" }], "{server:?} {wanted:?}");
        if !delivered {
            assert!(matches!(tried.trouble(), Trouble::Handshake(_)), "{:?}", tried.trouble());
            assert!(sink.mails().is_empty());
        }
    }
}
