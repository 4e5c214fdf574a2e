//! Signatures as other software sees them: dkimpy verifies what is signed here.

use std::io::Write as _;
use std::process::{Command, Stdio};

use mail_auth::common::crypto::Ed25519Key;
use rcgen::{KeyPair, PublicKeyData as _};

use super::*;

const HEAD: &str = "Received: from c.example\r\n\tby gw\r\nFrom: =?utf-8?q?=C3=84ni?= <ani@solarmora.example>\r\n\
                    To: b@partner.example,\r\n\tc@partner.example\r\nSubject:  Laporan\r\n \tbulanan  \r\n\
                    Subject: again\r\nMIME-Version: 1.0\r\nX-Other: x\r\n";

fn pem(tag: &str, der: &[u8]) -> Vec<u8> {
    format!("-----BEGIN {tag}-----\n{}\n-----END {tag}-----\n", STANDARD.encode(der)).into_bytes()
}

/// An RSA and an Ed25519 key, and the DNS records of both.
fn signers() -> ([Signer; 2], String) {
    let pair = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let pkcs8 = Ed25519Key::generate_pkcs8().unwrap();
    let public = Ed25519Key::from_pkcs8_der(&pkcs8).unwrap().public_key();
    let signer = |selector: &str, pem: &[u8]| Signer {
        domain: Domain::parse("solarmora.example").unwrap(),
        selector: selector.to_owned(),
        key: Key::read(pem).unwrap(),
    };
    let records = format!(
        "r._domainkey.solarmora.example. v=DKIM1; k=rsa; p={}\n\
         e._domainkey.solarmora.example. v=DKIM1; k=ed25519; p={}\n",
        STANDARD.encode(pair.subject_public_key_info()),
        STANDARD.encode(public)
    );
    ([signer("r", pair.serialize_pem().as_bytes()), signer("e", &pem("PRIVATE KEY", &pkcs8))], records)
}

/// What dkimpy says of each signature.
fn verified(records: &str, message: &[u8]) -> Vec<String> {
    let folder = std::env::temp_dir().join(format!("postern-dkim-{}", rand::random::<u64>()));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("records");
    std::fs::write(&file, records).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/signature.py");
    let mut child = Command::new("/usr/bin/python3")
        .args([script, "check"])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's python3 is there: run `make deps`");
    child.stdin.take().unwrap().write_all(message).unwrap();
    let output = child.wait_with_output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success(), "dkimpy, of Debian's python3-dkim (`make deps`), failed");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn signed(signers: &[Signer], head: &str, body: &str) -> Vec<u8> {
    let hash = body_hash(Form::Relaxed, body.as_bytes());
    let field = |signer: &Signer| signer.sign(head.as_bytes(), &hash, Timestamp::now()).unwrap();
    let fields: String = signers.iter().map(field).collect();
    format!("{fields}{head}\r\n{body}").into_bytes()
}

#[test]
fn other_software_verifies_rsa_and_ed25519_signatures() {
    let (signers, records) = signers();
    let good = ["solarmora.example rsa-sha256 good", "solarmora.example ed25519-sha256 good"];
    for body in ["", "body\r\n", "a  b\t\r\n\r\n \t\r\n", "no end", "\r\n\r\nx\r\n"] {
        let message = signed(&signers, HEAD, body);
        assert_eq!(verified(&records, &message), good, "{body:?}\n{}", String::from_utf8_lossy(&message));
    }
}

#[test]
fn what_was_signed_cannot_be_changed_or_added_to_and_the_rest_can() {
    let (signers, records) = signers();
    let text = String::from_utf8(signed(&signers[1..], HEAD, "body\r\n")).unwrap();
    let holds =
        |changed: &str| verified(&records, changed.as_bytes()) == ["solarmora.example ed25519-sha256 good"];
    assert!(holds(&text));
    assert!(holds(&format!("X-New: x\r\nReceived: from relay\r\n{text}")));
    for changed in [
        text.replace("body", "evil"),
        text.replace("again", "evil"),
        text.replace("ani@", "eve@"),
        format!("Subject: evil\r\n{text}"),
        format!("From: eve@evil.example\r\n{text}"),
        format!("Cc: eve@evil.example\r\n{text}"),
        format!("Reply-To: eve@evil.example\r\n{text}"),
        format!("Content-Type: text/plain\r\n{text}").replace("MIME-Version: 1.0", "MIME-Version: 1.1"),
    ] {
        assert!(!holds(&changed), "{changed}");
    }
}

#[test]
fn the_lines_of_a_signature_stay_short_enough_for_every_relay() {
    let (signers, _) = signers();
    let text = String::from_utf8(signed(&signers, HEAD, "x")).unwrap();
    let longest = text.lines().map(str::len).max().unwrap();
    assert!(longest <= 100, "{text}");
}

#[test]
fn keys_are_read_in_every_form_openssl_writes() {
    let openssl = |arguments: &[&str], input: &[u8]| {
        let mut child = Command::new("openssl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is there: run `make deps`");
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    let rsa = openssl(&["genrsa", "2048"], b"");
    let read = |pem: &[u8]| Key::read(pem).map(|key| key.algorithm());
    assert_eq!(read(&rsa), Ok("rsa-sha256"));
    assert_eq!(read(&openssl(&["rsa", "-traditional"], &rsa)), Ok("rsa-sha256"));
    assert_eq!(read(&openssl(&["genpkey", "-algorithm", "ed25519"], b"")), Ok("ed25519-sha256"));

    assert_eq!(read(b""), Err(KeyError::NoPem));
    assert_eq!(read(&openssl(&["rsa", "-pubout"], &rsa)), Err(KeyError::NoPem));
    for other in [
        openssl(&["genrsa", "1024"], b""),
        openssl(&["ecparam", "-genkey", "-name", "prime256v1", "-noout"], b""),
    ] {
        assert!(matches!(read(&other), Err(KeyError::Unsupported(_))), "{:?}", read(&other));
    }
}
