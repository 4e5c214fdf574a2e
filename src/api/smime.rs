//! Where a gateway has the certificates for S/MIME from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::refs::{ConfigMapKeyRef, DirectoryRef, SecretKeyRef, SecretRef};
use super::schema::{atomic, cel};

/// S/MIME.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Smime {
    /// Certificates of recipients, to encrypt for them. A certificate is for the e-mail addresses among its
    /// subject alternative names; of several, the one that is valid longest is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), transform = atomic)]
    pub certificates_from: Vec<CertificatesFrom>,
    /// Certificates of senders with their keys, to sign for them: RSA of at least 2048 bits, P-256 or P-384.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), transform = atomic)]
    pub signing_from: Vec<SigningFrom>,
    /// Aes256Gcm (AuthEnvelopedData, RFC 8551), or Aes256Cbc for recipients whose programs are older. With CBC a
    /// changed message is not told from the one that was sent.
    #[serde(default)]
    pub cipher: SmimeCipher,
}

/// Exactly one of `configMapRef`, `secretRef` and `directoryRef`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = cel(&[checks::CERTIFICATES_ONE_OF]))]
pub struct CertificatesFrom {
    /// A key of a ConfigMap with certificates in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ConfigMapKeyRef>,
    /// A key of a Secret with certificates in PEM. It is used only if it has the label `postern.dev/use: "true"`, or if
    /// its type is kubernetes.io/tls or kubernetes.io/basic-auth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// The LDAP server of the gateway's Directory, which must say in `ldap.mapping.certificates` where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_ref: Option<DirectoryRef>,
}

/// A sender's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SigningFrom {
    /// A Secret of type kubernetes.io/tls: `tls.crt` begins with the sender's own certificate, which is for the e-mail
    /// addresses among its subject alternative names.
    pub secret_ref: SecretRef,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum SmimeCipher {
    #[default]
    Aes256Gcm,
    Aes256Cbc,
}
