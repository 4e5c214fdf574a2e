//! The operator's own certificate authority: who may ask a gateway pod on its control port, and which pod
//! answers. No part of it is ever used for mail.
//!
//! Two kinds of leaf certificates exist. The controller's is good only to ask (`clientAuth`). A gateway's, with the
//! gateway's name, is good to answer, and to ask the pods of that very gateway to take over mail: pods look at the
//! name and show a peer nothing else, so what an intruder finds in a pod opens no pod
//! of another gateway, and in its own no more than a place for mail.
//! Pure apart from randomness: the caller says which day it is.

use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Days a leaf lasts; it is made anew when a third of that is left.
const LEAF_DAYS: i64 = 90;
/// Years the authority's certificate lasts. It is renewed with the same key a year before its end, so
/// certificates it has signed stay good.
const CA_YEARS: i64 = 10;

pub use crate::bundle::names::{CONTROLLER as CONTROLLER_NAME, gateway as gateway_name};

/// The name in the certificate of the operator's API, whatever the address it is reached by.
pub const API_NAME: &str = "api.postern.internal";

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the control CA cannot be used: {0}")]
    Unusable(String),
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot set up TLS to the gateways: {0}")]
    Tls(#[from] rustls::Error),
}

/// A certificate and its key as PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority, to be kept in a Secret.
    pub fn create(today: Date) -> Result<Pair, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = root(today).self_signed(&key)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }

    pub fn load(kept: &Pair) -> Result<Self, AuthorityError> {
        kept.identity()?;
        let key = KeyPair::from_pem(&kept.key)?;
        // Only name, key identifier and usages of the issuer go into what it signs, and those are constant.
        let issuer = Issuer::new(root(Date::constant(2026, 1, 1)), key);
        Ok(Self { certificate: kept.certificate.clone(), issuer })
    }

    /// The same authority with a certificate that lasts longer, when that is due.
    pub fn renewed(&self, today: Date) -> Result<Option<Pair>, AuthorityError> {
        let der = certificate(&self.certificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| AuthorityError::Unusable(error.to_string()))?;
        let soon = noon(today.saturating_add(Span::new().years(1)));
        if parsed.validity().not_after.timestamp() > soon.as_second() {
            return Ok(None);
        }
        let certificate = root(today).self_signed(self.issuer.key())?.pem();
        Ok(Some(Pair { certificate, key: self.issuer.key().serialize_pem() }))
    }

    /// PEM, for both sides to trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// What the pods of a gateway answer with.
    pub fn for_gateway(&self, namespace: &str, gateway: &str, today: Date) -> Result<Pair, AuthorityError> {
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&[gateway_name(namespace, gateway)], &usages, today)
    }

    /// Whether a gateway's stored pair still serves: signed by this authority, right name, lasts long enough.
    pub fn is_good(&self, pair: &Pair, namespace: &str, gateway: &str, today: Date) -> bool {
        let check = || -> Result<(), AuthorityError> {
            let (chain, _) = pair.identity()?;
            let name = ServerName::try_from(gateway_name(namespace, gateway))
                .map_err(|error| AuthorityError::Unusable(error.to_string()))?;
            let verifier = WebPkiServerVerifier::builder_with_provider(self.roots()?, provider())
                .build()
                .map_err(|error| AuthorityError::Unusable(error.to_string()))?;
            let then = noon(today.saturating_add(Span::new().days(LEAF_DAYS / 3)));
            let then = UnixTime::since_unix_epoch(Duration::from_secs(then.as_second().max(0) as u64));
            verifier.verify_server_cert(&chain, &[], &name, &[], then)?;
            // Those of earlier versions were good to answer only.
            let asks = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
                .build()
                .map_err(|error| AuthorityError::Unusable(error.to_string()))?;
            asks.verify_client_cert(&chain, &[], then)?;
            Ok(())
        };
        check().is_ok()
    }

    /// The controller's side of the control port, with a client certificate made for this process.
    pub fn client(&self, today: Date) -> Result<Arc<ClientConfig>, AuthorityError> {
        let pair =
            self.issue(&[CONTROLLER_NAME.to_owned()], &[ExtendedKeyUsagePurpose::ClientAuth], today)?;
        let (certificate, key) = pair.identity()?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(Arc::new(config))
    }

    /// The API's side of a connection: a certificate for these names made for this process. `clients`: authorities
    /// whose certificates say who a client is; nobody has to show one.
    pub fn server(
        &self,
        names: &[String],
        clients: Option<RootCertStore>,
        today: Date,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let (certificate, key) =
            self.issue(names, &[ExtendedKeyUsagePurpose::ServerAuth], today)?.identity()?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                let verifier = verifier.allow_unauthenticated().build();
                config.with_client_cert_verifier(
                    verifier.map_err(|error| AuthorityError::Unusable(error.to_string()))?,
                )
            }
        };
        Ok(Arc::new(config.with_single_cert(vec![certificate], key)?))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, AuthorityError> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.certificate)?)?;
        Ok(Arc::new(roots))
    }

    fn issue(
        &self,
        names: &[String],
        usages: &[ExtendedKeyUsagePurpose],
        today: Date,
    ) -> Result<Pair, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "postern");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        validate(&mut params, today, Span::new().days(LEAF_DAYS));
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

fn root(today: Date) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Postern control CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validate(&mut params, today, Span::new().years(CA_YEARS));
    params
}

/// From yesterday on, as clocks differ.
fn validate(params: &mut CertificateParams, today: Date, span: Span) {
    let day = |date: Date| rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
    params.not_before = day(today.saturating_sub(Span::new().days(1)));
    params.not_after = day(today.saturating_add(span));
}

fn noon(day: Date) -> Timestamp {
    day.at(12, 0, 0, 0).to_zoned(TimeZone::UTC).map_or(Timestamp::MAX, |zoned| zoned.timestamp())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, AuthorityError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| AuthorityError::Unusable(error.to_string()))
}

impl Pair {
    /// Both halves, which belong together.
    fn identity(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), AuthorityError> {
        let chain = certificate(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| AuthorityError::Unusable(error.to_string()))?;
        CertifiedKey::from_der(vec![chain.clone()], key.clone_key(), &provider())?;
        Ok((chain, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Date = Date::constant(2026, 11, 22);

    fn authority() -> Authority {
        Authority::load(&Authority::create(DAY).unwrap()).unwrap()
    }

    #[test]
    fn a_gateways_certificate_is_good_for_its_own_name_and_authority_until_two_thirds_of_its_life() {
        let ours = authority();
        let pair = ours.for_gateway("mail", "default", DAY).unwrap();
        assert!(ours.is_good(&pair, "mail", "default", DAY));
        assert!(!ours.is_good(&pair, "mail", "other", DAY));
        assert!(!ours.is_good(&pair, "other", "default", DAY));
        assert!(!authority().is_good(&pair, "mail", "default", DAY), "another operator's authority");
        assert!(ours.is_good(&pair, "mail", "default", Date::constant(2027, 1, 10)));
        assert!(!ours.is_good(&pair, "mail", "default", Date::constant(2027, 2, 1)));
        let mixed = Pair { key: ours.for_gateway("mail", "default", DAY).unwrap().key, ..pair };
        assert!(!ours.is_good(&mixed, "mail", "default", DAY), "a key of another certificate");
    }

    #[test]
    fn a_renewed_authority_accepts_what_the_old_one_signed() {
        let old = authority();
        assert!(old.renewed(Date::constant(2035, 1, 1)).unwrap().is_none());
        let late = Date::constant(2035, 12, 24);
        let pair = old.for_gateway("mail", "default", late).unwrap();
        let new = Authority::load(&old.renewed(late).unwrap().unwrap()).unwrap();
        assert!(new.is_good(&pair, "mail", "default", late));
    }

    #[test]
    fn a_damaged_secret_is_named_and_not_used() {
        let pair = Authority::create(DAY).unwrap();
        let other = Authority::create(DAY).unwrap();
        assert!(Authority::load(&Pair { key: other.key, ..pair.clone() }).is_err());
        assert!(Authority::load(&Pair { certificate: "x".to_owned(), ..pair }).is_err());
    }

    #[test]
    fn the_controller_gets_a_client() {
        assert!(authority().client(DAY).is_ok());
    }
}
