//! Writes the objects that run a gateway: server-side apply, nothing when nothing changed, and the removal of
//! what is no longer wanted. Never takes over an object that is not the gateway's own.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;
use tracing::info;

use super::build::{Objects, SPOOL_VOLUME};
use super::metrics::Metrics;
use super::told::told;
use super::world::{Child, ChildKind, World, child};
use crate::translate::ObjectKey;

/// Our name among the managers of a field.
pub const MANAGER: &str = "postern";
/// Every request to the API server ends after this.
pub const LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("{kind:?} {name} exists and does not belong to this OutboundGateway: rename or delete it")]
    Foreign { kind: ChildKind, name: String },
    #[error("cannot read or write {what}: {}", told(source))]
    Api { what: String, source: Box<kube::Error> },
    #[error("cannot read or write {what}: the API server did not answer in time")]
    Slow { what: String },
}

/// Remembers what it wrote for one gateway.
pub struct Applier {
    client: Client,
    world: Arc<World>,
    metrics: Arc<Metrics>,
    written: HashMap<(ChildKind, String), Written>,
}

struct Written {
    wish: blake3::Hash,
    child: Child,
}

impl Applier {
    pub fn new(client: Client, world: Arc<World>, metrics: Arc<Metrics>) -> Self {
        Self { client, world, metrics, written: HashMap::new() }
    }

    /// Makes the cluster hold just these objects for the gateway with uid `owner`.
    pub async fn apply(&mut self, objects: Objects, namespace: &str, owner: &str) -> Result<(), ApplyError> {
        // Spelled out: an object that is not applied does not compile.
        let Objects { service, headless, network_policy, disruption_budget, stateful_set } = objects;
        let wanted = [
            (ChildKind::Service, service.name_any()),
            (ChildKind::Service, headless.name_any()),
            (ChildKind::NetworkPolicy, network_policy.name_any()),
            (ChildKind::PodDisruptionBudget, disruption_budget.name_any()),
            (ChildKind::StatefulSet, stateful_set.name_any()),
        ];
        self.one::<NetworkPolicy>(ChildKind::NetworkPolicy, network_policy, owner).await?;
        self.one::<Service>(ChildKind::Service, headless, owner).await?;
        self.one::<Service>(ChildKind::Service, service, owner).await?;
        self.one::<PodDisruptionBudget>(ChildKind::PodDisruptionBudget, disruption_budget, owner).await?;
        match self.one::<StatefulSet>(ChildKind::StatefulSet, stateful_set.clone(), owner).await {
            Err(ApplyError::Api { source, .. }) if is_immutable(&source) => {
                self.replace_stateful_set(stateful_set, owner).await?;
            }
            other => other?,
        }
        self.prune(namespace, owner, &wanted).await
    }

    async fn one<K>(&mut self, kind: ChildKind, wish: K, owner: &str) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let key = ObjectKey::new(wish.namespace().unwrap_or_default(), wish.name_any());
        let text = serde_json::to_vec(&wish).expect("objects of the API have string keys only");
        let hash = blake3::hash(&text);
        let seen = self.world.child(kind, &key);
        let memory_key = (kind, key.name.clone());
        if let (Some(written), Some(seen)) = (self.written.get(&memory_key), &seen) {
            let unchanged =
                written.child.print == seen.print || seen.version.is_before(&written.child.version);
            if written.wish == hash && unchanged {
                return Ok(());
            }
        }
        let what = format!("{} {key}", K::kind(&()));
        if seen.is_none() || seen.as_ref().is_some_and(|seen| seen.owner.as_deref() != Some(owner)) {
            self.check_owner::<K>(kind, &key, owner, &what).await?;
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams::apply(MANAGER).force();
        let applied = bounded(&what, api.patch(&key.name, &params, &Patch::Apply(&wish))).await?;
        let applied = child(applied.meta());
        if seen.is_none_or(|seen| seen.version != applied.version) {
            self.metrics.wrote();
        }
        self.written.insert(memory_key, Written { wish: hash, child: applied });
        Ok(())
    }

    /// An object of that name that somebody else made is left alone. One of ours that lost its owner
    /// reference still has our fields.
    async fn check_owner<K>(
        &self,
        kind: ChildKind,
        key: &ObjectKey,
        owner: &str,
        what: &str,
    ) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let Some(found) = bounded(what, api.get_metadata_opt(&key.name)).await? else { return Ok(()) };
        let ours = child(&found.metadata).owner.as_deref() == Some(owner)
            || (found.owner_references().is_empty()
                && found.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some(MANAGER)));
        if ours { Ok(()) } else { Err(ApplyError::Foreign { kind, name: key.name.clone() }) }
    }

    /// Most of a StatefulSet's spec cannot change in place. Its pods go on under the new one, and the claims
    /// grow with it (design decision 10).
    async fn replace_stateful_set(&mut self, mut wish: StatefulSet, owner: &str) -> Result<(), ApplyError> {
        wish.metadata.resource_version = None;
        let namespace = wish.namespace().unwrap_or_default();
        let name = wish.name_any();
        let what = format!("StatefulSet {namespace}/{name}");
        self.grow_claims(&wish, &namespace).await?;
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), &namespace);
        info!(stateful_set = %what, "replacing it around its pods");
        match bounded(&what, api.delete(&name, &DeleteParams::orphan())).await {
            Ok(_) => {}
            Err(ApplyError::Api { source, .. }) if is_not_found(&source) => {}
            Err(error) => return Err(error),
        }
        // Orphaning is the garbage collector's work and takes a moment.
        for _ in 0..50 {
            if bounded(&what, api.get_metadata_opt(&name)).await?.is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.written.remove(&(ChildKind::StatefulSet, name));
        self.metrics.wrote();
        self.one::<StatefulSet>(ChildKind::StatefulSet, wish, owner).await
    }

    async fn grow_claims(&self, wish: &StatefulSet, namespace: &str) -> Result<(), ApplyError> {
        let template = wish.spec.volume_claim_templates.as_ref().and_then(|templates| templates.first());
        let size = template.and_then(|claim| {
            claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()
        });
        let Some(size) = size else { return Ok(()) };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let labels = wish.spec.selector.match_labels.iter().flatten();
        let selector = labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        let claims = bounded("volume claims", api.list(&ListParams::default().labels(&selector))).await?;
        for claim in claims {
            let name = claim.name_any();
            let now = claim
                .spec
                .as_ref()
                .and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
            if !name.starts_with(&format!("{SPOOL_VOLUME}-")) || now == Some(&size) {
                continue;
            }
            let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
            let what = format!("volume claim {namespace}/{name}");
            bounded(&what, api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
        }
        Ok(())
    }

    async fn prune(
        &mut self,
        namespace: &str,
        owner: &str,
        wanted: &[(ChildKind, String)],
    ) -> Result<(), ApplyError> {
        for (kind, name, version) in self.world.children_of(namespace, owner) {
            if wanted.contains(&(kind, name.clone())) {
                continue;
            }
            info!(?kind, name, namespace, "no longer wanted");
            match kind {
                ChildKind::StatefulSet => self.delete::<StatefulSet>(namespace, &name, version.uid).await?,
                ChildKind::Service => self.delete::<Service>(namespace, &name, version.uid).await?,
                ChildKind::NetworkPolicy => {
                    self.delete::<NetworkPolicy>(namespace, &name, version.uid).await?;
                }
                ChildKind::PodDisruptionBudget => {
                    self.delete::<PodDisruptionBudget>(namespace, &name, version.uid).await?;
                }
            }
            self.written.remove(&(kind, name));
        }
        Ok(())
    }

    async fn delete<K>(&self, namespace: &str, name: &str, uid: String) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let only = Preconditions { uid: Some(uid), resource_version: None };
        let params = DeleteParams::background().preconditions(only);
        self.metrics.wrote();
        match bounded(name, api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(ApplyError::Api { source, .. }) if is_not_found(&source) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A request with a time limit.
pub async fn bounded<T>(
    what: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApplyError> {
    match timeout(LIMIT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ApplyError::Api { what: what.to_owned(), source: Box::new(source) }),
        Err(_) => Err(ApplyError::Slow { what: what.to_owned() }),
    }
}

impl ApplyError {
    /// The namespace is going away and takes nothing new; everything in it goes as well.
    pub fn is_namespace_going(&self) -> bool {
        let Self::Api { source, .. } = self else { return false };
        let kube::Error::Api(status) = &**source else { return false };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        status.is_forbidden() && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_not_found(source))
    }

    /// Somebody wrote in between: look again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists()))
    }
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

/// `updates to statefulset spec for fields other than … are forbidden`
fn is_immutable(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 422 && status.message.contains("updates to statefulset spec"))
}
