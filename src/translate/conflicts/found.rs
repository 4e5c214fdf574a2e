//! What was found of rules in each other's way, remembered: after a change only those rules are looked at again
//! that the changed ones could meet, as they were or as they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Field, scope};
use crate::bundle::document::{Action, Bundle, Rule};
use crate::mail::address::Domain;
use crate::mail::envelope::RouteName;
use crate::translate::problem::Problem;

/// With more changed rules than that, looking at everything costs less than telling what may stay.
const MANY: usize = 64;

#[derive(Default)]
pub struct Found {
    around: Option<Around>,
    /// By the address of the rule, which is kept so that no other one can stand there.
    rules: HashMap<usize, (Arc<Rule>, Vec<Problem>)>,
    compared: u64,
}

/// What all rules are held against.
#[derive(PartialEq)]
struct Around {
    domains: Vec<Domain>,
    message_size: u64,
    /// Routes, and whether they require TLS.
    routes: Vec<(RouteName, bool)>,
}

fn address(rule: &Arc<Rule>) -> usize {
    Arc::as_ptr(rule).addr()
}

impl Found {
    /// How many rules were looked at so far.
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// What is said of `rules`, in their order, which is that of rank; `look` says it of one.
    pub(super) fn renew<'r>(
        &mut self,
        bundle: &Bundle,
        rules: &[&'r Arc<Rule>],
        look: impl Fn(usize) -> Vec<Problem>,
    ) -> Vec<(&'r Arc<Rule>, Problem)> {
        let around = Around {
            domains: bundle.gateway.domains.clone(),
            message_size: bundle.gateway.limits.message_size,
            routes: bundle.routes.iter().map(|route| (route.name(), route.tls.require)).collect(),
        };
        if self.around.as_ref() != Some(&around) {
            self.rules.clear();
            self.around = Some(around);
        }
        let stay: HashSet<usize> = rules.iter().map(|rule| address(rule)).collect();
        let gone =
            self.rules.iter().filter(|(address, _)| !stay.contains(address)).map(|(_, (rule, _))| rule);
        let new = rules.iter().copied().filter(|rule| !self.rules.contains_key(&address(rule)));
        let changed: Vec<Arc<Rule>> = gone.chain(new).cloned().collect();
        let mut next = HashMap::with_capacity(rules.len());
        let mut said = Vec::new();
        for (rank, rule) in rules.iter().enumerate() {
            let known = self
                .rules
                .remove(&address(rule))
                .filter(|_| changed.len() <= MANY && !changed.iter().any(|other| could_matter(other, rule)));
            let problems = match known {
                Some((_, problems)) => problems,
                None => {
                    self.compared += 1;
                    look(rank)
                }
            };
            said.extend(problems.iter().cloned().map(|problem| (*rule, problem)));
            next.insert(address(rule), ((*rule).clone(), problems));
        }
        self.rules = next;
        said
    }
}

/// Whether what is said of `rule` could hang on `other`: no only if that is certain.
fn could_matter(other: &Rule, rule: &Rule) -> bool {
    match (&other.action, &rule.action) {
        (Action::Reject(_), _) => other.content.is_none() && other.lists.is_none(),
        (Action::Quarantine(_), _) => false,
        (Action::Modify(theirs), Action::Modify(own)) => {
            let fields = [Field::Route, Field::Recipient];
            fields.iter().any(|field| field.is_set(theirs) && field.is_set(own))
                && scope::could_meet(other, rule)
        }
        (Action::Modify(_), _) => false,
    }
}
