//! Logins of clients (SMTP AUTH, RFC 4954), without IO: what a client answers in, the next challenge or the
//! verdict out. Whether a client may try at all (TLS, too many failures) is the session's and the server's
//! business. Nothing here says whether it was the name or the password that was wrong, not even by the time
//! it takes.

mod scram;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use scram::Scram;

/// Octets of one line of an exchange without its CRLF (RFC 4954 section 4).
pub const MAX_RESPONSE: usize = 12_288 - 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    ScramSha256,
    Plain,
    Login,
}

impl Mechanism {
    /// Every one, strongest first, as EHLO lists them.
    pub const ALL: [Self; 3] = [Self::ScramSha256, Self::Plain, Self::Login];

    pub const fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }
}

/// Who may log in. Shows no password in Debug.
pub struct Users {
    by_name: HashMap<Arc<str>, Box<[u8]>>,
    /// Random and our own: passwords are compared by keyed hashes, in time that does not depend on them.
    key: [u8; 32],
}

impl Users {
    /// A name with an empty password cannot log in.
    pub fn new<N: Into<Arc<str>>, P: Into<Box<[u8]>>>(users: impl IntoIterator<Item = (N, P)>) -> Self {
        let by_name = users.into_iter().map(|(name, password)| (name.into(), password.into()));
        Self { by_name: by_name.filter(|(_, password)| !password.is_empty()).collect(), key: rand::random() }
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    fn check(&self, name: &str, password: &[u8]) -> Option<Arc<str>> {
        let known = self.by_name.get_key_value(name);
        // An unknown name costs the same comparison, with something nobody can say.
        let expected = known.map_or(&self.key[..], |(_, password)| password);
        let hash = |text: &[u8]| blake3::keyed_hash(&self.key, text);
        // Hashes compare in constant time.
        let same = hash(expected) == hash(password);
        known.filter(|_| same).map(|(name, _)| Arc::clone(name))
    }
}

impl Default for Users {
    fn default() -> Self {
        Self::new(std::iter::empty::<(Arc<str>, Box<[u8]>)>())
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

/// An exchange that waits for the client.
#[derive(Debug)]
pub struct Exchange(Waits);

enum Waits {
    Plain,
    LoginName,
    LoginPassword {
        name: String,
    },
    ScramFirst,
    ScramProof(Box<Scram>),
    /// The client has our signature and only has to say that it goes on.
    ScramEnd {
        name: Arc<str>,
    },
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::LoginName | Self::LoginPassword { .. } => "Login",
            Self::ScramFirst | Self::ScramProof(_) | Self::ScramEnd { .. } => "ScramSha256",
        })
    }
}

/// What comes of one line of the client.
#[derive(Debug)]
pub enum Step {
    /// Send this challenge (in base64 already) and go on.
    Challenge(Exchange, String),
    /// It is this user.
    Proven(Arc<str>),
    /// It is not, or not provably so.
    Wrong,
    /// The client gave up.
    Cancelled,
    /// Not base64, or not what the mechanism knows.
    Malformed,
}

impl Exchange {
    /// `initial` is what followed the mechanism in the command; `=` stands for an empty response.
    pub fn begin(mechanism: Mechanism, initial: Option<&str>, users: &Users) -> Step {
        let (waits, challenge) = match mechanism {
            Mechanism::Plain => (Waits::Plain, ""),
            Mechanism::Login => (Waits::LoginName, "Username:"),
            Mechanism::ScramSha256 => (Waits::ScramFirst, ""),
        };
        match initial {
            None => ask(waits, challenge.as_bytes()),
            Some("=") => Self(waits).respond(&[], users),
            Some(text) => Self(waits).answer(text.as_bytes(), users),
        }
    }

    /// One line without its CRLF.
    pub fn answer(self, line: &[u8], users: &Users) -> Step {
        if line == b"*" {
            return Step::Cancelled;
        }
        match STANDARD.decode(line) {
            Ok(response) => self.respond(&response, users),
            Err(_) => Step::Malformed,
        }
    }

    fn respond(self, response: &[u8], users: &Users) -> Step {
        match self.0 {
            Waits::Plain => match plain(response) {
                Some((name, password)) => verdict(users.check(name, password)),
                None => Step::Malformed,
            },
            Waits::LoginName => match std::str::from_utf8(response) {
                Ok(name) => ask(Waits::LoginPassword { name: name.to_owned() }, b"Password:"),
                Err(_) => Step::Malformed,
            },
            Waits::LoginPassword { name } => verdict(users.check(&name, response)),
            Waits::ScramFirst => match Scram::begin(response, users, &nonce()) {
                Some((scram, challenge)) => ask(Waits::ScramProof(Box::new(scram)), challenge.as_bytes()),
                None => Step::Malformed,
            },
            Waits::ScramProof(scram) => match scram.prove(response) {
                Ok((name, signature)) => ask(Waits::ScramEnd { name }, signature.as_bytes()),
                Err(scram::Unproven::Wrong) => Step::Wrong,
                Err(scram::Unproven::Malformed) => Step::Malformed,
            },
            Waits::ScramEnd { name } if response.is_empty() => Step::Proven(name),
            Waits::ScramEnd { .. } => Step::Malformed,
        }
    }
}

fn ask(waits: Waits, challenge: &[u8]) -> Step {
    Step::Challenge(Exchange(waits), STANDARD.encode(challenge))
}

fn verdict(user: Option<Arc<str>>) -> Step {
    user.map_or(Step::Wrong, Step::Proven)
}

fn nonce() -> String {
    STANDARD.encode(rand::random::<[u8; 18]>())
}

/// `[authzid] NUL authcid NUL password` (RFC 4616). Nobody may act for somebody else, so an authorization
/// identity can only be the name itself.
fn plain(message: &[u8]) -> Option<(&str, &[u8])> {
    let mut parts = message.splitn(3, |octet| *octet == 0);
    let (identity, name, password) = (parts.next()?, parts.next()?, parts.next()?);
    let fine = !name.is_empty() && !password.contains(&0) && (identity.is_empty() || identity == name);
    fine.then_some((std::str::from_utf8(name).ok()?, password))
}

#[cfg(test)]
mod tests;
