//! Tests of addresses, each made once for all rules that ask it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bundle::document::AddressFilter;
use crate::mail::address::{Host, Mailbox};
use crate::policy::compile::Policy;
use crate::policy::pattern::{self, Pattern, PatternError};

/// A test by its number, as a rule holds it.
#[derive(Debug, Clone, Copy)]
pub(in crate::policy) struct AddressCode {
    test: usize,
    /// By membership of groups: meaningful at one end of a message only.
    pub by_groups: bool,
}

impl AddressCode {
    /// Whether the filter keeps the rule from applying. `right_end`: groups may be asked about this end.
    /// `uncertain`: membership cannot be told.
    pub fn misses(self, facts: &Facts, right_end: bool, uncertain: bool) -> bool {
        if self.by_groups {
            return !right_end || (!uncertain && !facts.holds(self.test));
        }
        !facts.holds(self.test)
    }
}

/// What holds of one address: numbers of tests and of address lists, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(in crate::policy) struct Facts {
    tests: Vec<usize>,
    lists: Vec<usize>,
}

impl Facts {
    fn holds(&self, test: usize) -> bool {
        self.tests.binary_search(&test).is_ok()
    }

    pub fn listed(&self, list: usize) -> bool {
        self.lists.binary_search(&list).is_ok()
    }
}

/// The tests that rules make of one end of the envelope. Equal ones are one.
#[derive(Debug, Default)]
pub(in crate::policy) struct Tests {
    count: usize,
    addresses: HashMap<String, usize>,
    patterns: Vec<(usize, Arc<Pattern>)>,
    /// By text, the place in `patterns`.
    written: HashMap<String, usize>,
    /// By group, the tests that name it.
    groups: HashMap<String, Vec<usize>>,
    group_tests: HashMap<Vec<String>, usize>,
    /// Filters that cannot be read: every address could fulfil them (broken rules only).
    unreadable: Vec<usize>,
    /// Address lists that some rule looks this end up in.
    lists: Vec<usize>,
}

impl Tests {
    /// `lenient`: the rule is broken, so a mistake is no surprise. `before`: patterns that were compiled there are
    /// not compiled again.
    pub fn add(
        &mut self,
        filter: &AddressFilter,
        lenient: bool,
        before: Option<&Tests>,
    ) -> Result<AddressCode, PatternError> {
        let next = self.count;
        let mut by_groups = false;
        let test = match filter {
            AddressFilter::Address(mailbox) => *self.addresses.entry(mailbox.folded()).or_insert(next),
            AddressFilter::Groups(groups) => {
                by_groups = true;
                let known = *self.group_tests.entry(groups.clone()).or_insert(next);
                if known == next {
                    for group in groups {
                        self.groups.entry(group.clone()).or_default().push(next);
                    }
                }
                known
            }
            AddressFilter::Pattern(written) => {
                let compiled = || match before.and_then(|before| before.pattern(written)) {
                    Some(known) => Ok(known),
                    None => pattern::compile_whole(written).map(Arc::new),
                };
                match self.written.get(written) {
                    Some(place) => self.patterns[*place].0,
                    None => match compiled() {
                        Ok(pattern) => {
                            self.written.insert(written.clone(), self.patterns.len());
                            self.patterns.push((next, pattern));
                            next
                        }
                        Err(_) if lenient => {
                            self.unreadable.push(next);
                            next
                        }
                        Err(error) => return Err(error),
                    },
                }
            }
        };
        self.count = self.count.max(test + 1);
        Ok(AddressCode { test, by_groups })
    }

    fn pattern(&self, written: &str) -> Option<Arc<Pattern>> {
        self.written.get(written).map(|place| self.patterns[*place].1.clone())
    }

    pub fn add_lists(&mut self, lists: &[usize]) {
        for list in lists {
            if !self.lists.contains(list) {
                self.lists.push(*list);
            }
        }
    }

    /// What holds of an address; `None` is the null sender. `groups`: those it is in.
    pub fn facts(&self, policy: &Policy, mailbox: Option<&Mailbox>, groups: &[String]) -> Facts {
        let mut tests = self.unreadable.clone();
        tests.extend(groups.iter().filter_map(|group| self.groups.get(group)).flatten());
        if let Some(mailbox) = mailbox.filter(|_| !self.addresses.is_empty()) {
            tests.extend(self.addresses.get(&mailbox.folded()));
        }
        if !self.patterns.is_empty() {
            let spellings = mailbox.map_or_else(|| vec![String::new()], spellings);
            let fits = |pattern: &Pattern| spellings.iter().any(|spelling| pattern.is_match(spelling));
            tests.extend(self.patterns.iter().filter(|(_, pattern)| fits(pattern)).map(|(test, _)| test));
        }
        tests.sort_unstable();
        tests.dedup();
        let listed = |list: &usize| {
            mailbox.is_some_and(|mailbox| policy.bundle().lists[*list].entries.contains(mailbox))
        };
        let mut lists: Vec<usize> = self.lists.iter().copied().filter(listed).collect();
        lists.sort_unstable();
        Facts { tests, lists }
    }
}

/// An address as a pattern may mean it: as written, its domain in ASCII, its domain in Unicode.
fn spellings(mailbox: &Mailbox) -> Vec<String> {
    let mut spellings = vec![mailbox.to_string()];
    if let Host::Domain(domain) = mailbox.host() {
        spellings.push(format!("{}@{}", mailbox.local(), domain.ascii()));
        let (unicode, _) = idna::domain_to_unicode(domain.ascii());
        spellings.push(format!("{}@{unicode}", mailbox.local()));
    }
    spellings.dedup();
    spellings
}
