//! Logins at a next hop that takes them, and at ones that do not: whatever happens there, no mail leaves
//! without the login of its route (spec R16).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::attempts::{Attempt, Tried};
use super::*;
use crate::bundle::document::{AuthMechanism, RouteAuth};
use crate::delivery::outcome::{Stage, Trouble};
use crate::delivery::sink::{Action, Authority, Behaviour, Sink, say};

const MX: &str = "mx.example.org";

fn secret(key: &str) -> Material {
    Material { kind: MaterialKind::Secret, namespace: "mail".into(), name: "login".into(), key: key.into() }
}

fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

/// A sink with a verified certificate and these keywords, and a route that logs in there as tim.
async fn hop(
    mechanism: AuthMechanism,
    extensions: &[&str],
    script: impl FnOnce(Behaviour) -> Behaviour,
) -> (Sink, Attempt) {
    let authority = Authority::new();
    let extensions = extensions.iter().map(|keyword| (*keyword).to_owned()).collect();
    let behaviour = Behaviour { extensions, ..Behaviour::with_tls(authority.server(&[MX])) };
    let sink = Sink::start(script(behaviour)).await;
    let mut attempt = Attempt::to_hosts(&[sink.address]);
    attempt.route.tls = RouteTls { server_name: Some(MX.into()), ..strict(true) };
    attempt.route.auth =
        Some(RouteAuth { mechanism, username: secret("username"), password: secret("password") });
    attempt.ca = Some(authority.pem());
    attempt.materials.insert(secret("username"), &b"tim"[..]);
    attempt.materials.insert(secret("password"), &b"tanstaaftanstaaf"[..]);
    (sink, attempt)
}

async fn send(attempt: &Attempt) -> Tried {
    attempt.send(&[to("a@x.example")]).await
}

/// What became of a login; nothing else than a login was tried, and nothing in clear.
async fn trouble(sink: &Sink, attempt: &Attempt) -> Trouble {
    let tried = send(attempt).await;
    assert_eq!(tried.words(), ["later"], "{:?}", tried.outcomes);
    let commands = sink.commands();
    assert!(!commands.iter().any(|line| line.starts_with("MAIL")), "{commands:?}");
    let tls = commands.iter().position(|line| line == "STARTTLS").unwrap_or(usize::MAX);
    let login = commands.iter().position(|line| line.starts_with("AUTH"));
    assert!(login.is_none_or(|login| login > tls), "{commands:?}");
    tried.trouble().clone()
}

#[tokio::test]
async fn each_mechanism_logs_in_before_any_mail_and_once_per_connection() {
    let challenge = "<1896.697170952@postoffice.reston.mci.net>";
    let digest = "tim b913a602c7eda7a495b4e6e7334d3890";
    let ok = || say("235 2.7.0 welcome");
    type Script = Box<dyn FnOnce(Behaviour) -> Behaviour>;
    let plain = encoded("\0tim\0tanstaaftanstaaf");
    let bearer = encoded("user=tim\x01auth=Bearer tanstaaftanstaaf\x01\x01");
    let cases: Vec<(AuthMechanism, Vec<String>, Script)> = vec![
        (
            AuthMechanism::Plain,
            vec![format!("AUTH PLAIN {plain}")],
            Box::new(move |sink| sink.on("AUTH PLAIN ", ok())),
        ),
        (
            AuthMechanism::Login,
            vec!["AUTH LOGIN".into(), encoded("tim"), encoded("tanstaaftanstaaf")],
            Box::new(move |sink| {
                sink.on("AUTH LOGIN", say("334 VXNlcm5hbWU6"))
                    .on(&encoded("tim"), say("334 and now, please?"))
                    .on(&encoded("tanstaaftanstaaf"), ok())
            }),
        ),
        (
            AuthMechanism::CramMd5,
            vec!["AUTH CRAM-MD5".into(), encoded(digest)],
            Box::new(move |sink| {
                let asks = format!("334 {}", encoded(challenge));
                sink.on("AUTH CRAM-MD5", say(&asks)).on(&encoded(digest), ok())
            }),
        ),
        (
            AuthMechanism::XOAuth2,
            vec![format!("AUTH XOAUTH2 {bearer}")],
            Box::new(move |sink| sink.on("AUTH XOAUTH2 ", ok())),
        ),
    ];
    for (mechanism, expected, script) in cases {
        let all = "AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2";
        let (sink, attempt) = hop(mechanism, &[all, "PIPELINING"], script).await;
        for _ in 0..2 {
            assert_eq!(send(&attempt).await.words(), ["delivered"], "{mechanism:?}");
        }
        let commands = sink.commands();
        let mail = ["EHLO", "STARTTLS", "MAIL", "RCPT", "DATA"];
        let login = |line: &&String| !mail.iter().any(|verb| line.starts_with(verb));
        let said: Vec<String> = commands.iter().filter(login).cloned().collect();
        assert_eq!(said, expected, "{mechanism:?}");
        assert!(sink.accepted().iter().all(|mail| mail.tls && mail.connection == 0));
    }
}

#[tokio::test]
async fn a_first_answer_too_long_for_a_command_waits_to_be_asked_for() {
    let token = "t".repeat(2000);
    let (sink, mut attempt) = hop(AuthMechanism::XOAuth2, &["AUTH XOAUTH2"], |sink| {
        sink.on("AUTH XOAUTH2", say("334 ")).on("dXNlcj10aW0", say("235 2.7.0 fine"))
    })
    .await;
    attempt.materials.insert(secret("password"), token.as_bytes());
    assert_eq!(send(&attempt).await.words(), ["delivered"]);
    let commands = sink.commands();
    let at = commands.iter().position(|line| line == "AUTH XOAUTH2").expect("without the token");
    assert_eq!(commands[at + 1], encoded(&format!("user=tim\x01auth=Bearer {token}\x01\x01")));
}

#[tokio::test]
async fn r016_auth_is_never_skipped_nor_weakened() {
    use AuthMechanism::{Plain, ScramSha256};
    // No AUTH at all; none that the route asks for; none that is known.
    let (sink, attempt) = hop(Plain, &["PIPELINING"], |sink| sink).await;
    assert_eq!(trouble(&sink, &attempt).await, Trouble::AuthNotOffered);
    let (sink, attempt) = hop(ScramSha256, &["AUTH PLAIN LOGIN"], |sink| sink).await;
    let problem = trouble(&sink, &attempt).await;
    assert_eq!(problem.reason(), "AuthMechanismMissing");
    let text = crate::delivery::outcome::Problem::new(problem).to_string();
    assert!(text.contains("offers no login by SCRAM-SHA-256; it offers PLAIN, LOGIN"), "{text}");
    let (sink, attempt) = hop(ScramSha256, &["AUTH SCRAM-SHA-256-PLUS GSSAPI"], |sink| sink).await;
    assert_eq!(trouble(&sink, &attempt).await.reason(), "AuthMechanismMissing");

    // Offered in clear text only: what was said before TLS means nothing inside it.
    let (sink, attempt) = hop(Plain, &[], |sink| {
        sink.on_times("EHLO", 1, say("250-sink.example\r\n250-AUTH PLAIN\r\n250 STARTTLS"))
    })
    .await;
    assert_eq!(trouble(&sink, &attempt).await, Trouble::AuthNotOffered);

    // No TLS, TLS refused, a host that knows HELO only: the password stays here.
    let (sink, attempt) = hop(Plain, &["AUTH PLAIN"], |sink| Behaviour { tls: None, ..sink }).await;
    let tried = send(&attempt).await;
    assert_eq!(tried.words(), ["5.7.4"]);
    assert!(sink.commands().iter().all(|line| line.starts_with("EHLO") || line == "QUIT"));
    let (sink, attempt) =
        hop(Plain, &["AUTH PLAIN"], |sink| sink.on("STARTTLS", say("454 4.7.0 later"))).await;
    trouble(&sink, &attempt).await;
    let (sink, attempt) = hop(Plain, &["AUTH PLAIN"], |sink| sink.on("EHLO", say("502 5.5.1 no"))).await;
    trouble(&sink, &attempt).await;
    assert!(sink.commands().iter().all(|line| !line.starts_with("AUTH")));

    // A stranger's certificate.
    let (sink, mut attempt) = hop(Plain, &["AUTH PLAIN"], |sink| sink).await;
    attempt.ca = Some(Authority::new().pem());
    assert_eq!(send(&attempt).await.words(), ["5.7.5"]);
    assert!(sink.commands().iter().all(|line| !line.starts_with("AUTH")));
}

#[tokio::test]
async fn r016_a_route_with_a_login_and_weaker_tls_is_no_route() {
    let (sink, attempt) = hop(AuthMechanism::Plain, &["AUTH PLAIN"], |sink| sink).await;
    for change in [
        |tls: &mut RouteTls| tls.require = false,
        |tls: &mut RouteTls| tls.require_ca_signed = false,
        |tls: &mut RouteTls| tls.validate_hostname = false,
        |tls: &mut RouteTls| *tls = RouteTls::opportunistic(),
    ] {
        let mut route = attempt.route.clone();
        change(&mut route.tls);
        let table = table_with(gateway(), vec![route], attempt.ca.as_deref(), &attempt.materials);
        let why = table.resolve(&via()).unwrap_err().to_string();
        assert!(why.contains("does not demand TLS with a verified certificate"), "{why}");
    }
    assert_eq!(sink.connections(), 0);
}

#[tokio::test]
async fn refused_logins_make_mail_wait_with_the_words_of_the_host() {
    for (reply, reason) in [
        ("535 5.7.8 bad credentials", "AuthRefused"),
        ("534 5.7.9 mechanism too weak", "AuthRefused"),
        ("538 5.7.11 encryption required", "AuthRefused"),
        ("504 5.5.4 no such mechanism", "AuthRefused"),
        ("432 4.7.12 a password transition is needed", "AuthUnavailable"),
        ("454 4.7.0 temporary failure", "AuthUnavailable"),
        ("421 4.3.2 closing", "AuthUnavailable"),
    ] {
        let (sink, attempt) =
            hop(AuthMechanism::Plain, &["AUTH PLAIN"], |sink| sink.on("AUTH", say(reply))).await;
        let problem = trouble(&sink, &attempt).await;
        assert_eq!(problem.reason(), reason, "{reply}");
        let Trouble::Refused(Stage::Auth, said) = &problem else { panic!("{problem:?}") };
        assert_eq!(said.to_string(), reply);
        assert_eq!(problem.is_unwelcome(), said.code != 421);
        // Once: a second try with the same password could lock the account.
        let logins = sink.commands().iter().filter(|line| line.starts_with("AUTH")).count();
        assert_eq!(logins, 1, "{reply}");
    }
}

#[tokio::test]
async fn another_host_of_the_route_may_take_the_login() {
    let (bad, _) =
        hop(AuthMechanism::Plain, &["AUTH PLAIN"], |sink| sink.on("AUTH", say("535 5.7.8 no"))).await;
    let (good, mut attempt) =
        hop(AuthMechanism::Plain, &["AUTH PLAIN"], |sink| sink.on("AUTH", say("235 2.7.0 yes"))).await;
    drop(bad);
    let authority = Authority::new();
    let behaviour = |reply: &str| {
        let extensions = vec!["AUTH PLAIN".to_owned()];
        Behaviour { extensions, ..Behaviour::with_tls(authority.server(&[MX])) }.on("AUTH", say(reply))
    };
    let (bad, better) =
        (Sink::start(behaviour("535 5.7.8 no")).await, Sink::start(behaviour("235 2.7.0 yes")).await);
    drop(good);
    attempt.ca = Some(authority.pem());
    attempt.route.target =
        RouteTarget::Hosts { primary: vec![host(bad.address)], secondary: vec![host(better.address)] };
    assert_eq!(send(&attempt).await.words(), ["delivered"]);
    assert!(bad.mails().is_empty() && better.accepted().len() == 1);
}

#[tokio::test]
async fn answers_that_are_no_login_end_the_session_without_mail() {
    use AuthMechanism::{CramMd5, Login, Plain, ScramSha256};
    for (mechanism, reply) in [
        (Plain, say("334 more")),
        (Plain, say("250 fine")),
        (Plain, say("354 go")),
        (Plain, say("nonsense")),
        (Plain, Action::Close),
        (Plain, Action::Hang),
        (CramMd5, say("334 ***")),
        (CramMd5, say("235 2.7.0 no need to")),
        (Login, say("235 2.7.0 no need to")),
        (ScramSha256, say("334 ***")),
        (ScramSha256, say(&format!("334 {}", encoded("r=x,s=AA==,i=4096")))),
        (ScramSha256, say("235 2.7.0 no need to")),
    ] {
        let keyword = format!("AUTH {}", mechanism.keyword());
        let (sink, attempt) = hop(mechanism, &[&keyword], |sink| sink.on("AUTH", reply)).await;
        trouble(&sink, &attempt).await;
    }
}

/// What stands in the stream before it was asked for is an answer to something else (as in the injections of
/// STARTTLS): it never counts as the answer to a login.
#[tokio::test]
async fn an_answer_that_comes_before_its_question_is_not_taken_for_one() {
    let ehlo = "250-sink.example\r\n250 AUTH PLAIN\r\n235 2.7.0 welcome before you asked";
    let (sink, attempt) = hop(AuthMechanism::Plain, &[], |sink| {
        sink.on_times("EHLO", 1, Action::Say("250-sink.example\r\n250 STARTTLS".into())).on("EHLO", say(ehlo))
    })
    .await;
    let problem = trouble(&sink, &attempt).await;
    assert!(matches!(problem, Trouble::Garbled(Stage::Auth, _)), "{problem:?}");
    assert!(sink.commands().iter().all(|line| !line.starts_with("AUTH")), "the password was not said");

    // In clear text, behind the answer to STARTTLS: thrown away with the clear text (RFC 3207).
    let (sink, attempt) = hop(AuthMechanism::Plain, &[], |sink| {
        sink.on_times("EHLO", 1, say("250-sink.example\r\n250-AUTH PLAIN\r\n250 STARTTLS"))
            .on("STARTTLS", say("220 go\r\n250-sink.example\r\n250 AUTH PLAIN\r\n235 2.7.0 in"))
    })
    .await;
    trouble(&sink, &attempt).await;
}

/// The server's side of SCRAM, of its own making.
fn scram(password: &'static str, iterations: u32, spoil: bool) -> impl FnOnce(Behaviour) -> Behaviour {
    use aws_lc_rs::{digest, hmac, pbkdf2};
    use std::sync::Mutex;
    let first: Arc<Mutex<(String, String)>> = Arc::default();
    let seen = Arc::clone(&first);
    let decode = |text: &str| String::from_utf8(STANDARD.decode(text).unwrap()).unwrap();
    let ask = move |line: &str| {
        let said = decode(line.rsplit(' ').next().unwrap());
        let bare = said.strip_prefix("n,,").expect("no channel binding").to_owned();
        let nonce = bare.split_once(",r=").unwrap().1;
        let challenge = format!("r={nonce}3rfcNHYJY1ZVvWVs7j,s={},i={iterations}", encoded("salt"));
        *seen.lock().unwrap() = (bare, challenge.clone());
        format!("334 {}", encoded(&challenge))
    };
    let prove = move |line: &str| {
        let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let said = decode(line);
        let (bare, proof) = said.split_once(",p=").unwrap();
        let (client, challenge) = first.lock().unwrap().clone();
        let message = format!("{client},{challenge},{bare}");
        let mut salted = [0; 32];
        let count = std::num::NonZeroU32::new(iterations).unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, count, b"salt", password.as_bytes(), &mut salted);
        let client_key = hmac::sign(&key(&salted), b"Client Key");
        let stored = digest::digest(&digest::SHA256, client_key.as_ref());
        let signature = hmac::sign(&key(stored.as_ref()), message.as_bytes());
        let expected: Vec<u8> =
            client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        if STANDARD.decode(proof).unwrap() != expected {
            return "535 5.7.8 wrong password".to_owned();
        }
        let server = hmac::sign(&key(&salted), b"Server Key");
        let mut signature = hmac::sign(&key(server.as_ref()), message.as_bytes()).as_ref().to_vec();
        signature[0] ^= u8::from(spoil);
        format!("334 {}", encoded(&format!("v={}", STANDARD.encode(signature))))
    };
    move |sink| {
        sink.on("AUTH SCRAM-SHA-256 ", Action::Do(Arc::new(ask)))
            .on("Yz1iaXdz", Action::Do(Arc::new(prove)))
            .on("BLANK", say("235 2.7.0 both are who they say"))
    }
}

#[tokio::test]
async fn scram_logs_in_where_both_sides_prove_that_they_know_the_password() {
    let offered = ["AUTH SCRAM-SHA-256"];
    let password = "tanstaaftanstaaf";
    let scram_at = |script| hop(AuthMechanism::ScramSha256, &offered, script);
    let (sink, attempt) = scram_at(scram(password, 4096, false)).await;
    assert_eq!(send(&attempt).await.words(), ["delivered"]);
    assert!(!sink.commands().iter().any(|line| line.contains(&encoded(password))));

    let (sink, attempt) = scram_at(scram("another password", 4096, false)).await;
    assert_eq!(trouble(&sink, &attempt).await.reason(), "AuthRefused");

    let (sink, attempt) = scram_at(scram(password, 4096, true)).await;
    assert_eq!(trouble(&sink, &attempt).await.reason(), "AuthUnproven");
    assert!(sink.commands().contains(&"*".to_owned()), "cancelled");

    // A million and one rounds are somebody's wish to keep us busy; one round gives the password away.
    for iterations in [1, 1_000_001] {
        let (sink, attempt) = scram_at(scram(password, iterations, false)).await;
        assert_eq!(trouble(&sink, &attempt).await.reason(), "AuthUnproven");
        assert!(!sink.commands().iter().any(|line| line.starts_with("Yz1iaXdz")), "no proof was given");
    }
}

#[tokio::test]
async fn a_changed_password_is_used_by_the_next_attempt_and_no_older_session_is() {
    let (sink, mut attempt) =
        hop(AuthMechanism::Plain, &["AUTH PLAIN"], |sink| sink.on("AUTH", say("235 2.7.0 ok"))).await;
    assert_eq!(send(&attempt).await.words(), ["delivered"]);
    assert_eq!(send(&attempt).await.words(), ["delivered"]);
    assert_eq!(sink.connections(), 1, "the same login: the same connection");
    attempt.materials.insert(secret("password"), &b"another"[..]);
    assert_eq!(send(&attempt).await.words(), ["delivered"]);
    assert_eq!(sink.connections(), 2);
    let logins: Vec<String> = sink.commands().into_iter().filter(|line| line.starts_with("AUTH")).collect();
    assert_eq!(logins[1], format!("AUTH PLAIN {}", encoded("\0tim\0another")));
    // Without a login it is another session again, never one that somebody is logged in on.
    attempt.route.auth = None;
    assert_eq!(send(&attempt).await.words(), ["delivered"]);
    assert_eq!(sink.connections(), 3);
}

#[test]
fn a_route_whose_login_is_missing_or_unusable_makes_its_mail_wait_and_says_why_without_the_secret() {
    let why = |change: &dyn Fn(&mut Materials)| {
        let mut materials = Materials::default();
        materials.insert(secret("username"), &b"tim"[..]);
        materials.insert(secret("password"), &b"hunter2"[..]);
        change(&mut materials);
        let auth = RouteAuth {
            mechanism: AuthMechanism::ScramSha256,
            username: secret("username"),
            password: secret("password"),
        };
        let target = hosts(&["127.0.0.1:25".parse().unwrap()]);
        let route = Route { tls: strict(false), auth: Some(auth), ..route(target) };
        let table = table_with(gateway(), vec![route], None, &materials);
        assert!(!format!("{table:?}").contains("hunter2"));
        table.resolve(&via()).map(|_| ()).map_err(|problem| problem.to_string())
    };
    assert_eq!(why(&|_| {}), Ok(()));
    let missing = why(&|materials| *materials = Materials::default()).unwrap_err();
    assert!(missing.contains("the Secret of its login mail/login (key username) is not here"), "{missing}");
    let odd = why(&|materials| materials.insert(secret("password"), "hunter2\u{fc}".as_bytes())).unwrap_err();
    assert!(odd.contains("the password of its login has characters beyond ASCII"), "{odd}");
    assert!(!odd.contains("hunter2"));
}
