//! Clients that log in or show a certificate → their records (spec R36). While a Secret cannot be used, what was
//! published last stays; before there ever was something, that client does not get in.

use std::collections::BTreeSet;

use super::order::Pass;
use super::problem::{Findings, Problem};
use super::resources::{ObjectKey, SecretFacts};
use crate::api::clients::{ClientUser as UserSpec, MutualTls};
use crate::api::conditions::Reason;
use crate::api::refs::{KeyRef, SourceKind};
use crate::bundle::Material;
use crate::bundle::document::{ClientAuthority, ClientUser};
use crate::mail::address::{Domain, Mailbox};

pub(super) fn users(pass: &Pass<'_>, users: &[UserSpec], findings: &mut Findings) -> Vec<ClientUser> {
    let names: BTreeSet<&str> = users.iter().map(|user| user.name.as_str()).collect();
    if names.len() < users.len() {
        findings.invalid("spec.clients.users", "two users have the same name");
    }
    users.iter().enumerate().filter_map(|(at, user)| one_user(pass, at, user, findings)).collect()
}

fn one_user(pass: &Pass<'_>, at: usize, user: &UserSpec, findings: &mut Findings) -> Option<ClientUser> {
    let path = format!("spec.clients.users[{at}]");
    let UserSpec { name, password_ref, senders } = user;
    if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        findings.invalid(&format!("{path}.name"), "a name has no blanks and no control characters");
    }
    for (at, sender) in senders.iter().enumerate() {
        let fine = match sender.strip_prefix('@') {
            _ if sender == "<>" => true,
            Some(domain) => Domain::parse(domain).is_ok(),
            None => sender.parse::<Mailbox>().is_ok(),
        };
        if !fine {
            let path = format!("{path}.senders[{at}]");
            findings.invalid(&path, "not an e-mail address, not a domain such as @solarmora.com, and not <>");
        }
    }
    let object = ObjectKey::new(&pass.gateway.namespace, &password_ref.name);
    let password = match pass.secret_key(&format!("{path}.passwordRef"), &object, &password_ref.key) {
        Ok(password) => password,
        Err(mut problem) => {
            let last = pass.last_good.iter().flat_map(|last| &last.bundle.gateway.users);
            let kept = last.filter(|last| last.name == *name).map(|last| &last.password);
            let mut kept = kept.filter(|kept| kept.name == password_ref.name);
            let kept = kept.find(|kept| pass.published(kept).is_some());
            problem.message += match kept {
                Some(_) => "; the password that was there before stays in use",
                None => "; until it can be used, this user cannot log in",
            };
            findings.push(problem);
            kept?.clone()
        }
    };
    Some(ClientUser { name: name.clone(), password, senders: senders.clone() })
}

pub(super) fn authority(
    pass: &Pass<'_>,
    mutual_tls: Option<&MutualTls>,
    findings: &mut Findings,
) -> Option<ClientAuthority> {
    let MutualTls { ca_ref, subjects } = mutual_tls?;
    let ca = match certificates(pass, ca_ref) {
        Ok(ca) => ca,
        Err(mut problem) => {
            let last = pass.last_good.and_then(|last| last.bundle.gateway.mutual_tls.as_ref());
            let kept = last.map(|last| &last.ca).filter(|kept| kept.name == ca_ref.name);
            let kept = kept.filter(|kept| pass.published(kept).is_some());
            problem.message += match kept {
                Some(_) => "; the authority that was there before stays in use",
                None => "; until it can be used, no client gets in by its certificate",
            };
            findings.push(problem);
            kept?.clone()
        }
    };
    Some(ClientAuthority { ca, subjects: subjects.clone() })
}

fn certificates(pass: &Pass<'_>, reference: &KeyRef) -> Result<Material, Problem> {
    const PATH: &str = "spec.clients.mutualTLS.caRef";
    let KeyRef { kind, name, key } = reference;
    let object = ObjectKey::new(&pass.gateway.namespace, name);
    let (material, found) = match kind {
        SourceKind::ConfigMap => {
            let material = pass.config_map_key(PATH, &object, key)?;
            let facts = pass.resources.config_maps.get(&object);
            let text = facts.and_then(|facts| facts.data.get(key));
            (material, text.and_then(|text| SecretFacts::certificates_of(text.as_bytes())))
        }
        SourceKind::Secret => {
            let material = pass.secret_key(PATH, &object, key)?;
            let facts = pass.resources.secrets.get(&object);
            (material, facts.and_then(|facts| facts.certificates.get(key).cloned()))
        }
    };
    match found {
        Some(_) => Ok(material),
        None => {
            let message = format!("key {key} of {object} holds no certificate in PEM");
            Err(Problem::reference(PATH, Reason::CertificateInvalid, message))
        }
    }
}
