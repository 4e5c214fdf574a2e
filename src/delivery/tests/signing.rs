//! Which messages are signed, and by which key.

use std::sync::Arc;

use jiff::Timestamp;
use rcgen::KeyPair;

use super::*;
use crate::bundle::document::DkimKey;
use crate::delivery::edits::{Room, prepare};
use crate::mail::edit::Edit;
use crate::spool::{Content, QueueId};

fn key_file(key: &str) -> Material {
    Material { kind: MaterialKind::Secret, namespace: "mail".into(), name: "dkim".into(), key: key.into() }
}

/// A table with a key for each `domain selector`; the file `bad` holds no key and `gone` is not there.
fn table_signing_for(keys: &[(&str, &str)]) -> Arc<RouteTable> {
    let mut materials = Materials::default();
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    materials.insert(key_file("good"), key.into_bytes());
    materials.insert(key_file("bad"), b"no key".to_vec());
    let of = |(domain, selector): &(&str, &str)| DkimKey {
        domain: domain.parse().unwrap(),
        selector: (*selector).to_owned(),
        key: key_file(if matches!(*selector, "bad" | "gone") { selector } else { "good" }),
    };
    let gateway = Gateway { dkim: keys.iter().map(of).collect(), ..gateway() };
    Arc::new(RouteTable::build(&Bundle::new(gateway), &materials, &Own::default()))
}

/// Domain and selector of each signature.
fn signed_by(table: &RouteTable, head: &str) -> Vec<String> {
    let fields = table.signers.sign(head.as_bytes(), b"\r\nbody\r\n", Timestamp::UNIX_EPOCH);
    let text = String::from_utf8(fields).unwrap();
    let tag = |field: &str, name: &str| {
        let value = field.split(&format!(" {name}=")).nth(1).unwrap();
        value.split(';').next().unwrap().to_owned()
    };
    text.split("DKIM-Signature:")
        .skip(1)
        .map(|field| format!("{} {}", tag(field, "d"), tag(field, "s")))
        .collect()
}

#[test]
fn the_keys_of_the_best_fitting_domain_of_from_sign() {
    let table = table_signing_for(&[
        ("solarmora.com", "s1"),
        ("solarmora.com", "s2"),
        ("mail.solarmora.com", "m"),
        ("bücher.example", "b"),
        ("broken.example", "bad"),
        ("broken.example", "gone"),
        ("broken.example", "good"),
    ]);
    for (from, expected) in [
        ("From: ani@solarmora.com\r\n", &["solarmora.com s1", "solarmora.com s2"][..]),
        ("From: Ani <ani@Sub.Solarmora.COM>\r\n", &["solarmora.com s1", "solarmora.com s2"]),
        ("From: ani@mail.solarmora.com\r\n", &["mail.solarmora.com m"]),
        ("From: ani@deep.mail.solarmora.com\r\n", &["mail.solarmora.com m"]),
        ("From: ani@b\u{fc}cher.example\r\n", &["xn--bcher-kva.example b"]),
        ("From: ani@broken.example\r\n", &["broken.example good"]),
        ("From: ani@notsolarmora.com\r\n", &[]),
        ("From: ani@solarmora.com\r\nFrom: eve@evil.example\r\n", &[]),
        ("From: nobody\r\n", &[]),
        ("Subject: x\r\n", &[]),
    ] {
        assert_eq!(signed_by(&table, from), expected, "{from}");
    }
    assert!(signed_by(&table_signing_for(&[]), "From: ani@solarmora.com\r\n").is_empty());
}

#[tokio::test]
async fn the_signature_stands_below_our_received_field_and_nothing_else_changes() {
    let table = table_signing_for(&[("solarmora.com", "s1")]);
    let room = Room::new(1 << 30);
    let id: QueueId = "0000000000000000000001".parse().unwrap();
    for body in ["body\r\n".to_owned(), "a line of a large body\r\n".repeat(50_000)] {
        let stored = format!("Received: from us\r\nFrom: a@solarmora.com\r\n\r\n{body}");
        let content = Content::from(stored.clone().into_bytes());
        let edits: Arc<[Edit]> = Arc::from([Edit::AddHeader { name: "X-New".into(), value: "1".into() }]);
        for (edits, signing, added) in [
            (Arc::from([]), None, ""),
            (Arc::clone(&edits), None, "X-New: 1\r\n"),
            (Arc::from([]), Some(&table), "DKIM"),
            (edits, Some(&table), "DKIM"),
        ] {
            let mut prepared = prepare(&room, id, &content, &edits, &table).await.unwrap();
            if let Some(table) = signing {
                prepared = prepared.signed(table, &content).await;
            }
            let sent =
                String::from_utf8([prepared.message.head(), prepared.message.rest()].concat()).unwrap();
            let (ours, from) = sent.split_once("From: a@").unwrap();
            assert_eq!(format!("From: a@{from}"), stored[stored.find("From").unwrap()..]);
            assert!(ours.starts_with(&format!("Received: from us\r\n{added}")), "{ours}");
            assert_eq!(ours.matches("DKIM-Signature: ").count(), usize::from(signing.is_some()));
        }
    }
}
