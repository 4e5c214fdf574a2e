//! A command line → [`Command`] (RFC 5321 section 4.1, RFC 1870, 3030, 3207, 3461, 4954, 6152, 6531). Pure grammar:
//! whether a command may come now, and whether it is obeyed, is the session's business.

mod parameters;

use crate::mail::address::{Domain, Mailbox};
use crate::mail::envelope::{Notify, Sender};

use super::reply::Reply;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Ehlo(String),
    Helo(String),
    Mail {
        sender: Sender,
        size: Option<u64>,
    },
    Rcpt {
        to: Forward,
        notify: Notify,
        original: Option<String>,
    },
    Data,
    /// `size` octets of content follow at once, whatever is answered.
    Bdat {
        size: u64,
        last: bool,
    },
    /// `initial`: the first response, in base64 or `=`.
    Auth {
        mechanism: String,
        initial: Option<String>,
    },
    Rset,
    Noop,
    Quit,
    Vrfy,
    Help,
    StartTls,
}

/// A forward-path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forward {
    Mailbox(Mailbox),
    /// `<postmaster>`, as it was written: every server knows it without a domain.
    Postmaster(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("Command not recognized")]
    Unknown,
    #[error("Command not implemented")]
    NotImplemented,
    /// A browser or proxy was tricked into talking to us; what it says next may be anyone's words.
    #[error("This is not a web server")]
    Http,
    /// Nobody knows how much of what follows is content.
    #[error("Syntax: BDAT size [LAST]; closing")]
    Chunk,
    #[error("Control characters are not allowed")]
    Control,
    #[error("The command is not UTF-8")]
    NotUtf8,
    #[error("Syntax: {0}")]
    Syntax(&'static str),
    #[error("Bad sender address: {0}")]
    Sender(&'static str),
    #[error("Bad recipient address: {0}")]
    Recipient(&'static str),
    #[error("Bad or repeated parameter {0}")]
    Parameter(&'static str),
    #[error("Parameter not recognized or not implemented")]
    UnknownParameter,
}

impl CommandError {
    pub fn reply(self) -> Reply {
        let (code, enhanced) = match self {
            Self::Unknown | Self::Control | Self::NotUtf8 => (500, [5, 5, 2]),
            Self::NotImplemented => (502, [5, 5, 1]),
            Self::Http => (554, [5, 5, 1]),
            Self::Syntax(_) | Self::Parameter(_) | Self::Chunk => (501, [5, 5, 4]),
            Self::Sender(_) => (501, [5, 1, 7]),
            Self::Recipient(_) => (501, [5, 1, 3]),
            Self::UnknownParameter => (555, [5, 5, 4]),
        };
        Reply::new(code, enhanced, self.to_string())
    }

    /// Whether the client broke the protocol, rather than naming an address that cannot be.
    pub fn is_protocol_error(self) -> bool {
        !matches!(self, Self::Sender(_) | Self::Recipient(_))
    }
}

/// Parses a line without its CRLF.
pub fn parse(line: &[u8]) -> Result<Command, CommandError> {
    let parsed = parse_any(line);
    // Whatever is wrong with it: content follows, and nobody knows how much.
    let is_chunk = line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"));
    if is_chunk && parsed.is_err() { Err(CommandError::Chunk) } else { parsed }
}

fn parse_any(line: &[u8]) -> Result<Command, CommandError> {
    if line.iter().any(|&octet| octet.is_ascii_control() && octet != b'\t') {
        return Err(CommandError::Control);
    }
    let line = std::str::from_utf8(line).map_err(|_| CommandError::NotUtf8)?;
    let line = line.trim_end_matches(BLANK);
    let (verb, rest) = line.split_once(BLANK).unwrap_or((line, ""));
    let rest = rest.trim_start_matches(BLANK);
    let alone = |command: Command, syntax: &'static str| {
        if rest.is_empty() { Ok(command) } else { Err(CommandError::Syntax(syntax)) }
    };
    let mut upper = [0; 8];
    match upper_case(verb, &mut upper) {
        b"EHLO" => greeting_name(rest).map(Command::Ehlo),
        b"HELO" => greeting_name(rest).map(Command::Helo),
        b"MAIL" => mail(rest),
        b"RCPT" => rcpt(rest),
        b"DATA" => alone(Command::Data, "DATA"),
        b"BDAT" => bdat(rest),
        b"AUTH" => auth(rest),
        b"RSET" => alone(Command::Rset, "RSET"),
        b"QUIT" => alone(Command::Quit, "QUIT"),
        b"STARTTLS" => alone(Command::StartTls, "STARTTLS"),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" if rest.is_empty() => Err(CommandError::Syntax("VRFY address")),
        b"VRFY" => Ok(Command::Vrfy),
        b"EXPN" | b"TURN" | b"ETRN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" | b"BURL" => {
            Err(CommandError::NotImplemented)
        }
        b"GET" | b"POST" | b"PUT" | b"HEAD" | b"CONNECT" | b"OPTIONS" => Err(CommandError::Http),
        _ => Err(CommandError::Unknown),
    }
}

/// RFC 5321 knows one blank; clients also send several, and tabs.
const BLANK: [char; 2] = [' ', '\t'];

/// The verb in upper case, or nothing when it is longer than any we know.
fn upper_case<'a>(verb: &str, space: &'a mut [u8; 8]) -> &'a [u8] {
    let Some(upper) = space.get_mut(..verb.len()) else { return b"" };
    upper.copy_from_slice(verb.as_bytes());
    upper.make_ascii_uppercase();
    upper
}

/// The argument of EHLO and HELO. Many clients send names that are no host names (underscores, one
/// label), which is fine for a trace field; what could be read as more than a name there is not.
fn greeting_name(rest: &str) -> Result<String, CommandError> {
    let name = |octet: u8| octet.is_ascii_alphanumeric() || b".-_:[]+/=~*$&'!#%^`{}|?".contains(&octet);
    if rest.is_empty() || rest.len() > 255 || !rest.bytes().all(name) {
        return Err(CommandError::Syntax("EHLO hostname"));
    }
    Ok(rest.to_owned())
}

fn mail(rest: &str) -> Result<Command, CommandError> {
    const SYNTAX: CommandError = CommandError::Syntax("MAIL FROM:<address> [parameters]");
    let (path, rest) = path(after(rest, "FROM:").ok_or(SYNTAX)?).ok_or(SYNTAX)?;
    let mut mailbox = None;
    if !path.is_empty() {
        let address = without_route(path).ok_or(CommandError::Sender("source route"))?;
        mailbox = Some(address.parse().map_err(|e| CommandError::Sender(why(e)))?);
    }
    let mut sender = Sender { mailbox, ..Sender::default() };
    let size = parameters::of_mail(rest, &mut sender)?;
    Ok(Command::Mail { sender, size })
}

fn rcpt(rest: &str) -> Result<Command, CommandError> {
    const SYNTAX: CommandError = CommandError::Syntax("RCPT TO:<address> [parameters]");
    let (path, rest) = path(after(rest, "TO:").ok_or(SYNTAX)?).ok_or(SYNTAX)?;
    let address = without_route(path).ok_or(CommandError::Recipient("source route"))?;
    let to = if address.eq_ignore_ascii_case("postmaster") {
        Forward::Postmaster(address.to_owned())
    } else {
        Forward::Mailbox(address.parse().map_err(|e| CommandError::Recipient(why(e)))?)
    };
    let (notify, original) = parameters::of_rcpt(rest)?;
    Ok(Command::Rcpt { to, notify, original })
}

fn bdat(rest: &str) -> Result<Command, CommandError> {
    let mut words = rest.split(BLANK).filter(|word| !word.is_empty());
    let size = words.next().and_then(parameters::octets).ok_or(CommandError::Chunk)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(CommandError::Chunk),
    };
    if words.next().is_some() { Err(CommandError::Chunk) } else { Ok(Command::Bdat { size, last }) }
}

fn auth(rest: &str) -> Result<Command, CommandError> {
    let mut words = rest.split(BLANK).filter(|word| !word.is_empty()).map(str::to_owned);
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth { mechanism, initial }),
        _ => Err(CommandError::Syntax("AUTH mechanism [initial-response]")),
    }
}

fn why(error: crate::mail::address::AddressError) -> &'static str {
    use crate::mail::address::AddressError;
    match error {
        AddressError::NoAt => "no @ between local part and domain",
        AddressError::BadLocalPart => "invalid local part",
        AddressError::BadDomain => "invalid domain",
        AddressError::BadLiteral => "invalid address literal",
    }
}

/// What follows `keyword` (any case) and blanks.
fn after<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let found = text.get(..keyword.len())?.eq_ignore_ascii_case(keyword);
    found.then(|| text[keyword.len()..].trim_start_matches(BLANK))
}

/// Splits `<path> rest`: the first `>` outside quotes ends the path.
fn path(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    for (at, octet) in inner.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => {
                let rest = &inner[at + 1..];
                let separated = rest.is_empty() || rest.starts_with(BLANK);
                return separated.then_some((&inner[..at], rest));
            }
            _ => {}
        }
    }
    None
}

/// `@one,@two:user@host` → `user@host` (RFC 5321 appendix C: accept source routes and ignore them).
fn without_route(path: &str) -> Option<&str> {
    if !path.starts_with('@') {
        return Some(path);
    }
    let (route, address) = path.split_once(':')?;
    let hop = |hop: &str| hop.strip_prefix('@').is_some_and(|host| Domain::parse(host).is_ok());
    route.split(',').all(hop).then_some(address)
}

#[cfg(test)]
mod tests;
