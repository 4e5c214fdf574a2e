//! AddressList → AddressList record. A million entries are read once and remembered: see [`Memo`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::lists::text;
use super::order::{Given, Pass};
use super::problem::{Findings, Outcome, Problem};
use super::resources::{ConfigMapFacts, ObjectKey, key, origin};
use crate::api::address_list::{AddressList as Spec, AddressListSpec, Entry};
use crate::api::checks;
use crate::api::conditions::{ConditionType, Reason};
use crate::bundle::document::{AddressList, ListEntries, ListEntry, ObjectId};

/// Bad entries that are named; of the rest only the number is told.
const NAMED: usize = 5;

/// Lists that were read before. A pass that finds the same versions takes the result from here, so that a
/// change of some rule costs nothing for the lists. Two passes may share one; it never changes what a pass
/// decides.
#[derive(Clone, Default)]
pub struct Memo(Arc<Mutex<BTreeMap<ObjectKey, (Print, Parsed)>>>);

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memo")
    }
}

/// Everything the content of a list was read from: its own generation, and the versions of its ConfigMaps.
type Print = (String, i64, Vec<Option<(String, String)>>);

#[derive(Clone, Default)]
struct Parsed {
    entries: ListEntries,
    problems: Vec<Problem>,
}

/// Every list of the gateway that can be used: as written, or as last accepted.
pub(super) fn decide(pass: &Pass<'_>, outcomes: &mut Vec<Outcome>) -> Vec<AddressList> {
    let attached = pass.attached(&pass.resources.address_lists, |list| &list.spec.gateway_ref, outcomes);
    let mut records = Vec::new();
    let mut seen = BTreeSet::new();
    for (origin, given) in attached {
        let parsed = match given {
            Given::Read(list) => {
                seen.insert(key(&**list));
                read(pass, list)
            }
            Given::Malformed(malformed) => {
                Parsed { problems: vec![malformed.problem()], ..Parsed::default() }
            }
        };
        let last = pass.last_list(&origin);
        let mut outcome = Outcome::new(origin.clone());
        let Parsed { entries, problems } = parsed;
        let record = match last {
            _ if problems.is_empty() => Some(AddressList { origin, entries }),
            Some(last) => {
                outcome.in_force = Some(last.origin.generation);
                Some(last.clone())
            }
            None => {
                outcome.broken = true;
                None
            }
        };
        let mut findings = Findings { problems, ..Findings::default() };
        if let Some(record) = &record {
            outcome.entries = Some(record.entries.len() as u64);
            open(record, &mut findings);
        }
        let Findings { problems, warnings } = findings;
        outcomes.push(Outcome { problems, warnings, ..outcome });
        records.extend(record);
    }
    pass.resources.memo.lock().retain(|list, _| seen.contains(list) || list_elsewhere(pass, list));
    records
}

/// Other gateways' lists may be remembered in the same place.
fn list_elsewhere(pass: &Pass<'_>, list: &ObjectKey) -> bool {
    pass.resources.address_lists.iter().any(|other| key(&**other) == *list)
}

/// Those that rules name; the others stay outside the bundle.
pub(super) fn used(
    lists: Vec<AddressList>,
    named: &BTreeSet<ObjectId>,
    outcomes: &mut [Outcome],
) -> Vec<AddressList> {
    let (used, unused): (Vec<_>, Vec<_>) =
        lists.into_iter().partition(|list| named.contains(&list.origin.object));
    for list in unused {
        let outcome = outcomes.iter_mut().find(|outcome| outcome.origin.object == list.origin.object);
        if let Some(outcome) = outcome {
            outcome.unused = true;
        }
    }
    used
}

/// Spec R113: whoever claims such an address is believed.
fn open(list: &AddressList, findings: &mut Findings) {
    let count: usize = list.entries.shards.iter().map(|shard| shard.unauthenticated.lines().count()).sum();
    if count > 0 {
        let message = format!(
            "{count} entries count without authentication: where senders are looked up, whoever claims such an \
             address is believed"
        );
        let kind = ConditionType::UnauthenticatedBypass;
        findings.push(Problem::new("", Reason::SpoofingPossible, message, kind).warning());
    }
}

impl Memo {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectKey, (Print, Parsed)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(pass: &Pass<'_>, list: &Spec) -> Parsed {
    let own = key(list);
    let print = print(pass, list);
    if let Some((known, parsed)) = pass.resources.memo.lock().get(&own)
        && *known == print
    {
        return parsed.clone();
    }
    let parsed = parse(pass, list);
    pass.resources.memo.lock().insert(own, (print, parsed.clone()));
    parsed
}

fn print(pass: &Pass<'_>, list: &Spec) -> Print {
    let origin = origin(list);
    let namespace = &origin.object.namespace;
    let version = |map: &ConfigMapFacts| (map.uid.clone(), map.resource_version.clone());
    let maps = list.spec.entries_from.iter().map(|from| {
        pass.resources.config_maps.get(&ObjectKey::new(namespace, &from.config_map_ref.name)).map(version)
    });
    let maps = maps.collect();
    (origin.uid, origin.generation, maps)
}

fn parse(pass: &Pass<'_>, list: &Spec) -> Parsed {
    let AddressListSpec { gateway_ref: _, description: _, entries, entries_from } = &list.spec;
    let namespace = key(list).namespace;
    let mut findings = Findings::default();
    let mut found: Vec<(ListEntry, bool)> = Vec::new();
    for (at, Entry { address, domain, require_authentication }) in entries.iter().enumerate() {
        let path = format!("spec.entries[{at}]");
        findings.check(address.is_some() != domain.is_some(), &path, &checks::ENTRY_ONE_OF);
        if let Some(address) = address {
            let read = super::gateway::address(&format!("{path}.address"), address);
            found.extend(findings.ok(read).map(|a| (ListEntry::Address(a), *require_authentication)));
        } else if let Some(domain) = domain {
            let read = super::gateway::domain(&format!("{path}.domain"), domain);
            found.extend(findings.ok(read).map(|d| (ListEntry::Domain(d), *require_authentication)));
        }
    }
    for (at, from) in entries_from.iter().enumerate() {
        let path = format!("spec.entriesFrom[{at}].configMapRef");
        let Some(text) = findings.ok(text(&path, &from.config_map_ref, &namespace, pass.resources)) else {
            continue;
        };
        let name = &from.config_map_ref.name;
        let mut bad = 0;
        for (line, word) in words(text) {
            match word.parse::<ListEntry>() {
                Ok(entry) => found.push((entry, from.require_authentication)),
                Err(error) => {
                    bad += 1;
                    if bad <= NAMED {
                        let word: String = word.chars().take(80).collect();
                        let message = format!("ConfigMap {namespace}/{name}, line {line}: {word:?}: {error}");
                        findings.invalid(&path, message);
                    }
                }
            }
        }
        if bad > NAMED {
            let message = format!("ConfigMap {namespace}/{name}: {} more entries are bad", bad - NAMED);
            findings.invalid(&path, message);
        }
    }
    match findings.problems.is_empty() {
        true => Parsed { entries: ListEntries::build(found), problems: Vec::new() },
        false => Parsed { entries: ListEntries::default(), problems: findings.problems },
    }
}

/// Entries with the numbers of their lines: separated by commas or white space.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.trim_start_matches('\u{feff}');
    text.split('\n').enumerate().flat_map(|(at, line)| {
        let words = line.split(|c: char| c == ',' || c.is_whitespace());
        words.filter(|word| !word.is_empty()).map(move |word| (at + 1, word))
    })
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn entries_are_separated_by_commas_or_white_space_and_know_their_line() {
        let found: Vec<_> = words("\u{feff}a@b.c, d.e\r\n\n f.g\th.i,,j.k\n").collect();
        assert_eq!(found, [(1, "a@b.c"), (1, "d.e"), (3, "f.g"), (3, "h.i"), (3, "j.k")]);
    }
}
