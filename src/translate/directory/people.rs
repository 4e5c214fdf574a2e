//! Users and groups of one directory, whatever source they come from, and who is a member of what.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::checks;
use crate::api::conditions::{ConditionType, Reason};
use crate::api::directory::{self as spec, DirectorySpec};
use crate::bundle::document::{Account, AccountKind, ObjectId, ObjectKind, UnitPath};
use crate::mail::address::{Domain, Mailbox};
use crate::translate::gateway::address;
use crate::translate::ldap::{Group, Snapshot, User as Found};
use crate::translate::problem::{Findings, Problem};
use crate::translate::rules::unit;

/// Warnings of one sort that are told; of the rest only the number is.
const NAMED: usize = 5;

/// Users and groups. Addresses are folded.
#[derive(Default)]
pub struct People {
    pub unknown_senders: spec::UnknownSenders,
    /// There are more, in an LDAP server that nobody asks here.
    pub partial: bool,
    users: Vec<User>,
    /// Which user an address belongs to.
    owners: BTreeMap<String, usize>,
    groups: BTreeMap<String, BTreeSet<String>>,
    units: BTreeSet<UnitPath>,
    /// Place, unit and rule.
    disabled: Vec<(String, UnitPath, ObjectId)>,
}

struct User {
    addresses: Vec<String>,
    unit: UnitPath,
}

impl People {
    /// Those that are written in the object itself, and those that its LDAP server has beside them.
    pub fn read(
        (given, namespace): (&DirectorySpec, &str),
        ldap: Option<&Snapshot>,
        own: &[Domain],
        findings: &mut Findings,
    ) -> Self {
        let DirectorySpec { gateway_ref: _, units, users, groups, ldap: from, unknown_senders } = given;
        let partial = from.is_some() && ldap.is_none();
        let mut people = Self { unknown_senders: *unknown_senders, partial, ..Self::default() };
        for (at, spec::Unit { path, disabled_rules }) in units.iter().enumerate() {
            let place = format!("spec.units[{at}]");
            let Some(path) = findings.ok(unit(&format!("{place}.path"), path)) else { continue };
            for (at, rule) in disabled_rules.iter().enumerate() {
                let place = format!("{place}.disabledRules[{at}]");
                let read = rule_name(namespace, rule)
                    .ok_or_else(|| Problem::invalid(place.as_str(), checks::RULE_NAME));
                people.disabled.extend(findings.ok(read).map(|rule| (place, path.clone(), rule)));
            }
            if !people.units.insert(path) {
                findings.invalid(&format!("{place}.path"), "this unit is given twice");
            }
        }
        for (at, spec::User { address: main, aliases, unit: path }) in users.iter().enumerate() {
            let place = format!("spec.users[{at}]");
            let path = findings.ok(unit(&format!("{place}.unit"), path)).unwrap_or_default();
            let own = (format!("{place}.address"), main);
            let others =
                aliases.iter().enumerate().map(|(n, alias)| (format!("{place}.aliases[{n}]"), alias));
            let mut addresses = Vec::new();
            for (place, text) in std::iter::once(own).chain(others) {
                let Some(read) = findings.ok(address(&place, text)) else { continue };
                addresses.push((place, read.folded()));
            }
            people.add_user(addresses, path, findings);
        }
        for (at, spec::Group { address: main, members }) in groups.iter().enumerate() {
            let place = format!("spec.groups[{at}]");
            let Some(main) = findings.ok(address(&format!("{place}.address"), main)) else { continue };
            let members = members.iter().enumerate().filter_map(|(n, member)| {
                findings.ok(address(&format!("{place}.members[{n}]"), member)).map(|member| member.folded())
            });
            let members = members.collect();
            people.add_group(&format!("{place}.address"), main.folded(), members, findings);
        }
        if let Some(snapshot) = ldap {
            people.add_found(snapshot, findings);
        }
        people.cycles(findings);
        if !partial {
            people.strangers(own, findings);
        }
        people
    }

    /// Adds those of an LDAP server. What is listed already stays as it is listed.
    fn add_found(&mut self, snapshot: &Snapshot, findings: &mut Findings) {
        let mut twice: BTreeSet<&str> = BTreeSet::new();
        let Snapshot { users, groups, certificates: _ } = snapshot;
        for user in users {
            let Found { address, aliases, unit: _ } = user;
            let all = std::iter::once(address).chain(aliases);
            let (known, new): (Vec<&String>, Vec<&String>) = all.partition(|address| self.knows(address));
            twice.extend(known.into_iter().map(String::as_str));
            let new: Vec<_> = new.into_iter().map(|new| ("spec.ldap".to_owned(), new.clone())).collect();
            if !new.is_empty() {
                self.add_user(new, user.unit(), findings);
            }
        }
        for Group { address, members } in groups {
            if self.knows(address) {
                twice.insert(address);
                continue;
            }
            self.add_group("spec.ldap", address.clone(), members.iter().cloned().collect(), findings);
        }
        if !twice.is_empty() {
            let (shown, more) = (twice.iter().take(NAMED).copied(), twice.len().saturating_sub(NAMED));
            let shown = shown.collect::<Vec<_>>().join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let message = format!("listed here and in LDAP, where the list counts: {shown}{more}");
            let kind = ConditionType::Accepted;
            findings.push(Problem::new("spec.ldap", Reason::NotUsed, message, kind).warning());
        }
    }

    fn knows(&self, address: &str) -> bool {
        self.owners.contains_key(address) || self.groups.contains_key(address)
    }

    /// Addresses come with the place they are written at.
    fn add_user(&mut self, addresses: Vec<(String, String)>, unit: UnitPath, findings: &mut Findings) {
        let number = self.users.len();
        let mut own = Vec::new();
        for (place, address) in addresses {
            match self.owners.get(&address) {
                // A user who is her own alias is no mistake.
                Some(owner) if *owner == number => {}
                Some(_) => findings.invalid(&place, format!("{address} is given twice")),
                None => {
                    self.owners.insert(address.clone(), number);
                    own.push(address);
                }
            }
        }
        self.users.push(User { addresses: own, unit });
    }

    fn add_group(
        &mut self,
        place: &str,
        address: String,
        members: BTreeSet<String>,
        findings: &mut Findings,
    ) {
        if self.owners.contains_key(&address) || self.groups.contains_key(&address) {
            findings.invalid(place, format!("{address} is given twice"));
            return;
        }
        self.groups.insert(address, members);
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.owners.len() + self.groups.len()
    }

    pub fn groups(&self) -> BTreeSet<String> {
        self.groups.keys().cloned().collect()
    }

    pub fn units(&self) -> BTreeSet<UnitPath> {
        self.units.iter().cloned().chain(self.users.iter().map(|user| user.unit.clone())).collect()
    }

    pub fn disabled(&self) -> impl Iterator<Item = (&str, &UnitPath, &ObjectId)> {
        self.disabled.iter().map(|(place, unit, rule)| (place.as_str(), unit, rule))
    }

    /// One record for each address, with those of `named` groups that it is in, directly or through others.
    pub fn accounts(&self, named: &BTreeSet<String>) -> Vec<Account> {
        let mut memberships: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for group in named.iter().filter(|group| self.groups.contains_key(*group)) {
            for member in self.members(group) {
                memberships.entry(member).or_default().insert(group);
            }
        }
        let groups_of = |address: &str| {
            let groups = memberships.get(address).into_iter().flatten();
            groups.map(|group| (*group).to_owned()).collect()
        };
        let users = self.users.iter().flat_map(|user| {
            user.addresses.iter().map(|address| (address, AccountKind::User(user.unit.clone())))
        });
        let groups = self.groups.keys().map(|address| (address, AccountKind::Group));
        let mut accounts: Vec<Account> = users
            .chain(groups)
            .map(|(address, kind)| Account { address: address.clone(), kind, groups: groups_of(address) })
            .collect();
        accounts.sort_by(|a, b| a.address.cmp(&b.address));
        accounts
    }

    /// Every address that is in a group: of users all their addresses, and groups on the way.
    fn members<'a>(&'a self, group: &'a str) -> BTreeSet<&'a str> {
        let mut found: BTreeSet<&str> = BTreeSet::new();
        let mut open = vec![group];
        // What was seen is not opened again, so cycles end.
        while let Some(next) = open.pop() {
            for member in self.groups.get(next).into_iter().flatten() {
                if let Some(owner) = self.owners.get(member) {
                    found.extend(self.users[*owner].addresses.iter().map(String::as_str));
                } else if self.groups.contains_key(member) && member != group && found.insert(member) {
                    open.push(member);
                }
            }
        }
        found
    }

    /// Groups that are members of themselves: they work, but nobody means them (spec R119, E16).
    fn cycles(&self, findings: &mut Findings) {
        let mut told: BTreeSet<&str> = BTreeSet::new();
        let mut done: BTreeSet<&str> = BTreeSet::new();
        for start in self.groups.keys() {
            // A depth-first walk with its path kept by hand: groups may be nested a million deep.
            let mut path: Vec<(&str, Vec<&str>)> = Vec::new();
            let mut on_path: BTreeSet<&str> = BTreeSet::new();
            self.open(start, &mut path, &mut on_path, &done);
            while let Some((group, inner)) = path.last_mut() {
                let group = *group;
                match inner.pop() {
                    Some(next) if on_path.contains(next) => {
                        let from = path.iter().position(|(on, _)| *on == next).unwrap_or(0);
                        let mut cycle: Vec<&str> = path[from..].iter().map(|(on, _)| *on).collect();
                        if cycle.iter().all(|on| told.insert(on)) {
                            cycle.push(next);
                            let shown = cycle.iter().take(10).copied().collect::<Vec<_>>().join(" > ");
                            let message = format!("groups are members of each other: {shown}");
                            let kind = ConditionType::Accepted;
                            let problem = Problem::new("spec.groups", Reason::GroupCycle, message, kind);
                            findings.push(problem.warning());
                        }
                    }
                    Some(next) => self.open(next, &mut path, &mut on_path, &done),
                    None => {
                        path.pop();
                        on_path.remove(group);
                        done.insert(group);
                    }
                }
            }
        }
    }

    fn open<'a>(
        &'a self,
        group: &'a str,
        path: &mut Vec<(&'a str, Vec<&'a str>)>,
        on_path: &mut BTreeSet<&'a str>,
        done: &BTreeSet<&'a str>,
    ) {
        if !done.contains(group) && on_path.insert(group) {
            let inner = self.groups.get(group).into_iter().flatten();
            let inner = inner.filter(|member| self.groups.contains_key(*member)).map(String::as_str);
            path.push((group, inner.collect()));
        }
    }

    /// Members in own domains that are neither users nor groups: they count for no rule.
    fn strangers(&self, own: &[Domain], findings: &mut Findings) {
        let inside = |member: &&String| {
            let address = member.parse::<Mailbox>();
            let domain = address.as_ref().ok().and_then(Mailbox::domain);
            domain.is_some_and(|domain| own.iter().any(|own| domain.is_within(own)))
        };
        let known = |member: &&String| self.owners.contains_key(*member) || self.groups.contains_key(*member);
        let members: BTreeSet<&String> = self.groups.values().flatten().collect();
        let strangers: Vec<&str> =
            members.into_iter().filter(|m| !known(m) && inside(m)).map(String::as_str).collect();
        if let [_, ..] = strangers.as_slice() {
            let shown = strangers.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
            let more = strangers.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let message =
                format!("members that are neither users nor groups here count for no rule: {shown}{more}");
            let kind = ConditionType::Accepted;
            findings.push(Problem::new("spec.groups", Reason::NotUsed, message, kind).warning());
        }
    }
}

/// `RoutingRule/<name>`, or with a namespace before the name.
fn rule_name(namespace: &str, text: &str) -> Option<ObjectId> {
    let (kind, rest) = text.split_once('/')?;
    let kind = match kind {
        "RoutingRule" => ObjectKind::RoutingRule,
        "ComplianceRule" => ObjectKind::ComplianceRule,
        _ => return None,
    };
    let (namespace, name) = rest.split_once('/').unwrap_or((namespace, rest));
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let valid = [namespace, name].iter().all(|part| !part.is_empty() && part.chars().all(fits));
    valid.then(|| ObjectId { kind, namespace: namespace.to_owned(), name: name.to_owned() })
}
