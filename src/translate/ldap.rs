//! What an LDAP server said of a Directory, as far as translation must know.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::order::Pass;
use super::problem::{Findings, Problem};
use super::resources::ObjectKey;
use super::rules::unit;
use crate::api::checks;
use crate::api::conditions::Reason;
use crate::api::ldap::{CertificateMapping, GroupMapping, Ldap, Mapping, UserMapping};
use crate::api::refs::SourceKind;
use crate::bundle::document::UnitPath;

/// Users and groups as an LDAP server gave them, in the form of a Directory's own lists.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Sorted by address.
    pub users: Vec<User>,
    /// Sorted by address.
    pub groups: Vec<Group>,
    /// Sorted, without repetitions.
    #[serde(default)]
    pub certificates: Vec<FoundCertificate>,
}

/// A certificate as it was found at one entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FoundCertificate {
    /// Those of the entry, folded.
    pub addresses: Vec<String>,
    /// X.509 in DER, base64.
    pub der: String,
}

/// The state of one Directory's LDAP server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LdapFacts {
    /// What it said last; `None`: nothing yet in this process.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why there is no newer answer, in words that stay the same while the reason does.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub address: String,
    pub aliases: Vec<String>,
    pub unit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Group {
    pub address: String,
    pub members: Vec<String>,
}

/// What there is to go by beside a Directory's own lists.
pub(super) enum Source {
    /// Nobody asks the server here.
    NotAsked,
    /// It has not answered yet since this process began.
    Silent(Problem),
    Said(Arc<Snapshot>),
}

/// Holds `ldap` against the rules over its fields, and says what its server said.
pub(super) fn source(pass: &Pass<'_>, directory: &ObjectKey, ldap: &Ldap, findings: &mut Findings) -> Source {
    let Ldap { url, ca_ref, bind_ref, base_dn, refresh, mapping } = ldap;
    let Mapping {
        users: UserMapping { filter: of_users, address: _, aliases: _, unit: _ },
        groups: GroupMapping { filter: of_groups, address: _, members: _ },
        certificates,
    } = mapping;
    findings.check(checks::is_ldap_url(url), "spec.ldap.url", &checks::LDAP_URL);
    findings.check(is_name(base_dn), "spec.ldap.baseDN", &checks::BASE_DN);
    let refresh = refresh.get().map(|refresh| refresh.as_millis());
    let in_time = refresh.is_some_and(|refresh| (1000..=24 * 3_600_000).contains(&refresh));
    findings.check(in_time, "spec.ldap.refresh", &checks::LDAP_REFRESH);
    for (kind, filter) in [("users", of_users), ("groups", of_groups)] {
        let path = format!("spec.ldap.mapping.{kind}.filter");
        let whole = filter.starts_with('(') && filter.ends_with(')');
        findings.check(whole && ldap3::parse_filter(filter).is_ok(), &path, &checks::LDAP_FILTER);
    }
    if let Some(CertificateMapping { base_dn, filter, address: _, certificate: _ }) = certificates {
        let path = "spec.ldap.mapping.certificates";
        let fine = base_dn.as_ref().is_none_or(|base| is_name(base));
        findings.check(fine, &format!("{path}.baseDN"), &checks::BASE_DN);
        let whole = filter.starts_with('(') && filter.ends_with(')') && ldap3::parse_filter(filter).is_ok();
        findings.check(whole, &format!("{path}.filter"), &checks::LDAP_FILTER);
    }
    if let Some(reference) = ca_ref {
        let object = ObjectKey::new(&directory.namespace, &reference.name);
        findings.ok(match reference.kind {
            SourceKind::ConfigMap => pass.config_map_key("spec.ldap.caRef", &object, &reference.key),
            SourceKind::Secret => pass.secret_key("spec.ldap.caRef", &object, &reference.key),
        });
    }
    if let Some(reference) = bind_ref {
        let object = ObjectKey::new(&directory.namespace, &reference.name);
        let keys = ["username", "password"].map(|key| pass.secret_key("spec.ldap.bindRef", &object, key));
        // What is wrong with the Secret as a whole is told once.
        findings.ok(keys.into_iter().collect::<Result<Vec<_>, _>>());
    }
    let told = |message: String| Problem::reference("spec.ldap", Reason::LdapNotRead, message);
    let Some(facts) = &pass.resources.ldap else {
        let message = "the LDAP server is not asked here: only the users and groups that are listed count";
        findings.push(told(message.to_owned()).warning());
        return Source::NotAsked;
    };
    let LdapFacts { snapshot, problem } = facts.get(directory).cloned().unwrap_or_default();
    match (snapshot, problem) {
        (Some(snapshot), problem) => {
            findings.warnings.extend(problem.map(|problem| {
                told(format!("{problem}; what the LDAP server said last stays in force")).warning()
            }));
            Source::Said(snapshot)
        }
        (None, Some(problem)) => {
            Source::Silent(told(format!("{problem}; it was never read since the start")))
        }
        (None, None) => Source::Silent(told("the LDAP server is being read for the first time".to_owned())),
    }
}

fn is_name(dn: &str) -> bool {
    let Some((attribute, rest)) = dn.split_once('=') else { return false };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let attribute = attribute.trim_end_matches(' ');
    let value = rest.trim_start_matches(' ').chars().next();
    attribute.starts_with(|c: char| c.is_ascii_alphanumeric())
        && attribute.chars().all(fits)
        && value.is_some_and(|c| !matches!(c, ',' | '='))
}

impl User {
    /// Its unit; one that cannot be is the root.
    pub(super) fn unit(&self) -> UnitPath {
        unit("", &self.unit).unwrap_or_default()
    }
}
