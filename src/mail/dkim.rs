//! DKIM signatures as values (RFC 6376, RFC 8463): keys as their owners store them, and the field that a
//! message gets. Which message gets one is for delivery to say; verifying asks DNS and is done by the gateway.

pub mod canonical;
mod published;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use mail_auth::common::crypto::{self, Ed25519Key, HashAlgorithm, RsaKey, SigningKey as _};
use mail_auth::common::headers::{Writable, Writer};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

pub use self::published::{Mismatch, PublicKey};

use self::canonical::Form;
use crate::mail::address::Domain;

/// Fields that a signature is about. A field that comes twice is signed twice.
const SIGNED: [&str; 16] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Id",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];
/// Of these, one more than there is must not be added on the way (RFC 6376 section 8.15). The others may be
/// added where there was none.
const NEVER_ADDED: [&str; 5] = ["From", "Reply-To", "To", "Cc", "Subject"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it holds no private key in PEM (PKCS#1 or PKCS#8)")]
    NoPem,
    #[error("it is neither an RSA key of 2048 to 8192 bits nor an Ed25519 key: {0}")]
    Unsupported(String),
}

/// A private key that signs.
pub struct Key(crypto::DkimKey);

impl Key {
    /// Reads the first private key of a PEM file.
    pub fn read(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::NoPem)?;
        let ed25519 = match &der {
            PrivateKeyDer::Pkcs8(pkcs8) => {
                // OpenSSL leaves the public half out.
                Ed25519Key::from_pkcs8_maybe_unchecked_der(pkcs8.secret_pkcs8_der()).ok()
            }
            _ => None,
        };
        match ed25519 {
            Some(key) => Ok(Self(key.into())),
            None => RsaKey::from_key_der(der)
                .map(|key| Self(key.into()))
                .map_err(|error| KeyError::Unsupported(error.to_string())),
        }
    }

    /// What receivers verify its signatures with.
    pub fn public(&self) -> PublicKey {
        match &self.0 {
            crypto::DkimKey::Rsa(key) => PublicKey::Rsa(key.public_key()),
            crypto::DkimKey::Ed25519(key) => PublicKey::Ed25519(key.public_key()),
        }
    }

    fn algorithm(&self) -> &'static str {
        match &self.0 {
            crypto::DkimKey::Rsa(_) => "rsa-sha256",
            crypto::DkimKey::Ed25519(_) => "ed25519-sha256",
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.algorithm())
    }
}

/// A key and the name it is published under.
#[derive(Debug)]
pub struct Signer {
    pub domain: Domain,
    pub selector: String,
    pub key: Key,
}

impl Signer {
    /// The DKIM-Signature field, with its line end, of the message with this header section and
    /// [`body_hash`]; relaxed/relaxed, over the whole body. `None` only if the key cannot be used.
    pub fn sign(&self, head: &[u8], body_hash: &[u8], now: Timestamp) -> Option<String> {
        let fields = canonical::fields(head);
        let (names, mut signed) = header_hash_input(&fields);
        let mut field = format!(
            "DKIM-Signature: v=1; a={}; c=relaxed/relaxed; d={}; s={}; t={};\r\n\th=",
            self.key.algorithm(),
            self.domain.ascii(),
            self.selector,
            now.as_second().max(0),
        );
        fold(&mut field, names.split_inclusive(':'));
        let _ = write!(field, ";\r\n\tbh={};\r\n\tb=", STANDARD.encode(body_hash));
        canonical::relaxed_field(field.as_bytes(), &mut signed);
        // The signature's own field comes last, without a line end.
        signed.truncate(signed.len() - 2);
        let signature = STANDARD.encode(self.key.0.sign(&signed[..]).ok()?);
        let pieces: Vec<&str> =
            (0..signature.len()).step_by(72).map(|at| &signature[at..signature.len().min(at + 72)]).collect();
        field += &pieces.join("\r\n\t");
        field += "\r\n";
        Some(field)
    }
}

/// SHA-256 of the canonical form of a body, which begins after the empty line.
pub fn body_hash(form: Form, body: &[u8]) -> Vec<u8> {
    struct Body<'a>(Form, &'a [u8]);
    impl Writable for Body<'_> {
        fn write(self, writer: &mut impl Writer) {
            canonical::body(self.0, self.1, |piece| writer.write(piece));
        }
    }
    HashAlgorithm::Sha256.hash(Body(form, body)).as_ref().to_vec()
}

/// The value of `h=` and the canonical fields it names, in its order.
fn header_hash_input(fields: &[&[u8]]) -> (String, Vec<u8>) {
    let mut names: Vec<&str> = Vec::new();
    let mut signed = Vec::new();
    for name in SIGNED {
        let mut count = 0;
        // A verifier looks from the bottom up (RFC 6376 section 5.4.2).
        for field in fields.iter().rev().filter(|field| canonical::is_named(field, name)) {
            canonical::relaxed_field(field, &mut signed);
            count += 1;
        }
        let more = usize::from(count > 0 || NEVER_ADDED.contains(&name));
        names.extend(std::iter::repeat_n(name, count + more));
    }
    (names.join(":"), signed)
}

/// Appends `pieces`, a fold before each that would pass the wanted width.
fn fold<'a>(field: &mut String, pieces: impl Iterator<Item = &'a str>) {
    let mut width = 3;
    for piece in pieces {
        if width + piece.len() > 76 {
            field.push_str("\r\n\t");
            width = 1;
        }
        field.push_str(piece);
        width += piece.len();
    }
}
