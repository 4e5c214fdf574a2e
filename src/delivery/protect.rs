//! What the world demands of one host before it may have a message: its TLSA records (DANE, RFC 7672), the
//! policy of the domain (MTA-STS, RFC 8461), the sender (REQUIRETLS, RFC 8689). Decided right before a
//! connection is opened or used again; demands only ever add to the terms of the route.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use super::attempt::Outside;
use super::client::tls::{Tls, TlsError};
use super::client::transaction::Letter;
use super::dane::{Dane, DaneError};
use super::dns::{LookupError, Names};
use super::outcome::{Guard, Trouble};
use super::plan::Hop;
use super::routes::RouteTable;
use super::sts::{self, Mode, Sts};
use super::tlsrpt::{Applied, Failure, FailureKind, Reports};
use crate::mail::message::Message;

/// What protects deliveries beyond the routes themselves; shared by all attempts.
#[derive(Default)]
pub struct Protection {
    pub sts: Sts,
    pub reports: Reports,
}

impl Protection {
    /// With what was kept beside a spool.
    pub fn open(folder: &Path) -> Self {
        Self { sts: Sts::read(&sts::file(folder)), reports: Reports::read(folder) }
    }
}

/// What a host must show, beside what its route wants.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Demand {
    /// Nothing.
    #[default]
    Nothing,
    /// Encryption, and a certificate that its TLSA records name.
    Dane(Arc<Dane>),
    /// Encryption, and a certificate of a trusted authority for this name.
    Sts(Arc<str>),
    /// The same for the sender's sake.
    Sender,
}

/// How a delivery was protected. A closed list: it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protected {
    Dane,
    Sts,
    /// A certificate of a trusted authority for the right name.
    Verified,
    /// Encrypted, for nobody knows whom.
    Unverified,
    /// Clear text.
    None,
}

/// Why a certificate is not what a demand asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(transparent)]
    Dane(#[from] DaneError),
    #[error("its certificate is not for {0}")]
    Name(Arc<str>),
    #[error("the certificate cannot be read")]
    Unreadable,
}

impl Demand {
    /// The terms of TLS for a host, made of those of its route.
    pub fn tls<'a>(&self, route: &'a Tls) -> Result<Cow<'a, Tls>, TlsError> {
        match self {
            Demand::Nothing => Ok(Cow::Borrowed(route)),
            // The records are looked at after the handshake, so that the route's own demands hold as well.
            Demand::Dane(_) => Ok(Cow::Borrowed(route)),
            Demand::Sts(_) | Demand::Sender => route.verified().map(Cow::Owned),
        }
    }

    /// What makes a session of this demand another than one of the route alone.
    pub fn identity(&self, route: &Tls) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(route.identity.as_bytes());
        match self {
            Demand::Nothing => return route.identity,
            Demand::Dane(dane) => hasher.update(dane.digest().as_bytes()),
            Demand::Sts(host) => hasher.update(b"sts").update(host.as_bytes()),
            Demand::Sender => hasher.update(b"sender"),
        };
        hasher.finalize()
    }

    /// Whether there is no delivery without encryption.
    pub fn requires_tls(&self) -> bool {
        !matches!(self, Demand::Nothing)
    }

    /// The name that TLS is spoken to (SNI), where it is not the host's own.
    pub fn sni(&self) -> Option<&str> {
        match self {
            Demand::Dane(dane) => Some(&dane.base),
            Demand::Nothing | Demand::Sts(_) | Demand::Sender => None,
        }
    }

    /// Looks at the chain of a finished handshake, before a word is said.
    pub fn check(&self, chain: &[CertificateDer<'_>]) -> Result<(), Unfit> {
        match self {
            Demand::Nothing | Demand::Sender => Ok(()),
            Demand::Dane(dane) => Ok(dane.check(chain, UnixTime::now())?),
            // The route may verify another name; the policy speaks of this one.
            Demand::Sts(host) => {
                let server = chain.first().ok_or(Unfit::Unreadable)?;
                let server = ParsedCertificate::try_from(server).map_err(|_| Unfit::Unreadable)?;
                let name = ServerName::try_from(&**host).map_err(|_| Unfit::Name(Arc::clone(host)))?;
                verify_server_name(&server, &name).map_err(|_| Unfit::Name(Arc::clone(host)))
            }
        }
    }

    /// A trouble of a session under this demand. What a policy of the domain asks for and does not get is
    /// a reason to wait, never to return (spec R94); what the sender asks for is returned (RFC 8689).
    pub fn trouble(&self, trouble: Trouble) -> Trouble {
        let why = match &trouble {
            Trouble::StartTlsMissing => "it offers no encryption (STARTTLS)".to_owned(),
            Trouble::Certificate(why) => why.clone(),
            _ => return trouble,
        };
        match self {
            Demand::Nothing => trouble,
            // Only the route itself refuses a certificate in the handshake then.
            Demand::Dane(_) if matches!(trouble, Trouble::Certificate(_)) => trouble,
            Demand::Dane(_) => Trouble::Unprotected(Guard::Dane, why),
            Demand::Sts(_) => Trouble::Unprotected(Guard::Sts, why),
            Demand::Sender => Trouble::RequireTls(why),
        }
    }

    pub fn unfit(&self, why: &Unfit) -> Trouble {
        let guard = if matches!(self, Demand::Dane(_)) { Guard::Dane } else { Guard::Sts };
        Trouble::Unprotected(guard, why.to_string())
    }

    /// How a delivery under this demand was protected.
    pub fn protected(&self, route: &Tls, encrypted: bool) -> Protected {
        match self {
            _ if !encrypted => Protected::None,
            Demand::Dane(dane) if dane.authenticates() => Protected::Dane,
            Demand::Sts(_) => Protected::Sts,
            Demand::Sender => Protected::Verified,
            Demand::Nothing | Demand::Dane(_) if route.verifies_peer => Protected::Verified,
            Demand::Nothing | Demand::Dane(_) => Protected::Unverified,
        }
    }
}

/// How to go about one host.
#[derive(Debug, Clone, Default)]
pub struct Approach {
    pub demand: Demand,
    /// Known already if the demand depends on them.
    pub addresses: Option<Vec<IpAddr>>,
    /// For reports about TLS.
    pub applied: Applied,
}

/// Finds out what a host must show. `Err`: it must not be asked now, or not at all.
pub async fn approach(
    outside: &Outside,
    table: &RouteTable,
    hop: &Hop,
    letter: &Letter<'_>,
    now: Timestamp,
) -> Result<Approach, Trouble> {
    let strict = letter.sender.require_tls;
    let sender = || if strict { Demand::Sender } else { Demand::Nothing };
    if hop.host.parse::<IpAddr>().is_ok() {
        return Ok(Approach { demand: sender(), ..Approach::default() });
    }
    // RFC 8689 section 5: the author would rather have it arrive than protected.
    if !strict && tls_optional(letter.head) {
        return Ok(Approach::default());
    }
    let answer = match &hop.domain {
        Some(domain) => outside.protection.sts.answer(&outside.dns, &table.dns, domain, now).await,
        None => sts::Answer::default(),
    };
    let policy = answer.policy.filter(|policy| policy.mode != Mode::None);
    let named = policy.as_ref().is_some_and(|policy| policy.names(&hop.host));
    // RFC 8689 section 4.2.1: whoever answers for DNS could have named this host.
    if strict && !hop.proved && !named {
        let why = "its name comes from DNS records that nothing protects".to_owned();
        return Err(Trouble::RequireTls(why));
    }
    let (found, addresses) = dane(outside, table, hop, now).await?;
    if let Some(dane) = found {
        // RFC 8689 lets either proof count; without one there must be the other.
        let demand =
            if strict && !dane.authenticates() { Demand::Sender } else { Demand::Dane(Arc::clone(&dane)) };
        return Ok(Approach { demand, addresses, applied: Applied::Dane(dane) });
    }
    let demand = match &policy {
        Some(policy) if policy.mode == Mode::Enforce && !named => {
            outside.protection.reports.failure(
                table,
                hop,
                &Applied::Sts(Arc::clone(policy)),
                Failure::unnamed(),
                now,
            );
            let why = "the policy of the domain does not name this host".to_owned();
            return Err(Trouble::Unprotected(Guard::Sts, why));
        }
        Some(policy) if policy.mode == Mode::Enforce => Demand::Sts(hop.host.as_str().into()),
        _ => sender(),
    };
    let applied = match (policy, answer.failure) {
        (Some(policy), _) => Applied::Sts(policy),
        (None, Some(failure)) => {
            outside.protection.reports.failure(
                table,
                hop,
                &Applied::Unfetched,
                Failure::of_fetch(&failure),
                now,
            );
            Applied::Nothing
        }
        (None, None) => Applied::Nothing,
    };
    Ok(Approach { demand, addresses, applied })
}

/// What the TLSA records of a host say, if DNSSEC proves them and everything that led to them.
async fn dane(
    outside: &Outside,
    table: &RouteTable,
    hop: &Hop,
    now: Timestamp,
) -> Result<(Option<Arc<Dane>>, Option<Vec<IpAddr>>), Trouble> {
    if !table.dns.dnssec || !hop.proved {
        return Ok((None, None));
    }
    let found = match outside.dns.hosts(&table.dns, &hop.host, hop.names).await {
        Ok(found) => found,
        // The attempt asks again and says what that means.
        Err(LookupError::NoSuchName | LookupError::NoRecord) => return Ok((None, None)),
        Err(error) => return Err(Trouble::Unreachable(format!("no address: {error}"))),
    };
    if !found.proved {
        return Ok((None, Some(found.what)));
    }
    // RFC 7672 section 2.1.3: the end of the aliases first, then the name itself.
    let mut bases = vec![found.end.as_str()];
    if found.end != hop.host {
        bases.push(&hop.host);
    }
    for base in bases {
        let name = format!("_{}._tcp.{base}", hop.port);
        match outside.dns.tlsa(&table.dns, &name).await {
            Ok(records) if records.proved && !records.what.is_empty() => {
                let mut names = vec![hop.host.as_str()];
                names.extend(hop.domain.as_deref().filter(|_| hop.names == Names::Complete));
                let dane = Dane::new(&records.what, base, &names);
                return Ok((Some(Arc::new(dane)), Some(found.what)));
            }
            Ok(_) => {}
            // There may be records that somebody keeps from us: no delivery without them (section 2.1.2).
            Err(error) => {
                if error == LookupError::Bogus {
                    let failure = Failure::new(FailureKind::DnssecInvalid).saying(&name);
                    outside.protection.reports.failure(table, hop, &Applied::Unknown, failure, now);
                }
                let why = format!("no answer about its TLSA records ({name}): {error}");
                return Err(Trouble::Unprotected(Guard::Dane, why));
            }
        }
    }
    Ok((None, Some(found.what)))
}

/// Whether the author waives what recipients' domains demand (RFC 8689 section 5).
fn tls_optional(head: &[u8]) -> bool {
    // Nearly no message has the field: a look at its name costs less than reading a header section.
    let field = b"tls-required";
    let mut lines = head.split(|byte| *byte == b'\n');
    let named = |line: &[u8]| line.get(..field.len()).is_some_and(|name| name.eq_ignore_ascii_case(field));
    if !lines.any(named) {
        return false;
    }
    let message = Message::read(head);
    let mut values = message.all("TLS-Required");
    let first = values.next().is_some_and(|value| value.unfolded().eq_ignore_ascii_case("no"));
    first && values.next().is_none()
}
