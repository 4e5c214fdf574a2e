//! TLS for a test: the terms of a route, except that the certificate is only looked at. Chain and name are
//! judged apart, whether or not the route demands them, and the session goes on so that all of it can be told.
//!
//! No mail and no credentials over such a session: who holds it must look at what was recorded first.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::{Cause, Tls, TlsError, Verifier, check_name};

/// What a host showed, and what the two questions would have been answered.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The server's certificate, and what came with it.
    pub certificates: Vec<CertificateDer<'static>>,
    pub chain: Result<(), Cause>,
    pub name: Result<(), Cause>,
}

#[derive(Debug)]
pub struct Recorder {
    verifier: Verifier,
    seen: Mutex<Option<Seen>>,
}

impl Recorder {
    /// What was seen last; `None`: the handshake did not come to a certificate.
    pub fn seen(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Tls {
    /// These terms, to test with: protocol versions and client certificate stay, every server certificate is
    /// taken and recorded. The terms say so: they verify nobody.
    pub fn recording(&self) -> Result<(Self, Arc<Recorder>), TlsError> {
        let verifier = Verifier::new(self.config.crypto_provider(), self.own.to_vec(), true, true)?;
        let recorder = Arc::new(Recorder { verifier, seen: Mutex::new(None) });
        let mut config = (*self.config).clone();
        config.dangerous().set_certificate_verifier(Arc::clone(&recorder) as Arc<dyn ServerCertVerifier>);
        // A resumed session shows no certificate; and mail must never resume one that was not verified.
        config.resumption = Resumption::disabled();
        Ok((Self { config: Arc::new(config), verifies_peer: false, ..self.clone() }, recorder))
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = Seen {
            certificates: std::iter::once(end_entity)
                .chain(intermediates)
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
            chain: self.verifier.check_chain(end_entity, intermediates, ocsp_response, now),
            name: check_name(end_entity, server_name),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
