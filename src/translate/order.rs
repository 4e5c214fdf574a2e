//! The pass itself, as a list of steps.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::conflicts;
use super::directory::Census;
use super::gateway;
use super::pattern::Patterns;
use super::problem::{Findings, Outcome, Problem};
use super::resources::{
    Kind, LastGood, Malformed, ObjectKey, Resources, Translation, key, origin, refers_to, target,
};
use super::rules::{Facts, Known};
use super::{address_lists, directory, quarantines, routes, rules};
use crate::api::GatewayRef;
use crate::api::conditions::{ConditionType, Reason};
use crate::bundle::Bundle;
use crate::bundle::document::{
    AddressList, DefaultRoute, Directory, ObjectId, ObjectKind, Origin, Quarantine, Route, Rule,
};
use crate::bundle::material::{Material, MaterialKind, MaterialVersion};
use crate::mail::envelope::RouteName;

/// Decides everything one gateway obeys. Equal input gives equal output, whatever the order of its lists.
pub fn translate(gateway: &ObjectKey, resources: &Resources, last_good: Option<&LastGood>) -> Translation {
    let pass = Pass::new(gateway, resources, last_good);
    let mut outcomes = Vec::new();
    let routes = routes::decide(&pass, &mut outcomes);
    let lists = address_lists::decide(&pass, &mut outcomes);
    let quarantines = quarantines::decide(&pass, &mut outcomes);
    let enrolled = directory::enrol(&pass, &mut outcomes);
    let census = Census::of(&enrolled, &pass);
    let known = Known::new(&routes, &lists, &quarantines, &census);
    let mut memory = resources.memory.lock();
    let rules = rules::decide(&pass, &known, &mut memory.rules, &mut outcomes);
    rules::same_descriptions(&rules, &mut outcomes);
    let directory = directory::settle(enrolled, &rules, &mut outcomes);
    let lists = address_lists::used(lists, &rules::named_lists(&rules), &mut outcomes);
    let names: BTreeSet<RouteName> = routes.iter().map(Route::name).collect();
    let gateway = gateway::decide(&pass, &names, &mut outcomes);
    outcomes.sort_by(|a, b| a.origin.object.cmp(&b.origin.object));
    let Some(gateway) = gateway else {
        return Translation { bundle: None, materials: Vec::new(), outcomes };
    };
    let mut bundle = Bundle { gateway, routes, rules, lists, directory, quarantines };
    bundle.sort();
    let findings = super::published::verdicts(resources, &bundle.gateway, &bundle.routes);
    let own = &bundle.gateway.origin.object;
    if let Ok(at) = outcomes.binary_search_by(|outcome| outcome.origin.object.cmp(own)) {
        outcomes[at].findings = findings;
    }
    for (object, problem) in conflicts::find_again(&bundle, &mut memory.conflicts) {
        if let Ok(at) = outcomes.binary_search_by(|outcome| outcome.origin.object.cmp(&object)) {
            outcomes[at].warnings.push(problem);
        }
    }
    let materials = pass.versions(&bundle);
    Translation { bundle: Some(bundle), materials, outcomes }
}

/// What every step of a pass looks at.
pub(super) struct Pass<'a> {
    pub gateway: &'a ObjectKey,
    pub resources: &'a Resources,
    pub last_good: Option<&'a LastGood>,
    /// Namespaces whose objects may attach.
    allowed: BTreeSet<&'a str>,
    pub patterns: Patterns<'a>,
    /// What rules are held against of the gateway.
    pub facts: Facts,
    last_routes: BTreeMap<&'a ObjectId, &'a Route>,
    /// Put in order when it is asked for: most passes keep most rules as they are.
    last_rules: OnceCell<HashMap<&'a ObjectId, &'a Arc<Rule>>>,
}

/// An object as far as it could be read, on its way to a record.
pub(super) enum Given<'a, K> {
    Read(&'a Arc<K>),
    Malformed(&'a Malformed),
}

/// A record made from an object, and what is wrong with it. With problems it may serve as a broken record
/// only.
pub(super) struct Draft<T> {
    pub record: T,
    pub findings: Findings,
}

impl<'a> Pass<'a> {
    fn new(gateway: &'a ObjectKey, resources: &'a Resources, last_good: Option<&'a LastGood>) -> Self {
        let last_routes = last_good.iter().flat_map(|last| &last.bundle.routes);
        let mut pass = Self {
            gateway,
            resources,
            last_good,
            allowed: BTreeSet::from([gateway.namespace.as_str()]),
            patterns: Patterns::accepted(last_good.map(|last| &last.bundle)),
            facts: Facts::default(),
            last_routes: last_routes.map(|route| (&route.origin.object, route)).collect(),
            last_rules: OnceCell::new(),
        };
        match resources.gateways.iter().find(|object| key(&***object) == *gateway) {
            Some(object) => {
                pass.allowed.extend(object.spec.allowed_namespaces.iter().map(String::as_str));
                pass.facts = Facts::written(&gateway.namespace, &object.spec);
            }
            // The gateway cannot be read: who was in stays in, nobody new gets in.
            None => {
                let rules = last_good.iter().flat_map(|last| &last.bundle.rules);
                let known = pass.last_routes.keys().copied().chain(rules.map(|rule| &rule.origin.object));
                let namespaces: Vec<&'a str> = known.map(|object| object.namespace.as_str()).collect();
                pass.allowed.extend(namespaces);
                pass.facts = Facts::kept(last_good);
            }
        }
        pass
    }

    /// The objects of one kind that refer to this gateway, in the order of their names. Those that may not
    /// attach get their outcome here.
    pub fn attached<K: Kind>(
        &self,
        objects: &'a [Arc<K>],
        reference: impl Fn(&K) -> &GatewayRef,
        outcomes: &mut Vec<Outcome>,
    ) -> Vec<(Origin, Given<'a, K>)> {
        let read = objects.iter().filter_map(|object| {
            let namespace = object.meta().namespace.as_deref().unwrap_or_default();
            refers_to(reference(object), namespace, self.gateway)
                .then(|| (origin(&**object), Given::Read(object)))
        });
        let malformed = self.resources.malformed.iter().filter(|malformed| {
            malformed.object.kind == K::KIND
                && (malformed.gateway() == *self.gateway || self.was_in(&malformed.object))
        });
        let mut attached: Vec<_> = read
            .chain(malformed.map(|malformed| (malformed.origin(), Given::Malformed(malformed))))
            .collect();
        attached.retain(|(origin, _)| {
            let allowed = self.allowed.contains(origin.object.namespace.as_str());
            if !allowed {
                let Origin { object: ObjectId { namespace, .. }, .. } = origin;
                let message = format!(
                    "OutboundGateway {} does not let namespace {namespace} attach: add it to its allowedNamespaces",
                    self.gateway
                );
                let problem = Problem::reference("spec.gatewayRef", Reason::GatewayNotAllowed, message);
                outcomes.push(Outcome { problems: vec![problem], ..Outcome::new(origin.clone()) });
            }
            allowed
        });
        attached.sort_by(|(a, _), (b, _)| a.object.cmp(&b.object));
        attached
    }

    /// The last accepted form of a route, unless its object was made anew since.
    pub fn last_route(&self, origin: &Origin) -> Option<&'a Route> {
        let last = *self.last_routes.get(&origin.object)?;
        (last.origin.uid == origin.uid && last.broken.is_none()).then_some(last)
    }

    fn last_rules(&self) -> &HashMap<&'a ObjectId, &'a Arc<Rule>> {
        self.last_rules.get_or_init(|| {
            let rules = self.last_good.iter().flat_map(|last| &last.bundle.rules);
            rules.map(|rule| (&rule.origin.object, rule)).collect()
        })
    }

    /// The last accepted form of a rule, unless its object was made anew since.
    pub fn last_rule(&self, origin: &Origin) -> Option<&'a Arc<Rule>> {
        let last = *self.last_rules().get(&origin.object)?;
        (last.origin.uid == origin.uid && last.broken.is_none()).then_some(last)
    }

    /// The last accepted form of a list.
    pub fn last_list(&self, origin: &Origin) -> Option<&'a AddressList> {
        let last = self.last_good?.bundle.lists.iter().find(|list| list.origin.object == origin.object)?;
        (last.origin.uid == origin.uid).then_some(last)
    }

    /// The last accepted form of a quarantine.
    pub fn last_quarantine(&self, origin: &Origin) -> Option<&'a Quarantine> {
        let last = self.last_good?.bundle.quarantines.iter().find(|q| q.origin.object == origin.object)?;
        (last.origin.uid == origin.uid).then_some(last)
    }

    /// The last accepted form of the directory.
    pub fn last_directory(&self, origin: &Origin) -> Option<&'a Directory> {
        let last = self.last_good?.bundle.directory.as_ref()?;
        let same = last.origin.object == origin.object && last.origin.uid == origin.uid;
        (same && last.broken.is_none()).then_some(last)
    }

    /// Whether an object of this name was published.
    fn was_in(&self, object: &ObjectId) -> bool {
        let Some(LastGood { bundle, .. }) = self.last_good else { return false };
        match object.kind {
            ObjectKind::OutboundRoute => self.last_routes.contains_key(object),
            ObjectKind::RoutingRule | ObjectKind::ComplianceRule => self.last_rules().contains_key(object),
            ObjectKind::AddressList => bundle.lists.iter().any(|list| list.origin.object == *object),
            ObjectKind::Quarantine => bundle.quarantines.iter().any(|q| q.origin.object == *object),
            ObjectKind::Directory => {
                bundle.directory.as_ref().is_some_and(|directory| directory.origin.object == *object)
            }
            ObjectKind::OutboundGateway => bundle.gateway.origin.object == *object,
        }
    }

    /// Why a list that a rule names is not in the bundle.
    pub fn why_not(&self, kind: ObjectKind, name: &ObjectKey) -> String {
        let Self { resources, .. } = self;
        let of = |reference: &GatewayRef| target(reference, &name.namespace);
        let elsewhere = match kind {
            ObjectKind::AddressList => {
                let list = resources.address_lists.iter().find(|list| key(&***list) == *name);
                list.map(|list| of(&list.spec.gateway_ref))
            }
            ObjectKind::Directory => {
                let directory = resources.directories.iter().find(|d| key(&***d) == *name);
                directory.map(|directory| of(&directory.spec.gateway_ref))
            }
            _ => None,
        };
        let kind = kind.as_str();
        let malformed = resources.malformed.iter().any(|malformed| {
            let ObjectId { kind: found, namespace, name: own } = &malformed.object;
            found.as_str() == kind && *namespace == name.namespace && *own == name.name
        });
        match elsewhere {
            Some(gateway) if gateway != *self.gateway => {
                format!("{kind} {name} belongs to OutboundGateway {gateway}, not to {}", self.gateway)
            }
            Some(_) => format!("{kind} {name} cannot be used; see its own status"),
            None if malformed => format!("{kind} {name} cannot be read; see its own status"),
            None => format!("there is no {kind} {name}"),
        }
    }

    /// Why an OutboundRoute that is not in the bundle is not there.
    pub fn route_not_found(&self, path: &str, name: &RouteName) -> Problem {
        let elsewhere = self.resources.routes.iter().find_map(|route| {
            let own = key(&**route);
            (own.namespace == name.namespace && own.name == name.name)
                .then(|| target(&route.spec.gateway_ref, &own.namespace))
        });
        let message = match elsewhere {
            Some(gateway) if gateway != *self.gateway => {
                format!("OutboundRoute {name} belongs to OutboundGateway {gateway}, not to {}", self.gateway)
            }
            Some(_) => format!("OutboundRoute {name} may not attach to OutboundGateway {}", self.gateway),
            None => format!("there is no OutboundRoute {name}"),
        };
        Problem::reference(path, Reason::RouteNotFound, message)
    }

    /// The same where nothing else can be used instead.
    pub fn route_missing(&self, path: &str, name: &RouteName) -> Problem {
        let mut problem = self.route_not_found(path, name);
        problem.message += "; mail that should take it waits";
        problem
    }

    /// The version of one material: today's if it is there, else the one that was published last.
    pub fn version(&self, material: &Material) -> Option<MaterialVersion> {
        self.resources.version(material).or_else(|| self.published(material).cloned())
    }

    /// The version that was published last.
    pub fn published(&self, material: &Material) -> Option<&'a MaterialVersion> {
        self.last_good?.materials.iter().find(|version| version.material == *material)
    }

    fn versions(&self, bundle: &Bundle) -> Vec<MaterialVersion> {
        let certificates =
            bundle.gateway.listeners.iter().filter_map(|listener| listener.certificate.as_ref());
        let pairs = certificates.flat_map(|certificate| [&certificate.chain, &certificate.key]);
        let of_routes = bundle.routes.iter().flat_map(Route::materials);
        let shared =
            bundle.gateway.shared_limits.iter().flat_map(|shared| [&shared.username, &shared.password]);
        let shared = shared.flatten();
        let signing = bundle.gateway.dkim.iter().map(|dkim| &dkim.key);
        let passwords = bundle.gateway.users.iter().map(|user| &user.password);
        let clients = passwords.chain(bundle.gateway.mutual_tls.iter().map(|authority| &authority.ca));
        let senders = bundle.gateway.smime_signers.iter().map(|signer| &signer.certificate);
        let senders = senders.flat_map(|certificate| [&certificate.chain, &certificate.key]);
        let named = pairs.chain(of_routes).chain(signing).chain(shared).chain(clients).chain(senders);
        let named: BTreeSet<&Material> = named.collect();
        let mut versions: Vec<_> = named.into_iter().filter_map(|material| self.version(material)).collect();
        versions.sort();
        versions
    }

    /// Looks a key of a Secret up and says why it may not be used.
    pub fn secret_key(&self, path: &str, key: &ObjectKey, wanted: &str) -> Result<Material, Problem> {
        let Some(secret) = self.resources.secrets.get(key) else {
            let message = format!("there is no Secret {key}");
            return Err(Problem::reference(path, Reason::SecretNotFound, message));
        };
        if !secret.usable() {
            let message = format!(
                "Secret {key} may not be used: its type is neither kubernetes.io/tls nor kubernetes.io/basic-auth; \
                 its owner can set the label postern.dev/use: \"true\""
            );
            return Err(Problem::reference(path, Reason::SecretNotAllowed, message));
        }
        if !secret.keys.contains(wanted) {
            let message = format!("Secret {key} has no key {wanted}");
            return Err(Problem::reference(path, Reason::KeyNotFound, message));
        }
        Ok(Material {
            kind: MaterialKind::Secret,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            key: wanted.to_owned(),
        })
    }

    /// Looks a key of a ConfigMap up.
    pub fn config_map_key(&self, path: &str, key: &ObjectKey, wanted: &str) -> Result<Material, Problem> {
        let Some(config_map) = self.resources.config_maps.get(key) else {
            let message = format!("there is no ConfigMap {key}");
            return Err(Problem::reference(path, Reason::ConfigMapNotFound, message));
        };
        if !config_map.data.contains_key(wanted) {
            let message = format!("ConfigMap {key} has no key {wanted}");
            return Err(Problem::reference(path, Reason::KeyNotFound, message));
        }
        Ok(Material {
            kind: MaterialKind::ConfigMap,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            key: wanted.to_owned(),
        })
    }
}

impl Malformed {
    /// What its author is told.
    pub(super) fn problem(&self) -> Problem {
        Problem::new("", Reason::Malformed, &self.error, ConditionType::Accepted)
    }
}

/// Whether the bundle can send over a default route.
pub(super) fn resolved(name: RouteName, routes: &BTreeSet<RouteName>) -> DefaultRoute {
    if routes.contains(&name) { DefaultRoute::Named(name) } else { DefaultRoute::Missing(name) }
}
