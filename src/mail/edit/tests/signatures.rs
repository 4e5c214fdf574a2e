//! S/MIME signatures, verified by a program that is not ours: `openssl cms` (spec R105, R106).

use std::sync::Arc;

use super::super::*;
use super::bodies::*;
use super::encryption::Keys;

const SENDER: &str = "ani@solarmora.com";

fn sign() -> Edit {
    Edit::SmimeSign { address: SENDER.to_owned() }
}

/// The message with these edits, by a gateway that has this key of the sender.
fn sent(content: &[u8], keys: &Keys, edits: &[Edit]) -> (Vec<u8>, Vec<Note>) {
    let mut signers = Signers::default();
    signers.insert(SENDER.to_owned(), Arc::new(keys.signer().unwrap()));
    let signing = Signing { signers: &signers, now: Timestamp::now() };
    let edited = apply_signed(content, edits, signing).unwrap();
    let notes = edited.notes.clone();
    (edited.into_bytes(), notes)
}

#[test]
fn r105_openssl_verifies_what_was_signed_with_keys_of_each_kind() {
    let entity = multipart("mixed", "mix", &[PLAIN, PDF]);
    for (name, key, micalg) in [
        ("sign-rsa", &["rsa:2048"][..], "sha-256"),
        ("sign-p256", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "sha-256"),
        ("sign-p384", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], "sha-384"),
    ] {
        let keys = Keys::new(name, key, &["-addext", "extendedKeyUsage=emailProtection"]);
        let (out, notes) = sent(&message(&entity), &keys, &[sign()]);
        assert_eq!(notes, []);
        let text = String::from_utf8(out.clone()).unwrap();
        assert!(text.starts_with(FRONT), "{text}");
        let protocol = "multipart/signed; protocol=\"application/pkcs7-signature\"";
        assert!(text.contains(&format!("{protocol};\r\n micalg={micalg}")), "{text}");
        assert_eq!(String::from_utf8(keys.verified(&out)).unwrap(), entity, "{name}");
        assert_eq!(leaves(&out).len(), 3, "text and attachment are seen by everybody, beside the signature");
        // Once is enough.
        assert_eq!(sent(&out, &keys, &[sign()]), (out.clone(), vec![Note::AlreadySigned]));
        // One letter changed on the way is noticed.
        let changed = text.replace("plain text.", "plain test.");
        let verified = std::panic::catch_unwind(|| keys.verified(changed.as_bytes()));
        assert!(verified.is_err(), "{name}");
    }
}

#[test]
fn r106_a_message_is_signed_after_every_other_change_and_then_encrypted() {
    let sender = Keys::new("order-a", &["rsa:2048"], &[]);
    let recipient = Keys::new("order-b", &["rsa:2048"], &[]);
    // Whatever their order in the list.
    let edits = [
        Edit::Smime { certificate: recipient.certificate() },
        sign(),
        Edit::PrefixSubject { text: "P".into() },
        Edit::Footer(Footer { text: "the footer".into(), html: None }),
        Edit::RemoveAttachments(Removal { all: true, ..Removal::default() }),
    ];
    let content = message(&multipart("mixed", "mix", &[PLAIN, PDF]));
    let (out, _) = sent(&content, &sender, &edits);
    assert!(String::from_utf8_lossy(&out).contains("Subject: [P] s"));
    let signed = recipient.decrypted(&out);
    let verified = String::from_utf8(sender.verified(signed.as_bytes())).unwrap();
    assert!(verified.contains("the footer") && !verified.contains("JVBER"), "{verified}");
}

#[test]
fn what_is_signed_has_seven_bits_or_travels_inside_the_signature() {
    let keys = Keys::new("seven", &["rsa:2048"], &[]);
    let eight = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
                 Grüße aus Köln = é\r\n";
    let whole = format!("Content-Transfer-Encoding: 8bit\r\n{}", multipart("mixed", "mix", &[eight, PDF]));
    for entity in [eight.to_owned(), whole, "\r\nno fields, but ümlauts\r\n".to_owned()] {
        let (out, _) = sent(&message(&entity), &keys, &[sign()]);
        let text = String::from_utf8_lossy(&out);
        assert!(out.is_ascii() && text.starts_with(FRONT) && !text.contains("8bit"), "{text}");
        assert!(text.contains("multipart/signed"), "{text}");
        let verified = keys.verified(&out);
        let readers_see = |content: &[u8]| leaves(&[FRONT.as_bytes(), content].concat());
        if entity.starts_with('C') {
            assert_eq!(readers_see(entity.as_bytes()), readers_see(&verified));
        }
    }
    // What must not be encoded is enclosed as it is.
    let inner = format!("Content-Type: message/rfc822\r\n\r\nSubject: x\r\n{eight}");
    let entity = multipart("mixed", "mix", &[PLAIN, &inner]);
    let (out, _) = sent(&message(&entity), &keys, &[sign()]);
    assert!(out.is_ascii() && String::from_utf8_lossy(&out).contains("smime-type=signed-data"));
    assert_eq!(String::from_utf8(keys.verified(&out)).unwrap(), entity);
}

#[test]
fn r105_a_key_that_cannot_sign_is_told_by_its_reason() {
    let why = |keys: &Keys| keys.signer().unwrap_err();
    let usage = ["-addext", "keyUsage=keyEncipherment"];
    assert_eq!(why(&Keys::new("enc-only", &["rsa:2048"], &usage)), SignerError::Usage);
    let web = ["-addext", "extendedKeyUsage=serverAuth"];
    assert_eq!(why(&Keys::new("web-only", &["rsa:2048"], &web)), SignerError::Usage);
    assert_eq!(why(&Keys::new("ed-sign", &["ed25519"], &[])), SignerError::Key);
    let (one, two) = (Keys::new("one", &["rsa:2048"], &[]), Keys::new("two", &["rsa:2048"], &[]));
    assert_eq!(one.signer_with(&two).unwrap_err(), SignerError::OtherKey);
    assert_eq!(Signer::read(b"", b"").unwrap_err(), SignerError::NoCertificate);

    // Without the key it does not leave; who only looks is told.
    let none = Signing { signers: &Signers::default(), now: Timestamp::now() };
    assert_eq!(apply_signed(&message(PLAIN), &[sign()], none), Err(EditError::NoSigningKey));
    assert_eq!(apply_all(&message(PLAIN), &[sign()]).unwrap().notes, [Note::SignedOnItsWay]);
}

#[test]
fn encrypted_mail_is_not_signed() {
    let keys = Keys::new("sealed", &["rsa:2048"], &[]);
    let encrypt = [Edit::Smime { certificate: keys.certificate() }];
    let encrypted = apply_all(&message(PLAIN), &encrypt).unwrap().into_bytes();
    assert_eq!(sent(&encrypted, &keys, &[sign()]), (encrypted.clone(), vec![Note::AlreadySigned]));
}
