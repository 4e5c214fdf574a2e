use aws_lc_rs::{digest, hmac, pbkdf2};
use proptest::prelude::*;

use super::*;

fn users() -> Users {
    Users::new(
        [("app", &b"pencil"[..]), ("ani@solarmora.com", b"s3cret, with = and ,"), ("empty", b"")]
            .map(|(name, password)| (name, Box::<[u8]>::from(password))),
    )
}

/// A whole exchange as words: what the client says (`=` first: in the command), what comes of it.
fn exchange(mechanism: Mechanism, initial: Option<&str>, lines: &[&str]) -> String {
    let users = users();
    let mut step = Exchange::begin(mechanism, initial, &users);
    let mut told = Vec::new();
    let mut lines = lines.iter();
    loop {
        match step {
            Step::Challenge(exchange, challenge) => {
                told.push(format!("334 {challenge}"));
                let Some(line) = lines.next() else { return told.join("; ") };
                step = exchange.answer(line.as_bytes(), &users);
                continue;
            }
            Step::Proven(name) => told.push(format!("proven {name}")),
            Step::Wrong => told.push("wrong".to_owned()),
            Step::Cancelled => told.push("cancelled".to_owned()),
            Step::Malformed => told.push("malformed".to_owned()),
        }
        return told.join("; ");
    }
}

fn b64(text: &str) -> String {
    STANDARD.encode(text)
}

#[test]
fn plain_takes_a_name_and_its_password_and_nothing_else() {
    for (message, expected) in [
        ("\0app\0pencil", "proven app"),
        ("app\0app\0pencil", "proven app"),
        ("\0ani@solarmora.com\0s3cret, with = and ,", "proven ani@solarmora.com"),
        ("\0app\0pencils", "wrong"),
        ("\0app\0penci", "wrong"),
        ("\0App\0pencil", "wrong"),
        ("\0app\0", "wrong"),
        ("\0empty\0", "wrong"),
        ("\0nobody\0pencil", "wrong"),
        // Nobody acts for somebody else.
        ("ani@solarmora.com\0app\0pencil", "malformed"),
        ("\0app", "malformed"),
        ("", "malformed"),
        ("\0\0pencil", "malformed"),
        ("\0app\0pencil\0", "malformed"),
    ] {
        assert_eq!(exchange(Mechanism::Plain, Some(&b64(message)), &[]), expected, "{message:?}");
        assert_eq!(
            exchange(Mechanism::Plain, None, &[&b64(message)]),
            format!("334 ; {expected}"),
            "{message:?} when asked"
        );
    }
    assert_eq!(exchange(Mechanism::Plain, Some("="), &[]), "malformed");
    assert_eq!(exchange(Mechanism::Plain, Some("no base64!"), &[]), "malformed");
    assert_eq!(exchange(Mechanism::Plain, None, &["*"]), "334 ; cancelled");
    assert_eq!(exchange(Mechanism::Plain, None, &["MAIL FROM:<a@b.c>"]), "334 ; malformed");
}

#[test]
fn login_asks_twice() {
    let asked = "334 VXNlcm5hbWU6; 334 UGFzc3dvcmQ6";
    assert_eq!(
        exchange(Mechanism::Login, None, &[&b64("app"), &b64("pencil")]),
        format!("{asked}; proven app")
    );
    assert_eq!(exchange(Mechanism::Login, None, &[&b64("app"), &b64("wrong")]), format!("{asked}; wrong"));
    assert_eq!(exchange(Mechanism::Login, None, &["", &b64("pencil")]), format!("{asked}; wrong"));
    assert_eq!(exchange(Mechanism::Login, None, &[&b64("app"), "*"]), format!("{asked}; cancelled"));
    assert_eq!(
        exchange(Mechanism::Login, Some(&b64("app")), &[&b64("pencil")]),
        "334 UGFzc3dvcmQ6; proven app"
    );
}

/// The client's side of SCRAM, after RFC 5802 section 3.
fn prove(password: &str, header: &str, bare: &str, challenge: &str) -> (String, String) {
    let field = |name: &str| {
        challenge
            .split(',')
            .find_map(|field| field.strip_prefix(name))
            .expect("the server sends it")
            .to_owned()
    };
    let salt = STANDARD.decode(field("s=")).unwrap();
    let iterations = field("i=").parse().unwrap();
    let mut salted = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let without = format!("c={},r={}", b64(header), field("r="));
    let message = format!("{bare},{challenge},{without}");
    let client = mac(&salted, "Client Key");
    let signature = mac(digest::digest(&digest::SHA256, client.as_ref()).as_ref(), &message);
    let proof: Vec<u8> = client.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    let server = mac(mac(&salted, "Server Key").as_ref(), &message);
    (format!("{without},p={}", STANDARD.encode(proof)), format!("v={}", STANDARD.encode(server)))
}

/// `told` of a SCRAM exchange, and whether the server proved that it knows the password.
fn scram(name: &str, password: &str, header: &str) -> (Option<String>, bool) {
    let users = users();
    let bare = format!("n={name},r=fyko+d2lbbFgONRv9qkxdawL");
    let first = b64(&format!("{header}{bare}"));
    let Step::Challenge(exchange, challenge) = Exchange::begin(Mechanism::ScramSha256, Some(&first), &users)
    else {
        return (None, false);
    };
    let challenge = String::from_utf8(STANDARD.decode(challenge).unwrap()).unwrap();
    let (last, expected) = prove(password, header, &bare, &challenge);
    match exchange.answer(b64(&last).as_bytes(), &users) {
        Step::Challenge(exchange, signature) => {
            let proven = STANDARD.decode(signature).unwrap() == expected.as_bytes();
            let Step::Proven(name) = exchange.answer(b"", &users) else { return (None, proven) };
            (Some(name.to_string()), proven)
        }
        _ => (None, false),
    }
}

#[test]
fn scram_proves_both_sides_and_tells_nobody_which_names_exist() {
    assert_eq!(scram("app", "pencil", "n,,"), (Some("app".to_owned()), true));
    assert_eq!(scram("app", "pencil", "y,,"), (Some("app".to_owned()), true));
    assert_eq!(scram("app", "pencil", "n,a=app,"), (Some("app".to_owned()), true));
    let odd = ("ani@solarmora.com", "s3cret, with = and ,");
    assert_eq!(scram(odd.0, odd.1, "n,,"), (Some(odd.0.to_owned()), true));
    for (name, password, header) in [
        ("app", "pen", "n,,"),
        ("nobody", "pencil", "n,,"),
        ("empty", "", "n,,"),
        ("app", "pencil", "n,a=ani@solarmora.com,"),
        ("app", "pencil", "p=tls-unique,,"),
        ("app", "pencil", "x"),
        ("a=pp", "pencil", "n,,"),
    ] {
        assert_eq!(scram(name, password, header), (None, false), "{name} {password} {header}");
    }
}

/// The example of RFC 7677 section 3, as far as a server that draws its own salt can play it.
#[test]
fn a_scram_nonce_or_header_that_was_changed_on_the_way_is_noticed() {
    let users = users();
    let bare = "n=app,r=abc";
    let (scram, challenge) = Scram::begin(format!("n,,{bare}").as_bytes(), &users, "def").unwrap();
    assert!(challenge.starts_with("r=abcdef,s="), "{challenge}");
    let (good, _) = prove("pencil", "n,,", bare, &challenge);
    assert!(scram.prove(good.replace("r=abcdef", "r=abcdeg").as_bytes()).is_err());
    let (scram, challenge) = Scram::begin(format!("y,,{bare}").as_bytes(), &users, "def").unwrap();
    let (stripped, _) = prove("pencil", "n,,", bare, &challenge);
    assert!(scram.prove(stripped.as_bytes()).is_err(), "a header other than the first one");
}

#[test]
fn nothing_secret_shows_in_debug() {
    let text = format!("{:?}", users());
    assert!(text.contains("app") && !text.contains("pencil") && !text.contains("s3cret"), "{text}");
}

proptest! {
    /// Whatever a client says, there is an end, and nobody gets in without a password.
    #[test]
    fn noise_never_logs_in(lines in prop::collection::vec("[ -~]{0,40}|[A-Za-z0-9+/=]{0,40}", 1..5)) {
        let users = users();
        for mechanism in Mechanism::ALL {
            let mut step = Exchange::begin(mechanism, None, &users);
            for line in &lines {
                let Step::Challenge(exchange, _) = step else { break };
                step = exchange.answer(line.as_bytes(), &users);
            }
            prop_assert!(!matches!(step, Step::Proven(_)));
        }
    }
}
