//! S/MIME signatures (RFC 8551): multipart/signed with a detached CMS SignedData (RFC 5652), so that every client
//! shows the text. What cannot safely be made 7-bit travels inside the signature object instead.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_SHA256,
};
use cms::cert::x509::Certificate;
use cms::cert::x509::der::{Decode, Encode};
use cms::cert::x509::ext::pkix::{ExtendedKeyUsage, KeyUsage, KeyUsages};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::super::surgery::Splices;
use super::super::tree::{Form, Transfer, Tree};
use super::super::{head, text};
use super::{CertificateError, DATA, EC, P_256, P_384, RSA, SHA_256, entity, failed, oid, tlv};
use crate::mail::message::Message;

const SIGNED_DATA: &str = "1.2.840.113549.1.7.2";
const CONTENT_TYPE: &str = "1.2.840.113549.1.9.3";
const MESSAGE_DIGEST: &str = "1.2.840.113549.1.9.4";
const SIGNING_TIME: &str = "1.2.840.113549.1.9.5";
const SHA_384: &str = "2.16.840.1.101.3.4.2.2";
const ECDSA_SHA_256: &str = "1.2.840.10045.4.3.2";
const ECDSA_SHA_384: &str = "1.2.840.10045.4.3.3";
const EMAIL_PROTECTION: &str = "1.3.6.1.5.5.7.3.4";
const ANY_USAGE: &str = "2.5.29.37.0";
/// Shortest RSA key, in octets of its modulus.
const RSA_OCTETS: usize = 256;

/// Why a certificate and its key cannot sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    #[error("it holds no certificate in PEM that can be read")]
    NoCertificate,
    #[error("it holds no private key in PEM")]
    NoKey,
    #[error("the kind of key is not supported (RSA of at least 2048 bits, P-256 and P-384 are)")]
    Key,
    #[error("the key does not belong to the first certificate")]
    OtherKey,
    #[error("the certificate is not for signing e-mail")]
    Usage,
}

/// A certificate of a sender and its key.
pub struct Signer {
    /// The sender's own first, then those that lead to its authority; DER.
    chain: Vec<Vec<u8>>,
    /// IssuerAndSerialNumber.
    name: Vec<u8>,
    key: Key,
}

enum Key {
    Rsa(Box<RsaKeyPair>),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
}

/// Those who sign here, by folded address.
#[derive(Debug, Default)]
pub struct Signers(BTreeMap<String, std::sync::Arc<Signer>>);

impl Signers {
    pub fn insert(&mut self, address: String, signer: std::sync::Arc<Signer>) {
        self.0.insert(address, signer);
    }

    pub fn get(&self, address: &str) -> Option<&Signer> {
        self.0.get(address).map(|signer| &**signer)
    }
}

/// Shows no key.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("hash", &self.key.names().word).finish_non_exhaustive()
    }
}

/// What a kind of key is called in the objects.
struct KeyNames {
    /// The hash, for `micalg`.
    word: &'static str,
    hash: &'static str,
    algorithm: &'static str,
    /// The algorithm has NULL as its parameters.
    null: bool,
}

impl Key {
    fn names(&self) -> KeyNames {
        match self {
            Key::Rsa(_) => KeyNames { word: "sha-256", hash: SHA_256, algorithm: RSA, null: true },
            Key::P256(_) => {
                KeyNames { word: "sha-256", hash: SHA_256, algorithm: ECDSA_SHA_256, null: false }
            }
            Key::P384(_) => {
                KeyNames { word: "sha-384", hash: SHA_384, algorithm: ECDSA_SHA_384, null: false }
            }
        }
    }

    fn digest(&self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Key::Rsa(_) | Key::P256(_) => &digest::SHA256,
            Key::P384(_) => &digest::SHA384,
        };
        digest::digest(algorithm, bytes).as_ref().to_vec()
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, CertificateError> {
        let random = SystemRandom::new();
        match self {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            Key::P256(key) | Key::P384(key) => {
                Ok(key.sign(&random, bytes).map_err(failed)?.as_ref().to_vec())
            }
        }
    }
}

impl Signer {
    /// Reads `tls.crt` and `tls.key` of a Secret. Whether the certificate is valid today is for the caller.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Self, SignerError> {
        let chain: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| SignerError::NoCertificate)?
            .into_iter()
            .map(|der| der.to_vec())
            .collect();
        let first = chain.first().ok_or(SignerError::NoCertificate)?;
        let certificate = Certificate::from_der(first).map_err(|_| SignerError::NoCertificate)?;
        let tbs = &certificate.tbs_certificate;
        let name = [&tbs.issuer.to_der(), &tbs.serial_number.to_der()]
            .into_iter()
            .map(|part| part.clone().map_err(|_| SignerError::NoCertificate))
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| SignerError::NoKey)?;
        let key = read_key(&certificate, &key)?;
        if !signs_mail(&certificate) {
            return Err(SignerError::Usage);
        }
        Ok(Self { name: tlv(0x30, &name.concat()), chain, key })
    }

    /// The ContentInfo of a SignedData over `content`; `enclosed`: which is in it.
    fn signed_data(
        &self,
        content: &[u8],
        enclosed: bool,
        now: Timestamp,
    ) -> Result<Vec<u8>, CertificateError> {
        let KeyNames { word: _, hash, algorithm, null } = self.key.names();
        let der = |text: &str| oid(text).to_der().map_err(failed);
        let null = if null { &[0x05, 0x00][..] } else { &[] };
        let hash = tlv(0x30, &der(hash)?);
        let attribute = |kind: &str, value: Vec<u8>| -> Result<Vec<u8>, CertificateError> {
            Ok(tlv(0x30, &[der(kind)?, tlv(0x31, &value)].concat()))
        };
        let mut attributes = [
            attribute(CONTENT_TYPE, der(DATA)?)?,
            attribute(SIGNING_TIME, time(now))?,
            attribute(MESSAGE_DIGEST, tlv(0x04, &self.key.digest(content)))?,
        ];
        // A SET OF is in the order of its encodings (DER).
        attributes.sort();
        let attributes = attributes.concat();
        // They are signed as the SET they are, and stand there under a tag of their own (RFC 5652 section 5.4).
        let signature = self.key.sign(&tlv(0x31, &attributes))?;
        let signer = [
            tlv(0x02, &[1]),
            self.name.clone(),
            hash.clone(),
            tlv(0xa0, &attributes),
            tlv(0x30, &[&der(algorithm)?[..], null].concat()),
            tlv(0x04, &signature),
        ];
        let mut inside = der(DATA)?;
        if enclosed {
            inside.extend(tlv(0xa0, &tlv(0x04, content)));
        }
        let mut chain = self.chain.clone();
        chain.sort();
        let signed = [
            tlv(0x02, &[1]),
            tlv(0x31, &hash),
            tlv(0x30, &inside),
            tlv(0xa0, &chain.concat()),
            tlv(0x31, &tlv(0x30, &signer.concat())),
        ];
        let signed = tlv(0x30, &signed.concat());
        Ok(tlv(0x30, &[der(SIGNED_DATA)?, tlv(0xa0, &signed)].concat()))
    }
}

fn read_key(certificate: &Certificate, key: &PrivateKeyDer<'_>) -> Result<Key, SignerError> {
    let info = &certificate.tbs_certificate.subject_public_key_info;
    let public = info.subject_public_key.as_bytes().ok_or(SignerError::NoCertificate)?;
    let fits = |own: &[u8]| if own == public { Ok(()) } else { Err(SignerError::OtherKey) };
    let algorithm = info.algorithm.oid;
    if algorithm == oid(RSA) {
        let pair = match key {
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err(SignerError::OtherKey),
        };
        let pair = pair.map_err(|_| SignerError::OtherKey)?;
        if pair.public_modulus_len() < RSA_OCTETS {
            return Err(SignerError::Key);
        }
        fits(pair.public_key().as_ref())?;
        return Ok(Key::Rsa(Box::new(pair)));
    }
    if algorithm != oid(EC) {
        return Err(SignerError::Key);
    }
    let curve = info.algorithm.parameters.as_ref();
    let curve = curve.and_then(|any| any.decode_as::<cms::cert::x509::der::asn1::ObjectIdentifier>().ok());
    let (scheme, wrap): (_, fn(EcdsaKeyPair) -> Key) = match curve {
        Some(curve) if curve == oid(P_256) => (&ECDSA_P256_SHA256_ASN1_SIGNING, Key::P256),
        Some(curve) if curve == oid(P_384) => (&ECDSA_P384_SHA384_ASN1_SIGNING, Key::P384),
        _ => return Err(SignerError::Key),
    };
    let pair = match key {
        PrivateKeyDer::Pkcs8(key) => EcdsaKeyPair::from_pkcs8(scheme, key.secret_pkcs8_der()),
        PrivateKeyDer::Sec1(key) => EcdsaKeyPair::from_private_key_der(scheme, key.secret_sec1_der()),
        _ => return Err(SignerError::OtherKey),
    };
    let pair = pair.map_err(|_| SignerError::OtherKey)?;
    fits(pair.public_key().as_ref())?;
    Ok(wrap(pair))
}

/// RFC 8550 section 4.4: usages that are there must allow it.
fn signs_mail(certificate: &Certificate) -> bool {
    let tbs = &certificate.tbs_certificate;
    let signs = match tbs.get::<KeyUsage>() {
        Ok(Some((_, KeyUsage(usage)))) => {
            usage.contains(KeyUsages::DigitalSignature) || usage.contains(KeyUsages::NonRepudiation)
        }
        _ => true,
    };
    let mail = match tbs.get::<ExtendedKeyUsage>() {
        Ok(Some((_, ExtendedKeyUsage(usages)))) => {
            usages.iter().any(|usage| *usage == oid(EMAIL_PROTECTION) || *usage == oid(ANY_USAGE))
        }
        _ => true,
    };
    signs && mail
}

/// UTCTime, from 2050 on GeneralizedTime (RFC 5652 section 11.3).
fn time(now: Timestamp) -> Vec<u8> {
    let now = now.to_zoned(TimeZone::UTC);
    match now.year() {
        1950..=2049 => tlv(0x17, now.strftime("%y%m%d%H%M%SZ").to_string().as_bytes()),
        _ => tlv(0x18, now.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes()),
    }
}

/// The message signed; `None` when it is signed or encrypted already.
pub(in crate::mail::edit) fn sign(
    head: &[u8],
    rest: &[u8],
    signer: &Signer,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, CertificateError> {
    let (mut outer, inner) = entity(head, rest);
    let inner = with_crlf(inner);
    let tree = Tree::read(&inner);
    let sealed = tree.signature(0).is_some() || tree.cms(0).is_some() || tree.is_encrypted();
    if sealed {
        return Ok(None);
    }
    if !outer.is_empty() && !outer.ends_with(b"\n") {
        outer.extend_from_slice(b"\r\n");
    }
    outer.extend(head::mime_version(&outer));
    let Some(inner) = seven_bit(&tree) else {
        let object = signer.signed_data(&inner, true, now)?;
        outer.extend_from_slice(
            b"Content-Type: application/pkcs7-mime; smime-type=signed-data;\r\n name=\"smime.p7m\"\r\n\
              Content-Transfer-Encoding: base64\r\n\
              Content-Disposition: attachment; filename=\"smime.p7m\"\r\n\r\n",
        );
        outer.extend(text::base64_lines(&object));
        return Ok(Some(outer));
    };
    let object = signer.signed_data(&inner, false, now)?;
    let boundary = text::boundary(&inner, "signed");
    let micalg = signer.key.names().word;
    outer.extend_from_slice(
        format!(
            "Content-Type: multipart/signed; protocol=\"application/pkcs7-signature\";\r\n micalg={micalg}; \
             boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\n"
        )
        .as_bytes(),
    );
    outer.extend_from_slice(&inner);
    outer.extend_from_slice(
        format!(
            "\r\n--{boundary}\r\nContent-Type: application/pkcs7-signature; name=\"smime.p7s\"\r\n\
             Content-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment; filename=\"smime.p7s\"\r\n\r\n"
        )
        .as_bytes(),
    );
    outer.extend(text::base64_lines(&object));
    outer.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Ok(Some(outer))
}

/// Line ends as they are signed (RFC 8551 section 3.1.1).
fn with_crlf(entity: Vec<u8>) -> Vec<u8> {
    let bare = |(at, byte): (usize, &u8)| *byte == b'\n' && (at == 0 || entity[at - 1] != b'\r');
    if !entity.iter().enumerate().any(bare) {
        return entity;
    }
    let mut out = Vec::with_capacity(entity.len() + entity.len() / 32);
    for (at, &byte) in entity.iter().enumerate() {
        if byte == b'\n' && (at == 0 || entity[at - 1] != b'\r') {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}

/// The entity with every part in 7 bits, so that no relay has a reason to change it (RFC 8551 section 3.1.3);
/// `None` if that cannot be done without doubt.
fn seven_bit(tree: &Tree<'_>) -> Option<Vec<u8>> {
    let safe = |bytes: &[u8]| bytes.is_ascii() && !bytes.contains(&0) && text::has_short_lines(bytes);
    if safe(tree.bytes) {
        return Some(tree.bytes.to_vec());
    }
    if tree.doubt.is_some() {
        return None;
    }
    let mut splices = Splices::default();
    for (at, part) in tree.parts.iter().enumerate() {
        let body = tree.raw_body(at);
        match part.form {
            // A message inside must not be encoded (RFC 2046 section 5.2.1), so what is in it would have to change.
            Form::Message if !safe(body) => return None,
            Form::Message => {}
            Form::Multipart => {
                if part.transfer == Transfer::EightBit {
                    declare(tree, at, "7bit", &mut splices);
                }
            }
            Form::Leaf if safe(body) => {}
            Form::Leaf if inside_message(tree, at) => return None,
            Form::Leaf if part.transfer.is_identity() => {
                let plain = part.media.main_type() == "text" && !body.contains(&0);
                let (name, encoded) = match plain {
                    true => ("quoted-printable", text::quoted_printable(body)),
                    false => ("base64", text::base64_lines(body)),
                };
                declare(tree, at, name, &mut splices);
                splices.replace(part.body..part.span.end, encoded);
            }
            Form::Leaf => return None,
        }
    }
    let out = splices.apply(tree.bytes);
    // Header fields of parts, preambles and epilogues may be 8-bit too.
    safe(&out).then_some(out)
}

fn inside_message(tree: &Tree<'_>, part: usize) -> bool {
    std::iter::successors(tree.parts[part].parent, |at| tree.parts[*at].parent)
        .any(|at| tree.parts[at].form == Form::Message)
}

/// Says how the body of a part is encoded.
fn declare(tree: &Tree<'_>, part: usize, name: &str, splices: &mut Splices) {
    let this = &tree.parts[part];
    let field = format!("Content-Transfer-Encoding: {name}\r\n");
    let header = &tree.bytes[this.span.start..this.body];
    let mut known = Message::read(header)
        .all("content-transfer-encoding")
        .map(|field| {
            let at = this.span.start + field.offset;
            at..at + field.length
        })
        .collect::<Vec<_>>()
        .into_iter();
    match known.next() {
        Some(range) => splices.replace(range, field),
        None => splices.replace(this.span.start..this.span.start, field),
    }
    for range in known {
        splices.replace(range, []);
    }
}
