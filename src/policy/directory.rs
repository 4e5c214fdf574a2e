//! Who belongs to the organisation: account type, unit and groups of an address (spec R115-R120).

use std::collections::{HashMap, HashSet};

use crate::bundle::Bundle;
use crate::bundle::document::{
    Account, AccountKind, AccountType, Directory, ObjectId, Rule, UnitPath, UnknownSenders,
};
use crate::mail::address::Mailbox;

/// The directory ready for look-ups. Addresses stay where they are in the bundle.
#[derive(Debug)]
pub(super) struct People {
    /// Places in `directory.accounts` in the order of their addresses.
    order: Vec<u32>,
    /// By unit: ranks of the rules that are disabled there and below, sorted.
    disabled: HashMap<UnitPath, Vec<usize>>,
    /// Units that some rule or some unit's own record tells apart.
    told_apart: HashSet<UnitPath>,
    root: UnitPath,
}

/// What the directory says of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing<'a> {
    pub account: AccountType,
    pub unit: &'a UnitPath,
    /// Groups it is in, through other groups too; folded, sorted.
    pub groups: &'a [String],
    /// The directory has this address, or there is no directory that could.
    pub known: bool,
}

impl People {
    /// `ranked`: the rules in the order of rank.
    pub fn compile(bundle: &Bundle, ranked: &[&Rule]) -> Self {
        let mut people = Self {
            order: Vec::new(),
            disabled: HashMap::new(),
            told_apart: ranked.iter().map(|rule| rule.unit.clone()).collect(),
            root: UnitPath::default(),
        };
        let Some(directory) = &bundle.directory else { return people };
        let count = u32::try_from(directory.accounts.len()).expect("fewer than 4 billion accounts");
        people.order = (0..count).collect();
        // They come sorted, which makes this one look at each.
        people.order.sort_by(|a, b| at(directory, *a).address.cmp(&at(directory, *b).address));
        let ranks: HashMap<&ObjectId, usize> = match directory.units.iter().any(|u| !u.disabled.is_empty()) {
            true => ranked.iter().enumerate().map(|(rank, rule)| (&rule.origin.object, rank)).collect(),
            false => HashMap::new(),
        };
        for unit in &directory.units {
            let disabled = unit.disabled.iter().filter_map(|rule| ranks.get(rule).copied());
            // A mandatory rule stays in force whatever a unit says (spec R120).
            let disabled: Vec<usize> = disabled.filter(|rank| !ranked[*rank].mandatory).collect();
            if !disabled.is_empty() {
                people.told_apart.insert(unit.path.clone());
                people.disabled.entry(unit.path.clone()).or_default().extend(disabled);
            }
        }
        people
    }

    /// An own address. The directory's silence makes a sender a user of the root, a recipient unrecognized;
    /// without a directory everybody is a user of the root.
    pub fn own<'a>(&'a self, bundle: &'a Bundle, mailbox: &Mailbox, recipient: bool) -> Standing<'a> {
        let Some(directory) = &bundle.directory else { return self.outsider() };
        let folded = mailbox.folded();
        let found = self.order.binary_search_by(|place| at(directory, *place).address.as_str().cmp(&folded));
        match found.map(|found| at(directory, self.order[found])) {
            Ok(Account { kind: AccountKind::User(unit), groups, .. }) => {
                Standing { account: AccountType::Users, unit, groups, known: true }
            }
            Ok(Account { kind: AccountKind::Group, groups, .. }) => {
                Standing { account: AccountType::Groups, unit: &self.root, groups, known: true }
            }
            Err(_) => {
                let account = if recipient { AccountType::Unrecognized } else { AccountType::Users };
                Standing { account, unit: &self.root, groups: &[], known: false }
            }
        }
    }

    /// Somebody the directory is not asked about: a foreign sender of outgoing mail counts as a user of the
    /// root, so that the organisation's rules apply to what leaves through its gateway.
    pub fn outsider(&self) -> Standing<'_> {
        Standing { account: AccountType::Users, unit: &self.root, groups: &[], known: true }
    }

    /// The nearest unit at or above this one that anything depends on: units that nothing tells apart share it.
    pub fn told_apart<'a>(&'a self, unit: &'a UnitPath) -> &'a UnitPath {
        ancestors(unit).find_map(|path| self.told_apart.get(&path)).unwrap_or(&self.root)
    }

    /// Ranks of the rules that do not apply in this unit, sorted.
    pub fn disabled_in(&self, unit: &UnitPath) -> Vec<usize> {
        let mut ranks: Vec<usize> = Vec::new();
        if !self.disabled.is_empty() {
            ranks.extend(ancestors(unit).filter_map(|path| self.disabled.get(&path)).flatten());
            ranks.sort_unstable();
        }
        ranks
    }
}

/// The unit itself, then those above it up to the root.
fn ancestors(unit: &UnitPath) -> impl Iterator<Item = UnitPath> + '_ {
    let path = unit.0.trim_end_matches('/');
    let cuts = path.char_indices().rev().filter(|(at, c)| *c == '/' && *at > 0).map(|(at, _)| at);
    let above =
        std::iter::once(path.len()).chain(cuts).map(move |at| &path[..at]).filter(|path| !path.is_empty());
    above.chain(std::iter::once("/")).map(|path| UnitPath(path.to_owned()))
}

fn at(directory: &Directory, place: u32) -> &Account {
    &directory.accounts[place as usize]
}

/// Whether an own sender that nobody knows is turned away.
pub(super) fn refuses_unknown(bundle: &Bundle) -> bool {
    bundle.directory.as_ref().is_some_and(|directory| directory.unknown_senders == UnknownSenders::Refuse)
}
