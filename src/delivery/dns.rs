//! DNS as delivery needs it: mail hosts, addresses, TLSA and TXT records, cached, with a time limit on
//! every question. With DNSSEC an answer says whether it is proved, and a forged one is no answer.

mod proof;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::TLSA;
use hickory_resolver::proto::rr::{RData, RecordType};

pub use self::proof::is_private;

/// One question, retries included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers older than this are asked for again, whatever their TTL says.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// A name that was missing may have been added since.
const MAX_NEGATIVE_AGE: Duration = Duration::from_secs(60);
/// The resolver forgets the TTL of a denial that it proved; TLSA records are missing most of the time.
const MIN_PROVED_NEGATIVE_AGE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("the name does not exist")]
    NoSuchName,
    #[error("the name has no such record")]
    NoRecord,
    /// There is an answer, and it is not what the zone's owner signed. Never the same as none.
    #[error("DNSSEC: the answer is forged, or its zone is signed wrongly")]
    Bogus,
    #[error("{0}")]
    Unanswered(String),
}

/// Whose names a look-up is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// A host that an administrator typed: the machine's search list applies (`relay`, `relay.ns`).
    Typed,
    /// A name out of DNS, or of a recipient: complete as it is.
    Complete,
}

/// Which servers are asked, and what it takes to believe them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Servers {
    /// Empty: those of the system.
    pub addresses: Vec<SocketAddr>,
    /// Answers are validated here, whoever gave them.
    pub dnssec: bool,
    /// DNSKEY records trusted beside the keys of the root that IANA publishes.
    pub anchors: Vec<String>,
}

/// An answer and whether DNSSEC proves it, every alias on the way included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found<T> {
    pub what: T,
    pub proved: bool,
    /// The name at the end of the aliases, in ASCII without a final dot.
    pub end: String,
}

/// Asks the servers of the current routes; made anew when they change.
#[derive(Default)]
pub struct Dns {
    plain: Slot,
    validating: Slot,
}

type Slot = Mutex<Option<(Servers, Arc<TokioResolver>)>>;

impl Dns {
    /// The MX records of a domain, as DNS gave them: preference and host, the null MX as an empty host.
    /// Empty: the domain exists and has none.
    pub async fn mx(
        &self,
        servers: &Servers,
        domain: &str,
    ) -> Result<Found<Vec<(u16, String)>>, LookupError> {
        let read = |data: RData| match data {
            RData::MX(mx) => {
                let host = mx.exchange.to_ascii();
                Some((mx.preference, host.trim_end_matches('.').to_ascii_lowercase()))
            }
            _ => None,
        };
        self.records(servers, domain, RecordType::MX, read).await
    }

    /// The TLSA records at a name such as `_25._tcp.mx.example.net`. Empty: there are none.
    pub async fn tlsa(&self, servers: &Servers, name: &str) -> Result<Found<Vec<TLSA>>, LookupError> {
        let read = |data: RData| match data {
            RData::TLSA(tlsa) => Some(tlsa),
            _ => None,
        };
        match self.records(servers, name, RecordType::TLSA, read).await {
            Err(LookupError::NoSuchName) => Ok(Found::default()),
            result => result,
        }
    }

    /// The TXT records at a name, the strings of each joined. Empty: there are none.
    pub async fn txt(&self, servers: &Servers, name: &str) -> Result<Vec<String>, LookupError> {
        let read = |data: RData| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        };
        match self.records(servers, name, RecordType::TXT, read).await {
            Ok(found) => Ok(found.what),
            Err(LookupError::NoSuchName) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The addresses of a host, both families.
    pub async fn hosts(
        &self,
        servers: &Servers,
        host: &str,
        names: Names,
    ) -> Result<Found<Vec<IpAddr>>, LookupError> {
        let unproved = |what| Found { what, proved: false, end: host.to_owned() };
        if !servers.dnssec || (names == Names::Typed && proof::is_private(host)) {
            return self.addresses(&servers.addresses, host, names).await.map(unproved);
        }
        let address = |data: RData| data.ip_addr();
        let (v4, v6) = tokio::join!(
            self.records(servers, host, RecordType::A, address),
            self.records(servers, host, RecordType::AAAA, address),
        );
        match proof::both(v4, v6) {
            // A host of the cluster, known by the machine's search list only.
            Err(LookupError::NoSuchName) if names == Names::Typed => {
                self.addresses(&servers.addresses, host, names).await.map(unproved)
            }
            result => result,
        }
    }

    /// The addresses of a host in the order DNS gave them, with no proof.
    pub async fn addresses(
        &self,
        servers: &[SocketAddr],
        host: &str,
        names: Names,
    ) -> Result<Vec<IpAddr>, LookupError> {
        let resolver = self.resolver(servers)?;
        let name = match names {
            Names::Typed => host.to_owned(),
            Names::Complete => format!("{host}."),
        };
        let lookup = limited(resolver.lookup_ip(name)).await.map_err(|failure| failure.error)?;
        let addresses: Vec<IpAddr> = lookup.iter().collect();
        if addresses.is_empty() { Err(LookupError::NoRecord) } else { Ok(addresses) }
    }

    /// The resolver itself, without validation, for who asks other questions: the caller limits the time.
    pub fn resolver(&self, servers: &[SocketAddr]) -> Result<Arc<TokioResolver>, LookupError> {
        let fits = |of: &Servers| of.addresses == servers;
        cached(&self.plain, fits, || Servers { addresses: servers.to_vec(), ..Servers::default() })
    }

    /// The records of one type at the end of a name's aliases. Empty: the name has none of them.
    async fn records<T>(
        &self,
        servers: &Servers,
        name: &str,
        kind: RecordType,
        read: impl Fn(RData) -> Option<T>,
    ) -> Result<Found<Vec<T>>, LookupError> {
        let validate = servers.dnssec && !proof::is_private(name);
        let resolver = match validate {
            false => self.resolver(&servers.addresses)?,
            true => cached(&self.validating, |of| of == servers, || servers.clone())?,
        };
        let asked = proof::complete(name)?;
        let found = match limited(resolver.lookup(asked.clone(), kind)).await {
            Ok(lookup) => proof::trace(&resolver, asked, kind, lookup.answers()).await?,
            Err(Failure { error: LookupError::NoRecord, proved }) => {
                Found { what: Vec::new(), proved, end: name.to_owned() }
            }
            Err(failure) => return Err(failure.error),
        };
        let Found { what, proved, end } = found;
        Ok(Found { what: what.into_iter().filter_map(read).collect(), proved: proved && validate, end })
    }
}

fn cached(
    slot: &Slot,
    fits: impl Fn(&Servers) -> bool,
    make: impl FnOnce() -> Servers,
) -> Result<Arc<TokioResolver>, LookupError> {
    let mut current = slot.lock().unwrap_or_else(PoisonError::into_inner);
    match &*current {
        Some((of, resolver)) if fits(of) => Ok(Arc::clone(resolver)),
        _ => {
            let servers = make();
            let resolver = Arc::new(build(&servers)?);
            *current = Some((servers, Arc::clone(&resolver)));
            Ok(resolver)
        }
    }
}

fn build(servers: &Servers) -> Result<TokioResolver, LookupError> {
    let unusable = |error: NetError| LookupError::Unanswered(format!("no usable resolver: {error}"));
    let mut builder = if servers.addresses.is_empty() {
        TokioResolver::builder_tokio().map_err(unusable)?
    } else {
        let server = |address: &SocketAddr| {
            let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp].map(|protocol| {
                let mut connection = ConnectionConfig::new(protocol);
                connection.port = address.port();
                connection
            });
            NameServerConfig::new(address.ip(), true, connections.to_vec())
        };
        let config = ResolverConfig::from_name_servers(servers.addresses.iter().map(server).collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    limits(builder.options_mut());
    if servers.dnssec {
        let options = builder.options_mut();
        options.validate = true;
        options.edns0 = true;
        // The proof of an answer is that of every alias on the way to it.
        options.preserve_intermediates = true;
        options.negative_min_ttl = Some(MIN_PROVED_NEGATIVE_AGE);
        builder = builder.with_trust_anchor(Arc::new(proof::anchors(&servers.anchors)));
    }
    builder.build().map_err(unusable)
}

fn limits(options: &mut ResolverOpts) {
    options.timeout = Duration::from_secs(3);
    options.attempts = 2;
    options.try_tcp_on_error = true;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.positive_max_ttl = Some(MAX_AGE);
    options.negative_max_ttl = Some(MAX_NEGATIVE_AGE);
}

/// No answer of the kind that was wanted, and whether DNSSEC proves that much.
struct Failure {
    error: LookupError,
    proved: bool,
}

async fn limited<T>(lookup: impl Future<Output = Result<T, NetError>>) -> Result<T, Failure> {
    let missing = |code| match code {
        ResponseCode::NXDomain => LookupError::NoSuchName,
        ResponseCode::NoError => LookupError::NoRecord,
        code => LookupError::Unanswered(code.to_string()),
    };
    let (error, proved) = match tokio::time::timeout(PATIENCE, lookup).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
            let proved = none.authorities.as_deref().is_some_and(proof::all_proved);
            (missing(none.response_code), proved)
        }
        Ok(Err(NetError::Dns(DnsError::DnssecBogus))) => (LookupError::Bogus, false),
        Ok(Err(NetError::Dns(DnsError::Nsec { response, proof, .. }))) => match proof {
            // Too many NSEC3 iterations, or a span that may hold unsigned zones (RFC 9276, RFC 5155).
            Proof::Insecure => (missing(response.response_code), false),
            Proof::Secure => (missing(response.response_code), true),
            Proof::Bogus | Proof::Indeterminate => (LookupError::Bogus, false),
        },
        Ok(Err(error)) => (LookupError::Unanswered(error.to_string()), false),
        Err(_) => (LookupError::Unanswered("no answer in time".to_owned()), false),
    };
    Err(Failure { error, proved })
}
