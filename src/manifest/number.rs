//! Generations without an API server: each object counts its own changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Resource;
use serde::{Deserialize, Serialize};

use super::load::Loaded;
use crate::translate::ObjectKey;
use crate::translate::resources::{Kind, origin};

/// How often each object has changed so far. Kept from one reading of the folder to the next, and beside the
/// state so that a restart does not begin anew. As sensitive as the folder: it holds hashes of Secrets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Generations(BTreeMap<String, Counted>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Counted {
    content: String,
    generation: i64,
}

impl Generations {
    fn count(&mut self, object: String, content: &[u8]) -> i64 {
        let content = blake3::hash(content).to_hex().to_string();
        let counted = self.0.entry(object).or_insert(Counted { content: String::new(), generation: 0 });
        if counted.content != content {
            *counted = Counted { content, generation: counted.generation + 1 };
        }
        counted.generation
    }

    fn number<K: Kind + Clone + Serialize>(&mut self, objects: &mut [Arc<K>]) {
        for object in objects {
            let mut spec = serde_json::to_value(&**object).expect("an object is plain data");
            let content = spec["spec"].take().to_string();
            let generation = self.count(origin(&**object).object.to_string(), content.as_bytes());
            Resource::meta_mut(Arc::make_mut(object)).generation = Some(generation);
        }
    }
}

impl Loaded {
    /// Gives every object the generation its content has reached.
    pub fn number(&mut self, generations: &mut Generations) {
        let resources = &mut self.resources;
        generations.number(&mut resources.gateways);
        generations.number(&mut resources.routes);
        generations.number(&mut resources.routing_rules);
        generations.number(&mut resources.compliance_rules);
        generations.number(&mut resources.address_lists);
        generations.number(&mut resources.directories);
        generations.number(&mut resources.quarantines);
        for malformed in &mut resources.malformed {
            let content = format!("{} {:?}", malformed.error, malformed.spec);
            malformed.generation = generations.count(malformed.object.to_string(), content.as_bytes());
        }
        let name = |kind: &str, key: &ObjectKey| format!("{kind}/{key}");
        for (key, facts) in &mut resources.config_maps {
            let content = format!("{:?}", facts.data);
            facts.resource_version =
                generations.count(name("ConfigMap", key), content.as_bytes()).to_string();
        }
        for (key, facts) in &mut resources.secrets {
            let content =
                self.secret_content.get(key).map(|content| content.0.as_slice()).unwrap_or_default();
            facts.resource_version = generations.count(name("Secret", key), content).to_string();
        }
    }
}
