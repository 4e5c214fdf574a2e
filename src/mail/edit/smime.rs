//! S/MIME encryption (RFC 8551) for the certificate of a recipient: CMS AuthEnvelopedData with AES-256-GCM
//! (RFC 5083, 5084); the key goes by RSA-OAEP or by an ephemeral ECDH (RFC 5753). For clients of before 2019 there
//! is EnvelopedData with AES-256-CBC, its key by RSA as they know it (PKCS #1 v1.5).

mod sign;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::cipher::{self, DecryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::digest;
use aws_lc_rs::key_wrap::{AES_256, KeyEncryptionKey, KeyWrap};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, Pkcs1PublicEncryptingKey, PublicEncryptingKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cms::cert::IssuerAndSerialNumber;
use cms::cert::x509::Certificate;
use cms::cert::x509::der::asn1::{BitString, ObjectIdentifier, OctetString};
use cms::cert::x509::der::{Any, Decode, Encode};
use cms::cert::x509::ext::pkix::{KeyUsage, KeyUsages};
use cms::cert::x509::spki::AlgorithmIdentifierOwned;
use cms::content_info::CmsVersion;
use cms::enveloped_data::{
    KeyAgreeRecipientIdentifier, KeyAgreeRecipientInfo, KeyTransRecipientInfo, OriginatorIdentifierOrKey,
    OriginatorPublicKey, RecipientEncryptedKey, RecipientIdentifier, RecipientInfo, RecipientInfos,
};
use jiff::Timestamp;

pub(super) use sign::sign;
pub use sign::{Signer, SignerError, Signers};

use super::{head, text};
use crate::mail::edit::tree::Tree;
use crate::mail::message::Message;

const DATA: &str = "1.2.840.113549.1.7.1";
const AUTH_ENVELOPED_DATA: &str = "1.2.840.113549.1.9.16.1.23";
const ENVELOPED_DATA: &str = "1.2.840.113549.1.7.3";
const AES_256_CBC: &str = "2.16.840.1.101.3.4.1.42";
const AES_256_GCM: &str = "2.16.840.1.101.3.4.1.46";
const AES_256_WRAP: &str = "2.16.840.1.101.3.4.1.45";
const RSA: &str = "1.2.840.113549.1.1.1";
const RSA_OAEP: &str = "1.2.840.113549.1.1.7";
const MGF1: &str = "1.2.840.113549.1.1.8";
const SHA_256: &str = "2.16.840.1.101.3.4.2.1";
const EC: &str = "1.2.840.10045.2.1";
const P_256: &str = "1.2.840.10045.3.1.7";
const P_384: &str = "1.3.132.0.34";
/// dhSinglePass-stdDH-sha256kdf-scheme.
const ECDH_SHA256: &str = "1.3.132.1.11.1";

/// How content is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cipher {
    Gcm,
    Cbc,
}

/// Why a certificate cannot be encrypted for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate is not valid at this time")]
    OutOfDate,
    #[error("the certificate is not for encryption")]
    Usage,
    #[error(
        "the certificate's kind of key is not supported (RSA of at least 2048 bits, P-256 and P-384 are)"
    )]
    Key,
    #[error("the encryption failed")]
    Failed,
}

/// Whether mail can be encrypted for this certificate (X.509 in DER, base64) at this time.
pub fn check_certificate(certificate: &str, now: Timestamp) -> Result<(), CertificateError> {
    let certificate = read(certificate)?;
    let validity = &certificate.tbs_certificate.validity;
    let now = u64::try_from(now.as_second()).unwrap_or(0);
    let (from, to) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
    if now < from.as_secs() || now > to.as_secs() {
        return Err(CertificateError::OutOfDate);
    }
    let agreement = match key(&certificate)? {
        Key::Rsa(_) => false,
        Key::Ec { .. } => true,
    };
    if let Ok(Some((_, KeyUsage(usage)))) = certificate.tbs_certificate.get::<KeyUsage>() {
        let wanted = if agreement { KeyUsages::KeyAgreement } else { KeyUsages::KeyEncipherment };
        if !usage.contains(wanted) {
            return Err(CertificateError::Usage);
        }
    }
    Ok(())
}

/// The message encrypted for all `certificates`; `None` when it is encrypted already.
pub(super) fn encrypt(
    head: &[u8],
    rest: &[u8],
    certificates: &[&str],
    cipher: Cipher,
) -> Result<Option<Vec<u8>>, CertificateError> {
    let message = Message::read(head);
    // Its type alone is a claim; whether it is encrypted is told by its content.
    let kind = message.all("content-type").next().map(|field| field.unfolded().to_ascii_lowercase());
    if kind.is_some_and(|kind| kind.contains("pkcs7-mime") || kind.contains("multipart/encrypted"))
        && Tree::read(&[head, rest].concat()).is_encrypted()
    {
        return Ok(None);
    }
    let mut recipients = Vec::new();
    let mut secret = [0u8; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(failed)?;
    for certificate in certificates {
        recipients.push(recipient(&read(certificate)?, &secret, cipher)?);
    }

    let (mut outer, inner) = entity(head, rest);
    let (kind, object) = match cipher {
        Cipher::Gcm => ("authEnveloped-data", auth_enveloped(recipients, &secret, inner)?),
        Cipher::Cbc => ("enveloped-data", enveloped(recipients, &secret, inner)?),
    };
    if !outer.is_empty() && !outer.ends_with(b"\n") {
        outer.extend_from_slice(b"\r\n");
    }
    outer.extend(head::mime_version(&outer));
    outer.extend_from_slice(
        format!(
            "Content-Type: application/pkcs7-mime; smime-type={kind};\r\n name=\"smime.p7m\"\r\n\
             Content-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment; filename=\"smime.p7m\"\r\n\r\n"
        )
        .as_bytes(),
    );
    outer.extend(text::base64_lines(&object));
    Ok(Some(outer))
}

/// The fields of the message as a whole, and the MIME entity with those that describe its content.
fn entity(head: &[u8], rest: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let message = Message::read(head);
    let mut outer = Vec::with_capacity(head.len() + 512);
    let mut inner = Vec::with_capacity(rest.len() + 1024);
    let mut at = 0;
    for field in &message.fields {
        let end = field.offset + field.length;
        let describes = field.name.len() > 8 && field.name.as_bytes()[..8].eq_ignore_ascii_case(b"content-");
        outer.extend_from_slice(&head[at..field.offset]);
        let to = if describes { &mut inner } else { &mut outer };
        to.extend_from_slice(&head[field.offset..end]);
        at = end;
    }
    outer.extend_from_slice(&head[at..]);
    if inner.is_empty() {
        inner.extend_from_slice(b"Content-Type: text/plain\r\n");
        if !rest.is_ascii() {
            inner.extend_from_slice(b"Content-Transfer-Encoding: 8bit\r\n");
        }
    }
    inner.extend_from_slice(if rest.is_empty() { b"\r\n" } else { rest });
    (outer, inner)
}

fn read(certificate: &str) -> Result<Certificate, CertificateError> {
    let text: String = certificate.split_ascii_whitespace().collect();
    let der = STANDARD.decode(text).map_err(|_| CertificateError::Unreadable)?;
    Certificate::from_der(&der).map_err(|_| CertificateError::Unreadable)
}

enum Key {
    Rsa(PublicEncryptingKey),
    Ec { curve: &'static agreement::Algorithm, point: Vec<u8>, parameters: Option<Any> },
}

fn key(certificate: &Certificate) -> Result<Key, CertificateError> {
    let info = &certificate.tbs_certificate.subject_public_key_info;
    let algorithm = info.algorithm.oid;
    if algorithm == oid(RSA) {
        let der = info.to_der().map_err(failed)?;
        let key = PublicEncryptingKey::from_der(&der).map_err(|_| CertificateError::Key)?;
        // Short keys are refused here, whatever the padding will be.
        OaepPublicEncryptingKey::new(key.clone()).map_err(|_| CertificateError::Key)?;
        return Ok(Key::Rsa(key));
    }
    if algorithm != oid(EC) {
        return Err(CertificateError::Key);
    }
    let parameters = info.algorithm.parameters.clone();
    let named = parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    let curve = match named {
        Some(curve) if curve == oid(P_256) => &agreement::ECDH_P256,
        Some(curve) if curve == oid(P_384) => &agreement::ECDH_P384,
        _ => return Err(CertificateError::Key),
    };
    let point = info.subject_public_key.as_bytes().ok_or(CertificateError::Unreadable)?.to_vec();
    Ok(Key::Ec { curve, point, parameters })
}

/// The content's key, readable by one recipient.
fn recipient(
    certificate: &Certificate,
    secret: &[u8; 32],
    cipher: Cipher,
) -> Result<RecipientInfo, CertificateError> {
    let tbs = &certificate.tbs_certificate;
    let name = IssuerAndSerialNumber { issuer: tbs.issuer.clone(), serial_number: tbs.serial_number.clone() };
    match key(certificate)? {
        Key::Rsa(key) => {
            let (algorithm, encrypted) = transported(key, secret, cipher)?;
            Ok(RecipientInfo::Ktri(KeyTransRecipientInfo {
                version: CmsVersion::V0,
                rid: RecipientIdentifier::IssuerAndSerialNumber(name),
                key_enc_alg: algorithm,
                enc_key: OctetString::new(encrypted).map_err(failed)?,
            }))
        }
        Key::Ec { curve, point, parameters } => {
            let own = EphemeralPrivateKey::generate(curve, &SystemRandom::new()).map_err(failed)?;
            let public = own.compute_public_key().map_err(failed)?;
            let wrap = AlgorithmIdentifierOwned { oid: oid(AES_256_WRAP), parameters: None };
            let info = shared_info(&wrap)?;
            let peer = UnparsedPublicKey::new(curve, point);
            let key = agreement::agree_ephemeral(own, peer, CertificateError::Key, |shared| {
                Ok(derived(shared, &info))
            })?;
            let mut wrapped = [0; 40];
            let wrapped = KeyEncryptionKey::new(&AES_256, &key)
                .and_then(|key| key.wrap(secret, &mut wrapped).map(|bytes| bytes.to_vec()))
                .map_err(failed)?;
            let originator = OriginatorPublicKey {
                algorithm: AlgorithmIdentifierOwned { oid: oid(EC), parameters },
                public_key: BitString::from_bytes(public.as_ref()).map_err(failed)?,
            };
            Ok(RecipientInfo::Kari(KeyAgreeRecipientInfo {
                version: CmsVersion::V3,
                originator: OriginatorIdentifierOrKey::OriginatorKey(originator),
                ukm: None,
                key_enc_alg: AlgorithmIdentifierOwned {
                    oid: oid(ECDH_SHA256),
                    parameters: Some(Any::encode_from(&wrap).map_err(failed)?),
                },
                recipient_enc_keys: vec![RecipientEncryptedKey {
                    rid: KeyAgreeRecipientIdentifier::IssuerAndSerialNumber(name),
                    enc_key: OctetString::new(wrapped).map_err(failed)?,
                }],
            }))
        }
    }
}

/// The content's key, encrypted with an RSA key.
fn transported(
    key: PublicEncryptingKey,
    secret: &[u8; 32],
    cipher: Cipher,
) -> Result<(AlgorithmIdentifierOwned, Vec<u8>), CertificateError> {
    match cipher {
        Cipher::Gcm => {
            let key = OaepPublicEncryptingKey::new(key).map_err(failed)?;
            let mut out = vec![0; key.ciphertext_size()];
            let out = key.encrypt(&OAEP_SHA256_MGF1SHA256, secret, &mut out, None).map_err(failed)?.to_vec();
            Ok((oaep()?, out))
        }
        Cipher::Cbc => {
            let key = Pkcs1PublicEncryptingKey::new(key).map_err(failed)?;
            let mut out = vec![0; key.ciphertext_size()];
            let out = key.encrypt(secret, &mut out).map_err(failed)?.to_vec();
            Ok((AlgorithmIdentifierOwned { oid: oid(RSA), parameters: Some(Any::null()) }, out))
        }
    }
}

/// RSAES-OAEP-params with SHA-256 throughout (RFC 4055 section 4.1).
fn oaep() -> Result<AlgorithmIdentifierOwned, CertificateError> {
    let null = [0x05, 0x00];
    let sha = tlv(0x30, &[&oid(SHA_256).to_der().map_err(failed)?, &null[..]].concat());
    let mgf = tlv(0x30, &[oid(MGF1).to_der().map_err(failed)?, sha.clone()].concat());
    let params = tlv(0x30, &[tlv(0xa0, &sha), tlv(0xa1, &mgf)].concat());
    let parameters = Some(Any::from_der(&params).map_err(failed)?);
    Ok(AlgorithmIdentifierOwned { oid: oid(RSA_OAEP), parameters })
}

/// ECC-CMS-SharedInfo (RFC 5753 section 7.2): which key is derived, and its length in bits.
fn shared_info(wrap: &AlgorithmIdentifierOwned) -> Result<Vec<u8>, CertificateError> {
    let wrap = wrap.to_der().map_err(failed)?;
    Ok(tlv(0x30, &[wrap, tlv(0xa2, &tlv(0x04, &256u32.to_be_bytes()))].concat()))
}

/// The key derivation of ANSI X9.63; one block of SHA-256 is all that is needed.
fn derived(shared: &[u8], info: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, &[shared, &1u32.to_be_bytes(), info].concat()).as_ref().to_vec()
}

/// The whole ContentInfo. `content` is encrypted where it stands.
fn auth_enveloped(
    recipients: Vec<RecipientInfo>,
    secret: &[u8; 32],
    mut content: Vec<u8>,
) -> Result<Vec<u8>, CertificateError> {
    let mut nonce = [0u8; 12];
    aws_lc_rs::rand::fill(&mut nonce).map_err(failed)?;
    let key = LessSafeKey::new(UnboundKey::new(&aead::AES_256_GCM, secret).map_err(failed)?);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut content)
        .map_err(failed)?;

    // GCMParameters: the nonce and the length of the tag (RFC 5084 section 3.2).
    let parameters = tlv(0x30, &[tlv(0x04, &nonce), tlv(0x02, &[16])].concat());
    let algorithm = tlv(0x30, &[oid(AES_256_GCM).to_der().map_err(failed)?, parameters].concat());
    let encrypted = tlv(0x80, &content);
    drop(content);
    let info = tlv(0x30, &[oid(DATA).to_der().map_err(failed)?, algorithm, encrypted].concat());
    let recipients = RecipientInfos(recipients.try_into().map_err(failed)?).to_der().map_err(failed)?;
    let version = tlv(0x02, &[0]);
    let enveloped = tlv(0x30, &[version, recipients, info, tlv(0x04, tag.as_ref())].concat());
    let kind = oid(AUTH_ENVELOPED_DATA).to_der().map_err(failed)?;
    Ok(tlv(0x30, &[kind, tlv(0xa0, &enveloped)].concat()))
}

/// The same with AES-256-CBC (RFC 5652 section 6, RFC 3565), which nothing protects against changes on the way.
fn enveloped(
    recipients: Vec<RecipientInfo>,
    secret: &[u8; 32],
    mut content: Vec<u8>,
) -> Result<Vec<u8>, CertificateError> {
    // Version 2 where some key is agreed upon, else 0 (RFC 5652 section 6.1).
    let agreed = recipients.iter().any(|one| matches!(one, RecipientInfo::Kari(_)));
    let key = UnboundCipherKey::new(&cipher::AES_256, secret).map_err(failed)?;
    let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).map_err(failed)?;
    let DecryptionContext::Iv128(start) = key.encrypt(&mut content).map_err(failed)? else {
        return Err(CertificateError::Failed);
    };
    let start: &[u8] = start.as_ref();
    let algorithm = tlv(0x30, &[oid(AES_256_CBC).to_der().map_err(failed)?, tlv(0x04, start)].concat());
    let encrypted = tlv(0x80, &content);
    drop(content);
    let info = tlv(0x30, &[oid(DATA).to_der().map_err(failed)?, algorithm, encrypted].concat());
    let recipients = RecipientInfos(recipients.try_into().map_err(failed)?).to_der().map_err(failed)?;
    let enveloped = tlv(0x30, &[tlv(0x02, &[if agreed { 2 } else { 0 }]), recipients, info].concat());
    let kind = oid(ENVELOPED_DATA).to_der().map_err(failed)?;
    Ok(tlv(0x30, &[kind, tlv(0xa0, &enveloped)].concat()))
}

/// One value in DER.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 10);
    out.push(tag);
    if content.len() < 128 {
        out.push(content.len() as u8);
    } else {
        let length = content.len().to_be_bytes();
        let length = &length[length.iter().position(|b| *b != 0).unwrap_or(0)..];
        out.push(0x80 | length.len() as u8);
        out.extend_from_slice(length);
    }
    out.extend_from_slice(content);
    out
}

fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

fn failed<E>(_: E) -> CertificateError {
    CertificateError::Failed
}
