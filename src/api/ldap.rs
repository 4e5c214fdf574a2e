//! Where a Directory finds its people in LDAP.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks;
use super::refs::{KeyRef, SecretRef};
use super::schema::{atomic, cel, each_len, pattern};
use super::units::GoDuration;

/// An LDAP server that users and groups are read from, such as OpenLDAP or Active Directory. While it cannot be read,
/// what it said last stays in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ldap {
    /// `ldaps://host` or `ldap://host`, with `:port` if it is not 636 or 389. Nothing is ever sent in clear text:
    /// `ldap://` means StartTLS.
    #[schemars(length(min = 8, max = 300), transform = cel(&[checks::LDAP_URL]))]
    pub url: String,
    /// A CA file that is trusted beside the system's, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<KeyRef>,
    /// A Secret of type kubernetes.io/basic-auth, or with the label `postern.dev/use: "true"`: its `username` is the
    /// name of the entry to bind as, its `password` the password. Default: anonymous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind_ref: Option<SecretRef>,
    /// The entry below which everybody is, such as `dc=solarmora,dc=com`.
    #[serde(rename = "baseDN")]
    #[schemars(length(min = 1, max = 1000), transform = cel(&[checks::BASE_DN]))]
    pub base_dn: String,
    /// How often it is read, 1s to 24h.
    #[serde(default = "refresh")]
    #[schemars(transform = cel(&[checks::LDAP_REFRESH]))]
    pub refresh: GoDuration,
    /// Which entries and attributes matter.
    #[serde(default)]
    pub mapping: Mapping,
}

fn refresh() -> GoDuration {
    GoDuration::new("5m")
}

/// Which entries are users and groups, and which of their attributes matter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    /// Which entries are users, and what is read of them.
    #[serde(default)]
    pub users: UserMapping,
    /// Which entries are groups, and what is read of them.
    #[serde(default)]
    pub groups: GroupMapping,
    /// Certificates of recipients for S/MIME, of people inside and outside. Default: none are read. They are used by a
    /// gateway that names the Directory in `smime.certificatesFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificateMapping>,
}

/// Which entries are users, and what is read of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserMapping {
    /// An LDAP filter.
    #[serde(default = "users")]
    #[schemars(length(min = 3, max = 2000), transform = cel(&[checks::LDAP_FILTER]))]
    pub filter: String,
    /// The attribute with the address.
    #[serde(default = "mail")]
    #[schemars(length(min = 1, max = 100), transform = pattern(checks::ATTRIBUTE_FORM))]
    pub address: String,
    /// Attributes with further addresses. Values such as `smtp:ani@solarmora.com` of Active Directory's
    /// `proxyAddresses` are understood.
    #[serde(default = "aliases")]
    #[schemars(length(max = 10), transform = atomic, transform = each_len(1, 100), transform = pattern(checks::ATTRIBUTE_FORM))]
    pub aliases: Vec<String>,
    /// The attribute with the unit, such as `/sales/export` or `sales`. Default: the `ou` parts of the entry's
    /// name below `baseDN`, from the top down. Units compare by case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100), transform = pattern(checks::ATTRIBUTE_FORM))]
    pub unit: Option<String>,
}

/// Which entries are groups, and what is read of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupMapping {
    /// An LDAP filter.
    #[serde(default = "groups")]
    #[schemars(length(min = 3, max = 2000), transform = cel(&[checks::LDAP_FILTER]))]
    pub filter: String,
    /// The attribute with the address. Groups without one count for nothing.
    #[serde(default = "mail")]
    #[schemars(length(min = 1, max = 100), transform = pattern(checks::ATTRIBUTE_FORM))]
    pub address: String,
    /// Attributes with the members: names of entries or addresses.
    #[serde(default = "members")]
    #[schemars(length(min = 1, max = 10), transform = atomic, transform = each_len(1, 100), transform = pattern(checks::ATTRIBUTE_FORM))]
    pub members: Vec<String>,
}

/// Which entries have certificates. A certificate counts for an address of its entry, if it is for that address or for
/// none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateMapping {
    /// The entry below which they are; default: that of the Directory.
    #[serde(rename = "baseDN", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000), transform = cel(&[checks::BASE_DN]))]
    pub base_dn: Option<String>,
    /// An LDAP filter.
    #[serde(default = "certified")]
    #[schemars(length(min = 3, max = 2000), transform = cel(&[checks::LDAP_FILTER]))]
    pub filter: String,
    /// The attribute with the addresses.
    #[serde(default = "mail")]
    #[schemars(length(min = 1, max = 100), transform = pattern(checks::ATTRIBUTE_FORM))]
    pub address: String,
    /// The attribute with the certificates, in DER.
    #[serde(default = "certificate")]
    #[schemars(length(min = 1, max = 100), transform = pattern(checks::OPTIONS_FORM))]
    pub certificate: String,
}

impl Default for CertificateMapping {
    fn default() -> Self {
        Self { base_dn: None, filter: certified(), address: mail(), certificate: certificate() }
    }
}

impl Default for UserMapping {
    fn default() -> Self {
        Self { filter: users(), address: mail(), aliases: aliases(), unit: None }
    }
}

impl Default for GroupMapping {
    fn default() -> Self {
        Self { filter: groups(), address: mail(), members: members() }
    }
}

fn users() -> String {
    "(|(objectClass=inetOrgPerson)(&(objectCategory=person)(objectClass=user)))".to_owned()
}

fn groups() -> String {
    "(|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames)(objectClass=group))".to_owned()
}

fn certified() -> String {
    "(userCertificate;binary=*)".to_owned()
}

fn certificate() -> String {
    "userCertificate;binary".to_owned()
}

fn mail() -> String {
    "mail".to_owned()
}

fn aliases() -> Vec<String> {
    ["mailAlternateAddress", "proxyAddresses"].map(str::to_owned).to_vec()
}

fn members() -> Vec<String> {
    ["member", "uniqueMember"].map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    use super::checks::is_ldap_url;

    #[test]
    fn an_address_of_a_server_has_a_scheme_a_host_and_maybe_a_port() {
        for good in [
            "ldaps://ldap.solarmora.com",
            "ldap://10.0.0.1:389",
            "ldaps://[2001:db8::1]:636/",
            "ldaps://ad_1/",
        ] {
            assert!(is_ldap_url(good), "{good}");
        }
        for bad in [
            "http://x",
            "ldaps://",
            "ldaps://x:",
            "ldaps://x:70000",
            "ldaps://x:1:2",
            "ldaps://x/dc=y",
            "ldaps://u@x",
            "ldaps://[x]",
            "ldaps://[::1]636",
            "x",
        ] {
            assert!(!is_ldap_url(bad), "{bad}");
        }
    }
}
