//! S/MIME, read back by a program that is not ours: `openssl cms` (spec R103, R105).

use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::*;
use super::bodies::*;

pub struct Keys {
    folder: PathBuf,
}

impl Keys {
    pub fn new(name: &str, key: &[&str], extra: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("postern-smime-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let keys = Self { folder };
        let (private, certificate) = (keys.path("key.pem"), keys.path("cert.pem"));
        let mut options =
            vec!["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=b@partner.example", "-newkey"];
        options.extend(key);
        options.extend(["-keyout", &private, "-out", &certificate]);
        options.extend(extra);
        keys.openssl(&options);
        keys
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn openssl(&self, options: &[&str]) -> Vec<u8> {
        let output = Command::new("openssl").args(options).stdin(Stdio::null()).output();
        let output = output.expect("openssl is installed (apt-get install openssl)");
        assert!(output.status.success(), "openssl {options:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The certificate as the bundle has it.
    pub fn certificate(&self) -> String {
        STANDARD.encode(self.openssl(&["x509", "-in", &self.path("cert.pem"), "-outform", "DER"]))
    }

    /// As a signer.
    pub fn signer(&self) -> Result<Signer, SignerError> {
        self.signer_with(self)
    }

    /// The certificate with somebody else's key.
    pub fn signer_with(&self, other: &Keys) -> Result<Signer, SignerError> {
        let read = |path: String| std::fs::read(path).unwrap();
        Signer::read(&read(self.path("cert.pem")), &read(other.path("key.pem")))
    }

    /// The content of a signed message, if its signature is that of the certificate.
    pub fn verified(&self, message: &[u8]) -> Vec<u8> {
        let file = self.path("signed.eml");
        std::fs::write(&file, message).unwrap();
        let certificate = self.path("cert.pem");
        let options = ["cms", "-verify", "-inform", "SMIME", "-in", &file, "-CAfile", &certificate];
        self.openssl(&options)
    }

    /// Fields and body of a message that is signed as a whole.
    pub fn signed(&self, entity: &str) -> Vec<u8> {
        let file = self.path("entity");
        std::fs::write(&file, entity).unwrap();
        let (key, certificate) = (self.path("key.pem"), self.path("cert.pem"));
        let out = self.openssl(&[
            "cms",
            "-sign",
            "-nodetach",
            "-binary",
            "-stream",
            "-crlfeol",
            "-in",
            &file,
            "-inkey",
            &key,
            "-signer",
            &certificate,
        ]);
        String::from_utf8(out).unwrap().replace("\r\n", "\n").replace('\n', "\r\n").into_bytes()
    }

    pub fn decrypted(&self, message: &[u8]) -> String {
        let file = self.path("mail.eml");
        std::fs::write(&file, message).unwrap();
        let out = self.openssl(&[
            "cms",
            "-decrypt",
            "-inform",
            "SMIME",
            "-in",
            &file,
            "-inkey",
            &self.path("key.pem"),
            "-recip",
            &self.path("cert.pem"),
        ]);
        String::from_utf8(out).unwrap()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

fn smime(certificate: String) -> Edit {
    Edit::Smime { certificate }
}

#[test]
fn r103_r105_openssl_reads_what_was_encrypted_for_keys_of_each_kind() {
    let content = message(&multipart("mixed", "mix", &[PLAIN, PDF]));
    for (name, key) in [
        ("rsa2048", &["rsa:2048"][..]),
        ("rsa3072", &["rsa:3072"]),
        ("p256", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        ("p384", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
    ] {
        let keys = Keys::new(name, key, &[]);
        let certificate = keys.certificate();
        assert_eq!(check_certificate(&certificate, jiff::Timestamp::now()), Ok(()));
        let edits = [smime(certificate.clone())];
        let out = apply_all(&content, &edits).unwrap().into_bytes();
        let text = String::from_utf8(out.clone()).unwrap();
        assert!(text.starts_with(FRONT), "fields that do not describe the content stay: {text}");
        assert!(text.contains("application/pkcs7-mime; smime-type=authEnveloped-data"), "{text}");
        assert!(!text.contains("plain text") && !text.contains("JVBER"), "{text}");
        assert_eq!(keys.decrypted(&out), multipart("mixed", "mix", &[PLAIN, PDF]), "{name}");
        // The fallback for older programs.
        let older = [Edit::SmimeCbc { certificate: certificate.clone() }];
        let older = apply_all(&content, &older).unwrap().into_bytes();
        assert!(String::from_utf8_lossy(&older).contains("smime-type=enveloped-data"));
        assert_eq!(keys.decrypted(&older), multipart("mixed", "mix", &[PLAIN, PDF]), "{name}");
        // R103: what is encrypted is not encrypted again.
        let again = apply_all(&out, &edits).unwrap();
        assert_eq!(again.notes, [Note::AlreadyEncrypted]);
        assert_eq!(again.into_bytes(), out);
    }
}

#[test]
fn r103_a_message_without_mime_is_encrypted_with_its_8_bit_text() {
    let keys = Keys::new("bare", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], &[]);
    let content = "From: a@b.example\r\nSubject: s\r\n\r\nGrüße\r\n".as_bytes();
    let out = apply_all(content, &[smime(keys.certificate())]).unwrap().into_bytes();
    assert_eq!(String::from_utf8_lossy(&out).matches("MIME-Version: 1.0").count(), 1);
    let expected = "Content-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n";
    assert_eq!(keys.decrypted(&out), expected);
}

#[test]
fn r103_what_only_claims_to_be_encrypted_is_encrypted() {
    let keys = Keys::new("claim", &["rsa:2048"], &[]);
    let claim = "Content-Type: application/pkcs7-mime; smime-type=enveloped-data\r\n\r\nplain words\r\n";
    let out = apply_all(&message(claim), &[smime(keys.certificate())]).unwrap().into_bytes();
    assert!(!String::from_utf8_lossy(&out).contains("plain words"));
    assert_eq!(keys.decrypted(&out), claim);
}

#[test]
fn r105_a_certificate_that_cannot_be_used_is_told_by_its_reason_and_never_sent_around() {
    let signing = Keys::new("usage", &["rsa:2048"], &["-addext", "keyUsage=digitalSignature"]);
    let ed25519 = Keys::new("ed25519", &["ed25519"], &[]);
    let now = jiff::Timestamp::now();
    assert_eq!(check_certificate(&signing.certificate(), now), Err(CertificateError::Usage));
    let later = jiff::Timestamp::from_second(now.as_second() + 10 * 86_400).unwrap();
    assert_eq!(check_certificate(&signing.certificate(), later), Err(CertificateError::OutOfDate));
    assert_eq!(check_certificate(&ed25519.certificate(), now), Err(CertificateError::Key));
    assert_eq!(check_certificate("bm8=", now), Err(CertificateError::Unreadable));
    assert_eq!(check_certificate("?", now), Err(CertificateError::Unreadable));
    for certificate in [ed25519.certificate(), "bm8=".to_owned()] {
        assert!(matches!(apply_all(&message(PLAIN), &[smime(certificate)]), Err(EditError::Certificate(_))));
    }
}
