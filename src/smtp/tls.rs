//! TLS of the listeners: certificates from PEM, replaced while sessions run. Handshakes in progress and
//! established sessions keep what they began with; the next handshake uses the new certificate.

mod clients;

pub use clients::ClientAuthority;

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ProtocolVersion, ServerConfig, ServerConnection};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate chain is not PEM: {0}")]
    Chain(#[source] pem::Error),
    #[error("there is no certificate in the chain")]
    NoCertificate,
    #[error("the private key is not PEM: {0}")]
    Key(#[source] pem::Error),
    #[error("the certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    #[error("the CA of the clients is not PEM: {0}")]
    ClientCa(#[source] pem::Error),
    #[error("there is no certificate in the CA of the clients")]
    NoClientCa,
    #[error("the CA of the clients cannot be used: {0}")]
    ClientCaUnusable(String),
    #[error("a self-signed certificate could not be made: {0}")]
    SelfSigned(#[from] rcgen::Error),
}

/// The certificate of a listener, as it is now.
#[derive(Debug)]
pub struct LiveCertificate(ArcSwap<ServerConfig>);

impl LiveCertificate {
    /// `chain`: the server's certificate first; `key`: PKCS#8, PKCS#1 or SEC1. With an authority clients are
    /// asked for a certificate too.
    pub fn from_pem(chain: &[u8], key: &[u8], clients: Option<&ClientAuthority>) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from_pointee(config_of_pem(chain, key, clients)?)))
    }

    /// For a listener without a certificate of its own: enough against a passive listener, which is
    /// what opportunistic TLS is for.
    pub fn self_signed(hostname: &str, clients: Option<&ClientAuthority>) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from_pointee(self_signed_config(hostname, clients)?)))
    }

    /// Takes over another one for all later handshakes.
    pub fn replace_by(&self, other: &LiveCertificate) {
        self.0.store(other.current());
    }

    /// What the next handshake uses.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }
}

fn config_of_pem(
    chain: &[u8],
    key: &[u8],
    clients: Option<&ClientAuthority>,
) -> Result<ServerConfig, TlsError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(TlsError::Chain)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    config(chain, PrivateKeyDer::from_pem_slice(key).map_err(TlsError::Key)?, clients)
}

fn self_signed_config(hostname: &str, clients: Option<&ClientAuthority>) -> Result<ServerConfig, TlsError> {
    let made = rcgen::generate_simple_self_signed([hostname.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    config(vec![made.cert.der().clone()], key, clients)
}

/// TLS 1.2 and 1.3; nothing older exists in rustls (RFC 8996).
fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<&ClientAuthority>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients.asking()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key)?;
    // Tickets let a busy client resume without a signature of ours and without memory of ours.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

/// Version and cipher suite for the Received field, e.g. `TLSv1.3 with cipher TLS13_AES_256_GCM_SHA384`.
pub fn describe(connection: &ServerConnection) -> String {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLS",
    };
    match connection.negotiated_cipher_suite() {
        Some(suite) => format!("{version} with cipher {:?}", suite.suite()),
        None => version.to_owned(),
    }
}
