//! What is said to a challenge, mechanism by mechanism: bytes to bytes, no socket.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

use super::scram::Scram;
use super::{Credentials, garbled};
use crate::bundle::document::AuthMechanism;
use crate::delivery::outcome::Trouble;

/// One login in progress.
pub struct Exchange {
    credentials: Arc<Credentials>,
    next: Next,
}

/// What the next challenge asks for.
enum Next {
    /// LOGIN asks twice; what it says when it asks is not specified and not looked at.
    Username,
    Password,
    CramMd5,
    Scram(Box<Scram>),
    /// XOAUTH2 says what is wrong in a challenge and waits for an empty answer.
    Complaint,
    Nothing,
}

impl Exchange {
    /// With what the client says first, if it is the client's turn.
    pub fn begin(credentials: Arc<Credentials>) -> (Self, Option<Vec<u8>>) {
        let Credentials { mechanism, username, secret, .. } = &*credentials;
        let (first, next) = match mechanism {
            // RFC 4616: no other identity, user name, password.
            AuthMechanism::Plain => (Some(format!("\0{username}\0{secret}").into_bytes()), Next::Nothing),
            AuthMechanism::Login => (None, Next::Username),
            AuthMechanism::CramMd5 => (None, Next::CramMd5),
            AuthMechanism::ScramSha256 => {
                let scram = Scram::new(username);
                (Some(scram.first().into_bytes()), Next::Scram(Box::new(scram)))
            }
            AuthMechanism::XOAuth2 => {
                let first = format!("user={username}\x01auth=Bearer {secret}\x01\x01");
                (Some(first.into_bytes()), Next::Complaint)
            }
        };
        (Self { credentials, next }, first)
    }

    /// Whether an answer may take longer than a connection's thread should be held up.
    pub fn is_costly(&self) -> bool {
        matches!(self.next, Next::Scram(_))
    }

    /// The answer to a challenge; `None` stands for one that is not base64.
    pub fn answer(&mut self, challenge: Option<Vec<u8>>) -> Result<Vec<u8>, Trouble> {
        let Credentials { username, secret, salted, .. } = &*self.credentials;
        let readable = || garbled("a challenge that is not base64");
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Username => {
                self.next = Next::Password;
                Ok(username.clone().into_bytes())
            }
            Next::Password => Ok(secret.clone().into_bytes()),
            Next::CramMd5 => {
                let challenge = challenge.ok_or_else(readable)?;
                let digest = hmac_md5(secret.as_bytes(), &challenge);
                let digest: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
                Ok(format!("{username} {digest}").into_bytes())
            }
            Next::Scram(mut scram) => {
                let challenge = challenge.ok_or_else(readable)?;
                let answer = scram.answer(&challenge, secret, salted)?;
                self.next = Next::Scram(scram);
                Ok(answer.into_bytes())
            }
            Next::Complaint => Ok(Vec::new()),
            Next::Nothing => Err(garbled("a challenge when there was nothing left to ask")),
        }
    }

    /// The peer says that the login is good. Is there anything it still had to do?
    pub fn finish(self) -> Result<(), Trouble> {
        match self.next {
            Next::Username | Next::Password | Next::CramMd5 => Err(garbled("a login that was never made")),
            Next::Scram(scram) => scram.finish(),
            Next::Complaint | Next::Nothing => Ok(()),
        }
    }
}

/// RFC 2195. MD5 is weak and the mechanism with it; TLS is what protects it here.
fn hmac_md5(key: &[u8], message: &[u8]) -> [u8; 16] {
    let mut mac = Hmac::<Md5>::new_from_slice(key).expect("a key of any length will do");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(mechanism: AuthMechanism, username: &str, secret: &str) -> (Exchange, Option<Vec<u8>>) {
        let credentials = Credentials::read(mechanism, username.as_bytes(), secret.as_bytes()).unwrap();
        Exchange::begin(Arc::new(credentials))
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn plain_says_it_all_at_once_and_is_asked_nothing_more() {
        let (mut exchange, first) = begin(AuthMechanism::Plain, "tim", "tanstaaftanstaaf");
        assert_eq!(text(first.unwrap()), "\0tim\0tanstaaftanstaaf");
        assert!(exchange.answer(Some(Vec::new())).is_err());
        assert_eq!(exchange.finish(), Ok(()));
    }

    #[test]
    fn login_answers_two_questions_in_whatever_words_and_no_third() {
        let (mut exchange, first) = begin(AuthMechanism::Login, "tim", "secret");
        assert_eq!(first, None);
        assert_eq!(text(exchange.answer(Some(b"Username:".to_vec())).unwrap()), "tim");
        assert_eq!(text(exchange.answer(None).unwrap()), "secret");
        assert!(exchange.answer(Some(b"Password:".to_vec())).is_err());
        let (unasked, _) = begin(AuthMechanism::Login, "tim", "secret");
        assert!(unasked.finish().is_err(), "235 before the password was asked for");
    }

    #[test]
    fn cram_md5_is_the_example_of_rfc_2195() {
        let (mut exchange, _) = begin(AuthMechanism::CramMd5, "tim", "tanstaaftanstaaf");
        let challenge = b"<1896.697170952@postoffice.reston.mci.net>".to_vec();
        let answer = text(exchange.answer(Some(challenge)).unwrap());
        assert_eq!(answer, "tim b913a602c7eda7a495b4e6e7334d3890");
        assert_eq!(exchange.finish(), Ok(()));
        let (mut exchange, _) = begin(AuthMechanism::CramMd5, "tim", "x");
        assert!(exchange.answer(None).is_err(), "not base64");
    }

    #[test]
    fn xoauth2_sends_the_token_and_an_empty_answer_to_a_complaint() {
        let (mut exchange, first) = begin(AuthMechanism::XOAuth2, "app@solarmora.com", "ya29.token");
        assert_eq!(text(first.unwrap()), "user=app@solarmora.com\x01auth=Bearer ya29.token\x01\x01");
        assert_eq!(exchange.answer(Some(br#"{"status":"401"}"#.to_vec())), Ok(Vec::new()));
        assert!(exchange.answer(Some(Vec::new())).is_err());
    }
}
