//! SCRAM-SHA-256 (RFC 5802, RFC 7677): both sides prove that they know the password and neither says it.
//! The server's proof counts as much as ours: without it there is no login.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::garbled;
use crate::delivery::outcome::Trouble;

/// RFC 7677 section 4 wants at least this many; fewer would make our proof easy to turn into the password.
const MIN_ITERATIONS: u32 = 4096;
/// About half a second of work; a server that wants more wants to keep us busy.
const MAX_ITERATIONS: u32 = 1_000_000;
/// Octets of a message from the server.
const MAX_MESSAGE: usize = 4096;

/// Our half of one exchange.
pub struct Scram {
    nonce: String,
    first_bare: String,
    stage: Stage,
}

enum Stage {
    First,
    /// Our proof is sent; what the server must sign and with what.
    Final {
        keys: Arc<Salted>,
        message: String,
    },
    /// The server said in its final message that it does not take our proof.
    Refused,
    Proven,
}

/// What a password becomes with a salt: the costly part.
pub struct Salted {
    salt: Vec<u8>,
    iterations: u32,
    client: hmac::Tag,
    server: hmac::Key,
}

/// The last salted form: servers keep salt and count for long (RFC 5802 section 5.1 wants clients to
/// remember).
#[derive(Default)]
pub struct Cache(Mutex<Option<Arc<Salted>>>);

impl Cache {
    fn get(&self, password: &str, salt: &[u8], iterations: NonZeroU32) -> Arc<Salted> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|k| k.salt == salt && k.iterations == iterations.get()) {
            return known;
        }
        let salted = Arc::new(Salted::make(password, salt, iterations));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&salted));
        salted
    }
}

impl Salted {
    fn make(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut salted);
        let salted = key(&salted);
        Self {
            salt: salt.to_vec(),
            iterations: iterations.get(),
            client: hmac::sign(&salted, b"Client Key"),
            server: key(hmac::sign(&salted, b"Server Key").as_ref()),
        }
    }

    /// The client key, veiled by a signature that only who stores its hash can make.
    fn proof(&self, message: &str) -> Vec<u8> {
        let stored = key(digest::digest(&digest::SHA256, self.client.as_ref()).as_ref());
        let signature = hmac::sign(&stored, message.as_bytes());
        self.client.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect()
    }
}

fn key(bytes: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

impl Scram {
    /// `username` is ASCII, which SASLprep leaves alone.
    pub fn new(username: &str) -> Self {
        let random: [u8; 24] = rand::random();
        Self::with_nonce(username, &STANDARD.encode(random))
    }

    fn with_nonce(username: &str, nonce: &str) -> Self {
        let username = username.replace('=', "=3D").replace(',', "=2C");
        Self { nonce: nonce.to_owned(), first_bare: format!("n={username},r={nonce}"), stage: Stage::First }
    }

    /// What the client says first: no channel binding, no other identity.
    pub fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    pub fn answer(&mut self, challenge: &[u8], password: &str, cache: &Cache) -> Result<String, Trouble> {
        let text = std::str::from_utf8(challenge).ok().filter(|text| text.len() <= MAX_MESSAGE);
        let text = text.ok_or_else(|| garbled("a challenge that is not of SCRAM"))?;
        match std::mem::replace(&mut self.stage, Stage::Refused) {
            Stage::First => {
                let ServerFirst { nonce, salt, iterations } = ServerFirst::read(text, &self.nonce)?;
                let keys = cache.get(password, &salt, iterations);
                let bare = format!("c=biws,r={nonce}");
                let message = format!("{},{text},{bare}", self.first_bare);
                let proof = STANDARD.encode(keys.proof(&message));
                self.stage = Stage::Final { keys, message };
                Ok(format!("{bare},p={proof}"))
            }
            Stage::Final { keys, message } => {
                if text.starts_with("e=") {
                    // Its refusal comes as a reply of SMTP, once this is answered.
                    return Ok(String::new());
                }
                let signature = text.strip_prefix("v=").map(|rest| rest.split(',').next().unwrap_or(rest));
                let signature = signature.and_then(|signature| STANDARD.decode(signature).ok());
                let signature = signature.ok_or_else(|| garbled("a last challenge that is not of SCRAM"))?;
                hmac::verify(&keys.server, message.as_bytes(), &signature)
                    .map_err(|_| Trouble::AuthUnproven("its signature is wrong".to_owned()))?;
                self.stage = Stage::Proven;
                Ok(String::new())
            }
            Stage::Refused | Stage::Proven => Err(garbled("a challenge when there was nothing left to ask")),
        }
    }

    /// The server says that the login is good.
    pub fn finish(&self) -> Result<(), Trouble> {
        match self.stage {
            Stage::Proven => Ok(()),
            Stage::First | Stage::Final { .. } | Stage::Refused => {
                Err(Trouble::AuthUnproven("it took the login without a signature of its own".to_owned()))
            }
        }
    }
}

/// `r=…,s=…,i=…`, in this order and nothing before it (RFC 5802 section 7).
struct ServerFirst<'a> {
    nonce: &'a str,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

impl<'a> ServerFirst<'a> {
    fn read(text: &'a str, own_nonce: &str) -> Result<Self, Trouble> {
        let odd = || garbled("a first challenge that is not of SCRAM");
        let mut fields = text.split(',');
        let mut field = |name: &str| fields.next().and_then(|field| field.strip_prefix(name)).ok_or_else(odd);
        let nonce = field("r=")?;
        let salt = STANDARD.decode(field("s=")?).ok().filter(|salt| !salt.is_empty()).ok_or_else(odd)?;
        let count = field("i=")?;
        let digits = !count.is_empty() && count.len() <= 10 && count.bytes().all(|b| b.is_ascii_digit());
        let iterations = count.parse::<u32>().ok().filter(|_| digits).ok_or_else(odd)?;
        let printable = nonce.bytes().all(|b| b.is_ascii_graphic());
        // Ours at its beginning, and something of its own behind it: else this is a recording.
        if !printable || nonce.strip_prefix(own_nonce).is_none_or(str::is_empty) {
            return Err(Trouble::AuthUnproven("its challenge is not one to our question".to_owned()));
        }
        if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
            return Err(Trouble::AuthUnproven(format!(
                "it wants the password stretched {iterations} times; {MIN_ITERATIONS} to {MAX_ITERATIONS} are done"
            )));
        }
        let iterations = NonZeroU32::new(iterations).ok_or_else(odd)?;
        Ok(Self { nonce, salt, iterations })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn after_first(server_first: &str) -> (Scram, Result<String, Trouble>) {
        let mut scram = Scram::with_nonce("user", NONCE);
        let answer = scram.answer(server_first.as_bytes(), "pencil", &Cache::default());
        (scram, answer)
    }

    #[test]
    fn the_exchange_is_the_example_of_rfc_7677() {
        assert_eq!(Scram::with_nonce("user", NONCE).first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (mut scram, answer) = after_first(SERVER_FIRST);
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(answer.as_deref(), Ok(expected));
        assert_eq!(scram.answer(SERVER_FINAL.as_bytes(), "pencil", &Cache::default()), Ok(String::new()));
        assert_eq!(scram.finish(), Ok(()));
        assert!(scram.answer(b"v=again", "pencil", &Cache::default()).is_err());
    }

    #[test]
    fn a_server_that_does_not_prove_itself_is_not_logged_in_at() {
        let unproven = |result: Result<(), Trouble>| matches!(result, Err(Trouble::AuthUnproven(_)));
        assert!(unproven(after_first(SERVER_FIRST).0.finish()), "235 without a signature");
        assert!(unproven(Scram::new("user").finish()), "235 at once");
        for wrong in ["v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "v=AAAA", "v="] {
            let (mut scram, _) = after_first(SERVER_FIRST);
            let answer = scram.answer(wrong.as_bytes(), "pencil", &Cache::default());
            assert!(answer.is_err(), "{wrong}");
            assert!(unproven(scram.finish()), "{wrong}");
        }
        let (mut scram, _) = after_first(SERVER_FIRST);
        assert_eq!(scram.answer(b"e=invalid-proof", "pencil", &Cache::default()), Ok(String::new()));
        assert!(unproven(scram.finish()), "235 after it refused");
    }

    #[test]
    fn first_challenges_that_are_odd_weak_costly_or_recorded_are_refused() {
        let refused = |text: &str| matches!(after_first(text).1, Err(Trouble::AuthUnproven(_)));
        let garbled = |text: &str| matches!(after_first(text).1, Err(Trouble::Garbled(..)));
        let first = |nonce: &str, count: &str| format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i={count}");
        let fresh = format!("{NONCE}x");
        assert!(refused(&first(NONCE, "4096")), "nothing of its own");
        assert!(refused(&first("other", "4096")), "not our nonce");
        assert!(refused(&first(&format!("{NONCE} x"), "4096")), "a blank in the nonce");
        for count in ["1", "4095", "1000001", "4294967295", "0"] {
            assert!(refused(&first(&fresh, count)), "{count}");
        }
        for count in ["", "-1", "+4096", "4096.5", "99999999999", "many"] {
            assert!(garbled(&first(&fresh, count)), "{count}");
        }
        for text in [
            "",
            "m=ext,r=x,s=AA==,i=4096",
            "s=W22ZaJ0SNY7soEsUEjb6gQ==,r=x,i=4096",
            &format!("r={fresh},s=,i=4096"),
            &format!("r={fresh},s=?,i=4096"),
            &format!("r={fresh},i=4096"),
        ] {
            assert!(garbled(text), "{text}");
        }
        assert!(
            after_first(&format!("{},x=future", first(&fresh, "4096"))).1.is_ok(),
            "extensions are ignored"
        );
    }

    #[test]
    fn signs_of_the_grammar_in_a_name_are_escaped() {
        assert_eq!(Scram::with_nonce("a=b,c", "x").first(), "n,,n=a=3Db=2Cc,r=x");
    }

    #[test]
    fn the_stretched_password_is_kept_as_long_as_salt_and_count_stay() {
        let cache = Cache::default();
        let count = NonZeroU32::new(MIN_ITERATIONS).unwrap();
        let first = cache.get("pencil", b"salt", count);
        assert!(Arc::ptr_eq(&first, &cache.get("pencil", b"salt", count)));
        assert!(!Arc::ptr_eq(&first, &cache.get("pencil", b"other", count)));
    }

    proptest! {
        #[test]
        fn no_challenge_ends_in_a_panic_nor_in_a_login(first in any::<Vec<u8>>(), text in "[rsivem=,A-Z0-9/+]{0,60}") {
            for challenge in [first.as_slice(), text.as_bytes()] {
                let mut scram = Scram::with_nonce("user", NONCE);
                let _ = scram.answer(challenge, "pencil", &Cache::default());
                prop_assert!(scram.finish().is_err());
                let (mut scram, _) = after_first(SERVER_FIRST);
                let _ = scram.answer(challenge, "pencil", &Cache::default());
                prop_assert!(scram.finish().is_err());
            }
        }
    }
}
