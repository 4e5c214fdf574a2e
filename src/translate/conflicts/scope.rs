//! Which messages a rule is for, compared: whether two rules can meet, and whether one covers another.

use std::cell::OnceCell;
use std::collections::HashMap;

use crate::bundle::document::{AddressFilter, Rule};
use crate::mail::address::Mailbox;
use crate::policy::pattern::{self, Pattern};

/// The rules of a bundle in the order of rank, arranged so that those that can meet are found without looking
/// at every pair.
pub(super) struct Scopes<'a> {
    rules: &'a [&'a Rule],
    by_sender: Index,
    by_recipient: Index,
    patterns: Vec<[OnceCell<Option<Pattern>>; 2]>,
}

/// Rules by the one address they name; the others could be about any.
#[derive(Default)]
struct Index {
    named: HashMap<String, Vec<usize>>,
    any: Vec<usize>,
}

impl Index {
    fn new<'a>(filters: impl Iterator<Item = &'a Option<AddressFilter>>) -> Self {
        let mut index = Self::default();
        for (rank, filter) in filters.enumerate() {
            match filter {
                Some(AddressFilter::Address(mailbox)) => {
                    index.named.entry(mailbox.folded()).or_default().push(rank);
                }
                _ => index.any.push(rank),
            }
        }
        index
    }

    /// Ranks of the rules that could be about the same address, if the filter names one.
    fn peers(&self, filter: &Option<AddressFilter>) -> Option<Vec<usize>> {
        let Some(AddressFilter::Address(mailbox)) = filter else { return None };
        let named = self.named.get(&mailbox.folded()).into_iter().flatten();
        let mut peers: Vec<usize> = named.chain(&self.any).copied().collect();
        peers.sort_unstable();
        Some(peers)
    }
}

/// Whether some message could be for both, as far as no pattern has to be tried.
pub(super) fn could_meet(one: &Rule, other: &Rule) -> bool {
    let filters = |one: &Option<AddressFilter>, other: &Option<AddressFilter>| match (one, other) {
        (Some(AddressFilter::Address(x)), Some(AddressFilter::Address(y))) => x.folded() == y.folded(),
        _ => true,
    };
    one.messages.iter().any(|direction| other.messages.contains(direction))
        && one.accounts.iter().any(|account| other.accounts.contains(account))
        && (one.unit.is_within(&other.unit) || other.unit.is_within(&one.unit))
        && filters(&one.envelope.senders, &other.envelope.senders)
        && filters(&one.envelope.recipients, &other.envelope.recipients)
}

impl<'a> Scopes<'a> {
    pub fn new(rules: &'a [&'a Rule]) -> Self {
        Self {
            rules,
            by_sender: Index::new(rules.iter().map(|rule| &rule.envelope.senders)),
            by_recipient: Index::new(rules.iter().map(|rule| &rule.envelope.recipients)),
            patterns: rules.iter().map(|_| Default::default()).collect(),
        }
    }

    /// Whether the rule has no conditions on content or address lists.
    pub fn is_blanket(&self, rank: usize) -> bool {
        self.rules[rank].content.is_none() && self.rules[rank].lists.is_none()
    }

    /// Rules worth a look, in the order of rank.
    pub fn may_meet(&self, rank: usize) -> impl Iterator<Item = usize> + use<> {
        let envelope = &self.rules[rank].envelope;
        let by_recipient = self.by_recipient.peers(&envelope.recipients);
        let by_sender = self.by_sender.peers(&envelope.senders);
        let fewest = match (by_recipient, by_sender) {
            (Some(a), Some(b)) => {
                if a.len() < b.len() {
                    a
                } else {
                    b
                }
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => (0..self.rules.len()).collect(),
        };
        fewest.into_iter()
    }

    /// Whether some message could be for both.
    pub fn meet(&self, a: usize, b: usize) -> bool {
        let (one, other) = (self.rules[a], self.rules[b]);
        could_meet(one, other)
            && self.filters_meet(a, b, 0, &one.envelope.senders, &other.envelope.senders)
            && self.filters_meet(a, b, 1, &one.envelope.recipients, &other.envelope.recipients)
    }

    fn filters_meet(
        &self,
        a: usize,
        b: usize,
        side: usize,
        one: &Option<AddressFilter>,
        other: &Option<AddressFilter>,
    ) -> bool {
        use AddressFilter::{Address, Pattern};
        match (one, other) {
            (Some(Address(x)), Some(Address(y))) => x.folded() == y.folded(),
            (Some(Address(x)), Some(Pattern(text))) => self.matches(b, side, text, x),
            (Some(Pattern(text)), Some(Address(x))) => self.matches(a, side, text, x),
            // Two patterns, groups, or no filter: nothing says that they exclude each other.
            _ => true,
        }
    }

    fn matches(&self, rank: usize, side: usize, text: &str, mailbox: &Mailbox) -> bool {
        let pattern = self.patterns[rank][side].get_or_init(|| pattern::compile_whole(text).ok());
        pattern.as_ref().is_none_or(|pattern| pattern.is_match(&mailbox.to_string()))
    }

    /// Whether every message that `inner` could match is one that `outer` matches.
    pub fn covers(&self, outer: usize, inner: usize) -> bool {
        let (out, inside) = (self.rules[outer], self.rules[inner]);
        let same = |a: &Option<AddressFilter>, b: &Option<AddressFilter>| a.is_none() || a == b;
        // A unit below may disable a rule, unless it is mandatory.
        let fixed = out.mandatory || out.unit == inside.unit;
        self.is_blanket(outer)
            && fixed
            && inside.unit.is_within(&out.unit)
            && inside.messages.iter().all(|direction| out.messages.contains(direction))
            && inside.accounts.iter().all(|account| out.accounts.contains(account))
            && same(&out.envelope.senders, &inside.envelope.senders)
            && same(&out.envelope.recipients, &inside.envelope.recipients)
    }
}
