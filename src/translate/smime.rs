//! Certificates for S/MIME (spec R105): of recipients, from PEM bundles and LDAP to records by e-mail address, and of
//! senders, whose keys sign.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::order::Pass;
use super::problem::{Findings, Problem};
use super::resources::{ObjectKey, key};
use crate::api::checks;
use crate::api::conditions::Reason;
use crate::api::refs::{ConfigMapKeyRef, SecretKeyRef};
use crate::api::smime::{self as spec, CertificatesFrom, Smime};
use crate::bundle::document::{Certificate, SmimeCertificate, SmimeCipher, SmimeSigner};
use crate::mail::address::Mailbox;

/// Every certificate that can be read. Where something cannot, those that were published before stay:
/// a mistake in a bundle must not let mail out unencrypted.
pub fn certificates(
    pass: &Pass<'_>,
    smime: Option<&Smime>,
    findings: &mut Findings,
) -> Vec<SmimeCertificate> {
    let Some(Smime { certificates_from, signing_from: _, cipher: _ }) = smime else { return Vec::new() };
    let mut found = Vec::new();
    let mut complete = true;
    let before = findings.problems.len();
    for (at, from) in certificates_from.iter().enumerate() {
        let path = format!("spec.smime.certificatesFrom[{at}]");
        let CertificatesFrom { config_map_ref, secret_ref, directory_ref } = from;
        let count = usize::from(config_map_ref.is_some())
            + usize::from(secret_ref.is_some())
            + usize::from(directory_ref.is_some());
        findings.check(count == 1, &path, &checks::CERTIFICATES_ONE_OF);
        let text = match (config_map_ref, secret_ref, directory_ref) {
            (Some(reference), None, None) => of_config_map(pass, &path, reference),
            (None, Some(reference), None) => of_secret(pass, &path, reference),
            (None, None, Some(reference)) => {
                complete &= of_directory(pass, &path, &reference.name, &mut found, findings);
                continue;
            }
            _ => continue,
        };
        if let Some((source, text)) = findings.ok(text) {
            read(&path, &source, &text, &mut found, findings);
        }
    }
    if findings.problems.len() > before || !complete {
        found.extend(pass.last_good.iter().flat_map(|last| last.bundle.gateway.smime.iter().cloned()));
    }
    found.sort_by(|a, b| (&a.address, b.not_after, &a.der).cmp(&(&b.address, a.not_after, &b.der)));
    found.dedup();
    found
}

/// Those of the gateway's Directory; false: they are not known now.
fn of_directory(
    pass: &Pass<'_>,
    path: &str,
    name: &str,
    found: &mut Vec<SmimeCertificate>,
    findings: &mut Findings,
) -> bool {
    let path = format!("{path}.directoryRef");
    let wanted = ObjectKey::new(&pass.gateway.namespace, name);
    if pass.facts.directory.as_ref() != Some(&wanted) {
        let message = format!("Directory {wanted} is not the one that the gateway names in its directoryRef");
        findings.push(Problem::reference(path, Reason::DirectoryNotFound, message));
        return false;
    }
    let directory = pass.resources.directories.iter().find(|directory| key(&***directory) == wanted);
    // One that is not there is told by directoryRef.
    let Some(directory) = directory else { return false };
    let ldap = directory.spec.ldap.as_ref();
    if ldap.is_none_or(|ldap| ldap.mapping.certificates.is_none()) {
        let message = format!(
            "Directory {wanted} does not say where certificates are: set its ldap.mapping.certificates"
        );
        findings.push(Problem::reference(path, Reason::NoCertificates, message));
        return false;
    }
    let facts = pass.resources.ldap.as_ref().map(|facts| facts.get(&wanted).cloned().unwrap_or_default());
    // Why it said nothing is told by the Directory itself.
    let Some(snapshot) = facts.and_then(|facts| facts.snapshot) else { return false };
    let mut unreadable = 0;
    for certificate in &snapshot.certificates {
        let der = STANDARD.decode(&certificate.der).unwrap_or_default();
        let Ok((_, read)) = X509Certificate::from_der(&der) else {
            unreadable += 1;
            continue;
        };
        let Some((not_before, not_after)) = validity(&read) else {
            unreadable += 1;
            continue;
        };
        let own = addresses(&read);
        // An entry must not bring a certificate in for somebody else.
        let fits = |address: &&String| own.is_empty() || own.contains(*address);
        found.extend(certificate.addresses.iter().filter(fits).map(|address| SmimeCertificate {
            address: address.clone(),
            der: certificate.der.clone(),
            not_before,
            not_after,
        }));
    }
    if unreadable > 0 {
        let message = format!("{unreadable} certificates of the LDAP server cannot be read and are not used");
        findings.push(Problem::reference(path, Reason::CertificateInvalid, message).warning());
    }
    true
}

fn validity(certificate: &X509Certificate<'_>) -> Option<(Timestamp, Timestamp)> {
    let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some((time(certificate.validity().not_before)?, time(certificate.validity().not_after)?))
}

/// Senders whose Secret can be used. While one cannot, what was published of it stays.
pub fn signers(pass: &Pass<'_>, smime: Option<&Smime>, findings: &mut Findings) -> Vec<SmimeSigner> {
    let mut found: Vec<SmimeSigner> = Vec::new();
    for (at, from) in smime.iter().flat_map(|smime| &smime.signing_from).enumerate() {
        let path = format!("spec.smime.signingFrom[{at}].secretRef");
        let object = ObjectKey::new(&pass.gateway.namespace, &from.secret_ref.name);
        match signer(pass, &path, &object, findings) {
            Ok(signer) => found.push(signer),
            Err(mut problem) => {
                let last = pass.last_good.iter().flat_map(|last| &last.bundle.gateway.smime_signers);
                let kept = last.filter(|last| last.certificate.chain.name == object.name).find(|last| {
                    !pass.resources.secrets.contains_key(&object)
                        && pass.published(&last.certificate.key).is_some()
                });
                problem.message += match kept {
                    Some(_) => "; the one that was there before stays in use",
                    None => "; nothing is signed with it",
                };
                findings.push(problem);
                found.extend(kept.cloned());
            }
        }
    }
    // Of several for one address the first signs: the one that is valid longest.
    found.sort_by_key(|signer| std::cmp::Reverse(signer.not_after));
    found
}

fn signer(
    pass: &Pass<'_>,
    path: &str,
    object: &ObjectKey,
    findings: &mut Findings,
) -> Result<SmimeSigner, Problem> {
    let problem = |message: String| Problem::reference(path, Reason::CertificateInvalid, message);
    let chain = pass.secret_key(path, object, "tls.crt")?;
    let key = pass.secret_key(path, object, "tls.key")?;
    let facts = pass.resources.secrets.get(object);
    if let Some(Err(why)) = facts.and_then(|facts| facts.pair.clone()) {
        return Err(problem(format!("Secret {object} cannot sign: {why}")));
    }
    let text =
        facts.and_then(|facts| facts.certificates.get("tls.crt")).map(String::as_str).unwrap_or_default();
    let first = Pem::iter_from_buffer(text.as_bytes()).next().and_then(Result::ok);
    let first = first.ok_or_else(|| problem(format!("Secret {object} holds no certificate")))?;
    let unreadable = || problem(format!("Secret {object}: its certificate cannot be read"));
    let certificate = first.parse_x509().map_err(|_| unreadable())?;
    let (not_before, not_after) = validity(&certificate).ok_or_else(unreadable)?;
    let addresses: Vec<String> = addresses(&certificate).into_iter().collect();
    if addresses.is_empty() {
        let message =
            format!("Secret {object}: its certificate is for no e-mail address, so it signs for nobody");
        findings.push(problem(message).warning());
    }
    Ok(SmimeSigner { addresses, certificate: Certificate { chain, key }, not_before, not_after })
}

pub fn cipher(smime: Option<&Smime>) -> SmimeCipher {
    match smime.map(|smime| smime.cipher).unwrap_or_default() {
        spec::SmimeCipher::Aes256Gcm => SmimeCipher::Aes256Gcm,
        spec::SmimeCipher::Aes256Cbc => SmimeCipher::Aes256Cbc,
    }
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
        let Some((not_before, not_after)) = validity(&certificate) else {
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
