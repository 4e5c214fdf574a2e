//! What can go wrong on the way to a next hop, and what each of it means: the one exhaustive place.
//!
//! Only what was established is final (spec R94, design section 9). Whatever may be different in an
//! hour, or at another host, is not.

use std::fmt;

use super::client::auth::Mechanisms;
use super::protect::Protected;
use crate::bundle::document::{AuthMechanism, OnTlsFailure};
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
    /// While this gateway logged in.
    Auth,
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
    /// Somebody closed this way for a while; which.
    Paused(String),
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
    /// The host wants a certificate of this gateway, and got none or one that it refuses: its alert.
    ClientCertificate(String),
    /// The route has a login and the host offers none inside TLS. There is no mail without it.
    AuthNotOffered,
    AuthMechanismMissing {
        wanted: AuthMechanism,
        offered: Mechanisms,
    },
    /// The host did not prove that it knows the password (SCRAM); why.
    AuthUnproven(String),
    /// The connection is not one to say a password on.
    AuthUnprotected,
    /// 8-bit content for a host without 8BITMIME.
    NeedsEightBit,
    /// Addresses or headers in UTF-8 for a host without SMTPUTF8.
    NeedsUtf8,
    /// The host takes at most this many octets.
    TooLarge(u64),
    /// The domain's own policy (DANE, MTA-STS) is not met; why. Such mail waits (spec R94).
    Unprotected(Guard, String),
    /// The sender demands REQUIRETLS (RFC 8689) and this host cannot give it; why.
    RequireTls(String),
    /// The message cannot be changed as a rule wants it.
    Unchangeable(EditError),
    /// Changing the message ended badly.
    EditFailed,
}

/// Whose demand on a host it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    Dane,
    Sts,
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
            Trouble::RouteMissing(_)
            | Trouble::RouteBroken { .. }
            | Trouble::Paused(_)
            | Trouble::Dns { .. } => Later,
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
            Trouble::Handshake(_) | Trouble::Unprotected(..) => OtherHostOrLater,
            // A login and a certificate are an administrator's to repair, here or there: mail waits for that.
            Trouble::ClientCertificate(_)
            | Trouble::AuthNotOffered
            | Trouble::AuthMechanismMissing { .. }
            | Trouble::AuthUnproven(_)
            | Trouble::AuthUnprotected => OtherHostOrLater,
            Trouble::NeedsEightBit => OtherHostOrFail([5, 6, 3]),
            Trouble::NeedsUtf8 => OtherHostOrFail([5, 6, 7]),
            Trouble::TooLarge(_) => OtherHostOrFail([5, 3, 4]),
            // RFC 8689 section 4.2.1: every host is tried, then it is returned, whatever the route says.
            Trouble::RequireTls(_) => OtherHostOrFail([5, 7, 30]),
            Trouble::Unchangeable(EditError::Certificate(_)) => Fail([5, 7, 5]),
            Trouble::Unchangeable(EditError::Structure(_) | EditError::Opaque) => Fail([5, 6, 0]),
            // Its Secret may come back; unsigned it never leaves.
            Trouble::Unchangeable(EditError::NoSigningKey) => Later,
            Trouble::EditFailed => Later,
        }
    }

    /// One word of a closed list, for logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Trouble::RouteMissing(_) => "RouteMissing",
            Trouble::RouteBroken { .. } => "RouteBroken",
            Trouble::Paused(_) => "Paused",
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
            Trouble::Refused(Stage::Auth, reply) if reply.is_transient() => "AuthUnavailable",
            Trouble::Refused(Stage::Auth, _) => "AuthRefused",
            Trouble::Refused(..) => "Refused",
            Trouble::StartTlsMissing => "StartTlsMissing",
            Trouble::Certificate(_) => "CertificateRefused",
            Trouble::Handshake(_) => "HandshakeFailed",
            Trouble::Unprotected(Guard::Dane, _) => "DaneUnmet",
            Trouble::Unprotected(Guard::Sts, _) => "StsUnmet",
            Trouble::ClientCertificate(_) => "ClientCertificateRefused",
            Trouble::AuthNotOffered => "AuthNotOffered",
            Trouble::AuthMechanismMissing { .. } => "AuthMechanismMissing",
            Trouble::AuthUnproven(_) => "AuthUnproven",
            Trouble::AuthUnprotected => "AuthUnprotected",
            Trouble::NeedsEightBit => "NeedsEightBit",
            Trouble::NeedsUtf8 => "NeedsUtf8",
            Trouble::TooLarge(_) => "TooLarge",
            Trouble::RequireTls(_) => "RequireTls",
            Trouble::Unchangeable(EditError::Certificate(_)) => "CannotEncrypt",
            Trouble::Unchangeable(EditError::Structure(_) | EditError::Opaque) => "CannotChange",
            Trouble::Unchangeable(EditError::NoSigningKey) => "CannotSign",
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

    /// Whether the way there is open, and its protection is not what it must be.
    pub fn is_tls(&self) -> bool {
        matches!(
            self,
            Trouble::StartTlsMissing
                | Trouble::Certificate(_)
                | Trouble::Handshake(_)
                | Trouble::ClientCertificate(_)
                | Trouble::Unprotected(..)
                | Trouble::RequireTls(_)
        )
    }

    /// Whether no byte of an answer came from the host: it is down, or cut off from here.
    pub fn is_silence(&self) -> bool {
        matches!(self, Trouble::Unreachable(_) | Trouble::TimedOut(Stage::Greeting))
    }

    /// Whether the host does not let this gateway in: a login or a certificate that only an administrator can
    /// repair. Every further message would be one more failed login, and some hosts lock accounts for that.
    pub fn is_unwelcome(&self) -> bool {
        match self {
            Trouble::ClientCertificate(_)
            | Trouble::AuthNotOffered
            | Trouble::AuthMechanismMissing { .. }
            | Trouble::AuthUnproven(_)
            | Trouble::AuthUnprotected => true,
            Trouble::Refused(stage, reply) => *stage == Stage::Auth && reply.code != 421,
            Trouble::Garbled(stage, _) => *stage == Stage::Auth,
            _ => false,
        }
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
        // 454 passes; 534, 535 and 538 (RFC 4954 section 6) last until somebody repairs the login, and then
        // the mail is to leave: it waits as long as the route's schedule says.
        Stage::Auth => OtherHostOrLater,
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
    pub protected: Protected,
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
            // A host that said something tells an administrator more than an address where nobody is.
            Meaning::OtherHostOrLater if self.later.is_some() && problem.trouble.is_silence() => {}
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
            Trouble::Paused(what) => write!(f, "The administrator of the gateway has paused the {what}"),
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
            Trouble::Refused(Stage::Auth, reply) => {
                write!(f, "The mail server {host} refused the login of this gateway: {reply}")
            }
            Trouble::Refused(_, reply) => write!(f, "The mail server {host} said: {reply}"),
            Trouble::StartTlsMissing => {
                write!(f, "The mail server {host} offers no encryption (STARTTLS), which is required")
            }
            Trouble::Certificate(why) => {
                write!(f, "The mail server {host} could not prove its identity. {why}")
            }
            Trouble::Handshake(why) => write!(f, "Encryption with the mail server {host} failed: {why}"),
            Trouble::Unprotected(Guard::Dane, why) => write!(
                f,
                "The domain demands protected transport (DANE) and the mail server {host} does not give it: {why}"
            ),
            Trouble::Unprotected(Guard::Sts, why) => write!(
                f,
                "The domain demands protected transport (MTA-STS) and the mail server {host} does not give it: {why}"
            ),
            Trouble::ClientCertificate(alert) => {
                write!(
                    f,
                    "The mail server {host} wants a certificate of this gateway and does not take what the route has: {alert}"
                )
            }
            Trouble::AuthNotOffered => {
                write!(f, "The mail server {host} offers no login (AUTH), and the route does without none")
            }
            Trouble::AuthMechanismMissing { wanted, offered } => {
                let wanted = wanted.keyword();
                write!(f, "The mail server {host} offers no login by {wanted}; it offers {offered}")
            }
            Trouble::AuthUnproven(why) => {
                write!(f, "The mail server {host} did not prove that it knows the password: {why}")
            }
            Trouble::AuthUnprotected => {
                write!(f, "The connection to the mail server {host} is not protected well enough to log in")
            }
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
            Trouble::Unchangeable(EditError::NoSigningKey) => {
                f.write_str("The message is to be signed (S/MIME), and the key for its sender is not here")
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
            Stage::Auth => "at AUTH",
            Stage::Mail => "at MAIL",
            Stage::Rcpt => "at RCPT",
            Stage::Data => "at DATA",
            Stage::Content => "while the message was sent",
            Stage::End => "after the end of the message",
        })
    }
}
