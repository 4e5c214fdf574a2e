//! Bytes that bundle records name but never hold: certificates, keys, CA files.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MaterialKind {
    Secret,
    ConfigMap,
}

/// One key of a Secret or ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Material {
    pub kind: MaterialKind,
    pub namespace: String,
    pub name: String,
    pub key: String,
}

/// Which version of a Secret or ConfigMap a revision was decided with. Never a hash of its content:
/// low-entropy secrets could be guessed from one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MaterialVersion {
    pub material: Material,
    pub uid: String,
    pub resource_version: String,
}

impl MaterialVersion {
    /// The file that holds it in the secrets mount. The name carries uid and version, so a file
    /// that is there is the right one.
    pub fn file_name(&self) -> String {
        format!("{}.{}.{}", self.uid, self.resource_version, self.material.key)
    }
}

/// The bytes themselves, in memory only. Debug output shows no content.
#[derive(Clone, Default)]
pub struct Materials(BTreeMap<Material, Arc<[u8]>>);

impl Materials {
    pub fn insert(&mut self, material: Material, bytes: impl Into<Arc<[u8]>>) {
        self.0.insert(material, bytes.into());
    }

    /// Takes over what `newer` has; what only this one has stays.
    pub fn update(&mut self, newer: Materials) {
        self.0.extend(newer.0);
    }

    pub fn get(&self, material: &Material) -> Option<&Arc<[u8]>> {
        self.0.get(material)
    }
}

impl std::fmt::Debug for Materials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
