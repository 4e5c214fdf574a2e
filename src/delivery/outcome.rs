//! What can go wrong on the way to a next hop, and what each of it means: the one exhaustive place.
//!
//! Only what was established is final (spec R94, design section 9). Whatever may be different in an
//! hour, or at another host, is not.

use std::fmt;

use crate::bundle::document::OnTlsFailure;
use crate::mail::edit::EditError;
use crate::mail::envelope::RouteName;
use crate::smtp::reply::Reply;

/// An enhanced status code (RFC 3463).
pub type Status = [u16; 3];

/// The message was tried too long (RFC 3463: delivery time expired).
pub const EXPIRED: Status = [5, 4, 7];

/// How far a session with a next hop had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    Ehlo,
    StartTls,
    Mail,
    Rcpt,
    Data,
    /// While the content was sent.
    Content,
    /// After the final dot.
    End,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    RouteMissing(RouteName),
    RouteBroken {
        route: RouteName,
        why: String,
    },
    /// DNS did not answer, or its answer makes no sense.
    Dns {
        name: String,
        why: String,
    },
    /// The recipient's domain does not exist.
    NoSuchDomain(String),
    /// The recipient's domain exists and has no host that takes mail.
    NoMailHost(String),
    /// RFC 7505.
    NullMx(String),
    /// The best mail host of the domain is this gateway.
    LoopsBack(String),
    /// A host that a route names has no address: somebody's mistake that can be put right.
    NoAddress,
    /// A mail host that the recipient's own domain names has no address.
    MxWithoutAddress,
    Unreachable(String),
    TimedOut(Stage),
    Closed(Stage),
    /// None of the route's source addresses can be used to reach it.
    NoSource(String),
    /// The proxy that has the source address does not work.
    Proxy(String),
    /// Limits or the destination's own words have kept it back all the time; why.
    HeldBack(String),
    /// What came is not SMTP.
    Garbled(Stage, String),
    Refused(Stage, Reply),
    /// A complete EHLO response without STARTTLS, where TLS is required.
    StartTlsMissing,
    /// The certificate or the name on it. The text names the precise cause.
    Certificate(String),
    Handshake(String),
    /// 8-bit content for a host without 8BITMIME.
    NeedsEightBit,
    /// Addresses or headers in UTF-8 for a host without SMTPUTF8.
    NeedsUtf8,
    /// The host takes at most this many octets.
    TooLarge(u64),
    /// The sender demands REQUIRETLS (RFC 8689) and this host cannot give it; why.
    RequireTls(String),
    /// The message cannot be changed as a rule wants it.
    Unchangeable(EditError),
    /// Changing the message ended badly.
    EditFailed,
}

/// A trouble and the host that had it.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub trouble: Trouble,
    pub host: Option<String>,
}

/// What a trouble means for the recipients it befell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Another host may do better; if none does, the message waits.
    OtherHostOrLater,
    /// Another host may do better; if all say the same, this is final.
    OtherHostOrFail(Status),
    /// No host is asked any more for now; the message waits.
    Later,
    Fail(Status),
}

impl Trouble {
    pub fn meaning(&self, on_tls_failure: OnTlsFailure) -> Meaning {
        use Meaning::{Fail, Later, OtherHostOrFail, OtherHostOrLater};
        let tls = |status| match on_tls_failure {
            OnTlsFailure::Bounce => OtherHostOrFail(status),
            OnTlsFailure::Defer => OtherHostOrLater,
        };
        match self {
            Trouble::RouteMissing(_) | Trouble::RouteBroken { .. } | Trouble::Dns { .. } => Later,
            Trouble::NoSuchDomain(_) => Fail([5, 1, 2]),
            Trouble::NoMailHost(_) => Fail([5, 4, 4]),
            Trouble::NullMx(_) => Fail([5, 1, 10]),
            Trouble::LoopsBack(_) => OtherHostOrFail([5, 4, 6]),
            Trouble::NoAddress => OtherHostOrLater,
            Trouble::MxWithoutAddress => OtherHostOrFail([5, 4, 4]),
            Trouble::Unreachable(_) | Trouble::TimedOut(_) | Trouble::Closed(_) | Trouble::Garbled(..) => {
                OtherHostOrLater
            }
            // Another host may have an address of the other family.
            Trouble::NoSource(_) | Trouble::Proxy(_) => OtherHostOrLater,
            Trouble::HeldBack(_) => Later,
            Trouble::Refused(stage, reply) => refused(*stage, reply),
            Trouble::StartTlsMissing => tls([5, 7, 4]),
            Trouble::Certificate(_) => tls([5, 7, 5]),
            Trouble::Handshake(_) => OtherHostOrLater,
            Trouble::NeedsEightBit => OtherHostOrFail([5, 6, 3]),
            Trouble::NeedsUtf8 => OtherHostOrFail([5, 6, 7]),
            Trouble::TooLarge(_) => OtherHostOrFail([5, 3, 4]),
            // RFC 8689 section 4.2.1: every host is tried, then it is returned, whatever the route says.
            Trouble::RequireTls(_) => OtherHostOrFail([5, 7, 30]),
            Trouble::Unchangeable(EditError::Certificate(_)) => Fail([5, 7, 5]),
            Trouble::Unchangeable(EditError::Structure(_) | EditError::Opaque) => Fail([5, 6, 0]),
            Trouble::EditFailed => Later,
        }
    }

    /// One word of a closed list, for logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Trouble::RouteMissing(_) => "RouteMissing",
            Trouble::RouteBroken { .. } => "RouteBroken",
            Trouble::Dns { .. } => "DnsUnanswered",
            Trouble::NoSuchDomain(_) => "NoSuchDomain",
            Trouble::NoMailHost(_) => "NoMailHost",
            Trouble::NullMx(_) => "NullMx",
            Trouble::LoopsBack(_) => "LoopsBack",
            Trouble::NoAddress | Trouble::MxWithoutAddress => "NoAddress",
            Trouble::Unreachable(_) => "Unreachable",
            Trouble::TimedOut(_) => "TimedOut",
            Trouble::Closed(_) => "Closed",
            Trouble::Garbled(..) => "Garbled",
            Trouble::NoSource(_) => "NoSource",
            Trouble::Proxy(_) => "ProxyFailed",
            Trouble::HeldBack(_) => "HeldBack",
            Trouble::Refused(..) => "Refused",
            Trouble::StartTlsMissing => "StartTlsMissing",
            Trouble::Certificate(_) => "CertificateRefused",
            Trouble::Handshake(_) => "HandshakeFailed",
            Trouble::NeedsEightBit => "NeedsEightBit",
            Trouble::NeedsUtf8 => "NeedsUtf8",
            Trouble::TooLarge(_) => "TooLarge",
            Trouble::RequireTls(_) => "RequireTls",
            Trouble::Unchangeable(EditError::Certificate(_)) => "CannotEncrypt",
            Trouble::Unchangeable(EditError::Structure(_) | EditError::Opaque) => "CannotChange",
            Trouble::EditFailed => "EditFailed",
        }
    }

    /// Whether the session cannot go on after this.
    pub fn ends_session(&self) -> bool {
        match self {
            Trouble::Refused(_, reply) => reply.code == 421,
            Trouble::NeedsEightBit | Trouble::NeedsUtf8 | Trouble::TooLarge(_) | Trouble::RequireTls(_) => {
                false
            }
            _ => true,
        }
    }

    /// Whether no byte of an answer came from the host: it is down, or cut off from here.
    pub fn is_silence(&self) -> bool {
        matches!(self, Trouble::Unreachable(_) | Trouble::TimedOut(Stage::Greeting))
    }
}

fn refused(stage: Stage, reply: &Reply) -> Meaning {
    use Meaning::{Fail, Later, OtherHostOrFail, OtherHostOrLater};
    let status = || reply.enhanced.filter(|code| code[0] == 5).unwrap_or([5, 0, 0]);
    match stage {
        // The server is about to close: nothing about the message is said (RFC 5321 section 3.8).
        _ if reply.code == 421 => OtherHostOrLater,
        // RFC 7504: this host takes no mail at all. Other refusals at the door are moods.
        Stage::Greeting if reply.code == 521 => OtherHostOrFail(status()),
        Stage::Greeting | Stage::Ehlo | Stage::StartTls => OtherHostOrLater,
        Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Content | Stage::End => match reply {
            // "Too many recipients" is an invitation to come again (RFC 5321 section 4.5.3.1.10).
            _ if too_many_recipients(stage, reply) => Later,
            reply if reply.is_permanent() => Fail(status()),
            // Greylisting and full mailboxes: every host of the domain would say the same.
            _ if matches!(stage, Stage::Rcpt | Stage::End) => Later,
            _ => OtherHostOrLater,
        },
    }
}

pub fn too_many_recipients(stage: Stage, reply: &Reply) -> bool {
    stage == Stage::Rcpt && matches!(reply.enhanced, Some([_, 5, 3]))
}

/// What became of one recipient in an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Delivered(Receipt),
    Later(Problem),
    Failed { status: Status, problem: Problem },
}

/// The next hop took responsibility.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    pub host: String,
    pub reply: Reply,
    /// Protocol and cipher suite; `None`: clear text.
    pub tls: Option<String>,
    /// Whether the next hop took over the sender's wishes for reports (RFC 3461).
    pub dsn: bool,
}

/// Problems of one recipient over several hosts, folded into one outcome.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    later: Option<Problem>,
    fail: Option<(Status, Problem)>,
}

impl Tally {
    /// Notes a problem. An outcome means that no other host is to be asked.
    pub fn add(&mut self, problem: Problem, on_tls_failure: OnTlsFailure) -> Option<Outcome> {
        match problem.trouble.meaning(on_tls_failure) {
            Meaning::Later => return Some(Outcome::Later(problem)),
            Meaning::Fail(status) => return Some(Outcome::Failed { status, problem }),
            Meaning::OtherHostOrLater => self.later = Some(problem),
            Meaning::OtherHostOrFail(status) => self.fail = Some((status, problem)),
        }
        None
    }

    /// When every host was asked: final only if each of them was reached and said something final.
    pub fn sum(self) -> Option<Outcome> {
        match (self.later, self.fail) {
            (Some(problem), _) => Some(Outcome::Later(problem)),
            (None, Some((status, problem))) => Some(Outcome::Failed { status, problem }),
            (None, None) => None,
        }
    }
}

impl Problem {
    pub fn new(trouble: Trouble) -> Self {
        Self { trouble, host: None }
    }

    pub fn at(host: &str, trouble: Trouble) -> Self {
        Self { trouble, host: Some(host.to_owned()) }
    }

    /// The next hop's own words.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.trouble {
            Trouble::Refused(_, reply) => Some(reply),
            _ => None,
        }
    }
}

/// In plain words, for logs, `last_error` and reports; without a full stop.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or("the next hop");
        match &self.trouble {
            Trouble::RouteMissing(route) => write!(f, "The route {route} does not exist"),
            Trouble::RouteBroken { route, why } => write!(f, "The route {route} cannot be used: {why}"),
            Trouble::Dns { name, why } => write!(f, "DNS gave no answer for {name}: {why}"),
            Trouble::NoSuchDomain(domain) => write!(f, "The domain {domain} does not exist"),
            Trouble::NoMailHost(domain) => write!(f, "The domain {domain} has no mail server"),
            Trouble::NullMx(domain) => write!(f, "The domain {domain} takes no mail"),
            Trouble::LoopsBack(domain) => {
                write!(f, "Mail for {domain} would come back to this gateway: its mail server is the gateway")
            }
            Trouble::NoAddress | Trouble::MxWithoutAddress => {
                write!(f, "The mail server {host} has no address")
            }
            Trouble::Unreachable(why) => write!(f, "The mail server {host} could not be reached: {why}"),
            Trouble::TimedOut(stage) => write!(f, "The mail server {host} did not answer in time {stage}"),
            Trouble::Closed(stage) => write!(f, "The mail server {host} closed the connection {stage}"),
            Trouble::Garbled(stage, what) => {
                write!(f, "The mail server {host} sent something that is not SMTP {stage}: {what}")
            }
            Trouble::NoSource(why) => {
                write!(f, "The mail server {host} cannot be reached from the route's source addresses: {why}")
            }
            Trouble::Proxy(why) => write!(f, "The proxy to the mail server {host} failed: {why}"),
            Trouble::HeldBack(why) => write!(f, "The message is held back: {why}"),
            Trouble::Refused(_, reply) => write!(f, "The mail server {host} said: {reply}"),
            Trouble::StartTlsMissing => {
                write!(f, "The mail server {host} offers no encryption (STARTTLS), which is required")
            }
            Trouble::Certificate(why) => {
                write!(f, "The mail server {host} could not prove its identity. {why}")
            }
            Trouble::Handshake(why) => write!(f, "Encryption with the mail server {host} failed: {why}"),
            Trouble::NeedsEightBit => {
                write!(f, "The message has 8-bit content and the mail server {host} takes 7-bit mail only")
            }
            Trouble::NeedsUtf8 => {
                write!(
                    f,
                    "The message has an address or header in UTF-8 and the mail server {host} takes none"
                )
            }
            Trouble::TooLarge(limit) => {
                write!(f, "The message is larger than the {limit} octets that the mail server {host} takes")
            }
            Trouble::RequireTls(why) => {
                write!(
                    f,
                    "The sender demands protected transport (REQUIRETLS) and the mail server {host} cannot give it: {why}"
                )
            }
            Trouble::Unchangeable(EditError::Certificate(why)) => {
                write!(f, "Cannot encrypt for the recipient: no valid certificate ({why})")
            }
            Trouble::Unchangeable(why) => {
                write!(f, "A rule of the organisation changes this message, which is not possible: {why}")
            }
            Trouble::EditFailed => f.write_str("Changing the message failed"),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Greeting => "before its greeting",
            Stage::Ehlo => "at EHLO",
            Stage::StartTls => "at STARTTLS",
            Stage::Mail => "at MAIL",
            Stage::Rcpt => "at RCPT",
            Stage::Data => "at DATA",
            Stage::Content => "while the message was sent",
            Stage::End => "after the end of the message",
        })
    }
}
