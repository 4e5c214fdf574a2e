//! Address lists that narrow a rule or exempt from it (spec R108-R113).
//!
//! A recipient is looked up as it stands in the envelope. A sender is looked up by From, never by the
//! return path, and counts only when SPF or DKIM vouch for its domain, unless the entry waives that.

use std::collections::HashMap;

use super::compile::Policy;
use super::verdict::Transaction;
use crate::bundle::document::{Listed, ObjectName};
use crate::mail::address::{Domain, Mailbox};
use crate::mail::message::Message;

/// The lists of one rule.
#[derive(Debug)]
pub(super) struct ListCode {
    pub bypass: bool,
    /// Always the recipient, whichever way the message goes.
    pub recipient_only: bool,
    /// In `bundle.lists`.
    pub lists: Vec<usize>,
}

/// The message's From, and what each list says of it, once asked for.
pub(super) struct Senders<'a> {
    policy: &'a Policy,
    transaction: &'a Transaction<'a>,
    from: Vec<Mailbox>,
    /// Something in From cannot be read as an address, so nothing can be said of all of it.
    unreadable: bool,
    by_list: HashMap<usize, Vec<bool>>,
}

impl<'a> Senders<'a> {
    pub fn new(policy: &'a Policy, transaction: &'a Transaction<'a>, message: &Message<'_>) -> Self {
        let mut senders =
            Self { policy, transaction, from: Vec::new(), unreadable: false, by_list: HashMap::new() };
        for field in message.all("from") {
            let line = [field.raw, b"\n"].concat();
            let value = mail_parser::parsers::MessageStream::new(&line).parse_address();
            let Some(list) = value.as_address() else {
                senders.unreadable = true;
                continue;
            };
            for one in list.iter() {
                match one.address().and_then(|address| address.parse().ok()) {
                    Some(mailbox) => senders.from.push(mailbox),
                    None => senders.unreadable = true,
                }
            }
        }
        senders
    }

    pub fn from(&self) -> &[Mailbox] {
        &self.from
    }

    /// The list that every From address stands in, any of the rule's lists for each: one unlisted author
    /// ends an exemption.
    pub fn all_listed(&mut self, lists: &[usize]) -> Option<usize> {
        if self.from.is_empty() || self.unreadable {
            return None;
        }
        self.look_up(lists);
        let first = |at: usize| lists.iter().copied().find(|list| self.by_list[list][at]);
        let found: Option<Vec<usize>> = (0..self.from.len()).map(first).collect();
        found.and_then(|found| found.first().copied())
    }

    /// Whether some From address stands in one of the lists: one listed author is enough for a rule to apply.
    pub fn any_listed(&mut self, lists: &[usize]) -> bool {
        self.look_up(lists);
        lists.iter().any(|list| self.by_list[list].contains(&true))
    }

    fn look_up(&mut self, lists: &[usize]) {
        for list in lists {
            let (policy, transaction, from) = (self.policy, self.transaction, &self.from);
            self.by_list.entry(*list).or_insert_with(|| {
                let entries = &policy.bundle().lists[*list].entries;
                let counts = |mailbox: &Mailbox| match entries.find(mailbox) {
                    Some(Listed::Always) => true,
                    Some(Listed::IfAuthenticated) => aligned(mailbox, transaction.authenticated),
                    None => false,
                };
                from.iter().map(counts).collect()
            });
        }
    }
}

/// Whether one of the domains vouched for is the From domain, or one lies within the other: what stands in for
/// "the same organisational domain" without a list of public suffixes. A domain of one label vouches for nobody.
pub(super) fn aligned(from: &Mailbox, authenticated: &[Domain]) -> bool {
    let Some(from) = from.domain() else { return false };
    authenticated.iter().any(|domain| {
        domain.ascii().contains('.')
            && from.ascii().contains('.')
            && (from.is_within(domain) || domain.is_within(from))
    })
}

/// The name of a list, for traces.
pub(super) fn name(policy: &Policy, list: usize) -> ObjectName {
    let object = &policy.bundle().lists[list].origin.object;
    ObjectName { namespace: object.namespace.clone(), name: object.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r113_a_sender_is_vouched_for_by_its_own_organisation_only() {
        let aligned =
            |from: &str, vouched: &str| aligned(&from.parse().unwrap(), &[vouched.parse().unwrap()]);
        for (from, vouched, expected) in [
            ("a@partner.example", "partner.example", true),
            ("a@mail.partner.example", "Partner.example", true),
            ("a@partner.example", "bounces.partner.example", true),
            ("a@partner.example", "other.example", false),
            ("a@partner.example", "notpartner.example", false),
            ("a@partner.example", "example", false),
            ("a@[192.0.2.1]", "partner.example", false),
        ] {
            assert_eq!(aligned(from, vouched), expected, "{from} {vouched}");
        }
    }
}
