//! The table of RFC 7672: which record and which chain make which verdict.

use std::time::Duration;

use super::*;
use crate::delivery::authority::tlsa;
use crate::delivery::sink::{Authority, expired};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A TLSA record for a certificate, as an administrator would publish it.
pub fn association(usage: u8, selector: u8, matching: u8, certificate: &CertificateDer<'_>) -> String {
    let part = if selector == 0 { Part::Certificate } else { Part::Key };
    let part = part.of(certificate).unwrap();
    let data = match matching {
        0 => part.to_vec(),
        1 => aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, part).as_ref().to_vec(),
        _ => aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, part).as_ref().to_vec(),
    };
    format!("{usage} {selector} {matching} {}", hex(&data))
}

fn check(records: &[&str], names: &[&str], chain: &[CertificateDer<'_>]) -> Result<(), DaneError> {
    let records: Vec<TLSA> = records.iter().map(|text| tlsa(text)).collect();
    Dane::new(&records, "mx.d.example", names).check(chain, UnixTime::now())
}

#[test]
fn r020_every_usable_form_of_record_fits_its_certificate_and_no_other() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_, chain) = authority.server_with_chain(&["mx.d.example"], |_| {});
    let (_, strange) = other.server_with_chain(&["mx.d.example"], |_| {});
    for selector in [0, 1] {
        for matching in [0, 1, 2] {
            let server = association(3, selector, matching, &chain[0]);
            assert_eq!(check(&[&server], &[], &chain), Ok(()), "{server}");
            assert_eq!(check(&[&server], &[], &strange), Err(DaneError::NoMatch), "{server}");
            let anchor = association(2, selector, matching, &chain[1]);
            assert_eq!(check(&[&anchor], &[], &chain), Ok(()), "{anchor}");
            assert_eq!(check(&[&anchor], &[], &strange), Err(DaneError::NoMatch), "{anchor}");
            // The authority is not sent: nothing to check the record against.
            assert_eq!(check(&[&anchor], &[], &chain[..1]), Err(DaneError::NoMatch), "{anchor}");
        }
    }
    // One that fits is enough; a new certificate is announced beside the old one.
    let (new, old) = (association(3, 1, 1, &chain[0]), association(3, 1, 1, &strange[0]));
    assert_eq!(check(&[&old, &new], &[], &chain), Ok(()));
    assert_eq!(check(&[&new], &[], &[]), Err(DaneError::Unreadable));
}

#[test]
fn r020_names_and_dates_count_under_an_authority_and_not_for_the_certificate_itself() {
    let authority = Authority::new();
    let (_, old) = authority.server_with_chain(&["mx.d.example"], expired);
    let (_, elsewhere) = authority.server_with_chain(&["other.example"], |_| {});
    for chain in [&old, &elsewhere] {
        assert_eq!(check(&[&association(3, 1, 1, &chain[0])], &[], chain), Ok(()));
        let refused = check(&[&association(2, 0, 1, &chain[1])], &[], chain);
        assert!(matches!(refused, Err(DaneError::Authority(_))), "{refused:?}");
    }
    // The domain that the MX records belong to is a name of the host too.
    let (_, domain) = authority.server_with_chain(&["d.example"], |_| {});
    let anchor = association(2, 0, 1, &domain[1]);
    assert_eq!(check(&[&anchor], &["d.example"], &domain), Ok(()));
    assert!(check(&[&anchor], &[], &domain).is_err());
}

#[test]
fn r020_an_authority_that_did_not_sign_the_certificate_proves_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_, chain) = authority.server_with_chain(&["mx.d.example"], |_| {});
    let (_, strange) = other.server_with_chain(&["mx.d.example"], |_| {});
    // Somebody shows the right authority beside a certificate of his own.
    let mixed = [strange[0].clone(), chain[1].clone()];
    let refused = check(&[&association(2, 0, 1, &chain[1])], &[], &mixed);
    assert!(matches!(refused, Err(DaneError::Authority(_))), "{refused:?}");
}

#[test]
fn r020_records_that_smtp_cannot_use_leave_encryption_and_nothing_more() {
    let authority = Authority::new();
    let (_, chain) = authority.server_with_chain(&["mx.d.example"], |_| {});
    let right = association(3, 1, 1, &chain[0]);
    let digest = right.rsplit(' ').next().unwrap();
    for unusable in [
        format!("0 1 1 {digest}"),
        format!("1 1 1 {digest}"),
        format!("4 1 1 {digest}"),
        format!("255 1 1 {digest}"),
        format!("3 2 1 {digest}"),
        format!("3 1 3 {digest}"),
        format!("3 1 2 {digest}"),
        "3 1 1 00".to_owned(),
    ] {
        let dane = Dane::new(&[tlsa(&unusable)], "mx.d.example", &[]);
        assert!(!dane.authenticates(), "{unusable}");
        assert_eq!(dane.check(&chain, UnixTime::now()), Ok(()));
        // Beside one that can be used it counts for nothing.
        let dane = Dane::new(&[tlsa(&unusable), tlsa(&right)], "mx.d.example", &[]);
        assert!(dane.authenticates() && dane.check(&chain, UnixTime::now()).is_ok());
    }
}

#[test]
fn the_strongest_digest_of_a_thing_is_the_one_that_counts() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (_, chain) = authority.server_with_chain(&["mx.d.example"], |_| {});
    let (_, strange) = other.server_with_chain(&["mx.d.example"], |_| {});
    let (weak, strong) = (association(3, 1, 1, &chain[0]), association(3, 1, 2, &strange[0]));
    assert_eq!(check(&[&weak, &strong], &[], &chain), Err(DaneError::NoMatch));
    // Of another part it says nothing.
    assert_eq!(check(&[&association(3, 0, 1, &chain[0]), &strong], &[], &chain), Ok(()));
    // An authority's certificate is valid in its dates only, whatever the digest.
    let later = UnixTime::since_unix_epoch(Duration::from_secs(95_617_584_000));
    let anchor = tlsa(&association(2, 0, 2, &chain[1]));
    assert!(Dane::new(&[anchor], "mx.d.example", &[]).check(&chain, later).is_err());
}
