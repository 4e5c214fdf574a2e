//! From LDAP entries to users and groups: pure. What has no usable address counts for nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::api::ldap::{CertificateMapping, GroupMapping, UserMapping};
use crate::mail::address::Mailbox;
use crate::translate::ldap::{FoundCertificate, Group, Snapshot, User};

/// One entry of the answer to a search.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub dn: String,
    pub attributes: HashMap<String, Vec<String>>,
    /// Values that are no text.
    pub binary: HashMap<String, Vec<Vec<u8>>>,
}

impl Entry {
    /// Values of an attribute, whatever case the server writes its name in and whatever options it adds.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        let of_name = move |written: &str| {
            written.split(';').next().is_some_and(|plain| plain.eq_ignore_ascii_case(name))
        };
        let named = self.attributes.iter().filter(move |(written, _)| of_name(written));
        named.flat_map(|(_, values)| values.iter().map(String::as_str))
    }

    /// The server gave a part of the values only (Active Directory, `member;range=0-1499`).
    pub fn is_cut(&self) -> bool {
        self.attributes.keys().any(|name| {
            let range = name.split(';').find_map(|option| option.strip_prefix("range="));
            range.is_some_and(|range| !range.ends_with('*'))
        })
    }
}

/// Everything that was found becomes one snapshot. Addresses that two entries claim belong to the first by name.
pub fn snapshot(
    base: &str,
    (users, user_entries): (&UserMapping, &[Entry]),
    (groups, group_entries): (&GroupMapping, &[Entry]),
) -> Snapshot {
    let mut by_name: HashMap<Vec<Rdn>, String> = HashMap::new();
    let mut found_users: BTreeMap<String, User> = BTreeMap::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut ordered: Vec<&Entry> = user_entries.iter().collect();
    ordered.sort_by(|a, b| a.dn.cmp(&b.dn));
    let base = parse_dn(base);
    for entry in ordered {
        let name = parse_dn(&entry.dn);
        let Some(address) = entry.values(&users.address).find_map(address) else { continue };
        by_name.insert(name.clone(), address.clone());
        if !taken.insert(address.clone()) {
            continue;
        }
        let others = entry.values(&users.address).skip(1);
        let more = users.aliases.iter().flat_map(|name| entry.values(name));
        let mut aliases: Vec<String> = others.chain(more).filter_map(self::address).collect();
        aliases.sort();
        aliases.retain(|alias| taken.insert(alias.clone()));
        let unit = match &users.unit {
            Some(attribute) => unit_of(entry.values(attribute).next().unwrap_or_default().split('/')),
            None => unit_of(units_above(&name, &base).iter().map(String::as_str)),
        };
        found_users.insert(address.clone(), User { address, aliases, unit });
    }
    let mut group_addresses: Vec<(&Entry, String)> = Vec::new();
    for entry in group_entries {
        let Some(address) = entry.values(&groups.address).find_map(address) else { continue };
        by_name.insert(parse_dn(&entry.dn), address.clone());
        group_addresses.push((entry, address));
    }
    let mut found_groups: BTreeMap<String, Group> = BTreeMap::new();
    for (entry, address) in group_addresses {
        if found_users.contains_key(&address) {
            continue;
        }
        let members = groups.members.iter().flat_map(|name| entry.values(name));
        let resolved = members
            .filter_map(|member| by_name.get(&parse_dn(member)).cloned().or_else(|| self::address(member)));
        let group =
            found_groups.entry(address.clone()).or_insert_with(|| Group { address, members: Vec::new() });
        group.members.extend(resolved);
        group.members.sort();
        group.members.dedup();
    }
    Snapshot {
        users: found_users.into_values().collect(),
        groups: found_groups.into_values().collect(),
        certificates: Vec::new(),
    }
}

/// Certificates of people inside and outside.
pub fn certificates(mapping: &CertificateMapping, entries: &[Entry]) -> Vec<FoundCertificate> {
    let mut found = Vec::new();
    for entry in entries {
        let mut addresses: Vec<String> = entry.values(&mapping.address).filter_map(address).collect();
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            continue;
        }
        // Servers write `userCertificate;binary` whether or not it was asked for so.
        let plain = |name: &str| name.split(';').next().unwrap_or_default().to_ascii_lowercase();
        let wanted = plain(&mapping.certificate);
        let values =
            entry.binary.iter().filter(|(name, _)| plain(name) == wanted).flat_map(|(_, values)| values);
        found.extend(
            values.map(|der| FoundCertificate { addresses: addresses.clone(), der: STANDARD.encode(der) }),
        );
    }
    found.sort();
    found.dedup();
    found
}

/// An address in the form that compares; `smtp:` in front is Active Directory's.
fn address(value: &str) -> Option<String> {
    let value = value.trim();
    let value = match value.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("smtp:") => &value[5..],
        _ => value,
    };
    value.parse().ok().map(|mailbox: Mailbox| mailbox.folded())
}

/// A path of those names, as far as they can stand in one.
fn unit_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let usable = |name: &&str| !name.contains('/') && !name.chars().any(char::is_control);
    let names: Vec<&str> = names.map(str::trim).filter(|name| !name.is_empty()).take_while(usable).collect();
    let path = format!("/{}", names.join("/"));
    if path.len() <= 255 { path } else { "/".to_owned() }
}

/// The `ou` parts of a name below `base`, from the top down.
fn units_above(name: &[Rdn], base: &[Rdn]) -> Vec<String> {
    let below = name.strip_suffix(base).unwrap_or(name);
    below.iter().skip(1).rev().filter(|rdn| rdn.attribute == "ou").map(|rdn| rdn.written.clone()).collect()
}

/// One part of a distinguished name (RFC 4514). Compares ignoring case.
#[derive(Debug, Clone)]
struct Rdn {
    attribute: String,
    value: String,
    written: String,
}

impl PartialEq for Rdn {
    fn eq(&self, other: &Self) -> bool {
        self.attribute == other.attribute && self.value == other.value
    }
}
impl Eq for Rdn {}
impl std::hash::Hash for Rdn {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.attribute.hash(state);
        self.value.hash(state);
    }
}

fn parse_dn(dn: &str) -> Vec<Rdn> {
    let mut parts: Vec<Vec<u8>> = vec![Vec::new()];
    let mut bytes = dn.bytes().peekable();
    while let Some(byte) = bytes.next() {
        let last = parts.last_mut().expect("there is one from the start");
        match byte {
            b',' => parts.push(Vec::new()),
            b'\\' => {
                let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                let Some(first) = bytes.next() else { break };
                match (hex(Some(first)), hex(bytes.peek().copied())) {
                    (Some(high), Some(low)) => {
                        bytes.next();
                        last.push((high * 16 + low) as u8);
                    }
                    _ => last.push(first),
                }
            }
            byte => last.push(byte),
        }
    }
    let rdn = |part: Vec<u8>| {
        let text = String::from_utf8_lossy(&part).into_owned();
        let (attribute, value) = text.split_once('=').unwrap_or(("", &text));
        let written = value.trim().to_owned();
        Rdn { attribute: attribute.trim().to_lowercase(), value: written.to_lowercase(), written }
    };
    parts.into_iter().map(rdn).collect()
}
