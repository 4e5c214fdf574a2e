//! DNS as delivery needs it: mail hosts and addresses, cached, with a time limit on every question.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RData;

/// One question, retries included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers older than this are asked for again, whatever their TTL says.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// A name that was missing may have been added since.
const MAX_NEGATIVE_AGE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("the name does not exist")]
    NoSuchName,
    #[error("the name has no such record")]
    NoRecord,
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

/// Asks the servers of the current routes; made anew when they change.
#[derive(Default)]
pub struct Dns {
    current: Mutex<Option<(Vec<SocketAddr>, Arc<TokioResolver>)>>,
}

impl Dns {
    /// The MX records of a domain, as DNS gave them: preference and host, the null MX as an empty host.
    pub async fn mx(&self, servers: &[SocketAddr], domain: &str) -> Result<Vec<(u16, String)>, LookupError> {
        let resolver = self.resolver(servers)?;
        let lookup = limited(resolver.mx_lookup(format!("{domain}."))).await?;
        let records = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::MX(mx) => {
                let host = mx.exchange.to_ascii();
                Some((mx.preference, host.trim_end_matches('.').to_ascii_lowercase()))
            }
            _ => None,
        });
        let records: Vec<_> = records.collect();
        if records.is_empty() { Err(LookupError::NoRecord) } else { Ok(records) }
    }

    /// The addresses of a host, both families, in the order DNS gave them.
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
        let lookup = limited(resolver.lookup_ip(name)).await?;
        let addresses: Vec<IpAddr> = lookup.iter().collect();
        if addresses.is_empty() { Err(LookupError::NoRecord) } else { Ok(addresses) }
    }

    /// The resolver itself, for who asks other questions: the caller limits the time.
    pub fn resolver(&self, servers: &[SocketAddr]) -> Result<Arc<TokioResolver>, LookupError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some((of, resolver)) if of == servers => Ok(Arc::clone(resolver)),
            _ => {
                let resolver = Arc::new(build(servers)?);
                *current = Some((servers.to_vec(), Arc::clone(&resolver)));
                Ok(resolver)
            }
        }
    }
}

fn build(servers: &[SocketAddr]) -> Result<TokioResolver, LookupError> {
    let unusable = |error: NetError| LookupError::Unanswered(format!("no usable resolver: {error}"));
    let mut builder = if servers.is_empty() {
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
        let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    limits(builder.options_mut());
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

async fn limited<T>(lookup: impl Future<Output = Result<T, NetError>>) -> Result<T, LookupError> {
    match tokio::time::timeout(PATIENCE, lookup).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => match none.response_code {
            ResponseCode::NXDomain => Err(LookupError::NoSuchName),
            ResponseCode::NoError => Err(LookupError::NoRecord),
            code => Err(LookupError::Unanswered(code.to_string())),
        },
        Ok(Err(error)) => Err(LookupError::Unanswered(error.to_string())),
        Err(_) => Err(LookupError::Unanswered("no answer in time".to_owned())),
    }
}
