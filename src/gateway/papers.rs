//! What a pod shows and trusts on the control port: the certificate of its gateway, its key, the operator's CA. Who
//! asks is told from his certificate: the controller, a pod of the same gateway, or a stranger (a pod of another
//! gateway of the same operator is one).

use std::path::Path;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;

use crate::bundle::names;

pub struct Papers {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    /// The name of our gateway.
    name: ServerName<'static>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Controller,
    /// A pod of this gateway.
    Peer,
    Stranger,
}

impl Papers {
    /// Reads `tls.crt`, `tls.key` and `ca.crt`.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let bad = |name: &str| {
            let path = folder.join(name);
            move |error: rustls::pki_types::pem::Error| format!("{}: {error}", path.display())
        };
        let (chain, key, ca) = (read("tls.crt")?, read("tls.key")?, read("ca.crt")?);
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().map_err(bad("tls.crt"))?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(bad("tls.key"))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&ca) {
            roots.add(certificate.map_err(bad("ca.crt"))?).map_err(|error| format!("ca.crt: {error}"))?;
        }
        let name = chain.first().and_then(name_of).ok_or("tls.crt: there is no name in it")?;
        Ok(Self { chain, key, roots: Arc::new(roots), name })
    }

    /// Answers those whom the CA vouches for.
    pub fn server(&self) -> Result<Arc<ServerConfig>, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&provider))
                .build()
                .map_err(|error| error.to_string())?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(clients)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| error.to_string())?;
        Ok(Arc::new(config))
    }

    /// Asks a pod of this gateway.
    pub fn client(&self) -> Result<Arc<ClientConfig>, String> {
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| error.to_string())?
                .with_root_certificates(Arc::clone(&self.roots))
                .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
                .map_err(|error| error.to_string())?;
        Ok(Arc::new(config))
    }

    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// Whose certificates these are; that the CA vouches for them was checked in the handshake.
    pub fn asker(&self, certificates: &[CertificateDer<'static>]) -> Asker {
        let Some(parsed) = certificates.first().and_then(|first| ParsedCertificate::try_from(first).ok())
        else {
            return Asker::Stranger;
        };
        let controller = ServerName::try_from(names::CONTROLLER).expect("it is a name of DNS");
        if verify_server_name(&parsed, &controller).is_ok() {
            Asker::Controller
        } else if verify_server_name(&parsed, &self.name).is_ok() {
            Asker::Peer
        } else {
            Asker::Stranger
        }
    }
}

fn name_of(certificate: &CertificateDer<'static>) -> Option<ServerName<'static>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let dns = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    ServerName::try_from(dns?).ok()
}
