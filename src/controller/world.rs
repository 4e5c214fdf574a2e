//! What the API server holds, as far as it concerns us: caches fed by watches, and who must look again when
//! something changes. Nothing here decides and nothing here writes to the cluster.

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
    objects: HashMap<ObjectId, Entry>,
    pods: HashMap<ObjectKey, (ObjectKey, Pod)>,
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
        let gateways = state.objects.keys().filter(|id| id.kind == ObjectKind::OutboundGateway);
        gateways.map(|id| ObjectKey::new(&id.namespace, &id.name)).collect()
    }

    /// What users wrote, without what it refers to.
    pub fn resources(&self) -> Resources {
        let state = self.state();
        let mut resources = Resources { memo: state.memo.clone(), ..Resources::default() };
        for entry in state.objects.values() {
            match &entry.written {
                Written::Gateway(gateway) => resources.gateways.push(gateway.clone()),
                Written::Route(route) => resources.routes.push(route.clone()),
                Written::RoutingRule(rule) => resources.routing_rules.push(rule.clone()),
                Written::ComplianceRule(rule) => resources.compliance_rules.push(rule.clone()),
                Written::AddressList(list) => resources.address_lists.push(list.clone()),
                Written::Directory(directory) => resources.directories.push(directory.clone()),
                Written::Quarantine(quarantine) => resources.quarantines.push(quarantine.clone()),
                Written::Malformed(malformed) => resources.malformed.push(malformed.clone()),
            }
        }
        resources
    }

    /// The objects of one gateway, itself included.
    pub fn entries(&self, gateway: &ObjectKey) -> BTreeMap<ObjectId, Entry> {
        let state = self.state();
        let ours = state.objects.iter().filter(|(_, entry)| entry.gateway == *gateway);
        ours.map(|(id, entry)| (id.clone(), entry.clone())).collect()
    }

    pub fn entry(&self, id: &ObjectId) -> Option<Entry> {
        self.state().objects.get(id).cloned()
    }

    /// The pods of a gateway, by name.
    pub fn pods(&self, gateway: &ObjectKey) -> Vec<Pod> {
        let state = self.state();
        let ours = state.pods.values().filter(|(owner, _)| owner == gateway);
        let mut pods: Vec<Pod> = ours.map(|(_, pod)| pod.clone()).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        pods
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

    /// Takes in an object we wrote ourselves, before the watch tells us.
    pub fn absorb(&self, kind: ObjectKind, object: kube::api::DynamicObject) {
        objects::apply(&mut self.state(), &self.outline, kind, object, now());
    }

    /// Takes in a status we wrote ourselves. Nobody has to look again because of it.
    pub fn absorb_status(&self, object: &ObjectId, uid: &str, resource_version: String, status: Status) {
        let mut state = self.state();
        let Some(entry) = state.objects.get_mut(object) else { return };
        if entry.uid == uid && older(&entry.resource_version, &resource_version) {
            (entry.resource_version, entry.status) = (resource_version, status);
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
        let state = self.state();
        let gateway = state.objects.get(object).map(|entry| &entry.gateway);
        match gateway.and_then(|gateway| state.bells.get(gateway)) {
            Some(bell) => bell.cluster(),
            None => self.outline.spec(),
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
