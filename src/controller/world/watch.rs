//! The watches. Each goes on for ever with back-off; a relist replaces what it had as a whole.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Child, ChildKind, State, Version, World, objects};
use crate::api::{
    AddressList, ComplianceRule, Directory, OutboundGateway, OutboundRoute, Quarantine, RoutingRule,
};
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::bundle::{MaterialKind, Sequence};
use crate::controller::build::{GATEWAY_LABEL, REVISION_ANNOTATION, REVISION_LABEL};
use crate::controller::metrics::Metrics;
use crate::controller::rollout;
use crate::controller::spread::spread;
use crate::controller::told::with_causes;
use crate::translate::ObjectKey;

const OUR_KINDS: [&str; 7] = [
    "outboundgateways",
    "outboundroutes",
    "routingrules",
    "compliancerules",
    "addresslists",
    "directories",
    "quarantines",
];
const OTHERS: [&str; 6] =
    ["pods", "configmaps", "statefulsets", "services", "networkpolicies", "poddisruptionbudgets"];
/// Only where namespaces are named; cluster-wide there is no right to watch them.
const SECRETS: &str = "secrets";

/// A list that is not answered by then is asked for again: nothing else would ever end it.
const UNANSWERED: Duration = Duration::from_secs(20);
/// Between attempts. The longest bounds how late the controller sees what changed while the API server was away;
/// one request a resource every two seconds is nothing to a server that refuses them.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A failure that goes on is said again this often.
const REMIND: Duration = Duration::from_secs(30);

/// Before the next attempt, after this many that failed.
fn pause(watch: &str, failed: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failed.min(8)).min(LONGEST_PAUSE);
    spread(pause, 0.2, watch, failed.into())
}

/// One watch: a resource, in one namespace or in all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    pub watch: &'static str,
    namespace: Option<String>,
}

/// The watches there will be.
pub fn scopes(namespaces: &[String]) -> impl Iterator<Item = Scope> + '_ {
    let everywhere = namespaces.is_empty().then_some(None);
    let places = namespaces.iter().cloned().map(Some).chain(everywhere);
    places.flat_map(|namespace| {
        let secrets = namespace.is_some().then_some(SECRETS);
        let names = OUR_KINDS.into_iter().chain(OTHERS).chain(secrets);
        names.map(move |watch| Scope { watch, namespace: namespace.clone() })
    })
}

/// Starts all watches; they end with `stop`, or when the set is dropped.
pub fn watch_all(world: &Arc<World>, metrics: &Arc<Metrics>, stop: &CancellationToken) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for scope in scopes(&world.namespaces) {
        let run = Run { world: world.clone(), metrics: metrics.clone(), scope };
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled_owned(run.run()).await.unwrap_or(()) });
    }
    let (world, stop) = (world.clone(), stop.clone());
    tasks.spawn(async move { stop.run_until_cancelled_owned(world.reread_secrets()).await.unwrap_or(()) });
    tasks
}

struct Run {
    world: Arc<World>,
    metrics: Arc<Metrics>,
    scope: Scope,
}

/// What a complete list held.
pub struct Listed {
    namespace: Option<String>,
    keys: HashSet<ObjectKey>,
}

impl Listed {
    #[cfg(test)]
    pub fn of(namespace: Option<&str>, keys: impl IntoIterator<Item = ObjectKey>) -> Self {
        Self { namespace: namespace.map(str::to_owned), keys: keys.into_iter().collect() }
    }

    /// Whether this object would be in the list and is not: it is gone.
    pub fn lacks(&self, key: &ObjectKey) -> bool {
        self.namespace.as_ref().is_none_or(|own| *own == key.namespace) && !self.keys.contains(key)
    }
}

impl Run {
    async fn run(self) {
        match self.scope.watch {
            "outboundgateways" => self.ours::<OutboundGateway>(ObjectKind::OutboundGateway).await,
            "outboundroutes" => self.ours::<OutboundRoute>(ObjectKind::OutboundRoute).await,
            "routingrules" => self.ours::<RoutingRule>(ObjectKind::RoutingRule).await,
            "compliancerules" => self.ours::<ComplianceRule>(ObjectKind::ComplianceRule).await,
            "addresslists" => self.ours::<AddressList>(ObjectKind::AddressList).await,
            "directories" => self.ours::<Directory>(ObjectKind::Directory).await,
            "quarantines" => self.ours::<Quarantine>(ObjectKind::Quarantine).await,
            "pods" => self.pods().await,
            "configmaps" => self.versions::<ConfigMap>(MaterialKind::ConfigMap).await,
            "statefulsets" => self.children::<StatefulSet>(ChildKind::StatefulSet).await,
            "services" => self.children::<Service>(ChildKind::Service).await,
            "networkpolicies" => self.children::<NetworkPolicy>(ChildKind::NetworkPolicy).await,
            "poddisruptionbudgets" => {
                self.children::<PodDisruptionBudget>(ChildKind::PodDisruptionBudget).await;
            }
            SECRETS => self.versions::<Secret>(MaterialKind::Secret).await,
            other => unreachable!("{other} is not in the list of watches"),
        }
    }

    async fn ours<K>(self, kind: ObjectKind)
    where
        K: Resource<DynamicType = ()>,
    {
        let resource = ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> = match &self.scope.namespace {
            Some(namespace) => Api::namespaced_with(self.world.client.clone(), namespace, &resource),
            None => Api::all_with(self.world.client.clone(), &resource),
        };
        let streams = || watcher(api.clone(), watcher::Config::default());
        let world = self.world.clone();
        self.follow(
            streams,
            |state, object| world.shows(state, kind, object),
            |state, object| {
                world.observer.gone(&objects::id(kind, &object));
                objects::delete(state, &world.outline, kind, &object);
            },
            |state, listed| {
                let lacks = |id: &ObjectId| listed.lacks(&ObjectKey::new(&id.namespace, &id.name));
                world.observer.lost(|id| id.kind == kind && lacks(id));
                objects::keep(state, &world.outline, kind, listed);
            },
        )
        .await;
    }

    async fn pods(self) {
        let config = watcher::Config::default().labels(GATEWAY_LABEL);
        let api = self.api::<Pod>();
        let streams = || watcher(api.clone(), config.clone());
        self.follow(
            streams,
            |state, pod: Pod| {
                let (gateway, facts) = pod_facts(&pod);
                let pods = state.pods.entry(gateway.clone()).or_default();
                let known = pods.get(&facts.name);
                if known != Some(&facts) {
                    pods.insert(facts.name.clone(), facts);
                    state.ring_cluster(&gateway);
                }
            },
            |state, pod| {
                let (gateway, facts) = pod_facts(&pod);
                let pods = state.pods.get_mut(&gateway);
                if pods.and_then(|pods| pods.remove(&facts.name)).is_some() {
                    state.ring_cluster(&gateway);
                }
            },
            |state, listed| {
                let mut fewer = Vec::new();
                for (gateway, pods) in &mut state.pods {
                    let before = pods.len();
                    pods.retain(|name, _| !listed.lacks(&ObjectKey::new(&gateway.namespace, name)));
                    if pods.len() < before {
                        fewer.push(gateway.clone());
                    }
                }
                state.pods.retain(|_, pods| !pods.is_empty());
                fewer.iter().for_each(|gateway| state.ring_cluster(gateway));
            },
        )
        .await;
    }

    /// ConfigMaps and Secrets: versions only, content is read when something refers to it.
    async fn versions<K>(self, kind: MaterialKind)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let api = self.api::<PartialObjectMeta<K>>();
        let streams = || watcher(api.clone(), watcher::Config::default());
        self.follow(
            streams,
            |state, object: PartialObjectMeta<K>| {
                let version = version(&object.metadata);
                let gateway = gateway_of(&object.metadata).filter(|_| !is_kept(&object.metadata));
                let key = key(&object);
                if let Some(versions) = state.versions_of(kind) {
                    versions.insert(key.clone(), version);
                }
                state.ring_users(kind, &key);
                gateway.iter().for_each(|gateway| state.ring_cluster(gateway));
            },
            |state, object| {
                let key = key(&object);
                if let Some(versions) = state.versions_of(kind) {
                    versions.remove(&key);
                }
                state.ring_users(kind, &key);
                let gateway = gateway_of(&object.metadata).filter(|_| !is_kept(&object.metadata));
                gateway.iter().for_each(|gateway| state.ring_cluster(gateway));
            },
            |state, listed| {
                let Some(versions) = state.versions_of(kind) else { return };
                let gone: Vec<_> = versions.extract_if(|key, _| listed.lacks(key)).collect();
                gone.iter().for_each(|(key, _)| state.ring_users(kind, key));
            },
        )
        .await;
    }

    async fn children<K>(self, kind: ChildKind)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let config = watcher::Config::default().labels(GATEWAY_LABEL);
        let api = self.api::<PartialObjectMeta<K>>();
        let streams = || watcher(api.clone(), config.clone());
        self.follow(
            streams,
            |state, object: PartialObjectMeta<K>| {
                let child = child(&object.metadata);
                let last = state.children.insert((kind, key(&object)), child.clone());
                if last.is_none_or(|last| last.print != child.print) {
                    gateway_of(&object.metadata).iter().for_each(|gateway| state.ring_cluster(gateway));
                }
            },
            |state, object| {
                state.children.remove(&(kind, key(&object)));
                gateway_of(&object.metadata).iter().for_each(|gateway| state.ring_cluster(gateway));
            },
            |state, listed| {
                state.children.retain(|(found, key), _| *found != kind || !listed.lacks(key));
                state.bells.values().for_each(|bell| bell.cluster());
            },
        )
        .await;
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.scope.namespace {
            Some(namespace) => Api::namespaced(self.world.client.clone(), namespace),
            None => Api::all(self.world.client.clone()),
        }
    }

    async fn follow<K: Resource, S: futures::Stream<Item = watcher::Result<Event<K>>>>(
        self,
        streams: impl Fn() -> S,
        apply: impl Fn(&mut State, K),
        delete: impl Fn(&mut State, K),
        keep: impl Fn(&mut State, &Listed),
    ) {
        let namespace = self.scope.namespace.clone();
        let mut listed = Listed { namespace, keys: HashSet::new() };
        let mut stream = Box::pin(streams());
        let mut said: Option<(String, Instant)> = None;
        let (mut listing, mut failures) = (true, 0);
        loop {
            let next = match listing {
                true => timeout(UNANSWERED, stream.next()).await,
                false => Ok(stream.next().await),
            };
            let event = match next {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(_) => {
                    self.metrics.watch_failed(self.scope.watch);
                    warn!(watch = self.scope.watch, "a list is not answered; asked for again");
                    stream = Box::pin(streams());
                    continue;
                }
            };
            match &event {
                Ok(Event::Init | Event::InitApply(_)) => listing = true,
                Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => (listing, failures) = (false, 0),
                Err(_) => {}
            }
            let mut state = self.world.state();
            match event {
                Ok(Event::Init) => listed.keys.clear(),
                Ok(Event::InitApply(object)) => {
                    listed.keys.insert(key(&object));
                    apply(&mut state, object);
                }
                Ok(Event::InitDone) => {
                    said = None;
                    keep(&mut state, &listed);
                    listed.keys = HashSet::new();
                    if state.waiting.remove(&self.scope) {
                        debug!(watch = self.scope.watch, "complete");
                        self.world.outline.spec();
                    }
                }
                Ok(Event::Apply(object)) => apply(&mut state, object),
                Ok(Event::Delete(object)) => delete(&mut state, object),
                Err(error) => {
                    drop(state);
                    self.metrics.watch_failed(self.scope.watch);
                    let error = with_causes(&error);
                    let known = |(last, at): &(String, Instant)| *last == error && at.elapsed() < REMIND;
                    if !said.as_ref().is_some_and(known) {
                        warn!(watch = self.scope.watch, error, "the watch is interrupted");
                        said = Some((error, Instant::now()));
                    }
                    sleep(pause(self.scope.watch, failures)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }
}

impl State {
    fn versions_of(
        &mut self,
        kind: MaterialKind,
    ) -> Option<&mut std::collections::HashMap<ObjectKey, Version>> {
        match kind {
            MaterialKind::ConfigMap => Some(&mut self.config_maps),
            MaterialKind::Secret => self.secrets.as_mut(),
        }
    }
}

fn key<K: Resource>(object: &K) -> ObjectKey {
    let meta = object.meta();
    ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

fn gateway_of(meta: &ObjectMeta) -> Option<ObjectKey> {
    let name = meta.labels.as_ref()?.get(GATEWAY_LABEL)?;
    Some(ObjectKey::new(meta.namespace.as_deref()?, name))
}

pub(super) fn version(meta: &ObjectMeta) -> Version {
    Version {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    }
}

/// A revision that is kept to go back to: nothing follows from it before somebody names it.
fn is_kept(meta: &ObjectMeta) -> bool {
    meta.labels.as_ref().is_some_and(|labels| labels.contains_key(REVISION_LABEL))
}

/// Facts of an object of ours; [`super::super::apply`] makes the same from what it gets back.
pub fn child(meta: &ObjectMeta) -> Child {
    let version = version(meta);
    // A generation rises with every change of the spec; where there is none, any change counts.
    let print = match meta.generation {
        Some(generation) => format!(
            "{} {generation} {:?} {:?} {:?}",
            version.uid, meta.labels, meta.annotations, meta.owner_references
        ),
        None => format!("{} {}", version.uid, version.resource_version),
    };
    let owners = meta.owner_references.iter().flatten();
    let owner = owners.filter(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()).next();
    Child { version, print, owner }
}

fn pod_facts(pod: &Pod) -> (ObjectKey, rollout::Pod) {
    let key = key(pod);
    let gateway = gateway_of(&pod.metadata).unwrap_or_else(|| key.clone());
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let condition = |name: &str| conditions.iter().find(|c| c.type_ == name).map(|c| c.status != "False");
    let facts = rollout::Pod {
        name: key.name.clone(),
        uid: pod.uid().unwrap_or_default(),
        address: status.and_then(|status| status.pod_ip.clone()),
        ready: condition("Ready"),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        scheduled: pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()),
        touched: pod.annotations().get(REVISION_ANNOTATION).and_then(|text| told(text)),
    };
    (gateway, facts)
}

/// The annotation reads `<revision>.<sequence>.<how often>`.
fn told(annotation: &str) -> Option<Sequence> {
    annotation.split('.').nth(1)?.parse().ok().map(Sequence)
}
