//! When the certificates that clients see expire: for whoever must renew them, not for any decision.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// When the leaf of this chain, in PEM, expires, in seconds since 1970.
pub fn of(chain: &[u8]) -> Option<i64> {
    let leaf = CertificateDer::pem_slice_iter(chain).next()?.ok()?;
    let (_, readable) = x509_parser::parse_x509_certificate(&leaf).ok()?;
    Some(readable.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leafs_end_counts_and_what_is_no_certificate_has_none() {
        let mut parameters = rcgen::CertificateParams::new(vec!["gw.example".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2031, 5, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = parameters.self_signed(&key).unwrap().pem();
        parameters.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let upper = parameters.self_signed(&key).unwrap().pem();
        let end = rcgen::date_time_ymd(2031, 5, 1).unix_timestamp();
        assert_eq!(of((leaf + &upper).as_bytes()), Some(end));
        assert_eq!(of(b"nothing"), None);
    }
}
