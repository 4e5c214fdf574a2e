//! Certificates of recipients for S/MIME, from PEM bundles to records by e-mail address (spec R105).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use super::order::Pass;
use super::problem::{Findings, Problem};
use super::resources::ObjectKey;
use crate::api::checks;
use crate::api::conditions::Reason;
use crate::api::gateway::{CertificatesFrom, Smime};
use crate::api::refs::{ConfigMapKeyRef, SecretKeyRef};
use crate::bundle::document::SmimeCertificate;
use crate::mail::address::Mailbox;

/// Every certificate that can be read. Where something cannot, those that were published before stay:
/// a mistake in a bundle must not let mail out unencrypted.
pub fn certificates(
    pass: &Pass<'_>,
    smime: Option<&Smime>,
    findings: &mut Findings,
) -> Vec<SmimeCertificate> {
    let Some(Smime { certificates_from }) = smime else { return Vec::new() };
    let mut found = Vec::new();
    let before = findings.problems.len();
    for (at, from) in certificates_from.iter().enumerate() {
        let path = format!("spec.smime.certificatesFrom[{at}]");
        let CertificatesFrom { config_map_ref, secret_ref } = from;
        let one = config_map_ref.is_some() != secret_ref.is_some();
        findings.check(one, &path, &checks::CERTIFICATES_ONE_OF);
        let text = match (config_map_ref, secret_ref) {
            (Some(reference), None) => of_config_map(pass, &path, reference),
            (None, Some(reference)) => of_secret(pass, &path, reference),
            _ => continue,
        };
        if let Some((source, text)) = findings.ok(text) {
            read(&path, &source, &text, &mut found, findings);
        }
    }
    if findings.problems.len() > before {
        found.extend(pass.last_good.iter().flat_map(|last| last.bundle.gateway.smime.iter().cloned()));
    }
    found.sort_by(|a, b| (&a.address, b.not_after, &a.der).cmp(&(&b.address, a.not_after, &b.der)));
    found.dedup();
    found
}

/// Where a bundle comes from, in words, and its text.
type Source = (String, String);

fn of_config_map(pass: &Pass<'_>, path: &str, reference: &ConfigMapKeyRef) -> Result<Source, Problem> {
    let ConfigMapKeyRef { name, key } = reference;
    let namespace = &pass.gateway.namespace;
    let text = super::lists::text(&format!("{path}.configMapRef"), reference, namespace, pass.resources)?;
    Ok((format!("ConfigMap {namespace}/{name}, key {key}"), text.to_owned()))
}

fn of_secret(pass: &Pass<'_>, path: &str, reference: &SecretKeyRef) -> Result<Source, Problem> {
    let SecretKeyRef { name, key } = reference;
    let object = ObjectKey::new(&pass.gateway.namespace, name);
    pass.secret_key(&format!("{path}.secretRef"), &object, key)?;
    let certificates = pass.resources.secrets.get(&object).and_then(|facts| facts.certificates.get(key));
    Ok((format!("Secret {object}, key {key}"), certificates.cloned().unwrap_or_default()))
}

fn read(path: &str, source: &str, text: &str, found: &mut Vec<SmimeCertificate>, findings: &mut Findings) {
    let problem = |message: String| Problem::reference(path, Reason::CertificateInvalid, message);
    let mut count = 0;
    for (at, pem) in Pem::iter_from_buffer(text.as_bytes()).enumerate() {
        let number = at + 1;
        count = number;
        let pem = match pem {
            Ok(pem) => pem,
            Err(error) => {
                findings.push(problem(format!("{source}: certificate {number} is not PEM: {error}")));
                break;
            }
        };
        let certificate = match pem.parse_x509() {
            Ok(certificate) if pem.label == "CERTIFICATE" => certificate,
            Ok(_) => continue,
            Err(error) => {
                findings.push(problem(format!("{source}: certificate {number} cannot be read: {error}")));
                continue;
            }
        };
        let addresses = addresses(&certificate);
        if addresses.is_empty() {
            let message = format!(
                "{source}: certificate {number} ({}) is for no e-mail address, so it is not used",
                certificate.subject()
            );
            findings.push(problem(message).warning());
        }
        let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        let validity = certificate.validity();
        let (Some(not_before), Some(not_after)) = (time(validity.not_before), time(validity.not_after))
        else {
            findings.push(problem(format!("{source}: certificate {number} has no readable validity")));
            continue;
        };
        found.extend(addresses.into_iter().map(|address| SmimeCertificate {
            address,
            der: STANDARD.encode(&pem.contents),
            not_before,
            not_after,
        }));
    }
    if count == 0 {
        findings.push(problem(format!("{source} holds no certificate")));
    }
}

/// The e-mail addresses a certificate is for (RFC 8550 section 3): its subject alternative names, and the
/// old place of an address in the subject where there are none.
fn addresses(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let written: BTreeSet<&str> = names
        .filter_map(|name| match name {
            GeneralName::RFC822Name(address) => Some(*address),
            _ => None,
        })
        .collect();
    let fold = |text: &str| text.parse::<Mailbox>().ok().map(|address| address.folded());
    match written.is_empty() {
        false => written.into_iter().filter_map(fold).collect(),
        true => certificate.subject().iter_email().filter_map(|e| e.as_str().ok()).filter_map(fold).collect(),
    }
}
