//! Brings a publication to the API server and reads it back: ConfigMaps with segments, Secrets with copies,
//! the manifest last. Each write carries the version it was decided on, so of two controllers that both
//! believe to lead, one loses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{info, warn};

use super::apply::{ApplyError, MANAGER, bounded};
use super::build::publication::{Plan, Published, Write};
use super::build::shelves::{Contents, Full, Room, Shelves, place};
use super::build::{
    BUNDLE_MAPS, SECRET_COPIES, bundle_map, bundle_map_name, is_dressed, secret_copy, secret_copy_name,
};
use super::metrics::Metrics;
use super::world::{Version, World};
use crate::api::OutboundGateway;
use crate::bundle::manifest::MANIFEST;
use crate::bundle::material::MaterialVersion;
use crate::bundle::segment;
use crate::bundle::{Bundle, Manifest, Push};
use crate::translate::{LastGood, ObjectKey};

/// No watch shows Secrets: copies in use are looked at again after this.
const RECHECK: Duration = Duration::from_secs(55);
/// Copies of secrets and CA files.
const SECRET_ROOM: Room = Room { shelves: SECRET_COPIES, bytes: 900 << 10, first: 900 << 10 };

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Write(#[from] ApplyError),
    #[error("the certificates and keys that are named take {} bytes; {} of {} are free", .0.wanted, .0.free, .0.total)]
    TooManySecrets(Full),
    #[error("{0} changed while it was copied")]
    Moved(String),
    #[error("{kind} {name} exists and does not belong to this OutboundGateway: rename or delete it")]
    Foreign { kind: &'static str, name: String },
}

/// One gateway's publication, as it stands on the API server.
pub struct Press {
    client: Client,
    world: Arc<World>,
    metrics: Arc<Metrics>,
    gateway: ObjectKey,
    pub published: Published,
    /// What the published manifest says, put together.
    pub last_good: Option<Arc<LastGood>>,
    versions: HashMap<u8, Version>,
    /// Maps that the watch has shown as we wrote them.
    watched: BTreeSet<u8>,
    copies: Shelves,
    copy_versions: HashMap<u8, Version>,
    copies_read: Option<Instant>,
    /// Maps and copies from which somebody took labels or owner.
    bare_maps: BTreeSet<u8>,
    bare_copies: BTreeSet<u8>,
    /// The gateway object whose publication this is.
    owner: Option<String>,
    trusted: bool,
}

impl Press {
    pub fn new(client: Client, world: Arc<World>, metrics: Arc<Metrics>, gateway: ObjectKey) -> Self {
        Self {
            client,
            world,
            metrics,
            gateway,
            published: Published::default(),
            last_good: None,
            versions: HashMap::new(),
            watched: BTreeSet::new(),
            copies: Shelves::default(),
            copy_versions: HashMap::new(),
            copies_read: None,
            bare_maps: BTreeSet::new(),
            bare_copies: BTreeSet::new(),
            owner: None,
            trusted: false,
        }
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.gateway.namespace)
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.gateway.namespace)
    }

    /// Everything has to be read again, because a write was refused.
    pub fn distrust(&mut self) {
        self.trusted = false;
    }

    /// Reads what is published, unless it is known and nobody has touched it. True if it was read.
    pub async fn load(&mut self, owner: &str) -> Result<bool, PublishError> {
        if self.owner.as_deref() != Some(owner) {
            // Another gateway of the same name: nothing of the old one holds for it.
            let Self { client, world, metrics, gateway, .. } = &*self;
            *self = Self::new(client.clone(), world.clone(), metrics.clone(), gateway.clone());
            self.owner = Some(owner.to_owned());
        }
        if self.trusted && !self.is_touched() {
            if self.copies_read.is_none_or(|at| at.elapsed() >= RECHECK) {
                self.load_copies(owner, true).await?;
            }
            return Ok(false);
        }
        let known = |number: &u8| {
            self.versions.contains_key(number) || shown(&self.world, &self.gateway, *number).is_some()
        };
        let reads = (0..BUNDLE_MAPS).filter(known).map(async |number| {
            let name = bundle_map_name(&self.gateway.name, number);
            let map = bounded("the published bundle", self.config_maps().get_opt(&name)).await?;
            Ok::<_, ApplyError>(map.map(|map| (number, map)))
        });
        let found = futures::future::try_join_all(reads).await?;
        let found: BTreeMap<u8, ConfigMap> = found.into_iter().flatten().collect();
        if let Some(foreign) = found.values().find(|map| !owned_by(*map, owner)) {
            // Of a gateway of the same name that is just being collected: it will go.
            return Err(PublishError::Foreign { kind: "ConfigMap", name: foreign.name_any() });
        }
        self.versions = found.iter().map(|(&number, map)| (number, version(map))).collect();
        let bare = found.iter().filter(|(_, map)| !is_dressed(*map, &self.gateway.name, owner));
        self.bare_maps = bare.map(|(number, _)| *number).collect();
        let mut files = BTreeMap::new();
        let mut shelves = Shelves::default();
        for (number, map) in found {
            let mut contents = Contents::new();
            for (key, ByteString(bytes)) in map.binary_data.into_iter().flatten() {
                contents.insert(key.clone(), bytes.len());
                files.insert(key, bytes);
            }
            files.extend(map.data.into_iter().flatten().map(|(key, text)| (key, text.into_bytes())));
            shelves.0.insert(number, contents);
        }
        self.read_back(&files, shelves);
        self.load_copies(owner, false).await?;
        self.trusted = true;
        self.watched.clear();
        Ok(true)
    }

    fn read_back(&mut self, files: &BTreeMap<String, Vec<u8>>, shelves: Shelves) {
        let read = |name: &str| Ok(files.get(name).cloned());
        let floor = self.published.manifest.as_ref().map(|manifest| manifest.sequence).unwrap_or_default();
        self.published.floor = self.published.floor.max(floor);
        self.published.shelves = shelves;
        self.published.settled = false;
        self.published.manifest = match segment::read_manifest(&read) {
            Ok(manifest) => Some(manifest),
            Err(segment::LoadError::Incomplete(_)) => None,
            Err(error) => {
                // A newer release wrote it: pods may have run it, so the next one goes beyond.
                if let segment::LoadError::FormatTooNew { sequence, .. } = &error {
                    self.published.floor = self.published.floor.max(*sequence);
                }
                warn!(gateway = %self.gateway, %error, "the published manifest cannot be used");
                None
            }
        };
        let Some(manifest) = &self.published.manifest else { return };
        match segment::assemble(manifest, &read) {
            Ok(bundle) => {
                self.last_good = Some(Arc::new(LastGood { bundle, materials: manifest.materials.clone() }));
            }
            Err(error) => {
                // What this process published itself is still known; else nothing is left to keep.
                warn!(gateway = %self.gateway, %error, "the published bundle is damaged; it is written anew");
                self.published.shelves.0.values_mut().for_each(BTreeMap::clear);
            }
        }
    }

    /// Secrets cannot be listed, so each copy is asked for by name: those that are `in_use`, or all. They are made
    /// one after the other, so none stands behind the first that is missing (or is found when it is written anew).
    async fn load_copies(&mut self, owner: &str, in_use: bool) -> Result<(), PublishError> {
        let known = std::mem::take(&mut self.copies);
        let used = |number: &u8| known.0.contains_key(number);
        self.copy_versions.clear();
        self.bare_copies.clear();
        // Whoever fails on the way reads everything the next time.
        self.copies_read = None;
        let trusted = std::mem::replace(&mut self.trusted, false);
        for number in (0..SECRET_COPIES).filter(|number| !in_use || used(number)) {
            let name = secret_copy_name(&self.gateway.name, number);
            let Some(secret) = bounded("a copy of secrets", self.secrets().get_opt(&name)).await? else {
                if in_use {
                    continue;
                }
                break;
            };
            if !owned_by(&secret, owner) {
                return Err(PublishError::Foreign { kind: "Secret", name });
            }
            self.copy_versions.insert(number, version(&secret));
            if !is_dressed(&secret, &self.gateway.name, owner) {
                self.bare_copies.insert(number);
            }
            let data = secret.data.into_iter().flatten();
            self.copies.0.insert(number, data.map(|(key, bytes)| (key, bytes.0.len())).collect());
        }
        (self.copies_read, self.trusted) = (Some(Instant::now()), trusted);
        Ok(())
    }

    /// Puts right what somebody did to the objects of a publication that stays: copies that are gone, labels and
    /// owners.
    pub async fn mend(
        &mut self,
        gateway: &OutboundGateway,
        materials: &[MaterialVersion],
    ) -> Result<(), PublishError> {
        self.copy_materials(gateway, materials).await?;
        for number in std::mem::take(&mut self.bare_copies) {
            self.write_copy(gateway, Write { number, ..Write::default() }).await?;
        }
        for number in std::mem::take(&mut self.bare_maps) {
            self.write_map(gateway, &Write { number, ..Write::default() }, None).await?;
        }
        Ok(())
    }

    /// Somebody else wrote one of our ConfigMaps, as far as the watch has shown.
    fn is_touched(&mut self) -> bool {
        let mut touched = false;
        for (&number, ours) in &self.versions {
            match shown(&self.world, &self.gateway, number) {
                Some(seen) if seen == *ours => drop(self.watched.insert(number)),
                Some(seen) => touched |= !seen.is_before(ours),
                // Not shown yet, or deleted.
                None => touched |= self.watched.contains(&number),
            }
        }
        touched
    }

    /// Copies what the next manifest will name, beside what the published one names.
    pub async fn copy_materials(
        &mut self,
        gateway: &OutboundGateway,
        materials: &[MaterialVersion],
    ) -> Result<(), PublishError> {
        let mut wanted = BTreeMap::new();
        let mut contents = BTreeMap::new();
        for version in materials {
            let name = version.file_name();
            if let Some(bytes) = self.copied(&name) {
                wanted.insert(name, bytes);
                continue;
            }
            let material = &version.material;
            let bytes = self
                .world
                .bytes(version)
                .ok_or_else(|| PublishError::Moved(format!("{:?} {}", material.kind, material.name)))?;
            wanted.insert(name.clone(), bytes.len());
            contents.insert(name, bytes);
        }
        let published = self.published.manifest.iter().flat_map(Manifest::all_materials);
        let keep: BTreeSet<String> = published.map(MaterialVersion::file_name).collect();
        let placement =
            place(&self.copies, &wanted, &keep, SECRET_ROOM).map_err(PublishError::TooManySecrets)?;
        for (number, keys) in placement.add {
            let add = keys.into_iter().filter_map(|key| contents.remove_entry(&key)).collect();
            let remove = placement.remove.get(&number).cloned().unwrap_or_default();
            self.write_copy(gateway, Write { number, add, remove }).await?;
        }
        Ok(())
    }

    /// A version that its Secret may not have any more, and pods still can use.
    pub fn has_copy(&self, version: &MaterialVersion) -> bool {
        self.copied(&version.file_name()).is_some()
    }

    fn copied(&self, file: &str) -> Option<usize> {
        self.copies.0.values().find_map(|contents| contents.get(file).copied())
    }

    /// Takes away copies that no pod needs any more: every pod runs the published manifest.
    pub async fn tidy_copies(&mut self, gateway: &OutboundGateway) -> Result<(), PublishError> {
        let Some(manifest) = &self.published.manifest else { return Ok(()) };
        let named: BTreeSet<String> = manifest.all_materials().map(MaterialVersion::file_name).collect();
        let dead: Vec<Write> = self
            .copies
            .0
            .iter()
            .map(|(&number, contents)| {
                let remove = contents.keys().filter(|key| !named.contains(*key)).cloned().collect();
                Write { number, add: BTreeMap::new(), remove }
            })
            .filter(|write| !write.remove.is_empty())
            .collect();
        for write in dead {
            self.write_copy(gateway, write).await?;
        }
        Ok(())
    }

    async fn write_copy(&mut self, gateway: &OutboundGateway, write: Write) -> Result<(), PublishError> {
        let Write { number, add, remove } = &write;
        let mut empty = secret_copy(gateway, *number);
        let name = empty.name_any();
        let what = format!("Secret {}/{name}", self.gateway.namespace);
        self.metrics.wrote();
        let written = match self.copy_versions.get(number) {
            None => {
                empty.data =
                    Some(add.iter().map(|(key, bytes)| (key.clone(), ByteString(bytes.clone()))).collect());
                bounded(&what, self.secrets().create(&create(), &empty)).await?
            }
            Some(version) => {
                let patch = patch(&empty, version, &json!({"data": entries(add, remove)}));
                bounded(&what, self.secrets().patch(&name, &merge(), &Patch::Merge(&patch))).await?
            }
        };
        self.copy_versions.insert(*number, version(&written));
        let sizes = add.iter().map(|(key, bytes)| (key.clone(), bytes.len()));
        self.copies.book(*number, sizes, remove);
        Ok(())
    }

    /// Carries out a plan. Afterwards `bundle` is what all pods are to run; `None`: that stays what it was. Returns
    /// the publication in the form to hand over to pods.
    pub async fn publish(
        &mut self,
        gateway: &OutboundGateway,
        plan: Plan,
        bundle: Option<Bundle>,
    ) -> Result<Push, PublishError> {
        let Plan { manifest, writes } = plan;
        let push = Push {
            manifest: text(&manifest).into_bytes(),
            pieces: writes.iter().flat_map(|write| write.add.clone()).collect(),
        };
        for write in &writes {
            let with = (write.number == 0).then_some(&manifest);
            self.write_map(gateway, write, with).await?;
        }
        info!(
            gateway = %self.gateway,
            sequence = manifest.sequence.0,
            revision = %manifest.revision,
            maps = writes.len(),
            "published"
        );
        self.metrics.published();
        if let Some(bundle) = bundle {
            self.last_good = Some(Arc::new(LastGood { bundle, materials: manifest.materials.clone() }));
        }
        self.published.floor = self.published.floor.max(manifest.sequence);
        self.published.manifest = Some(manifest);
        self.published.contested = false;
        self.published.settled = false;
        Ok(push)
    }

    async fn write_map(
        &mut self,
        gateway: &OutboundGateway,
        write: &Write,
        manifest: Option<&Manifest>,
    ) -> Result<(), PublishError> {
        let Write { number, add, remove } = write;
        let mut empty = bundle_map(gateway, *number);
        let name = empty.name_any();
        let what = format!("ConfigMap {}/{name}", self.gateway.namespace);
        let text = manifest.map(text);
        self.metrics.wrote();
        let written = match self.versions.get(number) {
            None => {
                empty.binary_data =
                    Some(add.iter().map(|(key, bytes)| (key.clone(), ByteString(bytes.clone()))).collect());
                empty.data = text.map(|text| [(MANIFEST.to_owned(), text)].into());
                bounded(&what, self.config_maps().create(&create(), &empty)).await?
            }
            Some(version) => {
                let mut changes = json!({"binaryData": entries(add, remove)});
                if let Some(text) = text {
                    changes["data"] = json!({ MANIFEST: text });
                }
                let patch = patch(&empty, version, &changes);
                bounded(&what, self.config_maps().patch(&name, &merge(), &Patch::Merge(&patch))).await?
            }
        };
        self.versions.insert(*number, version(&written));
        Plan::book(&mut self.published.shelves, write);
        Ok(())
    }
}

/// A ConfigMap of the bundle, as the watch has shown it.
fn shown(world: &World, gateway: &ObjectKey, number: u8) -> Option<Version> {
    world.config_map(&ObjectKey::new(&gateway.namespace, bundle_map_name(&gateway.name, number)))
}

/// A merge patch that holds only what changes, and is refused if the object is not what it was.
fn patch<K: Resource>(empty: &K, version: &Version, changes: &Value) -> Value {
    let meta = empty.meta();
    let mut patch = json!({"metadata": {
        "uid": version.uid,
        "resourceVersion": version.resource_version,
        "labels": meta.labels,
        "ownerReferences": meta.owner_references,
    }});
    for (key, value) in changes.as_object().into_iter().flatten() {
        patch[key] = value.clone();
    }
    patch
}

/// `null` takes a key away.
fn entries(add: &BTreeMap<String, Vec<u8>>, remove: &[String]) -> Value {
    let gone = remove.iter().map(|key| (key.clone(), Value::Null));
    let new = add.iter().map(|(key, bytes)| {
        let text = serde_json::to_value(ByteString(bytes.clone())).expect("bytes become a string");
        (key.clone(), text)
    });
    Value::Object(gone.chain(new).collect())
}

fn create() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn merge() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

fn owned_by<K: Resource>(object: &K, owner: &str) -> bool {
    // Without any owner reference it is one of ours that somebody edited: the next write puts it back.
    let owners = object.owner_references();
    owners.is_empty() || owners.iter().any(|reference| reference.uid == owner)
}

fn version<K: Resource>(object: &K) -> Version {
    Version {
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}

fn text(manifest: &Manifest) -> String {
    serde_json::to_string(manifest).expect("a manifest has string keys only")
}

#[cfg(test)]
mod tests;
