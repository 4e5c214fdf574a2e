//! What the API server holds, as far as it concerns us: caches fed by watches, and who must look again when
//! something changes. Nothing here decides and nothing here writes to the cluster.

mod index;
mod materials;
mod objects;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use kube::Client;
use tokio::sync::Notify;

use crate::api::{
    AddressList, ComplianceRule, Directory, OutboundGateway, OutboundRoute, Quarantine, RoutingRule,
};
use crate::bundle::MaterialKind;
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::translate::address_lists::Memo;
use crate::translate::{Malformed, ObjectKey, Resources};

use super::audit::Observer;
use super::rollout::Pod;
use super::status::Status;

pub use index::gateway_id;
pub use materials::Contents;
pub use watch::{child, watch_all};

pub struct World {
    client: Client,
    /// Watch these namespaces only; empty: all.
    namespaces: Vec<String>,
    state: Mutex<State>,
    /// Rings when gateways come or go, or objects that no gateway looks after change.
    pub outline: Bell,
    /// What is shown of our kinds, for the audit log.
    pub observer: Observer,
}

#[derive(Default)]
struct State {
    objects: index::Index,
    /// Statuses that are being written: when they come back they are no news.
    expected: HashMap<ObjectId, Status>,
    /// By gateway, then by name.
    pods: HashMap<ObjectKey, BTreeMap<String, Pod>>,
    children: HashMap<(ChildKind, ObjectKey), Child>,
    config_maps: HashMap<ObjectKey, Version>,
    /// Watched only in a namespaced installation; else named Secrets are read from time to time.
    secrets: Option<HashMap<ObjectKey, Version>>,
    materials: HashMap<(MaterialKind, ObjectKey), materials::Held>,
    /// Who must look again when a gateway's world changes.
    bells: HashMap<ObjectKey, Arc<Bell>>,
    /// Large lists that a pass has read.
    memo: Memo,
    /// Watches that have not delivered their first complete list.
    waiting: HashSet<watch::Scope>,
}

/// One of our kinds, as it was written.
#[derive(Debug, Clone)]
pub struct Entry {
    pub written: Written,
    pub uid: String,
    pub generation: i64,
    pub resource_version: String,
    /// When this generation was seen first.
    pub seen: Timestamp,
    pub status: Status,
    /// The gateway it is, or refers to.
    pub gateway: ObjectKey,
    /// Who wrote fields of it.
    pub managers: BTreeSet<String>,
    pub deleting: bool,
}

#[derive(Debug, Clone)]
pub enum Written {
    Gateway(Arc<OutboundGateway>),
    Route(Arc<OutboundRoute>),
    RoutingRule(Arc<RoutingRule>),
    ComplianceRule(Arc<ComplianceRule>),
    AddressList(Arc<AddressList>),
    Directory(Arc<Directory>),
    Quarantine(Arc<Quarantine>),
    Malformed(Malformed),
}

/// Kinds of objects we make and apply as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChildKind {
    StatefulSet,
    Service,
    NetworkPolicy,
    PodDisruptionBudget,
}

/// What tells whether somebody changed an object of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    pub version: Version,
    /// Changes with everything but the status, as far as the kind lets us see that.
    pub print: String,
    pub owner: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Version {
    pub uid: String,
    pub resource_version: String,
}

impl Version {
    /// Whether this version is older than another one of the same object. Versions are numbers that rise
    /// (a rule of the API since 1.35); where they are not, nothing counts as older.
    pub fn is_before(&self, other: &Version) -> bool {
        self.uid == other.uid && older(&self.resource_version, &other.resource_version)
    }
}

fn older(a: &str, b: &str) -> bool {
    matches!((a.parse::<u64>(), b.parse::<u64>()), (Ok(a), Ok(b)) if a < b)
}

/// To the millisecond, as statuses show it.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// Wakes one task and says what for.
#[derive(Debug, Default)]
pub struct Bell {
    spec: AtomicBool,
    cluster: AtomicBool,
    rung: Notify,
}

/// What has changed since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changed {
    /// What users wrote, or what that refers to.
    pub spec: bool,
    /// Pods, objects of ours, statuses.
    pub cluster: bool,
}

impl Bell {
    pub fn spec(&self) {
        self.spec.store(true, Ordering::Release);
        self.rung.notify_one();
    }

    pub fn cluster(&self) {
        self.cluster.store(true, Ordering::Release);
        self.rung.notify_one();
    }

    /// Waits until something has changed; what is returned counts as seen.
    pub async fn wait(&self) -> Changed {
        loop {
            let changed = self.take();
            if changed != Changed::default() {
                return changed;
            }
            self.rung.notified().await;
        }
    }

    pub fn take(&self) -> Changed {
        Changed {
            spec: self.spec.swap(false, Ordering::AcqRel),
            cluster: self.cluster.swap(false, Ordering::AcqRel),
        }
    }
}

impl World {
    pub fn new(client: Client, namespaces: Vec<String>) -> Arc<Self> {
        let state = State {
            secrets: (!namespaces.is_empty()).then(HashMap::new),
            waiting: watch::scopes(&namespaces).collect(),
            ..State::default()
        };
        Arc::new(Self {
            client,
            namespaces,
            state: Mutex::new(state),
            outline: Bell::default(),
            observer: Observer::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Every watch has delivered a complete list once.
    pub fn is_complete(&self) -> bool {
        self.state().waiting.is_empty()
    }

    /// Has what went while nobody looked observed; only once the world is complete. While it is locked, so that
    /// nothing comes or goes between the two looks, and the locks are taken in their order.
    pub fn observe_losses(&self) {
        let state = self.state();
        self.observer.lost(|object| state.objects.get(object).is_none());
    }

    /// Watches that are still on their first list.
    pub fn waiting_for(&self) -> BTreeSet<&'static str> {
        self.state().waiting.iter().map(|scope| scope.watch).collect()
    }

    /// Registers who looks after a gateway; it is told that everything is new.
    pub fn listen(&self, gateway: &ObjectKey) -> Arc<Bell> {
        let bell = self.state().bells.entry(gateway.clone()).or_default().clone();
        bell.spec();
        bell.cluster();
        bell
    }

    pub fn forget(&self, gateway: &ObjectKey) {
        self.state().bells.remove(gateway);
    }

    /// All gateways that exist, readable or not.
    pub fn gateways(&self) -> BTreeSet<ObjectKey> {
        let state = self.state();
        state.objects.gateways().filter(|(_, exists)| *exists).map(|(key, _)| key.clone()).collect()
    }

    /// What users wrote for one gateway, without what it refers to. Of other gateways only what a rule may name by
    /// mistake is there, so that its author can be told where that belongs.
    pub fn resources(&self, gateway: &ObjectKey) -> Resources {
        let state = self.state();
        let mut resources = Resources { memo: state.memo.clone(), ..Resources::default() };
        resources.take(state.objects.of(gateway).map(|(_, entry)| entry));
        for entry in state.objects.elsewhere(gateway) {
            match &entry.written {
                Written::Route(route) => resources.routes.push(route.clone()),
                Written::AddressList(list) => resources.address_lists.push(list.clone()),
                Written::Directory(directory) => resources.directories.push(directory.clone()),
                // Where it belonged to may be part of what cannot be read.
                Written::Malformed(malformed) => resources.malformed.push(malformed.clone()),
                Written::Gateway(_)
                | Written::RoutingRule(_)
                | Written::ComplianceRule(_)
                | Written::Quarantine(_) => {}
            }
        }
        resources
    }

    /// Objects that refer to gateways which are not there, and all gateways that are.
    pub fn strays(&self) -> Resources {
        let state = self.state();
        let mut resources = Resources::default();
        for (gateway, exists) in state.objects.gateways() {
            let entries = state.objects.of(gateway).map(|(_, entry)| entry);
            match exists {
                true => resources.take(entries.filter(|entry| entry.is_gateway())),
                false => resources.take(entries),
            }
        }
        resources
    }

    /// Whether nothing but the gateway itself belongs to it.
    pub fn is_alone(&self, gateway: &ObjectKey) -> bool {
        self.state().objects.count(gateway) == 1
    }

    /// What of a gateway's objects changed, came or went since this was asked last.
    pub fn take_changed(&self, gateway: &ObjectKey) -> BTreeSet<ObjectId> {
        self.state().objects.take_changed(gateway)
    }

    /// Those of some objects that are there.
    pub fn entries<'i>(
        &self,
        ids: impl IntoIterator<Item = &'i ObjectId>,
    ) -> HashMap<&'i ObjectId, Arc<Entry>> {
        let state = self.state();
        ids.into_iter().filter_map(|id| Some((id, state.objects.get(id)?.clone()))).collect()
    }

    /// Looks at every object once.
    pub fn each(&self, mut look: impl FnMut(&ObjectId, &Entry)) {
        self.state().objects.iter().for_each(|(id, entry)| look(id, entry));
    }

    pub fn entry(&self, id: &ObjectId) -> Option<Arc<Entry>> {
        self.state().objects.get(id).cloned()
    }

    /// The pods of a gateway, by name.
    pub fn pods(&self, gateway: &ObjectKey) -> Vec<Pod> {
        let state = self.state();
        state.pods.get(gateway).map(|pods| pods.values().cloned().collect()).unwrap_or_default()
    }

    pub fn child(&self, kind: ChildKind, key: &ObjectKey) -> Option<Child> {
        self.state().children.get(&(kind, key.clone())).cloned()
    }

    /// Objects of ours that the gateway with this uid owns.
    pub fn children_of(&self, namespace: &str, owner: &str) -> Vec<(ChildKind, String, Version)> {
        let state = self.state();
        let owned = state
            .children
            .iter()
            .filter(|((_, key), child)| key.namespace == namespace && child.owner.as_deref() == Some(owner));
        owned.map(|((kind, key), child)| (*kind, key.name.clone(), child.version.clone())).collect()
    }

    pub fn config_map(&self, key: &ObjectKey) -> Option<Version> {
        self.state().config_maps.get(key).cloned()
    }

    /// As if the watch had shown it.
    #[cfg(test)]
    pub fn show_config_map(&self, key: ObjectKey, version: Version) {
        self.state().config_maps.insert(key, version);
    }

    /// A watch has shown an object.
    fn shows(&self, state: &mut State, kind: ObjectKind, object: kube::api::DynamicObject) {
        self.observer.shows(kind, &object);
        objects::apply(state, &self.outline, kind, object, now());
    }

    /// As if the watch had shown it.
    #[cfg(test)]
    pub fn show(&self, kind: ObjectKind, object: kube::api::DynamicObject) {
        self.shows(&mut self.state(), kind, object);
    }

    /// Takes in an object we wrote ourselves, before the watch tells us.
    pub fn absorb(&self, kind: ObjectKind, object: kube::api::DynamicObject) {
        objects::apply(&mut self.state(), &self.outline, kind, object, now());
    }

    /// Takes in a status we wrote ourselves. Nobody has to look again because of it.
    pub fn absorb_status(&self, object: &ObjectId, uid: &str, resource_version: String, status: Status) {
        let mut state = self.state();
        let Some(entry) = state.objects.get(object) else { return };
        if entry.uid == uid && older(&entry.resource_version, &resource_version) {
            let news = state.expected.get(object) != Some(&status);
            let entry = Entry { resource_version, status, ..Entry::clone(entry) };
            state.objects.settle(object, entry);
            if news {
                state.objects.mark(object);
            }
        }
    }

    /// A status is about to be written. Until `None` says that it was, its coming back is no news.
    pub fn expect_status(&self, object: &ObjectId, status: Option<Status>) {
        let expected = &mut self.state().expected;
        match status {
            Some(status) => drop(expected.insert(object.clone(), status)),
            None => drop(expected.remove(object)),
        }
    }
}

impl World {
    /// What this gateway obeys is to be decided again.
    pub fn ring_spec(&self, gateway: &ObjectKey) {
        self.state().ring_spec(gateway);
    }

    /// Whoever looks after this object is to look again.
    pub fn ring(&self, object: &ObjectId) {
        let mut state = self.state();
        state.objects.mark(object);
        let gateway = state.objects.get(object).map(|entry| &entry.gateway);
        match gateway.and_then(|gateway| state.bells.get(gateway)) {
            Some(bell) => bell.cluster(),
            None => self.outline.spec(),
        }
    }
}

impl Entry {
    fn is_gateway(&self) -> bool {
        match &self.written {
            Written::Gateway(_) => true,
            Written::Malformed(malformed) => malformed.object.kind == ObjectKind::OutboundGateway,
            _ => false,
        }
    }
}

impl Resources {
    fn take<'e>(&mut self, entries: impl Iterator<Item = &'e Arc<Entry>>) {
        for entry in entries {
            match &entry.written {
                Written::Gateway(gateway) => self.gateways.push(gateway.clone()),
                Written::Route(route) => self.routes.push(route.clone()),
                Written::RoutingRule(rule) => self.routing_rules.push(rule.clone()),
                Written::ComplianceRule(rule) => self.compliance_rules.push(rule.clone()),
                Written::AddressList(list) => self.address_lists.push(list.clone()),
                Written::Directory(directory) => self.directories.push(directory.clone()),
                Written::Quarantine(quarantine) => self.quarantines.push(quarantine.clone()),
                Written::Malformed(malformed) => self.malformed.push(malformed.clone()),
            }
        }
    }
}

impl State {
    fn ring_spec(&self, gateway: &ObjectKey) {
        if let Some(bell) = self.bells.get(gateway) {
            bell.spec();
        }
    }

    fn ring_cluster(&self, gateway: &ObjectKey) {
        if let Some(bell) = self.bells.get(gateway) {
            bell.cluster();
        }
    }
}
