//! Directory → Directory record: aliases and nested groups resolved, so that the gateway only looks up.
//!
//! Rules are held against the [`Census`] (which groups and units there are); the record itself is made after
//! them, since it keeps the members of those groups alone that some rule in force names.

mod people;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ldap::{Source, source};
use super::order::{Given, Pass};
use super::problem::{Findings, Outcome, Problem};
use super::resources::{ObjectKey, key};
use crate::api::conditions::{ConditionType, Reason};
use crate::api::directory as spec;
use crate::bundle::document::{
    AccountKind, AddressFilter, Directory, ObjectId, ObjectKind, Origin, Rule, Unit, UnitPath, UnknownSenders,
};

use people::People;

/// The directory of this gateway on its way to a record.
pub(super) enum Enrolled<'a> {
    /// The gateway names none.
    None,
    /// It names one that is not there.
    Missing(Origin),
    /// As written.
    Read {
        origin: Origin,
        people: Box<People>,
        findings: Findings,
    },
    /// As last accepted.
    Kept {
        origin: Origin,
        last: &'a Directory,
        findings: Findings,
    },
    Broken {
        origin: Origin,
        findings: Findings,
    },
}

/// Reads the directory that the gateway names. Others that refer to the gateway are told that they are not
/// used.
pub(super) fn enrol<'a>(pass: &Pass<'a>, outcomes: &mut Vec<Outcome>) -> Enrolled<'a> {
    let attached = pass.attached(&pass.resources.directories, |d| &d.spec.gateway_ref, outcomes);
    let named = pass.facts.directory.as_ref();
    let mut enrolled = match named {
        None => Enrolled::None,
        Some(ObjectKey { namespace, name }) => Enrolled::Missing(Origin {
            object: ObjectId {
                kind: ObjectKind::Directory,
                namespace: namespace.clone(),
                name: name.clone(),
            },
            uid: String::new(),
            generation: 0,
        }),
    };
    for (origin, given) in attached {
        let own = ObjectKey::new(&origin.object.namespace, &origin.object.name);
        let mut findings = Findings::default();
        let people = match given {
            Given::Read(directory) => read(pass, &origin, directory, named == Some(&own), &mut findings),
            Given::Malformed(malformed) => {
                findings.push(malformed.problem());
                None
            }
        };
        if named != Some(&own) {
            let message = format!("OutboundGateway {} does not name it in its directoryRef", pass.gateway);
            findings.push(Problem::new("", Reason::NotUsed, message, ConditionType::Accepted).warning());
            let broken = !findings.problems.is_empty();
            let Findings { problems, warnings } = findings;
            outcomes.push(Outcome { problems, warnings, broken, unused: true, ..Outcome::new(origin) });
            continue;
        }
        enrolled = match (people.filter(|_| findings.problems.is_empty()), pass.last_directory(&origin)) {
            (Some(people), _) => Enrolled::Read { origin, people: Box::new(people), findings },
            (None, Some(last)) => Enrolled::Kept { origin, last, findings },
            (None, None) => Enrolled::Broken { origin, findings },
        };
    }
    enrolled
}

/// `None`: nothing can be said of its people.
fn read(
    pass: &Pass<'_>,
    origin: &Origin,
    directory: &spec::Directory,
    named: bool,
    findings: &mut Findings,
) -> Option<People> {
    let own = &key(directory);
    let ldap = directory.spec.ldap.as_ref().map(|ldap| source(pass, own, ldap, findings));
    // After a restart the form that was published is that of the last answer.
    let last = pass.last_directory(origin);
    let last = last.filter(|last| last.origin.generation == origin.generation);
    let snapshot = match ldap {
        Some(Source::Said(snapshot)) => Some(snapshot),
        Some(Source::NotAsked) | None => None,
        // Nobody reads it, since nobody needs it.
        Some(Source::Silent(_)) if !named => None,
        Some(Source::Silent(problem)) => {
            findings.push(if last.is_some() { problem.warning() } else { problem });
            return None;
        }
    };
    let written = (&directory.spec, own.namespace.as_str());
    let people = People::read(written, snapshot.as_deref(), &pass.facts.own, findings);
    let (before, now) = (last.map_or(0, |last| last.accounts.len()), people.len());
    // The object itself is what it was, so it is LDAP that lost them. Whoever reads the server compares its answers
    // too, but not over a restart.
    if snapshot.is_some() && named && now < before / 2 {
        let message = format!(
            "with what the LDAP server says there would be {now} addresses where there were {before}; more than half \
             are gone, so the former stay in force until the Directory object is changed"
        );
        findings.push(Problem::reference("spec.ldap", Reason::LdapNotRead, message).warning());
        return None;
    }
    Some(people)
}

/// Which groups and units there are.
#[derive(Debug, Clone, PartialEq)]
pub struct Census {
    known: Known,
    groups: BTreeSet<String>,
    units: BTreeSet<UnitPath>,
}

#[derive(Debug, Clone, PartialEq)]
enum Known {
    Nothing,
    /// What depends on it waits anyway.
    Broken,
    /// Some of them.
    Part,
    People,
}

impl Census {
    pub(super) fn of(enrolled: &Enrolled<'_>, pass: &Pass<'_>) -> Self {
        let (known, groups, units) = match enrolled {
            Enrolled::None => (Known::Nothing, BTreeSet::new(), BTreeSet::new()),
            Enrolled::Missing(_) | Enrolled::Broken { .. } => {
                (Known::Broken, BTreeSet::new(), BTreeSet::new())
            }
            Enrolled::Read { people, .. } => {
                let known = if people.partial { Known::Part } else { Known::People };
                (known, people.groups(), people.units())
            }
            Enrolled::Kept { last, .. } => (Known::People, expanded(last, pass), units_of(last)),
        };
        let mut census = Self { known, groups, units: BTreeSet::new() };
        for unit in units {
            let mut path = unit.0.as_str();
            while let Some((above, _)) = path.rsplit_once('/') {
                census.units.insert(UnitPath(path.to_owned()));
                path = above;
            }
        }
        census
    }

    /// Why members of this group cannot be told; `None` if they can.
    pub fn lacks(&self, path: &str, group: &str) -> Option<Problem> {
        match self.known {
            Known::Nothing => {
                let message = format!(
                    "group {group} is not known, because the gateway names no Directory in its directoryRef"
                );
                Some(Problem::reference(path, Reason::DirectoryNotFound, message))
            }
            Known::Broken | Known::Part => None,
            Known::People => (!self.groups.contains(group)).then(|| {
                let message = format!("the Directory has no group {group}");
                Problem::reference(path, Reason::GroupNotFound, message)
            }),
        }
    }

    /// Why this unit concerns nobody.
    pub fn lacks_unit(&self, path: &str, unit: &UnitPath) -> Option<Problem> {
        if unit.depth() == 0 {
            return None;
        }
        match self.known {
            Known::Nothing => {
                let message = format!(
                    "nobody is in unit {}, because the gateway names no Directory in its directoryRef: the rule \
                     concerns no mail",
                    unit.0
                );
                Some(Problem::reference(path, Reason::DirectoryNotFound, message))
            }
            Known::Broken | Known::Part => None,
            Known::People => (!self.units.contains(unit)).then(|| {
                let message = format!(
                    "the Directory has no unit {} and nobody in it: the rule concerns no mail",
                    unit.0
                );
                Problem::reference(path, Reason::UnitNotFound, message)
            }),
        }
    }
}

/// Groups whose members a record holds.
fn expanded(last: &Directory, pass: &Pass<'_>) -> BTreeSet<String> {
    let rules = pass.last_good.iter().flat_map(|last| &last.bundle.rules);
    let named = named_groups(rules.map(|rule| &**rule));
    let is_group = |account: &&crate::bundle::document::Account| account.kind == AccountKind::Group;
    let groups = last.accounts.iter().filter(is_group).map(|account| account.address.clone());
    groups.filter(|group| named.contains(group)).collect()
}

fn units_of(last: &Directory) -> BTreeSet<UnitPath> {
    let of_accounts = last.accounts.iter().filter_map(|account| match &account.kind {
        AccountKind::User(unit) => Some(unit.clone()),
        AccountKind::Group => None,
    });
    of_accounts.chain(last.units.iter().map(|unit| unit.path.clone())).collect()
}

fn named_groups<'r>(rules: impl Iterator<Item = &'r Rule>) -> BTreeSet<String> {
    rules
        .flat_map(|rule| [&rule.envelope.senders, &rule.envelope.recipients])
        .filter_map(|filter| match filter {
            Some(AddressFilter::Groups(groups)) => Some(groups.iter().cloned()),
            _ => None,
        })
        .flatten()
        .collect()
}

/// The record, made after the rules.
pub(super) fn settle(
    enrolled: Enrolled<'_>,
    rules: &[Arc<Rule>],
    outcomes: &mut Vec<Outcome>,
) -> Option<Directory> {
    match enrolled {
        Enrolled::None => None,
        Enrolled::Missing(origin) => {
            let why = format!("there is no Directory {}/{}", origin.object.namespace, origin.object.name);
            Some(broken(origin, why))
        }
        Enrolled::Broken { origin, findings } => {
            let record = broken(origin.clone(), findings.summary());
            let Findings { problems, warnings } = findings;
            outcomes.push(Outcome { problems, warnings, broken: true, ..Outcome::new(origin) });
            Some(record)
        }
        Enrolled::Kept { origin, last, findings } => {
            let Findings { problems, warnings } = findings;
            let in_force = Some(last.origin.generation);
            let entries = Some(last.accounts.len() as u64);
            outcomes.push(Outcome { problems, warnings, in_force, entries, ..Outcome::new(origin) });
            let mut record = last.clone();
            let mandatory: BTreeSet<&ObjectId> = mandatory(rules).collect();
            for unit in &mut record.units {
                unit.disabled.retain(|rule| !mandatory.contains(rule));
            }
            Some(record)
        }
        Enrolled::Read { origin, people, mut findings } => {
            let exists: BTreeSet<ObjectId> = outcomes
                .iter()
                .map(|outcome| &outcome.origin.object)
                .filter(|object| matches!(object.kind, ObjectKind::RoutingRule | ObjectKind::ComplianceRule))
                .cloned()
                .collect();
            let mandatory: BTreeSet<&ObjectId> = mandatory(rules).collect();
            let mut units: BTreeMap<UnitPath, Vec<ObjectId>> = BTreeMap::new();
            for (path, unit, rule) in people.disabled() {
                if mandatory.contains(rule) {
                    let message = format!("{rule} cannot be disabled: mandatory");
                    findings.push(Problem::reference(path, Reason::RuleMandatory, message));
                } else if !exists.contains(rule) {
                    let message = format!("there is no {rule} here");
                    findings.push(Problem::reference(path, Reason::RuleNotFound, message).warning());
                } else {
                    units.entry(unit.clone()).or_default().push(rule.clone());
                }
            }
            let units = units.into_iter().map(|(path, mut disabled)| {
                disabled.sort();
                disabled.dedup();
                Unit { path, disabled }
            });
            let accounts = people.accounts(&named_groups(rules.iter().map(|rule| &**rule)));
            let Findings { problems, warnings } = findings;
            let entries = Some(accounts.len() as u64);
            outcomes.push(Outcome { problems, warnings, entries, ..Outcome::new(origin.clone()) });
            Some(Directory {
                origin,
                units: units.collect(),
                unknown_senders: match people.unknown_senders {
                    spec::UnknownSenders::RootUnit => UnknownSenders::RootUnit,
                    spec::UnknownSenders::Refuse => UnknownSenders::Refuse,
                },
                accounts,
                broken: None,
            })
        }
    }
}

fn mandatory(rules: &[Arc<Rule>]) -> impl Iterator<Item = &ObjectId> {
    rules.iter().filter(|rule| rule.mandatory).map(|rule| &rule.origin.object)
}

fn broken(origin: Origin, why: String) -> Directory {
    Directory {
        origin,
        units: Vec::new(),
        unknown_senders: UnknownSenders::default(),
        accounts: Vec::new(),
        broken: Some(why),
    }
}
