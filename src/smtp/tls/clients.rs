//! Certificates of clients (mutual TLS). A listener asks for one and goes on with whatever it gets: a client
//! that is allowed for another reason must not fail because of a certificate that nobody here knows. So the
//! handshake only demands proof of the key; whose certificate it is, is found out afterwards, here.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{self, CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::TlsError;

/// Who vouches for clients.
#[derive(Debug, Clone)]
pub struct ClientAuthority {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthority {
    /// `ca`: one certificate or several, PEM.
    pub fn from_pem(ca: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            roots.add(certificate.map_err(TlsError::ClientCa)?)?;
        }
        if roots.is_empty() {
            return Err(TlsError::NoClientCa);
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { verifier: verifier.map_err(|error| TlsError::ClientCaUnusable(error.to_string()))? })
    }

    /// The names of a client whose certificate is ours to trust now; `None` for any other.
    pub fn names(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<Arc<[String]>> {
        let (own, between) = chain.split_first()?;
        self.verifier.verify_client_cert(own, between, now).ok()?;
        Some(names(own).into())
    }

    /// For the listener's configuration.
    pub(super) fn asking(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Asking {
            hints: self.verifier.root_hint_subjects().to_vec(),
            provider: aws_lc_rs::default_provider(),
        })
    }
}

/// DNS names, e-mail and IP addresses and URIs among the subject alternative names, and the common names.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let mut names: Vec<String> = Vec::new();
    if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
        names.extend(alternative.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
                Some((*text).to_owned())
            }
            GeneralName::IPAddress(octets) => match octets.len() {
                4 => <[u8; 4]>::try_from(*octets).ok().map(|v4| std::net::IpAddr::from(v4).to_string()),
                _ => <[u8; 16]>::try_from(*octets).ok().map(|v6| std::net::IpAddr::from(v6).to_string()),
            },
            _ => None,
        }));
    }
    names.extend(
        certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned),
    );
    names
}

/// Asks for a certificate, takes none for an answer, and only checks that the client has the key.
#[derive(Debug)]
struct Asking {
    hints: Vec<DistinguishedName>,
    provider: CryptoProvider,
}

/// A certificate that cannot even be read is never trusted later, so its proof does not matter either.
fn is_readable(certificate: &CertificateDer<'_>) -> bool {
    ParsedCertificate::try_from(certificate).is_ok()
}

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !is_readable(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !is_readable(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
