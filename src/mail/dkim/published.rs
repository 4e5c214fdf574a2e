//! The public half of a signing key as its record in DNS has it (RFC 6376 section 3.6.1, RFC 8463).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What receivers verify with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// An RSAPublicKey in DER.
    Rsa(Vec<u8>),
    /// 32 octets.
    Ed25519(Vec<u8>),
}

/// What is wrong with a record for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("it holds another key")]
    OtherKey,
    #[error("it revokes the key (p= is empty)")]
    Revoked,
    #[error("it is for another kind of key (k=)")]
    OtherKind,
    #[error("it does not allow SHA-256 (h=)")]
    NoSha256,
    #[error("it is not for e-mail (s=)")]
    NotForMail,
    #[error("it is no DKIM key record")]
    Unreadable,
}

impl PublicKey {
    /// The value of the TXT record to publish.
    pub fn record(&self) -> String {
        match self {
            PublicKey::Rsa(key) => format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(info(key))),
            PublicKey::Ed25519(key) => format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(key)),
        }
    }

    /// Whether receivers that read `record` accept signatures of this key.
    pub fn check(&self, record: &str) -> Result<(), Mismatch> {
        let mut tags = Vec::new();
        for tag in record.split(';').map(str::trim).filter(|tag| !tag.is_empty()) {
            let (name, value) = tag.split_once('=').ok_or(Mismatch::Unreadable)?;
            tags.push((name.trim(), value.trim()));
        }
        let get = |name: &str| tags.iter().find(|(tag, _)| *tag == name).map(|(_, value)| *value);
        let lists = |list: &str, wanted: &str| list.split(':').any(|one| one.trim() == wanted);
        if get("v").is_some_and(|version| version != "DKIM1" || tags[0].0 != "v") {
            return Err(Mismatch::Unreadable);
        }
        let text: String = get("p").ok_or(Mismatch::Unreadable)?.split_ascii_whitespace().collect();
        if text.is_empty() {
            return Err(Mismatch::Revoked);
        }
        let (kind, key) = match self {
            PublicKey::Rsa(key) => ("rsa", key),
            PublicKey::Ed25519(key) => ("ed25519", key),
        };
        if !get("k").unwrap_or("rsa").eq_ignore_ascii_case(kind) {
            return Err(Mismatch::OtherKind);
        }
        if get("h").is_some_and(|hashes| !lists(hashes, "sha256")) {
            return Err(Mismatch::NoSha256);
        }
        if get("s").is_some_and(|services| !lists(services, "*") && !lists(services, "email")) {
            return Err(Mismatch::NotForMail);
        }
        let published = STANDARD.decode(text).map_err(|_| Mismatch::Unreadable)?;
        // RSA keys are published with the algorithm around them or without: receivers read both.
        let same = published == *key || matches!(self, PublicKey::Rsa(key) if published == info(key));
        if same { Ok(()) } else { Err(Mismatch::OtherKey) }
    }

    /// Whether a record says that receivers treat signed mail as unsigned (`t=y`).
    pub fn is_testing(record: &str) -> bool {
        let flags = record.split(';').filter_map(|tag| tag.trim().split_once('='));
        let mut flags = flags.filter(|(name, _)| name.trim() == "t");
        flags.any(|(_, value)| value.split(':').any(|flag| flag.trim() == "y"))
    }
}

/// SubjectPublicKeyInfo of an RSA key, as everybody publishes it.
fn info(key: &[u8]) -> Vec<u8> {
    /// SEQUENCE { rsaEncryption, NULL }
    const ALGORITHM: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let bits = der(0x03, &[&[0], key].concat());
    der(0x30, &[&ALGORITHM[..], &bits].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    if content.len() < 128 {
        out.push(content.len() as u8);
    } else {
        let length = content.len().to_be_bytes();
        let length = &length[length.iter().position(|byte| *byte != 0).unwrap_or(0)..];
        out.push(0x80 | length.len() as u8);
        out.extend_from_slice(length);
    }
    out.extend_from_slice(content);
    out
}
