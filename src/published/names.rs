//! Questions to DNS with a time limit on each, and how long an answer holds. Absence is an answer; silence is not.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};

/// One question, retries included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it holds that something is not there.
const ABSENT: Duration = Duration::from_secs(300);

/// Records of one name and kind, none when there is no such name or no such record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    pub records: Vec<T>,
    pub ttl: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("DNS gave no answer for {name}: {why}")]
pub struct Silence {
    pub name: String,
    pub why: String,
}

/// What SPF asks. Tests have one of their own.
pub trait Names: Send + Sync {
    fn txt(&self, name: &str) -> impl Future<Output = Result<Found<String>, Silence>> + Send;
    /// Addresses of one family.
    fn addresses(&self, name: &str, v6: bool) -> impl Future<Output = Result<Found<IpAddr>, Silence>> + Send;
    fn mx(&self, name: &str) -> impl Future<Output = Result<Found<String>, Silence>> + Send;
    fn ptr(&self, address: IpAddr) -> impl Future<Output = Result<Found<String>, Silence>> + Send;
}

/// The DNS of a gateway.
pub struct Resolver(TokioResolver);

impl Resolver {
    /// `servers`: empty for those of the system.
    pub fn new(servers: &[SocketAddr]) -> Result<Self, Silence> {
        let unusable = |error: NetError| Silence { name: "anything".to_owned(), why: error.to_string() };
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
        let options = builder.options_mut();
        options.timeout = Duration::from_secs(3);
        options.attempts = 2;
        options.try_tcp_on_error = true;
        options.cache_size = 512;
        builder.build().map(Self).map_err(unusable)
    }

    async fn ask<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T> + Send,
    ) -> Result<Found<T>, Silence> {
        let silence = |why: String| Silence { name: name.to_owned(), why };
        let question = self.0.lookup(format!("{}.", name.trim_end_matches('.')), kind);
        match tokio::time::timeout(PATIENCE, question).await {
            Ok(Ok(answer)) => {
                let wanted = answer.answers().iter().filter(|record| record.record_type() == kind);
                let ttl = answer.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
                let records = wanted.filter_map(|record| read(&record.data)).collect();
                Ok(Found { records, ttl: Duration::from_secs(u64::from(ttl)) })
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => match none.response_code {
                ResponseCode::NXDomain | ResponseCode::NoError => {
                    Ok(Found { records: Vec::new(), ttl: ABSENT })
                }
                code => Err(silence(code.to_string())),
            },
            Ok(Err(error)) => Err(silence(error.to_string())),
            Err(_) => Err(silence("no answer in time".to_owned())),
        }
    }
}

fn host(name: &hickory_resolver::proto::rr::Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

impl Names for Resolver {
    async fn txt(&self, name: &str) -> Result<Found<String>, Silence> {
        let read = |data: &RData| match data {
            RData::TXT(txt) => {
                let bytes: Vec<u8> = txt.txt_data.iter().flat_map(|part| part.iter().copied()).collect();
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            _ => None,
        };
        self.ask(name, RecordType::TXT, read).await
    }

    async fn addresses(&self, name: &str, v6: bool) -> Result<Found<IpAddr>, Silence> {
        let kind = if v6 { RecordType::AAAA } else { RecordType::A };
        let read = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        self.ask(name, kind, read).await
    }

    async fn mx(&self, name: &str) -> Result<Found<String>, Silence> {
        let read = |data: &RData| match data {
            RData::MX(mx) => Some(host(&mx.exchange)),
            _ => None,
        };
        self.ask(name, RecordType::MX, read).await
    }

    async fn ptr(&self, address: IpAddr) -> Result<Found<String>, Silence> {
        let name = hickory_resolver::proto::rr::Name::from(address).to_ascii();
        let read = |data: &RData| match data {
            RData::PTR(ptr) => Some(host(&ptr.0)),
            _ => None,
        };
        self.ask(&name, RecordType::PTR, read).await
    }
}
