//! TLS to a next hop: who signed the certificate and which name is on it are two questions (spec R13,
//! R14), each asked only where the route says so, each answered with the precise cause.

pub mod recorder;

use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, InconsistentKeys, OtherError,
    RootCertStore, SignatureScheme, SupportedProtocolVersion, version,
};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::auth::process_key;
use crate::bundle::document::{RouteTls, TlsMode, TlsVersion};

/// The TLS feature extension (RFC 7633): the server promised to staple proof that it is not revoked.
const MUST_STAPLE: &str = "1.3.6.1.5.5.7.1.24";

/// The terms of a route, ready to use. Whether TLS is required at all is decided per message.
#[derive(Debug, Clone)]
pub struct Tls {
    pub mode: TlsMode,
    pub require: bool,
    /// Verified instead of the host's own name.
    pub server_name: Option<String>,
    pub config: Arc<ClientConfig>,
    /// Chain and name are checked, so who answers is who was meant: a password may be said here.
    pub verifies_peer: bool,
    demands: Demands,
    /// Certificates trusted beside the system's roots.
    own: Arc<[CertificateDer<'static>]>,
    /// Shown to a host that asks for one.
    client: Option<Arc<CertifiedKey>>,
    /// Equal terms, equal identity: connections are shared only among these.
    pub identity: blake3::Hash,
}

/// What the peer must have.
#[derive(Debug, Clone, Copy)]
struct Demands {
    chain: bool,
    name: bool,
    version: TlsVersion,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("its CA file holds no certificate")]
    NoCertificate,
    #[error("its CA file cannot be read: {0}")]
    BadCaFile(String),
    #[error("{0:?} is not a name that a certificate can carry")]
    BadServerName(String),
    #[error("its client certificate holds no certificate")]
    NoClientCertificate,
    #[error("its client certificate cannot be read: {0}")]
    BadClientCertificate(String),
    #[error("the private key of its client certificate cannot be read: {0}")]
    BadClientKey(String),
    #[error("its client certificate and the private key beside it do not belong together")]
    ForeignClientKey,
}

impl Tls {
    /// `ca` is PEM text, trusted beside the system's roots.
    pub fn build(terms: &RouteTls, ca: Option<&[u8]>) -> Result<Self, TlsError> {
        let own = ca.map(read_pem).transpose()?.unwrap_or_default();
        if let Some(name) = &terms.server_name {
            ServerName::try_from(name.as_str()).map_err(|_| TlsError::BadServerName(name.clone()))?;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(
            format!(
                "{:?}",
                (terms.mode, terms.require_ca_signed, terms.validate_hostname, terms.min_version)
            )
            .as_bytes(),
        );
        hasher.update(terms.server_name.as_deref().unwrap_or("").as_bytes());
        own.iter().for_each(|certificate| {
            hasher.update(certificate);
        });
        let demands = Demands {
            chain: terms.require_ca_signed,
            name: terms.validate_hostname,
            version: terms.min_version,
        };
        let config = client_config(own.clone(), demands, None)?;
        Ok(Self {
            verifies_peer: terms.verifies_peer(),
            demands,
            client: None,
            mode: terms.mode,
            require: terms.require,
            server_name: terms.server_name.clone(),
            config: Arc::new(config),
            own: own.into(),
            identity: hasher.finalize(),
        })
    }

    /// The same terms, with a certificate of ours for a host that asks for one (spec R17). Both are PEM text:
    /// our certificate first, then its issuers; the key in PKCS#8, PKCS#1 or SEC1.
    pub fn with_client_certificate(self, chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let client = Arc::new(read_pair(chain, key)?);
        let config = client_config(self.own.to_vec(), self.demands, Some(&client))?;
        let mut hasher = blake3::Hasher::new_keyed(process_key());
        hasher.update(self.identity.as_bytes());
        client.cert.iter().for_each(|certificate| {
            hasher.update(certificate);
        });
        let identity = hasher.finalize();
        Ok(Self { config: Arc::new(config), client: Some(client), identity, ..self })
    }

    /// The same terms with every demand on the peer's certificate.
    pub fn verified(&self) -> Result<Self, TlsError> {
        let demands = Demands { chain: true, name: true, ..self.demands };
        let config = client_config(self.own.to_vec(), demands, self.client.as_ref())?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"verified");
        hasher.update(self.identity.as_bytes());
        let identity = hasher.finalize();
        let config = Arc::new(config);
        Ok(Self { require: true, verifies_peer: true, demands, config, identity, ..self.clone() })
    }

    /// Whether the peer needs a chain to a trusted authority, and whether its name.
    pub fn asks_for(&self) -> (bool, bool) {
        (self.demands.chain, self.demands.name)
    }

    /// Why a chain would be refused if every demand were made for `host`; `None`: it would not.
    pub fn judge(&self, chain: &[CertificateDer<'_>], host: &str) -> Option<String> {
        let refused = |why: &str| Some(Cause::Other(why.to_owned()).to_string());
        let Some((server, others)) = chain.split_first() else { return refused("there is none") };
        let Ok(name) = ServerName::try_from(host) else { return refused("it is for no host name") };
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        match Verifier::new(&provider, self.own.to_vec(), true, true) {
            // What the server stapled is not at hand any more, so its absence is not held against it.
            Ok(verifier) => match verifier.check(server, others, &name, b"unknown", UnixTime::now()) {
                Ok(()) => None,
                Err(cause) => Some(cause.to_string()),
            },
            Err(error) => refused(&error.to_string()),
        }
    }

    /// TLS when the peer has it, any certificate, no demand (spec R21).
    pub fn opportunistic() -> Self {
        static SHARED: OnceLock<Tls> = OnceLock::new();
        let build = || {
            Tls::build(&RouteTls::opportunistic(), None)
                .expect("terms without names or files are always valid")
        };
        SHARED.get_or_init(build).clone()
    }
}

fn read_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| TlsError::BadCaFile(error.to_string()))?;
    if certificates.is_empty() { Err(TlsError::NoCertificate) } else { Ok(certificates) }
}

/// Our certificate and its key, known to belong together.
fn read_pair(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(|error| TlsError::BadClientCertificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(TlsError::NoClientCertificate);
    }
    // The error may quote what it read.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| TlsError::BadClientKey("it is not a private key in PEM form".to_owned()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::ForeignClientKey,
        rustls::Error::InvalidCertificate(error) => TlsError::BadClientCertificate(format!("{error:?}")),
        other => TlsError::BadClientKey(other.to_string()),
    })
}

fn client_config(
    own: Vec<CertificateDer<'static>>,
    demands: Demands,
    client: Option<&Arc<CertifiedKey>>,
) -> Result<ClientConfig, TlsError> {
    static FROM_12: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
    static FROM_13: &[&SupportedProtocolVersion] = &[&version::TLS13];
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Verifier::new(&provider, own, demands.chain, demands.name)?);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(match demands.version {
            TlsVersion::Tls12 => FROM_12,
            TlsVersion::Tls13 => FROM_13,
        })
        .expect("the provider has TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(match client {
        Some(client) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(client))))
        }
        None => builder.with_no_client_auth(),
    })
}

/// The system's roots, read once: an image does not change while it runs.
pub(in crate::delivery) fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    })
}

#[derive(Debug)]
struct Verifier {
    check_chain: bool,
    /// Trusted beside the system's roots: as authorities, or as the very certificate of the server.
    own: Vec<CertificateDer<'static>>,
    own_roots: RootCertStore,
    check_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(
        provider: &CryptoProvider,
        own: Vec<CertificateDer<'static>>,
        check_chain: bool,
        check_name: bool,
    ) -> Result<Self, TlsError> {
        let mut own_roots = RootCertStore::empty();
        for certificate in &own {
            own_roots.add(certificate.clone()).map_err(|error| TlsError::BadCaFile(error.to_string()))?;
        }
        if check_chain {
            // Read from disk now rather than in the middle of a handshake.
            system_roots();
        }
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { check_chain, own, own_roots, check_name, algorithms })
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), Cause> {
        if self.check_chain {
            self.check_chain(certificate, intermediates, ocsp, now)?;
        }
        if self.check_name { check_name(certificate, name) } else { Ok(()) }
    }

    /// Who signed it, and whether it is in its dates.
    fn check_chain(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<(), Cause> {
        let (parsed, readable) = parse(certificate)?;
        check_dates(&readable, now)?;
        // A self-signed certificate that the route itself names is trusted as it is.
        if !self.own.iter().any(|own| own == certificate) {
            let verify = |roots: &RootCertStore| {
                let algorithms = self.algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
            };
            verify(&self.own_roots)
                .or_else(|own| match verify(system_roots()) {
                    // Whichever knows more than "never heard of it".
                    Err(system) if is_unknown(&own) => Err(system),
                    Err(_) => Err(own),
                    Ok(()) => Ok(()),
                })
                .map_err(|error| chain_cause(&error, &readable))?;
        }
        if must_staple(&readable) && ocsp.is_empty() {
            return Err(Cause::NotStapled);
        }
        Ok(())
    }
}

/// Whether the certificate bears the name.
fn check_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Cause> {
    let (parsed, readable) = parse(certificate)?;
    verify_server_name(&parsed, name).map_err(|_| name_cause(&readable, name))
}

/// The two readers agree on what follows.
fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<(ParsedCertificate<'a>, X509Certificate<'a>), Cause> {
    let parsed = ParsedCertificate::try_from(certificate).map_err(|error| Cause::Other(error.to_string()))?;
    let (_, readable) = X509Certificate::from_der(certificate)
        .map_err(|error| Cause::Other(format!("the certificate cannot be read ({error})")))?;
    Ok((parsed, readable))
}

/// Why a certificate was refused, in words that a person can act on (spec R25).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("Could not validate certificate: self-signed")]
    SelfSigned,
    #[error("Could not validate certificate: unknown issuer ({0})")]
    UnknownIssuer(String),
    #[error("Could not validate certificate: expired at {0}")]
    Expired(String),
    #[error("Could not validate certificate: not yet valid, it begins at {0}")]
    NotYetValid(String),
    #[error("Could not validate certificate: name mismatch: wanted {wanted}, certificate has {has}")]
    Name { wanted: String, has: String },
    #[error(
        "Could not validate certificate: it demands proof that it is not revoked and the server sent none"
    )]
    NotStapled,
    #[error("Could not validate certificate: {0}")]
    Other(String),
}

/// The text of a refused certificate, if that is why a handshake failed.
pub fn refusal(error: &std::io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<Cause>().map(Cause::to_string)
        }
        // The signature of the handshake is checked whatever the route demands.
        rustls::Error::InvalidCertificate(other) => Some(Cause::Other(format!("{other:?}")).to_string()),
        _ => None,
    }
}

/// The alert by which a host refuses the certificate that we showed, or that we have none; if that is what went
/// wrong.
pub fn refused_certificate(error: &std::io::Error) -> Option<String> {
    use AlertDescription as Alert;
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::AlertReceived(alert) = error else { return None };
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
    )
    .then(|| format!("{alert:?}"))
}

fn check_dates(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Cause> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now > validity.not_after.timestamp() {
        return Err(Cause::Expired(moment(validity.not_after.timestamp())));
    }
    if now < validity.not_before.timestamp() {
        return Err(Cause::NotYetValid(moment(validity.not_before.timestamp())));
    }
    Ok(())
}

fn moment(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

fn is_unknown(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
}

fn chain_cause(error: &rustls::Error, certificate: &X509Certificate<'_>) -> Cause {
    let self_signed = certificate.issuer() == certificate.subject();
    match error {
        _ if self_signed => Cause::SelfSigned,
        // A bad signature: a stranger that goes by the name of one we trust.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => Cause::UnknownIssuer(certificate.issuer().to_string()),
        // The certificate itself is in its dates: it is one of those that signed it.
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => Cause::Other("a certificate of its issuers has expired".to_owned()),
        rustls::Error::InvalidCertificate(other) => Cause::Other(format!("{other:?}")),
        other => Cause::Other(other.to_string()),
    }
}

fn name_cause(certificate: &X509Certificate<'_>, wanted: &ServerName<'_>) -> Cause {
    let names = names(certificate);
    let has = if names.is_empty() {
        let common = certificate.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
        match common {
            Some(common) => format!("no names (its common name {common} does not count)"),
            None => "no names".to_owned(),
        }
    } else {
        names.join(", ")
    };
    Cause::Name { wanted: wanted.to_str().into_owned(), has }
}

/// The host names and addresses that a certificate is good for.
pub fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() {
            names.extend(san.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => Some(ip_text(bytes)),
                _ => None,
            }));
        }
    }
    names
}

fn ip_text(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return std::net::Ipv4Addr::from(v4).to_string();
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => std::net::Ipv6Addr::from(v6).to_string(),
        Err(_) => "an address that cannot be read".to_owned(),
    }
}

fn must_staple(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|extension| extension.oid.to_id_string() == MUST_STAPLE)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, server_name, ocsp_response, now)
            .map(|()| ServerCertVerified::assertion())
            .map_err(|cause| CertificateError::Other(OtherError(Arc::new(cause))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
