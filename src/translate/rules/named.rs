//! What rules name: routes, address lists, quarantines, groups and units; and what becomes of a rule whose
//! names lead nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::DEFAULT_QUARANTINE;
use crate::api::conditions::Reason;
use crate::bundle::document::{
    Action, AddressFilter, AddressList, ChangeRoute, Modify, ObjectId, ObjectKind, ObjectName, Quarantine,
    Route, Rule,
};
use crate::mail::envelope::RouteName;
use crate::translate::directory::Census;
use crate::translate::order::Pass;
use crate::translate::problem::{Findings, Problem};
use crate::translate::resources::ObjectKey;

/// Everything of this gateway that a rule can name.
pub struct Known<'a> {
    pub routes: BTreeMap<RouteName, &'a Route>,
    pub lists: BTreeMap<ObjectName, &'a AddressList>,
    pub quarantines: BTreeSet<ObjectName>,
    pub census: &'a Census,
}

/// Names of one rule that lead nowhere.
#[derive(Default)]
pub struct Missing {
    /// Where such a rule would decide the way, mail waits.
    routes: Vec<Problem>,
    /// Without these nobody can say what the rule matches.
    scope: Vec<Problem>,
}

impl Missing {
    pub fn is_nothing(&self) -> bool {
        self.routes.is_empty() && self.scope.is_empty()
    }

    pub fn only_routes(&self) -> bool {
        self.scope.is_empty()
    }

    /// `waits`: there is no form of the rule that could be used instead.
    pub fn into_problems(self, waits: bool) -> impl Iterator<Item = Problem> {
        let routes = self.routes.into_iter().map(move |mut problem| {
            if waits {
                problem.message += "; mail that should take it waits";
            }
            problem
        });
        routes.chain(self.scope)
    }
}

impl<'a> Known<'a> {
    pub fn new(
        routes: &'a [Route],
        lists: &'a [AddressList],
        quarantines: &[Quarantine],
        census: &'a Census,
    ) -> Self {
        let name =
            |object: &ObjectId| ObjectName { namespace: object.namespace.clone(), name: object.name.clone() };
        Self {
            routes: routes.iter().map(|route| (route.name(), route)).collect(),
            lists: lists.iter().map(|list| (name(&list.origin.object), list)).collect(),
            quarantines: quarantines.iter().map(|quarantine| name(&quarantine.origin.object)).collect(),
            census,
        }
    }

    /// Names of `rule` that lead nowhere, and that it cannot do without.
    pub fn missing(&self, pass: &Pass<'_>, rule: &Rule) -> Missing {
        let mut missing = Missing::default();
        if let Action::Modify(modify) = &rule.action {
            for (path, route) in ways(modify) {
                let (ChangeRoute::To(name) | ChangeRoute::Missing(name)) = route;
                if !self.routes.contains_key(name) {
                    missing.routes.push(pass.route_not_found(&path, name));
                }
            }
        }
        for name in rule.lists.iter().flat_map(|lists| &lists.names) {
            if !self.lists.contains_key(name) {
                let key = ObjectKey::new(&name.namespace, &name.name);
                let message = pass.why_not(ObjectKind::AddressList, &key);
                let path = "spec.addressLists.names";
                missing.scope.push(Problem::reference(path, Reason::ListNotFound, message));
            }
        }
        for (field, filter) in
            [("senders", &rule.envelope.senders), ("recipients", &rule.envelope.recipients)]
        {
            let Some(AddressFilter::Groups(groups)) = filter else { continue };
            let path = format!("spec.envelope.{field}.groups");
            missing.scope.extend(groups.iter().filter_map(|group| self.census.lacks(&path, group)));
        }
        missing
    }

    /// Looks everything up that may have come or gone since the record was made.
    pub fn resolve(&self, rule: &mut Rule, findings: &mut Findings) {
        match &mut rule.action {
            Action::Modify(modify) => ways_mut(modify, |route| {
                let (ChangeRoute::To(name) | ChangeRoute::Missing(name)) = &*route;
                let name = name.clone();
                let there = self.routes.contains_key(&name);
                *route = if there { ChangeRoute::To(name) } else { ChangeRoute::Missing(name) };
            }),
            Action::Quarantine(quarantining) => {
                let named = quarantining.quarantine.take();
                match named {
                    Some(name) if self.quarantines.contains(&name) => quarantining.quarantine = Some(name),
                    Some(name) if name.name != DEFAULT_QUARANTINE => {
                        let path = "spec.action.quarantine.name";
                        let message =
                            format!("there is no Quarantine {name} here; mail is held in `default` instead");
                        findings.push(Problem::reference(path, Reason::QuarantineNotFound, message));
                    }
                    _ => {}
                }
            }
            Action::Reject(_) => {}
        }
        findings.problems.extend(self.census.lacks_unit("spec.organizationalUnit", &rule.unit));
    }

    /// A record for a broken rule: what it names and is not there narrows nothing.
    pub fn widened(&self, mut rule: Rule) -> Rule {
        rule.lists = rule.lists.filter(|lists| lists.names.iter().all(|name| self.lists.contains_key(name)));
        let there = |filter: &AddressFilter| match filter {
            AddressFilter::Groups(groups) => groups.iter().all(|g| self.census.lacks("", g).is_none()),
            AddressFilter::Address(_) | AddressFilter::Pattern(_) => true,
        };
        rule.envelope.senders = rule.envelope.senders.filter(there);
        rule.envelope.recipients = rule.envelope.recipients.filter(there);
        rule
    }
}

/// Every route a rule names, with its place.
pub fn ways(modify: &Modify) -> impl Iterator<Item = (String, &ChangeRoute)> {
    let own = modify.route.iter().map(|route| ("spec.action.modify.route.name".to_owned(), route));
    let copies = modify.add_recipients.iter().enumerate().filter_map(|(at, added)| {
        let path = format!("spec.action.modify.addRecipients[{at}].route.name");
        added.route.as_ref().map(|route| (path, route))
    });
    own.chain(copies)
}

fn ways_mut(modify: &mut Modify, mut change: impl FnMut(&mut ChangeRoute)) {
    modify.route.iter_mut().for_each(&mut change);
    modify.add_recipients.iter_mut().filter_map(|added| added.route.as_mut()).for_each(change);
}

/// The lists that rules name.
pub fn named_lists(rules: &[Arc<Rule>]) -> BTreeSet<ObjectId> {
    let names = rules.iter().filter_map(|rule| rule.lists.as_ref()).flat_map(|lists| &lists.names);
    names
        .map(|ObjectName { namespace, name }| ObjectId {
            kind: ObjectKind::AddressList,
            namespace: namespace.clone(),
            name: name.clone(),
        })
        .collect()
}
