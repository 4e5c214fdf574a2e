//! Never weaker than stated: every demand a route, a rule and a sender can make, against every peer, good,
//! careless or hostile. The judge is the peer: it knows what came, over what, and what it is itself.

use super::attempts::Attempt;
use super::*;
use crate::bundle::document::{AuthMechanism, RouteAuth};
use crate::delivery::outcome::Outcome;
use crate::delivery::sink::{Action, Authority, Behaviour, Sink, expired, say, self_signed};

const MX: &str = "mx.example.org";

/// A next hop and what is true of it.
struct Peer {
    name: &'static str,
    behaviour: Behaviour,
    /// Its certificate is signed by an authority that the route trusts, and in its dates.
    trusted: bool,
    /// Its certificate bears the name.
    named: bool,
    /// TLS works there.
    encrypts: bool,
}

fn peers(ca: &Authority) -> Vec<Peer> {
    let stranger = Authority::new();
    let with = |tls| {
        let mut behaviour = Behaviour::with_tls(tls).on("AUTH", say("235 2.7.0 welcome"));
        behaviour.extensions.extend(["AUTH PLAIN".to_owned(), "REQUIRETLS".to_owned()]);
        behaviour
    };
    let good = || with(ca.server(&[MX]));
    let clear = || Behaviour { tls: None, ..good() };
    let peer = |name, behaviour, trusted, named, encrypts| Peer { name, behaviour, trusted, named, encrypts };
    vec![
        peer("all is well", good(), true, true, true),
        peer("another name", with(ca.server(&["other.example"])), true, false, true),
        peer("expired", with(ca.server_with(&[MX], expired)), false, true, true),
        peer("a stranger's signature", with(stranger.server(&[MX])), false, true, true),
        peer("self-signed", with(self_signed(&[MX]).0), false, true, true),
        peer("nothing right", with(self_signed(&["other.example"]).0), false, false, true),
        peer("no TLS", clear(), false, false, false),
        peer(
            "STARTTLS taken out of EHLO",
            good().on("EHLO", say("250-sink.example\r\n250 AUTH PLAIN")),
            false,
            false,
            false,
        ),
        peer("HELO only", clear().on("EHLO", say("502 5.5.1 no")), false, false, false),
        peer("STARTTLS not now", good().on("STARTTLS", say("454 4.7.0 not now")), false, false, false),
        peer("STARTTLS never", good().on("STARTTLS", say("502 5.5.1 never")), false, false, false),
        peer("STARTTLS is noise", good().on("STARTTLS", say("noise")), false, false, false),
        peer("gone at STARTTLS", good().on("STARTTLS", Action::Close), false, false, false),
        peer(
            "clear text behind STARTTLS",
            good().on("STARTTLS", say("220 go\r\n250 injected")),
            false,
            false,
            false,
        ),
    ]
}

/// What a route may say of TLS.
fn terms() -> Vec<RouteTls> {
    let on = [false, true];
    let required = on
        .into_iter()
        .flat_map(|chain| on.map(|name| (chain, name)))
        .map(|(chain, name)| RouteTls { require_ca_signed: chain, validate_hostname: name, ..strict(true) });
    let all =
        std::iter::once(RouteTls { ca: Some(ca_material()), ..RouteTls::opportunistic() }).chain(required);
    all.map(|tls| RouteTls { server_name: Some(MX.into()), ..tls }).collect()
}

fn login() -> RouteAuth {
    let secret = |key: &str| Material {
        kind: MaterialKind::Secret,
        namespace: "mail".into(),
        name: "login".into(),
        key: key.into(),
    };
    RouteAuth { mechanism: AuthMechanism::Plain, username: secret("username"), password: secret("password") }
}

/// One case: what a route, a rule and a sender demand of a peer. Says whether it was delivered, and how.
async fn case(
    ca: &Authority,
    peer: &Peer,
    tls: &RouteTls,
    (rule, sender, login): (bool, bool, bool),
) -> Option<bool> {
    // A sink of its own: what it saw belongs to this case alone.
    let sink = Sink::start(peer.behaviour.clone()).await;
    let mut attempt = Attempt::to_hosts(&[sink.address]);
    attempt.outside.timeouts = patient();
    attempt.ca = Some(ca.pem());
    attempt.route.tls = tls.clone();
    attempt.require_tls = rule;
    attempt.sender.require_tls = sender;
    if login {
        let auth = self::login();
        attempt.materials.insert(auth.username.clone(), &b"tim"[..]);
        attempt.materials.insert(auth.password.clone(), &b"tanstaaftanstaaf"[..]);
        attempt.route.auth = Some(auth);
    }
    let case = format!("{}: {tls:?}, rule {rule}, REQUIRETLS {sender}, login {login}", peer.name);
    let outcome = attempt.send(&[to("a@x.example")]).await.outcomes.remove(0);

    let encrypted = tls.require || rule || sender;
    let (chain, name) = (tls.require_ca_signed || sender, tls.validate_hostname || sender);
    let (mails, commands) = (sink.mails(), sink.commands());
    for mail in &mails {
        assert!(mail.tls || !encrypted, "in clear: {case}");
        assert!(peer.trusted || !chain, "to a stranger: {case}");
        assert!(peer.named || !name, "to another name: {case}");
    }
    // Not even the addresses: whoever heard MAIL had met the demands.
    let begun = commands.iter().filter(|line| line.starts_with("MAIL")).count();
    assert_eq!(begun, mails.len(), "{case}: {commands:?}");
    let said = commands.iter().any(|line| line.starts_with("AUTH"));
    assert!(!said || (peer.trusted && peer.named && login), "a password: {case}");
    assert!(mails.is_empty() || said == login, "without its login: {case}");

    // And what can be delivered is.
    let meets = (peer.encrypts || !encrypted) && (peer.trusted || !chain) && (peer.named || !name);
    match outcome {
        Outcome::Delivered(receipt) => {
            assert!(meets, "{case}: {receipt:?}");
            // What is counted as clear text is what came in clear text.
            assert_eq!(receipt.tls.is_some(), mails[0].tls, "{case}");
            assert_eq!(receipt.tls.is_some(), peer.encrypts, "{case}");
            Some(receipt.tls.is_some())
        }
        other => {
            assert!(!meets, "{case}: {other:?}");
            None
        }
    }
}

/// Enough for a busy machine; peers that never answer are waited for side by side.
fn patient() -> Timeouts {
    let limit = Duration::from_secs(3);
    Timeouts { connect: limit, greeting: limit, hello: limit, ..impatient() }
}

#[tokio::test]
async fn r012_r013_r014_r138_no_demand_is_ever_given_up_whatever_the_peer_does() {
    let ca = Authority::new();
    let (peers, terms) = (peers(&ca), terms());
    let (mut tried, mut delivered, mut in_clear) = (0, 0, 0);
    for peer in &peers {
        let demands = |tls: &RouteTls| {
            let all = (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0));
            // A route with a login and weaker TLS is no route; that has a test of its own.
            all.filter(|(.., login)| !login || tls.verifies_peer()).collect::<Vec<_>>()
        };
        let cases = terms.iter().flat_map(|tls| demands(tls).into_iter().map(move |demands| (tls, demands)));
        let cases = cases.map(|(tls, demands)| case(&ca, peer, tls, demands));
        for outcome in futures::future::join_all(cases).await {
            tried += 1;
            delivered += usize::from(outcome.is_some());
            in_clear += usize::from(outcome == Some(false));
        }
    }
    assert_eq!(tried, peers.len() * (4 * terms.len() + 4));
    // The table is not empty on either side.
    assert!(delivered == 60 && in_clear == 8, "{delivered} of {tried}, {in_clear} in clear");
}

/// What a person sees in `open`: the fall back to clear text happens only where nothing at all was demanded.
#[tokio::test]
async fn r021_without_any_demand_tls_is_tried_first_and_clear_text_is_the_last_resort() {
    let ca = Authority::new();
    for peer in peers(&ca) {
        let sink = Sink::start(peer.behaviour.clone()).await;
        let attempt = Attempt::to_hosts(&[sink.address]);
        let tried = attempt.send(&[to("a@x.example")]).await;
        assert_eq!(tried.words(), ["delivered"], "{}", peer.name);
        assert_eq!(sink.accepted()[0].tls, peer.encrypts, "{}", peer.name);
        let offered = peer.behaviour.tls.is_some() && !peer.name.contains("EHLO");
        let asked = sink.commands().iter().any(|line| line == "STARTTLS");
        assert_eq!(asked, offered, "{}: {:?}", peer.name, sink.commands());
    }
}

#[tokio::test]
async fn r015_any_certificate_will_do_where_only_encryption_is_demanded() {
    let ca = Authority::new();
    for peer in peers(&ca).into_iter().filter(|peer| peer.encrypts) {
        let sink = Sink::start(peer.behaviour.clone()).await;
        let mut attempt = Attempt::to_hosts(&[sink.address]);
        attempt.route.tls = RouteTls { require: true, ..RouteTls::opportunistic() };
        assert_eq!(attempt.send(&[to("a@x.example")]).await.words(), ["delivered"], "{}", peer.name);
        assert!(sink.accepted()[0].tls);
    }
}
