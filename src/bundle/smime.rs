//! Records of S/MIME: certificates of recipients, and of senders whose keys sign.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::Certificate;

/// A recipient's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmimeCertificate {
    /// Folded, as [`Mailbox::folded`](crate::mail::address::Mailbox::folded) gives it.
    pub address: String,
    /// X.509 in DER, base64.
    pub der: String,
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub not_before: Timestamp,
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub not_after: Timestamp,
}

/// A sender's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmimeSigner {
    /// Folded.
    pub addresses: Vec<String>,
    pub certificate: Certificate,
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub not_before: Timestamp,
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub not_after: Timestamp,
}

/// How content is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SmimeCipher {
    #[default]
    Aes256Gcm,
    Aes256Cbc,
}
