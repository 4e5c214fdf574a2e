//! DANE for SMTP (RFC 7672): which TLSA records count, and whether a certificate chain is what one of them
//! names. Decides; whether the records themselves can be believed was decided by [`super::dns`].

use hickory_resolver::proto::rr::rdata::TLSA;
use hickory_resolver::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a host's TLSA records demand of its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dane {
    /// The records that can be used. None: the host must encrypt, and nobody can say who it is
    /// (RFC 7672 section 2.2).
    associations: Vec<Association>,
    /// The name under which the records were found: what SNI says.
    pub base: String,
    /// All records, as reports repeat them.
    records: Vec<String>,
    /// Names that a certificate under a trust anchor must have one of.
    names: Vec<String>,
}

/// A usable TLSA record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Association {
    usage: Usage,
    part: Part,
    form: Form,
    data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    /// DANE-TA(2): an authority in the server's chain.
    Authority,
    /// DANE-EE(3): the server's own certificate or key; its names and dates mean nothing.
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Certificate,
    Key,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Form {
    Whole,
    Sha256,
    Sha512,
}

/// Why a chain is not what the records name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DaneError {
    #[error("its certificate matches none of its TLSA records")]
    NoMatch,
    #[error("a TLSA record names an authority of its certificate, but {0}")]
    Authority(String),
    #[error("its certificate cannot be read")]
    Unreadable,
}

impl Dane {
    /// `base`: where the records were found; `names`: further names of the host (RFC 7672 section 3.2.2).
    pub fn new(records: &[TLSA], base: &str, names: &[&str]) -> Self {
        let usable: Vec<Association> = records.iter().filter_map(usable).collect();
        // RFC 7671 section 9: where a stronger digest of the same thing is published, weaker ones are for
        // those who do not know it.
        let outdone = |this: &Association| {
            let stronger = |other: &Association| {
                (other.usage, other.part) == (this.usage, this.part) && other.form > this.form
            };
            this.form != Form::Whole && usable.iter().any(stronger)
        };
        let associations = usable.iter().filter(|this| !outdone(this)).cloned().collect();
        let mut all = vec![base.to_owned()];
        for name in names {
            if !all.iter().any(|known| known == name) {
                all.push((*name).to_owned());
            }
        }
        let records = records.iter().map(ToString::to_string).collect();
        Self { associations, base: base.to_owned(), records, names: all }
    }

    /// The records that were found, those that cannot be used included.
    pub fn records(&self) -> &[String] {
        &self.records
    }

    /// Whether a certificate is asked for at all; else there is encryption and nothing more.
    pub fn authenticates(&self) -> bool {
        !self.associations.is_empty()
    }

    /// Everything that makes a difference, for keys of shared connections.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("dane {:?} {} {:?}", self.associations, self.base, self.names).as_bytes());
        hasher.finalize()
    }

    /// Whether a chain, the server's own certificate first, is one of those that the records name.
    pub fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), DaneError> {
        if self.associations.is_empty() {
            return Ok(());
        }
        let (server, others) = chain.split_first().ok_or(DaneError::Unreadable)?;
        let of = |usage| self.associations.iter().filter(move |this| this.usage == usage);
        if of(Usage::Server).any(|this| this.is(server)) {
            return Ok(());
        }
        let mut refused = None;
        for anchor in
            others.iter().filter(|certificate| of(Usage::Authority).any(|this| this.is(certificate)))
        {
            match self.under(anchor, server, others, now) {
                Ok(()) => return Ok(()),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or(DaneError::NoMatch))
    }

    /// Whether `anchor` leads to the server's certificate, today, for one of the host's names.
    fn under(
        &self,
        anchor: &CertificateDer<'_>,
        server: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), DaneError> {
        let not = |why: String| DaneError::Authority(why);
        let mut roots = RootCertStore::empty();
        roots.add(anchor.clone().into_owned()).map_err(|error| not(format!("it cannot be one: {error}")))?;
        let parsed = ParsedCertificate::try_from(server).map_err(|_| DaneError::Unreadable)?;
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, others, now, algorithms)
            .map_err(|error| not(format!("the chain does not hold: {error}")))?;
        let named = |name: &String| {
            ServerName::try_from(name.as_str()).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
        };
        if self.names.iter().any(named) {
            return Ok(());
        }
        Err(not(format!("the certificate is not for {}", self.names.join(" nor "))))
    }
}

impl Association {
    fn is(&self, certificate: &CertificateDer<'_>) -> bool {
        let Some(part) = self.part.of(certificate) else { return false };
        let digest = |algorithm| aws_lc_rs::digest::digest(algorithm, part);
        match self.form {
            Form::Whole => part == self.data,
            Form::Sha256 => digest(&aws_lc_rs::digest::SHA256).as_ref() == self.data,
            Form::Sha512 => digest(&aws_lc_rs::digest::SHA512).as_ref() == self.data,
        }
    }
}

impl Part {
    fn of<'a>(self, certificate: &'a CertificateDer<'_>) -> Option<&'a [u8]> {
        match self {
            Part::Certificate => Some(certificate.as_ref()),
            Part::Key => {
                let (_, parsed) = X509Certificate::from_der(certificate.as_ref()).ok()?;
                Some(parsed.tbs_certificate.subject_pki.raw)
            }
        }
    }
}

/// A record that SMTP can use: PKIX-TA(0) and PKIX-EE(1) are not (RFC 7672 section 3.1.3), nor is what is
/// unknown or cannot be a digest.
fn usable(record: &TLSA) -> Option<Association> {
    let usage = match record.cert_usage {
        CertUsage::DaneTa => Usage::Authority,
        CertUsage::DaneEe => Usage::Server,
        _ => return None,
    };
    let part = match record.selector {
        Selector::Full => Part::Certificate,
        Selector::Spki => Part::Key,
        _ => return None,
    };
    let (form, length) = match record.matching {
        Matching::Raw => (Form::Whole, record.cert_data.len().max(1)),
        Matching::Sha256 => (Form::Sha256, 32),
        Matching::Sha512 => (Form::Sha512, 64),
        _ => return None,
    };
    let data = record.cert_data.clone();
    (data.len() == length).then_some(Association { usage, part, form, data })
}

#[cfg(test)]
pub(super) mod tests;
