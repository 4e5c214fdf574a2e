//! What a standalone gateway remembers over a restart: the count of its revisions, the generation of each object,
//! the last good bundle.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use kube::Resource;
use serde::{Deserialize, Serialize};

use crate::bundle::document::FORMAT;
use crate::bundle::material::MaterialVersion;
use crate::bundle::{Bundle, Manifest, Revision, Sequence};
use crate::cli::folder::Configured;
use crate::translate::{LastGood, Resources};

const FILE: &str = "last-good.json";

#[derive(Default)]
pub struct Record {
    sequence: Sequence,
    revision: Option<Revision>,
    /// By kind, namespace and name: the hash of the spec and the generation it has.
    generations: BTreeMap<String, (String, i64)>,
    last_good: Option<LastGood>,
    published: Option<Manifest>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    sequence: Sequence,
    generations: BTreeMap<String, (String, i64)>,
    bundle: Bundle,
    materials: Vec<MaterialVersion>,
}

impl Record {
    /// A record that cannot be read is a first start: the folder itself has everything that is valid.
    pub fn read(state: &Path) -> Self {
        let kept = std::fs::read(state.join(FILE)).ok();
        let Some(kept) = kept.and_then(|text| serde_json::from_slice::<Kept>(&text).ok()) else {
            return Self::default();
        };
        let Kept { sequence, generations, bundle, materials } = kept;
        let last_good = Some(LastGood { bundle, materials });
        Self { sequence, revision: None, generations, last_good, published: None }
    }

    pub fn last_good(&self) -> Option<&LastGood> {
        self.last_good.as_ref()
    }

    pub fn bundle(&self) -> Option<&Bundle> {
        self.last_good.as_ref().map(|last| &last.bundle)
    }

    /// Gives each object the generation it would have in a cluster: one more with each change of its spec.
    pub fn number(&mut self, resources: &mut Resources) {
        let Resources { gateways, routes, routing_rules, compliance_rules, malformed, .. } = resources;
        gateways.iter_mut().for_each(|object| self.number_one(object));
        routes.iter_mut().for_each(|object| self.number_one(object));
        routing_rules.iter_mut().for_each(|object| self.number_one(object));
        compliance_rules.iter_mut().for_each(|object| self.number_one(object));
        for object in malformed {
            let content = format!("{:?} {}", object.spec, object.error);
            object.generation = self.generation(object.object.to_string(), content.as_bytes());
        }
    }

    fn number_one<K>(&mut self, object: &mut Arc<K>)
    where
        K: Resource<DynamicType = ()> + Serialize + Clone,
    {
        let meta = object.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = meta.name.as_deref().unwrap_or_default();
        let key = format!("{}/{namespace}/{name}", K::kind(&()));
        let mut value = serde_json::to_value(&**object).unwrap_or_default();
        let spec = value.get_mut("spec").map(serde_json::Value::take).unwrap_or_default();
        let generation = self.generation(key, spec.to_string().as_bytes());
        Arc::make_mut(object).meta_mut().generation = Some(generation);
    }

    fn generation(&mut self, key: String, content: &[u8]) -> i64 {
        let hash = blake3::hash(content).to_hex().to_string();
        let known = self.generations.entry(key).or_insert_with(|| (hash.clone(), 1));
        if known.0 != hash {
            *known = (hash, known.1 + 1);
        }
        known.1
    }

    /// The manifest of what was decided, and whether it is a new one.
    pub fn publish(&mut self, configured: &Configured, now: Timestamp) -> (Manifest, bool) {
        if let Some(published) = &self.published
            && published.revision == configured.revision
        {
            return (published.clone(), false);
        }
        self.sequence = self.sequence.next();
        self.revision = Some(configured.revision.clone());
        let manifest = Manifest {
            format: FORMAT,
            sequence: self.sequence,
            revision: configured.revision.clone(),
            published_at: now,
            segments: Vec::new(),
            materials: configured.last_good.materials.clone(),
            leaving: Vec::new(),
        };
        self.published = Some(manifest.clone());
        (manifest, true)
    }

    /// What was taken is the last good form from now on.
    pub fn keep(&mut self, last_good: LastGood, state: &Path) {
        let kept = Kept {
            sequence: self.sequence,
            generations: self.generations.clone(),
            bundle: last_good.bundle.clone(),
            materials: last_good.materials.clone(),
        };
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        if let Err(error) = crate::gateway::files::replace(&state.join(FILE), &text) {
            tracing::warn!(%error, "cannot remember the last good form over a restart");
        }
        self.last_good = Some(last_good);
    }
}
