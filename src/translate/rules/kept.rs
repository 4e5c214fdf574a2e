//! What earlier passes made of rules that were fine. A rule is translated again when it changed itself, when a
//! ConfigMap it names did, or when what all rules are held against did (the gateway, the names of routes and where
//! they lead, lists, quarantines, the directory). A rule with a problem is always looked at again.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::named::Known;
use super::remarks::{Facts, hosts};
use crate::api::{ComplianceRule, RoutingRule};
use crate::bundle::document::{ObjectName, Rule};
use crate::mail::envelope::RouteName;
use crate::translate::directory::Census;
use crate::translate::order::Pass;
use crate::translate::problem::Outcome;
use crate::translate::resources::{ConfigMapFacts, ObjectKey};

#[derive(Default)]
pub struct Kept {
    around: Option<Around>,
    /// By the address of the object, which is kept so that no other one can stand there.
    rules: HashMap<usize, Entry>,
    translated: u64,
}

/// What every rule is held against.
#[derive(PartialEq)]
struct Around {
    gateway: ObjectKey,
    facts: Facts,
    routes: BTreeMap<RouteName, Vec<String>>,
    /// By list: whether some entry counts without authentication.
    lists: BTreeMap<ObjectName, bool>,
    quarantines: BTreeSet<ObjectName>,
    census: Census,
}

impl Around {
    fn of(pass: &Pass<'_>, known: &Known<'_>) -> Self {
        let open = |list: &crate::bundle::document::AddressList| {
            list.entries.shards.iter().any(|shard| !shard.unauthenticated.is_empty())
        };
        Self {
            gateway: pass.gateway.clone(),
            facts: pass.facts.clone(),
            routes: known.routes.iter().map(|(name, route)| (name.clone(), hosts(route))).collect(),
            lists: known.lists.iter().map(|(name, list)| (name.clone(), open(list))).collect(),
            quarantines: known.quarantines.clone(),
            census: known.census.clone(),
        }
    }
}

/// Uid and version of a ConfigMap; `None`: it is not there.
type Version = Option<(String, String)>;

struct Entry {
    /// Holds the address.
    _object: Arc<dyn Any + Send + Sync>,
    /// Versions of the ConfigMaps it names.
    maps: Vec<Version>,
    record: Option<Arc<Rule>>,
    outcome: Outcome,
}

/// An object that becomes a rule.
pub trait Ruled: Any + Send + Sync {
    /// The ConfigMaps it names, in its own namespace.
    fn maps(&self) -> impl Iterator<Item = &str>;
    fn namespace(&self) -> &str;
}

impl Ruled for RoutingRule {
    fn maps(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }

    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
}

impl Ruled for ComplianceRule {
    fn maps(&self) -> impl Iterator<Item = &str> {
        self.spec.matches.words_from.iter().map(|from| from.config_map_ref.name.as_str())
    }

    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
}

/// One pass under way: what it meets stays, the rest is forgotten.
pub struct Round<'k> {
    kept: &'k mut Kept,
    next: HashMap<usize, Entry>,
}

impl Kept {
    pub fn begin(&mut self, pass: &Pass<'_>, known: &Known<'_>) -> Round<'_> {
        let around = Around::of(pass, known);
        if self.around.as_ref() != Some(&around) {
            self.rules.clear();
            self.around = Some(around);
        }
        Round { next: HashMap::with_capacity(self.rules.len()), kept: self }
    }

    /// How many rules were translated so far.
    pub fn translated(&self) -> u64 {
        self.translated
    }
}

impl Round<'_> {
    /// The record of a rule and its outcome: as known, or made by `translate`.
    pub fn rule<K: Ruled>(
        &mut self,
        pass: &Pass<'_>,
        object: &Arc<K>,
        outcomes: &mut Vec<Outcome>,
        translate: impl FnOnce(&mut Vec<Outcome>) -> Option<Arc<Rule>>,
    ) -> Option<Arc<Rule>> {
        let address = Arc::as_ptr(object).addr();
        let version = |map: &ConfigMapFacts| (map.uid.clone(), map.resource_version.clone());
        let maps = object.maps().map(|name| {
            pass.resources.config_maps.get(&ObjectKey::new(object.namespace(), name)).map(version)
        });
        let maps: Vec<Version> = maps.collect();
        if let Some(entry) = self.kept.rules.remove(&address).filter(|entry| entry.maps == maps) {
            outcomes.push(entry.outcome.clone());
            let record = entry.record.clone();
            self.next.insert(address, entry);
            return record;
        }
        self.kept.translated += 1;
        let record = translate(outcomes);
        if let Some(outcome) = outcomes.last().filter(|outcome| outcome.problems.is_empty()) {
            let outcome = outcome.clone();
            self.next
                .insert(address, Entry { _object: object.clone(), maps, record: record.clone(), outcome });
        }
        record
    }

    pub fn end(self) {
        self.kept.rules = self.next;
    }
}
