//! Logging in at a next hop (RFC 4954, spec R16), after TLS with a verified peer and before MAIL.
//!
//! A login is never left out and never weakened: a peer that does not offer the mechanism of the route gets
//! no mail, whatever else it offers. What is secret is in no log, no error and no debug output.

mod exchange;
mod scram;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::task::spawn_blocking;

use self::exchange::Exchange;
use super::wire::Wire;
use crate::bundle::document::AuthMechanism;
use crate::delivery::outcome::{Stage, Trouble};

/// Octets of user name and secret together, so that every answer fits the 12288 octets of RFC 4954.
const MAX_LENGTH: usize = 8192;
/// Octets of a command line (RFC 5321 section 4.5.3.1.4); longer first answers wait for a 334.
const MAX_COMMAND: usize = 512;

/// What a route logs in with, checked and ready.
pub struct Credentials {
    mechanism: AuthMechanism,
    username: String,
    /// The password; with XOAUTH2 the token.
    secret: String,
    salted: scram::Cache,
    identity: blake3::Hash,
}

/// Why content of a Secret is no login. Says nothing of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("the {0} of its login is empty")]
    Empty(&'static str),
    #[error("the {0} of its login is not UTF-8 text")]
    NotText(&'static str),
    #[error("the {0} of its login holds a control character or a line break")]
    Control(&'static str),
    #[error(
        "the {0} of its login has characters beyond ASCII, which servers read differently with {1}: use the \
         mechanism Plain, or ASCII"
    )]
    NotAscii(&'static str, &'static str),
    #[error("its login is longer than {MAX_LENGTH} octets")]
    TooLong,
}

impl Credentials {
    /// One line break at the end of either is an editor's and cut off.
    pub fn read(mechanism: AuthMechanism, username: &[u8], secret: &[u8]) -> Result<Self, CredentialsError> {
        let second = if mechanism == AuthMechanism::XOAuth2 { "token" } else { "password" };
        let (username, secret) = (text(mechanism, "username", username)?, text(mechanism, second, secret)?);
        if username.len() + secret.len() > MAX_LENGTH {
            return Err(CredentialsError::TooLong);
        }
        let mut hasher = blake3::Hasher::new_keyed(process_key());
        for part in [mechanism.keyword(), username, secret] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Ok(Self {
            mechanism,
            username: username.to_owned(),
            secret: secret.to_owned(),
            salted: scram::Cache::default(),
            identity: hasher.finalize(),
        })
    }

    /// Equal logins, equal identity, in this process only: nobody can try passwords against it.
    pub fn identity(&self) -> blake3::Hash {
        self.identity
    }

    pub fn mechanism(&self) -> AuthMechanism {
        self.mechanism
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

/// A key that nothing outside this process knows.
pub(super) fn process_key() -> &'static [u8; 32] {
    static KEY: OnceLock<[u8; 32]> = OnceLock::new();
    KEY.get_or_init(rand::random)
}

fn text<'a>(
    mechanism: AuthMechanism,
    what: &'static str,
    bytes: &'a [u8],
) -> Result<&'a str, CredentialsError> {
    let text = std::str::from_utf8(bytes).map_err(|_| CredentialsError::NotText(what))?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    // What SASLprep (RFC 4013) would do to such text is told apart by servers; ASCII it leaves alone.
    let plain_only = !matches!(mechanism, AuthMechanism::Plain | AuthMechanism::Login);
    match text {
        "" => Err(CredentialsError::Empty(what)),
        // NUL parts the fields of PLAIN, 0x01 those of XOAUTH2.
        text if text.chars().any(char::is_control) => Err(CredentialsError::Control(what)),
        text if plain_only && !text.is_ascii() => Err(CredentialsError::NotAscii(what, mechanism.keyword())),
        text => Ok(text),
    }
}

/// The mechanisms that a next hop offers, as far as a route can ask for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mechanisms(u8);

impl Mechanisms {
    /// Reads the words after `AUTH` in an EHLO response.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        for word in words {
            for mechanism in AuthMechanism::ALL {
                if word.eq_ignore_ascii_case(mechanism.keyword()) {
                    found.0 |= bit(mechanism);
                }
            }
        }
        found
    }

    pub fn has(self, mechanism: AuthMechanism) -> bool {
        self.0 & bit(mechanism) != 0
    }

    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

fn bit(mechanism: AuthMechanism) -> u8 {
    1 << (mechanism as u8)
}

impl fmt::Display for Mechanisms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offered = AuthMechanism::ALL.into_iter().filter(|mechanism| self.has(*mechanism));
        let names: Vec<&str> = offered.map(AuthMechanism::keyword).collect();
        if names.is_empty() { f.write_str("none that is known here") } else { f.write_str(&names.join(", ")) }
    }
}

/// Logs in. The caller has made sure that the peer is verified; `offered` is what its EHLO response said
/// inside TLS.
pub async fn login(
    wire: &mut Wire,
    offered: Option<Mechanisms>,
    credentials: &Arc<Credentials>,
    limit: Duration,
) -> Result<(), Trouble> {
    let wanted = credentials.mechanism;
    let offered = offered.ok_or(Trouble::AuthNotOffered)?;
    if !offered.has(wanted) {
        return Err(Trouble::AuthMechanismMissing { wanted, offered });
    }
    // An answer that came before its question belongs to something else.
    if wire.is_stale() {
        return Err(garbled("it spoke, or hung up, before it was asked"));
    }
    let (mut exchange, first) = Exchange::begin(Arc::clone(credentials));
    let mut first = first.map(|first| STANDARD.encode(first));
    let mut command = format!("AUTH {}", wanted.keyword());
    if let Some(text) = first.take_if(|text| command.len() + text.len() + 3 <= MAX_COMMAND) {
        command = format!("{command} {text}");
    }
    wire.send(format!("{command}\r\n").as_bytes(), Stage::Auth, limit).await?;
    loop {
        let reply = wire.reply(Stage::Auth, limit).await?;
        match reply.code {
            235 => return exchange.finish(),
            334 => {}
            400..600 => return Err(Trouble::Refused(Stage::Auth, reply)),
            _ => return Err(garbled("a reply that has no place in a login")),
        }
        let answer = match first.take() {
            Some(first) => Ok(first),
            None => {
                let challenge = STANDARD.decode(reply.text.trim());
                let (next, answer) = answer(exchange, challenge.ok()).await?;
                exchange = next;
                answer.map(|answer| STANDARD.encode(answer))
            }
        };
        match answer {
            Ok(answer) => wire.send(format!("{answer}\r\n").as_bytes(), Stage::Auth, limit).await?,
            Err(trouble) => {
                // RFC 4954 section 4: this is how a client cancels. Whatever comes back changes nothing.
                wire.send(b"*\r\n", Stage::Auth, limit).await.ok();
                return Err(trouble);
            }
        }
    }
}

/// Stretching a password may take a while, so it happens beside the threads that carry mail.
async fn answer(
    mut exchange: Exchange,
    challenge: Option<Vec<u8>>,
) -> Result<(Exchange, Result<Vec<u8>, Trouble>), Trouble> {
    if !exchange.is_costly() {
        let answer = exchange.answer(challenge);
        return Ok((exchange, answer));
    }
    let task = spawn_blocking(move || {
        let answer = exchange.answer(challenge);
        (exchange, answer)
    });
    // It ends early only with the process.
    task.await.map_err(|_| Trouble::Closed(Stage::Auth))
}

fn garbled(what: &str) -> Trouble {
    Trouble::Garbled(Stage::Auth, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_that_no_server_would_read_as_they_are_meant_are_refused_by_name() {
        let read = |mechanism, username: &[u8], secret: &[u8]| {
            Credentials::read(mechanism, username, secret).map(|read| (read.username, read.secret))
        };
        use AuthMechanism::{CramMd5, Login, Plain, ScramSha256, XOAuth2};
        let fine = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(read(Plain, b"app\n", b" se cret \r\n"), fine("app", " se cret "));
        assert_eq!(read(Login, "jürgen".as_bytes(), "pässe".as_bytes()), fine("jürgen", "pässe"));
        assert_eq!(read(Plain, b"", b"x"), Err(CredentialsError::Empty("username")));
        assert_eq!(read(Plain, b"a", b"\n"), Err(CredentialsError::Empty("password")));
        assert_eq!(read(XOAuth2, b"a", b""), Err(CredentialsError::Empty("token")));
        assert_eq!(read(Plain, b"a", b"x\0y"), Err(CredentialsError::Control("password")));
        assert_eq!(read(XOAuth2, b"a\x01auth=x", b"t"), Err(CredentialsError::Control("username")));
        assert_eq!(read(Plain, b"a", b"x\n\n"), Err(CredentialsError::Control("password")));
        assert_eq!(read(Plain, b"a", b"\xff"), Err(CredentialsError::NotText("password")));
        for mechanism in [CramMd5, ScramSha256, XOAuth2] {
            let refused = read(mechanism, "ü".as_bytes(), b"x");
            assert_eq!(refused, Err(CredentialsError::NotAscii("username", mechanism.keyword())));
        }
        assert_eq!(read(Plain, b"a", &[b'x'; 8192]), Err(CredentialsError::TooLong));
    }

    #[test]
    fn what_is_secret_is_not_shown_and_equal_logins_are_known_as_equal() {
        let read =
            |mechanism, user: &[u8], secret: &[u8]| Credentials::read(mechanism, user, secret).unwrap();
        let login = read(AuthMechanism::Plain, b"app", b"hunter2");
        assert_eq!(format!("{login:?}"), "Credentials { mechanism: Plain, .. }");
        assert_eq!(login.identity(), read(AuthMechanism::Plain, b"app", b"hunter2\n").identity());
        for other in [
            read(AuthMechanism::Login, b"app", b"hunter2"),
            read(AuthMechanism::Plain, b"app", b"hunter3"),
            read(AuthMechanism::Plain, b"apph", b"unter2"),
        ] {
            assert_ne!(login.identity(), other.identity());
        }
    }

    #[test]
    fn mechanisms_are_read_in_any_case_and_unknown_ones_are_nothing() {
        let offered = Mechanisms::parse("plain SCRAM-SHA-256-PLUS Xoauth2 GSSAPI".split(' '));
        let known: Vec<bool> = AuthMechanism::ALL.map(|mechanism| offered.has(mechanism)).to_vec();
        assert_eq!(known, [true, false, false, false, true]);
        assert_eq!(offered.to_string(), "PLAIN, XOAUTH2");
        assert_eq!(Mechanisms::default().to_string(), "none that is known here");
    }
}
